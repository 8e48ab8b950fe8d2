//! **P** Building blocks of the schemas: closed sets of words, quantities, times, conditions.
//!
//! A value that an installed schema admits must never fail to be read: one object that cannot be read would blind the
//! watch for all of them. So a word that this version does not know is kept ([`words`]' `Unknown`), and is refused later
//! with a message, by [`crate::validate`].

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::fmt;

/// A closed set of words, each with its documentation. What else is read becomes `Unknown`, never an error.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident $(| $alias:literal)*,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
            /// A word that this version does not know; the schema refuses it, an older or newer one may not.
            Unknown(String),
        }

        impl $name {
            /// Every word that the schema admits.
            pub const WORDS: &'static [&'static str] = &[$(stringify!($variant), $($alias,)*)*];

            /// The word, as it is written.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => stringify!($variant),)*
                    Self::Unknown(word) => word,
                }
            }
        }

        impl From<String> for $name {
            fn from(word: String) -> Self {
                match word.as_str() {
                    $(stringify!($variant) $(| $alias)* => Self::$variant,)*
                    _ => Self::Unknown(word),
                }
            }
        }

        impl From<$name> for String {
            fn from(word: $name) -> Self {
                word.as_str().to_owned()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "enum": Self::WORDS })
            }
        }
    };
}
pub(crate) use words;

/// Schema of a time: RFC 3339. The Rust type of such a field is k8s-openapi's `Time`; this stands in for its schema.
pub struct Moment;

impl JsonSchema for Moment {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Moment".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

/// A Kubernetes quantity as it was written: `10Mi`, `1.5Gi`, or a plain number of bytes. Not checked here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Quantity(pub String);

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(serde_json::Number),
            Text(String),
        }
        Ok(Self(match Either::deserialize(deserializer)? {
            Either::Number(number) => number.to_string(),
            Either::Text(text) => text,
        }))
    }
}

impl JsonSchema for Quantity {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // The form in which Kubernetes' own types write a quantity; without signs, since no size of ours is negative.
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "pattern": r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)(([KMGTPE]i)|[mkMGTPE]|([eE][0-9]{1,2}))?$",
            "maxLength": 32,
        })
    }
}

/// Schema of a list of `metav1.Condition`: a list-map by type, every string bounded as Kubernetes bounds it.
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "description": "One aspect of the object's state.",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": { "type": "string", "maxLength": 316, "description": "Which aspect, for example `Ready`." },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it holds." },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0, "description": "`metadata.generation` that this was derived from." },
                "lastTransitionTime": { "type": "string", "format": "date-time", "description": "When `status` last changed." },
                "reason": { "type": "string", "maxLength": 1024, "minLength": 1, "description": "One word out of a closed set: why." },
                "message": { "type": "string", "maxLength": 32768, "description": "What happened and what to do next." },
            },
        },
    })
}

/// Schema of an object that is kept as it was written and checked where it is used.
pub fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// Schema of a map of at most 32 strings, each of at most `LONGEST` characters.
pub fn texts<const LONGEST: u32>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": { "type": "string", "maxLength": LONGEST },
    })
}

/// The value of `x-kubernetes-validations`: CEL rules, each with what to tell the user.
pub fn rules(rules: &[(&str, &str)]) -> Value {
    rules.iter().map(|(rule, message)| json!({ "rule": rule, "message": message })).collect()
}

/// The value of `x-kubernetes-validations` for an absolute path: without `..`, so that it means what it says.
pub fn path_rules() -> Value {
    rules(&[
        ("self.startsWith('/')", "must be an absolute path: begin with /"),
        (r"!self.matches('(^|/)[.][.](/|$)')", "must not have a segment .."),
    ])
}

/// The value of `x-kubernetes-validations` for a schedule.
pub fn schedule_rules() -> Value {
    rules(&[("!self.contains('TZ=')", "the time zone is set in timeZone, not in the schedule")])
}

/// The definition as it is installed: rules for the whole object and its description added, and the generated schema put
/// into the form in which Kubernetes and `kubectl explain` want it.
///
/// * `null` is not a value: a field is absent or holds something, so that `has()` in a rule means what it says.
/// * No defaults: what was not written is not stored, so that nobody's server-side apply differs from it. The operator
///   knows the defaults ([`crate::validate`]), and the descriptions say them.
/// * A description is one paragraph; `kubectl explain` breaks the lines.
/// * Formats that Kubernetes does not know are left out.
pub fn finish(
    definition: CustomResourceDefinition,
    description: &str,
    root_rules: &[(&str, &str)],
) -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut value = serde_json::to_value(definition)?;
    if let Some(versions) = value["spec"]["versions"].as_array_mut() {
        for version in versions {
            let schema = &mut version["schema"]["openAPIV3Schema"];
            tidy(schema);
            schema["description"] = description.into();
            schema["x-kubernetes-validations"] = rules(root_rules);
        }
    }
    serde_json::from_value(value)
}

