//! Virtual memory for monitors: ranges that belong together, and reading across pages.

use std::fmt::Write as _;
use std::ops::Range;

use cpu::Code;

/// The smallest page of any guest here.
const PAGE: u64 = 4096;
/// Virtual addresses of a 32-bit guest.
const SPACE: u64 = 1 << 32;

/// Cuts a range of addresses at page boundaries: addresses, and which of the bytes they are.
pub fn pieces(address: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = address.wrapping_add(done as u64);
        let piece = ((PAGE - at % PAGE) as usize).min(len - done);
        done += piece;
        Some((at, done - piece..done))
    })
}

/// A few bytes of code at an address.
pub struct Bytes<'a> {
    pub address: u64,
    pub bytes: &'a [u8],
}

impl Code for Bytes<'_> {
    fn read(&self, addr: u64, buf: &mut [u8]) -> usize {
        let start = addr.wrapping_sub(self.address);
        let Some(found) = usize::try_from(start).ok().and_then(|start| self.bytes.get(start..)) else { return 0 };
        let n = found.len().min(buf.len());
        buf[..n].copy_from_slice(&found[..n]);
        n
    }
}

/// Stretches of pages for which `same(page, its translation, translation of the page before)` holds.
fn stretches(walk: &dyn Fn(u64) -> Option<u64>, same: fn(u64, u64) -> bool) -> Vec<(Range<u64>, u64)> {
    let mut list: Vec<(Range<u64>, u64)> = Vec::new();
    let mut last = None;
    for virt in (0..SPACE).step_by(PAGE as usize) {
        let phys = walk(virt);
        match (phys, last, list.last_mut()) {
            (Some(phys), Some(before), Some((range, _))) if same(before, phys) => range.end = virt + PAGE,
            (Some(phys), ..) => list.push((virt..virt + PAGE, phys)),
            (None, ..) => {}
        }
        last = phys;
    }
    list
}

/// `info tlb`: where virtual addresses lead.
pub fn translations(walk: &dyn Fn(u64) -> Option<u64>) -> String {
    let mut text = String::new();
    for (range, phys) in stretches(walk, |before, phys| phys == before + PAGE) {
        let _ = writeln!(text, "{:08x}-{:08x}: {phys:010x}", range.start, range.end - 1);
    }
    text
}

/// `info mem`: which virtual addresses lead anywhere, and how many they are.
pub fn mapped(walk: &dyn Fn(u64) -> Option<u64>) -> String {
    let mut text = String::new();
    for (range, _) in stretches(walk, |_, _| true) {
        let _ = writeln!(text, "{:08x}-{:08x} {:08x}", range.start, range.end - 1, range.end - range.start);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_pages() {
        let cut = |address, len| pieces(address, len).collect::<Vec<_>>();
        assert_eq!(cut(0x1ffe, 4), [(0x1ffe, 0..2), (0x2000, 2..4)]);
        assert_eq!(cut(0x1000, 4096), [(0x1000, 0..4096)]);
        assert_eq!(cut(5, 0), []);
        assert_eq!(cut(u64::MAX, 2), [(u64::MAX, 0..1), (0, 1..2)]);
    }

    #[test]
    fn neighbours_with_the_same_direction_are_one_line() {
        let walk = |at: u64| match at {
            0x1000..0x3000 => Some(at + 0x4000_0000),
            0x3000..0x4000 => Some(0x9000_0000),
            0xffff_f000 => Some(0x5000),
            _ => None,
        };
        let lines = "00001000-00002fff: 0040001000\n00003000-00003fff: 0090000000\nfffff000-ffffffff: 0000005000\n";
        assert_eq!(translations(&walk), lines);
        assert_eq!(mapped(&walk), "00001000-00003fff 00003000\nfffff000-ffffffff 00001000\n");
    }

    #[test]
    fn code_is_read_where_it_is() {
        let code = Bytes { address: 0x100, bytes: &[1, 2, 3, 4] };
        assert_eq!(
            (code.half(0x102), code.word(0x100), code.half(0x104), code.half(0xff)),
            (Some(0x403), Some(0x0403_0201), None, None)
        );
    }
}
