//! **A** BackupRuns and BackupJobs in the Kubernetes API.
//!
//! Status is written by server-side apply, one field manager per writer, with the object's UID: an apply to another
//! object of the same name is refused by the API server instead of marking the wrong backup. It carries the
//! resourceVersion of the object that was seen as well, so that of two processes that believe they have a run one is
//! told, and that no late write takes back what is remembered of a BackupJob's ticks. Metadata (owner, labels, finalizer)
//! is patched under a resourceVersion, so that nobody else's finalizer is lost.

use crate::api::backup_job::BackupJob;
use crate::api::backup_run::{BackupRun, BackupRunSpec, BackupRunStatus};
use crate::api::names::{JobRef, Namespace, Uid};
use crate::api::time::to_time;
use crate::api::{
    ANNOTATION_SINCE, FINALIZER_RUN, GROUP, LABEL_JOB, LABEL_RUN_UID, written_job_status, written_run_status,
};
use crate::controller::world::{keep_newer, whose};
use crate::error::{Failure, Reason};
use crate::run::ports::{Claim, Claimed, Records, RunKey, RunWritten, StatusWrite, Written};
use async_trait::async_trait;
use chrono::SecondsFormat;
use k8s_openapi::api::core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use kube::{Api, Client, Resource};
use serde_json::{Value, json};
use std::sync::Arc;

/// Field manager of BackupRun status.
const RUN_MANAGER: &str = "ubo-runner";
/// Field manager of BackupJob status, claims and finalizers.
const SCHEDULER: &str = "ubo-scheduler";
/// How often a patch under a resourceVersion is tried when somebody else was quicker.
const CONFLICT_TRIES: usize = 5;

/// The records in the cluster.
#[derive(Clone)]
pub struct ClusterRecords {
    client: Client,
}

impl ClusterRecords {
    /// With the operator's own client.
    pub const fn new(client: Client) -> Self {
        Self { client }
    }

    fn runs(&self, namespace: &str) -> Api<BackupRun> {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn jobs(&self, namespace: &str) -> Api<BackupJob> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Writes a BackupJob's whole status, under the resourceVersion of the object that it was derived from. Where the
    /// object has changed since, the newer memory of ticks stays: a leader that was paused, and whose write arrives when
    /// another one leads, must not make a tick unhandled again.
    pub async fn write_job(&self, job: &JobRef, write: &StatusWrite) -> Result<Written, Failure> {
        let api = self.jobs(job.namespace.as_str());
        let (mut version, mut status) = (write.version.clone(), write.status.clone());
        for _ in 0..CONFLICT_TRIES {
            let (namespace, name) = (job.namespace.as_str(), job.name.as_str());
            let mut body = apply_status::<BackupJob>(namespace, name, &write.uid, &written_job_status(&status));
            body["metadata"]["resourceVersion"] = json!(version);
            match api.patch_status(job.name.as_str(), &force(SCHEDULER), &Patch::Apply(&body)).await {
                Ok(_) => return Ok(Written::Yes),
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Written::Gone),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(failure("writing the status", &error)),
            }
            match api.get_opt(job.name.as_str()).await.map_err(|error| failure("reading it again", &error))? {
                Some(now) if now.metadata.uid.as_deref() == Some(write.uid.as_str()) => {
                    keep_newer(&mut status, &now.status.unwrap_or_default());
                    version = now.metadata.resource_version.unwrap_or_default();
                }
                _ => return Ok(Written::Gone),
            }
        }
        Err(Failure::new(
            Reason::ClusterUnavailable,
            format!("BackupJob {job} is written to by somebody else all the time"),
        ))
    }

    /// Patches a run's metadata under its resourceVersion; `change` gives the patch, or `None` if there is nothing to do.
    /// Gives the object as it is then, or `None` if it is gone.
    async fn patch_metadata(
        &self,
        run: &BackupRun,
        change: impl Fn(&BackupRun) -> Option<Value> + Send + Sync,
    ) -> Result<Option<BackupRun>, Failure> {
        let api = self.runs(run.metadata.namespace.as_deref().unwrap_or_default());
        let name = run.metadata.name.as_deref().unwrap_or_default();
        let mut current = run.clone();
        for _ in 0..CONFLICT_TRIES {
            let Some(mut patch) = change(&current) else { return Ok(Some(current)) };
            patch["metadata"]["resourceVersion"] = json!(current.metadata.resource_version);
            let params = PatchParams { field_manager: Some(SCHEDULER.into()), ..PatchParams::default() };
            match api.patch(name, &params, &Patch::Merge(&patch)).await {
                Ok(patched) => return Ok(Some(patched)),
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(failure("BackupRun metadata", &error)),
            }
            match api.get_opt(name).await.map_err(|error| failure("BackupRun", &error))? {
                Some(now) if now.metadata.uid == run.metadata.uid => current = now,
                _ => return Ok(None),
            }
        }
        Err(Failure::new(
            Reason::ClusterUnavailable,
            format!("BackupRun {name} is written to by somebody else all the time"),
        ))
    }
}

