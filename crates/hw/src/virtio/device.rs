//! A virtio device without its transport: status, feature negotiation, queues, configuration space.
//!
//! Reference: VIRTIO 1.2, 2.1 (status), 2.2 (features), 2.5 (configuration space), 3.1 (initialization).
//! Not modelled: queue reset, packed rings, platform access (IOMMU), notification data.
//!
//! Invariants: everything is behind one lock, which transports and a model's own threads take for short work only; the
//! transport's interrupt is driven with it held. After a fault nothing of the rings is touched until a reset.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use fabric::AddressSpace;

use super::memory::Memory;
use super::ring::{Chain, Fault, Queue};
use crate::event::{GUEST_ERROR, Limit};

/// Feature bits of every device.
pub mod feature {
    /// Legacy: any layout of a request's pieces.
    pub const ANY_LAYOUT: u64 = 1 << 27;
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const VERSION_1: u64 = 1 << 32;
}

/// Bits of the device status.
pub mod status {
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
    pub const FAILED: u8 = 128;
}

/// Bits of the interrupt status.
pub const ISR_QUEUE: u8 = 1;
pub const ISR_CONFIG: u8 = 2;

/// Chains that a model handles for one notification before others get a turn.
pub const KICK_MAX: usize = 1024;

/// How a transport interrupts.
pub trait Interrupt: Send + Sync {
    /// Sends the message of a vector; false if messages are off.
    fn message(&self, vector: u16) -> bool;
    /// The level of the wire.
    fn level(&self, high: bool);
}

/// No transport yet.
struct Unwired;

impl Interrupt for Unwired {
    fn message(&self, _vector: u16) -> bool {
        false
    }
    fn level(&self, _high: bool) {}
}

/// What makes a device of a certain kind. Methods are called with the device's lock held.
pub trait Model: Send {
    /// Device number (VIRTIO 1.2, 5).
    fn id(&self) -> u16;
    /// For messages: `virtio-blk`.
    fn name(&self) -> &'static str;
    /// The device's own features; the general ones are added.
    fn features(&self) -> u64;
    /// Which features, general ones included, may be offered at all.
    fn permitted(&self) -> u64 {
        u64::MAX
    }
    /// The largest size of each queue.
    fn queues(&self) -> Vec<u16>;
    /// The configuration space as the driver reads it now.
    fn config(&self, core: &Core) -> Vec<u8>;
    /// The driver wrote to the configuration space.
    fn write_config(&mut self, core: &mut Core, offset: usize, data: &[u8]) {
        let _ = (core, offset, data);
    }
    /// For models with threads of their own; called once.
    fn attach(&mut self, handle: Handle) {
        let _ = handle;
    }
    /// The driver is ready.
    fn activate(&mut self, core: &mut Core) -> Result<(), Fault> {
        let _ = core;
        Ok(())
    }
    /// The driver notified a queue.
    fn kick(&mut self, core: &mut Core, queue: usize) -> Result<(), Fault>;
    /// [`Handle::wake`] was called.
    fn wake(&mut self, core: &mut Core) -> Result<(), Fault> {
        let _ = core;
        Ok(())
    }
    /// The user plugs the network cable in or out.
    fn set_link(&mut self, core: &mut Core, up: bool) {
        let _ = (core, up);
    }
    /// Finishes what is on its way, before the machine stops.
    fn drain(&mut self, core: &mut Core) -> Result<(), Fault> {
        let _ = core;
        Ok(())
    }
    /// Forgets what the driver did; on return nothing of the guest's memory is touched any more.
    fn reset(&mut self) {}
}

/// A model's way back to its device from other threads.
#[derive(Clone)]
pub struct Handle(Weak<Virtio>);

impl Handle {
    /// Calls [`Model::wake`]; false if the device is gone. Never with the device's lock held.
    pub fn wake(&self) -> bool {
        self.with(|inner| inner.run(|model, core| model.wake(core)))
    }

    fn kick(&self, queue: usize) -> bool {
        self.with(|inner| inner.kick(queue))
    }

    fn with(&self, work: impl FnOnce(&mut Inner)) -> bool {
        match self.0.upgrade() {
            Some(virtio) => {
                work(&mut virtio.lock());
                true
            }
            None => false,
        }
    }
}

