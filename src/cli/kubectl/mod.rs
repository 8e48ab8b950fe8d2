//! **W** `kubectl backup`: BackupJobs and their runs, with the rights of the person who types.
//!
//! The same binary under the name `kubectl-backup` (kubectl finds it in the `PATH`), or `ubo kubectl`. It reads the person's
//! kubeconfig and talks to the API server as any other client; the operator need not be reached. Results go to standard
//! output, everything else to standard error. Exit codes: 0 good, 1 failed, 2 wrong usage, 3 incomplete.

mod cluster;
mod show;
mod wait;

use super::schedule::Format;
use super::{FAILED, GOOD, INCOMPLETE, ended, print, print_json};
use crate::api::ANNOTATION_ACCEPTED;
use crate::api::backup_job::BackupJob;
use crate::api::backup_run::{BackupRun, BackupRunSpec};
use crate::api::conditions::BACKUP_SHRUNK;
use crate::clock::Clock;
use crate::error::{Failure, Reason};
use crate::run::Phase;
use crate::run::ports::phase_of;
use cluster::{Cluster, DryRun};
use kube::ResourceExt;
use rand::RngExt;
use serde::Serialize;
use serde_json::{Value, json};
use show::Verdict;
use std::sync::Arc;

/// How often another name is tried where one is taken: 26^5 of them are never all in use.
const NAMES: usize = 5;

/// Which cluster, which namespace, and how the result is printed.
#[derive(Clone, Debug, clap::Args)]
pub struct ClusterArgs {
    /// Namespace (default: the context's)
    #[arg(short, long, global = true, value_name = "NAMESPACE", conflicts_with = "all_namespaces")]
    pub namespace: Option<String>,
    /// Every namespace; for `list` and `status`
    #[arg(short = 'A', long, global = true)]
    pub all_namespaces: bool,
    /// Context of the kubeconfig (default: the current one)
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The kubeconfig file (default: KUBECONFIG, or ~/.kube/config)
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<String>,
    /// More columns, or the objects as JSON
    #[arg(short, long, global = true, value_name = "FORMAT", value_enum)]
    pub output: Option<Output>,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// The objects as the API has them.
    Json,
    /// A table with more columns.
    Wide,
}

/// Whether what would be written is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Dry {
    /// It is.
    #[default]
    None,
    /// Nothing is sent.
    Client,
    /// It is sent, checked by the server, and not stored.
    Server,
}

/// What is common to commands that write.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct WriteArgs {
    /// `client`: send nothing; `server`: let the server check it, and store nothing
    #[arg(long, value_name = "HOW", value_enum, default_value_t, num_args = 0..=1, require_equals = true, default_missing_value = "client")]
    pub dry_run: Dry,
}

