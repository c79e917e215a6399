//! What must hold on either database, under threads.

use crate::support::{BOTH, Database, Postgres};
use diesel::RunQueryDsl;
use diesel::connection::SimpleConnection;
use embervault::db::jobs::Claimer;
use embervault::db::standalone::identity::{self, Issued, TokensMax};
use embervault::db::workers::WorkerRow;
use embervault::db::{self, Db, DbError};
use embervault::model::column::Json;
use embervault::model::id::{JobId, ProjectId, StorageId, UserId, VaultId, VolumeId};
use embervault::model::job::{Job, JobArgs, JobState, Lane, Lease};
use embervault::model::message::{self, Action, Detail, Message};
use embervault::model::page::{Filter, Order, Page, column};
use embervault::model::standalone::identity::{Assignment, Origin, Project, Role, TokenRow, User};
use embervault::model::time::Timestamp;
use embervault::model::vault::{StorageRow, VaultRow};
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

struct Bed {
    _dir: tempfile::TempDir,
    _postgres: Option<Postgres>,
    db: Db,
}

fn bed(database: Database) -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let postgres = (database == Database::Postgres).then(Postgres::start);
    let url = match &postgres {
        Some(postgres) => postgres.url(),
        None => format!("sqlite:{}", dir.path().join("db").display()),
    };
    Bed {
        db: Db::open(&url).unwrap(),
        _dir: dir,
        _postgres: postgres,
    }
}

fn job() -> Job {
    let volume_id = VolumeId::random();
    let args = JobArgs::CreateVolume {
        volume_id,
        is_copy: false,
    };
    Job::new(args, Timestamp(100))
}

fn job_of(project: &str, run_at: i64) -> Job {
    Job {
        project_id: Some(ProjectId::new(project)),
        run_at: Timestamp(run_at),
        ..job()
    }
}

fn insert(db: &Db, job: &Job) {
    db.write(|c| db::jobs::insert(c, job)).unwrap();
}

/// A worker with so many places, the last of which it gives to nobody who has the others, or to anybody.
fn claimer(places: i64, reserves: bool) -> Claimer {
    Claimer {
        worker: "w".to_owned(),
        place: "p".to_owned(),
        places,
        reserves,
        others: Vec::new(),
    }
}

#[test]
fn each_job_is_claimed_exactly_once() {
    for database in BOTH {
        let bed = bed(database);
        for number in 0..120 {
            insert(&bed.db, &job_of(&format!("p{number}"), 100));
        }
        let claimed = Mutex::new(HashSet::new());
        std::thread::scope(|scope| {
            for worker in 0..8 {
                let (db, claimed) = (&bed.db, &claimed);
                scope.spawn(move || {
                    let us = Claimer {
                        worker: format!("w{worker}"),
                        ..claimer(4, true)
                    };
                    let mut misses = 0;
                    while misses < 20 {
                        let claim = |c: &mut db::DbConnection| {
                            db::jobs::claim(
                                c,
                                Lane::Quick,
                                &us,
                                Timestamp(200),
                                Timestamp(1000),
                                &[],
                            )
                        };
                        match db.write(claim).unwrap() {
                            Some(job) => {
                                assert!(claimed.lock().unwrap().insert(job.id), "claimed twice")
                            }
                            None => misses += 1,
                        }
                    }
                });
            }
        });
        assert_eq!(claimed.lock().unwrap().len(), 120, "{database:?}");
    }
}

#[test]
fn a_lease_that_ran_out_is_claimed_again_and_the_old_owner_changes_nothing() {
    for database in BOTH {
        let bed = bed(database);
        let wanted = job();
        bed.db.write(|c| db::jobs::insert(c, &wanted)).unwrap();
        let claim = |now, abandoned: &[(JobId, i64)]| claim(&bed.db, Timestamp(now), abandoned);
        assert!(claim(99, &[]).is_none(), "it is not due yet");
        let first = claim(100, &[]).unwrap();
        assert!(claim(1000, &[]).is_none(), "nobody has seen it stand still");
        let at = |beats| [(wanted.id.clone(), beats)];
        assert!(claim(1000, &at(0)).is_none(), "it has beaten since");
        let second = claim(1001, &at(first.beats)).unwrap();
        assert_eq!((first.attempt, second.attempt), (1, 2));
        assert!(claim(1001, &at(first.beats)).is_none(), "claimed twice");
        let settle = |attempt| {
            let job_id = wanted.id.clone();
            let lease = Lease { job_id, attempt };
            bed.db
                .write(|c| db::jobs::settle(c, &lease, JobState::Completed, None, Timestamp(1500)))
                .unwrap()
        };
        assert!(!settle(1), "a stale owner settled the job");
        assert!(settle(2));
        assert!(!settle(2), "it was settled twice");
        assert!(claim(9999, &[]).is_none());
    }
}

