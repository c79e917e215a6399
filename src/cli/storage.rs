//! `embervault storage`: what operators ask of backup storages.

use crate::cli::{serve, table};
use crate::config::Config;
use crate::model::check::Verdict;
use crate::store::Store;
use crate::store::check::{self, Step};
use anyhow::{Context, bail};

/// Proves one storage.
pub(super) fn check(config: &Config, name: &str, json: bool) -> anyhow::Result<()> {
    let storages = config.storages();
    let Some(settings) = storages.get(name) else {
        let names: Vec<&str> = storages.keys().map(String::as_str).collect();
        bail!(
            "no storage is named {name:?}; there are: {}",
            names.join(", ")
        );
    };
    let runtime = serve::runtime()?;
    let store = Store::open(settings, runtime.handle().clone())
        .with_context(|| format!("storage {name:?} cannot be opened"))?;
    let steps = check::run(&store);
    if json {
        println!("{}", serde_json::to_string_pretty(&steps)?)
    } else {
        print(&steps)
    }
    if steps.iter().any(|step| step.verdict == Verdict::Failed) {
        bail!("storage {name:?} cannot hold backups as it is")
    } else {
        Ok(())
    }
}

fn print(steps: &[Step]) {
    let rows: Vec<Vec<String>> = steps
        .iter()
        .map(|step| {
            vec![
                step.name.to_owned(),
                step.verdict.word().to_owned(),
                format!("{} ms", step.milliseconds),
                step.detail.clone(),
            ]
        })
        .collect();
    table::print(&["step", "result", "time", "detail"], &rows);
}
