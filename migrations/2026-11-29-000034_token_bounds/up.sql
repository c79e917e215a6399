-- How many tokens of a log-in and of a user are alive, from an index alone: each new one asks.
CREATE INDEX tokens_chain ON tokens (chain_id, expires_at);
DROP INDEX tokens_user;
CREATE INDEX tokens_user ON tokens (user_id, expires_at);
