//! Restartable sequences of guest threads: Linux's `rseq` for a guest.
//!
//! A sequence is code that must begin anew, at its abort address, when the thread has been preempted, moved to another
//! processor or interrupted by a signal before its last store. The guest says which one it is about to enter by storing the
//! address of a descriptor to its thread's `struct rseq`; the kernel looks there only when it interrupts the thread.
//!
//! Translated code cannot ask after every store whether it was such a one. But a descriptor's address is a constant that is
//! stored right before the sequence, so translation finds sequences ([`Engine::discover`]), and system calls look at what
//! the thread's pointer names by then ([`Vcpu::publish_cpu`]). Regions end before a sequence; its code is interpreted, each
//! store being made under the host's own restartable sequences (`host::rseq`), so that it is the host's kernel that says
//! whether the thread was interrupted.
//!
//! Reference: Linux `include/uapi/linux/rseq.h`, `kernel/rseq.c`.
//!
//! Not modelled: a sequence whose descriptor's address is computed far away from it is not protected before the next system
//! call of the thread that was in it. `cpu_id` is brought up to date at the beginning of a sequence and after system calls,
//! not when the host moves the thread in between.

use crate::engine::Engine;
use crate::interp::{Memory, explain, leave};
use crate::space::Space;
use crate::vcpu::{Stop, Vcpu};
use cpu::{Access, Fault, FaultKind};
use host::guarded;
use host::rseq::Area;
use ir::interp::{Bus, Outcome};
use ir::state::KEY;
use ir::{Op, Region, TrapKind, Val};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, RwLock};

/// Offsets in `struct rseq`.
const CPU_ID_START: u32 = 0;
const CPU_ID: u32 = 4;
const RSEQ_CS: u32 = 8;
/// `cpu_id` of a thread that is not registered.
const UNINITIALIZED: u32 = u32::MAX;
/// Longest sequence that is believed, in bytes.
const LONGEST: u64 = 1 << 16;
/// How many steps back a stored value is followed to what it is made of.
const DEPTH: u32 = 4;

/// What the process's threads have registered, and the sequences found so far.
#[derive(Default)]
pub(crate) struct Sequences {
    watched: AtomicBool,
    signature: AtomicU32,
    /// Whether any is known: there is none in most programs.
    any: AtomicBool,
    /// Start and end.
    known: RwLock<BTreeMap<u64, u64>>,
}

impl Sequences {
    /// Whether any thread has registered.
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// The sequence that an address lies in.
    pub fn find(&self, pc: u64) -> Option<(u64, u64)> {
        if !self.any() {
            return None;
        }
        let known = self.known.read().unwrap();
        known.range(..=pc).next_back().map(|(s, e)| (*s, *e)).filter(|(_, end)| pc < *end)
    }

    /// Notes a sequence; whether that is news.
    fn add(&self, d: &Descriptor) -> bool {
        let mut known = self.known.write().unwrap();
        let end = known.entry(d.start).or_insert(0);
        let news = *end < d.end;
        *end = d.end.max(*end);
        self.any.store(true, Ordering::Release);
        news
    }
}

/// `struct rseq_cs`, as far as it is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Descriptor {
    start: u64,
    /// Behind the last store.
    end: u64,
    abort: u64,
}

impl Descriptor {
    /// What lies at `at`, if it is a descriptor whose abort address follows `signature`.
    fn read(space: &Space, at: u32, signature: u32) -> Option<Descriptor> {
        let mut raw = [0; 32];
        if space.read_bytes(at, &mut raw) < raw.len() {
            return None;
        }
        let [version_and_flags, start, length, abort] =
            std::array::from_fn(|i| u64::from_le_bytes(std::array::from_fn(|b| raw[8 * i + b])));
        let d = Descriptor { start, end: start.checked_add(length)?, abort };
        let sound = version_and_flags == 0
            && (1..=LONGEST).contains(&length)
            && !d.contains(abort)
            && d.end.max(abort) <= u32::MAX as u64
            && abort >= 4;
        (sound && word(space, abort as u32 - 4) == Some(signature)).then_some(d)
    }

    fn contains(&self, pc: u64) -> bool {
        (self.start..self.end).contains(&pc)
    }
}

