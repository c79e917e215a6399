-- Compaction, verification, and their schedule.

-- Frames in a pack; 0 where nobody has counted.
ALTER TABLE packs ADD COLUMN frame_count BIGINT NOT NULL DEFAULT 0;
-- The last rewrite number that was handed out: a number is never used for two objects.
ALTER TABLE packs ADD COLUMN rewrites INTEGER NOT NULL DEFAULT 0;
-- What the last verification found wrong with a pack, and when it was last read whole.
ALTER TABLE packs ADD COLUMN damage TEXT;
ALTER TABLE packs ADD COLUMN verified_at BIGINT;

ALTER TABLE vaults ADD COLUMN collected_at BIGINT;
ALTER TABLE vaults ADD COLUMN verified_at BIGINT;
-- A full verification that is under way, or was cut off.
ALTER TABLE vaults ADD COLUMN verifying_since BIGINT;

-- Chunks of damaged packs: out of the index, so that they are stored again, and kept for the repair.
CREATE TABLE lost_chunks (
    vault BIGINT NOT NULL,
    id BYTEA NOT NULL,
    pack BIGINT NOT NULL,
    ordinal INTEGER NOT NULL,
    length INTEGER NOT NULL,
    frame_offset INTEGER NOT NULL,
    frame_length INTEGER NOT NULL,
    frame_check BIGINT NOT NULL
);
CREATE INDEX lost_chunks_pack ON lost_chunks (vault, pack);

-- Roots of backups that were deleted. One that appears all the same was stored by a run that had been
-- overtaken, and goes; any other root that the database does not know stops the collector.
CREATE TABLE removed_roots (
    root TEXT PRIMARY KEY NOT NULL
);

-- Objects of packs that the database does not know, since a generation. What no backup needs goes with a
-- later one.
CREATE TABLE unknown_objects (
    object TEXT PRIMARY KEY NOT NULL,
    vault BIGINT NOT NULL,
    generation BIGINT NOT NULL
);
