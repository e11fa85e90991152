//! How a function interrupts: its INTx wire, MSI, and MSI-X with its table.
//!
//! Reference: PCI Local Bus Specification 3.0, 2.2.6 (INTx), 6.8.1 (MSI), 6.8.2 (MSI-X).
//! Not modelled: MSI-X steering tags; table accesses of 8 bytes are two of 4.
//!
//! Invariants: the lock here is taken after a device's own; messages and wires are driven with it held, so that two
//! changes of level cannot overtake each other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fabric::{Line, MmioTarget, Msi, MsiSink};

use super::config::{Config, command};

/// "No vector", in the registers of devices that choose one.
pub const NO_VECTOR: u16 = 0xffff;
/// The most entries a table can have.
pub const MSIX_MAX: u16 = 2048;

const MSI_ENABLE: u16 = 1 << 0;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;
const ENTRY_SIZE: u64 = 16;
const ENTRY_MASKED: u32 = 1;
pub const CAPABILITY_MSI: u8 = 0x05;
pub const CAPABILITY_MSIX: u8 = 0x11;

/// The four wires of a bus segment; each is high while any function holds it.
pub struct Intx {
    lines: [Line; 4],
    holders: Mutex<[u32; 4]>,
}

impl Intx {
    pub fn new(lines: [Line; 4]) -> Arc<Intx> {
        Arc::new(Intx { lines, holders: Mutex::new([0; 4]) })
    }

    /// One holder more or less of wire `number`.
    fn hold(&self, number: usize, level: bool) {
        let mut holders = lock(&self.holders);
        let count = &mut holders[number];
        *count = if level { *count + 1 } else { *count - 1 };
        match (*count, level) {
            (1, true) => self.lines[number].set(true),
            (0, false) => self.lines[number].set(false),
            _ => {}
        }
    }
}

/// The wire of a pin (1 to 4) of the function in `slot`, in the order that motherboards and bridges use.
pub fn swizzle(slot: u8, pin: u8) -> usize {
    (usize::from(slot) + usize::from(pin) - 1) % 4
}

#[derive(Clone, Copy, Default)]
struct Entry {
    address: u64,
    data: u32,
    control: u32,
}

struct Wire {
    intx: Arc<Intx>,
    number: usize,
}

#[derive(Default)]
struct State {
    wire: Option<Wire>,
    /// What the device wants its INTx pin to be.
    wanted: bool,
    /// What it is, after the enable bits.
    driven: bool,
    intx_disabled: bool,
    bus_master: bool,
    msi: Option<(u64, u16, u8)>,
    msix_enabled: bool,
    msix_masked: bool,
    requester: u32,
    table: Vec<Entry>,
    pending: Vec<u64>,
}

/// Interrupt state of one function.
pub struct Signal {
    state: Mutex<State>,
    sink: Arc<dyn MsiSink>,
    msi: Option<usize>,
    msix: Option<usize>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn drive(&mut self) {
        let level = self.wanted && !self.intx_disabled && !self.msix_enabled && self.msi.is_none();
        if level != self.driven {
            self.driven = level;
            if let Some(wire) = &self.wire {
                wire.intx.hold(wire.number, level);
            }
        }
    }

    fn send(&self, sink: &dyn MsiSink, address: u64, data: u32) {
        // A message is a write to memory, so it needs leave to master the bus.
        if self.bus_master {
            sink.send(Msi { address, data, device: self.requester });
        }
    }

    fn set_pending(&mut self, vector: usize, level: bool) {
        let bit = 1 << (vector % 64);
        let word = &mut self.pending[vector / 64];
        *word = if level { *word | bit } else { *word & !bit };
    }

    fn is_pending(&self, vector: usize) -> bool {
        self.pending[vector / 64] >> (vector % 64) & 1 != 0
    }

    fn notify_msix(&mut self, sink: &dyn MsiSink, vector: usize) {
        let Some(entry) = self.table.get(vector).copied() else { return };
        if self.msix_masked || entry.control & ENTRY_MASKED != 0 {
            self.set_pending(vector, true);
        } else {
            self.send(sink, entry.address, entry.data);
        }
    }

