//! Floating-point arithmetic as pure functions: `(operands, mode) -> (result, flags)`.
//!
//! Operands and results are raw encodings (`u16` half, `u32` single, `u64` double), so no host
//! floating-point register, rounding mode or status word can change an answer. Three guests with three
//! NaN rules share this code; the differences are fields of [`Mode`].
//!
//! **Reference.** IEEE 754-2019; Arm ARM DDI 0487 (shared pseudocode `FPUnpack`, `FPRound`, `FPProcessNaNs`,
//! `FPAdd` …) and DDI 0406C for the A32 reciprocal steps; RISC-V unprivileged ISA, chapters F, D and Zfh;
//! Intel SDM volume 1, chapters 4, 8 and 11.
//!
//! **Not modelled.** Traps (every exception is taken as masked; the flags tell the caller what happened);
//! Arm `FPCR.AH`, `FPCR.FIZ`, `FPCR.NEP` and the increased-precision estimates (FEAT_AFP, FEAT_RPRES);
//! binary128 and decimal formats.
//!
//! | file | chapter |
//! |---|---|
//! | `mode.rs` | rounding, NaN rule, flags |
//! | `format.rs` | encodings, unpacking, rounding and packing |
//! | `nan.rs` | which NaN an operation returns |
//! | `arith.rs` | add, multiply, divide, square root, fused multiply-add |
//! | `compare.rs` | comparisons, minimum, maximum |
//! | `convert.rs` | between formats, round to integral |
//! | `estimate.rs` | Arm reciprocal estimates and steps |
//! | `integer.rs` | to and from integers and fixed point |
//! | `f80.rs` | the x87 format |
//! | `api.rs` | the functions by name |

#![forbid(unsafe_code)]

mod api;
mod arith;
mod compare;
mod convert;
mod estimate;
mod f80;
mod format;
mod integer;
mod mode;
mod nan;

pub use api::*;
pub use compare::Relation;
pub use f80::*;
pub use mode::{Flags, Mode, NanRule, Rounding};
