//! Random privileged programs without an operating system: every mode, every exception, on our interpreter and on the
//! installed `qemu-system-arm`, whose `-d cpu` log tells the registers before each instruction.
//!
//! `differential system --seed S -n N`: each case is an image of vectors, handlers that skip what failed, and a body of
//! random instructions that privileged code consists of.

use crate::random::Random;
use crate::system_machine;
use spec::{Error, Result};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where the image lies: in RAM of `virt`, above the device tree.
pub const BASE: u32 = 0x4020_0000;
const VECTORS: u32 = BASE + 0x1000;
const BODY: u32 = BASE + 0x2000;
const DATA: u32 = BASE + 0x1_0000;
/// Bytes of the image.
pub const IMAGE: usize = 0x2_0000;
/// Instructions of a body.
const LENGTH: usize = 400;
/// Instructions compared at most: a body that ran away ends there.
pub const STEPS: usize = 3000;

/// Vectors and handlers. Undefined instructions and aborts are skipped, whatever their length; SVC goes on in System mode if
/// bit 2 of r0 is set; aborts leave their status or address in r12.
const HANDLERS: &[u32] = &[
    0xeafffffe, 0xea000005, 0xea00000b, 0xea00000f, 0xea000013, 0xeafffffe, 0xeafffffe, 0xeafffffe, 0xe14fc000, 0xe31c0020,
    0x0a000002, 0xe15ec0b2, 0xe35c0b3a, 0x228ee002, 0xe1b0f00e, 0xe14fc000, 0xe3100004, 0x138cc00f, 0xe161f00c, 0xe1b0f00e,
    0xee15cf30, 0xe14fc000, 0xe31c0020, 0x124ee002, 0xe1b0f00e, 0xee15cf10, 0xee16cf10, 0xe14fc000, 0xe31c0020, 0x0a000002,
    0xe15ec0b8, 0xe35c0b3a, 0x324ee002, 0xe25ef004,
];

const MODES: [u32; 7] = [0x10, 0x11, 0x12, 0x13, 0x17, 0x1b, 0x1f];

struct Image {
    bytes: Vec<u8>,
    at: u32,
}

impl Image {
    fn word(&mut self, w: u32) {
        let at = (self.at - BASE) as usize;
        self.bytes[at..at + 4].copy_from_slice(&w.to_le_bytes());
        self.at += 4;
    }

    fn half(&mut self, h: u32) {
        let at = (self.at - BASE) as usize;
        self.bytes[at..at + 2].copy_from_slice(&(h as u16).to_le_bytes());
        self.at += 2;
    }

    /// A T32 instruction.
    fn wide(&mut self, w: u32) {
        self.half(w >> 16);
        self.half(w & 0xffff);
    }

    /// MOVW, MOVT.
    fn load(&mut self, register: u32, value: u32) {
        let split = |v: u32| (v >> 12 & 15) << 16 | v & 0xfff;
        self.word(0xe300_0000 | register << 12 | split(value & 0xffff));
        self.word(0xe340_0000 | register << 12 | split(value >> 16));
    }
}

/// A value that may become CPSR or SPSR: J and IT clear, the state's T as given.
fn status(r: &mut Random, thumb: bool) -> u32 {
    let mode = if r.percent(5) { r.pick(&[0x16, 0x1a, 0x15]) } else { r.pick(&MODES) };
    let e = if r.percent(5) { 0x200 } else { 0 };
    r.u32() & 0xf80f_01c0 | mode | e | if thumb { 0x20 } else { 0 }
}

fn pointer(r: &mut Random) -> u32 {
    match r.below(12) {
        0 => 0xf000_0000 | r.u32() & 0xfff0,
        1 => DATA + 0x8000 + r.below(0x4000),
        _ => DATA + 0x4000 + (r.below(0x8000) & !3),
    }
}

