//! The table language shared by every crate: bit-diagram decode rows, the error type, comma lists.
//!
//! A fact is written once, in a table that looks like the manual; this crate holds what such tables are made of.
#![forbid(unsafe_code)]

pub mod commas;
pub mod decode;
pub mod error;

pub use error::{Context, Error, Result};
