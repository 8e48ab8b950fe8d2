//! **P** Takes a BackupJob apart. Every struct is destructured without `..`: a field that is added to the schema and
//! forgotten here does not compile.

use super::problems::{Invalid, Problems};
use super::{
    DEFAULT_SERVICE_ACCOUNT, DestinationPlan, Hooks, Pods, Target, Timing, ValidatedJob, Work, WorkloadKind, later,
    options, pod_selector, settings, strategy, timing::timing,
};
use crate::api::backup_job::{
    BackupJob, BackupJobSpec, CompressionSpec, DeletionPolicy, DestinationSpec, DestinationType, NamedDestination,
    PodChoice, RetrySpec, StrategyType, TargetKind, TargetSpec,
};
use crate::api::names::{JobName, JobRef, Namespace, ObjectKey, Uid};
use crate::api::{ANNOTATION_ACCEPTED, ANNOTATION_ADOPT};
use crate::archive::encrypt::Recipient;
use crate::destination::address::Address;
use crate::schedule::cron::{Origin, Schedule};
use chrono::{DateTime, Utc};
use std::fmt;
use std::time::Duration;

/// Default of `activeDeadlineSeconds`: 24 hours (`product.md` section 2).
pub const ACTIVE_DEADLINE: Duration = Duration::from_hours(24);

/// Longest schedule-less history: as many BackupRuns as the schema lets one keep.
const HISTORY_LIMIT: u32 = 1000;

pub(super) fn job(job: &BackupJob) -> Result<ValidatedJob, Invalid> {
    let mut problems = Problems::default();
    let identity = identity(job, &mut problems);
    let parts = spec(&job.spec, identity.as_ref(), &mut problems);
    match (problems.into_error(), identity, parts) {
        (None, Some(identity), Some(parts)) => Ok(parts.into_job(identity)),
        (Some(invalid), ..) => Err(invalid),
        // Every `None` above comes with a problem; should one not, the job is refused all the same.
        (None, ..) => Err(Invalid {
            reason: crate::error::Reason::Internal,
            message: "the BackupJob could not be read, and nothing says why; please report this".into(),
        }),
    }
}

/// Who the BackupJob is.
struct Identity {
    job: JobRef,
    uid: Uid,
    created: DateTime<Utc>,
    adopt: Option<String>,
    accepted: Option<String>,
}

fn identity(job: &BackupJob, problems: &mut Problems) -> Option<Identity> {
    let meta = &job.metadata;
    let namespace =
        taken("metadata.namespace", Namespace::new(meta.namespace.as_deref().unwrap_or_default()), problems);
    let name = taken("metadata.name", JobName::new(meta.name.as_deref().unwrap_or_default()), problems);
    let uid = taken("metadata.uid", Uid::new(meta.uid.as_deref().unwrap_or_default()), problems);
    let created = meta.creation_timestamp.as_ref().and_then(|time| DateTime::from_timestamp(time.0.as_second(), 0));
    if created.is_none() {
        problems.invalid("metadata.creationTimestamp", "absent; the object does not come from an API server");
    }
    let annotation =
        |key: &str| meta.annotations.as_ref().and_then(|found| found.get(key)).map(|text| text.trim().to_owned());
    let (adopt, accepted) = (annotation(ANNOTATION_ADOPT), annotation(ANNOTATION_ACCEPTED));
    let job = JobRef { namespace: namespace?, name: name? };
    Some(Identity { job, uid: uid?, created: created?, adopt, accepted })
}

/// The value, or its failure as a problem of field `path`.
fn taken<T>(path: impl fmt::Display, value: Result<T, crate::error::Failure>, problems: &mut Problems) -> Option<T> {
    value.map_err(|failure| problems.invalid(path, failure.message)).ok()
}

/// What was read from the spec.
struct Parts {
    schedule: Option<Schedule>,
    suspend: bool,
    timing: Timing,
    target: Target,
    work: Work,
    hooks: Hooks,
    destination: DestinationPlan,
    archive: ObjectKey,
    active_deadline: Duration,
    retry_limit: u32,
    retry_backoff: Duration,
    service_account: String,
    compression_level: i32,
    recipients: Vec<Recipient>,
    guard: settings::Guard,
    keep_successful: u32,
    keep_failed: u32,
}

