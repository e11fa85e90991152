//! The Arm AArch32 front end: state, decode rows, lifting to IR, CPU models.
//!
//! **Reference.** Arm Architecture Reference Manual ARMv7-A/R (DDI 0406C) for the encodings' names and diagrams; Arm ARM for
//! A-profile (DDI 0487), part F, for what ARMv8 added. Where the manuals say UNPREDICTABLE the row's comment says what we do.
//!
//! **Not modelled**: ThumbEE, Jazelle (BXJ behaves as BX).
//!
//! | file | what |
//! |---|---|
//! | `state` | where each register lies in `ir::State`, and how CPSR and the region key are put together |
//! | `features` | architecture features, CPU models, auxiliary-vector values |
//! | `translate` | the [`Translator`]: register access, flags, conditions, exits; the loop that fills a region |
//! | `a32`, `t16`, `t32` | decode tables by chapter; T16 and T32 rows share the bodies of `a32` |
//! | `helper` | functions that translated code calls |
//! | `sysreg` | the registers of coprocessors 14 and 15, by function |
//! | `psci` | built-in firmware: PSCI |
//! | `mmu` | address translation: short and long descriptors, fault statuses |
//! | `guest` | `impl cpu::Guest` |
//! | `disassemble` | text of an instruction, from its row |
#![forbid(unsafe_code)]
#![recursion_limit = "512"]

pub mod a32;
mod debugger;
mod disassemble;
mod disassemble_fp;
pub mod exception;
pub mod features;
mod guest;
pub mod helper;
pub mod mmu;
mod peek;
pub mod psci;
pub mod state;
pub mod sysreg;
pub mod system;
pub mod t16;
pub mod t32;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod translate;

pub use features::{Features, Model};
pub use guest::Arm;
pub use translate::{Flow, Translator};
