use super::*;
use crate::repository::manifest::Owner;
use crate::run::report::StoredObject;
use crate::source::Consistency;
use proptest::prelude::*;

const RETRY: Retry = Retry { limit: 2, backoff: Duration::from_secs(30) };

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + second, 0).expect("in range")
}

fn spec() -> BackupJobSpec {
    serde_json::from_value(serde_json::json!({
        "target": {"kind": "StatefulSet", "name": "postgres"},
        "strategy": {"type": "dump", "command": "pg_dumpall"},
        "destination": {"type": "s3", "uri": "s3://backups/p"},
    }))
    .expect("a spec")
}

fn begun() -> BackupRunStatus {
    let mut status = BackupRunStatus::default();
    assert_eq!(begin_attempt(&mut status, "ubo-a", &spec(), Some(1), at(0)), 1);
    status
}

fn report(phase: Phase, reason: Option<Reason>) -> Report {
    Report {
        phase,
        reason,
        message: "1.0Ki read".into(),
        folder: "default/pg/run-1".into(),
        ownership: Ownership::Ours,
        objects: vec![StoredObject { name: "dump.zst".into(), size: 10, digest: "ab".into() }],
        bytes_read: 1024,
        bytes_stored: 10,
        files: None,
        shrunk: None,
        warnings: vec!["w".into(); 50],
        exit_code: Some(0),
        pod: Some("postgres-0".into()),
        consistency: Consistency::Command,
    }
}

#[test]
fn a_foreign_owner_is_said() {
    let owner = Owner { cluster_id: "c".into(), namespace: "default".into(), job: "pg".into(), job_uid: "j".into() };
    for (ownership, said) in
        [(Ownership::Ours, None), (Ownership::TakenOver("x".into()), None), (Ownership::Foreign(owner), Some("c/j"))]
    {
        let mut status = begun();
        let report = Report { ownership, ..report(Phase::Succeeded, None) };
        end_attempt(&mut status, &Ok(report), RETRY, None, at(5));
        assert_eq!(status.phase, Phase::Succeeded, "it is a backup all the same");
        assert_eq!(status.destinations[0].foreign_owner.as_deref(), said);
    }
}

#[test]
fn an_attempt_is_open_until_it_is_closed_and_keeps_the_first_spec() {
    let mut status = begun();
    assert!(open_attempt(&status).is_some_and(|open| open.executor.as_deref() == Some("ubo-a")));
    assert_eq!((status.phase, status.spec.as_ref()), (Phase::Running, Some(&spec())));
    end_attempt(&mut status, &Err(Failure::new(Reason::StreamCut, "cut")), RETRY, None, at(5));
    assert!(open_attempt(&status).is_none());
    let mut other = spec();
    other.strategy.command = Some("something else".into());
    begin_attempt(&mut status, "ubo-b", &other, None, at(40));
    assert_eq!(status.spec, Some(spec()), "a later attempt runs what the first one ran");
    assert_eq!(status.start_time, Some(to_time(at(0))), "the run began with its first attempt");
}

#[test]
fn only_transient_failures_are_tried_again_and_only_within_the_limit() {
    for &reason in Reason::ALL {
        let mut status = begun();
        let next = end_attempt(&mut status, &Err(Failure::new(reason, "x")), RETRY, None, at(10));
        match reason.class() {
            Class::Transient => {
                assert!(matches!(next, Next::Retry(_)), "{reason}");
                assert_eq!(status.phase, Phase::Pending, "between attempts the phase is Pending");
                assert!(status.completion_time.is_none());
            }
            Class::Cancelled => assert_eq!((next, status.phase), (Next::Over, Phase::Cancelled), "{reason}"),
            Class::Permanent | Class::Misconfigured => {
                assert_eq!((next, status.phase), (Next::Over, Phase::Failed), "{reason}");
            }
        }
        assert_eq!(status.attempts[0].reason.as_deref(), Some(reason.as_str()));
    }
}

