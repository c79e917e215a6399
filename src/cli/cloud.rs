//! `embervault cloud`: what operators ask of the cloud whose volumes are backed up.

use crate::cli::{serve, table};
use crate::clock::Clock;
use crate::config::Config;
use crate::db::Db;
use crate::model::check::Verdict;
use crate::volume::catalog::Catalog;
use crate::volume::catalog::cinder::check::Step;
use anyhow::bail;

/// Goes through all that backups and restores need.
pub(super) fn check(config: &Config, volume: Option<&str>, json: bool) -> anyhow::Result<()> {
    let runtime = serve::runtime()?;
    let db = Db::open(&config.database_url())?;
    let cinder = Catalog::open_cinder(db, Clock::System, config, runtime.handle().clone())?;
    let steps = cinder.check(volume);
    if json {
        println!("{}", serde_json::to_string_pretty(&steps)?)
    } else {
        print(&steps)
    }
    let failed = steps
        .iter()
        .filter(|step| step.verdict == Verdict::Failed)
        .count();
    match failed {
        0 => Ok(()),
        count => bail!("{count} of {} steps failed", steps.len()),
    }
}

fn print(steps: &[Step]) {
    let rows: Vec<Vec<String>> = steps
        .iter()
        .map(|step| {
            let verdict = step.verdict.word().to_owned();
            vec![step.name.clone(), verdict, step.detail.clone()]
        })
        .collect();
    table::print(&["step", "result", "detail"], &rows);
}
