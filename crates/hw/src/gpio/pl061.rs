//! PL061: eight pins of general-purpose input and output.
//!
//! **Reference**: PrimeCell General Purpose Input/Output (PL061) Technical Reference Manual, DDI 0190B. As in QEMU's model,
//! a level interrupt stays in GPIORIS until GPIOIC, and a pin that becomes an input keeps its level until its wire changes.
//! **Pins**: in: 8 (wires into `Mmio<Pl061>` by `input`); out: 8, the interrupt.
//! **Not modelled**: mode control by hardware (GPIOAFSEL is storage).

use fabric::{Device, Line, LineSink, Mmio};
use std::sync::Arc;

/// PeriphID and PCellID bytes.
const ID: [u8; 8] = [0x61, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1];
pub const PINS: u32 = 8;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct State {
    data: u8,
    /// Pins as they were when an input changed last.
    seen: u8,
    dir: u8,
    level_sense: u8,
    both_edges: u8,
    event: u8,
    enable: u8,
    raw: u8,
    function: u8,
}

pub struct Pl061 {
    s: State,
    /// Levels of the input wires.
    wires: u8,
    outputs: Vec<Line>,
    driven: u8,
    irq: Line,
}

impl Pl061 {
    /// `outputs` are wires from the pins, as many as are connected.
    pub fn new(irq: Line, outputs: Vec<Line>) -> Arc<Mmio<Pl061>> {
        Mmio::new(Pl061 { s: State::default(), wires: 0, outputs, driven: 0, irq })
    }

    /// The wire into a pin.
    pub fn input(device: &Arc<Mmio<Pl061>>, pin: u32) -> Line {
        assert!(pin < PINS, "no pin {pin}");
        Line::new(Arc::new(Pins(device.clone())), pin)
    }

    fn set_pin(&mut self, pin: u32, level: bool) {
        let bit = 1 << pin;
        if level { self.wires |= bit } else { self.wires &= !bit }
        self.s.data = self.s.data & !(bit & !self.s.dir) | self.wires & bit & !self.s.dir;
        self.update();
    }

    fn update(&mut self) {
        let s = &mut self.s;
        let changed = (s.seen ^ s.data) & !s.dir;
        if changed != 0 {
            s.seen = s.data;
        }
        let edge = s.both_edges | !(s.data ^ s.event);
        s.raw |= changed & !s.level_sense & edge;
        s.raw |= !(s.data ^ s.event) & s.level_sense;
        let out = s.data & s.dir;
        for (pin, line) in self.outputs.iter().enumerate().take(PINS as usize) {
            if (out ^ self.driven) >> pin & 1 != 0 {
                line.set(out >> pin & 1 != 0);
            }
        }
        self.driven = out;
        self.irq.set(self.s.raw & self.s.enable != 0);
    }
}

/// The pins as the far end of wires.
struct Pins(Arc<Mmio<Pl061>>);

impl LineSink for Pins {
    fn set(&self, number: u32, level: bool) {
        self.0.lock().set_pin(number, level);
    }
}

impl Device for Pl061 {
    fn read(&mut self, offset: u64, _size: u8) -> u64 {
        let s = &self.s;
        let value = match offset & !3 {
            // Address bits 9..2 choose the pins.
            at @ 0x000..0x400 => s.data & (at >> 2) as u8,
            0x400 => s.dir,
            0x404 => s.level_sense,
            0x408 => s.both_edges,
            0x40c => s.event,
            0x410 => s.enable,
            0x414 => s.raw,
            0x418 => s.raw & s.enable,
            0x420 => s.function,
            at @ 0xfe0..0x1000 => ID[(at as usize - 0xfe0) / 4],
            _ => 0,
        };
        value.into()
    }

    fn write(&mut self, offset: u64, _size: u8, value: u64) {
        let (s, value) = (&mut self.s, value as u8);
        match offset & !3 {
            at @ 0x000..0x400 => {
                let mask = (at >> 2) as u8 & s.dir;
                s.data = s.data & !mask | value & mask;
            }
            0x400 => s.dir = value,
            0x404 => s.level_sense = value,
            0x408 => s.both_edges = value,
            0x40c => s.event = value,
            0x410 => s.enable = value,
            0x41c => s.raw &= !value,
            0x420 => s.function = value,
            _ => {}
        }
        self.update();
    }

