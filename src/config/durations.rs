//! Durations in settings. Each has a range: a sum with a time must stay one that can be written down.

use crate::config::Config;
use humantime_serde::re::humantime::format_duration;
use std::time::Duration;

const NOTHING: Duration = Duration::ZERO;
const MOMENT: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);
/// As humantime counts years.
const TEN_YEARS: Duration = Duration::from_secs(10 * 31_557_600);

impl Config {
    /// The setting that is out of its range, and the range.
    pub(super) fn check_durations(&self) -> Result<(), (String, String)> {
        let (keystone, jobs, upkeep) = (&self.identity.keystone, &self.jobs, &self.maintenance);
        let token = self.identity.token_lifetime;
        let mut settings = vec![
            ("api.client_timeout", self.api.client_timeout, MOMENT, DAY),
            ("identity.token_lifetime", token, MOMENT * 1000, TEN_YEARS),
            ("identity.keystone.timeout", keystone.timeout, MOMENT, DAY),
            (
                "identity.keystone.cache_time",
                keystone.cache_time,
                NOTHING,
                DAY,
            ),
            ("jobs.lease", jobs.lease, MOMENT * 500, DAY),
            ("jobs.poll", jobs.poll, MOMENT, DAY),
            ("jobs.drain", jobs.drain, NOTHING, MONTH),
            (
                "maintenance.collect_every",
                upkeep.collect_every,
                NOTHING,
                TEN_YEARS,
            ),
            (
                "maintenance.verify_every",
                upkeep.verify_every,
                NOTHING,
                TEN_YEARS,
            ),
        ]
        .into_iter()
        .map(|(key, value, least, most)| (key.to_owned(), value, least, most))
        .collect::<Vec<_>>();
        let cinder = &self.cinder;
        settings.push(("cinder.timeout".to_owned(), cinder.timeout, MOMENT, DAY));
        let gateway = "cinder.gateway_timeout".to_owned();
        settings.push((gateway, cinder.gateway_timeout, MOMENT, DAY));
        let brick = &cinder.brick;
        for (key, value) in [
            ("timeout", brick.timeout),
            ("copy_timeout", brick.copy_timeout),
        ] {
            settings.push((format!("cinder.brick.{key}"), value, MOMENT * 1000, MONTH));
        }
        for (name, rbd) in &cinder.rbd {
            let key = format!("cinder.rbd.{name}.timeout");
            settings.push((key, rbd.timeout, MOMENT * 1000, DAY));
        }
        for (name, storage) in &self.storage {
            let key = |key: &str| format!("storage.{name}.{key}");
            settings.push((key("timeout"), storage.timeout, MOMENT, DAY));
            settings.push((key("retry_for"), storage.retry_for, NOTHING, MONTH));
        }
        let is_out = |(_, value, least, most): &(String, Duration, Duration, Duration)| {
            !(*least..=*most).contains(value)
        };
        match settings.into_iter().find(is_out) {
            None => Ok(()),
            Some((key, _, least, most)) => {
                let (least, most) = (format_duration(least), format_duration(most));
                Err((key, format!("must be from {least} to {most}")))
            }
        }
    }
}
