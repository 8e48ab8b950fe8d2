//! Whose rights: what a person must be able to do by hand to write a BackupJob, what is the operator's alone, and what the
//! operator itself cannot do.

mod installed;

use anyhow::{Context, Result, bail, ensure};
use installed::{Installed, set, until, with};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};
use ubo::api::names::Namespace;
use ubo::install;

const JOBS: &str = "backupjobs";
const RUNS: &str = "backupruns";
const WRITE_JOBS: (&str, &str, &[&str], &[&str]) =
    ("backup.javy.dev", JOBS, &[], &["create", "update", "patch", "get", "list"]);
const RUN_IN_PODS: [(&str, &str, &[&str], &[&str]); 2] =
    [("", "pods", &[], &["create"]), ("", "pods/exec", &[], &["create"])];

/// Somebody with these rights in a new namespace.
async fn somebody(
    admin: &Installed,
    name: &str,
    rights: &[(&str, &str, &[&str], &[&str])],
) -> Result<(String, Installed)> {
    let namespace = admin.namespace("rights").await?;
    let user = format!("{name}-{namespace}");
    admin.grant(&namespace, &user, rights).await?;
    let person = admin.user(&user).await?;
    person.ready_in(&namespace).await?;
    Ok((namespace, person))
}

/// Somebody with a ClusterRole in a new namespace.
async fn with_role(admin: &Installed, role: &str) -> Result<(String, Installed)> {
    let namespace = admin.namespace("rights").await?;
    let user = format!("{role}-{namespace}");
    admin.bind(&namespace, role, &user).await?;
    let person = admin.user(&user).await?;
    person.ready_in(&namespace).await?;
    Ok((namespace, person))
}

async fn refused(person: &Installed, plural: &str, namespace: &str, object: &Value, said: &str) -> Result<()> {
    match person.create(plural, namespace, object).await? {
        Ok(_) => bail!("admitted in {namespace}: {object}"),
        Err(refusal) => {
            ensure!(refusal.code == 403 && refusal.message.contains(said), "{refusal:?} instead of {said:?}: {object}");
            Ok(())
        }
    }
}

async fn admitted(person: &Installed, plural: &str, namespace: &str, object: &Value) -> Result<()> {
    match person.create(plural, namespace, object).await? {
        Ok(_) => Ok(()),
        Err(refusal) => bail!("{refusal:?}: {object}"),
    }
}

/// The forms in which a BackupJob could make somebody run something.
fn forms() -> Vec<Value> {
    let mut several = with("spec.destination", Value::Null);
    set(
        &mut several,
        "spec.destinations",
        json!([{ "name": "a", "type": "s3", "uri": "s3://bucket", "secretRef": "s3" }]),
    );
    vec![
        with("spec.schedule", json!("@daily")),
        with("spec.strategy", json!({ "type": "copy", "before": { "command": "id" } })),
        with("spec.strategy", json!({ "type": "copy" })),
        with("spec.strategy", json!({ "type": "custom", "image": "x", "command": "y" })),
        several,
    ]
}

#[tokio::test]
async fn backupjobs_alone_are_not_enough() -> Result<()> {
    let admin = Installed::get().await?;
    let (namespace, person) = somebody(&admin, "writer", &[WRITE_JOBS]).await?;
    for job in forms() {
        refused(&person, JOBS, &namespace, &job, "you need create on pods and pods/exec").await?;
    }
    let elsewhere = with("spec.target.namespace", json!("default"));
    refused(&person, JOBS, &namespace, &elsewhere, "you need create on pods and pods/exec").await?;

    // What somebody else wrote he cannot change either, but for what is not the spec.
    let path = format!("/apis/backup.javy.dev/v1/namespaces/{namespace}/{JOBS}");
    ensure!(admin.post(&path, &with("spec.suspend", json!(true))).await?.is_ok(), "the administrator may");
    let path = format!("{path}/postgres-daily-backup");
    let refusal = person.merge(&path, &json!({ "spec": { "strategy": { "command": "id" } } })).await?;
    ensure!(matches!(&refusal, Err(refusal) if refusal.code == 403), "{refusal:?}");
    let labels = person.merge(&path, &json!({ "metadata": { "labels": { "a": "b" } } })).await?;
    ensure!(labels.is_ok(), "{labels:?}");
    admin.remove_namespace(&namespace).await
}

