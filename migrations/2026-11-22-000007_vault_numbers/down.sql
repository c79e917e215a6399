ALTER TABLE storages DROP COLUMN last_vault;