#[async_trait]
impl Records for ClusterRecords {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, Failure> {
        let api = self.runs(claim.job.namespace.as_str());
        let mut run = BackupRun::new(
            claim.run.as_str(),
            BackupRunSpec {
                backup_job_name: claim.job.name.to_string(),
                scheduled_at: Some(to_time(claim.tick)),
                cancel: None,
            },
        );
        run.metadata = ObjectMeta {
            name: Some(claim.run.to_string()),
            namespace: Some(claim.job.namespace.to_string()),
            labels: Some([(LABEL_JOB.to_owned(), claim.job.name.to_string())].into()),
            annotations: claim
                .since
                .map(|since| [(ANNOTATION_SINCE.to_owned(), since.to_rfc3339_opts(SecondsFormat::Secs, true))].into()),
            finalizers: Some(vec![FINALIZER_RUN.to_owned()]),
            owner_references: Some(vec![owner(claim.job.name.as_str(), claim.job_uid.as_str())]),
            ..ObjectMeta::default()
        };
        let params = PostParams { field_manager: Some(SCHEDULER.into()), ..PostParams::default() };
        match api.create(&params, &run).await {
            Ok(_) => return Ok(Claimed::Created),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            // The namespace is gone, or is going (its own message says so): nothing can be created in it any more.
            Err(kube::Error::Api(status))
                if status.code == 404 || status.is_forbidden() && status.message.contains("terminat") =>
            {
                return Ok(Claimed::Gone);
            }
            Err(error) => return Err(failure("creating the BackupRun", &error)),
        }
        let there = api.get_opt(claim.run.as_str()).await.map_err(|error| failure("BackupRun", &error))?;
        let Some(there) = there else {
            return Err(Failure::new(Reason::ClusterUnavailable, format!("BackupRun {} came and went", claim.run)));
        };
        Ok(whose(&there, claim))
    }

    async fn adopt(&self, run: &BackupRun, job: &BackupJob) -> Result<Option<BackupRun>, Failure> {
        let (job_name, job_uid) =
            (job.metadata.name.clone().unwrap_or_default(), job.metadata.uid.clone().unwrap_or_default());
        self.patch_metadata(run, move |now| {
            if now.metadata.deletion_timestamp.is_some() {
                return None; // no finalizer may be added any more
            }
            let mut finalizers = now.metadata.finalizers.clone().unwrap_or_default();
            let mut owners = now.metadata.owner_references.clone().unwrap_or_default();
            let uid = now.metadata.uid.clone().unwrap_or_default();
            let labels = now.metadata.labels.as_ref();
            let labelled =
                labels.is_some_and(|all| all.get(LABEL_JOB) == Some(&job_name) && all.get(LABEL_RUN_UID) == Some(&uid));
            let held = finalizers.iter().any(|finalizer| finalizer == FINALIZER_RUN);
            let owned = owners.iter().any(|owner| owner.uid == job_uid);
            if held && owned && labelled {
                return None;
            }
            if !held {
                finalizers.push(FINALIZER_RUN.to_owned());
            }
            if !owned {
                owners.push(owner(&job_name, &job_uid));
            }
            Some(json!({"metadata": {
                "finalizers": finalizers,
                "ownerReferences": owners,
                "labels": {LABEL_JOB: job_name, LABEL_RUN_UID: uid},
            }}))
        })
        .await
    }

    async fn is_going(&self, namespace: &Namespace) -> Result<bool, Failure> {
        let api: Api<core::v1::Namespace> = Api::all(self.client.clone());
        let found = api.get_metadata_opt(namespace.as_str()).await.map_err(|error| failure("Namespace", &error))?;
        Ok(found.is_none_or(|found| found.metadata.deletion_timestamp.is_some()))
    }

    async fn release(&self, run: &BackupRun) -> Result<Written, Failure> {
        let patched = self.patch_metadata(run, |now| {
            let finalizers = now.metadata.finalizers.as_ref()?;
            let rest: Vec<_> = finalizers.iter().filter(|finalizer| *finalizer != FINALIZER_RUN).collect();
            (rest.len() < finalizers.len()).then(|| json!({"metadata": {"finalizers": rest}}))
        });
        Ok(if patched.await?.is_some() { Written::Yes } else { Written::Gone })
    }

