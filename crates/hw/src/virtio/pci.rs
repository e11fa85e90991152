//! The PCI transport: modern, transitional and legacy devices.
//!
//! Reference: VIRTIO 1.2, 4.1 (capabilities, common configuration, notifications), 4.1.4.10 (legacy interface). Identity
//! numbers, layout of the capabilities and base addresses are those that QEMU 10 shows.
//! Not modelled: shared memory, administration queue, notification through ports, a page for each queue.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fabric::device::mask;
use fabric::{MmioTarget, MsiSink, Region};

use super::device::{Interrupt, Virtio};
use super::id;
use super::mmio::set_size;
use crate::pci::config::{Bar, BarKind, Config, Identity};
use crate::pci::function::Builder;
use crate::pci::signal::MsixTable;
use crate::pci::{Behaviour, Function, NO_VECTOR, Signal};

const VENDOR: u16 = 0x1af4;
const MODERN_BASE: u16 = 0x1040;
/// Bytes of each structure in base address 4.
const PART: u64 = 0x1000;
/// Bytes between the notification registers of two queues.
const NOTIFY_MULTIPLIER: u32 = 4;
const CAPABILITY_VENDOR: u8 = 0x09;
const CAPABILITY_CONFIG_ACCESS: usize = 0x84;
const CAPABILITY_MSIX: usize = 0x98;
/// Where MSI-X is if nothing else is there.
const CAPABILITY_FIRST: usize = 0x40;
const BAR_PORTS: usize = 0;
const BAR_MSIX: usize = 1;
const BAR_MODERN: usize = 4;

/// One row for each kind of device: number, transitional PCI device ID, class.
const KINDS: &[(u16, u16, u32)] = &[
    (id::NET, 0x1000, 0x020000),
    (id::BLK, 0x1001, 0x010000),
    (id::CONSOLE, 0x1003, 0x078000),
    (id::RNG, 0x1005, 0x00ff00),
];

/// What `-device` decides about the transport.
#[derive(Clone)]
pub struct PciOptions {
    /// The model's name, for messages.
    pub name: String,
    pub legacy: bool,
    pub modern: bool,
    /// Entries of the MSI-X table; 0 for none.
    pub vectors: u16,
    /// Replaces the device's own class.
    pub class: Option<u32>,
    /// An expansion ROM.
    pub rom: Option<Vec<u8>>,
}

#[derive(Default)]
struct Select {
    device_features: u32,
    driver_features: u32,
    queue: usize,
}

/// What the base addresses share.
struct Transport {
    virtio: Arc<Virtio>,
    signal: Arc<Signal>,
    select: Mutex<Select>,
}

struct Messages(Arc<Signal>);

impl Interrupt for Messages {
    fn message(&self, vector: u16) -> bool {
        self.0.notify(vector)
    }
    fn level(&self, high: bool) {
        self.0.set_intx(high);
    }
}

/// Makes the PCI function of a device.
pub fn function(virtio: Arc<Virtio>, options: PciOptions, messages: Arc<dyn MsiSink>) -> spec::Result<Arc<Function>> {
    let &(_, transitional, class) = KINDS.iter().find(|k| k.0 == virtio.id()).expect("every device has a row");
    let class = options.class.unwrap_or(class);
    let subsystem = if options.legacy { virtio.id() } else { 0x1100 };
    let identity = Identity {
        vendor: VENDOR,
        device: if options.legacy { transitional } else { MODERN_BASE + virtio.id() },
        class,
        revision: u8::from(!options.legacy),
        subsystem_vendor: VENDOR,
        subsystem,
        interrupt_pin: 1,
        ..Identity::default()
    };
    let mut builder = Builder::new(&options.name, identity);
    let mut signal = Signal::new(messages);
    if options.modern {
        add_capabilities(&mut builder.config);
    }
    let mut table = None;
    if options.vectors > 0 {
        let offset = if options.modern { CAPABILITY_MSIX } else { CAPABILITY_FIRST };
        table = Some(signal.add_msix(&mut builder.config, offset, BAR_MSIX as u8, options.vectors));
    }
    let signal = Arc::new(signal);
    virtio.wire(Arc::new(Messages(signal.clone())));
    let transport = Arc::new(Transport { virtio, signal: signal.clone(), select: Mutex::default() });
    if let Some(size) = table {
        let region = Region::device("virtio-pci-msix", Arc::new(MsixTable(signal.clone())));
        builder.bar(BAR_MSIX, Bar { kind: BarKind::Memory32, size }, region);
    }
    if options.legacy {
        let size = (20 + transport.virtio.config_len() as u64).next_power_of_two();
        let region = Region::device("virtio-pci", Arc::new(Ports(transport.clone())));
        builder.bar(BAR_PORTS, Bar { kind: BarKind::Io, size }, region);
    }
    if options.modern {
        let region = Region::device("virtio-pci-modern", Arc::new(Modern(transport.clone())));
        builder.bar(BAR_MODERN, Bar { kind: BarKind::Memory64Prefetchable, size: 4 * PART }, region);
    }
    builder.rom(options.rom)?;
    Ok(builder.build(signal, Some(transport)))
}

