use super::*;
use crate::source::tar_end::TarWatch;
use crate::source::tar_end::tests::{header, headers_of_a_large_file};
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use std::process::Command;

fn selection(include: &[&str], exclude: &[&str]) -> Option<Selection> {
    let texts = |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>();
    Selection::new(&texts(include), &texts(exclude)).unwrap()
}

fn filtered(tar: &[u8], selection: Option<Selection>, size: usize) -> (Vec<u8>, Noted) {
    let mut filter = TarFilter::new(selection);
    let mut onward = VecDeque::new();
    for chunk in tar.chunks(size) {
        filter.push(&Bytes::copy_from_slice(chunk), &mut onward);
    }
    filter.finish(&mut onward);
    (onward.into_iter().flatten().collect(), filter.noted().clone())
}

fn whole(tar: &[u8]) -> bool {
    let mut watch = TarWatch::default();
    watch.push(tar);
    watch.finish().is_ok()
}

/// Names and contents, in order.
fn entries(tar: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        (String::from_utf8_lossy(&entry.path_bytes()).into_owned(), content)
    });
    entries.collect()
}

fn names(tar: &[u8]) -> Vec<String> {
    entries(tar).into_iter().map(|(name, _)| name).collect()
}

/// A folder with what is hard to pack.
fn hard_folder(at: &Path) {
    let long = "long-".repeat(40);
    for folder in ["a/b/empty", "cache/deep", "etc"] {
        fs::create_dir_all(at.join(folder)).unwrap();
    }
    fs::create_dir_all(at.join(&long)).unwrap();
    fs::write(at.join("a/b/one.sql"), "one").unwrap();
    fs::write(at.join("a/b/two.txt"), vec![b'2'; 2000]).unwrap();
    fs::write(at.join("cache/deep/x"), "x").unwrap();
    fs::write(at.join(&long).join(format!("{}.sql", "n".repeat(200))), "long name").unwrap();
    fs::hard_link(at.join("a/b/one.sql"), at.join("a/b/same.sql")).unwrap();
    std::os::unix::fs::symlink("/".repeat(3) + &"t".repeat(300), at.join("etc/link")).unwrap();
    let sparse = fs::File::create(at.join("etc/sparse")).unwrap();
    for part in 0..40_u64 {
        std::os::unix::fs::FileExt::write_at(&sparse, b"part", part * 200_000).unwrap();
    }
    sparse.set_len(9_000_000).unwrap();
}

fn pack(at: &Path, program: &str, arguments: &[&str]) -> Vec<u8> {
    let done = Command::new(program).arg("-C").arg(at).args(arguments).args(["-cf", "-", "."]).output().unwrap();
    assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

const TARS: [(&str, &[&str]); 4] = [
    ("tar", &["--format=gnu", "--sparse", "--sort=name"]),
    ("tar", &["--format=posix", "--sort=name"]),
    ("tar", &["--format=posix", "--sparse", "--sort=name"]),
    ("tar", &["--format=gnu", "-b", "2048", "--sort=name"]),
];

#[test]
fn without_patterns_all_passes_but_the_zeros_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    hard_folder(folder.path());
    for (program, arguments) in TARS {
        let tar = pack(folder.path(), program, arguments);
        for size in [1, 100, 511, 512, 513, 10_240, tar.len()] {
            let (passed, noted) = filtered(&tar, None, size);
            assert_eq!(noted, Noted::default());
            assert!(tar.starts_with(&passed) && tar[passed.len()..].iter().all(|b| *b == 0), "{arguments:?} {size}");
            assert!(whole(&passed) && passed.ends_with(&[0; 1024]));
        }
    }
}

#[test]
fn entries_are_cut_out_whole_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    hard_folder(folder.path());
    for (program, arguments) in TARS {
        let tar = pack(folder.path(), program, arguments);
        let all = entries(&tar);
        for size in [7, 512, 700, 10_240, tar.len()] {
            let (passed, noted) = filtered(&tar, selection(&[], &["/cache/", "*.txt", "sparse"]), size);
            assert_eq!(noted, Noted::default());
            assert!(whole(&passed), "{arguments:?} {size}");
            // A sparse file in PAX form is called after its process by readers that do not know the form.
            let kept = |name: &str| !name.contains("cache") && !name.contains("two.txt") && !name.contains("sparse");
            let expected: Vec<_> =
                all.iter().filter(|(name, _)| kept(name) && !name.contains("Sparse")).cloned().collect();
            assert_eq!(entries(&passed), expected, "{arguments:?} {size}");
        }
    }
}

