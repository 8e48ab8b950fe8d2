//! **A** What the person sees while it works: each step with its time, spinners on a terminal, plain lines otherwise.

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// After this long without an end a step says, on a plain output, that it is still at work; then each half minute.
const FIRST_NEWS: Duration = Duration::from_secs(5);
const MORE_NEWS: Duration = Duration::from_secs(30);
/// On a terminal a countdown moves this often.
const TICK: Duration = Duration::from_millis(250);

/// The steps' common output.
pub struct Report {
    bars: Option<MultiProgress>,
}

impl Report {
    /// Spinners if standard error is a terminal, plain lines otherwise.
    pub fn new() -> Report {
        Report { bars: std::io::stderr().is_terminal().then(MultiProgress::new) }
    }

    /// Plain lines in any case: for a run whose suites print their own.
    pub fn plain() -> Report {
        Report { bars: None }
    }

    /// Does `work` under `name`, and says how long it took and how it ended.
    pub fn step<T>(&self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let watch = Stopwatch::start();
        let result = if let Some(bars) = &self.bars {
            let bar = bars.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} {elapsed}") {
                bar.set_style(style);
            }
            bar.set_message(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            let result = work();
            bar.finish_and_clear();
            result
        } else {
            thread::scope(|scope| {
                let (ended, end) = mpsc::channel::<()>();
                scope.spawn(move || {
                    let mut patience = FIRST_NEWS;
                    while let Err(mpsc::RecvTimeoutError::Timeout) = end.recv_timeout(patience) {
                        eprintln!("  … {name}: {} so far", watch.text());
                        patience = MORE_NEWS;
                    }
                });
                let result = work();
                drop(ended);
                result
            })
        };
        let mark = if result.is_ok() { '✓' } else { '✗' };
        self.line(&format!("  {mark} {name} ({})", watch.text()));
        result
    }

    /// The same for work that waits for a moment `wait` from now: it says how long that still is.
    pub fn countdown<T>(&self, name: &str, wait: Duration, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let watch = Stopwatch::start();
        let left = || wait.saturating_sub(watch.elapsed()).as_secs();
        thread::scope(|scope| {
            let (ended, end) = mpsc::channel::<()>();
            scope.spawn(move || {
                let bar = self.bars.as_ref().map(|bars| bars.add(ProgressBar::new_spinner()));
                let pause = if bar.is_some() { TICK } else { FIRST_NEWS * 3 };
                while let Err(mpsc::RecvTimeoutError::Timeout) = end.recv_timeout(pause) {
                    let news = match left() {
                        0 => format!("{name}: now"),
                        seconds => format!("{name}: in {seconds} s"),
                    };
                    match &bar {
                        Some(bar) => bar.set_message(news),
                        None => eprintln!("  … {news}"),
                    }
                }
                if let Some(bar) = bar {
                    bar.finish_and_clear();
                }
            });
            let result = work();
            drop(ended);
            let mark = if result.is_ok() { '✓' } else { '✗' };
            self.line(&format!("  {mark} {name} ({})", watch.text()));
            result
        })
    }

    /// One line above the spinners.
    pub fn line(&self, text: &str) {
        match &self.bars {
            Some(bars) => {
                let _ = bars.println(text);
            }
            None => eprintln!("{text}"),
        }
    }
}

/// How long something takes, by this machine's clock.
#[derive(Clone, Copy)]
pub struct Stopwatch(Instant);

#[expect(clippy::disallowed_methods, reason = "the rig measures what it does; nothing is decided by it but giving up")]
impl Stopwatch {
    /// Starts now.
    pub fn start() -> Stopwatch {
        Stopwatch(Instant::now())
    }

    /// The time since the start.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    /// The time since the start, to read: `3.2 s` or `8 min 12 s`.
    pub fn text(self) -> String {
        let seconds = self.elapsed().as_secs_f64();
        if seconds < 60.0 {
            format!("{seconds:.1} s")
        } else {
            format!("{} min {} s", self.elapsed().as_secs() / 60, self.elapsed().as_secs() % 60)
        }
    }
}
