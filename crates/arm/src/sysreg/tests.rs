//! System registers against what a guest observed on QEMU, and their effects on an environment that records.

use super::*;
use crate::system::Options;
use crate::{features, state};
use cpu::Guest;
use cpu::system::{CpuInterface, Flush, Physical, Power, PowerAnswer};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// An environment that records what it is asked for. Memory is a set of words.
#[derive(Default)]
pub(crate) struct Recorder {
    pub cpu: usize,
    pub count: usize,
    pub on: Vec<bool>,
    pub clock_ns: u64,
    pub memory: RefCell<BTreeMap<u64, u32>>,
    pub flushes: Vec<(Flush, bool)>,
    pub code: Vec<Option<(u64, u64)>>,
    pub deadlines: [Option<u64>; 5],
    pub outputs: [bool; 5],
    pub inputs: u32,
    pub power: Vec<Power>,
    pub gic: Option<Gic>,
}

/// An interrupt controller whose registers are memory.
#[derive(Default)]
pub(crate) struct Gic(std::sync::Mutex<BTreeMap<u32, u64>>);

impl CpuInterface for Gic {
    fn read(&self, register: u32) -> Option<u64> {
        self.0.lock().unwrap().get(&register).copied()
    }
    fn write(&self, register: u32, value: u64) -> bool {
        self.0.lock().unwrap().insert(register, value);
        true
    }
}

impl Physical for Recorder {
    fn read(&self, addr: u64, size: u8) -> Option<u64> {
        let memory = self.memory.borrow();
        let word = |a| memory.get(&a).map(|&w| w as u64);
        if size == 8 { Some(word(addr)? | word(addr + 4)? << 32) } else { word(addr) }
    }
    fn compare_exchange(&self, _: u64, _: u8, _: u64, _: u64) -> Option<u64> {
        None
    }
}

impl Environment for Recorder {
    fn index(&self) -> usize {
        self.cpu
    }
    fn count(&self) -> usize {
        self.count.max(1)
    }
    fn physical(&self) -> &dyn Physical {
        self
    }
    fn flush(&mut self, flush: Flush, everyone: bool) {
        self.flushes.push((flush, everyone));
    }
    fn code_changed(&mut self, range: Option<(u64, u64)>) {
        self.code.push(range);
    }
    fn clock_ns(&self) -> u64 {
        self.clock_ns
    }
    fn set_timer(&mut self, timer: usize, deadline_ns: Option<u64>) {
        self.deadlines[timer] = deadline_ns;
    }
    fn set_output(&mut self, output: usize, level: bool) {
        self.outputs[output] = level;
    }
    fn inputs(&self) -> u32 {
        self.inputs
    }
    fn set_input(&mut self, input: u32, level: bool) {
        self.inputs = self.inputs & !(1 << input) | (level as u32) << input;
    }
    fn power(&mut self, request: Power) -> PowerAnswer {
        self.power.push(request);
        match request {
            Power::CpuOn { cpu, .. } if self.is_on(cpu) => PowerAnswer::AlreadyOn,
            _ => PowerAnswer::Done,
        }
    }
    fn is_on(&self, cpu: usize) -> bool {
        self.on.get(cpu).copied().unwrap_or(cpu == 0)
    }
    fn cpu_interface(&self) -> Option<&dyn CpuInterface> {
        self.gic.as_ref().map(|g| g as &dyn CpuInterface)
    }
    fn send_event(&mut self) {}
}

/// A CPU of a machine, in Supervisor mode.
pub(crate) struct Bench {
    pub arm: Arm,
    pub state: Box<State>,
    pub env: Recorder,
}

impl Bench {
    pub fn new(model: &str, options: Options) -> Bench {
        let arm = Arm::machine(features::model(model).expect("a model"), options);
        let mut state = State::new();
        arm.reset(&mut state);
        reset(&arm, &mut state);
        let mut bench = Bench { arm, state, env: Recorder::default() };
        bench.mode(mode::SVC);
        bench
    }

    pub fn mode(&mut self, mode: u32) {
        state::bank::switch(&mut self.state, mode);
        update_key(&self.arm, &mut self.state);
    }

