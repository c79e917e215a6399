//! Jobs that copy volumes: no run touches what another makes.

use super::*;
use crate::model::id::JobId;
use std::path::Path;

impl Bed {
    /// A job that copies the volume, once as a snapshot and once as a volume, and the name of what it makes.
    fn copies_of(&self, volume: &VolumeId) -> [(Claimed, String); 2] {
        let snapshot = self.accept_snapshot(volume);
        let of_snapshot = self.claim(Lane::Copy);
        let wanted = CreateVolume {
            source_volume_id: Some(volume.clone()),
            ..CreateVolume::default()
        };
        let made = self.services.create_volume(&self.ctx, wanted).unwrap();
        let of_volume = self.claim(Lane::Copy);
        [
            (of_snapshot, format!("snapshot-{snapshot}")),
            (of_volume, format!("volume-{}", made.volume.id)),
        ]
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
