//! The A32 instruction set: the list of chapters and the decoder.
//!
//! **Reference.** Arm ARM (DDI 0406C) A5.

use crate::translate::{Flow, Translator};
use spec::decode::{Decoder, Row};
use std::sync::LazyLock;

pub mod branch;
pub mod coprocessor;
pub mod data_processing;
pub mod fp;
pub mod load_store;
pub mod load_store_extra;
pub mod load_store_multiple;
pub mod multiply;
pub mod neon;
mod neon_core;
mod neon_extension;
mod neon_immediate;
mod neon_load_store;
mod neon_misc;
mod neon_scalar;
mod neon_shift;
mod neon_three_different;
mod neon_three_same;
pub mod parallel;
pub mod privileged;
pub mod saturating;
pub mod status;
pub mod sync;
mod vfp;
mod vfp_load_store;
mod vfp_short_vector;
mod vfp_system;

type Rows = &'static [Row<Translator, Flow>];

/// Chapters of the conditional space (bits 31:28 are a condition).
pub static CONDITIONAL: &[Rows] = &[
    data_processing::ROWS,
    multiply::ROWS,
    saturating::ROWS,
    parallel::ROWS,
    load_store::ROWS,
    load_store_extra::ROWS,
    load_store_multiple::ROWS,
    sync::ROWS,
    branch::ROWS,
    status::ROWS,
    privileged::ROWS,
    coprocessor::ROWS,
    vfp::ROWS,
    vfp_load_store::ROWS,
    vfp_system::ROWS,
    neon_core::ROWS,
];

/// Chapters of the unconditional space (bits 31:28 are 1111).
pub static UNCONDITIONAL: &[Rows] = &[
    branch::UNCONDITIONAL,
    status::UNCONDITIONAL,
    privileged::UNCONDITIONAL,
    vfp::UNCONDITIONAL,
    neon_load_store::ROWS,
    neon_extension::ROWS,
];

/// Bits 27:20 and 7:4 tell most instructions apart.
const INDEX_MASK: u32 = 0x0ff0_00f0;

fn index(w: u32) -> usize {
    ((w >> 16 & 0xff0) | (w >> 4 & 15)) as usize
}

pub(crate) static CONDITIONAL_DECODER: LazyLock<Decoder<Translator, Flow>> =
    LazyLock::new(|| Decoder::new(CONDITIONAL, index, INDEX_MASK, 4096));

pub(crate) static UNCONDITIONAL_DECODER: LazyLock<Decoder<Translator, Flow>> =
    LazyLock::new(|| Decoder::new(UNCONDITIONAL, index, INDEX_MASK, 4096));

/// The row of an instruction word.
pub fn find(w: u32) -> Option<&'static Row<Translator, Flow>> {
    match w >> 28 {
        15 if w >> 25 & 7 == 1 => neon::find(w),
        15 => UNCONDITIONAL_DECODER.find(w),
        _ => CONDITIONAL_DECODER.find(w),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rows_overlap() {
        assert_eq!(CONDITIONAL_DECODER.overlaps(), vec![]);
        assert_eq!(UNCONDITIONAL_DECODER.overlaps(), vec![]);
    }
}
