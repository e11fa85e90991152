//! The life of a vCPU's thread.
//!
//! Invariants:
//! 1. Code of a cache is entered only while `vcpu.cache` keeps that cache alive, with the block's own address in rdi.
//! 2. The state's page place holds the page of the key whenever translated code is entered.

use super::access::{executable, translate};
use super::vcpu::{Failed, SystemBlock, Vcpu};
use super::debug::{self, Action};
use super::icount;
use super::translate::Here;
use super::{Cpu, Machine, PAGE_BYTES, VcpuGuard, request};
use crate::breakpoint::BREAKPOINT;
use crate::cache::{NO_NEXT, Name, Origin};
use cpu::Access;
use cpu::system::{After, Failure};
use ir::TrapKind;
use ir::state::KEY;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use x64::env::reason;

type Enter = unsafe extern "C" fn(*mut SystemBlock, u64) -> u64;

/// Why a vCPU stopped executing.
pub(super) enum Idle {
    /// Somebody asked for something.
    Asked,
    /// Waits for an interrupt, or (`true`) also for an event.
    Sleep(bool),
}

/// A vCPU's thread, until the machine ends.
pub(super) fn thread(m: &Machine, cpu: &Arc<Cpu>) {
    fabric::requester::set_cpu(cpu.index);
    let mut guard = Some(cpu.vcpu.lock().unwrap());
    loop {
        if m.quit.load(Ordering::SeqCst) {
            return;
        }
        cpu.requests.fetch_and(!request::LOOK, Ordering::SeqCst);
        let Some(start) = due(m, cpu) else {
            // The state belongs to others while the vCPU does not run.
            drop(guard.take());
            cpu.parking.park(None, || {
                let off = !cpu.on.load(Ordering::SeqCst) && cpu.start.lock().unwrap().is_none();
                !m.quit.load(Ordering::SeqCst) && (is_held(m, cpu) || off)
            });
            guard = Some(cpu.vcpu.lock().unwrap());
            continue;
        };
        let v: &mut VcpuGuard<'_> = guard.get_or_insert_with(|| cpu.vcpu.lock().unwrap());
        if let Idle::Sleep(event) = go(v, m, cpu, start) {
            sleep(v, m, cpu, event);
        }
    }
}

/// Entry and context of a power-on.
type Start = Option<(u64, u64)>;

/// Whether a vCPU is to execute, and the power-on to carry out first.
pub(super) fn due(m: &Machine, cpu: &Cpu) -> Option<Start> {
    if is_held(m, cpu) {
        return None;
    }
    let start = cpu.start.lock().unwrap().take();
    (start.is_some() || cpu.on.load(Ordering::SeqCst)).then_some(start)
}

/// Executes as the debugger wants it, or freely.
pub(super) fn go(v: &mut Vcpu, m: &Machine, cpu: &Arc<Cpu>, start: Start) -> Idle {
    if let Some((entry, context)) = start {
        v.reset(m, cpu);
        m.system().start(v.state_mut(), entry, context);
        cpu.on.store(true, Ordering::SeqCst);
    }
    v.machine = m;
    v.cpu = Arc::as_ptr(cpu);
    cpu.waiting.store(false, Ordering::SeqCst);
    let action = *cpu.action.lock().unwrap();
    let idle = match action {
        Action::Step { start, end, interrupts } => debug::step(v, m, cpu, (start, end), interrupts),
        Action::Run | Action::Stay => run(v, m, cpu),
    };
    cpu.waiting.store(matches!(idle, Idle::Sleep(_)), Ordering::SeqCst);
    idle
}

/// Whether a vCPU must not execute now.
fn is_held(m: &Machine, cpu: &Cpu) -> bool {
    m.paused.load(Ordering::SeqCst) || *cpu.action.lock().unwrap() == Action::Stay
}

fn sleep(v: &mut Vcpu, m: &Machine, cpu: &Arc<Cpu>, event: bool) {
    let state = &v.block.block.state;
    cpu.parking.park(None, || {
        let woken = m.system().wakes(state, cpu.inputs.load(Ordering::SeqCst))
            || event && cpu.event.swap(false, Ordering::SeqCst);
        !woken && cpu.requests.load(Ordering::SeqCst) & !(request::FLUSH | request::PROTECT) == 0
    });
}

