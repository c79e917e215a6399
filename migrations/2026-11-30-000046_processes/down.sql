DROP TABLE migrated_by;
DROP TABLE processes;
