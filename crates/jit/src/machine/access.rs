//! Accesses that translated code cannot do by itself: pages not in its tables, devices, pages with code, page crossings,
//! exclusives and other atomics.
//!
//! Invariants:
//! 1. The `extern "C"` functions are called by translated code only, on the thread that runs the block's owner.
//! 2. They run with the guest's MXCSR; devices get the host's.

use super::debug;
use super::tlb::{self, Entry};
use super::vcpu::{Failed, SystemBlock, Vcpu};
use super::{Cpu, Machine, PAGE_BYTES, PhysicalView, host_page, request};
use cpu::Access;
use cpu::system::Failure;
use fabric::SectionKind;
use ir::interp::pure::low_mask;
use ir::{MemOp, Rmw};
use std::sync::atomic::Ordering;
use x64::env::function;

pub(super) fn table() -> Vec<usize> {
    let mut t = vec![0usize; function::HELPERS];
    t[function::EVAL] = crate::runtime::eval as *const () as usize;
    t[function::LOAD_EXCLUSIVE] = load_exclusive as *const () as usize;
    t[function::STORE_EXCLUSIVE] = store_exclusive as *const () as usize;
    t[function::SLOW_LOAD] = slow_load as *const () as usize;
    t[function::SLOW_STORE] = slow_store as *const () as usize;
    t[function::SLOW_LOAD_EXCLUSIVE] = slow_load_exclusive as *const () as usize;
    t[function::SLOW_STORE_EXCLUSIVE] = slow_store_exclusive as *const () as usize;
    t[function::COMPARE_AND_SWAP] = compare_and_swap as *const () as usize;
    t[function::READ_MODIFY_WRITE] = read_modify_write as *const () as usize;
    t
}

/// One access of the guest.
#[derive(Clone, Copy)]
struct Request {
    op: MemOp,
    regime: u8,
    addr: u64,
}

impl Request {
    fn new(addr: u64, info: u64) -> Request {
        Request { op: MemOp(info as u8), regime: (info >> 8) as u8, addr: addr as u32 as u64 }
    }

    fn misaligned(&self) -> bool {
        self.addr & self.op.align_mask() != 0
    }

    fn failed(&self, access: Access, why: Failure) -> Failed {
        Failed { regime: self.regime, addr: self.addr, access, why }
    }
}

/// What the functions called by translated code work on.
struct Slow<'a> {
    v: &'a mut Vcpu,
    m: &'a Machine,
    cpu: &'a Cpu,
}

