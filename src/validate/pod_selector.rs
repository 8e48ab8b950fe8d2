//! **P** `target.podSelector`, read into the selector that pods are compared with.

use super::problems::Problems;
use super::read::is_object_name;
use crate::api::backup_job::PodSelector;
use crate::api::target::{LabelOperator, LabelRule};
use kube::core::{Expression, Selector};
use std::collections::BTreeSet;

/// Where it stands in a BackupJob.
const FIELD: &str = "spec.target.podSelector";

/// The selector; without a rule it holds for every pod. What Kubernetes would refuse as a label is refused here: such a
/// rule could never hold.
pub(super) fn read(spec: Option<&PodSelector>, problems: &mut Problems) -> Selector {
    let mut selector = Selector::default();
    let Some(PodSelector { match_labels, match_expressions }) = spec else { return selector };
    for (key, value) in match_labels {
        let path = format!("{FIELD}.matchLabels.{key}");
        if !is_label_key(key) {
            problems.invalid(&path, "the key is not one of a label: write it as `role` or `example.com/role`");
        }
        if !is_label_value(value) {
            problems.invalid(&path, NOT_A_VALUE);
        }
        selector.extend([Expression::Equal(key.clone(), value.clone())]);
    }
    for (index, LabelRule { key, operator, values }) in match_expressions.iter().enumerate() {
        let path = format!("{FIELD}.matchExpressions[{index}]");
        if !is_label_key(key) {
            problems.invalid(
                format_args!("{path}.key"),
                "not the key of a label: write it as `role` or `example.com/role`",
            );
        }
        if !values.iter().all(|value| is_label_value(value)) {
            problems.invalid(format_args!("{path}.values"), NOT_A_VALUE);
        }
        let set: BTreeSet<String> = values.iter().cloned().collect();
        let wants_values = matches!(operator, LabelOperator::In | LabelOperator::NotIn);
        if wants_values && set.is_empty() {
            problems.invalid(format_args!("{path}.values"), format_args!("operator {operator} needs at least one"));
        }
        if !wants_values && !set.is_empty() {
            problems.invalid(format_args!("{path}.values"), format_args!("operator {operator} takes none"));
        }
        let key = key.clone();
        selector.extend([match operator {
            LabelOperator::In => Expression::In(key, set),
            LabelOperator::NotIn => Expression::NotIn(key, set),
            LabelOperator::Exists => Expression::Exists(key),
            LabelOperator::DoesNotExist => Expression::DoesNotExist(key),
            LabelOperator::Unknown(word) => {
                problems.unsupported(format_args!("{path}.operator"), word);
                return selector;
            }
        }]);
    }
    selector
}

const NOT_A_VALUE: &str =
    "not the value of a label; at most 63 letters, digits, `-`, `_` and `.`, a letter or digit at both ends";

/// A name of at most 63 characters, perhaps below a DNS name and a slash.
fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(is_object_name) && !name.is_empty() && is_label_value(name)
}

/// Empty, or at most 63 characters.
fn is_label_value(value: &str) -> bool {
    let end = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    value.is_empty()
        || (value.len() <= 63
            && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            && end(value.bytes().next())
            && end(value.bytes().next_back()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_told_from_what_cannot_be_one() {
        for key in ["role", "example.com/role", "a_b.C-d", &"a".repeat(63)] {
            assert!(is_label_key(key), "{key}");
        }
        for key in ["", "/role", "example.com/", "a/b/c", "-role", "role-", "Example.com/role", "a b", &"a".repeat(64)]
        {
            assert!(!is_label_key(key), "{key}");
        }
        assert!(is_label_value("") && is_label_value("Replica-1"));
        assert!(!is_label_value("-") && !is_label_value("ä"));
    }
}
