//! Vector and floating-point lowering without running it: the host instructions of typical operations against a recorded
//! list (`BLESS=1` rewrites it), and that a processor is given only what it has.

use iced_x86::{Decoder, DecoderOptions};
use ir::{Builder, FpFmt, FpMode, Layout, Op, Ty, Val};
use x64::env::{Features, Memory, Offsets, Pins, StubOffsets};
use x64::{Compiler, Env};

fn env(features: Features) -> Env {
    let layout = Layout { pinned: vec![], names: vec![], address_bits: 32, page: None };
    Env {
        features,
        pins: Pins::new(&layout),
        layout,
        memory: Memory::Window32,
        offsets: Offsets { functions: 4096, guest_mxcsr: 4104, result: 4112, ..Offsets::default() },
        stubs: StubOffsets::default(),
        fix_up_alignment: true,
        alone: false,
        helpers: vec![],
    }
}

/// Compiles `op` of two loaded operands with its result stored; gives the mnemonics up to the exit, and the whole code.
fn compile(features: Features, bytes: u8, op: &dyn Fn(&mut Builder, Val, Val) -> Val) -> (Vec<String>, Vec<u8>) {
    let mut b = Builder::new();
    b.begin(0x1000, 0x1000);
    b.insn(0, 0);
    let (x, y) = (b.get(Ty::V128, 128, bytes), b.get(Ty::V128, 144, bytes));
    let r = op(&mut b, x, y);
    match b.ty(r) {
        Ty::V128 => b.set(160, bytes, r),
        _ => b.set32(160, r),
    }
    b.exit(0x2000);
    let mut c = Compiler::new();
    c.compile(b.region_mut(), &env(features), 0, 0).expect("a small region");
    let end = c.compiled.exits[0].patch as usize - 1;
    let code = c.asm.code().to_vec();
    let main = Decoder::with_ip(64, &code[..end], 0, DecoderOptions::NONE)
        .iter()
        .filter(|i| i.mnemonic() != iced_x86::Mnemonic::Nop)
        .map(|i| format!("{:?}", i.mnemonic()).to_lowercase())
        .collect();
    (main, code)
}

type Case = (&'static str, u8, fn(&mut Builder, Val, Val) -> Val);

const CASES: &[Case] = &[
    ("vadd.16", 16, |b, x, y| b.vadd(1, x, y)),
    ("vmul.8", 16, |b, x, y| b.vmul(0, x, y)),
    ("vsari.64 40", 16, |b, x, _| b.vsari(3, x, 40)),
    ("vshls.32", 16, |b, x, y| b.vshls(2, x, y)),
    ("vcmpgtu.8", 16, |b, x, y| b.vcmpgtu(0, x, y)),
    ("vaddss.32", 16, |b, x, y| b.vaddss(2, x, y)),
    ("vtbl", 16, |b, x, y| b.vtbl(x, y)),
    ("vpopcnt", 16, |b, x, _| b.vpopcnt(x)),
    ("fpadd.f32 default", 4, |b, x, y| b.fp_add(FpFmt::F32, FpMode::ARM, x, y)),
    ("fpmul.f64 default", 8, |b, x, y| b.fp_mul(FpFmt::F64, FpMode::ARM, x, y)),
    ("fpfma.f64 default", 8, |b, x, y| b.fp_fma(FpFmt::F64, FpMode::ARM, x, y, x)),
    ("fpcmp.f64 default", 8, |b, x, y| b.fp_cmp(FpFmt::F64, FpMode::ARM, x, y, false)),
    ("fptoint.f64 s32", 8, |b, x, _| {
        let m = FpMode(3);
        b.fp_to_int(FpFmt::F64, m, x, true, 2, 0)
    }),
    ("fpcvt.f32 f64", 4, |b, x, _| b.fp_cvt(FpFmt::F32, FpFmt::F64, FpMode::ARM, x)),
    ("fpadd.v32 standard", 16, |b, x, y| b.fp_add(FpFmt::V32, FpMode::ARM_STANDARD, x, y)),
    ("fpmul.v32 standard", 16, |b, x, y| b.fp_mul(FpFmt::V32, FpMode::ARM_STANDARD, x, y)),
    ("fpcmpmask.v32 standard", 16, |b, x, y| b.fp_cmp_mask(FpFmt::V32, FpMode::ARM_STANDARD, x, y, 1)),
];

#[test]
fn host_instructions_of_typical_operations() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lanes.txt");
    let mut text =
        String::from("# Host instructions of the main path, loads and store included. BLESS=1 rewrites this file.\n");
    for (name, bytes, op) in CASES {
        let (main, _) = compile(Features::ALL, *bytes, op);
        text += &format!("{name}: {} {}\n", main.len(), main.join(" "));
    }
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let recorded = std::fs::read_to_string(path).unwrap();
    for (want, got) in recorded.lines().zip(text.lines()) {
        assert_eq!(want, got, "if the new code is as good, run with BLESS=1");
    }
    assert_eq!(recorded.lines().count(), text.lines().count());
}

