//! Storage that is wired to the memory bus.

pub mod cfi_flash;
