//! **W** The cluster of the person who types: his kubeconfig, his rights, his errors.

use super::ClusterArgs;
use crate::api::backup_job::BackupJob;
use crate::api::backup_run::BackupRun;
use crate::error::{Failure, Reason};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::Value;
use std::time::Duration;

/// As whom fields are written.
const MANAGER: &str = "kubectl-backup";
/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Objects in one answer.
const PAGE: u32 = 500;

/// Whether the server stores what it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DryRun {
    /// It does.
    No,
    /// It only checks it.
    Server,
}

/// A connection.
pub(super) struct Cluster {
    client: Client,
    namespace: String,
    everywhere: bool,
}

impl Cluster {
    /// Reads the kubeconfig; nothing is contacted yet.
    pub(super) async fn connect(args: &ClusterArgs) -> Result<Self, Failure> {
        let unusable = |what: String| Failure::new(Reason::ClusterUnavailable, what);
        let kubeconfig = match &args.kubeconfig {
            Some(file) => Kubeconfig::read_from(file)
                .map_err(|error| unusable(format!("--kubeconfig {file} cannot be used: {error}")))?,
            None => Kubeconfig::read().map_err(|error| {
                unusable(format!(
                    "there is no kubeconfig that can be used ({error}): set KUBECONFIG, or give --kubeconfig FILE"
                ))
            })?,
        };
        let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| {
            unusable(format!(
                "the kubeconfig cannot be used: {error}; `kubectl config get-contexts` shows what is in it"
            ))
        })?;
        config.read_timeout = Some(ANSWER_LIMIT);
        // Somebody waits for the answer, who can try again himself.
        config.default_retry = false;
        let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config)
            .map_err(|error| unusable(format!("no connection can be made to the cluster: {error}")))?;
        Ok(Self { client, namespace, everywhere: args.all_namespaces })
    }

    /// The namespace that is meant.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whether every namespace is meant.
    pub(super) const fn everywhere(&self) -> bool {
        self.everywhere
    }

    fn jobs_api(&self) -> Api<BackupJob> {
        if self.everywhere {
            Api::all(self.client.clone())
        } else {
            Api::namespaced(self.client.clone(), &self.namespace)
        }
    }

    fn runs_api(&self) -> Api<BackupRun> {
        if self.everywhere {
            Api::all(self.client.clone())
        } else {
            Api::namespaced(self.client.clone(), &self.namespace)
        }
    }

    fn failed(&self, verb: &str, what: &str, error: &kube::Error) -> Failure {
        failure(verb, what, &self.namespace, error)
    }

    /// The BackupJob of that name, if there is one.
    pub(super) async fn find_job(&self, name: &str) -> Result<Option<BackupJob>, Failure> {
        self.jobs_api().get_opt(name).await.map_err(|error| self.failed("get", "backupjobs", &error))
    }

    /// The BackupJob of that name.
    pub(super) async fn job(&self, name: &str) -> Result<BackupJob, Failure> {
        let namespace = &self.namespace;
        self.find_job(name).await?.ok_or_else(|| {
            Failure::new(
                Reason::JobNotFound,
                format!(
                    "there is no BackupJob {name:?} in namespace {namespace}: `kubectl backup status -n {namespace}` shows \
                     which are; -n says another namespace"
                ),
            )
        })
    }

    /// Every BackupJob.
    pub(super) async fn jobs(&self) -> Result<Vec<BackupJob>, Failure> {
        let mut found = Vec::new();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let list = self.jobs_api().list(&page).await.map_err(|error| self.failed("list", "backupjobs", &error))?;
            found.extend(list.items);
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(found),
            }
        }
    }

    /// The BackupRun of that name, if there is one.
    pub(super) async fn find_run(&self, name: &str) -> Result<Option<BackupRun>, Failure> {
        self.runs_api().get_opt(name).await.map_err(|error| self.failed("get", "backupruns", &error))
    }

    /// The BackupRun of that name.
    pub(super) async fn run(&self, name: &str) -> Result<BackupRun, Failure> {
        let namespace = &self.namespace;
        self.find_run(name).await?.ok_or_else(|| {
            Failure::new(
                Reason::BackupNotFound,
                format!(
                    "there is no BackupRun {name:?} in namespace {namespace}: `kubectl backup list -n {namespace}` shows \
                     which are; -n says another namespace"
                ),
            )
        })
    }

    /// Every BackupRun, or those of one BackupJob.
    pub(super) async fn runs(&self, job: Option<&str>) -> Result<Vec<BackupRun>, Failure> {
        let mut found = Vec::new();
        let mut page = ListParams::default().limit(PAGE);
        if let Some(job) = job {
            page = page.fields(&format!("spec.backupJobName={job}"));
        }
        loop {
            let list = self.runs_api().list(&page).await.map_err(|error| self.failed("list", "backupruns", &error))?;
            found.extend(list.items);
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(found),
            }
        }
    }

    /// Creates a run; `None` where the name is taken.
    pub(super) async fn create(&self, run: &BackupRun, dry: DryRun) -> Result<Option<BackupRun>, Failure> {
        let parameters = PostParams { dry_run: dry == DryRun::Server, field_manager: Some(MANAGER.to_owned()) };
        match self.runs_api().create(&parameters, run).await {
            Ok(made) => Ok(Some(made)),
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(None),
            Err(error) => Err(self.failed("create", "backupruns", &error)),
        }
    }

    /// Changes a run by a merge patch.
    pub(super) async fn patch_run(&self, name: &str, patch: &Value, dry: DryRun) -> Result<BackupRun, Failure> {
        let patched = self.runs_api().patch(name, &parameters(dry), &Patch::Merge(patch)).await;
        patched.map_err(|error| self.failed("patch", "backupruns", &error))
    }

    /// Changes a BackupJob by a merge patch.
    pub(super) async fn patch_job(&self, name: &str, patch: &Value, dry: DryRun) -> Result<BackupJob, Failure> {
        let patched = self.jobs_api().patch(name, &parameters(dry), &Patch::Merge(patch)).await;
        patched.map_err(|error| self.failed("patch", "backupjobs", &error))
    }
}