#[test]
fn a_run_that_failed_for_good_says_what_to_do() {
    for &reason in Reason::ALL.iter().filter(|reason| !reason.is_waiting()) {
        for (message, begins) in [("it broke.".to_owned(), "it broke"), ("é".repeat(2000), "éé")] {
            let mut status = begun();
            let once = Retry { limit: 0, ..RETRY };
            assert_eq!(end_attempt(&mut status, &Err(Failure::new(reason, message)), once, None, at(10)), Next::Over);
            let said = status.message.unwrap();
            assert!(said.starts_with(begins) && said.len() <= Failure::MESSAGE_LIMIT, "{reason}: {said}");
            let way_out = reason.way_out();
            assert!(way_out.is_empty() || said.ends_with(&format!("; {way_out}")), "{reason}: {said}");
            assert!(way_out.is_empty() || status.phase == Phase::Failed, "{reason}: nobody has to do anything");
            assert!(status.conditions.iter().all(|condition| condition.message == said), "{reason}");
        }
    }
    // Those whose messages say only what happened.
    for reason in [
        Reason::StreamCut,
        Reason::StreamStalled,
        Reason::TargetGone,
        Reason::ArchiveTruncated,
        Reason::DestinationMismatch,
        Reason::DestinationUnavailable,
        Reason::OperatorRestarted,
        Reason::OperatorShutdown,
        Reason::ClusterUnavailable,
        Reason::TargetNotReady,
    ] {
        assert!(!reason.way_out().is_empty(), "{reason}");
    }
    // While attempts follow, nobody has to do anything.
    let mut status = begun();
    end_attempt(&mut status, &Err(Failure::new(Reason::StreamCut, "cut")), RETRY, None, at(10));
    assert!(status.message.unwrap().ends_with(": cut"));
}

#[test]
fn the_third_failure_is_final_and_the_waits_double() {
    let mut status = begun();
    let cut = || Err(Failure::new(Reason::CommandFailed, "exit 3").with_exit_code(3));
    assert_eq!(end_attempt(&mut status, &cut(), RETRY, None, at(10)), Next::Retry(at(40)));
    assert_eq!(resume_at(&status, RETRY), Some(at(40)), "a successor waits as long");
    begin_attempt(&mut status, "ubo-a", &spec(), None, at(40));
    assert_eq!(end_attempt(&mut status, &cut(), RETRY, None, at(50)), Next::Retry(at(110)));
    begin_attempt(&mut status, "ubo-a", &spec(), None, at(110));
    assert_eq!(end_attempt(&mut status, &cut(), RETRY, None, at(120)), Next::Over);
    assert_eq!((status.phase, status.exit_code, status.attempts.len()), (Phase::Failed, Some(3), 3));
    assert_eq!(status.duration.as_deref(), Some("2m0s"));
    assert!(conditions::holds(&status.conditions, "Complete") && !conditions::holds(&status.conditions, "Succeeded"));
}

fn busy() -> Result<Report, Failure> {
    Err(Failure::new(Reason::BackupDirectoryBusy, "waits for another run, web-once, which is at work in /backup"))
}

fn numbers(status: &BackupRunStatus) -> Vec<u32> {
    status.attempts.iter().map(|attempt| attempt.number).collect()
}

#[test]
fn who_waits_for_a_directory_has_not_failed_and_takes_no_attempt_from_the_run() {
    let once = Retry { limit: 0, ..RETRY };
    let mut status = begun();
    assert!(!is_waiting(&status));
    for look in 1..=200 {
        let now = at(20 * i64::from(look));
        assert_eq!(end_attempt(&mut status, &busy(), once, None, now), Next::Retry(now + WAIT_PAUSE));
        assert_eq!((status.phase, status.reason.as_deref()), (Phase::Pending, Some("BackupDirectoryBusy")));
        assert!(status.message.as_deref().is_some_and(|said| said.contains("web-once")), "for whom: {status:?}");
        assert_eq!(numbers(&status), [look], "only the last look stays");
        assert_eq!(resume_at(&status, once), Some(now + WAIT_PAUSE), "a successor waits as long");
        assert!(is_waiting(&status) && status.completion_time.is_none());
        // Each has a folder of its own: no number comes twice.
        assert_eq!(begin_attempt(&mut status, "ubo-a", &spec(), None, now + WAIT_PAUSE), look + 1);
        assert!(is_waiting(&status), "until an attempt ends otherwise");
    }
    assert_eq!(
        time_left(&status, Duration::from_secs(5000), at(4015)),
        Some(Duration::from_secs(985)),
        "from the first"
    );
    end_attempt(&mut status, &Ok(report(Phase::Succeeded, None)), once, None, at(4100));
    assert_eq!((status.phase, numbers(&status)), (Phase::Succeeded, vec![200, 201]));
    assert_eq!(status.start_time, Some(to_time(at(0))));
}

