ALTER TABLE jobs DROP COLUMN holder;
ALTER TABLE vaults DROP COLUMN verify_failed_at;
ALTER TABLE vaults DROP COLUMN verify_failures;
ALTER TABLE vaults DROP COLUMN collect_failed_at;
ALTER TABLE vaults DROP COLUMN collect_failures;
DROP TABLE removed_roots;
CREATE TABLE removed_roots (root TEXT PRIMARY KEY NOT NULL);
ALTER TABLE session_packs DROP COLUMN rewrite;
