//! **A** Whether the admission policies are in force.
//!
//! What stands between a person who may write BackupJobs and the rights of `backup-runner` is two admission policies and
//! their bindings. A policy without a binding, or a binding without its policy, admits everything, in silence. So the
//! operator watches the four objects and compares each with what `ubo install` prints; on any difference nothing is
//! claimed (`AdmissionPolicyMissing`).
//!
//! The comparison is of meaning, not of text. Both sides go through the typed objects of k8s-openapi, which know the
//! fields of the oldest Kubernetes that we support: a newer server's additions do not count. What an API server fills in
//! by default is taken out of both. Labels and annotations are nobody's business.
//!
//! One watch per object, by name, because the operator may see these four and no others. A watch that breaks is taken up
//! again by itself and changes nothing meanwhile: where the API server cannot be reached, nothing can be claimed either.
//! One that is refused (401, 403, or 404 where there are no such policies) counts as missing, and begins anew after a pause,
//! with a list: one that is only taken up again says nothing of an object that has not changed, so that a refusal which has
//! passed would count for good.

use crate::error::Failure;
use crate::install;
use futures::future::join_all;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch as state;
use tokio::time::timeout;

/// Whether backups may be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyState {
    /// All four objects are as `ubo install` prints them.
    InForce,
    /// They are not, or have not been seen yet; the text says which differ and what to do.
    Missing(String),
}

/// Watches the policies, from a task of its own, for as long as somebody holds the receiver.
pub fn watch(client: Client) -> state::Receiver<PolicyState> {
    let (sender, receiver) = state::channel(PolicyState::Missing(NOT_YET.into()));
    tokio::spawn(async move {
        match Expected::printed() {
            Ok(expected) => tokio::select! {
                () = follow(&client, &expected, &sender) => {}
                () = sender.closed() => {}
            },
            Err(failure) => {
                sender.send_replace(PolicyState::Missing(failure.message));
                sender.closed().await;
            }
        }
    });
    receiver
}

const NOT_YET: &str = "the admission policies have not been looked at yet";
/// How long after a refusal the object is looked at again.
const PAUSE: Duration = Duration::from_secs(10);
/// How long a watch that begins anew after a refusal must hold before what it shows is believed: the list may be allowed and
/// the watch not.
const HOLDS: Duration = Duration::from_secs(5);

async fn follow(client: &Client, expected: &Expected, sender: &state::Sender<PolicyState>) {
    let seen = Mutex::new(Seen::default());
    let tell = |id: &Id, observation| {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.0.insert(id.clone(), observation);
        let now = seen.compare(expected);
        sender.send_if_modified(|old| {
            let changed = *old != now;
            *old = now;
            changed
        });
    };
    let tell = &tell;
    let watches = expected.0.keys().map(|id| match id.kind {
        Kind::Policy => one::<ValidatingAdmissionPolicy>(client, id, tell).boxed(),
        Kind::Binding => one::<ValidatingAdmissionPolicyBinding>(client, id, tell).boxed(),
    });
    join_all(watches).await;
}

/// Watches one object for ever, and tells what it shows.
async fn one<K>(client: &Client, id: &Id, tell: &(impl Fn(&Id, Observation) + Sync))
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + 'static,
{
    let api = Api::<K>::all(client.clone());
    let mut refused = false;
    loop {
        let mut watch = watcher::watch_object(api.clone(), &id.name).default_backoff().boxed();
        // What is to be told when the watch has held for long enough.
        let mut shown = None;
        loop {
            let limit = if shown.is_some() { HOLDS } else { Duration::MAX };
            let Ok(event) = timeout(limit, watch.next()).await else {
                refused = false;
                if let Some(observation) = shown.take() {
                    tell(id, observation);
                }
                continue;
            };
            let observation = match event {
                Some(Ok(Some(object))) => match serde_json::to_value(object) {
                    Ok(value) => Observation::There(meaning(&value["spec"])),
                    Err(_) => continue,
                },
                Some(Ok(None)) => Observation::Absent,
                Some(Err(error)) => {
                    let Some(observation) = refusal(&error) else {
                        tracing::debug!(object = %id, %error, "the watch is taken up again");
                        continue;
                    };
                    refused = true;
                    tell(id, observation);
                    break;
                }
                None => break, // a watch has no end
            };
            if refused {
                shown = Some(observation);
            } else {
                tell(id, observation);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether an error of a watch says that the object may not be seen.
fn refusal(error: &watcher::Error) -> Option<Observation> {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))) = error
    else {
        return None;
    };
    matches!(status.code, 401 | 403 | 404).then(|| Observation::Refused(status.code))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Policy,
    Binding,
}

/// Which of the four objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    kind: Kind,
    name: String,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Policy => "ValidatingAdmissionPolicy",
            Kind::Binding => "ValidatingAdmissionPolicyBinding",
        };
        write!(f, "{kind} {}", self.name)
    }
}

