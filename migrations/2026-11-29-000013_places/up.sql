-- Copies of volumes have a lane of their own. SQLite changes no CHECK, so that the table is made anew.
CREATE TABLE new_jobs (
    id TEXT PRIMARY KEY NOT NULL,
    lane TEXT NOT NULL CHECK (lane IN ('backup', 'copy', 'quick')),
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
INSERT INTO new_jobs (
    id, lane, kind, subject, args, state, attempt, run_at, leased_until, worker, holder, reason,
    progress_done, progress_total, failures, orphaned, checkpoint, request_id, cancel_requested, project_id, beats,
    created_at, updated_at
) SELECT
    id, lane, kind, subject, args, state, attempt, run_at, leased_until, worker, holder, reason,
    progress_done, progress_total, failures, orphaned, checkpoint, request_id, cancel_requested, project_id, beats,
    created_at, updated_at
FROM jobs;
DROP TABLE jobs;
ALTER TABLE new_jobs RENAME TO jobs;
CREATE UNIQUE INDEX jobs_one_live ON jobs (subject) WHERE state IN ('available', 'running');
-- Which projects have a job waiting in a lane, and which job of each is due first.
CREATE INDEX jobs_waiting ON jobs (lane, project_id, run_at, id) WHERE state = 'available';
-- How many jobs of a project run in a lane.
CREATE INDEX jobs_running ON jobs (lane, project_id) WHERE state = 'running';

-- How many jobs of each lane a worker runs at once.
ALTER TABLE workers ADD COLUMN backups INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN copies INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN quick INTEGER NOT NULL DEFAULT 0;
