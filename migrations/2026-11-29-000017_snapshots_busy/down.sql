DROP INDEX snapshots_busy;
