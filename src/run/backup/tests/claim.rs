//! What becomes of `owner.json` when the server says that it has received other bytes than were sent.

use super::*;
use crate::repository::manifest::Owner;

const KEY: &str = "default/pg/owner.json";

fn ours() -> Owner {
    verdict::owner(&plan().id)
}

fn document(owner: Owner) -> Bytes {
    manifest::to_bytes(&OwnerDocument { format_version: FORMAT_VERSION, owner }).unwrap()
}

/// What lies there.
async fn there(destination: &Faulty) -> Option<Bytes> {
    catalog::read_document(destination, &ObjectKey::new(KEY).unwrap()).await.ok()
}

#[tokio::test]
async fn only_what_nobody_can_have_written_is_removed() {
    let another = || Owner { job: "other".into(), job_uid: "bbbbbbbb-0000".into(), ..ours() };
    let newer = Bytes::from_static(br#"{"formatVersion": 9, "clusterId": "x"}"#);
    for (case, lies, stays) in [
        ("nothing", None, false),
        ("bytes", Some(Bytes::from_static(b"{ no json")), false),
        ("no BackupJob", Some(document(Owner { namespace: String::new(), ..ours() })), false),
        ("ours, changed", Some(document(Owner { namespace: "dafault".into(), ..ours() })), false),
        ("ours", Some(document(ours())), true),
        ("another's", Some(document(another())), true),
        ("an earlier one's", Some(document(Owner { job_uid: "bbbbbbbb-0000".into(), ..ours() })), true),
        ("a newer version's", Some(newer), true),
    ] {
        // It comes to lie there after it was looked for.
        let destination = memory().once(Operation::Read, KEY, 1, Fault::Fail(Reason::BackupNotFound)).once(
            Operation::Put,
            KEY,
            2,
            Fault::Fail(Reason::DestinationMismatch),
        );
        let key = ObjectKey::new(KEY).unwrap();
        destination.put(&key, lies.clone().unwrap_or_default(), Put::Always).await.unwrap();
        if lies.is_none() {
            destination.delete(&key).await.unwrap();
        }
        let failure = simple(&Scripted::new(Content::Raw, *b"x"), &destination).await.unwrap_err();
        assert_eq!(failure.reason, Reason::DestinationMismatch, "{case}");
        assert_eq!(there(&destination).await, lies.filter(|_| stays), "{case}");
    }
}

#[tokio::test]
async fn who_is_to_be_succeeded_stays_where_the_server_refuses_the_successor() {
    let destination = memory().once(Operation::Put, KEY, 2, Fault::Fail(Reason::DestinationMismatch));
    let source = Scripted::new(Content::Raw, *b"x");
    simple(&source, &destination).await.unwrap();
    let first = there(&destination).await;
    assert_eq!(first, Some(document(ours())));
    let mut successor = plan();
    successor.id.job_uid = Uid::new("bbbbbbbb-0000").unwrap();
    successor.id.attempt = 2;
    let cancel = Cancel::default();
    assert_eq!(run(&successor, &source, &destination, &cancel).await.unwrap_err().reason, Reason::DestinationMismatch);
    assert_eq!(there(&destination).await, first);
    // So the next attempt says whose it was.
    successor.id.attempt = 3;
    let report = run(&successor, &source, &destination, &cancel).await.unwrap();
    assert!(matches!(report.ownership, Ownership::TakenOver(_)), "{:?}", report.ownership);
}
