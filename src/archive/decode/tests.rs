use super::*;
use crate::archive::encode::{Encoder, FRAME_SIZE};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Encodes `raw`, handed over in pieces of `piece` bytes.
fn encode(raw: &[u8], piece: usize, level: i32) -> (Vec<u8>, Decoded) {
    block_on(async {
        let mut encoder = Encoder::new(level);
        let mut stored = Vec::new();
        for chunk in raw.chunks(piece.max(1)) {
            for frame in encoder.push(chunk).await.unwrap() {
                stored.extend_from_slice(&frame);
            }
        }
        let (last, raw) = encoder.finish().await.unwrap();
        for frame in last {
            stored.extend_from_slice(&frame);
        }
        let mut tally = Tally::default();
        tally.add(&stored);
        (stored, Decoded { raw, stored: tally.measure() })
    })
}

#[test]
fn a_higher_level_gives_less() {
    let raw: Vec<u8> = (0..200_000_u64).flat_map(|i| format!("{} {};", i, i * i % 1009).into_bytes()).collect();
    let sizes = [1, 19].map(|level| encode(&raw, FRAME_SIZE, level).0.len());
    assert!(sizes[1] < sizes[0], "{sizes:?}");
}

/// Decodes `stored`, handed over in pieces of `piece` bytes, through an output buffer of `room` bytes.
fn decode(stored: &[u8], piece: usize, room: usize, limit: u64) -> Result<(Vec<u8>, Decoded), Failure> {
    let chunks = stored.chunks(piece.max(1)).map(|chunk| Ok(Bytes::copy_from_slice(chunk)));
    let mut reader = Reader::new(chunks, limit)?;
    let (mut raw, mut buffer) = (Vec::new(), vec![0; room.max(1)]);
    loop {
        match reader.next(&mut buffer)? {
            0 => break,
            n => raw.extend_from_slice(&buffer[..n]),
        }
    }
    Ok((raw, reader.finish()?))
}

/// Bytes that compress a little: a mix of a counter and noise.
fn sample(size: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = |i: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if i.is_multiple_of(3) { state.to_le_bytes()[7] } else { i.to_le_bytes()[1] }
    };
    (0..size).map(&mut next).collect()
}

/// Three frames and a rest; small enough for every cut, large enough to have all states.
static SMALL: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let raw = vec![7_u8; 2 * FRAME_SIZE + 1000];
    let (stored, _) = encode(&raw, 100_000, 3);
    (raw, stored)
});

#[test]
fn frames_come_back_in_order_and_whole() {
    let raw = sample(5 * FRAME_SIZE + 17);
    let (stored, encoded) = encode(&raw, 128 * 1024, 3);
    assert_eq!(encoded.raw.size, raw.len() as u64);
    assert_eq!(encoded.raw.digest, blake3::hash(&raw).to_hex().to_string());
    let (back, decoded) = decode(&stored, 70_001, 99_999, raw.len() as u64).unwrap();
    assert!(back == raw);
    assert_eq!(decoded, encoded);
    let table = SeekTable::parse(&stored[stored.len() - (8 + 6 * 8 + 9)..]).unwrap();
    assert_eq!(table.frames().len(), 6);
    assert!(table.frames()[..5].iter().all(|f| f.raw as usize == FRAME_SIZE));
}

#[test]
fn nothing_is_a_table_alone() {
    let (stored, encoded) = encode(&[], 1, 3);
    assert_eq!(stored.len() as u64, SMALLEST);
    assert_eq!(encoded.raw.size, 0);
    assert_eq!(decode(&stored, 4, 4, 0).unwrap().0, b"");
}

#[test]
fn every_cut_is_refused() {
    let (raw, stored) = &*SMALL;
    for end in 0..stored.len() {
        let cut = decode(&stored[..end], 1 << 20, 1 << 20, raw.len() as u64);
        assert_eq!(cut.map(|_| ()).unwrap_err().reason, Reason::BackupDamaged, "cut at {end} of {}", stored.len());
    }
    assert!(decode(stored, 1 << 20, 1 << 20, raw.len() as u64).is_ok());
}