#[test]
fn what_had_to_stay_is_tried_before_every_attempt_and_ever_more_rarely_while_the_run_waits() {
    let left = |reason| Err(Failure::new(reason, "x").leaving("In a/b stays: dump.zst"));
    let many = Retry { limit: 100, ..RETRY };
    // Before which attempts those of the first one are tried, if they always stay.
    let tried = |first: Result<Report, Failure>, later: fn() -> Result<Report, Failure>| {
        let mut status = begun();
        end_attempt(&mut status, &first, many, None, at(1));
        let mut tried = Vec::new();
        for look in 2..=70 {
            if to_clear(&status) == [1] {
                tried.push(look);
            }
            assert_eq!(begin_attempt(&mut status, "ubo-a", &spec(), None, at(2)), look);
            end_attempt(&mut status, &later(), many, None, at(3));
        }
        tried
    };
    assert_eq!(tried(left(Reason::BackupDirectoryBusy), busy), [2, 3, 5, 9, 17, 33, 65]);
    assert_eq!(tried(left(Reason::StreamCut), busy), [2, 3, 5, 9, 17, 33, 65]);
    let cut: fn() -> Result<Report, Failure> = || Err(Failure::new(Reason::StreamCut, "cut"));
    assert_eq!(tried(left(Reason::StreamCut), cut), (2..=70).collect::<Vec<_>>());
    assert_eq!(tried(busy(), busy), [0; 0], "nothing stays");
}

#[test]
fn what_fails_between_waits_is_counted_and_backed_off_by_itself() {
    let cut = || Err(Failure::new(Reason::StreamCut, "cut"));
    let mut status = begun();
    let mut results = vec![busy(), busy(), cut(), busy(), cut(), busy(), busy(), busy(), cut()].into_iter();
    let mut said = Vec::new();
    let mut now = 0;
    loop {
        let (result, generation) = (results.next().expect("not over before that"), None);
        now += 1000;
        match end_attempt(&mut status, &result, RETRY, generation, at(now)) {
            Next::Over => break,
            Next::Retry(next) => said.push((next - at(now)).num_seconds()),
        }
        begin_attempt(&mut status, "ubo-a", &spec(), None, at(now));
    }
    assert_eq!(said, [15, 15, 30, 15, 60, 15, 15, 15], "the waits double for failures alone");
    assert_eq!((results.len(), status.phase, status.reason.as_deref()), (0, Phase::Failed, Some("StreamCut")));
    assert!(status.message.as_deref().is_some_and(|said| said.starts_with("all 3 attempts failed")), "{status:?}");
    assert_eq!(numbers(&status), [2, 3, 4, 5, 8, 9]);
}

#[test]
fn a_run_whose_time_is_over_says_what_it_waited_for() {
    let limit = Duration::from_mins(1);
    let mut status = begun();
    assert!(took_too_long(limit, &status).message.ends_with("made it slow"));
    end_attempt(&mut status, &busy(), RETRY, None, at(10));
    assert!(
        took_too_long(limit, &status)
            .message
            .ends_with(". It waits for another run, web-once, which is at work in /backup")
    );
    begin_attempt(&mut status, "ubo-a", &spec(), None, at(25));
    assert!(took_too_long(limit, &status).message.ends_with("made it slow"), "it worked in the end");
}

fn text() -> impl Strategy<Value = String> {
    (proptest::sample::select(&['a', 'ß', '\n', '\u{1f980}']), 0_usize..40_000)
        .prop_map(|(c, n)| c.to_string().repeat(n))
}

