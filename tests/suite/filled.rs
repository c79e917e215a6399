//! A database with many rows, made by the database itself: as it stands after months of backups of many
//! projects. One project and one vault, those of number 1, have far more than the others.

use diesel::connection::SimpleConnection;
use diesel::{Connection, PgConnection, SqliteConnection};

/// How many rows there are. What is not named here there is once for each backup.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) vaults: i64,
    pub(crate) backups: i64,
    pub(crate) packs: i64,
    /// The biggest vault and project have one of so many rows of everything.
    pub(crate) biggest: i64,
}

/// When the first rows were made; each one is a second younger than the one before.
pub(crate) const FIRST: i64 = 1_700_000_000_000_000;

/// When the row of a number was made.
pub(crate) fn time(number: i64) -> i64 {
    FIRST + number * 1_000_000
}

/// The id of the row of a number, in every table.
pub(crate) fn id(number: i64) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// Jobs that wait are the first hundred; these are running.
pub(crate) const RUNNING: std::ops::RangeInclusive<i64> = 101..=108;
/// Volume types, the last of which no volume has.
pub(crate) const TYPES: i64 = 21;

/// The same in SQL. Numbers have at most twelve digits.
fn sql_id(number: &str) -> String {
    format!("'00000000-0000-4000-8000-' || substr(CAST(1000000000000 + {number} AS TEXT), 2)")
}

/// Fills the empty tables of a database.
pub(crate) fn fill(url: &str, size: Size) {
    match url.strip_prefix("sqlite:") {
        Some(path) => {
            let mut connection = SqliteConnection::establish(path).unwrap();
            let statements = statements(size, |text| format!("CAST({text} AS BLOB)"));
            run(&mut connection, "PRAGMA synchronous = OFF");
            run(&mut connection, "PRAGMA foreign_keys = ON");
            // All in one, as SQLite would else write each statement twice.
            run(&mut connection, "BEGIN");
            statements
                .iter()
                .for_each(|text| run(&mut connection, text));
            run(&mut connection, "COMMIT");
            // No ANALYZE: the service makes none either.
        }
        None => {
            let mut connection = PgConnection::establish(url).unwrap();
            let statements = statements(size, |text| format!("convert_to({text}, 'UTF8')"));
            statements
                .iter()
                .for_each(|text| run(&mut connection, text));
            // As autovacuum does it soon.
            run(&mut connection, "VACUUM ANALYZE");
        }
    }
}

fn run(connection: &mut impl SimpleConnection, text: &str) {
    connection
        .batch_execute(text)
        .unwrap_or_else(|error| panic!("{text}: {error}"));
}

