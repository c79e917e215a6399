DROP INDEX packs_by_state;
DROP INDEX chunks_by_pack;
ALTER TABLE packs DROP COLUMN condemned_in;
ALTER TABLE vaults DROP COLUMN generation;
