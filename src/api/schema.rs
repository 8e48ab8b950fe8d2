//! **P** Building blocks of the schemas: closed sets of words, quantities, times, conditions.
//!
//! A value that an installed schema admits must never fail to be read: one object that cannot be read would blind the
//! watch for all of them. So a word that this version does not know is kept ([`words`]' `Unknown`), and is refused later
//! with a message, by [`crate::validate`].

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
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
            "anyOf": [{ "type": "integer" }, { "type": "string" }],
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
                "type": { "type": "string", "maxLength": 316, "description": "Which aspect: `Ready`, `Healthy`, …" },
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::backup_job::{BackupJob, TargetKind};
    use kube::CustomResourceExt;

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

    #[test]
    fn the_schema_can_be_made() {
        assert_eq!(BackupJob::crd().spec.names.plural, "backupjobs");
    }
}