/// Registers of every mode, system registers, and on to the body.
fn prologue(i: &mut Image, r: &mut Random, thumb: bool) {
    for (value, write) in [(VECTORS, 0xee0c_0f10), (0xf0_0000, 0xee01_0f50), (0x4000_0000, 0xeee8_0a10)] {
        i.load(0, value);
        i.word(write);
        i.word(0xf57f_f06f);
    }
    for mode in [0x11u32, 0x12, 0x17, 0x1b, 0x1f, 0x13] {
        i.word(0xf102_0000 | mode);
        let sp = pointer(r);
        i.load(13, sp);
        if mode != 0x1f {
            i.load(0, status(r, thumb));
            i.word(0xe16f_f000);
        }
        let first = if mode == 0x11 { 8 } else { 13 };
        for n in first..13 {
            i.load(n, status(r, thumb));
        }
    }
    for n in 0..12 {
        let value = if n < 4 { r.u32() } else if n < 8 { pointer(r) } else { status(r, thumb) };
        i.load(n, value);
    }
    if thumb {
        i.load(12, BODY | 1);
        i.word(0xe12f_ff1c);
    } else {
        i.word(0xea00_0000 | (BODY.wrapping_sub(i.at + 8) >> 2) & 0xff_ffff);
    }
}

/// Fields of a random instruction.
struct Pick {
    /// r0 to r3: data; r4 to r7: pointers; r8 to r11: status values.
    any: u32,
    pointer: u32,
    status: u32,
    mode: u32,
    list: u32,
    bits: u32,
}

fn pick(r: &mut Random) -> Pick {
    Pick {
        any: r.below(4),
        pointer: 4 + r.below(4),
        status: 8 + r.below(4),
        mode: if r.percent(4) { r.below(32) } else { r.pick(&MODES) },
        list: r.u32() & 0x600f,
        bits: r.u32(),
    }
}

fn a32(i: &mut Image, r: &mut Random) {
    let p = pick(r);
    let (any, ptr, status) = (p.any, p.pointer, p.status);
    let condition = if r.percent(20) { r.below(14) } else { 14 } << 28;
    let word = match r.below(34) {
        0 => 0x010f_0000 | any << 12,                                   // mrs cpsr
        1 => 0x014f_0000 | any << 12,                                   // mrs spsr
        2 | 3 => 0x0120_f000 | (p.bits & 15) << 16 | status,            // msr cpsr, r
        4 => 0x0160_f000 | (p.bits & 15) << 16 | status,                // msr spsr, r
        5 => 0x0321_f000 | p.bits & 0xc0 | p.mode,                      // msr cpsr_c, #
        6 => 0x0368_f200 | p.bits & 0xff,                               // msr spsr_f, #
        7 | 8 => return i.word(0xf102_0000 | p.mode),                   // cps #
        9 => return i.word(0xf108_0000 | (p.bits & 7) << 6 | (p.bits & 8) << 15), // cpsie, cpsid
        10 => return i.word(0xf10a_0000 | (p.bits & 7) << 6 | (p.bits & 8) << 15 | p.mode),
        11 | 12 => 0x0f00_0000 | p.bits & 0xff,                         // svc
        13 => return i.word(0xe7f0_00f0 | p.bits & 15),                 // udf
        14 => return i.word(0xe120_0070 | p.bits & 15),                 // bkpt
        15 => return i.word(0xf84d_0500 | p.mode | (p.bits & 3) << 23 | (p.bits & 4) << 19), // srs
        16 => return rfe(i, p.bits, status, 4),
        17 => 0x08d0_0000 | ptr << 16 | p.list | 1,                     // ldm ^
        18 => 0x08c0_0000 | ptr << 16 | p.list | 1,                     // stm ^
        19 => return ldm_return(i, status),
        20 => 0x04b0_0004 | ptr << 16 | any << 12 | p.bits & 0x40_0000, // ldrt, ldrbt
        21 => 0x04a0_0004 | ptr << 16 | any << 12 | p.bits & 0x40_0000, // strt, strbt
        22 => 0x0100_0200 | r.below(2) << 22 | (p.bits & 15) << 16 | (p.bits >> 4 & 1) << 8 | any << 12, // mrs banked
        23 => return movs(i, status),
        24 => 0x0ee8_0a10 | any << 12 | p.bits & 0x10_0000,             // vmsr, vmrs fpexc
        25 => 0x0ef0_0a10 | r.pick(&[0u32, 1, 5, 6, 7]) << 16 | any << 12, // vmrs
        26 => 0x0e00_0a10 | any << 12,                                  // vmov s0, r
        27 => return i.word(0xf101_0000 | p.bits & 0x200),              // setend
        28 => 0x0590_0000 | ptr << 16 | any << 12,                      // ldr
        29 => 0x0880_0000 | ptr << 16 | p.bits & 0x0120_0000 | 0x4003,  // stm
        30 => 0x0e10_0f10 | any << 12 | r.pick(&[0x0005_0000u32, 0x0006_0000, 0x0005_0020, 0x000d_0030, 0x000d_0090]), // mrc
        31 => 0x0e0d_0f10 | any << 12 | r.pick(&[0x30u32, 0x50, 0x70, 0x90]), // mcr c13
        32 => 0x0160_0070,                                              // smc
        _ => 0x0250_0000 | any << 16 | any << 12 | p.bits & 0xff,       // subs
    };
    i.word(condition | word);
}

