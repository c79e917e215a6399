DROP TABLE temporaries;
