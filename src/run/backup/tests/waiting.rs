//! An attempt after one that had to wait writes nothing before it knows whether it has to wait as well.

use super::*;

fn taken() -> Scripted {
    let taken = Failure::new(Reason::BackupDirectoryBusy, "waits for another run");
    Scripted::new(Content::Raw, []).ending(Err(taken))
}

fn after_a_wait() -> Plan {
    Plan { waited: true, ..plan() }
}

#[tokio::test]
async fn a_look_that_finds_the_directory_in_use_asks_the_destination_nothing() {
    let cancel = Cancel::default();
    let destination = memory();
    let failure = run(&after_a_wait(), &taken(), &destination, &cancel).await.unwrap_err();
    assert_eq!((failure.reason, failure.left), (Reason::BackupDirectoryBusy, None));
    assert_eq!(destination.done(), []);
    // A first attempt asks it before anything else, and removes what it wrote.
    let destination = memory();
    simple(&taken(), &destination).await.unwrap_err();
    assert_eq!(destination.done().first(), Some(&(Operation::Read, "default/pg/owner.json".to_owned())));
    assert_nothing_left(&destination, "a first look").await;
}

#[tokio::test]
async fn one_that_finds_it_free_makes_a_backup_like_any_other() {
    let cancel = Cancel::default();
    let destination = memory();
    let dump = noise(5_000_000);
    let report = run(&after_a_wait(), &Scripted::new(Content::Raw, dump.clone()), &destination, &cancel).await.unwrap();
    assert!(restored(&destination, &report.objects).await == dump);
    let puts = destination.done().into_iter().filter(|(operation, _)| *operation == Operation::Put);
    let puts: Vec<String> = puts.map(|(_, key)| key.rsplit('/').next().unwrap().to_owned()).collect();
    assert_eq!(puts, ["owner.json", "started.json", "log.txt", "manifest.json"], "each once");
    // Also where there is no byte in it, and that is right.
    let empty = Plan { allow_empty: true, ..after_a_wait() };
    assert!(run(&empty, &Scripted::new(Content::Raw, []), &memory(), &cancel).await.is_ok());
    // A destination that cannot be had by then is a failure like any other, and the source is told to end.
    let down = memory().once(Operation::Put, "started.json", 1, Fault::Fail(Reason::DestinationUnavailable));
    let source = Scripted { endless: true, ..Scripted::new(Content::Raw, noise(9_000_000)) };
    let failure = run(&after_a_wait(), &source, &down, &cancel).await.unwrap_err();
    assert_eq!(failure.reason, Reason::DestinationUnavailable);
    assert!(source.ended.load(Ordering::SeqCst));
    assert_nothing_left(&down, "a destination that went away").await;
}

#[tokio::test]
async fn of_several_pods_the_first_that_is_free_claims_the_folder() {
    let member = |pod: &str, source: Scripted| Member { pod: pod.into(), source: Ok(Box::new(source)) };
    let run = async |pods: &[Member], destination: &Faulty| {
        let clock = FixedClock::at("2026-01-02T03:04:05Z".parse().unwrap());
        let (plan, cancel) = (after_a_wait(), Cancel::default());
        back_up_each(&plan, pods, destination, &clock, &Progress::default(), &cancel).await
    };
    let destination = memory();
    let failure = run(&[member("web-0", taken()), member("web-1", taken())], &destination).await.unwrap_err();
    assert_eq!(failure.reason, Reason::BackupDirectoryBusy);
    assert_eq!(destination.done(), []);
    let failed = taken().ending(Err(Failure::new(Reason::CommandFailed, "ended with 1")));
    let free = Scripted::new(Content::Raw, noise(70_000));
    let pods = [member("web-0", failed), member("web-1", free.clone()), member("web-2", free)];
    let report = run(&pods, &destination).await.unwrap();
    assert_eq!((report.phase, report.reason), (Phase::Incomplete, Some(Reason::PodsMissing)));
    let started =
        |(operation, key): &&(Operation, String)| *operation == Operation::Put && key.ends_with("started.json");
    assert_eq!(destination.done().iter().filter(started).count(), 1);
}
