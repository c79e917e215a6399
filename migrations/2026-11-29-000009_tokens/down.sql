DROP TABLE tokens;
CREATE TABLE tokens (
    hash BYTEA PRIMARY KEY NOT NULL,
    user_id TEXT NOT NULL,
    project_id TEXT,
    methods TEXT NOT NULL,
    roles TEXT NOT NULL,
    application_credential_id TEXT,
    audit_id TEXT NOT NULL,
    issued_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX tokens_expiry ON tokens (expires_at);
ALTER TABLE assignments DROP COLUMN is_configured;
ALTER TABLE users DROP COLUMN origin;
ALTER TABLE users DROP COLUMN generation;