/// An exception return by RFE to the instruction after it, through words put onto the stack.
fn rfe(i: &mut Image, bits: u32, status: u32, _: u32) {
    i.word(0xe28f_0004); // add r0, pc, #4: after the RFE
    i.word(0xe92d_0001 | 1 << status); // push {r0, status}
    i.word(0xf8bd_0a00 & !(bits & 1) << 21); // rfeia sp{!}
}

fn ldm_return(i: &mut Image, status: u32) {
    i.word(0xe169_f000 | status); // msr spsr_fc, status
    i.word(0xe28f_0004); // add r0, pc, #4
    i.word(0xe92d_0001); // push {r0}
    i.word(0xe8fd_8000); // ldm sp!, {pc}^
}

fn movs(i: &mut Image, status: u32) {
    i.word(0xe169_f000 | status);
    i.word(0xe28f_e000); // add lr, pc, #0
    i.word(0xe1b0_f00e); // movs pc, lr
}

fn t32(i: &mut Image, r: &mut Random) {
    let p = pick(r);
    let (any, ptr, status) = (p.any, p.pointer, p.status);
    match r.below(24) {
        0 => i.wide(0xf3ef_8000 | any << 8),
        1 => i.wide(0xf3ff_8000 | any << 8),
        2 | 3 => i.wide(0xf380_8000 | status << 16 | (p.bits & 15) << 8),
        4 => i.wide(0xf390_8000 | status << 16 | (p.bits & 7 | 8) << 8),
        5 | 6 => i.wide(0xf3af_8100 | p.mode),
        7 => i.half(0xb660 | p.bits & 0x17),
        8 => i.wide(0xf3af_8500 | (p.bits & 0x200) | p.bits & 0xe0 | p.mode),
        9 | 10 => i.half(0xdf00 | p.bits & 0xff),
        11 => i.half(0xde00 | p.bits & 0xff),
        12 => i.half(0xbe00 | p.bits & 0xff),
        13 => i.wide(0xe80d_c000 | p.mode | p.bits & 0x20_0000),
        14 => i.wide(0xe98d_c000 | p.mode | p.bits & 0x20_0000),
        15 => i.wide(0xf850_0e04 | ptr << 16 | any << 12),
        16 => i.wide(0xf840_0e04 | ptr << 16 | any << 12),
        17 => {
            i.wide(0xf390_8900 | status << 16); // msr spsr_fc
            if i.at & 2 != 0 {
                i.half(0xbf00);
            }
            i.wide(0xf20f_0e07); // add lr, pc, #7
            i.wide(0xf3de_8f00); // subs pc, lr, #0
            i.half(0xbf00);
        }
        18 => {
            // it; a conditional instruction or two
            i.half(0xbf00 | r.below(14) << 4 | r.pick(&[8u32, 4, 12]));
            i.half(0x3001 | any << 8);
            i.half(r.pick(&[0xdf01u32, 0xde01, 0x3001, 0x6820]));
        }
        19 => i.half(0x6800 | ptr << 3 | any),
        20 => i.wide(0xeef0_0a10 | r.pick(&[0u32, 1, 6, 7, 8]) << 16 | any << 12),
        21 => i.wide(0xee1d_0f30 | any << 12 | r.pick(&[0x00u32, 0x20, 0x40, 0x60])),
        22 => i.half(0xb650 | p.bits & 8),
        _ => i.half(0x3801 | any << 8),
    }
}

