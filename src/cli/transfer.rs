//! `embervault volume import` and `export`: raw images in and out of standalone volumes, on the
//! machine that holds them, whether the service runs or not.

use crate::cli::demo::bar;
use crate::cli::{database, format};
use crate::clock::Clock;
use crate::config::Config;
use crate::db::Db;
use crate::model::id::VolumeId;
use crate::model::volume::AttachMode;
use crate::volume::catalog::Catalog;
use crate::volume::{VolumeReader, VolumeWriter};
use anyhow::{Context, bail};
use indicatif::ProgressBar;
use std::fs::{File, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};

const PIECE_BYTES: usize = 1 << 20;
/// Zeros of this length become holes.
const HOLE_BYTES: usize = 4096;

/// Writes a raw image to a volume: from a file, a block device, or a pipe.
pub(super) fn import(
    config: &Config,
    volume: &str,
    file: &Path,
    as_raw: bool,
) -> anyhow::Result<()> {
    let mut input = if is_pipe(file) {
        File::from(std::io::stdin().as_fd().try_clone_to_owned()?)
    } else {
        File::open(file).with_context(|| file.display().to_string())?
    };
    let written = with_volume(config, volume, AttachMode::ReadWrite, |path| {
        refuse_itself(&input, path)?;
        let head = read_head(&mut input)?;
        if !as_raw {
            let footer = footer(&input)?;
            if let Some(format) = format::of(&head, footer.as_deref()) {
                let advice = format.advice(file, volume);
                bail!(
                    "{}: {advice}. If it is meant to be written as it is, use --as-raw",
                    file.display()
                );
            }
        }
        let writer = VolumeWriter::open(path)?;
        // Before the volume is touched, if the length is known: that of a pipe is not.
        if let Some(length) = length_left(&mut input)?.map(|left| left + head.len() as u64)
            && length > writer.length()
        {
            bail!(
                "the image is larger than the volume: {length} bytes, and the volume has {}; nothing was changed",
                writer.length()
            );
        }
        let bar = bar("import", writer.length());
        let mut image = head.chain(&mut input);
        let written = copy_in(&mut image, &writer, &bar)?;
        writer.zero(written..writer.length())?;
        writer.sync()?;
        bar.finish_and_clear();
        Ok(written)
    })?;
    say(&format!("{written} bytes were imported to volume {volume}"));
    Ok(())
}

/// The first bytes of the image. A pipe gives them only once.
fn read_head(input: &mut File) -> std::io::Result<Vec<u8>> {
    let mut head = vec![0; format::HEAD_BYTES];
    let count = read_full(input, &mut head)?;
    head.truncate(count);
    Ok(head)
}

/// The last sector of a file or block device.
fn footer(input: &File) -> anyhow::Result<Option<Vec<u8>>> {
    let mut file = input.try_clone()?;
    let Some(left) = length_left(&mut file)? else {
        return Ok(None);
    };
    let end = file.stream_position()? + left;
    let Some(at) = end.checked_sub(format::FOOTER_BYTES as u64) else {
        return Ok(None);
    };
    let mut footer = vec![0; format::FOOTER_BYTES];
    input.read_exact_at(&mut footer, at)?;
    Ok(Some(footer))
}

/// Bytes from here to the end of a file or block device; `None` for what has no end that could be known.
fn length_left(input: &mut File) -> anyhow::Result<Option<u64>> {
    let kind = input.metadata()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Ok(None);
    }
    let at = input.stream_position()?;
    let end = input.seek(SeekFrom::End(0))?;
    input.seek(SeekFrom::Start(at))?;
    Ok(Some(end.saturating_sub(at)))
}

/// Refuses the volume's own file, under any name, as source or target.
fn refuse_itself(other: &File, volume: &Path) -> anyhow::Result<()> {
    let (other, volume) = (other.metadata()?, std::fs::metadata(volume)?);
    if (other.dev(), other.ino()) == (volume.dev(), volume.ino()) {
        bail!("the file is the volume's own file")
    } else {
        Ok(())
    }
}

