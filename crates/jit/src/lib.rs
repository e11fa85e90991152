//! Runs regions: translation cache, look-up, chaining, invalidation, fault recovery, one [`Vcpu`] per guest thread.
//!
//! **Invariants**: guest state is exact whenever [`Vcpu::run`] has returned; generated code holds no absolute host address;
//! no Rust or generated frame is ever unwound or jumped over.

pub mod breakpoint;
mod cache;
pub mod engine;
pub mod fault;
mod index;
mod jumps;
mod interp;
pub mod machine;
pub mod perf;
mod run;
mod runtime;
mod sequence;
pub mod space;
pub mod trace;
pub mod vcpu;
pub mod watch;

pub use cache::Statistics;
pub use engine::{Config, Engine};
pub use engine::{Observer, TranslationLog};
pub use machine::Machine;
pub use space::{PageFlags, Space};
pub use vcpu::{Stop, Vcpu};
