//! The operator's look at the admission policies. One test, in a binary of its own, because it takes them away.

mod installed;

use anyhow::{Result, bail, ensure};
use installed::{Installed, PATIENCE};
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use ubo::controller::policy::{PolicyState, watch};
use ubo::install;

const POLICY: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDING: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";

/// Waits until the state is missing and says all of `words`.
async fn missing(state: &mut Receiver<PolicyState>, words: &[&str]) -> Result<()> {
    let says =
        |state: &PolicyState| matches!(state, PolicyState::Missing(why) if words.iter().all(|word| why.contains(word)));
    let waited = tokio::time::timeout(PATIENCE, state.wait_for(says)).await.map(|seen| seen.map(drop));
    match waited {
        Ok(seen) => Ok(seen?),
        Err(_) => bail!("{:?} instead of {words:?}", *state.borrow()),
    }
}

async fn in_force(state: &mut Receiver<PolicyState>) -> Result<()> {
    let waited = tokio::time::timeout(PATIENCE, state.wait_for(|state| *state == PolicyState::InForce)).await;
    match waited.map(|seen| seen.map(drop)) {
        Ok(seen) => Ok(seen?),
        Err(_) => bail!("{:?}", *state.borrow()),
    }
}

async fn exercise(installed: &Installed, printed: &str) -> Result<()> {
    // With the operator's own rights: it may see these four objects by name, and no others.
    let operator = installed.operator().await?;
    let mut state = watch(operator.admin.clone());
    in_force(&mut state).await?;

    let weaker: [(&str, &str, Value, &[&str]); 5] = [
        (
            BINDING,
            "backupjobs-act-as-requester",
            json!({ "spec": { "validationActions": ["Audit"] } }),
            &["differs in validationActions"],
        ),
        (
            POLICY,
            "backupruns-claims",
            json!({ "spec": { "failurePolicy": "Ignore" } }),
            &["backupruns-claims", "differs in failurePolicy"],
        ),
        (
            POLICY,
            "backupjobs-act-as-requester",
            json!({ "spec": { "validations": [{ "expression": "true" }] } }),
            &["differs in validations"],
        ),
        (
            BINDING,
            "backupruns-claims",
            json!({ "spec": { "matchResources": { "namespaceSelector": { "matchLabels": { "a": "b" } } } } }),
            &["differs in matchResources"],
        ),
        (POLICY, "backupruns-claims", json!({ "spec": { "matchConditions": null } }), &["differs in matchConditions"]),
    ];
    for (path, name, patch, words) in weaker {
        let patched = installed.merge(&format!("{path}/{name}"), &patch).await?;
        ensure!(patched.is_ok(), "{patched:?}");
        missing(&mut state, words).await?;
        missing(&mut state, &["ubo install"]).await?;
        // Applying does not take back what a merge patch added to a list or struct: make it anew.
        delete(installed, &format!("{path}/{name}")).await?;
        missing(&mut state, &[name, "is missing"]).await?;
        installed.apply(printed, &[]).await?;
        in_force(&mut state).await?;
    }

    // Labels are nobody's business, and neither is the order of things that are written again as they were.
    let label = json!({ "metadata": { "labels": { "team": "storage" }, "annotations": { "a": "b" } } });
    ensure!(installed.merge(&format!("{POLICY}/backupruns-claims"), &label).await?.is_ok(), "a label");
    delete(installed, &format!("{BINDING}/backupruns-claims")).await?;
    missing(&mut state, &["ValidatingAdmissionPolicyBinding backupruns-claims is missing"]).await?;
    installed.apply(printed, &[]).await?;
    in_force(&mut state).await?;

    // Somebody who may not look is told so, instead of nothing.
    let nobody = installed.user("nobody-at-all").await?;
    missing(&mut watch(nobody.admin.clone()), &["may not be read (status 403)"]).await
}

async fn delete(installed: &Installed, path: &str) -> Result<()> {
    installed.kubectl(&["delete", "--raw", path], "").await.map(drop)
}

#[tokio::test]
async fn what_the_operator_sees_of_the_policies() -> Result<()> {
    let installed = Installed::get().await?;
    let printed = install::manifests("localhost/ubo:dev")?;
    let outcome = exercise(&installed, &printed).await;
    // Whatever happened: the other tests need them.
    installed.apply(&printed, &[]).await?;
    outcome
}
