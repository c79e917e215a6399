//! Settings of a Cinder that keeps the volumes.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Who keeps the volumes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumesMode {
    /// This service itself.
    #[default]
    Standalone,
    /// A Cinder. Needs `[cinder]`, and the identity of a Keystone.
    Cinder,
}

/// A Cinder, which is asked as the user in `[identity.keystone]`. That user needs the role `admin`. Needed in the volumes'
/// mode `cinder`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cinder {
    /// Cinder as this service reaches it, such as `http://controller:8776/v3`. Without a project.
    pub url: String,
    /// Certificates to trust, PEM. Default: those of Keystone.
    pub cacert: Option<PathBuf>,
    /// Longest time of one request.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// The pools of Ceph clusters, by the names of Cinder's backends: what stands between `@` and `#` in
    /// `os-vol-host-attr:host`.
    pub rbd: BTreeMap<String, Rbd>,
}

impl Default for Cinder {
    fn default() -> Self {
        Self {
            url: String::new(),
            cacert: None,
            timeout: Duration::from_secs(30),
            rbd: BTreeMap::new(),
        }
    }
}

/// A pool of a Ceph cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rbd {
    /// Where the cluster's monitors stand.
    #[serde(default = "conf")]
    pub conf: PathBuf,
    /// A cephx user, without `client.`. It needs `profile rbd` for monitors and for the pool.
    pub user: String,
    /// The user's key. Default: where the conf says, such as `/etc/ceph/ceph.client.USER.keyring`.
    pub keyring: Option<PathBuf>,
    pub pool: String,
    /// Longest time of one request to the cluster.
    #[serde(default = "timeout", with = "humantime_serde")]
    pub timeout: Duration,
}

fn conf() -> PathBuf {
    PathBuf::from("/etc/ceph/ceph.conf")
}

fn timeout() -> Duration {
    Duration::from_secs(30)
}

impl Cinder {
    /// An error if the settings of the Cinder in use are incomplete or out of range.
    pub(super) fn check(&self) -> Result<(), (String, String)> {
        if !self.url.starts_with("http") {
            let why = "the mode cinder needs Cinder's URL, such as http://controller:8776/v3";
            return Err(("cinder.url".to_owned(), why.to_owned()));
        }
        if self.rbd.is_empty() {
            let why = "the mode cinder needs a section [cinder.rbd.BACKEND] for each of Cinder's backends whose volumes are to be backed up";
            return Err(("cinder.rbd".to_owned(), why.to_owned()));
        }
        for (name, rbd) in &self.rbd {
            let missing = [Some(&rbd.conf), rbd.keyring.as_ref()]
                .into_iter()
                .flatten()
                .find(|path| !path.is_file());
            if let Some(path) = missing {
                let why = format!("there is no file {}", path.display());
                return Err((format!("cinder.rbd.{name}"), why));
            }
        }
        Ok(())
    }
}