fn claim(db: &Db, now: Timestamp, abandoned: &[(JobId, i64)]) -> Option<Job> {
    claim_by(db, &claimer(4, false), now, abandoned)
}

fn claim_by(db: &Db, us: &Claimer, now: Timestamp, abandoned: &[(JobId, i64)]) -> Option<Job> {
    let until = Timestamp(now.0 + 1000);
    db.write(|c| db::jobs::claim(c, Lane::Quick, us, now, until, abandoned))
        .unwrap()
}

fn settle(db: &Db, job: &Job) {
    let lease = Lease {
        job_id: job.id.clone(),
        attempt: job.attempt,
    };
    let settle = |c: &mut db::DbConnection| {
        db::jobs::settle(c, &lease, JobState::Completed, None, Timestamp(0))
    };
    assert!(db.write(settle).unwrap());
}

#[test]
fn projects_take_turns_and_a_clock_that_was_set_back_holds_nothing_up() {
    for database in BOTH {
        let bed = bed(database);
        let add = |project: &str, run_at| insert(&bed.db, &job_of(project, run_at));
        for turn in 0..3 {
            add("greedy", turn);
        }
        add("modest", 50);
        let project = || claim(&bed.db, Timestamp(100), &[]).map(|job| job.project_id.unwrap());
        let order: Vec<_> = std::iter::from_fn(project).collect();
        let named: Vec<&str> = order.iter().map(|project| project.as_str()).collect();
        assert_eq!(named, ["greedy", "modest", "greedy", "greedy"]);
        let (hour, day) = (3_600_000_000, 86_400_000_000);
        add("late", day);
        assert!(claim(&bed.db, Timestamp(day - hour / 60), &[]).is_none());
        assert!(claim(&bed.db, Timestamp(day - hour), &[]).is_some());
    }
}

#[test]
fn no_project_has_the_last_place_of_all_workers() {
    for database in BOTH {
        let bed = bed(database);
        let add = |project: &str| insert(&bed.db, &job_of(project, 0));
        let now = Timestamp(100);
        let beside = |others: &[&str]| Claimer {
            others: others.iter().map(|name| (*name).to_owned()).collect(),
            ..claimer(3, true)
        };
        let ours = |places| claim_by(&bed.db, &claimer(places, true), now, &[]);
        let project = |job: Option<Job>| job.map(|job| job.project_id.unwrap().to_string());
        for _ in 0..8 {
            add("greedy");
        }
        let first = ours(3).unwrap();
        let second = ours(3).unwrap();
        assert!(ours(3).is_none(), "one project has all places");
        add("modest");
        assert_eq!(project(ours(3)).as_deref(), Some("modest"));
        settle(&bed.db, &first);
        assert_eq!(project(ours(3)).as_deref(), Some("greedy"));
        assert!(ours(3).is_none());

        // Places elsewhere count as long as their worker is heard, whatever its clock says.
        let elsewhere = |seen_at, quick| {
            let row = WorkerRow {
                name: "elsewhere".to_owned(),
                started_at: Timestamp(0),
                seen_at: Timestamp(seen_at),
                backups: 99,
                copies: 99,
                quick,
            };
            bed.db.write(|c| db::workers::put(c, &row)).unwrap();
        };
        let both = || claim_by(&bed.db, &beside(&["elsewhere"]), now, &[]);
        elsewhere(1_000_000_000_000, 1);
        assert!(ours(3).is_none(), "its worker is down");
        elsewhere(0, 0);
        assert!(both().is_none(), "its worker has stopped");
        elsewhere(-1_000_000_000_000, 1);
        let third = both().unwrap();
        assert!(both().is_none());

        // What a worker has left is taken up where there is room without its places.
        settle(&bed.db, &third);
        let theirs = Claimer {
            worker: "elsewhere".to_owned(),
            ..claimer(4, false)
        };
        let left = claim_by(&bed.db, &theirs, now, &[]).unwrap();
        let abandoned = [(left.id.clone(), left.beats)];
        let by_us = |abandoned: &[_]| claim_by(&bed.db, &beside(&["elsewhere"]), now, abandoned);
        assert!(by_us(&abandoned).is_none());
        settle(&bed.db, &second);
        assert_eq!(by_us(&abandoned).map(|job| job.id), Some(left.id));

        // Who has one place only gives it to whoever comes.
        let alone = claimer(1, true);
        elsewhere(0, 0);
        add("other");
        let taken = claim_by(&bed.db, &alone, now, &[]);
        assert_eq!(project(taken).as_deref(), Some("other"));
    }
}

