//! **W** One attempt with the real parts: the namespace's own rights, its Secret, its pod, its destination.

use super::surroundings::Surroundings;
use crate::clock::Clock;
use crate::destination::Destination;
use crate::destination::build::{build_within, limited};
use crate::error::{Failure, Reason};
use crate::run::AttemptId;
use crate::run::backup::back_up;
use crate::run::ports::{Executor, Prepared};
use crate::run::recover::recover;
use crate::run::report::{Plan, Progress, Recovered, Report};
use crate::source::exec::ExecSource;
use crate::source::hidden::Hidden;
use crate::target::{ResolvedPod, resolve};
use crate::tenant::{Account, Tenants, read_secret};
use crate::validate::ValidatedJob;
use async_trait::async_trait;
use kube::Client;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

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
    pod: ResolvedPod,
    job: ValidatedJob,
    destination: Arc<dyn Destination>,
    /// What the Secret holds: never to be written down.
    hidden: Hidden,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl Executor for ExecExecutor {
    async fn check(&self, job: &ValidatedJob) -> Result<(), Failure> {
        let account = account(job);
        let client = self.tenants.client_of(&account).await?;
        self.destination(client.clone(), &account, job).await?;
        match resolve(client, &account, &job.target).await {
            Err(failure) if failure.reason == Reason::TargetNotReady => Ok(()),
            found => found.map(drop),
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
        let pod = resolve(client, &account, &job.target).await?;
        let (tenants, clock) = (self.tenants.clone(), Arc::clone(&self.clock));
        Ok(Box::new(ExecAttempt { tenants, account, pod, job: job.clone(), destination, hidden, clock }))
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
        let destination = build_within(&egress, &job.destination.address, &job.destination.options, &secret)?;
        let destination = limited(destination, job.destination.bandwidth_limit, &self.clock);
        Ok((destination, Hidden::new(secret.values().map(String::as_str))))
    }
}

#[async_trait]
impl Prepared for ExecAttempt {
    fn exclusive(&self) -> Option<String> {
        let directory = self.job.work.directory()?;
        Some(format!("directory/{}/{}/{directory}", self.pod.uid, self.pod.container))
    }

    fn pod(&self) -> Option<String> {
        Some(self.pod.pod.clone())
    }

    async fn run(
        self: Box<Self>,
        id: AttemptId,
        progress: Arc<Progress>,
        cancel: CancellationToken,
    ) -> Result<Report, Failure> {
        let Self { tenants, account, pod, job, destination, hidden, clock } = *self;
        let target = &job.target;
        let plan = Plan {
            target: json!({
                "kind": target.kind.as_str(),
                "name": target.name,
                "namespace": target.namespace,
                "path": target.path,
                "container": pod.container,
            }),
            strategy: job.work.as_str(),
            compression_level: job.compression_level,
            recipients: job.recipients.clone(),
            allow_empty: job.allow_empty,
            minimum_size: job.minimum_size,
            adopt: job.adopt.clone(),
            maximum_shrink_percent: Some(job.maximum_shrink_percent),
            accepted: job.accepted.clone(),
            id,
        };
        let source = ExecSource::new(tenants, account, pod, job.work.clone(), job.target.path.clone(), &plan.id)
            .with_hooks(job.hooks.clone())
            .hiding(hidden)
            .with_staged_limit(job.maximum_staged_size);
        back_up(&plan, &source, destination.as_ref(), clock.as_ref(), &progress, &cancel).await
    }
}