#[tokio::test]
async fn edit_is_admitted_in_its_namespace_and_nowhere_else() -> Result<()> {
    let admin = Installed::get().await?;
    let (namespace, person) = with_role(&admin, "edit").await?;
    for mut job in forms() {
        admitted(&person, JOBS, &namespace, &job).await?;
        set(&mut job, "spec.target.namespace", json!(namespace));
        admitted(&person, JOBS, &namespace, &job).await?;
        set(&mut job, "spec.target.namespace", json!("default"));
        refused(&person, JOBS, &namespace, &job, "you need create on pods and pods/exec in namespace default").await?;
    }
    // `edit` may impersonate every ServiceAccount of the namespace.
    admitted(&person, JOBS, &namespace, &with("spec.serviceAccountName", json!("dba"))).await?;
    let run = json!({ "apiVersion": "backup.javy.dev/v1", "kind": "BackupRun", "metadata": { "name": "now" }, "spec": { "backupJobName": "x" } });
    admitted(&person, RUNS, &namespace, &run).await?;
    refused(&person, RUNS, "default", &run, "cannot create").await?;
    admin.remove_namespace(&namespace).await
}

#[tokio::test]
async fn view_sees_and_writes_nothing() -> Result<()> {
    let admin = Installed::get().await?;
    let (namespace, person) = with_role(&admin, "view").await?;
    refused(&person, JOBS, &namespace, &with("spec.suspend", json!(true)), "cannot create").await?;
    ensure!(!can(&person, "create", "backup.javy.dev", RUNS, None, Some(&namespace)).await?, "view may create runs");
    ensure!(can(&person, "watch", "backup.javy.dev", RUNS, None, Some(&namespace)).await?, "view may not watch runs");
    admin.remove_namespace(&namespace).await
}