prop_compose! {
    /// What a source and a destination that mean ill make of a report.
    fn any_report()(
        texts in proptest::collection::vec(text(), 8),
        (objects, warnings) in (0_usize..1500, 0_usize..200),
        numbers in any::<(u64, u64, u64, i32)>(),
        incomplete in proptest::option::of(proptest::sample::select(Reason::ALL)),
        consistency in proptest::sample::select(
            &[Consistency::Snapshot, Consistency::Command, Consistency::Quiesced, Consistency::Live]),
    ) -> Report {
        let mut texts = texts.into_iter();
        let mut text = || texts.next().expect("enough");
        let owner = Owner { cluster_id: text(), namespace: "n".into(), job: "j".into(), job_uid: text() };
        let object = StoredObject { name: text(), size: numbers.0, digest: text() };
        Report {
            phase: if incomplete.is_some() { Phase::Incomplete } else { Phase::Succeeded },
            reason: incomplete,
            message: text(),
            folder: "default/pg/run-1".into(),
            ownership: Ownership::Foreign(owner),
            objects: vec![object; objects],
            bytes_read: numbers.1,
            bytes_stored: numbers.2,
            files: Some(numbers.0),
            shrunk: Some(text()),
            warnings: vec![text(); warnings.min(30)],
            exit_code: Some(numbers.3),
            pod: Some(text()),
            consistency,
        }
    }
}

