use super::*;
use crate::api::names::{JobRef, ObjectKey, RunName, Uid};
use crate::repository::manifest::{parse, to_bytes};
use crate::source::{Consistency, Content};
use proptest::prelude::*;

fn plan() -> Plan {
    Plan {
        id: AttemptId {
            job: JobRef::new("default", "web").expect("good"),
            job_uid: Uid::new("aaaaaaaa-0000").expect("good"),
            cluster_id: Uid::new("cccccccc-0000").expect("good"),
            run: RunName::new("web-20260102-0304").expect("good"),
            run_uid: Uid::new("01234567-89ab").expect("good"),
            attempt: 1,
            scheduled_at: None,
            archive: ObjectKey::new("default/web").expect("good"),
        },
        adopt: None,
        target: serde_json::json!({"kind": "StatefulSet", "name": "web"}),
        strategy: "copy",
        compression_level: 3,
        recipients: Vec::new(),
        allow_empty: false,
        minimum_size: None,
        maximum_shrink_percent: None,
        accepted: None,
        waited: false,
        segment_size: u64::MAX,
    }
}

fn kept(pod: &str, size: u64, incomplete: Option<Reason>) -> Fate {
    let measure = || Measure { size, digest: format!("{pod}-{size}") };
    Fate::Kept(Box::new(Kept {
        facts: CaptureFacts {
            content: Content::Tar,
            consistency: Consistency::Live,
            pod: Some(pod.to_owned()),
            container: Some("main".into()),
        },
        outcome: if incomplete.is_none() { Outcome::Complete } else { Outcome::Incomplete },
        reason: incomplete,
        message: incomplete.map(|_| "a file cannot be read".into()),
        exit_code: Some(0),
        warnings: vec!["w".into()],
        raw: measure(),
        stored: measure(),
        files: Some(2),
        segments: vec![Object { name: format!("{pod}/archive.tar.zst"), size, digest: "aa".into() }],
        log: None,
    }))
}

fn missing(reason: Reason, message: &str) -> Fate {
    Fate::Missing(Failure::new(reason, message))
}

fn judged(fates: Vec<Fate>) -> Result<Manifest, Failure> {
    let plan = plan();
    let at = DateTime::UNIX_EPOCH;
    let frame = Frame { plan: &plan, started_at: at, completed_at: at, warnings: Vec::new(), shrunk: None };
    of_each(frame, fates.into_iter().enumerate().map(|(n, fate)| (format!("web-{n}"), fate)).collect())
}

#[test]
fn all_of_them_are_a_backup() {
    let manifest = judged(vec![kept("web-0", 5, None), kept("web-1", 7, None)]).expect("a backup");
    assert_eq!((manifest.outcome, &manifest.reason, &manifest.message), (Outcome::Complete, &None, &None));
    assert_eq!((manifest.raw.size, manifest.stored.size, manifest.files), (12, 12, Some(4)));
}

#[test]
fn one_that_is_missing_is_named() {
    let manifest = judged(vec![
        kept("web-0", 5, None),
        missing(Reason::CommandFailed, "tar ended with 2"),
        kept("web-2", 7, Some(Reason::LiveDatabase)),
    ])
    .expect("a backup");
    assert_eq!((manifest.outcome, manifest.reason.as_deref()), (Outcome::Incomplete, Some("PodsMissing")));
    assert_eq!(
        manifest.message.as_deref(),
        Some("web-1 is missing, 2 of 3 pods are in the backup. web-1: CommandFailed, tar ended with 2")
    );
    let pods = manifest.each().expect("a list");
    assert_eq!((pods[1].outcome, pods[1].reason.as_deref()), (PodOutcome::Missing, Some("CommandFailed")));
    assert_eq!((pods[2].outcome, pods[2].reason.as_deref()), (PodOutcome::Incomplete, Some("LiveDatabase")));
}

#[test]
fn what_is_kept_in_part_has_its_own_reason() {
    let manifest = judged(vec![kept("web-0", 5, None), kept("web-1", 5, Some(Reason::LiveDatabase))]).expect("one");
    assert_eq!((manifest.outcome, manifest.reason.as_deref()), (Outcome::Incomplete, Some("LiveDatabase")));
    assert_eq!(manifest.message.as_deref(), Some("web-1: LiveDatabase, a file cannot be read"));
}

#[test]
fn of_none_the_failure_that_tells_most_is_the_runs() {
    let failure = judged(vec![
        missing(Reason::EmptyBackup, "nothing"),
        missing(Reason::TargetNotReady, "is Pending"),
        Fate::Missing(Failure::new(Reason::CommandFailed, "ended with 3").with_exit_code(3)),
    ])
    .expect_err("no backup");
    assert_eq!((failure.reason, failure.exit_code), (Reason::CommandFailed, Some(3)), "tried again, and it tells why");
    assert!(failure.message.starts_with("none of its 3 pods could be backed up. web-2: CommandFailed, ended with 3"));
    assert!(failure.message.contains("web-0: EmptyBackup") && failure.message.contains("web-1: TargetNotReady"));
    assert_eq!(judged(vec![]).expect_err("no pod, no backup").reason, Reason::TargetNotReady);
}

fn any_fate() -> impl Strategy<Value = (u8, Reason, String)> {
    // No source says of itself what is said of several.
    let reasons: Vec<Reason> = Reason::ALL.iter().copied().filter(|reason| *reason != Reason::PodsMissing).collect();
    (0_u8..3, proptest::sample::select(reasons), ".{0,900}")
}

proptest! {
    /// Whatever becomes of the pods: complete with all of them whole and no other way, a failure without any, tried again if
    /// one of them may pass; and what is written can be read.
    #[test]
    fn never_complete_with_a_pod_missing(fates in proptest::collection::vec(any_fate(), 0..40)) {
        let of = |(n, (kind, reason, message)): (usize, &(u8, Reason, String))| match kind {
            0 => kept(&format!("web-{n}"), n as u64, None),
            1 => kept(&format!("web-{n}"), n as u64, Some(*reason)),
            _ => missing(*reason, message),
        };
        let whole = fates.iter().filter(|(kind, ..)| *kind == 0).count();
        let lost: Vec<&Reason> = fates.iter().filter(|(kind, ..)| *kind == 2).map(|(_, reason, _)| reason).collect();
        match judged(fates.iter().enumerate().map(of).collect()) {
            Err(failure) => {
                prop_assert_eq!(lost.len(), fates.len());
                prop_assert_eq!(
                    failure.class() == Class::Transient,
                    lost.is_empty() || lost.iter().any(|reason| reason.class() == Class::Transient)
                );
            }
            Ok(manifest) => {
                prop_assert!(lost.len() < fates.len());
                prop_assert_eq!(manifest.outcome == Outcome::Complete, whole == fates.len());
                prop_assert_eq!(manifest.reason.as_deref() == Some("PodsMissing"), !lost.is_empty());
                prop_assert_eq!(manifest.outcome == Outcome::Incomplete, manifest.reason.is_some());
                prop_assert!(manifest.message.as_deref().unwrap_or_default().len() <= Failure::MESSAGE_LIMIT);
                prop_assert_eq!(manifest.parts().len(), fates.len() - lost.len());
                let bytes = to_bytes(&manifest).expect("bytes");
                prop_assert_eq!(parse::<Manifest>("m", &bytes).expect("readable"), manifest);
            }
        }
    }
}
