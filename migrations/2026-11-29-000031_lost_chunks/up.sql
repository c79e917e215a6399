-- Chunks that were kept aside of packs which were found sound since. They may lead to frames that a compaction has
-- dropped by now, so they must not return to the index. From now on they do as soon as the mark of a pack goes.
DELETE FROM lost_chunks WHERE NOT EXISTS (
    SELECT 1 FROM packs
    WHERE packs.vault = lost_chunks.vault AND packs.number = lost_chunks.pack AND packs.damage IS NOT NULL
);
