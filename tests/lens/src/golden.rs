//! The host code of typical instruction sequences against a recorded page (`cargo xtask bless` rewrites it): a change of the
//! translator that costs instructions is seen without measuring time.
//!
//! Recorded are the sizes and the instructions of the main path, for a processor with everything that the back end uses.

use crate::explain::{Words, environment, region_of};
use crate::sets::Set::{self, A32, T32};
use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use std::fmt::Write;
use x64::env::Features;

/// (name, instruction set, assembly, its words; Thumb words of four digits are 16-bit instructions)
type Case = (&'static str, Set, &'static str, &'static str);

#[rustfmt::skip]
const CASES: &[Case] = &[
    ("data processing", A32, "add r0, r1, r2; sub r3, r0, r1, lsl #2; eor r2, r2, r3, ror #7; bic r1, r2, #0xff", "e0810002 e0403101 e02223e3 e3c210ff"),
    ("flags and a branch", A32, "subs r0, r0, #1; bne .-4", "e2500001 1afffffd"),
    ("compare and branch", A32, "cmp r0, r1; bhi .+16", "e1500001 8a000002"),
    ("carry chain", A32, "adds r0, r0, r2; adcs r1, r1, r3; adc r4, r4, #0", "e0900002 e0b11003 e2a44000"),
    ("conditional moves", A32, "cmp r0, #5; movgt r0, #5; movle r1, r0", "e3500005 c3a00005 d1a01000"),
    ("conditional run", A32, "tst r0, #1; addne r1, r1, r2; eorne r3, r3, r1", "e3100001 10811002 10233001"),
    ("shift by register with flags", A32, "movs r0, r1, lsl r2; orr r3, r0, r1, asr r4", "e1b00211 e1803451"),
    ("multiply and divide", A32, "mla r0, r1, r2, r3; umull r4, r5, r0, r1; sdiv r6, r4, r5; udiv r7, r4, r5", "e0203291 e0854190 e716f514 e737f514"),
    ("saturating", A32, "qadd r0, r1, r2; ssat r3, #8, r0; usat r4, #5, r1, asr #3", "e1020051 e6a73010 e6e541d1"),
    ("bytes in words", A32, "uadd8 r0, r1, r2; sel r3, r1, r2; usad8 r4, r1, r2; rev r5, r4", "e6510f92 e6813fb2 e784f211 e6bf5f34"),
    ("bit fields", A32, "ubfx r0, r1, #3, #9; bfi r2, r0, #16, #8; clz r3, r2; rbit r4, r3; sxtah r5, r4, r0", "e7e801d1 e7d72810 e16f3f12 e6ff4f33 e6b45070"),
    ("load and store", A32, "ldr r0, [r1, #4]; str r0, [r2, r3, lsl #2]; ldrb r4, [r1], #1; strh r4, [r2, #-2]!", "e5910004 e7820103 e4d14001 e16240b2"),
    ("doublewords", A32, "ldrd r0, r1, [r2, #8]; strd r0, r1, [r3]", "e1c200d8 e1c300f0"),
    ("many registers", A32, "push {r4-r7, lr}; ldm r0, {r1-r6}; stmia r8!, {r1-r3}; pop {r4-r7, pc}", "e92d40f0 e890007e e8a8000e e8bd80f0"),
    ("copy loop", A32, "ldr r3, [r1], #4; subs r2, r2, #1; str r3, [r0], #4; bne .-12", "e4913004 e2522001 e4803004 1afffffb"),
    ("call", A32, "mov r0, r4; bl .+4096", "e1a00004 eb0003fe"),
    ("return", A32, "add r0, r0, r1; bx lr", "e0800001 e12fff1e"),
    ("call by register", A32, "ldr r3, [r4, #12]; blx r3", "e594300c e12fff33"),
    ("jump table", A32, "cmp r0, #7; ldrls pc, [pc, r0, lsl #2]", "e3500007 979ff100"),
    ("exclusive add", A32, "ldrex r0, [r1]; add r0, r0, #1; strex r2, r0, [r1]; cmp r2, #0; bne .-16", "e1910f9f e2800001 e1812f90 e3520000 1afffffa"),
    ("barrier", A32, "dmb ish; ldr r0, [r1]; dmb ish", "f57ff05b e5910000 f57ff05b"),
    ("thread pointer", A32, "mrc p15, 0, r0, c13, c0, 3; ldr r0, [r0, #-8]", "ee1d0f70 e5100008"),
    ("system call", A32, "mov r7, #20; svc 0", "e3a07014 ef000000"),
    ("status register", A32, "mrs r0, cpsr; msr cpsr_f, r1", "e10f0000 e128f001"),
    ("string loop", T32, "ldrb r3, [r0, #0]; adds r0, r0, #1; cmp r3, #0; bne loop", "7803 3001 2b00 d1fb"),
    ("small function", T32, "push {r4, lr}; movs r4, r0; adds r0, r4, r1; lsls r0, r0, #3; subs r0, #1; pop {r4, pc}", "b510 0004 1860 00c0 3801 bd10"),
    ("if then else", T32, "cmp r0, r1; ite lt; movlt r2, r0; movge r2, r1", "4288 bfb4 4602 460a"),
    ("compare with zero", T32, "cbz r0, .+8", "b110"),
    ("wide operations", T32, "add.w r0, r1, r2, lsl #3; ldr.w r3, [r4, #260]; ubfx r5, r3, #4, #12; str.w r5, [r6, r7, lsl #2]", "eb0100c2 f8d43104 f3c3150b f8465027"),
    ("table branch", T32, "tbb [pc, r0]", "e8dff000"),
    ("single floats", A32, "vldr s0, [r0]; vldr s1, [r1]; vmla.f32 s2, s0, s1; vstr s2, [r2]", "ed900a00 edd10a00 ee001a20 ed821a00"),
    ("double floats", A32, "vadd.f64 d0, d1, d2; vmul.f64 d3, d0, d1; vdiv.f64 d4, d3, d0; vsqrt.f64 d5, d4", "ee310b02 ee203b01 ee834b00 eeb15bc4"),
    ("fused", A32, "vfma.f64 d0, d1, d2; vfnms.f32 s6, s7, s8", "eea10b02 ee933a84"),
    ("float compare and branch", A32, "vcmpe.f64 d0, d1; vmrs APSR_nzcv, fpscr; bgt .+16", "eeb40bc1 eef1fa10 ca000002"),
    ("conversions", A32, "vcvt.s32.f64 s0, d1; vcvt.f64.u32 d2, s0; vcvt.f32.f64 s4, d2; vmov r0, s4", "eebd0bc1 eeb82b40 eeb72bc2 ee120a10"),
    ("integer vectors", A32, "vadd.i32 q0, q1, q2; vmul.i16 q3, q0, q1; vshl.u8 q4, q3, #3; vceq.i8 q5, q4, q0; vbsl q5, q0, q1", "f2220844 f2106952 f28b8556 f308a850 f310a152"),
    ("float vectors", A32, "vmla.f32 q0, q1, q2; vmul.f32 q3, q0, d4[1]; vmax.f32 q1, q3, q0; vcgt.f32 q2, q1, q3", "f2020d54 f3a06964 f2062f40 f3224e46"),
    ("widening", A32, "vmull.s16 q0, d2, d3; vaddw.u8 q1, q0, d4; vqmovn.s32 d0, q1; vpadd.i16 d1, d0, d2", "f2920c03 f3802104 f3b60282 f2101b12"),
    ("vector loads", A32, "vld1.32 {d0-d3}, [r0]!; vadd.i32 q0, q0, q1; vst1.32 {d0-d1}, [r1]!; vld2.8 {d4-d5}, [r2]", "f420028d f2200842 f4010a8d f422480f"),
    ("permutation", A32, "vzip.16 q0, q1; vext.8 q2, q0, q1, #5; vtbl.8 d6, {d0-d1}, d7; vrev64.32 q4, q2; vdup.8 q5, r3", "f3b601c2 f2b04542 f3b06907 f3b88044 eeea3b10"),
    ("cryptography", A32, "aese.8 q0, q1; aesmc.8 q0, q0; sha256h.32 q2, q3, q0; crc32w r0, r0, r1", "f3b00302 f3b00380 f3064c40 e1400041"),
];

/// The page.
fn page() -> String {
    let mut text = String::from(
        "# Host code of typical ARM instructions: sizes, and the instructions of the main path. `cargo xtask bless` rewrites this page.\n",
    );
    let (mut main_total, mut total) = (0, 0);
    for &(name, set, assembly, words) in CASES {
        let (code, main) = compile(set, words);
        let path: Vec<String> = Decoder::with_ip(64, &code[..main], 0, DecoderOptions::NONE)
            .iter()
            .filter(|i| i.mnemonic() != Mnemonic::Nop)
            .map(|i| format!("{:?}", i.mnemonic()).to_lowercase())
            .collect();
        main_total += path.len();
        total += code.len();
        let _ = writeln!(text, "\n{name}: {assembly}\n  {} instructions, {main} bytes; {} with what is rare\n  {}", path.len(), code.len(), path.join(" "));
    }
    let _ = writeln!(text, "\ntogether: {main_total} instructions on main paths, {total} bytes");
    text
}

/// The host code of the words as one region, and how much of it is the main path.
fn compile(set: Set, words: &str) -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    let mut count = 0;
    for word in words.split(' ') {
        let value = u32::from_str_radix(word, 16).expect("a word in hexadecimal");
        bytes.extend(if word.len() == 4 { Set::T16.bytes(value) } else { set.bytes(value) });
        count += 1;
    }
    let (guest, mut region) = region_of(set, &Words(bytes), count);
    let mut compiler = x64::Compiler::new();
    let env = environment(&guest, Features::ALL);
    compiler.compile(&mut region, &env, 0, 0).expect("a small region");
    (compiler.asm.code().to_vec(), compiler.compiled.main)
}

#[test]
fn host_code_is_as_recorded() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden.txt");
    let page = page();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let recorded = std::fs::read_to_string(path).unwrap_or_default();
    for (want, got) in recorded.split("\n\n").zip(page.split("\n\n")) {
        assert_eq!(want, got, "if the new code is as good, run `cargo xtask bless`");
    }
    assert_eq!(recorded.len(), page.len(), "run `cargo xtask bless`");
}

#[test]
fn every_word_is_an_instruction() {
    for (name, set, _, words) in CASES {
        for word in words.split(' ') {
            let value = u32::from_str_radix(word, 16).unwrap();
            let row = if word.len() == 4 { Set::T16.find(value) } else { set.find(value) };
            assert!(row.is_some_and(|r| r.handler.is_some()), "{name}: {word}");
        }
    }
}