    fn reset(&mut self) {
        self.s = State { data: self.wires, seen: self.wires, ..State::default() };
        self.update();
    }

    fn info(&self) -> String {
        let s = &self.s;
        format!("data {:#04x} dir {:#04x} ie {:#04x} ris {:#04x}", s.data, s.dir, s.enable, s.raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Wires, torture};
    use fabric::MmioTarget;

    fn gpio() -> (Arc<Mmio<Pl061>>, Arc<Wires>) {
        let wires = Wires::new();
        (Pl061::new(wires.line(8), (0..8).map(|n| wires.line(n)).collect()), wires)
    }

    #[test]
    fn registers_after_reset_are_those_of_the_reference_machine() {
        let (g, _) = gpio();
        assert!((0..0x44c).step_by(4).all(|offset| g.read(offset, 4) == 0));
        let ids = [(0xfe0, 0x61), (0xfe4, 0x10), (0xfe8, 4), (0xfec, 0), (0xff0, 0xd), (0xff4, 0xf0), (0xff8, 5), (0xffc, 0xb1)];
        for (offset, value) in ids {
            assert_eq!(g.read(offset, 4), value, "{offset:#x}");
        }
    }

    #[test]
    fn the_power_key_interrupts_on_both_edges() {
        let (g, wires) = gpio();
        let key = Pl061::input(&g, 3);
        g.write(0x408, 4, 8);
        g.write(0x410, 4, 8);
        key.set(true);
        assert!(wires.level(8));
        assert_eq!((g.read(0x418, 4), g.read(8 << 2, 4), g.read(4 << 2, 4)), (8, 8, 0));
        g.write(0x41c, 4, 8);
        assert!(!wires.level(8));
        key.set(true);
        assert!(!wires.level(8));
        key.set(false);
        assert!(wires.level(8));
    }

    #[test]
    fn edges_and_levels_by_event() {
        let (g, wires) = gpio();
        let (a, b) = (Pl061::input(&g, 0), Pl061::input(&g, 1));
        g.write(0x40c, 4, 1 | 2);
        g.write(0x404, 4, 2);
        g.write(0x410, 4, 3);
        a.set(true);
        assert_eq!(g.read(0x414, 4), 1);
        g.write(0x41c, 4, 1);
        a.set(false);
        assert_eq!(g.read(0x414, 4), 0, "a falling edge does not count");
        b.set(true);
        g.write(0x41c, 4, 2);
        assert!(wires.level(8), "the level is still there");
        b.set(false);
        assert!(wires.level(8), "and remembered");
        g.write(0x41c, 4, 2);
        assert!(!wires.level(8));
    }

    #[test]
    fn outputs_are_written_through_the_address_mask() {
        let (g, wires) = gpio();
        g.write(0x400, 4, 0x0f);
        g.write(0b0101 << 2, 4, 0xff);
        assert_eq!(g.read(0x3fc, 4), 5);
        assert!(wires.level(0) && !wires.level(1) && wires.level(2));
        g.write(0x400, 4, 0);
        assert!(!wires.level(0));
        assert_eq!(g.read(0x3fc, 4), 5, "nobody drives them otherwise");
        Pl061::input(&g, 0).set(true);
        Pl061::input(&g, 0).set(false);
        assert_eq!(g.read(0x3fc, 4), 4);
    }

    #[test]
    fn random_accesses_never_panic_and_reset_is_fresh() {
        let (g, wires) = gpio();
        torture(&*g, 0x1000, 31, |random| g.lock().set_pin(random.below(8) as u32, random.below(2) == 0));
        for pin in 0..8 {
            g.lock().set_pin(pin, false);
        }
        g.reset();
        assert_eq!(g.lock().s, State::default());
        assert!((0..9).all(|n| !wires.level(n)));
    }
}