fn word(space: &Space, at: u32) -> Option<u32> {
    at.checked_add(3)?;
    // SAFETY: guest memory (invariant 1 of `interp`), not beyond its end.
    unsafe { guarded::load(space.host(at), 4) }.ok().map(|word| word as u32)
}

/// What a value of a region is, as far as constants and words of memory as it is now tell.
fn value(region: &Region, space: &Space, v: Val, depth: u32) -> Option<u32> {
    let i = region.insts.get(v.index())?;
    let operand = |raw: u32| value(region, space, Val(raw), depth.checked_sub(1)?);
    match i.op {
        Op::Const => region.constant(v).map(|c| c as u32),
        Op::Add => Some(operand(i.a)?.wrapping_add(operand(i.b)?)),
        Op::Ld if i.aux & 7 == ir::MemOp::B4.log2() => word(space, operand(i.a)?.wrapping_add(i.b)),
        _ => None,
    }
}

impl Engine {
    /// Finds the sequences whose descriptors a region stores the address of.
    pub(crate) fn discover(&self, region: &Region) {
        let signature = self.sequences.signature.load(Ordering::Relaxed);
        for i in region.insts.iter().filter(|i| i.op == Op::St && i.aux & 7 == ir::MemOp::B4.log2()) {
            let stored = value(region, &self.space, Val(i.c), DEPTH).filter(|at| *at != 0);
            if let Some(d) = stored.and_then(|at| Descriptor::read(&self.space, at, signature)) {
                self.sequences.add(&d);
            }
        }
    }
}

/// What a thread has registered.
#[derive(Clone, Copy)]
pub(crate) struct Registration {
    /// Address of its `struct rseq`.
    area: u32,
    signature: u32,
    /// The processor that it names now.
    cpu: u32,
    /// The descriptor that its pointer named when it was last looked at.
    seen: u32,
    /// The start of the sequence that the host has been asked to watch.
    begun: Option<u64>,
}

impl Registration {
    /// The descriptor that the thread's pointer names, if any. The fault is what the kernel's look at it would make of it.
    fn descriptor(&self, space: &Space) -> Result<Option<Descriptor>, Fault> {
        let fault = |addr: u32| Fault { addr: addr as u64, access: Access::Read, kind: FaultKind::Denied };
        let at = self.area.wrapping_add(RSEQ_CS);
        match word(space, at) {
            None => Err(fault(at)),
            Some(0) => Ok(None),
            Some(at) => Descriptor::read(space, at, self.signature).map(Some).ok_or(fault(at)),
        }
    }

    /// Nobody is in a sequence any more.
    fn clear(&self, space: &Space) {
        put(space, self.area.wrapping_add(RSEQ_CS), 8, 0);
    }

    fn set_cpu(&mut self, space: &Space, cpu: u32) {
        self.cpu = cpu;
        put(space, self.area.wrapping_add(CPU_ID_START), 4, cpu as u64);
        put(space, self.area.wrapping_add(CPU_ID), 4, cpu as u64);
    }
}

/// Stores, if the guest has memory there.
fn put(space: &Space, at: u32, size: u8, value: u64) {
    space.prepare_write(at, size as u32);
    // SAFETY: guest memory (invariant 1 of `interp`).
    let _ = unsafe { guarded::store(space.host(at), size, value) };
}

impl Vcpu {
    /// The calling thread's `struct rseq` lies at `area` from now on, and `signature` precedes abort addresses. False where
    /// the host has no restartable sequences.
    pub fn register_sequences(&mut self, area: u32, signature: u32) -> bool {
        let Some(host) = Area::of_thread() else { return false };
        let sequences = &self.engine.sequences;
        sequences.signature.store(signature, Ordering::Relaxed);
        // What was translated before did not look for any; it was executed by nobody who is in a sequence.
        sequences.watched.store(true, Ordering::SeqCst);
        let mut registration = Registration { area, signature, cpu: 0, seen: 0, begun: None };
        registration.set_cpu(self.engine.space(), host.cpu());
        self.sequences = Some(registration);
        true
    }

