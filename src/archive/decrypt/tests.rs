use super::super::Tally;
use super::super::decode::{Decoded, Reader};
use super::super::encode::Encoder;
use super::super::encrypt::{Encryptor, Recipient, Seal, encrypt};
use super::*;
use age::secrecy::ExposeSecret;
use proptest::prelude::*;

fn pair() -> (Recipient, Identities) {
    let key = age::x25519::Identity::generate();
    (Recipient::parse(&key.to_public().to_string()).unwrap(), Identities(vec![key]))
}

fn noise(size: usize) -> Vec<u8> {
    (0..size as u64).map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[6]).collect()
}

/// `bytes` in pieces of these sizes, in turn.
fn cut(bytes: &[u8], sizes: &[usize]) -> Vec<Result<Bytes, Failure>> {
    let (mut rest, mut pieces) = (bytes, Vec::new());
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*size).clamp(1, rest.len()));
        pieces.push(Ok(Bytes::copy_from_slice(piece)));
        rest = after;
    }
    pieces
}

fn decrypted(stored: &[u8], sizes: &[usize], with: &Identities) -> Result<Vec<u8>, Failure> {
    let pieces: Vec<Bytes> = open(cut(stored, sizes).into_iter(), with)?.collect::<Result<_, _>>()?;
    Ok(pieces.concat())
}

/// The whole way in: raw bytes, frames, one age file.
fn archived(raw: &[u8], piece: usize, to: &Recipient) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut encoder = Encoder::new(1);
        let mut seal = Seal::new(std::slice::from_ref(to)).unwrap();
        let mut stored = Vec::new();
        for piece in raw.chunks(piece.max(1)) {
            for frame in encoder.push(piece).await.unwrap() {
                stored.extend(seal.push(frame).await.unwrap());
            }
        }
        for frame in encoder.finish().await.unwrap().0 {
            stored.extend(seal.push(frame).await.unwrap());
        }
        stored.extend(seal.finish().unwrap());
        stored
    })
}

/// The whole way back.
fn unarchived(stored: &[u8], sizes: &[usize], with: &Identities, limit: u64) -> Result<(Vec<u8>, Decoded), Failure> {
    let mut reader = Reader::new(open(cut(stored, sizes).into_iter(), with)?, limit)?;
    let mut raw = Vec::new();
    reader.read_to_end(&mut raw).map_err(|e| e.downcast::<Failure>().unwrap())?;
    Ok((raw, reader.finish()?))
}

#[test]
fn each_recipient_alone_can_read_it_and_nobody_else() {
    let ((first, one), (second, two), (_, other)) = (pair(), pair(), pair());
    let stored = encrypt(&[first, second], b"the log").unwrap();
    assert!(!stored.windows(7).any(|window| window == b"the log"));
    for with in [&one, &two] {
        assert_eq!(decrypted(&stored, &[7], with).unwrap(), b"the log");
    }
    let failure = decrypted(&stored, &[7], &other).unwrap_err();
    assert_eq!(failure.reason, Reason::IdentityMissing);
    let mut both = other;
    both.extend(two);
    assert_eq!(decrypted(&stored, &[7], &both).unwrap(), b"the log");
}

#[test]
fn a_file_that_ends_at_the_edge_of_a_block_is_cut_short() {
    let (to, with) = pair();
    for blocks in [1, 2, 3] {
        let raw = noise(blocks * PIECE);
        let mut encryptor = Encryptor::new(std::slice::from_ref(&to)).unwrap();
        let mut stored = encryptor.push(&raw).unwrap().to_vec();
        stored.extend(encryptor.finish().unwrap());
        assert_eq!(decrypted(&stored, &[1000], &with).unwrap(), raw);
        // A block is 64 KiB and 16 bytes; what is before them is the header.
        for gone in 1..=blocks {
            let end = stored.len() - gone * (PIECE + 16);
            let failure = decrypted(&stored[..end], &[5000], &with).unwrap_err();
            assert_eq!(failure.reason, Reason::BackupDamaged, "{gone} of {blocks} blocks gone");
        }
        let longer = [&stored[..], b"x"].concat();
        assert_eq!(decrypted(&longer, &[5000], &with).unwrap_err().reason, Reason::BackupDamaged);
        let again = [&stored[..], &stored[stored.len() - PIECE - 16..]].concat();
        assert_eq!(decrypted(&again, &[5000], &with).unwrap_err().reason, Reason::BackupDamaged);
    }
}

