-- Each query finds its rows by an index, however large its table is; tests/suite/plans.rs holds that.
-- SQLite uses a partial index only where the query repeats the index's condition with the same words, and a
-- bound value is no word: a partial index on a state is of no use to it, so that those on jobs are whole.

CREATE INDEX jobs_state ON jobs (state, lane, run_at);
CREATE INDEX jobs_subject ON jobs (subject);
CREATE INDEX jobs_touched ON jobs (updated_at);
CREATE INDEX sessions_attempt ON sessions (attempt);

-- What a vault holds, and what of it is damaged.
CREATE INDEX backups_vault ON backups (vault_id, created_at, id) WHERE vault_id IS NOT NULL;
-- The vault in it too, or SQLite would go through all backups of the vault instead.
DROP INDEX backups_root;
CREATE INDEX backups_root ON backups (root_id, vault_id) WHERE root_id IS NOT NULL;
-- Where many packs of a vault were named, SQLite went through all of a state by this one.
DROP INDEX packs_by_state;
CREATE INDEX packs_damaged ON packs (vault, number) WHERE damage IS NOT NULL;
CREATE INDEX unknown_objects_vault ON unknown_objects (vault);

-- What only a job can end, in the words of db/orphans.rs. An index on every status would be chosen by SQLite
-- where it is the worse one.
CREATE INDEX backups_busy ON backups (status) WHERE status IN ('creating', 'restoring', 'deleting');
CREATE INDEX volumes_busy ON volumes (status)
    WHERE status IN ('creating', 'deleting', 'extending', 'backing-up', 'restoring-backup');

-- Lists of all projects, in the default order.
CREATE INDEX backups_time ON backups (created_at, id);
CREATE INDEX volumes_time ON volumes (created_at, id);
CREATE INDEX snapshots_time ON snapshots (created_at, id);
CREATE INDEX messages_time ON messages (created_at, id);
CREATE INDEX attachments_time ON attachments (created_at, id);
DROP INDEX attachments_volume;
CREATE INDEX attachments_volume ON attachments (volume_id, project_id, created_at, id);
CREATE INDEX attachments_project ON attachments (project_id, created_at, id);
CREATE INDEX records_time ON records (kind, created_at, id);
CREATE INDEX records_name ON records (kind, name, created_at, id);
CREATE INDEX records_status ON records (kind, status, created_at, id);

-- What a project uses of its quota, from the index alone.
CREATE INDEX backups_usage ON backups (project_id, size_gib);
CREATE INDEX volumes_usage ON volumes (project_id, size_gib);
CREATE INDEX snapshots_usage ON snapshots (project_id, size_gib);

-- What a summary of the volumes of a project goes through, some at a time.
CREATE INDEX volumes_project_id ON volumes (project_id, id);

-- Who refers to a row that is to go.
CREATE INDEX volumes_source ON volumes (source_volume_id) WHERE source_volume_id IS NOT NULL;
CREATE INDEX volumes_snapshot ON volumes (snapshot_id) WHERE snapshot_id IS NOT NULL;
CREATE INDEX volumes_type ON volumes (volume_type_id);
CREATE INDEX snapshots_group ON snapshots (group_snapshot_id) WHERE group_snapshot_id IS NOT NULL;
CREATE INDEX assignments_project ON assignments (project_id);
CREATE INDEX application_credentials_project ON application_credentials (project_id);