    /// MRC or MRRC.
    pub fn read(&mut self, name: &str) -> Result<u64, Refused> {
        let word = word(name, true);
        for n in [0, 1] {
            self.state.set_u32(state::r(n), 0);
        }
        access(&self.arm, &mut self.state, &mut self.env, word)?;
        Ok(self.state.u32_at(state::r(0)) as u64 | (self.state.u32_at(state::r(1)) as u64) << 32)
    }

    /// MCR or MCRR.
    pub fn write(&mut self, name: &str, value: u64) -> Result<(), Refused> {
        self.state.set_u32(state::r(0), value as u32);
        self.state.set_u32(state::r(1), (value >> 32) as u32);
        access(&self.arm, &mut self.state, &mut self.env, word(name, false))
    }
}

/// The instruction for operands as in the tables (`p15 0 c1 c0 0`, `q15 0 c2`), with R0 and R1.
pub(crate) fn word(name: &str, read: bool) -> u32 {
    let (class, operands) = name.split_at(1);
    let n: Vec<u32> = operands.split_whitespace().map(|w| w.trim_start_matches('c').parse().expect("a number")).collect();
    let load = (read as u32) << 20;
    match (class, &n[..]) {
        ("p", [cp, opc1, crn, crm, opc2]) => 0xee00_0010 | load | cp << 8 | opc1 << 21 | crn << 16 | crm | opc2 << 5,
        ("q", [cp, opc1, crm]) => 0xec40_0000 | load | cp << 8 | opc1 << 4 | crm | 1 << 16,
        _ => panic!("{name}"),
    }
}

fn bench() -> Bench {
    Bench::new("cortex-a15", Options::default())
}

/// Registers whose value there is not what ours is after reset, and why.
const OTHER_VALUES: &[(&str, &str)] = &[
    ("p15 0 c12 c0 0", "the observer's vectors"),
    ("p15 0 c14 c2 0", "counts"),
    ("p15 0 c14 c3 0", "counts"),
    ("q15 0 c14", "counts"),
    ("q15 1 c14", "counts"),
    ("q15 2 c14", "the observer wrote it"),
    ("q15 3 c14", "the observer wrote it"),
    ("q15 0 c7", "the observer's translation"),
    ("p14 0 c7 c9 6", "the observer claimed"),
    ("p15 0 c0 c1 7", "max: no PAN"),
    ("p15 0 c0 c3 4", "max: no SSBS"),
    ("p15 0 c9 c12 7", "max: events that never happen are not offered"),
];

/// Registers whose rights differ, and why.
const OTHER_RIGHTS: &[(&str, &str)] = &[
    ("p15 0 c7 c9 0", "max: translations that look at PAN"),
    ("p15 0 c7 c9 1", "max: translations that look at PAN"),
    ("q15 0 c9", "max: ours has the 64-bit cycle counter of ARMv8"),
    ("p15 0 c12 c0 2", "max: RMR is read-only here"),
];