/// The structures of base address 4, as capabilities: common (1), ISR (3), device (4), notify (2), configuration access (5).
fn add_capabilities(config: &mut Config) {
    for (number, kind) in [1u8, 3, 4].into_iter().enumerate() {
        config.add_capability(CAPABILITY_VENDOR, CAPABILITY_FIRST + 0x10 * number, &location(16, kind, number as u32));
    }
    let mut notify = location(20, 2, 3);
    notify.extend(NOTIFY_MULTIPLIER.to_le_bytes());
    config.add_capability(CAPABILITY_VENDOR, 0x70, &notify);
    let at = CAPABILITY_CONFIG_ACCESS;
    let mut access = vec![20, 5];
    access.resize(18, 0);
    config.add_capability(CAPABILITY_VENDOR, at, &access);
    config.allow(at + 4, &[0xff]);
    config.allow(at + 8, &[0xff; 12]);
}

/// The body of a capability that says where a structure is.
fn location(len: u8, kind: u8, part: u32) -> Vec<u8> {
    let mut body = vec![len, kind, BAR_MODERN as u8, 0, 0, 0];
    body.extend((part * PART as u32).to_le_bytes());
    body.extend((PART as u32).to_le_bytes());
    body
}

impl Transport {
    fn select(&self) -> MutexGuard<'_, Select> {
        self.select.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A vector that the table has, or none.
    fn vector(&self, value: u64) -> u16 {
        let value = value as u16;
        if value < self.signal.vectors() { value } else { NO_VECTOR }
    }

    fn common_read(&self, offset: u64) -> u64 {
        let select = self.select();
        let virtio = &self.virtio;
        let number = select.queue;
        let of_queue = |get: fn(&super::ring::Queue) -> u64| virtio.core(|c| c.queues.get(number).map_or(0, get));
        match offset {
            0 => select.device_features.into(),
            4 => virtio.offered(select.device_features).into(),
            8 => select.driver_features.into(),
            12 => virtio.core(|c| c.accepted().checked_shr(32 * select.driver_features.min(2)).unwrap_or(0) & 0xffff_ffff),
            16 => virtio.core(|c| c.config_vector.into()),
            18 => virtio.core(|c| c.queues.len() as u64),
            20 => virtio.status().into(),
            21 => virtio.core(|c| c.generation().into()),
            22 => number as u64,
            24 => of_queue(|q| q.size.into()),
            26 => virtio.core(|c| c.queues.get(number).map_or(NO_VECTOR, |q| q.vector).into()),
            28 => of_queue(|q| q.ready.into()),
            30 => number as u64,
            32 => of_queue(|q| q.desc & 0xffff_ffff),
            36 => of_queue(|q| q.desc >> 32),
            40 => of_queue(|q| q.driver & 0xffff_ffff),
            44 => of_queue(|q| q.driver >> 32),
            48 => of_queue(|q| q.device & 0xffff_ffff),
            52 => of_queue(|q| q.device >> 32),
            _ => 0,
        }
    }

