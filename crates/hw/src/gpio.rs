//! General-purpose input and output.

pub mod key;
pub mod pl061;
