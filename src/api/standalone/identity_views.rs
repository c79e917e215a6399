//! Parts that the handlers of Keystone's API share: who may manage, how lists and objects are shown.

use crate::api::http::call::Call;
use crate::api::http::kinds::flag_word;
use crate::api::http::reply::Reply;
use crate::identity::embedded::Embedded;
use crate::model::error::Error;
use crate::model::id::ProjectId;
use crate::model::role::Role;
use crate::model::standalone::identity::{Project, User};
use serde_json::{Value, json};

pub(crate) const DOMAIN: &str = "default";

/// The filters of lists of projects.
pub(super) const FILTERS: [&str; 5] = ["name", "enabled", "domain_id", "parent_id", "is_domain"];

pub(crate) fn domain() -> Value {
    json!({ "id": DOMAIN, "name": "Default" })
}

pub(crate) fn project_view(call: &Call<'_>, project: &Project) -> Value {
    json!({
        "id": project.id,
        "name": project.name,
        "domain_id": DOMAIN,
        "parent_id": DOMAIN,
        "description": project.description,
        "enabled": project.is_enabled,
        "is_domain": false,
        "tags": *project.tags,
        "options": {},
        "links": { "self": format!("{}/identity/v3/projects/{}", call.base, project.id) },
    })
}

/// Those whose fields are what the query says of them.
pub(crate) fn filtered(call: &Call<'_>, views: Vec<Value>, filters: &[&str]) -> Vec<Value> {
    let is_wanted = |view: &Value, key: &str| {
        call.query(key).is_none_or(|text| match &view[key] {
            Value::Bool(flag) => *flag == flag_word(text).unwrap_or(true),
            value => *value == text,
        })
    };
    views
        .into_iter()
        .filter(|view| filters.iter().all(|key| is_wanted(view, key)))
        .collect()
}

/// A list of all that there is, read some at a time: `page` gives those behind a row. If it would take more memory than a
/// list may, it ends early, and `truncated` says so, as in a Keystone with a `list_limit`.
pub(crate) fn list_all<T>(
    call: &Call<'_>,
    key: &str,
    mut page: impl FnMut(Option<&T>) -> std::result::Result<Vec<T>, Error>,
    views: impl Fn(&T) -> Vec<Value>,
) -> std::result::Result<Reply, Error> {
    let most = call.api.memory.parts.list_text();
    let (mut items, mut bytes) = (Vec::new(), 0);
    let mut last: Option<T> = None;
    loop {
        let rows = page(last.as_ref())?;
        if rows.is_empty() {
            return Ok(list_view(call, key, items));
        }
        for view in rows.iter().flat_map(&views) {
            bytes += view.to_string().len() as u64;
            if bytes > most && !items.is_empty() {
                let mut body = list_body(call, key, items);
                body["truncated"] = json!(true);
                return Ok(Reply::json(200, body));
            }
            items.push(view);
        }
        last = rows.into_iter().next_back();
    }
}

pub(crate) fn list_view(call: &Call<'_>, key: &str, items: Vec<Value>) -> Reply {
    Reply::json(200, list_body(call, key, items))
}

fn list_body(call: &Call<'_>, key: &str, items: Vec<Value>) -> Value {
    let query = match call.query_string.as_str() {
        "" => String::new(),
        query => format!("?{query}"),
    };
    let own = format!("{}{}{query}", call.base, call.path);
    let links = json!({ "next": null, "previous": null, "self": own });
    json!({ key: items, "links": links })
}

/// The embedded identity, for a caller who may change it.
pub(crate) fn managed<'a>(
    call: &'a Call<'_>,
    what: &'static str,
) -> std::result::Result<&'a Embedded, Error> {
    if call.session()?.roles.contains(&Role::Admin) {
        call.embedded()
    } else {
        Err(Error::Forbidden(what))
    }
}

pub(crate) fn not_found(kind: &str, id: &str) -> Error {
    Error::NotFound(format!("Could not find {kind}: {id}."))
}

pub(crate) fn user_view(call: &Call<'_>, user: &User) -> Value {
    let mut view = json!({
        "id": user.id,
        "name": user.name,
        "domain_id": DOMAIN,
        "enabled": user.may_log_in(),
        "password_expires_at": null,
        "options": {},
        "links": { "self": format!("{}/identity/v3/users/{}", call.base, user.id) },
    });
    let default_project = user.default_project_id.as_ref().map(ProjectId::as_str);
    let optional = [
        ("description", user.description.as_deref()),
        ("email", user.email.as_deref()),
        ("default_project_id", default_project),
    ];
    // As in Keystone, what was never given is not there.
    for (key, value) in optional {
        if let Some(value) = value {
            view[key] = json!(value);
        }
    }
    view
}