impl<'a> Slow<'a> {
    /// # Safety
    /// Invariant 1.
    unsafe fn of(block: *mut SystemBlock) -> Slow<'a> {
        // SAFETY: the owner, its machine and its shared part outlive its run.
        unsafe {
            let v = &mut *(*block).owner;
            let (m, cpu) = (&*v.machine, &*v.cpu);
            Slow { v, m, cpu }
        }
    }

    fn report(&mut self, f: Failed) -> u64 {
        self.v.failed = Some(f);
        self.v.block.block.control.fault.store(1, Ordering::Relaxed);
        0
    }

    /// Does something during which other vCPUs need not wait for this one.
    fn outside<T>(&mut self, f: impl FnOnce(&mut Self) -> T) -> T {
        if let Some(icount) = &self.m.icount {
            icount.settle(self.v, &self.m.clock);
        }
        if self.m.cpus.len() == 1 {
            return f(self);
        }
        self.cpu.inside.store(false, Ordering::SeqCst);
        let r = f(self);
        self.cpu.inside.store(true, Ordering::SeqCst);
        if self.cpu.requests.load(Ordering::SeqCst) & (request::FLUSH | request::PROTECT) != 0 {
            self.v.serve_tables(self.cpu);
        }
        r
    }

    /// The translation of a page for an access.
    fn entry(&mut self, r: &Request, addr: u64, access: Access) -> Result<Entry, Failed> {
        translate(self.v, self.m, r.regime, addr, access).map_err(|why| Failed { regime: r.regime, addr, access, why })
    }

    /// Reads `size` bytes (1 to 8) that lie within one page.
    fn read(&mut self, r: &Request, addr: u64, size: u8) -> Result<u64, Failed> {
        let e = self.entry(r, addr, Access::Read)?;
        let phys = e.phys | addr & (PAGE_BYTES - 1);
        if e.host != 0 {
            self.fill_for_reading(r.regime, addr, &e);
            if let Some((ram, offset)) = self.v.view.ram(phys, size as u64) {
                return Ok(ram.load(offset, size));
            }
        }
        let value = self.outside(|s| with_host_mxcsr(&s.v.block.block.control, || s.m.space.read(phys, size)));
        value.ok_or(Failed { regime: r.regime, addr, access: Access::Read, why: Failure::External { phys } })
    }

    /// Writes `size` bytes (1 to 8) that lie within one page.
    fn write(&mut self, r: &Request, addr: u64, size: u8, value: u64) -> Result<(), Failed> {
        let e = self.entry(r, addr, Access::Write)?;
        let phys = e.phys | addr & (PAGE_BYTES - 1);
        if e.host != 0 && !e.read_only {
            let found = self.v.view.ram(phys, size as u64).map(|(ram, offset)| {
                ram.store(offset, size, value);
                ram.has_code(offset, 1)
            });
            match found {
                Some(true) => {
                    self.outside(|s| s.m.invalidate(phys, size as u64));
                    return Ok(());
                }
                Some(false) => {
                    self.fill_for_writing(r.regime, addr, &e);
                    return Ok(());
                }
                None => {}
            }
        }
        let done = self.outside(|s| with_host_mxcsr(&s.v.block.block.control, || s.m.space.write(phys, size, value)));
        if done {
            if self.cpu.inputs.load(Ordering::SeqCst) != 0 {
                self.m.system().expect_interrupt(self.v.state_mut());
            }
            return Ok(());
        }
        Err(Failed { regime: r.regime, addr, access: Access::Write, why: Failure::External { phys } })
    }

    /// Lets translated code read a page.
    fn fill_for_reading(&mut self, regime: u8, addr: u64, e: &Entry) {
        if !self.m.debug.watches_page(addr) {
            self.v.block.l1.fill(regime, false, addr, e);
        }
    }

    /// Fails if a debugger watches what an access is about.
    fn look(&mut self, r: &Request, reads: bool, writes: bool) -> Result<(), Failed> {
        if self.m.debug.is_watching() {
            self.v.watched = self.m.debug.find(r.addr, r.op.bytes().into(), reads, writes);
            if self.v.watched.is_some() {
                // Why it fails is in `watched`.
                return Err(r.failed(if writes { Access::Write } else { Access::Read }, Failure::Alignment));
            }
        }
        Ok(())
    }

    /// Lets translated code write to a page, unless it holds code (asked again after the entry is visible to `protect`).
    fn fill_for_writing(&mut self, regime: u8, addr: u64, e: &Entry) {
        if self.m.debug.watches_page(addr) {
            return;
        }
        self.v.block.l1.fill(regime, true, addr, e);
        let has_code = self.v.view.ram(e.phys, 1).is_none_or(|(ram, offset)| ram.has_code(offset, 1));
        if has_code {
            self.v.block.l1.protect(e.host);
        }
    }

    /// Any load, also over a page boundary; the value is extended and in the guest's byte order.
    fn load(&mut self, r: &Request, wide: bool) -> Result<u128, Failed> {
        if r.misaligned() {
            return Err(r.failed(Access::Read, Failure::Alignment));
        }
        self.look(r, true, false)?;
        let size = r.op.bytes();
        let mut value: u128 = 0;
        if r.addr & (PAGE_BYTES - 1) <= PAGE_BYTES - size as u64 {
            let mut done = 0;
            while done < size {
                let part = (size - done).min(8);
                value |= (self.read(r, r.addr + done as u64, part)? as u128) << (8 * done);
                done += part;
            }
        } else {
            for k in 0..size {
                let addr = (r.addr + k as u64) as u32 as u64;
                value |= (self.read(r, addr, 1)? as u128) << (8 * k);
            }
        }
        if r.op.is_swapped() {
            value = value.swap_bytes() >> (128 - 8 * size as u32);
        }
        if r.op.is_signed() && size <= 8 {
            let shift = 64 - 8 * size as u32;
            let extended = ((value as u64) << shift) as i64 >> shift;
            return Ok(if wide { extended as u64 as u128 } else { extended as u32 as u128 });
        }
        Ok(value)
    }

    fn store(&mut self, r: &Request, value: u128) -> Result<(), Failed> {
        if r.misaligned() {
            return Err(r.failed(Access::Write, Failure::Alignment));
        }
        self.look(r, false, true)?;
        let size = r.op.bytes();
        let mut value = value & if size == 16 { u128::MAX } else { low_mask(8 * size as u32) as u128 };
        if r.op.is_swapped() {
            value = value.swap_bytes() >> (128 - 8 * size as u32);
        }
        if r.addr & (PAGE_BYTES - 1) <= PAGE_BYTES - size as u64 {
            let mut done = 0;
            while done < size {
                let part = (size - done).min(8);
                self.write(r, r.addr + done as u64, part, (value >> (8 * done)) as u64)?;
                done += part;
            }
            return Ok(());
        }
        // Both pages must be writable before anything is written.
        let second = (r.addr + size as u64 - 1) as u32 as u64 & !(PAGE_BYTES - 1);
        self.entry(r, r.addr, Access::Write)?;
        self.entry(r, second, Access::Write)?;
        for k in 0..size {
            let addr = (r.addr + k as u64) as u32 as u64;
            self.write(r, addr, 1, (value >> (8 * k)) as u64 & 0xff)?;
        }
        Ok(())
    }

    /// Physical address for an atomic access, which must be to memory.
    fn atomic(&mut self, r: &Request, access: Access) -> Result<u64, Failed> {
        let size = r.op.bytes() as u64;
        if r.misaligned() || r.addr & (size - 1) != 0 {
            return Err(r.failed(access, Failure::Alignment));
        }
        let e = self.entry(r, r.addr, access)?;
        let phys = e.phys | r.addr & (PAGE_BYTES - 1);
        if e.host == 0 || access == Access::Write && e.read_only {
            return Err(r.failed(access, Failure::External { phys }));
        }
        Ok(phys)
    }

    /// Replaces memory if it is as expected; gives what it was.
    fn exchange(&mut self, r: &Request, phys: u64, old: u64, new: u64) -> Result<u64, Failed> {
        let size = r.op.bytes();
        let Some((ram, offset)) = self.v.view.ram(phys, size as u64) else {
            return Err(r.failed(Access::Write, Failure::External { phys }));
        };
        let found = ram.compare_exchange(offset, size, old, new);
        if found == old && ram.has_code(offset, 1) {
            self.outside(|s| s.m.invalidate(phys, size as u64));
        }
        Ok(found)
    }

    /// Loads and opens the monitor, which is named by the host address. The version is read first.
    fn load_exclusive(&mut self, r: &Request) -> Result<u64, Failed> {
        let phys = self.atomic(r, Access::Read)?;
        self.look(r, true, false)?;
        let size = r.op.bytes();
        let Some((ram, offset)) = self.v.view.ram(phys, size as u64) else {
            return Err(r.failed(Access::Read, Failure::External { phys }));
        };
        let host = ram.host() as u64 + offset;
        let version = self.m.monitor(host).load(Ordering::Acquire) & !1;
        let value = ram.load(offset, size);
        if let Ok(e) = self.entry(r, r.addr, Access::Read) {
            self.fill_for_reading(r.regime, r.addr, &e);
        }
        self.v.block.block.control.exclusive.open(host, value, version);
        Ok(swapped(r.op, value))
    }

    /// 0 if the store was done, 1 if not.
    fn store_exclusive(&mut self, r: &Request, value: u64) -> Result<u64, Failed> {
        let phys = self.atomic(r, Access::Write)?;
        self.look(r, false, true)?;
        let ex = &mut self.v.block.block.control.exclusive;
        let was_open = std::mem::take(&mut ex.open) != 0;
        let host = self.v.view.ram(phys, 1).map(|(ram, offset)| ram.host() as u64 + offset);
        if !was_open || host != Some(ex.addr) {
            return Ok(1);
        }
        let monitor = self.m.monitor(ex.addr);
        let Some(version) = ex.lock(monitor) else {
            return Ok(1);
        };
        let expected = ex.value;
        let new = swapped(r.op, value & low_mask(8 * r.op.bytes() as u32));
        let found = self.exchange(r, phys, expected, new);
        let done = found.as_ref().is_ok_and(|&f| f == expected);
        monitor.store(version + if done { 2 } else { 0 }, Ordering::Release);
        if let Ok(e) = self.entry(r, r.addr, Access::Write) {
            self.fill_for_writing(r.regime, r.addr, &e);
        }
        found.map(|_| !done as u64)
    }
}

