//! **W** One attempt with the real parts: the namespace's own rights, its Secret, its pod, its destination.

use super::surroundings::Surroundings;
use crate::clock::Clock;
use crate::destination::Destination;
use crate::destination::build::{build_within, limited};
use crate::error::{Failure, Reason};
use crate::repository::manifest::pods::shown_names;
use crate::run::AttemptId;
use crate::run::backup::{Member, SEGMENT_SIZE, back_up, back_up_each};
use crate::run::cancel::Cancel;
use crate::run::ports::{Executor, Prepared};
use crate::run::recover::recover;
use crate::run::report::{Plan, Progress, Recovered, Report};
use crate::source::Source;
use crate::source::exec::ExecSource;
use crate::source::hidden::Hidden;
use crate::target::{EachPod, ResolvedPod, resolve, resolve_each};
use crate::tenant::{Account, Tenants, read_secret};
use crate::validate::{Pods, Target, ValidatedJob};
use async_trait::async_trait;
use kube::Client;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Executes attempts by exec into the target.
pub(super) struct ExecExecutor {
    /// Clients with the rights of namespaces.
    pub(super) tenants: Tenants,
    /// What is not to be connected to.
    pub(super) surroundings: Surroundings,
    /// The time.
    pub(super) clock: Arc<dyn Clock>,
}

struct ExecAttempt {
    tenants: Tenants,
    account: Account,
    pods: Found,
    job: ValidatedJob,
    destination: Arc<dyn Destination>,
    /// What the Secret holds: never to be written down.
    hidden: Hidden,
    clock: Arc<dyn Clock>,
}

/// What a target turned out to be.
enum Found {
    First(ResolvedPod),
    Each(Vec<EachPod>),
}

impl Found {
    async fn look(client: Client, account: &Account, target: &Target) -> Result<Self, Failure> {
        match target.pods {
            Pods::First => resolve(client, account, target).await.map(Self::First),
            Pods::Each => resolve_each(client, account, target).await.map(Self::Each),
        }
    }

    /// Those that can be read.
    fn pods(&self) -> Vec<&ResolvedPod> {
        match self {
            Self::First(pod) => vec![pod],
            Self::Each(pods) => pods.iter().filter_map(|(_, pod)| pod.as_ref().ok()).collect(),
        }
    }
}

#[async_trait]
impl Executor for ExecExecutor {
    async fn check(&self, job: &ValidatedJob) -> Result<(), Failure> {
        let account = account(job);
        let client = self.tenants.client_of(&account).await?;
        self.destination(client.clone(), &account, job).await?;
        match Found::look(client, &account, &job.target).await {
            Err(failure) if failure.reason == Reason::TargetNotReady => Ok(()),
            Err(failure) => Err(failure),
            Ok(Found::First(_)) => Ok(()),
            Ok(Found::Each(pods)) => {
                let lacks = |failure: &Failure| failure.reason == Reason::ContainerNotFound;
                pods.into_iter().find_map(|(_, pod)| pod.err().filter(lacks)).map_or(Ok(()), Err)
            }
        }
    }

    async fn recover(&self, job: &ValidatedJob, id: &AttemptId) -> Result<Recovered, Failure> {
        let account = account(job);
        let client = self.tenants.fresh_client(&account).await?;
        let (destination, _) = self.destination(client, &account, job).await?;
        recover(destination.as_ref(), id).await
    }

    async fn prepare(&self, job: &ValidatedJob) -> Result<Box<dyn Prepared>, Failure> {
        let account = account(job);
        let client = self.tenants.fresh_client(&account).await?;
        let (destination, hidden) = self.destination(client.clone(), &account, job).await?;
        let pods = Found::look(client, &account, &job.target).await?;
        let (tenants, clock) = (self.tenants.clone(), Arc::clone(&self.clock));
        Ok(Box::new(ExecAttempt { tenants, account, pods, job: job.clone(), destination, hidden, clock }))
    }
}

/// Whose rights are used.
fn account(job: &ValidatedJob) -> Account {
    Account { namespace: job.job.namespace.clone(), name: job.service_account.clone() }
}

