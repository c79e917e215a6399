ALTER TABLE workers DROP COLUMN quick;
ALTER TABLE workers DROP COLUMN copies;
ALTER TABLE workers DROP COLUMN backups;
CREATE TABLE old_jobs (
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
    holder TEXT,
    reason TEXT,
    progress_done BIGINT NOT NULL,
    progress_total BIGINT NOT NULL,
    failures INTEGER NOT NULL,
    orphaned INTEGER NOT NULL,
    checkpoint TEXT,
    request_id TEXT,
    cancel_requested BOOLEAN NOT NULL DEFAULT FALSE,
    project_id TEXT,
    beats BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    CHECK (state <> 'running' OR leased_until IS NOT NULL)
);
INSERT INTO old_jobs (
    id, lane, kind, subject, args, state, attempt, run_at, leased_until, worker, holder, reason,
    progress_done, progress_total, failures, orphaned, checkpoint, request_id, cancel_requested, project_id, beats,
    created_at, updated_at
) SELECT
    id, CASE lane WHEN 'copy' THEN 'quick' ELSE lane END, kind, subject, args, state, attempt, run_at, leased_until, worker, holder, reason,
    progress_done, progress_total, failures, orphaned, checkpoint, request_id, cancel_requested, project_id, beats,
    created_at, updated_at
FROM jobs;
DROP TABLE jobs;
ALTER TABLE old_jobs RENAME TO jobs;
CREATE UNIQUE INDEX jobs_one_live ON jobs (subject) WHERE state IN ('available', 'running');
CREATE INDEX jobs_claim ON jobs (lane, state, run_at) WHERE state IN ('available', 'running');
