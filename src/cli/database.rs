//! `embervault db`: what operators ask of the database itself.

use crate::cli::table;
use crate::clock::Clock;
use crate::config::Config;
use crate::db::Db;
use crate::model::version::VERSION;
use anyhow::bail;
use serde_json::json;
use std::path::Path;

/// Refuses a database that is not there, where a command must not create one.
pub(super) fn must_exist(config: &Config) -> anyhow::Result<()> {
    let url = config.database_url();
    if let Some(path) = url.strip_prefix("sqlite:")
        && !Path::new(path).exists()
    {
        bail!("there is no database at {path}; name the service's --data-dir or --config");
    }
    Ok(())
}

/// Shows the versions of the tables, of this program, and of the processes that use the database.
pub(super) fn status(config: &Config, json: bool) -> anyhow::Result<()> {
    must_exist(config)?;
    let (schema, processes) = Db::look(&config.database_url())?;
    let now = Clock::System.now();
    let none = "none".to_owned();
    let newest = |names: &[String]| names.last().unwrap_or(&none).clone();
    if json {
        let rows = processes.iter().map(|row| {
            json!({
                "role": row.role,
                "host": row.host,
                "version": row.version,
                "up": row.is_up(now),
                "started_at": row.started_at.zulu(),
                "seen_at": row.seen_at.zulu(),
            })
        });
        let status = json!({
            "program": VERSION,
            "database_version": schema.applied.last(),
            "database_program": schema.program,
            "program_version": schema.known.last(),
            "pending": schema.pending(),
            "unknown": schema.unknown(),
            "processes": rows.collect::<Vec<_>>(),
        });
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        let made_by = schema
            .program
            .as_ref()
            .map(|version| format!(" (made by embervault {version})"));
        println!(
            "this program      embervault {VERSION}, for tables of version {}",
            newest(&schema.known)
        );
        println!(
            "the database      version {}{}",
            newest(&schema.applied),
            made_by.unwrap_or_default()
        );
        println!("to be applied     {}", listed(&schema.pending()));
        println!("not known here    {}", listed(&schema.unknown()));
        println!();
        let rows: Vec<Vec<String>> = processes
            .iter()
            .map(|row| {
                vec![
                    row.role.clone(),
                    row.host.clone(),
                    row.version.clone(),
                    (if row.is_up(now) { "up" } else { "down" }).to_owned(),
                    row.seen_at.zoned(),
                ]
            })
            .collect();
        table::print(&["process", "host", "version", "state", "last seen"], &rows);
        let is_mixed = processes
            .iter()
            .any(|row| row.is_up(now) && row.version != VERSION);
        if is_mixed {
            println!("Some processes have another version than this program.");
        }
    }
    if schema.unknown().is_empty() {
        Ok(())
    } else {
        bail!(
            "the database is newer than this program, embervault {VERSION}, which must not use it"
        )
    }
}

fn listed(migrations: &[&str]) -> String {
    if migrations.is_empty() {
        "nothing".to_owned()
    } else {
        migrations.join(", ")
    }
}

/// Brings the tables to the version of this program.
pub(super) fn migrate(config: &Config) -> anyhow::Result<()> {
    let url = config.database_url();
    let before = match must_exist(config) {
        Ok(()) => Db::look(&url)?.0.applied,
        Err(_) => Vec::new(),
    };
    if let Some(folder) = url
        .strip_prefix("sqlite:")
        .and_then(|path| Path::new(path).parent())
    {
        std::fs::create_dir_all(folder)?;
    }
    drop(Db::open(&url)?);
    let after = Db::look(&url)?.0.applied;
    for name in after.iter().filter(|name| !before.contains(name)) {
        println!("applied {name}");
    }
    println!(
        "The database has version {}.",
        after.last().map_or("none", String::as_str)
    );
    Ok(())
}

/// Copies the database to a file, while the service may run.
pub(super) fn backup(config: &Config, file: &Path, force: bool) -> anyhow::Result<()> {
    must_exist(config)?;
    if file.symlink_metadata().is_ok() && !force {
        bail!(
            "{} exists; name another file, or replace it with --force",
            file.display()
        );
    }
    match Db::copy(&config.database_url(), file, force)? {
        Some(length) => {
            println!("{length} bytes were copied to {}", file.display());
            println!(
                "It holds wrapped keys and password hashes. Keep it from others, and the master key elsewhere."
            );
            Ok(())
        }
        None => bail!(
            "the database is PostgreSQL, which makes its own copies: run `pg_dump --format=custom --file={} URL` with the URL in database.url",
            file.display()
        ),
    }
}
