-- A backup's dependents are those of its project, and a role that is taken away takes a user's credentials in a project.
DROP INDEX backups_parent;
CREATE INDEX backups_parent ON backups (parent_id, project_id);
DROP INDEX application_credentials_project;
CREATE INDEX application_credentials_project ON application_credentials (project_id, user_id);
