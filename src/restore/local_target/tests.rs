use super::*;
use crate::archive::entries::asked_path;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A header for a test's tar: kind, size, mode.
fn header(kind: tar::EntryType, size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(1_000_000_000);
    header.set_uid(rustix::process::geteuid().as_raw().into());
    header.set_gid(rustix::process::getegid().as_raw().into());
    header
}

/// Adds an entry with any name at all, also such as no honest writer would use.
fn add(tar: &mut tar::Builder<Vec<u8>>, mut header: tar::Header, name: &str, link: &str, content: &[u8]) {
    let raw = header.as_old_mut();
    raw.name[..name.len()].copy_from_slice(name.as_bytes());
    raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    tar.append(&header, content).unwrap();
}

fn file(tar: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
    add(tar, header(tar::EntryType::Regular, content.len() as u64, 0o640), name, "", content);
}

fn link(tar: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, name: &str, to: &str) {
    add(tar, header(kind, 0, 0o777), name, to, b"");
}

fn unpack(tar: tar::Builder<Vec<u8>>, into: &Path, paths: &[&str]) -> Result<Written, Failure> {
    let paths = paths.iter().filter_map(|p| asked_path(p).unwrap()).collect();
    let bytes = tar.into_inner().unwrap();
    let mut target = FolderTarget::new(into, paths, root())?;
    let written = target.write(Content::Tar, &mut bytes.as_slice())?;
    target.confirm()?;
    Ok(written)
}

fn new_tar() -> tar::Builder<Vec<u8>> {
    tar::Builder::new(Vec::new())
}

#[test]
fn modes_times_and_links_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("into");
    let mut tar = new_tar();
    add(&mut tar, header(tar::EntryType::Directory, 0, 0o750), "./", "", b"");
    add(&mut tar, header(tar::EntryType::Directory, 0, 0o555), "./read-only/", "", b"");
    file(&mut tar, "./read-only/a", b"content");
    link(&mut tar, tar::EntryType::Link, "./hard", "./read-only/a");
    link(&mut tar, tar::EntryType::Symlink, "./soft", "/nowhere/at/all");
    tar.append_pax_extensions([("mtime", b"1000000000.123456789".as_slice())]).unwrap();
    file(&mut tar, "./exact", b"");
    let written = unpack(tar, &into, &[]).unwrap();
    assert_eq!((written.entries, written.bytes, written.problem_count), (5, 7, 0), "{:?}", written.problems);
    let a = into.join("read-only/a").metadata().unwrap();
    assert_eq!((a.permissions().mode() & 0o7777, a.mtime(), a.nlink()), (0o640, 1_000_000_000, 2));
    let ro = into.join("read-only").metadata().unwrap();
    assert_eq!((ro.permissions().mode() & 0o7777, ro.mtime()), (0o555, 1_000_000_000));
    assert_eq!(into.metadata().unwrap().permissions().mode() & 0o7777, 0o750);
    assert_eq!(std::fs::read_link(into.join("soft")).unwrap(), Path::new("/nowhere/at/all"));
    assert_eq!(into.join("soft").symlink_metadata().unwrap().mtime(), 1_000_000_000);
    assert_eq!(into.join("exact").metadata().unwrap().mtime_nsec(), 123_456_789);
}

#[test]
fn nothing_is_written_outside_the_folder() {
    for (case, name, kind, to) in [
        ("absolute", "/tmp/ubo-test-outside", tar::EntryType::Regular, ""),
        ("climbs", "../outside", tar::EntryType::Regular, ""),
        ("climbs inside", "a/../../outside", tar::EntryType::Directory, ""),
        ("a hard link out", "innocent", tar::EntryType::Link, "../outside"),
        ("an absolute hard link", "innocent", tar::EntryType::Link, "/etc/passwd"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("outside-too"), b"").unwrap();
        let mut tar = new_tar();
        link(&mut tar, kind, name, to);
        let failure = unpack(tar, &folder.path().join("into"), &[]).unwrap_err();
        assert_eq!(failure.reason, Reason::BackupDamaged, "{case}");
        assert!(!folder.path().join("outside").exists(), "{case}");
    }
}

