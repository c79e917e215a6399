//! The wiring: what ends the service, and the core on a catalogue that is not the stand-in.

mod catalog;

use super::*;

#[tokio::test]
async fn a_vital_task_that_ends_by_itself_ends_the_service() {
    for panics in [true, false] {
        let (stop, tracker) = (Stop::default(), TaskTracker::new());
        let task = async move { assert!(!panics, "a defect") };
        spawn_vital("task", task, &stop, &tracker);
        let broken = stop.broken.cancelled();
        assert!(
            tokio::time::timeout(Duration::from_secs(5), broken)
                .await
                .is_ok()
        );
    }
    let (stop, tracker) = (Stop::default(), TaskTracker::new());
    let taking = stop.taking.clone();
    spawn_vital("task", taking.cancelled_owned(), &stop, &tracker);
    stop.taking.cancel();
    tracker.close();
    tracker.wait().await;
    assert!(!stop.broken.is_cancelled());
}