    fn common_write(&self, offset: u64, value: u64) {
        let mut select = self.select();
        let virtio = &self.virtio;
        match offset {
            0 => select.device_features = value as u32,
            8 => select.driver_features = value as u32,
            12 => virtio.accept(select.driver_features, value as u32),
            16 => virtio.core(|c| c.config_vector = self.vector(value)),
            20 => {
                drop(select);
                virtio.set_status(value as u8);
            }
            22 => select.queue = (value & 0xffff) as usize,
            24 => set_size(virtio, select.queue, value as u32 & 0xffff),
            _ => self.write_queue(select.queue, offset, value),
        }
    }

    fn write_queue(&self, number: usize, offset: u64, value: u64) {
        let low = |old: u64| old & !0xffff_ffff | value & 0xffff_ffff;
        let high = |old: u64| old & 0xffff_ffff | value << 32;
        let vector = self.vector(value);
        self.virtio.core(|c| {
            let Some(queue) = c.queues.get_mut(number) else { return };
            match offset {
                26 => queue.vector = vector,
                28 => queue.ready |= value & 1 != 0,
                // The addresses of a queue in use stay.
                _ if queue.ready => {}
                32 => queue.desc = low(queue.desc),
                36 => queue.desc = high(queue.desc),
                40 => queue.driver = low(queue.driver),
                44 => queue.driver = high(queue.driver),
                48 => queue.device = low(queue.device),
                52 => queue.device = high(queue.device),
                _ => {}
            }
        });
    }

    fn ports_read(&self, offset: u64, size: u8) -> u64 {
        let config = self.legacy_config();
        if offset >= config {
            return self.virtio.read_config(offset - config, size);
        }
        let number = self.select().queue;
        let of_queue = |get: fn(&super::ring::Queue) -> u64| self.virtio.core(|c| c.queues.get(number).map_or(0, get));
        match offset {
            0 => self.virtio.offered(0).into(),
            4 => self.virtio.core(|c| c.accepted() & 0xffff_ffff),
            8 => of_queue(|q| q.desc >> 12),
            12 => of_queue(|q| q.max.into()),
            14 => number as u64,
            18 => self.virtio.status().into(),
            19 => self.virtio.acknowledge(0xff).into(),
            20 => self.virtio.core(|c| c.config_vector.into()),
            22 => self.virtio.core(|c| c.queues.get(number).map_or(NO_VECTOR, |q| q.vector).into()),
            _ => 0,
        }
    }

    fn ports_write(&self, offset: u64, size: u8, value: u64) {
        let config = self.legacy_config();
        if offset >= config {
            return self.virtio.write_config(offset - config, size, value);
        }
        let number = self.select().queue;
        match offset {
            4 => self.virtio.accept_legacy(value as u32),
            8 if value == 0 => self.virtio.reset(),
            8 => self.virtio.core(|c| {
                if let Some(queue) = c.queues.get_mut(number) {
                    queue.place_legacy((value & 0xffff_ffff) << 12, 4096);
                }
            }),
            14 => self.select().queue = (value & 0xffff) as usize,
            16 => self.virtio.notify((value & 0xffff) as usize),
            18 => self.virtio.set_status(value as u8),
            20 => self.virtio.core(|c| c.config_vector = self.vector(value)),
            22 => {
                let vector = self.vector(value);
                self.virtio.core(|c| {
                    if let Some(queue) = c.queues.get_mut(number) {
                        queue.vector = vector;
                    }
                });
            }
            _ => {}
        }
    }

    /// Where the device's configuration begins: behind the vectors, if there are any.
    fn legacy_config(&self) -> u64 {
        if self.signal.msix_enabled() { 24 } else { 20 }
    }

    fn modern_read(&self, offset: u64, size: u8) -> u64 {
        let inside = offset % PART;
        match offset / PART {
            0 if size == 8 => self.common_read(inside) | self.common_read(inside + 4) << 32,
            0 => self.common_read(inside) & mask(size),
            1 if inside == 0 => self.virtio.acknowledge(0xff).into(),
            2 => self.virtio.read_config(inside, size),
            _ => 0,
        }
    }

