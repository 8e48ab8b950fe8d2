//! **A** Clients with the rights of a namespace's own ServiceAccount, and nobody else's.
//!
//! The operator may do one thing in a namespace that was opted in: ask for a token of its ServiceAccount. Everything else
//! there is done with that token alone (no impersonation, no certificate of the operator's), so that the namespace's own
//! roles bound it and its audit log names it. A token lives for ten minutes and is used for two thirds of them; an exec
//! is authorized when it begins, and may outlive its token.

use crate::api::names::Namespace;
use crate::clock::Clock;
use crate::error::{Failure, Reason};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::config::AuthInfo;
use kube::{Client, Config};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

mod connection;

/// How long a token lives, in seconds: the shortest that the API server grants.
const TOKEN_SECONDS: i64 = 600;

/// How long a client is handed out: two thirds of its token's life.
const USED_FOR: Duration = Duration::from_secs(400);

/// The ServiceAccount that `manifests/namespace.yaml` makes.
const DEFAULT_ACCOUNT: &str = "backup-runner";

/// Whose rights are used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Account {
    /// The BackupJob's namespace.
    pub namespace: Namespace,
    /// Name of the ServiceAccount in it.
    pub name: String,
}

impl Account {
    /// That the account may not do `what` in `namespace`, with the command that mends it.
    pub fn forbidden(&self, what: &str, namespace: &str) -> Failure {
        let (home, name) = (self.namespace.as_str(), self.name.as_str());
        let remedy = if namespace != home {
            format!(
                "kubectl create rolebinding backup-target-{home} -n {namespace} --clusterrole=backup-target \
                 --serviceaccount={home}:{name}"
            )
        } else if name == DEFAULT_ACCOUNT {
            format!("kubectl apply -n {home} -f manifests/namespace.yaml")
        } else {
            format!(
                "kubectl create rolebinding {name}-backup -n {home} --clusterrole=backup-runner --serviceaccount={home}:{name}"
            )
        };
        Failure::new(
            Reason::Forbidden,
            format!(
                "ServiceAccount {home}/{name} may not {what} in namespace {namespace}; give it the right with: {remedy}"
            ),
        )
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A client and when it is too old to be handed out again.
type Slot = Arc<tokio::sync::Mutex<Option<(Client, Instant)>>>;

/// Gives out clients of ServiceAccounts. Cheap to clone: all clones share what they hold.
#[derive(Clone)]
pub struct Tenants(Arc<Shared>);

struct Shared {
    operator: Client,
    config: Config,
    clock: Arc<dyn Clock>,
    slots: Mutex<HashMap<Account, Slot>>,
}

impl fmt::Debug for Tenants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tenants")
    }
}

impl Tenants {
    /// From the operator's own configuration: its server and certificate authority are used, its credentials only to ask
    /// for tokens.
    pub fn new(config: Config, clock: Arc<dyn Clock>) -> Result<Self, Failure> {
        let operator = client(&config)?;
        Ok(Self(Arc::new(Shared { operator, config, clock, slots: Mutex::default() })))
    }

    /// A client with the rights of this ServiceAccount and no others. It is good for the next three minutes at least:
    /// whoever needs one for longer asks again.
    ///
    /// # Errors
    /// [`Reason::NamespaceNotOptedIn`], with the command that mends it; [`Reason::ClusterUnavailable`].
    pub async fn client_for(&self, namespace: &Namespace, service_account: &str) -> Result<Client, Failure> {
        self.client_of(&Account { namespace: namespace.clone(), name: service_account.to_owned() }).await
    }

    /// The same, for an account that has a name already.
    pub async fn client_of(&self, account: &Account) -> Result<Client, Failure> {
        let now = self.0.clock.monotonic();
        let slot = self.slot(account, now);
        // One request per account, however many ask at once.
        let mut slot = slot.lock().await;
        if let Some((client, until)) = &*slot
            && now < *until
        {
            return Ok(client.clone());
        }
        let client = self.ask(account).await?;
        *slot = Some((client.clone(), now + USED_FOR));
        Ok(client)
    }

