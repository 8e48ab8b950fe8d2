//! Uploads whose commit did not end, or failed and could not throw them away.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_upload_of_a_commit_that_hung_is_looked_for_and_said_where_it_may_stay() {
    for (fault, said) in
        [(None, false), (Some(Fault::Hang), true), (Some(Fault::Fail(Reason::DestinationDenied)), true)]
    {
        let mut destination = memory().always(Operation::Commit, "", Fault::Hang);
        if let Some(fault) = fault {
            destination = destination.always(Operation::AbortUploads, "", fault);
        }
        let cancel = Cancel::default();
        let stop = async {
            while !destination.done().iter().any(|(o, _)| *o == Operation::Commit) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            cancel.request(Reason::CancelRequested);
        };
        let (plan, source) = (plan(), Scripted::new(Content::Raw, *b"x"));
        let (result, ()) = tokio::join!(run(&plan, &source, &destination, &cancel), stop);
        let failure = result.unwrap_err();
        assert_eq!(
            failure.message.contains("stays: perhaps an unfinished upload of dump.zst"),
            said,
            "{fault:?}: {failure}"
        );
        let looked = destination.done().into_iter().filter(|(o, _)| *o == Operation::AbortUploads).count();
        assert_eq!(looked, 1, "{fault:?}");
        assert_nothing_left(&destination, "a commit that hung").await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_upload_that_a_failed_commit_could_not_throw_away_is_looked_for_again() {
    // A list that is empty is no proof, for one that is known to be there.
    for fault in [None, Some(Fault::Fail(Reason::DestinationDenied))] {
        let denied = Fault::Fail(Reason::DestinationDenied);
        let mut destination = memory().always(Operation::Commit, "", denied).always(Operation::Abort, "", denied);
        if let Some(fault) = fault {
            destination = destination.always(Operation::AbortUploads, "", fault);
        }
        let failure = simple(&Scripted::new(Content::Raw, *b"x"), &destination).await.unwrap_err();
        assert!(failure.left.is_some_and(|left| left.contains("unfinished upload of dump.zst")), "{fault:?}");
        let by_key = |(operation, key): &(Operation, String)| {
            *operation == Operation::AbortUploads && key.ends_with("/dump.zst")
        };
        assert!(destination.done().iter().any(by_key), "{fault:?}");
    }
}
