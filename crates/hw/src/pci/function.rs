//! One function of a PCI device: its registers, its interrupts, and what its base addresses lead to.
//!
//! Invariants: locks are taken in the order `mapped`, configuration space, device, [`Signal`]. Base addresses are mapped
//! as the registers say whenever a write to them has returned.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use fabric::space::MapId;
use fabric::{AddressSpace, Region};

use super::address::SlotFunction;
use super::bus::Bus;
use super::config::{Bar, BarKind, Config, Identity, MULTIFUNCTION, ROM_INDEX, reg, status};
use super::signal::Signal;

/// What a device adds to the registers.
pub trait Behaviour: Send + Sync {
    /// Before software reads these registers.
    fn before_read(&self, config: &mut Config, offset: usize, size: usize) {
        let _ = (config, offset, size);
    }
    /// After software wrote these registers.
    fn after_write(&self, config: &mut Config, offset: usize, size: usize) {
        let _ = (config, offset, size);
    }
    /// The bus is reset.
    fn reset(&self) {}
}

struct MappedBar {
    id: MapId,
    space: Arc<AddressSpace>,
    address: u64,
}

struct Place {
    bus: Weak<Bus>,
    at: SlotFunction,
}

/// A function while its device builds it.
pub struct Builder {
    name: String,
    pub config: Config,
    regions: [Option<Region>; 7],
}

impl Builder {
    pub fn new(name: &str, identity: Identity) -> Builder {
        Builder { name: name.into(), config: Config::new(identity), regions: Default::default() }
    }

    /// What the function answers with behind a base address.
    pub fn bar(&mut self, index: usize, bar: Bar, region: Region) {
        self.config.add_bar(index, bar);
        self.regions[index] = Some(region);
    }

    /// Adds an expansion ROM.
    pub fn rom(&mut self, bytes: Option<Vec<u8>>) -> spec::Result<()> {
        let Some(bytes) = bytes else { return Ok(()) };
        let size = (bytes.len() as u64).next_power_of_two().max(0x1000);
        let ram = fabric::Ram::new(size)?;
        ram.write(0, &bytes);
        self.bar(ROM_INDEX, Bar { kind: BarKind::Rom, size }, Region::rom("rom", Arc::new(ram), None));
        Ok(())
    }

    /// Makes the function. The device may keep `signal` to interrupt; `behaviour` is what it adds to the registers.
    pub fn build(self, signal: Arc<Signal>, behaviour: Option<Arc<dyn Behaviour>>) -> Arc<Function> {
        Arc::new(Function {
            name: self.name,
            id: OnceLock::new(),
            config: Mutex::new(self.config),
            signal,
            regions: self.regions,
            behaviour,
            mapped: Mutex::default(),
            place: OnceLock::new(),
            child: OnceLock::new(),
        })
    }
}

pub struct Function {
    name: String,
    id: OnceLock<String>,
    config: Mutex<Config>,
    signal: Arc<Signal>,
    regions: [Option<Region>; 7],
    behaviour: Option<Arc<dyn Behaviour>>,
    mapped: Mutex<[Option<MappedBar>; 7]>,
    place: OnceLock<Place>,
    /// The bus behind a bridge.
    child: OnceLock<Arc<Bus>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Function {
    /// The device model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name that the user gave the device.
    pub fn id(&self) -> Option<&str> {
        self.id.get().map(String::as_str)
    }

    pub fn set_id(&self, id: &str) {
        let fresh = self.id.set(id.into()).is_ok();
        assert!(fresh, "a device is named once");
    }

    pub fn config(&self) -> MutexGuard<'_, Config> {
        lock(&self.config)
    }

    pub fn signal(&self) -> &Arc<Signal> {
        &self.signal
    }

    pub fn child(&self) -> Option<&Arc<Bus>> {
        self.child.get()
    }

    pub(super) fn set_child(&self, bus: Arc<Bus>) {
        let fresh = self.child.set(bus).is_ok();
        assert!(fresh, "a bridge has one secondary bus");
    }

    /// Slot and function, once it is plugged in.
    pub fn at(&self) -> Option<SlotFunction> {
        self.place.get().map(|p| p.at)
    }

    /// Whether it has extended configuration space.
    pub fn is_express(&self) -> bool {
        self.config().is_express()
    }

    /// The bus it is plugged into.
    pub fn parent(&self) -> Option<Arc<Bus>> {
        self.place.get()?.bus.upgrade()
    }

    pub fn is_multifunction(&self) -> bool {
        self.config().get8(reg::HEADER_TYPE) & MULTIFUNCTION != 0
    }

    pub fn set_multifunction(&self) {
        let mut config = self.config();
        let header = config.get8(reg::HEADER_TYPE) | MULTIFUNCTION;
        config.preset(reg::HEADER_TYPE, &[header]);
    }

    /// Called by the bus.
    pub(super) fn plugged(&self, bus: &Arc<Bus>, at: SlotFunction) {
        let fresh = self.place.set(Place { bus: Arc::downgrade(bus), at }).is_ok();
        assert!(fresh, "a function is plugged in once");
        self.signal.follow(&self.config());
    }

    pub fn config_read(&self, offset: usize, size: usize) -> u32 {
        let mut config = self.config();
        if let Some(behaviour) = &self.behaviour {
            behaviour.before_read(&mut config, offset, size);
        }
        let pending = if self.signal.intx_wanted() { status::INTERRUPT } else { 0 };
        let value = config.get16(reg::STATUS) & !status::INTERRUPT | pending;
        config.set16(reg::STATUS, value);
        config.read(offset, size)
    }

    pub fn config_write(&self, offset: usize, size: usize, value: u32) {
        {
            let mut config = self.config();
            config.write(offset, size, value);
            if let Some(behaviour) = &self.behaviour {
                behaviour.after_write(&mut config, offset, size);
            }
            self.signal.follow(&config);
        }
        // Everything that moves a base address is in the header.
        if offset < 0x40 {
            self.remap();
        }
    }

    pub fn reset(&self) {
        if let Some(behaviour) = &self.behaviour {
            behaviour.reset();
        }
        self.signal.reset();
        {
            let mut config = self.config();
            config.reset();
            self.signal.follow(&config);
        }
        self.remap();
        if let Some(child) = self.child() {
            child.reset();
        }
    }

    /// Maps base addresses as the registers, here and in the bridges above, say.
    pub(super) fn remap(&self) {
        let Some(bus) = self.place.get().and_then(|p| p.bus.upgrade()) else { return };
        {
            let mut mapped = lock(&self.mapped);
            for index in 0..mapped.len() {
                self.remap_one(&bus, index, &mut mapped[index]);
            }
        }
        if let Some(child) = self.child() {
            child.remap();
        }
    }

    fn remap_one(&self, bus: &Bus, index: usize, mapped: &mut Option<MappedBar>) {
        let Some(region) = &self.regions[index] else { return };
        let (bar, address) = {
            let config = self.config();
            (config.bar(index), config.decoded(index))
        };
        let Some(bar) = bar else { return };
        let target = address.and_then(|address| bus.place_of(bar.kind == BarKind::Io, address, bar.size));
        if mapped.as_ref().map(|m| m.address) == target.as_ref().map(|t| t.address) {
            return;
        }
        if let Some(old) = mapped.take() {
            old.space.change(|map| map.remove(old.id));
        }
        if let Some(target) = target {
            let id = target.space.map(target.address, bar.size, target.priority, region.clone());
            *mapped = Some(MappedBar { id, space: target.space, address: target.address });
        }
    }
}