fn image(seed: u64, case: usize, thumb: bool) -> Vec<u8> {
    let mut r = Random::new(seed, case);
    let mut i = Image { bytes: vec![0; IMAGE], at: BASE };
    prologue(&mut i, &mut r, thumb);
    i.at = VECTORS;
    HANDLERS.iter().for_each(|w| i.word(*w));
    i.at = BODY;
    for _ in 0..LENGTH {
        if thumb { t32(&mut i, &mut r) } else { a32(&mut i, &mut r) }
    }
    if thumb {
        // wfi; b . - 2
        i.half(0xbf30);
        i.half(0xe7fd);
    } else {
        i.word(0xe320_f003);
        i.word(0xeaff_fffd);
    }
    let at = (DATA - BASE) as usize;
    i.bytes[at..].iter_mut().for_each(|b| *b = r.u32() as u8);
    i.bytes
}

/// The log of the reference up to the point where the CPU sleeps.
fn theirs(emulator: &str, cpu: &str, image: &[u8], steps: usize) -> Result<Vec<String>> {
    let dir = std::env::temp_dir().join(format!("differential-{}", std::process::id()));
    let host = |e: std::io::Error| Error::new(e.to_string());
    std::fs::create_dir_all(&dir).map_err(host)?;
    let (program, log) = (dir.join("image"), dir.join("log"));
    std::fs::write(&program, image).map_err(host)?;
    std::fs::write(&log, "").map_err(host)?;
    let mut child = Command::new(emulator)
        .args(["-M", "virt", "-cpu", cpu, "-m", "16", "-display", "none", "-serial", "null", "-monitor", "none"])
        .args(["-accel", "tcg,one-insn-per-tb=on", "-d", "cpu,nochain", "-device"])
        .arg(format!("loader,file={},addr={BASE:#x},cpu-num=0,force-raw=on", program.display()))
        .arg("-D")
        .arg(&log)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| Error::new(format!("{emulator}: {e}")))?;
    let began = Instant::now();
    let text = loop {
        std::thread::sleep(Duration::from_millis(20));
        let text = std::fs::read_to_string(&log).map_err(host)?;
        if text.matches("PSR=").count() > steps || began.elapsed() > Duration::from_secs(5) {
            break text;
        }
    };
    child.kill().map_err(host)?;
    child.wait().map_err(host)?;
    std::fs::remove_dir_all(&dir).map_err(host)?;
    Ok(states(&text))
}

/// The register dumps in a log, one string each.
pub fn states(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut current = String::new();
    for line in text.lines() {
        match line {
            l if l.starts_with("R0") || l.starts_with("R1") => current = current + l + "\n",
            l if l.starts_with("PSR=") => all.push(std::mem::take(&mut current) + l),
            _ => {}
        }
    }
    all
}

/// Runs one case. Whether both agree.
pub fn case(emulator: &str, cpu: &str, seed: u64, case: usize, thumb: bool) -> Result<bool> {
    let mut image = image(seed, case, thumb);
    let ours = system_machine::run(cpu, &mut image, STEPS)?;
    let theirs = theirs(emulator, cpu, &image, ours.len().saturating_sub(1))?;
    for (n, (a, b)) in ours.iter().zip(&theirs).enumerate() {
        if a != b {
            let before = &ours[n.saturating_sub(1)];
            println!("seed {seed} case {case}{}: instruction {n}", if thumb { " (thumb)" } else { "" });
            println!("before:\n{before}\n{}\nours:\n{a}\ntheirs:\n{b}", system_machine::at(cpu, &image, before));
            return Ok(false);
        }
    }
    if theirs.len() < ours.len() {
        println!("seed {seed} case {case}: the reference made {} of {} steps", theirs.len(), ours.len());
        return Ok(false);
    }
    Ok(true)
}
