//! **P** What the schema holds and this version does not implement: present and unlike its default, it is named.
//!
//! A file that grows shorter with every version.

use super::problems::Problems;
use super::read::object_name;
use crate::api::backup_job::{
    NotifySpec, Place, PodSelector, Quantity, Resources, RetentionSpec, RunnerSpec, VerifyDepth, VerifySpec,
};
use std::collections::BTreeMap;

/// Whether a selector chooses at all.
pub(super) fn narrows(selector: &PodSelector) -> bool {
    let PodSelector { match_labels, match_expressions } = selector;
    !match_labels.is_empty() || !match_expressions.is_empty()
}

pub(super) fn retention(path: &str, spec: Option<&RetentionSpec>, problems: &mut Problems) {
    let Some(spec) = spec else { return };
    let RetentionSpec {
        keep_last,
        keep_hourly,
        keep_daily,
        keep_weekly,
        keep_monthly,
        keep_yearly,
        keep_within,
        secret_ref,
    } = spec;
    let counts = [keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly];
    if keep_within.is_none() && counts.iter().all(|count| count.unwrap_or(0) == 0) {
        problems.invalid(
            path,
            "keeps nothing, and would delete every backup: set at least one keep rule, or leave retention out to keep \
             everything",
        );
        return;
    }
    if let Some(secret) = secret_ref {
        object_name(format_args!("{path}.secretRef"), secret, problems);
    }
    problems.unsupported_field(path, true);
}

pub(super) fn verify(spec: Option<&VerifySpec>, problems: &mut Problems) {
    let Some(VerifySpec { schedule, depth, restore }) = spec else { return };
    problems.unsupported_field("spec.verify.schedule", schedule.is_some());
    problems.default_only("spec.verify.depth", depth.as_ref(), &VerifyDepth::Manifest);
    problems.unsupported_field("spec.verify.restore", restore.is_some());
}

pub(super) fn notify(entries: &[NotifySpec], problems: &mut Problems) {
    problems.unsupported_field("spec.notify", !entries.is_empty());
}

pub(super) fn runner(spec: Option<&RunnerSpec>, problems: &mut Problems) {
    let Some(spec) = spec else { return };
    let RunnerSpec {
        place,
        resources,
        node_selector,
        affinity,
        tolerations,
        security_context,
        labels,
        annotations,
        image_pull_secrets,
        priority_class_name,
        runtime_class_name,
        image,
    } = spec;
    problems.default_only("spec.runner.place", place.as_ref(), &Place::Auto);
    let empty = Resources::default();
    let resources = resources.as_ref().is_some_and(|asked| *asked != empty && *asked != default_resources());
    for (field, present) in [
        ("resources", resources),
        ("nodeSelector", !node_selector.is_empty()),
        ("affinity", affinity.is_some()),
        ("tolerations", !tolerations.is_empty()),
        ("securityContext", security_context.is_some()),
        ("labels", !labels.is_empty()),
        ("annotations", !annotations.is_empty()),
        ("imagePullSecrets", !image_pull_secrets.is_empty()),
        ("priorityClassName", priority_class_name.is_some()),
        ("runtimeClassName", runtime_class_name.is_some()),
        ("image", image.is_some()),
    ] {
        problems.unsupported_field(format_args!("spec.runner.{field}"), present);
    }
}

/// What a runner asks of its node when nothing is said (`product.md` section 2).
fn default_resources() -> Resources {
    let quantity = |text: &str| Quantity(text.to_owned());
    Resources {
        requests: BTreeMap::from([("cpu".into(), quantity("50m")), ("memory".into(), quantity("64Mi"))]),
        limits: BTreeMap::from([("memory".into(), quantity("256Mi"))]),
    }
}
