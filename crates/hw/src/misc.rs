//! Devices of no class.

pub mod fw_cfg;
