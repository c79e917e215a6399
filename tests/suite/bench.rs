//! The benchmark that comes with the program measures what it says.

use crate::support::without_settings;
use serde_json::Value;
use std::process::Command;

/// 1 % of the blocks, what describes them, and the sums of the blocks.
const STORED_PERCENT_MAX: u64 = 4;

#[test]
fn incrementals_of_the_benchmark_are_made_against_their_parent() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embervault"));
    without_settings(&mut command);
    command.args(["bench", "--size", "96 MiB", "--json"]);
    for case in ["full", "unchanged", "unchanged-tracked", "scattered"] {
        command.args(["--only", case]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let measured: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let of = |case: &str, figure: &str| -> u64 {
        let mut rows = measured.iter();
        let row = rows.find(|row| row["case"] == case).unwrap();
        row[figure].as_u64().unwrap_or_else(|| panic!("{row}"))
    };
    let data = of("full", "data_bytes");
    assert!(of("full", "stored_bytes") > data / 8);
    for unchanged in ["unchanged", "unchanged-tracked"] {
        assert!(of(unchanged, "stored_bytes") < 64 << 10, "{measured:?}");
    }
    assert!(
        of("unchanged-tracked", "read_bytes") < data / 8,
        "{measured:?}"
    );
    assert!(
        of("scattered", "stored_bytes") < data * STORED_PERCENT_MAX / 100,
        "{measured:?}"
    );
}
