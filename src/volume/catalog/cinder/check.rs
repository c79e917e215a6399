//! Goes through all that a backup and a restore need of a cloud, and says for each what to do if it is not there.

use crate::model::check::Verdict;
use crate::model::error::chain;
use crate::model::id::JobId;
use crate::volume::catalog::cinder::{Cinder, Place};
use crate::volume::cinder::CinderError;
use serde::Serialize;
use std::error::Error;

/// One part of the check.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    pub name: String,
    pub verdict: Verdict,
    /// The finding, or the fault and how to mend it.
    pub detail: String,
}

impl Step {
    fn new(name: impl Into<String>, result: Result<String, String>) -> Self {
        let (verdict, detail) = match result {
            Ok(detail) => (Verdict::Passed, detail),
            Err(detail) => (Verdict::Failed, detail),
        };
        Self {
            name: name.into(),
            verdict,
            detail,
        }
    }
}

/// An error, and what to do.
fn advice(error: &dyn Error, what_to_do: &str) -> String {
    format!("{}: {what_to_do}", chain(error))
}

impl Cinder {
    /// Runs all steps, also after one has failed; with a volume, also a rehearsal of its backup, which changes nothing
    /// that stays.
    pub fn check(&self, volume: Option<&str>) -> Vec<Step> {
        let mut steps = vec![Step::new("log in to Keystone", self.check_token())];
        let known = self.client.backends();
        let listed = known.as_ref().map_err(administrator_advice);
        steps.push(Step::new(
            "ask Cinder as its administrator",
            listed.map(|known| format!("backends: {}", known.join(", "))),
        ));
        let known = known.unwrap_or_default();
        for (name, backend) in &self.backends {
            let connected = backend.connect().map_err(|error| {
                advice(&error, "check conf, user, keyring and pool of this section, and that the user may use the pool: ceph auth get-or-create client.USER mon 'profile rbd' osd 'profile rbd pool=POOL'")
            });
            steps.push(Step::new(
                format!("open the pool of cinder.rbd.{name}"),
                connected,
            ));
            if !known.is_empty() {
                steps.push(Step::new(
                    format!("find the backend {name} in Cinder"),
                    is_known(&known, name),
                ));
            }
        }
        if let Some(brick) = &self.brick {
            let usable = brick.look().map(|version| format!("version {version}"));
            let usable = usable.and_then(|version| brick.connector().map(|_| version));
            let usable = usable.map_err(|error| {
                advice(&error, "install os-brick for the interpreter in cinder.brick.python, and what its connectors need, such as nfs-common or open-iscsi")
            });
            steps.push(Step::new("use os-brick", usable));
            for name in brick.backends().filter(|_| !known.is_empty()) {
                steps.push(Step::new(
                    format!("find the backend {name} in Cinder"),
                    is_known(&known, name),
                ));
            }
        }
        let is_brick = |name: &str| self.brick.as_ref().is_some_and(|brick| brick.serves(name));
        let left_out = known
            .iter()
            .filter(|name| !self.backends.contains_key(*name) && !is_brick(name));
        steps.extend(left_out.map(|name| Step {
            name: format!("backend {name}"),
            verdict: Verdict::Absent,
            detail: format!(
                "its volumes cannot be backed up: there is no section [cinder.rbd.{name}], and it is not in cinder.brick.backends"
            ),
        }));
        if let Some(id) = volume {
            steps.push(Step::new(
                format!("rehearse a backup of {id}"),
                self.rehearse(id),
            ));
        }
        steps
    }

    fn check_token(&self) -> Result<String, String> {
        let logged_in = self.client.log_in();
        logged_in
            .map(|project| format!("project {project}"))
            .map_err(|error| {
                advice(
                    &error,
                    "check auth_url, username, password and project_name in [identity.keystone]",
                )
            })
    }

    /// Takes and removes a snapshot of the volume's image, and reads where its data is.
    fn rehearse(&self, id: &str) -> Result<String, String> {
        let found = self.client.volume(id).map_err(|error| chain(&error))?;
        let found = found.ok_or("there is no such volume: give its id, not its name")?;
        let (backend, image) = match self.place(&found).map_err(|error| chain(&error))? {
            Place::Ceph(backend, image) => (backend, image),
            Place::Connected(_) => return Ok(
                "it is served by os-brick; only a backup shows whether its copy can be made and read"
                    .to_owned(),
            ),
        };
        let job = JobId::random();
        let rehearsed = backend
            .keep(&image, &job, self.clock.now(), None)
            .and_then(|source| source.reader.next_data(0..source.reader.length()));
        let removed = backend.remove_snapshot_of(&image, &job);
        let data = rehearsed.map_err(|error| {
            advice(
                &error,
                "the user needs `profile rbd` for the pool, as it makes snapshots",
            )
        })?;
        removed
            .map_err(|error| advice(&error, "remove the snapshot by hand with `rbd snap rm`"))?;
        Ok(match data {
            Some(first) => format!("{image}: its data begins at {} bytes", first.start),
            None => format!("{image}: it holds no data"),
        })
    }
}

fn administrator_advice(error: &CinderError) -> String {
    let what_to_do = match error {
        CinderError::Refused { status: 403, .. } => {
            "the user in [identity.keystone] needs the role admin in its project"
        }
        CinderError::Refused { status: 404, .. } => "cinder.url must end in /v3",
        _ => "check cinder.url",
    };
    advice(error, what_to_do)
}

fn is_known(known: &[String], name: &str) -> Result<String, String> {
    if known.iter().any(|known| known == name) {
        Ok("it is there".to_owned())
    } else {
        Err(format!(
            "Cinder has no backend of this name, but: {}",
            known.join(", ")
        ))
    }
}
