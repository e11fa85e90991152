//! Guest memory as a virtio device reaches it.
//!
//! Invariants: only RAM is touched, never a device; writes that hit translated code are reported to the address space.

use std::sync::Arc;

use fabric::space::SectionKind;
use fabric::{AddressSpace, Ram, View};

/// A range of guest-physical addresses that a driver named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    pub addr: u64,
    pub len: u32,
}

/// The address space with the view that was current at the last [`Memory::refresh`].
#[derive(Clone)]
pub struct Memory {
    space: Arc<AddressSpace>,
    view: Arc<View>,
}

impl Memory {
    pub fn new(space: Arc<AddressSpace>) -> Memory {
        let view = space.view();
        Memory { space, view }
    }

    /// Takes over changes of the address space; before each piece of work.
    pub fn refresh(&mut self) {
        if self.view.generation != self.space.generation() {
            self.view = self.space.view();
        }
    }

    /// All memory that a device may write: guest address, length, memory, offset in it.
    pub fn regions(&self) -> impl Iterator<Item = (u64, u64, &Arc<Ram>, u64)> {
        self.view.sections().iter().filter_map(|section| match &section.kind {
            SectionKind::Ram { ram, offset, writable: true, .. } => Some((section.start, section.len, ram, *offset)),
            _ => None,
        })
    }

    /// The memory behind a range that lies in one piece of writable RAM.
    pub fn area(&self, addr: u64, len: u64) -> Option<(&Arc<Ram>, u64)> {
        let section = self.view.find(addr);
        match &section.kind {
            SectionKind::Ram { ram, offset, writable: true, .. } if addr < section.end() && len <= section.end() - addr => {
                Some((ram, offset + (addr - section.start)))
            }
            _ => None,
        }
    }

    /// Copies out of memory; false if not all of the range is memory.
    #[must_use]
    pub fn read(&self, addr: u64, to: &mut [u8]) -> bool {
        let mut done = 0;
        self.pieces(addr, to.len() as u64, false, |ram, offset, _, len| {
            ram.read(offset, &mut to[done..done + len as usize]);
            done += len as usize;
        })
    }

    /// Copies into memory; false if not all of the range is memory that can be written.
    #[must_use]
    pub fn write(&self, addr: u64, from: &[u8]) -> bool {
        let mut done = 0;
        self.pieces(addr, from.len() as u64, true, |ram, offset, at, len| {
            ram.write(offset, &from[done..done + len as usize]);
            self.space.written(ram, offset, at, len);
            done += len as usize;
        })
    }

    /// Whether all of a range is memory.
    pub fn contains(&self, addr: u64, len: u64, write: bool) -> bool {
        self.pieces(addr, len, write, |_, _, _, _| {})
    }

    fn pieces(&self, addr: u64, len: u64, write: bool, mut each: impl FnMut(&Ram, u64, u64, u64)) -> bool {
        let mut done = 0;
        while done < len {
            let Some(at) = addr.checked_add(done) else { return false };
            let section = self.view.find(at);
            let SectionKind::Ram { ram, offset, writable, .. } = &section.kind else { return false };
            if at >= section.end() || write && !writable {
                return false;
            }
            let part = (section.end() - at).min(len - done);
            each(ram, offset + (at - section.start), at, part);
            done += part;
        }
        true
    }
}
