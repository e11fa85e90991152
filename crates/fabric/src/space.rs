//! Who answers at a guest-physical address, and DMA.
//!
//! The board maps regions with priorities; from them a flat view is made whenever something changes. Readers keep an
//! `Arc<View>` and look at `generation` (or are told by `on_change`) to know that there is a newer one.
//!
//! **Invariants**: the sections of a view are sorted, do not overlap and leave no gap; a view never changes.

use crate::device::{MmioTarget, mask};
use crate::ram::Ram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Addresses are smaller than this.
pub const SPACE_BYTES: u64 = 1 << 56;

/// Something a board maps.
#[derive(Clone)]
pub struct Region {
    pub name: Arc<str>,
    kind: SectionKind,
}

impl Region {
    /// Memory the guest can write.
    pub fn ram(name: &str, ram: Arc<Ram>) -> Region {
        Region { name: name.into(), kind: SectionKind::Ram { ram, offset: 0, writable: true, writes: None } }
    }

    /// Memory the guest cannot write. Writes go to the device, if there is one (flash), or are dropped.
    pub fn rom(name: &str, ram: Arc<Ram>, writes: Option<Arc<dyn MmioTarget>>) -> Region {
        let writes = writes.map(|device| DeviceAt { device, offset: 0 });
        Region { name: name.into(), kind: SectionKind::Ram { ram, offset: 0, writable: false, writes } }
    }

    /// Registers: every access asks the device.
    pub fn device(name: &str, device: Arc<dyn MmioTarget>) -> Region {
        Region { name: name.into(), kind: SectionKind::Device { device, offset: 0 } }
    }

    /// The part of the region from `offset` on: an alias, or one of several banks in one memory.
    pub fn from_offset(mut self, offset: u64) -> Region {
        self.kind = self.kind.advance(offset);
        self
    }
}

/// A device and the offset in it that belongs to the start of a section.
#[derive(Clone)]
pub struct DeviceAt {
    pub device: Arc<dyn MmioTarget>,
    pub offset: u64,
}

/// What answers in a section; offsets belong to the section's first address.
#[derive(Clone)]
pub enum SectionKind {
    Ram { ram: Arc<Ram>, offset: u64, writable: bool, writes: Option<DeviceAt> },
    Device { device: Arc<dyn MmioTarget>, offset: u64 },
    Nothing,
}

impl SectionKind {
    fn advance(&self, by: u64) -> SectionKind {
        let mut kind = self.clone();
        match &mut kind {
            SectionKind::Ram { offset, writes, .. } => {
                *offset += by;
                if let Some(w) = writes {
                    w.offset += by;
                }
            }
            SectionKind::Device { offset, .. } => *offset += by,
            SectionKind::Nothing => {}
        }
        kind
    }
}

/// A stretch of addresses with one answer.
#[derive(Clone)]
pub struct Section {
    pub start: u64,
    pub len: u64,
    pub name: Arc<str>,
    pub kind: SectionKind,
}

impl Section {
    /// The last address plus one.
    pub fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// A flat picture of an address space.
pub struct View {
    pub generation: u64,
    sections: Vec<Section>,
    /// Index of the largest section of RAM, where most look-ups end.
    main: usize,
}

impl View {
    fn new(generation: u64, sections: Vec<Section>) -> View {
        let ram = |s: &Section| if matches!(s.kind, SectionKind::Ram { .. }) { s.len } else { 0 };
        let main = (0..sections.len()).max_by_key(|&n| ram(&sections[n])).unwrap_or(0);
        View { generation, sections, main }
    }

    /// The section that holds an address. Beyond all addresses there is the last one's `Nothing`.
    pub fn find(&self, phys: u64) -> &Section {
        let main = &self.sections[self.main];
        if phys.wrapping_sub(main.start) < main.len {
            return main;
        }
        let after = self.sections.partition_point(|s| s.start <= phys);
        &self.sections[after - 1]
    }

    /// Without gaps or overlaps, by address.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The memory behind a range that lies in one RAM section, with the offset in it.
    pub fn ram(&self, phys: u64, len: u64) -> Option<(&Arc<Ram>, u64)> {
        let section = self.find(phys);
        match &section.kind {
            SectionKind::Ram { ram, offset, .. } if phys < section.end() && len <= section.end() - phys => {
                Some((ram, offset + (phys - section.start)))
            }
            _ => None,
        }
    }
}

/// Names one mapped region of an address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapId(u64);

struct Mapped {
    id: MapId,
    base: u64,
    len: u64,
    priority: i32,
    enabled: bool,
    region: Region,
}

/// The regions of an address space while they are being changed.
#[derive(Default)]
pub struct Map {
    mapped: Vec<Mapped>,
    next: u64,
}

impl Map {
    /// Maps a region; where regions overlap the higher priority answers, among equals the later one.
    pub fn add(&mut self, base: u64, len: u64, priority: i32, region: Region) -> MapId {
        assert!(len > 0 && base < SPACE_BYTES && len <= SPACE_BYTES - base, "'{}' at {base:#x} of {len:#x} bytes", region.name);
        if let SectionKind::Ram { ram, offset, .. } = &region.kind {
            assert!(ram.contains(*offset, len), "'{}' has less than {len:#x} bytes of memory", region.name);
        }
        self.next += 1;
        let id = MapId(self.next);
        self.mapped.push(Mapped { id, base, len, priority, enabled: true, region });
        id
    }

