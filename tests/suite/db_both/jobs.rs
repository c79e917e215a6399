//! Jobs, their sessions and their messages.

use super::*;
use embervault::model::message::{self, Action, Detail, Message};
use embervault::model::page::{Filter, Order, Page, column};

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
