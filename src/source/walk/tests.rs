use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

/// Reads everything: the tar, and what was said.
async fn capture(root: &Path) -> (Vec<u8>, Result<Completion, Failure>) {
    let mut capture = Walk::new(root).open(CancellationToken::new()).await.unwrap();
    let mut tar = Vec::new();
    while let Some(chunk) = capture.bytes.recv().await {
        assert!(chunk.len() <= CHUNK_LIMIT);
        tar.extend_from_slice(&chunk);
    }
    (tar, capture.completion.await)
}

fn names(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    archive.entries().unwrap().map(|e| String::from_utf8_lossy(&e.unwrap().path_bytes()).into_owned()).collect()
}

/// A tree with one of everything that is archived.
fn tree(root: &Path) {
    let long = "n".repeat(150);
    std::fs::create_dir_all(root.join("b/empty")).unwrap();
    std::fs::write(root.join("b/file"), vec![7; 300_000]).unwrap();
    std::fs::write(root.join("a"), b"").unwrap();
    std::fs::hard_link(root.join("b/file"), root.join("c-linked")).unwrap();
    symlink("b/file", root.join("d-symbolic")).unwrap();
    symlink(format!("/nowhere/{long}"), root.join("e-dangling")).unwrap();
    std::fs::write(root.join(&long), b"long").unwrap();
    std::fs::write(root.join("z-\u{fc}mlaut"), b"utf-8").unwrap();
    std::fs::write(root.join(std::ffi::OsStr::from_bytes(b"z-\xff")), b"not utf-8").unwrap();
    std::fs::set_permissions(root.join("b"), PermissionsExt::from_mode(0o2750)).unwrap();
    std::fs::set_permissions(root.join("a"), PermissionsExt::from_mode(0o4711)).unwrap();
}

#[tokio::test]
async fn plain_tar_restores_the_same_tree() {
    let from = tempfile::tempdir().unwrap();
    let to = tempfile::tempdir().unwrap();
    tree(from.path());
    let (tar, completion) = capture(from.path()).await;
    let Completion::Complete(ending) = completion.unwrap() else { panic!("it should be complete") };
    assert_eq!(ending.warnings, Vec::<String>::new());
    let file = to.path().join("x.tar");
    std::fs::write(&file, &tar).unwrap();
    let into = to.path().join("into");
    std::fs::create_dir(&into).unwrap();
    let out = Command::new("tar").arg("-xpf").arg(&file).arg("-C").arg(&into).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(listing(from.path()), listing(&into));
    assert_eq!(std::fs::read(into.join("b/file")).unwrap(), vec![7; 300_000]);
    assert_eq!(into.join("b/file").metadata().unwrap().ino(), into.join("c-linked").metadata().unwrap().ino());
}

/// Everything that can be compared, by `find`.
fn listing(root: &Path) -> String {
    let format = "%P|%y|%m|%U|%G|%T@|%l|%n\n";
    let out = Command::new("find").arg(".").args(["-printf", format]).current_dir(root).output().unwrap();
    assert!(out.status.success());
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[tokio::test]
async fn the_same_tree_gives_the_same_tar_in_order() {
    let from = tempfile::tempdir().unwrap();
    tree(from.path());
    let (first, _) = capture(from.path()).await;
    let (second, _) = capture(from.path()).await;
    assert!(first == second);
    let names = names(&first);
    assert_eq!(names[..5], ["./", "./a", "./b/", "./b/empty/", "./b/file"]);
    let mut watch = crate::source::tar_end::TarWatch::default();
    watch.push(&first);
    // a, b/file, c-linked, the long one and the two odd ones; only `a` is empty, and a link has no content of its own.
    assert_eq!(watch.finish().unwrap(), crate::source::tar_end::Counts { files: 6, with_content: 4 });
}

#[tokio::test]
async fn what_is_no_file_makes_it_incomplete() {
    let from = tempfile::tempdir().unwrap();
    std::fs::write(from.path().join("good"), b"x").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.path().join("sock")).unwrap();
    assert!(Command::new("mkfifo").arg(from.path().join("fifo")).status().unwrap().success());
    let (tar, completion) = capture(from.path()).await;
    let Completion::Incomplete(_, reason, message) = completion.unwrap() else { panic!("it should be incomplete") };
    assert_eq!(reason, Reason::SourceIncomplete);
    assert_eq!(message, "not in the backup: ./fifo (a fifo), ./sock (a socket)");
    assert_eq!(names(&tar), ["./", "./good"]);
}

