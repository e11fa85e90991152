//! What `-d in_asm,op,op_opt,out_asm,exec,cpu` prints, for a process and for a machine, in QEMU's layout.
//!
//! **Reference.** The output of `qemu-arm -d …`, version 10.0.2. Operations are our own text form (`ir::text`) under QEMU's
//! headings: `OP` as the front end and the builder made them, `OP after optimization and liveness analysis` with the flags
//! pass applied and without dead operations. Guest code is disassembled by the front end, host code by `iced-x86`
//! (cargo feature `disassemble`; without it as hexadecimal bytes, as QEMU does without a disassembler).

use cpu::{Code, Guest};
use ir::{Op, Region, State};
use spec::{Error, Result};
use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Which addresses are of interest (`-dfilter`); none given: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter(Vec<RangeInclusive<u64>>);

impl Filter {
    /// `start+length`, `start-length` (what ends there) or `start..end`, separated by commas.
    pub fn parse(text: &str) -> Result<Filter> {
        text.split(',').map(range).collect::<Result<_>>().map(Filter)
    }

    pub fn has(&self, addr: u64) -> bool {
        self.0.is_empty() || self.0.iter().any(|r| r.contains(&addr))
    }
}

fn range(text: &str) -> Result<RangeInclusive<u64>> {
    let split = ["..", "-", "+"].iter().find_map(|by| text.split_once(by).map(|(a, b)| (*by, a, b)));
    let (by, left, right) = split.ok_or("Bad range specifier")?;
    let number = |word: &str, side: &str| {
        let parsed = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
            Some(hex) => u64::from_str_radix(hex, 16),
            None if word.len() > 1 && word.starts_with('0') => u64::from_str_radix(&word[1..], 8),
            None => word.parse(),
        };
        parsed.map_err(|_| Error::new(format!("Invalid number to the {side} of {by}")))
    };
    let (a, b) = (number(left, "left")?, number(right, "right")?);
    let range = match by {
        ".." => Some(a..=b),
        "+" => b.checked_sub(1).and_then(|more| a.checked_add(more)).map(|end| a..=end),
        _ => b.checked_sub(1).and_then(|more| a.checked_sub(more)).map(|start| start..=a),
    };
    range.filter(|r| !r.is_empty()).ok_or_else(|| "Invalid range".into())
}

/// What to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Items {
    pub in_asm: bool,
    pub op: bool,
    pub op_opt: bool,
    pub out_asm: bool,
    pub exec: bool,
    pub cpu: bool,
    /// With floating-point registers.
    pub fpu: bool,
    pub nochain: bool,
}

impl Items {
    /// Something is printed when a region is translated.
    pub fn at_translation(&self) -> bool {
        self.in_asm || self.op || self.op_opt || self.out_asm
    }

    /// Something is printed when a region is entered.
    pub fn at_execution(&self) -> bool {
        self.exec || self.cpu
    }
}

/// The name of the guest function at an address.
pub type Symbol = Box<dyn Fn(u64) -> Option<String> + Send + Sync>;
/// Where the text goes.
pub type Sink = Box<dyn Fn(&str) + Send + Sync>;

pub struct Trace {
    /// What is wanted now.
    pub items: fn() -> Items,
    pub filter: Filter,
    pub guest: Arc<dyn Guest>,
    pub symbol: Symbol,
    pub out: Sink,
}

thread_local! {
    /// The region that the front end has made last on this thread.
    static BUILT: RefCell<Region> = RefCell::default();
    static CPU: Cell<Option<u32>> = const { Cell::new(None) };
}

/// The calling thread's number in `exec` lines, by order of appearance.
fn cpu_index() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    CPU.with(|c| {
        let n = c.get().unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed));
        c.set(Some(n));
        n
    })
}

impl Trace {
    fn name(&self, pc: u64) -> String {
        (self.symbol)(pc).unwrap_or_default()
    }

    /// The front end has made a region, which the back end may still change.
    pub fn built(&self, region: &Region) {
        if (self.items)().op && self.filter.has(region.pc) {
            BUILT.with(|b| b.borrow_mut().clone_from(region));
        }
    }

    /// A region has become host code (none: it will be interpreted). `code` is guest memory.
    pub fn translated(&self, region: &Region, host: &[u8], address: usize, code: &dyn Code) {
        let items = (self.items)();
        if !items.at_translation() || !self.filter.has(region.pc) {
            return;
        }
        let mut text = String::new();
        if items.in_asm {
            self.in_asm(region, code, &mut text);
        }
        if items.op {
            text.push_str("OP:\n");
            BUILT.with(|b| {
                let built = b.borrow();
                let same = (built.key, built.guest_insns) == (region.key, region.guest_insns);
                operations(if same { &built } else { region }, |_| true, &mut text);
            });
        }
        if items.op_opt {
            text.push_str("OP after optimization and liveness analysis:\n");
            let mut live = ir::pass::dead::Scratch::default();
            let mut region = region.clone();
            ir::pass::dead::run(&mut region, &mut live);
            operations(&region, |n| live.is_live(n), &mut text);
        }
        if items.out_asm && !host.is_empty() {
            let _ = writeln!(text, "OUT: [size={}]", host.len());
            let _ = writeln!(text, "  -- guest addr 0x{:016x} + tb prologue", region.pc);
            disassemble(host, address, &mut text);
            text.push('\n');
        }
        (self.out)(&text);
    }

