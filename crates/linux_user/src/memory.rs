//! The guest's address space: what is mapped where, and access to it from system calls.
//!
//! | module | what |
//! |---|---|
//! | `map` | the record of mappings |
//! | `change` | mmap, munmap, mprotect, mremap |
//! | `fork` | what a forked child does not get |
//! | `heap` | brk, System V shared memory |
//! | `lock` | mlockall |
//! | `access` | reading and writing on behalf of system calls |
//! | `room` | how many mappings there may be |
//! | `pod` | the guest's structures |
//!
//! Invariants:
//! 1. Host memory inside the window changes its mapping only in this module, under the `map` lock; guest pages are never
//!    executable on the host.
//! 2. Guest memory is read and written by `host::guarded` or by the kernel, never through references: another guest thread
//!    may change or unmap it at any time.

mod access;
mod change;
mod fork;
mod heap;
mod lock;
mod map;
mod pod;
mod room;

use crate::errno::Errno;
use jit::{PageFlags, Space};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard};

pub use self::map::Area;
pub use self::pod::Pod;
pub(crate) use self::pod::abi_struct;

use self::map::Map;

pub const PAGE: u32 = 4096;
/// No mapping begins below (vm.mmap_min_addr's usual value).
pub const LOWEST: u32 = 0x1_0000;
/// Mappings that the guest does not place itself lie below the stack, which lies below this.
pub const STACK_TOP: u32 = 0xefff_f000;
/// The kernel helper page.
pub const HELPER_PAGE: u32 = 0xffff_0000;
/// End of the addresses that a program can map.
pub const TASK_SIZE: u64 = 0xffff_0000;
/// Longest path, with its NUL.
pub const PATH_MAX: usize = 4096;

/// A page whose mapping is MAP_SHARED.
pub const SHARED: PageFlags = PageFlags::USER1;
/// A page of a private anonymous mapping.
const ANONYMOUS: PageFlags = PageFlags::USER2;

pub struct Memory {
    pub space: Arc<Space>,
    map: Mutex<Map>,
    /// What the guest has registered for with `membarrier`: the MEMBARRIER_CMD_REGISTER_* bits. The host's registrations are the
    /// emulator's as well.
    pub barriers: AtomicU32,
}

pub fn page_down(addr: u32) -> u32 {
    addr & !(PAGE - 1)
}

pub fn page_up(addr: u64) -> u64 {
    (addr + PAGE as u64 - 1) & !(PAGE as u64 - 1)
}

/// The map does not change as long as this lives.
pub struct Frozen<'a>(MutexGuard<'a, Map>);

impl Frozen<'_> {
    /// Ranges that a forked child may not have.
    pub fn left_behind(&self) -> &[(u64, u64)] {
        &self.0.left_behind
    }
}

impl Memory {
    pub fn new(space: Arc<Space>) -> Arc<Memory> {
        let map = Mutex::new(Map { top: STACK_TOP, ..Map::default() });
        Arc::new(Memory { space, map, barriers: AtomicU32::new(0) })
    }

    fn lock(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap()
    }

    /// Holds off all changes of the map, for a fork.
    pub fn freeze(&self) -> Frozen<'_> {
        Frozen(self.lock())
    }

    pub fn set_top(&self, top: u32) {
        self.lock().top = top;
    }

    /// Sets RLIMIT_AS, RLIMIT_DATA or RLIMIT_STACK.
    pub fn set_limit(&self, resource: u32, (soft, hard): (u64, u64)) {
        let limits = &mut self.lock().limits;
        let finite = |bytes: u64| (bytes != libc::RLIM_INFINITY).then_some(bytes);
        match resource {
            libc::RLIMIT_AS => limits.space = finite(soft),
            // The kernel excuses no data at all (valgrind wants that) up to the hard limit.
            libc::RLIMIT_DATA => limits.data = finite(if soft == 0 { hard } else { soft }),
            libc::RLIMIT_STACK => limits.stack = soft,
            _ => {}
        }
    }

    pub fn set_read_implies_exec(&self, on: bool) {
        self.lock().read_implies_exec = on;
    }

    pub fn host(&self, addr: u32) -> *mut u8 {
        self.space.host(addr)
    }

    /// All mappings, lowest first.
    pub fn areas(&self) -> Vec<(u32, Area)> {
        self.lock().areas.iter().map(|(s, a)| (*s, *a)).collect()
    }

    /// Whether all of `start..end` is mapped, and shared.
    pub fn is_shared(&self, start: u32, end: u64) -> bool {
        let map = self.lock();
        map.is_mapped(start, end) && map.mapped(start, end).iter().all(|(_, a)| a.flags.has(SHARED))
    }

    /// ENOMEM if the host has no room for a mapping that is cut.
    pub fn make_room(&self) -> Result<(), Errno> {
        self.lock().room.take()
    }

    /// Whether all of a range is mapped (msync, mincore and madvise say ENOMEM otherwise).
    pub fn is_mapped(&self, addr: u32, len: u64) -> bool {
        self.lock().is_mapped(addr, page_up(addr as u64 + len))
    }
}