#[test]
fn as_many_recipients_as_the_schema_takes_fit_into_a_header() {
    let pairs: Vec<_> = (0..16).map(|_| pair()).collect();
    let recipients: Vec<_> = pairs.iter().map(|(to, _)| to.clone()).collect();
    let stored = encrypt(&recipients, b"x").unwrap();
    assert_eq!(decrypted(&stored, &[100], &pairs[15].1).unwrap(), b"x");
}

#[test]
fn a_header_without_an_end_is_not_read_for_ever() {
    let (_, with) = pair();
    let mut endless = b"age-encryption.org/v1\n".to_vec();
    while endless.len() < 8 * HEADER_LIMIT {
        endless.extend(b"-> X25519 AAAA\nAAAA\n");
    }
    let mut taken = 0;
    let chunks = cut(&endless, &[1000]).into_iter().inspect(|_| taken += 1000);
    let failure = open(chunks, &with).err().unwrap();
    assert_eq!(failure.reason, Reason::BackupDamaged);
    assert!(taken <= HEADER_LIMIT + 2000, "{taken} bytes were read");
}

#[test]
fn an_error_of_the_source_comes_out_as_it_is() {
    let (to, with) = pair();
    let stored = encrypt(&[to], &noise(200_000)).unwrap();
    let down = Failure::new(Reason::DestinationUnavailable, "down");
    for good in [0, 10, 100_000] {
        let mut pieces = cut(&stored[..good], &[1000]);
        pieces.push(Err(down.clone()));
        let failure = match open(pieces.into_iter(), &with) {
            Err(failure) => failure,
            Ok(opened) => opened.collect::<Result<Vec<_>, _>>().unwrap_err(),
        };
        assert_eq!(failure, down);
    }
}

#[test]
fn identity_files_as_age_keygen_writes_them() {
    let key = age::x25519::Identity::generate();
    let secret = key.to_string().expose_secret().to_owned();
    let file = format!("# created: today\n# public key: {}\n{secret}\n\n", key.to_public());
    let mut read = Identities::parse("key.txt", &file).unwrap();
    read.extend(Identities::parse("key.txt", &secret).unwrap());
    assert_eq!(read.0.len(), 2);
    assert_eq!(format!("{read:?}"), "Identities(2)");
    for (text, word) in [
        ("", "no age private key"),
        ("# only a comment\n", "no age private key"),
        ("# a\nAGE-SECRET-KEY-1NONSENSE", "line 2"),
        (&key.to_public().to_string(), "line 1"),
        ("age-encryption.org/v1\n-> scrypt", "itself encrypted"),
    ] {
        let failure = Identities::parse("key.txt", text).unwrap_err();
        assert!(failure.message.starts_with("key.txt: ") && failure.message.contains(word), "{failure}");
        assert!(!failure.message.contains("NONSENSE"), "{failure}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_goes_in_comes_out_however_it_is_cut(
        size in prop_oneof![0_usize..3000, 60_000_usize..70_000, 2_000_000_usize..2_300_000],
        piece in 1_usize..200_000,
        sizes in proptest::collection::vec(1_usize..100_000, 1..6),
    ) {
        let (to, with) = pair();
        let raw = noise(size);
        let stored = archived(&raw, piece, &to);
        let (back, decoded) = unarchived(&stored, &sizes, &with, size as u64).unwrap();
        prop_assert!(back == raw);
        let mut tally = Tally::default();
        tally.add(&raw);
        prop_assert_eq!(decoded.raw, tally.measure());
    }

    #[test]
    fn what_was_cut_or_changed_never_passes(
        size in prop_oneof![0_usize..3000, 150_000_usize..400_000],
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
        sizes in proptest::collection::vec(1_usize..100_000, 1..4),
    ) {
        let (to, with) = pair();
        let raw = noise(size);
        let stored = archived(&raw, 50_000, &to);
        let at = at.index(stored.len());
        let cut_short = unarchived(&stored[..at], &sizes, &with, size as u64).map(|_| ()).unwrap_err();
        prop_assert_eq!(cut_short.reason, Reason::BackupDamaged, "cut at {}", at);
        let mut changed = stored.clone();
        changed[at] ^= 1 << bit;
        // A changed stanza may look like another recipient's; nothing of it is given out either way.
        let failure = unarchived(&changed, &sizes, &with, size as u64).map(|_| ()).unwrap_err();
        prop_assert!(matches!(failure.reason, Reason::BackupDamaged | Reason::IdentityMissing), "bit {} of {}", bit, at);
    }
}
