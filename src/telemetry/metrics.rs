//! **T** The metrics: one registry that is passed in, names and labels out of closed sets.
//!
//! [`Metric`] lists every metric with its kind, help and labels; nothing is registered that is not in it. Label values
//! are words of enums (a [`Phase`], a [`Reason`], a [`TickSkip`] …) or the namespace and name of a BackupJob; never a
//! run, a key or a message, so that the number of series is bounded by the number of jobs. Every series of a job goes
//! when the job goes ([`Metrics::job_removed`]); a run that ends later does not bring it back.
//!
//! What can be asked when somebody looks is asked then ([`Metrics::at_scrape`]), instead of being kept up to date.

use super::readiness::{Gate, Readiness};
use crate::api::backup_job::BackupJobStatus;
use crate::api::conditions::BACKUP_SHRUNK;
use crate::api::names::JobRef;
use crate::error::Reason;
use crate::run::Phase;
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[cfg(test)]
mod tests;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up; its name ends in `_total`.
    Counter,
    /// A value of the moment.
    Gauge,
    /// Observations in buckets.
    Histogram,
}

macro_rules! metrics {
    ($($name:ident: $kind:ident $word:literal [$($label:literal),*] $help:literal,)*) => {
        /// Every metric there is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Metric { $(#[doc = $help] $name,)* }

        impl Metric {
            /// Every metric; dashboards and documentation are checked against it.
            pub const ALL: &'static [Metric] = &[$(Metric::$name,)*];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $(Metric::$name => $word,)* }
            }

            /// What it is.
            pub const fn kind(self) -> Kind {
                match self { $(Metric::$name => Kind::$kind,)* }
            }

            /// One sentence about it.
            pub const fn help(self) -> &'static str {
                match self { $(Metric::$name => $help,)* }
            }

            /// Names of its labels, in order.
            pub const fn labels(self) -> &'static [&'static str] {
                match self { $(Metric::$name => &[$($label),*],)* }
            }
        }
    };
}

metrics! {
    BuildInfo: Gauge "ubo_build_info" ["version"]
        "Always 1; the label says which version runs.",
    Ready: Gauge "ubo_ready" ["gate"]
        "1 if this readiness gate is open, 0 if not; /readyz says why.",
    Leader: Gauge "ubo_leader" []
        "1 if this process claims ticks and starts runs, 0 if another one does.",
    Runs: Counter "ubo_runs_total" ["namespace", "job", "phase", "reason"]
        "Runs that reached a final phase; the reason is None where nothing went wrong.",
    RunsInFlight: Gauge "ubo_runs_in_flight" []
        "Runs that work now.",
    RunsQueued: Gauge "ubo_runs_queued" []
        "Runs that wait for their turn.",
    RunDuration: Histogram "ubo_run_duration_seconds" ["phase"]
        "From the start of a run to its final phase.",
    Attempts: Counter "ubo_attempts_total" ["reason"]
        "Attempts that ended; the reason is None where nothing went wrong.",
    StreamsCut: Counter "ubo_exec_streams_cut_total" []
        "Attempts whose stream was cut, stalled or was not whole.",
    ReadBytes: Counter "ubo_read_bytes_total" ["namespace", "job"]
        "Raw bytes read from targets, failed attempts included.",
    StoredBytes: Counter "ubo_stored_bytes_total" ["namespace", "job"]
        "Bytes handed to destinations, failed attempts included.",
    JobReady: Gauge "ubo_job_ready" ["namespace", "job"]
        "1 if the BackupJob can run, 0 if its condition Ready is not True.",
    JobHealthy: Gauge "ubo_job_healthy" ["namespace", "job"]
        "1 if the condition Healthy is True, 0 if it is False; absent before the first run has ended.",
    JobBackupShrunk: Gauge "ubo_job_backup_shrunk" ["namespace", "job"]
        "1 if the last backup is much smaller than those before it and nobody has accepted that, 0 if not.",
    JobLastRun: Gauge "ubo_job_last_run_timestamp_seconds" ["namespace", "job"]
        "Start of the last run; absent before the first.",
    JobLastSuccess: Gauge "ubo_job_last_success_timestamp_seconds" ["namespace", "job"]
        "Start of the last run that Succeeded; absent before the first.",
    JobConsecutiveFailures: Gauge "ubo_job_consecutive_failures" ["namespace", "job"]
        "Runs since the last one that Succeeded, cancelled ones apart.",
    JobNextRun: Gauge "ubo_job_next_run_timestamp_seconds" ["namespace", "job"]
        "The tick that waits, or else the next one; absent for a job that has none.",
    TicksClaimed: Counter "ubo_ticks_claimed_total" []
        "Ticks for which this process created the BackupRun.",
    TicksSkipped: Counter "ubo_ticks_skipped_total" ["reason"]
        "Ticks that did not become a run.",
    ClaimDelay: Histogram "ubo_claim_delay_seconds" []
        "From a tick to the creation of its BackupRun.",
    StatusWrites: Counter "ubo_status_writes_total" ["result"]
        "Writes of a status.",
    Events: Counter "ubo_events_total" ["result"]
        "Kubernetes Events.",
}

