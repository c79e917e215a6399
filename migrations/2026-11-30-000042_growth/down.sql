ALTER TABLE volumes DROP COLUMN growth_gib;
