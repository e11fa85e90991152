//! Integer instructions: every public method of `int.rs` with random operands.

use super::*;

/// Emits one random instruction and says how it reads.
type Case = (&'static str, fn(&mut Rng, &mut Asm) -> String);

const ALUS: [(Alu, &str); 8] = [
    (Alu::Add, "add"),
    (Alu::Or, "or"),
    (Alu::Adc, "adc"),
    (Alu::Sbb, "sbb"),
    (Alu::And, "and"),
    (Alu::Sub, "sub"),
    (Alu::Xor, "xor"),
    (Alu::Cmp, "cmp"),
];
const SHIFTS: [(Shift, &str); 7] = [
    (Shift::Rol, "rol"),
    (Shift::Ror, "ror"),
    (Shift::Rcl, "rcl"),
    (Shift::Rcr, "rcr"),
    (Shift::Shl, "shl"),
    (Shift::Shr, "shr"),
    (Shift::Sar, "sar"),
];
const BITS: [(BitTest, &str); 4] =
    [(BitTest::Bt, "bt"), (BitTest::Bts, "bts"), (BitTest::Btr, "btr"), (BitTest::Btc, "btc")];
const HIGHS: [(High, &str); 4] = [(High::Ah, "ah"), (High::Ch, "ch"), (High::Dh, "dh"), (High::Bh, "bh")];
const CONDITIONS: [&str; 16] =
    ["o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"];

fn condition(r: &mut Rng) -> (Cc, &'static str) {
    let n = r.below(16) as usize;
    (Cc::ALL[n], CONDITIONS[n])
}

/// One of the registers with a high byte.
fn old(r: &mut Rng) -> Gpr {
    Gpr(r.below(4) as u8)
}

/// `name`: ModR/M operand of size `w`.
macro_rules! unary {
    ($($method:ident)*) => { { const LIST: &[Case] = &[$((stringify!($method), |r, a| {
        let (w, x) = (r.w(), r.rm());
        a.$method(w, x);
        format!("{} {}", stringify!($method), rm(w, &x))
    })),*]; LIST } };
}

/// `name reg, rm` of the same size, from the sizes given.
macro_rules! reg_rm {
    ($($method:ident $name:literal $sizes:ident)*) => { { const LIST: &[Case] = &[$((stringify!($method), |r, a| {
        let (w, d, x) = (r.$sizes(), r.gpr(), r.rm());
        a.$method(w, d, x);
        format!("{} {}, {}", $name, reg(w, d), rm(w, &x))
    })),*]; LIST } };
}

/// `name rm, reg` of the same size.
macro_rules! rm_reg {
    ($($method:ident $name:literal $sizes:ident)*) => { { const LIST: &[Case] = &[$((stringify!($method), |r, a| {
        let (w, x, s) = (r.$sizes(), r.rm(), r.gpr());
        a.$method(w, x, s);
        format!("{} {}, {}", $name, rm(w, &x), reg(w, s))
    })),*]; LIST } };
}

/// `name reg, reg, rm`.
macro_rules! vex_middle {
    ($($method:ident)*) => { { const LIST: &[Case] = &[$((stringify!($method), |r, a| {
        let (w, d, m, x) = (r.w48(), r.gpr(), r.gpr(), r.rm());
        a.$method(w, d, m, x);
        format!("{} {}, {}, {}", stringify!($method), reg(w, d), reg(w, m), rm(w, &x))
    })),*]; LIST } };
}

/// `name reg, rm, reg`.
macro_rules! vex_last {
    ($($method:ident)*) => { { const LIST: &[Case] = &[$((stringify!($method), |r, a| {
        let (w, d, x, c) = (r.w48(), r.gpr(), r.rm(), r.gpr());
        a.$method(w, d, x, c);
        format!("{} {}, {}, {}", stringify!($method), reg(w, d), rm(w, &x), reg(w, c))
    })),*]; LIST } };
}

/// `name` alone.
macro_rules! bare {
    ($($method:ident)*) => { { const LIST: &[Case] = &[$((stringify!($method), |_, a| {
        a.$method();
        stringify!($method).to_string()
    })),*]; LIST } };
}

/// `name mem`, whose size the disassembler shows as given.
macro_rules! memory {
    ($($method:ident $name:literal $size:literal)*) => { { const LIST: &[Case] = &[$((stringify!($method), |r, a| {
        let m = r.mem();
        a.$method(m);
        format!("{} {}{}", $name, $size, address(&m))
    })),*]; LIST } };
}

fn arithmetic() -> Vec<Case> {
    const LIST: &[Case] = &[
        ("alu_rr", |r, a| {
            let ((op, name), w, d, s) = (r.pick(&ALUS), r.w(), r.gpr(), r.gpr());
            a.alu_rr(op, w, d, s);
            format!("{name} {}, {}", reg(w, d), reg(w, s))
        }),
        ("alu_r_rm", |r, a| {
            let ((op, name), w, d, x) = (r.pick(&ALUS), r.w(), r.gpr(), r.rm());
            a.alu_r_rm(op, w, d, x);
            format!("{name} {}, {}", reg(w, d), rm(w, &x))
        }),
        ("alu_rm_r", |r, a| {
            let ((op, name), w, x, s) = (r.pick(&ALUS), r.w(), r.rm(), r.gpr());
            a.alu_rm_r(op, w, x, s);
            format!("{name} {}, {}", rm(w, &x), reg(w, s))
        }),
        ("alu_rm_imm", |r, a| {
            let ((op, name), w, x, i) = (r.pick(&ALUS), r.w(), r.rm(), r.imm());
            let x = if r.one_in(8) { RAX.into() } else { x };
            a.alu_rm_imm(op, w, x, i);
            format!("{name} {}, {}", rm(w, &x), imm(w, i))
        }),
        ("test_rr", |r, a| {
            let (w, d, s) = (r.w(), r.gpr(), r.gpr());
            a.test_rr(w, d, s);
            format!("test {}, {}", reg(w, d), reg(w, s))
        }),
        ("test_rm_imm", |r, a| {
            let (w, x, i) = (r.w(), r.rm(), r.imm());
            let x = if r.one_in(8) { RAX.into() } else { x };
            a.test_rm_imm(w, x, i);
            format!("test {}, {}", rm(w, &x), imm(w, i))
        }),
        ("imul_r_rm_imm", |r, a| {
            let (w, d, x, i) = (r.w248(), r.gpr(), r.rm(), r.imm());
            a.imul_r_rm_imm(w, d, x, i);
            format!("imul {}, {}, {}", reg(w, d), rm(w, &x), imm(w, i))
        }),
        ("sign_into_rdx", |r, a| {
            let w = r.w248();
            a.sign_into_rdx(w);
            ["", "cwd", "cdq", "cqo"][w as usize].to_string()
        }),
        ("lock", |r, a| {
            let (w, m, s) = (r.w(), r.mem(), r.gpr());
            a.lock().xadd(w, m, s);
            format!("lock xadd {}, {}", mem(w, &m), reg(w, s))
        }),
    ];
    let mut cases = LIST.to_vec();
    cases.extend(unary![not neg mul imul div idiv]);
    cases.extend(rm_reg![test_rm_r "test" w  xadd "xadd" w  cmpxchg "cmpxchg" w]);
    cases.extend(reg_rm![imul_r_rm "imul" w248]);
    cases.extend(memory![cmpxchg8b "cmpxchg8b" "qword ptr "  cmpxchg16b "cmpxchg16b" "xmmword ptr "]);
    cases.extend(bare![cdq cqo]);
    cases
}

fn constants() -> Vec<Case> {
    const LIST: &[Case] = &[
        ("mov_rm_imm", |r, a| {
            let (w, x, i) = (r.w(), r.rm(), r.imm());
            a.mov_rm_imm(w, x, i);
            let shown = if matches!(x, Rm::Reg(_)) && w == Width::B8 && i >= 0 { Width::B4 } else { w };
            format!("mov {}, {}", rm(shown, &x), imm(shown, i))
        }),
        ("mov_r_imm32", |r, a| {
            let (d, i) = (r.gpr(), r.imm());
            a.mov_r_imm32(d, i as u32);
            format!("mov {}, {}", reg(Width::B4, d), hex(i.into()))
        }),
        ("mov_r_imm64", |r, a| {
            let d = r.gpr();
            let shift = r.below(64);
            let i = if r.one_in(2) { r.next() >> shift } else { i64::from(r.imm()) as u64 };
            a.mov_r_imm64(d, i);
            let small = i <= u64::from(u32::MAX);
            let shown = if small { i64::from(i as i32) } else { i as i64 };
            format!("mov {}, {}", reg(if small { Width::B4 } else { Width::B8 }, d), hex(shown))
        }),
        ("push_imm", |r, a| {
            let i = r.imm();
            a.push_imm(i);
            format!("push {}", hex(i.into()))
        }),
    ];
    LIST.to_vec()
}

fn moves() -> Vec<Case> {
    const LIST: &[Case] = &[
        ("mov_rr", |r, a| {
            let (w, d, s) = (r.w(), r.gpr(), r.gpr());
            a.mov_rr(w, d, s);
            format!("mov {}, {}", reg(w, d), reg(w, s))
        }),
        ("movzx", |r, a| {
            let (from, d, x) = (r.w(), r.gpr(), r.rm());
            a.movzx(from, d, x);
            match from {
                Width::B1 | Width::B2 => format!("movzx {}, {}", reg(Width::B4, d), rm(from, &x)),
                Width::B4 | Width::B8 => format!("mov {}, {}", reg(from, d), rm(from, &x)),
            }
        }),
        ("movsx", |r, a| {
            let (to, from, d, x) = (r.w48(), r.w(), r.gpr(), r.rm());
            let from = from.min(to);
            a.movsx(to, from, d, x);
            let name = match from {
                Width::B1 | Width::B2 => "movsx",
                Width::B4 if to == Width::B8 => "movsxd",
                Width::B4 | Width::B8 => "mov",
            };
            format!("{name} {}, {}", reg(to, d), rm(from, &x))
        }),
        ("movsxd", |r, a| {
            let (d, x) = (r.gpr(), r.rm());
            a.movsxd(d, x);
            format!("movsxd {}, {}", reg(Width::B8, d), rm(Width::B4, &x))
        }),
        ("lea", |r, a| {
            let (w, d, m) = (r.w248(), r.gpr(), r.mem());
            a.lea(w, d, m);
            format!("lea {}, {}", reg(w, d), address(&Mem { gs: false, ..m }))
        }),
        ("push", |r, a| {
            let d = r.gpr();
            a.push(d);
            format!("push {}", reg(Width::B8, d))
        }),
        ("pop", |r, a| {
            let d = r.gpr();
            a.pop(d);
            format!("pop {}", reg(Width::B8, d))
        }),
        ("bswap", |r, a| {
            let (w, d) = (r.w48(), r.gpr());
            a.bswap(w, d);
            format!("bswap {}", reg(w, d))
        }),
        ("movbe_load", |r, a| {
            let (w, d, m) = (r.w248(), r.gpr(), r.mem());
            a.movbe_load(w, d, m);
            format!("movbe {}, {}", reg(w, d), mem(w, &m))
        }),
        ("movbe_store", |r, a| {
            let (w, m, s) = (r.w248(), r.mem(), r.gpr());
            a.movbe_store(w, m, s);
            format!("movbe {}, {}", mem(w, &m), reg(w, s))
        }),
    ];
    let mut cases = LIST.to_vec();
    cases.extend(reg_rm![mov_r_rm "mov" w]);
    cases.extend(rm_reg![mov_rm_r "mov" w  xchg "xchg" w]);
    cases.extend(memory![push_mem "push" "qword ptr "  pop_mem "pop" "qword ptr "]);
    cases
}

fn shifts() -> Vec<Case> {
    const LIST: &[Case] = &[
        ("shift_imm", |r, a| {
            let ((op, name), w, x) = (r.pick(&SHIFTS), r.w(), r.rm());
            let count = if r.one_in(4) { 1 } else { r.byte() };
            a.shift_imm(op, w, x, count);
            format!("{name} {}, {}", rm(w, &x), imm(Width::B1, count.into()))
        }),
        ("shift_cl", |r, a| {
            let ((op, name), w, x) = (r.pick(&SHIFTS), r.w(), r.rm());
            a.shift_cl(op, w, x);
            format!("{name} {}, cl", rm(w, &x))
        }),
        ("shld_imm", |r, a| {
            let (w, x, s, count) = (r.w248(), r.rm(), r.gpr(), r.byte());
            a.shld_imm(w, x, s, count);
            format!("shld {}, {}, {}", rm(w, &x), reg(w, s), imm(Width::B1, count.into()))
        }),
        ("shrd_imm", |r, a| {
            let (w, x, s, count) = (r.w248(), r.rm(), r.gpr(), r.byte());
            a.shrd_imm(w, x, s, count);
            format!("shrd {}, {}, {}", rm(w, &x), reg(w, s), imm(Width::B1, count.into()))
        }),
        ("shld_cl", |r, a| {
            let (w, x, s) = (r.w248(), r.rm(), r.gpr());
            a.shld_cl(w, x, s);
            format!("shld {}, {}, cl", rm(w, &x), reg(w, s))
        }),
        ("shrd_cl", |r, a| {
            let (w, x, s) = (r.w248(), r.rm(), r.gpr());
            a.shrd_cl(w, x, s);
            format!("shrd {}, {}, cl", rm(w, &x), reg(w, s))
        }),
        ("rorx", |r, a| {
            let (w, d, x, count) = (r.w48(), r.gpr(), r.rm(), r.byte());
            a.rorx(w, d, x, count);
            format!("rorx {}, {}, {}", reg(w, d), rm(w, &x), imm(Width::B1, count.into()))
        }),
    ];
    LIST.to_vec()
}

fn bits() -> Vec<Case> {
    const LIST: &[Case] = &[
        ("bit_imm", |r, a| {
            let ((op, name), w, x, bit) = (r.pick(&BITS), r.w248(), r.rm(), r.byte());
            a.bit_imm(op, w, x, bit);
            format!("{name} {}, {}", rm(w, &x), imm(Width::B1, bit.into()))
        }),
        ("bit_reg", |r, a| {
            let ((op, name), w, x, bit) = (r.pick(&BITS), r.w248(), r.rm(), r.gpr());
            a.bit_reg(op, w, x, bit);
            format!("{name} {}, {}", rm(w, &x), reg(w, bit))
        }),
        ("crc32", |r, a| {
            let (w, d, x) = (r.w(), r.gpr(), r.rm());
            a.crc32(w, d, x);
            let to = if w == Width::B8 { Width::B8 } else { Width::B4 };
            format!("crc32 {}, {}", reg(to, d), rm(w, &x))
        }),
    ];
    let mut cases = LIST.to_vec();
    cases.extend(
        reg_rm![bsf "bsf" w248  bsr "bsr" w248  tzcnt "tzcnt" w248  lzcnt "lzcnt" w248  popcnt "popcnt" w248],
    );
    cases.extend(reg_rm![blsr "blsr" w48  blsmsk "blsmsk" w48  blsi "blsi" w48  adcx "adcx" w48  adox "adox" w48]);
    cases.extend(vex_middle![andn pdep pext mulx]);
    cases.extend(vex_last![shlx sarx shrx bextr bzhi]);
    cases
}

fn conditions() -> Vec<Case> {
    const LIST: &[Case] = &[
        ("setcc", |r, a| {
            let ((cc, name), x) = (condition(r), r.rm());
            a.setcc(cc, x);
            format!("set{name} {}", rm(Width::B1, &x))
        }),
        ("cmovcc", |r, a| {
            let ((cc, name), w, d, x) = (condition(r), r.w248(), r.gpr(), r.rm());
            a.cmovcc(cc, w, d, x);
            format!("cmov{name} {}, {}", reg(w, d), rm(w, &x))
        }),
    ];
    let mut cases = LIST.to_vec();
    cases.extend(bare![lahf sahf cmc clc stc cld pushfq popfq]);
    cases
}

fn high_bytes() -> Vec<Case> {
    const LIST: &[Case] = &[
        ("movzx_high", |r, a| {
            let (d, (high, name)) = (Gpr(r.below(8) as u8), r.pick(&HIGHS));
            a.movzx_high(d, high);
            format!("movzx {}, {name}", reg(Width::B4, d))
        }),
        ("mov_low_high", |r, a| {
            let (d, (high, name)) = (old(r), r.pick(&HIGHS));
            a.mov_low_high(d, high);
            format!("mov {}, {name}", reg(Width::B1, d))
        }),
        ("mov_high_low", |r, a| {
            let ((high, name), s) = (r.pick(&HIGHS), old(r));
            a.mov_high_low(high, s);
            format!("mov {name}, {}", reg(Width::B1, s))
        }),
        ("alu_low_high", |r, a| {
            let ((op, alu), d, (high, name)) = (r.pick(&ALUS), old(r), r.pick(&HIGHS));
            a.alu_low_high(op, d, high);
            format!("{alu} {}, {name}", reg(Width::B1, d))
        }),
        ("alu_high_low", |r, a| {
            let ((op, alu), (high, name), s) = (r.pick(&ALUS), r.pick(&HIGHS), old(r));
            a.alu_high_low(op, high, s);
            format!("{alu} {name}, {}", reg(Width::B1, s))
        }),
        ("alu_high_imm", |r, a| {
            let ((op, alu), (high, name), i) = (r.pick(&ALUS), r.pick(&HIGHS), r.byte());
            a.alu_high_imm(op, high, i);
            format!("{alu} {name}, {}", imm(Width::B1, i.into()))
        }),
        ("test_high_imm", |r, a| {
            let ((high, name), i) = (r.pick(&HIGHS), r.byte());
            a.test_high_imm(high, i);
            format!("test {name}, {}", imm(Width::B1, i.into()))
        }),
        ("mov_high_imm", |r, a| {
            let ((high, name), i) = (r.pick(&HIGHS), r.byte());
            a.mov_high_imm(high, i);
            format!("mov {name}, {}", imm(Width::B1, i.into()))
        }),
        ("setcc_high", |r, a| {
            let ((cc, name), (high, reg)) = (condition(r), r.pick(&HIGHS));
            a.setcc_high(cc, high);
            format!("set{name} {reg}")
        }),
    ];
    LIST.to_vec()
}

fn system() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    cases.extend(bare![mfence lfence sfence pause ret ud2 int3 cpuid rdtsc]);
    cases.extend(
        memory![ldmxcsr "ldmxcsr" "dword ptr "  stmxcsr "stmxcsr" "dword ptr "
            prefetcht0 "prefetcht0" "byte ptr "  prefetchnta "prefetchnta" "byte ptr "  prefetchw "prefetchw" "byte ptr "]
           ,
    );
    cases
}

