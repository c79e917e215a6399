//! The levels of this process's logs, as administrators look at them and change them while it runs. What they
//! set holds until the process ends, over what the configuration says.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use tracing::Level;
use tracing_subscriber::EnvFilter;

/// The level of a part of the logs, in Cinder's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warning,
    Info,
    Debug,
}

impl LogLevel {
    /// Cinder's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Warning => "WARNING",
            Self::Info => "INFO",
            Self::Debug => "DEBUG",
        }
    }

    /// The level of a word, in either case.
    pub fn parse(word: &str) -> Option<Self> {
        let levels = [Self::Error, Self::Warning, Self::Info, Self::Debug];
        let mut levels = levels.into_iter();
        levels.find(|level| level.as_str().eq_ignore_ascii_case(word))
    }

    /// The word of filters.
    fn filter(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// The parts of the program that write logs, each with a look at how much it says now.
macro_rules! parts {
    ($($name:literal),+ $(,)?) => {
        const PARTS: &[(&str, fn() -> LogLevel)] = &[$((
            concat!("embervault::", $name),
            || level!(concat!("embervault::", $name)),
        )),+];
    };
}

macro_rules! level {
    ($target:expr) => {
        match () {
            () if tracing::enabled!(target: $target, Level::DEBUG) => LogLevel::Debug,
            () if tracing::enabled!(target: $target, Level::INFO) => LogLevel::Info,
            () if tracing::enabled!(target: $target, Level::WARN) => LogLevel::Warning,
            () => LogLevel::Error,
        }
    };
}

parts![
    "api", "app", "cli", "db", "engine", "identity", "jobs", "keystone", "service", "store",
    "tasks", "volume",
];

/// Puts another filter in the place of the one there is; false if there are no logs any more.
type Reload = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

struct Running {
    /// The filter of the configuration.
    filter: String,
    reload: Reload,
    set: Mutex<BTreeMap<&'static str, LogLevel>>,
}

static RUNNING: OnceLock<Running> = OnceLock::new();

/// Notes how the filter of this process's logs is changed.
pub fn install(filter: &str, reload: impl Fn(EnvFilter) -> bool + Send + Sync + 'static) {
    let running = Running {
        filter: filter.to_owned(),
        reload: Box::new(reload),
        set: Mutex::default(),
    };
    // A process has logs once.
    RUNNING.set(running).ok();
}

fn parts_of(prefix: &str) -> impl Iterator<Item = &'static (&'static str, fn() -> LogLevel)> {
    PARTS
        .iter()
        .filter(move |(name, _)| name.starts_with(prefix))
}

/// The current levels of the parts whose names begin so.
pub fn levels(prefix: &str) -> Vec<(&'static str, LogLevel)> {
    parts_of(prefix)
        .map(|(name, level)| (*name, level()))
        .collect()
}

/// Sets the level of the parts whose names begin so, from now on.
pub fn set_levels(prefix: &str, level: LogLevel) {
    let Some(running) = RUNNING.get() else {
        return;
    };
    let mut set = running.set.lock().unwrap_or_else(PoisonError::into_inner);
    set.extend(parts_of(prefix).map(|(name, _)| (*name, level)));
    // If two settings name the same part, the later one counts.
    let mut filter = running.filter.clone();
    for (name, level) in set.iter() {
        filter.push_str(&format!(",{name}={}", level.filter()));
    }
    let is_changed = EnvFilter::try_new(&filter).is_ok_and(&running.reload);
    if !is_changed {
        tracing::error!(filter, "the levels of the logs cannot be changed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    fn files(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            match entry.unwrap().path() {
                path if path.is_dir() => files(&path, found),
                path => found.push(path),
            }
        }
    }

    #[test]
    fn every_part_that_writes_logs_has_its_level() {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut found = Vec::new();
        files(&src, &mut found);
        for path in found {
            let inside = path.strip_prefix(&src).unwrap();
            let part = inside.iter().next().unwrap().to_str().unwrap();
            let writes = std::fs::read_to_string(&path)
                .is_ok_and(|text| text.contains("tracing::") && !part.ends_with(".rs"));
            let name = format!("embervault::{part}");
            assert!(
                !writes || PARTS.iter().any(|(known, _)| *known == name),
                "{name}"
            );
        }
    }

    #[test]
    fn a_level_is_set_for_some_parts_and_seen() {
        let (lines, _guard) = tracing_appender::non_blocking(std::io::sink());
        let logs = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new("info,embervault::engine=error"))
            .with_writer(lines)
            .with_filter_reloading();
        let handle = logs.reload_handle();
        install("info,embervault::engine=error", move |filter| {
            handle.reload(filter).is_ok()
        });
        tracing::subscriber::with_default(logs.finish(), || {
            let level = |name: &str| levels(name)[0].1;
            assert_eq!(level("embervault::api"), LogLevel::Info);
            assert_eq!(level("embervault::engine"), LogLevel::Error);
            set_levels("embervault::eng", LogLevel::Debug);
            assert_eq!(level("embervault::engine"), LogLevel::Debug);
            assert_eq!(level("embervault::api"), LogLevel::Info);
            set_levels("", LogLevel::Warning);
            assert!(
                levels("")
                    .iter()
                    .all(|(_, level)| *level == LogLevel::Warning)
            );
            set_levels("cinder", LogLevel::Debug);
            assert!(levels("cinder").is_empty());
        });
        assert_eq!(LogLevel::parse("warning"), Some(LogLevel::Warning));
        assert_eq!(LogLevel::parse("loud"), None);
    }
}
