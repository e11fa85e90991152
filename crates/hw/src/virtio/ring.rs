//! Split virtqueues: the device's side.
//!
//! Reference: VIRTIO 1.2, 2.7 (split virtqueues), 2.7.5.3 (indirect descriptors), 2.7.7 and 2.7.10 (notification
//! suppression).
//! Not modelled: packed virtqueues (never offered); big-endian rings of legacy drivers.
//!
//! Invariants: what a driver writes is read once and checked before use. A chain has at most [`SEGMENTS_MAX`] pieces, and
//! a queue never has more chains out than its size, so that a driver cannot make a device hold more.

use std::sync::atomic::{Ordering, fence};

use super::memory::{Memory, Span};

/// The most pieces of one chain.
pub const SEGMENTS_MAX: usize = 1024;

const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 2;
const DESC_INDIRECT: u16 = 4;
const DESC_SIZE: u64 = 16;
const AVAIL_NO_INTERRUPT: u16 = 1;
const USED_NO_NOTIFY: u16 = 1;

const NO_AVAIL: Fault = Fault("the available ring is not in memory");
const NO_USED: Fault = Fault("the used ring is not in memory");
const NO_TABLE: Fault = Fault("a descriptor table is not in memory");

/// What a driver did that ends its use of the device until a reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault(pub &'static str);

/// Buffers that the driver made available as one.
#[derive(Debug, PartialEq, Eq)]
pub struct Chain {
    /// How the used ring names it.
    pub head: u16,
    spans: Vec<Span>,
    /// How many of `spans`, at the front, the device reads.
    readable: usize,
}

impl Chain {
    /// What the device reads.
    pub fn readable(&self) -> &[Span] {
        &self.spans[..self.readable]
    }

    /// What the device writes.
    pub fn writable(&self) -> &[Span] {
        &self.spans[self.readable..]
    }
}

/// The bytes of `spans`.
pub fn total(spans: &[Span]) -> u64 {
    spans.iter().map(|s| u64::from(s.len)).sum()
}

/// A place in a list of spans that moves as bytes are copied.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    spans: &'a [Span],
    /// Bytes of the first span that are done.
    done: u32,
}

impl<'a> Cursor<'a> {
    pub fn new(spans: &'a [Span]) -> Cursor<'a> {
        Cursor { spans, done: 0 }
    }

    pub fn left(&self) -> u64 {
        total(self.spans) - u64::from(self.done)
    }

    /// The next piece of at most `max` bytes.
    fn step(&mut self, max: usize) -> Option<(u64, usize)> {
        let first = self.spans.first()?;
        let len = ((first.len - self.done) as usize).min(max);
        let addr = first.addr.checked_add(self.done.into())?;
        self.done += len as u32;
        if self.done == first.len {
            self.spans = &self.spans[1..];
            self.done = 0;
        }
        Some((addr, len))
    }

    /// Fills `to`; a fault if there are too few bytes or some are no memory.
    pub fn read(&mut self, memory: &Memory, to: &mut [u8]) -> Result<(), Fault> {
        let mut at = 0;
        while at < to.len() {
            let (addr, len) = self.step(to.len() - at).ok_or(Fault("a buffer is too short"))?;
            if !memory.read(addr, &mut to[at..at + len]) {
                return Err(Fault("a buffer is not in memory"));
            }
            at += len;
        }
        Ok(())
    }

    /// Stores `from`; a fault if there is too little room or some of it is no memory.
    pub fn write(&mut self, memory: &Memory, from: &[u8]) -> Result<(), Fault> {
        let mut at = 0;
        while at < from.len() {
            let (addr, len) = self.step(from.len() - at).ok_or(Fault("a buffer is too short"))?;
            if !memory.write(addr, &from[at..at + len]) {
                return Err(Fault("a buffer is not in memory"));
            }
            at += len;
        }
        Ok(())
    }

    /// Passes over bytes.
    pub fn skip(&mut self, mut len: u64) {
        while len > 0 {
            let Some((_, part)) = self.step(len.min(u64::from(u32::MAX)) as usize) else { return };
            len -= part as u64;
        }
    }
}

/// One virtqueue.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    /// The largest size that the device offers.
    pub max: u16,
    pub size: u16,
    pub ready: bool,
    /// Descriptor table, driver area (available ring) and device area (used ring).
    pub desc: u64,
    pub driver: u64,
    pub device: u64,
    pub vector: u16,
    next_avail: u16,
    next_used: u16,
    /// `next_used` when the driver was last asked whether it wants an interrupt.
    signalled: Option<u16>,
    /// Chains that were taken and not given back.
    out: u16,
    /// The driver was told not to notify.
    quiet: bool,
}