    /// Takes a region out; nothing happens if it is gone already.
    pub fn remove(&mut self, id: MapId) {
        self.mapped.retain(|m| m.id != id);
    }

    /// Shows a region or hides it, in its place.
    pub fn set_enabled(&mut self, id: MapId, enabled: bool) {
        if let Some(m) = self.get(id) {
            m.enabled = enabled;
        }
    }

    /// Moves a region. An address at which it does not fit disables it, as a guest can program any.
    pub fn move_to(&mut self, id: MapId, base: u64) {
        if let Some(m) = self.get(id) {
            m.enabled = base < SPACE_BYTES && m.len <= SPACE_BYTES - base;
            m.base = base;
        }
    }

    /// Puts another region in the same place.
    pub fn replace(&mut self, id: MapId, region: Region) {
        if let Some(m) = self.get(id) {
            m.region = region;
        }
    }

    fn get(&mut self, id: MapId) -> Option<&mut Mapped> {
        self.mapped.iter_mut().find(|m| m.id == id)
    }

    fn flatten(&self) -> Vec<Section> {
        let mut order: Vec<&Mapped> = self.mapped.iter().filter(|m| m.enabled).collect();
        order.sort_by_key(|m| (m.priority, m.id.0));
        let mut edges: Vec<u64> = order.iter().flat_map(|m| [m.base, m.base + m.len]).chain([0, SPACE_BYTES]).collect();
        edges.sort_unstable();
        edges.dedup();
        let mut sections: Vec<Section> = Vec::new();
        let mut last = None;
        for edge in edges.windows(2) {
            let winner = order.iter().rfind(|m| m.base <= edge[0] && edge[0] < m.base + m.len);
            let id = winner.map(|m| m.id);
            if let (Some(section), true) = (sections.last_mut(), last == Some(id)) {
                section.len += edge[1] - edge[0];
                continue;
            }
            last = Some(id);
            let (name, kind) = match winner {
                Some(m) => (m.region.name.clone(), m.region.kind.advance(edge[0] - m.base)),
                None => ("".into(), SectionKind::Nothing),
            };
            sections.push(Section { start: edge[0], len: edge[1] - edge[0], name, kind });
        }
        sections
    }
}

type OnChange = Box<dyn Fn() + Send + Sync>;
type OnWrite = Box<dyn Fn(u64, u64) + Send + Sync>;

/// An address space as boards, devices and executors share it.
pub struct AddressSpace {
    map: Mutex<Map>,
    view: RwLock<Arc<View>>,
    generation: AtomicU64,
    on_change: RwLock<Vec<OnChange>>,
    on_write: RwLock<Vec<OnWrite>>,
}

impl AddressSpace {
    pub fn new() -> Arc<AddressSpace> {
        let map = Map::default();
        let view = RwLock::new(Arc::new(View::new(0, map.flatten())));
        let (on_change, on_write) = Default::default();
        Arc::new(AddressSpace { map: Mutex::new(map), view, generation: AtomicU64::new(0), on_change, on_write })
    }

    /// Maps one region (see `Map::add`).
    pub fn map(&self, base: u64, len: u64, priority: i32, region: Region) -> MapId {
        self.change(|map| map.add(base, len, priority, region))
    }

    /// Makes any number of changes with one new view. Devices call this with their lock held, so listeners must not call
    /// devices.
    pub fn change<T>(&self, change: impl FnOnce(&mut Map) -> T) -> T {
        let mut map = self.lock();
        let result = change(&mut map);
        let generation = self.generation.load(Ordering::Relaxed) + 1;
        let view = Arc::new(View::new(generation, map.flatten()));
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
        self.generation.store(generation, Ordering::Release);
        drop(map);
        for listener in self.on_change.read().unwrap_or_else(PoisonError::into_inner).iter() {
            listener();
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The map of this moment; later changes make another one.
    pub fn view(&self) -> Arc<View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Number of the newest view.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The listener is called after each change, on the thread that made it.
    pub fn on_change(&self, listener: impl Fn() + Send + Sync + 'static) {
        self.on_change.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(listener));
    }

    /// The listener is called with address and length after a write through this address space to memory whose pages are
    /// marked as holding translated code.
    pub fn on_write(&self, listener: impl Fn(u64, u64) + Send + Sync + 'static) {
        self.on_write.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(listener));
    }

