//! The T16 instruction set. **Reference.** Arm ARM (DDI 0406C) A6.2.

use crate::translate::{Flow, Translator};
use spec::decode::Row;

/// The row of a halfword.
pub fn find(_w: u32) -> Option<&'static Row<Translator, Flow>> {
    None
}

pub fn is_selectable(_w: u32) -> bool {
    false
}