#[derive(Clone, Copy)]
struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Queue {
    pub fn new(max: u16) -> Queue {
        Queue { max, size: max, vector: crate::pci::NO_VECTOR, ..Queue::default() }
    }

    /// As after a reset of the device.
    pub fn reset(&mut self) {
        *self = Queue::new(self.max);
    }

    /// Whether the driver may choose this size.
    pub fn accepts(&self, size: u16) -> bool {
        size.is_power_of_two() && size <= self.max
    }

    /// Chains that the device holds.
    pub fn out(&self) -> u16 {
        self.out
    }

    /// Sets the three addresses from the first page and the alignment of a legacy driver.
    pub fn place_legacy(&mut self, base: u64, align: u64) {
        let size = u64::from(self.size);
        let align = align.max(1).checked_next_power_of_two().unwrap_or(1 << 63);
        self.desc = base;
        self.driver = base.saturating_add(DESC_SIZE * size);
        let end = self.driver.saturating_add(4 + 2 * size + 2);
        self.device = end.checked_next_multiple_of(align).unwrap_or(u64::MAX - 1);
        self.ready = base != 0;
    }

    fn avail_index(&self, memory: &Memory) -> Result<u16, Fault> {
        let (ram, at) = memory.area(self.driver, 4 + 2 * u64::from(self.size)).ok_or(NO_AVAIL)?;
        Ok(ram.load_u16(at + 2))
    }

    /// Takes the next chain. Fails if the driver broke the ring.
    pub fn pop(&mut self, memory: &Memory, event_idx: bool) -> Result<Option<Chain>, Fault> {
        if !self.ready {
            return Ok(None);
        }
        if let Some(chain) = self.take(memory)? {
            if !event_idx && !self.quiet {
                self.quiet = true;
                self.store_used(memory, 0, USED_NO_NOTIFY)?;
            }
            return Ok(Some(chain));
        }
        // Empty: ask for a notification, then look once more, as the driver may not have seen that.
        if event_idx {
            self.store_used(memory, 4 + 8 * u64::from(self.size), self.next_avail)?;
        } else if self.quiet {
            self.quiet = false;
            self.store_used(memory, 0, 0)?;
        } else {
            return Ok(None);
        }
        fence(Ordering::SeqCst);
        self.take(memory)
    }

    fn take(&mut self, memory: &Memory) -> Result<Option<Chain>, Fault> {
        let waiting = self.avail_index(memory)?.wrapping_sub(self.next_avail);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > self.size {
            return Err(Fault("the available index is further ahead than the queue is long"));
        }
        if self.out >= self.size {
            return Err(Fault("more buffers are in use than the queue has"));
        }
        let slot = u64::from(self.next_avail % self.size);
        let (ram, at) = memory.area(self.driver, 4 + 2 * u64::from(self.size)).ok_or(NO_AVAIL)?;
        let head = ram.load_u16(at + 4 + 2 * slot);
        let chain = self.walk(memory, head)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        self.out += 1;
        Ok(Some(chain))
    }

    fn walk(&self, memory: &Memory, head: u16) -> Result<Chain, Fault> {
        let mut table = self.desc;
        let mut entries = u32::from(self.size);
        let mut descriptor = load(memory, table, entries, head)?;
        if descriptor.flags & DESC_INDIRECT != 0 {
            if descriptor.len == 0 || !u64::from(descriptor.len).is_multiple_of(DESC_SIZE) {
                return Err(Fault("an indirect table has a wrong length"));
            }
            table = descriptor.addr;
            entries = descriptor.len / DESC_SIZE as u32;
            descriptor = load(memory, table, entries, 0)?;
        }
        let limit = (entries as usize).min(SEGMENTS_MAX);
        let mut chain = Chain { head, spans: Vec::with_capacity(4), readable: 0 };
        loop {
            if descriptor.flags & DESC_INDIRECT != 0 {
                return Err(Fault("an indirect descriptor is where none may be"));
            }
            if chain.spans.len() == limit {
                return Err(Fault("a chain of descriptors is too long or a loop"));
            }
            if descriptor.len == 0 {
                return Err(Fault("a descriptor has no length"));
            }
            if descriptor.flags & DESC_WRITE == 0 {
                if chain.readable != chain.spans.len() {
                    return Err(Fault("a readable descriptor follows a writable one"));
                }
                chain.readable += 1;
            }
            chain.spans.push(Span { addr: descriptor.addr, len: descriptor.len });
            if descriptor.flags & DESC_NEXT == 0 {
                return Ok(chain);
            }
            descriptor = load(memory, table, entries, descriptor.next)?;
        }
    }

    /// Gives the last chain back untaken: it will be the next one again.
    pub fn undo(&mut self) {
        assert!(self.out > 0, "nothing was taken");
        self.out -= 1;
        self.next_avail = self.next_avail.wrapping_sub(1);
    }

    /// Stores the flags (offset 0) or the index at which the driver is to notify (behind the entries).
    fn store_used(&self, memory: &Memory, offset: u64, value: u16) -> Result<(), Fault> {
        let (ram, at) = memory.area(self.device, offset.saturating_add(2)).ok_or(NO_USED)?;
        ram.store_u16(at + offset, value);
        Ok(())
    }

    /// Puts a chain into the used ring; the driver sees it after [`Queue::publish`]. `ahead` chains were put before it
    /// since then.
    pub fn put(&mut self, memory: &Memory, head: u16, written: u32, ahead: u16) -> Result<(), Fault> {
        let slot = u64::from(self.next_used.wrapping_add(ahead) % self.size);
        let (ram, at) = memory.area(self.device, 4 + 8 * u64::from(self.size)).ok_or(NO_USED)?;
        ram.store_u32(at + 4 + 8 * slot, head.into());
        ram.store_u32(at + 8 + 8 * slot, written);
        Ok(())
    }

    /// Shows the driver `count` chains that were put.
    pub fn publish(&mut self, memory: &Memory, count: u16) -> Result<(), Fault> {
        self.next_used = self.next_used.wrapping_add(count);
        self.out = self.out.saturating_sub(count);
        let (ram, at) = memory.area(self.device, 4).ok_or(NO_USED)?;
        ram.store_u16(at + 2, self.next_used);
        Ok(())
    }

    /// Whether the driver wants an interrupt for what was published since the last question.
    pub fn wants_interrupt(&mut self, memory: &Memory, event_idx: bool) -> Result<bool, Fault> {
        fence(Ordering::SeqCst);
        let behind = 4 + 2 * u64::from(self.size);
        let (ram, at) = memory.area(self.driver, behind + if event_idx { 2 } else { 0 }).ok_or(NO_AVAIL)?;
        if !event_idx {
            return Ok(ram.load_u16(at) & AVAIL_NO_INTERRUPT == 0);
        }
        let old = self.signalled.replace(self.next_used);
        Ok(old.is_none_or(|old| passed(ram.load_u16(at + behind), self.next_used, old)))
    }
}