    fn in_asm(&self, region: &Region, code: &dyn Code, text: &mut String) {
        let _ = writeln!(text, "----------------\nIN: {}", self.name(region.pc));
        for i in region.insts.iter().filter(|i| i.op == Op::Insn) {
            let delta = i.a as i32;
            let pc = region.pc.wrapping_add(delta as i64 as u64);
            let (instruction, length) = self.guest.disassemble(self.guest.key_at(region.key, delta, i.b), code);
            let mut raw = [0; 16];
            let got = code.read(pc, &mut raw[..length.min(16) as usize]);
            let unit = self.guest.code_unit(region.key) as usize;
            let units: Vec<String> =
                raw[..got].chunks(unit).map(|u| u.iter().rev().map(|b| format!("{b:02x}")).collect()).collect();
            // Short units leave room for a long instruction.
            let width = if unit < 4 { 9 } else { 8 };
            let _ = writeln!(text, "0x{pc:08x}:  {:<width$}  {instruction}", units.join(" "));
        }
        text.push('\n');
    }

    /// A run loop is about to enter a region; `host` is the address of its code.
    pub fn entered(&self, state: &State, host: usize) {
        self.entered_by(cpu_index(), state, host);
    }

    /// As `entered`, on the vCPU of this number.
    pub fn entered_by(&self, cpu: u32, state: &State, host: usize) {
        let items = (self.items)();
        let key = state.u64_at(ir::state::KEY);
        let pc = self.guest.pc(key);
        if !self.filter.has(pc) {
            return;
        }
        let mut text = String::new();
        if items.exec {
            // The key's other bits stand where QEMU has flags.
            let _ = writeln!(
                text,
                "Trace {cpu}: {host:#x} [00000000/{pc:016x}/{:08x}/00000000] {}",
                (key >> 32) as u32,
                self.name(pc)
            );
        }
        if items.cpu {
            let dump = self.guest.dump(state);
            text.push_str(if items.fpu { &dump } else { without_fp(&dump) });
        }
        (self.out)(&text);
    }
}

/// A register dump without its floating-point part.
pub fn without_fp(dump: &str) -> &str {
    dump.find("s00=").map_or(dump, |at| &dump[..at])
}

/// The operations of a region that are wanted, and a blank line.
fn operations(region: &Region, wanted: impl Fn(usize) -> bool, text: &mut String) {
    for line in ir::text::print(region).lines() {
        let number = line.strip_prefix('v').and_then(|l| l.split(' ').next()).and_then(|n| n.parse().ok());
        if number.is_none_or(&wanted) {
            let _ = writeln!(text, " {line}");
        }
    }
    text.push('\n');
}

/// One line for each host instruction.
#[cfg(feature = "disassemble")]
fn disassemble(host: &[u8], address: usize, text: &mut String) {
    use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter};
    let mut decoder = Decoder::with_ip(64, host, address as u64, DecoderOptions::NONE);
    let mut formatter = GasFormatter::new();
    let options = formatter.options_mut();
    options.set_first_operand_char_index(9);
    options.set_space_after_operand_separator(true);
    options.set_gas_show_mnemonic_size_suffix(true);
    options.set_uppercase_hex(false);
    options.set_branch_leading_zeros(false);
    let mut instruction = iced_x86::Instruction::default();
    while decoder.can_decode() {
        let start = decoder.position();
        decoder.decode_out(&mut instruction);
        let mut line = String::new();
        formatter.format(&instruction, &mut line);
        let mut at = instruction.ip();
        for (n, part) in host[start..decoder.position()].chunks(8).enumerate() {
            let bytes: String = part.iter().map(|b| format!("{b:02x} ")).collect();
            let shown = if n == 0 { format!("{bytes:<24} {line}") } else { bytes };
            let _ = writeln!(text, "{at:#x}:  {}", shown.trim_end());
            at += 8;
        }
    }
}

#[cfg(not(feature = "disassemble"))]
fn disassemble(host: &[u8], _: usize, text: &mut String) {
    for part in host.chunks(32) {
        let bytes: String = part.iter().map(|b| format!("{b:02x}")).collect();
        let _ = writeln!(text, "OBJD-H: {bytes}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_three_forms() {
        let f = Filter::parse("0x1000..0x1fff,0x8000+0x10,100-20").unwrap();
        for (addr, has) in [
            (0xfff, false),
            (0x1000, true),
            (0x1fff, true),
            (0x2000, false),
            (0x800f, true),
            (0x8010, false),
            (100, true),
            (81, true),
            (80, false),
        ] {
            assert_eq!(f.has(addr), has, "{addr:#x}");
        }
        assert!(Filter::default().has(7));
    }

    #[test]
    fn bad_ranges_have_qemus_sentences() {
        for (text, sentence) in [
            ("foo", "Bad range specifier"),
            ("1..x", "Invalid number to the right of .."),
            ("x+1", "Invalid number to the left of +"),
            ("5+", "Invalid number to the right of +"),
            ("10..5", "Invalid range"),
            ("0x10+0", "Invalid range"),
            ("1-5", "Invalid range"),
        ] {
            assert_eq!(Filter::parse(text).unwrap_err().sentence(), sentence);
        }
    }

    #[cfg(feature = "disassemble")]
    #[test]
    fn host_code_has_one_line_for_each_instruction() {
        let mut text = String::new();
        disassemble(&[0x8b, 0x5d, 0xf0, 0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8], 0x7000, &mut text);
        assert_eq!(
            text,
            "0x7000:  8b 5d f0                 movl     -0x10(%rbp), %ebx\n0x7003:  48 b8 01 02 03 04 05 06  movabsq  $0x807060504030201, %rax\n0x700b:  07 08\n"
        );
    }
}
