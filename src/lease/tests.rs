use super::*;
use crate::clock::{Clock, SystemClock};
use proptest::prelude::*;

const TERMS: Terms = Terms::SCHEDULING;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn held_by(holder: &str, version: &str) -> Record {
    Record { version: version.into(), holder: Some(holder.into()), lasts: TERMS.lasts, transitions: 0 }
}

#[test]
fn every_holder_stops_before_another_may_begin() {
    for terms in [Terms::SCHEDULING, Terms::EXECUTOR] {
        assert!(terms.renew_within < terms.lasts);
        assert!(terms.retry + terms.request_limit() < terms.renew_within, "one try that hangs costs the Lease");
    }
}

#[test]
fn a_lease_is_made_renewed_and_lost() {
    let start = SystemClock.monotonic();
    let mut tenure = Tenure::new("a", TERMS);
    assert_eq!(tenure.next(start), Step::Look);
    tenure.saw(None, start);
    assert_eq!(tenure.next(start), Step::Create);
    assert!(!tenure.is_held(start), "before it is written");
    tenure.wrote(held_by("a", "1"), start);
    assert_eq!(tenure.next(start), Step::Renew(held_by("a", "1")));
    assert!(tenure.is_held(start + seconds(9)));
    assert!(!tenure.is_held(start + seconds(10)), "the deadline counts from when it was asked for");
    // It may be renewed all the same, as long as nobody else took it.
    tenure.wrote(held_by("a", "2"), start + seconds(12));
    assert!(tenure.is_held(start + seconds(13)));
    tenure.saw(Some(held_by("b", "3")), start + seconds(14));
    assert!(!tenure.is_held(start + seconds(14)), "it is another's");
}

#[test]
fn anothers_lease_is_taken_when_it_has_not_changed_for_its_duration() {
    let start = SystemClock.monotonic();
    let mut tenure = Tenure::new("b", TERMS);
    tenure.saw(Some(held_by("a", "1")), start);
    tenure.saw(Some(held_by("a", "1")), start + seconds(14));
    assert_eq!(tenure.next(start + seconds(14)), Step::Look);
    tenure.saw(Some(held_by("a", "2")), start + seconds(14));
    tenure.saw(Some(held_by("a", "2")), start + seconds(28));
    assert_eq!(tenure.next(start + seconds(28)), Step::Look, "it changed at 14");
    assert_eq!(tenure.next(start + seconds(29)), Step::Take(held_by("a", "2")));
    tenure.was_refused();
    assert_eq!(tenure.next(start + seconds(29)), Step::Look);
    let nobody = Record { holder: None, ..held_by("", "9") };
    tenure.saw(Some(nobody.clone()), start + seconds(30));
    assert_eq!(tenure.next(start + seconds(30)), Step::Take(nobody), "given up: no wait");
}

#[test]
fn the_answer_to_a_renewal_may_be_lost() {
    let start = SystemClock.monotonic();
    let mut tenure = Tenure::new("a", TERMS);
    tenure.wrote(held_by("a", "1"), start);
    // Stored as 2, unknown to us; the next renewal replaces 1 and is refused.
    tenure.was_refused();
    assert!(tenure.is_held(start + seconds(5)));
    tenure.saw(Some(held_by("a", "2")), start + seconds(5));
    assert_eq!(tenure.next(start + seconds(5)), Step::Renew(held_by("a", "2")));
    assert!(!tenure.is_held(start + seconds(10)), "looking renews nothing");
}

/// A server and processes whose clocks have nothing to do with each other.
struct Cluster {
    stored: Option<Record>,
    version: u32,
    /// True time since the beginning.
    now: Duration,
    origins: Vec<Instant>,
    tenures: Vec<Tenure>,
}

#[derive(Clone, Copy, Debug)]
enum Luck {
    /// All goes well.
    Good,
    /// The request never arrives.
    Lost,
    /// It is stored and the answer never arrives.
    AnswerLost,
}

