use super::*;
use crate::destination::faulty::{Fault, Faulty, Operation};
use crate::destination::object_store::ObjectStore;
use crate::destination::{Destination, Put};
use crate::repository::manifest::{EACH_FORMAT_VERSION, to_bytes};
use chrono::{DateTime, Utc};
use std::sync::Arc;

fn memory() -> Arc<dyn Destination> {
    let operator = opendal::Operator::new(opendal::services::Memory::default()).unwrap();
    Arc::new(ObjectStore::without_http(&operator, "memory"))
}

async fn put(destination: &dyn Destination, key: &str, content: impl Into<Bytes>) {
    destination.put(&ObjectKey::new(key).unwrap(), content.into(), Put::Always).await.unwrap();
}

async fn backup(destination: &dyn Destination, archive: &str, run: &str, minute: u32, outcome: Outcome) {
    let mut manifest = crate::repository::manifest::tests::sample();
    manifest.run = run.into();
    manifest.outcome = outcome;
    manifest.started_at = format!("2026-01-02T03:{minute:02}:00Z").parse::<DateTime<Utc>>().unwrap();
    put(destination, &format!("{archive}{run}-abcdef01-1/manifest.json"), to_bytes(&manifest).unwrap()).await;
    put(destination, &format!("{archive}{run}-abcdef01-1/dump.zst"), "x").await;
}

#[tokio::test]
async fn backups_are_listed_newest_first_and_damage_is_shown() {
    let d = memory();
    put(&*d, "default/pg/owner.json", "{}").await;
    backup(&*d, "default/pg/", "old", 1, Outcome::Complete).await;
    backup(&*d, "default/pg/", "new", 3, Outcome::Incomplete).await;
    backup(&*d, "default/pg/", "mid", 2, Outcome::Complete).await;
    put(&*d, "default/pg/broken-1/manifest.json", "{ not json").await;
    put(&*d, "default/pg/newer-1/manifest.json", format!("{{\"formatVersion\": {}}}", EACH_FORMAT_VERSION + 1)).await;
    put(&*d, "default/pg/at-work-1/started.json", "{}").await;
    put(&*d, "stranger.txt", "x").await;
    let archives = load(&*d, "").await.unwrap();
    assert_eq!(archives.len(), 1);
    let archive = &archives[0];
    let runs: Vec<&str> = archive.backups.iter().map(|b| b.manifest.run.as_str()).collect();
    assert_eq!((archive.name.as_str(), runs), ("default/pg", vec!["new", "mid", "old"]));
    assert_eq!(archive.unfinished, ["at-work-1"]);
    let damaged: Vec<_> = archive.damaged.iter().map(|d| (d.folder.file_name(), d.failure.reason)).collect();
    assert_eq!(damaged, [("broken-1", Reason::BackupDamaged), ("newer-1", Reason::NotSupported)]);

    let latest = choose(&archives, None, "latest").unwrap();
    assert_eq!(latest.backup.manifest.run, "mid");
    assert!(latest.notes[0].contains("new is newer, but incomplete"), "{:?}", latest.notes);
    assert_eq!(choose(&archives, None, "new").unwrap().backup.manifest.run, "new");
    assert_eq!(choose(&archives, None, "old-abcdef01-1").unwrap().backup.manifest.run, "old");
    assert_eq!(choose(&archives, None, "broken-1").unwrap_err().reason, Reason::BackupDamaged);
    assert_eq!(choose(&archives, None, "nothing").unwrap_err().reason, Reason::BackupNotFound);
}

#[tokio::test]
async fn an_archive_is_chosen_by_name() {
    let d = memory();
    backup(&*d, "default/pg/", "a", 1, Outcome::Complete).await;
    backup(&*d, "other/", "b", 1, Outcome::Incomplete).await;
    let archives = load(&*d, "").await.unwrap();
    let several = choose(&archives, None, "latest").unwrap_err();
    assert!(several.message.contains("--archive: default/pg, other"), "{several}");
    assert_eq!(choose(&archives, Some("default/pg"), "latest").unwrap().backup.manifest.run, "a");
    let none = choose(&archives, Some("other"), "latest").unwrap_err();
    assert!(none.message.contains("no complete backup") && none.message.contains('b'), "{none}");
    assert!(choose(&archives, Some("x/y"), "latest").unwrap_err().message.contains("there are: default/pg, other"));
    assert_eq!(choose(&[], None, "latest").unwrap_err().reason, Reason::BackupNotFound);
}

