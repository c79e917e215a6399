//! Parts of lists that not all collections have.

use crate::api::body::flag_word;
use crate::api::call::Call;
use crate::api::list::ListQuery;
use crate::model::error::Error;
use crate::model::page::Condition;
use serde_json::Value;

impl ListQuery {
    /// Takes the filter on a text column out of the query: it means something of its own.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let is_it = |condition: &Condition| matches!(condition, Condition::Text(column, _) if column.name == name);
        let at = self.filter.conditions.iter().position(is_it)?;
        match self.filter.conditions.remove(at) {
            Condition::Text(_, value) => Some(value),
            _ => None,
        }
    }

    /// Which types a list shows: with `None` all, with `Some(true)` the public ones and those open to
    /// the project. Only administrators have a choice.
    pub(super) fn take_is_public(&mut self, call: &Call<'_>) -> Result<Option<bool>, Error> {
        let word = self.take("is_public");
        let Some(word) = word.filter(|_| call.ctx().is_ok_and(|ctx| ctx.is_admin())) else {
            return Ok(Some(true));
        };
        if word.trim().eq_ignore_ascii_case("none") {
            return Ok(None);
        }
        match flag_word(&word) {
            Some(flag) => Ok(Some(flag)),
            None => Err(Error::Invalid(format!("Invalid is_public filter [{word}]"))),
        }
    }
}

/// An answer whose links to the next page stand under another key.
pub(super) fn with_links_as(mut answer: Value, links: &str, name: &str) -> Value {
    let found = answer.as_object_mut().and_then(|map| map.remove(links));
    if let Some(found) = found {
        answer[name] = found;
    }
    answer
}
