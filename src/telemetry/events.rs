//! **A** Kubernetes Events (`events.k8s.io/v1`).
//!
//! Publishing never waits and never fails the caller: it puts the Event into a bounded queue, and one task writes it. A
//! queue that is full drops the Event; what matters is in a status too. The same Event of the same object again (word and
//! note) within ten minutes is counted in the first one's series instead of becoming another.

use super::metrics::{EventWrite, Metrics};
use crate::clock::Clock;
use crate::error::{Class, Reason, cut};
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

#[cfg(test)]
mod tests;

/// How many Events may wait.
const QUEUE: usize = 512;
/// How many written Events are remembered, to count repetitions.
const REMEMBERED: usize = 256;
/// Longest note in bytes: the API refuses more.
const NOTE_LIMIT: usize = 1024;
/// How long one write may take, the client's own repetitions included: the queue behind it must not stand still.
const WRITE_LIMIT: Duration = Duration::from_secs(15);
/// Who reports.
const CONTROLLER: &str = "backup.javy.dev/operator";

/// For how long a repetition is counted instead of written anew.
const SERIES: chrono::Duration = chrono::Duration::minutes(10);

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident: $type:literal $action:literal,)*) => {
        /// What happened. The word is the Event's `reason`; a failure's is its [`Reason`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum EventKind {
            $($(#[$doc])* $name,)*
            /// An attempt, a run or a look at a BackupJob ended with this reason.
            Failed(Reason),
        }

        impl EventKind {
            /// Every kind.
            pub fn all() -> impl Iterator<Item = Self> {
                [$(Self::$name,)*].into_iter().chain(Reason::ALL.iter().copied().map(Self::Failed))
            }

            /// The word.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                    Self::Failed(reason) => reason.as_str(),
                }
            }

            /// `Normal` or `Warning`.
            const fn type_(self) -> &'static str {
                match self {
                    $(Self::$name => $type,)*
                    Self::Failed(reason) => match reason.class() {
                        Class::Cancelled => "Normal",
                        Class::Transient | Class::Permanent | Class::Misconfigured => "Warning",
                    },
                }
            }

            /// What was being done.
            const fn action(self) -> &'static str {
                match self {
                    $(Self::$name => $action,)*
                    Self::Failed(_) => "Backup",
                }
            }
        }
    };
}

kinds! {
    /// A tick was claimed, or a BackupRun asked for by hand was accepted.
    RunCreated: "Normal" "Schedule",
    /// The first attempt began.
    RunStarted: "Normal" "Backup",
    /// The run waits for something that somebody else has; the note says for what.
    RunWaits: "Normal" "Backup",
    /// An attempt failed and will be tried again; the note says why and when.
    AttemptRetried: "Warning" "Backup",
    /// The run ended well.
    BackupSucceeded: "Normal" "Backup",
    /// Whole and kept, but much smaller than those before it.
    BackupShrunk: "Warning" "Backup",
    /// Kept, but the source was not whole.
    BackupIncomplete: "Warning" "Backup",
    /// An archive that was another BackupJob's is this one's from now on.
    ArchiveTakenOver: "Normal" "Backup",
    /// The backup lies in an archive that is somebody else's; nothing there is deleted.
    ForeignOwner: "Warning" "Backup",
    /// A tick did not become a run.
    TickSkipped: "Normal" "Schedule",
    /// After downtime only the latest of several ticks is made up for.
    ScheduleCatchUp: "Normal" "Schedule",
    /// Another object has the name that a tick's BackupRun needs.
    NameTaken: "Warning" "Schedule",
    /// The BackupRun of a tick cannot be created; the note says why, and it is tried again.
    ClaimFailed: "Warning" "Schedule",
    /// Nothing is due, because a clock was ahead when the last tick was handled; the note says until when, and the way out.
    ClockWentBack: "Warning" "Schedule",
    /// What kept a BackupJob from running is mended.
    Ready: "Normal" "Validate",
}

/// An Event that waits.
#[derive(Debug)]
struct Queued {
    regarding: ObjectReference,
    kind: EventKind,
    note: String,
    at: DateTime<Utc>,
}

/// Where Events are put. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<Queued>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

impl Events {
    /// The place to put them, and the task that writes them; it ends when every [`Events`] is dropped and the queue is
    /// written. `instance` is the pod's name.
    pub fn new(
        client: Client,
        instance: impl Into<String>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let writer = Writer {
            client,
            instance: instance.into(),
            metrics: metrics.clone(),
            written: VecDeque::new(),
            failing: false,
        };
        (Self { queue, metrics, clock }, writer.run(waiting))
    }

