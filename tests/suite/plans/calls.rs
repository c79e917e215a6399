//! A call of every function of `db` that asks the database.

use crate::filled::{FIRST, RUNNING, TYPES, id, time};
use embervault::config::Quota;
use embervault::db::backups::Finished;
use embervault::db::jobs::Claimer;
use embervault::db::processes::ProcessRow;
use embervault::db::quotas::Scope;
use embervault::db::services::ServiceRow;
use embervault::db::standalone::identity::{ProjectChanges, TokensMax, UserChanges};
use embervault::db::standalone::types::Shown;
use embervault::db::standalone::{
    credentials, groups, identity, owners, records, snapshots, types, volumes,
};
use embervault::db::vaults::SHREDDED;
use embervault::db::workers::WorkerRow;
use embervault::db::{self, DbConnection, DbResult};
use embervault::db::{
    backups, chunks, gc, health, jobs, messages, orphans, packs, processes, quotas, services,
    sessions, temporaries, vaults, volume_holds, workers,
};
use embervault::model::backup::{Backup, BackupEvent, COLUMNS};
use embervault::model::column::Json;
use embervault::model::id::{
    AttachmentId, BackupId, JobId, MessageId, ProjectId, RecordId, SnapshotId, StorageId, UserId,
    VaultId, VolumeId, VolumeTypeId,
};
use embervault::model::job::{Checkpoint, Job, JobArgs, JobState, Lease, Queue, Upkeep};
use embervault::model::message::Message;
use embervault::model::number::{Ordinal, PackNumber, Rewrite};
use embervault::model::pack::{IndexedChunk, Pack, PackKind};
use embervault::model::page::{Condition, Filter, Order, Page, column};
use embervault::model::role::Role;
use embervault::model::snapshot::SnapshotStatus;
use embervault::model::standalone::attachment::Attachment;
use embervault::model::standalone::identity::{
    ApplicationCredential, Assignment, Origin, Project, TokenRow, User,
};
use embervault::model::standalone::qos::QosSpecs;
use embervault::model::standalone::snapshot::Snapshot;
use embervault::model::standalone::stored::Stored;
use embervault::model::standalone::volume::Volume;
use embervault::model::standalone::volume_type::VolumeType;
use embervault::model::time::Timestamp;
use embervault::model::vault::{StorageRow, VaultRow};
use embervault::model::volume::{AttachStatus, SavedVolume, VolumeStatus};

/// A call, under the function's name and, where there are several, what is special about it.
pub(super) struct Call {
    pub(super) name: &'static str,
    pub(super) run: fn(&mut DbConnection, &World) -> DbResult<()>,
}

impl Call {
    pub(super) fn is_among(&self, names: &[(&str, &str)]) -> bool {
        names.iter().any(|(name, _)| *name == self.name)
    }
}

/// The vault and the project with the most rows.
const BIG: i64 = 1;
/// A row of theirs, and one of others.
const THEIRS: i64 = 33;
const OTHER: i64 = 15_003;
/// A pack that is live.
const PACK: u32 = 55;
/// After fifty rows have expired.
const NOW: Timestamp = Timestamp(FIRST + 50_500_000);

/// Rows as they are.
pub(super) struct World {
    backup: Backup,
    imported: Backup,
    volume: Volume,
    snapshot: Snapshot,
    message: Message,
    attachment: Attachment,
    kind: VolumeType,
    record: Stored<QosSpecs>,
    user: User,
    project: Project,
    token: TokenRow,
    child: TokenRow,
    credential: ApplicationCredential,
    job: Job,
    vault: VaultRow,
    pack: Pack,
    chunk: IndexedChunk,
}