#[tokio::test]
async fn every_secret_that_is_named_must_be_readable() -> Result<()> {
    let admin = Installed::get().await?;
    let one: &[&str] = &["mine"];
    let rights = [&[WRITE_JOBS, ("", "secrets", one, &["get"])], &RUN_IN_PODS[..]].concat();
    let (namespace, person) = somebody(&admin, "reader", &rights).await?;
    let place = |secret: &str| json!({ "name": "a", "type": "s3", "uri": "s3://bucket", "secretRef": secret });
    let several = |place: Value| {
        let mut job = with("spec.destination", Value::Null);
        set(&mut job, "spec.destinations", json!([{ "name": "z", "type": "s3", "uri": "s3://bucket" }, place]));
        job
    };
    for secret in ["mine", "theirs"] {
        let base = |path: &str, value: Value| {
            let mut job = with("spec.destination.secretRef", json!("mine"));
            set(&mut job, path, value);
            job
        };
        let jobs = [
            base("spec.destination.secretRef", json!(secret)),
            several(place(secret)),
            several(
                json!({ "name": "a", "type": "s3", "uri": "s3://bucket", "retention": { "keepLast": 1, "secretRef": secret } }),
            ),
            base("spec.retention", json!({ "keepLast": 1, "secretRef": secret })),
            base(
                "spec.encryption",
                json!({ "recipients": ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"], "identitySecretRef": secret }),
            ),
            base(
                "spec.notify",
                json!([{ "name": "a", "type": "Slack", "secretRef": "mine" }, { "name": "b", "type": "Slack", "secretRef": secret }]),
            ),
            base("spec.runner", json!({ "imagePullSecrets": ["mine", "mine", secret] })),
        ];
        for job in jobs {
            if secret == "mine" {
                admitted(&person, JOBS, &namespace, &job).await?;
            } else {
                refused(&person, JOBS, &namespace, &job, "you need get on every Secret that is named").await?;
            }
        }
    }
    let account = with("spec.serviceAccountName", json!("dba"));
    let account = {
        let mut job = account;
        set(&mut job, "spec.destination.secretRef", json!("mine"));
        job
    };
    refused(&person, JOBS, &namespace, &account, "you need impersonate on ServiceAccount dba").await?;

    // As many as the cost of an admission check allows, and no more: each of them is looked at.
    let naming = |places: Vec<Value>, notify: usize, last: &str| {
        let mut job = with("spec.destination", Value::Null);
        set(&mut job, "spec.destinations", places.into());
        let entries = (0..notify).map(|n| json!({ "name": format!("n{n}"), "type": "Slack", "secretRef": if n + 1 == notify { last } else { "mine" } }));
        set(&mut job, "spec.notify", entries.collect::<Vec<_>>().into());
        job
    };
    let eight = || -> Vec<Value> {
        (0..8)
            .map(|n| json!({ "name": format!("d{n}"), "type": "s3", "uri": "s3://bucket", "secretRef": "mine" }))
            .collect()
    };
    let mut twenty = naming(eight(), 8, "mine");
    set(&mut twenty, "spec.runner", json!({ "imagePullSecrets": ["mine", "mine", "mine", "mine"] }));
    admitted(&person, JOBS, &namespace, &twenty).await?;
    set(&mut twenty, "spec.runner", json!({ "imagePullSecrets": ["mine", "mine", "mine", "theirs"] }));
    refused(&person, JOBS, &namespace, &twenty, "you need get on every Secret that is named").await?;
    set(&mut twenty, "spec.runner", json!({ "imagePullSecrets": ["mine", "mine", "mine", "mine", "mine"] }));
    match person.create(JOBS, &namespace, &twenty).await? {
        Err(refusal) => ensure!(refusal.message.contains("at most 20 Secrets"), "{refusal:?}"),
        Ok(_) => bail!("21 Secrets were admitted"),
    }
    refused(&person, JOBS, &namespace, &naming(eight(), 3, "theirs"), "you need get on every Secret").await?;
    admin.remove_namespace(&namespace).await
}

#[tokio::test]
async fn what_is_the_operators_alone() -> Result<()> {
    let admin = Installed::get().await?;
    let operator = admin.operator().await?;
    let namespace = admin.namespace("rights").await?;
    let run = |name: &str| json!({ "apiVersion": "backup.javy.dev/v1", "kind": "BackupRun", "metadata": { "name": name }, "spec": { "backupJobName": "x" } });
    let scheduled = |name: &str| {
        let mut run = run(name);
        set(&mut run, "spec.scheduledAt", json!("2026-11-24T02:00:00Z"));
        run
    };
    for name in ["x-20261124-0200", "x-once"] {
        refused(&admin, RUNS, &namespace, &run(name), "names that end like a tick").await?;
        admitted(&operator, RUNS, &namespace, &run(name)).await?;
    }
    refused(&admin, RUNS, &namespace, &scheduled("x-mabcde"), "scheduledAt is set by the operator").await?;
    admitted(&operator, RUNS, &namespace, &scheduled("x-20261124-0200")).await?;
    for name in ["x-mabcde", "x-20261124", "once", "x-once-more", "x-20261124-02000"] {
        admitted(&admin, RUNS, &namespace, &run(name)).await?;
    }

    // Status, of both kinds, by every way there is.
    let path = |plural: &str, rest: &str| format!("/apis/backup.javy.dev/v1/namespaces/{namespace}/{plural}{rest}");
    ensure!(admin.post(&path(RUNS, ""), &run("now")).await?.is_ok(), "a run");
    ensure!(admin.post(&path(JOBS, ""), &with("spec.suspend", json!(true))).await?.is_ok(), "a job");
    for (kind, plural, name) in [("BackupRun", RUNS, "now"), ("BackupJob", JOBS, "postgres-daily-backup")] {
        let status = path(plural, &format!("/{name}/status"));
        let forged = json!({ "status": { "phase": "Succeeded", "message": "forged" } });
        let merged = admin.merge(&status, &forged).await?;
        ensure!(
            matches!(&merged, Err(refusal) if refusal.message.contains("status is written by the operator")),
            "{merged:?}"
        );
        let apply = json!({ "apiVersion": "backup.javy.dev/v1", "kind": kind, "metadata": { "name": name }, "status": { "phase": "Pending" } });
        let applied = admin.server_side_apply(&format!("{status}?fieldManager=x&force=true"), &apply).await?;
        ensure!(matches!(&applied, Err(refusal) if refusal.code == 403), "{applied:?}");
        // In the object itself a status is ignored, as everywhere.
        let ignored = admin.merge(&path(plural, &format!("/{name}")), &forged).await?;
        ensure!(matches!(&ignored, Ok(object) if object["status"]["message"] != "forged"), "{ignored:?}");
        // The operator that runs beside this test writes them too, hence the force.
        let path = format!("{status}?fieldManager=ubo&force=true");
        let by_operator = operator.server_side_apply(&path, &apply).await?;
        ensure!(matches!(&by_operator, Ok(object) if object["status"]["phase"] == "Pending"), "{by_operator:?}");
    }
    admin.remove_namespace(&namespace).await
}

/// Whether this client may do something.
async fn can(
    who: &Installed,
    verb: &str,
    group: &str,
    resource: &str,
    name: Option<&str>,
    namespace: Option<&str>,
) -> Result<bool> {
    let (resource, subresource) = resource.split_once('/').map_or((resource, None), |(one, two)| (one, Some(two)));
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.into()),
                group: Some(group.into()),
                resource: Some(resource.into()),
                subresource: subresource.map(Into::into),
                name: name.map(Into::into),
                namespace: namespace.map(Into::into),
                ..ResourceAttributes::default()
            }),
            non_resource_attributes: None,
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(who.admin.clone());
    Ok(api.create(&PostParams::default(), &review).await?.status.context("no answer")?.allowed)
}

