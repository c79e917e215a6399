-- Every process of the service on this database, so that versions that differ are seen.
CREATE TABLE processes (
    id TEXT NOT NULL PRIMARY KEY,
    role TEXT NOT NULL,
    host TEXT NOT NULL,
    version TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL
);
-- Which version of the program made the tables what they are. An older one that meets them names it.
CREATE TABLE migrated_by (
    migration TEXT NOT NULL PRIMARY KEY,
    program TEXT NOT NULL
);
