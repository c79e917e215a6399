//! `embervault demo`: the whole way on real data, through the HTTP API, every byte compared.

use crate::app::{self, Running, logging};
use crate::cli::client::Client;
use crate::cli::table::{self, mebibytes};
use crate::cli::{compare, image, serve};
use crate::config::{Api, Config, ConfiguredUser, DataDir, Log, Variables};
use crate::db::{self, Db};
use crate::model::backup::Backup;
use crate::model::id::BackupId;
use crate::model::volume::GIB;
use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

const COPY_BYTES: usize = 1 << 20;

/// One step of the table.
struct Row {
    what: &'static str,
    time: Duration,
    /// Bytes of the volume.
    volume_bytes: u64,
    /// The counts of the engine, for backups.
    backup: Option<Backup>,
}

struct Demo {
    client: Client,
    db: Db,
    size_gib: u64,
    rows: Vec<Row>,
}

/// Runs the demonstration.
pub(super) fn run(size_gib: u32, input: Option<&Path>) -> anyhow::Result<()> {
    let log = Log {
        filter: "error".to_owned(),
        ..Log::default()
    };
    let _logs = logging::start(&log).map_err(anyhow::Error::msg)?;
    let size_gib = match input {
        None => u64::from(size_gib),
        Some(path) => {
            let length = std::fs::metadata(path)
                .with_context(|| path.display().to_string())?
                .len();
            length.div_ceil(GIB).max(1)
        }
    };
    let dir = tempfile::Builder::new()
        .prefix("embervault-demo-")
        .tempdir()?;
    let config = own_config(
        Config::load(None, Variables::of_process()?.settings.into_iter())?,
        dir.path(),
    );
    let runtime = serve::runtime()?;
    let running = runtime.block_on(app::start(config, app::Role::Serve))?;
    let address = running.address.context("the API does not listen")?;
    println!(
        "Embervault runs on http://{} in {}",
        address,
        dir.path().display()
    );
    let result = runtime.block_on(until_interrupted(&running, size_gib, input));
    runtime.block_on(running.stop());
    // An interrupted demonstration is not waited for; its directory goes all the same.
    runtime.shutdown_background();
    result
}

/// The demonstration works in its own directory, whatever the settings say of databases, users, storages and volumes:
/// of them it takes only how the engine and the jobs work.
fn own_config(loaded: Config, dir: &Path) -> Config {
    Config {
        data_dir: DataDir(dir.to_owned()),
        api: Api {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            ..Api::default()
        },
        engine: loaded.engine,
        jobs: loaded.jobs,
        ..Config::default()
    }
}

/// Runs beside the service, which shares this runtime, until it is done or the user stops it.
async fn until_interrupted(
    running: &Running,
    size_gib: u64,
    input: Option<&Path>,
) -> anyhow::Result<()> {
    let user = running.users.first().context("there is no user")?.clone();
    let address = running.address.context("the API does not listen")?;
    let base = format!("http://{address}");
    let (db, input) = (running.db.clone(), input.map(Path::to_owned));
    let mut terminate = signal(SignalKind::terminate())?;
    let work = tokio::task::spawn_blocking(move || {
        demonstrate(&base, &user, db, size_gib, input.as_deref())
    });
    tokio::select! {
        result = work => result.context("the demonstration panicked")?,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminate.recv() => bail!("interrupted"),
    }
}

fn demonstrate(
    base: &str,
    user: &ConfiguredUser,
    db: Db,
    size_gib: u64,
    input: Option<&Path>,
) -> anyhow::Result<()> {
    let mut demo = Demo {
        client: Client::log_in(base, &user.name, user.password.expose(), &user.project)?,
        db,
        size_gib,
        rows: Vec::new(),
    };
    let volume = json!({ "name": "source", "size": size_gib });
    let source = demo.client.create_volume(&volume)?;
    demo.client
        .with_volume(&source, |path| fill(path, size_gib * GIB, input))?;
    // A copy of it as it is now, to compare with later.
    let copy = json!({ "name": "original", "source_volid": source });
    let original = demo.client.create_volume(&copy)?;
    let full = demo.back_up("full backup", &source, false)?;
    demo.client.with_volume(&source, |path| {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(image::change(&file, size_gib * GIB)?)
    })?;
    let incremental = demo.back_up("incremental backup", &source, true)?;
    demo.restore_and_compare("restore of the full", &full, &original)?;
    demo.restore_and_compare("restore of the incremental", &incremental, &source)?;
    demo.client.delete(&format!("/backups/{full}"))?;
    demo.client.wait_gone(&format!("/backups/{full}"))?;
    println!("The full backup is deleted.");
    demo.restore_and_compare("the same without the full", &incremental, &source)?;
    demo.print();
    Ok(())
}

impl Demo {
    fn back_up(
        &mut self,
        what: &'static str,
        volume: &str,
        incremental: bool,
    ) -> anyhow::Result<String> {
        let body =
            json!({ "backup": { "volume_id": volume, "name": what, "incremental": incremental } });
        let started = Instant::now();
        let id = self.client.id_of("/backups", &body, "/backup/id")?;
        let spinner = spinner(what);
        self.client
            .wait_available("backups", "backup", &id, || spinner.tick())?;
        let time = started.elapsed();
        done(&spinner, what, time);
        let backup = self
            .db
            .read(|c| db::backups::find(c, &BackupId::new(&id)))?;
        self.rows.push(Row {
            what,
            time,
            volume_bytes: self.size_gib * GIB,
            backup,
        });
        Ok(id)
    }

