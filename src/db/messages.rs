//! Rows of `messages`.

use crate::db::page::{load_page, matching};
use crate::db::{self, DbConnection, DbResult};
use crate::model::id::MessageId;
use crate::model::message::Message;
use crate::model::page::{Filter, Listed, Page};
use crate::model::schema::messages;
use crate::model::time::Timestamp;
use diesel::prelude::*;

/// How many messages of a project are kept.
const KEPT_MAX: i64 = 1000;

/// One page of the messages that match.
pub fn list(
    connection: &mut DbConnection,
    filter: &Filter,
    page: &Page,
) -> DbResult<Listed<Message>> {
    Ok(load_page!(
        messages,
        Message,
        "0",
        matching!(messages, filter),
        page,
        connection
    ))
}

/// The message, whosever it is.
pub fn find(connection: &mut DbConnection, id: &MessageId) -> DbResult<Option<Message>> {
    Ok(messages::table
        .find(id)
        .select(Message::as_select())
        .first(connection)
        .optional()?)
}

/// Adds a message. Of a project's messages the newest are kept.
pub fn insert(connection: &mut DbConnection, message: &Message) -> DbResult<()> {
    diesel::insert_into(messages::table)
        .values(message)
        .execute(connection)?;
    let newest_to_go: Option<Timestamp> = messages::table
        .filter(messages::project_id.eq(&message.project_id))
        .order((messages::created_at.desc(), messages::id.desc()))
        .offset(KEPT_MAX)
        .select(messages::created_at)
        .first(connection)
        .optional()?;
    let Some(newest_to_go) = newest_to_go else {
        return Ok(());
    };
    let of_project = messages::table.filter(messages::project_id.eq(&message.project_id));
    diesel::delete(of_project.filter(messages::created_at.le(newest_to_go))).execute(connection)?;
    Ok(())
}

/// Removes a message.
pub fn remove(connection: &mut DbConnection, id: &MessageId) -> DbResult<()> {
    diesel::delete(messages::table.find(id)).execute(connection)?;
    Ok(())
}

/// Removes messages whose time of expiry is over, at most [`db::BATCH`] of them.
pub fn prune(connection: &mut DbConnection, now: Timestamp) -> DbResult<usize> {
    let old: Vec<MessageId> = messages::table
        .filter(messages::expires_at.lt(now))
        .order(messages::expires_at)
        .limit(db::BATCH)
        .select(messages::id)
        .load(connection)?;
    Ok(diesel::delete(messages::table.filter(messages::id.eq_any(old))).execute(connection)?)
}