#[test]
fn jobs_of_a_worker_that_stops_take_no_places() {
    for database in BOTH {
        let bed = bed(database);
        let stopping = Claimer {
            worker: "stopping".to_owned(),
            ..claimer(4, true)
        };
        let us = Claimer {
            others: vec!["stopping".to_owned()],
            ..claimer(2, true)
        };
        let claim = |us: &Claimer| claim_by(&bed.db, us, Timestamp(100), &[]);
        let alive = |quick| {
            let row = WorkerRow {
                name: "stopping".to_owned(),
                started_at: Timestamp(0),
                seen_at: Timestamp(0),
                backups: 2,
                copies: 2,
                quick,
            };
            bed.db.write(|c| db::workers::put(c, &row)).unwrap();
        };
        for _ in 0..6 {
            insert(&bed.db, &job_of("p", 0));
        }
        alive(2);
        let last = [(); 3].map(|()| claim(&stopping).unwrap());
        assert!(claim(&us).is_none(), "one project has all places");
        alive(0);
        assert!(claim(&us).is_some());
        assert!(claim(&us).is_none(), "one project has all our places");
        for job in last {
            settle(&bed.db, &job);
        }
        assert!(claim(&us).is_none());
    }
}

#[test]
fn upkeep_has_one_place_on_each_worker_and_leaves_one_to_projects() {
    for database in BOTH {
        let bed = bed(database);
        let ours = |places| claim_by(&bed.db, &claimer(places, true), Timestamp(100), &[]);
        let is_upkeep = |job: &Job| job.project_id.is_none();
        for _ in 0..2 {
            insert(&bed.db, &job());
        }
        for _ in 0..4 {
            insert(&bed.db, &job_of("greedy", 0));
        }
        let upkeep = ours(4).unwrap();
        assert!(is_upkeep(&upkeep));
        let first = ours(4).unwrap();
        assert!(!is_upkeep(&first), "two at once on one worker");
        let second = ours(4).unwrap();
        assert!(ours(4).is_none(), "upkeep and one project have all places");
        settle(&bed.db, &upkeep);
        let upkeep = ours(3).unwrap();
        assert!(is_upkeep(&upkeep));

        insert(&bed.db, &job());
        let elsewhere = |places| {
            let them = Claimer {
                worker: "elsewhere".to_owned(),
                ..claimer(places, true)
            };
            claim_by(&bed.db, &them, Timestamp(100), &[])
        };
        assert!(elsewhere(2).is_none(), "upkeep took all places");
        let second_upkeep = elsewhere(3).unwrap();
        assert!(is_upkeep(&second_upkeep));

        // Who has one place only gives it to upkeep too.
        for job in [upkeep, second_upkeep, first, second] {
            settle(&bed.db, &job);
        }
        insert(&bed.db, &job());
        assert!(is_upkeep(&ours(1).unwrap()));
    }
}

#[test]
fn upkeep_and_a_project_that_ask_at_once_leave_one_place() {
    for database in BOTH {
        let bed = bed(database);
        let worker = |name: &str, quick| WorkerRow {
            name: name.to_owned(),
            started_at: Timestamp(0),
            seen_at: Timestamp(0),
            backups: 0,
            copies: 0,
            quick,
        };
        bed.db
            .write(|c| -> Result<(), DbError> {
                db::workers::put(c, &worker("ours", 2))?;
                db::workers::put(c, &worker("theirs", 1))
            })
            .unwrap();
        let ours = Claimer {
            worker: "ours".to_owned(),
            others: vec!["theirs".to_owned()],
            ..claimer(2, true)
        };
        let theirs = Claimer {
            worker: "theirs".to_owned(),
            others: vec!["ours".to_owned()],
            ..claimer(1, true)
        };
        let claim = |c: &mut db::DbConnection, us: &Claimer| {
            db::jobs::claim(c, Lane::Quick, us, Timestamp(200), Timestamp(1000), &[])
        };
        // Of three places the project has one, and may have one more as long as there is no upkeep.
        insert(&bed.db, &job_of("p", 0));
        assert!(bed.db.write(|c| claim(c, &ours)).unwrap().is_some());
        insert(&bed.db, &job_of("p", 0));
        insert(&bed.db, &job());
        let claimed = Barrier::new(2);
        let (first, second) = std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                bed.db.write(|c| {
                    let job = claim(c, &ours)?;
                    claimed.wait();
                    std::thread::sleep(Duration::from_millis(500));
                    Ok::<_, DbError>(job)
                })
            });
            claimed.wait();
            let second = bed.db.write(|c| claim(c, &theirs)).unwrap();
            (first.join().unwrap().unwrap(), second)
        });
        assert!(first.is_some_and(|job| job.project_id.is_none()));
        assert!(second.is_none(), "{database:?}: no place is left");
    }
}

#[test]
fn upkeep_has_its_turn_while_projects_have_long_queues() {
    for database in BOTH {
        let bed = bed(database);
        let ours = || claim_by(&bed.db, &claimer(4, true), Timestamp(100), &[]);
        for project in ["a", "b"] {
            for _ in 0..10 {
                insert(&bed.db, &job_of(project, 0));
            }
        }
        let running = [(); 4].map(|()| ours().unwrap());
        insert(&bed.db, &job());
        settle(&bed.db, &running[0]);
        assert_eq!(ours().unwrap().project_id, None);
    }
}

