//! One restore: spans in parallel, ranges coalesced, every chunk verified before it is written.

use crate::engine::manifest::{Extent, Root, SpanEntry, decode_leaf};
use crate::engine::reader::ChunkReader;
use crate::engine::vault::Vault;
use crate::engine::{Error, Result, check};
use crate::model::progress::Progress;
use crate::volume::file::VolumeWriter;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Plain bytes fetched together by one thread.
const WINDOW_BYTES: u32 = 4 << 20;

/// Writes a backup to a volume that is at least as long. Whatever the target held is replaced, by
/// holes where the backup has holes, and up to its end. The result is durable on return.
pub fn run(vault: &Vault, root: &Root, writer: &VolumeWriter, progress: &Progress) -> Result<()> {
    let reader = ChunkReader::new(vault);
    let spans = reader.spans(root)?;
    Progress::add(&progress.total, root.volume_bytes);
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let work = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(entry) = spans.get(number) else {
                return Ok(());
            };
            check(progress)?;
            let start = number as u64 * root.span_bytes;
            let end = (start + root.span_bytes).min(root.volume_bytes);
            restore_span(&reader, entry, start..end, writer, progress)?;
            Progress::add(&progress.done, end - start);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..vault.options.threads.min(spans.len()) {
            scope.spawn(|| {
                if let Err(error) = work() {
                    let mut failure = failure.lock().expect("no panic while it is locked");
                    failure.get_or_insert(error);
                    progress.stop();
                }
            });
        }
    });
    if let Some(error) = failure.into_inner().expect("no panic while it is locked") {
        return Err(error);
    }
    writer.zero(root.volume_bytes..writer.length().max(root.volume_bytes))?;
    Ok(writer.sync()?)
}

fn restore_span(
    reader: &ChunkReader<'_>,
    entry: &SpanEntry,
    span: Range<u64>,
    writer: &VolumeWriter,
    progress: &Progress,
) -> Result<()> {
    let SpanEntry::Leaf { leaf, .. } = entry else {
        return Ok(writer.zero(span)?);
    };
    let bytes = reader.chunk(leaf)?;
    let extents = decode_leaf(&bytes, span.end - span.start)
        .ok_or_else(|| Error::corrupt(format!("a leaf in pack {:08x}", leaf.pack), "unreadable"))?;
    let mut at = span.start;
    let mut rest = extents.as_slice();
    while !rest.is_empty() {
        check(progress)?;
        let window = window_length(rest);
        at = write_window(reader, &rest[..window], at, writer, progress)?;
        rest = &rest[window..];
    }
    Ok(())
}

/// How many extents make up a window.
fn window_length(extents: &[Extent]) -> usize {
    let mut bytes = 0_u32;
    for (count, extent) in extents.iter().enumerate() {
        if let Extent::Slice { length, .. } = extent {
            bytes = bytes.saturating_add(*length);
        }
        if bytes > WINDOW_BYTES {
            return count.max(1);
        }
    }
    extents.len()
}

fn write_window(
    reader: &ChunkReader<'_>,
    extents: &[Extent],
    mut at: u64,
    writer: &VolumeWriter,
    progress: &Progress,
) -> Result<u64> {
    let chunks = reader.chunks(extents.iter().filter_map(|extent| match extent {
        Extent::Slice { chunk, .. } => Some(*chunk),
        Extent::Hole { .. } => None,
    }))?;
    // Fetching may have taken long; a run that was overtaken meanwhile must not write any more.
    check(progress)?;
    for extent in extents {
        let end = at + u64::from(extent.length());
        match extent {
            Extent::Hole { .. } => writer.zero(at..end)?,
            Extent::Slice {
                length,
                chunk,
                offset,
            } => {
                let slice = *offset as usize..(*offset + *length) as usize;
                let bytes = chunks[chunk].get(slice).ok_or_else(|| {
                    Error::corrupt(
                        format!("a leaf that names pack {:08x}", chunk.pack),
                        "a slice lies outside its chunk",
                    )
                })?;
                writer.write_at(bytes, at)?;
                Progress::add(&progress.read, u64::from(*length));
            }
        }
        at = end;
    }
    Ok(at)
}
