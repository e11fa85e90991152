//! A guest for tests: memory, drivers' sides of rings, a driver for each transport.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fabric::{AddressSpace, Ram, Region};

use super::device::{Core, Model, RingFeatures, Virtio, feature, status};
use super::memory::Memory;
use super::ring::{Chain, Cursor, Fault, Queue};

/// Bytes of guest memory, at address 0.
pub const RAM_BYTES: u64 = 4 << 20;
/// Where the rings of a guest begin, and bytes for each.
const RINGS: u64 = 0x10_0000;
const RING_BYTES: u64 = 0x1_0000;
/// Buffers for requests.
pub const BUFFERS: u64 = 0x20_0000;

pub fn space() -> Arc<AddressSpace> {
    let space = AddressSpace::new();
    let ram = Arc::new(Ram::new(RAM_BYTES).unwrap());
    space.map(0, RAM_BYTES, 0, Region::ram("ram", ram));
    space
}

/// The driver's side of one queue, and (for tests of the ring alone) the device's.
pub struct Rings {
    pub space: Arc<AddressSpace>,
    pub memory: Memory,
    pub queue: Queue,
    size: u16,
    next: u16,
    seen: u16,
    next_desc: u16,
}

impl Rings {
    pub fn new(size: u16) -> Rings {
        Rings::at(space(), RINGS, size)
    }

    pub fn at(space: Arc<AddressSpace>, base: u64, size: u16) -> Rings {
        let mut queue = Queue::new(size);
        queue.desc = base;
        queue.driver = base + 0x4000;
        queue.device = base + 0x6000;
        queue.ready = true;
        let memory = Memory::new(space.clone());
        assert_eq!(space.write_bytes(base, &[0; RING_BYTES as usize]), RING_BYTES as usize);
        Rings { space, memory, queue, size, next: 0, seen: 0, next_desc: 0 }
    }

    fn put16(&self, addr: u64, value: u16) {
        assert!(self.space.write(addr, 2, value.into()));
    }

    fn get16(&self, addr: u64) -> u16 {
        self.space.read(addr, 2).unwrap() as u16
    }

    /// `(addr, len, flags, next)`.
    pub fn set_descriptor(&self, table: u64, index: u16, d: (u64, u32, u16, u16)) {
        let at = table + 16 * u64::from(index);
        assert!(self.space.write(at, 8, d.0));
        assert!(self.space.write(at + 8, 4, d.1.into()));
        self.put16(at + 12, d.2);
        self.put16(at + 14, d.3);
    }

    fn offer(&mut self, head: u16) {
        self.put16(self.queue.driver + 4 + 2 * u64::from(self.next % self.size), head);
        self.next = self.next.wrapping_add(1);
        self.set_avail_index(self.next);
    }

    /// Makes a chain of `(addr, len, device writes)` available.
    pub fn add(&mut self, spans: &[(u64, u32, bool)]) -> u16 {
        let head = self.next_desc;
        for (i, &(addr, len, write)) in spans.iter().enumerate() {
            let next = (self.next_desc + 1) % self.size;
            let flags = u16::from(write) << 1 | u16::from(i + 1 < spans.len());
            self.set_descriptor(self.queue.desc, self.next_desc, (addr, len, flags, next));
            self.next_desc = next;
        }
        self.offer(head);
        head
    }

    /// The same through an indirect table at `table`.
    pub fn add_indirect(&mut self, table: u64, spans: &[(u64, u32, bool)]) -> u16 {
        for (i, &(addr, len, write)) in spans.iter().enumerate() {
            let flags = u16::from(write) << 1 | u16::from(i + 1 < spans.len());
            self.set_descriptor(table, i as u16, (addr, len, flags, i as u16 + 1));
        }
        let head = self.next_desc;
        self.set_descriptor(self.queue.desc, head, (table, 16 * spans.len() as u32, 4, 0));
        self.next_desc = (head + 1) % self.size;
        self.offer(head);
        head
    }

    /// Descriptors 0 and up as given; 0 is the head.
    pub fn add_raw(&mut self, descriptors: &[(u64, u32, u16, u16)]) {
        for (i, &d) in descriptors.iter().enumerate() {
            self.set_descriptor(self.queue.desc, i as u16, d);
        }
        self.offer(0);
    }

    /// As the device: gives a chain back.
    pub fn finish(&mut self, chain: &Chain, written: u32) {
        self.queue.put(&self.memory, chain.head, written, 0).unwrap();
        self.queue.publish(&self.memory, 1).unwrap();
    }

