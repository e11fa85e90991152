//! The memory-mapped transport: one slot of 0x200 bytes with an interrupt wire and at most one device.
//!
//! Reference: VIRTIO 1.2, 4.2.2 (registers), 4.2.4 (legacy).
//! Not modelled: shared memory regions (their length reads as all ones: none).

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use fabric::{Line, MmioTarget};

use super::device::{Interrupt, Virtio, status};

/// Bytes of a slot.
pub const SIZE: u64 = 0x200;

const MAGIC: u32 = 0x7472_6976;
const VENDOR: u32 = 0x554d_4551;
const CONFIG: u64 = 0x100;

/// Register offsets.
mod reg {
    pub const MAGIC_VALUE: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const VENDOR_ID: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub const GUEST_PAGE_SIZE: u64 = 0x028;
    pub const QUEUE_SEL: u64 = 0x030;
    pub const QUEUE_NUM_MAX: u64 = 0x034;
    pub const QUEUE_NUM: u64 = 0x038;
    pub const QUEUE_ALIGN: u64 = 0x03c;
    pub const QUEUE_PFN: u64 = 0x040;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESC_LOW: u64 = 0x080;
    pub const QUEUE_DESC_HIGH: u64 = 0x084;
    pub const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub const SHM_LEN_LOW: u64 = 0x0b0;
    pub const SHM_BASE_HIGH: u64 = 0x0bc;
    pub const CONFIG_GENERATION: u64 = 0x0fc;
}

#[derive(Default)]
struct Select {
    device_features: u32,
    driver_features: u32,
    queue: usize,
    page_size: u32,
    align: u32,
}

/// A slot on the board.
pub struct Slot {
    name: String,
    legacy: bool,
    line: Line,
    virtio: OnceLock<Arc<Virtio>>,
    select: Mutex<Select>,
}

struct Wire(Line);

impl Interrupt for Wire {
    fn message(&self, _vector: u16) -> bool {
        false
    }
    fn level(&self, high: bool) {
        self.0.set(high);
    }
}

