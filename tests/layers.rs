//! The floor plan of `src/lib.rs`, executable: a module uses floors below its own, nothing beside
//! it and nothing above.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

mod imports;

use imports::Imports;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

const FLOORS: &[(usize, &[&str])] = &[
    (1, &["model"]),
    (2, &["config", "clock"]),
    (3, &["db", "keystone", "logs", "metrics"]),
    (4, &["volume", "identity", "store", "jobs"]),
    (5, &["engine", "admission"]),
    (6, &["service", "tasks"]),
    (7, &["api"]),
    (8, &["app"]),
    (9, &["cli"]),
];

/// Crates that one door alone may name.
const DOORS: &[(&str, &[&str])] = &[
    ("opendal", &["store"]),
    ("reqwest", &["store", "keystone", "volume"]),
    ("libloading", &["volume"]),
    ("prometheus_client", &["metrics"]),
    ("actix_web", &["api", "app"]),
    ("actix_http", &["api"]),
    ("actix_service", &["api"]),
    // The database keeps room for itself on its disk.
    ("rustix", &["volume", "store", "db", "app", "api", "cli"]),
    ("libc", &["app", "volume"]),
    ("ring", &["engine"]),
    ("zstd", &["engine"]),
    ("fastcdc", &["engine"]),
    ("argon2", &["identity"]),
    ("clap", &["cli"]),
    ("moka", &["identity"]),
    ("serde_saphyr", &["identity", "api"]),
    ("ureq", &["cli"]),
    // The derives on rows, columns and tables are all of diesel that the first floor sees.
    ("diesel", &["db", "model"]),
    ("diesel_migrations", &["db"]),
];

/// The stand-in for Keystone; that for Cinder stands in folders called `standalone`.
const EMBEDDED: [&str; 2] = ["identity", "embedded"];

/// Who chooses between the stand-in and a real cloud, and so names it.
const CHOOSERS: &[&str] = &[
    "api/routes",
    "app",
    "app/first_start",
    "identity",
    "volume/catalog",
];

/// Files that name the stand-in though they choose nothing. None may be added.
const OPEN_IN_THE_WALL: &[&str] = &["api/http/call", "api/dispatch"];

/// Rooms of which neither names the other: what they do is safe side by side by the rows they hold alone.
const APART: &[(&str, &str)] = &[("engine/write", "engine/care")];

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
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
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

static IMPORTS: LazyLock<Imports> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    Imports::read(&root, &found)
});

#[test]
fn no_files_import_each_other_in_a_loop() {
    let imports = &*IMPORTS;
    let said = |way: Vec<Vec<String>>| {
        let files: Vec<String> = way.iter().map(|file| file.join("/")).collect();
        format!("{} -> {}", files.join(" -> "), files[0])
    };
    let loops: Vec<String> = imports.loops().into_iter().map(said).collect();
    assert!(loops.is_empty(), "{}", loops.join("\n"));
}

/// Whether a module is one of the stand-in for Cinder and Keystone.
fn is_stand_in(path: &[String]) -> bool {
    path.iter().any(|part| part == "standalone") || path.starts_with(&EMBEDDED.map(str::to_owned))
}

#[test]
fn only_who_chooses_names_the_stand_in() {
    let imports = &*IMPORTS;
    let mut named = BTreeSet::new();
    for module in imports.modules().filter(|module| !is_stand_in(module)) {
        if imports
            .named_in(module, true)
            .iter()
            .any(|path| is_stand_in(path))
        {
            named.insert(module.join("/"));
        }
    }
    named.retain(|file| !CHOOSERS.contains(&file.as_str()));
    let open: BTreeSet<String> = OPEN_IN_THE_WALL
        .iter()
        .map(|file| (*file).to_owned())
        .collect();
    let new: Vec<_> = named.difference(&open).collect();
    let closed: Vec<_> = open.difference(&named).collect();
    assert!(new.is_empty(), "these name the stand-in: {new:#?}");
    assert!(
        closed.is_empty(),
        "these no longer do, so take them off the list: {closed:#?}"
    );
}

/// The stand-in beside the port is for its own requests and jobs, and for the command that fills its volumes.
#[test]
fn only_the_stand_in_asks_for_itself() {
    let mut wrong = Vec::new();
    for (_, path, code) in files() {
        let is_own = path
            .components()
            .any(|part| part.as_os_str() == "standalone");
        if !is_own && !path.ends_with("src/cli/transfer.rs") && code.contains(".standalone()") {
            wrong.push(path.display().to_string());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rooms_that_never_meet_do_not() {
    let imports = &*IMPORTS;
    let mut wrong = Vec::new();
    for (one, other) in APART {
        for (this, that) in [(one, other), (other, one)] {
            let [this, that] = [this, that].map(|room| imports::name(room));
            for module in imports.modules().filter(|module| module.starts_with(&this)) {
                let paths = imports.named_in(module, true);
                let named = paths.into_iter().filter(|path| path.starts_with(&that));
                wrong.extend(
                    named.map(|path| format!("{} names {}", module.join("/"), path.join("::"))),
                );
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_imports_follows_what_is_handed_on_and_skips_tests() {
    let inner =
        "// crate::d::D\npub(in crate::a) struct B; #[cfg(test)] mod tests { use crate::d::D; }";
    let mut texts = vec![
        ("a", "mod b; pub use b::B; use crate::c::C;"),
        ("a/b", inner),
        ("c", "use crate::a; fn f() { a::b::g(); }"),
        (
            "d",
            "use crate::{a::B, c::{self, C}}; fn f() { c::g(); json!(crate::a::h) }",
        ),
    ];
    let read = |texts: &[(&str, &str)]| {
        let texts = texts
            .iter()
            .map(|(file, text)| (imports::name(file), (*text).to_owned()));
        Imports::of(texts.collect::<Vec<_>>())
    };
    let imports = read(&texts);
    let taken = imports.taken().into_iter().map(|((by, of), names)| {
        let names: Vec<String> = names.into_iter().collect();
        format!("{} of {}: {}", by.join("/"), of.join("/"), names.join(" "))
    });
    let expected = [
        "a of c: C",
        "c of a/b: g",
        "d of a: h",
        "d of a/b: B",
        "d of c: C g",
    ];
    assert_eq!(taken.collect::<Vec<_>>(), expected);
    assert!(imports.loops().is_empty());
    texts[1].1 = "use super::H;";
    assert_eq!(read(&texts).loops(), [["a", "c", "a/b"].map(imports::name)]);
}

#[test]
fn the_reader_of_uses_sees_paths_and_groups() {
    let found =
        uses("use crate::{api, db::jobs, store::{key::Key, Store}};\nlet x = crate::engine::y();");
    let expected = ["api", "db", "engine", "store"].map(str::to_owned);
    assert_eq!(found, BTreeSet::from(expected));
}
