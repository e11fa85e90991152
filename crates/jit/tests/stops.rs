//! Breakpoints, single steps, watchpoints and observers, on a guest whose every instruction counts up a register.

use cpu::{Code, Guest, Limits, Register};
use ir::{Builder, Helper, Layout, Loc, MemOp, State, TrapKind, Ty};
use jit::watch::{Hit, Watch};
use jit::{Config, Engine, PageFlags, Space, Stop, Vcpu};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

const COUNT: u32 = 16;
const BEGIN: u64 = 0x1000;
/// A system call; the instructions before it are regions of at most eight.
const END: u64 = 0x1080;
/// Its instruction also stores the count to `DATA + 4`, the next one loads it.
const STORES: u64 = 0x1040;
const DATA: u32 = 0x10_0000;

struct Counter(Layout);

impl Guest for Counter {
    fn name(&self) -> &'static str {
        "counter"
    }
    fn layout(&self) -> &Layout {
        &self.0
    }
    fn helpers(&self) -> &[Helper] {
        &[]
    }
    fn reset(&self, _: &mut State) {}
    fn translate(&self, key: u64, limits: Limits, _: &dyn Code, b: &mut Builder) {
        for n in 0..limits.max_insns.min(8) {
            let delta = 4 * n;
            b.insn(delta as i32, 0);
            if key + delta as u64 == END {
                return b.trap(TrapKind::Syscall, 0, BEGIN);
            }
            let count = b.get(Ty::I32, COUNT, 4);
            let count = b.add_imm(count, 1);
            if key + delta as u64 == STORES {
                let at = b.i32(DATA + 4);
                b.st(MemOp::B4, at, count);
            } else if key + delta as u64 == STORES + 4 {
                let at = b.i32(DATA + 4);
                b.ld(Ty::I32, MemOp::B4, at);
            }
            b.set(COUNT, 4, count);
            b.region_mut().covers.push((key + delta as u64, 4));
        }
        b.exit(key + 4 * limits.max_insns.min(8) as u64);
    }
    fn pc(&self, key: u64) -> u64 {
        key
    }
    fn key_at(&self, key: u64, delta: i32, _: u32) -> u64 {
        key.wrapping_add(delta as u64)
    }
    fn flags_dead(&self, _: u64, _: &dyn Code) -> Option<(u64, u32)> {
        None
    }
    fn disassemble(&self, _: u64, _: &dyn Code) -> (String, u32) {
        ("count".into(), 4)
    }
    fn registers(&self) -> &[Register] {
        &[]
    }
    fn read_register(&self, _: &State, _: usize) -> u128 {
        0
    }
    fn write_register(&self, _: &mut State, _: usize, _: u128) {}
    fn dump(&self, _: &State) -> String {
        String::new()
    }
}

fn vcpu(config: Config) -> Vcpu {
    let loc = |n: u32| Loc { offset: COUNT + 4 * n, size: 4 };
    let layout = Layout { pinned: (0..10).map(loc).collect(), names: Vec::new(), address_bits: 32, page: None };
    let config = Config { tb_size: 1 << 20, ..config };
    let space = Space::new_32bit().unwrap();
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED);
    // SAFETY: inside the window that the space has reserved.
    let p = unsafe { libc::mmap(space.host(DATA).cast(), 4096, prot, flags, -1, 0) };
    assert_ne!(p, libc::MAP_FAILED);
    space.set_range(DATA, 4096, PageFlags::READ.with(PageFlags::WRITE).with(PageFlags::MAPPED));
    let engine = Engine::new(Arc::new(Counter(layout)), space, config).unwrap();
    let mut vcpu = Vcpu::new(&engine);
    vcpu.state_mut().set_u64(ir::state::KEY, BEGIN);
    vcpu
}

/// Runs to the next stop; gives it, the key and the count.
fn run(vcpu: &mut Vcpu) -> (Stop, u64, u32) {
    let stop = loop {
        match vcpu.run() {
            Stop::Kicked => vcpu.clear_kick(),
            stop => break stop,
        }
    };
    (stop, vcpu.state().u64_at(ir::state::KEY), vcpu.state().u32_at(COUNT))
}

