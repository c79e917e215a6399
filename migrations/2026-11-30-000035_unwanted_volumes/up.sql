-- Whether a volume in making is to be removed, as its restore was refused or given up. No restore may take it then.
ALTER TABLE volumes_in_making ADD COLUMN unwanted BOOLEAN NOT NULL DEFAULT FALSE;
