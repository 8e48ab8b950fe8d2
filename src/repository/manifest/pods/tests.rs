use super::super::tests::sample;
use super::super::{Document, EACH_FORMAT_VERSION, parse, to_bytes};
use super::*;
use crate::error::Reason;
use proptest::prelude::*;
use serde_json::Value;

fn data(pod: &str, size: u64) -> PodData {
    PodData {
        container: Some("main".into()),
        raw: Sum { size, digest: format!("raw-{pod}") },
        stored: Sum { size: size / 2, digest: format!("stored-{pod}") },
        files: Some(3),
        segments: vec![Object { name: format!("{pod}/archive.tar.zst"), size: size / 2, digest: "cc".into() }],
        log: Some(Object { name: format!("{pod}/log.txt"), size: 4, digest: "dd".into() }),
        warnings: vec!["a file changed".into()],
    }
}

/// A backup of two pods, with a third that is missing.
pub(crate) fn sample_each() -> Manifest {
    let whole = |name: &str, size| PodEntry {
        name: name.into(),
        outcome: PodOutcome::Complete,
        reason: None,
        message: None,
        exit_code: Some(0),
        data: Some(data(name, size)),
    };
    let missing = PodEntry {
        name: "web-1".into(),
        outcome: PodOutcome::Missing,
        reason: Some("TargetNotReady".into()),
        message: Some("is Pending".into()),
        exit_code: None,
        data: None,
    };
    let pods = vec![whole("web-0", 100), missing, whole("web-2", 10)];
    let of = |what: fn(&PodData) -> &Sum| together(pods.iter().filter_map(|pod| pod.data.as_ref()).map(what));
    Manifest {
        format_version: EACH_FORMAT_VERSION,
        outcome: Outcome::Incomplete,
        reason: Some("PodsMissing".into()),
        content: Content::Tar,
        raw: of(|data| &data.raw),
        stored: of(|data| &data.stored),
        files: Some(6),
        pod: Some(Pods::Each(pods)),
        segments: Vec::new(),
        log: None,
        exit_code: None,
        ..sample()
    }
}

fn as_value() -> Value {
    serde_json::to_value(sample_each()).expect("JSON")
}

fn read(value: &Value) -> Result<Manifest, crate::error::Failure> {
    parse::<Manifest>("m", value.to_string().as_bytes())
}

#[test]
fn what_is_written_is_read() {
    let manifest = sample_each();
    assert_eq!(parse::<Manifest>("m", &to_bytes(&manifest).expect("bytes")).expect("good"), manifest);
    let names: Vec<&str> = manifest.objects().map(|object| object.name.as_str()).collect();
    assert_eq!(names, ["web-0/archive.tar.zst", "web-0/log.txt", "web-2/archive.tar.zst", "web-2/log.txt"]);
    assert_eq!((manifest.raw.size, manifest.stored.size), (110, 55));
    assert_eq!(manifest.pod.as_ref().map(ToString::to_string).as_deref(), Some("web-0, web-2"));
    let value = as_value();
    assert_eq!(value["pod"][0]["segments"][0]["name"], "web-0/archive.tar.zst", "flat, as one that is alone");
    assert_eq!((value.get("segments"), value["pod"][1].get("raw")), (None, None));
}

/// A reader that knows backups of one pod alone.
#[derive(Debug, serde::Deserialize)]
struct OfOnePod {}

impl Document for OfOnePod {
    const HIGHEST_VERSION: u32 = FORMAT_VERSION;
}

#[test]
fn an_older_reader_restores_nothing_of_it() {
    let refused = parse::<OfOnePod>("m", &to_bytes(&sample_each()).expect("bytes")).expect_err("refused");
    assert_eq!(refused.reason, Reason::NotSupported);
    assert!(refused.message.contains("newer ubo"), "{refused}");
    parse::<OfOnePod>("m", &to_bytes(&sample()).expect("bytes")).expect("one pod stays what it was");
    // Nor one that looks at no version: `pod` is no text, and there is no data outside of it.
    assert!(as_value()["pod"].is_array());
}

