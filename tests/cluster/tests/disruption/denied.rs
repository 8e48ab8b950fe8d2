//! A network that the Deployment's arguments deny (`--deny-destination-cidr`): no backup goes there, and when they are as
//! before the same BackupJobs do.

use crate::scene::{Scene, edit};
use anyhow::{Context, Result, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::json;
use ubo::api::backup_job::BackupJob;
use ubo::api::backup_run::BackupRunStatus;
use ubo::run::Phase;

const FLAG: &str = "--deny-destination-cidr";
/// Says where the server is by its address, which is looked at before anything runs.
const BY_ADDRESS: &str = "by-address";
/// By its name, which is resolved when a connection is made.
const BY_NAME: &str = "by-name";

/// The S3 server at an address where no other backup of these tests goes, a Service's, and two BackupJobs that go there.
pub(crate) struct Store {
    address: String,
}

impl Store {
    /// Nothing is denied yet, and both are Ready.
    pub(crate) async fn open(scene: &Scene) -> Result<Self> {
        let server = scene.installed.cluster.s3.address();
        let (node, port) = server.rsplit_once(':').context("a port")?;
        let port: u16 = port.parse()?;
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "store"},
            "spec": {"ports": [{"port": port}]}});
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "store", "labels": {"kubernetes.io/service-name": "store"}},
            "addressType": "IPv4", "ports": [{"port": port}], "endpoints": [{"addresses": [node]}]});
        scene.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [service, slice]})).await?;
        let address = scene.kubectl(&["get", "service", "store", "-o", "jsonpath={.spec.clusterIP}"]).await?;
        let name = format!("store.{}.svc", scene.namespace);
        for (job, host) in [(BY_ADDRESS, &address), (BY_NAME, &name)] {
            let job = scene.job(job, "echo run >> /tmp/denied; echo data", |job| {
                edit(job, "spec.schedule", json!("@yearly"));
                edit(job, "spec.destination.options", json!({"endpoint": format!("http://{host}:{port}")}));
            });
            scene.apply(&job).await?;
        }
        for job in [BY_ADDRESS, BY_NAME] {
            scene.job_until(job, "to be Ready", is_ready).await?;
        }
        Ok(Self { address })
    }

    /// What denies it.
    pub(crate) fn denied(&self) -> [String; 2] {
        [FLAG.to_owned(), format!("{}/32", self.address)]
    }

    /// An operator with that argument says so of the address without being asked, and of both when they run. In the pod it
    /// begins nothing.
    pub(crate) async fn is_denied(&self, scene: &Scene) -> Result<()> {
        let refused = |job: &BackupJob| ready(job).is_some_and(|ready| ready.status == "False");
        let job = scene.job_until(BY_ADDRESS, "to be not Ready any more", refused).await?;
        let condition = ready(&job).context("a condition")?;
        ensure!(condition.reason == "DestinationForbidden", "{condition:?}");
        self.is_named_in(&condition.message)?;
        for status in run_both(scene).await? {
            ensure!(status.phase == Phase::Failed && status.attempts.len() == 1, "{status:?}");
            ensure!(status.reason.as_deref() == Some("DestinationForbidden"), "{status:?}");
            self.is_named_in(status.message.as_deref().unwrap_or_default())?;
        }
        scene.exec("box", "test ! -e /tmp/denied").await.context("a command was begun for a backup that is denied")?;
        let objects = scene.objects().await?;
        ensure!(!objects.iter().any(|key| key.contains("/by-")), "it was connected to: {objects:?}");
        Ok(())
    }

    /// A message says what keeps it from which address.
    fn is_named_in(&self, message: &str) -> Result<()> {
        ensure!(
            message.contains(FLAG) && message.contains(&self.address),
            "{message:?} lacks {FLAG} or {}",
            self.address
        );
        Ok(())
    }

    /// An operator without it backs up there.
    pub(crate) async fn is_reached(&self, scene: &Scene) -> Result<()> {
        scene.job_until(BY_ADDRESS, "to be Ready again", is_ready).await?;
        for status in run_both(scene).await? {
            ensure!(status.phase == Phase::Succeeded, "{status:?}");
            ensure!(scene.decompressed(&status).await? == b"data\n", "{status:?}");
        }
        Ok(())
    }
}

/// Both BackupJobs run once more, side by side.
async fn run_both(scene: &Scene) -> Result<Vec<BackupRunStatus>> {
    let runs = [BY_ADDRESS, BY_NAME].map(|job| async move {
        let run = scene.start(job).await?;
        scene.ended(&run).await
    });
    futures::future::try_join_all(runs).await
}

fn ready(job: &BackupJob) -> Option<&Condition> {
    job.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == "Ready")
}

fn is_ready(job: &BackupJob) -> bool {
    ready(job).is_some_and(|ready| ready.status == "True")
}