    /// For writers that reached the memory by `View::ram`: says that a range was written.
    pub fn written(&self, ram: &Ram, offset: u64, phys: u64, len: u64) {
        if ram.has_code(offset, len) {
            for listener in self.on_write.read().unwrap_or_else(PoisonError::into_inner).iter() {
                listener(phys, len);
            }
        }
    }

    /// A value of 1 to 8 bytes from memory or a device; `None` if nothing answers at some byte of it.
    pub fn read(&self, phys: u64, size: u8) -> Option<u64> {
        let view = self.view();
        let mut value = 0;
        let mut done = 0;
        while done < size {
            let at = phys.checked_add(done.into())?;
            let section = view.find(at);
            let part = part_in(section, at, size - done)?;
            let inside = at - section.start;
            let bits = match &section.kind {
                SectionKind::Ram { ram, offset, .. } => ram.load(offset + inside, part),
                SectionKind::Device { device, offset } => device.read(offset + inside, part) & mask(part),
                SectionKind::Nothing => return None,
            };
            value |= bits << (done * 8);
            done += part;
        }
        Some(value)
    }

    /// Writes a value of 1 to 8 bytes to memory or a device; whether something answered at every byte.
    pub fn write(&self, phys: u64, size: u8, value: u64) -> bool {
        let view = self.view();
        let mut done = 0;
        while done < size {
            let Some(at) = phys.checked_add(done.into()) else { return false };
            let section = view.find(at);
            let Some(part) = part_in(section, at, size - done) else { return false };
            let inside = at - section.start;
            let bits = (value >> (done * 8)) & mask(part);
            match &section.kind {
                SectionKind::Ram { ram, offset, writable: true, .. } => {
                    ram.store(offset + inside, part, bits);
                    self.written(ram, offset + inside, at, part.into());
                }
                SectionKind::Ram { writes: Some(w), .. } => w.device.write(w.offset + inside, part, bits),
                SectionKind::Ram { .. } => {}
                SectionKind::Device { device, offset } => device.write(offset + inside, part, bits),
                SectionKind::Nothing => return false,
            }
            done += part;
        }
        true
    }

    /// DMA out of memory; says how many bytes there were before something else than memory.
    pub fn read_bytes(&self, phys: u64, to: &mut [u8]) -> usize {
        let mut done = 0;
        self.each_ram(phys, to.len(), false, |ram, offset, _, len| {
            ram.read(offset, &mut to[done..done + len]);
            done += len;
        })
    }

    /// DMA into writable memory; says how many bytes there was room for before something else.
    pub fn write_bytes(&self, phys: u64, from: &[u8]) -> usize {
        let mut done = 0;
        self.each_ram(phys, from.len(), true, |ram, offset, at, len| {
            ram.write(offset, &from[done..done + len]);
            self.written(ram, offset, at, len as u64);
            done += len;
        })
    }