#[test]
fn folders_on_the_way_come_if_something_below_them_does() {
    let folder = tempfile::tempdir().unwrap();
    hard_folder(folder.path());
    // libarchive's lists a folder with its neighbours, and what is in it later.
    for (program, arguments) in TARS.into_iter().chain([("bsdtar", &["--format=gnutar"][..])]) {
        let tar = pack(folder.path(), program, arguments);
        for size in [3, 512, 10_240] {
            let (passed, _) = filtered(&tar, selection(&["two.txt", "/cache/"], &[]), size);
            let expected = ["./", "./a/", "./a/b/", "./a/b/two.txt", "./cache/", "./cache/deep/", "./cache/deep/x"];
            let found = names(&passed);
            let mut sorted = found.clone();
            sorted.sort();
            assert_eq!(sorted, expected, "{arguments:?} {size}");
            for (at, name) in found.iter().enumerate() {
                let above = name.trim_end_matches('/').rsplit_once('/').map(|(above, _)| format!("{above}/"));
                assert!(above.is_none_or(|above| found[..at].contains(&above)), "{name} comes too early: {found:?}");
            }
            assert!(whole(&passed));
        }
    }
}

#[test]
fn folders_that_wait_in_vain_have_their_limit() {
    let mut filter = TarFilter::new(selection(&["/d7/*/wanted"], &[]));
    let mut onward = VecDeque::new();
    let mut push = |filter: &mut TarFilter, path: &str, kind| {
        filter.push(&header(path, b"00000000000\0", kind).into(), &mut onward);
    };
    push(&mut filter, "d7/", b'5');
    for number in 0..30_000 {
        push(&mut filter, &format!("d7/{number}/"), b'5');
        assert!(filter.waiting < WAITING_LIMIT + 1024, "{}", filter.waiting);
    }
    push(&mut filter, "d7/29999/wanted", b'0');
    push(&mut filter, "d7/1/wanted", b'0');
    let passed: Vec<u8> = onward.into_iter().flatten().collect();
    // For the folder of the second one there was no room.
    assert_eq!(names(&passed), ["d7/", "d7/29999/", "d7/29999/wanted", "d7/1/wanted"]);
}

#[test]
fn of_a_name_that_is_longer_than_any_its_beginning_is_told() {
    let name = format!("{}/postmaster.pid", "ä".repeat(1_000_000));
    let size = format!("{:011o}\0", name.len());
    let mut tar = header("long", size.as_bytes().try_into().unwrap(), b'L');
    tar.extend_from_slice(name.as_bytes());
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    tar.extend_from_slice(&header("short", b"00000000000\0", b'0'));
    tar.extend_from_slice(&[0; 2 * BLOCK]);
    let (_, noted) = filtered(&tar, None, CHUNK_LIMIT);
    assert_eq!(noted.lock_files, ["ä".repeat(NAME_SHOWN / 2)]);
}

#[test]
fn a_link_to_a_file_that_was_left_out_is_told_as_lost() {
    let folder = tempfile::tempdir().unwrap();
    hard_folder(folder.path());
    let tar = pack(folder.path(), "tar", &["--sort=name"]);
    let (passed, noted) = filtered(&tar, selection(&[], &["one.sql"]), 512);
    assert_eq!((noted.lost, noted.lost_links), (1, vec!["a/b/same.sql".to_owned()]));
    assert!(!names(&passed).iter().any(|name| name.contains("same")) && whole(&passed));
    let (passed, noted) = filtered(&tar, selection(&[], &["same.sql"]), 512);
    assert_eq!(noted.lost, 0);
    assert!(names(&passed).contains(&"./a/b/one.sql".to_owned()));
}

#[test]
fn databases_that_run_are_known_by_their_files() {
    for (file, content, exclude, found) in [
        ("pg/postmaster.pid", "1\n", &[][..], true),
        ("pg/postmaster.pid", "", &[], true),
        ("pg/postmaster.pid", "1\n", &["postmaster.pid"], true),
        ("pg/postmaster.pid", "1\n", &["/pg/"], false),
        ("pg/postmaster.pid.old", "1\n", &[], false),
        ("mongod.lock", "1\n", &["mongod.lock"], true),
        ("mongod.lock", "", &[], false),
        ("mysql/ibdata1", "x", &[], true),
        ("postmaster.pid/x", "x", &[], false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        let (_, noted) = filtered(&pack(folder.path(), "tar", &[]), selection(&[], exclude), 100);
        assert_eq!(noted.lock_files, if found { vec![file] } else { vec![] }, "{file} {exclude:?}");
    }
}

#[test]
fn what_is_no_tar_passes_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    hard_folder(folder.path());
    let mut tar = pack(folder.path(), "tar", &[]);
    let end = tar.iter().rposition(|b| *b != 0).unwrap();
    tar[end / BLOCK * BLOCK + 100] ^= 1; // in a header, or in content behind it
    for damaged in
        [b"no tar at all, but rather long text of somebody's making".repeat(30), [vec![0; 512], tar].concat()]
    {
        for size in [100, 512, 4096] {
            let (passed, noted) = filtered(&damaged, selection(&[], &["x"]), size);
            assert!(noted.unfiltered);
            assert_eq!(passed, damaged, "{size}");
        }
    }
}

