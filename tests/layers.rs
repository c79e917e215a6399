//! The floor plan of `src/lib.rs`, executable: a module uses floors below its own, nothing beside
//! it and nothing above.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const FLOORS: &[(usize, &[&str])] = &[
    (1, &["model"]),
    (2, &["config"]),
    (3, &["db", "store", "clock", "metrics"]),
    (4, &["volume", "identity"]),
    (5, &["engine", "jobs"]),
    (6, &["service", "tasks"]),
    (7, &["api"]),
    (8, &["app"]),
    (9, &["cli"]),
];

/// Crates that one door alone may name.
const DOORS: &[(&str, &[&str])] = &[
    ("opendal", &["store"]),
    ("reqwest", &["store"]),
    ("prometheus_client", &["metrics"]),
    ("actix_web", &["api", "app"]),
    // The database keeps room for itself on its disk.
    ("rustix", &["volume", "store", "db", "app", "cli"]),
    ("ring", &["engine"]),
    ("zstd", &["engine"]),
    ("fastcdc", &["engine"]),
    ("argon2", &["identity"]),
    ("clap", &["cli"]),
    ("moka", &["identity"]),
    ("serde_saphyr", &["identity", "api"]),
    ("ureq", &["identity", "cli"]),
    // The derives on rows, columns and tables are all of diesel that the first floor sees.
    ("diesel", &["db", "model"]),
    ("diesel_migrations", &["db"]),
];

fn floor(module: &str) -> usize {
    FLOORS
        .iter()
        .find(|(_, modules)| modules.contains(&module))
        .map(|(floor, _)| *floor)
        .unwrap_or_else(|| panic!("module {module} is on no floor"))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false if path.extension().is_some_and(|end| end == "rs") => found.push(path),
            false => {}
        }
    }
}

/// Files under `src` that belong to a module, and the module's name.
fn files() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    found
        .into_iter()
        .filter_map(|path| {
            let inside = path.strip_prefix(&root).unwrap();
            let first = inside.components().next()?.as_os_str().to_str()?;
            let module = first.strip_suffix(".rs").unwrap_or(first).to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            // Doc comments may point anywhere.
            let code: Vec<&str> = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect();
            (module != "lib" && module != "main").then(|| (module, path, code.join("\n")))
        })
        .collect()
}

/// Modules named after `crate::`, groups included.
fn uses(code: &str) -> BTreeSet<String> {
    let name = |text: &str| -> String {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => found.extend([name(rest)]),
            Some(group) => {
                let mut depth = 0;
                let mut part = String::new();
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => found.extend([name(std::mem::take(&mut part).trim())]),
                        _ if depth == 0 => part.push(c),
                        _ => {}
                    }
                }
                found.extend([name(part.trim())]);
            }
        }
    }
    found.retain(|module| module.chars().next().is_some_and(char::is_lowercase));
    found
}

#[test]
fn no_module_climbs_or_looks_sideways() {
    let mut wrong = Vec::new();
    for (module, path, code) in files() {
        for used in uses(&code) {
            if used != module && floor(&used) >= floor(&module) {
                wrong.push(format!("{} uses crate::{used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_door_is_the_only_one_to_name_its_crate() {
    let mut wrong = Vec::new();
    for (module, path, code) in files() {
        for (name, doors) in DOORS {
            let is_named = code.match_indices(&format!("{name}::")).any(|(at, _)| {
                !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
            });
            if is_named && !doors.contains(&module.as_str()) {
                wrong.push(format!("{} names {name}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_uses_sees_paths_and_groups() {
    let found =
        uses("use crate::{api, db::jobs, store::{key::Key, Store}};\nlet x = crate::engine::y();");
    let expected = ["api", "db", "engine", "store"].map(str::to_owned);
    assert_eq!(found, BTreeSet::from(expected));
}
