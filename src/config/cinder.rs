//! Settings of a Cinder that keeps the volumes.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Most requests that may be passed on at once.
const REQUESTS_MAX: usize = 100_000;

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
    pub brick: Brick,
    /// Serve all of block storage, as the catalogue's endpoint for it: what is not about backups is passed on to Cinder.
    pub gateway: bool,
    /// How long Cinder may take until its answer to a request that is passed on begins, and then for each part of it. Cinder
    /// itself waits for its volume services, for 60 s by default, so this should be longer.
    #[serde(with = "humantime_serde")]
    pub gateway_timeout: Duration,
    /// Most requests that are passed on at once; further ones wait. Three quarters of them may be of one user or project,
    /// or of all who have no token that is known. Each takes 1 MiB of memory at most, and one whose answer is put together
    /// with ours also holds Cinder's, up to 4 MiB.
    pub gateway_requests_max: usize,
}

impl Default for Cinder {
    fn default() -> Self {
        Self {
            url: String::new(),
            cacert: None,
            timeout: Duration::from_secs(30),
            rbd: BTreeMap::new(),
            brick: Brick::default(),
            gateway: false,
            gateway_timeout: Duration::from_secs(120),
            gateway_requests_max: 64,
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

/// Backends that os-brick, the library of Nova and Cinder, connects to this machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Brick {
    /// Cinder's backends, by the names that stand between `@` and `#` in `os-vol-host-attr:host`.
    pub backends: BTreeSet<String>,
    /// A Python that has os-brick.
    pub python: PathBuf,
    /// What os-brick puts before commands that need rights, such as `sudo`. Without it this service needs these rights.
    pub root_helper: Option<String>,
    pub multipath: bool,
    /// The address of this machine in the network of the storage. Default: the one of its default route.
    pub address: Option<IpAddr>,
    /// Where os-brick mounts shares and has its locks. Default: `brick` in the data directory.
    pub dir: Option<PathBuf>,
    /// Longest time to connect or disconnect a volume.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Longest time that Cinder may take for the snapshot and the copy of a volume from which a backup is made.
    #[serde(with = "humantime_serde")]
    pub copy_timeout: Duration,
}

impl Default for Brick {
    fn default() -> Self {
        Self {
            backends: BTreeSet::new(),
            python: PathBuf::from("/usr/bin/python3"),
            root_helper: None,
            multipath: false,
            address: None,
            dir: None,
            timeout: Duration::from_secs(120),
            copy_timeout: Duration::from_secs(24 * 3600),
        }
    }
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
        let url = self.url.trim_end_matches('/');
        if self.gateway && (!url.ends_with("/v3") || url.contains(['?', '#'])) {
            let why = "a gateway needs a URL that ends in /v3, such as http://controller:8776/v3";
            return Err(("cinder.url".to_owned(), why.to_owned()));
        }
        if !(1..=REQUESTS_MAX).contains(&self.gateway_requests_max) {
            let why = format!("must be from 1 to {REQUESTS_MAX}");
            return Err(("cinder.gateway_requests_max".to_owned(), why));
        }
        let brick = &self.brick;
        if self.rbd.is_empty() && brick.backends.is_empty() {
            let why = "the mode cinder needs a section [cinder.rbd.BACKEND] for each of Cinder's backends in Ceph whose volumes are to be backed up, and `cinder.brick.backends` for others";
            return Err(("cinder.rbd".to_owned(), why.to_owned()));
        }
        if let Some(name) = brick
            .backends
            .iter()
            .find(|name| self.rbd.contains_key(*name))
        {
            let why = format!(
                "the backend {name} has a section [cinder.rbd.{name}] too; remove one of them"
            );
            return Err(("cinder.brick.backends".to_owned(), why));
        }
        if !brick.backends.is_empty() && !brick.python.is_file() {
            let why = format!(
                "there is no file {}; name the interpreter that has os-brick",
                brick.python.display()
            );
            return Err(("cinder.brick.python".to_owned(), why));
        }
        if brick
            .root_helper
            .as_deref()
            .is_some_and(|words| words.trim().is_empty())
        {
            let why = "must be a command, such as sudo; leave it out to do without one";
            return Err(("cinder.brick.root_helper".to_owned(), why.to_owned()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_needs_a_url_that_ends_in_its_version() {
        let check = |url: &str, requests: usize| {
            let cinder = Cinder {
                url: url.to_owned(),
                gateway: true,
                gateway_requests_max: requests,
                ..Cinder::default()
            };
            // Without a pool it is refused in any case.
            cinder.check().unwrap_err().0
        };
        assert_eq!(check("http://c:8776/v3/", 1), "cinder.rbd");
        assert_eq!(check("http://c:8776/v3/0f", 1), "cinder.url");
        assert_eq!(check("http://c:8776", 1), "cinder.url");
        assert_eq!(check("http://c:8776/v3", 0), "cinder.gateway_requests_max");
    }
}
