use serde_json::Value;

use super::*;
use crate::sink::FolderNotes;

fn desk(folder: &std::path::Path) -> JobDesk {
    let desk = JobDesk::new(Arc::new(FolderNotes::beside(&folder.join("t.mbtiles"))));
    desk.take_over().unwrap();
    desk
}

fn spec(text: &str) -> JobSpec {
    JobSpec::read(text.as_bytes()).unwrap()
}

#[test]
fn jobs_outlive_their_process_and_run_once_more_if_it_died() {
    let folder = tempfile::tempdir().unwrap();
    let first = desk(folder.path());
    let log = first.submit(spec(r#"{"what":"log"}"#), Some("k".to_owned())).unwrap();
    assert!(log.is_new && log.record.id == 1);
    // Equal waiting jobs become one, and so do repeated requests.
    let again = first.submit(spec(r#"{"what":"log"}"#), None).unwrap();
    assert!(!again.is_new && again.record.id == 1);
    assert!(matches!(first.submit(spec(r#"{"what":"seed"}"#), Some("k".to_owned())), Err(JobError::OtherWithKey)));
    let seed = first.submit(spec(r#"{"what":"seed"}"#), None).unwrap().record.id;
    let urgent = spec(r#"{"what":"tiles","tiles":["0/0/0"],"priority":"refresh"}"#);
    let urgent = first.submit(urgent, None).unwrap().record.id;
    assert_eq!((seed, urgent), (2, 3));
    let started = first.begin_next(&Stop::new()).unwrap().unwrap();
    assert_eq!(started.id(), urgent);
    // The process dies here.
    let second = desk(folder.path());
    assert!(second.all().iter().all(|job| job.state == JobState::Queued) && second.all().len() == 3);
    for expected in [urgent, 1, seed] {
        let started = second.begin_next(&Stop::new()).unwrap().unwrap();
        assert_eq!(started.id(), expected);
        started.end(JobEnd::Done(serde_json::json!({ "written": 1 }))).unwrap();
    }
    assert!(second.begin_next(&Stop::new()).unwrap().is_none());
    let third = desk(folder.path());
    assert_eq!(third.get(urgent).unwrap().report, Some(serde_json::json!({ "written": 1 })));
    // A repeated request finds the job that has ended; without a key it is another job.
    assert_eq!(third.submit(spec(r#"{"what":"log"}"#), Some("k".to_owned())).unwrap().record.id, 1);
    assert_eq!(third.submit(spec(r#"{"what":"log"}"#), None).unwrap().record.id, 4);
}

#[test]
fn jobs_are_taken_back_and_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let desk = desk(folder.path());
    let tile = |number: usize| spec(&format!(r#"{{"what":"tiles","tiles":["10/{number}/0"]}}"#));
    for number in 0..MAX_WAITING_JOBS {
        assert!(desk.submit(tile(number), None).unwrap().is_new);
    }
    assert!(matches!(desk.submit(tile(1_000), None), Err(JobError::TooMany)));
    assert_eq!(desk.cancel(1).unwrap().unwrap().state, JobState::Cancelled);
    assert!(matches!(desk.cancel(1), Err(JobError::Ended)));
    assert!(desk.cancel(999).unwrap().is_none());
    let stop = Stop::new();
    let running = desk.begin_next(&stop).unwrap().unwrap();
    assert_eq!(running.id(), 2);
    desk.cancel(2).unwrap();
    assert!(running.is_cancelled());
    running.end(JobEnd::Cancelled).unwrap();
    // A job that was cut off waits again.
    desk.begin_next(&Stop::new()).unwrap().unwrap().end(JobEnd::CutOff).unwrap();
    assert_eq!(desk.get(3).unwrap().state, JobState::Queued);
    while let Some(next) = desk.begin_next(&Stop::new()).unwrap() {
        next.end(JobEnd::Failed("x".to_owned())).unwrap();
    }
    for number in 0..50 {
        desk.submit(tile(number), None).unwrap();
        desk.begin_next(&Stop::new()).unwrap().unwrap().end(JobEnd::Done(Value::Null)).unwrap();
    }
    assert_eq!(desk.all().len(), MAX_ENDED_JOBS);
    assert_eq!(desk.0.notes.list(FOLDER).unwrap().len(), MAX_ENDED_JOBS);
}
