use super::*;
use crate::api::names::{RunName, Uid};

fn plan() -> Plan {
    Plan {
        nonce: Nonce::new(9),
        work: Work::Dump(Dump { command: "pg_dumpall".into(), form: DumpForm::Stdout, allow_unchecked_pipes: false }),
        hooks: Hooks::default(),
        run: RunName::new("pg-once").unwrap(),
        run_uid: Uid::new("6b1cbb4c-0000-4000-8000-000000000001").unwrap(),
        target_path: None,
        attempt: 1,
        staged_limit_kib: 1,
        limits_volumes: false,
    }
}

fn judged(trailer: &str, end: End) -> Result<Judged, Failure> {
    let mut transcript = Transcript::new(&Nonce::new(9));
    transcript.stdout(format!("data\n{:032x} {trailer}\n", 9).into(), &mut VecDeque::new()).unwrap();
    with_verdict(&plan(), &transcript, &Noted::default(), transcript.verdict().unwrap(), end)
}

#[test]
fn a_status_can_spoil_a_backup_and_never_make_one() {
    let status = |code| End::Status(Exit::Code(code));
    assert!(judged("command 0", status(0)).unwrap().warnings.is_empty());
    assert_eq!(judged("command 0", End::Silent).unwrap().warnings.len(), 1);
    assert_eq!(judged("command 0", status(1)).err().unwrap().reason, Reason::StreamCorrupt);
    let unknown = End::Status(Exit::Unknown("?".into()));
    assert_eq!(judged("command 0", unknown).err().unwrap().reason, Reason::StreamCorrupt);
    let failed = judged("command 3", status(0)).err().unwrap();
    assert_eq!((failed.reason, failed.exit_code), (Reason::CommandFailed, Some(3)));
    let late = Failure::new(Reason::StreamCorrupt, "late");
    assert_eq!(judged("command 0", End::Refused(late.clone())).err(), Some(late));
    assert!(judged("tar 1", status(1)).unwrap().lacks.is_some());
    assert_eq!(judged("tar 137", status(137)).err().unwrap().reason, Reason::ArchiveTruncated);
}

fn copy(fail_on_change: bool) -> Copy {
    Copy { path: "/data".into(), include: Vec::new(), exclude: Vec::new(), fail_on_change, allow_live_database: false }
}

/// What is judged of a copy whose tar printed `words`: what it lacks, and how many warnings there are.
fn judged_copy(
    (words, code): (&str, i32),
    (differs, blind, fail_on_change): (bool, bool, bool),
    noted: &Noted,
) -> (Option<Reason>, Vec<String>) {
    let line = |text: &str| format!("\n{:032x} {text}\n", 9);
    let mut transcript = Transcript::new(&Nonce::new(9));
    let mut said = line("tar-begin gnu") + words;
    said += &[("changed", differs), ("blind", blind), ("tar-end", true)]
        .map(|(word, is)| if is { line(word) } else { String::new() })
        .concat();
    transcript.stderr(said.into());
    let mut warnings = Vec::new();
    let lacks = copied(&copy(fail_on_change), false, &transcript, noted, code, &mut warnings).unwrap();
    (lacks.map(|(reason, _)| reason), warnings)
}

#[test]
fn what_changed_is_a_warning_or_a_lack_as_was_asked_for() {
    const GREW: &str = "tar: ./log: file changed as we read it\n";
    for (words, code, differs, blind, fail_on_change, lacks, warned) in [
        ("", 0, false, false, false, None, 0),
        ("", 0, false, false, true, None, 0),
        (GREW, 1, false, false, false, None, 1),
        (GREW, 1, false, false, true, Some(Reason::FilesChanged), 0),
        ("", 0, true, false, false, None, 1),
        ("", 0, true, false, true, Some(Reason::FilesChanged), 0),
        ("", 0, false, true, false, None, 0),
        ("", 0, false, true, true, Some(Reason::FilesChanged), 0),
        (GREW, 1, false, true, false, None, 1),
        (GREW, 1, false, true, true, Some(Reason::FilesChanged), 0),
        (GREW, 1, true, true, true, Some(Reason::FilesChanged), 0),
    ] {
        let (lack, warnings) = judged_copy((words, code), (differs, blind, fail_on_change), &Noted::default());
        let case = format!("{words:?} {code} {differs} {blind} {fail_on_change}: {warnings:?}");
        assert_eq!((lack, warnings.len()), (lacks, warned), "{case}");
        assert!(words.is_empty() || warnings.iter().all(|warning| warning.contains("./log")), "{case}");
    }
}

#[test]
fn owners_that_may_be_cut_off_are_said_once_with_the_way_out() {
    let noted = Noted { cut_owners: 1_200, ..Noted::default() };
    let (lack, warnings) = judged_copy(("", 0), (false, false, false), &noted);
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(lack.is_none() && warning.contains("1200 entries") && warning.contains("GNU tar"), "{warning}");
}

#[test]
fn of_several_lacks_the_gravest_is_the_reason_and_the_others_are_warnings() {
    const GREW: &str = "tar: ./log: file changed as we read it\n";
    const CLOSED: &str = "tar: ./key: Cannot open: Permission denied\n";
    let lost = Noted { lost: 1, lost_links: vec!["same".to_owned()], ..Noted::default() };
    let lock = Noted { lock_files: vec!["postmaster.pid".to_owned()], ..Noted::default() };
    let both = Noted { lock_files: lock.lock_files.clone(), ..lost.clone() };
    let none = Noted::default();
    for (words, code, noted, reason, others) in [
        (format!("{GREW}{CLOSED}"), 2, &none, Reason::SourceIncomplete, &["./log"][..]),
        (CLOSED.to_owned(), 0, &none, Reason::SourceIncomplete, &[]),
        (format!("{GREW}{CLOSED}"), 2, &both, Reason::SourceIncomplete, &["same", "postmaster.pid", "./log"]),
        (GREW.to_owned(), 1, &lost, Reason::SourceIncomplete, &["./log"]),
        (GREW.to_owned(), 1, &lock, Reason::LiveDatabase, &["./log"]),
    ] {
        let (found, warnings) = judged_copy((&words, code), (false, false, true), noted);
        assert_eq!((found, warnings.len()), (Some(reason), others.len()), "{words}: {warnings:?}");
        assert!(warnings.iter().zip(others).all(|(warning, name)| warning.contains(name)), "{words}: {warnings:?}");
    }
    let unfiltered = Noted { unfiltered: true, ..Noted::default() };
    let transcript = Transcript::new(&Nonce::new(9));
    let refused = copied(&copy(false), false, &transcript, &unfiltered, 0, &mut Vec::new()).unwrap_err();
    assert_eq!(refused.reason, Reason::StreamCorrupt);
}

#[test]
fn a_missing_shell_is_known_by_the_words_of_the_runtime() {
    let words = "Internal error occurred: error executing command in container: failed to exec in container: failed to \
                 start exec: OCI runtime exec failed: exec failed: unable to start container process: exec: \"sh\": \
                 executable file not found in $PATH: unknown";
    assert!(shell_missing(&Exit::Unknown(words.into())));
    assert!(shell_missing(&Exit::Code(127)));
    assert!(!shell_missing(&Exit::Unknown("container not found (\"pg\")".into())));
    assert!(!shell_missing(&Exit::Code(3)));
}

#[test]
fn no_line_of_a_command_begins_where_ours_do() {
    assert_eq!(set_in(b"a\n2026 INFO b\r\nc\rd\n\n"), "a\n    2026 INFO b\n    c\n    d");
    assert_eq!(set_in(b""), "");
}