#[test]
fn a_job_that_is_to_be_cancelled_waits_for_no_other() {
    for database in BOTH {
        let bed = bed(database);
        let ours = || claim_by(&bed.db, &claimer(4, true), Timestamp(100), &[]);
        let jobs = [(); 10].map(|()| job_of("p", 0));
        for job in &jobs {
            insert(&bed.db, job);
        }
        let running: Vec<JobId> = std::iter::from_fn(ours).map(|job| job.id).collect();
        assert_eq!(running.len(), 3);
        let mut waiting: Vec<&Job> = jobs
            .iter()
            .filter(|job| !running.contains(&job.id))
            .collect();
        waiting.sort_by_key(|job| job.id.to_string());
        let last = waiting.last().unwrap();
        let cancel =
            |c: &mut db::DbConnection| db::jobs::request_cancel(c, &last.subject, Timestamp(100));
        assert!(bed.db.write(cancel).unwrap().is_some());
        assert_eq!(ours().map(|job| job.id), Some(last.id.clone()));
        assert!(ours().is_none());
    }
}

#[test]
fn several_jobs_that_a_worker_left_do_not_wait_for_one_another() {
    for database in BOTH {
        let bed = bed(database);
        insert(&bed.db, &job_of("p", 0));
        insert(&bed.db, &job_of("p", 0));
        let lost = Claimer {
            worker: "lost".to_owned(),
            ..claimer(2, false)
        };
        let claim_lost = || claim_by(&bed.db, &lost, Timestamp(100), &[]).unwrap();
        let left = [claim_lost(), claim_lost()].map(|job| (job.id, job.beats));
        let us = claimer(2, true);
        let taken = claim_by(&bed.db, &us, Timestamp(100), &left).unwrap();
        assert!(claim_by(&bed.db, &us, Timestamp(100), &left).is_none());
        settle(&bed.db, &taken);
        assert!(claim_by(&bed.db, &us, Timestamp(100), &left).is_some());
    }
}

/// So many jobs at once, from one to the next.
fn many(count: u32, id: &str, state: &str, project: &str) -> String {
    format!(
        "INSERT INTO jobs (id, lane, kind, subject, args, state, attempt, run_at, progress_done, \
         progress_total, failures, orphaned, project_id, created_at, updated_at) \
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
         SELECT '{id}' || i, 'quick', 'delete_volume', '{id}' || i, \
         '{{\"kind\":\"delete_volume\",\"volume_id\":\"v\"}}', '{state}', 0, i, 0, 0, 0, 0, {project}, 0, 0 FROM n"
    )
}

#[test]
fn a_claim_does_not_look_at_all_jobs() {
    for database in BOTH {
        let bed = bed(database);
        bed.db
            .write(|c| -> Result<(), DbError> {
                c.batch_execute(&many(20_000, "ended", "completed", "'greedy'"))?;
                c.batch_execute(&many(20_000, "waiting", "available", "'greedy'"))?;
                c.batch_execute(&many(200, "other", "available", "'p' || i"))?;
                Ok(())
            })
            .unwrap();
        let us = claimer(4, true);
        let now = Timestamp(1_000_000);
        let started = Instant::now();
        for _ in 0..20 {
            assert!(claim_by(&bed.db, &us, now, &[]).is_some());
        }
        let took = started.elapsed();
        assert!(took < Duration::from_secs(2), "{database:?}: {took:?}");
    }
}

#[test]
fn a_session_is_the_latest_run_s_and_ends_for_good() {
    for database in BOTH {
        let bed = bed(database);
        let job_id = JobId::random();
        let lease = |attempt| Lease {
            job_id: job_id.clone(),
            attempt,
        };
        let begin = |attempt| {
            let begin = |c: &mut db::DbConnection| db::sessions::begin(c, &lease(attempt));
            bed.db.write(begin).unwrap()
        };
        let hold = |attempt| {
            let hold = |c: &mut db::DbConnection| db::sessions::hold(c, &lease(attempt));
            bed.db.write(hold).unwrap()
        };
        assert!(begin(1) && hold(1));
        assert!(begin(3) && !hold(1) && hold(3));
        assert!(!begin(2), "a run that was overtaken begins");
        bed.db
            .write(|c| db::packs::end_session(c, &job_id))
            .unwrap();
        assert!(!hold(3) && !begin(4));
        // A job that ended before its session began.
        let other = Lease::unclaimed(&JobId::random());
        bed.db
            .write(|c| db::packs::end_session(c, &other.job_id))
            .unwrap();
        let late = bed.db.write(|c| db::sessions::begin(c, &other));
        assert!(!late.unwrap());
        let pruned = bed.db.write(db::sessions::prune);
        assert_eq!(pruned.unwrap(), 2);
    }
}

