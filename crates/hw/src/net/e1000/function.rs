//! The PCI functions around the chips.

use std::sync::Arc;

use fabric::Region;
use spec::Result;

use super::interrupt::VECTORS;
use super::{E1000, Kind, REGION_FLASH, REGION_MEMORY, REGION_PORTS};
use crate::net::card::{Card, Parts, Resets, Window};
use crate::pci::function::Builder;
use crate::pci::signal::MsixTable;
use crate::pci::{Bar, BarKind, Function, Identity, Signal};

const MEMORY: u64 = 0x2_0000;
const CAPABILITY_POWER: u8 = 1;
const CAPABILITY_EXPRESS: u8 = 0x10;
const MSIX_BAR: u8 = 3;

/// Makes a card with its function.
pub fn function(kind: Kind, parts: Parts) -> Result<(Arc<Card>, Arc<Function>)> {
    let Parts { mac, backend, space, messages, rom } = parts;
    let express = kind == Kind::I82574;
    let (name, identity) = match kind {
        Kind::I82540 => ("e1000", Identity { device: 0x100e, revision: 3, subsystem_vendor: 0x1af4, subsystem: 0x1100, ..Identity::default() }),
        Kind::I82574 => ("e1000e", Identity { device: 0x10d3, subsystem_vendor: 0x8086, express, ..Identity::default() }),
    };
    let mut builder = Builder::new(name, Identity { vendor: 0x8086, class: 0x02_0000, interrupt_pin: 1, ..identity });
    let mut signal = Signal::new(messages);
    if express {
        add_capabilities(&mut builder, &mut signal);
    }
    let signal = Arc::new(signal);
    let card = Card::new(Box::new(E1000::new(kind, mac)), backend, space, signal.clone());
    let window = |region| Arc::new(Window { card: card.clone(), region });
    let bar = |size| Bar { kind: BarKind::Memory32, size };
    builder.bar(0, bar(MEMORY), Region::device("e1000-mmio", window(REGION_MEMORY)));
    if express {
        builder.bar(1, bar(MEMORY), Region::device("e1000e-flash", window(REGION_FLASH)));
        builder.bar(2, Bar { kind: BarKind::Io, size: 32 }, Region::device("e1000e-io", window(REGION_PORTS)));
        builder.bar(MSIX_BAR.into(), bar(0x4000), Region::device("e1000e-msix", Arc::new(MsixTable(signal.clone()))));
    } else {
        builder.bar(1, Bar { kind: BarKind::Io, size: 64 }, Region::device("e1000-io", window(REGION_PORTS)));
    }
    builder.rom(rom)?;
    let function = builder.build(signal, Some(Arc::new(Resets(card.clone()))));
    Ok((card, function))
}

/// Power management, MSI, PCI Express (an endpoint of the root complex), MSI-X: where the 82574 has them.
fn add_capabilities(builder: &mut Builder, signal: &mut Signal) {
    signal.add_msix(&mut builder.config, 0xa0, MSIX_BAR, VECTORS as u16);
    // Version 2 with a device-specific reset; states D0 and D3.
    builder.config.add_capability(CAPABILITY_POWER, 0xc8, &[0x22, 0x00, 0x00, 0x20, 0x00, 0x00]);
    signal.add_msi(&mut builder.config, 0xd0, 0);
    let mut express = [0u8; 0x12];
    express[..2].copy_from_slice(&0x0092u16.to_le_bytes());
    // Payloads of up to 256 bytes; errors are reported by roles.
    express[2..6].copy_from_slice(&0x0000_8001u32.to_le_bytes());
    builder.config.add_capability(CAPABILITY_EXPRESS, 0xe0, &express);
    builder.config.allow(0xe8, &[0xff, 0x7f]);
}