#[test]
fn nothing_is_written_through_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("victim"), b"untouched").unwrap();
    let target = outside.to_str().unwrap();
    let mut tar = new_tar();
    link(&mut tar, tar::EntryType::Symlink, "door", target);
    file(&mut tar, "door/victim", b"overwritten");
    add(&mut tar, header(tar::EntryType::Directory, 0, 0o700), "door/", "", b"");
    link(&mut tar, tar::EntryType::Link, "stolen", "door/victim");
    link(&mut tar, tar::EntryType::Symlink, "alias", &format!("{target}/victim"));
    file(&mut tar, "alias", b"replaces the link");
    let into = folder.path().join("into");
    let written = unpack(tar, &into, &[]).unwrap();
    assert_eq!(std::fs::read(outside.join("victim")).unwrap(), b"untouched");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    assert!(!into.join("stolen").exists());
    assert_eq!(std::fs::read(into.join("alias")).unwrap(), b"replaces the link");
    assert!(into.join("alias").symlink_metadata().unwrap().is_file());
    assert_eq!(written.problem_count, 3, "{:?}", written.problems);
}

#[test]
fn what_is_not_made_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut tar = new_tar();
    for kind in [tar::EntryType::Fifo, tar::EntryType::Char, tar::EntryType::Block] {
        link(&mut tar, kind, &format!("special-{}", kind.as_byte()), "");
    }
    file(&mut tar, "good", b"x");
    let into = folder.path().join("into");
    let written = unpack(tar, &into, &[]).unwrap();
    assert_eq!((written.entries, written.problem_count), (1, 3));
    assert_eq!(std::fs::read_dir(&into).unwrap().count(), 1);
}

#[test]
fn a_set_user_id_bit_comes_with_its_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("into");
    let mut tar = new_tar();
    add(&mut tar, header(tar::EntryType::Regular, 0, 0o6755), "tool", "", b"");
    let bytes = tar.into_inner().unwrap();
    let mut target = FolderTarget::new(&into, vec![], false).unwrap();
    target.write(Content::Tar, &mut bytes.as_slice()).unwrap();
    assert_eq!(into.join("tool").metadata().unwrap().permissions().mode() & 0o7777, 0o755);
}

#[test]
fn only_what_is_asked_for() {
    let sample = || {
        let mut tar = new_tar();
        add(&mut tar, header(tar::EntryType::Directory, 0, 0o750), "./a/", "", b"");
        file(&mut tar, "./a/one", b"1");
        file(&mut tar, "./a/two", b"2");
        file(&mut tar, "./ab", b"3");
        link(&mut tar, tar::EntryType::Link, "./linked", "./a/one");
        tar
    };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    assert_eq!(unpack(sample(), &at("1"), &["a/two"]).unwrap().entries, 2);
    assert!(at("1/a/two").exists() && !at("1/a/one").exists() && !at("1/ab").exists());
    assert_eq!(at("1/a").metadata().unwrap().permissions().mode() & 0o7777, 0o750);
    assert_eq!(unpack(sample(), &at("2"), &["/a"]).unwrap().entries, 3);
    let without_first = unpack(sample(), &at("3"), &["linked"]).unwrap();
    assert!(without_first.problems[0].contains("another name of ./a/one"), "{:?}", without_first.problems);
    let some = unpack(sample(), &at("4"), &["ab", "a/nothing"]).unwrap();
    assert_eq!(some.problems, ["a/nothing is not in the backup"]);
    assert_eq!(unpack(sample(), &at("5"), &["a/nothing", "b"]).unwrap_err().reason, Reason::BackupNotFound);
}

#[test]
fn nothing_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("precious"), b"x").unwrap();
    let failure = FolderTarget::new(folder.path(), vec![], false).unwrap_err();
    assert_eq!(failure.reason, Reason::RestoreTargetUnavailable);
    assert!(failure.message.contains("not empty") && failure.message.contains("--to "), "{failure}");
    let file = folder.path().join("precious");
    assert!(FolderTarget::new(file, vec![], false).is_err());
}

