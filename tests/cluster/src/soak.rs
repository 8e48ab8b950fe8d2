//! **A** The soak: how long, how many, and what came of it.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Variables by which `cargo rig soak` tells the test `kills` what to do.
pub const VARIABLES: [&str; 4] = ["UBO_SOAK_JOBS", "UBO_SOAK_SECONDS", "UBO_SOAK_KILLS", "UBO_SOAK_RESULT"];

/// How many jobs, how long and how many kills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measure {
    /// BackupJobs, each due every minute.
    pub jobs: usize,
    /// How long replicas are killed.
    pub seconds: u64,
    /// Kills in that time.
    pub kills: u64,
    /// Where the outcome is written.
    pub result: Option<PathBuf>,
}

impl Measure {
    /// What the variables say; without them, as many as a test has time for.
    pub fn from_env() -> Result<Measure> {
        Measure::from_variables(|name| {
            #[expect(clippy::disallowed_methods, reason = "the soak's one look at the environment")]
            let value = std::env::var(name).ok();
            value
        })
    }

    /// The same with variables from elsewhere.
    pub fn from_variables(find: impl Fn(&str) -> Option<String>) -> Result<Measure> {
        let [jobs, seconds, kills, result] = VARIABLES;
        let number = |name: &str, default: u64| match find(name) {
            Some(text) => text.parse::<u64>().with_context(|| format!("{name}={text} is not a number")),
            None => Ok(default),
        };
        Ok(Measure {
            jobs: usize::try_from(number(jobs, 5)?)?,
            seconds: number(seconds, 110)?,
            kills: number(kills, 6)?,
            result: find(result).map(PathBuf::from),
        })
    }

    /// Writes the outcome for whoever asked for it.
    pub fn report(&self, outcome: &Outcome) -> Result<()> {
        if let Some(path) = &self.result {
            // What lay in the cluster's state before may have gone when it was brought up.
            std::fs::create_dir_all(path.parent().context("a file without a folder")?)?;
            std::fs::write(path, serde_json::to_vec_pretty(outcome)?)?;
        }
        Ok(())
    }
}

/// From so many kills on it is no chance if none of them meets a run at work.
const MANY_KILLS: u64 = 20;

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// BackupJobs.
    pub jobs: usize,
    /// How long replicas were killed.
    pub seconds: u64,
    /// Kills.
    pub kills: u64,
    /// Ticks that were due.
    pub ticks: usize,
    /// Ticks that became a BackupRun.
    pub runs: usize,
    /// Runs that Succeeded.
    pub succeeded: usize,
    /// Ticks that were skipped, and said so, because the run before was not through.
    pub skipped: usize,
    /// Attempts that died with their process.
    pub attempts_lost: usize,
    /// Runs that saw two crashes, and were ended for it.
    pub crash_loops: usize,
    /// Runs that did not succeed for another reason.
    pub failed: usize,
    /// Ticks of which nothing is known.
    pub lost: usize,
    /// Ticks that ran twice, or runs with two backups.
    pub doubled: usize,
    /// Backups that are listed and are not whole, or are of a run that is said to have failed.
    pub not_whole: usize,
    /// Folders without a manifest, and uploads that are open.
    pub left_behind: usize,
}

impl Outcome {
    /// Nothing was lost, doubled, half or left behind; most ticks are backups, though replicas were killed; and where there
    /// were many kills, some of them met a run.
    pub fn is_good(&self) -> bool {
        let bad = self.failed + self.lost + self.doubled + self.not_whole + self.left_behind;
        let most = self.succeeded > 0 && self.succeeded * 2 >= self.ticks;
        let met = self.kills < MANY_KILLS || self.attempts_lost > 0;
        bad == 0 && most && met && self.runs + self.skipped == self.ticks
    }

    /// For a person.
    pub fn text(&self) -> String {
        format!(
            "{} jobs, {} s, {} kills: {} ticks, of which {} ran ({} succeeded, {} ended by a second crash) and {} were \
             skipped; {} attempts died with their process\n{} lost, {} doubled, {} not whole, {} left behind, {} failed\n",
            self.jobs,
            self.seconds,
            self.kills,
            self.ticks,
            self.runs,
            self.succeeded,
            self.crash_loops,
            self.skipped,
            self.attempts_lost,
            self.lost,
            self.doubled,
            self.not_whole,
            self.left_behind,
            self.failed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_may_be_lost_doubled_half_or_left() {
        let good =
            Outcome { kills: 20, attempts_lost: 1, ticks: 5, runs: 4, skipped: 1, succeeded: 4, ..Outcome::default() };
        assert!(good.is_good());
        assert!(!Outcome::default().is_good(), "nothing happened");
        let spoilers: [fn(&mut Outcome); 8] = [
            |o| o.lost = 1,
            |o| o.doubled = 1,
            |o| o.not_whole = 1,
            |o| o.left_behind = 1,
            |o| o.failed = 1,
            |o| o.skipped = 0,
            |o| o.attempts_lost = 0,
            |o| (o.succeeded, o.crash_loops) = (2, 2),
        ];
        for spoil in spoilers {
            let mut bad = good.clone();
            spoil(&mut bad);
            assert!(!bad.is_good(), "{bad:?}");
        }
    }

    #[test]
    fn the_outcome_is_written_where_it_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gone/result.json");
        let measure = Measure { jobs: 1, seconds: 1, kills: 1, result: Some(path.clone()) };
        let outcome = Outcome { ticks: 5, runs: 4, ..Outcome::default() };
        measure.report(&outcome).unwrap();
        assert_eq!(serde_json::from_slice::<Outcome>(&std::fs::read(path).unwrap()).unwrap(), outcome);
    }

    #[test]
    fn what_is_not_said_is_small() {
        let measure = Measure::from_variables(|_| None).expect("defaults");
        assert!(measure.seconds < 200 && measure.result.is_none());
        let measure = Measure::from_variables(|name| (name == "UBO_SOAK_KILLS").then(|| "100".into())).expect("good");
        assert_eq!(measure.kills, 100);
        assert!(Measure::from_variables(|_| Some("many".into())).is_err());
    }
}
