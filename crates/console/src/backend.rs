//! One file per kind of back end.

pub mod null;
pub mod stdio;
