//! A bus: which function sits where, who answers a configuration access, and which addresses reach the bus.
//!
//! Reference: PCI Local Bus Specification 3.0, 3.2.2.3; the messages about taken slots follow QEMU 10.
//! Not modelled: hot-plug, ARI, peer-to-peer accesses outside of the windows.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use fabric::AddressSpace;
use spec::{Error, Result};

use super::address::{FUNCTIONS, SLOTS, SlotFunction};
use super::bridge;
use super::config::reg;
use super::function::Function;
use super::signal::{Intx, swizzle};

/// Where port addresses of the bus appear.
#[derive(Clone)]
pub struct IoWindow {
    pub space: Arc<AddressSpace>,
    /// Address of port 0 in that space.
    pub base: u64,
    pub len: u64,
}

/// Where the addresses of a root bus appear. Memory addresses are the same on both sides.
#[derive(Clone)]
pub struct Windows {
    pub space: Arc<AddressSpace>,
    pub memory: Vec<Range<u64>>,
    pub io: Option<IoWindow>,
    /// With which priority base addresses are mapped.
    pub priority: i32,
}

/// A base address as the CPU sees it.
pub(super) struct Target {
    pub space: Arc<AddressSpace>,
    pub address: u64,
    pub priority: i32,
}

/// What is on the other side of the bus.
enum Above {
    Root { windows: Windows, intx: Arc<Intx> },
    Bridge(Weak<Function>),
}

