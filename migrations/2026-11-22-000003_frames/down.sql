ALTER TABLE chunks DROP COLUMN frame_check;
ALTER TABLE chunks DROP COLUMN frame_length;
ALTER TABLE chunks DROP COLUMN frame_offset;
