//! Instruction tables whose rows look like the manual's bit diagrams.
//!
//! A row is `name "diagram" (fields);`. The diagram lists the bits from the most significant down: `0` and `1` are fixed
//! bits, `-` is ignored, a letter is a field; blanks are free. A letter may occur in several places: its bits are
//! concatenated, most significant first. The handler is the method of that name; its parameter types say what the
//! fields mean (see [`Bits`]).
//!
//! **Invariants**: of two rows that match the same word, one is a special case of the other (its fixed bits include the
//! other's) and wins; [`Decoder::overlaps`] lists violations and each table's test asserts there are none.

use std::sync::OnceLock;

/// How many separate runs of bits one field may have.
const MAX_RUNS: usize = 6;

/// One field of a diagram: its runs of bits, most significant first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    runs: [(u8, u8); MAX_RUNS],
    count: usize,
    bits: u32,
}

impl Field {
    /// The field's bits out of an instruction word, right-aligned.
    #[inline(always)]
    pub const fn get(&self, word: u32) -> u32 {
        let mut value = 0u32;
        let mut i = 0;
        while i < self.count {
            let (shift, len) = self.runs[i];
            let part = (word >> shift) & (((1u64 << len) - 1) as u32);
            value = if len == 32 { part } else { (value << len) | part };
            i += 1;
        }
        value
    }

    /// Width in bits.
    pub const fn width(&self) -> u32 {
        self.bits
    }
}

/// A parsed diagram: fixed bits and the position of every letter.
#[derive(Clone, Copy, Debug)]
pub struct Diagram {
    pub mask: u32,
    pub value: u32,
    /// Letter of each bit, most significant first; 0 where the bit is fixed or ignored.
    letters: [u8; 32],
    pub width: u32,
}

impl Diagram {
    /// Parses a diagram of 16 or 32 bits. Panics (at compile time, in a `const`) when it is malformed.
    pub const fn parse(text: &str) -> Diagram {
        let bytes = text.as_bytes();
        let mut width = 0u32;
        let mut i = 0;
        while i < bytes.len() {
            if bytes[i] != b' ' {
                width += 1;
            }
            i += 1;
        }
        assert!(width == 16 || width == 32, "a diagram has 16 or 32 bits");
        let mut d = Diagram { mask: 0, value: 0, letters: [0; 32], width };
        let mut bit = width;
        i = 0;
        while i < bytes.len() {
            let c = bytes[i];
            i += 1;
            if c == b' ' {
                continue;
            }
            bit -= 1;
            match c {
                b'0' => d.mask |= 1 << bit,
                b'1' => {
                    d.mask |= 1 << bit;
                    d.value |= 1 << bit;
                }
                b'-' => {}
                _ => {
                    assert!(c.is_ascii_alphabetic(), "a diagram holds 0, 1, - and letters");
                    d.letters[bit as usize] = c;
                }
            }
        }
        d
    }

    /// The field of one letter. Panics (at compile time) when the diagram has no such letter.
    pub const fn field(&self, letter: &str) -> Field {
        let bytes = letter.as_bytes();
        assert!(bytes.len() == 1, "a field is one letter");
        let letter = bytes[0];
        let mut f = Field { runs: [(0, 0); MAX_RUNS], count: 0, bits: 0 };
        let mut bit = self.width as i32 - 1;
        let mut inside = false;
        while bit >= 0 {
            if self.letters[bit as usize] == letter {
                if !inside {
                    assert!(f.count < MAX_RUNS, "too many runs in a field");
                    f.count += 1;
                }
                f.runs[f.count - 1] = (bit as u8, f.runs[f.count - 1].1 + 1);
                f.bits += 1;
                inside = true;
            } else {
                inside = false;
            }
            bit -= 1;
        }
        assert!(f.count > 0, "the diagram has no such letter");
        f
    }
}

/// What a handler's parameter makes of a field's bits.
pub trait Bits: Sized {
    fn from_bits(bits: u32) -> Self;
}