#[test]
fn registers_are_what_a_guest_of_qemu_sees() {
    let listed = |list: &[(&str, &str)], name: &str| list.iter().any(|(n, _)| *n == name);
    let mut wrong = String::new();
    for line in include_str!("recorded/virt.txt").lines().filter(|l| !l.starts_with('#')) {
        let mut columns = line.split(" | ");
        let name = columns.next().expect("operands");
        for model in ["cortex-a7", "cortex-a15", "max"] {
            let column = columns.next().expect("a column for each model");
            let (value, rights) = column.split_once(' ').unwrap_or(("--------", "----"));
            for (i, right) in rights.chars().enumerate() {
                let mut b = Bench::new(model, Options::default());
                b.mode(if i < 2 { mode::SVC } else { mode::USR });
                let got = if i % 2 == 0 { b.read(name).map(Some) } else { b.write(name, 0).map(|()| None) };
                if right != '?' && got.is_ok() != (right != '-') && !listed(OTHER_RIGHTS, name) {
                    wrong += &format!("{model} {name}: right {i} of {rights}\n");
                }
                if let (0, Ok(Some(got)), Ok(want)) = (i, got, u64::from_str_radix(value, 16))
                    && got != want
                    && !listed(OTHER_VALUES, name)
                {
                    wrong += &format!("{model} {name}: {got:#x}, not {want:#x}\n");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn random_accesses_never_panic() {
    let mut x = 0x2545_f491u32;
    let mut next = move || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x
    };
    let all = Options { secure: true, virtualization: true, gic_system_registers: true, ..Options::default() };
    for (model, options) in [("cortex-a7", Options::default()), ("cortex-a15", all), ("max", all)] {
        let mut b = Bench::new(model, options);
        b.env.gic = Some(Gic::default());
        for round in 0..200_000u32 {
            let modes = if options.secure { [0, 3, 6, 10] } else { [0, 3, 15, 7] };
            b.mode(modes[round as usize % 4]);
            let coproc = if next() & 1 == 0 { 0xe00 } else { 0xf00 };
            let word = if round % 8 == 0 {
                0xec40_0000 | next() & 0x0010_00ff | coproc | 0x1_2000
            } else {
                0xee00_0010 | next() & 0x00ff_f0ef | coproc
            };
            b.env.clock_ns = b.env.clock_ns.wrapping_add(next() as u64);
            for n in 0..15 {
                b.state.set_u32(state::r(n), next());
            }
            let _ = access(&b.arm, &mut b.state, &mut b.env, word);
            if let Some(p) = plain(&b.arm, word, b.state.u64_at(ir::state::KEY)) {
                let banked = (sys::FIRST..=sys::LAST).contains(&p.offset);
                assert!(banked || [state::TPIDRURO, state::TPIDRURW].contains(&p.offset), "{word:#x}");
            }
        }
    }
}

/// What `plain` offers to translated code is what `access` does.
#[test]
fn plain_registers_are_where_access_finds_them() {
    let secure = Options { secure: true, ..Options::default() };
    let mut seen = 0;
    for options in [Options::default(), secure] {
        let mut b = Bench::new("cortex-a15", options);
        for round in 0..4 {
            // Both values of DACR, and both security states.
            b.write("p15 0 c3 c0 0", 0x1111 * round).unwrap();
            if options.secure {
                set_scr(&b.arm, &mut b.state, round as u32 >> 1);
            }
            for row in rows().filter(|r| !r.wide && r.crn != ANY && r.crm != ANY && r.opc1 != ANY && r.opc2 != ANY) {
                let name = format!("p{} {} c{} c{} {}", row.coproc, row.opc1, row.crn, row.crm, row.opc2);
                let key = b.state.u64_at(ir::state::KEY);
                let Some(p) = plain(&b.arm, word(&name, true), key) else { continue };
                seen += 1;
                assert_eq!(p.readable, b.read(&name).is_ok(), "{name}");
                b.state.set_u32(p.offset, 0x1234_5678);
                assert_eq!(b.read(&name), Ok(0x1234_5678), "{name}");
                if p.writable {
                    b.write(&name, 0x8765_4321).unwrap();
                    assert_eq!(b.state.u32_at(p.offset), 0x8765_4321, "{name}");
                }
                b.state.set_u32(p.offset, 0);
            }
        }
    }
    assert!(seen > 80, "{seen}");
}

#[test]
fn the_current_value_of_dacr_is_the_keys() {
    let mut b = bench();
    let domains = |b: &Bench| b.state.u64_at(ir::state::KEY) & key::DOMAINS != 0;
    b.write("p15 0 c3 c0 0", 0x51).unwrap();
    assert!(domains(&b));
    assert_eq!(b.env.flushes.pop(), Some((Flush::All { regimes: 0b1100 }, false)));
    b.write("p15 0 c3 c0 0", 0x55).unwrap();
    assert!(!domains(&b));
    assert_eq!(b.env.flushes.pop(), Some((Flush::All { regimes: 0b0011 }, false)));
    // Now both are known: changing between them costs nothing.
    for value in [0x51, 0x55, 0x51, 0x51, 0x55] {
        b.write("p15 0 c3 c0 0", value).unwrap();
        assert_eq!(b.read("p15 0 c3 c0 0"), Ok(value));
        assert_eq!(domains(&b), value == 0x51);
    }
    assert!(b.env.flushes.is_empty());
}

#[test]
fn tlb_maintenance_is_exact() {
    let mut b = bench();
    for (name, value, flush, everyone) in [
        ("p15 0 c8 c7 0", 0, Flush::All { regimes: 15 }, false),
        ("p15 0 c8 c3 0", 0, Flush::All { regimes: 15 }, true),
        ("p15 0 c8 c7 1", 0x1234_5042, Flush::Page { regimes: 15, addr: 0x1234_5000, space: Some(0x42) }, false),
        ("p15 0 c8 c3 1", 0x1234_5042, Flush::Page { regimes: 15, addr: 0x1234_5000, space: Some(0x42) }, true),
        ("p15 0 c8 c3 3", 0xffff_f042, Flush::Page { regimes: 15, addr: 0xffff_f000, space: None }, true),
        ("p15 0 c8 c7 2", 0x17, Flush::Space { regimes: 15, space: 0x17 }, false),
        ("p15 0 c8 c3 2", 0x17, Flush::Space { regimes: 15, space: 0x17 }, true),
        ("p15 0 c8 c5 2", 0x17, Flush::Space { regimes: 15, space: 0x17 }, false),
    ] {
        b.write(name, value).unwrap();
        assert_eq!(b.env.flushes.pop(), Some((flush, everyone)), "{name}");
    }
    b.write("p15 0 c13 c0 1", 0x1217).unwrap();
    assert_eq!(crate::mmu::address_space(&b.arm, &b.state, 0), 0x17);
}

#[test]
fn the_virtual_timer_raises_its_output_at_its_deadline() {
    let mut b = bench();
    b.env.clock_ns = 1_000_000;
    assert_eq!(b.read("q15 1 c14"), Ok(62_500));
    b.write("p15 0 c14 c3 0", 100).unwrap();
    assert_eq!(b.read("q15 3 c14"), Ok(62_600));
    b.write("p15 0 c14 c3 1", 1).unwrap();
    assert_eq!((b.env.outputs[OUTPUT_CNTV], b.env.deadlines[OUTPUT_CNTV]), (false, Some(1_001_600)));
    b.env.clock_ns = 1_001_600;
    assert_eq!(b.read("p15 0 c14 c3 1"), Ok(5));
    b.write("p15 0 c14 c3 1", 3).unwrap();
    assert_eq!((b.env.outputs[OUTPUT_CNTV], b.env.deadlines[OUTPUT_CNTV]), (false, None));
    b.write("p15 0 c14 c3 1", 1).unwrap();
    assert_eq!((b.env.outputs[OUTPUT_CNTV], b.env.deadlines[OUTPUT_CNTV]), (true, None));
    // A timer value is signed: the next event.
    b.write("p15 0 c14 c3 0", 0xffff_ffff).unwrap();
    assert!(b.env.outputs[OUTPUT_CNTV]);
    b.write("q15 3 c14", u64::MAX).unwrap();
    assert_eq!((b.env.outputs[OUTPUT_CNTV], b.env.deadlines[OUTPUT_CNTV]), (false, None));
    assert!(!b.env.outputs[OUTPUT_CNTP]);
}

#[test]
fn user_mode_reads_the_count_when_the_kernel_lets_it() {
    let mut b = bench();
    b.mode(mode::USR);
    assert_eq!(b.read("q15 1 c14"), Err(Refused::Undefined));
    b.mode(mode::SVC);
    b.write("p15 0 c14 c1 0", 2).unwrap();
    b.mode(mode::USR);
    assert_eq!(b.read("q15 1 c14"), Ok(0));
    assert_eq!(b.read("p15 0 c14 c0 0"), Ok(62_500_000));
    assert_eq!(b.read("q15 0 c14"), Err(Refused::Undefined));
    assert_eq!(b.read("p15 0 c14 c3 0"), Err(Refused::Undefined));
}

#[test]
fn the_cycle_counter_counts_and_overflows() {
    let mut b = bench();
    b.write("p15 0 c9 c12 0", 5).unwrap();
    b.write("p15 0 c9 c12 1", 1 << 31).unwrap();
    b.write("p15 0 c9 c14 1", 1 << 31).unwrap();
    b.env.clock_ns += 1000;
    assert_eq!(b.read("p15 0 c9 c13 0"), Ok(1000));
    b.write("p15 0 c9 c13 0", 0xffff_fff0).unwrap();
    assert_eq!(b.env.deadlines[OUTPUT_PMU], Some(1016));
    b.env.clock_ns = 1015;
    assert_eq!(b.read("p15 0 c9 c12 3"), Ok(0));
    b.env.clock_ns = 1016;
    assert_eq!(b.read("p15 0 c9 c12 3"), Ok(1 << 31));
    assert!(b.env.outputs[OUTPUT_PMU]);
    b.write("p15 0 c9 c12 3", 1 << 31).unwrap();
    assert!(!b.env.outputs[OUTPUT_PMU]);
}

#[test]
fn software_increments_count() {
    let mut b = bench();
    b.write("p15 0 c9 c12 0", 1).unwrap();
    b.write("p15 0 c9 c12 5", 2).unwrap();
    b.write("p15 0 c9 c13 1", 0).unwrap();
    b.write("p15 0 c9 c12 4", 4).unwrap();
    assert_eq!(b.read("p15 0 c9 c13 2"), Ok(0), "not enabled");
    b.write("p15 0 c9 c12 1", 4).unwrap();
    b.write("p15 0 c9 c12 4", 4).unwrap();
    b.write("p15 0 c9 c12 4", 5).unwrap();
    assert_eq!(b.read("p15 0 c9 c13 2"), Ok(2));
    assert_eq!(b.read("p15 0 c14 c8 2"), Ok(2));
    b.write("p15 0 c9 c13 2", 0xffff_ffff).unwrap();
    b.write("p15 0 c9 c12 4", 4).unwrap();
    assert_eq!((b.read("p15 0 c9 c13 2"), b.read("p15 0 c9 c12 3")), (Ok(0), Ok(4)));
}

#[test]
fn every_cpu_has_its_own_number() {
    let mut b = bench();
    b.env.count = 12;
    b.env.cpu = 9;
    assert_eq!(b.read("p15 0 c0 c0 5"), Ok(0x8000_0101));
    assert_eq!(b.arm.options.unwrap().with_affinity(0x101, 12), Some(9));
}

#[test]
fn the_gic_sees_who_asks() {
    let options = Options { gic_system_registers: true, ..Options::default() };
    let mut b = Bench::new("cortex-a15", options);
    assert_eq!(b.read("p15 0 c12 c12 0"), Err(Refused::Undefined), "no controller");
    b.env.gic = Some(Gic::default());
    b.write("p15 0 c4 c6 0", 0xf0).unwrap();
    assert_eq!(b.read("p15 0 c4 c6 0"), Ok(0xf0));
    b.write("q15 0 c12", 0x12_3456_789a).unwrap();
    let seen = b.env.gic.as_ref().unwrap().read(0x1_000c | 1 << REGISTER_LEVEL);
    assert_eq!(seen, Some(0x12_3456_789a));
}

#[test]
fn secure_registers_are_others() {
    let options = Options { secure: true, ..Options::default() };
    let mut b = Bench::new("cortex-a15", options);
    b.write("p15 0 c12 c0 0", 0x1000).unwrap();
    b.write("p15 0 c13 c0 3", 7).unwrap();
    b.mode(mode::MON);
    b.write("p15 0 c1 c1 0", 1).unwrap();
    assert_eq!((b.read("p15 0 c12 c0 0"), b.read("p15 0 c13 c0 3")), (Ok(0), Ok(0)));
    b.write("p15 0 c12 c0 0", 0x2000).unwrap();
    b.mode(mode::SVC);
    assert_eq!(b.state.u64_at(ir::state::KEY) & key::SECURE, 0);
    assert_eq!(b.read("p15 0 c12 c0 0"), Ok(0x2000));
    assert_eq!(b.read("p15 0 c1 c1 0"), Err(Refused::Undefined), "SCR is Secure");
    b.mode(mode::MON);
    b.write("p15 0 c1 c1 0", 0).unwrap();
    assert_eq!((b.read("p15 0 c12 c0 0"), b.read("p15 0 c13 c0 3")), (Ok(0x1000), Ok(7)));
}

#[test]
fn a_hypervisor_traps_registers_by_number() {
    let options = Options { virtualization: true, ..Options::default() };
    let mut b = Bench::new("cortex-a15", options);
    b.mode(mode::HYP);
    b.write("p15 4 c1 c1 3", 1 << 13).unwrap();
    b.mode(mode::SVC);
    // mrc p15, 0, r0, c13, c0, 1
    let hsr = 0x03 << 26 | 1 << 25 | 1 << 24 | 14 << 20 | 1 << 17 | 13 << 10 | 1;
    assert_eq!(b.read("p15 0 c13 c0 1"), Err(Refused::Hyp(hsr)));
    assert!(b.read("p15 0 c1 c0 0").is_ok());
}

/// A guest of a hypervisor, in Supervisor mode.
fn guest(model: &str) -> Bench {
    Bench::new(model, Options { virtualization: true, gic_system_registers: true, ..Options::default() })
}

#[test]
fn a_hypervisor_traps_what_it_wants_to() {
    use sys::{hcr, hcptr, hdcr};
    for (register, bit, names, write) in [
        (sys::HCR, hcr::TVM, &["p15 0 c1 c0 0", "p15 0 c2 c0 0", "q15 0 c2", "p15 0 c13 c0 1", "p15 0 c10 c2 0"][..], true),
        (sys::HCR, hcr::TTLB, &["p15 0 c8 c7 0", "p15 0 c8 c3 1"], true),
        (sys::HCR, hcr::TID1, &["p15 0 c0 c0 2", "p15 1 c0 c0 7"], false),
        (sys::HCR, hcr::TID2, &["p15 0 c0 c0 1", "p15 2 c0 c0 0"], false),
        (sys::HCR, hcr::TID3, &["p15 0 c0 c1 0", "p15 0 c0 c2 5"], false),
        (sys::HCR, hcr::TAC, &["p15 0 c1 c0 1"], false),
        (sys::HCR, hcr::TSW, &["p15 0 c7 c14 2"], true),
        (sys::HCR, hcr::TPC, &["p15 0 c7 c10 1"], true),
        (sys::HCR, hcr::TPU, &["p15 0 c7 c5 0"], true),
        (sys::HCR, hcr::TIDCP, &["p15 0 c9 c0 0", "p15 1 c9 c0 2", "p15 0 c11 c8 1"], false),
        (sys::HCPTR, hcptr::TCPAC, &["p15 0 c1 c0 2"], false),
        (sys::HDCR, hdcr::TPM, &["p15 0 c9 c12 0", "p15 0 c9 c13 0"], false),
        (sys::HDCR, hdcr::TPMCR, &["p15 0 c9 c12 0"], false),
        (sys::HDCR, hdcr::TDRA, &["p14 0 c1 c0 0"], false),
        (sys::HDCR, hdcr::TDOSA, &["p14 0 c1 c1 4"], false),
        (sys::HDCR, hdcr::TDA, &["p14 0 c0 c1 0"], false),
    ] {
        for name in names {
            let mut b = guest("cortex-a15");
            let access = |b: &mut Bench| if write { b.write(name, 0).map(|()| 0) } else { b.read(name) };
            assert!(!matches!(access(&mut b), Err(Refused::Hyp(_))), "{name}");
            b.state.set_u32(register, bit);
            let class = match (&name[..1], &name[1..3]) {
                ("q", _) => 0x04,
                (_, "14") => 0x05,
                _ => 0x03,
            };
            let Err(Refused::Hyp(hsr)) = access(&mut b) else { panic!("{name} is not trapped") };
            assert_eq!((hsr >> 26, hsr & 1), (class, !write as u32), "{name}");
            b.mode(mode::HYP);
            assert!(!matches!(access(&mut b), Err(Refused::Hyp(_))), "{name}: the hypervisor's own");
        }
    }
    // TGE takes most of these away, and its user programs' interrupts.
    let mut b = guest("cortex-a15");
    b.state.set_u32(sys::HCR, hcr::TVM | hcr::TGE);
    assert!(b.write("p15 0 c13 c0 1", 0).is_ok());
    // The timer's traps say which register it was.
    b.state.set_u32(sys::CNTHCTL, 0);
    assert_eq!(b.read("q15 0 c14"), Err(Refused::Hyp(0x04 << 26 | 1 << 25 | 1 << 24 | 14 << 20 | 1 << 10 | 14 << 1 | 1)));
}

#[test]
fn a_hypervisor_keeps_event_counters_for_itself() {
    use sys::hdcr;
    let mut b = guest("cortex-a15");
    let n = |b: &mut Bench| b.read("p15 0 c9 c12 0").unwrap() >> 11 & 31;
    assert_eq!(n(&mut b), 6);
    b.mode(mode::HYP);
    b.write("p15 4 c1 c1 1", 4).unwrap();
    // All counters count software increments; PMCR is off.
    b.write("p15 0 c9 c12 1", 0x3f).unwrap();
    assert_eq!((n(&mut b), b.read("p15 0 c9 c12 1").unwrap()), (6, 0x3f));
    let count = |b: &mut Bench, counter: u64| {
        b.write("p15 0 c9 c12 5", counter).unwrap();
        b.read("p15 0 c9 c13 2").unwrap()
    };
    b.write("p15 0 c9 c12 4", 0x3f).unwrap();
    assert_eq!([0, 3, 4, 5].map(|counter| count(&mut b, counter)), [0; 4]);
    b.write("p15 4 c1 c1 1", u64::from(4 | hdcr::HPME)).unwrap();
    b.write("p15 0 c9 c12 4", 0x3f).unwrap();
    assert_eq!([0, 3, 4, 5].map(|counter| count(&mut b, counter)), [0, 0, 1, 1]);
    b.mode(mode::SVC);
    assert_eq!((n(&mut b), b.read("p15 0 c9 c12 1").unwrap()), (4, 0xf));
    assert_eq!(count(&mut b, 4), 0, "not the guest's");
    // The guest's PMCR is for its own, and so is its reset of the counters.
    b.write("p15 0 c9 c12 0", 1).unwrap();
    b.write("p15 0 c9 c12 4", 0x3f).unwrap();
    assert_eq!(count(&mut b, 3), 1);
    b.write("p15 0 c9 c12 0", 3).unwrap();
    assert_eq!(count(&mut b, 3), 0);
    b.mode(mode::HYP);
    assert_eq!(count(&mut b, 4), 1);
}

#[test]
fn a_guest_has_the_virtual_interface_where_its_hypervisor_wants_it() {
    let mut b = guest("cortex-a15");
    b.env.gic = Some(Gic::default());
    let number = |b: &mut Bench, name: &str| {
        b.env.gic = Some(Gic::default());
        b.write(name, 5).unwrap();
        b.env.gic.as_ref().and_then(|g| g.0.lock().unwrap().keys().next().copied()).unwrap()
    };
    assert_eq!(number(&mut b, "p15 0 c4 c6 0"), 0x0460 | 1 << REGISTER_LEVEL);
    b.state.set_u32(sys::HCR, sys::hcr::IMO);
    assert_eq!(number(&mut b, "p15 0 c4 c6 0"), 0x0460 | 1 << REGISTER_LEVEL | gic::REGISTER_VIRTUAL_IRQ);
    assert!(matches!(b.write("q15 0 c12", 1), Err(Refused::Hyp(_))), "software interrupts are the hypervisor's");
    assert_eq!(b.write("p15 4 c12 c11 0", 0), Err(Refused::Undefined));
    b.mode(mode::HYP);
    assert_eq!(number(&mut b, "p15 4 c12 c11 0"), 0x4cb0 | 2 << REGISTER_LEVEL);
    // ICH_HCR.TALL1.
    b.env.gic.as_ref().unwrap().0.lock().unwrap().insert(0x4cb0, 1 << 12);
    b.mode(mode::SVC);
    assert!(matches!(b.read("p15 0 c12 c12 0"), Err(Refused::Hyp(_))) && b.read("p15 0 c12 c8 0").is_ok());
}

#[test]
fn virtual_interrupts_of_hcr_are_inputs() {
    let mut b = guest("cortex-a15");
    b.mode(mode::HYP);
    b.write("p15 4 c1 c1 0", (sys::hcr::VI | sys::hcr::IMO).into()).unwrap();
    assert_eq!(b.env.inputs, crate::exception::HYP_VIRTUAL_IRQ);
    assert_eq!(b.read("p15 0 c12 c1 0"), Ok(0), "ISR in Hyp mode has the physical ones");
    b.mode(mode::SVC);
    assert_eq!(b.read("p15 0 c12 c1 0"), Ok(0x80));
    b.mode(mode::HYP);
    b.write("p15 4 c1 c1 0", 0).unwrap();
    assert_eq!(b.env.inputs, 0);
}

/// A guest whose first stage is off and whose second maps 2 MiB at 1 GiB for reading, by a table of level 1 at 0x4000.
fn two_stages(b: &mut Bench) {
    let entries = [(0x4000, 0), (0x4008, 0x5003), (0x4010, 0), (0x5000, 0x8000_047d), (0x5008, 0)];
    b.env.memory.borrow_mut().extend(entries.iter().flat_map(|&(a, d)| [(a, d), (a + 4, 0)]));
    b.env.memory.borrow_mut().insert(0x8000_0100, 0xe581_3000); // str r3, [r1]
    b.state.set_u64(sys::VTTBR, 0x4000);
    b.state.set_u32(sys::VTCR, 0x40);
    b.state.set_u32(sys::HCR, sys::hcr::VM);
    b.mode(mode::SVC);
    state::write_pc(&mut b.state, 0x4000_0100);
}

#[test]
fn faults_of_the_second_stage_go_to_the_hypervisor_with_a_description() {
    use cpu::Access;
    use cpu::system::{Failure, System};
    for (model, il) in [("cortex-a15", 0u32), ("max", 1 << 25)] {
        let fail = |addr: u64, access: Access| {
            let mut b = guest(model);
            two_stages(&mut b);
            let why = b.arm.walk(&b.state, 1, addr, access, b.env.physical()).expect_err("a fault");
            let arm = b.arm;
            arm.fail(&mut b.state, &mut b.env, 1, addr, access, Failure::Walk(why));
            assert_eq!(state::read_cpsr(&b.state) & 15, mode::HYP);
            assert_eq!((state::read_pc(&b.state), b.state.u32_at(state::bank::ELR_HYP)), (0x14, 0x4000_0100));
            [sys::HSR, sys::HPFAR, sys::HDFAR, sys::HIFAR].map(|r| b.state.u32_at(r))
        };
        // A write where only reads are allowed: a permission fault of level 2, by a word store of r3.
        let described = 0x24 << 26 | 1 << 25 | 1 << 24 | 2 << 22 | 3 << 16 | 1 << 6;
        assert_eq!(fail(0x4000_0ff4, Access::Write), [described | 0x0e, 0x40_0000, 0x4000_0ff4, 0]);
        assert_eq!(fail(0x4020_0000, Access::Write), [described | 0x06, 0x40_2000, 0x4020_0000, 0]);
        assert_eq!(fail(0x2000, Access::Execute), [0x20 << 26 | il | 0x05, 0x20, 0, 0x2000]);
    }
}

#[test]
fn address_translation_goes_by_both_stages() {
    let mut b = guest("cortex-a15");
    two_stages(&mut b);
    // The guest's own view is of intermediate addresses.
    b.write("p15 0 c7 c8 0", 0x4000_1234).unwrap();
    assert_eq!(b.read("q15 0 c7").unwrap() & 0xff_ffff_f001, 0x4000_1000);
    b.mode(mode::HYP);
    for (op, va, par) in [
        ("p15 0 c7 c8 4", 0x4000_1234, 0x8000_1b00),
        ("p15 0 c7 c8 5", 0x4000_1234, 0xa1d),
        ("p15 0 c7 c8 4", 0x1_0000, 0xa0b),
    ] {
        b.write(op, va).unwrap();
        assert_eq!(b.read("q15 0 c7").unwrap(), par, "{op} {va:#x}");
    }
    // With the first stage's table where the second has nothing, the guest's operation is taken from it.
    b.mode(mode::SVC);
    b.state.set_u32(sys::SCTLR, 1);
    b.state.set_u64(sys::TTBR0, 0x8000);
    let Err(Refused::SecondStage { addr, detail, hpfar }) = b.write("p15 0 c7 c8 0", 0x4000_1234) else { panic!("no trap") };
    assert_eq!((addr, detail, hpfar), (0x4000_1234, 0x1c5, 0x90));
    b.mode(mode::HYP);
    b.write("p15 0 c7 c8 4", 0x4000_1234).unwrap();
    assert_eq!(b.read("q15 0 c7").unwrap(), 0xb0b);
}

#[test]
fn names_are_unique_and_places_do_not_overlap() {
    let mut names: Vec<&str> = rows().map(|r| r.name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(count > 200);
    assert_eq!(by_name(&bench().arm, &bench().state, "sctlr"), Some(0x00c5_0078));
}
