//! Time per vector and floating-point operation in translated code: `cargo run --release -p jit --example lanes`.
//!
//! Each line is a loop of independent operations on loaded operands. The last column has the same operation in a mode that
//! is left to the runtime (a directed rounding), where there is one.

use cpu::{Code, Guest, Limits, Register};
use ir::{Builder, FpFmt, FpMode, Helper, Layout, Loc, Op, State, TrapKind, Ty, Val};
use jit::{Config, Engine, Space, Stop, Vcpu};
use std::sync::Arc;
use std::time::Instant;

const OPS: u32 = 16;
const ROUNDS: u32 = 200_000;
const VECS: u32 = 128;

type Build = fn(&mut Builder, FpMode, Val, Val) -> Val;

const CASES: &[(&str, Build, FpMode, [u32; 2])] = &[
    ("vadd.32", |b, _, x, y| b.vadd(2, x, y), FpMode::ARM, [5, 7]),
    ("vmul.8", |b, _, x, y| b.vmul(0, x, y), FpMode::ARM, [5, 7]),
    ("vshls.16", |b, _, x, y| b.vshls(1, x, y), FpMode::ARM, [5, 7]),
    ("vaddss.32", |b, _, x, y| b.vaddss(2, x, y), FpMode::ARM, [5, 7]),
    ("vtbl", |b, _, x, y| b.vtbl(x, y), FpMode::ARM, [5, 7]),
    ("fpadd.f32", |b, m, x, y| b.fp_add(FpFmt::F32, m, x, y), FpMode::ARM, [0x3f80_0001, 0x4012_3456]),
    ("fpmul.f32", |b, m, x, y| b.fp_mul(FpFmt::F32, m, x, y), FpMode::ARM, [0x3f80_0001, 0x4012_3456]),
    ("fpdiv.f64", |b, m, x, y| b.fp_div(FpFmt::F64, m, x, y), FpMode::ARM, [0x3f80_0001, 0x4012_3456]),
    ("fpcmp.f32", |b, m, x, y| b.fp_cmp(FpFmt::F32, m, x, y, false), FpMode::ARM, [0x3f80_0001, 0x4012_3456]),
    ("fpadd.v32 std", |b, m, x, y| b.fp_add(FpFmt::V32, m, x, y), FpMode::ARM_STANDARD, [0x3f80_0001, 0x4012_3456]),
    ("fpmul.v32 std", |b, m, x, y| b.fp_mul(FpFmt::V32, m, x, y), FpMode::ARM_STANDARD, [0x3f80_0001, 0x4012_3456]),
    ("fpmul.v32 std, NaN", |b, m, x, y| b.fp_mul(FpFmt::V32, m, x, y), FpMode::ARM_STANDARD, [0x7fc0_0001, 0x4012_3456]),
];

/// A key is a case and whether its mode is the slow one.
struct Loops {
    layout: Layout,
}

impl Guest for Loops {
    fn name(&self) -> &'static str {
        "loops"
    }
    fn layout(&self) -> &Layout {
        &self.layout
    }
    fn helpers(&self) -> &[Helper] {
        &[]
    }
    fn reset(&self, _state: &mut State) {}
    fn translate(&self, key: u64, _limits: Limits, _code: &dyn Code, b: &mut Builder) {
        b.insn(0, 0);
        if key & 0x100 != 0 {
            b.trap(TrapKind::Breakpoint, 0, key);
            return;
        }
        let (_, build, mode, _) = CASES[key as usize >> 4 & 15];
        let mode = if key & 8 != 0 { FpMode(mode.0 | 1) } else { mode };
        for n in 0..OPS {
            let x = b.get(Ty::V128, VECS, 16);
            let y = b.get(Ty::V128, VECS + 16, 16);
            let v = build(b, mode, x, y);
            match b.ty(v) {
                Ty::V128 => b.set(VECS + 64 + 16 * n, 16, v),
                _ => b.set32(VECS + 64 + 16 * n, v),
            }
        }
        let count = b.get32(16);
        let one = b.i32(1);
        let count = b.sub(count, one);
        b.set32(16, count);
        b.exit_nz(count, key);
        b.exit(0x100);
    }
    fn pc(&self, key: u64) -> u64 {
        key
    }
    fn key_at(&self, key: u64, _delta: i32, _note: u32) -> u64 {
        key
    }
    fn flags_dead(&self, _key: u64, _code: &dyn Code) -> Option<(u64, u32)> {
        None
    }
    fn disassemble(&self, _key: u64, _code: &dyn Code) -> (String, u32) {
        (String::new(), 4)
    }
    fn registers(&self) -> &[Register] {
        &[]
    }
    fn read_register(&self, _state: &State, _number: usize) -> u128 {
        0
    }
    fn write_register(&self, _state: &mut State, _number: usize, _value: u128) {}
    fn dump(&self, _state: &State) -> String {
        String::new()
    }
}

fn measure(vcpu: &mut Vcpu, case: usize, slow: bool) -> f64 {
    let [x, y] = CASES[case].3;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let rounds = if slow { ROUNDS / 20 } else { ROUNDS };
        let s = vcpu.state_mut();
        for n in 0..4 {
            s.set_u32(VECS + 4 * n, x);
            s.set_u32(VECS + 16 + 4 * n, y);
        }
        s.set_u32(16, rounds);
        s.set_u64(ir::state::KEY, (case as u64) << 4 | (slow as u64) << 3);
        let start = Instant::now();
        assert!(matches!(vcpu.run(), Stop::Trap { kind: TrapKind::Breakpoint, .. }));
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / (rounds * OPS) as f64);
    }
    best
}

fn main() {
    let layout = Layout { pinned: vec![Loc { offset: 16, size: 4 }], names: vec![], address_bits: 32, page: None };
    let space = Space::new_32bit().expect("address space");
    let engine = Engine::new(Arc::new(Loops { layout }), space, Config::default()).expect("engine");
    let mut vcpu = Vcpu::new(&engine);
    println!("{:20} {:>8} {:>8}", "ns per operation", "inline", "runtime");
    for (n, (name, ..)) in CASES.iter().enumerate() {
        let inline = measure(&mut vcpu, n, false);
        let runtime = match Op::by_name(name.split(['.', ' ']).next().unwrap_or("")) {
            Some(op) if op.has(ir::ops::READS_STATE) && op != Op::FpCmp => format!("{:8.2}", measure(&mut vcpu, n, true)),
            _ => String::new(),
        };
        println!("{name:20} {inline:8.2} {runtime:>8}");
    }
}