#[test]
fn old_jobs_go_a_thousand_at_a_time_and_the_live_ones_stay() {
    for database in BOTH {
        let bed = bed(database);
        let ended = |at| Job {
            state: JobState::Completed,
            updated_at: Timestamp(at),
            ..job()
        };
        let jobs: Vec<Job> = (0..1010).map(ended).chain([job()]).collect();
        let insert = |c: &mut db::DbConnection| -> Result<(), DbError> {
            jobs.iter().try_for_each(|job| db::jobs::insert(c, job))
        };
        bed.db.write(insert).unwrap();
        let recent = bed.db.read(|c| db::jobs::recent(c, 3));
        let recent: Vec<i64> = recent.unwrap().iter().map(|job| job.updated_at.0).collect();
        assert_eq!(recent, [100, 1009, 1008], "the live one is first");
        let prune = || {
            let prune = |c: &mut db::DbConnection| db::jobs::prune(c, Timestamp(1009));
            bed.db.write(prune).unwrap()
        };
        assert_eq!([prune(), prune(), prune()], [1000, 9, 0], "{database:?}");
        let left = bed.db.read(|c| db::jobs::recent(c, 9));
        assert_eq!(left.unwrap().len(), 2);
    }
}

#[test]
fn a_subject_has_one_live_job() {
    for database in BOTH {
        let bed = bed(database);
        let one = job();
        let two = Job {
            id: JobId::random(),
            ..one.clone()
        };
        let insert = |job: &Job| bed.db.write(|c| db::jobs::insert(c, job));
        insert(&one).unwrap();
        match insert(&two) {
            Err(error) => assert!(db::is_duplicate(&error), "{error}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn of_a_projects_messages_the_newest_are_kept() {
    for database in BOTH {
        let bed = bed(database);
        let add = |c: &mut db::DbConnection, project: &str, moment: i64| {
            let what = (Action::CreateVolume, Detail::NoHost);
            let about = ("VOLUME", "v");
            let message = Message::new(
                ProjectId::new(project),
                None,
                what,
                about,
                Timestamp(moment),
            );
            db::messages::insert(c, &message)
        };
        bed.db
            .write(|c| -> Result<(), DbError> {
                add(c, "other", 0)?;
                for moment in 0..1010 {
                    add(c, "project", moment)?;
                }
                Ok(())
            })
            .unwrap();
        let listed = |project: &str| {
            let filter = Filter {
                project: Some(ProjectId::new(project)),
                ..Filter::default()
            };
            let page = Page {
                limit: 5000,
                offset: 0,
                marker: None,
                sort: vec![Order {
                    column: column(message::COLUMNS, "id").unwrap(),
                    descending: false,
                }],
                bytes_max: 0,
            };
            let found = bed.db.read(|c| db::messages::list(c, &filter, &page));
            found.unwrap().rows
        };
        assert_eq!(listed("other").len(), 1);
        let kept = listed("project");
        let oldest = kept.iter().map(|message| message.created_at.0).min();
        assert_eq!((kept.len(), oldest), (1000, Some(10)), "{database:?}");
    }
}

#[test]
fn a_failed_transaction_leaves_nothing_and_the_connection_works_on() {
    for database in BOTH {
        let bed = bed(database);
        let wanted = job();
        let failed: Result<(), DbError> = bed.db.write(|c| {
            db::jobs::insert(c, &wanted)?;
            db::jobs::insert(c, &wanted)?;
            Ok(())
        });
        assert!(failed.is_err());
        let found = bed.db.read(|c| db::jobs::find(c, &wanted.id)).unwrap();
        assert!(found.is_none(), "{database:?}");
        bed.db.write(|c| db::jobs::insert(c, &wanted)).unwrap();
    }
}

/// A storage of its own.
fn storage(db: &Db) -> StorageId {
    let id = StorageId::random();
    let row = StorageRow {
        id: id.clone(),
        name: id.to_string(),
        master_key_check: String::new(),
        created_at: Timestamp(0),
    };
    db.write(|c| db::vaults::insert_storage(c, &row)).unwrap();
    id
}

/// A vault in a storage of its own.
fn vault(db: &Db) -> VaultRow {
    let (project, storage) = (ProjectId::new("p"), storage(db));
    db.write(|c| db::vaults::find_or_insert(c, &project, &storage, Timestamp(0)))
        .unwrap()
}

#[test]
fn vaults_that_are_made_at_once_have_numbers_of_their_own() {
    for database in BOTH {
        let bed = bed(database);
        let storages = [storage(&bed.db), storage(&bed.db)];
        let projects = (0..8).map(|number| format!("p{number}"));
        let asked: Vec<String> = projects
            .chain((0..4).map(|_| "shared".to_owned()))
            .collect();
        let start = Barrier::new(asked.len() + 1);
        let found = VaultRow {
            number: 0,
            id: VaultId::random(),
            project_id: ProjectId::new("found"),
            storage_id: storages[0].clone(),
            next_pack: 1,
            created_at: Timestamp(0),
        };
        let mut vaults: Vec<VaultRow> = std::thread::scope(|scope| {
            let adopter = scope.spawn(|| {
                start.wait();
                bed.db.write(|c| db::vaults::adopt(c, &found)).unwrap()
            });
            let askers: Vec<_> = (0..)
                .zip(&asked)
                .map(|(at, project): (usize, _)| {
                    let (db, start) = (&bed.db, &start);
                    let project = ProjectId::new(project.as_str());
                    let storage = match project.as_str() {
                        "shared" => &storages[0],
                        _ => &storages[at % 2],
                    };
                    scope.spawn(move || {
                        start.wait();
                        let find = |c: &mut db::DbConnection| {
                            db::vaults::find_or_insert(c, &project, storage, Timestamp(0))
                        };
                        db.write(find).unwrap()
                    })
                })
                .collect();
            let found = askers.into_iter().map(|asker| asker.join().unwrap());
            found.chain([adopter.join().unwrap()]).collect()
        });
        vaults.sort_by_key(|vault| vault.number);
        vaults.dedup_by(|one, other| one.id == other.id);
        let numbers: Vec<i64> = vaults.iter().map(|vault| vault.number).collect();
        assert_eq!(numbers, Vec::from_iter(1..=10), "{database:?}");
    }
}

#[test]
fn threads_that_open_packs_of_a_vault_never_get_the_same_number() {
    for database in BOTH {
        let bed = bed(database);
        let vault = vault(&bed.db);
        let numbers = Mutex::new(HashSet::new());
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let session = JobId::random();
                        let pack = bed
                            .db
                            .write(|c| {
                                let kind = embervault::model::pack::PackKind::Data;
                                db::packs::open(c, vault.number, kind, &session)
                            })
                            .unwrap();
                        assert!(
                            numbers.lock().unwrap().insert(pack.number),
                            "a number came twice"
                        );
                    }
                });
            }
        });
        assert_eq!(numbers.lock().unwrap().len(), 120);
        // Behind the last number there is none, and least of all another pack's.
        let open = |c: &mut db::DbConnection| {
            let kind = embervault::model::pack::PackKind::Data;
            db::packs::open(c, vault.number, kind, &JobId::random())
        };
        bed.db
            .write(|c| db::vaults::raise_next_pack(c, vault.number, u32::MAX.into()))
            .unwrap();
        assert_eq!(bed.db.write(open).unwrap().number.get(), u32::MAX);
        let refused = bed.db.write(open).unwrap_err();
        let text = "4294967296 cannot be the number of a pack";
        let reason = embervault::model::error::chain(&refused);
        assert!(reason.contains(text), "{reason}");
        assert!(refused.is_lasting());
    }
}