impl Bits for u32 {
    #[inline(always)]
    fn from_bits(bits: u32) -> u32 {
        bits
    }
}

impl Bits for usize {
    #[inline(always)]
    fn from_bits(bits: u32) -> usize {
        bits as usize
    }
}

impl Bits for u8 {
    #[inline(always)]
    fn from_bits(bits: u32) -> u8 {
        bits as u8
    }
}

impl Bits for bool {
    #[inline(always)]
    fn from_bits(bits: u32) -> bool {
        bits != 0
    }
}

/// One instruction: its name, its diagram and its handler; no handler means "not built yet".
pub struct Row<T, R> {
    pub name: &'static str,
    pub doc: &'static str,
    pub text: &'static str,
    pub diagram: Diagram,
    pub handler: Option<fn(&mut T, u32) -> R>,
}

impl<T, R> Row<T, R> {
    #[inline]
    pub fn matches(&self, word: u32) -> bool {
        word & self.diagram.mask == self.diagram.value
    }
}

/// Finds the row of an instruction word: rows are bucketed by a few index bits, each bucket filled at its first use.
pub struct Decoder<T: 'static, R: 'static> {
    rows: Vec<&'static Row<T, R>>,
    index: fn(u32) -> usize,
    index_mask: u32,
    groups: Vec<OnceLock<Group<T, R>>>,
}

/// One row in a bucket: what it takes to match beside it, because rows are large and lie apart.
struct Entry<T: 'static, R: 'static> {
    mask: u32,
    value: u32,
    row: &'static Row<T, R>,
}

type Bucket<T, R> = OnceLock<Box<[Entry<T, R>]>>;
/// Buckets that are allocated together: a program uses few of the thousands that there are.
type Group<T, R> = Box<[Bucket<T, R>; GROUP]>;
const GROUP: usize = 64;

