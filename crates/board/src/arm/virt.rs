//! The `virt` board: a machine that never existed, made for guests that read device trees.
//!
//! Reference: QEMU's documentation `docs/system/arm/virt.rst` and the trees its version 10.0 writes.
//!
//! Not modelled: SMMU, memory hotplug, NUMA, ACPI tables, TPM, CXL.
//!
//! `slots` is the memory map, `options` are the machine's properties, `layout` decides what lies above 4 GiB, `tree` writes
//! the device tree, `build` is the schematic.

pub mod build;
pub mod layout;
pub mod options;
pub mod slots;
pub mod tree;

pub use build::{Parts, Processors, Virt};
pub use layout::Layout;
pub use options::{Gic, Options};
