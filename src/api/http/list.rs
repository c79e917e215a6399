//! Lists: paging, sorting and filters from a query, and the link to the next page (Cinder
//! reference, section 4).

use crate::api::http::call::Call;
use crate::api::http::kinds::flag_word;
use crate::api::http::microversion::{Microversion, SIMILAR, STRICT_FILTERS, WITH_COUNT};
use crate::api::http::reply::Reply;
use crate::model::error::Error;
use crate::model::id::ProjectId;
use crate::model::page::{
    Column, Comparison, Condition, Filter, Kind, Listed, Order, Page, column,
};
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
pub(crate) struct Collection {
    /// Name in answers.
    pub(crate) name: &'static str,
    /// Key of the link to the next page.
    pub(crate) links: &'static str,
    pub(crate) columns: &'static [Column],
    /// Filters for callers who are not administrators (`resource_filters`).
    pub(crate) filters: &'static [&'static str],
    /// First version at which lists can be sorted by name.
    pub(crate) sorted_by_name: Microversion,
}

/// The query of a list request.
#[derive(Debug)]
pub(crate) struct ListQuery {
    pub(crate) page: Page,
    pub(crate) filter: Filter,
    pub(crate) with_count: bool,
    /// Whether pages lead to the next one.
    has_links: bool,
}

impl ListQuery {
    /// Reads the query of a list.
    pub(crate) fn from_call(call: &Call<'_>, collection: &Collection) -> Result<Self, Error> {
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
            has_links: true,
        })
    }

    /// A list whose query says nothing: the first page of what is the project's, newest first.
    pub(crate) fn unasked(call: &Call<'_>, collection: &Collection) -> Result<Self, Error> {
        let filter = Filter {
            project: Some(call.ctx()?.project_id.clone()),
            ..Filter::default()
        };
        let newest_first = [("created_at", "desc")];
        let page = Page {
            limit: call.api.settings.page_items_max,
            offset: 0,
            marker: None,
            sort: orders(call.version, collection, &newest_first)?,
            bytes_max: call.api.settings.page_bytes_max.as_u64(),
        };
        Ok(Self {
            page,
            filter,
            with_count: false,
            has_links: false,
        })
    }

    /// Takes the filter on a text column out of the query: it means something of its own.
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let is_it = |condition: &Condition| matches!(condition, Condition::Text(column, _) if column.name == name);
        let at = self.filter.conditions.iter().position(is_it)?;
        match self.filter.conditions.remove(at) {
            Condition::Text(_, value) => Some(value),
            _ => None,
        }
    }

    /// Which types a list shows: with `None` all, with `Some(true)` the public ones and those open to
    /// the project. Only administrators have a choice.
    pub(crate) fn take_is_public(&mut self, call: &Call<'_>) -> Result<Option<bool>, Error> {
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

    /// Puts a list under its key, with count and next link where they belong. It is written item by item, so
    /// that there are not several copies of it at once.
    pub(crate) fn answer<T>(
        &self,
        call: &Call<'_>,
        collection: &Collection,
        found: &Listed<T>,
        count: Option<i64>,
        show: impl Fn(&T) -> Result<(String, Value), Error>,
    ) -> Result<Reply, Error> {
        let mut text = format!("{{{}:[", json!(collection.name));
        let mut last_id = None;
        for row in &found.rows {
            let (id, item) = show(row)?;
            if last_id.replace(id).is_some() {
                text.push(',');
            }
            text.push_str(&item.to_string());
        }
        text.push(']');
        let most = i64::try_from(self.page.limit).unwrap_or(i64::MAX);
        // With a count Cinder links on even from the last page; clients stop at the empty one.
        let is_full = self.page.limit <= found.rows.len();
        let has_next = found.is_cut || is_full || count.is_some_and(|count| most <= count);
        if let (true, true, Some(last)) = (self.has_links, has_next, last_id) {
            let href = next_link(call, &last, found.is_cut);
            let links = json!([{ "rel": "next", "href": href }]);
            text.push_str(&format!(",{}:{links}", json!(collection.links)));
        }
        if let Some(count) = count {
            text.push_str(&format!(",\"count\":{count}"));
        }
        text.push('}');
        // It may wait long for its client to take it.
        text.shrink_to_fit();
        Ok(Reply::written(200, text))
    }
}

/// Whether an administrator asks for the rows of all projects; ignored for others.
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
        bytes_max: call.api.settings.page_bytes_max.as_u64(),
    })
}

fn offset(call: &Call<'_>) -> Result<usize, Error> {
    let refused = |why: &str| Err(Error::Invalid(why.to_owned()));
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
    orders(call.version, collection, &pairs)
}

/// The order of these keys and directions.
fn orders(
    version: Microversion,
    collection: &Collection,
    pairs: &[(&str, &str)],
) -> Result<Vec<Order>, Error> {
    let mut orders: Vec<Order> = Vec::new();
    for (key, direction) in pairs.iter().copied() {
        let is_too_early = key == "name" && version < collection.sorted_by_name;
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

/// The link to the page after the last item. Cinder repeats the offset, and so skips as many items on each page. After a
/// page that ended early nothing may be skipped.
fn next_link(call: &Call<'_>, last: &str, is_cut: bool) -> String {
    let mut query = form_query(&call.query, last, is_cut);
    query.insert(0, '?');
    format!("{}{}{query}", call.base, call.path)
}

fn form_query(pairs: &[(String, String)], marker: &str, is_cut: bool) -> String {
    let mut parts: Vec<String> = pairs
        .iter()
        .filter(|(key, _)| key != "marker" && !(is_cut && key == "offset"))
        .map(|(key, value)| format!("{}={}", encode(key), encode(value)))
        .collect();
    parts.push(format!("marker={}", encode(marker)));
    parts.join("&")
}

pub(crate) fn encode(text: &str) -> String {
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
