-- The type and the zone of the volume that was backed up: a restore asks for them when it makes a volume. Unknown of
-- backups that were made before.
ALTER TABLE backups ADD COLUMN volume_type TEXT;
ALTER TABLE backups ADD COLUMN volume_zone TEXT;
