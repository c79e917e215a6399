-- Snapshots in a state that only a job can end, in the words of db/standalone/snapshots.rs.
CREATE INDEX snapshots_busy ON snapshots (status) WHERE status IN ('creating', 'deleting', 'backing-up');
