DROP INDEX backups_parent;
CREATE INDEX backups_parent ON backups (parent_id);
DROP INDEX application_credentials_project;
CREATE INDEX application_credentials_project ON application_credentials (project_id);
