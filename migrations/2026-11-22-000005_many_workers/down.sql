ALTER TABLE vaults DROP COLUMN record;
ALTER TABLE jobs DROP COLUMN beats;
ALTER TABLE jobs DROP COLUMN project_id;
DROP TABLE workers;
DROP TABLE sessions;
