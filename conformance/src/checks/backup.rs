//! The check of SCS-0117: a volume is backed up and restored to a new one. Its data is not looked
//! at; that is [`super::data`].

use anyhow::{Context as _, Result};

use crate::log;
use crate::run::{Extent, Run};

pub(crate) fn check(run: &Run<'_>) -> Result<()> {
    let volume = run.create_volume("volume").context("create volume")?;
    let backup = run
        .back_up("backup", &volume, Extent::Full)
        .context("create backup")?;
    run.restore_by_name("restored", &backup.id)
        .context("restore backup")?;
    log::info("backup and restore work");
    Ok(())
}
