//! Lists: paging, sorting and filters from a query, and the link to the next page (Cinder
//! reference, section 4).

use crate::api::body::flag_word;
use crate::api::call::Call;
use crate::api::microversion::{STRICT_FILTERS, WITH_COUNT};
use crate::model::error::Error;
use crate::model::id::ProjectId;
use crate::model::page::{Filter, Page, SortKey};
use serde_json::{Value, json};

/// Keys that are no filters.
const PAGING: [&str; 8] = [
    "limit",
    "offset",
    "marker",
    "sort",
    "sort_key",
    "sort_dir",
    "all_tenants",
    "with_count",
];

/// What a list request asks for.
#[derive(Debug)]
pub(super) struct ListQuery {
    pub(super) page: Page,
    pub(super) filter: Filter,
    pub(super) with_count: bool,
}

impl ListQuery {
    /// Reads the query. `filters` are those the resource has.
    pub(super) fn from_call(call: &Call<'_>, filters: &[&str]) -> Result<Self, Error> {
        let ctx = call.ctx()?;
        let all_tenants = match call.query("all_tenants") {
            None => false,
            Some(word) => flag_word(word).ok_or_else(|| {
                Error::Invalid(format!("all_tenants must be a boolean, got '{word}'."))
            })?,
        };
        let all = all_tenants && ctx.is_admin();
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
        for (key, value) in &call.query {
            let key = key.as_str();
            match key {
                _ if PAGING.contains(&key) => {}
                // Only administrators who look at all projects can choose one.
                "project_id" if all => filter.project = Some(ProjectId::new(value)),
                "project_id" => {}
                "name" | "display_name" if filters.contains(&"name") => {
                    filter.name = Some(value.clone());
                }
                "status" if filters.contains(&"status") => filter.status = Some(value.clone()),
                "volume_id" if filters.contains(&"volume_id") => {
                    filter.volume_id = Some(value.clone());
                }
                other => unknown.push(other),
            }
        }
        if !unknown.is_empty() && (call.version >= STRICT_FILTERS || ctx.is_admin()) {
            unknown.sort_unstable();
            return Err(Error::Invalid(format!(
                "Invalid filters {} are found in query options.",
                unknown.join(",")
            )));
        }
        Ok(Self {
            page: page(call)?,
            filter,
            with_count,
        })
    }

    /// Puts a list under its key, with count and next link where they belong.
    pub(super) fn answer(
        &self,
        call: &Call<'_>,
        collection: &str,
        items: Vec<Value>,
        last_id: Option<String>,
        count: Option<i64>,
    ) -> Value {
        let is_full = self.page.limit <= items.len();
        let mut answer = json!({ collection: items });
        if let (true, Some(last)) = (is_full, last_id) {
            answer[format!("{collection}_links")] =
                json!([{ "rel": "next", "href": next_link(call, &last) }]);
        }
        if let Some(count) = count {
            answer["count"] = json!(count);
        }
        answer
    }
}

fn page(call: &Call<'_>) -> Result<Page, Error> {
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
    let offset = match call.query("offset") {
        None => 0,
        Some(text) => {
            let offset = text
                .parse::<i64>()
                .map_err(|_| Error::Invalid("offset param must be an integer".to_owned()))?;
            match offset {
                0..=2_147_483_647 => offset as usize,
                _ => {
                    let message = "Invalid input for field/attribute offset: it must be >= 0 and <= 2147483647";
                    return Err(Error::Invalid(message.to_owned()));
                }
            }
        }
    };
    let (sort, descending) = sort(call)?;
    Ok(Page {
        limit,
        offset,
        marker: call.query("marker").map(str::to_owned),
        sort,
        descending,
    })
}

/// The first key and its direction; ties are broken the same way in any case.
fn sort(call: &Call<'_>) -> Result<(SortKey, bool), Error> {
    let (key, direction) = match (
        call.query("sort"),
        call.query("sort_key"),
        call.query("sort_dir"),
    ) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
            let message = "The 'sort_key' and 'sort_dir' parameters are deprecated and cannot be used with the 'sort' parameter.";
            return Err(Error::Invalid(message.to_owned()));
        }
        (Some(sort), None, None) => {
            let first = sort.split(',').next().unwrap_or_default().trim();
            first.split_once(':').unwrap_or((first, "desc"))
        }
        (None, key, direction) => (key.unwrap_or("created_at"), direction.unwrap_or("desc")),
    };
    let sort = SortKey::parse(key)
        .ok_or_else(|| Error::Invalid("Invalid input received: Invalid sort key".to_owned()))?;
    match direction {
        "desc" => Ok((sort, true)),
        "asc" => Ok((sort, false)),
        _ => Err(Error::Invalid(
            "Invalid input received: Unknown sort direction, must be 'desc' or 'asc'.".to_owned(),
        )),
    }
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