#[test]
fn a_flipped_bit_never_passes() {
    let (raw, stored) = &*SMALL;
    let whole = blake3::hash(stored).to_hex().to_string();
    for bit in 0..stored.len() * 8 {
        let mut broken = stored.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        // Bits that zstd ignores (two of a frame's head are reserved or unused) do no harm to the content; the digest of the
        // stored bytes finds them.
        if let Ok((back, decoded)) = decode(&broken, 1 << 20, 1 << 20, raw.len() as u64) {
            assert!(back == *raw, "bit {bit} changed the content");
            assert_ne!(decoded.stored.digest, whole, "bit {bit}");
        }
    }
}

#[test]
fn what_was_not_announced_is_refused() {
    let (raw, stored) = &*SMALL;
    let more = decode(stored, 4096, 4096, raw.len() as u64 - 1);
    assert!(more.unwrap_err().message.contains("announced"));
    let mut longer = stored.clone();
    longer.push(0);
    assert!(decode(&longer, 4096, 4096, u64::MAX).unwrap_err().message.contains("after the seek table"));
    assert!(decode(b"not an archive", 3, 9, u64::MAX).unwrap_err().message.contains("does not begin"));
}

#[test]
fn a_window_that_is_only_claimed_is_not_allocated() {
    // Frame head: no single segment, window descriptor for 2 GiB.
    let bomb = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xA8, 0, 0, 0, 0];
    assert_eq!(decode(&bomb, 99, 99, u64::MAX).unwrap_err().reason, Reason::BackupDamaged);
}

#[test]
fn other_skippable_frames_are_passed_over() {
    let (raw, stored) = &*SMALL;
    let mut with = vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3, 0x51, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
    with.extend_from_slice(stored);
    for piece in [1, 7, 1 << 20] {
        assert!(decode(&with, piece, 1 << 20, raw.len() as u64).unwrap().0 == *raw);
    }
}

#[test]
fn plain_zstd_reads_it() {
    let raw = sample(3 * FRAME_SIZE - 5);
    let (stored, _) = encode(&raw, 9999, 3);
    let mut zstd =
        Command::new("zstd").args(["-d", "-q", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = zstd.stdin.take().unwrap();
    let feed = std::thread::spawn(move || stdin.write_all(&stored));
    let mut back = Vec::new();
    zstd.stdout.take().unwrap().read_to_end(&mut back).unwrap();
    feed.join().unwrap().unwrap();
    assert!(zstd.wait().unwrap().success());
    assert!(back == raw);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn round_trip(
        seed in proptest::collection::vec(any::<u8>(), 0..3000),
        repeat in 1_usize..2000,
        (piece, back_piece, room) in (1_usize..300_000, 1_usize..300_000, 1_usize..300_000),
        level in 1_i32..6,
    ) {
        let raw = seed.repeat(repeat);
        // A piece of a few bytes makes millions of calls; the ends of the range are enough.
        let (piece, back_piece, room) = (piece.max(raw.len() / 500), back_piece.max(raw.len() / 500), room.max(raw.len() / 500));
        let (stored, encoded) = encode(&raw, piece, level);
        let (back, decoded) = decode(&stored, back_piece, room, raw.len() as u64).unwrap();
        prop_assert!(back == raw);
        prop_assert_eq!(decoded, encoded);
    }

    #[test]
    fn anything_may_be_decoded(bytes in proptest::collection::vec(any::<u8>(), 0..400), magic in any::<bool>()) {
        let mut stored = if magic { vec![0x28, 0xb5, 0x2f, 0xfd] } else { Vec::new() };
        stored.extend(bytes);
        let _ = decode(&stored, 16, 1 << 16, 1 << 20);
    }
}
