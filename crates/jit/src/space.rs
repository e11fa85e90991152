//! A 32-bit guest's address space inside the process: guest address `a` is host address `base + a`.
//!
//! The host protection of a page is the guest's without execution, and without writing while the page holds code that has
//! been translated (flag `CODE`): the first write to such a page drops its translations.
//!
//! Invariants:
//! 1. `base..base + 4 GiB` and a guard on both sides belong to the reservation; guest addresses are 32 bits, so every access
//!    that starts inside ends inside of reservation and guard.
//! 2. Page flags say what the guest may do; the host mapping never allows more.
//! 3. A page's `CODE` flag and its host write protection change together under `lock`.
//! 4. A page without the flag `USED` has no translations, but for those that are being made at this moment and then see that
//!    `changes` has moved.

use cpu::Code;
use host::guarded;
use host::map::Reservation;
use spec::Result;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use crate::engine::Engine;

pub const PAGE_BYTES: u32 = 4096;
/// Accesses near the ends may run over by this much.
const GUARD_BYTES: usize = 64 * 1024;

/// What the guest may do with a page (bits).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageFlags(pub u8);

impl PageFlags {
    pub const NONE: PageFlags = PageFlags(0);
    pub const READ: PageFlags = PageFlags(1);
    pub const WRITE: PageFlags = PageFlags(2);
    pub const EXEC: PageFlags = PageFlags(4);
    pub const MAPPED: PageFlags = PageFlags(8);
    /// Holds translated code: the host page is write-protected.
    pub const CODE: PageFlags = PageFlags(16);
    /// The front end's owner may keep a note here (for instance "shared mapping").
    pub const USER1: PageFlags = PageFlags(32);
    pub const USER2: PageFlags = PageFlags(64);
    /// Something has been translated from this page since its flags were last set.
    pub(crate) const USED: PageFlags = PageFlags(128);

    pub const fn has(self, other: PageFlags) -> bool {
        self.0 & other.0 == other.0
    }

    pub const fn with(self, other: PageFlags) -> PageFlags {
        PageFlags(self.0 | other.0)
    }

    pub const fn without(self, other: PageFlags) -> PageFlags {
        PageFlags(self.0 & !other.0)
    }

    /// The host protection that goes with these flags.
    pub fn protection(self) -> i32 {
        let mut prot = libc::PROT_NONE;
        if self.has(PageFlags::READ) || self.has(PageFlags::EXEC) {
            prot |= libc::PROT_READ;
        }
        if self.has(PageFlags::WRITE) && !self.has(PageFlags::CODE) {
            prot |= libc::PROT_READ | libc::PROT_WRITE;
        }
        prot
    }
}

pub struct Space {
    reservation: Reservation,
    pages: Box<[AtomicU8]>,
    lock: Mutex<()>,
    /// How often page flags have been set.
    changes: AtomicU64,
    engine: OnceLock<Weak<Engine>>,
}

impl Space {
    /// Reserves the window of a 32-bit guest.
    pub fn new_32bit() -> Result<Arc<Space>> {
        let reservation = Reservation::new((1usize << 32) + 2 * GUARD_BYTES)?;
        Ok(Arc::new(Space { reservation, pages: no_pages(), lock: Mutex::new(()), changes: AtomicU64::new(0), engine: OnceLock::new() }))
    }

    pub(crate) fn attach(&self, engine: Weak<Engine>) {
        let _ = self.engine.set(engine);
    }

    /// Host address of guest address 0.
    pub fn base(&self) -> *mut u8 {
        self.reservation.base().wrapping_add(GUARD_BYTES)
    }

    pub fn host(&self, addr: u32) -> *mut u8 {
        self.base().wrapping_add(addr as usize)
    }

    /// The guest address of a host address inside the window (or its guard, which wraps).
    pub fn guest(&self, host: usize) -> Option<u32> {
        let o = host.wrapping_sub(self.reservation.base() as usize);
        (o < self.reservation.len()).then(|| host.wrapping_sub(self.base() as usize) as u32)
    }

    pub fn page(&self, addr: u32) -> PageFlags {
        PageFlags(self.pages[(addr / PAGE_BYTES) as usize].load(Ordering::Acquire))
    }

    /// Records what the guest may do with `addr..addr + len` (whole pages) after the caller has mapped or protected the
    /// host side accordingly (without execution). Drops translations of the range.
    pub fn set_range(&self, addr: u32, len: u32, flags: PageFlags) {
        let flags = flags.without(PageFlags::CODE).without(PageFlags::USED);
        let mut before = PageFlags::NONE;
        {
            let _guard = self.lock.lock().unwrap();
            self.changes.fetch_add(1, Ordering::AcqRel);
            for page in &self.pages[pages(addr, len)] {
                before = before.with(PageFlags(page.load(Ordering::Relaxed)));
                page.store(flags.0, Ordering::Release);
            }
        }
        if before.has(PageFlags::USED) {
            self.drop_translations(addr, len);
        }
    }

