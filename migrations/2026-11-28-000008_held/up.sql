-- The object that a session's reference was taken on. A commit is refused if the pack is another object by then.
ALTER TABLE session_packs ADD COLUMN rewrite INTEGER;

-- Roots that were removed with their backup, by vault. `was_available`: the backup was complete, so a root that is
-- there again was put back; else a run that had been overtaken has stored it late. What the table held before
-- names no vault.
DROP TABLE removed_roots;
CREATE TABLE removed_roots (
    vault BIGINT NOT NULL,
    root TEXT NOT NULL,
    was_available BOOLEAN NOT NULL,
    PRIMARY KEY (vault, root)
);

-- How often in a row the scheduled work on a vault has failed, and when it last did.
ALTER TABLE vaults ADD COLUMN collect_failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vaults ADD COLUMN collect_failed_at BIGINT;
ALTER TABLE vaults ADD COLUMN verify_failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vaults ADD COLUMN verify_failed_at BIGINT;

-- Which worker's place the job runs in. Only one process at a time has a place, so the next one that takes it knows
-- that the one before is gone.
ALTER TABLE jobs ADD COLUMN holder TEXT;