fn swapped(op: MemOp, v: u64) -> u64 {
    if op.is_swapped() { v.swap_bytes() >> (64 - 8 * op.bytes() as u32) } else { v }
}

/// Translates an address for an access: from the second level, or by a walk. Jump cache entries may depend on a page that
/// was asked for to execute it.
pub(super) fn translate(v: &mut Vcpu, m: &Machine, regime: u8, addr: u64, access: Access) -> Result<Entry, Failure> {
    let need = match access {
        Access::Read => tlb::READ,
        Access::Write => tlb::WRITE,
        Access::Execute => tlb::EXECUTE,
    };
    if let Some(e) = v.tlb.find(regime, addr)
        && e.allowed & need != 0
    {
        e.executed |= access == Access::Execute;
        return Ok(*e);
    }
    let state = &v.block.block.state;
    let walked = m.system().walk(state, regime, addr, access, &PhysicalView(&v.view));
    log::trace!(target: "mmu", "{}", debug::describe(regime, addr, access, &walked));
    let mapping = walked.map_err(Failure::Walk)?;
    let (host, read_only) = host_page(&v.view, mapping.phys);
    let (entry, jumps) = v.tlb.insert(regime, addr, &mapping, host, read_only, access == Access::Execute);
    v.forget(jumps);
    Ok(entry)
}