impl Parts {
    fn into_job(self, identity: Identity) -> ValidatedJob {
        let Identity { job, uid, created, adopt, accepted } = identity;
        ValidatedJob {
            job,
            uid,
            created,
            schedule: self.schedule,
            suspend: self.suspend,
            timing: self.timing,
            target: self.target,
            work: self.work,
            hooks: self.hooks,
            destination: self.destination,
            archive: self.archive,
            adopt,
            active_deadline: self.active_deadline,
            retry_limit: self.retry_limit,
            retry_backoff: self.retry_backoff,
            service_account: self.service_account,
            compression_level: self.compression_level,
            recipients: self.recipients,
            allow_empty: self.guard.allow_empty,
            minimum_size: self.guard.minimum_size,
            maximum_shrink_percent: self.guard.maximum_shrink_percent,
            accepted,
            maximum_staged_size: self.guard.maximum_staged_size,
            keep_successful: self.keep_successful,
            keep_failed: self.keep_failed,
        }
    }
}

fn spec(spec: &BackupJobSpec, identity: Option<&Identity>, problems: &mut Problems) -> Option<Parts> {
    let BackupJobSpec {
        target: target_spec,
        destination: destination_spec,
        destinations,
        archive_name,
        strategy: strategy_spec,
        schedule: expression,
        time_zone,
        starting_deadline_seconds,
        concurrency_policy,
        suspend,
        missed_runs,
        jitter_seconds,
        active_deadline_seconds,
        retry,
        retention,
        guard: guard_spec,
        compression,
        encryption,
        verify,
        notify,
        runner,
        service_account_name,
        successful_runs_history_limit,
        failed_runs_history_limit,
        deletion_policy,
    } = spec;

    let target = target(target_spec, &strategy_spec.kind, identity, problems);
    let guard = settings::guard(guard_spec.clone().unwrap_or_default(), problems);
    let files = strategy::Files {
        path: target.as_ref().and_then(|target| target.path.as_deref()),
        path_given: target_spec.path.is_some(),
        include: &target_spec.include,
        exclude: &target_spec.exclude,
        allow_live_database: guard.allow_live_database,
    };
    let work = strategy::strategy(strategy_spec, &files, problems);
    let destination = destinations_of(destination_spec.as_ref(), destinations, problems);
    let archive = identity.and_then(|identity| {
        let name = archive_name.clone().unwrap_or_else(|| identity.job.to_string());
        taken("spec.archiveName", ObjectKey::new(name), problems)
    });
    let schedule = identity.map(|identity| {
        schedule(expression.as_deref(), time_zone.as_deref(), &Origin::of(&identity.job, identity.created), problems)
    });

    let timing = timing(
        concurrency_policy.as_ref(),
        *jitter_seconds,
        *starting_deadline_seconds,
        missed_runs.as_ref(),
        problems,
    );
    let active_deadline = active_deadline_seconds.map_or(ACTIVE_DEADLINE, |seconds| {
        let seconds = within("spec.activeDeadlineSeconds", seconds, 1..=31_536_000, problems);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    });
    problems.default_only("spec.deletionPolicy", deletion_policy.as_ref(), &DeletionPolicy::Retain);

    let RetrySpec { limit, backoff_seconds } = retry.clone().unwrap_or_default();
    let retry_limit = within("spec.retry.limit", limit.unwrap_or(2), 0..=20, problems);
    let backoff = within("spec.retry.backoffSeconds", backoff_seconds.unwrap_or(30), 1..=600, problems);
    let CompressionSpec { level } = compression.clone().unwrap_or_default();
    let compression_level = within("spec.compression.level", level.unwrap_or(3), 1..=19, problems);
    let recipients = encryption.as_ref().map_or_else(Vec::new, |spec| settings::recipients(spec, problems));
    let keep_successful = within(
        "spec.successfulRunsHistoryLimit",
        successful_runs_history_limit.unwrap_or(3),
        0..=HISTORY_LIMIT,
        problems,
    );
    let keep_failed =
        within("spec.failedRunsHistoryLimit", failed_runs_history_limit.unwrap_or(3), 0..=HISTORY_LIMIT, problems);

    let service_account = service_account_name.as_deref().unwrap_or(DEFAULT_SERVICE_ACCOUNT);
    object_name("spec.serviceAccountName", service_account, problems);

    later::retention("spec.retention", retention.as_ref(), problems);
    later::verify(verify.as_ref(), problems);
    later::notify(notify, problems);
    later::runner(runner.as_ref(), problems);

    let (work, hooks) = work?;
    Some(Parts {
        schedule: schedule?.ok()?,
        suspend: suspend.unwrap_or(false),
        timing,
        target: target?,
        work,
        hooks,
        destination: destination?,
        archive: archive?,
        active_deadline,
        retry_limit,
        retry_backoff: Duration::from_secs(backoff.into()),
        service_account: service_account.to_owned(),
        compression_level,
        recipients,
        guard,
        keep_successful,
        keep_failed,
    })
}