impl Slot {
    /// An empty slot. `name` is that of its bus (`virtio-mmio-bus.0`); `legacy` is `force-legacy=on`.
    pub fn new(name: &str, legacy: bool, line: Line) -> Arc<Slot> {
        Arc::new(Slot { name: name.into(), legacy, line, virtio: OnceLock::new(), select: Mutex::default() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn device(&self) -> Option<&Arc<Virtio>> {
        self.virtio.get()
    }

    /// Plugs a device in; false if there is one.
    pub fn plug(&self, virtio: Arc<Virtio>) -> bool {
        if self.virtio.get().is_some() {
            return false;
        }
        virtio.wire(Arc::new(Wire(self.line.clone())));
        self.virtio.set(virtio).is_ok()
    }

    pub fn reset(&self) {
        *self.select() = Select::default();
        if let Some(virtio) = self.virtio.get() {
            virtio.reset();
        }
    }

    fn select(&self) -> MutexGuard<'_, Select> {
        self.select.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_register(&self, virtio: &Virtio, offset: u64) -> u32 {
        let select = self.select();
        let queue = select.queue;
        let of_queue = |get: fn(&super::ring::Queue) -> u32| virtio.core(|c| c.queues.get(queue).map_or(0, get));
        match offset {
            reg::MAGIC_VALUE => MAGIC,
            reg::VERSION => 2 - u32::from(self.legacy),
            reg::DEVICE_ID => virtio.id().into(),
            reg::VENDOR_ID => VENDOR,
            reg::DEVICE_FEATURES if self.legacy && select.device_features != 0 => 0,
            reg::DEVICE_FEATURES => virtio.offered(select.device_features),
            reg::QUEUE_NUM_MAX => of_queue(|q| q.max.into()),
            reg::QUEUE_PFN if self.legacy => {
                of_queue(|q| q.desc.min(u64::from(u32::MAX) << 12) as u32).checked_div(select.page_size).unwrap_or(0)
            }
            reg::QUEUE_READY if !self.legacy => of_queue(|q| q.ready.into()),
            reg::INTERRUPT_STATUS => virtio.isr().into(),
            reg::STATUS => virtio.status().into(),
            reg::SHM_LEN_LOW..=reg::SHM_BASE_HIGH if !self.legacy => u32::MAX,
            reg::CONFIG_GENERATION if !self.legacy => virtio.core(|c| c.generation().into()),
            _ => 0,
        }
    }

    fn write_register(&self, virtio: &Virtio, offset: u64, value: u32) {
        let mut select = self.select();
        match offset {
            reg::DEVICE_FEATURES_SEL => select.device_features = value,
            reg::DRIVER_FEATURES if !self.legacy => virtio.accept(select.driver_features, value),
            reg::DRIVER_FEATURES if select.driver_features == 0 => virtio.accept_legacy(value),
            reg::DRIVER_FEATURES_SEL => select.driver_features = value,
            reg::QUEUE_SEL => select.queue = value as usize,
            reg::QUEUE_NOTIFY => {
                drop(select);
                virtio.notify((value & 0xffff) as usize);
            }
            reg::INTERRUPT_ACK => {
                virtio.acknowledge(value as u8);
            }
            reg::STATUS => {
                // A reset may take a while, and nobody else needs to wait for it.
                drop(select);
                virtio.set_status(value as u8);
            }
            _ if self.legacy => write_legacy_queue(virtio, &mut select, offset, value),
            _ => write_queue(virtio, select.queue, offset, value),
        }
    }
}

fn write_legacy_queue(virtio: &Virtio, select: &mut Select, offset: u64, value: u32) {
    let number = select.queue;
    match offset {
        reg::GUEST_PAGE_SIZE => select.page_size = value,
        reg::QUEUE_ALIGN => select.align = value,
        reg::QUEUE_NUM => set_size(virtio, number, value),
        reg::QUEUE_PFN if value == 0 => virtio.reset(),
        reg::QUEUE_PFN => {
            let base = u64::from(value) * u64::from(select.page_size);
            let align = u64::from(select.align);
            virtio.core(|c| {
                if let Some(queue) = c.queues.get_mut(number) {
                    queue.place_legacy(base, align);
                }
            });
        }
        _ => {}
    }
}

fn write_queue(virtio: &Virtio, number: usize, offset: u64, value: u32) {
    if offset == reg::QUEUE_NUM {
        return set_size(virtio, number, value);
    }
    let low = |old: u64| old & !0xffff_ffff | u64::from(value);
    let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
    virtio.core(|c| {
        let Some(queue) = c.queues.get_mut(number) else { return };
        match offset {
            reg::QUEUE_READY => queue.ready = value & 1 != 0,
            // The addresses of a queue in use stay.
            _ if queue.ready => {}
            reg::QUEUE_DESC_LOW => queue.desc = low(queue.desc),
            reg::QUEUE_DESC_HIGH => queue.desc = high(queue.desc),
            reg::QUEUE_DRIVER_LOW => queue.driver = low(queue.driver),
            reg::QUEUE_DRIVER_HIGH => queue.driver = high(queue.driver),
            reg::QUEUE_DEVICE_LOW => queue.device = low(queue.device),
            reg::QUEUE_DEVICE_HIGH => queue.device = high(queue.device),
            _ => {}
        }
    });
}

/// Sets the size of a queue that is not in use; sizes that cannot be are ignored.
pub(super) fn set_size(virtio: &Virtio, number: usize, value: u32) {
    virtio.core(|c| {
        if let (Some(queue), Ok(size)) = (c.queues.get_mut(number), u16::try_from(value))
            && !queue.ready
            && queue.accepts(size)
        {
            queue.size = size;
        }
    });
}

impl MmioTarget for Slot {
    fn read(&self, offset: u64, size: u8) -> u64 {
        let Some(virtio) = self.virtio.get() else {
            // An empty slot says what it is, and that it is empty.
            return match offset {
                reg::MAGIC_VALUE => MAGIC.into(),
                reg::VERSION => u64::from(2 - u32::from(self.legacy)),
                reg::VENDOR_ID => VENDOR.into(),
                _ => 0,
            };
        };
        if offset >= CONFIG {
            return virtio.read_config(offset - CONFIG, size);
        }
        match size {
            4 => self.read_register(virtio, offset).into(),
            8 => u64::from(self.read_register(virtio, offset)) | u64::from(self.read_register(virtio, offset + 4)) << 32,
            _ => 0,
        }
    }

    fn write(&self, offset: u64, size: u8, value: u64) {
        let Some(virtio) = self.virtio.get() else { return };
        if offset >= CONFIG {
            virtio.write_config(offset - CONFIG, size, value);
        } else if size >= 4 {
            self.write_register(virtio, offset, value as u32);
            if size == 8 {
                self.write_register(virtio, offset + 4, (value >> 32) as u32);
            }
        }
    }
}

/// What `info` shows of a slot.
impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let device = self.virtio.get().map(|v| v.name());
        let ready = self.virtio.get().is_some_and(|v| v.status() & status::DRIVER_OK != 0);
        write!(f, "{}: {} (driver {})", self.name, device.unwrap_or("empty"), if ready { "ready" } else { "not ready" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::testing::Wires;
    use crate::virtio::device::RingFeatures;
    use crate::virtio::testing::{Mirror, Random, Rings, seed, space};

    fn slot(legacy: bool) -> (Arc<fabric::AddressSpace>, Arc<Slot>, Arc<Wires>) {
        let (space, wires) = (space(), Wires::new());
        let [line, ..] = wires.lines();
        let slot = Slot::new("virtio-mmio-bus.0", legacy, line);
        assert!(slot.plug(Virtio::new(Box::new(Mirror::default()), space.clone(), RingFeatures::default())));
        (space, slot, wires)
    }

    fn exchange(slot: &Slot, wires: &Wires, rings: &mut Rings) {
        rings.add(&[(0x1000, 4, false), (0x2000, 4, true)]);
        assert!(rings.space.write(0x1000, 4, 0x1234_5678));
        slot.write(reg::QUEUE_NOTIFY, 4, 0);
        assert_eq!(rings.take_used(), [(0, 4)]);
        assert_eq!(rings.space.read(0x2000, 4), Some(0x1234_5678));
        assert!(wires.levels()[0]);
        assert_eq!(slot.read(reg::INTERRUPT_STATUS, 4), 1);
        slot.write(reg::INTERRUPT_ACK, 4, 1);
        assert!(!wires.levels()[0]);
    }

    #[test]
    fn an_empty_slot_is_skipped_by_drivers() {
        let slot = Slot::new("virtio-mmio-bus.0", true, Line::nowhere());
        assert_eq!([0, 4, 8, 12, 0x10].map(|o| slot.read(o, 4)), [MAGIC.into(), 1, 0, VENDOR.into(), 0]);
        slot.write(reg::STATUS, 4, 1);
    }

    #[test]
    fn a_modern_driver() {
        let (space, slot, wires) = slot(false);
        assert_eq!([0, 4, 8, 12].map(|o| slot.read(o, 4)), [MAGIC.into(), 2, 4, VENDOR.into()]);
        let set = |offset, value| slot.write(offset, 4, value);
        set(reg::STATUS, 3);
        set(reg::DEVICE_FEATURES_SEL, 1);
        assert_eq!(slot.read(reg::DEVICE_FEATURES, 4), 1);
        set(reg::DRIVER_FEATURES_SEL, 1);
        set(reg::DRIVER_FEATURES, 1);
        set(reg::STATUS, 11);
        assert_eq!(slot.read(reg::STATUS, 4), 11);
        set(reg::QUEUE_SEL, 0);
        assert_eq!(slot.read(reg::QUEUE_NUM_MAX, 4), 16);
        set(reg::QUEUE_NUM, 17);
        set(reg::QUEUE_NUM, 8);
        let mut rings = Rings::at(space, 0x10_0000, 8);
        set(reg::QUEUE_DESC_LOW, rings.queue.desc);
        set(reg::QUEUE_DRIVER_LOW, rings.queue.driver);
        set(reg::QUEUE_DEVICE_LOW, rings.queue.device);
        set(reg::QUEUE_READY, 1);
        assert_eq!(slot.read(reg::QUEUE_READY, 4), 1);
        set(reg::STATUS, 15);
        exchange(&slot, &wires, &mut rings);
        assert_eq!(slot.read(CONFIG + 1, 2), 0x0302);
        set(reg::STATUS, 0);
        assert_eq!(slot.read(reg::QUEUE_READY, 4), 0);
    }

    #[test]
    fn a_legacy_driver() {
        let (space, slot, wires) = slot(true);
        let set = |offset, value| slot.write(offset, 4, value);
        assert_eq!(slot.read(reg::VERSION, 4), 1);
        set(reg::STATUS, 3);
        set(reg::DEVICE_FEATURES_SEL, 1);
        assert_eq!(slot.read(reg::DEVICE_FEATURES, 4), 0);
        set(reg::DEVICE_FEATURES_SEL, 0);
        assert_ne!(slot.read(reg::DEVICE_FEATURES, 4), 0);
        set(reg::DRIVER_FEATURES, 0xffff_ffff & !(1 << 29));
        set(reg::GUEST_PAGE_SIZE, 4096);
        set(reg::QUEUE_SEL, 0);
        set(reg::QUEUE_NUM, 16);
        set(reg::QUEUE_ALIGN, 4096);
        set(reg::QUEUE_PFN, 0x100);
        assert_eq!(slot.read(reg::QUEUE_PFN, 4), 0x100);
        let mut rings = Rings::at(space, 0x10_0000, 16);
        (rings.queue.driver, rings.queue.device) = (0x10_0100, 0x10_1000);
        set(reg::STATUS, 7);
        exchange(&slot, &wires, &mut rings);
        set(reg::QUEUE_PFN, 0);
        assert_eq!(slot.read(reg::STATUS, 4), 0);
    }

    #[test]
    fn random_accesses_are_answered() {
        for legacy in [false, true] {
            let (_, slot, _) = slot(legacy);
            let mut random = Random(seed() | 1);
            for _ in 0..100_000 {
                let (offset, size) = (random.below(SIZE), 1 << random.below(4));
                if random.below(2) == 0 {
                    slot.write(offset, size, random.next() >> random.below(64));
                } else {
                    slot.read(offset, size);
                }
            }
            slot.reset();
            assert_eq!(slot.read(reg::STATUS, 4), 0);
        }
    }
}
