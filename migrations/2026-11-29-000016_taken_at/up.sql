-- When the copy of a snapshot was begun: what it holds is that of no earlier moment. `created_at` is when it was asked
-- for. Unknown of snapshots that others make.
ALTER TABLE snapshots ADD COLUMN taken_at BIGINT;