/// `kubectl backup`
#[derive(Clone, Debug, clap::Args)]
pub struct KubectlArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: KubectlCommand,
    /// Cluster, namespace, output.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Everything that `kubectl backup` does.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum KubectlCommand {
    /// Run a BackupJob now, whatever its schedule says
    Run {
        /// The BackupJob
        #[arg(value_name = "JOB")]
        job: String,
        /// Wait until it is over. Exit code 0: succeeded, 1: failed or cancelled, 3: kept, but not whole
        #[arg(long)]
        wait: bool,
        /// Whether it is written.
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Show runs, the newest first
    List {
        /// Only those of this BackupJob
        #[arg(value_name = "JOB")]
        job: Option<String>,
    },
    /// Tell everything about a BackupJob or a run
    Describe {
        /// The BackupJob, or the BackupRun
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Stop a run; what it has stored so far is removed
    Cancel {
        /// The BackupRun
        #[arg(value_name = "RUN")]
        run: String,
        /// Whether it is written.
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Say that a much smaller backup (BackupShrunk) is right: it is the measure for the next ones
    Accept {
        /// The BackupJob
        #[arg(value_name = "JOB")]
        job: String,
        /// The run (default: the last one, if it shrank)
        #[arg(value_name = "RUN")]
        run: Option<String>,
        /// Whether it is written.
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Say whether all is well. Exit code 1: a BackupJob cannot run, or its last run failed; 3: its last backup is not
    /// whole, or much smaller than those before it
    Status {
        /// Only this BackupJob
        #[arg(value_name = "JOB")]
        job: Option<String>,
    },
}

/// Does it, and gives the exit code.
pub async fn run(args: &KubectlArgs, clock: &Arc<dyn Clock>) -> u8 {
    let format = if args.cluster.output == Some(Output::Json) { Format::Json } else { Format::Text };
    ended(format, act(args, clock.as_ref()).await)
}

async fn act(args: &KubectlArgs, clock: &dyn Clock) -> Result<u8, Failure> {
    let everywhere = args.cluster.all_namespaces;
    if everywhere && !matches!(args.command, KubectlCommand::List { job: None } | KubectlCommand::Status { job: None })
    {
        return Err(usage("-A goes with `list` and `status` alone, without a name: say which namespace with -n"));
    }
    let cluster = Cluster::connect(&args.cluster).await?;
    let output = args.cluster.output;
    match &args.command {
        KubectlCommand::Run { job, wait, write } => {
            // It holds a whole run and what waits for it: too large for every caller's stack.
            Box::pin(start(&cluster, job, *wait, write.dry_run, output)).await
        }
        KubectlCommand::List { job } => list(&cluster, job.as_deref(), output, clock).await,
        KubectlCommand::Describe { name } => describe(&cluster, name, output, clock).await,
        KubectlCommand::Cancel { run, write } => cancel(&cluster, run, write.dry_run, output).await,
        KubectlCommand::Accept { job, run, write } => {
            accept(&cluster, job, run.as_deref(), write.dry_run, output).await
        }
        KubectlCommand::Status { job } => status(&cluster, job.as_deref(), output, clock).await,
    }
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(Reason::InvalidSpec, message)
}

/// `backuprun.backup.javy.dev/NAME created`, as kubectl says it, or the object.
fn say<T: Serialize>(
    kind: &str,
    name: &str,
    done: &str,
    dry: Dry,
    object: &T,
    output: Option<Output>,
) -> Result<(), Failure> {
    if output == Some(Output::Json) {
        return print_json(object);
    }
    let dry = match dry {
        Dry::None => "",
        Dry::Client => " (dry run)",
        Dry::Server => " (server dry run)",
    };
    print(&format!("{kind}.{}/{name} {done}{dry}\n", crate::api::GROUP))
}

async fn start(cluster: &Cluster, name: &str, wait: bool, dry: Dry, output: Option<Output>) -> Result<u8, Failure> {
    let job = cluster.job(name).await?;
    if let Some(why) = show::condition(&job, "Ready").filter(|ready| ready.status == "False") {
        eprintln!("note: {name} cannot run as it is: {}: {}", why.reason, why.message);
    }
    if wait && dry != Dry::None {
        return Err(usage("--wait and --dry-run do not go together: nothing is made that could be waited for"));
    }
    let mut made = None;
    for _ in 0..NAMES {
        let run = manual_run(name, &random_letters(), cluster.namespace());
        made = match dry {
            Dry::Client => Some(run),
            Dry::None => cluster.create(&run, DryRun::No).await?,
            Dry::Server => cluster.create(&run, DryRun::Server).await?,
        };
        if made.is_some() {
            break;
        }
    }
    let made = made.ok_or_else(|| Failure::new(Reason::Internal, "no free name was found for the run; try again"))?;
    let run = made.name_any();
    // With --wait the object is printed when it is over.
    if !(wait && output == Some(Output::Json)) {
        say("backuprun", &run, "created", dry, &made, output)?;
    }
    if !wait {
        return Ok(GOOD);
    }
    let over = wait::until_over(cluster, &run, output == Some(Output::Json)).await?;
    if output == Some(Output::Json) {
        print_json(&over)?;
    } else {
        print(&show::result(&over))?;
    }
    Ok(code_of(phase_of(&over)))
}

fn code_of(phase: Phase) -> u8 {
    match phase {
        Phase::Succeeded => GOOD,
        Phase::Incomplete | Phase::PartiallyStored => INCOMPLETE,
        Phase::Pending | Phase::Running | Phase::Failed | Phase::Cancelled => FAILED,
    }
}

/// Five letters, as `product.md` section 2 names runs that are asked for by hand.
fn random_letters() -> String {
    let mut random = rand::rng();
    (0..5).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect()
}

fn manual_run(job: &str, letters: &str, namespace: &str) -> BackupRun {
    let spec = BackupRunSpec { backup_job_name: job.to_owned(), scheduled_at: None, cancel: None };
    let mut run = BackupRun::new(&format!("{job}-m{letters}"), spec);
    run.metadata.namespace = Some(namespace.to_owned());
    run
}

/// A list as `kubectl get -o json` prints it.
fn print_list<T: Serialize>(items: &[T]) -> Result<(), Failure> {
    print_json(&json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items}))
}

fn nothing_found(cluster: &Cluster, what: &str) {
    if cluster.everywhere() {
        eprintln!("No {what} found");
    } else {
        eprintln!("No {what} found in {} namespace.", cluster.namespace());
    }
}

async fn list(cluster: &Cluster, job: Option<&str>, output: Option<Output>, clock: &dyn Clock) -> Result<u8, Failure> {
    let mut runs = cluster.runs(job).await?;
    show::newest_first(&mut runs);
    if let (Some(job), true) = (job, runs.is_empty()) {
        cluster.job(job).await?; // a name that is not there is an error, and not an empty list
    }
    match output {
        Some(Output::Json) => print_list(&runs)?,
        _ if runs.is_empty() => nothing_found(cluster, "runs"),
        _ => print(&show::run_table(&runs, cluster.everywhere(), output == Some(Output::Wide), clock.now()))?,
    }
    Ok(GOOD)
}

async fn describe(cluster: &Cluster, name: &str, output: Option<Output>, clock: &dyn Clock) -> Result<u8, Failure> {
    let (job, run) = (cluster.find_job(name).await?, cluster.find_run(name).await?);
    let now = clock.now();
    match (job, run) {
        (Some(job), _) => {
            let mut runs = cluster.runs(Some(name)).await?;
            show::newest_first(&mut runs);
            if output == Some(Output::Json) {
                print_json(&job)?;
            } else {
                print(&show::describe_job(&job, &runs, now))?;
            }
        }
        (None, Some(run)) if output == Some(Output::Json) => print_json(&run)?,
        (None, Some(run)) => print(&show::describe_run(&run, now))?,
        (None, None) => {
            let namespace = cluster.namespace();
            return Err(Failure::new(
                Reason::JobNotFound,
                format!(
                    "there is no BackupJob and no BackupRun {name:?} in namespace {namespace}: `kubectl backup status -n \
                     {namespace}` and `kubectl backup list -n {namespace}` show which are; -n says another namespace"
                ),
            ));
        }
    }
    Ok(GOOD)
}

async fn cancel(cluster: &Cluster, name: &str, dry: Dry, output: Option<Output>) -> Result<u8, Failure> {
    let run = cluster.run(name).await?;
    let phase = phase_of(&run);
    if phase.is_final() {
        let message = format!("{name} is over ({}): there is nothing to cancel", phase.as_str());
        return Err(Failure::new(Reason::CancelRequested, message));
    }
    let patch = json!({"spec": {"cancel": true}});
    let after = match dry {
        Dry::Client => run,
        Dry::None => cluster.patch_run(name, &patch, DryRun::No).await?,
        Dry::Server => cluster.patch_run(name, &patch, DryRun::Server).await?,
    };
    say("backuprun", name, "cancelled", dry, &after, output)?;
    Ok(GOOD)
}

async fn accept(
    cluster: &Cluster,
    name: &str,
    run: Option<&str>,
    dry: Dry,
    output: Option<Output>,
) -> Result<u8, Failure> {
    let job = cluster.job(name).await?;
    let mut runs = cluster.runs(Some(name)).await?;
    show::newest_first(&mut runs);
    let run = to_accept(&job, &runs, run)?;
    let patch: Value = json!({"metadata": {"annotations": {ANNOTATION_ACCEPTED: run}}});
    let after = match dry {
        Dry::Client => job,
        Dry::None => cluster.patch_job(name, &patch, DryRun::No).await?,
        Dry::Server => cluster.patch_job(name, &patch, DryRun::Server).await?,
    };
    say("backupjob", name, &format!("accepts {run}"), dry, &after, output)?;
    Ok(GOOD)
}

/// The run whose smaller backup is accepted: the one that was said, or else the one that the BackupJob complains of.
fn to_accept(job: &BackupJob, runs: &[BackupRun], said: Option<&str>) -> Result<String, Failure> {
    let shrunk = |run: &&BackupRun| run.status.as_ref().is_some_and(|status| status.shrunk.is_some());
    let complains = show::condition(job, "Healthy").is_some_and(|healthy| healthy.reason == BACKUP_SHRUNK);
    // The BackupRun may have been pruned; its BackupJob still says so.
    let last = job.status.as_ref().and_then(|status| status.last_successful_run.clone()).filter(|_| complains);
    let nothing = |what: String| Failure::new(Reason::BackupNotFound, what);
    let name = job.name_any();
    let Some(said) = said else {
        return last.ok_or_else(|| {
            nothing(format!(
                "the last backup of {name} is not flagged as BackupShrunk: there is nothing to accept. `kubectl backup list \
                 {name}` shows its runs"
            ))
        });
    };
    match runs.iter().find(|run| run.name_any() == said) {
        Some(run) if shrunk(&run) => Ok(said.to_owned()),
        None if last.as_deref() == Some(said) => Ok(said.to_owned()),
        Some(_) => Err(nothing(format!("{said} is not flagged as BackupShrunk: there is nothing to accept"))),
        None => Err(nothing(format!("{name} has no run {said:?}: `kubectl backup list {name}` shows which there are"))),
    }
}

async fn status(
    cluster: &Cluster,
    job: Option<&str>,
    output: Option<Output>,
    clock: &dyn Clock,
) -> Result<u8, Failure> {
    let jobs = match job {
        Some(name) => vec![cluster.job(name).await?],
        None => cluster.jobs().await?,
    };
    match output {
        Some(Output::Json) => print_list(&jobs)?,
        _ if jobs.is_empty() => nothing_found(cluster, "BackupJobs"),
        _ => {
            print(&show::job_table(&jobs, cluster.everywhere(), output == Some(Output::Wide), clock.now()))?;
            for (name, what) in jobs.iter().filter_map(|job| Some((job.name_any(), show::complaint(job)?))) {
                eprintln!("{name}: {what}");
            }
        }
    }
    let verdicts: Vec<Verdict> = jobs.iter().map(show::verdict).collect();
    // The worst of them.
    Ok(match () {
        () if verdicts.contains(&Verdict::Failed) => FAILED,
        () if verdicts.contains(&Verdict::Incomplete) => INCOMPLETE,
        () => GOOD,
    })
}

#[cfg(test)]
mod tests;
