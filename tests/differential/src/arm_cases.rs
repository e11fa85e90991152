//! Makes cases from the rows of the decode tables, runs both sides, compares and reports.

use crate::arm_machine::{self, Memory};
use crate::harness::{Batch, CODE_BASE, DATA_BASE, DATA_SIZE, Outcome, Registers, SLOT};
use crate::random::Random;
use crate::{Against, Options};
use crate::fp_cases::{self, is_fp};
use arm::{Arm, Flow, Translator};
use spec::decode::Row;
use spec::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

type ArmRow = &'static Row<Translator, Flow>;

/// Instructions in a case at most.
pub const MAX_LENGTH: usize = 12;
/// UDF with an immediate that no generated instruction has: the end of a case.
const END_A32: u32 = 0xe7f0_00f0;
const END_T16: u16 = 0xde00;
/// CPSR bits compared: N, Z, C, V, Q, IT, GE, E, T.
const CPSR_MASK: u32 = 0xfe0f_fe20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Isa {
    A32,
    T16,
    T32,
}

impl Isa {
    pub fn parse(text: &str) -> Option<Isa> {
        [("a32", Isa::A32), ("t16", Isa::T16), ("t32", Isa::T32)].into_iter().find(|(n, _)| *n == text).map(|(_, i)| i)
    }

    fn name(self) -> &'static str {
        ["a32", "t16", "t32"][self as usize]
    }
}

/// Rows that are not generated: they leave the slot, end in the kernel, or read what differs from process to process.
const LEFT_OUT: &[&str] = &["svc", "bkpt", "mrc_p15", "mcr_p15", "t16_it", "yield_", "udf", "bl", "blx_imm", "t32_bl", "t32_blx"];

/// Rows that are UNPREDICTABLE in an IT block.
const NOT_IN_IT: &[&str] = &["t16_b_cond", "t32_b_cond", "t16_cbz", "setend", "cps", "t32_tbb", "t32_tbh"];

/// A difference that is understood: in a case with one of these rows, we stop with this signal and QEMU 10.0.2 does not.
struct Known {
    rows: &'static [&'static str],
    signal: u32,
    reason: &'static str,
}

const KNOWN: &[Known] = &[
    Known {
        rows: &["strex", "strexd", "strexb", "strexh", "stlex", "stlexd", "stlexb", "stlexh", "t32_strex", "t32_strexd", "t32_stlexd"],
        signal: 7,
        reason: "an unaligned store-exclusive without an open monitor faults (ExclusiveMonitorsPass checks alignment first); \
                 QEMU returns 1",
    },
    Known {
        rows: &["vld_multiple", "vst_multiple"],
        signal: 7,
        reason: "of an address that is a multiple of 16 but not of the 32 asked for, we report the byte after it",
    },
];

fn usable(row: &Row<Translator, Flow>) -> bool {
    row.handler.is_some() && !LEFT_OUT.contains(&row.name)
}

fn find(isa: Isa, w: u32) -> Option<ArmRow> {
    match isa {
        Isa::A32 => arm::a32::find(w),
        Isa::T16 => arm::t16::find(w),
        Isa::T32 => arm::t32::find(w),
    }
}

/// Words that the manual leaves open and both sides take differently.
fn unpredictable(isa: Isa, name: &str, w: u32) -> bool {
    // SSAT and USAT with a shift by zero the other way are the space of SSAT16 and USAT16.
    isa == Isa::T32 && matches!(name, "ssat" | "usat") && w & 0x0020_70c0 == 0x0020_0000
        // LDRD with an offset register that it loads.
        || name == "ldrd_reg" && w & 14 == w >> 12 & 14
        // Write-back to the PC.
        || isa == Isa::A32 && writes_back_pc(name, w)
        // Exception return, in user mode.
        || isa == Isa::A32 && w >> 26 & 3 == 0 && w >> 20 & 1 != 0 && w >> 12 & 15 == 15 && w >> 23 & 3 != 2
        // MRRC to the PC; and what QEMU takes for the debug channel, though its opc1 is 3.
        || name == "mrrc" && (w >> 12 & 15 == 15 || w >> 16 & 15 == 15)
        || matches!(name, "mrc" | "mcr") && w & 0x00ef_0fef == 0x0060_0e05
        // The registers of ThumbEE, which is not there.
        || matches!(name, "mrc" | "mcr") && w & 0x00ee_0fef == 0x00c0_0e00
        // LDRD to the link register and the PC.
        || name.starts_with("ldrd") && w >> 12 & 15 == 14
}