    /// Sends what became possible by unmasking.
    fn release(&mut self, sink: &dyn MsiSink, vectors: std::ops::Range<usize>) {
        if !self.msix_enabled || self.msix_masked {
            return;
        }
        for vector in vectors {
            if self.is_pending(vector) && self.table[vector].control & ENTRY_MASKED == 0 {
                self.set_pending(vector, false);
                self.notify_msix(sink, vector);
            }
        }
    }
}

impl Signal {
    pub fn new(sink: Arc<dyn MsiSink>) -> Signal {
        Signal { state: Mutex::default(), sink, msi: None, msix: None }
    }

    /// Adds the MSI capability with `2^log_vectors` messages, 64-bit addresses, no mask bits.
    pub fn add_msi(&mut self, config: &mut Config, offset: usize, log_vectors: u8) {
        assert!(log_vectors <= 5, "MSI has at most 32 messages");
        let control = 0x0080 | u16::from(log_vectors) << 1;
        let mut body = [0; 12];
        body[..2].copy_from_slice(&control.to_le_bytes());
        config.add_capability(CAPABILITY_MSI, offset, &body);
        config.allow(offset + 2, &0x0071u16.to_le_bytes());
        config.allow(offset + 4, &[0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        self.msi = Some(offset);
    }

    /// Adds the MSI-X capability; the table is in base address `bar`, whose size is the result.
    pub fn add_msix(&mut self, config: &mut Config, offset: usize, bar: u8, vectors: u16) -> u64 {
        assert!((1..=MSIX_MAX).contains(&vectors), "a table has 1 to 2048 entries");
        let pending_at = pending_offset(vectors);
        let mut body = Vec::new();
        body.extend((vectors - 1).to_le_bytes());
        body.extend(u32::from(bar).to_le_bytes());
        body.extend((pending_at as u32 | u32::from(bar)).to_le_bytes());
        config.add_capability(CAPABILITY_MSIX, offset, &body);
        config.allow(offset + 2, &(MSIX_ENABLE | MSIX_MASK_ALL).to_le_bytes());
        self.msix = Some(offset);
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.table = vec![Entry { control: ENTRY_MASKED, ..Entry::default() }; usize::from(vectors)];
        state.pending = vec![0; usize::from(vectors).div_ceil(64)];
        (pending_at + u64::from(vectors).div_ceil(64) * 8).next_power_of_two().max(4096)
    }

    pub fn vectors(&self) -> u16 {
        lock(&self.state).table.len() as u16
    }

    /// Plugs the function's pin into a wire and gives it a number for its messages.
    pub fn plug(&self, wire: Option<(Arc<Intx>, usize)>, requester: u32) {
        let mut state = lock(&self.state);
        state.wire = wire.map(|(intx, number)| Wire { intx, number });
        state.requester = requester;
    }

    /// Takes over what a write to the configuration space may have changed.
    pub fn follow(&self, config: &Config) {
        let mut state = lock(&self.state);
        let command = config.command();
        state.intx_disabled = command & command::INTX_DISABLE != 0;
        state.bus_master = command & command::BUS_MASTER != 0;
        state.msi = self.msi.and_then(|at| {
            let control = config.get16(at + 2);
            let address = u64::from(config.get32(at + 4)) | u64::from(config.get32(at + 8)) << 32;
            let log_used = (control >> 4 & 7).min(control >> 1 & 7) as u8;
            (control & MSI_ENABLE != 0).then_some((address, config.get16(at + 12), log_used))
        });
        let control = self.msix.map_or(0, |at| config.get16(at + 2));
        state.msix_enabled = control & MSIX_ENABLE != 0;
        state.msix_masked = control & MSIX_MASK_ALL != 0;
        let all = 0..state.table.len();
        state.release(&*self.sink, all);
        state.drive();
    }

    pub fn reset(&self) {
        let mut state = lock(&self.state);
        state.wanted = false;
        state.table.fill(Entry { control: ENTRY_MASKED, ..Entry::default() });
        state.pending.fill(0);
    }

    /// The level of the function's pin, before INTx may be disabled.
    pub fn set_intx(&self, level: bool) {
        let mut state = lock(&self.state);
        state.wanted = level;
        state.drive();
    }

    /// What the status register shows.
    pub fn intx_wanted(&self) -> bool {
        lock(&self.state).wanted
    }

    pub fn msix_enabled(&self) -> bool {
        lock(&self.state).msix_enabled
    }

    /// Sends or keeps a message. False if messages are off and the device has to use its pin.
    pub fn notify(&self, vector: u16) -> bool {
        let mut state = lock(&self.state);
        if state.msix_enabled {
            if vector != NO_VECTOR {
                state.notify_msix(&*self.sink, usize::from(vector));
            }
            return true;
        }
        if let Some((address, data, log_used)) = state.msi {
            if vector != NO_VECTOR {
                let low = (1u32 << log_used) - 1;
                state.send(&*self.sink, address, u32::from(data) & !low | u32::from(vector) & low);
            }
            return true;
        }
        false
    }

    fn read_word(&self, offset: u64) -> u32 {
        let state = lock(&self.state);
        let index = (offset / ENTRY_SIZE) as usize;
        if let Some(entry) = state.table.get(index) {
            return match offset % ENTRY_SIZE / 4 {
                0 => entry.address as u32,
                1 => (entry.address >> 32) as u32,
                2 => entry.data,
                _ => entry.control,
            };
        }
        let Some(bit) = offset.checked_sub(pending_offset(state.table.len() as u16)) else { return 0 };
        let word = state.pending.get((bit / 8) as usize).copied().unwrap_or(0);
        (word >> (bit % 8 * 8)) as u32
    }

    fn write_word(&self, offset: u64, value: u32) {
        let mut state = lock(&self.state);
        let index = (offset / ENTRY_SIZE) as usize;
        let Some(entry) = state.table.get_mut(index) else { return };
        match offset % ENTRY_SIZE / 4 {
            0 => entry.address = entry.address & !0xffff_ffff | u64::from(value & !3),
            1 => entry.address = entry.address & 0xffff_ffff | u64::from(value) << 32,
            2 => entry.data = value,
            _ => entry.control = value & ENTRY_MASKED,
        }
        state.release(&*self.sink, index..index + 1);
    }
}

fn pending_offset(vectors: u16) -> u64 {
    (u64::from(vectors) * ENTRY_SIZE).max(2048)
}

/// The base address with the table and the pending bits.
pub struct MsixTable(pub Arc<Signal>);

impl MmioTarget for MsixTable {
    fn read(&self, offset: u64, size: u8) -> u64 {
        let aligned = offset & !3;
        let mut value = u64::from(self.0.read_word(aligned));
        if offset % 4 + u64::from(size) > 4 {
            value |= u64::from(self.0.read_word(aligned + 4)) << 32;
        }
        value >> (offset % 4 * 8) & fabric::device::mask(size)
    }

    fn write(&self, offset: u64, size: u8, value: u64) {
        // Only aligned words (and pairs of them) are defined; anything else is dropped.
        if !offset.is_multiple_of(4) || size < 4 {
            return;
        }
        self.0.write_word(offset, value as u32);
        if size == 8 {
            self.0.write_word(offset + 4, (value >> 32) as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::config::{Identity, reg};
    use crate::pci::testing::{Messages, Wires};

    fn function() -> (Config, Arc<Signal>, Arc<Messages>, Arc<Wires>) {
        let messages = Arc::new(Messages::default());
        let wires = Wires::new();
        let mut config = Config::new(Identity { interrupt_pin: 1, ..Identity::default() });
        let mut signal = Signal::new(messages.clone());
        assert_eq!(signal.add_msix(&mut config, 0x98, 1, 3), 4096);
        signal.add_msi(&mut config, 0x60, 2);
        signal.plug(Some((Intx::new(wires.lines()), 2)), 0x28);
        config.set16(reg::COMMAND, command::BUS_MASTER);
        signal.follow(&config);
        (config, Arc::new(signal), messages, wires)
    }

    fn enable(config: &mut Config, signal: &Signal, control: u16) {
        config.write(0x9a, 2, u32::from(control));
        signal.follow(config);
    }

    #[test]
    fn masked_messages_wait_in_the_pending_bits() {
        let (mut config, signal, messages, _) = function();
        let table = MsixTable(signal.clone());
        enable(&mut config, &signal, MSIX_ENABLE);
        assert_eq!(table.read(12, 4), 1, "entries are masked at reset");
        table.write(16, 4, 0x0802_0040);
        table.write(24, 8, 0x55);
        assert!(signal.notify(1));
        assert_eq!(messages.take(), [(0x0802_0040, 0x55, 0x28)]);
        table.write(28, 4, 1);
        signal.notify(1);
        assert!(messages.take().is_empty());
        assert_eq!(table.read(0x800, 4), 2);
        table.write(28, 4, 0);
        assert_eq!(messages.take().len(), 1);
        assert_eq!(table.read(0x800, 8), 0);
        enable(&mut config, &signal, MSIX_ENABLE | MSIX_MASK_ALL);
        signal.notify(1);
        assert!(messages.take().is_empty());
        enable(&mut config, &signal, MSIX_ENABLE);
        assert_eq!(messages.take().len(), 1);
        assert!(signal.notify(NO_VECTOR) && signal.notify(77));
        assert!(messages.take().is_empty());
    }

    #[test]
    fn a_message_needs_bus_mastering() {
        let (mut config, signal, messages, _) = function();
        MsixTable(signal.clone()).write(8, 8, 7);
        config.set16(reg::COMMAND, 0);
        enable(&mut config, &signal, MSIX_ENABLE);
        assert!(signal.notify(0));
        assert!(messages.take().is_empty());
    }

    #[test]
    fn msi_replaces_the_low_bits() {
        let (mut config, signal, messages, _) = function();
        config.write(0x64, 4, 0xfee0_0000);
        config.write(0x6c, 2, 0x4150);
        config.write(0x62, 2, 0x0021);
        signal.follow(&config);
        assert!(signal.notify(3));
        assert_eq!(messages.take(), [(0xfee0_0000, 0x4153, 0x28)]);
    }

    #[test]
    fn the_pin_obeys_the_enable_bits() {
        let (mut config, signal, _, wires) = function();
        assert!(!signal.notify(0), "messages are off");
        signal.set_intx(true);
        assert_eq!(wires.levels(), [false, false, true, false]);
        config.write(reg::COMMAND, 2, u32::from(command::INTX_DISABLE));
        signal.follow(&config);
        assert_eq!(wires.levels(), [false; 4]);
        assert!(signal.intx_wanted());
        config.write(reg::COMMAND, 2, 0);
        signal.follow(&config);
        assert_eq!(wires.levels(), [false, false, true, false]);
        enable(&mut config, &signal, MSIX_ENABLE);
        assert_eq!(wires.levels(), [false; 4]);
        signal.set_intx(false);
    }

    #[test]
    fn a_shared_wire_is_high_while_anyone_holds_it() {
        let wires = Wires::new();
        let intx = Intx::new(wires.lines());
        intx.hold(1, true);
        intx.hold(1, true);
        intx.hold(1, false);
        assert_eq!(wires.levels(), [false, true, false, false]);
        intx.hold(1, false);
        assert_eq!(wires.levels(), [false; 4]);
    }

    #[test]
    fn pins_swizzle_by_slot() {
        assert_eq!([(0, 1), (1, 1), (2, 1), (3, 2), (4, 1)].map(|(s, p)| swizzle(s, p)), [0, 1, 2, 0, 0]);
    }

    #[test]
    fn table_accesses_of_any_kind_are_answered() {
        let (_, signal, _, _) = function();
        let table = MsixTable(signal);
        for offset in 0..4200 {
            for size in [1, 2, 4, 8] {
                table.write(offset, size, u64::MAX);
                let _ = table.read(offset, size);
            }
        }
    }
}