macro_rules! words {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant:meta])* $name:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type { $($(#[$variant])* $name,)* }

        impl $type {
            /// Every one of them.
            pub const ALL: &'static [$type] = &[$($type::$name,)*];

            /// The word, as it stands in the label.
            pub const fn as_str(self) -> &'static str {
                match self { $($type::$name => stringify!($name),)* }
            }
        }
    };
}

words! {
    /// Why a tick did not become a run.
    TickSkip {
        /// `concurrencyPolicy: Forbid`, and a run of the job is not finished.
        RunStillActive,
        /// It could not be claimed within `startingDeadlineSeconds`.
        DeadlinePassed,
        /// It was missed, and `missedRuns: Skip` says that it is not made up for.
        Missed,
        /// A later tick was due too: only the latest is made up for.
        Superseded,
        /// Another object has the name until the next tick.
        NameTaken,
        /// The job could not run at that moment (its condition Ready says why).
        NotReady,
    }
}

words! {
    /// What became of a status write.
    StatusWrite {
        /// It is written.
        Written,
        /// Somebody else had written; derived anew.
        Conflict,
        /// The object is gone.
        Gone,
        /// The API server refused it, or did not answer.
        Failed,
        /// It took too long.
        TimedOut,
        /// The queue was full: derived anew at the next opportunity.
        Dropped,
    }
}

words! {
    /// What became of an Event.
    EventWrite {
        /// It is written.
        Written,
        /// The API server refused it, or did not answer.
        Failed,
        /// The queue was full.
        Dropped,
    }
}

/// The word for "nothing went wrong" where a reason stands.
const NO_REASON: &str = "None";

const fn reason_word(reason: Option<Reason>) -> &'static str {
    match reason {
        Some(reason) => reason.as_str(),
        None => NO_REASON,
    }
}

/// Seconds; a dump of a small database to a copy of everything.
const RUN_BUCKETS: &[f64] =
    &[1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0, 43200.0, 86400.0];
/// Seconds; the goal is 5 s for a thousand ticks in one minute, CronJob's own are one to two minutes late then.
const DELAY_BUCKETS: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0];

/// What is asked at a scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scraped {
    /// Runs that work.
    pub in_flight: usize,
    /// Runs that wait for their turn.
    pub queued: usize,
}

/// Which series a job has besides the fixed ones. Shared with its runs, so that they learn that it is gone.
#[derive(Debug, Default)]
struct JobSeries {
    gone: bool,
    runs: BTreeSet<(&'static str, &'static str)>,
}

type AtScrape = Box<dyn Fn() -> Scraped + Send + Sync>;