fn writes_back_pc(name: &str, w: u32) -> bool {
    let transfer = ["ldr", "str"].iter().any(|p| name.starts_with(p)) && !name.contains("ex");
    transfer && w >> 16 & 15 == 15 && (w >> 24 & 1 == 0 || w >> 21 & 1 != 0)
}

/// Sequences that the manual leaves open: a store-exclusive of another size than the load-exclusive. And one that it does not:
/// with SETEND between the two, QEMU compares what is in memory with a byte-reversed copy.
fn mixed_exclusives(names: &[&str]) -> bool {
    let size = |n: &str| n.rsplit("ex").next().map(str::to_string);
    let sizes: Vec<_> = names.iter().filter(|n| n.contains("ex") && !n.contains("clrex")).filter_map(|n| size(n)).collect();
    sizes.windows(2).any(|w| w[0] != w[1]) || sizes.len() > 1 && names.contains(&"setend")
}

fn rows(o: &Options) -> Vec<ArmRow> {
    let wanted = |r: &ArmRow| o.only.is_empty() || o.only.iter().any(|n| r.name.contains(n.as_str()));
    if o.fp {
        return fp_cases::rows().into_iter().filter(wanted).collect();
    }
    let chapters: Vec<&'static [Row<Translator, Flow>]> = match o.isa {
        Isa::A32 => arm::a32::CONDITIONAL.iter().chain(arm::a32::UNCONDITIONAL).copied().collect(),
        Isa::T16 => vec![arm::t16::ROWS],
        Isa::T32 => arm::t32::CHAPTERS.to_vec(),
    };
    chapters
        .iter()
        .flat_map(|c| c.iter())
        .filter(|r| usable(r) && !is_fp(r) && wanted(r))
        .collect()
}

/// Prints the rows that would be generated.
pub fn list(o: &Options) {
    for r in rows(o) {
        println!("{:20} {}  {}", r.name, r.text, r.doc);
    }
    for k in KNOWN {
        println!("known difference: {}: {}", k.rows.join(", "), k.reason);
    }
}

/// One generated case.
struct Case {
    number: usize,
    start: u32,
    before: Registers,
    names: Vec<&'static str>,
}

/// Numbers of a run.
#[derive(Default)]
pub struct Tally {
    pub differences: usize,
    compared: usize,
    instructions: usize,
    dropped: usize,
    by_signal: BTreeMap<u32, usize>,
    rows: BTreeMap<&'static str, usize>,
    /// Differences by the last row of the case.
    blamed: BTreeMap<&'static str, usize>,
    known: usize,
}

impl Tally {
    fn count(&mut self, case: &Case, outcome: &Outcome) {
        self.compared += 1;
        self.instructions += case.names.len();
        *self.by_signal.entry(outcome.signal).or_default() += 1;
        for name in &case.names {
            *self.rows.entry(name).or_default() += 1;
        }
    }