pub struct Bus {
    name: String,
    above: Above,
    functions: Mutex<BTreeMap<u8, Arc<Function>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bus {
    /// The bus of a host bridge.
    pub fn root(name: &str, windows: Windows, intx: Arc<Intx>) -> Arc<Bus> {
        Arc::new(Bus { name: name.into(), above: Above::Root { windows, intx }, functions: Mutex::default() })
    }

    /// The bus behind a bridge.
    pub fn secondary(name: &str, bridge: &Arc<Function>) -> Arc<Bus> {
        let above = Above::Bridge(Arc::downgrade(bridge));
        let bus = Arc::new(Bus { name: name.into(), above, functions: Mutex::default() });
        bridge.set_child(bus.clone());
        bus
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn is_root(&self) -> bool {
        matches!(self.above, Above::Root { .. })
    }

    /// Whether it leads to the one slot of a PCI Express port.
    pub fn is_express_slot(&self) -> bool {
        match &self.above {
            Above::Root { .. } => false,
            Above::Bridge(bridge) => bridge.upgrade().is_some_and(|b| b.is_express()),
        }
    }

    /// The bus type, as messages name it.
    pub fn kind(&self) -> &'static str {
        if self.is_root() || self.is_express_slot() { "PCIE" } else { "PCI" }
    }

    /// What is plugged in, by slot and function.
    pub fn functions(&self) -> Vec<Arc<Function>> {
        lock(&self.functions).values().cloned().collect()
    }

    pub fn function(&self, at: SlotFunction) -> Option<Arc<Function>> {
        lock(&self.functions).get(&at.devfn()).cloned()
    }

    /// Plugs a function in, at `addr` or in the first free slot.
    pub fn plug(self: &Arc<Bus>, function: &Arc<Function>, addr: Option<SlotFunction>) -> Result<SlotFunction> {
        let mut functions = lock(&self.functions);
        let at = match addr {
            Some(at) => at,
            None => self.free_slot(&functions, function)?,
        };
        if let Some(other) = functions.get(&at.devfn()) {
            return Err(Error::new(format!(
                "PCI: slot {} function {} not available for {}, in use by {},id={}",
                at.slot,
                at.function,
                function.name(),
                other.name(),
                other.id().unwrap_or("(null)")
            )));
        }
        check_functions(&functions, at, function)?;
        let pin = function.config().get8(reg::INTERRUPT_PIN);
        let wire = if pin == 0 { None } else { self.wire(at.slot, pin) };
        function.signal().plug(wire, u32::from(at.devfn()));
        functions.insert(at.devfn(), function.clone());
        drop(functions);
        function.plugged(self, at);
        Ok(at)
    }

    fn free_slot(&self, functions: &BTreeMap<u8, Arc<Function>>, function: &Function) -> Result<SlotFunction> {
        let slots = match (self.is_root(), self.is_express_slot()) {
            (true, _) => 0..SLOTS,
            (false, true) => 0..1,
            // Slot 0 behind a bridge is left alone, as there a hot-plug controller would be.
            (false, false) => 1..SLOTS,
        };
        let free = |slot: &u8| (0..FUNCTIONS).all(|f| !functions.contains_key(&(slot << 3 | f)));
        let slot = slots.into_iter().find(free).ok_or_else(|| {
            Error::new(format!("PCI: no slot/function available for {}, all in use or reserved", function.name()))
        })?;
        Ok(SlotFunction { slot, function: 0 })
    }

    /// The wire that a pin in a slot leads to, through the bridges above.
    fn wire(&self, slot: u8, pin: u8) -> Option<(Arc<Intx>, usize)> {
        let number = swizzle(slot, pin);
        match &self.above {
            Above::Root { intx, .. } => Some((intx.clone(), number)),
            Above::Bridge(bridge) => {
                let bridge = bridge.upgrade()?;
                let at = bridge.at()?;
                let parent = bridge.parent()?;
                parent.wire(at.slot, number as u8 + 1)
            }
        }
    }

    /// Where a base address appears; `None` if it lies outside of the windows.
    pub(super) fn place_of(&self, io: bool, address: u64, len: u64) -> Option<Target> {
        match &self.above {
            Above::Bridge(bridge) => {
                let bridge = bridge.upgrade()?;
                let parent = bridge.parent()?;
                let admitted = bridge::admits(&bridge.config(), io, address, len);
                if admitted { parent.place_of(io, address, len) } else { None }
            }
            Above::Root { windows, .. } if io => {
                let window = windows.io.as_ref()?;
                let fits = address < window.len && len <= window.len - address;
                let space = window.space.clone();
                fits.then(|| Target { space, address: window.base + address, priority: windows.priority })
            }
            Above::Root { windows, .. } => {
                let end = address.checked_add(len)?;
                let fits = windows.memory.iter().any(|w| w.start <= address && end <= w.end);
                fits.then(|| Target { space: windows.space.clone(), address, priority: windows.priority })
            }
        }
    }

    /// The function with this number as configuration software sees it; `bus` counts from this one.
    fn find(&self, bus: u8, devfn: u8) -> Option<Arc<Function>> {
        if bus == 0 {
            return lock(&self.functions).get(&devfn).cloned();
        }
        self.functions().iter().find_map(|f| f.child()?.find_below(f, bus, devfn))
    }

    fn find_below(&self, bridge: &Function, bus: u8, devfn: u8) -> Option<Arc<Function>> {
        let (secondary, subordinate) = {
            let config = bridge.config();
            (config.get8(reg::SECONDARY_BUS), config.get8(reg::SUBORDINATE_BUS))
        };
        if secondary == 0 || bus < secondary || bus > subordinate {
            None
        } else if bus == secondary {
            lock(&self.functions).get(&devfn).cloned()
        } else {
            self.functions().iter().find_map(|f| f.child()?.find_below(f, bus, devfn))
        }
    }

    /// A configuration access of 1, 2 or 4 bytes inside one doubleword. Nobody there: all ones.
    pub fn config_read(&self, bus: u8, devfn: u8, offset: usize, size: usize) -> u32 {
        match self.find(bus, devfn) {
            Some(function) => function.config_read(offset, size),
            None => u32::MAX >> (32 - 8 * size.clamp(1, 4)),
        }
    }

    pub fn config_write(&self, bus: u8, devfn: u8, offset: usize, size: usize, value: u32) {
        if let Some(function) = self.find(bus, devfn) {
            function.config_write(offset, size, value);
        }
    }

    pub fn reset(&self) {
        self.functions().iter().for_each(|f| f.reset());
    }

    pub(super) fn remap(&self) {
        self.functions().iter().for_each(|f| f.remap());
    }
}

/// Function 0 of a slot says whether there are more.
fn check_functions(functions: &BTreeMap<u8, Arc<Function>>, at: SlotFunction, function: &Function) -> Result<()> {
    let slot = at.slot << 3;
    if at.function != 0 {
        let first = functions.get(&slot);
        if first.is_some_and(|f| !f.is_multifunction()) {
            return Err(Error::new(format!("PCI: single function device can't be populated in function {:x}.{:x}", at.slot, at.function)));
        }
    } else if !function.is_multifunction() && (1..FUNCTIONS).any(|f| functions.contains_key(&(slot | f))) {
        return Err(Error::new(format!("PCI: {:x}.0 indicates single function, but {:x}.1 is already populated.", at.slot, at.slot)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::testing::{Rig, sample};

    #[test]
    fn slots_are_taken_in_order_and_conflicts_name_both() {
        let rig = Rig::new();
        let (a, b, c) = (sample(&rig, "a"), sample(&rig, "b"), sample(&rig, "c"));
        assert_eq!(rig.bus.plug(&a, None).unwrap(), SlotFunction::new(0, 0));
        assert_eq!(rig.bus.plug(&b, Some(SlotFunction::new(2, 0))).unwrap(), SlotFunction::new(2, 0));
        assert_eq!(rig.bus.plug(&c, None).unwrap(), SlotFunction::new(1, 0));
        let d = sample(&rig, "d");
        let error = rig.bus.plug(&d, Some(SlotFunction::new(2, 0))).unwrap_err();
        assert_eq!(error.to_string(), "PCI: slot 2 function 0 not available for d, in use by b,id=(null)");
        let error = rig.bus.plug(&d, Some(SlotFunction::new(2, 1))).unwrap_err();
        assert_eq!(error.to_string(), "PCI: single function device can't be populated in function 2.1");
        b.set_multifunction();
        rig.bus.plug(&d, Some(SlotFunction::new(2, 1))).unwrap();
    }

    #[test]
    fn a_full_bus_says_so() {
        let rig = Rig::new();
        for n in 0..32 {
            rig.bus.plug(&sample(&rig, &format!("f{n}")), None).unwrap();
        }
        let error = rig.bus.plug(&sample(&rig, "last"), None).unwrap_err();
        assert_eq!(error.to_string(), "PCI: no slot/function available for last, all in use or reserved");
    }

    #[test]
    fn base_addresses_appear_and_move() {
        let rig = Rig::new();
        let f = sample(&rig, "f");
        rig.bus.plug(&f, None).unwrap();
        let write = |offset, value| rig.bus.config_write(0, 0, offset, 4, value);
        write(0x10, 0x1000_0000);
        assert_eq!(rig.space.read(0x1000_0000, 4), None);
        write(0x04, 3);
        assert_eq!(rig.space.read(0x1000_0010, 4), Some(0x110));
        write(0x10, 0x1001_0000);
        assert_eq!(rig.space.read(0x1000_0010, 4), None);
        assert_eq!(rig.space.read(0x1001_0020, 4), Some(0x120));
        // The port window starts at 0x3eff_0000.
        write(0x14, 0x1000);
        assert_eq!(rig.space.read(0x3eff_1004, 4), Some(0x204));
        // Outside of every window: not reachable.
        write(0x10, 0x5000_0000);
        assert_eq!(rig.space.read(0x5000_0000, 4), None);
        write(0x10, 0x1001_0000);
        rig.bus.reset();
        assert_eq!(rig.space.read(0x1001_0020, 4), None);
        assert_eq!(rig.space.read(0x3eff_1004, 4), None);
    }

    #[test]
    fn an_empty_slot_reads_as_ones() {
        let rig = Rig::new();
        assert_eq!(rig.bus.config_read(0, 9 << 3, 0, 4), u32::MAX);
        assert_eq!(rig.bus.config_read(0, 9 << 3, 2, 2), 0xffff);
        assert_eq!(rig.bus.config_read(3, 0, 0, 1), 0xff);
        rig.bus.config_write(3, 0, 0, 4, 1);
    }
}
