ALTER TABLE volumes_in_making DROP COLUMN unwanted;
