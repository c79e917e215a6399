-- What backups and restores make at a Cinder, and connect to a machine, for the time of their jobs. A row is there before
-- anything of it, and goes after all of it: what was made is found by the job's id in its metadata.
CREATE TABLE temporaries (
    job TEXT NOT NULL PRIMARY KEY,
    -- When Cinder was last asked to make something, until its answer is there.
    asked_at BIGINT,
    -- The volume that is connected, or about to be.
    volume TEXT,
    -- What the machine that it is connected to says of itself, as JSON.
    connector TEXT
);
