use super::*;
use proptest::prelude::*;
use std::io::Write;
use std::process::Command;

/// A tar with these files (name, content), and what should be counted.
fn tar_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn watch(bytes: &[u8], piece: usize) -> Result<Counts, TarFault> {
    let mut watch = TarWatch::default();
    for chunk in bytes.chunks(piece.max(1)) {
        watch.push(chunk);
    }
    watch.finish()
}

fn sample() -> Vec<u8> {
    tar_of(&[("a".into(), vec![1; 1000]), ("empty".into(), vec![]), (format!("{}/x", "long".repeat(60)), vec![2; 512])])
}

#[test]
fn what_is_in_it_is_counted() {
    assert_eq!(watch(&sample(), 100), Ok(Counts { files: 3, with_content: 2 }));
    assert_eq!(watch(&tar_of(&[]), 100), Ok(Counts::default()));
}

#[test]
fn every_cut_before_the_marker_is_seen() {
    let tar = sample();
    // The marker's two blocks are the last 1024 bytes.
    for end in 0..tar.len() {
        assert_eq!(watch(&tar[..end], 333), Err(TarFault::Truncated), "cut at {end} of {}", tar.len());
    }
    let mut blocked = tar.clone();
    blocked.resize(10240, 0);
    assert!(watch(&blocked, 333).is_ok());
}

#[test]
fn what_comes_after_the_marker_is_refused() {
    let mut tar = sample();
    tar.extend(b"and now?");
    assert!(matches!(watch(&tar, 4096), Err(TarFault::Damaged(_))));
    assert!(matches!(watch(b"-- PostgreSQL dump", 4096), Err(TarFault::Truncated)));
    assert!(matches!(watch(&[b'-'; 2048], 4096), Err(TarFault::Damaged(_))));
}

#[test]
fn a_size_in_pax_records_goes_first() {
    let mut tar = Vec::new();
    let mut builder = tar::Builder::new(&mut tar);
    builder.append_pax_extensions([("size", b"5".as_slice()), ("path", b"renamed")]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path("x").unwrap();
    header.set_size(0);
    header.set_cksum();
    // What follows a header with size 0 is the content that the record announced.
    builder.append(&header, std::io::empty()).unwrap();
    builder.get_mut().write_all(b"12345").unwrap();
    builder.get_mut().write_all(&[0; 507]).unwrap();
    builder.into_inner().unwrap();
    assert_eq!(watch(&tar, 77), Ok(Counts { files: 1, with_content: 1 }));
}

#[test]
fn a_long_name_that_is_cut_at_a_slash_is_still_a_file() {
    let name = format!("{}/{}", "a".repeat(99), "b".repeat(30));
    assert_eq!(watch(&tar_of(&[(name, vec![1])]), 512), Ok(Counts { files: 1, with_content: 1 }));
}

#[test]
fn numbers() {
    assert_eq!(number(b"00000001750\0"), Some(1000));
    assert_eq!(number(b"      1750 \0"), Some(1000));
    // As busybox fills the field, when eleven digits and a NUL do not do.
    assert_eq!(number(b"777777777777"), Some((64 << 30) - 1));
    assert_eq!(number(b"\0\0\0\0\0\0\0\0\0\0\0\0"), Some(0));
    assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]), Some(0x2_0000_0001));
    assert_eq!(number(&[0xff; 12]), None);
    assert_eq!(number(b"12x"), None);
    assert_eq!(pax_size(b"11 size=123\n"), Err(TarFault::Damaged("PAX records that cannot be read")));
    assert_eq!(pax_size(b"12 size=123\n"), Ok(Some(123)));
    assert_eq!(pax_size(b"19 path=/some size=\n"), Err(TarFault::Damaged("PAX records that cannot be read")));
    assert_eq!(pax_size(b"20 comment=size=999\n"), Ok(None));
}

