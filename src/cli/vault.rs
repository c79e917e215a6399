//! `embervault vault`: what operators do to the stored data of projects.

use crate::app;
use crate::cli::{serve, table};
use crate::config::Config;
use crate::engine::collect::{self, Plan, bytes};
use crate::model::error::chain;
use crate::model::pack::Pack;
use anyhow::bail;
use serde_json::json;

/// Reclaims what deleted backups have left, in all vaults; or tells what would be done.
pub(super) fn collect(config: &Config, dry_run: bool, json: bool) -> anyhow::Result<()> {
    let runtime = serve::runtime()?;
    let mut collected = Vec::new();
    let mut refused = 0;
    for vault in app::open_vaults(config, runtime.handle())? {
        let plan = vault.and_then(|vault| {
            let plan = match dry_run {
                true => collect::plan(&vault)?,
                false => collect::run(&vault)?,
            };
            Ok((vault.id.to_string(), plan))
        });
        match plan {
            Ok(plan) => collected.push(plan),
            Err(error) => {
                eprintln!("embervault: {}", chain(&error));
                refused += 1;
            }
        }
    }
    match json {
        true => println!("{}", serde_json::to_string_pretty(&as_json(&collected))?),
        false => print(&collected),
    }
    match refused {
        0 => Ok(()),
        count => bail!("{count} vaults were left alone"),
    }
}

fn as_json(collected: &[(String, Plan)]) -> serde_json::Value {
    let tally = |packs: &[Pack]| json!({ "packs": packs.len(), "bytes": bytes(packs) });
    let vaults = collected.iter().map(|(vault, plan)| {
        json!({
            "vault": vault,
            "generation": plan.generation,
            "kept": tally(&plan.kept),
            "pardoned": tally(&plan.pardoned),
            "condemned": tally(&plan.condemned),
            "deleted": tally(&plan.deleted),
        })
    });
    vaults.collect()
}

fn print(collected: &[(String, Plan)]) {
    let tally = |packs: &[Pack]| format!("{} ({:.1} MB)", packs.len(), bytes(packs) as f64 / 1e6);
    let rows: Vec<Vec<String>> = collected
        .iter()
        .map(|(vault, plan)| {
            vec![
                vault.clone(),
                plan.generation.to_string(),
                tally(&plan.kept),
                tally(&plan.pardoned),
                tally(&plan.condemned),
                tally(&plan.deleted),
            ]
        })
        .collect();
    let header = [
        "vault",
        "generation",
        "kept",
        "pardoned",
        "condemned",
        "deleted",
    ];
    table::print(&header, &rows);
}