/// Runs a device model with the host's floating-point environment.
fn with_host_mxcsr<T>(control: &crate::vcpu::Control, f: impl FnOnce() -> T) -> T {
    let (mut guest, host) = (0u32, control.host_mxcsr);
    // SAFETY: stores and loads MXCSR; `host` is what the host had.
    unsafe {
        std::arch::asm!("stmxcsr [{}]", "ldmxcsr [{}]", in(reg) &raw mut guest, in(reg) &raw const host, options(nostack));
    }
    let r = f();
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const guest, options(nostack));
    }
    r
}

unsafe extern "C" fn slow_load(block: *mut SystemBlock) {
    // SAFETY: invariant 1.
    let mut s = unsafe { Slow::of(block) };
    let (addr, info) = (s.v.block.asked.addr, s.v.block.asked.info);
    match s.load(&Request::new(addr, info), info >> 16 & 1 != 0) {
        Ok(value) => s.v.block.asked.data = value,
        Err(f) => {
            s.report(f);
        }
    }
}

unsafe extern "C" fn slow_store(block: *mut SystemBlock) {
    // SAFETY: invariant 1.
    let mut s = unsafe { Slow::of(block) };
    let (addr, info, data) = (s.v.block.asked.addr, s.v.block.asked.info, s.v.block.asked.data);
    if let Err(f) = s.store(&Request::new(addr, info), data) {
        s.report(f);
    }
}

