//! **P** The pods of a manifest: one by its name, or each with an archive of its own.
//!
//! A manifest of one pod has format version 1, and `pod` is its name. One over several pods (`spec.target.pods: Each`) has
//! version 2: `pod` is a list, each entry with the objects of that pod, and there are none beside it. A reader that knows
//! version 1 alone refuses it whole, so that nobody restores a part of it and takes that for all.

use super::{FORMAT_VERSION, Manifest, Object, Outcome, Sum};
use crate::api::names::ObjectKey;
use crate::source::Content;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// `pod`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Pods {
    /// The pod that was read.
    One(String),
    /// Every pod that there should have been, in the order in which they were read.
    Each(Vec<PodEntry>),
}

impl From<&str> for Pods {
    fn from(name: &str) -> Self {
        Self::One(name.to_owned())
    }
}

impl From<String> for Pods {
    fn from(name: String) -> Self {
        Self::One(name)
    }
}

/// Longest text that names pods, in bytes: what `status.pod` of a BackupRun takes.
const SHOWN_LIMIT: usize = 253;

impl fmt::Display for Pods {
    /// The name, or the names of those that are in the backup, as many as there is room for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(name) => f.write_str(name),
            Self::Each(pods) => {
                let kept = pods.iter().filter(|pod| pod.data.is_some());
                f.write_str(&shown_names(&kept.map(|pod| pod.name.as_str()).collect::<Vec<_>>()))
            }
        }
    }
}

/// `a, b and 3 more`: as many names as 253 bytes take.
pub fn shown_names(names: &[&str]) -> String {
    // For ` and 99999 more`.
    let room = SHOWN_LIMIT - 15;
    let all = names.join(", ");
    if all.len() <= SHOWN_LIMIT {
        return all;
    }
    let mut text = String::new();
    let mut shown = 0;
    for name in names {
        let gap = if shown == 0 { "" } else { ", " };
        if text.len() + gap.len() + name.len() > room {
            break;
        }
        text = format!("{text}{gap}{name}");
        shown += 1;
    }
    match (shown, names.len() - shown) {
        (0, more) => format!("{more} pods"),
        (_, more) => format!("{text} and {more} more"),
    }
}

/// What a pod's part of the backup is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodOutcome {
    /// It was whole.
    Complete,
    /// It was not, and what could be read is kept; `reason` says why.
    Incomplete,
    /// Nothing of it is in the backup; `reason` says why.
    Missing,
}

impl PodOutcome {
    /// The word, as it stands in the manifest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "Complete",
            Self::Incomplete => "Incomplete",
            Self::Missing => "Missing",
        }
    }
}

/// One pod of a backup of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodEntry {
    /// The pod; one that was not there and has no name that could be known is named after its workload.
    pub name: String,
    /// Whether it was whole.
    pub outcome: PodOutcome,
    /// Why not, out of the closed set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Exit code of the command, where one ran to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Its archive, unless it is missing.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub data: Option<PodData>,
}

/// The archive of one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodData {
    /// The container that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// All raw bytes.
    pub raw: Sum,
    /// All stored bytes of the data, segments put together.
    pub stored: Sum,
    /// Regular files in the tar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// The data, in order: `cat` of them is the pod's archive. Names begin with the pod's folder.
    pub segments: Vec<Object>,
    /// What the command said, where it said anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Object>,
    /// Said but not fatal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One archive of a backup: what is restored and verified as a piece.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The pod; `None` where the whole backup is of one pod.
    pub pod: Option<&'a str>,
    /// What the raw bytes are.
    pub content: Content,
    /// All raw bytes.
    pub raw: &'a Sum,
    /// All stored bytes of the data.
    pub stored: &'a Sum,
    /// Regular files in the tar.
    pub files: Option<u64>,
    /// The data, in order.
    pub segments: &'a [Object],
    /// What the command said.
    pub log: Option<&'a Object>,
}

impl Manifest {
    /// Its pods, where it is a backup of each.
    pub fn each(&self) -> Option<&[PodEntry]> {
        match &self.pod {
            Some(Pods::Each(pods)) => Some(pods),
            Some(Pods::One(_)) | None => None,
        }
    }

