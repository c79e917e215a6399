-- What a token is good for is looked up whenever it is used; the token itself only says whose it is.

-- The generation of a user's tokens: another password makes another one, and tokens of the one before end.
ALTER TABLE users ADD COLUMN generation BIGINT NOT NULL DEFAULT 0;
-- Who has made the user: the configuration, or an administrator through the API. One that the configuration no
-- longer names is dropped. So far nobody noted which: the next start does so for those it names. All others keep
-- what they have, as an administrator may have made them.
ALTER TABLE users ADD COLUMN origin TEXT NOT NULL DEFAULT 'made' CHECK (origin IN ('configured', 'made', 'dropped'));
ALTER TABLE assignments ADD COLUMN is_configured BOOLEAN NOT NULL DEFAULT FALSE;

-- The tokens of before hold copies of roles and renewed themselves without end: everybody logs in again.
DROP TABLE tokens;
CREATE TABLE tokens (
    hash BYTEA PRIMARY KEY NOT NULL,
    audit_id TEXT NOT NULL UNIQUE,
    -- The token it was got with, if any, and the first one of that line.
    parent_audit_id TEXT,
    chain_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    generation BIGINT NOT NULL,
    project_id TEXT,
    methods TEXT NOT NULL,
    application_credential_id TEXT,
    issued_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX tokens_expiry ON tokens (expires_at);
CREATE INDEX tokens_parent ON tokens (parent_audit_id) WHERE parent_audit_id IS NOT NULL;
CREATE INDEX tokens_user ON tokens (user_id);
CREATE INDEX tokens_project ON tokens (project_id) WHERE project_id IS NOT NULL;
CREATE INDEX tokens_credential ON tokens (application_credential_id) WHERE application_credential_id IS NOT NULL;