/// Whether `second` begins only after a transaction that has done `first`, and then lingers, has ended.
fn takes_turns(
    db: &Db,
    first: impl Fn(&mut db::DbConnection) -> Result<(), DbError> + Sync,
    second: impl Fn(&mut db::DbConnection) -> Result<(), DbError> + Sync,
) -> bool {
    let (barrier, is_over) = (Barrier::new(2), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            db.write(|c| {
                first(c)?;
                barrier.wait();
                std::thread::sleep(Duration::from_millis(500));
                is_over.store(1, Ordering::SeqCst);
                Ok::<_, DbError>(())
            })
            .unwrap();
        });
        barrier.wait();
        db.write(|c| {
            second(c)?;
            Ok::<_, DbError>(is_over.load(Ordering::SeqCst) == 1)
        })
        .unwrap()
    })
}

#[test]
fn a_generation_waits_for_those_who_change_packs_in_an_earlier_one() {
    for database in BOTH {
        let bed = bed(database);
        let vault = vault(&bed.db).number;
        let is_later = takes_turns(
            &bed.db,
            |c| db::collection::lock(c, vault),
            |c| db::collection::next_generation(c, vault).map(drop),
        );
        assert!(is_later, "{database:?}");
    }
}

#[test]
fn a_job_is_not_claimed_while_its_run_changes_rows() {
    for database in BOTH {
        let bed = bed(database);
        insert(&bed.db, &job());
        let first = claim(&bed.db, Timestamp(100), &[]).unwrap();
        let lease = |job: &Job| Lease {
            job_id: job.id.clone(),
            attempt: job.attempt,
        };
        let hold = |c: &mut db::DbConnection, job: &Job| db::jobs::hold(c, &lease(job));
        let (us, abandoned) = (claimer(4, false), [(first.id.clone(), first.beats)]);
        let later = Timestamp(1001);
        let second = Mutex::new(None);
        let is_later = takes_turns(
            &bed.db,
            |c| {
                assert!(hold(c, &first)?);
                Ok(())
            },
            |c| {
                let until = Timestamp(2000);
                let job = db::jobs::claim(c, Lane::Quick, &us, later, until, &abandoned)?;
                *second.lock().unwrap() = job;
                Ok(())
            },
        );
        assert!(is_later, "{database:?}");
        // The run that was overtaken changes nothing any more.
        let second = second.into_inner().unwrap().unwrap();
        assert_eq!(second.attempt, 2);
        assert!(!bed.db.write(|c| hold(c, &first)).unwrap());
        assert!(bed.db.write(|c| hold(c, &second)).unwrap());
    }
}

