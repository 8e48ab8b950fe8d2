//! What is installed: the committed output, the rights in it, and that every example holds.

use clap::Parser;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use ubo::api::backup_job::BackupJob;
use ubo::api::backup_run::BackupRun;
use ubo::api::names::Namespace;
use ubo::args::{Args, Command};
use ubo::install;
use ubo::validate::validate;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("manifests")
}

fn committed(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn printed() -> String {
    install::manifests(install::DEFAULT_IMAGE).expect("our own manifests")
}

fn objects() -> Vec<Value> {
    install::documents(&printed()).expect("YAML")
}

fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.next().unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn words(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Every right of a role as `verb group/resource`, with the names it is bound to.
fn rights(role: &Value) -> BTreeSet<String> {
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().expect("rules") {
        let names: Vec<_> = words(&rule["resourceNames"]).collect();
        let names = if names.is_empty() { String::new() } else { format!(" {}", names.join(",")) };
        for group in words(&rule["apiGroups"]) {
            for resource in words(&rule["resources"]) {
                for verb in words(&rule["verbs"]) {
                    rights.insert(format!("{verb} {group}/{resource}{names}"));
                }
            }
        }
        assert!(rule["nonResourceURLs"].is_null(), "{rule}");
    }
    rights
}

fn set(rights: &[&str]) -> BTreeSet<String> {
    rights.iter().map(ToString::to_string).collect()
}

#[test]
fn the_committed_manifests_are_what_is_printed() {
    assert!(
        committed("install.yaml") == printed(),
        "manifests/install.yaml differs from the output of `ubo install`; write it anew: cargo run -- install > manifests/install.yaml"
    );
    let opt_in = install::opt_in(None, "backup-runner").expect("our own manifests");
    assert!(committed("namespace.yaml") == opt_in, "manifests/namespace.yaml differs from src/install/namespace.yaml");
}

#[test]
fn the_definitions_survive_being_printed() {
    let objects = objects();
    for definition in ubo::api::definitions().expect("our own schema") {
        let name = definition.metadata.name.clone().expect("a name");
        let back: k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition =
            serde_json::from_value(named(&objects, "CustomResourceDefinition", &name).clone()).expect("a definition");
        assert_eq!(back, definition);
    }
    assert!(printed().lines().all(|line| line.len() < 220), "a line that nobody reads");
}

#[test]
fn the_order_is_one_in_which_it_can_be_applied() {
    let order: Vec<_> = objects()
        .iter()
        .map(|object| {
            let text = |value: &Value| value.as_str().expect("a word").to_owned();
            format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
        })
        .collect();
    assert_eq!(
        order,
        [
            "Namespace backup-system",
            "ServiceAccount operator",
            "ClusterRole ubo-operator",
            "ClusterRoleBinding ubo-operator",
            "Role ubo-operator",
            "RoleBinding ubo-operator",
            "CustomResourceDefinition backupjobs.backup.javy.dev",
            "CustomResourceDefinition backupruns.backup.javy.dev",
            "ClusterRole backup-runner",
            "ClusterRole backup-target",
            "ClusterRole ubo-tenant-admin",
            "ClusterRole ubo-view",
            "ClusterRole ubo-edit",
            "ValidatingAdmissionPolicy backupjobs-act-as-requester",
            "ValidatingAdmissionPolicyBinding backupjobs-act-as-requester",
            "ValidatingAdmissionPolicy backupruns-claims",
            "ValidatingAdmissionPolicyBinding backupruns-claims",
            "Service ubo-metrics",
            "PodDisruptionBudget operator",
            "Deployment operator",
        ]
    );
}

#[test]
fn the_operator_may_do_this_and_nothing_else() {
    let policies = "backupjobs-act-as-requester,backupruns-claims";
    let policy = |verb: &str, what: &str| format!("{verb} admissionregistration.k8s.io/{what} {policies}");
    let mut allowed = set(&[
        "get backup.javy.dev/backupjobs",
        "list backup.javy.dev/backupjobs",
        "watch backup.javy.dev/backupjobs",
        "patch backup.javy.dev/backupjobs/status",
        "update backup.javy.dev/backupjobs/finalizers",
        "get backup.javy.dev/backupruns",
        "list backup.javy.dev/backupruns",
        "watch backup.javy.dev/backupruns",
        "create backup.javy.dev/backupruns",
        "update backup.javy.dev/backupruns",
        "patch backup.javy.dev/backupruns",
        "delete backup.javy.dev/backupruns",
        "patch backup.javy.dev/backupruns/status",
        "update backup.javy.dev/backupruns/finalizers",
        "create events.k8s.io/events",
        "patch events.k8s.io/events",
        "get /namespaces",
        "list /namespaces",
        "watch /namespaces",
    ]);
    for verb in ["get", "list", "watch"] {
        allowed.insert(policy(verb, "validatingadmissionpolicies"));
        allowed.insert(policy(verb, "validatingadmissionpolicybindings"));
    }
    let objects = objects();
    assert_eq!(rights(named(&objects, "ClusterRole", "ubo-operator")), allowed);

    // In its own namespace: Leases, and nothing that holds a secret.
    let own = named(&objects, "Role", "ubo-operator");
    assert_eq!(own["metadata"]["namespace"], install::SYSTEM_NAMESPACE);
    let leases = ["get", "list", "create", "update", "delete"].map(|verb| format!("{verb} coordination.k8s.io/leases"));
    assert_eq!(rights(own), leases.into());

    // Nothing else is bound to it, here or in a namespace that opts in, but the tokens of one account.
    let tenant = install::documents(&install::opt_in(None, "backup-runner").expect("ours")).expect("YAML");
    let mut bound = Vec::new();
    for object in objects.iter().chain(&tenant) {
        let subjects = object["subjects"].as_array().cloned().unwrap_or_default();
        if subjects.iter().any(|subject| subject["name"] == "operator") {
            bound.push(object["roleRef"]["name"].as_str().expect("a name").to_owned());
        }
    }
    assert_eq!(bound, ["ubo-operator", "ubo-operator", "backup-runner-token"]);
    assert_eq!(
        rights(named(&tenant, "Role", "backup-runner-token")),
        set(&["create /serviceaccounts/token backup-runner"])
    );
}

#[test]
fn the_roles_of_tenants_and_people() {
    let objects = objects();
    let role = |name: &str| rights(named(&objects, "ClusterRole", name));
    let mut target = set(&["get /pods", "list /pods", "get /pods/exec", "create /pods/exec"]);
    for workload in ["daemonsets", "deployments", "replicasets", "statefulsets"] {
        target.extend([format!("get apps/{workload}"), format!("list apps/{workload}")]);
    }
    assert_eq!(role("backup-target"), target, "no Secrets in another namespace");
    let mut runner = target;
    runner.insert("get /secrets".into());
    assert_eq!(role("backup-runner"), runner);
    assert_eq!(
        role("ubo-tenant-admin"),
        set(&["bind rbac.authorization.k8s.io/clusterroles backup-runner,backup-target"])
    );
    for right in role("ubo-view") {
        assert!(["get ", "list ", "watch "].iter().any(|verb| right.starts_with(verb)), "{right}");
    }
    let edit = role("ubo-edit");
    assert!(edit.iter().all(|right| right.contains(" backup.javy.dev/") && !right.contains("status")), "{edit:?}");
    let aggregated = |name: &str, into: &str| {
        named(&objects, "ClusterRole", name)["metadata"]["labels"]
            [format!("rbac.authorization.k8s.io/aggregate-to-{into}")]
            == "true"
    };
    assert!(aggregated("ubo-view", "view") && aggregated("ubo-edit", "edit") && aggregated("ubo-edit", "admin"));
    assert!(aggregated("ubo-tenant-admin", "admin"));
    assert!(!aggregated("ubo-edit", "view") && !aggregated("ubo-tenant-admin", "edit"));
    assert!(!aggregated("backup-runner", "view") && !aggregated("backup-target", "view"));
}

#[test]
fn no_wildcard_in_any_role() {
    for object in objects() {
        for rule in object["rules"].as_array().into_iter().flatten() {
            for field in ["apiGroups", "resources", "verbs", "resourceNames"] {
                assert!(words(&rule[field]).all(|word| !word.contains('*')), "{rule}");
            }
            let verbs: Vec<_> = words(&rule["verbs"]).collect();
            assert!(!verbs.contains(&"escalate") && !verbs.contains(&"impersonate"), "{rule}");
        }
    }
}

#[test]
fn every_field_that_names_a_secret_stands_in_the_policy() {
    let objects = objects();
    let policy = named(&objects, "ValidatingAdmissionPolicy", "backupjobs-act-as-requester");
    let variables = policy["spec"]["variables"].as_array().expect("variables");
    let secrets = variables.iter().find(|variable| variable["name"] == "secrets").expect("secrets");
    let expression = secrets["expression"].as_str().expect("an expression");

    let [definition, _] = ubo::api::definitions().expect("our own schema");
    let schema = serde_json::to_value(&definition.spec.versions[0].schema).expect("JSON");
    let mut paths = Vec::new();
    fields(&schema["openAPIV3Schema"]["properties"]["spec"], &mut Vec::new(), &mut paths);
    let naming: Vec<_> =
        paths.iter().filter(|path| path.last().is_some_and(|name| name.to_lowercase().contains("secret"))).collect();
    assert!(naming.len() >= 7, "{naming:?}");
    for path in naming {
        // `destinations` are gone through as `d`, `notify` as `n`.
        let element = match path[0].as_str() {
            "destinations" => ["d".to_owned(), path[1..].join(".")].join("."),
            "notify" => ["n".to_owned(), path[1..].join(".")].join("."),
            _ => format!("object.spec.{}", path.join(".")),
        };
        assert!(expression.contains(&element), "{} is not asked for: {element}", path.join("."));
    }
    let user = install::OPERATOR_USER;
    assert!(named(&objects, "ValidatingAdmissionPolicy", "backupruns-claims").to_string().contains(user));
    assert_eq!(user, format!("system:serviceaccount:{}:operator", install::SYSTEM_NAMESPACE));
}

fn fields(schema: &Value, path: &mut Vec<String>, all: &mut Vec<Vec<String>>) {
    let inner = if schema["items"].is_object() { &schema["items"] } else { schema };
    for (name, field) in inner["properties"].as_object().into_iter().flatten() {
        path.push(name.clone());
        all.push(path.clone());
        fields(field, path, all);
        path.pop();
    }
}

#[test]
fn the_operator_runs_under_the_restricted_level() {
    let objects = objects();
    let deployment = named(&objects, "Deployment", "operator");
    assert_eq!(deployment["spec"]["replicas"], 2);
    // An update takes no replica away before its successor is there, and a drain leaves one.
    assert_eq!(deployment["spec"]["strategy"]["rollingUpdate"], json!({"maxUnavailable": 0, "maxSurge": 1}));
    let budget = named(&objects, "PodDisruptionBudget", "operator");
    assert_eq!(budget["spec"]["minAvailable"], 1);
    // Both are not Ready while a policy is missing: whoever drains a node then shall not wait for that.
    assert_eq!(budget["spec"]["unhealthyPodEvictionPolicy"], "AlwaysAllow");
    assert_eq!(named(&objects, "Service", "ubo-metrics")["spec"]["publishNotReadyAddresses"], true);
    assert_eq!(budget["spec"]["selector"], deployment["spec"]["selector"]);
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["runAsUser"], 65532);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    // What is still at work is cancelled half a minute before the pod's end, to clean up in.
    let args = Args::try_parse_from(["ubo", "operator"]).unwrap();
    let Command::Operator(args) = args.command else { panic!("{args:?}") };
    let grace = Duration::from_secs(pod["terminationGracePeriodSeconds"].as_u64().unwrap());
    assert!(args.shutdown_grace() + Duration::from_secs(30) <= grace, "{grace:?}");
    let container = &pod["containers"][0];
    assert_eq!(container["image"], install::DEFAULT_IMAGE);
    assert_eq!(container["args"], json!(["operator"]));
    let security = &container["securityContext"];
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/livez");
    assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/readyz");
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], deployment["spec"]["template"]["metadata"]["labels"]);
}

