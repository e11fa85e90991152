//! Interrupt controllers.

pub mod gic_v2;
pub mod gic_v2m;
pub mod gic_v3;
pub mod gic_v3_its;
mod lists;
