//! QoS specs: what volumes of a type may do per second. Kept for clients; standalone volumes are
//! not throttled.

use crate::model::column::text_enum;
use crate::model::error::Error;
use crate::model::id::RecordId;
use crate::model::page::{Column, Kind};
use crate::model::standalone::stored::Resource;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

text_enum! {
    /// Who keeps to the specs.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    Consumer {
        FrontEnd => "front-end",
        BackEnd => "back-end",
        Both => "both",
    }
}

/// The body of QoS specs. Their name is unique.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QosSpecs {
    pub consumer: Consumer,
    pub specs: BTreeMap<String, String>,
}

impl Resource for QosSpecs {
    const KIND: &'static str = "qos_specs";

    fn missing(id: &RecordId) -> Error {
        Error::NotFound(format!("No such QoS spec {id}."))
    }
}

/// The columns by which lists of QoS specs are filtered and sorted.
pub static COLUMNS: &[Column] = &[
    Column::new("id", "id", Kind::Text),
    Column::new("created_at", "created_at", Kind::Time),
    Column::nullable("updated_at", "updated_at", Kind::Time),
    Column::nullable("name", "name", Kind::Text),
    Column::new("consumer", "body", Kind::Text),
];
