//! **W** How far it is: a bar on a terminal, a line now and then otherwise, nothing with JSON.

use crate::run::report::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Between two looks at the counters, on a terminal.
const TICK: Duration = Duration::from_millis(100);
/// Between two lines, where there is no terminal.
const LINE: Duration = Duration::from_secs(30);

/// Shows counters on standard error until it is dropped.
pub struct Meter {
    bar: Option<ProgressBar>,
    task: Option<JoinHandle<()>>,
}

impl Meter {
    /// `doing` is shown before the numbers; `total`: what `progress.stored` will reach, where that is known.
    pub fn start(doing: &'static str, progress: &Arc<Progress>, total: Option<u64>, quiet: bool) -> Self {
        if quiet {
            return Self { bar: None, task: None };
        }
        let progress = progress.clone();
        if !stderr().is_terminal() {
            let task = tokio::spawn(async move {
                loop {
                    tokio::time::sleep(LINE).await;
                    eprintln!("{doing}: {}", numbers(&progress, total));
                }
            });
            return Self { bar: None, task: Some(task) };
        }
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        let template = if total.is_some() {
            "{spinner} {prefix} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}"
        } else {
            "{spinner} {prefix} {bytes} {bytes_per_sec} {msg}"
        };
        // A template that does not hold would be a fault of ours; the plain bar shows the same.
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        bar.set_prefix(doing);
        let shown = bar.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(TICK).await;
                if total.is_some() {
                    shown.set_position(progress.stored.load(Ordering::Relaxed));
                } else {
                    shown.set_position(progress.read.load(Ordering::Relaxed));
                    shown.set_message(format!("· {} stored", human_size(progress.stored.load(Ordering::Relaxed))));
                }
                shown.tick();
            }
        });
        Self { bar: Some(bar), task: Some(task) }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn numbers(progress: &Progress, total: Option<u64>) -> String {
    let (read, stored) = (progress.read.load(Ordering::Relaxed), progress.stored.load(Ordering::Relaxed));
    match total {
        Some(total) => format!("{} of {}", human_size(stored), human_size(total)),
        None => format!("{} read, {} stored", human_size(read), human_size(stored)),
    }
}

/// A size as a person reads it: `17 B`, `1.5 KiB`, `2.0 GiB`.
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths, in whole numbers, so that nothing is lost on the way; 1023.95 KiB is 1.0 MiB.
    let mut unit = 0;
    let mut divisor: u128 = 1024;
    while unit + 1 < UNITS.len() && (u128::from(bytes) * 10 + divisor / 2) / divisor >= 10240 {
        unit += 1;
        divisor *= 1024;
    }
    let tenths = (u128::from(bytes) * 10 + divisor / 2) / divisor;
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_a_person_reads_them() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(human_size(bytes), text);
        }
    }
}
