//! Boards and boot.
#![forbid(unsafe_code)]
