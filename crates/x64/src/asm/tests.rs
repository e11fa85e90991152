//! Round trip: random operands through every method, decoded by an independent disassembler (iced-x86), texts compared.
//!
//! The seed is printed; `ASM_SEED=n` repeats a run.

mod int;
mod label;
mod vector;

use super::*;
use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter, MemorySizeOptions, Mnemonic};
use std::collections::BTreeSet;

/// SplitMix64.
pub(super) struct Rng(u64);

impl Rng {
    /// Seeded from the environment or the clock; says which.
    pub fn from_env() -> Rng {
        let clock = || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |d| d.as_nanos() as u64);
        let seed = std::env::var("ASM_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(clock);
        println!("ASM_SEED={seed}");
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    pub fn gpr(&mut self) -> Gpr {
        Gpr(self.below(16) as u8)
    }

    pub fn xmm(&mut self) -> Xmm {
        Xmm(self.below(16) as u8)
    }

    pub fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// Any size.
    pub fn w(&mut self) -> Width {
        self.pick(&Width::ALL)
    }

    /// 2, 4 or 8 bytes.
    pub fn w248(&mut self) -> Width {
        self.pick(&Width::ALL[1..])
    }

    /// 4 or 8 bytes.
    pub fn w48(&mut self) -> Width {
        self.pick(&Width::ALL[2..])
    }

    /// Constants around the edges of the encodings, or anything.
    pub fn imm(&mut self) -> i32 {
        match self.below(4) {
            0 => self.pick(&[0, 1, -1, 127, 128, -128, -129, 255, 256, 0x7fff, 0x8000, 0xffff, i32::MAX, i32::MIN]),
            1 => i32::from(self.byte() as i8),
            _ => self.next() as i32,
        }
    }

    pub fn mem(&mut self) -> Mem {
        let base = self.gpr();
        let index = loop {
            let index = self.gpr();
            if index != RSP {
                break index;
            }
        };
        let scale = self.pick(&[1, 2, 4, 8]);
        let disp = self.imm();
        let mem = match self.below(12) {
            0 => Mem::abs(disp),
            1 => Mem::rip(disp),
            2 => Mem::scaled(index, scale, disp),
            3..7 => Mem::base(base, disp),
            _ => Mem::index(base, index, scale, disp),
        };
        let mem = if self.one_in(4) { mem.gs() } else { mem };
        // With the address-size prefix, rip becomes eip: legal, of no use, and shown differently.
        if self.one_in(4) && !mem.rip { mem.addr32() } else { mem }
    }

    pub fn rm(&mut self) -> Rm {
        if self.one_in(2) { self.gpr().into() } else { self.mem().into() }
    }

    pub fn xrm(&mut self) -> XRm {
        if self.one_in(2) { self.xmm().into() } else { self.mem().into() }
    }
}

/// The disassembler, set to a regular notation.
pub(super) struct Listing {
    formatter: IntelFormatter,
}

impl Listing {
    pub fn new(sizes: MemorySizeOptions) -> Listing {
        let mut formatter = IntelFormatter::new();
        let options = formatter.options_mut();
        options.set_hex_prefix("0x");
        options.set_hex_suffix("");
        options.set_uppercase_hex(false);
        options.set_add_leading_zero_to_hex_numbers(false);
        options.set_small_hex_numbers_in_decimal(false);
        options.set_space_after_operand_separator(true);
        options.set_signed_immediate_operands(true);
        options.set_rip_relative_addresses(true);
        options.set_use_pseudo_ops(false);
        options.set_show_branch_size(false);
        options.set_branch_leading_zeros(false);
        options.set_always_show_scale(true);
        options.set_memory_size_options(sizes);
        Listing { formatter }
    }

    pub fn text(&mut self, instruction: &Instruction) -> String {
        let mut text = String::new();
        self.formatter.format(instruction, &mut text);
        text
    }

    /// The only instruction in `code`.
    pub fn one(&mut self, code: &[u8]) -> (Instruction, String) {
        let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
        let instruction = decoder.decode();
        assert!(!instruction.is_invalid(), "undefined: {code:02x?}");
        let text = self.text(&instruction);
        assert_eq!(instruction.len(), code.len(), "length of {text}: {code:02x?}");
        (instruction, text)
    }

    /// All instructions except NOPs in `code`, which starts at address 0.
    pub fn all(&mut self, code: &[u8]) -> Vec<String> {
        let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
        let mut lines = Vec::new();
        while decoder.can_decode() {
            let instruction = decoder.decode();
            assert!(!instruction.is_invalid(), "undefined at {:#x}: {code:02x?}", instruction.ip());
            if instruction.mnemonic() != Mnemonic::Nop {
                lines.push(self.text(&instruction));
            }
        }
        lines
    }
}

/// Hexadecimal with a sign.
pub(super) fn hex(value: i64) -> String {
    if value < 0 { format!("-{:#x}", value.unsigned_abs()) } else { format!("{value:#x}") }
}

/// An immediate of size `w`, which counts only as many bits.
pub(super) fn imm(w: Width, value: i32) -> String {
    hex(match w {
        Width::B1 => i64::from(value as i8),
        Width::B2 => i64::from(value as i16),
        Width::B4 | Width::B8 => i64::from(value),
    })
}

pub(super) fn reg(w: Width, r: Gpr) -> String {
    const BYTE: [&str; 8] = ["al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil"];
    const WORD: [&str; 8] = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"];
    let n = r.0 as usize;
    match (w, n) {
        (Width::B1, 0..8) => BYTE[n].to_string(),
        (Width::B2, 0..8) => WORD[n].to_string(),
        (Width::B4, 0..8) => format!("e{}", WORD[n]),
        (Width::B8, 0..8) => format!("r{}", WORD[n]),
        (Width::B1, _) => format!("r{n}b"),
        (Width::B2, _) => format!("r{n}w"),
        (Width::B4, _) => format!("r{n}d"),
        (Width::B8, _) => format!("r{n}"),
    }
}

/// A memory operand without its size.
pub(super) fn address(m: &Mem) -> String {
    let w = if m.addr32 { Width::B4 } else { Width::B8 };
    let mut terms: Vec<String> = Vec::new();
    terms.extend(m.base.map(|r| reg(w, r)));
    terms.extend(m.index.map(|(r, scale)| format!("{}*{scale}", reg(w, r))));
    if m.rip {
        terms.push("rip".to_string());
    }
    let mut sum = terms.join("+");
    if sum.is_empty() {
        sum = if m.addr32 { format!("{:#x}", m.disp as u32) } else { format!("{:#x}", i64::from(m.disp)) };
    } else if m.disp != 0 {
        let sign = if m.disp > 0 { "+" } else { "" };
        sum = format!("{sum}{sign}{}", hex(i64::from(m.disp)));
    }
    format!("{}[{sum}]", if m.gs { "gs:" } else { "" })
}

pub(super) fn mem(w: Width, m: &Mem) -> String {
    const SIZES: [&str; 4] = ["byte", "word", "dword", "qword"];
    format!("{} ptr {}", SIZES[w as usize], address(m))
}

pub(super) fn rm(w: Width, operand: &Rm) -> String {
    match operand {
        Rm::Reg(r) => reg(w, *r),
        Rm::Mem(m) => mem(w, m),
    }
}

/// The methods a file makes public, from its text.
pub(super) fn methods(source: &str) -> BTreeSet<&str> {
    source.lines().filter_map(|line| line.strip_prefix("    pub fn ")?.split(['(', '<']).next()).collect()
}
