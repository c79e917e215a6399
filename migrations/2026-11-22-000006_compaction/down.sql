DROP TABLE removed_roots;
DROP TABLE lost_chunks;
ALTER TABLE vaults DROP COLUMN verifying_since;
ALTER TABLE vaults DROP COLUMN verified_at;
ALTER TABLE vaults DROP COLUMN collected_at;
ALTER TABLE packs DROP COLUMN verified_at;
ALTER TABLE packs DROP COLUMN damage;
ALTER TABLE packs DROP COLUMN rewrites;
ALTER TABLE packs DROP COLUMN frame_count;
