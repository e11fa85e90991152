//! Machines: Arm code in translated form over a toy system level, whose page tables are a function.
//!
//! Virtual 0x5xxx_xxxx is physical 0x0xxx_xxxx, 0x6xxx_xxxx too but read-only, 0x7xxx_xxxx is not mapped, the rest is mapped
//! to itself. Faults continue at 0x100 with the address in r12. `svc` stops.

use arm::{Arm, state};
use cpu::system::*;
use cpu::{Access, Code, Guest, Limits, Register};
use fabric::{AddressSpace, Clock, Line, LineSink, MmioTarget, Ram, Region};
use ir::{Builder, Helper, Layout, State, TrapKind};
use jit::machine::debug::{Action, Stop};
use jit::watch::{Hit, Watch};
use jit::{Config, Machine};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

struct Toy(Arm);

impl Guest for Toy {
    fn name(&self) -> &'static str {
        "toy"
    }
    fn layout(&self) -> &Layout {
        self.0.layout()
    }
    fn helpers(&self) -> &[Helper] {
        self.0.helpers()
    }
    fn reset(&self, state: &mut State) {
        self.0.reset(state);
    }
    fn translate(&self, key: u64, limits: Limits, code: &dyn Code, b: &mut Builder) {
        self.0.translate(key, limits, code, b);
    }
    fn pc(&self, key: u64) -> u64 {
        self.0.pc(key)
    }
    fn key_at(&self, key: u64, delta: i32, note: u32) -> u64 {
        self.0.key_at(key, delta, note)
    }
    fn flags_dead(&self, key: u64, code: &dyn Code) -> Option<(u64, u32)> {
        self.0.flags_dead(key, code)
    }
    fn disassemble(&self, key: u64, code: &dyn Code) -> (String, u32) {
        self.0.disassemble(key, code)
    }
    fn registers(&self) -> &[Register] {
        self.0.registers()
    }
    fn read_register(&self, state: &State, number: usize) -> u128 {
        self.0.read_register(state, number)
    }
    fn write_register(&self, state: &mut State, number: usize, value: u128) {
        self.0.write_register(state, number, value);
    }
    fn dump(&self, state: &State) -> String {
        self.0.dump(state)
    }
    fn system(&self) -> Option<&dyn System> {
        Some(self)
    }
}

impl System for Toy {
    fn regime(&self, _: u64) -> u8 {
        0
    }
    fn address_space(&self, _: &State, _: u8) -> u64 {
        0
    }
    fn walk(&self, _: &State, _: u8, addr: u64, access: Access, _: &dyn Physical) -> Result<Mapping, u32> {
        let writable = addr >> 28 != 6;
        if addr >> 28 == 7 || !writable && access == Access::Write {
            return Err(addr as u32 >> 28);
        }
        let phys = if matches!(addr >> 28, 5 | 6) { addr & 0x0fff_f000 } else { addr & 0xffff_f000 };
        Ok(Mapping { phys, size_bits: 12, read: true, write: writable, execute: true, global: true })
    }
    fn fail(&self, state: &mut State, _: &mut dyn Environment, _: u8, addr: u64, _: Access, _: Failure) {
        state.set_u32(state::r(12), addr as u32);
        state::interwork(state, 0x100);
    }
    fn trap(&self, state: &mut State, env: &mut dyn Environment, kind: TrapKind, arg: u32) -> After {
        if kind == TrapKind::Syscall && arg == 0x55 {
            return After::Sleep;
        }
        assert_eq!(kind, TrapKind::Syscall, "at {:#x}", state::read_pc(state));
        env.power(Power::SystemOff);
        After::Run
    }
    fn interrupt(&self, state: &mut State, env: &mut dyn Environment) -> bool {
        // Counts interrupts in r11 and masks them by lowering the wire's reason.
        let n = state.u32_at(state::r(11));
        state.set_u32(state::r(11), n + 1);
        env.set_output(0, true);
        true
    }
    fn wakes(&self, _: &State, inputs: u32) -> bool {
        inputs != 0
    }
    fn start(&self, _: &mut State, _: u64, _: u64) {}
    fn starts_off(&self, cpu: usize) -> bool {
        cpu > 0
    }
}

/// Adds up what is written, gives twice that.
#[derive(Default)]
struct Adder(AtomicU64, Mutex<Vec<(u64, u8, u64)>>);