impl World {
    pub(super) fn read(c: &mut DbConnection) -> DbResult<Self> {
        let token = |c: &mut DbConnection, number: i64| {
            let found = db::standalone::identity::find_token(c, id(number).as_bytes(), NOW)?;
            DbResult::Ok(found.unwrap().0)
        };
        Ok(Self {
            backup: db::backups::find(c, &backup(THEIRS))?.unwrap(),
            imported: db::backups::find(c, &backup(40))?.unwrap(),
            volume: db::standalone::volumes::find(c, &volume(THEIRS))?.unwrap(),
            snapshot: db::standalone::snapshots::find(c, &snapshot(THEIRS))?.unwrap(),
            message: db::messages::find(c, &MessageId::new(id(THEIRS)))?.unwrap(),
            attachment: db::standalone::volumes::find_attachment(c, &attachment(THEIRS))?.unwrap(),
            kind: db::standalone::types::find(c, &VolumeTypeId::new(id(1)))?.unwrap(),
            record: db::standalone::records::find(c, &record(40))?.unwrap(),
            user: db::standalone::identity::user(c, &user(2))?.unwrap(),
            project: db::standalone::identity::project(c, &project(2))?.unwrap(),
            token: token(c, 101)?,
            child: token(c, 100)?,
            credential: db::standalone::credentials::find(c, &id(THEIRS))?.unwrap(),
            job: db::jobs::find(c, &job(THEIRS))?.unwrap(),
            vault: db::vaults::find_by_id(c, &vault(BIG))?.unwrap(),
            pack: db::packs::find(c, BIG, PACK.into())?.unwrap(),
            chunk: db::chunks::lookup(c, BIG, &[id(PACK.into()).into_bytes()])?.remove(0),
        })
    }
}

fn backup(number: i64) -> BackupId {
    BackupId::new(id(number))
}

fn volume(number: i64) -> VolumeId {
    VolumeId::new(id(number))
}

fn snapshot(number: i64) -> SnapshotId {
    SnapshotId::new(id(number))
}

fn attachment(number: i64) -> AttachmentId {
    AttachmentId::new(id(number))
}

fn record(number: i64) -> RecordId {
    RecordId::new(id(number))
}

fn project(number: i64) -> ProjectId {
    ProjectId::new(id(number))
}

fn user(number: i64) -> UserId {
    UserId::new(id(number))
}

fn vault(number: i64) -> VaultId {
    VaultId::new(id(number))
}

fn storage() -> StorageId {
    StorageId::new(id(1))
}

fn job(number: i64) -> JobId {
    JobId::new(id(number))
}

/// The lease of a running job, whose session has references.
fn lease() -> Lease {
    Lease {
        job_id: job(*RUNNING.start()),
        attempt: 1,
    }
}

fn of(project: &ProjectId) -> Filter {
    Filter {
        project: Some(project.clone()),
        conditions: Vec::new(),
    }
}

fn all_projects() -> Filter {
    Filter::default()
}

fn theirs() -> Filter {
    of(&project(BIG))
}

fn available() -> Filter {
    let status = column(COLUMNS, "status").unwrap();
    Filter {
        conditions: vec![Condition::Text(status, "available".to_owned())],
        ..theirs()
    }
}

/// A page in an order that begins with a column, the marker being a row of the biggest project.
fn page(first: &str, marker: Option<i64>) -> Page {
    let mut keys = vec![first, "created_at", "id"];
    keys.dedup();
    let order = |key: &&str| Order {
        column: column(COLUMNS, key).unwrap(),
        descending: true,
    };
    Page {
        limit: 100,
        offset: 0,
        marker: marker.map(id),
        sort: keys.iter().map(order).collect(),
        bytes_max: 1 << 20,
    }
}

fn newest() -> Page {
    page("created_at", None)
}

fn next() -> Page {
    page("created_at", Some(400))
}

fn finished() -> Finished {
    Finished {
        pack_set: vec![0; 40],
        object_count: 1,
        logical_bytes: 1,
        read_bytes: 1,
        stored_bytes: 1,
        deduplicated_bytes: 0,
    }
}

fn renamed() -> Option<Option<String>> {
    Some(Some("renamed".to_owned()))
}

fn worker() -> WorkerRow {
    WorkerRow {
        name: "w".to_owned(),
        started_at: NOW,
        seen_at: NOW,
        backups: 2,
        copies: 2,
        quick: 2,
    }
}

fn process() -> ProcessRow {
    ProcessRow {
        id: "p".to_owned(),
        role: "api".to_owned(),
        host: "h".to_owned(),
        version: "1".to_owned(),
        started_at: NOW,
        seen_at: NOW,
    }
}

fn claimer() -> Claimer {
    Claimer {
        worker: "w".to_owned(),
        place: "p".to_owned(),
        places: 2,
        reserves: true,
        others: vec!["w".to_owned()],
    }
}

fn disabled(name: &str) -> ServiceRow {
    ServiceRow {
        name: name.to_owned(),
        disabled: true,
        disabled_reason: None,
        frozen: false,
        updated_at: NOW,
    }
}

/// Many packs of the biggest vault: a few SQLite always finds by their numbers.
fn many() -> Vec<PackNumber> {
    (1..=250).map(PackNumber::from).collect()
}

