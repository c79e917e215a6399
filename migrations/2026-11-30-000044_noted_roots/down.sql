DROP TABLE noted_roots;