/// The registry and everything in it.
pub struct Metrics {
    registry: Registry,
    ready: IntGaugeVec,
    leader: IntGauge,
    runs: IntCounterVec,
    runs_in_flight: IntGauge,
    runs_queued: IntGauge,
    run_duration: HistogramVec,
    attempts: IntCounterVec,
    streams_cut: IntCounter,
    read_bytes: IntCounterVec,
    stored_bytes: IntCounterVec,
    job_ready: IntGaugeVec,
    job_healthy: IntGaugeVec,
    job_backup_shrunk: IntGaugeVec,
    job_last_run: IntGaugeVec,
    job_last_success: IntGaugeVec,
    job_consecutive_failures: IntGaugeVec,
    job_next_run: IntGaugeVec,
    ticks_claimed: IntCounter,
    ticks_skipped: IntCounterVec,
    claim_delay: Histogram,
    status_writes: IntCounterVec,
    events: IntCounterVec,
    jobs: Mutex<HashMap<JobRef, Arc<Mutex<JobSeries>>>>,
    at_scrape: Mutex<Option<AtScrape>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// A registry with every metric of [`Metric::ALL`], those of the closed sets at 0. The error is an invariant of our
    /// own (two metrics of one name), not anything that a user can do.
    pub fn new() -> Result<Self, prometheus::Error> {
        let build_info = gauges(Metric::BuildInfo)?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let delay = HistogramOpts::new(Metric::ClaimDelay.name(), Metric::ClaimDelay.help());
        let duration = HistogramOpts::new(Metric::RunDuration.name(), Metric::RunDuration.help());
        let metrics = Self {
            registry: Registry::new(),
            ready: gauges(Metric::Ready)?,
            leader: IntGauge::with_opts(opts(Metric::Leader))?,
            runs: counters(Metric::Runs)?,
            runs_in_flight: IntGauge::with_opts(opts(Metric::RunsInFlight))?,
            runs_queued: IntGauge::with_opts(opts(Metric::RunsQueued))?,
            run_duration: HistogramVec::new(duration.buckets(RUN_BUCKETS.to_vec()), Metric::RunDuration.labels())?,
            attempts: counters(Metric::Attempts)?,
            streams_cut: IntCounter::with_opts(opts(Metric::StreamsCut))?,
            read_bytes: counters(Metric::ReadBytes)?,
            stored_bytes: counters(Metric::StoredBytes)?,
            job_ready: gauges(Metric::JobReady)?,
            job_healthy: gauges(Metric::JobHealthy)?,
            job_backup_shrunk: gauges(Metric::JobBackupShrunk)?,
            job_last_run: gauges(Metric::JobLastRun)?,
            job_last_success: gauges(Metric::JobLastSuccess)?,
            job_consecutive_failures: gauges(Metric::JobConsecutiveFailures)?,
            job_next_run: gauges(Metric::JobNextRun)?,
            ticks_claimed: IntCounter::with_opts(opts(Metric::TicksClaimed))?,
            ticks_skipped: counters(Metric::TicksSkipped)?,
            claim_delay: Histogram::with_opts(delay.buckets(DELAY_BUCKETS.to_vec()))?,
            status_writes: counters(Metric::StatusWrites)?,
            events: counters(Metric::Events)?,
            jobs: Mutex::default(),
            at_scrape: Mutex::default(),
        };
        metrics.registry.register(Box::new(build_info))?;
        metrics.register_all()?;
        metrics.begin_at_zero();
        Ok(metrics)
    }

    fn register_all(&self) -> Result<(), prometheus::Error> {
        // Without `..`: a metric that is not registered here does not compile.
        let Self {
            registry,
            ready,
            leader,
            runs,
            runs_in_flight,
            runs_queued,
            run_duration,
            attempts,
            streams_cut,
            read_bytes,
            stored_bytes,
            job_ready,
            job_healthy,
            job_backup_shrunk,
            job_last_run,
            job_last_success,
            job_consecutive_failures,
            job_next_run,
            ticks_claimed,
            ticks_skipped,
            claim_delay,
            status_writes,
            events,
            jobs: _,
            at_scrape: _,
        } = self;
        let all: [Box<dyn Collector>; 22] = [
            Box::new(ready.clone()),
            Box::new(leader.clone()),
            Box::new(runs.clone()),
            Box::new(runs_in_flight.clone()),
            Box::new(runs_queued.clone()),
            Box::new(run_duration.clone()),
            Box::new(attempts.clone()),
            Box::new(streams_cut.clone()),
            Box::new(read_bytes.clone()),
            Box::new(stored_bytes.clone()),
            Box::new(job_ready.clone()),
            Box::new(job_healthy.clone()),
            Box::new(job_backup_shrunk.clone()),
            Box::new(job_last_run.clone()),
            Box::new(job_last_success.clone()),
            Box::new(job_consecutive_failures.clone()),
            Box::new(job_next_run.clone()),
            Box::new(ticks_claimed.clone()),
            Box::new(ticks_skipped.clone()),
            Box::new(claim_delay.clone()),
            Box::new(status_writes.clone()),
            Box::new(events.clone()),
        ];
        all.into_iter().try_for_each(|collector| registry.register(collector))
    }

