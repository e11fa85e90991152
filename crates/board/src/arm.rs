//! ARM boards.

pub mod virt;