/// Prints a line for the user. That it cannot be printed is no reason to fail.
fn say(line: &str) {
    writeln!(std::io::stderr(), "{line}").ok();
}

fn copy_in(input: &mut dyn Read, writer: &VolumeWriter, bar: &ProgressBar) -> anyhow::Result<u64> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    loop {
        check_interrupted()?;
        let count = read_full(input, &mut piece)?;
        if count == 0 {
            return Ok(at);
        }
        if at + count as u64 > writer.length() {
            bail!(
                "the image is larger than the volume; all {} bytes of the volume were overwritten",
                writer.length()
            );
        }
        for block in piece[..count].chunks(HOLE_BYTES) {
            put(writer, block, at)?;
            at += block.len() as u64;
        }
        bar.set_position(at);
    }
}

/// Writes a block; zeros as a hole, where the target can have one, whatever was there before.
fn put(writer: &VolumeWriter, block: &[u8], at: u64) -> anyhow::Result<()> {
    if block.iter().all(|byte| *byte == 0) {
        writer.zero(at..at + block.len() as u64)?;
    } else {
        writer.write_at(block, at)?;
    }
    Ok(())
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

/// Reads a volume into a raw image: a file, a block device, or a pipe.
pub(super) fn export(
    config: &Config,
    volume: &str,
    file: &Path,
    force: bool,
) -> anyhow::Result<()> {
    if !force && holds_data(file) {
        bail!(
            "{}: it exists and is not empty; name another file, or overwrite it with --force",
            file.display()
        );
    }
    let bytes = with_volume(config, volume, AttachMode::ReadOnly, |path| {
        let reader = VolumeReader::open(path)?;
        let bar = bar("export", reader.length());
        if is_pipe(file) {
            stream_out(&reader, &mut std::io::stdout().lock(), &bar)?;
        } else {
            export_to(&reader, path, file, &bar).with_context(|| file.display().to_string())?;
        }
        bar.finish_and_clear();
        Ok(reader.length())
    })?;
    say(&format!("{bytes} bytes were exported from volume {volume}"));
    Ok(())
}

/// Whether an export would overwrite something: a file with content, or a block device.
fn holds_data(file: &Path) -> bool {
    !is_pipe(file)
        && std::fs::metadata(file).is_ok_and(|found| {
            let kind = found.file_type();
            kind.is_block_device() || (kind.is_file() && found.len() > 0)
        })
}

fn export_to(
    reader: &VolumeReader,
    volume: &Path,
    file: &Path,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let Ok(kind) = std::fs::metadata(file).map(|found| found.file_type()) else {
        return export_to_new(reader, file, None, bar);
    };
    let mut output = File::options().write(true).open(file)?;
    refuse_itself(&output, volume)?;
    if kind.is_file() {
        let permissions = output.metadata()?.permissions();
        return export_to_new(reader, &file.canonicalize()?, Some(permissions), bar);
    }
    if !kind.is_block_device() {
        return stream_out(reader, &mut output, bar);
    }
    let writer = VolumeWriter::open(file)?;
    if writer.length() < reader.length() {
        bail!(
            "it has {} bytes, and the volume {}; nothing was written",
            writer.length(),
            reader.length()
        );
    }
    each_piece(reader, bar, |piece, at| put(&writer, piece, at))?;
    Ok(writer.sync()?)
}

/// Writes a file beside it, which takes its name once it is whole. So what has the name is never half an image, and
/// what had it before is there until then.
fn export_to_new(
    reader: &VolumeReader,
    file: &Path,
    permissions: Option<Permissions>,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let mut name = file.file_name().context("it is no file")?.to_owned();
    name.push(".part");
    let part = file.with_file_name(name);
    let write = || {
        // What an export left that was killed.
        std::fs::remove_file(&part).ok();
        let output = File::create_new(&part)?;
        output.set_len(reader.length())?;
        let writer = VolumeWriter::open(&part)?;
        each_piece(reader, bar, |piece, at| put(&writer, piece, at))?;
        writer.sync()?;
        if let Some(permissions) = permissions {
            output.set_permissions(permissions)?;
        }
        std::fs::rename(&part, file)?;
        let folder = file.parent().filter(|folder| *folder != Path::new(""));
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        anyhow::Ok(())
    };
    write().inspect_err(|_| {
        std::fs::remove_file(&part).ok();
    })
}

fn stream_out(
    reader: &VolumeReader,
    output: &mut dyn Write,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    each_piece(reader, bar, |piece, _| Ok(output.write_all(piece)?))?;
    Ok(output.flush()?)
}

fn each_piece(
    reader: &VolumeReader,
    bar: &ProgressBar,
    mut take: impl FnMut(&[u8], u64) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    while at < reader.length() {
        check_interrupted()?;
        let count = (reader.length() - at).min(PIECE_BYTES as u64) as usize;
        reader.read_at(&mut piece[..count], at)?;
        take(&piece[..count], at)?;
        at += count as u64;
        bar.set_position(at);
    }
    Ok(())
}

/// Whether it stands for standard input or output. Opened by its name, a file behind it would be cut off and written
/// from its beginning.
fn is_pipe(file: &Path) -> bool {
    ["-", "/dev/stdin", "/dev/stdout", "/dev/fd/0", "/dev/fd/1"]
        .iter()
        .any(|name| file == Path::new(name))
}

/// Whether the user has interrupted the transfer.
static IS_INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on the first Ctrl-C, SIGTERM or SIGHUP ends the transfer at its next piece, and the volume is released.
/// The second one ends the program, as reading a pipe may wait for ever. Then the next transfer of the volume takes
/// the hold over.
fn end_when_interrupted() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("signals cannot be received")?;
    let listen = async {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        kinds
            .map(signal)
            .into_iter()
            .collect::<std::io::Result<Vec<_>>>()
    };
    let mut signals = runtime.block_on(listen)?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                let received = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
                futures_util::future::select_all(received).await;
                if IS_INTERRUPTED.swap(true, Ordering::SeqCst) {
                    std::process::exit(130);
                }
            }
        })
    });
    Ok(())
}