/// Executes the guest until something else is to be done.
fn run(v: &mut Vcpu, m: &Machine, cpu: &Arc<Cpu>) -> Idle {
    v.follow_spaces(m);
    v.block.block.control.exit_req.store(1, Ordering::SeqCst);
    loop {
        if v.block.block.control.exit_req.load(Ordering::Relaxed) != 0 && look(v, m, cpu, true) {
            return Idle::Asked;
        }
        let key = v.block.block.state.u64_at(KEY);
        let Some(code) = code_of(v, m, cpu, key) else { continue };
        set_page(v, m, key);
        if let Some(why) = execute(v, m, cpu, code)
            && let Some(idle) = left(v, m, cpu, why)
        {
            return idle;
        }
    }
}

/// Serves requests and takes interrupts, if wanted. Whether the vCPU is to stop executing.
pub(super) fn look(v: &mut Vcpu, m: &Machine, cpu: &Arc<Cpu>, interrupts: bool) -> bool {
    v.block.block.control.exit_req.store(0, Ordering::SeqCst);
    let asked = cpu.requests.load(Ordering::SeqCst);
    if asked != 0 {
        v.serve(m, cpu);
        if asked & request::LOOK != 0 {
            return true;
        }
    }
    if m.cpus.len() > 1 && m.one_thread() && cpu.parking.is_kicked() {
        return true;
    }
    if interrupts && cpu.inputs.load(Ordering::SeqCst) != 0 {
        let (state, mut env) = v.split(m, cpu);
        if m.system().interrupt(state, &mut env) {
            v.block.block.control.exclusive.open = 0;
            v.follow_spaces(m);
        }
    }
    false
}

impl Vcpu {
    /// Serves all requests but LOOK.
    pub(super) fn serve(&mut self, m: &Machine, cpu: &Cpu) {
        let asked = cpu.requests.load(Ordering::SeqCst);
        let mine = request::FORGET | request::NEW_CACHE | request::VIEW;
        cpu.requests.fetch_and(!(asked & mine), Ordering::SeqCst);
        self.serve_tables(cpu);
        if asked & request::VIEW != 0 {
            self.view = m.space.view();
            self.tlb.flush_everything(&mut self.block.l1);
            self.forget_jumps();
        }
        if asked & (request::FORGET | request::NEW_CACHE) != 0 {
            self.cache = m.current_cache();
            self.forget_translations();
        }
    }
}

/// The virtual key of a key that is relative to the page of `key`.
pub(super) fn absolute(m: &Machine, relative: u64, page: u64) -> u64 {
    debug_assert_eq!(m.guest.layout().address_bits, 32);
    relative & !0xffff_ffff | (relative as u32).wrapping_add(page as u32) as u64
}

pub(super) fn set_page(v: &mut Vcpu, m: &Machine, key: u64) {
    let page = m.guest.layout().page.expect("a machine's guest has a place for the page");
    let at = m.guest.pc(key) & !(PAGE_BYTES - 1);
    v.block.block.state.write(page.offset, page.size, at as u128);
}

fn page_of(v: &Vcpu, m: &Machine) -> u64 {
    let page = m.guest.layout().page.expect("a machine's guest has a place for the page");
    v.block.block.state.read(page.offset, page.size) as u64
}

/// Where the code of a key is; `None` if fetching it raised an exception or the cache had to be changed.
fn code_of(v: &mut Vcpu, m: &Machine, cpu: &Arc<Cpu>, key: u64) -> Option<u64> {
    if let Some(code) = v.jump(key) {
        return Some(code);
    }
    let (name, global) = name_of(v, m, cpu, key)?;
    if let Some(code) = v.known(name) {
        v.set_jump(key, code, global);
        return Some(code);
    }
    match v.cache.code(&Here { m, page: m.guest.pc(key) & !(PAGE_BYTES - 1) }, name) {
        Ok(code) => {
            v.know(name, code);
            // The page that holds the new code may still be open to this vCPU's writes.
            if cpu.requests.load(Ordering::SeqCst) & request::PROTECT != 0 {
                v.serve_tables(cpu);
            }
            if !m.nochain.load(Ordering::Relaxed) {
                v.set_jump(key, code, global);
            }
            Some(code)
        }
        Err(_) => {
            let full = v.cache.clone();
            m.start_new_cache(&full);
            v.serve(m, cpu);
            None
        }
    }
}

