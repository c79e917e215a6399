-- What jobs hold of volumes that a Cinder keeps. A row is there before anything is changed at the Cinder, so that what
-- was changed is always changed back.
CREATE TABLE volume_holds (
    job TEXT NOT NULL PRIMARY KEY,
    -- The run of the job that holds it now.
    attempt INTEGER NOT NULL,
    -- The volume, or the snapshot that a backup is made of. One job at a time.
    subject TEXT NOT NULL,
    volume TEXT NOT NULL,
    -- Of a restore: whether the volume was made for it. Of a backup, nothing.
    is_new BOOLEAN,
    -- What the volume's state was, where the job has changed it.
    status_before TEXT,
    -- When the job let go. From then on it holds nothing again.
    released_at BIGINT
);
CREATE UNIQUE INDEX volume_holds_held ON volume_holds (subject) WHERE released_at IS NULL;
CREATE INDEX volume_holds_released ON volume_holds (released_at);

-- Volumes that are made for restores which are not accepted yet. A row is there before its volume.
CREATE TABLE volumes_in_making (
    -- What the volume's metadata says.
    marker TEXT NOT NULL PRIMARY KEY,
    -- The volume, once Cinder has named it.
    volume TEXT,
    begun_at BIGINT NOT NULL
);
CREATE INDEX volumes_in_making_volume ON volumes_in_making (volume);
CREATE INDEX volumes_in_making_begun ON volumes_in_making (begun_at);
