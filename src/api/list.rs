//! Lists: paging, sorting and filters from a query, and the link to the next page (Cinder
//! reference, section 4).

use crate::api::body::flag_word;
use crate::api::call::Call;
use crate::api::microversion::{Microversion, SIMILAR, STRICT_FILTERS, WITH_COUNT};
use crate::model::error::Error;
use crate::model::id::ProjectId;
use crate::model::page::{Column, Comparison, Condition, Filter, Kind, Order, Page, column};
use crate::model::time::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// Keys that are no filters.
const PAGING: [&str; 7] = [
    "limit",
    "offset",
    "marker",
    "sort",
    "sort_key",
    "sort_dir",
    "all_tenants",
];

/// Most columns a list is sorted by, and most conditions it is filtered by.
const KEYS_MAX: usize = 8;
const CONDITIONS_MAX: usize = 64;

/// A collection as its lists are asked for.
#[derive(Debug)]
pub(super) struct Collection {
    /// Name in answers.
    pub(super) name: &'static str,
    /// Key of the link to the next page.
    pub(super) links: &'static str,
    pub(super) columns: &'static [Column],
    /// What those who are no administrators may filter by (`resource_filters`).
    pub(super) filters: &'static [&'static str],
    /// First version at which lists can be sorted by name.
    pub(super) sorted_by_name: Microversion,
}

/// What a list request asks for.
#[derive(Debug)]
pub(super) struct ListQuery {
    pub(super) page: Page,
    pub(super) filter: Filter,
    pub(super) with_count: bool,
}

impl ListQuery {
    /// Reads the query of a list.
    pub(super) fn from_call(call: &Call<'_>, collection: &Collection) -> Result<Self, Error> {
        let ctx = call.ctx()?;
        let all = all_tenants(call)? && ctx.is_admin();
        let with_count = match call.query("with_count") {
            Some(word) if call.version >= WITH_COUNT => flag_word(word).ok_or_else(|| {
                Error::Invalid(format!("Value '{word}' for 'with_count' is not a boolean."))
            })?,
            _ => false,
        };
        let mut filter = Filter {
            project: (!all).then(|| ctx.project_id.clone()),
            ..Filter::default()
        };
        let mut unknown = Vec::new();
        for (key, value) in filters(call) {
            if !key.is_ascii() && call.version >= STRICT_FILTERS {
                let message = "Filter keys can only contain ASCII characters.";
                return Err(Error::Invalid(message.to_owned()));
            }
            let is_known = collection.filters.contains(&key);
            match (is_known, ctx.is_admin(), key) {
                // Only administrators who look at all projects can choose one.
                (_, true, "project_id") if all => filter.project = Some(ProjectId::new(value)),
                (_, true, "project_id") => {}
                (true, ..) | (_, true, _) => {
                    filter
                        .conditions
                        .extend(conditions(collection, call.version, key, value));
                }
                (false, false, key) => unknown.push(key),
            }
        }
        if filter.conditions.len() > CONDITIONS_MAX {
            let message = format!("There are more than {CONDITIONS_MAX} filters.");
            return Err(Error::Invalid(message));
        }
        if !unknown.is_empty() && call.version >= STRICT_FILTERS {
            return Err(Error::Invalid(format!(
                "Invalid filters {} are found in query options.",
                unknown.join(",")
            )));
        }
        Ok(Self {
            page: page(call, collection)?,
            filter,
            with_count,
        })
    }

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

    /// Puts a list under its key, with count and next link where they belong.
    pub(super) fn answer(
        &self,
        call: &Call<'_>,
        collection: &Collection,
        items: Vec<Value>,
        last_id: Option<String>,
        count: Option<i64>,
    ) -> Value {
        let most = i64::try_from(self.page.limit).unwrap_or(i64::MAX);
        // With a count Cinder links on even from the last page; clients stop at the empty one.
        let has_next = self.page.limit <= items.len() || count.is_some_and(|count| most <= count);
        let name = collection.name;
        let mut answer = json!({ name: items });
        if let (true, Some(last)) = (has_next, last_id) {
            answer[collection.links] = json!([{ "rel": "next", "href": next_link(call, &last) }]);
        }
        if let Some(count) = count {
            answer["count"] = json!(count);
        }
        answer
    }
}

