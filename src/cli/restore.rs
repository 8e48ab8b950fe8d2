//! **W** `ubo restore`: a backup into a folder, or on standard output.

use super::progress::{Meter, human_size};
use super::schedule::Format;
use super::{DestinationArgs, GOOD, INCOMPLETE, IdentityArgs, archives, open, print, print_json};
use crate::archive::decrypt::Identities;
use crate::archive::entries::{SafePath, asked_path};
use crate::args::Environment;
use crate::destination::Destination;
use crate::error::{Failure, Reason};
use crate::repository::catalog::{Backup, choose};
use crate::repository::manifest::pods::{Part, PodEntry, shown_names};
use crate::repository::manifest::{Manifest, Outcome, Pods};
use crate::restore::execute::restore;
use crate::restore::local_target::{DUMP, FolderTarget, StreamTarget};
use crate::restore::{RestoreTarget, Written};
use crate::run::report::Progress;
use crate::source::Content;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

/// Get a backup back
///
/// A folder comes back as a folder, the output of a command as the file `dump` in it. Nothing is overwritten: the folder
/// must be new or empty. As root owners are restored too. Every digest is compared before it says that it is done. A backup
/// of each pod of a workload comes back as a folder for each pod; `--pod` takes one of them, without that folder.
#[derive(Clone, Debug, clap::Args)]
pub struct RestoreArgs {
    /// The destination, or one archive's folder in it
    #[arg(value_name = "URI")]
    pub uri: String,
    /// Name of the run, as `ubo list` shows it; `latest` is the newest complete one
    #[arg(value_name = "RUN", default_value = "latest")]
    pub run: String,
    /// A new or empty folder; or `-` for the bytes themselves on standard output (a tar, or the dump): `| tar x`, `| psql`.
    /// Those are passed on before the last digest is compared: look at the exit code too (set -o pipefail)
    #[arg(long, value_name = "DIR")]
    pub to: String,
    /// Only this file or folder, as it is called in the backup; may be given several times
    #[arg(long = "path", value_name = "PATH")]
    pub paths: Vec<String>,
    /// Only this pod, where the backup is of each pod of a workload
    #[arg(long, value_name = "NAME")]
    pub pod: Option<String>,
    /// Which archive, where there are several
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub archive: Option<String>,
    /// Keys to encrypted backups.
    #[command(flatten)]
    pub identity: IdentityArgs,
    /// Destination and output.
    #[command(flatten)]
    pub destination: DestinationArgs,
}

/// Restores.
pub async fn run(args: &RestoreArgs, environment: &Environment) -> Result<u8, Failure> {
    let usage = |message: &str| Failure::new(Reason::InvalidSpec, message);
    let json = args.destination.output == Format::Json;
    let to_stdout = args.to == "-";
    if to_stdout && (json || !args.paths.is_empty()) {
        return Err(usage("--to - gives all bytes on standard output: without --path and without --output json"));
    }
    let paths = chosen_paths(&args.paths)?;
    let identities = args.identity.read()?;
    let (address, destination) = open(&args.uri, &args.destination, environment)?;
    let archives = archives(destination.as_ref()).await?;
    let choice = choose(&archives, args.archive.as_deref(), &args.run)?;
    let backup = choice.backup;
    let manifest = &backup.manifest;
    for note in &choice.notes {
        eprintln!("note: {note}");
    }
    if manifest.outcome == Outcome::Incomplete {
        eprintln!(
            "note: {} is incomplete: {}",
            manifest.run,
            manifest.message.as_deref().unwrap_or("no reason is given")
        );
    }
    let chosen = choose_parts(manifest, args.pod.as_deref())?;
    if to_stdout && chosen.in_folders {
        let names: Vec<&str> = chosen.parts.iter().filter_map(|part| part.pod).collect();
        let message = format!("it is a backup of several pods: say which with --pod: {}", shown_names(&names));
        return Err(usage(&message));
    }
    let total = chosen.parts.iter().map(|part| part.stored.size).sum();
    let progress = Arc::new(Progress::default());
    let meter = Meter::start("restoring", &progress, Some(total), json);
    let restored = if to_stdout {
        let target = Box::new(StreamTarget::new(std::io::stdout()));
        one(destination.as_ref(), backup, &chosen.parts, &identities, target, &progress).await
    } else {
        let target = FolderTarget::new(&args.to, paths.clone(), rustix::process::geteuid().is_root())?;
        if chosen.in_folders {
            // Only to see that it is a folder that nothing is overwritten in.
            drop(target);
            each(destination.as_ref(), backup, &chosen, &identities, Path::new(&args.to), &paths, &progress).await
        } else {
            one(destination.as_ref(), backup, &chosen.parts, &identities, Box::new(target), &progress).await
        }
    };
    drop(meter);
    let written = restored.map_err(|mut failure| {
        let anything = !to_stdout && std::fs::read_dir(&args.to).is_ok_and(|mut entries| entries.next().is_some());
        if anything {
            failure.message = format!(
                "{}. What had been written until then is in {}, and is not the backup: `ubo verify {address} {}` tells more",
                failure.message, args.to, manifest.run
            );
        }
        failure
    })?;
    show(args, &manifest.run, chosen.in_folders, manifest.content, &written)
}