#[test]
fn an_image_is_put_in_and_nothing_else() {
    let image = "registry.example.com/team/ubo:1.2.3@sha256:abc";
    let text = install::manifests(image).expect("an image");
    assert_eq!(text.matches(image).count(), 1);
    for bad in ["", "a b", "a\"b", "a\nb", "a\\b"] {
        assert!(install::manifests(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn opting_in_by_namespace_and_account() {
    let namespace = Namespace::new("shop").expect("a name");
    let text = install::opt_in(Some(&namespace), "dba").expect("names");
    let objects = install::documents(&text).expect("YAML");
    assert_eq!(objects.len(), 4);
    assert!(objects.iter().all(|object| object["metadata"]["namespace"] == "shop"));
    assert_eq!(named(&objects, "RoleBinding", "dba")["roleRef"]["name"], "backup-runner");
    assert_eq!(named(&objects, "RoleBinding", "dba")["subjects"][0]["name"], "dba");
    assert_eq!(rights(named(&objects, "Role", "dba-token")), set(&["create /serviceaccounts/token dba"]));
    assert!(install::opt_in(None, "Not A Name").is_err());
}

/// The document of `product.md` section 2: it must work unchanged.
const EXAMPLE: &str = r#"apiVersion: backup.javy.dev/v1
kind: BackupJob
metadata:
  name: postgres-daily-backup
spec:
  target:
    kind: StatefulSet
    name: postgres
    namespace: default
    path: /var/lib/postgresql/data
  destination:
    type: s3
    uri: s3://my-bucket/backups/postgres
    secretRef: s3-credentials
  strategy:
    type: dump
    command: "pg_dumpall > /backup/dump.sql"
  schedule: "0 2 * * *"
"#;

#[test]
fn every_example_holds() {
    assert_eq!(committed("examples/postgres-daily-backup.yaml"), EXAMPLE);
    let (mut jobs, mut runs, mut names) = (0, Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder().join("examples")).expect("the folder") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a text");
        for mut object in install::documents(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
            match object["kind"].as_str() {
                Some("BackupJob") => {
                    jobs += 1;
                    names.push(object["metadata"]["name"].as_str().expect("a name").to_owned());
                    object["metadata"]["namespace"] = "default".into();
                    object["metadata"]["uid"] = "7c0e4f0e-6a9c-4b8f-9a55-0d5f3c1b2a01".into();
                    object["metadata"]["creationTimestamp"] = "2026-11-20T10:00:00Z".into();
                    let job: BackupJob = serde_json::from_value(object.clone()).expect("a BackupJob");
                    // What was not read would be pruned by the API server: nothing may get lost.
                    assert_eq!(serde_json::to_value(&job).expect("JSON")["spec"], object["spec"], "{}", path.display());
                    validate(&job).unwrap_or_else(|invalid| panic!("{}: {invalid}", path.display()));
                }
                Some("BackupRun") => {
                    let run: BackupRun = serde_json::from_value(object.clone()).expect("a BackupRun");
                    assert_eq!(serde_json::to_value(&run).expect("JSON")["spec"], object["spec"]);
                    runs.push(run.spec.backup_job_name);
                }
                Some("Secret" | "Service" | "StatefulSet" | "RoleBinding") => {}
                other => panic!("{}: {other:?}", path.display()),
            }
        }
    }
    assert!(jobs >= 3 && !runs.is_empty(), "{jobs} jobs, runs of {runs:?}");
    assert!(runs.iter().all(|job| names.contains(job)), "runs of {runs:?}, jobs {names:?}");
}
