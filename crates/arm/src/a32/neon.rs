//! Advanced SIMD data processing: which of the manual's tables an instruction belongs to. Arm ARM (DDI 0406C) A7.4.
//!
//! The tables share encodings (the modified immediates are shifts of no size, VEXT is a size that the three-register tables do
//! not have), so each has its own decoder and the manual's first table chooses.

use super::{neon_immediate, neon_misc, neon_scalar, neon_shift, neon_three_different, neon_three_same};
use crate::translate::{Flow, Translator};
use spec::decode::{Decoder, Row};
use std::sync::LazyLock;

type Rows = &'static [Row<Translator, Flow>];

/// Bits 24, 21:20 and 17:16 (kinds and sizes), 11:6 and 4.
const INDEX_MASK: u32 = 0x0100_0fd0;

fn index(w: u32) -> usize {
    (w >> 24 << 7 & 0x80 | w >> 5 & 0x7e | w >> 4 & 1) as usize
}

/// The tables, in the order of `table_of`.
pub static TABLES: [&[Rows]; 5] = [
    &[neon_three_same::ROWS],
    &[neon_shift::ROWS],
    &[neon_immediate::ROWS],
    &[neon_three_different::ROWS, neon_scalar::ROWS],
    &[neon_misc::ROWS],
];

pub(crate) static DECODERS: LazyLock<[Decoder<Translator, Flow>; 5]> =
    LazyLock::new(|| TABLES.map(|tables| Decoder::new(tables, index, INDEX_MASK, 256)));

/// Which table a word of the space 1111 001x belongs to.
fn table_of(w: u32) -> usize {
    let bits = |low: u32, count: u32| w >> low & ((1 << count) - 1);
    match (bits(23, 1), bits(4, 1)) {
        (0, _) => 0,
        (_, 1) if bits(19, 3) == 0 && bits(7, 1) == 0 => 2,
        (_, 1) => 1,
        _ if bits(20, 2) != 3 => 3,
        _ => 4,
    }
}

/// The row of a word of the space 1111 001x.
pub fn find(w: u32) -> Option<&'static Row<Translator, Flow>> {
    DECODERS[table_of(w)].find(w)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rows_overlap() {
        for decoder in DECODERS.iter() {
            assert_eq!(decoder.overlaps(), vec![]);
        }
    }
}
