//! **P** Every manifest that this version serves.
//!
//! The definitions of the custom resources are made from the Rust types; everything else is written as YAML in this
//! folder, with its comments, and printed as it stands. `manifests/install.yaml` is [`manifests`]' committed output; a
//! test fails when they differ. The operator reads the same text for the policies that must be in force
//! ([`policies`]).

use crate::api;
use crate::error::{Failure, Reason};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use serde::{Serialize, Serializer};
use serde_json::Value;

/// Namespace of the operator.
pub const SYSTEM_NAMESPACE: &str = "backup-system";
/// User that the operator is to the API server.
pub const OPERATOR_USER: &str = "system:serviceaccount:backup-system:operator";
/// Image that is printed unless another one is asked for.
pub const DEFAULT_IMAGE: &str = concat!("ubo:", env!("CARGO_PKG_VERSION"));

const SYSTEM: &str = include_str!("system.yaml");
const TENANTS: &str = include_str!("tenants.yaml");
const POLICIES: &str = include_str!("policies.yaml");
const DEPLOYMENT: &str = include_str!("deployment.yaml");
const NAMESPACE: &str = include_str!("namespace.yaml");

/// Everything that is installed once in a cluster, in the order in which it is applied. A failure would be a fault of our
/// own manifests.
pub fn manifests(image: &str) -> Result<String, Failure> {
    if image.is_empty() || image.len() > 512 || !image.bytes().all(|b| b.is_ascii_graphic() && !b"\"\\".contains(&b)) {
        return Err(Failure::new(
            Reason::InvalidSpec,
            format!("{image:?} is not an image; write it as registry.example.com/ubo:1.2.3"),
        ));
    }
    let [job, run] = api::definitions().map_err(|error| own_fault(&error))?;
    let header = format!(
        "# universal-backup-operator {}: everything that is installed once in a cluster. Made by `ubo install`.\n\
         # Then opt a namespace in (namespace.yaml) and write a BackupJob (examples).",
        env!("CARGO_PKG_VERSION"),
    );
    let documents = [
        format!("{header}\n\n{SYSTEM}"),
        yaml(&job)?,
        yaml(&run)?,
        TENANTS.to_owned(),
        POLICIES.to_owned(),
        DEPLOYMENT.replace("(image)", &format!("\"{image}\"")),
    ];
    Ok(documents.join("---\n"))
}

/// What opts a namespace in: a ServiceAccount, its rights, and the right of the operator to act as it. With a namespace,
/// every object names it; without one, `kubectl apply -n` does.
pub fn opt_in(namespace: Option<&api::names::Namespace>, account: &str) -> Result<String, Failure> {
    if !crate::validate::is_object_name(account) {
        return Err(Failure::new(Reason::InvalidSpec, format!("{account:?} is not the name of a ServiceAccount")));
    }
    let text = NAMESPACE.replace("(account)", account);
    Ok(match namespace {
        None => text,
        Some(namespace) => {
            let line = format!("metadata:\n  namespace: {namespace}\n");
            let body = text.replace("metadata:\n", &line);
            // The comment above speaks of `kubectl apply -n`, which is not needed here.
            body.split_inclusive('\n').skip_while(|line| line.starts_with('#')).collect()
        }
    })
}

/// The policies and bindings that must be in force, as they are printed by [`manifests`].
pub fn policies() -> Result<(Vec<ValidatingAdmissionPolicy>, Vec<ValidatingAdmissionPolicyBinding>), Failure> {
    let (mut policies, mut bindings) = (Vec::new(), Vec::new());
    for document in documents(POLICIES)? {
        match document["kind"].as_str() {
            Some("ValidatingAdmissionPolicy") => {
                policies.push(serde_json::from_value(document).map_err(|e| own_fault(&e))?);
            }
            _ => bindings.push(serde_json::from_value(document).map_err(|e| own_fault(&e))?),
        }
    }
    Ok((policies, bindings))
}

/// The documents of a YAML text.
pub fn documents(text: &str) -> Result<Vec<Value>, Failure> {
    serde_saphyr::from_multiple(text).map_err(|error| own_fault(&error))
}

/// One document of YAML, ended by a line end.
fn yaml(object: &impl Serialize) -> Result<String, Failure> {
    let value = serde_json::to_value(object).map_err(|error| own_fault(&error))?;
    let options = serde_saphyr::ser_options! { folded_wrap_chars: WIDTH, min_fold_chars: WIDTH };
    let text = serde_saphyr::to_string_with_options(&Readable(&value), options).map_err(|error| own_fault(&error))?;
    // A folded block would end in a line end that the text does not have: `-` strips it. A test reads all of it back.
    let lines = text.split_inclusive('\n').map(|line| match line.strip_suffix(": >\n") {
        Some(start) => [start, ": >-\n"].concat(),
        None => line.to_owned(),
    });
    Ok(lines.collect())
}

/// Longest line of a long text in YAML, indentation apart.
const WIDTH: usize = 96;

/// JSON as people like it in YAML: long texts in folded blocks, and whole numbers without `.0` (the bounds of a schema
/// are floating-point numbers by type and whole ones by meaning).
struct Readable<'a>(&'a Value);

impl Serialize for Readable<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(elements) => serializer.collect_seq(elements.iter().map(Readable)),
            Value::Object(fields) => serializer.collect_map(fields.iter().map(|(key, value)| (key, Readable(value)))),
            Value::String(text) if text.len() >= WIDTH && !text.contains('\n') => {
                serde_saphyr::FoldStr(text).serialize(serializer)
            }
            Value::Number(number) => {
                // A whole number of 64 bits and floating point prints as its digits and `.0`.
                let text = number.to_string();
                match text.strip_suffix(".0").and_then(|digits| digits.parse::<i64>().ok()) {
                    Some(whole) => serializer.serialize_i64(whole),
                    None => number.serialize(serializer),
                }
            }
            other => other.serialize(serializer),
        }
    }
}

fn own_fault(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Reason::Internal, format!("our own manifests do not hold: {error}; please report this"))
}