    /// Says what happened to an object. Never waits. The note is for a person and holds no secret; it is cut at 1 KiB.
    pub fn publish(&self, regarding: ObjectReference, kind: EventKind, note: impl Into<String>) {
        let queued = Queued { regarding, kind, note: note.into(), at: self.clock.now() };
        if self.queue.try_send(queued).is_err() {
            self.metrics.event_write(EventWrite::Dropped);
        }
    }

    /// The same, for anything that kube knows.
    pub fn publish_for<K>(&self, object: &K, kind: EventKind, note: impl Into<String>)
    where
        K: Resource<DynamicType = ()>,
    {
        self.publish(object.object_ref(&()), kind, note);
    }
}

/// An Event that was written, for the counting of repetitions.
struct Written {
    uid: Option<String>,
    kind: EventKind,
    note: String,
    namespace: String,
    name: String,
    count: i32,
    last: DateTime<Utc>,
}

struct Writer {
    client: Client,
    instance: String,
    metrics: Arc<Metrics>,
    written: VecDeque<Written>,
    failing: bool,
}

impl Writer {
    async fn run(mut self, mut waiting: mpsc::Receiver<Queued>) {
        while let Some(queued) = waiting.recv().await {
            let failure = match timeout(WRITE_LIMIT, self.write(queued)).await {
                Ok(Ok(())) => {
                    self.failing = false;
                    self.metrics.event_write(EventWrite::Written);
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {} s", WRITE_LIMIT.as_secs()),
            };
            self.metrics.event_write(EventWrite::Failed);
            // Once until it works again: the metric counts the rest.
            if !std::mem::replace(&mut self.failing, true) {
                tracing::warn!(error = %failure, "cannot write Events; allow create and patch of events.k8s.io");
            }
        }
    }

    async fn write(&mut self, queued: Queued) -> Result<(), kube::Error> {
        let Queued { regarding, kind, note, at } = queued;
        let note = cut(&note, NOTE_LIMIT).to_owned();
        self.written.retain(|written| at - written.last < SERIES);
        let again =
            |written: &&mut Written| written.uid == regarding.uid && written.kind == kind && written.note == note;
        if let Some(written) = self.written.iter_mut().find(again) {
            let series = EventSeries { count: written.count + 1, last_observed_time: micro_time(at) };
            let patch = serde_json::json!({ "series": series });
            let api: Api<Event> = Api::namespaced(self.client.clone(), &written.namespace);
            match api.patch(&written.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => {
                    written.count += 1;
                    written.last = at;
                    return Ok(());
                }
                // Events live for an hour and can be deleted: then it is a new one.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        // A cluster-scoped object's Events go to `default`, as everywhere.
        let namespace = regarding.namespace.clone().unwrap_or_else(|| "default".into());
        let name = event_name(regarding.name.as_deref().unwrap_or("object"), at);
        let uid = regarding.uid.clone();
        let event = self.event(&name, &namespace, regarding, kind, &note, at);
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        api.create(&PostParams::default(), &event).await?;
        if self.written.len() == REMEMBERED {
            self.written.pop_front();
        }
        self.written.push_back(Written { uid, kind, note, namespace, name, count: 1, last: at });
        Ok(())
    }

    fn event(
        &self,
        name: &str,
        namespace: &str,
        regarding: ObjectReference,
        kind: EventKind,
        note: &str,
        at: DateTime<Utc>,
    ) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some(namespace.into()),
                ..ObjectMeta::default()
            },
            event_time: Some(micro_time(at)),
            regarding: Some(regarding),
            reason: Some(kind.as_str().into()),
            action: Some(kind.action().into()),
            type_: Some(kind.type_().into()),
            note: Some(note.into()),
            reporting_controller: Some(CONTROLLER.into()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        }
    }
}

/// As client-go names them: object, dot, a number that does not come again.
fn event_name(object: &str, at: DateTime<Utc>) -> String {
    format!("{object}.{:x}{:06x}", at.timestamp_micros(), rand::random::<u32>() & 0x00ff_ffff)
}

fn micro_time(at: DateTime<Utc>) -> MicroTime {
    MicroTime(Timestamp::from_microsecond(at.timestamp_micros()).unwrap_or(Timestamp::UNIX_EPOCH))
}