#[test]
fn a_file_that_no_octal_size_holds_passes_whole_or_not_at_all() {
    const PIECE: usize = 8 << 20;
    let (pieces, content) = (1025_u64, Bytes::from(vec![1; PIECE]));
    for headers in headers_of_a_large_file("big", pieces * PIECE as u64 - 100) {
        for (exclude, taken) in [(&["big"][..], false), (&["other"], true)] {
            let mut filter = TarFilter::new(selection(&[], exclude));
            let (mut passed, mut onward) = (0, VecDeque::new());
            let mut push = |chunk: &Bytes, last: bool| {
                filter.push(chunk, &mut onward);
                if last {
                    filter.finish(&mut onward);
                }
                passed += onward.drain(..).map(|bytes| bytes.len() as u64).sum::<u64>();
            };
            push(&headers.clone().into(), false);
            for _ in 0..pieces {
                push(&content, false);
            }
            push(&header("after", b"00000000000\0", b'0').into(), false);
            push(&vec![0; 1024].into(), true);
            let big = if taken { headers.len() as u64 + pieces * PIECE as u64 } else { 0 };
            assert_eq!(passed, big + 512 + 1024, "{exclude:?}");
            assert_eq!(filter.noted(), &Noted::default());
        }
    }
}

proptest! {
    #[test]
    fn chunks_do_not_matter_and_nothing_panics(
        cut in 0_usize..30_000,
        flip in proptest::option::of((0_usize..20_000, 1_u8..)),
        sizes in proptest::collection::vec(1_usize..3000, 1..12),
    ) {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in [("a/x.tmp", vec![1; 700]), ("a/y", vec![2; 3000]), ("b.tmp", vec![]), ("c", vec![3; 512])] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, content.as_slice()).unwrap();
        }
        let mut tar = builder.into_inner().unwrap();
        tar.truncate(cut);
        if let Some((at, bits)) = flip && at < tar.len() {
            tar[at] ^= bits;
        }
        let pick = || selection(&[], &["*.tmp"]);
        let at_once = filtered(&tar, pick(), usize::MAX);
        let mut filter = TarFilter::new(pick());
        let mut onward = VecDeque::new();
        let mut rest = Bytes::from(tar);
        for size in sizes.iter().cycle() {
            if rest.is_empty() { break; }
            let chunk = rest.split_to((*size).min(rest.len()));
            filter.push(&chunk, &mut onward);
        }
        filter.finish(&mut onward);
        prop_assert_eq!(at_once, (onward.into_iter().flatten().collect::<Vec<u8>>(), filter.noted().clone()));
    }
}

#[test]
fn ids_that_may_be_cut_off_are_counted() {
    let entry = |name: &str, uid: &[u8; 8], gid: &[u8; 8]| {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_mode(0o644);
        header.set_size(0);
        header.as_old_mut().uid = *uid;
        header.as_old_mut().gid = *gid;
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let counted = |tar: &[Vec<u8>], selection| {
        let tar = [&tar.concat()[..], &[0; 1024]].concat();
        let (passed, noted) = filtered(&tar, selection, 700);
        assert!(whole(&passed));
        noted.cut_owners
    };
    // What busybox makes of 1000660000, of which it keeps eight digits, and of 16777216, of which nobody sees that.
    let (cut, unseen, room) = (b"51156040", b"0000000\0", b"7777777\0");
    let all = [entry("a", cut, room), entry("b", room, cut), entry("c", cut, cut), entry("d", room, unseen)];
    assert_eq!(counted(&all, None), 3);
    assert_eq!(counted(&all, selection(&[], &["a", "d"])), 2, "what is left out does not count");
    // Those that write a large id in another way.
    let [base256, ..] = headers_of_a_large_file("large", 0);
    let mut records = tar::Builder::new(Vec::new());
    records.append_pax_extensions([("uid", b"1000660000".as_slice())]).unwrap();
    let records = records.into_inner().unwrap();
    let records = records[..2 * BLOCK].to_vec();
    assert_eq!(counted(&[base256, records, entry("told", cut, room), entry("not told", cut, room)], None), 1);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x"), "x").unwrap();
    for format in ["--format=gnu", "--format=posix"] {
        let tar = pack(folder.path(), "tar", &[format, "--owner=x:1000660000", "--group=x:16777215"]);
        assert_eq!(filtered(&tar, None, 512).1, Noted::default(), "{format}");
    }
}
