ALTER TABLE backups DROP COLUMN volume_zone;
ALTER TABLE backups DROP COLUMN volume_type;