    /// Undoes that.
    pub fn unregister_sequences(&mut self) {
        let Some(registration) = self.sequences.take() else { return };
        registration.clear(self.engine.space());
        put(self.engine.space(), registration.area.wrapping_add(CPU_ID_START), 4, 0);
        put(self.engine.space(), registration.area.wrapping_add(CPU_ID), 4, UNINITIALIZED as u64);
    }

    /// What the thread has registered: the area and the signature.
    pub fn registered_sequences(&self) -> Option<(u32, u32)> {
        self.sequences.map(|r| (r.area, r.signature))
    }

    /// After a system call: the thread's `struct rseq` names the processor that the host has the thread on. A sequence that
    /// the thread has been in, and that nobody had found, is found now.
    #[inline]
    pub fn publish_cpu(&mut self) {
        if self.sequences.is_some() {
            self.publish();
        }
    }

    fn publish(&mut self) {
        let Some((registration, host)) = self.sequences.as_mut().zip(Area::of_thread()) else { return };
        let space = self.engine.space();
        if host.cpu() != registration.cpu {
            registration.set_cpu(space, host.cpu());
        }
        let named = word(space, registration.area.wrapping_add(RSEQ_CS)).unwrap_or(0);
        if named != registration.seen {
            registration.seen = named;
            if let Ok(Some(d)) = registration.descriptor(space)
                && self.engine.sequences.add(&d)
            {
                self.engine.invalidate(d.start, d.end - d.start);
            }
        }
    }

    /// Before a signal's handler: a sequence that the thread is in continues at its abort address. The fault is for a
    /// descriptor that is none.
    pub fn interrupt_sequence(&mut self) -> Result<(), Fault> {
        let Some(registration) = self.sequences else { return Ok(()) };
        let descriptor = registration.descriptor(self.engine.space())?;
        let pc = self.engine.guest().pc(self.block.state.u64_at(KEY));
        match descriptor {
            Some(d) if d.contains(pc) => self.abort(&d),
            Some(_) => registration.clear(self.engine.space()),
            None => {}
        }
        Ok(())
    }

    fn abort(&mut self, d: &Descriptor) {
        if let Some(registration) = &mut self.sequences {
            registration.begun = None;
            registration.clear(self.engine.space());
        }
        let guest = self.engine.guest();
        let key = self.block.state.u64_at(KEY);
        let key = guest.key_at(key, d.abort.wrapping_sub(guest.pc(key)) as i32, 0);
        self.block.state.set_u64(KEY, key);
    }
}

/// Guest memory for code of a sequence.
struct Restartable<'a> {
    plain: Memory<'a>,
    /// The host's area while the sequence is the thread's.
    area: Option<Area>,
}

/// What makes the interpreter stop after an interruption; nobody looks at it.
fn interrupted<T>(addr: u64) -> Result<T, Fault> {
    Err(Fault { addr, access: Access::Write, kind: FaultKind::Denied })
}

impl Restartable<'_> {
    fn check(&self, addr: u64) -> Result<(), Fault> {
        if self.area.is_some_and(Area::is_interrupted) { interrupted(addr) } else { Ok(()) }
    }
}

impl Bus for Restartable<'_> {
    fn load(&mut self, addr: u64, size: u8) -> Result<u128, Fault> {
        self.plain.load(addr, size)
    }

    fn store(&mut self, addr: u64, size: u8, value: u128) -> Result<(), Fault> {
        let Some(area) = self.area else { return self.plain.store(addr, size, value) };
        if size == 16 {
            self.store(addr, 8, value)?;
            return self.store(addr.wrapping_add(8), 8, value >> 64);
        }
        let space = &self.plain.engine.space;
        // SAFETY: guest memory (invariant 1 of `interp`).
        match unsafe { area.store(space.host(addr as u32), size, value as u64) } {
            Ok(true) => Ok(()),
            Ok(false) => interrupted(addr),
            Err(guarded::Failed) => match explain(space, addr as u32, size, Access::Write) {
                // The signal has interrupted the thread; next time the page is open. So it is if another thread has opened it
                // between the access and the look at it.
                None => interrupted(addr),
                Some(Fault { kind: FaultKind::Bus, .. }) if self.plain.load(addr, size).is_ok() => interrupted(addr),
                Some(fault) => Err(fault),
            },
        }
    }

    fn compare_exchange(&mut self, addr: u64, size: u8, expected: u128, new: u128) -> Result<u128, Fault> {
        self.check(addr)?;
        self.plain.compare_exchange(addr, size, expected, new)
    }

    fn load_exclusive(&mut self, addr: u64, size: u8) -> Result<u128, Fault> {
        self.plain.load_exclusive(addr, size)
    }

    fn store_exclusive(&mut self, addr: u64, size: u8, value: u128) -> Result<bool, Fault> {
        self.check(addr)?;
        self.plain.store_exclusive(addr, size, value)
    }

    fn clear_exclusive(&mut self) {
        self.plain.clear_exclusive();
    }
}