impl MmioTarget for Adder {
    fn read(&self, offset: u64, _: u8) -> u64 {
        self.0.load(Ordering::SeqCst) * 2 + offset
    }
    fn write(&self, offset: u64, size: u8, value: u64) {
        self.0.fetch_add(value, Ordering::SeqCst);
        self.1.lock().unwrap().push((offset, size, value));
    }
}

struct Test {
    machine: Arc<Machine>,
    ram: Arc<Ram>,
    adder: Arc<Adder>,
    stopped: Receiver<Power>,
}

impl Test {
    fn new() -> Test {
        Test::with(1, Clock::new(), Config::default())
    }

    fn with(cpus: usize, clock: Clock, config: Config) -> Test {
        let arm = Arm::new(arm::features::model("cortex-a15").unwrap());
        let space = AddressSpace::new();
        let ram = Arc::new(Ram::new(1 << 20).unwrap());
        let adder = Arc::new(Adder::default());
        space.map(0, 1 << 20, 0, Region::ram("ram", ram.clone()));
        space.map(0x0900_0000, 0x1000, 0, Region::device("adder", adder.clone()));
        let machine = Machine::new(Arc::new(Toy(arm)), space, clock, cpus, config).unwrap();
        let (send, stopped) = channel();
        let send = Mutex::new(send);
        machine.on_power(Box::new(move |p| send.lock().unwrap().send(p).unwrap()));
        // The handler of faults stops.
        ram.store_u32(0x100, 0xef00_00ff);
        machine.spawn().unwrap();
        Test { machine, ram, adder, stopped }
    }

    fn words(&self, at: u64, words: &[u32]) -> &Test {
        for (n, w) in words.iter().enumerate() {
            self.ram.store_u32(at + 4 * n as u64, *w);
        }
        self
    }

    /// Runs from an address (bit 0: Thumb) to the `svc`; then r(n).
    fn run(&self, at: u32) -> impl Fn(u32) -> u32 + use<> {
        self.run_with(at, &|_| {})
    }

    fn run_with(&self, at: u32, set: &dyn Fn(&mut State)) -> impl Fn(u32) -> u32 + use<> {
        self.machine.reset(&|_, s| {
            state::interwork(s, at);
            set(s);
        });
        self.machine.resume();
        self.stopped.recv().unwrap();
        self.machine.pause();
        let registers: Vec<u32> = (0..16).map(|n| self.machine.with_state(0, |s| s.u32_at(state::r(n)))).collect();
        let pc = self.machine.with_state(0, |s| state::read_pc(s));
        move |n| if n == 15 { pc } else { registers[n as usize] }
    }
}

impl Drop for Test {
    fn drop(&mut self) {
        self.machine.stop();
    }
}

/// Sums 3000 words from 0x8000, gives the sum to the device, reads it back, calls `far` at 0x3000, which goes by 0x1ffc.
fn sum_and_call(t: &Test) {
    t.words(
        0x1000,
        &[
            0xe3a0_0902, 0xe59f_1024, 0xe3a0_2000, 0xe490_3004, 0xe082_2003, 0xe251_1001, 0x1aff_fffb, 0xe3a0_4409,
            0xe584_2000, 0xe594_5004, 0xeb00_07f4, 0xef00_0001, 0xbb8,
        ],
    );
    t.words(0x1ffc, &[0xe3a0_7007, 0xe12f_ff1e]);
    t.words(0x3000, &[0xe1a0_600e, 0xeaff_fbfc]);
    t.words(0x8000, &(0..3000).collect::<Vec<u32>>());
}

#[test]
fn memory_devices_calls_and_page_ends() {
    let t = Test::new();
    sum_and_call(&t);
    let r = t.run(0x1000);
    let sum = 3000 * 2999 / 2;
    assert_eq!((r(2), r(5), r(7), r(6), r(15)), (sum, 2 * sum + 4, 7, 0x102c, 0x1030));
    assert_eq!(*t.adder.1.lock().unwrap(), [(0, 4, sum as u64)]);
}

#[test]
fn one_translation_serves_two_addresses() {
    let t = Test::new();
    sum_and_call(&t);
    assert_eq!(t.run(0x1000)(6), 0x102c);
    let r = t.run(0x5000_1000);
    assert_eq!((r(6), r(7), r(1), r(15)), (0x5000_102c, 7, 0, 0x5000_1030));
}