#[tokio::test]
async fn a_stolen_token_of_the_operator_reaches_this_far() -> Result<()> {
    let admin = Installed::get().await?;
    let operator = admin.operator().await?;
    let namespace = admin.namespace("rights").await?;
    let here = Some(namespace.as_str());
    let forbidden: &[(&str, &str, &str)] = &[
        ("get", "", "secrets"),
        ("list", "", "secrets"),
        ("get", "", "pods"),
        ("list", "", "pods"),
        ("create", "", "pods"),
        ("get", "", "pods/exec"),
        ("create", "", "pods/exec"),
        ("get", "", "pods/log"),
        ("create", "", "pods/attach"),
        ("create", "", "pods/ephemeralcontainers"),
        ("get", "", "configmaps"),
        ("get", "", "persistentvolumeclaims"),
        ("create", "", "serviceaccounts/token"),
        ("impersonate", "", "serviceaccounts"),
        ("impersonate", "", "users"),
        ("get", "apps", "statefulsets"),
        ("create", "rbac.authorization.k8s.io", "rolebindings"),
        ("bind", "rbac.authorization.k8s.io", "clusterroles"),
        ("escalate", "rbac.authorization.k8s.io", "clusterroles"),
        ("create", "backup.javy.dev", "backupjobs"),
        ("update", "backup.javy.dev", "backupjobs"),
        ("patch", "backup.javy.dev", "backupjobs"),
        ("delete", "backup.javy.dev", "backupjobs"),
        ("update", "admissionregistration.k8s.io", "validatingadmissionpolicies"),
        ("delete", "admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
        ("create", "", "nodes/proxy"),
        ("get", "", "nodes/proxy"),
    ];
    for place in [here, Some(install::SYSTEM_NAMESPACE), Some("kube-system"), None] {
        for (verb, group, resource) in forbidden {
            ensure!(
                !can(&operator, verb, group, resource, None, place).await?,
                "{verb} {group}/{resource} in {place:?}"
            );
        }
    }
    let token = "serviceaccounts/token";
    ensure!(!can(&operator, "create", "", token, Some("backup-runner"), here).await?, "tokens before the opt-in");

    admin.apply(&install::opt_in(Some(&Namespace::new(namespace.as_str())?), "backup-runner")?, &[]).await?;
    until("the opt-in", || async {
        Ok(can(&operator, "create", "", token, Some("backup-runner"), here).await?.then_some(()))
    })
    .await?;
    let mint = async |account: &str| {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": { "expirationSeconds": 600 } });
        operator.post(&path, &request).await
    };
    ensure!(mint("backup-runner").await?.is_ok(), "no token of backup-runner");
    ensure!(matches!(mint("default").await?, Err(refusal) if refusal.code == 403), "a token of another account");
    for (verb, group, resource) in forbidden {
        ensure!(
            !can(&operator, verb, group, resource, None, here).await?,
            "after the opt-in: {verb} {group}/{resource}"
        );
    }
    admin.remove_namespace(&namespace).await
}

#[tokio::test]
async fn a_namespaces_own_admin_opts_it_in() -> Result<()> {
    let admin = Installed::get().await?;
    let (namespace, person) = with_role(&admin, "admin").await?;
    let user = format!("admin-{namespace}");
    let opt_in = install::opt_in(Some(&Namespace::new(namespace.as_str())?), "backup-runner")?;
    admin.apply(&opt_in, &["--as", &user]).await?;

    // What the account may do then, and what not.
    let account = admin.user(&format!("system:serviceaccount:{namespace}:backup-runner")).await?;
    let here = Some(namespace.as_str());
    let allowed = [
        ("get", "", "pods"),
        ("list", "", "pods"),
        ("get", "", "pods/exec"),
        ("create", "", "pods/exec"),
        ("get", "apps", "statefulsets"),
        ("get", "", "secrets"),
    ];
    until("the binding", || async { Ok(can(&account, "get", "", "pods", None, here).await?.then_some(())) }).await?;
    for (verb, group, resource) in allowed {
        ensure!(can(&account, verb, group, resource, None, here).await?, "{verb} {group}/{resource}");
        ensure!(
            !can(&account, verb, group, resource, None, Some("default")).await?,
            "{verb} {group}/{resource} elsewhere"
        );
    }
    for (verb, group, resource) in [
        ("list", "", "secrets"),
        ("create", "", "pods"),
        ("delete", "", "pods"),
        ("create", "", "serviceaccounts/token"),
    ] {
        ensure!(!can(&account, verb, group, resource, None, here).await?, "{verb} {group}/{resource}");
    }

    // Another namespace is opened by its own admin, with the narrower role; a role that he does not hold is not his to give.
    let binding = |role: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": role },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "kind": "ServiceAccount", "name": "backup-runner", "namespace": "default" }],
        })
    };
    let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings");
    ensure!(person.post(&path, &binding("backup-target")).await?.is_ok(), "backup-target cannot be bound");
    ensure!(
        matches!(person.post(&path, &binding("cluster-admin")).await?, Err(refusal) if refusal.code == 403),
        "cluster-admin"
    );
    let visitor = admin.user("system:serviceaccount:default:backup-runner").await?;
    until("the binding", || async { Ok(can(&visitor, "get", "", "pods", None, here).await?.then_some(())) }).await?;
    ensure!(can(&visitor, "create", "", "pods/exec", None, here).await?, "no exec from the other namespace");
    ensure!(!can(&visitor, "get", "", "secrets", None, here).await?, "Secrets of the target's namespace");
    admin.remove_namespace(&namespace).await
}