    /// A client of a token that is asked for now, which `client_for` gives out from then on. Each attempt begins with one:
    /// a token from before the ServiceAccount was deleted, or deleted and made again, is worth nothing.
    ///
    /// # Errors
    /// As `client_for`; then no older client is given out either.
    pub async fn fresh_client(&self, account: &Account) -> Result<Client, Failure> {
        let now = self.0.clock.monotonic();
        let slot = self.slot(account, now);
        let mut slot = slot.lock().await;
        *slot = None;
        let client = self.ask(account).await?;
        *slot = Some((client.clone(), now + USED_FOR));
        Ok(client)
    }

    fn slot(&self, account: &Account, now: Instant) -> Slot {
        let mut slots = self.0.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody waits for and that have run out are forgotten, with their tokens.
        slots.retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|slot| slot.as_ref().is_some_and(|s| now < s.1))
        });
        slots.entry(account.clone()).or_default().clone()
    }

    async fn ask(&self, account: &Account) -> Result<Client, Failure> {
        let accounts = Api::<ServiceAccount>::namespaced(self.0.operator.clone(), account.namespace.as_str());
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(&account.name, &PostParams::default(), &request)
            .await
            .map_err(|error| refused(account, &error))?;
        let token = answer.status.map(|status| status.token).unwrap_or_default();
        if token.is_empty() {
            return Err(Failure::new(
                Reason::ClusterUnavailable,
                format!("the API server gave no token for {account}"),
            ));
        }
        let mut config = self.0.config.clone();
        config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
        config.default_namespace = account.namespace.to_string();
        client(&config)
    }
}

fn client(config: &Config) -> Result<Client, Failure> {
    connection::client(config)
        .map_err(|error| Failure::new(Reason::ClusterUnavailable, format!("no client for the API server: {error}")))
}

fn refused(account: &Account, error: &kube::Error) -> Failure {
    let (namespace, name) = (&account.namespace, &account.name);
    let remedy = if name == DEFAULT_ACCOUNT {
        format!("kubectl apply -n {namespace} -f manifests/namespace.yaml")
    } else {
        format!(
            "kubectl create role {name}-token -n {namespace} --verb=create --resource=serviceaccounts/token \
             --resource-name={name} && kubectl create rolebinding {name}-token -n {namespace} --role={name}-token \
             --serviceaccount=backup-system:operator"
        )
    };
    match code(error) {
        Some(403) => Failure::new(
            Reason::NamespaceNotOptedIn,
            format!(
                "the operator may not use ServiceAccount {name} of namespace {namespace}; opt the namespace in: {remedy}"
            ),
        ),
        Some(404) => Failure::new(
            Reason::NamespaceNotOptedIn,
            format!("namespace {namespace} has no ServiceAccount {name}; make it, and opt the namespace in: {remedy}"),
        ),
        _ => unavailable(&format!("ask for a token of ServiceAccount {account}"), error),
    }
}

/// HTTP status of the API server's refusal, where it answered at all.
pub(crate) fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// The API server did not answer, or answered with what is nobody's setting.
pub(crate) fn unavailable(what: &str, error: &kube::Error) -> Failure {
    let why = match error {
        // Its `Display` would repeat the whole object.
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => other.to_string(),
    };
    let message = format!("could not {what}: {}", crate::error::cut(&why, 300));
    Failure::new(Reason::ClusterUnavailable, message)
}