/// The sample's owner is default/pg, wherever it lies.
#[tokio::test]
async fn a_folder_goes_before_an_owner_and_several_of_one_owner_are_named() {
    let d = memory();
    backup(&*d, "a-copy/", "copied", 1, Outcome::Complete).await;
    backup(&*d, "z-copy/", "moved", 2, Outcome::Complete).await;
    let archives = load(&*d, "").await.unwrap();
    for run in ["latest", "copied"] {
        let several = choose(&archives, Some("default/pg"), run).unwrap_err();
        assert_eq!(several.reason, Reason::BackupNotFound);
        assert!(
            several.message.contains("several archives") && several.message.contains("a-copy, z-copy"),
            "{several}"
        );
    }
    assert_eq!(choose(&archives, Some("/z-copy/"), "latest").unwrap().backup.manifest.run, "moved");
    backup(&*d, "default/pg/", "own", 3, Outcome::Complete).await;
    let archives = load(&*d, "").await.unwrap();
    assert_eq!(choose(&archives, Some("default/pg"), "latest").unwrap().backup.manifest.run, "own");
}

#[tokio::test]
async fn the_uri_may_be_the_archives_folder_itself() {
    let d = memory();
    put(&*d, "owner.json", "{}").await;
    backup(&*d, "", "a", 1, Outcome::Complete).await;
    let archives = load(&*d, "").await.unwrap();
    assert_eq!((archives[0].name.as_str(), archives[0].shown_name().as_str()), ("", "default/pg"));
    let chosen = choose(&archives, Some("default/pg"), "latest").unwrap();
    assert_eq!(chosen.backup.key("dump.zst").unwrap().as_str(), "a-abcdef01-1/dump.zst");
    assert_eq!(chosen.backup.key("../../x").unwrap_err().reason, Reason::BackupDamaged);
}

#[tokio::test]
async fn what_cannot_be_reached_is_not_called_damaged() {
    let d = memory();
    backup(&*d, "default/pg/", "a", 1, Outcome::Complete).await;
    let down =
        Faulty::new(d.clone()).always(Operation::Read, "manifest.json", Fault::Fail(Reason::DestinationUnavailable));
    assert_eq!(load(&down, "").await.unwrap_err().reason, Reason::DestinationUnavailable);
    let pruned = Faulty::new(d).always(Operation::Read, "manifest.json", Fault::Fail(Reason::BackupNotFound));
    assert!(load(&pruned, "").await.unwrap()[0].backups.is_empty());
}

#[tokio::test]
async fn the_newest_are_found_by_their_names_or_else_by_what_the_store_says() {
    let folder = tempfile::tempdir().unwrap();
    let d = crate::destination::volume::Volume::new(folder.path());
    for run in ["pg-20260103-0200", "pg-20260101-0200", "pg-20260102-0200", "pg-20260102-0100"] {
        backup(&d, "default/pg/", run, 1, Outcome::Complete).await;
    }
    // By hand, without a time in its name: written just now, which is after all of these. Others' archives, attempts
    // without a manifest and what lies deeper are not in the list.
    backup(&d, "default/pg/", "pg-by-hand", 1, Outcome::Complete).await;
    backup(&d, "default/pg-2/", "pg-20990101-0000", 1, Outcome::Complete).await;
    backup(&d, "default/pg/below/", "pg-20990101-0000", 1, Outcome::Complete).await;
    put(&d, "default/pg/pg-20990101-0000-abcdef01-1/started.json", "{}").await;
    let runs_in = async |limit, wanted: fn(&str) -> bool| {
        let keys = newest(&d, &ObjectKey::new("default/pg").unwrap(), limit, wanted).await.unwrap();
        let run = |key: &ObjectKey| layout::place(key).unwrap().folder.trim_end_matches("-abcdef01-1").to_owned();
        keys.iter().map(run).collect::<Vec<_>>()
    };
    let runs = async |limit| runs_in(limit, |_| true).await;
    assert_eq!(runs(3).await, ["pg-by-hand", "pg-20260103-0200", "pg-20260102-0200"]);
    assert_eq!(runs(9).await.len(), 5);
    assert!(runs(0).await.is_empty());
    let early = runs_in(1, |folder| folder.starts_with("pg-20260102")).await;
    assert_eq!(early, ["pg-20260102-0200"], "what is not wanted takes nobody's place");
}