#[test]
fn faults_are_precise() {
    let t = Test::new();
    // mov r0, #0x70000000; mov r1, #5; ldr r1, [r0, #8]
    t.words(0x1000, &[0xe3a0_0207, 0xe3a0_1005, 0xe590_1008, 0xef00_0002]);
    let r = t.run(0x1000);
    assert_eq!((r(0), r(1), r(12), r(15)), (0x7000_0000, 5, 0x7000_0008, 0x104));
    // Written through a read-only mapping: mov r0, #0x60000000; str r0, [r0, #0x800]; also where it has just been read.
    t.words(0x1000, &[0xe3a0_0206, 0xe590_1800, 0xe580_0800, 0xef00_0002]);
    assert_eq!(t.run(0x1000)(12), 0x6000_0800);
    // Nothing answers: mov r0, #0x20000000; ldr r1, [r0]
    t.words(0x1000, &[0xe3a0_0202, 0xe590_1000, 0xef00_0002]);
    assert_eq!(t.run(0x1000)(12), 0x2000_0000);
    // Nothing to execute: mov pc, #0x70000000
    t.words(0x1000, &[0xe3a0_f207]);
    assert_eq!(t.run(0x1000)(12), 0x7000_0000);
}

#[test]
fn code_that_is_overwritten_changes() {
    let t = Test::new();
    t.words(0x1000, &[0xe3a0_0a02, 0xe59f_1010, 0xe12f_ff30, 0xe1a0_4003, 0xe580_1000, 0xe12f_ff30, 0xef00_0003]);
    t.words(0x101c, &[0xe3a0_3063]);
    t.words(0x2000, &[0xe3a0_3001, 0xe12f_ff1e]);
    let r = t.run(0x1000);
    assert_eq!((r(4), r(3)), (1, 99));
    // By DMA.
    t.machine.space().write_bytes(0x2000, &0xe3a0_3007u32.to_le_bytes());
    let r = t.run(0x1000);
    assert_eq!((r(4), r(3)), (7, 99));
}

#[test]
fn accesses_and_instructions_cross_pages() {
    let t = Test::new();
    t.words(0x8ffc, &[0x4433_0000, 0x8877_6655]);
    // movw r0, #0x8ffe; ldr r1, [r0]; movw r3, #0x800; b; nop; nop; movw r2, #0x1234 (over the page's end); svc #4
    let code: [u16; 11] =
        [0xf648, 0x70fe, 0x6801, 0xf640, 0x0300, 0xe000, 0xbf00, 0xbf00, 0xf241, 0x2234, 0xdf04];
    for (n, h) in code.iter().enumerate() {
        t.ram.store_u16(0x1fee + 2 * n as u64, *h);
    }
    let r = t.run(0x1fef);
    assert_eq!((r(1), r(2), r(3), r(15)), (0x6655_4433, 0x1234, 0x800, 0x2004));
    // The same instruction, its second half changed.
    t.ram.store_u16(0x2000, 0x2235);
    t.machine.invalidate(0x2000, 2);
    assert_eq!(t.run(0x1fef)(2), 0x1235);
    // A store over two pages of which the second is read-only: ldr r0, =0x5ffffffe is not representable; mov r0, #0x60000000; sub r0, #2
    t.words(0x1000, &[0xe3a0_0206, 0xe240_0002, 0xe580_0000, 0xef00_0004]);
    assert_eq!(t.run(0x1000)(12), 0x6000_0000);
}

/// Runs of accesses that share one look-up: whole, over a page's end, into a device, into a fault.
#[test]
fn runs_of_accesses() {
    let t = Test::new();
    // stmia r0, {r1-r9}; ldmia r0, {r4-r11}; ldr r1, [r0, #-4]; ldrd r2, r3, [r0, #8]; ldrb r12, [r0, #33]; svc #7
    let code = [0xe880_03fe, 0xe890_0ff0, 0xe510_1004, 0xe1c0_20d8, 0xe5d0_c021, 0xef00_0007];
    t.words(0x1000, &code);
    for at in [0x8000u32, 0x8ff0, 0x9ff8, 0xaffc, 0xbfe0] {
        t.ram.store_u32(at as u64 - 4, 0x77);
        for _ in 0..2 {
            let r = t.run_with(0x1000, &|s| {
                s.set_u32(state::r(0), at);
                (1..10).for_each(|n| s.set_u32(state::r(n), 0x0101_0101 * n));
            });
            let expected: Vec<u32> = (1..9).map(|n| 0x0101_0101 * n).collect();
            assert_eq!((4..12).map(&r).collect::<Vec<_>>(), expected, "{at:#x}");
            assert_eq!((r(1), r(2), r(3), r(12)), (0x77, 0x0303_0303, 0x0404_0404, 9), "{at:#x}");
            assert_eq!(t.ram.load_u32(at as u64 + 32), 0x0909_0909);
        }
    }
    // A device: each register is one access. The first page of a range is memory, the second is not mapped.
    t.words(0x1000, &[0xe880_000e, 0xe890_0070, 0xef00_0007]);
    let set = |at: u32| move |s: &mut State| {
        s.set_u32(state::r(0), at);
        (1..10).for_each(|n| s.set_u32(state::r(n), n));
    };
    let r = t.run_with(0x1000, &set(0x0900_0100));
    assert_eq!((r(4), r(5), r(6)), (12 + 0x100, 12 + 0x104, 12 + 0x108));
    assert_eq!(*t.adder.1.lock().unwrap(), [(0x100, 4, 1), (0x104, 4, 2), (0x108, 4, 3)]);
    let r = t.run_with(0x1000, &set(0x6fff_fff8));
    assert_eq!(r(12), 0x6fff_fff8, "read-only");
    t.words(0x1000, &[0xe890_0070, 0xef00_0007]);
    let r = t.run_with(0x1000, &set(0x6fff_fff8));
    assert_eq!((r(12), r(4)), (0x6fff_fff8, 4), "nothing answers");
}

