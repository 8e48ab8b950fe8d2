//! **A** Waiting for a condition, with an end to patience.

use crate::report::Stopwatch;
use anyhow::{Result, bail};
use std::thread;
use std::time::Duration;

/// Looks every `pause` whether `holds`, until it does; after `patience` it fails and names `what`.
pub fn until(what: &str, patience: Duration, pause: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let watch = Stopwatch::start();
    while !holds()? {
        if watch.elapsed() > patience {
            bail!("{what}: not within {} s", patience.as_secs());
        }
        thread::sleep(pause);
    }
    Ok(())
}
