//! **P** What of an object the controller's memory needs: the rest is let go when it comes in.
//!
//! Ten thousand BackupJobs with their runs are to fit into a small pod. Most of an object as it comes from a watch is who
//! wrote which field (`managedFields`, as a tree of maps), the last text that was applied, and, of a run that is over, what
//! ran and what was stored: all of it is in the cluster, and nothing is decided by it.

use crate::api::backup_job::{BackupJob, BackupJobStatus};
use crate::api::backup_run::BackupRun;
use crate::run::ports::phase_of;
use kube::core::ObjectMeta;

/// kubectl's copy of the whole document (`v1.LastAppliedConfigAnnotation`).
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A BackupJob, without what nothing is decided by.
pub(super) fn job(mut job: BackupJob) -> BackupJob {
    metadata(&mut job.metadata);
    job
}

/// A BackupJob whose status was taken over: of that only the last tick is kept, as it is stored.
pub(super) fn known(mut job: BackupJob) -> BackupJob {
    let last = job.status.take().and_then(|status| status.last_schedule_time);
    job.status = last.map(|last| BackupJobStatus { last_schedule_time: Some(last), ..BackupJobStatus::default() });
    job
}

/// A BackupRun, without what nothing is decided by. One that is not over is what a task begins with: it keeps its status.
pub(super) fn run(mut run: BackupRun) -> BackupRun {
    metadata(&mut run.metadata);
    if phase_of(&run).is_final()
        && let Some(status) = &mut run.status
    {
        status.spec = None;
        status.conditions = Vec::new();
        status.warnings = Vec::new();
        for destination in &mut status.destinations {
            destination.objects = Vec::new();
        }
    }
    run
}

fn metadata(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn metadata() -> Value {
        json!({
            "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7", "finalizers": ["f"],
            "annotations": {LAST_APPLIED: "{}", "backup.javy.dev/accepted": "a-once"},
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
        })
    }

    #[test]
    fn of_a_job_only_who_wrote_it_goes() {
        let whole = json!({
            "apiVersion": "backup.javy.dev/v1", "kind": "BackupJob", "metadata": metadata(),
            "spec": {
                "target": {"kind": "Pod", "name": "p", "path": "/d"},
                "destination": {"type": "s3", "uri": "s3://b/p"},
                "strategy": {"type": "copy"},
            },
            "status": {"observedGeneration": 1, "message": "m"},
        });
        let slim = serde_json::to_value(job(serde_json::from_value(whole.clone()).unwrap())).unwrap();
        let mut wanted = whole;
        let metadata = wanted["metadata"].as_object_mut().unwrap();
        metadata.remove("managedFields");
        metadata["annotations"].as_object_mut().unwrap().remove(LAST_APPLIED);
        assert_eq!(slim["metadata"], wanted["metadata"]);
        assert_eq!(slim["spec"]["target"], wanted["spec"]["target"]);
        assert_eq!(slim["status"]["message"], "m");
    }

    #[test]
    fn a_run_that_is_not_over_keeps_what_its_task_needs() {
        let spec = json!({
            "target": {"kind": "Pod", "name": "p", "path": "/d"},
            "destination": {"type": "s3", "uri": "s3://b/p"},
            "strategy": {"type": "copy"},
        });
        let with_phase = |phase: &str| -> BackupRun {
            let run = json!({
                "apiVersion": "backup.javy.dev/v1", "kind": "BackupRun", "metadata": metadata(),
                "spec": {"backupJobName": "a"},
                "status": {
                    "phase": phase, "message": "m", "shrunk": "by half", "warnings": ["w"], "spec": spec,
                    "attempts": [{"number": 1, "executor": "e"}],
                    "destinations": [{"name": "default", "phase": phase, "foreignOwner": "o",
                        "objects": [{"name": "dump.zst", "size": 1, "digest": "d"}]}],
                },
            });
            serde_json::from_value(run).unwrap()
        };
        let running = run(with_phase("Running"));
        assert_eq!(running.status, with_phase("Running").status);
        assert_eq!(running.metadata.managed_fields, None);
        let over = run(with_phase("Succeeded")).status.unwrap();
        let whole = with_phase("Succeeded").status.unwrap();
        assert!(over.spec.is_none() && over.warnings.is_empty() && over.destinations[0].objects.is_empty());
        assert_eq!((over.message, over.shrunk, over.attempts), (whole.message, whole.shrunk, whole.attempts));
        assert_eq!(over.destinations[0].foreign_owner.as_deref(), Some("o"));
    }
}
