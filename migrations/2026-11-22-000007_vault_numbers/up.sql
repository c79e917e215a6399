-- The last number that was given to a vault of the storage: none is given twice, also after a vault was
-- shredded.
ALTER TABLE storages ADD COLUMN last_vault BIGINT NOT NULL DEFAULT 0;