fn cases() -> Vec<Case> {
    [arithmetic(), constants(), moves(), shifts(), bits(), conditions(), high_bytes(), system()].concat()
}

#[test]
fn integer_instructions_round_trip() {
    const ROUNDS: usize = 1500;
    let mut rng = Rng::from_env();
    let mut listing = Listing::new(MemorySizeOptions::Always);
    let mut asm = Asm::with_capacity(64);
    let mut count = 0;
    for (method, case) in cases() {
        for _ in 0..ROUNDS {
            asm.clear();
            let expected = case(&mut rng, &mut asm);
            let (_, text) = listing.one(asm.code());
            assert_eq!(text, expected, "{method}: {:02x?}", asm.code());
            count += 1;
        }
    }
    println!("{count} instructions");
    assert!(count > 100_000, "only {count} instructions");
}

#[test]
fn every_integer_method_has_a_case() {
    let tested: BTreeSet<&str> = cases().iter().map(|(name, _)| *name).collect();
    let mut public = methods(include_str!("../int.rs"));
    // NOPs may be several instructions: they have their own test below.
    assert!(public.remove("nop"), "nop is gone");
    assert_eq!(tested, public);
}

#[test]
fn nops_have_the_length_asked_for() {
    for n in 0..100 {
        let mut asm = Asm::new();
        asm.nop(n);
        let list: Vec<Instruction> = Decoder::with_ip(64, asm.code(), 0, DecoderOptions::NONE).into_iter().collect();
        assert_eq!(list.iter().map(Instruction::len).sum::<usize>(), n);
        assert_eq!(list.len(), n.div_ceil(9));
        assert!(list.iter().all(|i| i.mnemonic() == Mnemonic::Nop), "{:02x?}", asm.code());
    }
}

