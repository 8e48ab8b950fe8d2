//! What a backup is compared with, and how little of an archive is looked at for it.

use super::*;
use crate::repository::manifest::tests::sample;
use chrono::TimeDelta;

#[tokio::test]
async fn one_that_shrank_is_kept_and_flagged_until_it_is_accepted() {
    let destination = memory();
    let cancel = Cancel::default();
    // Each an hour after the one before it.
    let backup = async |hour: u32, size: usize, accepted: Option<&str>| {
        let mut plan = plan();
        plan.id.run = RunName::new(format!("pg-{hour}")).unwrap();
        plan.maximum_shrink_percent = Some(50);
        plan.accepted = accepted.map(str::to_owned);
        let clock = FixedClock::at(DateTime::UNIX_EPOCH + chrono::TimeDelta::hours(hour.into()));
        let source = Scripted::new(Content::Raw, noise(size));
        back_up(&plan, &source, &destination, &clock, &Progress::default(), &cancel).await.unwrap()
    };
    for hour in 1..=3 {
        assert_eq!(backup(hour, 1000, None).await.shrunk, None);
    }
    let small = backup(4, 100, None).await;
    assert_eq!(small.phase, Phase::Succeeded);
    assert_eq!(small.shrunk.as_deref(), Some("holds 100, 90 % less than the median of the 3 before it (1000)"));
    let archives = catalog::load(&destination, "").await.unwrap();
    let flagged = archives[0].backups.iter().filter(|backup| backup.manifest.shrunk.is_some());
    assert_eq!(flagged.map(|backup| backup.manifest.run.as_str()).collect::<Vec<_>>(), ["pg-4"]);
    assert!(backup(5, 100, None).await.shrunk.is_some(), "a second small one is as wrong as the first");
    assert_eq!(backup(6, 100, Some("pg-4")).await.shrunk, None);
    // Another archive's backups are no measure; and a list that cannot be had spoils nothing.
    let source = Scripted::new(Content::Raw, noise(10));
    let mut other = Plan { maximum_shrink_percent: Some(50), ..plan() };
    other.id.archive = ObjectKey::new("default/other").unwrap();
    assert_eq!(run(&other, &source, &destination, &cancel).await.unwrap().shrunk, None);
    let deaf = memory().once(Operation::List, "", 1, Fault::Fail(Reason::DestinationDenied));
    let report = run(&Plan { maximum_shrink_percent: Some(50), ..plan() }, &source, &deaf, &cancel).await.unwrap();
    assert_eq!(report.phase, Phase::Succeeded);
    assert!(report.warnings.iter().any(|warning| warning.contains("DestinationDenied")), "{:?}", report.warnings);
}

/// A backup of 1000 raw bytes by this plan's job, made so many hours after 1970 began.
fn before(hour: i64) -> (String, Manifest) {
    let mut manifest = sample();
    manifest.owner = verdict::owner(&plan().id);
    manifest.started_at = DateTime::UNIX_EPOCH + TimeDelta::hours(hour);
    manifest.run = format!("pg-{}", manifest.started_at.format("%Y%m%d-%H%M"));
    manifest.raw.size = 1000;
    (format!("default/pg/{}-abcdef01-1/manifest.json", manifest.run), manifest)
}

async fn store(destination: &Faulty, (key, manifest): (String, Manifest)) {
    let bytes = manifest::to_bytes(&manifest).unwrap();
    destination.put(&ObjectKey::new(key).unwrap(), bytes, Put::Always).await.unwrap();
}

/// How the next backup, of `size` bytes, compares; and the manifests of others that were read for it.
async fn next(destination: &Faulty, size: usize) -> (Report, Vec<String>) {
    next_by(plan(), destination, size).await
}

/// The same of this plan.
async fn next_by(plan: Plan, destination: &Faulty, size: usize) -> (Report, Vec<String>) {
    let already = destination.done().len();
    let plan = Plan { maximum_shrink_percent: Some(50), ..plan };
    let source = Scripted::new(Content::Raw, noise(size));
    let report = run(&plan, &source, destination, &Cancel::default()).await.unwrap();
    let read = destination.done().into_iter().skip(already).filter(|(operation, key)| {
        *operation == Operation::Read && key.ends_with("manifest.json") && !key.starts_with(FOLDER)
    });
    (report, read.map(|(_, key)| key).collect())
}

#[tokio::test]
async fn of_hundreds_of_backups_the_newest_five_are_read() {
    let destination = memory();
    // Written in an order that says nothing.
    for hour in (0..400).map(|n| n * 7 % 400) {
        store(&destination, before(hour)).await;
    }
    let (report, read) = next(&destination, 100).await;
    let newest: Vec<String> = (395..400).rev().map(|hour| before(hour).0).collect();
    assert_eq!(read, newest);
    assert_eq!(report.shrunk.as_deref(), Some("holds 100, 90 % less than the median of the 5 before it (1000)"));
    assert_eq!(report.warnings, ["a warning"]);
}

