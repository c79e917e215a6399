//! How the databases find the rows of each query: every function of `db` is called on tables with many rows, and
//! the plans of what it asks are looked at. A function that is not called here, or whose query goes through a
//! whole table, fails.

mod calls;

use crate::filled::{self, Size};
use crate::support::Postgres;
use calls::{Call, World};
use diesel::connection::{Instrumentation, InstrumentationEvent, set_default_instrumentation};
use diesel::prelude::*;
use diesel::sql_types::Text;
use embervault::db::{Db, DbConnection, DbError};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Enough that the planner of PostgreSQL prefers an index where there is one.
const SIZE: Size = Size {
    vaults: 2000,
    backups: 20_000,
    packs: 20_000,
    biggest: 40,
};

/// The biggest project and the biggest vault have 500 rows each. Whoever reads more than this reads all of them.
const ROWS_MAX: f64 = 300.0;

/// Tables that stay small whatever is backed up.
const SMALL: &[&str] = &[
    "processes",
    "services",
    "storages",
    // Of jobs that run.
    "temporaries",
    "volume_types",
    "workers",
    // What recursive queries call their own.
    "gone",
    "holder",
    "waiting",
    "CONSTANT",
];

/// Conditions in plans of SQLite that many rows meet, and those that hardly limit them further.
const OWNERS: &[&str] = &["vault=?", "vault_id=?", "project_id=?", "kind=?"];
const STATES: &[&str] = &["state=?", "status=?"];

/// Calls that go through a whole table, or all rows of a kind, and why they may.
const WHOLE_TABLE: &[(&str, &str)] = &[
    (
        "backups::list by name of all",
        "administrators alone choose this order for all projects",
    ),
    (
        "backups::count of all",
        "administrators alone ask how many there are",
    ),
    ("snapshots::count of all", "the same"),
    ("volumes::count of all", "the same"),
    (
        "volumes::usage_by_project",
        "what administrators see of a host; from an index alone",
    ),
    ("snapshots::usage_by_project", "the same"),
    (
        "volumes::list_attachments of all",
        "the list has no pages; administrators alone ask for all",
    ),
    (
        "identity::named_assignments of all",
        "administrators alone see it, sorted by names of two other tables",
    ),
    ("identity::configured_users", "once at the start"),
    (
        "identity::configured_assignments",
        "at the start, and when a project is deleted or renamed",
    ),
    (
        "sessions::prune",
        "every ten minutes; sessions are kept as long as their jobs",
    ),
    (
        "vaults::all",
        "commands beside the service, and its first start",
    ),
    ("vaults::of_project", "`vault shred`"),
    ("volumes::named", "`volume import` and `export`"),
    (
        "vaults::maintained",
        "narrow rows, at most once in some seconds",
    ),
    (
        "records::all",
        "administrators delete types; groups, their snapshots and transfers are few",
    ),
];

/// Calls that read all rows of one vault or one project, by an index, and why they may.
const WHOLE_OWNER: &[(&str, &str)] = &[
    ("backups::list by name", "sorted by what the client chose"),
    ("backups::count", "`with_count`; from an index alone"),
    (
        "backups::failed_for",
        "verification looks at all of a vault",
    ),
    ("backups::of_others_in", "`vault shred`"),
    ("backups::of_project_outside", "`vault shred`"),
    ("backups::usage", "quota; from an index alone"),
    ("snapshots::count", "`with_count`; from an index alone"),
    ("snapshots::usage", "quota; from an index alone"),
    ("volumes::count", "`with_count`; from an index alone"),
    ("volumes::list_attachments", "the list has no pages"),
    (
        "volumes::sizes",
        "`GET /volumes/summary`; from an index alone",
    ),
    ("volumes::usage", "quota; from an index alone"),
    ("volumes::usage_by_type", "quota"),
    ("records::count", "quota; from an index alone"),
    (
        "records::of_project",
        "a project has as many transfers as its quotas of volumes and snapshots allow",
    ),
    (
        "gc::available_roots",
        "the collector looks at all of a vault",
    ),
    ("gc::held_by_sessions", "the same"),
    ("gc::needed", "the same"),
    (
        "gc::names_of_needed",
        "a backup may have come since the collector looked",
    ),
    ("gc::note_unknown", "the same"),
    ("gc::pack_sets", "the same"),
    ("gc::packs", "the same"),
    ("gc::places", "rebuilding looks at all of a vault"),
    ("gc::roots", "the collector looks at all of a vault"),
    ("gc::settled", "compaction looks at all of a vault"),
    ("gc::sizes", "`vault usage` looks at all of a vault"),
    (
        "gc::unreadable_roots",
        "the collector looks at all of a vault",
    ),
    ("gc::unfinished", "the same"),
    ("gc::without_root", "the same"),
    ("gc::written", "a rebuild looks at all of a vault"),
    ("health::packs", "verification looks at all of a vault"),
    ("sessions::end_all", "`vault shred`"),
    ("vaults::remove", "`vault shred`"),
    ("health::damaged", "the index holds the damaged ones alone"),
    ("packs::any", "the first one is enough"),
    ("records::in_status", "group snapshots under way"),
    (
        "identity::named_assignments in project",
        "the list has no pages",
    ),
    ("identity::remove_project", "tokens in the project end"),
    ("identity::remove_ended_tokens", "the same"),
    ("identity::remove_assignment", "the same statement"),
    (
        "identity::revoke_token",
        "the same statement; no project is named",
    ),
    (
        "messages::insert",
        "a project has a thousand at most; from an index alone",
    ),
];

