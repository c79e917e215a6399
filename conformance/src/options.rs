//! The command line: the options of the Sovereign Cloud Stack check, kept as they were, and ours.

use std::time::Duration;

use clap::Parser;

/// Check an OpenStack cloud's volume backup service as the Sovereign Cloud Stack does (SCS-0117).
///
/// Creates a volume of 1 GiB, backs it up, restores the backup to a new volume, and deletes all
/// three again. What an earlier run left behind under the same prefix is deleted first.
#[derive(Debug, Clone, Parser)]
#[command(name = "embervault-conformance", version, after_long_help = AFTERWORD)]
pub(crate) struct Options {
    /// Cloud of clouds.yaml to test
    #[arg(short = 'c', long, env = "OS_CLOUD", value_name = "NAME")]
    pub(crate) os_cloud: Option<String>,

    /// Ask for the password instead of taking it from clouds.yaml
    #[arg(long)]
    pub(crate) ask: bool,

    /// Log every HTTP request: method, URL, status and duration
    #[arg(long)]
    pub(crate) debug: bool,

    /// What the names of all created resources start with; everything in the project whose name
    /// starts so is DELETED first, so give parallel runs in one project different prefixes
    #[arg(long, value_name = "TEXT", default_value = "scs-test-", value_parser = parse_prefix)]
    pub(crate) prefix: String,

    /// Only delete what carries the prefix; prints no verdict, exits 0 when nothing is left
    #[arg(long)]
    pub(crate) cleanup_only: bool,

    /// How long to wait for one change of status, in seconds; the default is what the Sovereign
    /// Cloud Stack's own check waits
    #[arg(long, value_name = "SECONDS", default_value = "110", value_parser = parse_timeout)]
    pub(crate) timeout: Duration,

    /// Go beyond the standard: write data, back it up in full and incrementally, restore both and
    /// compare every byte; needs a cloud whose volumes attach to this machine as local paths
    #[arg(long, conflicts_with = "cleanup_only")]
    pub(crate) data: bool,

    /// Print `volume-backup-check: PASS|FAIL`, as the check did before September 2025
    #[arg(long)]
    pub(crate) legacy_report: bool,
}

const AFTERWORD: &str = "\
Verdict:
  Standard output gets exactly one line, `scs-0117-test-backup: PASS`, `FAIL` or `ABORT`; the log
  goes to standard error as `LEVEL: text`. ABORT means that nothing was proven either way: bad
  usage or clouds.yaml, no login, a user with the role admin or manager or without the role
  member, an interrupt, or with --data volumes that cannot be reached from here. Leftovers of a
  cleanup are a FAIL. With --legacy-report ABORT is printed as FAIL.

Exit status:
  0 only after PASS (or a clean --cleanup-only), 2 for bad usage, else 1.

clouds.yaml:
  Searched as openstacksdk does: $OS_CLIENT_CONFIG_FILE, then clouds.yaml, .yml or .json in the
  current directory, ~/.config/openstack, /etc/xdg/openstack and /etc/openstack; the first file
  counts. A secure.yaml found the same way ($OS_CLIENT_SECURE_FILE first) is merged into it.
  Login types: password, v3password, token, v3token, v3applicationcredential. `profile` is not
  supported.

Examples:
  embervault-conformance --os-cloud mycloud
  embervault-conformance --os-cloud mycloud --data --timeout 600
  embervault-conformance --os-cloud mycloud --cleanup-only";

/// An empty prefix would claim, and so delete, everything in the project.
fn parse_prefix(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("an empty prefix would delete every volume and backup of the project".into());
    }
    Ok(text.to_owned())
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err("expected a whole number of seconds between 1 and 86400".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn an_empty_prefix_is_refused() {
        assert!(Options::try_parse_from(["t", "--prefix", ""]).is_err());
        let options = Options::try_parse_from(["t", "--prefix", "x-", "--timeout", "5"]).unwrap();
        assert_eq!(options.prefix, "x-");
        assert_eq!(options.timeout, Duration::from_secs(5));
    }

    #[test]
    fn a_timeout_of_nothing_is_refused() {
        assert!(Options::try_parse_from(["t", "--timeout", "0"]).is_err());
        assert!(Options::try_parse_from(["t", "--timeout", "soon"]).is_err());
    }
}