    /// What came back since the last call: `(head, written)`.
    pub fn take_used(&mut self) -> Vec<(u16, u32)> {
        let index = self.get16(self.queue.device + 2);
        let mut used = Vec::new();
        while self.seen != index {
            let at = self.queue.device + 4 + 8 * u64::from(self.seen % self.size);
            used.push((self.space.read(at, 4).unwrap() as u16, self.space.read(at + 4, 4).unwrap() as u32));
            self.seen = self.seen.wrapping_add(1);
        }
        used
    }

    pub fn used_flags(&self) -> u16 {
        self.get16(self.queue.device)
    }

    pub fn avail_event(&self) -> u16 {
        self.get16(self.queue.device + 4 + 8 * u64::from(self.size))
    }

    pub fn set_used_event(&self, value: u16) {
        self.put16(self.queue.driver + 4 + 2 * u64::from(self.size), value);
    }

    pub fn set_avail_flags(&self, value: u16) {
        self.put16(self.queue.driver, value);
    }

    pub fn set_avail_index(&self, value: u16) {
        self.put16(self.queue.driver + 2, value);
    }
}

/// A guest with one device that is driven without a transport.
pub struct Guest {
    pub space: Arc<AddressSpace>,
    pub virtio: Arc<Virtio>,
    pub rings: Vec<Rings>,
    /// Accepted besides `VERSION_1`.
    pub features: u64,
}

/// How long a test waits for a worker before it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

impl Guest {
    pub fn new(model: Box<dyn Model>) -> Guest {
        let space = space();
        let sizes = model.queues();
        let virtio = Virtio::new(model, space.clone(), RingFeatures::default());
        let rings = sizes.iter().enumerate().map(|(i, &n)| Rings::at(space.clone(), RINGS + RING_BYTES * i as u64, n)).collect();
        Guest { space, virtio, rings, features: 0 }
    }

    /// A guest whose driver is ready, with every feature that is offered except event indices.
    pub fn started(model: Box<dyn Model>) -> Guest {
        let mut guest = Guest::new(model);
        guest.features = guest.virtio.core(|c| c.offered()) & !feature::EVENT_IDX;
        guest.start();
        guest
    }

    pub fn place_queues(&mut self) {
        let sizes: Vec<u16> = self.virtio.core(|c| c.queues.iter().map(|q| q.max).collect());
        for (i, &size) in sizes.iter().enumerate() {
            let rings = Rings::at(self.space.clone(), RINGS + RING_BYTES * i as u64, size);
            self.virtio.core(|c| {
                let q = &mut c.queues[i];
                (q.desc, q.driver, q.device, q.ready) = (rings.queue.desc, rings.queue.driver, rings.queue.device, true);
            });
            self.rings[i] = rings;
        }
    }

    pub fn start(&mut self) {
        let features = self.features | feature::VERSION_1;
        self.virtio.set_status(status::ACKNOWLEDGE | status::DRIVER);
        self.virtio.accept(0, features as u32);
        self.virtio.accept(1, (features >> 32) as u32);
        self.virtio.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        assert_ne!(self.virtio.status() & status::FEATURES_OK, 0, "the device takes what it offered");
        self.place_queues();
        self.virtio.set_status(15);
    }

    pub fn write(&self, addr: u64, bytes: &[u8]) {
        assert_eq!(self.space.write_bytes(addr, bytes), bytes.len());
    }

    pub fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        assert_eq!(self.space.read_bytes(addr, &mut bytes), len);
        bytes
    }

    /// Waits until a chain came back.
    pub fn wait_used(&mut self, queue: usize) -> (u16, u32) {
        let used = self.wait_for(queue, 1);
        used[0]
    }

    pub fn wait_for(&mut self, queue: usize, count: usize) -> Vec<(u16, u32)> {
        let start = Instant::now();
        let mut used = Vec::new();
        while used.len() < count {
            used.extend(self.rings[queue].take_used());
            assert!(start.elapsed() < PATIENCE, "{} of {count} chains came back", used.len());
            std::thread::yield_now();
        }
        used
    }

    /// Sends `out` and gives back what was written of `room` bytes.
    pub fn request(&mut self, queue: usize, out: &[u8], room: u32) -> Vec<u8> {
        self.write(BUFFERS, out);
        let mut spans = Vec::new();
        if !out.is_empty() {
            spans.push((BUFFERS, out.len() as u32, false));
        }
        if room > 0 {
            spans.push((BUFFERS + 0x8_0000, room, true));
        }
        let head = self.rings[queue].add(&spans);
        self.virtio.notify(queue);
        let (back, written) = self.wait_used(queue);
        assert_eq!(back, head);
        self.read(BUFFERS + 0x8_0000, written as usize)
    }
}

