//! AMD's PCnet-PCI II, the Am79C970A.
//!
//! Reference: *Am79C970A PCnet-PCI II Single-Chip Full-Duplex Ethernet Controller* data sheet (19436), chapters on register
//! access, initialization block, descriptors, CSRs and BCRs.
//!
//! | module | what |
//! |---|---|
//! | `registers` | the ports: address PROM, RAP, CSRs, BCRs |
//! | `rings` | initialization block, descriptors, frames |
//!
//! Not modelled: loop-back, time-outs of the software timer, JTAG, the microwire interface, half duplex.

mod registers;
mod rings;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use fabric::Region;
use net::Mac;
use spec::Result;

use super::assembly::Assembly;
use super::card::{Cable, Card, Chip, Parts, Resets, Sent, Window, Wires};
use crate::pci::function::Builder;
use crate::pci::{Bar, BarKind, Function, Identity, Signal};

mod csr0 {
    pub const INIT: u16 = 1 << 0;
    pub const STRT: u16 = 1 << 1;
    pub const STOP: u16 = 1 << 2;
    pub const TDMD: u16 = 1 << 3;
    pub const TXON: u16 = 1 << 4;
    pub const RXON: u16 = 1 << 5;
    pub const IENA: u16 = 1 << 6;
    pub const INTR: u16 = 1 << 7;
    pub const IDON: u16 = 1 << 8;
    pub const TINT: u16 = 1 << 9;
    pub const RINT: u16 = 1 << 10;
    pub const MERR: u16 = 1 << 11;
    pub const MISS: u16 = 1 << 12;
    /// What writing a one clears.
    pub const CAUSES: u16 = 0x7f00;
}

/// CSR15.
mod mode {
    pub const DRX: u16 = 1 << 0;
    pub const DTX: u16 = 1 << 1;
    pub const DRCVBC: u16 = 1 << 14;
    pub const PROM: u16 = 1 << 15;
}

const CSRS: usize = 128;
const BCRS: usize = 32;

pub struct Pcnet {
    mac: Mac,
    csr: [u16; CSRS],
    bcr: [u16; BCRS],
    rap: usize,
    /// The ports are 32 bits wide.
    dwio: bool,
    /// The rings: base, descriptors, the next one.
    receive: rings::Ring,
    transmit: rings::Ring,
    out: Assembly,
    /// The frame is complete, but the cable had no room for it.
    held: bool,
}

impl Chip for Pcnet {
    fn name(&self) -> &'static str {
        "pcnet"
    }

    fn read(&mut self, w: &mut Wires, _region: usize, offset: u64, size: u8) -> u64 {
        self.read_port(w, offset & 0x1f, size)
    }

    fn write(&mut self, w: &mut Wires, _region: usize, offset: u64, size: u8, value: u64) {
        self.write_port(w, offset & 0x1f, size, value);
    }

    fn send(&mut self, w: &mut Wires, cable: &mut Cable) -> Sent {
        self.transmit_frames(w, cable)
    }

    fn ready(&mut self, w: &mut Wires) -> bool {
        self.has_room(w)
    }

    fn receive(&mut self, w: &mut Wires, frame: &[u8]) -> bool {
        self.store(w, frame)
    }

    fn update(&mut self, w: &mut Wires) {
        // Masks in CSR3; what has none interrupts always.
        let masked = self.csr[3] & 0x5f00;
        let wanted = self.csr[0] & csr0::CAUSES & !masked != 0;
        self.csr[0] = self.csr[0] & !csr0::INTR | if wanted { csr0::INTR } else { 0 };
        w.signal.set_intx(wanted && self.csr[0] & csr0::IENA != 0);
    }

    fn link_changed(&mut self, _w: &mut Wires) {}

    fn reset(&mut self, w: &mut Wires) {
        *self = Pcnet::new(self.mac);
        w.signal.set_intx(false);
    }
}

/// Makes a card with its function.
pub fn function(parts: Parts) -> Result<(Arc<Card>, Arc<Function>)> {
    let Parts { mac, backend, space, messages, rom } = parts;
    let identity = Identity { vendor: 0x1022, device: 0x2000, class: 0x02_0000, revision: 0x10, interrupt_pin: 1, ..Identity::default() };
    let mut builder = Builder::new("pcnet", identity);
    let signal = Arc::new(Signal::new(messages));
    let card = Card::new(Box::new(Pcnet::new(mac)), backend, space, signal.clone());
    let window = || Arc::new(Window { card: card.clone(), region: 0 });
    builder.bar(0, Bar { kind: BarKind::Io, size: 32 }, Region::device("pcnet-io", window()));
    builder.bar(1, Bar { kind: BarKind::Memory32, size: 32 }, Region::device("pcnet-mmio", window()));
    builder.rom(rom)?;
    let function = builder.build(signal, Some(Arc::new(Resets(card.clone()))));
    Ok((card, function))
}
