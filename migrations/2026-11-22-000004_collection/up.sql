-- Garbage collection: which generation condemned a pack, and the index rows of a pack.
ALTER TABLE vaults ADD COLUMN generation BIGINT NOT NULL DEFAULT 0;
ALTER TABLE packs ADD COLUMN condemned_in BIGINT;
CREATE INDEX chunks_by_pack ON chunks (vault, pack);
CREATE INDEX packs_by_state ON packs (vault, state);
