//! The intermediate representation: operations, region builder, text form, verifier, passes, and the interpreter that is
//! the oracle and the fallback.
//!
//! A **region** is a single-entry, multi-exit list of instructions. Values are numbered by the instruction that makes them
//! (SSA without phi); guest state is read by `get` and written by `set`, in guest program order, so that the guest state
//! is exact at every operation that may leave. Short forward skips to the next label are the only inner control flow.
//!
//! **Invariants**: this crate knows no guest and no host instruction set; the IR has no undefined behaviour (see `ops`).
#![forbid(unsafe_code)]

pub mod build;
pub mod fp;
pub mod interp;
pub mod ops;
pub mod pass;
pub mod region;
pub mod state;
pub mod text;
pub mod verify;

pub use build::Builder;
pub use ops::Op;
pub use region::*;
pub use state::{Layout, Loc, State};