/// What is to be restored of a backup.
struct Chosen<'a> {
    parts: Vec<Part<'a>>,
    /// Each in a folder that is called like its pod.
    in_folders: bool,
    /// What was asked for and is not in the backup, for a person.
    missing: Vec<String>,
}

fn choose_parts<'a>(manifest: &'a Manifest, pod: Option<&str>) -> Result<Chosen<'a>, Failure> {
    let not_found = |message: String| Failure::new(Reason::BackupNotFound, message);
    let parts = manifest.parts();
    let run = &manifest.run;
    match (manifest.each(), pod) {
        (None, None) => Ok(Chosen { parts, in_folders: false, missing: Vec::new() }),
        (None, Some(name)) => match &manifest.pod {
            Some(Pods::One(only)) if only == name => Ok(Chosen { parts, in_folders: false, missing: Vec::new() }),
            Some(only) => Err(not_found(format!("{run} is a backup of pod {only} alone, and {name} is not in it"))),
            None => Err(not_found(format!("{run} is not a backup of a pod: leave --pod out"))),
        },
        (Some(pods), None) => {
            let missing = pods.iter().filter(|pod| pod.data.is_none()).map(why_missing);
            Ok(Chosen { parts, in_folders: true, missing: missing.collect() })
        }
        (Some(pods), Some(name)) => match pods.iter().find(|pod| pod.name == name) {
            Some(pod) if pod.data.is_none() => Err(not_found(format!("{run}: {}", why_missing(pod)))),
            Some(_) => {
                let parts = parts.into_iter().filter(|part| part.pod == Some(name)).collect();
                Ok(Chosen { parts, in_folders: false, missing: Vec::new() })
            }
            None => {
                let names: Vec<&str> = parts.iter().filter_map(|part| part.pod).collect();
                Err(not_found(format!("{run} has no pod {name}; it has: {}", shown_names(&names))))
            }
        },
    }
}

fn why_missing(pod: &PodEntry) -> String {
    let reason = pod.reason.as_deref().unwrap_or("no reason is given");
    let message = pod.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
    format!("pod {} is not in the backup ({reason}{message})", pod.name)
}

