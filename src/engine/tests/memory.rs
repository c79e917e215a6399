//! Memory is bounded whatever the disk, the storage and the data.

use super::*;
use crate::db::health;
use crate::engine::budget::Budget;
use crate::engine::care::live::Live;
use crate::engine::care::verify::Depth;
use crate::engine::read::reader::FrameReader;
use crate::model::pack::{Pack, PackKind};
use crate::volume::file::FileWriter;
use std::time::{Duration, Instant};

const SPANS: u64 = 24;
const SPAN_BYTES: u64 = 64 << 10;

/// A volume of so many bytes of noise.
fn make_volume(bed: &Bed, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(bed.volume())
        .unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    bed.write(bytes, 0);
}

fn packs(bed: &Bed, kind: PackKind) -> Vec<Pack> {
    let packs = bed.db.read(|c| health::packs(c, bed.row.number)).unwrap();
    let packs = packs.into_iter().map(|(pack, _)| pack);
    packs.filter(|pack| pack.kind == kind).collect()
}

#[test]
fn what_is_fetched_ahead_waits_for_a_slow_disk() {
    let mut bed = Bed::new();
    bed.options.threads = 6;
    make_volume(&bed, &noise(1, (SPANS * SPAN_BYTES) as usize));
    let (root, _) = bed.backup(None);
    let vault = bed.vault();
    let target = bed.dir.path().join("target");
    let held = |limit: u64| {
        file::create(&target, root.volume_bytes).unwrap();
        let mut slow = FileWriter::open(&target).unwrap();
        slow.pause = Duration::from_millis(5);
        let writer = VolumeWriter::File(slow);
        let (budget, progress) = (Budget::new(limit), Progress::default());
        let slow = Target::untracked(writer);
        read::restore::run_within(&budget, &vault, &root, &slow, &progress).unwrap();
        assert!(std::fs::read(&target).unwrap() == bed.content());
        std::fs::remove_file(&target).unwrap();
        budget.peak()
    };
    // All threads fetch at once where nothing keeps them from it.
    let all = held(u64::MAX);
    let one = held(1);
    assert!(
        one > SPAN_BYTES && all > one * 4,
        "{all} of all, {one} of one"
    );
    let (two, limit) = (held(one * 5 / 2), one * 5 / 2);
    assert!(two > one && two <= limit, "{two} of {limit}");
    // One that waits for memory is stopped all the same.
    let (budget, progress) = (Budget::new(1), Progress::default());
    let _held = budget.take(1, || Ok(())).unwrap();
    file::create(&target, root.volume_bytes).unwrap();
    let target = Target::untracked(VolumeWriter::open(&target).unwrap());
    let stopped = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            progress.stop();
        });
        read::restore::run_within(&budget, &vault, &root, &target, &progress)
    });
    assert!(matches!(stopped, Err(Error::Cancelled)));
}

#[test]
fn trailers_are_kept_by_their_bytes() {
    let bed = Bed::new();
    make_volume(&bed, &noise(2, VOLUME_BYTES as usize));
    let (root, _) = bed.backup(None);
    let vault = bed.vault();
    let read_all = |reader: &FrameReader<'_>| {
        let mut live = Live::default();
        live.add(reader, &root).unwrap();
        for (number, ordinals) in live.packs() {
            let row = packs(&bed, PackKind::Data);
            let Some(row) = row.iter().find(|row| row.number == number.into()) else {
                continue;
            };
            let name = vault::pack_name(&vault, row);
            let length = row.stored_bytes.get();
            let pack =
                format::pack::PackReader::open(&vault.store, name, length, &vault.keys).unwrap();
            for ordinal in ordinals {
                let frame = pack.rows[ordinal as usize].place(number, ordinal);
                assert_eq!(reader.frame(&frame).unwrap().len(), frame.length as usize);
            }
        }
    };
    let reader = FrameReader::new(&vault);
    read_all(&reader);
    let (count, bytes) = reader.trailers();
    assert!(count > 8, "{count} trailers");
    let reader = FrameReader::new(&vault).keeping(bytes / 3);
    read_all(&reader);
    let (few, less) = reader.trailers();
    assert!(
        few > 1 && less <= bytes / 3,
        "{few} trailers of {less} bytes"
    );
    // One that is longer than all that may be kept is kept alone.
    let reader = FrameReader::new(&vault).keeping(1);
    read_all(&reader);
    assert_eq!(reader.trailers().0, 1);
}

#[test]
fn a_pack_of_what_compresses_extremely_well_has_a_short_trailer() {
    let mut bed = Bed::new();
    (bed.options.pack_bytes, bed.options.paranoid) = (16 << 20, false);
    // Two bits of each byte: a quarter of it, when compressed.
    let few: Vec<u8> = noise(3, 24 << 20).iter().map(|byte| byte & 3).collect();
    make_volume(&bed, &few);
    let (root, _) = bed.backup(None);
    let counts: Vec<u32> = packs(&bed, PackKind::Data)
        .iter()
        .map(|pack| pack.chunk_count.get())
        .collect();
    // A last frame may go beyond it.
    assert!(
        counts.iter().all(|count| *count < (1 << 14) + 64),
        "{counts:?}"
    );
    assert!(counts.iter().sum::<u32>() > 1 << 14, "{counts:?}");
    assert!(bed.restore(&root.backup.id).unwrap() == bed.content());
}

#[test]
fn a_verification_reads_packs_in_ranges_and_within_the_limit_of_the_storage() {
    let bed = Bed::new();
    make_volume(&bed, &noise(4, VOLUME_BYTES as usize));
    bed.backup(None);
    let stored: u64 = [PackKind::Data, PackKind::Meta]
        .into_iter()
        .flat_map(|kind| packs(&bed, kind))
        .map(|pack| pack.stored_bytes.get())
        .sum();
    let url = format!("fs:{}", bed.dir.path().join("store").display());
    let mut settings = crate::config::Storage::at(url);
    settings.download_limit = bytesize::ByteSize(stored * 2);
    let store = Store::open(&settings, bed.runtime.handle().clone()).unwrap();
    let hook: Hook = Arc::new(|verb, path| {
        let is_pack = path.contains("/p/") || path.contains("/m/");
        assert!(!is_pack || verb != Verb::Get, "{path} is read whole");
        Ok(())
    });
    let vault = bed.vault_on(store.with_hook(hook)).unwrap();
    let depth = Depth::Full {
        since: Timestamp(1),
    };
    let started = Instant::now();
    let report = care::verify::run(&vault, depth, Timestamp(1), &Progress::default()).unwrap();
    assert!(report.damaged.is_empty(), "{report:?}");
    assert_eq!(report.read_bytes, stored);
    // Packs as short as these are read once for their trailers and once for their content; for what comes last
    // no thread waits.
    let took = started.elapsed();
    assert!(took > Duration::from_millis(800), "{took:?}");
}