    /// Its archives, in order: one, or one for each pod that is in it.
    pub fn parts(&self) -> Vec<Part<'_>> {
        let Some(pods) = self.each() else {
            return vec![Part {
                pod: None,
                content: self.content,
                raw: &self.raw,
                stored: &self.stored,
                files: self.files,
                segments: &self.segments,
                log: self.log.as_ref(),
            }];
        };
        let parts = pods.iter().filter_map(|pod| {
            let data = pod.data.as_ref()?;
            Some(Part {
                pod: Some(&pod.name),
                content: self.content,
                raw: &data.raw,
                stored: &data.stored,
                files: data.files,
                segments: &data.segments,
                log: data.log.as_ref(),
            })
        });
        parts.collect()
    }

    /// Whether it agrees with itself; what does not, for a message.
    pub(super) fn check(&self) -> Result<(), String> {
        match (self.format_version, self.each()) {
            (FORMAT_VERSION, None) if self.segments.is_empty() => Err("names no data".into()),
            (FORMAT_VERSION, None) => Ok(()),
            (FORMAT_VERSION, Some(_)) => Err("has a list of pods, which its format version does not know".into()),
            (_, None) => Err("has no list of pods, which its format version asks for".into()),
            (_, Some(pods)) => self.check_pods(pods),
        }
    }

    fn check_pods(&self, pods: &[PodEntry]) -> Result<(), String> {
        if !self.segments.is_empty() || self.log.is_some() {
            return Err("names objects beside those of its pods".into());
        }
        let mut names = BTreeSet::new();
        for pod in pods {
            check_pod(pod)?;
            if !names.insert(&pod.name) {
                return Err(format!("names pod {} twice", pod.name));
            }
        }
        if pods.iter().all(|pod| pod.data.is_none()) {
            return Err("has no pod's archive".into());
        }
        let complete = pods.iter().all(|pod| pod.outcome == PodOutcome::Complete);
        if complete != (self.outcome == Outcome::Complete) {
            return Err("has an outcome that is not that of its pods".into());
        }
        let data = || pods.iter().filter_map(|pod| pod.data.as_ref());
        if self.raw != together(data().map(|data| &data.raw))
            || self.stored != together(data().map(|data| &data.stored))
        {
            return Err("has sums that are not those of its pods".into());
        }
        Ok(())
    }
}

fn check_pod(pod: &PodEntry) -> Result<(), String> {
    let PodEntry { name, outcome, data, .. } = pod;
    let Some(data) = data else {
        return match outcome {
            PodOutcome::Missing => Ok(()),
            _ => Err(format!("lacks the archive of pod {name}")),
        };
    };
    if *outcome == PodOutcome::Missing {
        return Err(format!("has an archive of pod {name}, which it calls missing"));
    }
    if name.contains('/') || ObjectKey::new(name.as_str()).is_err() {
        return Err(format!("has a pod that is called {name:?}"));
    }
    if data.segments.is_empty() {
        return Err(format!("names no data of pod {name}"));
    }
    let is_its = |object: &Object| {
        object.name.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix('/')).is_some_and(|rest| {
            // One more step, and a clean one.
            !rest.contains('/') && ObjectKey::new(rest).is_ok()
        })
    };
    match data.segments.iter().chain(&data.log).find(|object| !is_its(object)) {
        Some(object) => Err(format!("names {:?} for pod {name}, which is outside that pod's folder", object.name)),
        None => Ok(()),
    }
}

/// What stands for the bytes of several archives: the sum of their sizes, and BLAKE3 of their digests in hex, in order, a
/// newline behind each.
pub fn together<'a>(sums: impl Iterator<Item = &'a Sum>) -> Sum {
    let mut hasher = blake3::Hasher::new();
    let mut size = 0_u64;
    for sum in sums {
        size = size.saturating_add(sum.size);
        hasher.update(sum.digest.as_bytes());
        hasher.update(b"\n");
    }
    Sum { size, digest: hasher.finalize().to_hex().to_string() }
}

#[cfg(test)]
pub(crate) mod tests;
