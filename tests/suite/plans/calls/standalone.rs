//! Volumes and snapshots of the stand-in for Cinder, with their types, groups and attachments.

use super::*;

pub(super) fn of_volumes() -> Vec<Call> {
    calls! { w;
        groups::volumes(&record(3));
        groups::volume_ids(&record(3));
        groups::snapshots(&record(3));
        groups::set_group(&volume(OTHER), Some(&record(3)), NOW);
        owners::give_volume(&volume(OTHER), (&project(BIG), &user(1)), NOW);
        owners::give_snapshot(&snapshot(OTHER), (&project(BIG), &user(1)), NOW);
        snapshots::list(&theirs(), &newest());
        snapshots::list["of all"](&all_projects(), &next());
        snapshots::count(&theirs());
        snapshots::count["of all"](&all_projects());
        snapshots::find(&snapshot(OTHER));
        snapshots::insert(&with(&w.snapshot, |row| row.id = SnapshotId::random()));
        snapshots::remove(&snapshot(OTHER));
        snapshots::transition(
            &snapshot(OTHER),
            &[SnapshotStatus::Available],
            SnapshotStatus::Deleting,
            None,
            NOW,
        );
        snapshots::busy();
        snapshots::release(&snapshot(1003), &Lease { job_id: job(1003), attempt: 1 }, NOW);
        snapshots::update(&snapshot(OTHER), renamed().as_ref(), None, None, NOW);
        snapshots::any_of(&volume(OTHER));
        snapshots::usage(&project(BIG));
        snapshots::usage_by_project();
        snapshots::set_progress(&snapshot(OTHER), "50%");
        snapshots::set_taken_at(&snapshot(OTHER), NOW);
        snapshots::of_volume(&volume(OTHER));
        types::list(Shown::OpenTo(&project(BIG)), &[], &newest());
        types::find(&w.kind.id);
        types::of_qos(&id(1));
        types::update(&w.kind);
        types::remove(&VolumeTypeId::new(id(TYPES)));
        types::is_used(&VolumeTypeId::new(id(TYPES)));
        volumes::list(&theirs(), &newest());
        volumes::list["of all"](&all_projects(), &next());
        volumes::count(&theirs());
        volumes::count["of all"](&all_projects());
        volumes::find(&volume(OTHER));
        volumes::named("volume 1");
        volumes::insert(&with(&w.volume, |row| row.id = VolumeId::random()));
        volumes::remove(&volume(OTHER));
        volumes::count_growth(&volume(OTHER), 1);
        volumes::transition(
            &volume(OTHER),
            &[VolumeStatus::Available],
            VolumeStatus::Deleting,
            None,
            NOW,
        );
        volumes::hand_over(&volume(1003), "holder");
        volumes::busy();
        volumes::is_being_copied(&volume(OTHER));
        volumes::is_being_made_from(&snapshot(OTHER));
        volumes::release(
            &volume(1003),
            &Lease { job_id: job(1003), attempt: 1 },
            VolumeStatus::Available,
            VolumeStatus::BackingUp,
            NOW,
        );
        volumes::update(
            &volume(OTHER),
            &db::standalone::volumes::Changes { name: renamed(), ..Default::default() },
            NOW,
        );
        volumes::sizes(&theirs());
        volumes::metadata_after(&theirs(), &volume(OTHER), 16);
        volumes::set_type(&volume(OTHER), &w.kind.id, NOW);
        volumes::set_image_metadata(&volume(OTHER), &Json::default());
        volumes::remove_attachments(&volume(OTHER));
        volumes::usage_by_project();
        volumes::usage(&project(BIG));
        volumes::usage_by_type(&project(BIG));
        volumes::attachments_of(vec![volume(1), volume(OTHER)]);
        volumes::list_attachments(Some(&project(BIG)), None);
        volumes::list_attachments["of a volume"](Some(&project(BIG)), Some(&volume(THEIRS)));
        volumes::list_attachments["of all"](None, None);
        volumes::find_attachment(&attachment(OTHER));
        volumes::insert_attachment(&with(&w.attachment, |row| row.id = AttachmentId::random()));
        volumes::update_attachment(&attachment(OTHER), AttachStatus::Attached, None, Some(NOW));
        volumes::remove_attachment(&attachment(OTHER));
        volumes::type_names();
        volumes::find_type("type 3");
        volumes::insert_type(&with(&w.kind, |row| {
            row.id = VolumeTypeId::random();
            row.name = "new".to_owned();
        }));
    }
}
