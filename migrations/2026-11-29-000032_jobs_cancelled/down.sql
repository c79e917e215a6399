DROP INDEX jobs_cancelled;
