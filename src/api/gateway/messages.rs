//! Messages: Cinder's and ours, in one order.
//!
//! Each side can go on after a message of its own alone. So of each, as many are read as a page may have, and pages are cut
//! from both of them together; where one side has more, the list ends with what was read of it. The newest come first, and
//! messages are kept for 30 days.

use crate::api::gateway::merge::{as_it_is, ask, ask_for, has_succeeded, read, room, rows};
use crate::api::http::call::Call;
use crate::api::http::list::encode;
use crate::api::http::microversion::MESSAGE_PAGES;
use crate::api::http::reply::Reply;
use crate::api::messages::{self, COLLECTION};
use crate::model::error::Error;
use crate::model::page::{Listed, Order};
use bytes::Bytes;
use serde_json::Value;
use std::cmp::Ordering;

type Result = std::result::Result<Reply, Error>;

/// What is left out of the query: pages are cut here.
const PAGING: [&str; 3] = ["limit", "offset", "marker"];

/// The messages of one side, in order.
struct Side {
    rows: Vec<Value>,
    /// Whether there are more than these.
    has_more: bool,
}

pub(super) fn list(call: &Call<'_>) -> Result {
    let query = messages::query(call)?;
    let most = call.api.settings.page_items_max;
    let asked = query.page.clone();
    let has_pages = call.version >= MESSAGE_PAGES;
    let answer = ask_for(
        call,
        |head| {
            if has_pages {
                head.target = target(&head.target, &call.query, most);
            }
        },
        Bytes::new(),
    )?;
    if !has_succeeded(&answer) {
        return Ok(as_it_is(answer));
    }
    let _room = room(call)?;
    let mut document = read(&answer.body)?;
    drop(answer.body);
    let has_more = document.get(COLLECTION.links).is_some();
    let of_cinder = Side {
        rows: std::mem::take(rows(&mut document, COLLECTION.name)?),
        has_more,
    };
    let mut whole = query.page.clone();
    (whole.limit, whole.offset, whole.marker) = (most, 0, None);
    let services = &call.api.services;
    let found = services.list_messages(call.ctx()?, &query.filter, &whole)?;
    let ours = Side {
        has_more: found.is_cut || found.rows.len() >= most,
        rows: found
            .rows
            .iter()
            .map(|row| messages::view(call, row))
            .collect(),
    };
    let rows = page(
        in_order(of_cinder, ours, &asked.sort),
        asked.marker.as_deref(),
        asked.offset,
        asked.limit,
    )?;
    let found = Listed {
        rows,
        is_cut: false,
    };
    let show = |row: &Value| Ok((id(row).to_owned(), row.clone()));
    query.answer(call, &COLLECTION, &found, None, show)
}

/// The same list from its beginning, as long as may be.
fn target(target: &str, query: &[(String, String)], most: usize) -> String {
    let path = target.split('?').next().unwrap_or_default();
    let filters = query
        .iter()
        .filter(|(key, _)| !PAGING.contains(&key.as_str()))
        .map(|(key, value)| format!("{}={}&", encode(key), encode(value)));
    format!("{path}?{}limit={most}", filters.collect::<String>())
}

/// The rows of both sides, each of which is in order. After the last row that was read of a side that has more, there may
/// be rows missing, so there the list ends.
fn in_order(one: Side, other: Side, sort: &[Order]) -> Vec<Value> {
    let mut rows = Vec::with_capacity(one.rows.len() + other.rows.len());
    let (mut these, mut those) = (
        one.rows.into_iter().peekable(),
        other.rows.into_iter().peekable(),
    );
    loop {
        let next = match (these.peek(), those.peek()) {
            (Some(this), Some(that)) if compare(this, that, sort).is_le() => these.next(),
            (Some(_), Some(_)) => those.next(),
            (Some(_), None) if !other.has_more => these.next(),
            (None, Some(_)) if !one.has_more => those.next(),
            _ => None,
        };
        match next {
            Some(row) => rows.push(row),
            None => return rows,
        }
    }
}