/// Whether an index went past `event` on its way from `old` to `new`.
fn passed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

fn load(memory: &Memory, table: u64, entries: u32, index: u16) -> Result<Descriptor, Fault> {
    if u32::from(index) >= entries {
        return Err(Fault("a descriptor number is out of range"));
    }
    let addr = table.checked_add(DESC_SIZE * u64::from(index)).ok_or(NO_TABLE)?;
    let (ram, at) = memory.area(addr, DESC_SIZE).ok_or(NO_TABLE)?;
    Ok(Descriptor {
        addr: ram.load_u64(at),
        len: ram.load_u32(at + 8),
        flags: ram.load_u16(at + 12),
        next: ram.load_u16(at + 14),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::Rings;

    #[test]
    fn chains_come_out_as_they_were_put_in() {
        let mut d = Rings::new(8);
        d.add(&[(0x1000, 16, false), (0x2000, 512, true), (0x3000, 1, true)]);
        let chain = d.queue.pop(&d.memory, false).unwrap().unwrap();
        assert_eq!(chain.readable(), [Span { addr: 0x1000, len: 16 }]);
        assert_eq!(chain.writable(), [Span { addr: 0x2000, len: 512 }, Span { addr: 0x3000, len: 1 }]);
        assert_eq!(d.queue.pop(&d.memory, false), Ok(None));
        d.finish(&chain, 513);
        assert_eq!(d.take_used(), [(chain.head, 513)]);
    }

    #[test]
    fn indirect_tables_are_followed() {
        let mut d = Rings::new(8);
        d.add_indirect(0x8000, &[(0x1000, 16, false), (0x2000, 512, true)]);
        let chain = d.queue.pop(&d.memory, true).unwrap().unwrap();
        assert_eq!((chain.readable().len(), chain.writable().len()), (1, 1));
    }

    #[test]
    fn the_ring_wraps_many_times() {
        let mut d = Rings::new(4);
        for round in 0..70_000u32 {
            d.add(&[(0x1000, 1 + round % 7, false)]);
            let chain = d.queue.pop(&d.memory, true).unwrap().expect("one is there");
            assert_eq!(chain.readable()[0].len, 1 + round % 7);
            d.finish(&chain, 0);
            assert_eq!(d.take_used().len(), 1);
        }
    }

    #[test]
    fn suppression_without_event_indices() {
        let mut d = Rings::new(4);
        assert_eq!(d.used_flags(), 0);
        d.add(&[(0x1000, 1, false)]);
        d.queue.pop(&d.memory, false).unwrap().unwrap();
        assert_eq!(d.used_flags(), 1, "no notifications while the device works");
        assert_eq!(d.queue.pop(&d.memory, false), Ok(None));
        assert_eq!(d.used_flags(), 0);
        assert!(d.queue.wants_interrupt(&d.memory, false).unwrap());
        d.set_avail_flags(1);
        assert!(!d.queue.wants_interrupt(&d.memory, false).unwrap());
    }

    #[test]
    fn suppression_with_event_indices() {
        let mut d = Rings::new(4);
        assert_eq!(d.queue.pop(&d.memory, true), Ok(None));
        assert_eq!(d.avail_event(), 0);
        for _ in 0..2 {
            d.add(&[(0x1000, 1, false)]);
        }
        let a = d.queue.pop(&d.memory, true).unwrap().unwrap();
        let b = d.queue.pop(&d.memory, true).unwrap().unwrap();
        assert_eq!(d.avail_event(), 0, "the driver is asked again only when the ring is empty");
        assert_eq!(d.queue.pop(&d.memory, true), Ok(None));
        assert_eq!(d.avail_event(), 2);
        // The first publication interrupts; later ones only when they pass the driver's index.
        d.finish(&a, 0);
        assert!(d.queue.wants_interrupt(&d.memory, true).unwrap());
        d.set_used_event(7);
        d.finish(&b, 0);
        assert!(!d.queue.wants_interrupt(&d.memory, true).unwrap());
        d.set_used_event(2);
        d.add(&[(0x1000, 1, false)]);
        let c = d.queue.pop(&d.memory, true).unwrap().unwrap();
        d.finish(&c, 0);
        assert!(d.queue.wants_interrupt(&d.memory, true).unwrap());
    }

    #[test]
    fn an_index_is_passed_also_when_it_wraps() {
        for (event, new, old, expected) in
            [(5, 6, 5, true), (5, 5, 4, false), (6, 6, 5, false), (0xffff, 0, 0xffff, true), (3, 2, 0xfffe, false)]
        {
            assert_eq!(passed(event, new, old), expected, "{event} {new} {old}");
        }
    }

    fn check(expected: &'static str, prepare: impl FnOnce(&mut Rings)) {
        let mut d = Rings::new(4);
        prepare(&mut d);
        assert_eq!(d.queue.pop(&d.memory, true), Err(Fault(expected)));
    }

    #[test]
    fn hostile_rings_are_named() {
        check("a chain of descriptors is too long or a loop", |d| d.add_raw(&[(0x1000, 1, 1, 0)]));
        check("a descriptor number is out of range", |d| d.add_raw(&[(0x1000, 1, 1, 4)]));
        check("a descriptor has no length", |d| d.add_raw(&[(0x1000, 0, 0, 0)]));
        check("a readable descriptor follows a writable one", |d| {
            d.add(&[(0x1000, 1, true), (0x1000, 1, false)]);
        });
        check("an indirect table has a wrong length", |d| d.add_raw(&[(0x8000, 15, 4, 0)]));
        check("an indirect table has a wrong length", |d| d.add_raw(&[(0x8000, 0, 4, 0)]));
        check("a descriptor table is not in memory", |d| d.add_raw(&[(u64::MAX - 8, 32, 4, 0)]));
        check("an indirect descriptor is where none may be", |d| {
            d.set_descriptor(0x8000, 0, (0x9000, 16, 4, 0));
            d.add_raw(&[(0x8000, 16, 4, 0)]);
        });
        check("an indirect descriptor is where none may be", |d| d.add_raw(&[(0x1000, 1, 1, 1), (0x8000, 16, 4, 0)]));
        check("the available index is further ahead than the queue is long", |d| d.set_avail_index(5));
        check("the available ring is not in memory", |d| d.queue.driver = 0xffff_ffff_0000);
        check("the used ring is not in memory", |d| d.queue.device = 0xffff_ffff_0000);
        check("a descriptor table is not in memory", |d| {
            d.add(&[(0x1000, 1, false)]);
            d.queue.desc = u64::MAX;
        });
    }

    #[test]
    fn no_more_chains_are_out_than_the_queue_has() {
        let mut d = Rings::new(4);
        for n in 0..4 {
            d.add(&[(0x1000, 1, false)]);
            assert!(d.queue.pop(&d.memory, true).unwrap().is_some(), "{n}");
        }
        d.set_avail_index(8);
        assert_eq!(d.queue.pop(&d.memory, true), Err(Fault("more buffers are in use than the queue has")));
    }

    #[test]
    fn a_legacy_page_is_laid_out() {
        let mut q = Queue::new(256);
        q.place_legacy(0x4000_0000, 4096);
        assert_eq!((q.desc, q.driver, q.device, q.ready), (0x4000_0000, 0x4000_1000, 0x4000_2000, true));
        q.place_legacy(u64::MAX - 5, u64::MAX);
        q.place_legacy(0, 0);
        assert!(!q.ready);
    }
}
