//! `embervault vault`: what operators do to the stored data of projects.

use crate::app;
use crate::cli::{serve, table};
use crate::config::Config;
use crate::db::OldRows;
use crate::engine::care::collect::{self, Plan, bytes};
use crate::engine::care::repair;
use crate::engine::care::verify::{self, Depth};
use crate::engine::vault::Vault;
use crate::model::error::chain;
use crate::model::pack::Pack;
use crate::model::progress::Progress;
use crate::tasks::Tasks;
use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::time::Instant;

/// Works on every vault. A vault that fails does not stop the work on the others.
fn each<T>(
    tasks: &Tasks,
    work: impl Fn(&Vault) -> anyhow::Result<T>,
) -> anyhow::Result<(Vec<(String, T)>, usize)> {
    let (mut done, mut refused) = (Vec::new(), 0);
    for (id, vault) in tasks.vaults()? {
        let result = vault
            .map_err(anyhow::Error::from)
            .and_then(|vault| work(&vault));
        match result {
            Ok(value) => done.push((id.to_string(), value)),
            Err(error) => {
                eprintln!("embervault: vault {id}: {}", chain(error.as_ref()));
                refused += 1;
            }
        }
    }
    Ok((done, refused))
}

fn end(refused: usize) -> anyhow::Result<()> {
    match refused {
        0 => Ok(()),
        count => bail!("{count} vaults failed; see above"),
    }
}

/// Reclaims the space of deleted backups in all vaults, or only shows what would be done.
pub(super) fn collect(config: &Config, dry_run: bool, json: bool) -> anyhow::Result<()> {
    let runtime = serve::runtime()?;
    let tasks = app::tasks(config, runtime.handle())?;
    let (collected, refused) = each(&tasks, |vault| {
        if dry_run {
            Ok(collect::plan(vault)?)
        } else {
            Ok(collect::run(vault)?)
        }
    })?;
    if json {
        println!("{}", serde_json::to_string_pretty(&as_json(&collected))?)
    } else {
        print(&collected)
    }
    end(refused)
}