    /// A counter that appears with its first event hides that event from `increase()`.
    fn begin_at_zero(&self) {
        for reason in std::iter::once(None).chain(Reason::ALL.iter().copied().map(Some)) {
            self.attempts.with_label_values(&[reason_word(reason)]);
        }
        for phase in Phase::ALL.into_iter().filter(|phase| phase.is_final()) {
            self.run_duration.with_label_values(&[phase.as_str()]);
        }
        for skip in TickSkip::ALL {
            self.ticks_skipped.with_label_values(&[skip.as_str()]);
        }
        for result in StatusWrite::ALL {
            self.status_writes.with_label_values(&[result.as_str()]);
        }
        for result in EventWrite::ALL {
            self.events.with_label_values(&[result.as_str()]);
        }
        for gate in Gate::ALL {
            self.ready.with_label_values(&[gate.as_str()]);
        }
    }

    /// Says where the values come from that are asked at a scrape. It must not take long and must not call back.
    pub fn at_scrape(&self, ask: impl Fn() -> Scraped + Send + Sync + 'static) {
        *self.at_scrape.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(ask));
    }

    /// Everything, in the text format of Prometheus (`text/plain; version=0.0.4`).
    pub fn render(&self, readiness: &Readiness) -> Result<String, prometheus::Error> {
        let at_scrape = self.at_scrape.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ask) = at_scrape.as_ref() {
            let Scraped { in_flight, queued } = ask();
            for (gauge, count) in [(&self.runs_in_flight, in_flight), (&self.runs_queued, queued)] {
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        for (gate, why) in readiness.states() {
            self.ready.with_label_values(&[gate.as_str()]).set(i64::from(why.is_none()));
        }
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Where is counted what a run of `job` does.
    pub fn run_series(self: &Arc<Self>, job: &JobRef) -> RunSeries {
        RunSeries { metrics: self.clone(), job: job.clone(), series: self.series(job) }
    }

    /// An attempt ended; `None` where nothing went wrong.
    pub fn attempt_ended(&self, reason: Option<Reason>) {
        self.attempts.with_label_values(&[reason_word(reason)]).inc();
        let cut = [Reason::StreamCut, Reason::StreamStalled, Reason::StreamCorrupt, Reason::ArchiveTruncated];
        if reason.is_some_and(|reason| cut.contains(&reason)) {
            self.streams_cut.inc();
        }
    }

    /// Shows what a job's status says: at every change, and for each job after a start.
    pub fn job_seen(&self, job: &JobRef, status: &BackupJobStatus) {
        let labels = job_labels(job);
        // Known from now on, so that `job_removed` finds it.
        let _known = self.series(job);
        let ready = status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        self.job_ready.with_label_values(&labels).set(i64::from(ready));
        let healthy = status.conditions.iter().find(|c| c.type_ == "Healthy");
        let shrunk = healthy.is_some_and(|c| c.status == "False" && c.reason == BACKUP_SHRUNK);
        self.job_backup_shrunk.with_label_values(&labels).set(i64::from(shrunk));
        match healthy.filter(|c| c.status != "Unknown") {
            Some(condition) => {
                self.job_healthy.with_label_values(&labels).set(i64::from(condition.status == "True"));
            }
            None => drop(self.job_healthy.remove_label_values(&labels)),
        }
        self.job_consecutive_failures.with_label_values(&labels).set(status.consecutive_failures.unwrap_or(0));
        for (gauge, time) in [
            (&self.job_last_run, &status.last_run_time),
            (&self.job_last_success, &status.last_success_time),
            (&self.job_next_run, &status.next_run_time),
        ] {
            match time {
                Some(time) => gauge.with_label_values(&labels).set(time.0.as_second()),
                // Suspended, or a status that was taken away; a series that is not there is fine.
                None => drop(gauge.remove_label_values(&labels)),
            }
        }
    }

    /// Removes every series of a job.
    pub fn job_removed(&self, job: &JobRef) {
        let series = lock(&self.jobs).remove(job);
        let labels = job_labels(job);
        if let Some(series) = series {
            let mut series = lock(&series);
            series.gone = true;
            for (phase, reason) in &series.runs {
                let labels = [labels[0], labels[1], phase, reason];
                drop(self.runs.remove_label_values(&labels));
            }
        }
        // What was never shown cannot be removed, and that is fine.
        for counter in [&self.read_bytes, &self.stored_bytes] {
            drop(counter.remove_label_values(&labels));
        }
        self.hide_gauges(&labels);
    }

    /// Another process shows the jobs' gauges from now on; what this one counted stays.
    pub fn jobs_are_anothers(&self) {
        for job in lock(&self.jobs).keys() {
            self.hide_gauges(&job_labels(job));
        }
    }

    fn hide_gauges(&self, labels: &[&str; 2]) {
        for gauge in [
            &self.job_ready,
            &self.job_healthy,
            &self.job_backup_shrunk,
            &self.job_last_run,
            &self.job_last_success,
            &self.job_consecutive_failures,
            &self.job_next_run,
        ] {
            drop(gauge.remove_label_values(labels));
        }
    }

    /// Whether this process leads.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// A tick became a run, so long after its time.
    pub fn tick_claimed(&self, delay: Duration) {
        self.ticks_claimed.inc();
        self.claim_delay.observe(delay.as_secs_f64());
    }

    /// So many ticks did not become a run.
    pub fn ticks_skipped(&self, why: TickSkip, count: u32) {
        self.ticks_skipped.with_label_values(&[why.as_str()]).inc_by(u64::from(count));
    }

    /// A status was written, or not.
    pub fn status_write(&self, result: StatusWrite) {
        self.status_writes.with_label_values(&[result.as_str()]).inc();
    }

    /// An Event was written, or not.
    pub fn event_write(&self, result: EventWrite) {
        self.events.with_label_values(&[result.as_str()]).inc();
    }

    fn series(&self, job: &JobRef) -> Arc<Mutex<JobSeries>> {
        lock(&self.jobs).entry(job.clone()).or_default().clone()
    }
}

/// Where is counted what a run does: nowhere any more when its job has gone, even if one of that name was made anew.
#[derive(Debug)]
pub struct RunSeries {
    metrics: Arc<Metrics>,
    job: JobRef,
    series: Arc<Mutex<JobSeries>>,
}

impl RunSeries {
    /// An attempt has moved so many bytes.
    pub fn moved(&self, read: u64, stored: u64) {
        let series = lock(&self.series);
        if !series.gone {
            let labels = job_labels(&self.job);
            self.metrics.read_bytes.with_label_values(&labels).inc_by(read);
            self.metrics.stored_bytes.with_label_values(&labels).inc_by(stored);
        }
    }

    /// The run reached a final phase, so long after it began.
    pub fn ended(&self, phase: Phase, reason: Option<Reason>, took: Duration) {
        let (phase, reason) = (phase.as_str(), reason_word(reason));
        self.metrics.run_duration.with_label_values(&[phase]).observe(took.as_secs_f64());
        let mut series = lock(&self.series);
        if !series.gone {
            series.runs.insert((phase, reason));
            let [namespace, name] = job_labels(&self.job);
            self.metrics.runs.with_label_values(&[namespace, name, phase, reason]).inc();
        }
    }
}

fn job_labels(job: &JobRef) -> [&str; 2] {
    [job.namespace.as_str(), job.name.as_str()]
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn opts(metric: Metric) -> Opts {
    Opts::new(metric.name(), metric.help())
}

fn counters(metric: Metric) -> Result<IntCounterVec, prometheus::Error> {
    IntCounterVec::new(opts(metric), metric.labels())
}

fn gauges(metric: Metric) -> Result<IntGaugeVec, prometheus::Error> {
    IntGaugeVec::new(opts(metric), metric.labels())
}
