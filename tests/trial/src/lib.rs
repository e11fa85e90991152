//! What the trials of several crates share. Nothing that is shipped depends on it.
//!
//! | module | what |
//! |---|---|
//! | [`console`] | a program's or a guest's console: waits for text, types, runs commands |
//! | [`damage`] | damaged ELF files |
//! | [`random`] | numbers that look random |
#![forbid(unsafe_code)]

pub mod console;
pub mod damage;
pub mod random;

pub use console::Console;
pub use random::Random;
