-- What Keystone keeps of users and projects, too. Whoever is disabled cannot log in.
ALTER TABLE users ADD COLUMN is_enabled BOOLEAN NOT NULL DEFAULT TRUE;
ALTER TABLE users ADD COLUMN description TEXT;
ALTER TABLE users ADD COLUMN email TEXT;
ALTER TABLE users ADD COLUMN default_project_id TEXT;
ALTER TABLE projects ADD COLUMN is_enabled BOOLEAN NOT NULL DEFAULT TRUE;
ALTER TABLE projects ADD COLUMN description TEXT NOT NULL DEFAULT '';
-- A JSON list.
ALTER TABLE projects ADD COLUMN tags TEXT NOT NULL DEFAULT '[]';
-- The generation of tokens in a project, as users have one: disabling it ends them.
ALTER TABLE projects ADD COLUMN generation BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tokens ADD COLUMN project_generation BIGINT NOT NULL DEFAULT 0;