/// By the same keys as the lists were sorted. All of them are texts.
fn compare(one: &Value, other: &Value, sort: &[Order]) -> Ordering {
    let of = |order: &Order| {
        let key = order.column.name;
        let by_text = one[key].as_str().cmp(&other[key].as_str());
        if order.descending {
            by_text.reverse()
        } else {
            by_text
        }
    };
    sort.iter()
        .map(of)
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

fn page(
    rows: Vec<Value>,
    marker: Option<&str>,
    offset: usize,
    limit: usize,
) -> std::result::Result<Vec<Value>, Error> {
    let start = match marker {
        None => 0,
        Some(marker) => {
            let at = rows.iter().position(|row| id(row) == marker);
            at.ok_or_else(|| Error::not_found("Message", marker))? + 1
        }
    };
    let skipped = start.saturating_add(offset);
    Ok(rows.into_iter().skip(skipped).take(limit).collect())
}

fn id(row: &Value) -> &str {
    row["id"].as_str().unwrap_or_default()
}

pub(super) fn show(call: &Call<'_>) -> Result {
    ours_or_cinders(call, messages::show)
}

pub(super) fn delete(call: &Call<'_>) -> Result {
    ours_or_cinders(call, messages::delete)
}

fn ours_or_cinders(call: &Call<'_>, ours: fn(&Call<'_>) -> Result) -> Result {
    match ours(call) {
        Err(Error::NotFound(_)) => Ok(as_it_is(ask(call)?)),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::message::COLUMNS;
    use crate::model::page::column;
    use serde_json::json;

    fn newest_first() -> Vec<Order> {
        let by = |name| Order {
            column: column(COLUMNS, name).unwrap(),
            descending: true,
        };
        vec![by("created_at"), by("id")]
    }

    fn side(rows: &[(&str, &str)], has_more: bool) -> Side {
        let rows = rows.iter();
        let rows = rows.map(|(id, at)| json!({ "id": id, "created_at": at }));
        Side {
            rows: rows.collect(),
            has_more,
        }
    }

    fn merged(one: Side, other: Side) -> Vec<String> {
        let rows = in_order(one, other, &newest_first());
        rows.iter().map(|row| id(row).to_owned()).collect()
    }

    #[test]
    fn messages_of_both_sides_stand_in_one_order() {
        let ours = || side(&[("d", "4"), ("b", "2")], false);
        let cinders = |has_more| side(&[("e", "5"), ("c", "3"), ("bb", "2")], has_more);
        assert_eq!(merged(cinders(false), ours()), ["e", "d", "c", "bb", "b"]);
        assert_eq!(merged(ours(), cinders(false)), ["e", "d", "c", "bb", "b"]);
        // Cinder may have one between its last and ours.
        assert_eq!(merged(cinders(true), ours()), ["e", "d", "c", "bb"]);
        assert_eq!(merged(side(&[], false), ours()), ["d", "b"]);
    }

    #[test]
    fn pages_follow_one_another_without_a_gap() {
        let rows = || {
            let (ours, cinders) = (
                side(&[("d", "4"), ("b", "2")], false),
                side(&[("c", "3")], false),
            );
            in_order(ours, cinders, &newest_first())
        };
        let mut seen = Vec::new();
        let mut marker = None;
        loop {
            let found = page(rows(), marker.as_deref(), 0, 2).unwrap();
            let Some(last) = found.last() else { break };
            marker = Some(id(last).to_owned());
            seen.extend(found.iter().map(|row| id(row).to_owned()));
        }
        assert_eq!(seen, ["d", "c", "b"]);
        assert!(matches!(
            page(rows(), Some("x"), 0, 2),
            Err(Error::NotFound(_))
        ));
    }

    #[test]
    fn cinder_is_asked_for_the_same_list_from_its_beginning() {
        let pairs = [("limit", "2"), ("marker", "x"), ("resource_uuid", "a b")];
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let target = target("/v3/0f/messages?limit=2", &pairs, 1000);
        assert_eq!(target, "/v3/0f/messages?resource_uuid=a%20b&limit=1000");
    }
}