    fn modern_write(&self, offset: u64, size: u8, value: u64) {
        let inside = offset % PART;
        match offset / PART {
            0 if size == 8 => {
                self.common_write(inside, value & 0xffff_ffff);
                self.common_write(inside + 4, value >> 32);
            }
            0 => self.common_write(inside, value & mask(size)),
            2 => self.virtio.write_config(inside, size, value),
            3 => self.virtio.notify((inside / u64::from(NOTIFY_MULTIPLIER)) as usize),
            _ => {}
        }
    }

    /// The access that the configuration access capability asks for, if it is one that can be.
    fn window(config: &Config) -> Option<(u64, u8)> {
        let at = CAPABILITY_CONFIG_ACCESS;
        let (offset, len) = (config.get32(at + 8), config.get32(at + 12));
        let fits = u64::from(offset) < 4 * PART && matches!(len, 1 | 2 | 4) && offset.is_multiple_of(len);
        (usize::from(config.get8(at + 4)) == BAR_MODERN && fits).then_some((offset.into(), len as u8))
    }
}

/// Whether an access touches the data register of the configuration access capability.
fn touches_window(config: &Config, offset: usize, size: usize) -> bool {
    let data = CAPABILITY_CONFIG_ACCESS + 16;
    config.get8(CAPABILITY_CONFIG_ACCESS) == CAPABILITY_VENDOR && offset < data + 4 && offset + size > data
}

impl Behaviour for Transport {
    fn before_read(&self, config: &mut Config, offset: usize, size: usize) {
        if touches_window(config, offset, size)
            && let Some((at, len)) = Transport::window(config)
        {
            let value = self.modern_read(at, len);
            config.set32(CAPABILITY_CONFIG_ACCESS + 16, value as u32);
        }
    }

    fn after_write(&self, config: &mut Config, offset: usize, size: usize) {
        if touches_window(config, offset, size)
            && let Some((at, len)) = Transport::window(config)
        {
            let value = config.get32(CAPABILITY_CONFIG_ACCESS + 16);
            self.modern_write(at, len, u64::from(value) & mask(len));
        }
    }

    fn reset(&self) {
        *self.select() = Select::default();
        self.virtio.reset();
    }
}

/// Base address 4.
struct Modern(Arc<Transport>);

impl MmioTarget for Modern {
    fn read(&self, offset: u64, size: u8) -> u64 {
        self.0.modern_read(offset, size)
    }
    fn write(&self, offset: u64, size: u8, value: u64) {
        self.0.modern_write(offset, size, value);
    }
}

/// Base address 0.
struct Ports(Arc<Transport>);

