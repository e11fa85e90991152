//! Compares every operation with `rustc_apfloat`, an independent implementation (LLVM's `APFloat`).
//!
//! What the oracle lacks is derived from it: square roots by squaring in binary128, tininess and overflow by
//! computing in binary128, flushing and `Rounding::Odd` from their definitions, NaN results from the manuals' rules.
//!
//! A failure prints the case and the seed; `SOFTFLOAT_SEED=n` repeats a run.

mod arithmetic;
mod cases;
mod conversions;
mod host;
mod kinds;
mod reference;
mod steps;
mod x87;
