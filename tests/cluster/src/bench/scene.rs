//! **P** What the benchmarks put into their namespaces.

use rig::S3;
use serde_json::{Value, json};

/// The Secret `s3`, with what a BackupJob needs to write to the cluster's own server.
pub fn secret(s3: &S3) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": {
        "AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_ENDPOINT_URL": s3.endpoint, "AWS_REGION": "us-east-1",
    }})
}

/// The pod `box`, whose one container waits; each volume is mounted at `/<its name>`.
pub fn pod(image: &str, volumes: &[Value]) -> Value {
    let mount = |volume: &Value| {
        let name = volume["name"].as_str().unwrap_or_default();
        json!({"name": name, "mountPath": format!("/{name}")})
    };
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "box"},
        "spec": {
            "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
            "containers": [{
                "name": "main", "image": image, "imagePullPolicy": "Never",
                "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"],
                "volumeMounts": volumes.iter().map(mount).collect::<Vec<_>>(),
            }],
            "volumes": volumes,
        },
    })
}

/// A BackupJob of that pod, into `folder` of the bucket.
pub fn job(s3: &S3, folder: &str, name: &str, path: Option<&str>, strategy: &Value, schedule: &str) -> Value {
    let mut job = json!({
        "apiVersion": "backup.javy.dev/v1", "kind": "BackupJob", "metadata": {"name": name},
        "spec": {
            "target": {"kind": "Pod", "name": "box"},
            "destination": {"type": "s3", "uri": format!("s3://{}/{folder}", s3.bucket), "secretRef": "s3"},
            "strategy": strategy,
            "schedule": schedule,
            "retry": {"limit": 0},
        },
    });
    if let Some(path) = path {
        job["spec"]["target"]["path"] = json!(path);
    }
    job
}

/// Several objects as one document.
pub fn list(items: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}