fn rewrite(number: u32) -> Rewrite {
    number.try_into().unwrap()
}

fn ordinals() -> Vec<Ordinal> {
    (0..250_u32)
        .map(|number| Ordinal::try_from(number).unwrap())
        .collect()
}

fn hashes() -> Vec<Vec<u8>> {
    (1..=250).map(|number| id(number).into_bytes()).collect()
}

/// Objects of the biggest vault of which a few have come and a few have gone since they were noted.
fn objects() -> Vec<String> {
    let new = ["new".to_owned(), "another".to_owned()];
    (5..=500).map(id).chain(new).collect()
}

/// A row like another, but for what is changed.
fn with<T: Clone>(row: &T, change: impl FnOnce(&mut T)) -> T {
    let mut row = row.clone();
    change(&mut row);
    row
}

macro_rules! calls {
    ($w:ident; $($module:ident::$function:ident $([$how:literal])? $(::<$kind:ty>)? ($($argument:expr),* $(,)?);)*) => {
        vec![$(Call {
            name: concat!(stringify!($module), "::", stringify!($function) $(, " ", $how)?),
            run: |c, $w| {
                let _ = $w;
                $module::$function$(::<$kind>)?(c $(, $argument)*).map(drop)
            },
        }),*]
    };
}

mod identities;
mod standalone;

pub(super) fn all() -> Vec<Call> {
    let mut calls = of_backups();
    calls.extend(of_vaults());
    calls.extend(of_jobs());
    calls.extend(identities::of_identity());
    calls.extend(standalone::of_volumes());
    calls
}

fn of_backups() -> Vec<Call> {
    calls! { w;
        backups::list(&theirs(), &newest());
        backups::list["after a marker"](&theirs(), &next());
        backups::list["in a state"](&available(), &next());
        backups::list["of all"](&all_projects(), &newest());
        backups::list["after a marker of all"](&all_projects(), &next());
        backups::list["by name"](&theirs(), &page("name", None));
        backups::list["by name of all"](&all_projects(), &page("name", Some(OTHER)));
        backups::count(&theirs());
        backups::count["of all"](&all_projects());
        backups::find(&backup(OTHER));
        backups::insert(&with(&w.backup, |row| row.id = BackupId::random()));
        backups::remove(&backup(OTHER));
        backups::parents_among(vec![backup(1), backup(2), backup(3)]);
        backups::parent_for(&w.backup.volume_id, &project(BIG), &storage(), None);
        backups::parent_for["of a snapshot"](&w.backup.volume_id, &project(BIG), &storage(), Some(NOW));
        backups::transition(&backup(OTHER), BackupEvent::RestoreRequested, NOW);
        backups::set_restore_volume(&backup(OTHER), &volume(1));
        backups::sharing(&w.backup);
        backups::sharing["of an imported one"](&w.imported);
        backups::with_root(&vault(BIG), &backup(39));
        backups::set_imported(&w.backup);
        backups::disown(&backup(OTHER));
        backups::stored_in_vault(&vault(BIG), Some((NOW, &backup(OTHER))), 100);
        backups::of_others_in(&[vault(BIG), vault(1)], project(BIG).as_str());
        backups::of_project_outside(project(BIG).as_str(), &[vault(BIG), vault(1)]);
        backups::count_children(&backup(OTHER));
        backups::mark_lost(&backup(OTHER), "lost");
        backups::mark_found(&backup(OTHER), "lost");
        backups::failed_for(&vault(BIG), "lost");
        backups::set_fail_reason(&backup(OTHER), "failed");
        backups::set_started(&backup(OTHER), &vault(BIG), "nova", "local");
        backups::set_data_timestamp(&backup(OTHER), NOW);
        backups::set_finished(&backup(OTHER), &finished());
        backups::set_place(&backup(OTHER), &SavedVolume::default());
        backups::update(
            &backup(OTHER),
            &db::backups::Changes { name: renamed(), ..Default::default() },
            NOW,
        );
        backups::usage(&project(BIG));
        records::list::<QosSpecs>(&theirs(), &newest());
        records::list["of all"]::<QosSpecs>(&all_projects(), &next());
        records::all::<QosSpecs>();
        records::of_project::<QosSpecs>(&project(BIG));
        records::in_status::<QosSpecs>("creating");
        records::count::<QosSpecs>(&project(BIG));
        records::find::<QosSpecs>(&record(40));
        records::named::<QosSpecs>("record 15000");
        records::insert(&with(&w.record, |row| row.id = RecordId::random()));
        records::update(&w.record, NOW);
        records::remove(&record(40));
        messages::list(&theirs(), &newest());
        messages::list["of all"](&all_projects(), &next());
        messages::find(&MessageId::new(id(OTHER)));
        messages::insert(&with(&w.message, |row| row.id = MessageId::random()));
        messages::remove(&MessageId::new(id(OTHER)));
        messages::prune(NOW);
        quotas::of(Scope::Project, &id(BIG));
        quotas::limits(Some(&project(BIG)), &Quota::default());
        quotas::put(Scope::Project, &id(BIG), "volumes", 10);
        quotas::remove(Scope::Project, &id(BIG));
    }
}

