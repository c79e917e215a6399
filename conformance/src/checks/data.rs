//! Beyond the standard: whether what comes back is what was written, byte for byte, from full and
//! incremental backups, in new volumes and over old data, and after the parent was deleted.

use anyhow::{Context as _, Result};

use crate::attachment::Mode;
use crate::exchange::Method;
use crate::image::{Fill, Image, MIB, Patch};
use crate::log;
use crate::resource::Kind;
use crate::run::{Extent, Run, VOLUME_GIB};

const SIZE: u64 = VOLUME_GIB * 1024 * MIB;

/// What is written first: some 64 MiB in places that are aligned to nothing, from the first byte
/// of the volume to the last.
const WRITTEN: [Patch; 8] = [
    patch(0, 4 * MIB + 513, Fill::Noise(1)),
    patch(64 * MIB - 777, 12 * MIB + 1, Fill::Text),
    patch(200 * MIB + 123, 16 * MIB, Fill::Noise(2)),
    patch(333 * MIB + 4095, 4 * MIB, Fill::Text),
    patch(511 * MIB - 4097, 8 * MIB + 4099, Fill::Noise(3)),
    patch(700 * MIB + 1, 15 * MIB, Fill::Text),
    patch(900 * MIB + 511, 1, Fill::Noise(4)),
    patch(SIZE - 5 * MIB - 3, 5 * MIB + 3, Fill::Noise(5)),
];

/// What is changed before the incremental backup: data becomes zero, other data, and data where
/// there was none.
const CHANGED: [Patch; 5] = [
    patch(0, 100, Fill::Text),
    patch(66 * MIB - 777, 3 * MIB + 11, Fill::Noise(6)),
    patch(201 * MIB + 130, 6 * MIB + 5, Fill::Zero),
    patch(820 * MIB + 17, MIB, Fill::Noise(7)),
    patch(SIZE - 65_537, 65_537, Fill::Zero),
];

const fn patch(start: u64, length: u64, fill: Fill) -> Patch {
    Patch {
        start,
        length,
        fill,
    }
}

pub(crate) fn check(run: &Run<'_>) -> Result<()> {
    let first = Image::zeros(SIZE).patched(&WRITTEN);
    let second = first.patched(&CHANGED);

    let volume = run.create_volume("data").context("create volume")?;
    write(run, &volume, &first, &WRITTEN)?;
    let full = back_up(run, "full", &volume, Extent::Full)?;
    let one = run
        .restore_by_name("data-restored-full", &full)
        .context("restore full backup")?;
    compare(run, &one, &first)?;

    write(run, &volume, &second, &CHANGED)?;
    let incremental = back_up(run, "incremental", &volume, Extent::Incremental)?;
    let two = run.restore_by_name("data-restored-incremental", &incremental);
    let two = two.context("restore incremental backup")?;
    compare(run, &two, &second)?;

    run.restore_into(&full, &two)
        .context("restore full backup over newer data")?;
    compare(run, &two, &first)?;
    delete_parent(run, &full)?;
    run.restore_into(&incremental, &one)
        .context("restore incremental backup over older data")?;
    compare(run, &one, &second)?;
    log::info("all restored data is what was written");
    Ok(())
}

fn write(run: &Run<'_>, volume_id: &str, image: &Image, patches: &[Patch]) -> Result<()> {
    let bytes: u64 = patches.iter().map(|patch| patch.length).sum();
    log::info(format_args!(
        "writing {} MiB to volume {volume_id}",
        bytes / MIB
    ));
    let write = |device: &std::fs::File| image.write(device, patches);
    run.storage
        .with_device(volume_id, Mode::ReadWrite, write)
        .context("write data")
}

fn compare(run: &Run<'_>, volume_id: &str, image: &Image) -> Result<()> {
    log::info(format_args!(
        "comparing all {} MiB of volume {volume_id}",
        image.size / MIB
    ));
    let compared = run
        .storage
        .with_device(volume_id, Mode::ReadOnly, |device| image.compare(device));
    compared.with_context(|| format!("compare volume {volume_id}"))
}

/// The backup's id; it must say of itself what it was meant to be.
fn back_up(run: &Run<'_>, role: &str, volume_id: &str, extent: Extent) -> Result<String> {
    let backup = run
        .back_up(role, volume_id, extent)
        .with_context(|| format!("{role} backup"))?;
    let expected = extent == Extent::Incremental;
    if backup.is_incremental != Some(expected) {
        let shown = run.storage.show(Kind::Backup, &backup.id);
        return Err(shown.into_error(&format!("is_incremental must be {expected}")));
    }
    Ok(backup.id)
}

/// A cloud may delete a backup that others build on, or refuse; both is fine, as long as those
/// others stay whole.
fn delete_parent(run: &Run<'_>, full_id: &str) -> Result<()> {
    log::info(format_args!(
        "deleting backup {full_id}, which another builds on"
    ));
    let path = format!("/backups/{full_id}");
    let version = Some(Kind::Backup.version());
    let exchange = run.storage.call(Method::Delete, &path, version, None);
    match exchange.status() {
        Some(400) => {
            log::info(format_args!(
                "the cloud keeps it, as Cinder does: {}",
                exchange.outcome()
            ));
            Ok(())
        }
        Some(200..=299) => run
            .storage
            .wait_gone(Kind::Backup, full_id)
            .context("delete parent"),
        _ => Err(exchange.into_error("neither deleted (202) nor refused (400)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patterns_stay_within_the_volume_and_the_promised_amount() {
        let total: u64 = WRITTEN.iter().map(|patch| patch.length).sum();
        assert!((60 * MIB..=70 * MIB).contains(&total), "{total}");
        let both = Image::zeros(SIZE).patched(&WRITTEN).patched(&CHANGED);
        assert_eq!(both.size, 1 << 30);
    }

    #[test]
    fn the_first_patterns_do_not_overlap_and_reach_both_ends() {
        for pair in WRITTEN.windows(2) {
            assert!(pair[0].start + pair[0].length <= pair[1].start);
        }
        assert_eq!(WRITTEN[0].start, 0);
        let last = WRITTEN[WRITTEN.len() - 1];
        assert_eq!(last.start + last.length, SIZE);
    }

    #[test]
    fn zeroed_ranges_lie_where_data_was() {
        for zeroed in CHANGED.iter().filter(|patch| patch.fill == Fill::Zero) {
            assert!(WRITTEN.iter().any(|data| data.start <= zeroed.start
                && zeroed.start + zeroed.length <= data.start + data.length));
        }
    }
}
