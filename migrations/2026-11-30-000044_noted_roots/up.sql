-- Backups whose root is about to be stored, or is stored, until they are available. A root in the storage whose backup is
-- neither available nor noted here is newer than the database: that is a copy from before.
CREATE TABLE noted_roots (
    backup TEXT NOT NULL PRIMARY KEY
);
-- Earlier versions did not note it.
INSERT INTO noted_roots (backup) SELECT id FROM backups WHERE pack_set IS NULL;