unsafe extern "C" fn load_exclusive(block: *mut SystemBlock, addr: u64, info: u64) -> u64 {
    // SAFETY: invariant 1.
    let mut s = unsafe { Slow::of(block) };
    s.load_exclusive(&Request::new(addr, info)).unwrap_or_else(|f| s.report(f))
}

unsafe extern "C" fn store_exclusive(block: *mut SystemBlock, addr: u64, value: u64, info: u64) -> u64 {
    // SAFETY: invariant 1.
    let mut s = unsafe { Slow::of(block) };
    s.store_exclusive(&Request::new(addr, info), value).unwrap_or_else(|f| s.report(f))
}

unsafe extern "C" fn slow_load_exclusive(block: *mut SystemBlock) {
    // SAFETY: invariant 1.
    let mut s = unsafe { Slow::of(block) };
    let (addr, info) = (s.v.block.asked.addr, s.v.block.asked.info);
    let value = s.load_exclusive(&Request::new(addr, info)).unwrap_or_else(|f| s.report(f));
    s.v.block.asked.data = value as u128;
}

unsafe extern "C" fn slow_store_exclusive(block: *mut SystemBlock) {
    // SAFETY: invariant 1.
    let mut s = unsafe { Slow::of(block) };
    let (addr, info, value) = (s.v.block.asked.addr, s.v.block.asked.info, s.v.block.asked.data as u64);
    let status = s.store_exclusive(&Request::new(addr, info), value).unwrap_or_else(|f| s.report(f));
    s.v.block.asked.data = status as u128;
}

unsafe extern "C" fn compare_and_swap(block: *mut SystemBlock, addr: u64, expected: u64, new: u64, info: u64) -> u64 {
    // SAFETY: invariant 1.
    let mut s = unsafe { Slow::of(block) };
    let r = Request::new(addr, info);
    let mask = low_mask(8 * r.op.bytes() as u32);
    let done = s.look(&r, true, true).and_then(|()| s.atomic(&r, Access::Write)).and_then(|phys| {
        let (old, new) = (swapped(r.op, expected & mask), swapped(r.op, new & mask));
        s.exchange(&r, phys, old, new)
    });
    match done {
        Ok(v) => swapped(r.op, v),
        Err(f) => s.report(f),
    }
}

unsafe extern "C" fn read_modify_write(block: *mut SystemBlock, addr: u64, value: u64, info: u64, op: u64) -> u64 {
    // SAFETY: invariant 1.
    let mut s = unsafe { Slow::of(block) };
    let r = Request::new(addr, info);
    let done = s.look(&r, true, true).and_then(|()| s.atomic(&r, Access::Write)).and_then(|phys| loop {
        let found = s.v.view.ram(phys, r.op.bytes() as u64).map(|(ram, offset)| ram.load(offset, r.op.bytes()));
        let Some(old) = found else { return Err(r.failed(Access::Write, Failure::External { phys })) };
        let rmw = Rmw::ALL[op as usize % Rmw::ALL.len()];
        let bits = 8 * r.op.bytes() as u32;
        let new = ir::interp::modify(rmw, swapped(r.op, old) as u128, value as u128, r.op.bytes()) as u64 & low_mask(bits);
        if s.exchange(&r, phys, old, swapped(r.op, new))? == old {
            return Ok(old);
        }
    });
    match done {
        Ok(v) => swapped(r.op, v),
        Err(f) => s.report(f),
    }
}

/// Whether a physical address is memory that code can be executed from.
pub(super) fn executable(v: &Vcpu, phys: u64) -> bool {
    matches!(v.view.find(phys).kind, SectionKind::Ram { .. })
}
