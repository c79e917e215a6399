-- Chunks lie in frames: runs of chunks that are compressed and sealed together.
ALTER TABLE chunks ADD COLUMN frame_offset INTEGER NOT NULL DEFAULT 0;
ALTER TABLE chunks ADD COLUMN frame_length INTEGER NOT NULL DEFAULT 0;
ALTER TABLE chunks ADD COLUMN frame_check BIGINT NOT NULL DEFAULT 0;