fn any_result() -> impl Strategy<Value = Result<Report, Failure>> {
    let failure = (proptest::sample::select(Reason::ALL), text(), any::<i32>(), proptest::option::of(text()));
    prop_oneof![
        any_report().prop_map(Ok),
        failure.prop_map(|(reason, message, code, left)| {
            let failure = Failure::new(reason, message).with_exit_code(code);
            Err(left.into_iter().fold(failure, Failure::leaving))
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// The API server takes what is written of whatever comes of the attempts, and what is written instead if it does not.
    #[test]
    fn a_status_is_within_its_schema(results in proptest::collection::vec(any_result(), 1..4), why in text()) {
        let schema = &crate::api::STATUS_SCHEMAS[1];
        let mut status = BackupRunStatus::default();
        let faults = |status: &BackupRunStatus| {
            crate::api::schema::tests::faults("status", &crate::api::written_run_status(status), schema)
        };
        for result in results {
            begin_attempt(&mut status, "ubo-a", &spec(), Some(1), at(0));
            prop_assert_eq!(faults(&status), Vec::<String>::new());
            let next = end_attempt(&mut status, &result, RETRY, Some(1), at(1));
            prop_assert_eq!(faults(&status), Vec::<String>::new());
            if next == Next::Over {
                break;
            }
        }
        if !status.phase.is_final() {
            finish(&mut status, Phase::Failed, Some(Reason::Internal), &refused(&why).message, Some(1), at(2));
        }
        let (phase, reason, attempts) = (status.phase, status.reason.clone(), status.attempts.clone());
        reduce(&mut status, &why, Some(1), at(3));
        prop_assert_eq!(faults(&status), Vec::<String>::new());
        let stays = attempts.iter().filter(|attempt| attempt.left.is_some());
        let said: Vec<String> = stays.map(|attempt| format!("attempt {}: {NOT_CLEANED_UP}", attempt.number)).collect();
        prop_assert_eq!(&status.warnings, &said, "that something stays is said all the same");
        let attempts: Vec<_> = attempts.into_iter().map(|attempt| AttemptStatus { left: None, ..attempt }).collect();
        prop_assert_eq!((status.phase, &status.reason, &status.attempts), (phase, &reason, &attempts));
        prop_assert!(status.destinations.is_empty() && status.pod.is_none());
        prop_assert!(status.message.is_some_and(|said| said.len() <= Failure::MESSAGE_LIMIT && said.contains("found the run's status invalid")));
    }
}

proptest! {
    /// Whatever comes of the attempts: numbers only rise, the list stays within the schema, what failed is counted and what
    /// waited is not.
    #[test]
    fn attempts_are_counted_and_numbered(
        limit in 0_u32..=20,
        ends in proptest::collection::vec((proptest::sample::select(Reason::ALL), 0_u32..4), 1..300),
    ) {
        let retry = Retry { limit, ..RETRY };
        let mut status = BackupRunStatus::default();
        let (mut failed, mut last) = (0, 0);
        for (reason, more) in ends {
            let reason = if more > 0 { Reason::BackupDirectoryBusy } else { reason };
            let number = begin_attempt(&mut status, "ubo-a", &spec(), None, at(0));
            prop_assert!(number > last);
            last = number;
            failed += u32::from(!reason.is_waiting());
            let next = end_attempt(&mut status, &Err(Failure::new(reason, "x")), retry, None, at(1));
            prop_assert!(status.attempts.len() <= 64, "{}", status.attempts.len());
            prop_assert!(numbers(&status).windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert_eq!(status.attempts.last().map(|last| last.number), Some(number));
            prop_assert_eq!(status.attempts.iter().filter(|attempt| !waited(attempt)).count(), failed as usize);
            prop_assert_eq!(next == Next::Over, status.phase.is_final());
            prop_assert!(!reason.is_waiting() || status.phase == Phase::Pending);
            prop_assert!(failed <= limit.saturating_add(1));
            prop_assert!(failed <= limit || status.phase.is_final() || reason.is_waiting());
            if next == Next::Over {
                break;
            }
        }
    }
}

#[test]
fn no_wait_is_longer_than_ten_minutes() {
    let retry = Retry { limit: 20, backoff: Duration::from_mins(10) };
    assert_eq!((retry.wait(1), retry.wait(20), retry.wait(u32::MAX)), (BACKOFF_LIMIT, BACKOFF_LIMIT, BACKOFF_LIMIT));
    assert_eq!(Retry { limit: 20, backoff: Duration::from_secs(1) }.wait(4), Duration::from_secs(8));
}

#[test]
fn what_an_ending_operator_leaves_is_taken_up_at_once() {
    let mut status = begun();
    let failure = Failure::new(Reason::OperatorShutdown, "told to end");
    assert_eq!(end_attempt(&mut status, &Err(failure), RETRY, None, at(10)), Next::Retry(at(10)));
    assert_eq!(resume_at(&status, RETRY), Some(at(10)));
}

#[test]
fn a_success_says_everything_and_an_incomplete_one_is_not_a_success() {
    let mut status = begun();
    end_attempt(&mut status, &Ok(report(Phase::Succeeded, None)), RETRY, None, at(10));
    assert_eq!((status.phase, status.reason.as_deref(), status.size.as_deref()), (Phase::Succeeded, None, Some("10")));
    assert_eq!(status.warnings.len(), WARNINGS_LIMIT);
    assert_eq!(status.destinations[0].objects[0].size, 10);
    assert!(conditions::holds(&status.conditions, "Succeeded"));

    let mut status = begun();
    end_attempt(&mut status, &Ok(report(Phase::Incomplete, Some(Reason::SourceIncomplete))), RETRY, None, at(10));
    assert_eq!((status.phase, status.reason.as_deref()), (Phase::Incomplete, Some("SourceIncomplete")));
    assert!(!conditions::holds(&status.conditions, "Succeeded"));
}

#[test]
fn people_read_sizes_and_durations() {
    let sizes = [(0, "0"), (1023, "1023"), (1024, "1.0Ki"), (1_288_490_189, "1.2Gi"), (1_048_575, "1.0Mi")];
    for (bytes, text) in sizes {
        assert_eq!(human_size(bytes), text);
    }
    for (seconds, text) in [(5, "5s"), (192, "3m12s"), (7500, "2h5m")] {
        assert_eq!(human_duration(Duration::from_secs(seconds)), text);
    }
}

#[test]
fn a_target_that_was_there_may_come_back() {
    let missing = || Failure::new(Reason::TargetNotFound, "there is no Pod db-0");
    assert_eq!(judge_missing_target(missing(), false, false), missing(), "a name that nobody has seen");
    for (run, before) in [(true, false), (false, true), (true, true)] {
        let judged = judge_missing_target(missing(), run, before);
        assert_eq!((judged.reason, judged.class()), (Reason::TargetNotReady, Class::Transient));
        assert!(judged.message.starts_with("there is no Pod db-0; an earlier"), "{judged}");
    }
    let other = Failure::new(Reason::ContainerNotFound, "x");
    assert_eq!(judge_missing_target(other.clone(), true, true), other);
}
