//! How many files this process may open: connections must leave some for everything else, or the store and
//! the database fail when many clients come.

use crate::api::METRICS_CONNECTIONS_MAX;
use crate::app::StartError;
use crate::config::Config;
use crate::model::job::Queue;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More are of no use, and programs that are started with a very high limit may take long.
const WANTED: u64 = 65_536;
/// Database, logs, locks, listeners and runtimes.
const OWN: usize = 128;
/// Volumes, clones and temporary files of one job.
const OF_A_JOB: usize = 32;

/// Raises the soft limit, as far as the hard one lets us.
pub(super) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let reachable = limit.maximum.map_or(WANTED, |hard| hard.min(WANTED));
    if limit.current.is_some_and(|soft| soft < reachable) {
        let raised = Rlimit {
            current: Some(reachable),
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files could not be raised");
        }
    }
}

/// Refuses a configuration whose connections would take the files of the rest.
pub(super) fn check(config: &Config) -> Result<(), StartError> {
    match getrlimit(Resource::Nofile).current {
        Some(allowed) if allowed < needed(config) => Err(StartError::Files {
            allowed,
            connections: config.api.connections_max,
            needed: needed(config),
        }),
        _ => Ok(()),
    }
}

fn needed(config: &Config) -> u64 {
    let calls = config.storages().into_values().map(|storage| storage.calls);
    let queues = [Queue::Backup, Queue::Copy, Queue::Quick];
    let jobs: usize = queues.map(|queue| config.jobs.places(queue)).iter().sum();
    let all = calls
        .chain([OWN, METRICS_CONNECTIONS_MAX, jobs.saturating_mul(OF_A_JOB)])
        .fold(config.api.connections_max, usize::saturating_add);
    u64::try_from(all).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit_into_the_least_usual_limit() {
        let mut config = Config::default();
        assert!(needed(&config) <= 1024);
        config.api.connections_max = 1_000_000;
        assert!(needed(&config) > 1_000_000);
    }
}
