-- Nothing to undo: the index does without these rows.
SELECT 1;
