-- What Cinder's whole API needs beyond the first light.

-- The backup under whose name the root is stored, where it is not the row's own: imported records
-- may share data.
ALTER TABLE backups ADD COLUMN root_id TEXT;
CREATE INDEX backups_root ON backups (root_id) WHERE root_id IS NOT NULL;

ALTER TABLE jobs ADD COLUMN request_id TEXT;
ALTER TABLE jobs ADD COLUMN cancel_requested BOOLEAN NOT NULL DEFAULT FALSE;

ALTER TABLE volumes ADD COLUMN group_id TEXT;
ALTER TABLE volumes ADD COLUMN multiattach BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE volumes ADD COLUMN image_metadata TEXT NOT NULL DEFAULT '{}';
CREATE INDEX volumes_group ON volumes (group_id) WHERE group_id IS NOT NULL;

ALTER TABLE snapshots ADD COLUMN group_snapshot_id TEXT;
ALTER TABLE snapshots ADD COLUMN progress TEXT;

ALTER TABLE volume_types ADD COLUMN updated_at BIGINT;
ALTER TABLE volume_types ADD COLUMN qos_specs_id TEXT;
ALTER TABLE volume_types ADD COLUMN encryption TEXT;
ALTER TABLE volume_types ADD COLUMN projects TEXT NOT NULL DEFAULT '[]';

-- What users are told about failures of their own requests.
CREATE TABLE messages (
    id TEXT PRIMARY KEY NOT NULL,
    project_id TEXT NOT NULL,
    request_id TEXT,
    action TEXT NOT NULL,
    detail TEXT NOT NULL,
    event_id TEXT NOT NULL,
    level TEXT NOT NULL,
    resource_type TEXT,
    resource_uuid TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX messages_project ON messages (project_id, created_at, id);
CREATE INDEX messages_expiry ON messages (expires_at);

-- Limits that differ from the configured ones: of a project, or of a class.
CREATE TABLE quotas (
    scope TEXT NOT NULL CHECK (scope IN ('project', 'class')),
    name TEXT NOT NULL,
    resource TEXT NOT NULL,
    hard_limit BIGINT NOT NULL,
    PRIMARY KEY (scope, name, resource)
);

-- Services an administrator has disabled or frozen.
CREATE TABLE services (
    name TEXT PRIMARY KEY NOT NULL,
    disabled BOOLEAN NOT NULL,
    disabled_reason TEXT,
    frozen BOOLEAN NOT NULL,
    updated_at BIGINT NOT NULL
);

-- Small resources of standalone mode that nothing else is joined with: a name, an owner and a JSON
-- body whose shape is the kind's.
CREATE TABLE records (
    id TEXT PRIMARY KEY NOT NULL,
    kind TEXT NOT NULL,
    project_id TEXT NOT NULL,
    name TEXT,
    status TEXT NOT NULL,
    body TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT
);
CREATE INDEX records_kind ON records (kind, project_id, created_at, id);