#[test]
fn exclusives_store_once() {
    let t = Test::new();
    // mov r0, #0x8000; ldrex r1, [r0]; add r1, #1; strex r2, r1, [r0]; strex r3, r1, [r0]; ldrexd r4, r5, [r0]; clrex;
    // strexd r6, r4, r5, [r0]; ldrexb r7, [r0]; strexb r8, r7, [r0]; svc #6
    let code = [
        0xe3a0_0902, 0xe190_1f9f, 0xe281_1001, 0xe180_2f91, 0xe180_3f91, 0xe1b0_4f9f, 0xf57f_f01f, 0xe1a0_6f94,
        0xe1d0_7f9f, 0xe1c0_8f97, 0xef00_0006,
    ];
    t.words(0x1000, &code).words(0x8000, &[41, 7]);
    // Twice: by the slow path, then by the fast one.
    for n in 0..2 {
        let r = t.run(0x1000);
        assert_eq!((r(1), r(2), r(3), r(4), r(5), r(6), r(7), r(8)), (42 + n, 0, 1, 42 + n, 7, 1, 42 + n, 0));
    }
}

struct Flag(AtomicU32);

impl LineSink for Flag {
    fn set(&self, _: u32, level: bool) {
        self.0.store(level as u32, Ordering::SeqCst);
    }
}

#[test]
fn interrupts_end_loops_and_sleep() {
    let t = Test::new();
    let line = t.machine.input(0, 0);
    // An output of the CPU lowers the input, as an interrupt controller would.
    struct Lower(Line, Arc<Flag>);
    impl LineSink for Lower {
        fn set(&self, number: u32, level: bool) {
            self.1.set(number, level);
            self.0.set(false);
        }
    }
    let flag = Arc::new(Flag(AtomicU32::new(0)));
    t.machine.set_output(0, 0, Line::new(Arc::new(Lower(line.clone(), flag.clone())), 0));
    // 1: cmp r11, #1; bne 1b; svc #0x55 (sleeps); svc #5
    t.words(0x1000, &[0xe35b_0001, 0x1aff_fffd, 0xef00_0055, 0xef00_0005]);
    t.machine.reset(&|_, s| state::interwork(s, 0x1000));
    t.machine.resume();
    line.set(true);
    while flag.0.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    flag.0.store(0, Ordering::SeqCst);
    while !t.machine.is_halted(0) {
        std::thread::yield_now();
    }
    line.set(true);
    t.stopped.recv().unwrap();
    t.machine.pause();
    assert_eq!(t.machine.with_state(0, |s| s.u32_at(state::r(11))), 2);
}

/// A machine under a debugger.
struct Debugged {
    t: Test,
    stops: Receiver<(usize, Stop)>,
}

impl Debugged {
    /// Stands at an address.
    fn new(at: u32) -> Debugged {
        let t = Test::new();
        let (send, stops) = channel();
        let send = Mutex::new(send);
        t.machine.on_stop(Box::new(move |cpu, stop| send.lock().unwrap().send((cpu, stop)).unwrap()));
        t.machine.reset(&|_, s| state::interwork(s, at));
        t.machine.set_exact();
        Debugged { t, stops }
    }

    fn go(&self, action: Action) -> Stop {
        self.t.machine.set_action(0, action);
        self.t.machine.resume();
        let (_, stop) = self.stops.recv().unwrap();
        self.t.machine.pause();
        stop
    }