    fn restore_and_compare(
        &mut self,
        what: &'static str,
        backup: &str,
        expected: &str,
    ) -> anyhow::Result<()> {
        let body = json!({ "restore": { "name": what } });
        let started = Instant::now();
        let path = format!("/backups/{backup}/restore");
        let volume = self.client.id_of(&path, &body, "/restore/volume_id")?;
        let spinner = spinner(what);
        self.client
            .wait_available("volumes", "volume", &volume, || spinner.tick())?;
        self.client
            .wait_available("backups", "backup", backup, || spinner.tick())?;
        let time = started.elapsed();
        done(&spinner, what, time);
        self.rows.push(Row {
            what,
            time,
            volume_bytes: self.size_gib * GIB,
            backup: None,
        });
        self.client.with_volume(expected, |expected| {
            self.client.with_volume(&volume, |restored| {
                let bar = bar("compare every byte", self.size_gib * GIB);
                compare::compare(expected, restored, |at| bar.set_position(at))
                    .with_context(|| format!("{what}: WRONG"))?;
                bar.finish_and_clear();
                println!("  every byte is right");
                Ok(())
            })
        })?;
        self.client.delete(&format!("/volumes/{volume}"))?;
        Ok(())
    }

    fn print(&self) {
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| {
                let count = |bytes: fn(&Backup) -> i64| {
                    row.backup
                        .as_ref()
                        .map_or("-".to_owned(), |backup| mebibytes(bytes(backup)))
                };
                let seconds = row.time.as_secs_f64();
                vec![
                    row.what.to_owned(),
                    count(|backup| backup.logical_bytes),
                    count(|backup| backup.read_bytes),
                    count(|backup| backup.stored_bytes),
                    count(|backup| backup.deduplicated_bytes),
                    format!("{seconds:.2} s"),
                    format!("{:.0} MB/s", row.volume_bytes as f64 / 1e6 / seconds),
                ]
            })
            .collect();
        println!();
        let header = [
            "",
            "logical",
            "read",
            "stored",
            "deduplicated",
            "time",
            "volume/time",
        ];
        table::print(&header, &rows);
    }
}

fn fill(path: &Path, length: u64, input: Option<&Path>) -> anyhow::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let bar = bar("fill the volume", length);
    match input {
        None => image::fill(&file, length, |at| bar.set_position(at))?,
        Some(input) => copy(input, &file, &bar)?,
    }
    file.sync_all()?;
    bar.finish_and_clear();
    println!("The volume is filled.");
    Ok(())
}

/// Copies an image, leaving blocks of zeros out.
fn copy(input: &Path, file: &File, bar: &ProgressBar) -> anyhow::Result<()> {
    let source = File::open(input).with_context(|| input.display().to_string())?;
    let length = source.metadata()?.len();
    let mut piece = vec![0; COPY_BYTES];
    let mut at = 0;
    while at < length {
        let count = (length - at).min(COPY_BYTES as u64) as usize;
        source.read_exact_at(&mut piece[..count], at)?;
        for (index, block) in piece[..count].chunks(4096).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                file.write_all_at(block, at + index as u64 * 4096)?;
            }
        }
        at += count as u64;
        bar.set_position(at);
    }
    Ok(())
}

fn spinner(what: &'static str) -> ProgressBar {
    ProgressBar::new_spinner().with_message(what)
}

fn done(spinner: &ProgressBar, what: &str, time: Duration) {
    spinner.finish_and_clear();
    println!("{what}: {:.2} s", time.as_secs_f64());
}

/// A bar over bytes; silent where there is no terminal.
pub(super) fn bar(what: &'static str, length: u64) -> ProgressBar {
    let template = "{msg} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    ProgressBar::new(length)
        .with_style(style)
        .with_message(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demonstration_touches_nothing_that_the_variables_name() {
        let variables = [
            (
                "DATABASE__URL",
                "postgresql://embervault@db.example.com/embervault",
            ),
            ("STORAGE__OFFSITE__URL", "fs:/srv/storage"),
            ("VOLUMES__DIR", "/srv/volumes"),
            ("METRICS__LISTEN", "127.0.0.1:9477"),
            ("QUOTA__VOLUMES", "0"),
            ("ENGINE__MEMORY", "512 MiB"),
            ("JOBS__BACKUPS", "3"),
        ];
        let variables = variables
            .iter()
            .map(|(name, value)| (format!("EMBERVAULT_{name}"), (*value).to_owned()));
        let loaded = Config::load(None, variables).unwrap();
        let (dir, defaults) = (Path::new("/tmp/demo"), Config::default());
        let config = own_config(loaded, dir);
        let within = Config {
            data_dir: DataDir(dir.to_owned()),
            ..Config::default()
        };
        assert_eq!(config.database_url(), within.database_url());
        assert!(config.storage.is_empty() && config.identity.users.is_empty());
        assert_eq!((config.volumes.dir, config.metrics.listen), (None, None));
        assert_eq!(config.quota.volumes, defaults.quota.volumes);
        assert_eq!(config.api.listen.port(), 0);
        assert_eq!(config.engine.memory, bytesize::ByteSize::mib(512));
        assert_eq!(config.jobs.backups, 3);
    }
}