    pub fn print(&self, o: &Options) {
        let n = |s: u32| self.by_signal.get(&s).copied().unwrap_or(0);
        println!(
            "{}{} {} seed {}: {} cases ({} instructions) compared with {}, {} dropped, {} differ; {} rows; {} ended undefined, \
             {} faulted, {} unaligned",
            o.isa.name(),
            if o.fp { " fp" } else { "" },
            o.cpu,
            o.seed,
            self.compared,
            self.instructions,
            o.against.iter().map(|a| a.program.as_str()).collect::<Vec<_>>().join(" and "),
            self.dropped,
            self.differences,
            self.rows.len(),
            n(4),
            n(11),
            n(7),
        );
        if self.known > 0 {
            println!("  {} differences of a known kind", self.known);
        }
        if self.differences > 0 {
            let text: Vec<_> = self.blamed.iter().map(|(name, n)| format!("{name} {n}")).collect();
            println!("  by last row: {}", text.join(", "));
        }
    }
}

/// A random word of a row: its fixed bits, and fields with registers that are mostly not R13 to R15.
fn word(row: ArmRow, rng: &mut Random, isa: Isa) -> u32 {
    let d = &row.diagram;
    let mut w = rng.u32();
    let mut free = !d.mask;
    for letter in row.text.bytes().filter(u8::is_ascii_alphabetic) {
        let name = [letter];
        let field = d.field(std::str::from_utf8(&name).expect("a letter"));
        if field.width() != 4 || !b"nmdtahlsx".contains(&letter) {
            continue;
        }
        let value = field.get(w);
        let fixed = field.get(d.mask);
        // Data processing and plain loads may name the PC; for most others it is UNPREDICTABLE.
        let pc = match isa {
            Isa::A32 if row.name.ends_with("_imm") || row.name.ends_with("_reg") || row.name.ends_with("_rsr") => 15,
            _ => 0,
        };
        if fixed == 0 && (value == 15 && !rng.percent(pc) || (value == 13 || value == 14) && isa == Isa::T32) {
            // A register field is one run of bits: find where it begins.
            let shift = (0..29).find(|&s| field.get(0xf << s) == 15).unwrap_or(0);
            w = w & !(15 << shift) | rng.below(13) << shift;
            free |= 15 << shift;
        }
    }
    if isa == Isa::A32 && d.mask >> 28 == 0 {
        let cond = if rng.percent(75) { 14 } else { rng.below(14) };
        w = w & 0x0fff_ffff | cond << 28;
    }
    w & free | d.value
}

/// A branch changed to go over none to three instructions; any other word as it is.
fn near(name: &str, w: u32, rng: &mut Random) -> u32 {
    let n = rng.below(4);
    match name {
        "b" => w & 0xff00_0000 | n.wrapping_sub(1) & 0xff_ffff,
        "t16_b_cond" => w & 0xff00 | n.wrapping_sub(1) & 0xff,
        "t16_b" => w & 0xf800 | n.wrapping_sub(1) & 0x7ff,
        "t16_cbz" => w & !0x02f8 | n << 3,
        "t32_b_cond" => w & 0xfbc0_d000 | 2 * n,
        "t32_b" => w & 0xf800_d000 | 0x2800 | 2 * n,
        _ => w,
    }
}

fn value(rng: &mut Random) -> u32 {
    const SPECIAL: [u32; 12] =
        [0, 1, 0xffff_ffff, 0x7fff_ffff, 0x8000_0000, 0x8000, 0xffff_8000, 0x7f80_ff01, 0x8000_8000, 31, 32, 33];
    let middle = DATA_BASE + DATA_SIZE / 2;
    match rng.below(100) {
        0..=29 => rng.u32(),
        30..=44 => rng.below(64),
        45..=59 => rng.pick(&SPECIAL),
        60..=92 => middle.wrapping_add(rng.below(512) * 8).wrapping_sub(2048),
        _ => middle.wrapping_add(rng.below(1024)),
    }
}

