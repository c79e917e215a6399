//! Messages to users (Cinder reference, 8.7).

use crate::db;
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::MessageId;
use crate::model::message::Message;
use crate::model::page::{Filter, Listed, Page};
use crate::service::{Services, check_marker};

impl Services {
    /// One page of the messages the caller may see.
    pub fn list_messages(
        &self,
        ctx: &RequestContext,
        filter: &Filter,
        page: &Page,
    ) -> Result<Listed<Message>, Error> {
        ctx.authorize(Rule::MessageList, &ctx.project_id)?;
        self.db.read(|c| {
            if let Some(marker) = &page.marker {
                let found = db::messages::find(c, &MessageId::new(marker));
                check_marker(found, |row| ctx.sees(&row.project_id), "Message", marker)?;
            }
            Ok(db::messages::list(c, filter, page)?)
        })
    }

    /// One message.
    pub fn show_message(&self, ctx: &RequestContext, id: &MessageId) -> Result<Message, Error> {
        let message = self
            .db
            .read(|c| db::messages::find(c, id))?
            .filter(|message| ctx.sees(&message.project_id))
            .ok_or_else(|| Error::not_found("Message", id))?;
        ctx.authorize(Rule::MessageShow, &message.project_id)?;
        Ok(message)
    }

    /// Removes a message.
    pub fn delete_message(&self, ctx: &RequestContext, id: &MessageId) -> Result<(), Error> {
        let message = self.show_message(ctx, id)?;
        ctx.authorize(Rule::MessageDelete, &message.project_id)?;
        Ok(self.db.write(|c| db::messages::remove(c, id))?)
    }
}