/// The one archive that was chosen.
async fn one(
    destination: &dyn Destination,
    backup: &Backup,
    parts: &[Part<'_>],
    identities: &Identities,
    target: Box<dyn RestoreTarget>,
    progress: &Arc<Progress>,
) -> Result<Written, Failure> {
    let Some(part) = parts.first() else {
        return Err(Failure::new(Reason::BackupDamaged, format!("{} has no archive", backup.folder)));
    };
    restore(destination, backup, part, identities, target, progress).await
}

/// Each pod's archive into a folder of its own below `to`. What of `paths` a pod does not have is a problem, unless none has
/// any of them.
async fn each(
    destination: &dyn Destination,
    backup: &Backup,
    chosen: &Chosen<'_>,
    identities: &Identities,
    to: &Path,
    paths: &[SafePath],
    progress: &Arc<Progress>,
) -> Result<Written, Failure> {
    let mut all = Written::default();
    let mut without = None;
    let mut found = false;
    for part in &chosen.parts {
        let pod = part.pod.unwrap_or_default();
        let folder = to.join(pod);
        let target = FolderTarget::new(&folder, paths.to_vec(), rustix::process::geteuid().is_root())?;
        match restore(destination, backup, part, identities, Box::new(target), progress).await {
            Ok(written) => {
                found = true;
                all.entries += written.entries;
                all.bytes += written.bytes;
                // Those that are not spelled out count too.
                all.problem_count += written.problem_count - written.problems.len() as u64;
                for problem in written.problems {
                    all.problem(format!("{pod}: {problem}"));
                }
            }
            Err(failure) if failure.reason == Reason::BackupNotFound && !paths.is_empty() => {
                all.problem(format!("{pod}: {}", failure.message));
                without = Some(failure);
                // Nothing but folders on the way to what was asked for, which were made just now.
                let _ = std::fs::remove_dir_all(&folder);
            }
            Err(failure) => return Err(failure.while_doing(format_args!("pod {pod}"))),
        }
    }
    if let Some(failure) = without.filter(|_| !found) {
        return Err(failure);
    }
    for missing in &chosen.missing {
        all.problem(missing.clone());
    }
    Ok(all)
}

/// What is restored of a backup; empty: all of it, also where one of several paths means everything.
fn chosen_paths(asked: &[String]) -> Result<Vec<SafePath>, Failure> {
    let read =
        |text: &String| asked_path(text).map_err(|e| Failure::new(Reason::InvalidSpec, format!("--path {text}: {e}")));
    // Each of them is looked at, so that a bad one is refused whatever the others mean.
    let paths = asked.iter().map(read).collect::<Result<Vec<Option<SafePath>>, Failure>>()?;
    Ok(paths.into_iter().collect::<Option<Vec<SafePath>>>().unwrap_or_default())
}

fn show(args: &RestoreArgs, run: &str, in_folders: bool, content: Content, written: &Written) -> Result<u8, Failure> {
    let code = if written.problem_count == 0 { GOOD } else { INCOMPLETE };
    if args.destination.output == Format::Json {
        print_json(&json!({
            "phase": if code == GOOD { "Succeeded" } else { "Incomplete" },
            "run": run,
            "to": args.to,
            "pod": args.pod,
            "entries": written.entries,
            "bytes": written.bytes,
            "problems": written.problems,
            "problemCount": written.problem_count,
        }))?;
        return Ok(code);
    }
    for problem in &written.problems {
        eprintln!("problem: {problem}");
    }
    if written.problem_count > 0 {
        eprintln!("incomplete: {} things could not be restored as they were", written.problem_count);
    }
    if args.to == "-" {
        eprintln!("{run}: {}, every digest agrees", human_size(written.bytes));
        return Ok(code);
    }
    let place = match content {
        _ if in_folders => format!("{}, a folder for each pod", args.to),
        Content::Raw => Path::new(&args.to).join(DUMP).display().to_string(),
        Content::Tar => args.to.clone(),
    };
    print(&format!(
        "{run}: {} in {} entries restored to {place}, every digest agrees\n",
        human_size(written.bytes),
        written.entries
    ))?;
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_means_everything_is_everything_also_beside_others() {
        let chosen = |asked: &[&str]| chosen_paths(&asked.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(chosen(&["etc", "/var/x"]).unwrap().len(), 2);
        for everything in [&["/", "etc"][..], &["etc", "."], &["etc", "", "var"], &["/"], &[]] {
            assert!(chosen(everything).unwrap().is_empty(), "{everything:?}");
        }
        assert_eq!(chosen(&["/", "../x"]).unwrap_err().reason, Reason::InvalidSpec, "a bad path is never passed over");
    }
}
