//! The whole service in a process of its own that has run for a while: of two volumes at once a full backup, a
//! scattered incremental and its restore, and all of it again. The figures are the service's own.

use super::Measured;
use crate::cli::bench::measure::{StepArguments, Usage, source};
use crate::cli::client::Client;
use crate::cli::compare;
use crate::config::ENVIRONMENT_PREFIX;
use crate::model::volume::GIB;
use crate::volume::generated::{Generated, Variant};
use crate::volume::{VolumeReader, VolumeWriter};
use anyhow::{Context, bail};
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use uuid::Uuid;

const ROUNDS: u64 = 2;
const COPY_BYTES: u64 = 1 << 20;
const USER: &str = "bench";

/// Runs it and measures the service.
pub(super) fn run(arguments: &StepArguments) -> anyhow::Result<Measured> {
    // Two volumes, which together are as large as the one of the other cases.
    let (size, data) = (arguments.size / 2, arguments.data / 2);
    let sources = [Variant::Base, Variant::Reordered]
        .into_iter()
        .map(|variant| source(arguments.input.as_deref(), (size, data), variant, 0))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let (service, client) = Service::start(&arguments.dir.join("service"))?;
    let length = sources[0].0.length();
    let mut volumes = Vec::new();
    for (reader, _) in &sources {
        let id = client.create_volume(&json!({ "size": length.div_ceil(GIB).max(1) }))?;
        client.with_volume(&id, |path| {
            copy(reader, path, std::iter::once(0..reader.length()))
        })?;
        volumes.push(id);
    }
    let mut wall_s = 0.0;
    for round in 1..=ROUNDS {
        let started = Instant::now();
        back_up(&client, &volumes, false)?;
        wall_s += started.elapsed().as_secs_f64();
        for (volume, (_, generated)) in volumes.iter().zip(&sources) {
            client.with_volume(volume, |path| change(generated, round, path))?;
        }
        let started = Instant::now();
        let backups = back_up(&client, &volumes, true)?;
        let restored = restore(&client, &backups)?;
        wall_s += started.elapsed().as_secs_f64();
        for (volume, restored) in volumes.iter().zip(&restored) {
            client.with_volume(volume, |expected| {
                client.with_volume(restored, |found| compare::compare(expected, found, |_| {}))
            })?;
            client.delete(&format!("/volumes/{restored}"))?;
        }
    }
    let data = match &arguments.input {
        Some(_) => length,
        None => data,
    };
    let usage = Usage::of(service.0.id())?;
    Ok(Measured {
        case: "service".to_owned(),
        wall_s,
        data_bytes: ROUNDS * 3 * 2 * data,
        ..usage.measured()
    })
}

/// `embervault serve`, until it is dropped.
struct Service(Child);

impl Service {
    fn start(dir: &Path) -> anyhow::Result<(Self, Client)> {
        std::fs::create_dir(dir)?;
        let (password, config) = (Uuid::new_v4().to_string(), dir.join("embervault.toml"));
        let settings = format!(
            "[log]\nfilter = \"error\"\n[jobs]\nreserve = false\n[[identity.users]]\nname = \"{USER}\"\nproject = \"{USER}\"\n\
             role = \"member\"\npassword = \"{password}\"\n"
        );
        std::fs::write(&config, settings)?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(&config)
            .arg("--data-dir")
            .arg(dir.join("data"))
            .stdout(Stdio::piped());
        // It works in its own directory, whatever the variables say of others.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            let is_engines = ["ENGINE__", "JOBS__"].iter().any(|section| {
                name.strip_prefix(ENVIRONMENT_PREFIX)
                    .is_some_and(|rest| rest.starts_with(section))
            });
            if name.starts_with(ENVIRONMENT_PREFIX) && !is_engines {
                command.env_remove(&*name);
            }
        }
        let mut service = Self(command.spawn().context("the service was not started")?);
        let output = service.0.stdout.take().context("it has no output")?;
        let mut greeting = String::new();
        BufReader::new(output).read_line(&mut greeting)?;
        let Some((_, base)) = greeting.trim().rsplit_once(' ') else {
            bail!("the service did not start");
        };
        let client = Client::log_in(base, USER, &password, USER)?;
        Ok((service, client))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Both at once.
fn back_up(
    client: &Client,
    volumes: &[String],
    is_incremental: bool,
) -> anyhow::Result<Vec<String>> {
    let mut backups = Vec::new();
    for volume in volumes {
        let body = json!({ "backup": { "volume_id": volume, "incremental": is_incremental } });
        backups.push(client.id_of("/backups", &body, "/backup/id")?);
    }
    for backup in &backups {
        client.wait_available("backups", "backup", backup, || {})?;
    }
    Ok(backups)
}

/// Both at once, to new volumes.
fn restore(client: &Client, backups: &[String]) -> anyhow::Result<Vec<String>> {
    let mut volumes = Vec::new();
    for backup in backups {
        let path = format!("/backups/{backup}/restore");
        volumes.push(client.id_of(&path, &json!({ "restore": {} }), "/restore/volume_id")?);
    }
    for (volume, backup) in volumes.iter().zip(backups) {
        client.wait_available("volumes", "volume", volume, || {})?;
        client.wait_available("backups", "backup", backup, || {})?;
    }
    Ok(volumes)
}

/// Changes one block in a hundred at random places.
fn change(generated: &Generated, round: u64, path: &Path) -> anyhow::Result<()> {
    let changed = generated.variant(Variant::Scattered, round);
    let ranges = changed.changed(0..VolumeReader::Generated(changed.clone()).length());
    copy(&VolumeReader::Generated(changed), path, ranges.into_iter())
}

/// Writes the data in these ranges to the same place of a file.
fn copy(
    reader: &VolumeReader,
    path: &Path,
    ranges: impl Iterator<Item = Range<u64>>,
) -> anyhow::Result<()> {
    let writer = VolumeWriter::open(path)?;
    let mut piece = Vec::new();
    for range in ranges {
        let mut at = range.start;
        while let Some(data) = reader.next_data(at..range.end)? {
            let length = (data.end - data.start).min(COPY_BYTES);
            piece.resize(length as usize, 0);
            reader.read_at(&mut piece, data.start)?;
            writer.write_at(&piece, data.start)?;
            at = data.start + length;
        }
    }
    Ok(writer.sync()?)
}