fn registers(rng: &mut Random, fp: bool, names: &[&str]) -> Registers {
    let cpsr = rng.u32() & 0xf80f_0000 | if rng.percent(5) { 0x200 } else { 0 };
    let middle = DATA_BASE + DATA_SIZE / 2;
    let mut r: [u32; 16] = std::array::from_fn(|n| if fp { fp_cases::core(rng, n, middle) } else { value(rng) });
    r[15] = 0;
    let fpscr = if fp { fp_cases::fpscr(rng, names) } else { 0 };
    Registers { r, cpsr, fpscr, d: std::array::from_fn(|_| fp_cases::double(rng)) }
}

/// QEMU does not ask whether the model has IT and CBZ.
fn has_thumb_2(o: &Options) -> bool {
    arm::features::model(&o.cpu).is_some_and(|m| m.features.has(arm::Features::V6T2))
}

/// A word, and the name of the row that it is of; `None` for those that are not generated.
fn next(row: ArmRow, o: &Options, rng: &mut Random) -> Option<(&'static str, u32)> {
    if o.fp {
        let features = arm::features::model(&o.cpu).map_or(arm::Features::NONE, |m| m.features);
        let (name, w) = fp_cases::word(row, rng, features);
        return Some((name, if o.isa == Isa::A32 { w } else { fp_cases::t32_form(w) }));
    }
    let w = word(row, rng, o.isa);
    let w = if rng.percent(90) { near(row.name, w, rng) } else { w };
    let row = find(o.isa, w).filter(|r| usable(r) && !unpredictable(o.isa, r.name, w))?;
    if row.name == "t16_cbz" && !has_thumb_2(o) {
        return None;
    }
    Some((row.name, w))
}

/// The instructions of a case as bytes, and their names.
fn program(rows: &[ArmRow], o: &Options, rng: &mut Random) -> (Vec<u8>, Vec<&'static str>) {
    let length = 1 + rng.below(o.length as u32) as usize;
    let (mut bytes, mut names) = (Vec::new(), Vec::new());
    let mut in_it = 0;
    while names.len() < length {
        if o.isa != Isa::A32 && has_thumb_2(o) && in_it == 0 && rng.percent(15) {
            // IT with a condition below AL, and up to four instructions.
            let (cond, mask) = (rng.below(14), 1 + rng.below(15));
            bytes.extend((0xbf00 | cond << 4 | mask).to_le_bytes()[..2].iter());
            in_it = 4 - mask.trailing_zeros();
            names.push("it");
        }
        // A special case of the row may have been hit.
        let Some((name, w)) = next(rng.pick(rows), o, rng) else { continue };
        if in_it > 0 && NOT_IN_IT.contains(&name) {
            continue;
        }
        names.push(name);
        match o.isa {
            Isa::A32 => bytes.extend(w.to_le_bytes()),
            Isa::T16 => bytes.extend((w as u16).to_le_bytes()),
            Isa::T32 => {
                bytes.extend(((w >> 16) as u16).to_le_bytes());
                bytes.extend((w as u16).to_le_bytes());
            }
        }
        in_it = in_it.saturating_sub(1);
    }
    (bytes, names)
}