#[tokio::test]
async fn backups_of_others_are_no_measure_and_not_all_of_them_are_read() {
    let destination = memory();
    store(&destination, before(0)).await;
    let others: [fn(&mut Manifest); 3] = [
        |manifest| manifest.owner.cluster_id = "dddddddd-0000".into(),
        |manifest| manifest.owner.namespace = "other".into(),
        |manifest| manifest.owner.job = "other".into(),
    ];
    for (hour, other) in (1..=30).zip(others.iter().cycle()) {
        let (key, mut manifest) = before(hour);
        manifest.raw.size = 9;
        other(&mut manifest);
        store(&destination, (key, manifest)).await;
    }
    let (report, read) = next(&destination, 100).await;
    assert_eq!(read.len(), 31);
    assert_eq!(report.shrunk.as_deref(), Some("holds 100, 90 % less than the backup before it (1000)"));
    // One that was deleted and made again is the same job.
    let destination = memory();
    let (key, mut again) = before(0);
    again.owner.job_uid = "bbbbbbbb-0000".into();
    store(&destination, (key, again)).await;
    assert!(next(&destination, 100).await.0.shrunk.is_some());
    // With more of them than anybody reads nothing is known, which is said; with all of them read it is the first one.
    for (others, known) in [(64, true), (65, false), (300, false)] {
        let destination = memory();
        for hour in 1..=others {
            let (key, mut manifest) = before(hour);
            manifest.owner.cluster_id = "dddddddd-0000".into();
            store(&destination, (key, manifest)).await;
        }
        let (report, read) = next(&destination, 100).await;
        assert_eq!((report.phase, report.shrunk, read.len()), (Phase::Succeeded, None, 64));
        let said = report.warnings.iter().filter(|warning| {
            warning.starts_with("whether it has shrunk is not known") && warning.contains("in default/pg")
        });
        assert_eq!(said.count(), usize::from(!known), "{others}: {:?}", report.warnings);
    }
}

#[tokio::test]
async fn a_folder_that_is_named_by_another_job_is_not_looked_into() {
    let destination = memory();
    let theirs = |hour| {
        let (key, mut manifest) = before(hour);
        manifest.owner.job = "other".into();
        manifest.owner.job_uid = "eeeeeeee-0000".into();
        manifest.raw.size = 500;
        (key.replace("/pg-", "/other-"), manifest)
    };
    for hour in 0..5 {
        store(&destination, before(hour)).await;
    }
    for hour in 5..205 {
        store(&destination, theirs(hour)).await;
    }
    let (report, read) = next(&destination, 100).await;
    let ours: Vec<String> = (0..5).rev().map(|hour| before(hour).0).collect();
    assert_eq!(read, ours);
    assert_eq!(report.shrunk.as_deref(), Some("holds 100, 90 % less than the median of the 5 before it (1000)"));
    assert_eq!(report.warnings, ["a warning"]);
    // Unless they are taken over.
    let again = |attempt| Plan { id: AttemptId { attempt, ..plan().id }, ..plan() };
    let adopts = Plan { adopt: Some(theirs(0).1.owner.id()), ..again(2) };
    let report = next_by(adopts, &destination, 100).await.0;
    assert_eq!(report.shrunk.as_deref(), Some("holds 100, 80 % less than the median of the 5 before it (500)"));
    // Or somebody has named a run of ours like that, and accepted it.
    let (_, mut small) = before(300);
    small.run = "before-upgrade-20251231-2359".into();
    small.raw.size = 100;
    small.shrunk = Some(Shrunk { percent: 90, median: 1000, of: 5 });
    store(&destination, (format!("default/pg/{}-abcdef01-1/manifest.json", small.run), small.clone())).await;
    assert_eq!(next_by(Plan { accepted: Some(small.run), ..again(3) }, &destination, 100).await.0.shrunk, None);
}

#[tokio::test]
async fn behind_more_small_ones_than_are_read_the_measure_is_still_known() {
    let destination = memory();
    for hour in 0..3 {
        store(&destination, before(hour)).await;
    }
    for hour in 3..103 {
        let (key, mut manifest) = before(hour);
        manifest.raw.size = 100;
        manifest.shrunk = Some(Shrunk { percent: 90, median: 1000, of: 3 });
        store(&destination, (key, manifest)).await;
    }
    let (report, read) = next(&destination, 100).await;
    assert_eq!(read.len(), 64);
    assert_eq!(report.shrunk.as_deref(), Some("holds 100, 90 % less than the median of the 3 before it (1000)"));
    assert_eq!(report.warnings, ["a warning"]);
}

#[tokio::test]
async fn one_that_cannot_be_read_is_passed_over() {
    let newest = before(9).0;
    let with = async |destination: Faulty| {
        for hour in 0..10 {
            store(&destination, before(hour)).await;
        }
        destination
    };
    for (reason, said) in
        [(Reason::DestinationUnavailable, true), (Reason::BackupNotFound, false), (Reason::BackupDamaged, false)]
    {
        let destination = with(memory().always(Operation::Read, &newest, Fault::Fail(reason))).await;
        let (report, read) = next(&destination, 100).await;
        assert!(report.shrunk.as_deref().is_some_and(|said| said.contains("of the 5 before it")), "{reason}");
        assert_eq!(read.len(), 6, "{reason}");
        assert_eq!(report.warnings.iter().any(|warning| warning.contains("compared with others")), said, "{reason}");
    }
    // A store that gives none of them is not asked for all: each may take minutes.
    let down = Fault::Fail(Reason::DestinationUnavailable);
    let destination = with(memory().always(Operation::Read, "-abcdef01-1/manifest.json", down)).await;
    let (report, read) = next(&destination, 100).await;
    assert_eq!((report.phase, report.shrunk, read.len()), (Phase::Succeeded, None, 3));
    assert!(report.warnings.iter().any(|warning| warning.contains("is not known")), "{:?}", report.warnings);
}
