//! Which worker gets which job, and which places projects and upkeep leave to others.

use super::*;
use embervault::db::workers::WorkerRow;
use std::collections::HashSet;
use std::sync::{Barrier, Mutex};

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
                                Queue::Quick,
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
        assert!(
            claim(1000, &[]).is_none(),
            "no worker has seen its lease run out"
        );
        let at = |heartbeats| [(wanted.id.clone(), heartbeats)];
        assert!(claim(1000, &at(0)).is_none(), "its lease was renewed since");
        let second = claim(1001, &at(first.heartbeats)).unwrap();
        assert_eq!((first.attempt, second.attempt), (1, 2));
        assert!(
            claim(1001, &at(first.heartbeats)).is_none(),
            "claimed twice"
        );
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
    db.write(|c| db::jobs::claim(c, Queue::Quick, us, now, until, abandoned))
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
        let abandoned = [(left.id.clone(), left.heartbeats)];
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
            db::jobs::claim(c, Queue::Quick, us, Timestamp(200), Timestamp(1000), &[])
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
        let left = [claim_lost(), claim_lost()].map(|job| (job.id, job.heartbeats));
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
        let (us, abandoned) = (claimer(4, false), [(first.id.clone(), first.heartbeats)]);
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
                let job = db::jobs::claim(c, Queue::Quick, &us, later, until, &abandoned)?;
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
