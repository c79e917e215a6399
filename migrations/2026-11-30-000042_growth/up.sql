-- GiB by which a volume is to grow, as long as it is being extended: quotas count them from the request on.
ALTER TABLE volumes ADD COLUMN growth_gib BIGINT NOT NULL DEFAULT 0;