/// What each object must mean.
#[derive(Debug)]
struct Expected(BTreeMap<Id, Value>);

impl Expected {
    fn printed() -> Result<Self, Failure> {
        let (policies, bindings) = install::policies()?;
        let mut all = BTreeMap::new();
        for policy in &policies {
            add(&mut all, Kind::Policy, policy)?;
        }
        for binding in &bindings {
            add(&mut all, Kind::Binding, binding)?;
        }
        Ok(Self(all))
    }
}

fn add(all: &mut BTreeMap<Id, Value>, kind: Kind, object: &impl Serialize) -> Result<(), Failure> {
    let value = serde_json::to_value(object)
        .map_err(|error| Failure::new(crate::error::Reason::Internal, format!("our own policies: {error}")))?;
    let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    all.insert(Id { kind, name }, meaning(&value["spec"]));
    Ok(())
}

/// What was last seen of an object.
#[derive(Clone, Debug, PartialEq)]
enum Observation {
    /// It is there and means this.
    There(Value),
    /// It is not there.
    Absent,
    /// The API server refuses to show it, with this status code.
    Refused(u16),
}

/// What was last seen of each object.
#[derive(Debug, Default)]
struct Seen(BTreeMap<Id, Observation>);

impl Seen {
    fn compare(&self, expected: &Expected) -> PolicyState {
        let mut wrong = Vec::new();
        for (id, meaning) in &expected.0 {
            match self.0.get(id) {
                None => return PolicyState::Missing(NOT_YET.into()),
                Some(Observation::Absent) => wrong.push(format!("{id} is missing")),
                Some(Observation::Refused(code)) => wrong.push(format!("{id} may not be read (status {code})")),
                Some(Observation::There(found)) if found != meaning => {
                    wrong.push(format!("{id} differs in {}", differing(meaning, found)));
                }
                Some(Observation::There(_)) => {}
            }
        }
        if wrong.is_empty() {
            return PolicyState::InForce;
        }
        PolicyState::Missing(format!(
            "no backup is started, because what guards whose rights a backup uses is not in force: {}. Apply the output of \
             `ubo install` again",
            wrong.join(", ")
        ))
    }
}