pub(super) fn within<T: PartialOrd + fmt::Display + Copy>(
    path: &str,
    value: T,
    range: std::ops::RangeInclusive<T>,
    problems: &mut Problems,
) -> T {
    if !range.contains(&value) {
        problems.invalid(path, format_args!("{value} is not between {} and {}", range.start(), range.end()));
    }
    value
}

/// A name as most objects of Kubernetes have it.
pub(super) fn object_name(path: impl fmt::Display, name: &str, problems: &mut Problems) {
    if !is_object_name(name) {
        problems.invalid(path, "not a name; lower-case letters, digits, `-` and `.`, at most 253 of them");
    }
}

/// Whether `name` is a DNS subdomain of at most 253 characters, as most names of Kubernetes are.
pub fn is_object_name(name: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=253).contains(&name.len())
        && name.split('.').all(|label| {
            label.bytes().all(|b| letter(b) || b == b'-')
                && label.bytes().next().is_some_and(letter)
                && label.bytes().next_back().is_some_and(letter)
        })
}

/// An absolute path, without slashes at its end; `/` itself stays.
pub(super) fn absolute_path(path: &str, text: &str, problems: &mut Problems) -> Option<String> {
    if text.bytes().any(|b| b.is_ascii_control()) {
        problems.invalid(path, "holds a control character");
        return None;
    }
    let Some(rest) = text.strip_prefix('/') else {
        problems.invalid(path, "must be an absolute path: begin with /");
        return None;
    };
    let rest = rest.trim_end_matches('/');
    if !rest.is_empty() && rest.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        problems.invalid(path, "no part of it may be empty, `.` or `..`");
        return None;
    }
    Some(format!("/{rest}"))
}

fn target(
    spec: &TargetSpec,
    strategy: &StrategyType,
    identity: Option<&Identity>,
    problems: &mut Problems,
) -> Option<Target> {
    let TargetSpec { kind, name, namespace, path, container, pods, pod_selector, include: _, exclude: _, selector } =
        spec; // the patterns are read with the strategy

    let workload = match kind {
        TargetKind::Pod => Some(WorkloadKind::Pod),
        TargetKind::StatefulSet => Some(WorkloadKind::StatefulSet),
        TargetKind::Deployment => Some(WorkloadKind::Deployment),
        TargetKind::DaemonSet => Some(WorkloadKind::DaemonSet),
        TargetKind::ReplicaSet => Some(WorkloadKind::ReplicaSet),
        TargetKind::PersistentVolumeClaim if *strategy == StrategyType::dump => {
            problems.invalid(
                "spec.target.kind",
                "a dump runs in a container: name the pod or workload that uses the claim",
            );
            None
        }
        TargetKind::PersistentVolumeClaim | TargetKind::Unknown(_) => {
            problems.unsupported("spec.target.kind", format_args!("{kind} (only Pod and workloads are)"));
            None
        }
    };
    object_name("spec.target.name", name, problems);
    let namespace = match namespace {
        None => identity.map(|identity| identity.job.namespace.clone()),
        Some(namespace) => taken("spec.target.namespace", Namespace::new(namespace), problems),
    };
    let path = path.as_deref().map(|path| absolute_path("spec.target.path", path, problems));
    if let Some(container) = container {
        object_name("spec.target.container", container, problems);
    }
    let pods = match pods {
        None | Some(PodChoice::First) => Pods::First,
        Some(PodChoice::Each) => Pods::Each,
        Some(unknown @ PodChoice::Unknown(_)) => {
            problems.unsupported("spec.target.pods", unknown);
            Pods::First
        }
    };
    if workload == Some(WorkloadKind::Pod) && pods == Pods::Each {
        problems.invalid("spec.target.pods", "Each is for the pods of a workload; a Pod is one, leave it out");
    }
    let chooses = pod_selector.as_ref().is_some_and(later::narrows);
    if workload == Some(WorkloadKind::Pod) && chooses {
        problems.invalid("spec.target.podSelector", "chooses among a workload's pods; a Pod has none to choose from");
    }
    let pod_selector = pod_selector::read(pod_selector.as_ref(), problems);
    problems.unsupported_field("spec.target.selector", selector.as_ref().is_some_and(later::narrows));
    Some(Target {
        kind: workload?,
        name: name.clone(),
        namespace: namespace?,
        path: match path {
            None => None,
            Some(path) => Some(path?),
        },
        container: container.clone(),
        pods,
        pod_selector,
    })
}

