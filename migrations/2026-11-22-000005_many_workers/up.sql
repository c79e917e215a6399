-- Many processes on one database: who works, who is alive, and whose turn it is.

-- The run of a job that may write packs now. A run that was overtaken finds a higher attempt here.
CREATE TABLE sessions (
    job TEXT PRIMARY KEY NOT NULL,
    attempt INTEGER NOT NULL
);

-- Processes that run jobs.
CREATE TABLE workers (
    name TEXT PRIMARY KEY NOT NULL,
    started_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL
);

ALTER TABLE jobs ADD COLUMN project_id TEXT;
-- Signs of life of the worker. Another worker that sees the number stand still for the length of a
-- lease, by a clock that cannot be set, takes the job.
ALTER TABLE jobs ADD COLUMN beats BIGINT NOT NULL DEFAULT 0;

-- The vault's record, wrapped key included, as it is (to be) stored. Decided here, so that two that
-- make a vault at once make the same one.
ALTER TABLE vaults ADD COLUMN record TEXT;