fn of_vaults() -> Vec<Call> {
    calls! { w;
        chunks::lookup(BIG, &hashes());
        chunks::insert(&[with(&w.chunk, |row| row.id = b"new".to_vec()), w.chunk.clone()]);
        gc::next_generation(BIG);
        gc::coming_generation(BIG);
        gc::held_by_sessions(BIG);
        gc::pack_sets(&vault(BIG));
        gc::needed(&vault(BIG));
        gc::names_of_needed(&vault(BIG));
        gc::pack_set(&backup(OTHER));
        gc::is_needed(&vault(BIG), &backup(39));
        gc::roots(&vault(BIG));
        gc::available_roots(&vault(BIG));
        gc::unreadable_roots(&vault(BIG));
        gc::unfinished(&vault(BIG));
        gc::without_root(&vault(BIG));
        backups::note_root(&backup(OTHER));
        backups::is_root_noted(&backup(OTHER));
        backups::forget_noted_root(&backup(OTHER));
        gc::written(BIG);
        gc::note_removed_root(BIG, &backup(OTHER), true);
        gc::removed_root(BIG, &backup(THEIRS));
        gc::forget_removed_root(BIG, &backup(THEIRS));
        gc::packs(BIG);
        gc::pardon(BIG, &many());
        gc::condemn(BIG, &many(), 1);
        gc::give_up(BIG, &many());
        gc::forget_given_up(BIG, PackNumber::from(101));
        gc::forget_chunks(BIG, PACK.into());
        gc::mark_gone(BIG, PackNumber::from(101));
        gc::settled(BIG);
        gc::next_rewrite(&w.pack, 0);
        gc::switch(&w.pack, &with(&w.pack, |row| row.rewrite = rewrite(1)), 0);
        gc::lock(BIG);
        gc::is_referenced(&w.pack);
        gc::forget_frames(&w.pack, &ordinals());
        gc::sizes(BIG);
        gc::places_of(BIG, &many());
        gc::places(BIG);
        gc::note_unknown(BIG, 1, &objects());
        health::packs(BIG);
        health::mark_damaged(&w.pack, "a fault");
        health::mark_sound(&w.pack, Some(NOW));
        health::lost_chunks(&w.pack);
        health::forget_lost_chunks(&w.pack);
        health::mark_repaired(&w.pack);
        health::is_damaged(&w.pack);
        health::damaged(BIG);
        health::set_damage_reason(&backup(OTHER), "damaged", Some("damaged"));
        health::set_damage_reason["sound"](&backup(OTHER), "damaged", None);
        health::begin_full(BIG, NOW);
        health::end_full(BIG);
        packs::open(BIG, PackKind::Data, &lease().job_id);
        packs::adopt(&w.pack, rewrite(1));
        packs::adopt["a new one"](&with(&w.pack, |row| row.number = PackNumber::from(999_999)), rewrite(1));
        packs::raise_rewrites(BIG, PACK.into(), rewrite(2));
        packs::go_live(&w.pack, &lease().job_id);
        packs::abandon(&w.pack, &lease().job_id);
        packs::of_session(&lease().job_id);
        packs::reference(BIG, &lease().job_id, &many());
        packs::is_rewritten(&lease().job_id);
        packs::drop_references(&lease().job_id);
        packs::note_whole_rewrite(&w.pack);
        packs::referenced(BIG, &lease().job_id);
        packs::end_session(&lease().job_id);
        packs::find(BIG, PACK.into());
        packs::any(BIG);
        vaults::find_storage("local");
        vaults::storage(&storage());
        vaults::insert_storage(&StorageRow {
            id: StorageId::random(),
            name: "another".to_owned(),
            master_key_check: String::new(),
            created_at: NOW,
        });
        vaults::find(&project(BIG), &storage());
        vaults::adopt(&with(&w.vault, |row| row.id = VaultId::random()));
        vaults::find_or_insert(&project(999_999), &storage(), NOW);
        vaults::record(BIG);
        vaults::share_record(BIG);
        vaults::lock_record(BIG);
        vaults::decide_record(BIG, "{}");
        vaults::some_records(&storage(), 4);
        vaults::raise_next_pack(BIG, 1);
        vaults::set_record(BIG, SHREDDED);
        vaults::remove_packs(BIG);
        vaults::remove(&w.vault);
        vaults::of_project(&id(BIG));
        vaults::set_master_key_check(&storage(), "check");
        vaults::maintained();
        vaults::note_done(BIG, Upkeep::Collect, NOW);
        vaults::note_done["verified"](BIG, Upkeep::Verify, NOW);
        vaults::note_failed(BIG, Upkeep::Collect, NOW);
        vaults::note_failed["verified"](BIG, Upkeep::Verify, NOW);
        vaults::all();
        vaults::find_by_id(&vault(BIG));
    }
}