/// Whether administrators want the rows of all projects; others are not asked.
fn all_tenants(call: &Call<'_>) -> Result<bool, Error> {
    match call.query("all_tenants") {
        None => Ok(false),
        Some(word) => flag_word(word)
            .ok_or_else(|| Error::Invalid(format!("all_tenants must be a boolean, got '{word}'."))),
    }
}

/// The filters of a query. Of a repeated key the last value counts, and of repeated paging keys
/// the rest is left over, as in Cinder.
fn filters<'a>(call: &'a Call<'_>) -> Vec<(&'a str, &'a str)> {
    let (mut seen, mut paging, mut found) = (HashSet::new(), HashSet::new(), Vec::new());
    for (key, value) in call.query.iter().rev() {
        let key = key.as_str();
        let is_paging =
            PAGING.contains(&key) || (key == "with_count" && call.version >= WITH_COUNT);
        let is_leftover = is_paging && key != "all_tenants" && !paging.insert(key);
        if (!is_paging || is_leftover) && seen.insert(key) {
            found.push((key, value.as_str()));
        }
    }
    found.reverse();
    found
}

fn conditions(
    collection: &Collection,
    version: Microversion,
    key: &str,
    value: &str,
) -> Vec<Condition> {
    if let Some(name) = key.strip_suffix('~') {
        return match column(collection.columns, name) {
            // Below, the key is known and without effect.
            Some(_) if version < STRICT_FILTERS => Vec::new(),
            Some(column) if column.kind == Kind::Text && version >= SIMILAR => {
                vec![Condition::Contains(column, value.to_owned())]
            }
            _ => vec![Condition::Never],
        };
    }
    let Some(column) = column(collection.columns, key) else {
        return vec![Condition::Never];
    };
    match column.kind {
        Kind::Text => vec![Condition::Text(column, value.to_owned())],
        Kind::Number => vec![
            value
                .parse()
                .map_or(Condition::Never, |number| Condition::Number(column, number)),
        ],
        Kind::Flag => {
            vec![flag_word(value).map_or(Condition::Never, |flag| Condition::Flag(column, flag))]
        }
        Kind::Time => times(column, value),
        Kind::Map => entries(column, value),
    }
}

/// `gt:TIME,lt:TIME`, or one time.
fn times(column: &'static Column, value: &str) -> Vec<Condition> {
    let one = |part: &str| {
        let (how, time) = match part.split_once(':') {
            Some((word, rest)) => match Comparison::parse(word) {
                Some(how) => (how, rest),
                None => (Comparison::Equal, part),
            },
            None => (Comparison::Equal, part),
        };
        Timestamp::parse(time).map_or(Condition::Never, |time| {
            Condition::Compare(column, how, time.0)
        })
    };
    value.split(',').map(one).collect()
}

/// A map as Python or JSON writes it.
fn entries(column: &'static Column, value: &str) -> Vec<Condition> {
    let map: Option<Map<String, Value>> = serde_json::from_str(value)
        .or_else(|_| serde_json::from_str(&value.replace('\'', "\"")))
        .ok();
    let Some(map) = map else {
        return vec![Condition::Never];
    };
    map.into_iter()
        .map(|(key, value)| match value {
            Value::String(text) => Condition::Entry(column, key, text),
            other => Condition::Entry(column, key, other.to_string()),
        })
        .collect()
}