/// The name of the region at a key, by translating its address, and whether that is the same in every address space.
pub(super) fn name_of(v: &mut Vcpu, m: &Machine, cpu: &Arc<Cpu>, key: u64) -> Option<(Name, bool)> {
    let pc = m.guest.pc(key);
    let regime = m.system().regime(key);
    let (page, mut global) = fetch_page(v, m, cpu, regime, pc)?;
    let mut next = NO_NEXT;
    if (pc & (PAGE_BYTES - 1)) + m.guest.longest_instruction() as u64 > PAGE_BYTES {
        let after = (pc & !(PAGE_BYTES - 1)).wrapping_add(PAGE_BYTES) as u32 as u64;
        // Whether it is needed only the translation knows.
        if let Ok(e) = translate(v, m, regime, after, Access::Execute) {
            next = e.phys;
            global &= e.is_global();
        }
    }
    let relative = absolute(m, key, (pc & !(PAGE_BYTES - 1)).wrapping_neg());
    Some((Name { key: relative, page: page | m.debug.variant(pc), next }, global))
}

/// The physical page of an instruction; takes the exception if there is none.
fn fetch_page(v: &mut Vcpu, m: &Machine, cpu: &Arc<Cpu>, regime: u8, pc: u64) -> Option<(u64, bool)> {
    let why = match translate(v, m, regime, pc, Access::Execute) {
        Ok(e) if e.host != 0 || executable(v, e.phys) => return Some((e.phys, e.is_global())),
        Ok(e) => Failure::External { phys: e.phys | pc & (PAGE_BYTES - 1) },
        Err(why) => why,
    };
    fail(v, m, cpu, Failed { regime, addr: pc, access: Access::Execute, why });
    None
}

fn fail(v: &mut Vcpu, m: &Machine, cpu: &Arc<Cpu>, f: Failed) {
    v.block.block.control.exclusive.open = 0;
    let (state, mut env) = v.split(m, cpu);
    m.system().fail(state, &mut env, f.regime, f.addr, f.access, f.why);
    v.follow_spaces(m);
}

/// Enters translated code and follows exits that are not linked yet. Gives the reason for which it was left otherwise;
/// `None` to look at everything again.
fn execute(v: &mut Vcpu, m: &Machine, cpu: &Arc<Cpu>, mut code: u64) -> Option<u64> {
    loop {
        m.observe(v, code);
        let why = enter(v, m, cpu, code)?;
        if why & 0xff != reason::LINK {
            return Some(why);
        }
        let site = (why >> 32) as u32;
        let page = page_of(v, m);
        match v.cache.follow(&Here { m, page }, site) {
            Ok((key, next)) => {
                v.block.block.state.set_u64(KEY, absolute(m, key, page));
                if m.cpus.len() > 1 || v.block.block.control.exit_req.load(Ordering::Relaxed) != 0 {
                    return None;
                }
                code = next;
            }
            Err(_) => {
                set_key_of_site(v, m, site);
                let full = v.cache.clone();
                m.start_new_cache(&full);
                return None;
            }
        }
    }
}

/// The state's key is where an exit leads to.
pub(super) fn set_key_of_site(v: &mut Vcpu, m: &Machine, site: u32) {
    let key = v.cache.site_key(site);
    let page = page_of(v, m);
    v.block.block.state.set_u64(KEY, absolute(m, key, page));
}

/// Enters translated code; the reason for which it was left. `None`, not having done so, if others wanted something first.
pub(super) fn enter(v: &mut Vcpu, m: &Machine, cpu: &Cpu, code: u64) -> Option<u64> {
    let alone = m.cpus.len() == 1;
    if !alone {
        cpu.inside.store(true, Ordering::SeqCst);
        if cpu.requests.load(Ordering::SeqCst) & (request::FLUSH | request::PROTECT) != 0 {
            cpu.inside.store(false, Ordering::SeqCst);
            v.serve_tables(cpu);
            return None;
        }
    }
    if let Some(icount) = &m.icount {
        icount.grant(v, &m.clock);
    }
    let block = &raw mut *v.block;
    // SAFETY: invariants 1 and 2; the address is that of the cache's own entry stub.
    let why = unsafe {
        let f: Enter = std::mem::transmute(v.cache.enter());
        f(block, code)
    };
    if !alone {
        cpu.inside.store(false, Ordering::SeqCst);
    }
    if let Some(icount) = &m.icount {
        if why & 0xff == reason::FAULT {
            let origin = origin_of_fault(v, (why >> 32) as u32);
            icount.give_back(v, origin.delta, m.guest.code_unit(origin.key));
        }
        icount.settle(v, &m.clock);
    }
    Some(why)
}

