//! The T32 instruction set. **Reference.** Arm ARM (DDI 0406C) A6.3.

use crate::translate::{Flow, Translator};
use spec::decode::Row;

/// The row of an instruction (first halfword on top).
pub fn find(_w: u32) -> Option<&'static Row<Translator, Flow>> {
    None
}

pub fn is_selectable(_w: u32) -> bool {
    false
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