#[test]
fn the_shortest_forms_are_chosen() {
    let check = |bytes: usize, emit: fn(&mut Asm)| {
        let mut asm = Asm::new();
        emit(&mut asm);
        assert_eq!(asm.len(), bytes, "{:02x?}", asm.code());
    };
    check(3, |a| a.alu_rm_imm(Alu::Add, Width::B4, RCX, 127));
    check(6, |a| a.alu_rm_imm(Alu::Add, Width::B4, RCX, 128));
    check(5, |a| a.alu_rm_imm(Alu::Add, Width::B4, RAX, 128));
    check(2, |a| a.alu_rm_imm(Alu::Add, Width::B1, RAX, 255));
    check(4, |a| a.alu_rm_imm(Alu::Add, Width::B2, RCX, 0xffff));
    check(2, |a| a.shift_imm(Shift::Shl, Width::B4, RCX, 1));
    check(5, |a| a.mov_r_imm64(RDI, 0xffff_ffff));
    check(7, |a| a.mov_r_imm64(RDI, !0));
    check(10, |a| a.mov_r_imm64(RDI, 1 << 32));
    check(5, |a| a.mov_rm_imm(Width::B8, RDI, 1));
    check(3, |a| a.mov_r_rm(Width::B4, RAX, Mem::base(RBP, 0)));
    check(3, |a| a.mov_r_rm(Width::B8, RAX, Mem::base(RBX, 0)));
    check(4, |a| a.mov_r_rm(Width::B8, RAX, Mem::base(R12, 0)));
    check(4, |a| a.mov_r_rm(Width::B8, RAX, Mem::base(RBP, -128)));
    check(7, |a| a.mov_r_rm(Width::B8, RAX, Mem::base(RBP, 128)));
    check(4, |a| a.vex_op(VecOp::Addps, XMM8, XMM15, XMM7));
}

#[test]
fn conditions_invert_and_swap() {
    for cc in Cc::ALL {
        assert_eq!(cc as u8 ^ 1, cc.invert() as u8);
        assert_eq!(cc.swap().swap(), cc);
    }
    assert_eq!(Cc::B.invert(), Cc::AE);
    assert_eq!(Cc::LE.swap(), Cc::GE);
}