#[test]
fn a_dump_becomes_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("into");
    let mut target = FolderTarget::new(&into, vec![], false).unwrap();
    let written = target.write(Content::Raw, &mut b"select 1;".as_slice()).unwrap();
    assert_eq!((written.entries, written.bytes), (1, 9));
    assert_eq!(std::fs::read(into.join(DUMP)).unwrap(), b"select 1;");
    let paths = vec![asked_path("x").unwrap().unwrap()];
    let mut target = FolderTarget::new(folder.path().join("other"), paths, false).unwrap();
    assert_eq!(target.write(Content::Raw, &mut b"x".as_slice()).unwrap_err().reason, Reason::InvalidSpec);
    let mut out = Vec::new();
    StreamTarget::new(&mut out).write(Content::Tar, &mut b"bytes".as_slice()).unwrap();
    assert_eq!(out, b"bytes");
}

#[test]
fn an_error_of_the_archive_keeps_its_reason() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other(Failure::new(Reason::DestinationUnavailable, "down")))
        }
    }
    let folder = tempfile::tempdir().unwrap();
    for content in [Content::Tar, Content::Raw] {
        let mut target = FolderTarget::new(folder.path().join(format!("{content:?}")), vec![], false).unwrap();
        assert_eq!(target.write(content, &mut Broken).unwrap_err().reason, Reason::DestinationUnavailable);
    }
}

#[test]
fn times_in_pax_records() {
    let time = |text| pax_time(text).map(|t| (t.tv_sec, t.tv_nsec));
    assert_eq!(time("12"), Some((12, 0)));
    assert_eq!(time("12.5"), Some((12, 500_000_000)));
    assert_eq!(time("12.1234567891"), Some((12, 123_456_789)));
    assert_eq!(time("-1.5"), None);
    assert_eq!(time("x"), None);
}

#[test]
fn zeros_take_no_room() {
    let folder = tempfile::tempdir().unwrap();
    // Data, and holes before it, between it, at the end, and alone; none of it at the edge of a piece.
    let mut mixed = vec![0; 9_000_001];
    mixed[3_000_000..3_000_100].fill(7);
    mixed[6_000_000] = 1;
    let hole = vec![0; 2 * HOLE];
    let files: [(&str, &[u8]); 4] = [("./mixed", &mixed), ("./empty", b""), ("./short", &[0; 5]), ("./hole", &hole)];
    let mut tar = new_tar();
    for (name, content) in files {
        file(&mut tar, name, content);
    }
    let into = folder.path().join("into");
    let written = unpack(tar, &into, &[]).unwrap();
    assert_eq!(written.bytes, files.iter().map(|(_, content)| content.len() as u64).sum::<u64>());
    for (name, content) in files {
        assert!(std::fs::read(into.join(name)).unwrap() == content, "{name}");
    }
    let room = |name: &str| into.join(name).metadata().unwrap().blocks() * 512;
    assert!((1..=4 * HOLE as u64).contains(&room("mixed")), "{} bytes of 9 MB", room("mixed"));
    assert_eq!(room("hole"), 0);
    // What has no zeros has no holes.
    let noise: Vec<u8> = (1..=255_u8).cycle().take(300_000).collect();
    let mut tar = new_tar();
    file(&mut tar, "./noise", &noise);
    let into = folder.path().join("again");
    unpack(tar, &into, &[]).unwrap();
    assert!(std::fs::read(into.join("noise")).unwrap() == noise);
}

#[test]
fn a_time_before_1970_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut tar = new_tar();
    let mut old = header(tar::EntryType::Regular, 1, 0o640);
    // As GNU tar writes it: base 256, negative.
    let mtime = &mut old.as_old_mut().mtime;
    mtime.fill(0xff);
    mtime[4..].copy_from_slice(&(-86_400_i64).to_be_bytes());
    add(&mut tar, old, "./old", "", b"x");
    let into = folder.path().join("into");
    let written = unpack(tar, &into, &[]).unwrap();
    assert_eq!((into.join("old").metadata().unwrap().mtime(), written.problems.len()), (-86_400, 0));
}
