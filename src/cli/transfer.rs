//! `embervault volume import` and `export`: raw images in and out of standalone volumes, on the
//! machine that holds them, whether the service runs or not.

use crate::cli::demo::bar;
use crate::clock::Clock;
use crate::config::Config;
use crate::db::Db;
use crate::model::id::VolumeId;
use crate::model::volume::AttachMode;
use crate::volume::VolumeReader;
use crate::volume::catalog::Catalog;
use crate::volume::file::VolumeWriter;
use anyhow::{Context, bail};
use indicatif::ProgressBar;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

const PIECE_BYTES: usize = 1 << 20;
/// Zeros of this length become holes.
const HOLE_BYTES: usize = 4096;

/// Writes a raw image to a volume.
pub(super) fn import(config: &Config, volume: &str, file: &Path) -> anyhow::Result<()> {
    let mut input: Box<dyn Read> = match is_pipe(file) {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(File::open(file).with_context(|| file.display().to_string())?),
    };
    with_volume(config, volume, AttachMode::ReadWrite, |path| {
        let writer = VolumeWriter::open(path)?;
        if let Ok(metadata) = std::fs::metadata(file)
            && metadata.len() > writer.length()
        {
            bail!(too_large(&writer));
        }
        let bar = bar("import", writer.length());
        let written = copy_in(&mut input, &writer, &bar)?;
        writer.zero(written..writer.length())?;
        writer.sync()?;
        bar.finish_and_clear();
        eprintln!("{written} bytes were imported to volume {volume}");
        Ok(())
    })
}

fn too_large(writer: &VolumeWriter) -> String {
    format!(
        "the image is larger than the volume, which has {} bytes",
        writer.length()
    )
}

fn copy_in(input: &mut dyn Read, writer: &VolumeWriter, bar: &ProgressBar) -> anyhow::Result<u64> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    loop {
        let count = read_full(input, &mut piece)?;
        if count == 0 {
            return Ok(at);
        }
        if at + count as u64 > writer.length() {
            bail!(
                "the image is larger than the volume, which has {} bytes",
                writer.length()
            );
        }
        for block in piece[..count].chunks(HOLE_BYTES) {
            match block.iter().all(|byte| *byte == 0) {
                true => writer.zero(at..at + block.len() as u64)?,
                false => writer.write_at(block, at)?,
            }
            at += block.len() as u64;
        }
        bar.set_position(at);
    }
}

fn read_full(input: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads a volume into a raw image.
pub(super) fn export(config: &Config, volume: &str, file: &Path) -> anyhow::Result<()> {
    with_volume(config, volume, AttachMode::ReadOnly, |path| {
        let reader = VolumeReader::open(path)?;
        let bar = bar("export", reader.length());
        if is_pipe(file) {
            copy_out(&reader, &mut std::io::stdout().lock(), None, &bar)?;
        } else {
            let mut output = File::create(file).with_context(|| file.display().to_string())?;
            let holes = output.try_clone()?;
            copy_out(&reader, &mut output, Some(holes), &bar)?;
            output.set_len(reader.length())?;
            output.sync_all()?;
        }
        bar.finish_and_clear();
        eprintln!(
            "{} bytes were exported from volume {volume}",
            reader.length()
        );
        Ok(())
    })
}

/// Copies everything; into a file, blocks of zeros are passed over.
fn copy_out(
    reader: &VolumeReader,
    output: &mut dyn Write,
    mut holes: Option<File>,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    while at < reader.length() {
        let count = (reader.length() - at).min(PIECE_BYTES as u64) as usize;
        reader.read_at(&mut piece[..count], at)?;
        match holes
            .as_mut()
            .filter(|_| piece[..count].iter().all(|byte| *byte == 0))
        {
            Some(file) => {
                file.seek(SeekFrom::Current(count as i64))?;
            }
            None => output.write_all(&piece[..count])?,
        }
        at += count as u64;
        bar.set_position(at);
    }
    Ok(output.flush()?)
}

fn is_pipe(file: &Path) -> bool {
    file == Path::new("-")
}

/// Holds a volume while its bytes are moved; it is given back whatever happens.
fn with_volume(
    config: &Config,
    volume: &str,
    mode: AttachMode,
    work: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let url = config.database_url();
    if let Some(path) = url.strip_prefix("sqlite:")
        && !Path::new(path).exists()
    {
        bail!("there is no database at {path}; name the service's --data-dir or --config");
    }
    let catalog = Catalog::open(Db::open(&url)?, Clock::System, config)?;
    let transfer = catalog
        .begin_transfer(&VolumeId::new(volume), mode)
        .with_context(|| format!("volume {volume}"))?;
    let result = work(transfer.path());
    transfer.end()?;
    result
}