/// Makes cases `from..to`, runs both sides and reports differences.
pub fn batch(o: &Options, harness: &Path, from: usize, to: usize, tally: &mut Tally) -> Result<()> {
    let rows = rows(o);
    if rows.is_empty() {
        return Err(Error::new("no row matches"));
    }
    let model = arm::features::model(&o.cpu).ok_or_else(|| Error::new(format!("there is no CPU model '{}'", o.cpu)))?;
    let arm = Arm::new(model);
    let thumb = o.isa != Isa::A32;
    let mut pattern = Random::new(o.seed, usize::MAX - 1);
    let data: Vec<u8> = (0..DATA_SIZE).map(|_| pattern.u32() as u8).collect();
    let (mut code, mut cases) = (Vec::new(), Vec::new());
    for number in from..to {
        let mut rng = Random::new(o.seed, number);
        let (bytes, names) = program(&rows, o, &mut rng);
        // The slot's address depends on the case's number only, so that a case can be run alone.
        let at = (number % crate::BATCH) as u32 * SLOT;
        code.resize(at as usize, 0);
        code.extend(&bytes);
        while code.len() < (at + SLOT) as usize {
            if thumb {
                code.extend(END_T16.to_le_bytes());
            } else {
                code.extend(END_A32.to_le_bytes());
            }
        }
        let start = CODE_BASE + at + thumb as u32;
        cases.push(Case { number, start, before: registers(&mut rng, o.fp, &names), names });
    }
    code.resize(code.len().next_multiple_of(4096), 0);
    let mut ours = Vec::new();
    let mut kept = Vec::new();
    for case in cases {
        let mut memory = Memory::new(&code, &data);
        let from = case.start & !1;
        match arm_machine::run(&arm, &mut memory, case.start, &case.before, from..from + SLOT) {
            Some(_) if mixed_exclusives(&case.names) => tally.dropped += 1,
            Some(outcome) => {
                ours.push((outcome, memory.data));
                kept.push(case);
            }
            None => tally.dropped += 1,
        }
    }
    let input = Batch {
        code,
        data,
        cases: kept.iter().map(|c| (c.start, c.before.clone())).collect(),
    };
    for (case, (outcome, _)) in kept.iter().zip(&ours) {
        tally.count(case, outcome);
    }
    if kept.is_empty() {
        return Ok(());
    }
    for against in &o.against {
        let theirs = match against.program.as_str() {
            JIT => crate::jit_side::run(model, &input)?,
            program => input.run(harness, program, &o.cpu)?,
        };
        for ((case, (ours, memory)), theirs) in kept.iter().zip(&ours).zip(&theirs) {
            compare(o, against, &input, case, (ours, memory), theirs.as_ref(), tally);
        }
    }
    Ok(())
}

fn compare(
    o: &Options,
    against: &Against,
    input: &Batch,
    case: &Case,
    (ours, memory): (&Outcome, &[u8]),
    theirs: Option<&Outcome>,
    tally: &mut Tally,
) {
    let what = theirs.map_or_else(|| vec!["not executed".to_string()], |t| differences(o.fp, against, case, ours, t));
    if what.is_empty() {
        return;
    }
    let known = |k: &Known| ours.signal == k.signal && case.names.iter().any(|n| k.rows.contains(n));
    // Decision 0004: in user mode translated code makes accesses unaligned that the architecture wants word-aligned.
    let strict = |n: &str| n.contains("ex") || n.starts_with("lda") || n.starts_with("stl") || n.starts_with("swp");
    let aligned = against.ours && ours.signal == 7 && !row_at(input, case, ours.registers.r[15]).is_some_and(strict);
    let floating_point_accelerator = !against.ours && ours.signal == 4 && fpa(input, ours);
    if !against.ours && KNOWN.iter().any(known) || aligned || floating_point_accelerator {
        tally.known += 1;
        return;
    }
    tally.differences += 1;
    *tally.blamed.entry(case.names.last().expect("a name")).or_default() += 1;
    if tally.differences > o.limit {
        return;
    }
    let at = (case.start & !1) - CODE_BASE;
    let words = &input.code[at as usize..(at + 4 * MAX_LENGTH as u32) as usize];
    println!("case {}: {}", case.number, case.names.join("; "));
    if o.isa == Isa::A32 {
        let text: Vec<_> = words.chunks(4).map(|c| format!("{:08x}", u32::from_le_bytes(c.try_into().unwrap()))).collect();
        println!("  words {}", text[..case.names.len().min(text.len())].join(" "));
    } else {
        let text: Vec<_> = words.chunks(2).map(|c| format!("{:04x}", u16::from_le_bytes(c.try_into().unwrap()))).collect();
        println!("  halfwords {}", text[..(2 * case.names.len()).min(text.len())].join(" "));
    }
    println!("  at {:#x}, cpsr {:08x}, fpscr {:08x}, r {:08x?}", case.start, case.before.cpsr, case.before.fpscr, &case.before.r[..15]);
    for line in &what {
        println!("  {line}");
    }
    if o.case.is_some() {
        println!("  ours   {ours:x?}\n  theirs {theirs:x?}");
        let changed = memory.iter().zip(&input.data).enumerate().filter(|(_, (a, b))| a != b);
        let text: Vec<_> = changed.map(|(i, (a, _))| format!("{:x}={a:02x}", DATA_BASE as usize + i)).collect();
        println!("  our stores {}", text.join(" "));
    }
    println!(
        "  again: cargo run -p differential -- arm --isa {} --seed {} --length {} --cpu {}{}{} --case {} --against '{}'",
        o.isa.name(),
        o.seed,
        o.length,
        o.cpu,
        if o.fp { " --fp" } else { "" },
        if o.only.is_empty() { String::new() } else { format!(" --only {}", o.only.join(",")) },
        case.number,
        against.program
    );
}