/// Reads a Secret as text, with the rights of `client`.
///
/// # Errors
/// [`Reason::SecretNotFound`]; [`Reason::Forbidden`]; [`Reason::InvalidSpec`] naming a key that is not UTF-8;
/// [`Reason::ClusterUnavailable`]. No message holds a value.
pub async fn read_secret(client: Client, account: &Account, name: &str) -> Result<BTreeMap<String, String>, Failure> {
    let namespace = account.namespace.as_str();
    let secret = Api::<Secret>::namespaced(client, namespace).get(name).await.map_err(|error| match code(&error) {
        Some(404) => Failure::new(
            Reason::SecretNotFound,
            format!("there is no Secret {name} in namespace {namespace}, which destination.secretRef names: create it"),
        ),
        Some(403) => account.forbidden(&format!("read Secret {name}"), namespace),
        _ => unavailable(&format!("read Secret {namespace}/{name}"), &error),
    })?;
    let mut read = BTreeMap::new();
    for (key, value) in secret.data.unwrap_or_default() {
        let Ok(text) = String::from_utf8(value.0) else {
            return Err(Failure::new(
                Reason::InvalidSpec,
                format!("key {key} of Secret {namespace}/{name} is not UTF-8 text: write it anew"),
            ));
        };
        read.insert(key, text);
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::exec_loop;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    fn account(name: &str) -> Account {
        Account { namespace: Namespace::new("shop").unwrap(), name: name.to_owned() }
    }

    fn refusal(status: u16) -> kube::Error {
        let mut answer = kube::core::Status::failure("no", "Forbidden");
        answer.code = status;
        kube::Error::Api(answer.boxed())
    }

    /// Answers one request after the other with these, and gives what each asked for as its web socket protocol.
    async fn asked(answers: &[&str]) -> Vec<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = Config::new(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
        let client = client(&config).unwrap();
        let opening = async {
            let place = exec_loop::Place { namespace: "shop", pod: "web-0", container: "main" };
            exec_loop::open(&client, place, &["true".to_owned()], &exec_loop::Times::default()).await.is_err()
        };
        let serving = async {
            let mut seen = Vec::new();
            for answer in answers {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = BufReader::new(stream);
                let (mut line, mut protocol) = (String::new(), String::new());
                while stream.read_line(&mut line).await.unwrap() > 2 {
                    if let Some(value) = line.to_lowercase().strip_prefix("sec-websocket-protocol: ") {
                        value.trim().clone_into(&mut protocol);
                    }
                    line.clear();
                }
                seen.push(protocol);
                let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            seen
        };
        let (refused, seen) = tokio::join!(opening, serving);
        assert!(refused);
        seen
    }

    #[tokio::test]
    async fn an_exec_asks_for_v4_alone_and_for_any_where_that_is_refused() {
        const ANY: &str = "v5.channel.k8s.io, v4.channel.k8s.io";
        for refusal in ["400 Bad Request", "403 Forbidden"] {
            assert_eq!(asked(&[refusal, "404 Not Found"]).await, ["v4.channel.k8s.io", ANY], "{refusal}");
        }
        // What has nothing to do with the protocol is not asked twice.
        for refusal in ["404 Not Found", "500 Internal Server Error"] {
            assert_eq!(asked(&[refusal]).await, ["v4.channel.k8s.io"], "{refusal}");
        }
    }

    #[test]
    fn the_command_that_mends_it_is_said() {
        let here = account("backup-runner").forbidden("list pods", "shop");
        assert!(here.message.ends_with("kubectl apply -n shop -f manifests/namespace.yaml"), "{here}");
        let there = account("backup-runner").forbidden("list pods", "db");
        assert!(
            there.message.contains("-n db --clusterrole=backup-target --serviceaccount=shop:backup-runner"),
            "{there}"
        );
        let own = account("mine").forbidden("list pods", "shop");
        assert!(own.message.contains("--clusterrole=backup-runner --serviceaccount=shop:mine"), "{own}");
        for status in [403, 404] {
            let refused = refused(&account("backup-runner"), &refusal(status));
            assert_eq!(refused.reason, Reason::NamespaceNotOptedIn);
            assert!(refused.message.contains("kubectl apply -n shop -f manifests/namespace.yaml"), "{refused}");
        }
        assert_eq!(refused(&account("backup-runner"), &refusal(503)).reason, Reason::ClusterUnavailable);
    }
}