#[test]
fn what_does_not_agree_with_itself_is_damaged() {
    type Change = fn(&mut Value);
    let changes: &[(&str, Change)] = &[
        ("version 1 with a list", |m| m["formatVersion"] = 1.into()),
        ("version 2 without a list", |m| m["pod"] = "web-0".into()),
        ("no pod at all", |m| m["pod"] = Value::Array(vec![])),
        ("none whole", |m| m["pod"] = Value::Array(vec![m["pod"][1].clone()])),
        ("twice the same", |m| m["pod"][2]["name"] = "web-0".into()),
        ("data lost", |m| {
            m["pod"][0].as_object_mut().expect("an object").remove("raw");
        }),
        ("missing and there", |m| m["pod"][0]["outcome"] = "Missing".into()),
        ("another word", |m| m["pod"][0]["outcome"] = "Fine".into()),
        ("complete with a pod missing", |m| m["outcome"] = "Complete".into()),
        ("one dropped from the list", |m| {
            m["pod"].as_array_mut().expect("a list").pop();
        }),
        ("another order", |m| m["pod"].as_array_mut().expect("a list").swap(0, 2)),
        ("another digest", |m| m["pod"][0]["raw"]["digest"] = "ee".into()),
        ("another size", |m| m["pod"][0]["stored"]["size"] = 1.into()),
        ("outside the folder", |m| m["pod"][0]["segments"][0]["name"] = "web-2/archive.tar.zst".into()),
        ("climbing", |m| m["pod"][0]["segments"][0]["name"] = "web-0/../x".into()),
        ("climbing by name", |m| {
            m["pod"][0]["name"] = "..".into();
            m["pod"][0]["segments"][0]["name"] = "../x".into();
        }),
        ("too deep", |m| m["pod"][0]["log"]["name"] = "web-0/a/b".into()),
        ("no data", |m| m["pod"][0]["segments"] = Value::Array(vec![])),
        ("data beside the pods", |m| m["segments"] = m["pod"][0]["segments"].clone()),
    ];
    read(&as_value()).expect("good as it is");
    for (what, change) in changes {
        let mut value = as_value();
        change(&mut value);
        let failure = read(&value).expect_err(what);
        assert_eq!(failure.reason, Reason::BackupDamaged, "{what}: {failure}");
    }
    // Of one pod, too.
    let mut one = serde_json::to_value(sample()).expect("JSON");
    one["segments"] = Value::Array(vec![]);
    assert_eq!(read(&one).expect_err("no data").reason, Reason::BackupDamaged);
}

#[test]
fn names_are_shown_as_far_as_there_is_room() {
    assert_eq!(shown_names(&["web-0", "web-1"]), "web-0, web-1");
    assert_eq!(shown_names(&[]), "");
    let many: Vec<String> = (0..200).map(|n| format!("web-{n}")).collect();
    let shown = shown_names(&many.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(shown.starts_with("web-0, web-1, ") && shown.contains(" and 1") && shown.ends_with(" more"), "{shown}");
}

proptest! {
    #[test]
    fn a_field_takes_the_names(lengths in proptest::collection::vec(1_usize..=253, 0..40), more in 0_usize..600) {
        let longest = "w".repeat(253);
        let names = lengths.into_iter().chain(std::iter::repeat_n(7, more)).map(|length| &longest[..length]);
        let names: Vec<&str> = names.collect();
        prop_assert!(shown_names(&names).len() <= 253);
    }

    #[test]
    fn a_cut_or_changed_list_never_panics(end in 0_usize..2000, byte in any::<u8>()) {
        let bytes = to_bytes(&sample_each()).expect("bytes");
        let end = end.min(bytes.len() - 3);
        prop_assert!(parse::<Manifest>("m", &bytes[..end]).is_err());
        let mut changed = bytes.to_vec();
        changed[end] = byte;
        let _ = parse::<Manifest>("m", &changed);
    }
}