fn destinations_of(
    single: Option<&DestinationSpec>,
    several: &[NamedDestination],
    problems: &mut Problems,
) -> Option<DestinationPlan> {
    if !several.is_empty() {
        if single.is_some() {
            problems.invalid("spec.destinations", "exactly one of destination and destinations is needed");
        } else {
            problems.unsupported_field("spec.destinations", true);
        }
        return None;
    }
    let Some(spec) = single else {
        problems.invalid("spec.destination", "is needed: where the backups go");
        return None;
    };
    destination(spec, problems)
}

fn destination(spec: &DestinationSpec, problems: &mut Problems) -> Option<DestinationPlan> {
    let DestinationSpec {
        kind,
        uri,
        secret_ref,
        options: options_map,
        bandwidth_limit,
        image,
        command,
        list_command,
        read_command,
        delete_command,
    } = spec;

    if let Some(secret) = secret_ref {
        object_name("spec.destination.secretRef", secret, problems);
    }
    let bandwidth_limit = settings::bandwidth("spec.destination.bandwidthLimit", bandwidth_limit.as_ref(), problems);
    if *kind != DestinationType::custom {
        for (field, value) in [
            ("image", image),
            ("command", command),
            ("listCommand", list_command),
            ("readCommand", read_command),
            ("deleteCommand", delete_command),
        ] {
            if value.is_some() {
                problems.invalid(format_args!("spec.destination.{field}"), "belongs to type custom");
            }
        }
    }

    let uri = uri.as_deref();
    if let Some(uri) = uri
        && let Some(expected) = scheme_of(kind)
        && !expected.iter().any(|scheme| uri.starts_with(scheme))
    {
        let expected = expected.join(" or ");
        problems.invalid(
            "spec.destination.uri",
            format_args!("does not agree with type {kind}: it begins with {expected}"),
        );
        return None;
    }
    if *kind != DestinationType::s3 {
        problems.unsupported("spec.destination.type", format_args!("{kind} (only s3 is)"));
        return None;
    }
    options::s3(options_map, problems);
    let Some(uri) = uri else {
        problems.invalid("spec.destination.uri", "is needed: s3://bucket/prefix");
        return None;
    };
    let address = taken("spec.destination.uri", Address::parse(uri), problems)?;
    Some(DestinationPlan { address, options: options_map.clone(), secret: secret_ref.clone(), bandwidth_limit })
}

/// How the uri of a type begins; `None`: in any way.
fn scheme_of(kind: &DestinationType) -> Option<&'static [&'static str]> {
    match kind {
        DestinationType::s3 => Some(&["s3://"]),
        DestinationType::gcs => Some(&["gs://"]),
        DestinationType::azure => Some(&["az://"]),
        DestinationType::nfs => Some(&["nfs://"]),
        DestinationType::local => Some(&["pvc://"]),
        DestinationType::git | DestinationType::custom | DestinationType::Unknown(_) => None,
    }
}

/// What does not hold is among the problems already.
struct Reported;

/// The schedule, if there is one.
fn schedule(
    expression: Option<&str>,
    zone: Option<&str>,
    origin: &Origin,
    problems: &mut Problems,
) -> Result<Option<Schedule>, Reported> {
    let mut report = |path, error: crate::schedule::cron::ScheduleError| {
        problems.because(error.reason(), path, error.message);
    };
    // Each is tried with something in the other's place that always holds, so that both are reported at once.
    let zone_holds = match zone.map(|zone| Schedule::parse("@daily", Some(zone), origin)) {
        Some(Err(error)) => {
            report("spec.timeZone", error);
            false
        }
        _ => true,
    };
    let Some(expression) = expression else { return if zone_holds { Ok(None) } else { Err(Reported) } };
    match Schedule::parse(expression, zone.filter(|_| zone_holds), origin) {
        Ok(schedule) if zone_holds => Ok(Some(schedule)),
        Ok(_) => Err(Reported),
        Err(error) => {
            report("spec.schedule", error);
            Err(Reported)
        }
    }
}