fn page(call: &Call<'_>, collection: &Collection) -> Result<Page, Error> {
    let most = call.api.settings.page_items_max;
    let limit = match call.query("limit") {
        None => most,
        Some(text) => match text.parse::<i64>() {
            Ok(limit) => usize::try_from(limit)
                .map_err(|_| Error::Invalid("limit param must be positive".to_owned()))?
                .min(most),
            Err(_) => return Err(Error::Invalid("limit param must be an integer".to_owned())),
        },
    };
    Ok(Page {
        limit,
        offset: offset(call)?,
        marker: call.query("marker").map(str::to_owned),
        sort: sort(call, collection)?,
    })
}

fn offset(call: &Call<'_>) -> Result<usize, Error> {
    let refused = |why: &str| {
        let message = format!("Invalid input received: {why}");
        Err(Error::Invalid(message))
    };
    let Some(text) = call.query("offset") else {
        return Ok(0);
    };
    match text.parse::<i64>() {
        Ok(offset @ 0..=2_147_483_647) => Ok(offset as usize),
        Ok(..0) => refused("offset must be >= 0"),
        Ok(_) => refused("offset must be <= 2147483647"),
        Err(_) => refused("offset must be an integer"),
    }
}

/// The order asked for; ties are broken by creation and id, in the direction of the first key.
fn sort(call: &Call<'_>, collection: &Collection) -> Result<Vec<Order>, Error> {
    let pairs: Vec<(&str, &str)> = match (
        call.query("sort"),
        call.query("sort_key"),
        call.query("sort_dir"),
    ) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
            let message = "The 'sort_key' and 'sort_dir' parameters are deprecated and cannot be used with the 'sort' parameter.";
            return Err(Error::Invalid(message.to_owned()));
        }
        (Some(sort), None, None) => sort
            .split(',')
            .map(str::trim)
            .map(|part| part.split_once(':').unwrap_or((part, "desc")))
            .collect(),
        (None, key, direction) => {
            vec![(key.unwrap_or("created_at"), direction.unwrap_or("desc"))]
        }
    };
    let mut orders: Vec<Order> = Vec::new();
    for (key, direction) in pairs {
        let is_too_early = key == "name" && call.version < collection.sorted_by_name;
        let found = column(collection.columns, key).filter(|_| !is_too_early);
        let column = found
            .ok_or_else(|| Error::Invalid("Invalid input received: Invalid sort key".to_owned()))?;
        let descending = match direction {
            "desc" => true,
            "asc" => false,
            _ => {
                let message =
                    "Invalid input received: Unknown sort direction, must be 'desc' or 'asc'.";
                return Err(Error::Invalid(message.to_owned()));
            }
        };
        // A column that was named before changes nothing.
        if !orders.iter().any(|known| known.column.sql == column.sql) {
            orders.push(Order { column, descending });
        }
    }
    if orders.len() > KEYS_MAX {
        let message = format!("Invalid input received: more than {KEYS_MAX} sort keys");
        return Err(Error::Invalid(message));
    }
    let descending = orders.first().is_none_or(|order| order.descending);
    for name in ["created_at", "id"] {
        let is_there = orders.iter().any(|order| order.column.name == name);
        if let (false, Some(column)) = (is_there, column(collection.columns, name)) {
            orders.push(Order { column, descending });
        }
    }
    // What follows a key that is unique changes nothing.
    if let Some(unique) = orders.iter().position(|order| order.column.name == "id") {
        orders.truncate(unique + 1);
    }
    Ok(orders)
}

fn next_link(call: &Call<'_>, last: &str) -> String {
    let mut query = form_query(&call.query, last);
    query.insert(0, '?');
    format!("{}{}{query}", call.base, call.path)
}

fn form_query(pairs: &[(String, String)], marker: &str) -> String {
    let mut parts: Vec<String> = pairs
        .iter()
        .filter(|(key, _)| key != "marker")
        .map(|(key, value)| format!("{}={}", encode(key), encode(value)))
        .collect();
    parts.push(format!("marker={}", encode(marker)));
    parts.join("&")
}

fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(byte.into());
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}