fn statements(size: Size, bytes: impl Fn(&str) -> String) -> Vec<String> {
    let Size {
        vaults,
        backups,
        packs,
        biggest,
    } = size;
    let most = vaults.max(backups).max(packs);
    let (i, created) = (sql_id("i"), format!("{FIRST} + i * 1000000"));
    // The first rows are those of vault and project 1.
    let owner = |rows: i64| {
        let others = vaults - 1;
        format!("CASE WHEN i <= {rows} / {biggest} THEN 1 ELSE 2 + i % {others} END")
    };
    let project = |rows: i64| sql_id(&format!("({})", owner(rows)));
    let of_project = project(backups);
    let one = id(1);
    let (first_running, last_running) = (*RUNNING.start(), *RUNNING.end());
    let insert = |table: &str, columns: &str, values: &str, rows: i64| {
        format!("INSERT INTO {table} ({columns}) SELECT {values} FROM numbers WHERE i <= {rows}")
    };
    let texts = |names: &[&str]| names.join(", ");
    vec![
        "CREATE TEMPORARY TABLE numbers (i BIGINT PRIMARY KEY)".to_owned(),
        format!(
            "INSERT INTO numbers (i) WITH RECURSIVE n (i) AS \
             (SELECT CAST(1 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < {most}) SELECT i FROM n"
        ),
        format!(
            "INSERT INTO storages (id, name, master_key_check, created_at) VALUES ('{one}', 'local', '', 0)"
        ),
        insert(
            "users",
            "id, name, password_hash, origin",
            &format!("{i}, 'user ' || i, '', CASE WHEN i <= 3 THEN 'configured' ELSE 'made' END"),
            vaults,
        ),
        insert(
            "projects",
            "id, name",
            &format!("{i}, 'project ' || i"),
            vaults,
        ),
        insert(
            "assignments",
            "user_id, project_id, role, is_configured",
            &format!("{i}, {i}, 'member', i <= 3"),
            vaults,
        ),
        insert(
            "vaults",
            "number, id, project_id, storage_id, next_pack, created_at, record",
            &format!("i, {i}, {i}, '{one}', 1000000000, {created}, '{{}}'"),
            vaults,
        ),
        insert(
            "packs",
            "vault, number, rewrite, kind, state, session, stored_bytes, chunk_count, frame_count, damage",
            &format!(
                "{}, i, 0, 'data', CASE i % 100 WHEN 0 THEN 'condemned' WHEN 1 THEN 'deleting' \
                 WHEN 2 THEN 'writing' ELSE 'live' END, CASE i % 100 WHEN 2 THEN {} END, 16000000, 256, 16, \
                 CASE i % 1000 WHEN 7 THEN 'a fault' END",
                owner(packs),
                sql_id(&format!("({first_running} + i % 8)")),
            ),
            packs,
        ),
        insert(
            "chunks",
            "vault, id, pack, ordinal, length",
            &format!("{}, {}, i, 0, 65536", owner(packs), bytes(&i)),
            packs,
        ),
        insert(
            "lost_chunks",
            "vault, id, pack, ordinal, length, frame_offset, frame_length, frame_check",
            &format!("{}, {}, i, 0, 65536, 0, 65536, 0", owner(packs), bytes(&i)),
            packs / 4,
        ),
        insert(
            "session_packs",
            "session, vault, pack, rewrite",
            &format!(
                "{}, {}, i, 0",
                sql_id(&format!("({first_running} + i % 200)")),
                owner(packs)
            ),
            packs,
        ),
        insert(
            "unknown_objects",
            "object, vault, generation",
            &format!("{i}, {}, 0", owner(backups)),
            backups,
        ),
        insert(
            "removed_roots",
            "vault, root, was_available",
            &format!("{}, {i}, i % 2 = 0", owner(backups)),
            backups,
        ),
        insert(
            "backups",
            &texts(&[
                "id, project_id, user_id, storage_id, vault_id, volume_id, parent_id, root_id, name, status",
                "size_gib, object_count, metadata, data_timestamp, pack_set, logical_bytes, read_bytes",
                "stored_bytes, deduplicated_bytes, created_at, updated_at",
            ]),
            &texts(&[
                &i,
                &of_project,
                "'u'",
                &format!("'{one}'"),
                // Vaults have the ids of projects.
                &of_project,
                // Twenty of each volume.
                &sql_id(&format!("(1 + i % ({backups} / 20))")),
                &format!("CASE WHEN i % 10 <> 0 THEN {} END", sql_id("(i - 1)")),
                &format!("CASE WHEN i % 20 = 0 THEN {} END", sql_id("(i - 1)")),
                "'backup ' || (i * 7919 % 100003)",
                "CASE i % 5000 WHEN 1 THEN 'creating' WHEN 2 THEN 'deleting' ELSE 'available' END",
                "10, 3, '{}'",
                &created,
                &bytes("'0123456789012345678901234567890123456789'"),
                "1, 1, 1, 0",
                &created,
                &created,
            ]),
            backups,
        ),
        insert(
            "jobs",
            &texts(&[
                "id, lane, kind, subject, args, state, attempt, run_at, leased_until, progress_done",
                "progress_total, failures, orphaned, project_id, created_at, updated_at",
            ]),
            &texts(&[
                &i,
                "CASE i % 4 WHEN 0 THEN 'quick' ELSE 'backup' END",
                "'create_volume'",
                &i,
                &format!("'{{\"kind\":\"create_volume\",\"volume_id\":\"' || {i} || '\"}}'"),
                &format!(
                    "CASE WHEN i < {first_running} THEN 'available' WHEN i <= {last_running} THEN 'running' \
                     ELSE 'completed' END"
                ),
                &format!("1, {created}, {created}, 0, 0, 0, 0"),
                &of_project,
                &created,
                &created,
            ]),
            backups,
        ),
        // Fifty are of jobs that are forgotten.
        insert(
            "sessions",
            "job, attempt",
            &format!(
                "{}, CASE WHEN i + 50 BETWEEN {first_running} AND {last_running} THEN 1 ELSE {} END",
                sql_id("(i + 50)"),
                i32::MAX
            ),
            backups,
        ),
        insert(
            "volume_types",
            "id, name, is_public, extra_specs, qos_specs_id, created_at",
            &format!("{i}, 'type ' || i, i > 0, '{{}}', {i}, {created}"),
            TYPES,
        ),
        insert(
            "volumes",
            &texts(&[
                "id, project_id, user_id, name, size_gib, status, volume_type_id, bootable, snapshot_id",
                "source_volume_id, availability_zone, metadata, reserved_by, group_id, created_at, updated_at",
            ]),
            &texts(&[
                &i,
                &of_project,
                "'u'",
                "'volume ' || (i * 7919 % 100003)",
                "10",
                "CASE i % 1000 WHEN 3 THEN 'creating' WHEN 4 THEN 'deleting' ELSE 'available' END",
                &sql_id(&format!("(1 + i % {})", TYPES - 1)),
                "i < 0",
                &format!("CASE i % 10 WHEN 1 THEN {} END", sql_id("(i - 1)")),
                &format!("CASE i % 10 WHEN 2 THEN {} END", sql_id("(i - 1)")),
                "'nova', '{}'",
                &format!("CASE i % 1000 WHEN 3 THEN {i} || '#1' END"),
                &format!("CASE i % 10 WHEN 3 THEN {} END", sql_id("(i % 1000)")),
                &created,
                &created,
            ]),
            backups,
        ),
        insert(
            "snapshots",
            &texts(&[
                "id, volume_id, project_id, user_id, name, size_gib, status, metadata, reserved_by",
                "group_snapshot_id, created_at, updated_at",
            ]),
            &texts(&[
                &i,
                &i,
                &of_project,
                "'u'",
                "'snapshot ' || i",
                "10, CASE i % 1000 WHEN 3 THEN 'backing-up' ELSE 'available' END, '{}'",
                &format!("CASE i % 1000 WHEN 3 THEN {i} || '#1' END"),
                &format!("CASE i % 10 WHEN 3 THEN {} END", sql_id("(i % 1000)")),
                &created,
                &created,
            ]),
            backups,
        ),
        insert(
            "attachments",
            "id, volume_id, project_id, mode, status, created_at",
            &format!("{i}, {i}, {of_project}, 'rw', 'attached', {created}"),
            backups,
        ),
        insert(
            "messages",
            "id, project_id, action, detail, event_id, level, created_at, expires_at",
            &format!("{i}, {of_project}, 'a', 'd', 'e', 'ERROR', {created}, {created}"),
            backups,
        ),
        insert(
            "records",
            "id, kind, project_id, name, status, body, created_at",
            &format!(
                "{i}, CASE i % 4 WHEN 0 THEN 'qos_specs' WHEN 1 THEN 'group' WHEN 2 THEN 'group_snapshot' \
                 ELSE 'volume_transfer' END, {of_project}, 'record ' || i, \
                 CASE WHEN i <= 40 THEN 'creating' ELSE 'available' END, \
                 '{{\"consumer\":\"both\",\"specs\":{{}}}}', {created}"
            ),
            backups,
        ),
        // Fifty are held, and the others were let go.
        insert(
            "volume_holds",
            "job, attempt, subject, volume, released_at",
            &format!("{i}, 1, {i}, {i}, CASE WHEN i > 50 THEN {created} + 604800000000 END"),
            backups,
        ),
        insert(
            "volumes_in_making",
            "marker, volume, begun_at",
            &format!("{i}, {i}, {created} + 604800000000"),
            backups,
        ),
        insert("temporaries", "job, volume", &format!("{i}, {i}"), 50),
        insert("noted_roots", "backup", &i, backups),
        insert(
            "tokens",
            &texts(&[
                "hash, audit_id, parent_audit_id, chain_id, user_id, generation, project_id, methods",
                "application_credential_id, issued_at, expires_at",
            ]),
            &texts(&[
                &bytes(&i),
                "'audit ' || i, CASE i % 10 WHEN 0 THEN 'audit ' || (i - 1) END, 'chain ' || i",
                &sql_id(&format!("(1 + i % {vaults})")),
                "0",
                &of_project,
                "'[\"password\"]'",
                &format!("CASE i % 10 WHEN 1 THEN {i} END"),
                &created,
                &created,
            ]),
            backups,
        ),
        insert(
            "application_credentials",
            "id, name, user_id, project_id, roles, secret_hash, created_at",
            &format!(
                "{i}, 'credential ' || i, {}, {of_project}, '[\"member\"]', {}, {created}",
                sql_id(&format!("(1 + i % {vaults})")),
                bytes(&i)
            ),
            backups,
        ),
        insert(
            "quotas",
            "scope, name, resource, hard_limit",
            &format!("'project', {i}, 'backups', 10"),
            vaults,
        ),
        "DROP TABLE numbers".to_owned(),
    ]
}