#[test]
fn a_backup_whose_data_has_a_known_time_is_a_parent_before_one_without() {
    for database in BOTH {
        let bed = bed(database);
        let storage = storage(&bed.db);
        let bytes = match database {
            Database::Sqlite => "X'00'",
            Database::Postgres => "'\\x00'::bytea",
        };
        for (id, time) in [("old", "5"), ("new", "6"), ("unknown", "NULL")] {
            let text = format!(
                "INSERT INTO backups (id, project_id, user_id, storage_id, volume_id, status, size_gib, object_count, \
                 metadata, data_timestamp, pack_set, logical_bytes, read_bytes, stored_bytes, deduplicated_bytes, \
                 created_at) VALUES ('{id}', 'p', 'u', '{storage}', 'v', 'available', 1, 1, '{{}}', {time}, {bytes}, 0, \
                 0, 0, 0, 9)"
            );
            bed.db
                .write(|c| -> Result<(), DbError> { Ok(c.batch_execute(&text)?) })
                .unwrap();
        }
        let (volume, project) = (VolumeId::new("v"), ProjectId::new("p"));
        let found = bed
            .db
            .read(|c| db::backups::parent_for(c, &volume, &project, &storage, None));
        let id = found.unwrap().unwrap().id;
        assert_eq!(id.as_str(), "new", "{database:?}");
    }
}

#[derive(diesel::QueryableByName)]
struct Language {
    #[diesel(sql_type = diesel::sql_types::Text)]
    lc_messages: String,
}

/// The language in which the server speaks to a connection.
fn language(db: &Db) -> String {
    let show = |c: &mut db::DbConnection| match c {
        db::DbConnection::Postgres(c) => {
            let shown: Language = diesel::sql_query("SHOW lc_messages").get_result(c)?;
            Ok::<_, DbError>(shown.lc_messages)
        }
        db::DbConnection::Sqlite(_) => Ok(String::new()),
    };
    db.read(show).unwrap()
}

#[test]
fn the_server_speaks_english_to_whoever_may_ask_for_it() {
    // No other language is installed where this runs, so that another name for English stands for one.
    let postgres = Postgres::start_with(&["lc_messages=POSIX"]);
    let ours = Db::open(&postgres.url()).unwrap();
    assert_eq!(language(&ours), "C");
    ours.write(|c| -> Result<(), DbError> {
        c.batch_execute(
            "CREATE ROLE plain LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO plain; \
             GRANT ALL ON SCHEMA public TO plain",
        )?;
        Ok(())
    })
    .unwrap();
    let url = postgres.url().replace("embervault@", "plain@");
    let theirs = Db::open(&url).unwrap();
    assert_eq!(language(&theirs), "POSIX");
    assert!(theirs.read(db::vaults::all).unwrap().is_empty());
}

#[test]
fn a_transaction_that_a_deadlock_threw_out_is_run_again() {
    for database in BOTH {
        let bed = bed(database);
        let (meeting, runs) = (Barrier::new(2), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for names in [["a", "b"], ["b", "a"]] {
                let (db, meeting, runs) = (&bed.db, &meeting, &runs);
                scope.spawn(move || {
                    let mut is_first = true;
                    db.write(|c| -> Result<(), DbError> {
                        runs.fetch_add(1, Ordering::SeqCst);
                        db::lock(c, names[0])?;
                        // SQLite lets one transaction in at a time.
                        if database == Database::Postgres && std::mem::take(&mut is_first) {
                            meeting.wait();
                        }
                        db::lock(c, names[1])
                    })
                    .unwrap();
                });
            }
        });
        let runs = runs.into_inner();
        let expected = if database == Database::Postgres { 3 } else { 2 };
        assert_eq!(runs, expected);
    }
}

#[test]
fn a_sign_of_life_waits_for_no_other_work() {
    let bed = bed(Database::Postgres);
    let (entered, leave) = (Barrier::new(9), Barrier::new(9));
    std::thread::scope(|scope| {
        // Every connection of the others is taken.
        for _ in 0..8 {
            scope.spawn(|| {
                bed.db
                    .write(|_| -> Result<(), DbError> {
                        entered.wait();
                        leave.wait();
                        Ok(())
                    })
                    .unwrap();
            });
        }
        entered.wait();
        let asked = Instant::now();
        let renewed = bed.db.renew(db::jobs::tally);
        let waited = asked.elapsed();
        leave.wait();
        assert!(
            renewed.is_ok() && waited < Duration::from_secs(2),
            "{waited:?}"
        );
    });
}