/// What all devices have.
pub struct Core {
    name: &'static str,
    pub memory: Memory,
    pub status: u8,
    offered: u64,
    accepted: u64,
    pub queues: Vec<Queue>,
    /// Chains put into each used ring and not shown yet.
    put: Vec<u16>,
    pub config_vector: u16,
    generation: u8,
    isr: u8,
    broken: bool,
    interrupt: Arc<dyn Interrupt>,
    handle: Handle,
    limit: Limit,
}

struct Inner {
    core: Core,
    model: Box<dyn Model>,
}

/// A device; transports and the model's threads share it.
pub struct Virtio {
    id: u16,
    name: &'static str,
    inner: Mutex<Inner>,
}

/// Which of the general features a device offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingFeatures {
    pub indirect_desc: bool,
    pub event_idx: bool,
    pub any_layout: bool,
    /// Off for a device that only legacy drivers can use.
    pub version_1: bool,
}

impl Default for RingFeatures {
    fn default() -> RingFeatures {
        RingFeatures { indirect_desc: true, event_idx: true, any_layout: true, version_1: true }
    }
}

impl RingFeatures {
    fn bits(self) -> u64 {
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        bit(self.indirect_desc, feature::INDIRECT_DESC)
            | bit(self.event_idx, feature::EVENT_IDX)
            | bit(self.any_layout, feature::ANY_LAYOUT)
            | bit(self.version_1, feature::VERSION_1)
    }
}

impl Core {
    /// Whether the driver accepted a feature bit or all of several.
    pub fn has(&self, features: u64) -> bool {
        self.accepted & features == features
    }

    pub fn offered(&self) -> u64 {
        self.offered
    }

    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    pub fn generation(&self) -> u8 {
        self.generation
    }

    pub fn is_running(&self) -> bool {
        !self.broken && (self.status & status::DRIVER_OK != 0)
    }

    fn event_idx(&self) -> bool {
        self.has(feature::EVENT_IDX)
    }

    /// The next chain of a queue.
    pub fn pop(&mut self, queue: usize) -> Result<Option<Chain>, Fault> {
        let event_idx = self.event_idx();
        self.queues[queue].pop(&self.memory, event_idx)
    }

    /// Puts the last popped chain back; the next pop gives it again.
    pub fn undo(&mut self, queue: usize) {
        self.queues[queue].undo();
    }

    /// Gives a chain back with the number of bytes that were written. The driver sees it after [`Core::finish`].
    pub fn put(&mut self, queue: usize, head: u16, written: u32) -> Result<(), Fault> {
        self.queues[queue].put(&self.memory, head, written, self.put[queue])?;
        self.put[queue] += 1;
        Ok(())
    }

    /// Shows the driver what was put, and interrupts it if it wants that.
    pub fn finish(&mut self, queue: usize) -> Result<(), Fault> {
        let count = std::mem::take(&mut self.put[queue]);
        if count == 0 {
            return Ok(());
        }
        let event_idx = self.event_idx();
        self.queues[queue].publish(&self.memory, count)?;
        if self.queues[queue].wants_interrupt(&self.memory, event_idx)? {
            let vector = self.queues[queue].vector;
            self.interrupt(ISR_QUEUE, vector);
        }
        Ok(())
    }

    /// Interrupts the driver for a queue that somebody else serves.
    pub fn call(&mut self, queue: usize) {
        let vector = self.queues[queue].vector;
        self.interrupt(ISR_QUEUE, vector);
    }

    fn interrupt(&mut self, isr: u8, vector: u16) {
        self.isr |= isr;
        if !self.interrupt.message(vector) {
            self.interrupt.level(true);
        }
    }

    /// Tells the driver that the configuration space has changed.
    pub fn config_changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        if self.status & status::DRIVER_OK != 0 {
            self.interrupt(ISR_CONFIG, self.config_vector);
        }
    }

    /// Has the queue looked at again soon, from another thread: a model calls this when it stops after [`KICK_MAX`] chains.
    pub fn again(&self, queue: usize) {
        let handle = self.handle.clone();
        let spawned = std::thread::Builder::new().name(self.name.into()).spawn(move || handle.kick(queue));
        if let Err(error) = spawned {
            log::error!("{}: no thread to go on with a queue: {error}", self.name);
        }
    }

    /// The driver's doing makes no sense: nothing more until a reset.
    fn fail(&mut self, fault: Fault) {
        if self.limit.admit() {
            log::warn!(target: GUEST_ERROR, "{}: {}; the device waits for a reset", self.name, fault.0);
        }
        self.broken = true;
        if self.has(feature::VERSION_1) {
            self.status |= status::NEEDS_RESET;
            self.config_changed();
        }
    }

    fn reset(&mut self) {
        self.status = 0;
        self.accepted = 0;
        self.queues.iter_mut().for_each(Queue::reset);
        self.put.fill(0);
        self.config_vector = crate::pci::NO_VECTOR;
        self.isr = 0;
        self.broken = false;
        self.interrupt.level(false);
    }
}