/// Every operation of vectors, with every lane size and some immediates.
fn every_operation(mut each: impl FnMut(Op, &dyn Fn(&mut Builder, Val, Val) -> Val)) {
    for &op in Op::ALL {
        let fp = op.name().starts_with("fp");
        let takes_vectors = op.name().starts_with('v') || fp;
        if !takes_vectors
            || matches!(
                op,
                Op::VConst | Op::VCall | Op::VDup | Op::VInsert | Op::VExtract | Op::FpFlagsGet | Op::FpFlagsSet
            )
        {
            continue;
        }
        for (aux, fl) in [(0, 0), (1, 0), (2, 0), (3, 0), (0x82, 0), (0x83, 0), (0x82, 24), (2, 24)] {
            if fp == (aux == 0) || !fp && aux > 3 {
                continue;
            }
            let widens = matches!(op, Op::VWidenS | Op::VWidenU | Op::VMulWideS | Op::VMulWideU | Op::VRev);
            let narrows = matches!(op, Op::VNarrow | Op::VNarrowSS | Op::VNarrowSU | Op::VNarrowUU);
            if widens && aux == 3 || narrows && aux == 0 {
                continue;
            }
            each(op, &|b, x, y| {
                let kinds = op.info().operands;
                let raw: [u32; 3] = std::array::from_fn(|k| match kinds[k] {
                    ir::ops::Operand::Value => [x.0, y.0, x.0][k],
                    ir::ops::Operand::Imm if op == Op::VRev => 3,
                    ir::ops::Operand::Imm if op == Op::FpCvt => aux as u32 ^ 1,
                    ir::ops::Operand::Imm if matches!(op, Op::FpToInt | Op::FpFromInt) => 5,
                    ir::ops::Operand::Imm => 1,
                    ir::ops::Operand::None => u32::MAX,
                });
                b.push(op, if op == Op::FpCmp { Ty::I32 } else { Ty::V128 }, aux, fl, raw[0], raw[1], raw[2])
            });
        }
    }
}

fn does_without(features: Features, extensions: &[&str]) {
    every_operation(|op, build| {
        let (_, code) = compile(features, 16, build);
        for i in &mut Decoder::with_ip(64, &code, 0, DecoderOptions::NONE) {
            // Behind the last jump there are constants.
            if i.is_invalid() {
                break;
            }
            let missing = |f: &&iced_x86::CpuidFeature| extensions.contains(&format!("{f:?}").as_str());
            assert_eq!(i.cpuid_features().iter().find(missing), None, "{} uses {:?}", op.name(), i.mnemonic());
            if i.mnemonic() == iced_x86::Mnemonic::Jmp && i.next_ip() as usize >= code.len() {
                break;
            }
        }
    });
}

#[test]
fn a_processor_is_given_what_it_has() {
    let sse2 = Features::default();
    let sse41 = Features { sse41: true, ..sse2 };
    let avx = Features { avx: true, ..sse41 };
    does_without(sse2, &["SSSE3", "SSE4_1", "SSE4_2", "AVX", "AVX2", "FMA"]);
    does_without(sse41, &["SSE4_2", "AVX", "AVX2", "FMA"]);
    does_without(avx, &["AVX2", "FMA"]);
}