/// A token of a user in project `p`, got with another one or with a log-in of its own.
fn token(name: &str, user: &str, parent: Option<&TokenRow>) -> TokenRow {
    TokenRow {
        hash: name.as_bytes().to_vec(),
        audit_id: name.to_owned(),
        parent_audit_id: parent.map(|parent| parent.audit_id.clone()),
        chain_id: parent.map_or(name, |parent| &parent.chain_id).to_owned(),
        user_id: UserId::new(user),
        generation: 0,
        project_id: Some(ProjectId::new("p")),
        project_generation: 0,
        methods: Json::new(Vec::new()),
        application_credential_id: None,
        issued_at: Timestamp(100),
        expires_at: Timestamp(200),
    }
}

/// A database with the projects `p` and `q` and two users, who are members of both.
fn identity_bed(database: Database) -> Bed {
    let bed = bed(database);
    bed.db
        .write(|c| -> db::DbResult<()> {
            for project in ["p", "q"] {
                identity::insert_project(c, &Project::new(ProjectId::new(project), project))?;
            }
            for user in ["u", "v"] {
                let row = User::new(UserId::new(user), user, String::new(), Origin::Made);
                identity::insert_user(c, &row)?;
                for project in ["p", "q"] {
                    let assignment = Assignment {
                        user_id: UserId::new(user),
                        project_id: ProjectId::new(project),
                        role: Role::Member,
                        is_configured: false,
                    };
                    identity::put_assignment(c, &assignment)?;
                }
            }
            Ok(())
        })
        .unwrap();
    bed
}

const FEW: TokensMax = TokensMax { chain: 3, user: 5 };

fn issue(db: &Db, row: &TokenRow, now: i64) -> Issued {
    db.write(|c| identity::insert_token(c, row, Timestamp(now), FEW))
        .unwrap()
}

#[test]
fn a_log_in_and_a_user_have_few_tokens_that_are_alive() {
    for database in BOTH {
        let bed = identity_bed(database);
        let first = token("0", "u", None);
        assert_eq!(issue(&bed.db, &first, 150), Issued::Added);
        let got = |number: i32| issue(&bed.db, &token(&number.to_string(), "u", Some(&first)), 150);
        let issued: Vec<Issued> = (1..4).map(got).collect();
        assert_eq!(issued, [Issued::Added, Issued::Added, Issued::TooMany]);
        let new = |name: &str, user: &str, now| issue(&bed.db, &token(name, user, None), now);
        assert_eq!(new("5", "u", 150), Issued::Added);
        assert_eq!(new("6", "u", 150), Issued::Added);
        assert_eq!(new("7", "u", 150), Issued::TooMany);
        assert_eq!(new("8", "v", 150), Issued::Added);
        // Those that have expired do not count.
        assert_eq!(new("9", "u", 200), Issued::Added);
    }
}

#[test]
fn tokens_in_a_project_that_ended_go_one_user_at_a_time_with_all_that_were_got_with_them() {
    for database in BOTH {
        let bed = identity_bed(database);
        let elsewhere = |row: TokenRow| TokenRow {
            project_id: Some(ProjectId::new("q")),
            ..row
        };
        let parents = [token("pu", "u", None), token("pv", "v", None)];
        let before = [
            elsewhere(token("qu", "u", None)),
            elsewhere(token("child of pu", "u", Some(&parents[0]))),
            elsewhere(token("child of pv", "v", Some(&parents[1]))),
        ];
        for row in parents.iter().chain(&before) {
            assert_eq!(issue(&bed.db, row, 150), Issued::Added);
        }
        let p = ProjectId::new("p");
        bed.db
            .write(|c| identity::end_project_tokens(c, &p))
            .unwrap();
        // A request that looked at the parent before.
        let late = elsewhere(token("late", "u", Some(&parents[0])));
        assert_eq!(issue(&bed.db, &late, 150), Issued::Ended);
        assert_eq!(issue(&bed.db, &token("old", "u", None), 150), Issued::Ended);
        let new = TokenRow {
            project_generation: 1,
            ..token("new", "u", None)
        };
        assert_eq!(issue(&bed.db, &new, 150), Issued::Added);
        let removed = || {
            bed.db
                .write(|c| identity::remove_ended_tokens(c, &p))
                .unwrap()
        };
        assert_eq!([removed(), removed(), removed()], [true, true, false]);
        let left = |row: &TokenRow| {
            let found = bed
                .db
                .read(|c| identity::find_token(c, &row.hash, Timestamp(150)));
            found.unwrap().is_some()
        };
        let rows = parents.iter().chain(&before).chain([&new]);
        let left: Vec<&str> = rows
            .filter(|row| left(row))
            .map(|row| row.audit_id.as_str())
            .collect();
        assert_eq!(left, ["qu", "new"]);
    }
}
