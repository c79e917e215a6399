//! The stages of a backup, each alone on one core: what the whole can at best be.
//!
//! `cargo bench --bench stages`. The data is that of `embervault bench`.

#![allow(clippy::unwrap_used, reason = "the whole program is a benchmark")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use embervault::config::Compression;
use embervault::engine::format::codec::{self, CompressionPace, Encoder};
use embervault::engine::format::keys::{Key, VaultKeys};
use embervault::engine::format::manifest::{ChunkId, Extent, FrameRef, decode_leaf, encode_leaf};
use embervault::engine::format::sums;
use embervault::engine::vault::options::Parameters;
use embervault::engine::write::chunker::Cutter;
use embervault::engine::write::splice::{Change, splice};
use embervault::volume::VolumeReader;
use embervault::volume::generated::{Generated, Variant};
use ring::aead::{Aad, Nonce};
use std::hint::black_box;

const PIECE_BYTES: usize = 4 << 20;
const FRAME_BYTES: usize = 512 << 10;
const SPAN_BYTES: u64 = 32 << 20;

fn data() -> Vec<u8> {
    let volume = Generated::new(PIECE_BYTES as u64, PIECE_BYTES as u64);
    let reader = VolumeReader::Generated(volume.variant(Variant::Base, 0));
    let mut bytes = vec![0; PIECE_BYTES];
    reader.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn stages(criterion: &mut Criterion) {
    let bytes = data();
    let zeros = vec![0; PIECE_BYTES];
    let keys = VaultKeys::derive(&Key::random());
    let parameters = Parameters::from_settings(&Default::default());
    let mut group = criterion.benchmark_group("stage");
    group.throughput(Throughput::Bytes(PIECE_BYTES as u64));
    group.bench_function("zero test of zeros", |bencher| {
        bencher.iter(|| sums::is_zero(black_box(&zeros)))
    });
    group.bench_function("sums of 4 KiB blocks", |bencher| {
        bencher.iter(|| {
            let blocks = black_box(&bytes).chunks(4096);
            blocks.fold(0, |all, block| all ^ sums::of(&keys.sums, block))
        })
    });
    let cutter = Cutter::new(&parameters, keys.cut_seed);
    group.bench_function("FastCDC", |bencher| {
        bencher.iter(|| cutter.cut(black_box(&bytes), true))
    });
    let chunks = cutter.cut(&bytes, true);
    group.bench_function("BLAKE3 of chunks", |bencher| {
        bencher.iter(|| {
            for chunk in &chunks {
                black_box(ChunkId::of(&keys.id, &bytes[chunk.clone()]));
            }
        })
    });
    for level in [1, 3, 9] {
        let pace = CompressionPace::new(1);
        let mut encoder = Encoder::new(Compression::Zstd(level), &pace);
        group.bench_function(format!("zstd {level} of frames"), |bencher| {
            bencher.iter(|| {
                for frame in bytes.chunks(FRAME_BYTES) {
                    black_box(encoder.encode(frame));
                }
            })
        });
        let encoded: Vec<_> = bytes
            .chunks(FRAME_BYTES)
            .map(|frame| (encoder.encode(frame), frame.len()))
            .collect();
        let mut plain = Vec::new();
        group.bench_function(format!("zstd {level}, back"), |bencher| {
            bencher.iter(|| {
                for (frame, length) in &encoded {
                    codec::decode(frame.codec, &frame.bytes, *length, &mut plain).unwrap();
                    black_box(&plain);
                }
            })
        });
    }
    let key = Key::random().sealing();
    group.bench_function("AES-256-GCM", |bencher| {
        bencher.iter_batched(
            || bytes.clone(),
            |mut bytes| {
                let nonce = Nonce::assume_unique_for_key([0; 12]);
                key.seal_in_place_append_tag(nonce, Aad::empty(), &mut bytes)
                    .unwrap();
                bytes
            },
            BatchSize::LargeInput,
        )
    });
    group.finish();
}

/// A span of 64 frames, and 82 blocks of it rewritten: one in a hundred.
fn manifest(criterion: &mut Criterion) {
    let frame = |ordinal: u32, pack: u32| FrameRef {
        pack,
        ordinal,
        length: FRAME_BYTES as u32,
        check: u64::from(ordinal).to_le_bytes(),
    };
    let parent: Vec<Extent> = (0..SPAN_BYTES as u32 / FRAME_BYTES as u32)
        .map(|ordinal| Extent::Slice {
            length: FRAME_BYTES as u32,
            frame: frame(ordinal, 1),
            offset: 0,
        })
        .collect();
    let changes: Vec<Change> = (0..82)
        .map(|number| Change {
            start: number * 99 * 4096,
            extent: Extent::Slice {
                length: 4096,
                frame: frame(0, 2),
                offset: number * 4096,
            },
        })
        .collect();
    let mut group = criterion.benchmark_group("span of 32 MiB");
    group.bench_function("splice 82 blocks", |bencher| {
        bencher.iter(|| splice(black_box(&parent), black_box(&changes)))
    });
    let spliced = splice(&parent, &changes);
    group.bench_function("encode its leaf", |bencher| {
        bencher.iter(|| encode_leaf(black_box(&spliced)))
    });
    let leaf = encode_leaf(&spliced);
    group.bench_function("decode its leaf", |bencher| {
        bencher.iter(|| decode_leaf(black_box(&leaf), SPAN_BYTES).unwrap())
    });
    group.finish();
}

criterion_group!(benches, stages, manifest);
criterion_main!(benches);