/// `--against` this: our own translated code.
pub const JIT: &str = "jit";

/// The row of the instruction at an address (a branch may have gone into the middle of a generated one).
fn row_at(input: &Batch, case: &Case, pc: u32) -> Option<&'static str> {
    let at = (pc - CODE_BASE) as usize;
    let half = |at: usize| Some(u16::from_le_bytes(input.code.get(at..at + 2)?.try_into().ok()?) as u32);
    let row = match (case.start & 1 != 0, half(at)?) {
        (false, low) => arm::a32::find(half(at + 2)? << 16 | low),
        (true, first) if first >= 0xe800 => arm::a32::fp::find_t32(first << 16 | half(at + 2)?).0,
        (true, first) => arm::t16::find(first),
    };
    row.map(|r| r.name)
}

/// Whether the case stopped at an instruction of the FPA, which QEMU's user mode emulates (coprocessors 1 and 2).
fn fpa(input: &Batch, ours: &Outcome) -> bool {
    let at = (ours.registers.r[15] - CODE_BASE) as usize;
    let Some(raw) = input.code.get(at..at + 4) else { return false };
    let w = u32::from_le_bytes(raw.try_into().expect("4 bytes"));
    ours.registers.cpsr & 0x20 == 0 && matches!(w >> 24 & 15, 12..=14) && matches!(w >> 8 & 15, 1 | 2)
}

/// What differs, one line each: ours, theirs.
fn differences(fp: bool, against: &Against, case: &Case, ours: &Outcome, theirs: &Outcome) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |what: &str, a: u64, b: u64| {
        if a != b {
            lines.push(format!("{what:6} ours {a:x}, theirs {b:x}"));
        }
    };
    line("signal", ours.signal as u64, theirs.signal as u64);
    if ours.signal == theirs.signal && ours.signal != 5 {
        // QEMU makes two accesses of a doubleword that is not 8-byte aligned, and reports a rounded address.
        let mask = if case.names.iter().any(|n| n.contains("ldrd") || n.contains("strd")) { !7 } else { !0 };
        line("si_addr", (ours.address & mask) as u64, (theirs.address & mask) as u64);
    }
    for n in 0..16 {
        line(&format!("r{n}"), ours.registers.r[n] as u64, theirs.registers.r[n] as u64);
    }
    // Translated code does not keep flags that are overwritten after a fault (decision 0003).
    let faulted = matches!(ours.signal, 7 | 11);
    let mask = if against.ours && faulted { CPSR_MASK & 0x0fff_ffff } else { CPSR_MASK };
    line("cpsr", (ours.registers.cpsr & mask) as u64, (theirs.registers.cpsr & mask) as u64);
    line("memory", ours.sum as u64, theirs.sum as u64);
    for n in 0..32 {
        line(&format!("d{n}"), ours.registers.d[n], theirs.registers.d[n]);
    }
    if fp {
        line("fpscr", ours.registers.fpscr as u64, theirs.registers.fpscr as u64);
    }
    lines
}