    fn step(&self) -> u32 {
        assert_eq!(self.go(Action::Step { start: 0, end: 0, interrupts: false }), Stop::Step);
        self.r(15)
    }

    fn r(&self, n: u32) -> u32 {
        self.t.machine.with_state(0, |s| if n == 15 { state::read_pc(s) } else { s.u32_at(state::r(n)) })
    }

    fn finish(&self) {
        self.t.machine.set_action(0, Action::Run);
        self.t.machine.resume();
        self.t.stopped.recv().unwrap();
        self.t.machine.pause();
    }
}

/// r0 counts from 0 to 3 in a loop at 0x1004, then `svc`.
const COUNT: [u32; 5] = [0xe3a0_0000, 0xe280_0001, 0xe350_0003, 0x1aff_fffc, 0xef00_0001];

#[test]
fn breakpoints_are_at_virtual_addresses() {
    let d = Debugged::new(0x1000);
    d.t.words(0x1000, &COUNT);
    // The same physical instruction has another address, which nobody executes.
    for addr in [0x1008, 0x5000_1004] {
        d.t.machine.set_breakpoints([addr].into());
        if addr == 0x1008 {
            for round in 1..=2 {
                assert_eq!(d.go(Action::Run), Stop::Breakpoint { addr });
                assert_eq!((d.r(0), d.r(15)), (round, 0x1008));
                // Going on at a breakpoint stops there again; the debugger steps past it.
                assert_eq!(d.go(Action::Run), Stop::Breakpoint { addr });
                assert_eq!(d.step(), 0x100c);
            }
        }
    }
    d.finish();
    assert_eq!((d.r(0), d.r(15)), (3, 0x1014));
    d.t.machine.reset(&|_, s| state::interwork(s, 0x5000_1000));
    assert_eq!(d.go(Action::Run), Stop::Breakpoint { addr: 0x5000_1004 });
    d.t.machine.set_breakpoints([].into());
    d.finish();
    assert_eq!((d.r(0), d.r(15)), (3, 0x5000_1014));
}

#[test]
fn steps_go_through_jumps_calls_and_faults() {
    let d = Debugged::new(0x1000);
    sum_and_call(&d.t);
    d.t.words(0x1000, &[0xe3a0_0207, 0xeb00_07fd, 0xe590_1000]);
    assert_eq!((d.step(), d.r(0)), (0x1004, 0x7000_0000));
    assert_eq!((d.step(), d.r(14)), (0x3000, 0x1008));
    assert_eq!((d.step(), d.r(6)), (0x3004, 0x1008));
    assert_eq!(d.step(), 0x1ffc);
    assert_eq!((d.step(), d.r(7)), (0x2000, 7));
    assert_eq!(d.step(), 0x1008);
    assert_eq!((d.step(), d.r(12)), (0x100, 0x7000_0000), "the handler's first instruction");
}

#[test]
fn ranges_are_left_or_end_at_breakpoints() {
    let d = Debugged::new(0x1000);
    d.t.words(0x1000, &COUNT);
    let range = Action::Step { start: 0x1000, end: 0x1010, interrupts: false };
    d.t.machine.set_breakpoints([0x1008].into());
    assert_eq!((d.go(range), d.r(0)), (Stop::Breakpoint { addr: 0x1008 }, 1));
    d.t.machine.set_breakpoints([].into());
    assert_eq!((d.go(range), d.r(0), d.r(15)), (Stop::Step, 3, 0x1010));
}

#[test]
fn watched_accesses_have_not_happened() {
    let d = Debugged::new(0x1000);
    // r0 = 0x8000: load, store, load and store elsewhere on the page, exclusives.
    d.t.words(
        0x1000,
        &[
            0xe3a0_0902, 0xe590_1000, 0xe580_1010, 0xe580_0000, 0xe590_2004, 0xe590_1000, 0xe190_3f9f, 0xe180_4f90, 0xef00_0001,
        ],
    );
    let watch = |read, write| Watch { addr: 0x8002, len: 2, read, write };
    let hit = Stop::Watch(Hit { watch: 0, addr: 0x8002 });
    for (read, write, at) in [
        (true, false, &[0x1004, 0x1014, 0x1018][..]),
        (false, true, &[0x100c, 0x101c][..]),
        (true, true, &[0x1004, 0x100c, 0x1014, 0x1018, 0x101c][..]),
    ] {
        d.t.words(0x8000, &[5, 6]);
        d.t.machine.reset(&|_, s| state::interwork(s, 0x1000));
        for &pc in at {
            d.t.machine.set_watches(vec![watch(read, write)]);
            assert_eq!((d.go(Action::Run), d.r(15)), (hit, pc));
            assert_eq!(d.t.ram.load(0x8000, 4), if pc > 0x100c { 0x8000 } else { 5 });
            d.t.machine.set_watches(vec![]);
            assert_eq!(d.step(), pc + 4);
        }
        d.finish();
        assert_eq!((d.r(2), d.r(3), d.r(4)), (6, 0x8000, 0));
    }
}