    async fn delete(&self, run: &RunKey) -> Result<(), Failure> {
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(run.uid.to_string()), resource_version: None }),
            ..DeleteParams::background()
        };
        match self.runs(run.namespace.as_str()).delete(run.name.as_str(), &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            Err(error) => Err(failure("deleting the BackupRun", &error)),
        }
    }

    async fn write_run(&self, run: &RunKey, version: &str, status: &BackupRunStatus) -> Result<RunWritten, Failure> {
        let (namespace, name) = (run.namespace.as_str(), run.name.as_str());
        let mut body = apply_status::<BackupRun>(namespace, name, &run.uid, &written_run_status(status));
        body["metadata"]["resourceVersion"] = json!(version);
        let api = self.runs(run.namespace.as_str());
        match api.patch_status(run.name.as_str(), &force(RUN_MANAGER), &Patch::Apply(&body)).await {
            Ok(now) => Ok(RunWritten::Yes(now.metadata.resource_version.unwrap_or_default())),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(RunWritten::Gone),
            Err(kube::Error::Api(status)) if is_invalid(&status) => Ok(RunWritten::Refused(status.message)),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let now = api.get_opt(run.name.as_str()).await.map_err(|error| failure("reading it again", &error))?;
                let ours = now.filter(|now| now.metadata.uid.as_deref() == Some(run.uid.as_str()));
                Ok(ours.map_or(RunWritten::Gone, |now| RunWritten::Conflict(Box::new(now))))
            }
            Err(error) => Err(failure("writing the status", &error)),
        }
    }

    async fn job(&self, job: &JobRef) -> Result<Option<Arc<BackupJob>>, Failure> {
        let found = self.jobs(job.namespace.as_str()).get_opt(job.name.as_str()).await;
        Ok(found.map_err(|error| failure("BackupJob", &error))?.map(Arc::new))
    }
}

fn owner(name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: format!("{GROUP}/v1"),
        kind: "BackupJob".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn force(manager: &str) -> PatchParams {
    PatchParams { field_manager: Some(manager.to_owned()), force: true, ..PatchParams::default() }
}

fn apply_status<K: Resource<DynamicType = ()>>(namespace: &str, name: &str, uid: &Uid, status: &Value) -> Value {
    json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"namespace": namespace, "name": name, "uid": uid.as_str()},
        "status": status,
    })
}

/// Whether admission (a policy of the cluster, a webhook) has refused something, which may let it through tomorrow. The code is
/// whatever the policy says; the words are the API server's. What the schema refuses may quote them, after words of its own.
fn is_denied(status: &Status) -> bool {
    let said = status.message.split(" is invalid: ").next().unwrap_or_default();
    said.contains("denied request") || said.contains("denied the request")
}

/// Whether a namespace has as many objects as it may have. The words are the API server's, and the code is that of a right that
/// is missing.
fn is_over_quota(status: &Status) -> bool {
    status.code == 403 && status.message.contains("exceeded quota: ")
}

/// Whether an object will never be taken as it is: the schema does not allow it, or does not know a field (as of a
/// `CustomResourceDefinition` that is older than the operator), or it is too large.
fn is_invalid(status: &Status) -> bool {
    let unknown_field = status.code == 500 && status.message.contains("field not declared in schema");
    (matches!(status.code, 400 | 413 | 422) || unknown_field) && !is_denied(status)
}