const HIT: Stop = Stop::Trap { kind: TrapKind::Step, arg: jit::breakpoint::BREAKPOINT };
const CALL: Stop = Stop::Trap { kind: TrapKind::Syscall, arg: 0 };

#[test]
fn a_breakpoint_stops_before_its_instruction_and_leaves_no_trace() {
    for interpret in [false, true] {
        let mut v = vcpu(Config { interpret, ..Config::default() });
        let engine = v.engine().clone();
        assert_eq!(run(&mut v), (CALL, BEGIN, 32));
        // In the middle of a region that has been translated, and at the start of one.
        engine.set_breakpoints(BTreeSet::from([BEGIN + 0x14, BEGIN + 0x40]));
        assert_eq!(run(&mut v), (HIT, BEGIN + 0x14, 37));
        assert_eq!(run(&mut v), (HIT, BEGIN + 0x14, 37), "it does not go away by itself");
        assert_eq!(v.step(), None);
        assert_eq!(run(&mut v), (HIT, BEGIN + 0x40, 48));
        engine.set_breakpoints(BTreeSet::new());
        assert_eq!(run(&mut v), (CALL, BEGIN, 64));
        assert_eq!(run(&mut v), (CALL, BEGIN, 96));
    }
}

#[test]
fn a_step_is_one_instruction() {
    let mut v = vcpu(Config::default());
    for n in 1..=32 {
        assert_eq!(v.step(), None);
        assert_eq!((v.state().u64_at(ir::state::KEY), v.state().u32_at(COUNT)), (BEGIN + 4 * n, n as u32));
    }
    assert_eq!(v.step(), Some(CALL));
}

#[test]
fn an_unchained_run_shows_every_region() {
    for interpret in [false, true] {
        let mut v = vcpu(Config { nochain: true, interpret, ..Config::default() });
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        v.engine().set_observer(Box::new(move |s, code| {
            assert_eq!(code == 0, interpret);
            log.lock().unwrap().push(s.u64_at(ir::state::KEY));
        }));
        for _ in 0..3 {
            assert_eq!(run(&mut v).0, CALL);
        }
        let once: Vec<u64> = (0..=4).map(|n| BEGIN + 0x20 * n).collect();
        assert_eq!(*seen.lock().unwrap(), once.repeat(3));
    }
}

/// Steps until something is hit; where, and what.
fn until_hit(v: &mut Vcpu, watch: Watch) -> (u64, Hit) {
    for _ in 0..100 {
        match v.step_watching(&[watch]) {
            Ok(_) => {}
            Err(hit) => return (v.state().u64_at(ir::state::KEY), hit),
        }
    }
    panic!("nothing was hit");
}

#[test]
fn a_watchpoint_stops_before_the_access() {
    let mut v = vcpu(Config::default());
    let write = Watch { addr: DATA as u64 + 6, len: 1, read: false, write: true };
    let hit = Hit { watch: 0, addr: DATA as u64 + 6 };
    assert_eq!(until_hit(&mut v, write), (STORES, hit));
    let mut word = [0xff; 4];
    v.engine().space().read_bytes(DATA + 4, &mut word);
    assert_eq!((word, v.state().u32_at(COUNT)), ([0; 4], 16), "nothing has happened yet");
    assert_eq!(until_hit(&mut v, write).0, STORES, "and again");
    assert_eq!(v.step(), None);
    v.engine().space().read_bytes(DATA + 4, &mut word);
    assert_eq!(u32::from_le_bytes(word), 17);
    let read = Watch { addr: DATA as u64, len: 8, read: true, write: false };
    assert_eq!(until_hit(&mut v, read), (STORES + 4, Hit { watch: 0, addr: DATA as u64 + 4 }));
    // Its neighbours are nobody's business.
    let beside = Watch { addr: DATA as u64 + 8, len: 4, read: true, write: true };
    assert!((0..100).all(|_| v.step_watching(&[beside]).is_ok()));
}