impl Cluster {
    fn clock(&self, who: usize) -> Instant {
        self.origins[who] + self.now
    }

    fn holders(&self) -> usize {
        (0..self.tenures.len()).filter(|who| self.tenures[*who].is_held(self.clock(*who))).count()
    }

    /// What `keeper` does in a round, with a network that takes `delay` each way.
    fn round(&mut self, who: usize, luck: Luck, delay: Duration) {
        let asked = self.clock(who);
        if !matches!(self.tenures[who].next(asked), Step::Renew(_)) {
            self.now += delay;
            let stored = self.stored.clone();
            self.now += delay;
            self.tenures[who].saw(stored, asked);
        }
        let asked = self.clock(who);
        let seen = match self.tenures[who].next(asked) {
            Step::Look => return,
            Step::Create => None,
            Step::Renew(seen) | Step::Take(seen) => Some(seen),
        };
        self.now += delay;
        let version = |record: Option<&Record>| record.map(|record| record.version.clone());
        if matches!(luck, Luck::Lost) {
            return;
        }
        let granted = version(seen.as_ref()) == version(self.stored.as_ref());
        if granted {
            self.version += 1;
            self.stored = Some(held_by(&self.tenures[who].me.clone(), &self.version.to_string()));
        }
        self.now += delay;
        match (luck, granted) {
            (Luck::AnswerLost, _) => {}
            (_, true) => self.tenures[who].wrote(self.stored.clone().expect("just stored"), asked),
            (_, false) => self.tenures[who].was_refused(),
        }
    }
}

fn luck() -> impl Strategy<Value = Luck> {
    prop_oneof![6 => Just(Luck::Good), 2 => Just(Luck::Lost), 1 => Just(Luck::AnswerLost)]
}

proptest! {
    /// Whatever the network does and however far the machines' clocks are apart: never two holders.
    #[test]
    fn there_are_never_two_holders(
        offsets in prop::collection::vec(0u64..100_000, 3),
        acts in prop::collection::vec((0usize..3, luck(), 0u64..2_000, 0u64..9_000), 1..120),
    ) {
        let start = SystemClock.monotonic();
        let mut cluster = Cluster {
            stored: None,
            version: 0,
            now: Duration::ZERO,
            origins: offsets.iter().map(|offset| start + seconds(*offset)).collect(),
            tenures: ["a", "b", "c"].map(|me| Tenure::new(me, TERMS)).into(),
        };
        for (who, luck, delay, pause) in acts {
            cluster.round(who, luck, Duration::from_millis(delay));
            prop_assert!(cluster.holders() <= 1, "{:?}", cluster.tenures);
            cluster.now += Duration::from_millis(pause);
            prop_assert!(cluster.holders() <= 1, "{:?}", cluster.tenures);
        }
    }

    /// A holder that dies is succeeded, within its duration and two looks.
    #[test]
    fn a_dead_holder_is_succeeded(before in 1u64..20, pause in 100u64..2_000) {
        let start = SystemClock.monotonic();
        let mut cluster = Cluster {
            stored: None,
            version: 0,
            now: Duration::ZERO,
            origins: vec![start, start + seconds(7)],
            tenures: ["a", "b"].map(|me| Tenure::new(me, TERMS)).into(),
        };
        for _ in 0..before {
            cluster.round(0, Luck::Good, Duration::from_millis(5));
            cluster.round(1, Luck::Good, Duration::from_millis(5));
            cluster.now += seconds(2);
        }
        prop_assert!(cluster.tenures[0].is_held(cluster.clock(0)));
        let died = cluster.now;
        while !cluster.tenures[1].is_held(cluster.clock(1)) {
            cluster.round(1, Luck::Good, Duration::from_millis(5));
            cluster.now += Duration::from_millis(pause);
            prop_assert!(cluster.now < died + TERMS.lasts + seconds(5), "nobody took it");
        }
        prop_assert!(cluster.holders() == 1);
    }
}
