//! The tables, as diesel sees them. `migrations/` makes them, on both databases.

diesel::table! {
    storages (id) { id -> Text, name -> Text, master_key_check -> Text, created_at -> BigInt, last_vault -> BigInt, }
}
diesel::table! {
    vaults (number) {
        number -> BigInt, id -> Text, project_id -> Text, storage_id -> Text, next_pack -> BigInt, created_at -> BigInt,
        generation -> BigInt, record -> Nullable<Text>, collected_at -> Nullable<BigInt>, verified_at -> Nullable<BigInt>, verifying_since -> Nullable<BigInt>,
        collect_failures -> Integer, collect_failed_at -> Nullable<BigInt>, verify_failures -> Integer, verify_failed_at -> Nullable<BigInt>,
    }
}
diesel::table! {
    packs (vault, number) {
        vault -> BigInt, number -> BigInt, rewrite -> Integer, kind -> Text, state -> Text,
        session -> Nullable<Text>, stored_bytes -> BigInt, chunk_count -> BigInt,
        condemned_in -> Nullable<BigInt>, frame_count -> BigInt, rewrites -> Integer,
        damage -> Nullable<Text>, verified_at -> Nullable<BigInt>,
    }
}
diesel::table! {
    session_packs (session, vault, pack) {
        session -> Text, vault -> BigInt, pack -> BigInt, rewrite -> Nullable<Integer>,
    }
}
diesel::table! {
    chunks (vault, id) {
        vault -> BigInt, id -> Binary, pack -> BigInt, ordinal -> Integer, length -> Integer,
        frame_offset -> Integer, frame_length -> Integer, frame_check -> BigInt,
    }
}
diesel::table! {
    // Diesel wants a key; the rows have none.
    lost_chunks (vault, pack, ordinal, frame_offset) {
        vault -> BigInt, id -> Binary, pack -> BigInt, ordinal -> Integer, length -> Integer,
        frame_offset -> Integer, frame_length -> Integer, frame_check -> BigInt,
    }
}
diesel::table! {
    backups (id) {
        id -> Text, project_id -> Text, user_id -> Text, storage_id -> Text, vault_id -> Nullable<Text>,
        volume_id -> Text, snapshot_id -> Nullable<Text>, parent_id -> Nullable<Text>,
        name -> Nullable<Text>, description -> Nullable<Text>, status -> Text, size_gib -> BigInt,
        object_count -> BigInt, fail_reason -> Nullable<Text>, availability_zone -> Nullable<Text>,
        container -> Nullable<Text>, metadata -> Text, data_timestamp -> Nullable<BigInt>,
        restore_volume_id -> Nullable<Text>, root_id -> Nullable<Text>, pack_set -> Nullable<Binary>, logical_bytes -> BigInt,
        read_bytes -> BigInt, stored_bytes -> BigInt, deduplicated_bytes -> BigInt,
        created_at -> BigInt, updated_at -> Nullable<BigInt>,
        volume_type -> Nullable<Text>, volume_zone -> Nullable<Text>,
    }
}
diesel::table! {
    jobs (id) {
        id -> Text, #[sql_name = "lane"] queue -> Text, kind -> Text, subject -> Text, args -> Text, state -> Text,
        attempt -> Integer, run_at -> BigInt, leased_until -> Nullable<BigInt>, worker -> Nullable<Text>,
        reason -> Nullable<Text>, progress_done -> BigInt, progress_total -> BigInt,
        failures -> Integer, orphaned -> Integer, checkpoint -> Nullable<Text>,
        request_id -> Nullable<Text>, cancel_requested -> Bool, project_id -> Nullable<Text>,
        #[sql_name = "beats"] heartbeats -> BigInt, holder -> Nullable<Text>, created_at -> BigInt, updated_at -> BigInt,
    }
}
diesel::table! { unknown_objects (object) { object -> Text, vault -> BigInt, generation -> BigInt, } }
diesel::table! { removed_roots (vault, root) { vault -> BigInt, root -> Text, was_available -> Bool, } }
diesel::table! { noted_roots (backup) { backup -> Text, } }
diesel::table! { sessions (job) { job -> Text, attempt -> Integer, } }
diesel::table! {
    workers (name) {
        name -> Text, started_at -> BigInt, seen_at -> BigInt, backups -> Integer, copies -> Integer, quick -> Integer,
    }
}
diesel::table! {
    volumes (id) {
        id -> Text, project_id -> Text, user_id -> Text, name -> Nullable<Text>, description -> Nullable<Text>,
        size_gib -> BigInt, status -> Text, previous_status -> Nullable<Text>, volume_type_id -> Text,
        bootable -> Bool, readonly -> Nullable<Bool>, snapshot_id -> Nullable<Text>, source_volume_id -> Nullable<Text>,
        availability_zone -> Text, metadata -> Text, reserved_by -> Nullable<Text>, released_by -> Nullable<Text>,
        group_id -> Nullable<Text>, multiattach -> Bool, image_metadata -> Text,
        created_at -> BigInt, updated_at -> Nullable<BigInt>, growth_gib -> BigInt,
    }
}
diesel::table! {
    snapshots (id) {
        id -> Text, volume_id -> Text, project_id -> Text, user_id -> Text, name -> Nullable<Text>,
        description -> Nullable<Text>, size_gib -> BigInt, status -> Text, metadata -> Text,
        reserved_by -> Nullable<Text>, released_by -> Nullable<Text>,
        group_snapshot_id -> Nullable<Text>, progress -> Nullable<Text>, created_at -> BigInt, updated_at -> Nullable<BigInt>,
        taken_at -> Nullable<BigInt>,
    }
}
diesel::table! {
    attachments (id) {
        id -> Text, volume_id -> Text, project_id -> Text, instance_id -> Nullable<Text>, host -> Nullable<Text>,
        mountpoint -> Nullable<Text>, mode -> Text, status -> Text, connector -> Nullable<Text>,
        attached_at -> Nullable<BigInt>, created_at -> BigInt,
    }
}
diesel::table! {
    volume_types (id) {
        id -> Text, name -> Text, description -> Nullable<Text>, is_public -> Bool, extra_specs -> Text,
        created_at -> BigInt, updated_at -> Nullable<BigInt>, qos_specs_id -> Nullable<Text>, encryption -> Nullable<Text>, projects -> Text,
    }
}
diesel::table! {
    messages (id) {
        id -> Text, project_id -> Text, request_id -> Nullable<Text>, action -> Text, detail -> Text,
        event_id -> Text, level -> Text, resource_type -> Nullable<Text>, resource_uuid -> Nullable<Text>,
        created_at -> BigInt, expires_at -> BigInt,
    }
}
diesel::table! {
    quotas (scope, name, resource) { scope -> Text, name -> Text, resource -> Text, hard_limit -> BigInt, }
}
diesel::table! {
    services (name) {
        name -> Text, disabled -> Bool, disabled_reason -> Nullable<Text>, frozen -> Bool, updated_at -> BigInt,
    }
}
diesel::table! {
    records (id) {
        id -> Text, kind -> Text, project_id -> Text, name -> Nullable<Text>, status -> Text, body -> Text,
        created_at -> BigInt, updated_at -> Nullable<BigInt>,
    }
}
diesel::table! {
    users (id) {
        id -> Text, name -> Text, password_hash -> Text, generation -> BigInt, origin -> Text, is_enabled -> Bool,
        description -> Nullable<Text>, email -> Nullable<Text>, default_project_id -> Nullable<Text>,
    }
}
diesel::table! {
    projects (id) {
        id -> Text, name -> Text, is_enabled -> Bool, description -> Text, tags -> Text, generation -> BigInt,
    }
}
diesel::table! {
    assignments (user_id, project_id) { user_id -> Text, project_id -> Text, role -> Text, is_configured -> Bool, }
}
diesel::table! {
    tokens (hash) {
        hash -> Binary, audit_id -> Text, parent_audit_id -> Nullable<Text>, chain_id -> Text, user_id -> Text,
        generation -> BigInt, project_id -> Nullable<Text>, project_generation -> BigInt, methods -> Text,
        application_credential_id -> Nullable<Text>, issued_at -> BigInt, expires_at -> BigInt,
    }
}
diesel::table! {
    application_credentials (id) {
        id -> Text, name -> Text, description -> Nullable<Text>, user_id -> Text, project_id -> Text, roles -> Text,
        secret_hash -> Binary, expires_at -> Nullable<BigInt>, created_at -> BigInt,
    }
}
diesel::table! {
    volume_holds (job) {
        job -> Text, attempt -> Integer, subject -> Text, volume -> Text, is_new -> Nullable<Bool>,
        status_before -> Nullable<Text>, released_at -> Nullable<BigInt>,
    }
}
diesel::table! {
    volumes_in_making (marker) { marker -> Text, volume -> Nullable<Text>, begun_at -> BigInt, unwanted -> Bool, }
}
diesel::table! {
    processes (id) {
        id -> Text, role -> Text, host -> Text, version -> Text, started_at -> BigInt, seen_at -> BigInt,
    }
}
diesel::table! { migrated_by (migration) { migration -> Text, program -> Text, } }
diesel::table! {
    temporaries (job) {
        job -> Text, asked_at -> Nullable<BigInt>, volume -> Nullable<Text>, connector -> Nullable<Text>,
    }
}
diesel::allow_tables_to_appear_in_same_query!(
    backups,
    noted_roots,
    packs,
    session_packs,
    sessions,
    jobs,
    volumes,
    snapshots,
    volume_types,
    users,
    projects,
    assignments,
    tokens,
    application_credentials
);
