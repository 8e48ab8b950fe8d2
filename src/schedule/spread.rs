//! **P** Stable spreading: where between nothing and a limit a tick lies, by a hash that every version computes alike.
//!
//! Two uses, and a word for each so that they do not move together: the jitter of a tick, which hangs on job and tick
//! alone (every process computes the same), and the place of a made-up tick in the catch-up window, which also hangs on
//! the minute in which it was found late, so that a process that ends again and again within the window does not pass
//! over the same jobs each time.

use crate::api::names::JobRef;
use chrono::{DateTime, TimeDelta, Utc};

/// The jitter of a tick: from nothing to `limit`, in whole milliseconds. `limit` below zero counts as none.
pub(super) fn jitter(job: &JobRef, tick: DateTime<Utc>, limit: TimeDelta) -> TimeDelta {
    place("jitter", job, &[tick.timestamp()], limit)
}

/// How long a tick that was found late at `found` is held back: from nothing to `limit`, in whole milliseconds.
pub(super) fn catch_up(job: &JobRef, tick: DateTime<Utc>, found: DateTime<Utc>, limit: TimeDelta) -> TimeDelta {
    place("catch-up", job, &[tick.timestamp(), found.timestamp().div_euclid(60)], limit)
}

fn place(word: &str, job: &JobRef, times: &[i64], limit: TimeDelta) -> TimeDelta {
    let limit = limit.num_milliseconds().max(0).unsigned_abs();
    let mut hash = blake3::Hasher::new();
    hash.update(word.as_bytes()).update(b"/").update(job.to_string().as_bytes());
    for time in times {
        hash.update(b"/").update(&time.to_be_bytes());
    }
    let number = hash.finalize().as_bytes()[..8].iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    // The upper half of a product of 128 bits: as even as the hash, whatever the limit.
    let scaled = (u128::from(number) * (u128::from(limit) + 1)) >> 64;
    TimeDelta::milliseconds(i64::try_from(scaled).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn job(name: &str) -> JobRef {
        JobRef::new("default", name).expect("good name")
    }

    #[test]
    fn these_values_are_for_ever() {
        // A release that computes others would start one night's backups at two times.
        let tick = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
        let hour = TimeDelta::hours(1);
        let (jitter, catch_up) = (jitter(&job("pg"), tick, hour), catch_up(&job("pg"), tick, tick, hour));
        assert_eq!((jitter.num_milliseconds(), catch_up.num_milliseconds()), (1_388_568, 823_269));
    }

    #[test]
    fn a_thousand_jobs_fill_the_window_evenly() {
        let tick = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
        let window = TimeDelta::minutes(10);
        let mut tenths = [0u32; 10];
        for number in 0..1000 {
            let at = catch_up(&job(&format!("job-{number}")), tick, tick, window);
            let tenth = usize::try_from(at.num_milliseconds() * 10 / (window.num_milliseconds() + 1)).expect("small");
            tenths[tenth] += 1;
        }
        assert!(tenths.iter().all(|count| (60..=140).contains(count)), "{tenths:?}");
    }

    proptest! {
        #[test]
        fn it_never_leaves_the_limit(name in "[a-z]{1,20}", tick in 0..4_000_000_000_i64, limit in -10..1_000_000_i64) {
            let tick = DateTime::from_timestamp(tick, 0).expect("in range");
            let limit = TimeDelta::milliseconds(limit);
            for at in [jitter(&job(&name), tick, limit), catch_up(&job(&name), tick, tick, limit)] {
                prop_assert!(at >= TimeDelta::zero() && at <= limit.max(TimeDelta::zero()));
            }
        }
    }
}