impl ExecExecutor {
    /// The destination with the credentials of its Secret, and what of that must not be written down.
    async fn destination(
        &self,
        client: Client,
        account: &Account,
        job: &ValidatedJob,
    ) -> Result<(Arc<dyn Destination>, Hidden), Failure> {
        let secret = match &job.destination.secret {
            Some(name) => read_secret(client, account, name).await?,
            None => BTreeMap::new(),
        };
        let egress = self.surroundings.egress().await?;
        let destination = build_within(&egress, &job.destination.address, &job.destination.options, &secret)
            .map_err(|failure| with_secret(failure, job))?;
        let destination = limited(destination, job.destination.bandwidth_limit, &self.clock);
        Ok((destination, Hidden::new(secret.values().map(String::as_str))))
    }
}

#[async_trait]
impl Prepared for ExecAttempt {
    fn exclusive(&self) -> BTreeSet<String> {
        let Some(directory) = self.job.work.directory() else { return BTreeSet::new() };
        let key = |pod: &ResolvedPod| format!("directory/{}/{}/{directory}", pod.uid, pod.container);
        self.pods.pods().into_iter().map(key).collect()
    }

    fn pod(&self) -> Option<String> {
        let names: Vec<&str> = self.pods.pods().iter().map(|pod| pod.pod.as_str()).collect();
        Some(shown_names(&names))
    }

    async fn run(
        self: Box<Self>,
        id: AttemptId,
        waited: bool,
        progress: Arc<Progress>,
        cancel: Cancel,
    ) -> Result<Report, Failure> {
        let Self { tenants, account, pods, job, destination, hidden, clock } = *self;
        let plan = Plan {
            target: described(&job.target, &pods),
            strategy: job.work.as_str(),
            compression_level: job.compression_level,
            recipients: job.recipients.clone(),
            allow_empty: job.allow_empty,
            minimum_size: job.minimum_size,
            adopt: job.adopt.clone(),
            maximum_shrink_percent: Some(job.maximum_shrink_percent),
            accepted: job.accepted.clone(),
            waited,
            segment_size: SEGMENT_SIZE,
            id,
        };
        let source = |pod: ResolvedPod| {
            let path = job.target.path.clone();
            ExecSource::new(tenants.clone(), account.clone(), pod, job.work.clone(), path, &plan.id)
                .with_hooks(job.hooks.clone())
                .hiding(hidden.clone())
                .with_staged_limit(job.maximum_staged_size)
        };
        let (destination, clock) = (destination.as_ref(), clock.as_ref());
        let report = match pods {
            Found::First(pod) => back_up(&plan, &source(pod), destination, clock, &progress, &cancel).await,
            Found::Each(pods) => {
                let at_its_turn = |pod| Box::new(source(pod).at_its_turn()) as Box<dyn Source>;
                let member = |(name, pod): EachPod| Member { pod: name, source: pod.map(at_its_turn) };
                let members: Vec<Member> = pods.into_iter().map(member).collect();
                back_up_each(&plan, &members, destination, clock, &progress, &cancel).await
            }
        };
        report.map_err(|failure| with_secret(failure, &job))
    }
}

/// A failure that lies in the credentials names the Secret in which they are mended; the destination does not know it.
fn with_secret(failure: Failure, job: &ValidatedJob) -> Failure {
    match (&job.destination.secret, failure.reason) {
        (Some(name), Reason::DestinationDenied | Reason::SecretKeyMissing) => {
            let message = format!(
                "{}; the credentials are those of Secret {name} in namespace {}",
                failure.message, job.job.namespace
            );
            Failure { message, ..failure }
        }
        _ => failure,
    }
}

/// The target as it stands in the manifest.
fn described(target: &Target, pods: &Found) -> Value {
    let mut described = json!({
        "kind": target.kind.as_str(),
        "name": target.name,
        "namespace": target.namespace,
        "path": target.path,
        // Of several pods each entry has its own, which a template may have changed in between.
        "container": pods.pods().first().map(|pod| pod.container.as_str()),
    });
    if matches!(pods, Found::Each(_)) {
        described["pods"] = "Each".into();
    }
    described
}
