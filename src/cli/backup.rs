//! **W** `ubo backup`: a folder, or the output of a command, with no cluster.

use super::progress::{Meter, human_size};
use super::schedule::Format;
use super::{DestinationArgs, GOOD, INCOMPLETE, cancel_on_signal, open, print, print_json};
use crate::api::names::{JobRef, ObjectKey, RunName, Uid};
use crate::api::settings::RECIPIENTS_LIMIT;
use crate::archive::encrypt::Recipient;
use crate::args::Environment;
use crate::clock::Clock;
use crate::destination::address::Address;
use crate::destination::build::limited;
use crate::error::{Failure, Reason};
use crate::run::backup::{SEGMENT_SIZE, back_up};
use crate::run::report::{Plan, Progress, Report};
use crate::run::{AttemptId, Phase};
use crate::source::Source;
use crate::source::command::ShellCommand;
use crate::source::walk::Walk;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The namespace of what is backed up on the command line.
const NAMESPACE: &str = "local";
/// Longest name: a run's name adds 16 characters to it and has at most 63.
const NAME_LIMIT: usize = 47;

/// Back up a folder, or the output of a command
#[derive(Clone, Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["from", "command"]))]
pub struct BackupArgs {
    /// The folder: files, folders, symbolic and hard links, with modes, owners and times. Anything else in it, or what
    /// cannot be read, makes the backup incomplete (exit code 3)
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// The command, run by the shell; its standard output is the backup. It fails when any part of a pipe does, and is
    /// refused where nobody can tell: su -c 'pg_dump | gzip'
    #[arg(long, value_name = "COMMAND")]
    pub command: Option<String>,
    /// Where to: s3://bucket/prefix or file:///folder
    #[arg(long, value_name = "URI")]
    pub to: String,
    /// What it is called (default: the folder's name, or the command's first word)
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// zstd level
    #[arg(long, value_name = "LEVEL", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=19))]
    pub level: i32,
    /// Encrypt for this age public key (age1…); may be given several times, then each of their private keys opens it
    #[arg(long = "recipient", short = 'r', value_name = "RECIPIENT")]
    pub recipients: Vec<String>,
    /// Upload at most so many bytes per second: 500Ki, 10Mi
    #[arg(long, value_name = "SIZE", value_parser = super::parse_rate)]
    pub bandwidth_limit: Option<u64>,
    /// An empty backup is a success
    #[arg(long)]
    pub allow_empty: bool,
    /// Run the command also where nobody can tell whether the first part of a pipe failed
    #[arg(long, requires = "command")]
    pub allow_unchecked_pipes: bool,
    /// Destination and output.
    #[command(flatten)]
    pub destination: DestinationArgs,
}

/// Backs up.
pub async fn run(args: &BackupArgs, environment: &Environment, clock: &Arc<dyn Clock>) -> Result<u8, Failure> {
    let (address, destination) = open(&args.to, &args.destination, environment)?;
    let destination = limited(destination, args.bandwidth_limit, clock);
    let name = name(args)?;
    let now = clock.now();
    let run = RunName::new(format!("{name}-{}", now.format("%Y%m%d-%H%M%S")))?;
    let (source, target, strategy): (Box<dyn Source>, _, _) = match (&args.from, &args.command) {
        (Some(folder), _) => {
            not_into_itself(folder, &address)?;
            let path = folder.canonicalize().unwrap_or_else(|_| folder.clone());
            (Box::new(Walk::new(folder)), json!({"kind": "Folder", "path": path.to_string_lossy()}), "copy")
        }
        (None, Some(command)) => {
            let source = ShellCommand::new(command, run.as_str()).allow_unchecked_pipes(args.allow_unchecked_pipes);
            (Box::new(source), json!({"kind": "Command", "command": command}), "dump")
        }
        // clap has seen to it.
        (None, None) => return Err(Failure::new(Reason::InvalidSpec, "say --from DIR or --command COMMAND")),
    };
    let plan = Plan {
        id: AttemptId {
            job: JobRef::new(NAMESPACE, name.as_str())?,
            job_uid: id_of(&["job", &name])?,
            cluster_id: id_of(&["machine", &machine()])?,
            run: run.clone(),
            run_uid: id_of(&["run", &format!("{:032x}", rand::random::<u128>())])?,
            attempt: 1,
            scheduled_at: None,
            archive: ObjectKey::new(format!("{NAMESPACE}/{name}"))?,
        },
        adopt: None,
        target,
        strategy,
        compression_level: args.level,
        recipients: recipients(args)?,
        allow_empty: args.allow_empty,
        minimum_size: None,
        maximum_shrink_percent: None,
        accepted: None,
        waited: false,
        segment_size: SEGMENT_SIZE,
    };
    let progress = Arc::new(Progress::default());
    let meter = Meter::start("backing up", &progress, None, args.destination.output == Format::Json);
    let cancel = cancel_on_signal();
    let report = back_up(&plan, source.as_ref(), destination.as_ref(), clock.as_ref(), &progress, &cancel).await;
    drop(meter);
    show(args, &address, &run, &report?)
}

