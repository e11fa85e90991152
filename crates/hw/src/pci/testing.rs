//! Stand-ins for what surrounds PCI functions in tests.

use std::sync::{Arc, Mutex};

use fabric::{AddressSpace, Line, LineSink, MmioTarget, Msi, MsiSink, Region};

use super::function::Builder;
use super::{Bar, BarKind, Bus, Function, Identity, Intx, IoWindow, Signal, Windows};

/// Keeps the messages it is sent.
#[derive(Default)]
pub struct Messages(Mutex<Vec<(u64, u32, u32)>>);

impl Messages {
    pub fn take(&self) -> Vec<(u64, u32, u32)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl MsiSink for Messages {
    fn send(&self, message: Msi) {
        self.0.lock().unwrap().push((message.address, message.data, message.device));
    }
}

/// Four wires that remember their level.
pub struct Wires(Mutex<[bool; 4]>);

impl Wires {
    pub fn new() -> Arc<Wires> {
        Arc::new(Wires(Mutex::new([false; 4])))
    }

    pub fn lines(self: &Arc<Wires>) -> [Line; 4] {
        [0, 1, 2, 3].map(|n| Line::new(self.clone(), n))
    }

    pub fn levels(&self) -> [bool; 4] {
        *self.0.lock().unwrap()
    }
}

impl LineSink for Wires {
    fn set(&self, number: u32, level: bool) {
        self.0.lock().unwrap()[number as usize] = level;
    }
}

/// A root bus with windows as the `virt` board has them.
pub struct Rig {
    pub space: Arc<AddressSpace>,
    pub bus: Arc<Bus>,
    pub messages: Arc<Messages>,
    pub wires: Arc<Wires>,
}

impl Rig {
    pub fn new() -> Rig {
        let space = AddressSpace::new();
        let wires = Wires::new();
        let windows = Windows {
            space: space.clone(),
            memory: vec![0x1000_0000..0x3eff_0000, 0x80_0000_0000..0x100_0000_0000],
            io: Some(IoWindow { space: space.clone(), base: 0x3eff_0000, len: 0x1_0000 }),
            priority: 0,
        };
        let bus = Bus::root("pcie.0", windows, Intx::new(wires.lines()));
        Rig { space, bus, messages: Arc::default(), wires }
    }
}

/// Answers with its offset and a number.
struct Echo(u64);

impl MmioTarget for Echo {
    fn read(&self, offset: u64, _size: u8) -> u64 {
        self.0 | offset
    }
    fn write(&self, _offset: u64, _size: u8, _value: u64) {}
}

/// A function with a memory and a port base address.
pub fn sample(rig: &Rig, name: &str) -> Arc<Function> {
    let identity = Identity { vendor: 0x1234, device: 1, interrupt_pin: 1, ..Identity::default() };
    let mut builder = Builder::new(name, identity);
    builder.bar(0, Bar { kind: BarKind::Memory32, size: 0x1000 }, Region::device("memory", Arc::new(Echo(0x100))));
    builder.bar(1, Bar { kind: BarKind::Io, size: 0x100 }, Region::device("ports", Arc::new(Echo(0x200))));
    builder.build(Arc::new(Signal::new(rig.messages.clone())), None)
}
