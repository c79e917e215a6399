//! Comparing two volumes byte by byte.

use anyhow::{Context, bail};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const PIECE_BYTES: usize = 1 << 20;

/// Fails with the first offset at which the files differ. Every byte of both is read.
pub(super) fn compare(one: &Path, other: &Path, mut tick: impl FnMut(u64)) -> anyhow::Result<()> {
    let open = |path: &Path| File::open(path).with_context(|| path.display().to_string());
    let (one, other) = (open(one)?, open(other)?);
    let length = one.metadata()?.len();
    if other.metadata()?.len() != length {
        bail!(
            "the lengths differ: {length} and {}",
            other.metadata()?.len()
        );
    }
    let (mut left, mut right) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    let mut at = 0;
    while at < length {
        let piece = (length - at).min(PIECE_BYTES as u64) as usize;
        one.read_exact_at(&mut left[..piece], at)?;
        other.read_exact_at(&mut right[..piece], at)?;
        if left[..piece] != right[..piece] {
            let first = left
                .iter()
                .zip(&right)
                .position(|(l, r)| l != r)
                .unwrap_or(0);
            bail!("the contents differ at byte {}", at + first as u64);
        }
        at += piece as u64;
        tick(at);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_different_byte_is_found_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("1"), dir.path().join("2"));
        let mut bytes = vec![3; 2 * PIECE_BYTES + 5];
        std::fs::write(&one, &bytes).unwrap();
        std::fs::write(&other, &bytes).unwrap();
        compare(&one, &other, |_| {}).unwrap();
        bytes[PIECE_BYTES + 7] = 4;
        std::fs::write(&other, &bytes).unwrap();
        let error = compare(&one, &other, |_| {}).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("the contents differ at byte {}", PIECE_BYTES + 7)
        );
        std::fs::write(&other, &bytes[1..]).unwrap();
        assert!(compare(&one, &other, |_| {}).is_err());
    }
}
