//! **P** The queue's promises: the limit, the round, the order within a namespace, no hole.

use super::*;
use proptest::prelude::*;

fn namespace(number: u8) -> Namespace {
    Namespace::new(format!("ns-{number}")).expect("good name")
}

fn tick(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).expect("in range")
}

#[test]
fn namespaces_take_turns_and_the_earliest_tick_goes_first() {
    let mut queue = Queue::new(1);
    let first = queue.enter(&namespace(0), tick(9));
    assert_eq!(queue.admit(), [first]);
    let many: Vec<_> = (0..3).map(|number| queue.enter(&namespace(0), tick(10 - number))).collect();
    let other = queue.enter(&namespace(1), tick(50));
    assert_eq!(many.iter().map(|ticket| queue.position(*ticket)).collect::<Vec<_>>(), [Some(4), Some(3), Some(1)]);
    assert_eq!(queue.position(other), Some(2), "not behind the whole of the other namespace");
    assert_eq!(queue.position(first), None, "it works");
    let mut order = Vec::new();
    let mut working = first;
    for _ in 0..4 {
        queue.leave(working);
        let admitted = queue.admit();
        assert_eq!(admitted.len(), 1);
        working = admitted[0];
        order.push(working);
    }
    assert_eq!(order, [many[2], other, many[1], many[0]]);
}

#[test]
fn only_the_first_twenty_have_a_place() {
    let mut queue = Queue::new(1);
    let working = queue.enter(&namespace(0), tick(0));
    queue.admit();
    let waiting: Vec<_> = (0..30).map(|number| queue.enter(&namespace(number % 7), tick(i64::from(number)))).collect();
    let mut places: Vec<_> = waiting.iter().filter_map(|ticket| queue.position(*ticket)).collect();
    places.sort_unstable();
    assert_eq!(places, (1..=SHOWN).collect::<Vec<_>>());
    queue.leave(working);
    assert_eq!(queue.waiting(), 30);
}

#[derive(Clone, Debug)]
enum Step {
    Enter(u8, i64),
    /// The n-th of those who wait or work goes.
    Leave(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..5_u8, 0..50_i64).prop_map(|(namespace, tick)| Step::Enter(namespace, tick)),
        2 => any::<usize>().prop_map(Step::Leave),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    /// Against a model that is too simple to be wrong: a list.
    #[test]
    fn the_limit_holds_no_place_is_lost_and_nobody_waits_beside_a_free_one(limit in 1..5_usize, steps in steps()) {
        let mut queue = Queue::new(limit);
        let (mut waiting, mut working): (Vec<Ticket>, Vec<Ticket>) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Enter(number, at) => waiting.push(queue.enter(&namespace(number), tick(at))),
                Step::Leave(number) => {
                    let all = waiting.len() + working.len();
                    if all == 0 { continue; }
                    let number = number % all;
                    let gone =
                        if number < waiting.len() { waiting.remove(number) } else { working.remove(number - waiting.len()) };
                    queue.leave(gone);
                    queue.leave(gone);
                }
            }
            // What is promised to those who wait is what happens next.
            let promised = waiting.iter().copied().find(|ticket| queue.position(*ticket) == Some(1));
            let admitted = queue.admit();
            if let Some(first) = admitted.first() {
                prop_assert_eq!(promised, Some(*first));
            }
            for ticket in admitted {
                let at = waiting.iter().position(|other| *other == ticket);
                prop_assert!(at.is_some(), "admitted without waiting");
                working.push(waiting.remove(at.unwrap_or_default()));
            }
            prop_assert!(working.len() <= limit);
            prop_assert!(waiting.is_empty() || working.len() == limit);
            prop_assert_eq!(queue.waiting(), waiting.len());
            let mut places: Vec<_> = waiting.iter().filter_map(|ticket| queue.position(*ticket)).collect();
            places.sort_unstable();
            prop_assert_eq!(places, (1..=waiting.len().min(SHOWN)).collect::<Vec<_>>());
        }
        while !working.is_empty() {
            queue.leave(working.remove(0));
            for ticket in queue.admit() {
                waiting.retain(|other| *other != ticket);
                working.push(ticket);
            }
        }
        prop_assert!(waiting.is_empty(), "everybody has had his turn");
    }

    /// Whoever is first of his namespace is passed at most once by each other namespace, however many come.
    #[test]
    fn nobody_starves(crowd in prop::collection::vec((0..4_u8, 0..50_i64), 0..60)) {
        let mut queue = Queue::new(1);
        let working = queue.enter(&namespace(9), tick(0));
        queue.admit();
        for (number, at) in &crowd {
            queue.enter(&namespace(*number), tick(*at));
        }
        let patient = queue.enter(&namespace(8), tick(1_000_000));
        let mut working = working;
        let mut passed: BTreeMap<u8, u32> = BTreeMap::new();
        for turn in 0.. {
            // The crowd never ends.
            let more: Vec<_> = (0..4).map(|number| (queue.enter(&namespace(number), tick(0)), number)).collect();
            queue.leave(working);
            let admitted = queue.admit();
            prop_assert_eq!(admitted.len(), 1);
            working = admitted[0];
            if working == patient {
                break;
            }
            if let Some((_, number)) = more.iter().find(|(ticket, _)| *ticket == working) {
                *passed.entry(*number).or_default() += 1;
            }
            prop_assert!(turn < 5, "passed by {:?}", passed);
        }
    }
}
