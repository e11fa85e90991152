//! Text of floating-point and Advanced SIMD instructions: registers by size, the size as a suffix, other fields by letter.
//!
//! **Not modelled**: operands of two sizes (conversions, long and narrow forms) all get the size of the row's field.

use crate::a32::fp::{V, Vn};
use crate::state::register_name;
use crate::translate::{Flow, Translator};
use spec::decode::Row;

/// Mnemonic with its size, and operands; `None` for rows of other chapters. `w` is the A32 form.
pub fn text(row: &Row<Translator, Flow>, w: u32) -> Option<(String, String)> {
    let simd = row.name.starts_with('v') || row.name.starts_with("aes") || row.name.starts_with("sha1") || row.name.starts_with("sha256");
    if !simd {
        return None;
    }
    let fields = Fields { row, w };
    let (size, single) = fields.size();
    let kind = match (fields.get(b'q'), single) {
        (Some((1, 1)), _) => 'q',
        (_, true) => 's',
        _ => 'd',
    };
    let mut out: Vec<String> = Vec::new();
    let mut done = b"cqz".to_vec();
    for l in *b"dtunm" {
        match fields.get(l) {
            Some((v, 5)) => {
                let v = if fields.low_bit_last(l) { V::from(Vn(v)) } else { V(v) };
                out.push(match kind {
                    's' => format!("s{}", v.s()),
                    'q' if v.d() & 1 == 0 => format!("q{}", v.d() / 2),
                    _ => format!("d{}", v.d()),
                });
            }
            Some((v, 4)) if l == b'n' => out.push(format!("[{}]", register_name(v))),
            Some((v, 4)) => out.push(register_name(v).to_string()),
            _ => continue,
        }
        done.push(l);
    }
    let mut letters: Vec<u8> = row.text.bytes().filter(u8::is_ascii_alphabetic).collect();
    letters.retain(|l| !done.contains(l) && { done.push(*l); true });
    if size.is_some() {
        letters.retain(|l| !matches!(l, b's' | b'h') && !(*l == b'u' && fields.get(b's').is_some_and(|f| f.1 == 2)));
    }
    for l in letters {
        if let Some((v, _)) = fields.get(l) {
            out.push(format!("{}:{v}", l as char));
        }
    }
    let name = row.name.split('_').next().unwrap_or(row.name);
    Some((name.to_string() + &size.unwrap_or_default(), out.join(", ")))
}

struct Fields<'a> {
    row: &'a Row<Translator, Flow>,
    w: u32,
}

impl Fields<'_> {
    /// Value and width of a field.
    fn get(&self, letter: u8) -> Option<(u32, u32)> {
        self.row.text.bytes().any(|b| b == letter).then(|| {
            let name = [letter];
            let f = self.row.diagram.field(std::str::from_utf8(&name).expect("a letter"));
            (f.get(self.w), f.width())
        })
    }

    /// Whether a register's single bit comes after its four.
    fn low_bit_last(&self, letter: u8) -> bool {
        let text: Vec<u8> = self.row.text.bytes().filter(|b| *b != b' ').collect();
        let first = text.iter().position(|b| *b == letter).unwrap_or(0);
        text.get(first + 1) == Some(&letter)
    }

    /// The suffix, and whether registers are singles.
    fn size(&self) -> (Option<String>, bool) {
        match (self.get(b'z'), self.get(b's'), self.get(b'h')) {
            (Some((z, 2)), ..) => (Some(format!(".f{}", 8 << z)), z < 3),
            (Some((z, _)), ..) => (Some(format!(".f{}", 32 << z)), z == 0),
            (_, Some((s, 2)), _) => {
                let sign = match self.get(b'u') {
                    Some((1, 1)) => "u",
                    Some((0, 1)) => "s",
                    _ => "",
                };
                (Some(format!(".{sign}{}", 8 << s)), false)
            }
            (_, _, Some((h, 1))) => (Some(if h == 1 { ".f16" } else { ".f32" }.into()), false),
            _ => (None, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_registers() {
        let check = |w: u32, expected: &str| {
            let (name, operands) = text(crate::a32::find(w).expect("a row"), w).expect("a floating-point row");
            assert_eq!(format!("{name} {operands}"), expected);
        };
        check(0xee31_0b02, "vadd.f64 d0, d1, d2");
        check(0xee00_0a81, "vmla.f32 s0, s1, s2");
        check(0xf201_0012, "vqadd.s8 d0, d1, d2");
        check(0xf220_0842, "vadd.32 q0, q0, q1");
        check(0xeef1_2a10, "vmrs r2, r:1");
    }
}