/// Executes code of a sequence until the thread leaves it.
pub(crate) fn run(vcpu: &mut Vcpu) -> Option<Stop> {
    let engine = vcpu.engine.clone();
    // Floating-point flags may be in the registers of translated code.
    vcpu.fp_flags();
    loop {
        let key = vcpu.block.state.u64_at(KEY);
        let pc = engine.guest().pc(key);
        let Some(bounds) = engine.sequences.find(pc) else { return None };
        if vcpu.block.control.exit_req.load(Ordering::Relaxed) != 0 {
            return None;
        }
        if engine.breakpoints.has(pc) {
            return Some(Stop::Trap { kind: TrapKind::Step, arg: crate::breakpoint::BREAKPOINT });
        }
        let active = match active(vcpu, pc) {
            Ok(active) => active,
            Err(fault) => return Some(Stop::Fault(fault)),
        };
        let area = active.and_then(|_| Area::of_thread());
        let region = match active {
            Some(d) if (d.start, d.end) != bounds => engine.translate_within(key, (d.start, d.end)),
            _ => region(vcpu, key, bounds),
        };
        let block = &mut **vcpu.block;
        let plain = Memory { engine: &engine, exclusive: &mut block.control.exclusive };
        let mut memory = Restartable { plain, area };
        let bits = engine.guest.layout().address_bits;
        let outcome = ir::interp::run(&region, bits, &mut block.state, &mut memory, engine.guest.helpers());
        // Where the last store has been made, an interruption comes too late. Everything else may have seen what others did
        // after it: faults and ways out of the sequence as well.
        if let Some(d) = active
            && area.is_some_and(Area::is_interrupted)
            && !matches!(outcome, Outcome::Goto(key) if engine.guest().pc(key) == d.end)
        {
            vcpu.abort(&d);
            return None;
        }
        if let Some(stop) = leave(vcpu, &engine, &region, outcome) {
            return Some(stop);
        }
    }
}

/// The regions of sequences that a thread has executed last.
#[derive(Default)]
pub(crate) struct Recent {
    /// `Engine::interpreted_drops` when they were made.
    drops: u64,
    regions: Vec<(u64, Arc<Region>)>,
}

/// How many.
const RECENT: usize = 8;

fn region(vcpu: &mut Vcpu, key: u64, bounds: (u64, u64)) -> Arc<Region> {
    let recent = &mut vcpu.recent;
    let drops = vcpu.engine.interpreted_drops.load(Ordering::SeqCst);
    if recent.drops != drops || recent.regions.len() >= RECENT {
        recent.regions.clear();
        recent.drops = drops;
    }
    if let Some((_, region)) = recent.regions.iter().find(|(k, _)| *k == key) {
        return region.clone();
    }
    let region = vcpu.engine.region_within(key, bounds);
    recent.regions.push((key, region.clone()));
    region
}

/// The sequence that `pc` lies in, if the thread's pointer names it. Where the thread enters it, the host is asked to watch,
/// and told which processor the thread is on.
fn active(vcpu: &mut Vcpu, pc: u64) -> Result<Option<Descriptor>, Fault> {
    let Some((registration, host)) = vcpu.sequences.as_mut().zip(Area::of_thread()) else { return Ok(None) };
    let space = vcpu.engine.space();
    let Some(d) = registration.descriptor(space)?.filter(|d| d.contains(pc)) else { return Ok(None) };
    if pc == d.start || registration.begun != Some(d.start) {
        registration.begun = Some(d.start);
        host.begin();
        registration.set_cpu(space, host.cpu());
    }
    Ok(Some(d))
}
