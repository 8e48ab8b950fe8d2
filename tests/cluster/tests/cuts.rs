//! A stream that is cut at any byte is no backup.

#[path = "exec/world.rs"]
mod world;

use futures::StreamExt;
use serde_json::json;
use std::hash::{BuildHasher, RandomState};
use tokio_util::sync::CancellationToken;
use ubo::error::Reason;
use ubo::source::{Completion, Source};
use world::{Pace, World, drain, stdout};

/// `product.md` section 8 and the issue: none of so many may be taken for whole.
const CUTS: u64 = 100;
/// How many go on side by side: each waits for seconds to be told that the pod is still there.
const AT_ONCE: usize = 10;
const BUSYBOX: &str = "localhost/busybox:1";
/// What is said of a stream that was whole and whose connection broke after its end.
const UNREPORTED: &str = "the API server did not report the end of the exec";
/// Bytes on the wire in which the stream's end lies, with the frames and words around it.
const END: u64 = 4096;
/// 3 MB, the same each time.
const COMMAND: &str = "seq 1 430000";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_cuts_at_random_points_make_no_backup() {
    let world = World::new("cuts").await;
    let pod = world.pod("box", BUSYBOX, &json!({})).await;
    let (world, pod) = (&world, &pod);
    // How many bytes a whole one takes on the wire, from the moment that it is open.
    let (relay, tenants) = world.relayed().await;
    let capture = world.source_of(&tenants, pod, stdout(COMMAND), world::UID).open(CancellationToken::new()).await;
    let opened = relay.passed();
    let whole = drain(capture.unwrap(), Pace::Fast).await.whole();
    let total = relay.passed() - opened;
    assert!(total > whole.len() as u64 && whole.len() > 2_800_000, "{total} bytes for {}", whole.len());

    let whole = &whole;
    let cuts = futures::stream::iter(0..CUTS).map(|number| async move {
        // The standard library's only source of chance: each hasher has keys of its own.
        let chance = RandomState::new().hash_one(number);
        // A third of them where the end marker and the words of parting are.
        let at = if number % 3 == 0 { total - chance % END } else { 1 + chance % total };
        let (relay, tenants) = world.relayed().await;
        let source = world.source_of(&tenants, pod, stdout(COMMAND), world::UID);
        let capture = source.open(CancellationToken::new()).await.unwrap();
        // What came between is not counted, so that the cut is at this byte or a little later.
        relay.cut_after(at.saturating_sub(relay.passed().saturating_sub(opened)).max(1));
        let outcome = drain(capture, Pace::Fast).await;
        if let Err(failure) = &outcome.completion {
            assert_eq!(failure.reason, Reason::StreamCut, "cut after {at} of {total}: {failure}");
            return true;
        }
        // Too late to harm: everything had come, the end marker included. Only the API server's word on it may be missing,
        // and that is said.
        let Ok(Completion::Complete(ending)) = &outcome.completion else { panic!("{:?}", outcome.completion) };
        let warned = ending.warnings.iter().all(|warning| warning.starts_with(UNREPORTED));
        assert!(ending.exit_code == Some(0) && warned, "cut after {at} of {total}: {ending:?}");
        assert!(total - at < END && outcome.bytes == *whole, "cut after {at} of {total}, and taken for whole");
        false
    });
    let cuts = cuts.buffer_unordered(AT_ONCE).collect::<Vec<bool>>().await;
    let refused = cuts.iter().filter(|refused| **refused).count();
    assert!(refused as u64 >= CUTS / 2, "{refused} of {CUTS} cuts did harm: the others came too late to show anything");
    world.nothing_left_in(pod, &[]).await;
}