/// Names of the fields of a spec in which two differ.
fn differing(one: &Value, other: &Value) -> String {
    let keys =
        |value: &Value| value.as_object().map(|fields| fields.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut names = [keys(one), keys(other)].concat();
    names.sort();
    names.dedup();
    names.retain(|name| one.get(name) != other.get(name));
    names.join(" and ")
}

/// A spec without what an API server fills in by default (admissionregistration/v1, `SetDefaults_…`), and without what is
/// empty: two specs mean the same if this is the same of both.
fn meaning(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let default = |object: &mut Value, field: &str, value: &str| {
        if object.get(field).is_some_and(|found| found == value)
            && let Some(fields) = object.as_object_mut()
        {
            fields.remove(field);
        }
    };
    default(&mut spec, "failurePolicy", "Fail");
    for validation in elements(&mut spec, "validations") {
        default(validation, "reason", "Invalid");
    }
    for place in ["matchConstraints", "matchResources"] {
        if let Some(resources) = spec.get_mut(place) {
            default(resources, "matchPolicy", "Equivalent");
            for rules in ["resourceRules", "excludeResourceRules"] {
                for rule in elements(resources, rules) {
                    default(rule, "scope", "*");
                }
            }
        }
    }
    strip(&mut spec);
    spec
}

fn elements<'a>(object: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Removes nulls, empty lists and empty objects from objects, innermost first.
fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(strip);
            fields.retain(|_, value| match value {
                Value::Null => false,
                Value::Array(elements) => !elements.is_empty(),
                Value::Object(fields) => !fields.is_empty(),
                _ => true,
            });
        }
        Value::Array(elements) => elements.iter_mut().for_each(strip),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The four objects as an API server gives them back: with every default filled in.
    fn live() -> BTreeMap<Id, Value> {
        let (policies, bindings) = install::policies().expect("our own policies");
        let mut all = BTreeMap::new();
        for policy in policies {
            let mut value = serde_json::to_value(policy).expect("JSON");
            let spec = &mut value["spec"];
            spec["failurePolicy"] = "Fail".into();
            spec["matchConstraints"]["matchPolicy"] = "Equivalent".into();
            spec["matchConstraints"]["namespaceSelector"] = json!({});
            spec["matchConstraints"]["objectSelector"] = json!({});
            spec["matchConstraints"]["resourceRules"][0]["scope"] = "*".into();
            let name = value["metadata"]["name"].as_str().expect("a name").to_owned();
            all.insert(Id { kind: Kind::Policy, name }, value["spec"].take());
        }
        for binding in bindings {
            let mut value = serde_json::to_value(binding).expect("JSON");
            let name = value["metadata"]["name"].as_str().expect("a name").to_owned();
            all.insert(Id { kind: Kind::Binding, name }, value["spec"].take());
        }
        all
    }

    fn compare(live: &BTreeMap<Id, Value>) -> PolicyState {
        let seen = live.iter().map(|(id, spec)| (id.clone(), Observation::There(meaning(spec)))).collect();
        Seen(seen).compare(&Expected::printed().expect("our own policies"))
    }

    fn id(kind: Kind, name: &str) -> Id {
        Id { kind, name: name.into() }
    }

    #[test]
    fn defaults_are_no_difference() {
        let mut live = live();
        assert_eq!(live.len(), 4);
        assert_eq!(compare(&live), PolicyState::InForce);
        let binding = live.get_mut(&id(Kind::Binding, "backupruns-claims")).expect("the binding");
        binding["matchResources"] =
            json!({ "matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {} });
        assert_eq!(compare(&live), PolicyState::InForce);
    }

    #[test]
    fn what_weakens_them_is_a_difference() {
        let (first, second) = ("backupjobs-act-as-requester", "backupruns-claims");
        for (kind, name, pointer, value) in [
            (Kind::Policy, first, "/failurePolicy", json!("Ignore")),
            (Kind::Policy, first, "/matchConditions/0/expression", json!("false")),
            (Kind::Policy, first, "/matchConstraints/namespaceSelector", json!({ "matchLabels": { "a": "b" } })),
            (Kind::Policy, first, "/matchConstraints/resourceRules/0/operations", json!(["CREATE"])),
            (Kind::Policy, first, "/validations/0/expression", json!("true")),
            (Kind::Policy, first, "/variables/1/expression", json!("'x'")),
            (Kind::Policy, second, "/matchConditions/0/expression", json!("request.userInfo.username != 'x'")),
            (Kind::Policy, second, "/validations", json!([])),
            (Kind::Binding, first, "/validationActions", json!(["Warn"])),
            (Kind::Binding, second, "/policyName", json!(first)),
        ] {
            let mut live = live();
            *live.get_mut(&id(kind, name)).expect("it").pointer_mut(pointer).expect(pointer) = value;
            let field = pointer.split('/').nth(1).unwrap_or_default();
            match compare(&live) {
                PolicyState::Missing(why) => {
                    assert!(why.contains(name) && why.contains(&format!("differs in {field}")), "{why}");
                }
                PolicyState::InForce => panic!("{name} {pointer}"),
            }
        }
        let mut narrowed = live();
        narrowed.get_mut(&id(Kind::Binding, first)).expect("it")["matchResources"] =
            json!({ "namespaceSelector": { "matchLabels": { "a": "b" } } });
        assert!(matches!(compare(&narrowed), PolicyState::Missing(why) if why.contains("matchResources")));
    }

    /// An API server that shows the four objects, and refuses what this holds of: whether it is a watch (or a list), of which
    /// object, and how many there were before. Nothing changes, and watches end when real ones do.
    fn serving(refuses: impl Fn(bool, &str, usize) -> bool + Send + Sync + 'static) -> Client {
        let objects: BTreeMap<String, Value> = live().into_iter().map(|(id, spec)| (id.to_string(), spec)).collect();
        let (objects, refuses) = (std::sync::Arc::new(objects), std::sync::Arc::new(refuses));
        let asked = std::sync::Arc::new(Mutex::new(BTreeMap::<(bool, String), usize>::new()));
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let (objects, asked, refuses) = (objects.clone(), asked.clone(), refuses.clone());
            async move {
                let uri = request.uri().clone();
                let query = uri.query().unwrap_or_default();
                let watches = query.contains("watch=true");
                let kind = if uri.path().ends_with("bindings") { Kind::Binding } else { Kind::Policy };
                let name = query.split("metadata.name%3D").nth(1).and_then(|rest| rest.split('&').next());
                let id = Id { kind, name: name.expect("one object by name").to_owned() }.to_string();
                let before = {
                    let mut asked = asked.lock().expect("sound");
                    let count = asked.entry((watches, id.clone())).or_default();
                    *count += 1;
                    *count - 1
                };
                let (code, answer) = if refuses(watches, &id, before) {
                    tokio::time::sleep(Duration::from_secs(1)).await; // long enough for what was shown before to be believed
                    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                        "code": 403, "reason": "Forbidden", "message": "as scripted"});
                    (403, status.to_string())
                } else if watches {
                    tokio::time::sleep(Duration::from_secs(290)).await;
                    (200, String::new())
                } else {
                    let item = json!({"metadata": {"name": name, "resourceVersion": "7"}, "spec": objects[&id]});
                    (200, json!({"metadata": {"resourceVersion": "9"}, "items": [item]}).to_string())
                };
                let answer = http::Response::builder().status(code).body(kube::client::Body::from(answer.into_bytes()));
                Ok::<_, kube::Error>(answer.expect("a response"))
            }
        });
        Client::new(service, "default")
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_passes_is_forgotten() {
        let one = Id { kind: Kind::Policy, name: "backupjobs-act-as-requester".into() }.to_string();
        // The watch that follows the first one.
        let client = serving(move |watches, id, before| watches && id == one && before == 1);
        let mut state = watch(client);
        let in_force = |state: &PolicyState| *state == PolicyState::InForce;
        let limit = Duration::from_mins(6);
        timeout(limit, state.wait_for(in_force)).await.expect("seen").expect("it watches");
        timeout(limit, state.wait_for(|state| !in_force(state))).await.expect("refused").expect("it watches");
        timeout(limit, state.wait_for(in_force)).await.expect("it has passed").expect("it watches");
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_to_watch_that_is_missing_is_not_hidden_by_the_list() {
        let mut state = watch(serving(|watches, id, _| watches && id.contains("backupruns-claims")));
        let refused = |state: &PolicyState| matches!(state, PolicyState::Missing(why) if why.contains("status 403"));
        timeout(Duration::from_mins(1), state.wait_for(refused)).await.expect("refused").expect("it watches");
        let end = tokio::time::Instant::now() + Duration::from_hours(1);
        while timeout(end - tokio::time::Instant::now(), state.changed()).await.is_ok() {
            assert!(refused(&state.borrow()), "{:?}", *state.borrow());
        }
    }

    #[test]
    fn nothing_seen_absent_and_refused() {
        let expected = Expected::printed().expect("our own policies");
        let mut seen = Seen::default();
        assert_eq!(seen.compare(&expected), PolicyState::Missing(NOT_YET.into()));
        for id in expected.0.keys() {
            seen.0.insert(id.clone(), Observation::Absent);
        }
        let PolicyState::Missing(why) = seen.compare(&expected) else { panic!("nothing is there") };
        assert_eq!(why.matches("is missing").count(), 4, "{why}");
        for id in expected.0.keys() {
            seen.0.insert(id.clone(), Observation::Refused(403));
        }
        assert!(matches!(seen.compare(&expected), PolicyState::Missing(why) if why.contains("status 403")));
    }
}