/// Checks that stored backups are complete and undamaged.
pub(super) fn verify(
    config: &Config,
    full: bool,
    sample: Option<u64>,
    json: bool,
) -> anyhow::Result<()> {
    let runtime = serve::runtime()?;
    let tasks = app::tasks(config, runtime.handle())?;
    let (verified, refused) = each(&tasks, |vault| {
        let now = tasks.clock.now();
        let depth = match (full, sample) {
            (true, _) => Depth::Full {
                since: tasks.full_verification_began(vault)?,
            },
            (false, Some(bytes)) => Depth::Sample { bytes },
            (false, None) => Depth::Quick,
        };
        let report = verify::run(vault, depth, now, &Progress::default())?;
        if full {
            tasks.full_verification_ended(vault)?;
        }
        Ok(report)
    })?;
    let is_damaged = verified
        .iter()
        .any(|(_, report)| !report.damaged.is_empty() || !report.backups.is_empty());
    if json {
        let vaults: Vec<Value> = verified
            .iter()
            .map(|(vault, report)| {
                let damaged = report.damaged.iter();
                json!({
                    "vault": vault,
                    "packs": report.packs,
                    "read_packs": report.read_packs,
                    "read_bytes": report.read_bytes,
                    "damaged": damaged.map(|(object, detail)| json!({"object": object, "detail": detail})).collect::<Vec<_>>(),
                    "backups": report.backups,
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&vaults)?);
    } else {
        let rows: Vec<Vec<String>> = verified
            .iter()
            .map(|(vault, report)| {
                vec![
                    vault.clone(),
                    report.packs.to_string(),
                    report.read_packs.to_string(),
                    format!("{:.1}", report.read_bytes as f64 / 1e6),
                    report.damaged.len().to_string(),
                    report.backups.len().to_string(),
                ]
            })
            .collect();
        let header = [
            "vault",
            "packs",
            "read",
            "read MB",
            "damaged",
            "backups damaged",
        ];
        table::print(&header, &rows);
        for (_, report) in &verified {
            report
                .damaged
                .iter()
                .for_each(|(_, detail)| println!("{detail}"));
            report
                .backups
                .iter()
                .for_each(|backup| println!("backup {backup} is damaged"));
        }
    }
    if is_damaged {
        bail!("damage was found; run `embervault vault repair`");
    }
    end(refused)
}

/// Repairs damaged packs.
pub(super) fn repair(config: &Config, json: bool) -> anyhow::Result<()> {
    let runtime = serve::runtime()?;
    let tasks = app::tasks(config, runtime.handle())?;
    let (repaired, refused) = each(&tasks, |vault| {
        let repaired = repair::run(vault, &|volume| tasks.catalog.open_volume(volume))?;
        // Backups that are sound again are no longer called damaged.
        verify::run(vault, Depth::Quick, tasks.clock.now(), &Progress::default())?;
        Ok(repaired)
    })?;
    let packs = || repaired.iter().flat_map(|(_, packs)| packs);
    if json {
        let rows: Vec<Value> = packs()
            .map(|pack| {
                json!({
                    "object": pack.object,
                    "sound": pack.sound,
                    "restored": pack.restored,
                    "lost": pack.lost,
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        let rows: Vec<Vec<String>> = packs()
            .map(|pack| {
                vec![
                    pack.object.clone(),
                    pack.sound.to_string(),
                    pack.restored.to_string(),
                    pack.lost.to_string(),
                ]
            })
            .collect();
        table::print(&["pack", "sound frames", "restored", "lost"], &rows);
    }
    if packs().any(|pack| pack.lost > 0) {
        bail!("some frames could not be restored");
    }
    end(refused)
}

/// Adds all backups that a storage holds and the database does not know.
pub(super) fn rebuild(config: &Config, storage: &str) -> anyhow::Result<()> {
    let runtime = serve::runtime()?;
    let tasks = app::tasks(config, runtime.handle())?;
    let (id, _) = tasks
        .storages
        .iter()
        .find(|(_, open)| open.name == storage)
        .with_context(|| format!("no storage is named {storage:?} in the configuration"))?;
    let started = Instant::now();
    let (mut rows, mut refused) = (Vec::new(), 0);
    for (vault, rebuilt) in tasks.rebuild(id)? {
        match rebuilt {
            Ok(rebuilt) => {
                rows.push(vec![
                    vault.to_string(),
                    rebuilt.packs.to_string(),
                    rebuilt.backups.to_string(),
                    rebuilt.known.to_string(),
                    rebuilt.refused.len().to_string(),
                ]);
                rebuilt
                    .refused
                    .iter()
                    .for_each(|why| eprintln!("embervault: {why}"));
                refused += rebuilt.refused.len();
            }
            Err(error) => {
                eprintln!("embervault: vault {vault}: {}", chain(&error));
                refused += 1;
            }
        }
    }
    table::print(
        &["vault", "packs added", "backups added", "known", "refused"],
        &rows,
    );
    println!("{:.1} s", started.elapsed().as_secs_f64());
    match refused {
        0 => Ok(()),
        count => bail!("{count} objects or vaults in the storage could not be used"),
    }
}

/// Shows the size of each backup.
pub(super) fn usage(config: &Config, json: bool) -> anyhow::Result<()> {
    let runtime = serve::runtime()?;
    let tasks = app::tasks(config, runtime.handle())?;
    let mut usage = Vec::new();
    for (vault, _) in tasks.vaults()? {
        usage.extend(tasks.usage(&vault)?);
    }
    if json {
        let rows: Vec<Value> = usage
            .iter()
            .map(|backup| {
                json!({
                    "backup": backup.id,
                    "project": backup.project_id,
                    "name": backup.name,
                    "logical_bytes": backup.logical_bytes,
                    "new_bytes": backup.stored_bytes,
                    "unique_bytes": backup.unique_bytes,
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    let megabytes = |bytes: i64| format!("{:.1}", bytes as f64 / 1e6);
    let rows: Vec<Vec<String>> = usage
        .iter()
        .map(|backup| {
            vec![
                backup.id.to_string(),
                backup.name.clone().unwrap_or_default(),
                megabytes(backup.logical_bytes),
                megabytes(backup.stored_bytes),
                // For display alone.
                megabytes(i64::try_from(backup.unique_bytes).unwrap_or(i64::MAX)),
            ]
        })
        .collect();
    let header = ["backup", "name", "data MB", "new MB", "freed if deleted MB"];
    table::print(&header, &rows);
    Ok(())
}

/// Destroys the keys of a project.
pub(super) fn shred(config: &Config, project: &str, yes: bool) -> anyhow::Result<()> {
    if !yes {
        bail!(
            "this destroys all backups of project {project} and cannot be undone; confirm with --yes"
        );
    }
    let runtime = serve::runtime()?;
    let shredded = app::keys::shred(config, runtime.handle(), project)?;
    let is_unknown = shredded.vaults.is_empty() && shredded.left.is_empty();
    for (storage, vault) in &shredded.unknown {
        println!("vault {vault} in storage {storage}: the database does not know whose it is");
    }
    for (storage, error) in &shredded.unseen {
        println!(
            "storage {storage}: whether it has more vaults of the project is not known: {}",
            chain(error)
        );
    }
    for backup in &shredded.elsewhere {
        println!(
            "backup {backup} of the project lies in the vault of another project and can still be read"
        );
    }
    for (vault, objects) in shredded.vaults {
        println!("vault {vault}: its key is destroyed, {objects} objects are removed");
    }
    for (vault, error) in &shredded.left {
        println!(
            "vault {vault}: its key is destroyed in the database, but not in its storage, where v/{vault}/vault.json \
             may still hold the wrapped key: {}",
            chain(error)
        );
    }
    let are_erased = !matches!(shredded.old_rows, OldRows::Remain(_));
    report_old_rows(shredded.old_rows);
    println!("Older copies of the database and of the storage still hold the wrapped keys.");
    println!(
        "To make them useless too, run `embervault key rotate` and destroy all earlier master keys (master.previous-… and, if there is one, master.partial)."
    );
    if !shredded.left.is_empty() {
        bail!(
            "{} vaults lie in storages that are not configured or cannot be reached. Configure or repair these storages and run this command again, or delete the folder v/VAULT in them",
            shredded.left.len()
        );
    }
    if !shredded.elsewhere.is_empty() {
        bail!(
            "backups of project {project} lie in vaults of other projects, where an administrator has imported them. \
             Delete them, such as {}; then run this command again",
            shredded.elsewhere[0]
        );
    }
    if let Some((storage, _)) = shredded.unknown.first() {
        bail!(
            "{} vaults in the storages are unknown to the database, and may be the project's. Run `embervault vault \
             rebuild --storage {storage}`, then this command again",
            shredded.unknown.len()
        );
    }
    if let Some((storage, _)) = shredded.unseen.first() {
        bail!(
            "storage {storage} could not be looked at. Repair it, or remove it from the configuration, and run this command again"
        );
    }
    if is_unknown {
        bail!(
            "project {project} has no vault. Give its id, not its name. If it was shredded earlier, only the steps printed above remain"
        );
    }
    if !are_erased {
        bail!("the keys could not be erased from the database's files; run this command again");
    }
    Ok(())
}

/// Reports where keys as they were wrapped before may still be read, and what to do about it.
fn report_old_rows(old_rows: OldRows) {
    match old_rows {
        OldRows::Erased => {}
        OldRows::InLog => println!(
            "SQLite's log, the file beside the database that ends in -wal, still holds the keys as they were \
             wrapped before. It is removed when the last process of Embervault ends."
        ),
        OldRows::OnServer => println!(
            "PostgreSQL's write-ahead log, its archive, replicas and base backups still hold the keys as they \
             were wrapped before, until you remove those."
        ),
        OldRows::Remain(reason) => println!(
            "The database itself still holds the keys as they were wrapped before: they could not be erased \
             ({reason}). Everything else succeeded. When nothing else uses the table, run VACUUM in SQLite, or VACUUM \
             FULL vaults in PostgreSQL."
        ),
    }
}

/// Changes the master key.
pub(super) fn rotate(config: &Config) -> anyhow::Result<()> {
    let runtime = serve::runtime()?;
    let rotated = app::keys::rotate(config, runtime.handle())?;
    println!(
        "{} vaults are wrapped with the new master key, {}",
        rotated.vaults,
        config.master_key_file().display()
    );
    println!(
        "The old one is {}; older copies of the database need it.",
        rotated.kept.display()
    );
    report_old_rows(rotated.old_rows);
    Ok(())
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
            "compacted": {
                "packs": plan.compacted.len(),
                "dead_bytes": plan.compacted.iter().map(|sparse| sparse.dead_bytes).sum::<u64>(),
            },
            "leftovers": plan.leftovers,
            "unknown": plan.unknown,
            "blocked_by": plan.blocked_by,
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
                compacted(plan),
                plan.leftovers.len().to_string(),
                plan.unknown.len().to_string(),
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
        "compacted (unused)",
        "leftovers",
        "unknown",
    ];
    table::print(&header, &rows);
    for (vault, plan) in collected {
        if let Some(why) = &plan.blocked_by {
            println!("vault {vault}: nothing was compacted: {why}");
        }
    }
}

fn compacted(plan: &Plan) -> String {
    let dead: u64 = plan.compacted.iter().map(|sparse| sparse.dead_bytes).sum();
    format!("{} ({:.1} MB)", plan.compacted.len(), dead as f64 / 1e6)
}
