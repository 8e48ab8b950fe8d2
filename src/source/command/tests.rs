use super::*;
use std::path::Path;

async fn capture(text: &str) -> (Vec<u8>, Result<Completion, Failure>) {
    let mut capture = ShellCommand::new(text, "run-1").open(CancellationToken::new()).await.unwrap();
    let mut output = Vec::new();
    while let Some(chunk) = capture.bytes.recv().await {
        assert!(chunk.len() <= CHUNK_LIMIT);
        output.extend_from_slice(&chunk);
    }
    (output, capture.completion.await)
}

#[tokio::test]
async fn output_is_the_backup_and_errors_are_the_log() {
    let (output, completion) = capture("echo to the log >&2; printf '%s' \"$UBO_RUN\"; cat").await;
    assert_eq!(output, b"run-1");
    let Completion::Complete(ending) = completion.unwrap() else { panic!("it should be complete") };
    assert_eq!((ending.exit_code, ending.log.as_slice()), (Some(0), b"to the log\n".as_slice()));
    let (output, _) = capture("head -c 3000000 /dev/zero").await;
    assert_eq!(output.len(), 3_000_000);
}

#[tokio::test]
async fn what_fails_is_told_with_its_last_words() {
    let (output, completion) = capture("echo half; echo first >&2; echo 'no such database' >&2; exit 3").await;
    assert_eq!(output, b"half\n");
    let failure = completion.unwrap_err();
    assert_eq!((failure.reason, failure.exit_code), (Reason::CommandFailed, Some(3)));
    assert_eq!(failure.message, "the command ended with exit code 3: no such database");
    assert_eq!(capture("kill -9 $$").await.1.unwrap_err().exit_code, Some(137));
    assert_eq!(capture("false | cat").await.1.unwrap_err().reason, Reason::CommandFailed);
    assert!(capture("true | cat").await.1.is_ok());
    assert_eq!(capture("sh -c 'exit 4'; echo whole").await.1.unwrap_err().exit_code, Some(4));
}

#[tokio::test]
async fn a_pipe_that_nobody_checks_is_refused_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let ran = folder.path().join("ran");
    let nested = format!("sh -c 'touch {}; false | cat'", ran.display());
    let open = async |command: ShellCommand| command.open(CancellationToken::new()).await;
    let failure = open(ShellCommand::new(&nested, "run-1")).await.err().unwrap();
    assert_eq!(failure.reason, Reason::PipelineNotChecked);
    assert!(failure.message.contains("--allow-unchecked-pipes"), "{failure}");
    assert!(!ran.exists());
    assert!(capture("sh -c 'false || true'").await.1.is_ok());

    let mut allowed = open(ShellCommand::new(&nested, "run-1").allow_unchecked_pipes(true)).await.unwrap();
    assert!(allowed.bytes.recv().await.is_none());
    assert!(allowed.completion.await.is_ok());
    assert!(ran.exists());
}

#[tokio::test]
async fn a_flood_on_standard_error_does_not_hold_it_up() {
    let (_, completion) = capture("head -c 5000000 /dev/zero >&2; echo last >&2").await;
    let completion = completion.unwrap();
    let log = &completion.ending().log;
    assert_eq!(log.len(), LOG_LIMIT);
    assert!(log.ends_with(b"last\n"));
}

/// Whether the process whose id stands in the file is gone; a zombie that nobody has reaped is.
fn gone(file: &Path) -> bool {
    let Ok(pid) = std::fs::read_to_string(file) else { return false };
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())) else { return true };
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

async fn until(what: impl Fn() -> bool) {
    let all = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
}

/// What a command of a test has left on purpose, by the file with its id.
struct Left(std::path::PathBuf);

impl Drop for Left {
    fn drop(&mut self) {
        let id = std::fs::read_to_string(&self.0).ok().and_then(|id| Pid::from_raw(id.trim().parse().ok()?));
        if let Some(id) = id {
            let _ = rustix::process::kill_process(id, Signal::KILL); // it may be gone
        }
    }
}

/// `capture`, which has to come to its end although something in the background never does.
async fn ends(text: &str) -> (Vec<u8>, Result<Completion, Failure>) {
    tokio::time::timeout(Duration::from_mins(1), capture(text)).await.expect("it hangs")
}

#[tokio::test]
async fn what_stays_in_the_background_and_holds_the_log_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let left = Left(folder.path().join("left"));
    let at = left.0.display();
    let (output, completion) = ends(&format!("sleep 1000 >/dev/null & echo $! >{at}; echo data; echo words >&2")).await;
    assert_eq!(output, b"data\n");
    assert_eq!(completion.unwrap().ending().log, b"words\n");
    assert!(!gone(&left.0), "what it left running on purpose was ended");
}

#[tokio::test]
async fn what_the_background_writes_belongs_to_the_backup_unless_the_command_failed() {
    let (output, completion) = ends("{ sleep 2; echo late; } & echo early").await;
    assert_eq!(output, b"early\nlate\n");
    assert!(completion.is_ok());
    // Of one that has failed nothing is waited for, and all of it is ended.
    let folder = tempfile::tempdir().unwrap();
    let left = Left(folder.path().join("left"));
    let text = format!("sleep 1000 & echo $! >{}; echo early; echo 'no such database' >&2; exit 3", left.0.display());
    let (_, completion) = ends(&text).await;
    assert_eq!(completion.unwrap_err().message, "the command ended with exit code 3: no such database");
    until(|| gone(&left.0)).await;
}

#[tokio::test]
async fn a_cancel_ends_what_the_command_started() {
    let folder = tempfile::tempdir().unwrap();
    let child = folder.path().join("child");
    let text =
        format!("sleep 600 & echo $! > {}.new; mv {}.new {}; wait", child.display(), child.display(), child.display());
    let cancel = CancellationToken::new();
    let mut capture = ShellCommand::new(text, "run-1").open(cancel.clone()).await.unwrap();
    until(|| child.exists()).await;
    cancel.cancel();
    assert_eq!(capture.bytes.recv().await, None);
    assert_eq!(capture.completion.await.unwrap_err().reason, Reason::CancelRequested);
    until(|| gone(&child)).await;
}

#[tokio::test]
async fn so_does_a_reader_that_went_away() {
    let folder = tempfile::tempdir().unwrap();
    let child = folder.path().join("child");
    let text = format!("echo $$ > {}; exec cat /dev/zero", child.display());
    let mut capture = ShellCommand::new(text, "run-1").open(CancellationToken::new()).await.unwrap();
    capture.bytes.recv().await.unwrap();
    capture.bytes.close();
    assert!(capture.completion.await.is_err());
    until(|| gone(&child)).await;
}