/// Counts time by instructions; `svc` stops. Gives the time at the end.
fn counted(shift: u32, words: &[u32], one_thread_cpus: usize) -> (Test, u64) {
    let options = jit::machine::icount::Options { shift: Some(shift), align: false, sleep: false };
    let t = Test::with(one_thread_cpus, Clock::manual(), Config { icount: Some(options), ..Config::default() });
    t.words(0x1000, words);
    let _ = t.run(0x1000);
    let now = t.machine.clock().now_ns();
    (t, now)
}

#[test]
fn time_counts_instructions() {
    // mov; then 3 times add, cmp, bne; svc.
    assert_eq!(counted(0, &COUNT, 1).1, 1 + 9 + 1);
    assert_eq!(counted(4, &COUNT, 1).1, 11 << 4);
    // A fault in the middle: mov r0, #0x70000000; ldr r1, [r0]; two more are not executed; the handler is an svc.
    assert_eq!(counted(0, &[0xe3a0_0207, 0xe590_1000, 0xe1a0_0000, 0xe1a0_0000, 0xef00_0001], 1).1, 1 + 1);
}

#[test]
fn timers_fire_at_their_instruction() {
    let options = jit::machine::icount::Options { shift: Some(0), align: false, sleep: false };
    let t = Test::with(1, Clock::manual(), Config { icount: Some(options), ..Config::default() });
    // 1: add r0, r0, #1; cmp r11, #0; beq 1b; svc: an interrupt counts in r11.
    t.words(0x1000, &[0xe280_0001, 0xe35b_0000, 0x0aff_fffc, 0xef00_0001]);
    let line = t.machine.input(0, 0);
    // The output of the CPU lowers the input.
    struct Lower(Line);
    impl LineSink for Lower {
        fn set(&self, _: u32, _: bool) {
            self.0.set(false);
        }
    }
    t.machine.set_output(0, 0, Line::new(Arc::new(Lower(line.clone())), 0));
    let mut seen = Vec::new();
    for _ in 0..2 {
        let raised = line.clone();
        let timer = t.machine.clock().timer(move || raised.set(true));
        let start = t.machine.clock().now_ns();
        timer.at(start + 3001);
        let r = t.run(0x1000);
        seen.push((r(0), r(11), t.machine.clock().now_ns() - start));
    }
    // 1000 rounds and an add; then the interrupt, and the rest of that round.
    assert_eq!(seen, [(1001, 1, 3004); 2]);
}

#[test]
fn vcpus_take_turns_on_one_thread() {
    for icount in [None, Some(jit::machine::icount::Options { shift: Some(0), align: false, sleep: false })] {
        let clock = if icount.is_some() { Clock::manual() } else { Clock::new() };
        let t = Test::with(2, clock, Config { one_thread: true, icount, ..Config::default() });
        // r0 = 0x8000. Each waits for the other: CPU n adds 1 when the word's low bit is n; after 20 rounds CPU 0 stops.
        // ldr r1, [r0]; and r2, r1, #1; cmp r2, r4; bne .-12; add r1, #1; str r1, [r0]; cmp r1, #20; blt .-28; svc; b .
        t.words(
            0x1000,
            &[
                0xe590_1000, 0xe201_2001, 0xe152_0004, 0x1aff_fffb, 0xe281_1001, 0xe580_1000, 0xe351_0014, 0xbaff_fff7, 0xef00_0001,
                0xeaff_fffe,
            ],
        );
        t.ram.store_u32(0x8000, 0);
        t.machine.reset(&|n, s| {
            state::interwork(s, 0x1000);
            s.set_u32(state::r(0), 0x8000);
            s.set_u32(state::r(4), n as u32);
        });
        t.machine.switch_on(1);
        t.machine.resume();
        t.stopped.recv().unwrap();
        t.machine.pause();
        assert!((20..=21).contains(&t.ram.load(0x8000, 4)));
    }
}