/// The instruction of a fault that a runtime function has reported.
fn origin_of_fault(v: &Vcpu, record: u32) -> Origin {
    let rip = v.block.block.control.host_fault.rip as usize;
    let offset = v.cache.memory.offset_of(rip).expect("a fault in translated code lies in its cache");
    v.cache.origin_of_record(offset, record).expect("every access has a fault record")
}

/// Deals with the reason for which translated code was left.
pub(super) fn left(v: &mut Vcpu, m: &Machine, cpu: &Arc<Cpu>, why: u64) -> Option<Idle> {
    let high = (why >> 32) as u32;
    match why & 0xff {
        reason::INDIRECT => None,
        reason::TRAP => trap(v, m, cpu, TrapKind::from_u8((why >> 8) as u8), high),
        reason::KICK => {
            set_key_of_site(v, m, high);
            None
        }
        reason::FAULT => {
            v.block.block.control.fault.store(0, Ordering::Relaxed);
            let failed = v.failed.take().expect("a reported fault has been described");
            let origin = origin_of_fault(v, high);
            let key = m.guest.key_at(origin.key, origin.delta, origin.note);
            let page = page_of(v, m);
            v.block.block.state.set_u64(KEY, absolute(m, key, page));
            if let Some(hit) = v.watched.take() {
                return Some(debug::report(m, cpu, debug::Stop::Watch(hit)));
            }
            fail(v, m, cpu, failed);
            None
        }
        other => panic!("translated code of a machine left for the unknown reason {other:#x}"),
    }
}

fn trap(v: &mut Vcpu, m: &Machine, cpu: &Arc<Cpu>, kind: TrapKind, arg: u32) -> Option<Idle> {
    if kind == TrapKind::FetchFault {
        fetch_fault(v, m, cpu);
        return None;
    }
    if kind == TrapKind::Step && arg == BREAKPOINT {
        let addr = m.guest.pc(v.block.block.state.u64_at(KEY));
        return Some(debug::report(m, cpu, debug::Stop::Breakpoint { addr }));
    }
    if kind == TrapKind::Step && arg == icount::COUNT {
        return count_ended(v, m, cpu);
    }
    let (state, mut env) = v.split(m, cpu);
    let after = m.system().trap(state, &mut env, kind, arg);
    v.follow_spaces(m);
    if cpu.inputs.load(Ordering::SeqCst) != 0 {
        // What was masked may be open now.
        v.block.block.control.exit_req.store(1, Ordering::SeqCst);
    }
    match after {
        After::Run => None,
        After::Sleep => Some(Idle::Sleep(false)),
        After::SleepForEvent => {
            if cpu.event.swap(false, Ordering::SeqCst) {
                return None;
            }
            Some(Idle::Sleep(true))
        }
        After::Yield => {
            if m.cpus.len() > 1 && m.one_thread() {
                return Some(Idle::Asked);
            }
            if m.cpus.len() > 1 {
                std::thread::yield_now();
            }
            None
        }
    }
}

/// There are fewer instructions until something happens than the region has.
fn count_ended(v: &mut Vcpu, m: &Machine, cpu: &Arc<Cpu>) -> Option<Idle> {
    let icount = m.icount.as_ref()?;
    if icount::Icount::rest(&v.block.block.state) > 0 {
        return debug::one_instruction(v, m, cpu);
    }
    m.clock.advance(0);
    icount.turn_is_over(&m.clock).then_some(Idle::Asked)
}

/// An instruction could not be fetched completely: its first page is there, so it is the second that is missing.
fn fetch_fault(v: &mut Vcpu, m: &Machine, cpu: &Arc<Cpu>) {
    let key = v.block.block.state.u64_at(KEY);
    let regime = m.system().regime(key);
    let after = (m.guest.pc(key) & !(PAGE_BYTES - 1)).wrapping_add(PAGE_BYTES) as u32 as u64;
    if fetch_page(v, m, cpu, regime, after).is_some() {
        // The page has come since the region was made; the jump cache still leads to the region without it.
        v.forget_jumps();
    }
}