/// Cuts what is longer than its schema allows; lengths are counted in characters, as Kubernetes counts them. Some of what a
/// status says comes from outside (names in a tar, documents at a destination), and one text that is too long would make the
/// API server refuse all of it.
pub fn fit(value: &mut Value, schema: &Value) {
    let limit = |word: &str| schema[word].as_u64().and_then(|limit| usize::try_from(limit).ok());
    match value {
        Value::String(text) => {
            let end = limit("maxLength").and_then(|limit| text.char_indices().nth(limit));
            if let Some((end, _)) = end {
                text.truncate(end);
            }
        }
        Value::Array(items) => {
            items.truncate(limit("maxItems").unwrap_or(usize::MAX));
            for item in items {
                fit(item, &schema["items"]);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                fit(field, &schema["properties"][name]);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// One schema, and every schema in it.
fn tidy(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    object.remove("nullable");
    object.remove("default");
    if object.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
        object.remove("format");
    }
    if let Some(words) = object.get_mut("enum").and_then(Value::as_array_mut) {
        words.retain(|word| !word.is_null());
    }
    if let Some(text) = object.get_mut("description")
        && let Some(old) = text.as_str()
    {
        *text = old.split('\n').collect::<Vec<_>>().join(" ").into();
    }
    if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(tidy);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(schema) = object.get_mut(inner) {
            tidy(schema);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::api::backup_job::TargetKind;

    /// What an API server would say against this value.
    pub(crate) fn faults(path: &str, value: &Value, schema: &Value) -> Vec<String> {
        let limit = |word: &str| schema[word].as_u64().and_then(|limit| usize::try_from(limit).ok());
        let over = |length: usize, word: &str| limit(word).is_some_and(|limit| length > limit);
        let (kind, bad) = match value {
            Value::Null => ("null", true),
            Value::Bool(_) => ("boolean", false),
            Value::Number(number) => (
                "integer",
                !number.is_i64() || limit("minimum").is_some_and(|least| number.as_u64() < Some(least as u64)),
            ),
            Value::String(text) => {
                let length = text.chars().count();
                let strange = schema["enum"].as_array().is_some_and(|words| !words.contains(value));
                (
                    "string",
                    strange || over(length, "maxLength") || limit("minLength").is_some_and(|least| length < least),
                )
            }
            Value::Array(items) => ("array", over(items.len(), "maxItems")),
            Value::Object(fields) => {
                let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
                ("object", required.into_iter().any(|name| !fields.contains_key(name)))
            }
        };
        let mut found = Vec::new();
        if bad || schema["type"] != kind {
            found.push(format!("{path} is {kind} and should be {}", schema["type"]));
        }
        match value {
            Value::Array(items) => {
                let keys =
                    schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
                for key in keys {
                    let mut seen = Vec::new();
                    for item in items {
                        if seen.contains(&&item[key]) {
                            found.push(format!("{path} has two {}", item[key]));
                        }
                        seen.push(&item[key]);
                    }
                }
                for item in items {
                    found.extend(faults(&format!("{path}[]"), item, &schema["items"]));
                }
            }
            Value::Object(fields) if schema["x-kubernetes-preserve-unknown-fields"] != true => {
                for (name, field) in fields {
                    found.extend(faults(&format!("{path}.{name}"), field, &schema["properties"][name]));
                }
            }
            _ => {}
        }
        found
    }

    #[test]
    fn what_is_too_long_is_cut_by_characters_and_nothing_else_is_changed() {
        let schema = json!({
            "type": "object",
            "properties": {
                "text": {"type": "string", "maxLength": 3},
                "list": {"type": "array", "maxItems": 2, "items": {
                    "type": "object", "properties": {"name": {"type": "string", "maxLength": 1}},
                }},
                "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "number": {"type": "integer"},
            },
        });
        let spec = json!({"anything": "however long it is", "text": "long"});
        let mut value = json!({
            "text": "äöüß", "list": [{"name": "ab"}, {"name": "c"}, {"name": "d"}], "spec": spec, "number": 12345,
        });
        assert_eq!(faults("", &value, &schema).len(), 3);
        fit(&mut value, &schema);
        assert_eq!(faults("", &value, &schema), Vec::<String>::new());
        assert_eq!(
            value,
            json!({"text": "äöü", "list": [{"name": "a"}, {"name": "c"}], "spec": spec, "number": 12345})
        );
    }

    #[test]
    fn an_unknown_word_is_kept_and_an_alias_is_read() {
        let kind = |word: &str| serde_json::from_value::<TargetKind>(word.into()).expect("words are always read");
        assert_eq!(kind("PVC"), TargetKind::PersistentVolumeClaim);
        assert_eq!(kind("Job"), TargetKind::Unknown("Job".into()));
        assert_eq!(serde_json::to_value(kind("Job")).expect("a word"), "Job");
    }

    #[test]
    fn quantities_are_read_from_numbers_and_text() {
        let quantity = |text: &str| serde_json::from_str::<Quantity>(text).expect("a quantity").0;
        assert_eq!(quantity("1024"), "1024");
        assert_eq!(quantity("\"10Mi\""), "10Mi");
    }
}
