ALTER TABLE snapshots DROP COLUMN taken_at;