impl Inner {
    fn run(&mut self, work: impl FnOnce(&mut dyn Model, &mut Core) -> Result<(), Fault>) {
        if self.core.broken {
            return;
        }
        self.core.memory.refresh();
        if let Err(fault) = work(&mut *self.model, &mut self.core) {
            self.core.fail(fault);
        }
    }

    fn kick(&mut self, queue: usize) {
        // Legacy drivers may use the device before they say that they are ready.
        let started = self.core.status & status::DRIVER_OK != 0 || !self.core.has(feature::VERSION_1);
        if started && self.core.queues.get(queue).is_some_and(|q| q.ready) {
            self.run(|model, core| model.kick(core, queue));
        }
    }

    fn set_status(&mut self, value: u8) {
        if value == 0 {
            self.model.reset();
            self.core.reset();
            return;
        }
        let core = &mut self.core;
        let before = core.status;
        let mut value = value | before & status::NEEDS_RESET;
        if before & status::FEATURES_OK == 0 && value & status::FEATURES_OK != 0 && core.accepted & !core.offered != 0 {
            value &= !status::FEATURES_OK;
        }
        core.status = value;
        if !before & value & status::DRIVER_OK != 0 {
            self.run(|model, core| model.activate(core));
        }
    }
}

impl Virtio {
    pub fn new(model: Box<dyn Model>, space: Arc<AddressSpace>, ring: RingFeatures) -> Arc<Virtio> {
        let (id, name) = (model.id(), model.name());
        let queues: Vec<Queue> = model.queues().into_iter().map(Queue::new).collect();
        Arc::new_cyclic(|me: &Weak<Virtio>| {
            let mut core = Core {
                name,
                memory: Memory::new(space),
                status: 0,
                offered: (model.features() | ring.bits()) & model.permitted(),
                accepted: 0,
                put: vec![0; queues.len()],
                queues,
                config_vector: crate::pci::NO_VECTOR,
                generation: 0,
                isr: 0,
                broken: false,
                interrupt: Arc::new(Unwired),
                handle: Handle(me.clone()),
                limit: Limit::default(),
            };
            core.reset();
            let mut model = model;
            model.attach(Handle(me.clone()));
            Virtio { id, name, inner: Mutex::new(Inner { core, model }) }
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn id(&self) -> u16 {
        self.id
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Connects the transport.
    pub fn wire(&self, interrupt: Arc<dyn Interrupt>) {
        self.lock().core.interrupt = interrupt;
    }

    /// Looks at or changes what all devices have; for transports.
    pub fn core<T>(&self, work: impl FnOnce(&mut Core) -> T) -> T {
        work(&mut self.lock().core)
    }

    pub fn status(&self) -> u8 {
        self.lock().core.status
    }

    pub fn set_status(&self, value: u8) {
        self.lock().set_status(value);
    }

    pub fn reset(&self) {
        self.set_status(0);
    }

    /// Plugs the network cable in or out.
    pub fn set_link(&self, up: bool) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.model.set_link(&mut inner.core, up);
    }

    /// Waits until requests that are on their way have ended, and shows them to the driver.
    pub fn drain(&self) {
        self.lock().run(|model, core| model.drain(core));
    }

    /// Half of the offered features (0: bits 0-31, 1: bits 32-63).
    pub fn offered(&self, half: u32) -> u32 {
        let offered = self.lock().core.offered;
        match half {
            0 => offered as u32,
            1 => (offered >> 32) as u32,
            _ => 0,
        }
    }

    /// The driver accepts features. Later changes are ignored.
    pub fn accept(&self, half: u32, features: u32) {
        let mut inner = self.lock();
        let core = &mut inner.core;
        if half > 1 || core.status & (status::FEATURES_OK | status::DRIVER_OK) != 0 {
            return;
        }
        let shift = 32 * half;
        core.accepted = core.accepted & !(0xffff_ffff << shift) | u64::from(features) << shift;
    }

    /// A legacy driver accepts features; it cannot be told that some are not there.
    pub fn accept_legacy(&self, features: u32) {
        let mut inner = self.lock();
        let core = &mut inner.core;
        if core.status & status::DRIVER_OK == 0 {
            core.accepted = u64::from(features) & core.offered;
        }
    }

    /// The driver notified a queue.
    pub fn notify(&self, queue: usize) {
        self.lock().kick(queue);
    }

    /// A model's thread has something to do.
    pub fn handle(&self) -> Handle {
        self.lock().core.handle.clone()
    }

    pub fn config_len(&self) -> usize {
        let inner = self.lock();
        inner.model.config(&inner.core).len()
    }

    /// 1 to 8 bytes of the configuration space; beyond its end all zero.
    pub fn read_config(&self, offset: u64, size: u8) -> u64 {
        let inner = self.lock();
        let config = inner.model.config(&inner.core);
        let byte = |i: u64| offset.checked_add(i).and_then(|at| config.get(usize::try_from(at).ok()?).copied()).unwrap_or(0);
        (0..u64::from(size.min(8))).map(|i| u64::from(byte(i)) << (8 * i)).sum()
    }

    pub fn write_config(&self, offset: u64, size: u8, value: u64) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let len = inner.model.config(&inner.core).len() as u64;
        let size = u64::from(size.min(8));
        if offset < len && size <= len - offset {
            let bytes = value.to_le_bytes();
            inner.model.write_config(&mut inner.core, offset as usize, &bytes[..size as usize]);
        }
    }

    /// The interrupt status.
    pub fn isr(&self) -> u8 {
        self.lock().core.isr
    }

    /// Clears bits of the interrupt status; the wire goes low when none is left. Gives the old status.
    pub fn acknowledge(&self, bits: u8) -> u8 {
        let mut inner = self.lock();
        let core = &mut inner.core;
        let old = core.isr;
        core.isr &= !bits;
        if core.isr == 0 {
            core.interrupt.level(false);
        }
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{Guest, Mirror};

    #[test]
    fn features_that_were_not_offered_are_refused() {
        let guest = Guest::new(Box::new(Mirror::default()));
        let v = &guest.virtio;
        v.set_status(status::ACKNOWLEDGE | status::DRIVER);
        v.accept(0, 1 << 13);
        v.accept(1, 1);
        v.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        assert_eq!(v.status() & status::FEATURES_OK, 0);
        v.accept(0, 0);
        v.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        assert_eq!(v.status() & status::FEATURES_OK, status::FEATURES_OK);
        v.accept(0, 1 << 28);
        assert!(v.core(|c| !c.has(feature::INDIRECT_DESC)), "the negotiation is over");
    }

    #[test]
    fn a_fault_asks_for_a_reset_and_a_reset_heals() {
        let mut guest = Guest::started(Box::new(Mirror::default()));
        guest.rings[0].set_avail_index(1000);
        guest.virtio.notify(0);
        assert_ne!(guest.virtio.status() & status::NEEDS_RESET, 0);
        assert_eq!(guest.virtio.acknowledge(0xff), ISR_CONFIG);
        guest.virtio.set_status(status::DRIVER_OK);
        assert_ne!(guest.virtio.status() & status::NEEDS_RESET, 0, "it stays");
        guest.virtio.reset();
        assert_eq!(guest.virtio.status(), 0);
        guest.start();
        let answer = guest.request(0, b"abc", 3);
        assert_eq!(answer, b"abc");
    }

    #[test]
    fn nothing_happens_before_the_driver_is_ready() {
        let mut guest = Guest::new(Box::new(Mirror::default()));
        guest.virtio.accept(1, 1);
        guest.place_queues();
        guest.rings[0].add(&[(0x1000, 4, false), (0x2000, 4, true)]);
        guest.virtio.notify(0);
        assert!(guest.rings[0].take_used().is_empty());
        guest.virtio.set_status(15);
        guest.virtio.notify(0);
        assert_eq!(guest.rings[0].take_used().len(), 1);
        guest.virtio.notify(7);
    }

    #[test]
    fn configuration_accesses_stay_inside() {
        let guest = Guest::new(Box::new(Mirror::default()));
        assert_eq!(guest.virtio.read_config(0, 4), 0x0403_0201);
        assert_eq!(guest.virtio.read_config(6, 4), 0x0807);
        assert_eq!(guest.virtio.read_config(u64::MAX, 8), 0);
        guest.virtio.write_config(u64::MAX, 8, 1);
        guest.virtio.write_config(6, 4, 1);
        guest.virtio.write_config(6, 2, 0x5566);
        assert_eq!(guest.virtio.read_config(4, 4), 0x5566_0605);
    }
}
