//! Counters of this process, in Prometheus's text form. The parts that count get them at their start. This module knows
//! only their names.

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    storage: String,
    verb: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallEnd {
    storage: String,
    verb: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobEnd {
    kind: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindState {
    kind: String,
    state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    /// `read` from volumes or the store, `stored`, `deduplicated`.
    what: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Upkeep {
    /// `collect` or `verify`.
    kind: &'static str,
}

/// The counters. Shared by all threads.
pub struct Metrics {
    registry: Mutex<Registry>,
    calls: Family<CallEnd, Counter>,
    call_seconds: Family<Call, Histogram>,
    jobs_ended: Family<JobEnd, Counter>,
    job_seconds: Family<Kind, Histogram>,
    wait_seconds: Family<Kind, Histogram>,
    bytes: Family<Direction, Counter>,
    leases_lost: Counter,
    jobs: Family<KindState, Gauge>,
    job_age: Family<KindState, Gauge<f64, AtomicU64>>,
    maintenance_failures: Family<Upkeep, Gauge>,
}

/// Jobs of one kind in one state, as the database has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobTally {
    pub kind: String,
    pub state: String,
    pub count: i64,
    /// Of the oldest.
    pub age: Duration,
}

fn seconds() -> Histogram {
    // From a millisecond to an hour.
    Histogram::new(exponential_buckets(0.001, 4.0, 12))
}

impl Default for Metrics {
    fn default() -> Self {
        let calls = Family::default();
        let call_seconds = Family::new_with_constructor(seconds as fn() -> Histogram);
        let jobs_ended = Family::default();
        let job_seconds = Family::new_with_constructor(seconds as fn() -> Histogram);
        let wait_seconds = Family::new_with_constructor(seconds as fn() -> Histogram);
        let bytes = Family::default();
        let leases_lost = Counter::default();
        let jobs = Family::default();
        let job_age = Family::default();
        let maintenance_failures = Family::default();
        let mut registry = Registry::with_prefix("embervault");
        registry.register("store_calls", "Tries of calls to storages", calls.clone());
        registry.register_with_unit(
            "store_call",
            "Tries of calls to storages",
            Unit::Seconds,
            call_seconds.clone(),
        );
        registry.register("jobs_ended", "Runs of jobs", jobs_ended.clone());
        registry.register_with_unit(
            "job_run",
            "Runs of jobs",
            Unit::Seconds,
            job_seconds.clone(),
        );
        registry.register_with_unit(
            "job_wait",
            "Time between due and claimed",
            Unit::Seconds,
            wait_seconds.clone(),
        );
        registry.register(
            "moved_bytes",
            "Bytes moved by backups and restores",
            bytes.clone(),
        );
        registry.register(
            "leases_lost",
            "Jobs that another worker has taken over",
            leases_lost.clone(),
        );
        registry.register("jobs", "Jobs in the database", jobs.clone());
        registry.register_with_unit(
            "job_age",
            "The oldest of these jobs",
            Unit::Seconds,
            job_age.clone(),
        );
        registry.register(
            "maintenance_failures",
            "Vaults of which the last collection or verification failed",
            maintenance_failures.clone(),
        );
        Self {
            registry: Mutex::new(registry),
            calls,
            call_seconds,
            jobs_ended,
            job_seconds,
            wait_seconds,
            bytes,
            leases_lost,
            jobs,
            job_age,
            maintenance_failures,
        }
    }
}

impl Metrics {
    /// A try of a call to a storage has ended.
    pub fn store_call(
        &self,
        storage: &str,
        verb: &'static str,
        outcome: &'static str,
        duration: Duration,
    ) {
        let storage = storage.to_owned();
        let call = Call {
            storage: storage.clone(),
            verb,
        };
        let end = CallEnd {
            storage,
            verb,
            outcome,
        };
        self.calls.get_or_create(&end).inc();
        self.call_seconds
            .get_or_create(&call)
            .observe(duration.as_secs_f64());
    }

    /// A job was claimed, so long after it was due.
    pub fn job_claimed(&self, kind: &str, waited: Duration) {
        let kind = kind.to_owned();
        self.wait_seconds
            .get_or_create(&Kind { kind })
            .observe(waited.as_secs_f64());
    }

    /// A run of a job has ended.
    pub fn job_ended(&self, kind: &str, outcome: &'static str, duration: Duration) {
        let kind = kind.to_owned();
        let end = JobEnd {
            kind: kind.clone(),
            outcome,
        };
        self.jobs_ended.get_or_create(&end).inc();
        self.job_seconds
            .get_or_create(&Kind { kind })
            .observe(duration.as_secs_f64());
    }

    /// A run of a backup or restore has moved so many bytes.
    pub fn moved(&self, read: u64, stored: u64, deduplicated: u64) {
        for (what, bytes) in [
            ("read", read),
            ("stored", stored),
            ("deduplicated", deduplicated),
        ] {
            self.bytes.get_or_create(&Direction { what }).inc_by(bytes);
        }
    }

    /// Another worker has taken a job over.
    pub fn lease_lost(&self) {
        self.leases_lost.inc();
    }

    /// So many vaults could not be collected, and so many not be verified, when that was last tried.
    pub fn maintenance_failed(&self, collect: i64, verify: i64) {
        for (kind, count) in [("collect", collect), ("verify", verify)] {
            self.maintenance_failures
                .get_or_create(&Upkeep { kind })
                .set(count);
        }
    }

    /// Everything in Prometheus's text form, with the jobs as they are now.
    pub fn render(&self, tallies: &[JobTally]) -> String {
        self.jobs.clear();
        self.job_age.clear();
        for tally in tallies {
            let labels = KindState {
                kind: tally.kind.clone(),
                state: tally.state.clone(),
            };
            self.jobs.get_or_create(&labels).set(tally.count);
            self.job_age
                .get_or_create(&labels)
                .set(tally.age.as_secs_f64());
        }
        let mut rendered = String::new();
        let registry = self.registry.lock().expect("nothing panics under it");
        text::encode(&mut rendered, &registry).expect("a string takes all text");
        rendered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_told_and_jobs_are_those_of_now() {
        let metrics = Metrics::default();
        metrics.store_call("main", "put", "ok", Duration::from_millis(20));
        metrics.moved(10, 5, 3);
        metrics.lease_lost();
        let tally = |state: &str, count| JobTally {
            kind: "create_backup".to_owned(),
            state: state.to_owned(),
            count,
            age: Duration::from_secs(7),
        };
        metrics.render(&[tally("running", 2)]);
        let text = metrics.render(&[tally("available", 1)]);
        for line in [
            r#"embervault_store_calls_total{storage="main",verb="put",outcome="ok"} 1"#,
            r#"embervault_moved_bytes_total{what="deduplicated"} 3"#,
            "embervault_leases_lost_total 1",
            r#"embervault_jobs{kind="create_backup",state="available"} 1"#,
            r#"embervault_job_age_seconds{kind="create_backup",state="available"} 7.0"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("running"), "{text}");
    }
}
