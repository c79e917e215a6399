DROP INDEX session_packs_by_pack;
