//! `POST /volumes` with `backup_id`: a restore into a new volume. All other volumes are for Cinder to make.

use crate::api::gateway::merge::{as_it_is, ask, ask_for, has_succeeded};
use crate::api::http::call::Call;
use crate::api::http::kinds;
use crate::api::http::microversion::{STRICT_VOLUMES, VOLUME_GROUP};
use crate::api::http::reply::Reply;
use crate::api::http::schema::{Field, Rule as Must, Schema, field};
use crate::model::error::Error;
use crate::model::id::BackupId;
use crate::model::job::NewTarget;
use crate::service::backups::RestoreBackup;
use bytes::Bytes;
use http::Method;
use serde_json::Value;

type Result = std::result::Result<Reply, Error>;

const FIELDS: &[Field] = &[
    field("name", kinds::trimmed_text_or_null),
    field("description", kinds::trimmed_text_or_null),
    field("display_name", kinds::trimmed_text_or_null),
    field("display_description", kinds::trimmed_text_or_null),
    field("volume_type", kinds::text_or_null),
    field("metadata", kinds::metadata_or_null),
    field("size", kinds::size_or_null),
    field("availability_zone", kinds::filled_or_null),
    field(MULTIATTACH, kinds::flag_or_null),
    field("backup_id", kinds::uuid_or_null),
    field("snapshot_id", kinds::uuid_or_null),
    field("source_volid", kinds::uuid_or_null),
    field("consistencygroup_id", kinds::uuid_or_null),
    field("image_id", kinds::text_or_null),
    field("imageRef", kinds::text_or_null),
    field("group_id", kinds::text_or_null).since(VOLUME_GROUP),
];
const MULTIATTACH: &str = "multiattach";
const HINTS_KEY: &str = "OS-SCH-HNT:scheduler_hints";
const HINTS: &[Field] = &[field(HINTS_KEY, kinds::object_or_null)];
const CREATE: Schema = Schema::under("volume", FIELDS, &[]).beside(HINTS);
const CREATE_STRICT: Schema = Schema::under("volume", FIELDS, &[Must::NoOthers]).beside(HINTS);
/// Keys that name another source, or a group, which a restored volume cannot have.
const OTHERS: [&str; 6] = [
    "snapshot_id",
    "source_volid",
    "consistencygroup_id",
    "image_id",
    "imageRef",
    "group_id",
];

pub(super) fn create(call: &Call<'_>) -> Result {
    let body = call.body.as_ref();
    let backup = body.and_then(|body| body.pointer("/volume/backup_id"));
    // Clients may name one since 3.47. Before, Cinder heeds it all the same, and would look among its own.
    if backup.is_none_or(Value::is_null) {
        return Ok(as_it_is(ask(call)?));
    }
    let schema = if call.version >= STRICT_VOLUMES {
        &CREATE_STRICT
    } else {
        &CREATE
    };
    let fields = call.fields(schema)?;
    let others = OTHERS.into_iter().filter(|key| {
        let value = fields.value(key);
        value.is_some_and(|value| !value.is_null())
    });
    // A restored volume is attached as its type says, and stands where Cinder puts it.
    let multiattach = Some(MULTIATTACH).filter(|key| fields.flag(key));
    let hints = body.and_then(|body| body.get(HINTS_KEY)?.as_object());
    let hints = hints.filter(|hints| !hints.is_empty()).map(|_| HINTS_KEY);
    if let Some(key) = others.chain(multiattach).chain(hints).next() {
        let message = format!("{key} cannot be given together with backup_id.");
        return Err(Error::invalid("input received", message));
    }
    let either = |name, other| fields.change_of_either(name, other).flatten();
    let wanted = RestoreBackup {
        volume_id: None,
        name: Some(either("name", "display_name").unwrap_or_default()),
        new: NewTarget {
            size_gib: fields.number("size"),
            description: either("description", "display_description"),
            volume_type: fields.text("volume_type"),
            availability_zone: fields.text("availability_zone"),
            metadata: fields.metadata("metadata").unwrap_or_default(),
        },
    };
    let id = BackupId::new(fields.required("backup_id"));
    let services = &call.api.services;
    let restoring = services.restore_backup(call.ctx()?, &id, wanted)?;
    // The volume as Cinder shows it.
    let shown = ask_for(
        call,
        |head| {
            head.method = Method::GET;
            let path = head.target.split('?').next().unwrap_or_default();
            let path = path.strip_suffix(".json").unwrap_or(path);
            head.target = format!("{path}/{}", restoring.volume_id);
        },
        Bytes::new(),
    );
    let mut shown = match shown {
        Ok(shown) if has_succeeded(&shown) => shown,
        // The restore goes on, so the request has not failed.
        _ => {
            let volume = serde_json::json!({ "volume": {
                "id": restoring.volume_id,
                "name": restoring.volume_name,
                "status": "restoring-backup",
            } });
            return Ok(Reply::json(202, volume));
        }
    };
    shown.status = 202;
    Ok(as_it_is(shown))
}
