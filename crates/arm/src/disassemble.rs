//! Text of an instruction: the name of its row and its fields. Not an assembler's syntax; good enough to follow a trace.

use crate::state::{key, register_name};
use crate::translate::{Flow, Translator};
use crate::{a32, t16};
use cpu::Code;
use spec::decode::Row;
use std::fmt::Write;

const CONDITIONS: [&str; 14] =
    ["eq", "ne", "cs", "cc", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le"];

/// Text and length of the instruction at `key`.
pub fn instruction(key: u64, code: &dyn Code) -> (String, u32) {
    let pc = key::pc(key);
    let half = |at: u32| code.half(at as u64).map(u32::from);
    let (row, word, length) = if key::thumb(key) {
        match (half(pc), half(pc.wrapping_add(2))) {
            (Some(first), Some(second)) if first >= 0xe800 => {
                let w = first << 16 | second;
                let (row, w) = a32::fp::find_t32(w);
                (row, w, 4)
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
        Some(row) => row_text(row, word, key::thumb(key), pc),
        None => format!(".inst 0x{word:0width$x}", width = 2 * length as usize),
    };
    (text, length)
}

fn row_text(row: &Row<Translator, Flow>, w: u32, thumb: bool, pc: u32) -> String {
    let mut letters: Vec<u8> = row.text.bytes().filter(u8::is_ascii_alphabetic).collect();
    letters.dedup();
    let mut seen = Vec::new();
    letters.retain(|l| !seen.contains(l) && { seen.push(*l); true });
    let field = |l: u8| {
        let name = [l];
        row.diagram.field(std::str::from_utf8(&name).expect("a letter")).get(w)
    };
    let mut text = row.name.trim_start_matches("t16_").trim_start_matches("t32_").to_string();
    for suffix in ["_imm", "_reg", "_rsr"] {
        text = text.trim_end_matches(suffix).to_string();
    }
    if !thumb && w >> 28 < 14 {
        text += CONDITIONS[(w >> 28) as usize];
    }
    if row.name.starts_with('b') && letters == *b"ci" && !thumb {
        let target = pc.wrapping_add(8).wrapping_add(((field(b'i') << 8) as i32 >> 6) as u32);
        return format!("{text:8} #0x{target:x}");
    }
    let mut operands = Vec::new();
    // Registers first, in the order that assemblers write them.
    for l in *b"dtxynmas" {
        if letters.contains(&l) && row.diagram.field(std::str::from_utf8(&[l]).expect("a letter")).width() >= 3 {
            operands.push(register_name(field(l)).to_string());
        }
    }
    for &l in &letters {
        let wide = row.diagram.field(std::str::from_utf8(&[l]).expect("a letter")).width() >= 3;
        match l {
            b'c' => {}
            b'i' => operands.push(format!("#0x{:x}", field(l))),
            _ if b"dtxynmas".contains(&l) && wide => {}
            b's' if !wide => {
                if field(l) != 0 {
                    text += "s";
                }
            }
            b'r' => operands.push(format!("{{0x{:x}}}", field(l))),
            _ => operands.push(format!("{}:{}", l as char, field(l))),
        }
    }
    let mut out = format!("{text:8}");
    let _ = write!(out, " {}", operands.join(", "));
    out.trim_end().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{CODE, Machine};

    fn check(word: u32, want: &str) {
        let m = Machine::a32(&[word]);
        assert_eq!(instruction(CODE as u64, &m.memory), (want.to_string(), 4));
    }

    #[test]
    fn names_and_operands() {
        check(0xe280_1005, "add      r1, r0, #0x5");
        check(0x1280_1005, "addne    r1, r0, #0x5");
        check(0xeaff_fffe, "b        #0x10000");
        check(0xffff_ffff, ".inst 0xffffffff");
    }
}