/// Whether a command has ended because its user interrupted it.
pub(super) fn was_interrupted() -> bool {
    IS_INTERRUPTED.load(Ordering::SeqCst)
}

fn check_interrupted() -> anyhow::Result<()> {
    if IS_INTERRUPTED.load(Ordering::SeqCst) {
        bail!("interrupted: the volume is released, and the copy is incomplete");
    }
    Ok(())
}

/// The only one of these volumes, which have this id or name.
fn only(volume: &str, found: &[VolumeId]) -> anyhow::Result<VolumeId> {
    match found {
        [] => bail!("volume {volume:?} does not exist: no volume has this id or name"),
        [one] => Ok(one.clone()),
        several => {
            let ids: Vec<&str> = several.iter().map(VolumeId::as_str).collect();
            bail!(
                "{} volumes are called {volume:?}; give the id of one: {}",
                ids.len(),
                ids.join(", ")
            )
        }
    }
}

/// Holds a volume during a transfer, and releases it afterwards. If the program is killed, the next transfer takes
/// the hold over.
fn with_volume(
    config: &Config,
    volume: &str,
    mode: AttachMode,
    work: impl FnOnce(&Path) -> anyhow::Result<u64>,
) -> anyhow::Result<u64> {
    database::must_exist(config)?;
    let db = Db::open(&config.database_url())?;
    let catalog = Catalog::open_standalone(db, Clock::System, config)?;
    // Before the volume is held: nothing may fail, and no signal end the program, between that and the release.
    end_when_interrupted()?;
    let id = only(volume, &catalog.volumes_called(volume)?)?;
    let transfer = catalog
        .begin_transfer(&id, mode)
        .with_context(|| format!("volume {volume}"))?;
    let result = work(transfer.path());
    transfer.end()?;
    result
}