/// An error of the operator's own calls. Its rights are `ubo install`'s business, so a refusal says that.
fn failure(what: &str, error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) if is_denied(status) => Failure::new(
            Reason::ClusterUnavailable,
            format!(
                "{what}: a policy or webhook of the cluster does not let it through, and it is tried again until it does; see \
                 what it wants ({})",
                status.message
            ),
        ),
        kube::Error::Api(status) if is_over_quota(status) => Failure::new(
            Reason::ClusterUnavailable,
            format!(
                "{what}: a ResourceQuota of the namespace is full, and it is tried again until there is room; raise it, delete \
                 BackupRuns that are over, or keep fewer of them (spec.successfulRunsHistoryLimit, spec.failedRunsHistoryLimit; \
                 {})",
                status.message
            ),
        ),
        kube::Error::Api(status) if status.code == 403 => Failure::new(
            Reason::Forbidden,
            format!(
                "{what}: the operator's own rights are not what `ubo install` prints; apply it again ({})",
                status.message
            ),
        ),
        kube::Error::Api(status) if status.code == 400 || status.code == 422 => {
            Failure::new(Reason::Internal, format!("{what}: the API server finds it invalid: {}", status.message))
        }
        kube::Error::Api(status) => Failure::new(Reason::ClusterUnavailable, format!("{what}: {}", status.message)),
        other => Failure::new(Reason::ClusterUnavailable, format!("{what}: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::backup_run::DestinationStatus;
    use crate::api::names::RunName;
    use crate::run::Phase;
    use chrono::DateTime;
    use kube::client::Body;
    use std::sync::Mutex;

    /// An API server that answers everything with this code and message, and what was sent to it.
    fn answering(code: u16, message: &'static str) -> (ClusterRecords, Arc<Mutex<Vec<Value>>>) {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&sent);
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let taken = Arc::clone(&taken);
            async move {
                let body = request.into_body().collect_bytes().await?;
                taken.lock().expect("sound").push(serde_json::from_slice(&body).unwrap_or_default());
                let said = json!({
                    "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": code,
                    "reason": "Said", "message": message,
                });
                let answer = http::Response::builder().status(code).body(Body::from(said.to_string().into_bytes()));
                Ok::<_, kube::Error>(answer.expect("a response"))
            }
        });
        (ClusterRecords::new(Client::new(service, "default")), sent)
    }

    #[tokio::test]
    async fn what_is_invalid_is_told_from_what_may_pass() {
        let key = RunKey {
            namespace: Namespace::new("default").expect("good"),
            name: RunName::new("pg-m1").expect("good"),
            uid: Uid::new("22222222-0001").expect("good"),
        };
        let strange = DestinationStatus {
            name: "default".into(),
            phase: Phase::Succeeded,
            reason: None,
            folder: None,
            foreign_owner: Some("a".repeat(1000)),
            objects: Vec::new(),
        };
        let status = BackupRunStatus { destinations: vec![strange], ..BackupRunStatus::default() };
        let policy = "ValidatingAdmissionPolicy 'x' with binding 'y' denied request: what it wants is invalid: a";
        let webhook = "admission webhook \"x\" denied the request: no";
        let quoting = "BackupRun \"pg\" is invalid: status.message: Invalid value: \"a webhook denied the request\"";
        let unknown = "failed to create typed patch object: .status.attempts[0].left: field not declared in schema";
        for (code, said, word) in [
            (400, "said", "refused"),
            (403, "said", "later"),
            (404, "said", "gone"),
            (413, "said", "refused"),
            (422, "said", "refused"),
            (500, "said", "later"),
            (400, webhook, "later"),
            (403, webhook, "later"),
            (413, policy, "later"),
            (422, policy, "later"),
            (422, quoting, "refused"),
            (500, unknown, "refused"),
        ] {
            let (records, sent) = answering(code, said);
            let found = match records.write_run(&key, "7", &status).await {
                Ok(RunWritten::Refused(why)) if why == said => "refused",
                Ok(RunWritten::Gone) => "gone",
                Err(failure) if failure.message.contains(said) => {
                    let denied = failure.message.contains("policy or webhook");
                    assert_eq!(denied, said.contains("denied"), "{code} {failure}");
                    "later"
                }
                other => panic!("{code} {said}: {other:?}"),
            };
            assert_eq!(found, word, "{code} {said}");
            let sent = sent.lock().expect("sound");
            assert_eq!(sent[0]["metadata"]["resourceVersion"], "7");
            assert_eq!(sent[0]["status"]["destinations"][0]["foreignOwner"], "a".repeat(256), "cut to the schema");
        }
    }

    fn claim() -> Claim {
        let since = DateTime::from_timestamp(1_800_000_000, 7).expect("in range");
        Claim {
            job: JobRef::new("default", "pg").expect("good"),
            job_uid: Uid::new("11111111-0001").expect("good"),
            run: RunName::new("pg-20270115-0900").expect("good"),
            tick: since,
            start: since,
            since: Some(since),
        }
    }

    #[tokio::test]
    async fn a_quota_that_is_full_is_told_from_a_right_that_is_missing() {
        let full = "backupruns.backup.javy.dev \"pg-20270115-0900\" is forbidden: exceeded quota: few, requested: \
                    count/backupruns.backup.javy.dev=1, used: count/backupruns.backup.javy.dev=5, limited: \
                    count/backupruns.backup.javy.dev=5";
        let missing = "backupruns.backup.javy.dev is forbidden: User \"ubo\" cannot create resource \"backupruns\"";
        for (said, reason, words) in
            [(full, Reason::ClusterUnavailable, "ResourceQuota"), (missing, Reason::Forbidden, "`ubo install`")]
        {
            let failure = answering(403, said).0.claim(&claim()).await.expect_err(said);
            assert_eq!(failure.reason, reason, "{failure}");
            assert!(failure.message.contains(words) && failure.message.contains(said), "{failure}");
        }
    }

    #[tokio::test]
    async fn a_claim_says_since_when_ticks_count() {
        let (records, sent) = answering(500, "said");
        assert!(records.claim(&claim()).await.is_err());
        let sent = sent.lock().expect("sound");
        assert_eq!(sent[0]["metadata"]["annotations"], json!({ANNOTATION_SINCE: "2027-01-15T08:00:00Z"}));
    }
}