    /// Calls `each(ram, offset, phys, len)` for the pieces of a range until one is not memory. Gives the length reached.
    fn each_ram(&self, phys: u64, len: usize, write: bool, mut each: impl FnMut(&Ram, u64, u64, usize)) -> usize {
        let view = self.view();
        let mut done = 0;
        while done < len {
            let Some(at) = phys.checked_add(done as u64) else { break };
            let section = view.find(at);
            let SectionKind::Ram { ram, offset, writable, .. } = &section.kind else { break };
            if at >= section.end() || (write && !writable) {
                break;
            }
            let part = (section.end() - at).min((len - done) as u64) as usize;
            each(ram, offset + (at - section.start), at, part);
            done += part;
        }
        done
    }
}

/// How many of `size` bytes from `at` on lie in the section that holds `at`.
fn part_in(section: &Section, at: u64, size: u8) -> Option<u8> {
    let left = section.end().checked_sub(at).filter(|&left| left > 0)?;
    Some(left.min(size.into()) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(Mutex<Vec<(u64, u8, u64)>>);

    impl MmioTarget for Echo {
        fn read(&self, offset: u64, size: u8) -> u64 {
            self.0.lock().unwrap().push((offset, size, 0));
            offset | 0xffff_ff00_0000_0000
        }
        fn write(&self, offset: u64, size: u8, value: u64) {
            self.0.lock().unwrap().push((offset, size, value));
        }
    }

    fn echo() -> Arc<Echo> {
        Arc::new(Echo(Mutex::default()))
    }

    fn ram(len: u64) -> Arc<Ram> {
        Arc::new(Ram::new(len).unwrap())
    }

    #[test]
    fn gaps_answer_nothing() {
        let space = AddressSpace::new();
        space.map(0x1000, 0x1000, 0, Region::ram("ram", ram(0x1000)));
        assert_eq!(space.read(0xfff, 1), None);
        assert_eq!(space.read(0xffe, 4), None);
        assert_eq!(space.read(0x1ffe, 4), None);
        assert_eq!(space.read(u64::MAX, 8), None);
        assert!(!space.write(0x2000, 1, 0));
        assert_eq!(space.read(0x1ffe, 2), Some(0));
        let view = space.view();
        let gap = view.find(0x5000);
        assert_eq!((gap.start, gap.end()), (0x2000, SPACE_BYTES));
    }

    #[test]
    fn priorities_and_order_decide_overlaps() {
        let space = AddressSpace::new();
        let device = echo();
        space.map(0, 0x3000, 0, Region::ram("low", ram(0x3000)));
        let over = space.map(0x1000, 0x1000, 1, Region::device("over", device.clone()));
        space.map(0x0800, 0x1000, 0, Region::rom("rom", ram(0x1000), None));
        let names = |space: &AddressSpace| {
            space.view().sections().iter().map(|s| format!("{:x}-{:x} {}", s.start, s.end(), s.name)).collect::<Vec<_>>()
        };
        assert_eq!(names(&space)[..4], ["0-800 low", "800-1000 rom", "1000-2000 over", "2000-3000 low"]);
        assert_eq!(space.read(0x1ffe, 4), Some(0x0000_0ffe), "two bytes of the device, two of memory");
        assert!(space.write(0x900, 4, 1), "a write to ROM is dropped");
        assert_eq!(space.read(0x900, 4), Some(0));
        space.change(|m| m.set_enabled(over, false));
        assert_eq!(names(&space)[..3], ["0-800 low", "800-1800 rom", "1800-3000 low"]);
        space.change(|m| m.move_to(over, 0x8000));
        assert_eq!(space.read(0x8004, 1), Some(4));
        space.change(|m| m.move_to(over, u64::MAX - 4));
        assert_eq!(space.read(0x8004, 1), None);
        space.change(|m| m.remove(over));
        assert_eq!(space.generation(), 7);
    }

    #[test]
    fn flash_writes_reach_the_device() {
        let space = AddressSpace::new();
        let device = echo();
        let id = space.map(0x4000, 0x1000, 0, Region::rom("flash", ram(0x2000), Some(device.clone())).from_offset(0x1000));
        assert!(space.write(0x4010, 2, 0x98));
        assert_eq!(*device.0.lock().unwrap(), [(0x1010, 2, 0x98)]);
        assert_eq!(space.read(0x4010, 2), Some(0));
        space.change(|m| m.replace(id, Region::device("flash", device.clone())));
        assert_eq!(space.read(0x4010, 2), Some(0x10));
    }

    #[test]
    fn dma_reaches_memory_only_and_tells_about_code() {
        let space = AddressSpace::new();
        let memory = ram(0x2000);
        space.map(0x1000, 0x1000, 0, Region::ram("a", memory.clone()).from_offset(0x1000));
        space.map(0x2000, 0x1000, 0, Region::ram("b", memory.clone()));
        space.map(0x3000, 0x1000, 0, Region::device("d", echo()));
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = told.clone();
        space.on_write(move |phys, len| log.lock().unwrap().push((phys, len)));
        memory.set_code(0, true);
        assert_eq!(space.write_bytes(0x1ffe, &[1, 2, 3, 4]), 4);
        assert_eq!(*told.lock().unwrap(), [(0x2000, 2)]);
        let mut back = [0; 4];
        assert_eq!(space.read_bytes(0x1ffe, &mut back), 4);
        assert_eq!(back, [1, 2, 3, 4]);
        assert_eq!(space.write_bytes(0x2ffe, &[0; 8]), 2, "devices are not reached");
        assert_eq!(space.view().ram(0x2004, 4).map(|(_, o)| o), Some(4));
        assert!(space.view().ram(0x1ffe, 4).is_none());
    }

    #[test]
    fn listeners_hear_of_changes() {
        let space = AddressSpace::new();
        let count = Arc::new(AtomicU64::new(0));
        let c = count.clone();
        space.on_change(move || {
            c.fetch_add(1, Ordering::Relaxed);
        });
        space.map(0, 0x1000, 0, Region::device("d", echo()));
        assert_eq!((count.load(Ordering::Relaxed), space.view().generation), (1, 1));
    }
}
