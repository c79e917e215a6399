-- Who relies on a pack is asked pack by pack; the primary key begins with the session.
CREATE INDEX session_packs_by_pack ON session_packs (vault, pack);