#[test]
fn a_file_that_changes_does_not_shift_what_follows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    std::fs::write(&path, vec![9; 1000]).unwrap();
    let read = |left: u64| {
        let mut announced = Announced { file: File::open(&path).unwrap(), left, fault: None, short: false };
        let mut all = Vec::new();
        announced.read_to_end(&mut all).unwrap();
        (all, announced.short)
    };
    // It grew: cut. It shrank: filled up.
    assert_eq!(read(400), (vec![9; 400], false));
    let (longer, short) = read(5000);
    assert!(short && longer.len() == 5000 && longer[..1000] == vec![9; 1000] && longer[1000..].iter().all(|b| *b == 0));
}

#[test]
fn a_name_is_a_link_only_to_what_is_still_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (sender, mut bytes) = mpsc::channel(CHANNEL_CHUNKS);
    let stream = Stream { sender, chunk: BytesMut::new(), cancel: CancellationToken::new() };
    let root = folder.path().to_path_buf();
    let mut walker = Walker { root, tar: tar::Builder::new(stream), links: BTreeMap::new(), notes: Notes::default() };
    let mut entry = |name: &str| {
        let meta = at(name).symlink_metadata().unwrap();
        walker.entry(&Path::new(".").join(name), &at(name), &meta).unwrap();
    };
    std::fs::write(at("one"), b"old").unwrap();
    for name in ["two", "three"] {
        std::fs::hard_link(at("one"), at(name)).unwrap();
    }
    entry("one");
    entry("two");
    // Written to in between: it is not what it was under its first name. What comes next is the same as this.
    std::fs::write(at("three"), b"longer").unwrap();
    entry("three");
    entry("one");
    // Its number alone, with one name: as if the file had gone and another one had got it.
    std::fs::remove_file(at("one")).unwrap();
    std::fs::remove_file(at("two")).unwrap();
    entry("three");
    walker.tar.finish().unwrap();
    walker.tar.get_mut().flush().unwrap();
    drop(walker);
    let mut tar = Vec::new();
    while let Ok(chunk) = bytes.try_recv() {
        tar.extend_from_slice(&chunk);
    }
    let mut archive = tar::Archive::new(tar.as_slice());
    let found: Vec<(String, Option<String>, u64)> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let text = |bytes: std::borrow::Cow<'_, [u8]>| String::from_utf8(bytes.into_owned()).unwrap();
            (text(entry.path_bytes()), entry.link_name_bytes().map(text), entry.size())
        })
        .collect();
    let name = |name: &str, link: Option<&str>, size| (format!("./{name}"), link.map(|link| format!("./{link}")), size);
    assert_eq!(
        found,
        [
            name("one", None, 3),
            name("two", Some("one"), 0),
            name("three", None, 6),
            name("one", Some("three"), 0),
            name("three", None, 6)
        ]
    );
}

#[test]
fn what_cannot_be_read_is_named_and_what_vanished_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (sender, _bytes) = mpsc::channel(CHANNEL_CHUNKS);
    let stream = Stream { sender, chunk: BytesMut::new(), cancel: CancellationToken::new() };
    let root = folder.path().to_path_buf();
    let mut walker = Walker { root, tar: tar::Builder::new(stream), links: BTreeMap::new(), notes: Notes::default() };
    walker.unreadable(Path::new("./gone"), &io::ErrorKind::NotFound.into());
    assert!(matches!(walker.notes.completion(), Completion::Complete(ending) if ending.warnings.len() == 1));
    for name in ["./a", "./b", "./c", "./d", "./e"] {
        walker.unreadable(Path::new(name), &io::ErrorKind::PermissionDenied.into());
    }
    let Completion::Incomplete(_, _, message) = walker.notes.completion() else { panic!("it should be incomplete") };
    assert!(message.contains("./a (permission denied)") && message.ends_with("and 2 more"), "{message}");
}

#[tokio::test]
async fn a_cancel_ends_it() {
    let from = tempfile::tempdir().unwrap();
    std::fs::write(from.path().join("large"), vec![1; 20_000_000]).unwrap();
    let cancel = CancellationToken::new();
    let mut capture = Walk::new(from.path()).open(cancel.clone()).await.unwrap();
    capture.bytes.recv().await.unwrap();
    cancel.cancel();
    while capture.bytes.recv().await.is_some() {}
    assert_eq!(capture.completion.await.unwrap_err().reason, Reason::CancelRequested);
    // And so does a receiver that went away.
    let mut capture = Walk::new(from.path()).open(CancellationToken::new()).await.unwrap();
    capture.bytes.close();
    assert!(capture.completion.await.is_err());
}

#[tokio::test]
async fn what_is_no_folder_is_told_at_once() {
    let from = tempfile::tempdir().unwrap();
    let file = from.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    for path in [file, from.path().join("missing")] {
        let failure = Walk::new(path).open(CancellationToken::new()).await.err().unwrap();
        assert_eq!(failure.reason, Reason::SourceUnavailable);
    }
}
