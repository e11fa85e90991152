//! Text of an instruction, made from its row: the mnemonic is the row's name, the operands follow from the letters.
//!
//! Loads, stores, block transfers, branches and data processing get assembler syntax; other rows list their registers and
//! then their other fields by letter. It is for traces, not for assembling again.

use crate::state::{key, register_name};
use crate::translate::{Flow, Translator};
use crate::{a32, t16};
use cpu::Code;
use spec::decode::Row;

const CONDITIONS: [&str; 14] = ["eq", "ne", "cs", "cc", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le"];
const SHIFTS: [&str; 4] = ["lsl", "lsr", "asr", "ror"];

/// Text and length of the instruction at `key`.
pub fn instruction(key: u64, code: &dyn Code) -> (String, u32) {
    let pc = key::pc(key);
    let half = |at: u32| code.half(at as u64).map(u32::from);
    let (row, word, length) = if key::thumb(key) {
        match (half(pc), half(pc.wrapping_add(2))) {
            (Some(first), Some(second)) if first >= 0xe800 => {
                let (row, word) = a32::fp::find_t32(first << 16 | second);
                (row, word, 4)
            }
            (Some(first), _) if first < 0xe800 => (t16::find(first), first, 2),
            _ => return ("(not fetched)".into(), 2),
        }
    } else {
        match code.word(pc as u64) {
            Some(w) => (a32::find(w), w, 4),
            None => return ("(not fetched)".into(), 4),
        }
    };
    let text = match row {
        Some(row) => Line { row, w: word, pc, thumb: key::thumb(key), wide: length == 4, it: key::it(key) }.text(),
        None => format!(".inst    0x{word:0width$x}", width = 2 * length as usize),
    };
    (text, length)
}

/// An instruction to be printed.
struct Line {
    row: &'static Row<Translator, Flow>,
    w: u32,
    pc: u32,
    thumb: bool,
    wide: bool,
    it: u8,
}

impl Line {
    fn text(&self) -> String {
        if let Some((name, operands)) = crate::disassemble_fp::text(self.row, self.w) {
            let name = name + self.condition();
            return format!("{name:8} {operands}").trim_end().to_string();
        }
        let name = self.row.name.trim_start_matches("t16_").trim_start_matches("t32_");
        let name = ["_literal", "_imm3", "_imm8", "_imm", "_reg", "_rsr", "_high", "_sp", "_cond"]
            .iter()
            .fold(name, |n, suffix| n.strip_suffix(suffix).unwrap_or(n));
        let (name, operands) = match name {
            "b" | "bl" | "blx" if self.bits(b'i') > 4 => (name.to_string(), self.target()),
            "cbz" => {
                let name = if self.field(b'o') != 0 { "cbnz" } else { "cbz" };
                (name.to_string(), format!("{}, {}", self.register(b'n'), self.target()))
            }
            "it" => (self.it_name(), CONDITIONS.get(self.field(b'c') as usize).unwrap_or(&"al").to_string()),
            "inc" => ("add".into(), format!("sp, #0x{:x}", self.field(b'i') << 2)),
            "dec" => ("sub".into(), format!("sp, #0x{:x}", self.field(b'i') << 2)),
            "add" if self.row.name == "t16_add_sp" => {
                ("add".into(), format!("{}, sp, #0x{:x}", self.register(b'd'), self.field(b'i') << 2))
            }
            _ if self.bits(b'r') >= 8 => (name.to_string(), self.block(name)),
            _ if self.is_transfer(name) => (name.to_string(), self.transfer()),
            _ => (self.with_s(name), self.operands()),
        };
        let name = name + self.condition();
        format!("{name:8} {operands}").trim_end().to_string()
    }

    /// Width of a field in bits, 0 if the row has none of that letter.
    fn bits(&self, letter: u8) -> u32 {
        if self.row.text.bytes().any(|b| b == letter) { self.get(letter).1 } else { 0 }
    }

    fn get(&self, letter: u8) -> (u32, u32) {
        let name = [letter];
        let f = self.row.diagram.field(std::str::from_utf8(&name).expect("a letter"));
        (f.get(self.w), f.width())
    }

    /// The field's bits; 0 if there is none.
    fn field(&self, letter: u8) -> u32 {
        if self.bits(letter) == 0 { 0 } else { self.get(letter).0 }
    }

    fn register(&self, letter: u8) -> &'static str {
        register_name(self.field(letter))
    }

    fn condition(&self) -> &'static str {
        let code = match () {
            _ if !self.thumb => self.w >> 28,
            _ if self.row.name.ends_with("b_cond") => self.field(b'c'),
            _ if self.it & 15 != 0 => self.it as u32 >> 4,
            _ => 14,
        };
        CONDITIONS.get(code as usize).copied().unwrap_or("")
    }

    fn with_s(&self, name: &str) -> String {
        let narrow_sets = self.thumb && !self.wide && self.it & 15 == 0 && self.w >> 10 <= 0b010000;
        let compares = matches!(name, "tst" | "teq" | "cmp" | "cmn");
        let s = self.bits(b's') == 1 && self.field(b's') != 0 || narrow_sets && !compares;
        if s { format!("{name}s") } else { name.to_string() }
    }

    fn target(&self) -> String {
        let i = self.field(b'i');
        let (s, j, k) = (self.field(b's'), self.field(b'j'), self.field(b'k'));
        let sign = |v: u32, bits: u32| ((v << (32 - bits)) as i32 >> (32 - bits)) as u32;
        let pc = self.pc.wrapping_add(if self.thumb { 4 } else { 8 });
        let to = match self.row.name {
            "t16_b_cond" => pc.wrapping_add(sign(i << 1, 9)),
            "t16_b" => pc.wrapping_add(sign(i << 1, 12)),
            "t16_cbz" => pc.wrapping_add(i << 1),
            "t32_b_cond" => pc.wrapping_add(sign(s << 20 | k << 19 | j << 18 | i << 1, 21)),
            "t32_blx" => (pc & !3).wrapping_add(sign(s << 24 | (1 ^ j ^ s) << 23 | (1 ^ k ^ s) << 22 | i << 2, 25)),
            "blx_imm" => pc.wrapping_add(sign(i << 2, 26)) | self.field(b'h') << 1,
            _ if self.thumb => pc.wrapping_add(sign(s << 24 | (1 ^ j ^ s) << 23 | (1 ^ k ^ s) << 22 | i << 1, 25)),
            _ => pc.wrapping_add(sign(i << 2, 26)),
        };
        format!("#0x{to:x}")
    }

    /// IT, ITE, ITTE …: a letter for each further instruction.
    fn it_name(&self) -> String {
        let (c, m) = (self.field(b'c'), self.field(b'm'));
        let more = 3 - m.trailing_zeros().min(3);
        let letters = (0..more).map(|n| if m >> (3 - n) & 1 == c & 1 { 't' } else { 'e' });
        "it".chars().chain(letters).collect()
    }

    fn block(&self, name: &str) -> String {
        let mut list = self.field(b'r');
        let has = |letter: u8| self.bits(letter) == 1 && self.field(letter) != 0;
        list |= match name {
            "push" if has(b'm') => 1 << 14,
            "pop" if has(b'p') => 1 << 15,
            _ => 0,
        };
        let names: Vec<_> = (0..16).filter(|n| list >> n & 1 != 0).map(register_name).collect();
        let base = match name {
            "push" | "pop" => String::new(),
            _ => format!("{}{}, ", self.register(b'n'), if has(b'w') { "!" } else { "" }),
        };
        format!("{base}{{{}}}", names.join(", "))
    }

    fn is_transfer(&self, name: &str) -> bool {
        ["ldr", "str", "lda", "stl"].iter().any(|p| name.starts_with(p)) && self.bits(b't') >= 3
    }

    /// Operands of a load or store of one or two registers.
    fn transfer(&self) -> String {
        let mut registers = Vec::new();
        if self.bits(b'd') == 4 {
            registers.push(self.register(b'd'));
        }
        registers.push(self.register(b't'));
        if self.bits(b'h') == 4 {
            registers.push(self.register(b'h'));
        }
        let base = match (self.row.name, self.bits(b'n')) {
            ("t16_ldr_literal", _) => "pc",
            (_, 0) => "sp",
            _ => self.register(b'n'),
        };
        let (mut p, mut u, mut w) = (self.field(b'p') != 0, self.field(b'u') != 0, self.field(b'w') != 0);
        if self.bits(b'p') == 0 {
            (p, u, w) = (true, true, false);
        }
        let mut offset = self.offset();
        if self.bits(b'o') == 12 {
            let o = self.field(b'o');
            if o >> 11 != 0 {
                (p, u, w) = (o >> 10 & 1 != 0, o >> 9 & 1 != 0, o >> 8 & 1 != 0);
                offset = format!("#{}0x{:x}", if u { "" } else { "-" }, o & 0xff);
            } else {
                offset = format!("{}, lsl #{}", register_name(o & 15), o >> 4 & 3);
            }
        } else if !u && !offset.is_empty() {
            offset = match offset.strip_prefix('#') {
                Some(number) => format!("#-{number}"),
                None => format!("-{offset}"),
            };
        }
        let zero = matches!(offset.as_str(), "" | "#0x0" | "#-0x0");
        let address = match (p, w) {
            (true, false) if zero => format!("[{base}]"),
            (true, false) => format!("[{base}, {offset}]"),
            (true, true) => format!("[{base}, {offset}]!"),
            _ => format!("[{base}], {offset}"),
        };
        format!("{}, {address}", registers.join(", "))
    }

    /// The offset of a load or store without its sign.
    fn offset(&self) -> String {
        if self.bits(b'm') >= 3 {
            let m = self.register(b'm');
            return match (self.bits(b's'), self.field(b'i')) {
                (2, i) if i != 0 => format!("{m}, {} #{i}", SHIFTS[self.field(b's') as usize]),
                _ => m.to_string(),
            };
        }
        if self.bits(b'i') == 0 {
            return String::new();
        }
        let name = self.row.name;
        let scale = match () {
            _ if name.starts_with("t32_ldrd") || name.starts_with("t32_strd") => 2,
            _ if name == "t32_ldrex" || name == "t32_strex" => 2,
            _ if self.wide || !self.thumb => 0,
            _ if name.contains("rb") => 0,
            _ if name.contains("rh") => 1,
            _ => 2,
        };
        format!("#0x{:x}", self.field(b'i') << scale)
    }

    /// Operands of anything else: registers in the order that assemblers write them, a shift, then the other fields.
    fn operands(&self) -> String {
        let is_register = |l: u8| matches!(self.bits(l), 3 | 4) && !(l == b'm' && self.row.name.contains("msr"));
        let mut out: Vec<String> = Vec::new();
        for l in *b"lhdtnma" {
            if is_register(l) && !(l == b'a' && self.row.name.ends_with("_rsr")) {
                out.push(self.register(l).to_string());
            }
        }
        let mut done = b"lhdtnma".iter().copied().filter(|&l| is_register(l)).collect::<Vec<_>>();
        done.extend(b"cs");
        if self.bits(b't') == 2 {
            let shift = SHIFTS[self.field(b't') as usize];
            if self.row.name.ends_with("_rsr") {
                out.push(format!("{shift} {}", self.register(b'a')));
            } else if self.bits(b'i') == 5 && (self.field(b'i') != 0 || shift != "lsl") {
                out.push(format!("{shift} #{}", self.field(b'i')));
            }
            done.extend(b"ti");
        }
        let mut letters: Vec<u8> = self.row.text.bytes().filter(u8::is_ascii_alphabetic).collect();
        letters.retain(|l| !done.contains(l) && { done.push(*l); true });
        for l in letters {
            out.push(match l {
                b'i' => format!("#0x{:x}", self.immediate()),
                _ => format!("{}:{}", l as char, self.field(l)),
            });
        }
        out.join(", ")
    }

    /// The value of the immediate field.
    fn immediate(&self) -> u32 {
        let i = self.field(b'i');
        let expands = self.row.name.ends_with("_imm") && self.bits(b'i') == 12;
        match () {
            _ if expands && !self.thumb => (i & 0xff).rotate_right(2 * (i >> 8)),
            _ if expands && i >> 10 == 0 => (i & 0xff) * [1, 0x0001_0001, 0x0100_0100, 0x0101_0101][(i >> 8) as usize],
            _ if expands => (0x80 | i & 0x7f).rotate_right(i >> 7),
            _ if matches!(self.row.name, "t16_adr") => i << 2,
            _ if self.bits(b'j') != 0 => self.field(b'j') << 12 | i,
            _ => i,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{CODE, Machine};

    fn check(word: u32, want: &str) {
        let m = Machine::a32(&[word]);
        assert_eq!(instruction(CODE as u64, &m.memory), (want.to_string(), 4));
    }

    fn check_thumb(halves: &[u16], want: &str) {
        let m = Machine::thumb(halves);
        assert_eq!(instruction(CODE as u64 | 1, &m.memory), (want.to_string(), 2 * halves.len() as u32));
    }

    #[test]
    fn a32() {
        check(0xe280_1005, "add      r1, r0, #0x5");
        check(0x1290_1b01, "addsne   r1, r0, #0x400");
        check(0xe1a0_10c2, "mov      r1, r2, asr #1");
        check(0xe080_1312, "add      r1, r0, r2, lsl r3");
        check(0xeaff_fffe, "b        #0x10000");
        check(0xe591_0004, "ldr      r0, [r1, #0x4]");
        check(0xe711_0102, "ldr      r0, [r1, -r2, lsl #2]");
        check(0xe4b1_0004, "ldr      r0, [r1], #0x4");
        check(0xe8bd_8010, "ldm      sp!, {r4, pc}");
        check(0xe084_3291, "umull    r3, r4, r1, r2");
        check(0xffff_ffff, ".inst    0xffffffff");
    }

    #[test]
    fn thumb() {
        check_thumb(&[0x1c48], "adds     r0, r1, #0x1");
        check_thumb(&[0x2b00], "cmp      r3, #0x0");
        check_thumb(&[0xd0fe], "beq      #0x10000");
        check_thumb(&[0xb530], "push     {r4, r5, lr}");
        check_thumb(&[0xbf0c], "ite      eq");
        check_thumb(&[0x4801], "ldr      r0, [pc, #0x4]");
        check_thumb(&[0x6848], "ldr      r0, [r1, #0x4]");
        check_thumb(&[0xf810, 0x3f01], "ldrb     r3, [r0, #0x1]!");
        check_thumb(&[0xf04f, 0x30ab], "mov      r0, #0xabababab");
        check_thumb(&[0xb082], "sub      sp, #0x8");
        check_thumb(&[0xf000, 0xf802], "bl       #0x10008");
    }

    /// Every row's text can be made, whatever its fields hold.
    #[test]
    fn no_row_panics() {
        let mut w = 0x1234_5677u32;
        for _ in 0..20_000 {
            w = w.wrapping_mul(0x6c07_8965).wrapping_add(0x3039).rotate_left(7);
            let m = Machine::a32(&[w]);
            instruction(CODE as u64, &m.memory);
            let m = Machine::thumb(&[(w >> 16) as u16, w as u16]);
            instruction(CODE as u64 | 1, &m.memory);
        }
    }
}
