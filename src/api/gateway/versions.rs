//! Version documents: with links that lead here, and the versions that both Cinder and this service speak.

use crate::api::http::call::Call;
use crate::api::http::microversion::{BASE, LATEST, Microversion};
use crate::api::http::reply::Reply;
use crate::api::versions::block_storage;
use crate::model::error::Error;
use serde_json::Value;

type Result = std::result::Result<Reply, Error>;

/// `GET /`
pub(super) fn root(call: &Call<'_>) -> Result {
    Ok(Reply::json(300, document(call)))
}

/// `GET /v3/`
pub(super) fn v3(call: &Call<'_>) -> Result {
    Ok(Reply::json(200, document(call)))
}

/// While Cinder is away, what it said last holds, so that clients can still ask for backups.
fn document(call: &Call<'_>) -> Value {
    let gateway = call.api.gateway.as_ref();
    let told = gateway.and_then(|gateway| gateway.versions.get(&gateway.upstream));
    let (least, most) = told.as_ref().and_then(range).unwrap_or((BASE, LATEST));
    block_storage(call, least.max(BASE), most.min(LATEST))
}

/// The versions in Cinder's document.
fn range(document: &Value) -> Option<(Microversion, Microversion)> {
    let versions = document["versions"].as_array()?;
    let is_v3 = |version: &&Value| {
        version["id"]
            .as_str()
            .is_some_and(|id| id.starts_with("v3."))
    };
    let v3 = versions.iter().find(is_v3)?;
    let read = |key: &str| {
        let minor = v3[key].as_str()?.strip_prefix("3.")?;
        minor.parse().ok().map(Microversion)
    };
    Some((read("min_version")?, read("version")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_versions_of_a_cinder_are_read() {
        let document = json!({ "versions": [
            { "id": "v2.0", "version": "", "min_version": "" },
            { "id": "v3.0", "version": "3.59", "min_version": "3.0" },
        ] });
        assert_eq!(range(&document), Some((BASE, Microversion(59))));
        assert_eq!(range(&json!({ "versions": [] })), None);
    }
}
