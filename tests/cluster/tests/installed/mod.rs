//! A cluster in which `ubo install`'s output stands, and clients that are somebody.

#![allow(dead_code, unreachable_pub, reason = "part of each test binary, which uses a part of it")]

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use rig::Cluster;
use serde_json::{Value, json};
use std::future::Future;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::OnceCell;
use ubo::api::backup_job::BackupJob;
use ubo::install;

/// How long anything that should happen may take, on a machine that has more to do. What must come sooner is said where it is
/// asserted.
pub const PATIENCE: Duration = Duration::from_mins(2);
/// Between two looks at what should happen.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits until `look` finds something. The error says what was waited for.
pub async fn until<T, F: Future<Output = Result<Option<T>>>>(what: &str, look: impl FnMut() -> F) -> Result<T> {
    until_for(PATIENCE, what, look).await
}

/// The same, with another patience.
pub async fn until_for<T, F: Future<Output = Result<Option<T>>>>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> F,
) -> Result<T> {
    let wait = async {
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(patience, wait).await.with_context(|| format!("waited in vain for {what}"))?
}

/// The cluster, with everything installed.
pub struct Installed {
    pub cluster: Cluster,
    /// Administrator.
    pub admin: Client,
}

static ONCE: OnceCell<()> = OnceCell::const_new();

impl Installed {
    /// Installs once per test binary; applying again changes nothing.
    pub async fn get() -> Result<Self> {
        let cluster = Cluster::from_env()?;
        let admin = Self::client(&cluster, |_| {}).await?;
        let installed = Self { cluster, admin };
        ONCE.get_or_try_init(|| installed.install()).await?;
        Ok(installed)
    }

    async fn client(cluster: &Cluster, change: impl FnOnce(&mut Config)) -> Result<Client> {
        let file = Kubeconfig::read_from(&cluster.kubeconfig)?;
        let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        change(&mut config);
        Ok(Client::try_from(config)?)
    }

    async fn install(&self) -> Result<()> {
        self.apply(&install::manifests("localhost/ubo:dev")?, &[]).await?;
        // Aggregation and admission follow a moment later: the last of them is seen when a claim is refused to a person.
        let edit: Api<ClusterRole> = Api::all(self.admin.clone());
        until("ubo-edit to be part of edit", || async {
            let rules = edit.get("edit").await?.rules.unwrap_or_default();
            Ok(rules.iter().any(|rule| rule.resources.iter().flatten().any(|name| name == "backupjobs")).then_some(()))
        })
        .await?;
        until("both policies to be in force", || async {
            let run = json!({ "apiVersion": "backup.javy.dev/v1", "kind": "BackupRun", "metadata": { "name": "probe-once" }, "spec": { "backupJobName": "probe" } });
            let claims_guarded = matches!(self.create("backupruns", "default", &run).await?, Err(status) if status.code == 403);
            let job = with("spec.serviceAccountName", json!("probe"));
            let nobody = self.user("probe").await?;
            let jobs_guarded = matches!(nobody.create("backupjobs", "default", &job).await?, Err(status) if status.code == 403);
            Ok((claims_guarded && jobs_guarded).then_some(()))
        })
        .await
    }

    /// Somebody, by user name.
    pub async fn user(&self, name: &str) -> Result<Self> {
        let admin = Self::client(&self.cluster, |config| config.auth_info.impersonate = Some(name.to_owned())).await?;
        Ok(Self { cluster: self.cluster.clone(), admin })
    }

    /// The operator.
    pub async fn operator(&self) -> Result<Self> {
        let admin = Self::client(&self.cluster, |config| {
            config.auth_info.impersonate = Some(install::OPERATOR_USER.to_owned());
            config.auth_info.impersonate_groups = Some(vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{}", install::SYSTEM_NAMESPACE),
                "system:authenticated".to_owned(),
            ]);
        })
        .await?;
        Ok(Self { cluster: self.cluster.clone(), admin })
    }

    /// `kubectl apply --server-side` of a text.
    pub async fn apply(&self, text: &str, more: &[&str]) -> Result<String> {
        let arguments = [&["apply", "--server-side", "--force-conflicts", "-f", "-"], more].concat();
        self.kubectl(&arguments, text).await
    }

    /// Runs kubectl; an exit code other than 0 is an error with what it said.
    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut child = Command::new(&self.cluster.kubectl)
            .args(arguments)
            .env("KUBECONFIG", &self.cluster.kubeconfig)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        stdin.write_all(input.as_bytes()).await?;
        drop(stdin);
        let output = child.wait_with_output().await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "kubectl {}: {said}", arguments.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A new namespace.
    pub async fn namespace(&self, what: &str) -> Result<String> {
        let api: Api<Namespace> = Api::all(self.admin.clone());
        let metadata = ObjectMeta { generate_name: Some(format!("{what}-")), ..ObjectMeta::default() };
        let made = api.create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() }).await?;
        made.metadata.name.context("a namespace without a name")
    }

    /// Removes a namespace; it goes by itself.
    pub async fn remove_namespace(&self, name: &str) -> Result<()> {
        let api: Api<Namespace> = Api::all(self.admin.clone());
        api.delete(name, &DeleteParams::background()).await?;
        Ok(())
    }

    /// Binds a ClusterRole to a user in a namespace.
    pub async fn bind(&self, namespace: &str, cluster_role: &str, user: &str) -> Result<()> {
        self.bind_to(namespace, "ClusterRole", cluster_role, user).await
    }

    async fn bind_to(&self, namespace: &str, kind: &str, role: &str, user: &str) -> Result<()> {
        let api: Api<RoleBinding> = Api::namespaced(self.admin.clone(), namespace);
        let binding = RoleBinding {
            metadata: ObjectMeta { name: Some(format!("{user}-{role}")), ..ObjectMeta::default() },
            role_ref: RoleRef { api_group: "rbac.authorization.k8s.io".into(), kind: kind.into(), name: role.into() },
            subjects: Some(vec![Subject {
                api_group: Some("rbac.authorization.k8s.io".into()),
                kind: "User".into(),
                name: user.into(),
                namespace: None,
            }]),
        };
        api.create(&PostParams::default(), &binding).await?;
        Ok(())
    }

    /// Gives a user these rights in a namespace: `(group, resource, names, verbs)`.
    pub async fn grant(&self, namespace: &str, user: &str, rights: &[(&str, &str, &[&str], &[&str])]) -> Result<()> {
        let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        let rules = rights.iter().map(|(group, resource, names, verbs)| PolicyRule {
            api_groups: Some(owned(&[group])),
            resources: Some(owned(&[resource])),
            resource_names: (!names.is_empty()).then(|| owned(names)),
            verbs: owned(verbs),
            ..PolicyRule::default()
        });
        let api: Api<Role> = Api::namespaced(self.admin.clone(), namespace);
        let metadata = ObjectMeta { name: Some(user.to_owned()), ..ObjectMeta::default() };
        api.create(&PostParams::default(), &Role { metadata, rules: Some(rules.collect()) }).await?;
        self.bind_to(namespace, "Role", user, user).await
    }

    /// Waits until this client may list BackupJobs: authorization follows RoleBindings a moment later.
    pub async fn ready_in(&self, namespace: &str) -> Result<()> {
        let api: Api<BackupJob> = Api::namespaced(self.admin.clone(), namespace);
        until("the user's rights", || async {
            match api.list(&ListParams::default()).await {
                Ok(_) => Ok(Some(())),
                Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(None),
                Err(error) => bail!(error),
            }
        })
        .await
    }

    /// Tries to create an object without keeping it: the stored form, or the API server's refusal.
    pub async fn create(&self, plural: &str, namespace: &str, object: &Value) -> Result<Result<Value, Refusal>> {
        self.post(
            &format!("/apis/backup.javy.dev/v1/namespaces/{namespace}/{plural}?dryRun=All&fieldValidation=Strict"),
            object,
        )
        .await
    }

    /// POST of a document.
    pub async fn post(&self, path: &str, object: &Value) -> Result<Result<Value, Refusal>> {
        self.request("POST", path, "application/json", object).await
    }

    /// A merge patch.
    pub async fn merge(&self, path: &str, change: &Value) -> Result<Result<Value, Refusal>> {
        self.request("PATCH", path, "application/merge-patch+json", change).await
    }

    /// Server-side apply.
    pub async fn server_side_apply(&self, path: &str, object: &Value) -> Result<Result<Value, Refusal>> {
        self.request("PATCH", path, "application/apply-patch+yaml", object).await
    }

    async fn request(&self, method: &str, path: &str, kind: &str, body: &Value) -> Result<Result<Value, Refusal>> {
        let request = http_request(method, path, kind, serde_json::to_vec(body)?)?;
        match self.admin.request::<Value>(request).await {
            Ok(value) => Ok(Ok(value)),
            Err(kube::Error::Api(status)) => Ok(Err(Refusal { code: status.code, message: status.message.clone() })),
            Err(error) => bail!(error),
        }
    }
}

fn http_request(method: &str, path: &str, kind: &str, body: Vec<u8>) -> Result<http::Request<Vec<u8>>> {
    Ok(http::Request::builder().method(method).uri(path).header("Content-Type", kind).body(body)?)
}

/// What the API server answered.
#[derive(Debug)]
pub struct Refusal {
    pub code: u16,
    pub message: String,
}

/// The document of `product.md` section 2, without a namespace.
pub fn example() -> Value {
    let text = include_str!("../../../../manifests/examples/postgres-daily-backup.yaml");
    install::documents(text).expect("an example").remove(0)
}

/// The example with `value` at `path`, whose parts are parted by dots; `null` removes. It targets its own namespace.
pub fn with(path: &str, value: Value) -> Value {
    let mut document = example();
    set(&mut document, "spec.target.namespace", Value::Null);
    set(&mut document, path, value);
    document
}

/// Sets or removes a field.
pub fn set(document: &mut Value, path: &str, value: Value) {
    let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
    let mut at = document;
    for part in parents.split('.').filter(|part| !part.is_empty()) {
        at = &mut at[part];
    }
    if value.is_null() {
        if let Some(fields) = at.as_object_mut() {
            fields.remove(last);
        }
    } else {
        at[last] = value;
    }
}