#[test]
fn every_function_is_called() {
    let called: BTreeSet<&str> = calls::all()
        .iter()
        .map(|call| call.name.split(' ').next().unwrap())
        .collect();
    let mut missing = Vec::new();
    for path in sources(concat!(env!("CARGO_MANIFEST_DIR"), "/src/db").as_ref()) {
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        // What others are made of.
        if ["mod", "page", "reserve"].contains(&module.as_str()) {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for rest in text.split("\npub fn ").skip(1) {
            let name: String = rest
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            let parameters = rest.split("->").next().unwrap();
            let name = format!("{module}::{name}");
            if parameters.contains("DbConnection") && !called.contains(name.as_str()) {
                missing.push(name);
            }
        }
    }
    assert!(
        missing.is_empty(),
        "call them in tests/suite/plans/calls.rs: {missing:?}"
    );
    let known: BTreeSet<&str> = calls::all().iter().map(|call| call.name).collect();
    for (name, _) in WHOLE_TABLE.iter().chain(WHOLE_OWNER) {
        assert!(known.contains(name), "no call bears the name {name}");
    }
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                sources(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[test]
fn no_query_goes_through_a_growing_table_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("db").display());
    // Before the connections are made.
    set_default_instrumentation(recorder).unwrap();
    let db = Db::open(&url).unwrap();
    filled::fill(&url, SIZE);
    STATEMENTS.take();
    let mut asking = SqliteConnection::establish(url.strip_prefix("sqlite:").unwrap()).unwrap();
    let faults = faults(&db, |call| {
        let asked = STATEMENTS.take();
        let mut found = Vec::new();
        for text in asked.iter().filter_map(|text| statement(text)) {
            let explain = diesel::sql_query(format!("EXPLAIN QUERY PLAN {text}"));
            let steps: Vec<Step> = explain.load(&mut asking).unwrap();
            let lines: Vec<String> = steps.into_iter().map(|step| step.detail).collect();
            let fault = scan(text, &lines).or_else(|| {
                let may = call.is_among(WHOLE_OWNER);
                search_of_all(text, &lines).filter(|_| !may)
            });
            found.extend(fault.map(|fault| (fault, text.to_owned())));
        }
        found.retain(|_| !call.is_among(WHOLE_TABLE));
        found
    });
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_query_goes_through_a_growing_table_on_postgresql() {
    let postgres = Postgres::start_with(&[
        "shared_preload_libraries=auto_explain",
        "auto_explain.log_min_duration=0",
        "auto_explain.log_analyze=on",
        "auto_explain.log_timing=off",
        "auto_explain.log_format=json",
        "auto_explain.log_nested_statements=on",
        // As for the solid-state disks that databases have.
        "random_page_cost=1.1",
        "jit=off",
        "autovacuum=off",
        "max_parallel_workers_per_gather=0",
    ]);
    let url = postgres.url();
    let db = Db::open(&url).unwrap();
    filled::fill(&url, SIZE);
    let mut log = std::fs::File::open(postgres.log()).unwrap();
    log.seek(SeekFrom::End(0)).unwrap();
    let faults = faults(&db, |call| {
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        let mut found = Vec::new();
        for plan in plans(&text) {
            let asked = plan["Query Text"].as_str().unwrap_or_default().to_owned();
            for fault in look(call, &plan["Plan"]) {
                found.push((fault, asked.clone()));
            }
        }
        found
    });
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Calls everything, each in a transaction that is undone, and gives what is wrong with the plans.
fn faults(db: &Db, mut look: impl FnMut(&Call) -> Vec<(String, String)>) -> Vec<String> {
    let world = db.read(World::read).unwrap();
    let mut faults = BTreeMap::new();
    // What was asked so far is none of theirs.
    let none = Call {
        name: "",
        run: |_, _| Ok(()),
    };
    look(&none);
    for call in calls::all() {
        let undone: Result<(), DbError> = db.write(|c: &mut DbConnection| {
            (call.run)(c, &world).unwrap_or_else(|error| panic!("{}: {error}", call.name));
            Err(DbError::Query(diesel::result::Error::RollbackTransaction))
        });
        assert!(undone.is_err());
        for (fault, text) in look(&call) {
            faults.insert(format!("{}: {fault}", call.name), text);
        }
    }
    faults
        .into_iter()
        .map(|(fault, text)| format!("{fault}\n    {text:.1000}"))
        .collect()
}

thread_local! {
    static STATEMENTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn recorder() -> Option<Box<dyn Instrumentation>> {
    Some(Box::new(|event: InstrumentationEvent<'_>| {
        if let InstrumentationEvent::StartQuery { query, .. } = event {
            STATEMENTS.with_borrow_mut(|known| known.push(query.to_string()));
        }
    }))
}

/// What was asked, without the values; `None` for what has no plan.
fn statement(text: &str) -> Option<&str> {
    let text = text.split(" -- binds: ").next().unwrap_or_default();
    let kinds = ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"];
    kinds
        .iter()
        .any(|kind| text.starts_with(kind))
        .then_some(text)
}

#[derive(QueryableByName)]
struct Step {
    #[diesel(sql_type = Text)]
    detail: String,
}

/// Whether not all rows that could be found are read, as they come in the order that is wanted.
fn ends_early(text: &str, steps: &[String]) -> bool {
    let is_sorted = steps
        .iter()
        .any(|step| step == "USE TEMP B-TREE FOR ORDER BY");
    text.contains(" LIMIT ") && !is_sorted
}

/// The step of a plan of SQLite that reads by an index all that a vault or a project has, or all of a kind.
fn search_of_all(text: &str, steps: &[String]) -> Option<String> {
    let is_of_all = |step: &&String| {
        let Some((_, conditions)) = step.trim_end_matches(')').split_once('(') else {
            return false;
        };
        let mut columns = conditions.split(" AND ");
        step.starts_with("SEARCH ")
            && columns.clone().any(|column| OWNERS.contains(&column))
            && columns.all(|column| OWNERS.contains(&column) || STATES.contains(&column))
    };
    let found = steps.iter().find(is_of_all);
    found.filter(|_| !ends_early(text, steps)).cloned()
}

/// The step of a plan of SQLite that goes through a whole growing table.
fn scan(text: &str, steps: &[String]) -> Option<String> {
    let ends_early = ends_early(text, steps);
    let scans = steps
        .iter()
        .filter_map(|step| Some((step, step.strip_prefix("SCAN ")?)));
    scans
        .filter(|(_, scanned)| {
            let table = scanned.split(' ').next().unwrap_or_default();
            !SMALL.contains(&table) && !scanned.ends_with("VALUES CLAUSE")
        })
        .find(|(_, scanned)| !(ends_early && scanned.contains(" USING ")))
        .map(|(step, _)| step.clone())
}

/// The plans in what PostgreSQL has logged.
fn plans(log: &str) -> Vec<Value> {
    log.split("LOG:  duration: ")
        .skip(1)
        .filter_map(|entry| {
            let (_, plan) = entry.split_once("plan:\n")?;
            let lines = plan.lines().take_while(|line| line.starts_with('\t'));
            let json: String = lines.collect();
            Some(serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}")))
        })
        .collect()
}

/// What is wrong with a plan of PostgreSQL, as it was carried out.
fn look(call: &Call, plan: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let nodes = plan["Plans"].as_array();
    for below in nodes.into_iter().flatten() {
        found.extend(look(call, below));
    }
    let kind = plan["Node Type"].as_str().unwrap_or_default();
    let table = plan["Relation Name"].as_str().unwrap_or_default();
    let is_scan = kind.contains("Scan") && !table.is_empty();
    if !is_scan || SMALL.contains(&table) {
        return found;
    }
    if call.is_among(WHOLE_TABLE) {
        return found;
    }
    if kind == "Seq Scan" {
        found.push(format!("{kind} on {table}"));
    }
    let number = |name: &str| plan[name].as_f64().unwrap_or_default();
    let kept = number("Actual Rows") + number("Rows Removed by Filter");
    let read = (kept + number("Rows Removed by Index Recheck")) * number("Actual Loops");
    if read > ROWS_MAX && !call.is_among(WHOLE_OWNER) {
        found.push(format!("{kind} reads {read} rows of {table}"));
    }
    found
}