fn parameters(dry: DryRun) -> PatchParams {
    PatchParams { dry_run: dry == DryRun::Server, field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

/// An error of the API server, with the next command.
pub(super) fn failure(verb: &str, what: &str, namespace: &str, error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) if status.code == 401 => Failure::new(
            Reason::Forbidden,
            "the cluster does not know you: log in again, or choose another context (`kubectl config get-contexts`)",
        ),
        kube::Error::Api(status) if status.code == 403 => Failure::new(
            Reason::Forbidden,
            format!(
                "you may not {verb} {what} in namespace {namespace}: {}. `kubectl auth can-i {verb} {what}.{} -n {namespace}` \
                 says so too; the role `edit` has it (`view` to look)",
                status.message,
                crate::api::GROUP
            ),
        ),
        // A name that is not there was told apart before: the kind itself is not there.
        kube::Error::Api(status) if status.code == 404 => Failure::new(
            Reason::ClusterUnavailable,
            format!(
                "this cluster has no {what}, or they have just gone: is the operator installed? `kubectl get crd {what}.{}`; \
                 `ubo install | kubectl apply --server-side -f -` installs it",
                crate::api::GROUP
            ),
        ),
        kube::Error::Api(status) if (400..500).contains(&status.code) => {
            Failure::new(Reason::InvalidSpec, format!("the cluster refuses to {verb} {what}: {}", status.message))
        }
        kube::Error::Api(status) => Failure::new(
            Reason::ClusterUnavailable,
            format!("the cluster cannot {verb} {what} now: {}", status.message),
        ),
        error => {
            let mut causes = error.to_string();
            let mut cause = std::error::Error::source(error);
            while let Some(inner) = cause {
                let text = inner.to_string();
                if !causes.contains(&text) {
                    causes = format!("{causes}: {text}");
                }
                cause = inner.source();
            }
            let message =
                format!("the cluster cannot be reached: {causes}. `kubectl cluster-info` shows where it should be");
            Failure::new(Reason::ClusterUnavailable, message)
        }
    }
}