/// A header with this `size` field and kind, its checksum set.
pub(crate) fn header(name: &str, size: &[u8; 12], kind: u8) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::new(kind));
    header.as_old_mut().size = *size;
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// The headers of a file of this size, from 8 to 64 GiB, for which eleven octal digits and a NUL do not do: in base 256, in
/// PAX records before it, and in twelve digits (busybox).
pub(crate) fn headers_of_a_large_file(name: &str, size: u64) -> [Vec<u8>; 3] {
    let mut field = [0; 12];
    field[0] = 0x80;
    field[4..].copy_from_slice(&size.to_be_bytes());
    let record = format!(" size={size}\n");
    let record = format!("{}{record}", record.len() + 2);
    let mut pax = header("pax", format!("{:011o}\0", record.len()).as_bytes().try_into().unwrap(), b'x');
    pax.extend_from_slice(record.as_bytes());
    pax.resize(2 * BLOCK, 0);
    pax.extend(header(name, b"00000000000\0", b'0'));
    let full = format!("{size:012o}");
    [header(name, &field, b'0'), pax, header(name, full.as_bytes().try_into().unwrap(), b'0')]
}

#[test]
fn a_file_that_eleven_digits_do_not_hold_is_followed_to_its_end() {
    // 8 GiB are the first that eleven digits cannot say.
    const PIECE: usize = 8 << 20;
    let pieces = 1025_u64;
    let content = vec![1; PIECE];
    for headers in headers_of_a_large_file("big", pieces * PIECE as u64 - 100) {
        let mut watch = TarWatch::default();
        watch.push(&headers);
        for _ in 0..pieces {
            watch.push(&content);
        }
        watch.push(&tar_of(&[("after".to_owned(), vec![])]));
        assert_eq!(watch.finish(), Ok(Counts { files: 2, with_content: 1 }));
    }
}

/// The real tool, in the formats that it writes: long names, hard and symbolic links, sparse files, large numbers.
#[test]
fn what_gnu_tar_writes_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let long = "d".repeat(90);
    std::fs::create_dir_all(at(&format!("{long}/{long}"))).unwrap();
    std::fs::write(at(&format!("{long}/{long}/file")), vec![7; 70_000]).unwrap();
    std::fs::write(at("empty"), b"").unwrap();
    std::fs::hard_link(at("empty"), at("linked")).unwrap();
    std::os::unix::fs::symlink("/nowhere", at("symbolic")).unwrap();
    // So many holes that the old GNU format needs an extension header.
    let sparse = std::fs::File::create(at("sparse")).unwrap();
    for hole in 1..40_u64 {
        std::os::unix::fs::FileExt::write_at(&sparse, b"x", hole * 1_000_000).unwrap();
    }
    for format in ["gnu", "oldgnu", "posix", "ustar"] {
        let name = if format == "ustar" { "empty" } else { "." };
        let sparse = if format == "ustar" { "--owner=0" } else { "--sparse" };
        let out = Command::new("tar")
            .args([sparse, &format!("--format={format}"), "-C"])
            .arg(folder.path())
            .args(["-cf", "-", name])
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let counts = watch(&out.stdout, 10_000).unwrap();
        let wanted =
            if format == "ustar" { Counts { files: 1, with_content: 0 } } else { Counts { files: 4, with_content: 2 } };
        assert_eq!(counts, wanted, "{format}");
        assert!(watch(&out.stdout[..out.stdout.len().saturating_sub(20_000)], 9999).is_err(), "{format}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_tar_in_any_pieces(
        files in proptest::collection::vec(("[a-z]{1,150}(/[a-z]{1,80}){0,2}", proptest::collection::vec(any::<u8>(), 0..2000)), 0..8),
        piece in 1_usize..5000,
        cut in 1_usize..30_000,
    ) {
        let tar = tar_of(&files);
        let with_content = files.iter().filter(|(_, content)| !content.is_empty()).count() as u64;
        prop_assert_eq!(watch(&tar, piece), Ok(Counts { files: files.len() as u64, with_content }));
        prop_assert_eq!(watch(&tar[..tar.len().saturating_sub(cut)], piece), Err(TarFault::Truncated));
    }

    #[test]
    fn anything_may_come(bytes in proptest::collection::vec(any::<u8>(), 0..3000), piece in 1_usize..700) {
        let _ = watch(&bytes, piece);
    }
}