fn show(args: &BackupArgs, address: &Address, run: &RunName, report: &Report) -> Result<u8, Failure> {
    let code = if report.phase == Phase::Succeeded { GOOD } else { INCOMPLETE };
    if args.destination.output == Format::Json {
        let objects: Vec<_> = report
            .objects
            .iter()
            .map(|object| json!({"name": object.name, "size": object.size, "digest": object.digest}))
            .collect();
        print_json(&json!({
            "phase": report.phase.as_str(),
            "reason": report.reason.map(Reason::as_str),
            "message": report.message,
            "uri": address.to_string(),
            "run": run.as_str(),
            "folder": report.folder,
            "objects": objects,
            "bytesRead": report.bytes_read,
            "bytesStored": report.bytes_stored,
            "files": report.files,
            "exitCode": report.exit_code,
            "warnings": report.warnings,
        }))?;
        return Ok(code);
    }
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    let files = report.files.map_or(String::new(), |files| format!(", {files} files"));
    let sizes = format!("{} read, {} stored{files}", human_size(report.bytes_read), human_size(report.bytes_stored));
    if report.phase != Phase::Succeeded {
        eprintln!("incomplete: {}", report.message);
    }
    let identity = if args.recipients.is_empty() { "" } else { " --identity FILE" };
    print(&format!("{run}: {sizes}\nget it back: ubo restore {address} {run} --to DIR{identity}\n"))?;
    Ok(code)
}

/// Who can read it. Not read by clap, whose message repeats what it does not understand: that may be a private key.
fn recipients(args: &BackupArgs) -> Result<Vec<Recipient>, Failure> {
    let said = args.recipients.len();
    if said > RECIPIENTS_LIMIT {
        let message = format!(
            "--recipient is given {said} times, and an archive has at most {RECIPIENTS_LIMIT} recipients: let several people \
             share a key"
        );
        return Err(Failure::new(Reason::InvalidSpec, message));
    }
    let read = |text: &String| {
        Recipient::parse(text).map_err(|why| Failure::new(Reason::InvalidSpec, format!("--recipient: {why}")))
    };
    args.recipients.iter().map(read).collect()
}

/// The name of the job: what was said, or what the folder or the command is called.
fn name(args: &BackupArgs) -> Result<String, Failure> {
    if let Some(name) = &args.name {
        let name = JobRef::new(NAMESPACE, name.as_str())?.name.to_string();
        if name.len() > NAME_LIMIT {
            let message = format!("--name has at most {NAME_LIMIT} characters, so that a run's name has at most 63");
            return Err(Failure::new(Reason::InvalidSpec, message));
        }
        return Ok(name);
    }
    let found = match (&args.from, &args.command) {
        (Some(folder), _) => {
            folder.canonicalize().ok().and_then(|f| Some(f.file_name()?.to_string_lossy().into_owned()))
        }
        (None, Some(command)) => {
            let word = command.split_whitespace().next().unwrap_or_default();
            Path::new(word).file_name().map(|name| name.to_string_lossy().into_owned())
        }
        (None, None) => None,
    };
    let name = plain_name(&found.unwrap_or_default());
    if name.is_empty() {
        return Err(Failure::new(Reason::InvalidSpec, "give it a name: --name NAME"));
    }
    Ok(name)
}

/// What of a text can stand in a Kubernetes name.
fn plain_name(text: &str) -> String {
    let plain: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let words: Vec<&str> = plain.split('-').filter(|word| !word.is_empty()).collect();
    let mut name = words.join("-");
    name.truncate(NAME_LIMIT);
    name.trim_end_matches('-').into()
}

/// A backup into the very folder that is read would contain itself.
fn not_into_itself(folder: &Path, address: &Address) -> Result<(), Failure> {
    let Address::File { path } = address else { return Ok(()) };
    let Ok(folder) = folder.canonicalize() else { return Ok(()) };
    // The destination need not be there yet; what of it is, is made plain.
    let mut there = PathBuf::from(path);
    while !there.exists() && there.pop() {}
    if there.canonicalize().is_ok_and(|there| there.starts_with(&folder)) {
        let message = format!("{address} lies inside {}: the backup would contain itself", folder.display());
        return Err(Failure::new(Reason::InvalidSpec, message));
    }
    Ok(())
}

/// An id in the form of a UID, made from words.
fn id_of(words: &[&str]) -> Result<Uid, Failure> {
    let mut hasher = blake3::Hasher::new_derive_key("universal-backup-operator 2026 local id");
    for word in words {
        hasher.update(word.as_bytes());
        hasher.update(&[0]);
    }
    let hex = hasher.finalize().to_hex();
    Uid::new(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32]))
}

/// What tells this machine from others; only a digest of it is stored.
fn machine() -> String {
    ["/etc/machine-id", "/etc/hostname"]
        .iter()
        .find_map(|file| std::fs::read_to_string(file).ok().filter(|text| !text.trim().is_empty()))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_plain() {
        for (text, name) in
            [("data", "data"), ("My Data_2", "my-data-2"), ("--x--", "x"), ("\u{e4}\u{f6}", ""), (".config", "config")]
        {
            assert_eq!(plain_name(text), name);
        }
        assert_eq!(plain_name(&"ab-".repeat(40)).len(), 47);
    }

    #[test]
    fn a_backup_does_not_contain_itself() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &Path| Address::File { path: path.to_str().unwrap().into() };
        assert!(not_into_itself(folder.path(), &at(&folder.path().join("not/yet/there"))).is_err());
        assert!(not_into_itself(folder.path(), &at(folder.path())).is_err());
        let inside = folder.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        assert!(not_into_itself(&inside, &at(folder.path())).is_ok());
    }

    #[test]
    fn ids_are_uids_and_stay() {
        assert_eq!(id_of(&["a", "b"]).unwrap(), id_of(&["a", "b"]).unwrap());
        assert_ne!(id_of(&["a", "b"]).unwrap(), id_of(&["ab", ""]).unwrap());
    }
}
