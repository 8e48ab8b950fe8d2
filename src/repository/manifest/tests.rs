use super::*;
use proptest::prelude::*;

pub(crate) fn sample() -> Manifest {
    let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
    Manifest {
        format_version: FORMAT_VERSION,
        owner: Owner {
            cluster_id: "c1c1c1c1".into(),
            namespace: "default".into(),
            job: "pg".into(),
            job_uid: "u1u1u1u1".into(),
        },
        run: "pg-20260102-0304".into(),
        run_uid: "abcdef01".into(),
        attempt: 1,
        outcome: Outcome::Complete,
        reason: None,
        message: None,
        scheduled_at: Some(at("2026-01-02T03:04:00Z")),
        started_at: at("2026-01-02T03:04:01Z"),
        completed_at: at("2026-01-02T03:05:00Z"),
        target: serde_json::json!({"kind": "StatefulSet", "name": "postgres"}),
        pod: Some("postgres-0".into()),
        container: None,
        strategy: "dump".into(),
        exit_code: Some(0),
        content: Content::Raw,
        consistency: Consistency::Command,
        compression: Compression { format: "zstd-seekable".into(), level: 3, frame_size: 1 << 21 },
        encryption_recipients: vec![],
        raw: Sum { size: 10, digest: "aa".into() },
        stored: Sum { size: 9, digest: "bb".into() },
        shrunk: None,
        files: None,
        segments: vec![Object { name: "dump.zst".into(), size: 9, digest: "bb".into() }],
        log: None,
        warnings: vec![],
        operator_version: "0.1.0".into(),
    }
}

#[test]
fn what_is_written_is_read() {
    let manifest = sample();
    let bytes = to_bytes(&manifest).unwrap();
    assert_eq!(parse::<Manifest>("manifest.json", &bytes).unwrap(), manifest);
}

#[test]
fn the_words_in_it_stay() {
    let text = String::from_utf8(to_bytes(&sample()).unwrap().to_vec()).unwrap();
    for word in [
        "\"formatVersion\": 1",
        "\"clusterId\"",
        "\"jobUid\"",
        "\"runUid\"",
        "\"outcome\": \"Complete\"",
        "\"scheduledAt\": \"2026-01-02T03:04:00Z\"",
        "\"content\": \"Raw\"",
        "\"consistency\": \"Command\"",
        "\"segments\"",
        "\"digest\"",
        "\"operatorVersion\"",
    ] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
}

#[test]
fn fields_of_the_future_are_ignored_and_versions_refused() {
    let mut value = serde_json::to_value(sample()).unwrap();
    value["somethingNew"] = serde_json::json!({"a": 1});
    value["segments"][0]["tier"] = "cold".into();
    assert_eq!(parse::<Manifest>("m", value.to_string().as_bytes()).unwrap(), sample());
    value["formatVersion"] = 3.into();
    value["segments"] = "has another form now".into();
    let newer = parse::<Manifest>("m", value.to_string().as_bytes()).unwrap_err();
    assert_eq!(newer.reason, Reason::NotSupported);
    assert!(newer.message.contains("newer ubo"));
    value["formatVersion"] = 0.into();
    assert_eq!(parse::<Manifest>("m", value.to_string().as_bytes()).unwrap_err().reason, Reason::BackupDamaged);
}

proptest! {
    #[test]
    fn a_cut_or_changed_document_is_damaged(end in 0_usize..600, byte in any::<u8>()) {
        let bytes = to_bytes(&sample()).unwrap();
        let end = end.min(bytes.len() - 3);
        let cut = parse::<Manifest>("m", &bytes[..end]).unwrap_err();
        prop_assert_eq!(cut.reason, Reason::BackupDamaged);
        let mut changed = bytes.to_vec();
        changed[end] = byte;
        // It may still be a manifest (another name), but never a panic.
        let _ = parse::<Manifest>("m", &changed);
    }

    #[test]
    fn anything_may_be_parsed(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(parse::<Manifest>("m", &bytes).is_err());
    }
}

#[test]
fn an_owner_is_a_job_in_a_cluster_or_nobody() {
    let document = |field: &str, text: &str| {
        let mut document = serde_json::json!({
            "formatVersion": 1, "clusterId": "c1c1c1c1", "namespace": "default", "job": "pg", "jobUid": "abcdef01-0",
        });
        document[field] = text.into();
        parse::<OwnerDocument>("a/owner.json", document.to_string().as_bytes())
    };
    assert_eq!(document("job", "pg").unwrap().owner.id(), "c1c1c1c1/abcdef01-0");
    for (field, text) in [
        ("clusterId", ""),
        ("clusterId", "the old cluster"),
        ("jobUid", &"a".repeat(100_000)),
        ("namespace", "a b"),
        ("job", "pg --all"),
    ] {
        let refused = document(field, text).unwrap_err();
        assert_eq!(refused.reason, Reason::BackupDamaged, "{field}");
        assert_eq!(refused.message, "a/owner.json names no BackupJob and its cluster, so whose it is is not known");
    }
}
