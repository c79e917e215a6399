-- Jobs that wait and are to end, in the words of db/jobs.rs.
CREATE INDEX jobs_cancelled ON jobs (lane, run_at, id) WHERE state = 'available' AND cancel_requested;