/// Copies what it reads to what it may write.
pub struct Mirror {
    config: [u8; 8],
}

impl Default for Mirror {
    fn default() -> Mirror {
        Mirror { config: [1, 2, 3, 4, 5, 6, 7, 8] }
    }
}

impl Model for Mirror {
    fn id(&self) -> u16 {
        4
    }
    fn name(&self) -> &'static str {
        "mirror"
    }
    fn features(&self) -> u64 {
        0
    }
    fn queues(&self) -> Vec<u16> {
        vec![16, 8]
    }
    fn config(&self, _core: &Core) -> Vec<u8> {
        self.config.to_vec()
    }
    fn write_config(&mut self, _core: &mut Core, offset: usize, data: &[u8]) {
        self.config[offset..offset + data.len()].copy_from_slice(data);
    }
    fn kick(&mut self, core: &mut Core, queue: usize) -> Result<(), Fault> {
        while let Some(chain) = core.pop(queue)? {
            let mut from = Cursor::new(chain.readable());
            let mut to = Cursor::new(chain.writable());
            let len = from.left().min(to.left()).min(0x1000) as usize;
            let mut bytes = vec![0; len];
            from.read(&core.memory, &mut bytes)?;
            to.write(&core.memory, &bytes)?;
            core.put(queue, chain.head, len as u32)?;
        }
        core.finish(queue)
    }
}

/// Numbers that look random; the same for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// The seed of a random test, printed so that a failure can be repeated.
pub fn seed() -> u64 {
    let seed = std::env::var("RHEA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0x9e37_79b9_7f4a_7c15);
    println!("RHEA_SEED={seed}");
    seed
}

/// Rounds of a random test.
pub fn rounds(normal: u64) -> u64 {
    std::env::var("RHEA_ROUNDS").ok().and_then(|s| s.parse().ok()).unwrap_or(normal)
}

/// Gives a started device rings of random contents again and again.
pub fn random_rings(guest: &mut Guest, rounds: u64) {
    let mut random = Random(seed() | 1);
    for _ in 0..rounds {
        if guest.virtio.status() & status::NEEDS_RESET != 0 || random.below(50) == 0 {
            guest.virtio.reset();
            guest.start();
        }
        let queue = random.below(guest.rings.len() as u64) as usize;
        let rings = &mut guest.rings[queue];
        for _ in 0..random.below(4) {
            scribble(rings, &mut random);
        }
        let most = if random.below(8) == 0 { 300 } else { 3 };
        let ahead = random.below(most);
        rings.next = rings.next.wrapping_add(ahead as u16);
        rings.set_avail_index(rings.next);
        rings.take_used();
        guest.virtio.notify(queue);
        if random.below(20) == 0 {
            guest.virtio.write_config(random.below(64), 1 << random.below(4), random.next());
        }
    }
    guest.virtio.reset();
    assert_eq!(guest.virtio.status(), 0);
}

/// One random change of descriptors, of the available ring or of buffers.
fn scribble(rings: &mut Rings, random: &mut Random) {
    let size = u64::from(rings.size);
    let addr = match random.below(8) {
        0 => random.next(),
        1 => RAM_BYTES - random.below(64),
        _ => BUFFERS + random.below(0x1000) * 16,
    };
    let len = match random.below(6) {
        0 => random.next() as u32,
        1 => 0,
        2 => 16 * random.below(8) as u32,
        _ => 1 + random.below(1024) as u32,
    };
    let flags = if random.below(10) == 0 { random.next() as u16 } else { random.below(4) as u16 };
    let index = random.below(size.min(8)) as u16;
    let next = if random.below(30) == 0 { random.next() as u16 } else { index + 1 };
    let table = if random.below(8) == 0 { BUFFERS + random.below(64) * 16 } else { rings.queue.desc };
    rings.set_descriptor(table, index, (addr, len, flags, next));
    rings.put16(rings.queue.driver + 4 + 2 * random.below(size), random.below(size.min(8) + 1) as u16);
    // Headers that make sense to some device.
    let header = [random.below(16), random.below(64), random.below(1 << 20)];
    for (i, word) in header.iter().enumerate() {
        let _ = rings.space.write(BUFFERS + random.below(64) * 16 + 4 * i as u64, 4, *word);
    }
}