    /// A number that changes whenever page flags are set: to be asked before code is read.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Makes pages that hold translated code writable again and drops the translations. To be called before the kernel
    /// writes to guest memory, and when a guest write has hit such a page. Gives whether there was any such page.
    pub fn prepare_write(&self, addr: u32, len: u32) -> bool {
        let any = pages(addr, len).any(|p| self.pages[p].load(Ordering::Acquire) & PageFlags::CODE.0 != 0);
        if !any {
            return false;
        }
        // Translations go first: whoever translates the page again afterwards protects it again.
        self.drop_translations(addr & !(PAGE_BYTES - 1), len.saturating_add(addr % PAGE_BYTES));
        let _guard = self.lock.lock().unwrap();
        for page in pages(addr, len) {
            let flags = PageFlags(self.pages[page].load(Ordering::Acquire));
            if flags.has(PageFlags::CODE) {
                let flags = flags.without(PageFlags::CODE);
                self.pages[page].store(flags.0, Ordering::Release);
                self.protect_page(page, flags);
            }
        }
        drop(_guard);
        // A translation that began before the page was opened may have finished in between.
        self.drop_translations(addr & !(PAGE_BYTES - 1), len.saturating_add(addr % PAGE_BYTES));
        true
    }

    /// The guest has written code to this range and made it visible.
    pub fn invalidate(&self, addr: u32, len: u32) {
        self.drop_translations(addr, len);
    }

    /// Write-protects a page from which code has been read, and notes that it was, `changes` being what it was before. Gives
    /// whether the page could not be written or replaced meanwhile; if not, the code must be read again.
    pub(crate) fn protect_code(&self, addr: u32, changes: u64) -> bool {
        let page = (addr / PAGE_BYTES) as usize;
        let guarded = |f: PageFlags| f.has(PageFlags::USED) && (f.has(PageFlags::CODE) || !f.has(PageFlags::WRITE));
        if guarded(PageFlags(self.pages[page].load(Ordering::Acquire))) {
            return true;
        }
        let _guard = self.lock.lock().unwrap();
        let before = PageFlags(self.pages[page].load(Ordering::Acquire));
        let open = before.has(PageFlags::WRITE) && !before.has(PageFlags::CODE);
        let mut flags = before.with(PageFlags::USED);
        if open {
            flags = flags.with(PageFlags::CODE);
        }
        self.pages[page].store(flags.0, Ordering::Release);
        if open {
            self.protect_page(page, flags);
        }
        !open && (before.has(PageFlags::USED) || self.changes() == changes)
    }

    fn protect_page(&self, page: usize, flags: PageFlags) {
        let offset = GUARD_BYTES + page * PAGE_BYTES as usize;
        // A page that has just been unmapped by another thread cannot be protected; the guest's access then faults.
        let _ = self.reservation.protect(offset, PAGE_BYTES as usize, flags.protection());
    }

    fn drop_translations(&self, addr: u32, len: u32) {
        if let Some(engine) = self.engine.get().and_then(Weak::upgrade) {
            engine.invalidate(addr as u64, len as u64);
        }
    }

    /// Holds the page flags still while the process forks.
    pub(crate) fn freeze(&self) -> std::sync::MutexGuard<'_, ()> {
        self.lock.lock().unwrap()
    }

    /// Copies guest bytes out; how many there were before one could not be read.
    pub fn read_bytes(&self, addr: u32, buf: &mut [u8]) -> usize {
        let len = buf.len().min((1usize << 32) - addr as usize);
        // SAFETY: guest memory (invariant 1) to a buffer of at least `len` bytes.
        unsafe { guarded::copy(buf.as_mut_ptr(), self.host(addr), len) }
    }
}

/// The flags of all pages, none set. The memory is not touched: most of it never is.
fn no_pages() -> Box<[AtomicU8]> {
    let zeros = vec![0u8; 1 << 20].into_boxed_slice();
    // SAFETY: an atomic byte has the size, alignment and representation of a byte.
    unsafe { Box::from_raw(Box::into_raw(zeros) as *mut [AtomicU8]) }
}

/// Numbers of the pages that a range touches.
fn pages(addr: u32, len: u32) -> std::ops::Range<usize> {
    if len == 0 {
        return 0..0;
    }
    let last = (addr as u64 + len as u64 - 1).min(u32::MAX as u64);
    (addr / PAGE_BYTES) as usize..(last / PAGE_BYTES as u64) as usize + 1
}

impl Code for Space {
    fn read(&self, addr: u64, buf: &mut [u8]) -> usize {
        let mut done = 0;
        while done < buf.len() {
            let at = addr + done as u64;
            let Ok(at) = u32::try_from(at) else { break };
            if !self.page(at).has(PageFlags::EXEC) {
                break;
            }
            let left_in_page = (PAGE_BYTES - at % PAGE_BYTES) as usize;
            let part = left_in_page.min(buf.len() - done);
            let got = self.read_bytes(at, &mut buf[done..done + part]);
            done += got;
            if got < part {
                break;
            }
        }
        done
    }
}
