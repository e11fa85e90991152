//! Devices as text: `info qtree` and `info pci`.
//!
//! Reference: the layouts of QEMU 10.0.2.

use std::fmt::Write as _;

use board::arm::virt::Virt;
use hw::pci::bus::Bus;
use hw::pci::config::{Bar, BarKind, Config};
use hw::pci::function::Function;

/// Where the numbers of a function are.
mod offset {
    pub const VENDOR: usize = 0x00;
    pub const DEVICE: usize = 0x02;
    pub const CLASS: usize = 0x0a;
    pub const SECONDARY_BUS: usize = 0x19;
    pub const SUBSYSTEM_VENDOR: usize = 0x2c;
    pub const SUBSYSTEM: usize = 0x2e;
    pub const INTERRUPT_LINE: usize = 0x3c;
    pub const INTERRUPT_PIN: usize = 0x3d;
}

/// Names of classes.
const CLASSES: &[(u16, &str)] = &[
    (0x0001, "VGA controller"),
    (0x0100, "SCSI controller"),
    (0x0101, "IDE controller"),
    (0x0106, "SATA controller"),
    (0x0200, "Ethernet controller"),
    (0x0280, "Network controller"),
    (0x0300, "VGA controller"),
    (0x0380, "Display controller"),
    (0x0500, "RAM controller"),
    (0x0600, "Host bridge"),
    (0x0601, "ISA bridge"),
    (0x0604, "PCI bridge"),
    (0x0700, "Serial port"),
    (0x0c03, "USB controller"),
];

/// `info qtree`.
pub fn tree(board: &Virt, brief: bool) -> String {
    let mut text = "bus: main-system-bus\n  type System\n".to_string();
    for device in &board.placed {
        let _ = writeln!(text, "  dev: {}, id \"\"", device.name);
        if !brief {
            (device.info)().lines().for_each(|line| text += &format!("    {line}\n"));
            let _ = writeln!(text, "    mmio {:016x}", device.base);
        }
        if device.name == "pcie" {
            bus_tree(&board.pci.bus, 4, &mut text);
        }
    }
    text
}

fn bus_tree(bus: &Bus, indent: usize, text: &mut String) {
    let _ = writeln!(text, "{:indent$}bus: {}\n{:indent$}  type PCI", "", bus.name(), "");
    for function in bus.functions() {
        let address = function.at().map_or(String::new(), |at| format!(", addr {at}"));
        let id = function.id().unwrap_or_default();
        let _ = writeln!(text, "{:indent$}  dev: {}, id \"{id}\"{address}", "", function.name());
        if let Some(child) = function.child() {
            bus_tree(child, indent + 4, text);
        }
    }
}

/// `info pci`.
pub fn pci(bus: &Bus) -> String {
    let mut text = String::new();
    functions(bus, 0, &mut text);
    text
}

fn functions(bus: &Bus, number: u8, text: &mut String) {
    let mut all = bus.functions();
    all.sort_by_key(|function| function.at());
    for function in all {
        one(&function, number, text);
        if let Some(child) = function.child() {
            let number = function.config().get8(offset::SECONDARY_BUS);
            functions(child, number, text);
        }
    }
}

fn one(function: &Function, bus: u8, text: &mut String) {
    let Some(at) = function.at() else { return };
    let config = function.config();
    let class = config.get16(offset::CLASS);
    let name = CLASSES.iter().find(|(number, _)| *number == class).map(|(_, name)| name.to_string());
    let name = name.unwrap_or_else(|| format!("Class {class:04x}"));
    let _ = writeln!(text, "  Bus {bus:2}, device {:3}, function {}:", at.slot, at.function);
    let id = |of: usize| config.get16(of);
    let _ = writeln!(text, "    {name}: PCI device {:04x}:{:04x}", id(offset::VENDOR), id(offset::DEVICE));
    let subsystem = (id(offset::SUBSYSTEM_VENDOR), id(offset::SUBSYSTEM));
    if subsystem != (0, 0) && function.child().is_none() {
        let _ = writeln!(text, "      PCI subsystem {:04x}:{:04x}", subsystem.0, subsystem.1);
    }
    if let pin @ 1..=4 = config.get8(offset::INTERRUPT_PIN) {
        let pin = char::from(b'A' + pin - 1);
        let _ = writeln!(text, "      IRQ {}, pin {pin}", config.get8(offset::INTERRUPT_LINE));
    }
    for index in 0..7 {
        if let Some(bar) = config.bar(index) {
            let _ = writeln!(text, "      BAR{index}: {}", bar_text(&config, index, bar));
        }
    }
    let _ = writeln!(text, "      id \"{}\"", function.id().unwrap_or_default());
}

fn bar_text(config: &Config, index: usize, bar: Bar) -> String {
    let (kind, digits) = match bar.kind {
        BarKind::Io => ("I/O", 4),
        BarKind::Memory32 | BarKind::Rom => ("32 bit memory", 8),
        BarKind::Memory64Prefetchable => ("64 bit prefetchable memory", 8),
    };
    match config.decoded(index) {
        Some(at) => format!("{kind} at 0x{at:0digits$x} [0x{:0digits$x}]", at + bar.size - 1),
        None => format!("{kind} (not mapped)"),
    }
}
