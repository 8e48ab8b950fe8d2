//! **P** What a program of this machine's kind needs of its surroundings, from the head of its file (elf(5)).
//!
//! The image has no loader and no libraries: a binary that asks for one builds, packs and imports, and dies at its start
//! with a message about a file that is there.

use anyhow::{Context, Result, bail, ensure};

/// `p_type` of the segment that names the dynamic loader.
const PT_INTERP: u32 = 3;
/// `sh_type` of the table of all symbols, which `strip` takes out.
const SHT_SYMTAB: u32 = 2;

/// What the head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elf {
    /// It runs without a dynamic loader.
    pub is_static: bool,
    /// It has no table of symbols.
    pub is_stripped: bool,
}

impl Elf {
    /// Reads the tables of segments and sections; `file` is the whole program. Only 64 bits, least byte first: what
    /// Kubernetes' nodes are.
    pub fn read(file: &[u8]) -> Result<Elf> {
        ensure!(file.starts_with(b"\x7fELF"), "it is no ELF file");
        ensure!(file.get(4..6) == Some(&[2, 1]), "it is not for 64 bits with the least byte first");
        let segments = table(file, number::<8>(file, 32)?, number::<2>(file, 54)?, number::<2>(file, 56)?);
        let sections = table(file, number::<8>(file, 40)?, number::<2>(file, 58)?, number::<2>(file, 60)?);
        let (mut is_static, mut is_stripped) = (true, true);
        for segment in segments {
            is_static &= kind(segment?, 0)? != PT_INTERP;
        }
        for section in sections {
            is_stripped &= kind(section?, 4)? != SHT_SYMTAB;
        }
        Ok(Elf { is_static, is_stripped })
    }

    /// Refuses what could not run in an empty image, or carries what nobody there reads.
    pub fn check(self) -> Result<()> {
        if !self.is_static {
            bail!("it asks for a dynamic loader, and the image has none: .cargo/config.toml links it statically");
        }
        ensure!(self.is_stripped, "it still has its table of symbols");
        Ok(())
    }
}

/// The entries of a table at `at`, `size` bytes each.
fn table(file: &[u8], at: u64, size: u64, count: u64) -> impl Iterator<Item = Result<&[u8]>> {
    (0..count).map(move |index| {
        let from = at.checked_add(index * size).and_then(|from| usize::try_from(from).ok());
        let to = from.and_then(|from| from.checked_add(usize::try_from(size).ok()?));
        from.zip(to).and_then(|(from, to)| file.get(from..to)).context("its tables lie outside of it")
    })
}

fn kind(entry: &[u8], at: usize) -> Result<u32> {
    Ok(u32::try_from(number::<4>(entry, at)?)?)
}

fn number<const BYTES: usize>(bytes: &[u8], at: usize) -> Result<u64> {
    let field = bytes.get(at..at + BYTES).context("it is cut off")?;
    Ok(field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(segment: u32, section: u32) -> Vec<u8> {
        let mut file = vec![0; 64 + 56 + 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32] = 64; // segments: where, how large, how many
        (file[54], file[56]) = (56, 1);
        file[40] = 120; // sections
        (file[58], file[60]) = (64, 1);
        file[64..68].copy_from_slice(&segment.to_le_bytes());
        file[124..128].copy_from_slice(&section.to_le_bytes());
        file
    }

    #[test]
    fn a_loader_and_symbols_are_seen() {
        assert_eq!(Elf::read(&head(1, 1)).unwrap(), Elf { is_static: true, is_stripped: true });
        let with_loader = Elf::read(&head(PT_INTERP, 1)).unwrap();
        assert!(!with_loader.is_static && with_loader.check().unwrap_err().to_string().contains("loader"));
        let with_symbols = Elf::read(&head(1, SHT_SYMTAB)).unwrap();
        assert!(!with_symbols.is_stripped && with_symbols.check().unwrap_err().to_string().contains("symbols"));
    }

    #[test]
    fn real_programs_are_read() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let own = Elf::read(&own).unwrap();
        assert!(own.is_static && !own.is_stripped, "{own:?}");
        let dash = Elf::read(&std::fs::read("/bin/dash").unwrap()).unwrap();
        assert!(!dash.is_static && dash.is_stripped, "{dash:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_answer(
            at in 4_usize..184,
            bytes in proptest::collection::vec(any::<u8>(), 0..12),
            length in 0_usize..184,
        ) {
            let mut file = head(1, 1);
            let to = file.len().min(at + bytes.len());
            file[at..to].copy_from_slice(&bytes[..to - at]);
            file.truncate(length);
            // Cut before its tables end it is refused; never a fault.
            let read = Elf::read(&file);
            prop_assert!(length >= 64 || read.is_err());
        }
    }
}
