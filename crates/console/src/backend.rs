//! One file per kind of back end.

pub mod file;
pub mod null;
pub mod pty;
pub mod socket;
pub mod stdio;
