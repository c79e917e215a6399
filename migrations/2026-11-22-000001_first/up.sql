-- One tree for SQLite and PostgreSQL. Times are microseconds since 1970; ids are text; SQLite
-- takes any type name, so byte strings bear PostgreSQL's.

CREATE TABLE storages (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL UNIQUE,
    master_key_check TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE vaults (
    number BIGINT PRIMARY KEY NOT NULL,
    id TEXT NOT NULL UNIQUE,
    project_id TEXT NOT NULL,
    storage_id TEXT NOT NULL REFERENCES storages (id),
    next_pack BIGINT NOT NULL CHECK (next_pack >= 0),
    created_at BIGINT NOT NULL,
    UNIQUE (project_id, storage_id)
);

CREATE TABLE packs (
    vault BIGINT NOT NULL REFERENCES vaults (number),
    number BIGINT NOT NULL,
    rewrite INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('data', 'meta')),
    state TEXT NOT NULL CHECK (state IN ('writing', 'live', 'condemned', 'deleting', 'gone')),
    session TEXT,
    stored_bytes BIGINT NOT NULL,
    chunk_count BIGINT NOT NULL,
    PRIMARY KEY (vault, number)
);
CREATE INDEX packs_session ON packs (session) WHERE session IS NOT NULL;

CREATE TABLE session_packs (
    session TEXT NOT NULL,
    vault BIGINT NOT NULL,
    pack BIGINT NOT NULL,
    PRIMARY KEY (session, vault, pack)
);

CREATE TABLE chunks (
    vault BIGINT NOT NULL,
    id BYTEA NOT NULL,
    pack BIGINT NOT NULL,
    ordinal INTEGER NOT NULL,
    length INTEGER NOT NULL,
    PRIMARY KEY (vault, id)
);

CREATE TABLE backups (
    id TEXT PRIMARY KEY NOT NULL,
    project_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    storage_id TEXT NOT NULL REFERENCES storages (id),
    vault_id TEXT,
    volume_id TEXT NOT NULL,
    snapshot_id TEXT,
    parent_id TEXT,
    name TEXT,
    description TEXT,
    status TEXT NOT NULL CHECK (status IN ('creating', 'available', 'restoring', 'deleting', 'error', 'error_deleting')),
    size_gib BIGINT NOT NULL,
    object_count BIGINT NOT NULL,
    fail_reason TEXT,
    availability_zone TEXT,
    container TEXT,
    metadata TEXT NOT NULL,
    data_timestamp BIGINT,
    restore_volume_id TEXT,
    pack_set BYTEA,
    logical_bytes BIGINT NOT NULL,
    read_bytes BIGINT NOT NULL,
    stored_bytes BIGINT NOT NULL,
    deduplicated_bytes BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT,
    CHECK (status NOT IN ('available', 'restoring') OR pack_set IS NOT NULL)
);
CREATE INDEX backups_project ON backups (project_id, created_at, id);
CREATE INDEX backups_volume ON backups (volume_id, project_id);
CREATE INDEX backups_parent ON backups (parent_id) WHERE parent_id IS NOT NULL;

CREATE TABLE jobs (
    id TEXT PRIMARY KEY NOT NULL,
    lane TEXT NOT NULL CHECK (lane IN ('backup', 'quick')),
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    args TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('available', 'running', 'completed', 'cancelled', 'discarded')),
    attempt INTEGER NOT NULL,
    run_at BIGINT NOT NULL,
    leased_until BIGINT,
    worker TEXT,
    reason TEXT,
    progress_done BIGINT NOT NULL,
    progress_total BIGINT NOT NULL,
    failures INTEGER NOT NULL,
    orphaned INTEGER NOT NULL,
    checkpoint TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    CHECK (state <> 'running' OR leased_until IS NOT NULL)
);
CREATE UNIQUE INDEX jobs_one_live ON jobs (subject) WHERE state IN ('available', 'running');
CREATE INDEX jobs_claim ON jobs (lane, state, run_at) WHERE state IN ('available', 'running');

CREATE TABLE volumes (
    id TEXT PRIMARY KEY NOT NULL,
    project_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    name TEXT,
    description TEXT,
    size_gib BIGINT NOT NULL CHECK (size_gib > 0),
    status TEXT NOT NULL,
    previous_status TEXT,
    volume_type_id TEXT NOT NULL,
    bootable BOOLEAN NOT NULL,
    readonly BOOLEAN,
    snapshot_id TEXT,
    source_volume_id TEXT,
    availability_zone TEXT NOT NULL,
    metadata TEXT NOT NULL,
    reserved_by TEXT,
    released_by TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT
);
CREATE INDEX volumes_project ON volumes (project_id, created_at, id);

CREATE TABLE snapshots (
    id TEXT PRIMARY KEY NOT NULL,
    volume_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    name TEXT,
    description TEXT,
    size_gib BIGINT NOT NULL,
    status TEXT NOT NULL,
    metadata TEXT NOT NULL,
    reserved_by TEXT,
    released_by TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT
);
CREATE INDEX snapshots_project ON snapshots (project_id, created_at, id);
CREATE INDEX snapshots_volume ON snapshots (volume_id);

CREATE TABLE attachments (
    id TEXT PRIMARY KEY NOT NULL,
    volume_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    instance_id TEXT,
    host TEXT,
    mountpoint TEXT,
    mode TEXT NOT NULL,
    status TEXT NOT NULL,
    connector TEXT,
    attached_at BIGINT,
    created_at BIGINT NOT NULL
);
CREATE INDEX attachments_volume ON attachments (volume_id);

CREATE TABLE volume_types (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL UNIQUE,
    description TEXT,
    is_public BOOLEAN NOT NULL,
    extra_specs TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE users (id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL UNIQUE, password_hash TEXT NOT NULL);

CREATE TABLE projects (id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL UNIQUE);

CREATE TABLE assignments (
    user_id TEXT NOT NULL REFERENCES users (id),
    project_id TEXT NOT NULL REFERENCES projects (id),
    role TEXT NOT NULL CHECK (role IN ('admin', 'member', 'reader')),
    PRIMARY KEY (user_id, project_id)
);

CREATE TABLE tokens (
    hash BYTEA PRIMARY KEY NOT NULL,
    user_id TEXT NOT NULL,
    project_id TEXT,
    methods TEXT NOT NULL,
    roles TEXT NOT NULL,
    application_credential_id TEXT,
    audit_id TEXT NOT NULL,
    issued_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX tokens_expiry ON tokens (expires_at);

CREATE TABLE application_credentials (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    user_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    roles TEXT NOT NULL,
    secret_hash BYTEA NOT NULL,
    expires_at BIGINT,
    created_at BIGINT NOT NULL,
    UNIQUE (user_id, name)
);