impl MmioTarget for Ports {
    fn read(&self, offset: u64, size: u8) -> u64 {
        self.0.ports_read(offset, size) & mask(size)
    }
    fn write(&self, offset: u64, size: u8, value: u64) {
        self.0.ports_write(offset, size, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::testing::Rig;
    use crate::virtio::device::RingFeatures;
    use crate::virtio::testing::{Mirror, RAM_BYTES, Random, Rings, seed};

    const BAR4: u64 = 0x1000_0000;
    const BAR1: u64 = 0x1001_0000;
    const PORTS: u64 = 0x3eff_1000;

    fn rig(legacy: bool, modern: bool) -> Rig {
        let rig = Rig::new();
        rig.space.map(0, RAM_BYTES, 0, Region::ram("ram", Arc::new(fabric::Ram::new(RAM_BYTES).unwrap())));
        let ring = RingFeatures { version_1: modern, ..RingFeatures::default() };
        let virtio = Virtio::new(Box::new(Mirror::default()), rig.space.clone(), ring);
        let options = PciOptions { name: "virtio-mirror-pci".into(), legacy, modern, vectors: 3, class: None, rom: None };
        let function = function(virtio, options, rig.messages.clone()).unwrap();
        rig.bus.plug(&function, None).unwrap();
        for (register, value) in [(0x10, 0x1000), (0x14, BAR1), (0x20, BAR4), (0x04, 7)] {
            rig.bus.config_write(0, 0, register, 4, value as u32);
        }
        rig
    }

    fn set(rig: &Rig, address: u64, size: u8, value: u64) {
        assert!(rig.space.write(address, size, value));
    }

    fn get(rig: &Rig, address: u64, size: u8) -> u64 {
        rig.space.read(address, size).unwrap()
    }

    /// Brings the device up with queue 0 and gives the driver's side.
    fn start_modern(rig: &Rig) -> Rings {
        for (offset, size, value) in [(20, 1, 3), (8, 4, 1), (12, 4, 1), (20, 1, 11), (22, 2, 0), (24, 2, 8), (26, 2, 1)] {
            set(rig, BAR4 + offset, size, value);
        }
        assert_eq!(get(rig, BAR4 + 20, 1), 11);
        let rings = Rings::at(rig.space.clone(), 0x10_0000, 8);
        for (offset, value) in [(32, rings.queue.desc), (40, rings.queue.driver), (48, rings.queue.device)] {
            set(rig, BAR4 + offset, 8, value);
            assert_eq!(get(rig, BAR4 + offset, 8), value);
        }
        set(rig, BAR4 + 28, 2, 1);
        set(rig, BAR4 + 20, 1, 15);
        rings
    }

    fn exchange(rings: &mut Rings, notify: impl FnOnce()) {
        rings.add(&[(0x1000, 4, false), (0x2000, 4, true)]);
        assert!(rings.space.write(0x1000, 4, 0x1234_5678));
        notify();
        assert_eq!(rings.take_used().len(), 1);
        assert_eq!(rings.space.read(0x2000, 4), Some(0x1234_5678));
    }

    #[test]
    fn configuration_spaces_are_those_of_the_reference() {
        let transitional = [
            (0x00, 0x1005_1af4),
            (0x04, 0x0010_0007),
            (0x08, 0x00ff_0000),
            (0x2c, 0x0004_1af4),
            (0x34, 0x98),
            (0x3c, 0x100),
            (0x40, 0x0110_0009),
            (0x44, 4),
            (0x48, 0),
            (0x4c, 0x1000),
            (0x50, 0x0310_4009),
            (0x58, 0x1000),
            (0x60, 0x0410_5009),
            (0x70, 0x0214_6009),
            (0x78, 0x3000),
            (0x80, 4),
            (0x84, 0x0514_7009),
            (0x98, 0x0002_8411),
            (0x9c, 1),
            (0xa0, 0x801),
        ];
        let rig = rig(true, true);
        for (offset, expected) in transitional {
            assert_eq!(rig.bus.config_read(0, 0, offset, 4), expected, "{offset:#x}");
        }
        let modern = self::rig(false, true);
        for (offset, expected) in [(0x00, 0x1044_1af4), (0x08, 0x00ff_0001), (0x10, 0), (0x2c, 0x1100_1af4)] {
            assert_eq!(modern.bus.config_read(0, 0, offset, 4), expected, "{offset:#x}");
        }
        let legacy = self::rig(true, false);
        for (offset, expected) in [(0x00, 0x1005_1af4), (0x20, 0), (0x34, 0x40), (0x40, 0x0002_0011)] {
            assert_eq!(legacy.bus.config_read(0, 0, offset, 4), expected, "{offset:#x}");
        }
    }

    #[test]
    fn a_modern_driver_with_messages() {
        let rig = rig(true, true);
        for (offset, value) in [(16, 0x0802_0040), (20, 0), (24, 0x50), (28, 0)] {
            set(&rig, BAR1 + offset, 4, value);
        }
        rig.bus.config_write(0, 0, 0x9a, 2, 0x8000);
        let mut rings = start_modern(&rig);
        assert_eq!(get(&rig, BAR4 + 26, 2), 1);
        set(&rig, BAR4 + 16, 2, 9);
        assert_eq!(get(&rig, BAR4 + 16, 2), 0xffff, "there is no such vector");
        exchange(&mut rings, || set(&rig, BAR4 + 0x3000, 2, 0));
        assert_eq!(rig.messages.take(), [(0x0802_0040, 0x50, 0)]);
        assert_eq!(rig.wires.levels(), [false; 4]);
    }

    #[test]
    fn a_modern_driver_with_a_wire() {
        let rig = rig(false, true);
        let mut rings = start_modern(&rig);
        exchange(&mut rings, || set(&rig, BAR4 + 0x3000, 2, 0));
        assert_eq!(rig.wires.levels(), [true, false, false, false]);
        assert_eq!(rig.bus.config_read(0, 0, 6, 2) & 8, 8, "the status register shows it");
        assert_eq!(get(&rig, BAR4 + 0x1000, 1), 1);
        assert_eq!(get(&rig, BAR4 + 0x1000, 1), 0);
        assert_eq!(rig.wires.levels(), [false; 4]);
        assert_eq!(get(&rig, BAR4 + 0x2000, 4), 0x0403_0201);
    }

    #[test]
    fn a_legacy_driver_at_ports() {
        let rig = rig(true, true);
        set(&rig, PORTS + 18, 1, 3);
        assert_ne!(get(&rig, PORTS, 4), 0);
        set(&rig, PORTS + 4, 4, 0);
        set(&rig, PORTS + 14, 2, 0);
        assert_eq!(get(&rig, PORTS + 12, 2), 16);
        set(&rig, PORTS + 8, 4, 0x100);
        let mut rings = Rings::at(rig.space.clone(), 0x10_0000, 16);
        (rings.queue.driver, rings.queue.device) = (0x10_0100, 0x10_1000);
        set(&rig, PORTS + 18, 1, 7);
        exchange(&mut rings, || set(&rig, PORTS + 16, 2, 0));
        assert_eq!(get(&rig, PORTS + 19, 1), 1);
        assert_eq!(get(&rig, PORTS + 20, 4), 0x0403_0201);
        rig.bus.config_write(0, 0, 0x9a, 2, 0x8000);
        assert_eq!(get(&rig, PORTS + 24, 4), 0x0403_0201, "vectors come first with MSI-X");
        set(&rig, PORTS + 8, 4, 0);
        assert_eq!(get(&rig, PORTS + 18, 1), 0);
    }

    #[test]
    fn the_configuration_access_capability_reaches_the_structures() {
        let rig = rig(false, true);
        let set = |offset, size, value| rig.bus.config_write(0, 0, offset, size, value);
        set(0x88, 1, 4);
        set(0x8c, 4, 0x2000);
        set(0x90, 4, 4);
        assert_eq!(rig.bus.config_read(0, 0, 0x94, 4), 0x0403_0201);
        set(0x8c, 4, 20);
        set(0x90, 4, 1);
        set(0x94, 1, 3);
        assert_eq!(get(&rig, BAR4 + 20, 1), 3);
        set(0x90, 4, 7);
        set(0x94, 4, 0);
        assert_eq!(get(&rig, BAR4 + 20, 1), 3, "no such width");
    }

    #[test]
    fn random_accesses_are_answered() {
        let rig = rig(true, true);
        let mut random = Random(seed() | 1);
        for _ in 0..100_000 {
            let size = 1 << random.below(4);
            let address = match random.below(4) {
                0 => PORTS + random.below(24),
                1 => BAR1 + random.below(0x900),
                _ => BAR4 + random.below(4) * PART + random.below(80),
            };
            let value = random.next() >> random.below(64);
            match random.below(8) {
                0 => rig.bus.config_write(0, 0, 0x40 + random.below(0x70) as usize & !3, 4, value as u32),
                1..4 => {
                    let _ = rig.space.write(address, size, value);
                }
                _ => {
                    let _ = rig.space.read(address, size);
                }
            }
        }
        rig.bus.reset();
        assert_eq!(rig.bus.config_read(0, 0, 4, 2), 0);
    }
}
