//! On paused time, with Leases in memory.

use super::*;
use crate::lease::{SCHEDULER, Terms};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

struct PausedClock;

impl Clock for PausedClock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH
    }
    fn monotonic(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

#[derive(Default)]
struct Memory {
    leases: Mutex<BTreeMap<String, Record>>,
    version: AtomicU64,
    /// Holders whose requests hang.
    cut_off: Mutex<BTreeSet<String>>,
}

impl Memory {
    fn record(&self, entry: &Entry, transitions: i32) -> Record {
        let version = self.version.fetch_add(1, Ordering::SeqCst).to_string();
        Record { version, holder: entry.holder.clone(), lasts: entry.lasts, transitions }
    }
}

/// The API server as one process reaches it.
struct Seat(Arc<Memory>, &'static str);

impl Seat {
    async fn reach(&self) {
        let hangs = self.0.cut_off.lock().expect("sound").contains(self.1);
        if hangs {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Leases for Seat {
    async fn get(&self, name: &str) -> Result<Option<Record>, Failure> {
        self.reach().await;
        Ok(self.0.leases.lock().expect("sound").get(name).cloned())
    }
    async fn create(&self, entry: &Entry) -> Result<Put, Failure> {
        self.reach().await;
        let mut leases = self.0.leases.lock().expect("sound");
        if leases.contains_key(&entry.name) {
            return Ok(Put::Refused);
        }
        let record = self.0.record(entry, 0);
        leases.insert(entry.name.clone(), record.clone());
        Ok(Put::Stored(record))
    }
    async fn replace(&self, entry: &Entry, seen: &Record) -> Result<Put, Failure> {
        self.reach().await;
        let mut leases = self.0.leases.lock().expect("sound");
        if leases.get(&entry.name).is_none_or(|there| there.version != seen.version) {
            return Ok(Put::Refused);
        }
        let record = self.0.record(entry, seen.transitions + i32::from(entry.taken));
        leases.insert(entry.name.clone(), record.clone());
        Ok(Put::Stored(record))
    }
    async fn list(&self, prefix: &str) -> Result<Vec<(String, Record)>, Failure> {
        self.reach().await;
        let leases = self.0.leases.lock().expect("sound");
        Ok(leases.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(n, r)| (n.clone(), r.clone())).collect())
    }
    async fn delete(&self, name: &str, seen: &Record) -> Result<(), Failure> {
        self.reach().await;
        let mut leases = self.0.leases.lock().expect("sound");
        if leases.get(name).is_some_and(|there| there.version == seen.version) {
            leases.remove(name);
        }
        Ok(())
    }
}

fn keep(memory: &Arc<Memory>, me: &'static str) -> (watch::Receiver<bool>, CancellationToken) {
    let (held, seen) = watch::channel(false);
    let stop = CancellationToken::new();
    let seat = Arc::new(Seat(Arc::clone(memory), me));
    let keeper = Keeper::new(seat, Arc::new(PausedClock), SCHEDULER, Tenure::new(me, Terms::SCHEDULING), held);
    tokio::spawn(keeper.keep(stop.clone(), false));
    (seen, stop)
}

async fn becomes(seen: &mut watch::Receiver<bool>, held: bool) -> Duration {
    let start = tokio::time::Instant::now();
    seen.wait_for(|now| *now == held).await.expect("the keeper lives");
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn the_next_one_takes_over_at_once_when_it_is_given_up() {
    let memory = Arc::new(Memory::default());
    let (mut first, stop) = keep(&memory, "a");
    becomes(&mut first, true).await;
    let (mut second, _) = keep(&memory, "b");
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert!(*first.borrow() && !*second.borrow(), "a Lease that is renewed changes hands");
    stop.cancel();
    assert!(becomes(&mut second, true).await <= Terms::SCHEDULING.retry);
    let transitions = memory.leases.lock().expect("sound")[SCHEDULER].transitions;
    assert_eq!(transitions, 1);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_cut_off_stops_before_the_next_one_begins() {
    let memory = Arc::new(Memory::default());
    let (mut first, _) = keep(&memory, "a");
    becomes(&mut first, true).await;
    let (mut second, _) = keep(&memory, "b");
    tokio::time::sleep(Duration::from_secs(30)).await;
    memory.cut_off.lock().expect("sound").insert("a".into());
    let (stopped, began) = tokio::join!(becomes(&mut first, false), becomes(&mut second, true));
    assert!(stopped <= Terms::SCHEDULING.renew_within, "{stopped:?}");
    assert!(stopped < began && began < Duration::from_secs(20), "{stopped:?} {began:?}");
    // Back again, it waits like everybody.
    memory.cut_off.lock().expect("sound").clear();
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(!*first.borrow() && *second.borrow());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_taken_away_is_made_again() {
    let memory = Arc::new(Memory::default());
    let (mut first, _) = keep(&memory, "a");
    becomes(&mut first, true).await;
    memory.leases.lock().expect("sound").clear();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(*first.borrow());
    assert_eq!(memory.leases.lock().expect("sound")[SCHEDULER].holder.as_deref(), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn the_leader_removes_the_leases_of_the_dead_and_of_nobody_else() {
    let memory = Arc::new(Memory::default());
    let seat = Seat(Arc::clone(&memory), "a");
    let dead =
        Entry { name: "ubo-executor-b".into(), holder: Some("b".into()), lasts: Duration::from_mins(1), taken: true };
    seat.create(&dead).await.expect("made");
    let (leads, leading) = watch::channel(false);
    let (told, mut living) = tokio::sync::mpsc::channel(1);
    let roll = call_the_roll(Arc::new(Seat(Arc::clone(&memory), "a")), Arc::new(PausedClock), leading, move |now| {
        let told = told.clone();
        async move { told.send(now).await.is_ok() }
    });
    tokio::spawn(roll);
    assert!(living.recv().await.expect("a list").contains("b"));
    let start = tokio::time::Instant::now();
    while living.recv().await.expect("a list").contains("b") {}
    assert!((58..=62).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert!(memory.leases.lock().expect("sound").contains_key("ubo-executor-b"), "removed by a follower");
    leads.send_replace(true);
    for _ in 0..3 {
        living.recv().await.expect("a list");
    }
    assert!(memory.leases.lock().expect("sound").is_empty());
}