fn of_jobs() -> Vec<Call> {
    calls! { w;
        jobs::insert(&Job::new(JobArgs::CreateVolume { volume_id: VolumeId::random(), is_copy: false }, NOW));
        jobs::find(&job(OTHER));
        jobs::live_for(&id(THEIRS));
        jobs::running_elsewhere(Queue::Backup, vec![job(*RUNNING.start())]);
        jobs::claim(Queue::Backup, &claimer(), NOW, NOW, &[]);
        jobs::claim["an abandoned one"](Queue::Backup, &claimer(), NOW, NOW, &[(lease().job_id, 0)]);
        jobs::hold(&lease());
        jobs::renew(&lease(), NOW, (1, 2), NOW);
        jobs::is_cancel_requested(&job(OTHER));
        jobs::request_cancel(&id(THEIRS), NOW);
        jobs::settle(&lease(), JobState::Completed, None, NOW);
        jobs::put_back(&lease(), NOW, Some("failed"), NOW);
        jobs::set_checkpoint(&lease(), Checkpoint::Written);
        jobs::maintained();
        jobs::tally();
        jobs::recent(200);
        jobs::nudge(&w.job.id, NOW);
        jobs::prune(Timestamp(time(*RUNNING.end() + 50)));
        sessions::begin(&lease());
        sessions::begin["a new one"](&Lease::unclaimed(&JobId::random()));
        sessions::hold(&lease());
        sessions::end(&lease().job_id);
        sessions::end_all(&vault(BIG));
        sessions::prune();
        volume_holds::hold(&lease(), &volume(THEIRS), None, None);
        volume_holds::hold["a new one"](&Lease::unclaimed(&JobId::random()), &volume(THEIRS), None, None);
        volume_holds::take_over(&lease());
        volume_holds::find(&job(THEIRS));
        volume_holds::note_status(&lease(), VolumeStatus::Available);
        volume_holds::forget_status(&lease());
        volume_holds::release(&lease(), NOW);
        volume_holds::held();
        volume_holds::begin_making("a new one", NOW);
        volume_holds::note_made(&id(THEIRS), &volume(THEIRS));
        volume_holds::end_making(&id(OTHER));
        volume_holds::begin_removal(&id(OTHER));
        volume_holds::marker_of(&volume(THEIRS));
        volume_holds::take_made(&volume(THEIRS));
        volume_holds::making(NOW);
        temporaries::ask(&lease(), NOW);
        temporaries::answered(&job(THEIRS));
        temporaries::connect(&lease(), &volume(THEIRS), "{}");
        temporaries::find(&job(THEIRS));
        temporaries::disconnected(&job(THEIRS));
        temporaries::end(&job(OTHER));
        temporaries::all();
        orphans::sessions();
        orphans::backups();
        orphans::live();
        services::find("cinder-backup");
        services::put(&disabled("cinder-backup"));
        services::is_disabled("cinder-backup");
        processes::put(&process());
        processes::all();
        processes::remove("p");
        processes::prune(NOW);
        workers::put(&worker());
        workers::all();
        workers::places(Queue::Backup, &["w"]);
        workers::is_resting("w", &["w2".to_owned()]);
        workers::are_disabled();
        workers::prune(NOW);
    }
}
