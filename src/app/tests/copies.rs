//! Jobs that copy volumes: they stop between two pieces, and no run touches what another makes.

use super::*;
use crate::model::id::JobId;
use std::path::Path;

impl Bed {
    /// A job that copies the volume, once as a snapshot and once as a volume, and the name of what it makes.
    fn copies_of(&self, volume: &VolumeId) -> [(Claimed, String); 2] {
        let snapshot = self.accept_snapshot(volume);
        let of_snapshot = self.claim(Queue::Copy);
        let wanted = CreateVolume {
            source_volume_id: Some(volume.clone()),
            ..CreateVolume::default()
        };
        let made = self.services.create_volume(&self.ctx, wanted).unwrap();
        let of_volume = self.claim(Queue::Copy);
        [
            (of_snapshot, format!("snapshot-{snapshot}")),
            (of_volume, format!("volume-{}", made.volume.id)),
        ]
    }

    /// Gives the job back, and runs it again.
    fn run_again(&self, lease: &Lease) -> Outcome {
        let now = Clock::System.now();
        let put_back = |c: &mut db::DbConnection| db::jobs::put_back(c, lease, now, None, now);
        assert!(self.tasks.db.write(put_back).unwrap());
        self.run(Queue::Copy)
    }
}

#[test]
fn a_copy_stops_with_its_worker_and_is_made_by_the_next_run() {
    let bed = Bed::standalone();
    let volume = bed.make_volume();
    for (claimed, name) in bed.copies_of(&volume) {
        let lease = claimed.lease.clone();
        claimed.progress.stop();
        assert_eq!(bed.tasks.run(claimed), Outcome::Released);
        assert!(bed.files(&name).is_empty());
        assert_eq!(bed.run_again(&lease), Outcome::Settled);
        assert_eq!(bed.files(&name), [format!("{name}.raw")]);
    }
}

#[test]
fn a_copy_ends_with_its_lease() {
    let bed = Bed::standalone();
    let volume = bed.make_volume();
    for (claimed, name) in bed.copies_of(&volume) {
        claimed.progress.allow_until(Instant::now());
        std::thread::sleep(Duration::from_millis(2));
        let outcome = bed.tasks.run(claimed);
        assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
        assert!(bed.files(&name).is_empty());
    }
}

#[test]
fn a_run_removes_what_earlier_runs_have_left_of_a_copy_and_nothing_of_later_ones() {
    let bed = Bed::standalone();
    let volume = bed.make_volume();
    let touch = |name: &str| {
        let path = bed.dir.path().join("volumes").join(Path::new(name));
        std::fs::write(path, "a part").unwrap();
    };
    for (claimed, name) in bed.copies_of(&volume) {
        let (before, after) = (format!("{name}.0.partial"), format!("{name}.2.partial"));
        touch(&before);
        touch(&after);
        touch(&format!("volume-{}.0.partial", JobId::random()));
        assert_eq!(bed.tasks.run(claimed), Outcome::Settled);
        let mut found = bed.files(&name);
        found.sort();
        assert_eq!(found, [after, format!("{name}.raw")]);
    }
}