impl<T, R> Decoder<T, R> {
    /// `tables` are the chapters; `index_mask` the bits by which `index` (which must use no other bits) forms a bucket
    /// number below `bucket_count`.
    pub fn new(
        tables: &[&'static [Row<T, R>]],
        index: fn(u32) -> usize,
        index_mask: u32,
        bucket_count: usize,
    ) -> Decoder<T, R> {
        let mut rows: Vec<_> = tables.iter().flat_map(|t| t.iter()).collect();
        rows.sort_by_key(|r| std::cmp::Reverse(r.diagram.mask.count_ones()));
        Decoder {
            rows,
            index,
            index_mask,
            groups: (0..bucket_count.div_ceil(GROUP)).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The most specific row that matches, or none.
    pub fn find(&self, word: u32) -> Option<&'static Row<T, R>> {
        let number = (self.index)(word);
        let group = self.groups[number / GROUP].get_or_init(|| Box::new([const { OnceLock::new() }; GROUP]));
        let bucket = group[number % GROUP].get_or_init(|| {
            let fixed = word & self.index_mask;
            let entry = |&row: &&'static Row<T, R>| Entry { mask: row.diagram.mask, value: row.diagram.value, row };
            self.rows.iter().map(entry).filter(|e| (fixed ^ e.value) & e.mask & self.index_mask == 0).collect()
        });
        bucket.iter().find(|e| word & e.mask == e.value).map(|e| e.row)
    }

    /// All rows, most specific first.
    pub fn rows(&self) -> impl Iterator<Item = &'static Row<T, R>> + '_ {
        self.rows.iter().copied()
    }

    /// Pairs of rows that match a common word though neither is a special case of the other.
    pub fn overlaps(&self) -> Vec<(&'static str, &'static str)> {
        let mut found = Vec::new();
        for (i, a) in self.rows.iter().enumerate() {
            for b in &self.rows[i + 1..] {
                let (a, b) = (a, *b);
                let common = a.diagram.mask & b.diagram.mask;
                let both = (a.diagram.value ^ b.diagram.value) & common == 0;
                let nested = common == a.diagram.mask || common == b.diagram.mask;
                let same = a.diagram.mask == b.diagram.mask;
                if both && (!nested || same) {
                    found.push((a.name, b.name));
                }
            }
        }
        found
    }
}

/// Declares a chapter: `insns! { pub ROWS: Translator => Flow; add "cccc 0000 …" (c, n, d); soon "…" todo; }`.
///
/// Expands to `pub static ROWS: &[Row<Translator, Flow>]`. A row marked `todo` has no handler.
#[macro_export]
macro_rules! insns {
    ($vis:vis $table:ident : $t:ty => $r:ty; $($body:tt)*) => {
        $vis static $table: &[$crate::decode::Row<$t, $r>] = $crate::insns!(@rows [$t] [$r] [] $($body)*);
    };
    (@rows [$t:ty] [$r:ty] [$($done:tt)*]) => { &[$($done)*] };
    (@rows [$t:ty] [$r:ty] [$($done:tt)*] $(#[doc = $doc:literal])* $name:ident $text:literal todo; $($rest:tt)*) => {
        $crate::insns!(@rows [$t] [$r] [$($done)*
            $crate::decode::Row {
                name: stringify!($name), doc: concat!($($doc),*), text: $text,
                diagram: $crate::decode::Diagram::parse($text), handler: None,
            },
        ] $($rest)*)
    };
    (@rows [$t:ty] [$r:ty] [$($done:tt)*]
        $(#[doc = $doc:literal])* $name:ident $text:literal ($($f:ident),* $(,)?); $($rest:tt)*) => {
        $crate::insns!(@rows [$t] [$r] [$($done)*
            $crate::decode::Row {
                name: stringify!($name), doc: concat!($($doc),*), text: $text,
                diagram: $crate::decode::Diagram::parse($text),
                handler: Some({
                    fn call(t: &mut $t, _word: u32) -> $r {
                        t.$name($({
                            const F: $crate::decode::Field =
                                $crate::decode::Diagram::parse($text).field(stringify!($f));
                            $crate::decode::Bits::from_bits(F.get(_word))
                        }),*)
                    }
                    call
                }),
            },
        ] $($rest)*)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Probe(Vec<u32>);

    impl Probe {
        fn add(&mut self, s: bool, n: u32, i: u32) -> u32 {
            self.0 = vec![s as u32, n, i];
            1
        }
        fn nop(&mut self) -> u32 {
            2
        }
    }

    insns! { ROWS: Probe => u32;
        /// ADD
        add "cccc 001 0100 s nnnn iiiiiiii ---- iiii" (s, n, i);
        /// NOP, a special case of ADD
        nop "1110 001 0100 0 0000 00000000 ---- 0000" ();
        later "1111 1111 1111 1111 1111 1111 1111 1111" todo;
    }

    fn decoder() -> Decoder<Probe, u32> {
        Decoder::new(&[ROWS], |w| ((w >> 20) & 0xff) as usize, 0x0ff0_0000, 256)
    }

    #[test]
    fn split_fields_are_concatenated() {
        let mut p = Probe(vec![]);
        let d = decoder();
        let word = 0xe290_0000 | 5 << 16 | 0xab << 8 | 0x70 | 0xc;
        let row = d.find(word).unwrap();
        assert_eq!(row.name, "add");
        row.handler.unwrap()(&mut p, word);
        assert_eq!(p.0, [1, 5, 0xabc]);
    }

    #[test]
    fn the_special_case_wins() {
        let d = decoder();
        assert_eq!(d.find(0xe280_0000).unwrap().name, "nop");
        assert_eq!(d.find(0x0280_0000).unwrap().name, "add");
        assert!(d.find(0).is_none());
        assert!(d.find(0xffff_ffff).unwrap().handler.is_none(), "a todo row has no handler");
        assert_eq!(d.overlaps(), vec![]);
    }
}
