//! The T32 instruction set (32-bit Thumb): the list of chapters and the decoder. A word holds the first halfword on top.
//!
//! **Reference.** Arm ARM (DDI 0406C) A6.3. Rows differ from A32, most bodies are shared with it.

use crate::a32::{coprocessor, parallel, privileged};
use crate::translate::{Flow, Translator};
use spec::decode::{Decoder, Row};
use std::sync::LazyLock;

pub mod branch;
pub mod data_processing;
pub mod load_store;
pub mod multiply;

/// Every chapter.
pub static CHAPTERS: &[&[Row<Translator, Flow>]] = &[
    data_processing::ROWS,
    load_store::ROWS,
    branch::ROWS,
    multiply::ROWS,
    parallel::T32,
    coprocessor::T32,
    privileged::T32,
];

/// Bits 28:20, 15 and 7:5: groups of both halfwords.
const INDEX_MASK: u32 = 0x1ff0_80e0;

fn index(w: u32) -> usize {
    ((w >> 16 & 0x1ff0) | (w >> 12 & 8) | (w >> 5 & 7)) as usize
}

pub(crate) static DECODER: LazyLock<Decoder<Translator, Flow>> =
    LazyLock::new(|| Decoder::new(CHAPTERS, index, INDEX_MASK, 8192));

/// The row of an instruction.
pub fn find(w: u32) -> Option<&'static Row<Translator, Flow>> {
    DECODER.find(w)
}

/// Whether the word is data processing that changes nothing but one register other than the PC.
pub fn is_selectable(w: u32) -> bool {
    let (s, d) = (w >> 20 & 1 != 0, w >> 8 & 15);
    if d == 15 {
        return false;
    }
    match w >> 25 {
        0b1110101 => !s,
        0b1111000 | 0b1111010 if w & 0x8000 == 0 => !s,
        // ADDW, MOVW, SUBW, MOVT, SBFX, BFI, UBFX; not the saturations.
        0b1111001 | 0b1111011 if w & 0x8000 == 0 => {
            matches!(w >> 20 & 31, 0b00000 | 0b00100 | 0b01010 | 0b01100 | 0b10100 | 0b10110 | 0b11100)
        }
        _ => false,
    }
}

/// The condition of B (encoding T3).
pub fn branch_condition(w: u32) -> Option<u8> {
    let b_t3 = w & 0xf800_d000 == 0xf000_8000;
    let cond = (w >> 22 & 15) as u8;
    (b_t3 && cond < 14).then_some(cond)
}

/// Whether the word is B (encoding T3 or T4).
pub fn is_direct_branch(w: u32) -> bool {
    branch_condition(w).is_some() || w & 0xf800_d000 == 0xf000_9000
}

/// Whether the word is BL or BLX, the only ones before ARMv6T2.
pub fn is_call(w: u32) -> bool {
    w & 0xf800_c000 == 0xf000_c000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rows_overlap() {
        assert_eq!(DECODER.overlaps(), vec![]);
    }
}
