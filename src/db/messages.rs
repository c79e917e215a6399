//! Rows of `messages`.

use crate::db::DbConnection;
use crate::db::page::{load_page, matching};
use crate::model::id::MessageId;
use crate::model::message::Message;
use crate::model::page::{Filter, Page};
use crate::model::schema::messages;
use crate::model::time::Timestamp;
use diesel::prelude::*;

/// One page of the messages that match.
pub fn list(
    connection: &mut DbConnection,
    filter: &Filter,
    page: &Page,
) -> QueryResult<Vec<Message>> {
    load_page!(
        messages,
        Message,
        matching!(messages, filter),
        page,
        connection
    )
}

/// The message, whosever it is.
pub fn find(connection: &mut DbConnection, id: &MessageId) -> QueryResult<Option<Message>> {
    messages::table
        .find(id)
        .select(Message::as_select())
        .first(connection)
        .optional()
}

/// Adds a message.
pub fn insert(connection: &mut DbConnection, message: &Message) -> QueryResult<()> {
    diesel::insert_into(messages::table)
        .values(message)
        .execute(connection)
        .map(|_| ())
}

/// Removes a message.
pub fn remove(connection: &mut DbConnection, id: &MessageId) -> QueryResult<()> {
    diesel::delete(messages::table.find(id))
        .execute(connection)
        .map(|_| ())
}

/// Removes messages that nobody was promised to find any more.
pub fn prune(connection: &mut DbConnection, now: Timestamp) -> QueryResult<usize> {
    diesel::delete(messages::table.filter(messages::expires_at.lt(now))).execute(connection)
}
