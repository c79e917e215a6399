//! The roles of OpenStack's default policy.

use crate::model::column::text_enum;
use serde::{Deserialize, Serialize};

text_enum! {
    /// The roles the service knows; each implies those after it.
    #[derive(Serialize, Deserialize, PartialOrd, Ord)]
    #[serde(rename_all = "lowercase")]
    Role {
        Admin => "admin",
        Member => "member",
        Reader => "reader",
    }
}

impl Role {
    /// The role and all that it implies, as Keystone lists them in a token.
    pub fn implied(self) -> &'static [Role] {
        match self {
            Role::Admin => &[Role::Admin, Role::Member, Role::Reader],
            Role::Member => &[Role::Member, Role::Reader],
            Role::Reader => &[Role::Reader],
        }
    }
}
