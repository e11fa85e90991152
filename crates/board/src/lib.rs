//! Boards and boot: which devices a machine has, where, and what is in its memory when it starts.
//!
//! Reference: the memory map, device tree and loader behaviour of QEMU 10.0, observed from the outside (`dumpdtb`, boots);
//! Devicetree Specification 0.4; Linux `Documentation/arch/arm/booting.rst`.
//!
//! Not modelled: ACPI, SMBIOS, boards other than ARM's `virt`.
//!
//! Module map: `fdt` is the device tree facade, `arm::virt` the board, `boot` the loaders.
#![forbid(unsafe_code)]

pub mod arm;
pub mod boot;
pub mod fdt;
