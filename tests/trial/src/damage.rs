//! Damage to 32-bit little-endian ELF files: mostly where a loader looks.
//!
//! Reference: System V ABI, "Object files" (the ELF header, program headers).

use crate::Random;

/// Bytes of the ELF header, and of a program header.
const HEADER: usize = 52;
const PROGRAM_HEADER: usize = 32;
/// Where the low byte of the number of program headers is.
const E_PHNUM: usize = 44;
/// Values at which sums overflow or ranges end.
const EDGES: [u32; 16] = [
    0,
    1,
    2,
    3,
    0x20,
    0x34,
    0xfff,
    0x1000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xfffe_ffff,
    0xffff_0000,
    0xffff_f000,
    0xffff_ffff,
];

/// Changes an ELF file; gives whether anything but its headers and its length may have changed.
pub fn damage(bytes: &mut Vec<u8>, random: &mut Random) -> bool {
    let count = bytes[E_PHNUM] as usize;
    let headers = HEADER + PROGRAM_HEADER * count;
    let mut anywhere = false;
    for _ in 0..1 + random.below(4) {
        let field = 4 * random.below(headers / 4);
        match random.below(10) {
            0..=2 => {
                let value = if random.below(4) == 0 { random.next() as u32 } else { random.pick(&EDGES) };
                change(bytes, field, |_| value);
            }
            // A little larger or smaller.
            3..=4 => {
                let by = (random.below(0x4000) as u32).wrapping_sub(0x2000);
                change(bytes, field, |old| old.wrapping_add(by));
            }
            5 => {
                let at = random.below(headers.min(bytes.len()));
                bytes[at] ^= 1 << random.below(8);
            }
            6 => swap(bytes, random.below(count), random.below(count)),
            7 => {
                let len = if random.below(2) == 0 { random.below(headers + 64) } else { random.below(bytes.len()) };
                bytes.truncate(len.max(HEADER - 4));
            }
            8 => {
                for _ in 0..1 + random.below(40) {
                    let at = random.below(bytes.len());
                    bytes[at] = random.next() as u8;
                }
                anywhere = true;
            }
            _ => {
                let (at, value) = (random.below(bytes.len().saturating_sub(4)), random.pick(&EDGES));
                change(bytes, at, |_| value);
                anywhere = true;
            }
        }
    }
    anywhere
}

/// Changes a word, if the file has it.
fn change(bytes: &mut [u8], at: usize, to: impl FnOnce(u32) -> u32) {
    if let Some(word) = bytes.get_mut(at..at + 4).and_then(|w| w.first_chunk_mut::<4>()) {
        *word = to(u32::from_le_bytes(*word)).to_le_bytes();
    }
}

/// Swaps two program headers, as far as the file has them.
fn swap(bytes: &mut [u8], a: usize, b: usize) {
    let at = |n: usize| HEADER + PROGRAM_HEADER * n;
    for i in 0..PROGRAM_HEADER {
        if at(a.max(b)) + i < bytes.len() {
            bytes.swap(at(a) + i, at(b) + i);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..400).map(|n| n as u8).collect();
        bytes[E_PHNUM] = 5;
        bytes
    }

    #[test]
    fn what_is_no_damage_anywhere_keeps_what_is_behind_the_headers() {
        let (mut kept, mut changed) = (0, 0);
        for case in 0..2_000 {
            let mut bytes = file();
            let anywhere = damage(&mut bytes, &mut Random::new(1, case));
            assert!((HEADER - 4..=400).contains(&bytes.len()));
            let behind = HEADER + 5 * PROGRAM_HEADER;
            let same = bytes.iter().zip(file()).skip(behind).all(|(a, b)| *a == b);
            assert!(same || anywhere, "{case}");
            (kept, changed) = (kept + u32::from(same), changed + u32::from(!same));
        }
        assert!(kept > 500 && changed > 500, "{kept} {changed}");
    }

    #[test]
    fn the_shortest_file_can_be_damaged_again() {
        for case in 0..2_000 {
            let mut bytes = file();
            bytes.truncate(HEADER - 4);
            damage(&mut bytes, &mut Random::new(2, case));
        }
    }
}
