DROP TABLE volumes_in_making;
DROP TABLE volume_holds;
