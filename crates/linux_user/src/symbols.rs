//! Names of guest functions, from the symbol tables of the program and its dynamic linker; for traces.
//!
//! **Reference.** The ELF specification, "Symbol Table".

use std::fs::File;
use std::os::unix::fs::FileExt;

/// A function: addresses and name.
struct Function {
    start: u32,
    end: u32,
    name: String,
}

/// Functions in order of their addresses.
#[derive(Default)]
pub struct Symbols(Vec<Function>);

const SHT_SYMTAB: u32 = 2;
const SHT_DYNSYM: u32 = 11;
const SECTION_BYTES: usize = 40;
const SYMBOL_BYTES: usize = 16;
const STT_FUNC: u8 = 2;
/// Longer tables are not read.
const MAX_TABLE_BYTES: u32 = 256 << 20;

fn word(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"))
}

fn read(file: &File, offset: u32, len: u32) -> Option<Vec<u8>> {
    let mut raw = vec![0; (len <= MAX_TABLE_BYTES).then_some(len)? as usize];
    file.read_exact_at(&mut raw, offset as u64).ok().map(|()| raw)
}

impl Symbols {
    /// Adds the functions of a file that is loaded with this bias. A file without names, or a damaged one, adds none.
    pub fn add(&mut self, file: &File, bias: u32) {
        let _ = self.try_add(file, bias);
        self.0.sort_by_key(|f| f.start);
    }

    fn try_add(&mut self, file: &File, bias: u32) -> Option<()> {
        let header = read(file, 0, 52)?;
        let (offset, count) = (word(&header, 32), u16::from_le_bytes([header[48], header[49]]) as u32);
        let sections = read(file, offset, count * SECTION_BYTES as u32)?;
        let sections: Vec<&[u8]> = sections.chunks_exact(SECTION_BYTES).collect();
        let of_kind = |kind| sections.iter().find(|s| word(s, 4) == kind);
        let table = of_kind(SHT_SYMTAB).or_else(|| of_kind(SHT_DYNSYM))?;
        let strings = sections.get(word(table, 24) as usize)?;
        let (table, strings) = (read(file, word(table, 16), word(table, 20))?, read(file, word(strings, 16), word(strings, 20))?);
        for s in table.chunks_exact(SYMBOL_BYTES) {
            let undefined = s[14] == 0 && s[15] == 0;
            if s[12] & 15 != STT_FUNC || undefined {
                continue;
            }
            let name = strings.get(word(s, 0) as usize..)?.split(|b| *b == 0).next()?;
            // Bit 0 says T32.
            let start = (word(s, 4) & !1).wrapping_add(bias);
            let end = start.saturating_add(word(s, 8).max(1));
            self.0.push(Function { start, end, name: String::from_utf8_lossy(name).into_owned() });
        }
        Some(())
    }

    /// The function that an address lies in, and how far.
    pub fn at(&self, addr: u64) -> Option<(&str, u32)> {
        let addr = u32::try_from(addr).ok()?;
        let before = &self.0[..self.0.partition_point(|f| f.start <= addr)];
        // The last one may be an alias within another.
        before.iter().rev().take(4).find(|f| addr < f.end).map(|f| (f.name.as_str(), addr - f.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_find_their_function() {
        let f = |start, end, name: &str| Function { start, end, name: name.into() };
        let s = Symbols(vec![f(0x100, 0x140, "outer"), f(0x110, 0x112, "inner"), f(0x200, 0x201, "bare")]);
        assert_eq!(s.at(0x111), Some(("inner", 1)));
        assert_eq!(s.at(0x120), Some(("outer", 0x20)));
        assert_eq!((s.at(0x140), s.at(0x50), s.at(0x200), s.at(1 << 40)), (None, None, Some(("bare", 0)), None));
    }
}
