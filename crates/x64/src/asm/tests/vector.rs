//! Vector instructions: every row in every form it has, with random operands; the extensions of the table against the
//! disassembler's.

use super::*;
use iced_x86::{CpuidFeature, Register};

/// Which encoding of a row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Form {
    Sse,
    Vex,
    VexY,
}

const FORMS: [Form; 3] = [Form::Sse, Form::Vex, Form::VexY];

/// The operands whose size differs from the form's, in 256-bit forms: destination, source.
fn half(op: VecOp) -> (bool, bool) {
    use VecOp::*;
    match op {
        Cvtpd2ps | Cvttpd2dq | Cvtpd2dq | Vcvtps2ph | Vextractf128 | Vextracti128 => (true, false),
        Psrlw | Psrld | Psrlq | Psraw | Psrad | Psllw | Pslld | Psllq => (false, true),
        Pmovsxbw | Pmovsxbd | Pmovsxbq | Pmovsxwd | Pmovsxwq | Pmovsxdq => (false, true),
        Pmovzxbw | Pmovzxbd | Pmovzxbq | Pmovzxwd | Pmovzxwq | Pmovzxdq => (false, true),
        Cvtps2pd | Cvtdq2pd | Vcvtph2ps | Vinsertf128 | Vinserti128 => (false, true),
        Vbroadcastss | Vbroadcastsd | Vpbroadcastb | Vpbroadcastw | Vpbroadcastd | Vpbroadcastq => (false, true),
        _ => (false, false),
    }
}

/// One random instruction of a row, and how it reads.
struct Sample<'a> {
    op: VecOp,
    form: Form,
    asm: &'a mut Asm,
    rng: &'a mut Rng,
}

impl Sample<'_> {
    fn reg(&self, x: Xmm, half: bool) -> String {
        let letter = if self.form == Form::VexY && !half { 'y' } else { 'x' };
        format!("{letter}mm{}", x.0)
    }

    fn source(&self, src: &XRm, half: bool) -> String {
        match src {
            XRm::Reg(x) => self.reg(*x, half),
            XRm::Mem(m) => address(m),
        }
    }

    fn operand(&self, src: &Rm, w: Width) -> String {
        match src {
            Rm::Reg(r) => reg(w, *r),
            Rm::Mem(m) => address(m),
        }
    }

    fn name(&self) -> String {
        let name = self.op.name();
        if self.form != Form::Sse && !name.starts_with('v') { format!("v{name}") } else { name.to_string() }
    }

    /// The second operand of a three-operand form, which the legacy form does not show.
    fn middle(&self, a: Xmm) -> String {
        if self.form == Form::Sse { String::new() } else { format!("{}, ", self.reg(a, false)) }
    }

    fn emit(&mut self) -> String {
        match self.op.shape() {
            Shape::Vw | Shape::Vhw | Shape::Merge => {
                let src = self.rng.xrm();
                self.plain(src)
            }
            Shape::Vhu => {
                let src = self.rng.xmm().into();
                self.plain(src)
            }
            Shape::Vm | Shape::Vhm => {
                let src = self.rng.mem().into();
                self.plain(src)
            }
            Shape::Vwi | Shape::Vhwi => self.with_imm(),
            Shape::Vhwl => self.blend(),
            Shape::Wv => {
                let dst = self.rng.xrm();
                self.store(dst)
            }
            Shape::Mv => {
                let dst = self.rng.mem().into();
                self.store(dst)
            }
            Shape::Wvi => self.store_imm(),
            Shape::Hui2 | Shape::Hui3 | Shape::Hui4 | Shape::Hui6 | Shape::Hui7 => self.shift(),
            Shape::Gw | Shape::Gu => self.leave(),
            Shape::Ve | Shape::Vhe => self.enter(),
            Shape::Vhei => self.insert(),
            Shape::Ev => self.movd_to(),
            Shape::Evi => self.extract(),
        }
    }

    fn plain(&mut self, src: XRm) -> String {
        let (d, a) = (self.rng.xmm(), self.rng.xmm());
        match self.form {
            Form::Sse => self.asm.sse_op(self.op, d, src),
            Form::Vex => self.asm.vex_op(self.op, d, a, src),
            Form::VexY => self.asm.vex_op_y(self.op, d, a, src),
        }
        let (half_dst, half_src) = half(self.op);
        let three = match self.op.shape() {
            Shape::Vhw | Shape::Vhu | Shape::Vhm => true,
            Shape::Merge => matches!(src, XRm::Reg(_)),
            _ => false,
        };
        let middle = if three { self.middle(a) } else { String::new() };
        format!("{} {}, {middle}{}", self.name(), self.reg(d, half_dst), self.source(&src, half_src))
    }

    fn with_imm(&mut self) -> String {
        let (d, a, src, i) = (self.rng.xmm(), self.rng.xmm(), self.rng.xrm(), self.rng.byte());
        match self.form {
            Form::Sse => self.asm.sse_op_i(self.op, d, src, i),
            Form::Vex => self.asm.vex_op_i(self.op, d, a, src, i),
            Form::VexY => self.asm.vex_op_i_y(self.op, d, a, src, i),
        }
        let (half_dst, half_src) = half(self.op);
        let middle = if self.op.shape() == Shape::Vhwi { self.middle(a) } else { String::new() };
        let (d, src) = (self.reg(d, half_dst), self.source(&src, half_src));
        format!("{} {d}, {middle}{src}, {}", self.name(), imm(Width::B1, i.into()))
    }

    fn blend(&mut self) -> String {
        let (d, a, src, mask) = (self.rng.xmm(), self.rng.xmm(), self.rng.xrm(), self.rng.xmm());
        match self.form {
            Form::Sse => panic!("{:?} has no legacy form", self.op),
            Form::Vex => self.asm.vex_blend(self.op, d, a, src, mask),
            Form::VexY => self.asm.vex_blend_y(self.op, d, a, src, mask),
        }
        let [d, a, mask] = [d, a, mask].map(|x| self.reg(x, false));
        format!("{} {d}, {a}, {}, {mask}", self.name(), self.source(&src, false))
    }

    fn store(&mut self, dst: XRm) -> String {
        let src = self.rng.xmm();
        match self.form {
            Form::Sse => self.asm.sse_store(self.op, dst, src),
            Form::Vex => self.asm.vex_store(self.op, dst, src),
            Form::VexY => self.asm.vex_store_y(self.op, dst, src),
        }
        format!("{} {}, {}", self.name(), self.source(&dst, false), self.reg(src, false))
    }

    fn store_imm(&mut self) -> String {
        let (dst, src, i) = (self.rng.xrm(), self.rng.xmm(), self.rng.byte());
        match self.form {
            Form::Sse => panic!("{:?} has no legacy form", self.op),
            Form::Vex => self.asm.vex_store_i(self.op, dst, src, i),
            Form::VexY => self.asm.vex_store_i_y(self.op, dst, src, i),
        }
        let (dst, src) = (self.source(&dst, true), self.reg(src, false));
        format!("{} {dst}, {src}, {}", self.name(), imm(Width::B1, i.into()))
    }

    fn shift(&mut self) -> String {
        let (d, src, i) = (self.rng.xmm(), self.rng.xmm(), self.rng.byte());
        match self.form {
            Form::Sse => self.asm.sse_shift_i(self.op, d, i),
            Form::Vex => self.asm.vex_shift_i(self.op, d, src, i),
            Form::VexY => self.asm.vex_shift_i_y(self.op, d, src, i),
        }
        format!("{} {}, {}{}", self.name(), self.reg(d, false), self.middle(src), imm(Width::B1, i.into()))
    }

    fn leave(&mut self) -> String {
        let mask = self.op.shape() == Shape::Gu;
        let (d, src) = (self.rng.gpr(), if mask { self.rng.xmm().into() } else { self.rng.xrm() });
        let w = if mask { Width::B4 } else { self.rng.w48() };
        match (self.form, src) {
            (Form::Sse, _) => self.asm.sse_to_gpr(self.op, w, d, src),
            (Form::Vex, _) => self.asm.vex_to_gpr(self.op, w, d, src),
            (Form::VexY, XRm::Reg(src)) => self.asm.vex_to_gpr_y(self.op, d, src),
            (Form::VexY, XRm::Mem(_)) => panic!("{:?} takes a register", self.op),
        }
        format!("{} {}, {}", self.name(), reg(w, d), self.source(&src, false))
    }

    fn enter(&mut self) -> String {
        let (w, d, a, src) = (self.rng.w48(), self.rng.xmm(), self.rng.xmm(), self.rng.rm());
        let movd = self.op == VecOp::MovdFrom;
        let named = movd && self.rng.one_in(2);
        match (self.form, named) {
            (Form::Sse, true) => self.asm.movd_x_rm(w, d, src),
            (Form::Sse, false) => self.asm.sse_from_gpr(self.op, w, d, src),
            (_, true) => self.asm.vmovd_x_rm(w, d, src),
            (_, false) => self.asm.vex_from_gpr(self.op, w, d, a, src),
        }
        let name = if movd && w == Width::B8 { self.name().replace("movd", "movq") } else { self.name() };
        let middle = if movd { String::new() } else { self.middle(a) };
        format!("{name} {}, {middle}{}", self.reg(d, false), self.operand(&src, w))
    }

    fn movd_to(&mut self) -> String {
        let (w, dst, src) = (self.rng.w48(), self.rng.rm(), self.rng.xmm());
        match self.form {
            Form::Sse => self.asm.movd_rm_x(w, dst, src),
            Form::Vex | Form::VexY => self.asm.vmovd_rm_x(w, dst, src),
        }
        let name = if w == Width::B8 { self.name().replace("movd", "movq") } else { self.name() };
        format!("{name} {}, {}", self.operand(&dst, w), self.reg(src, false))
    }

    /// The sizes of lane that a row serves, and the mnemonic and register size of each.
    fn lane(&mut self) -> (Width, String, Width) {
        match self.op {
            VecOp::Pinsrb | VecOp::Pextrb => (Width::B1, self.name(), Width::B4),
            VecOp::Pinsrw | VecOp::Pextrw => (Width::B2, self.name(), Width::B4),
            _ if self.rng.one_in(2) => (Width::B4, self.name(), Width::B4),
            _ => (Width::B8, self.name().replace("rd", "rq"), Width::B8),
        }
    }

    fn insert(&mut self) -> String {
        let (w, name, shown) = self.lane();
        let (d, a, src, i) = (self.rng.xmm(), self.rng.xmm(), self.rng.rm(), self.rng.byte());
        match self.form {
            Form::Sse => self.asm.sse_insert(w, d, src, i),
            Form::Vex | Form::VexY => self.asm.vex_insert(w, d, a, src, i),
        }
        let (d, src) = (self.reg(d, false), self.operand(&src, shown));
        format!("{name} {d}, {}{src}, {}", self.middle(a), imm(Width::B1, i.into()))
    }

    fn extract(&mut self) -> String {
        let (dst, src, i) = (self.rng.rm(), self.rng.xmm(), self.rng.byte());
        let (name, shown) = match (self.op == VecOp::Extractps, self.form) {
            (true, Form::Sse) => {
                self.asm.sse_extractps(dst, src, i);
                (self.name(), Width::B4)
            }
            (true, _) => {
                self.asm.vex_extractps(dst, src, i);
                (self.name(), Width::B4)
            }
            (false, form) => {
                let (w, name, shown) = self.lane();
                match form {
                    Form::Sse => self.asm.sse_extract(w, dst, src, i),
                    Form::Vex | Form::VexY => self.asm.vex_extract(w, dst, src, i),
                }
                (name, shown)
            }
        };
        format!("{name} {}, {}, {}", self.operand(&dst, shown), self.reg(src, false), imm(Width::B1, i.into()))
    }
}

fn feature(needs: Needs) -> CpuidFeature {
    match needs {
        Needs::No => panic!("a form that does not exist"),
        Needs::Sse => CpuidFeature::SSE,
        Needs::Sse2 => CpuidFeature::SSE2,
        Needs::Sse3 => CpuidFeature::SSE3,
        Needs::Ssse3 => CpuidFeature::SSSE3,
        Needs::Sse41 => CpuidFeature::SSE4_1,
        Needs::Sse42 => CpuidFeature::SSE4_2,
        Needs::Aes => CpuidFeature::AES,
        Needs::Pclmul => CpuidFeature::PCLMULQDQ,
        Needs::Sha => CpuidFeature::SHA,
        Needs::Avx => CpuidFeature::AVX,
        Needs::Avx2 => CpuidFeature::AVX2,
        Needs::Fma => CpuidFeature::FMA,
        Needs::F16c => CpuidFeature::F16C,
    }
}

/// The extensions that the table says a form needs.
fn features(op: VecOp, form: Form) -> Vec<CpuidFeature> {
    let needs = op.needs();
    let mut list = vec![feature(needs[form as usize])];
    if form != Form::Sse && matches!(needs[0], Needs::Aes | Needs::Pclmul) {
        list.push(feature(needs[0]));
    }
    list
}

#[test]
fn every_row_and_form_round_trips() {
    const ROUNDS: usize = 200;
    let mut rng = Rng::from_env();
    let mut listing = Listing::new(MemorySizeOptions::Never);
    let mut asm = Asm::with_capacity(64);
    let mut exercised = BTreeSet::new();
    let mut count = 0;
    for &op in VecOp::ALL {
        for form in FORMS {
            if op.needs()[form as usize] == Needs::No {
                continue;
            }
            for _ in 0..ROUNDS {
                asm.clear();
                let expected = Sample { op, form, asm: &mut asm, rng: &mut rng }.emit();
                let (instruction, text) = listing.one(asm.code());
                assert_eq!(text, expected, "{op:?} {form:?}: {:02x?}", asm.code());
                let (table, real) = (features(op, form), instruction.cpuid_features());
                // A broadcast from memory needs less than one from a register: the table has the register's.
                let broadcast = op == VecOp::Vbroadcastss || op == VecOp::Vbroadcastsd;
                if !(broadcast && instruction.op1_register() == Register::None) {
                    assert!(table.iter().all(|f| real.contains(f)), "{text}: {table:?}, needs {real:?}");
                    assert!(real.iter().all(|f| table.contains(f)), "{text}: {table:?}, needs {real:?}");
                }
                count += 1;
            }
            exercised.insert((op as u16, form));
        }
    }
    println!("{count} instructions of {} rows", VecOp::ALL.len());
    let missing: Vec<_> = VecOp::ALL.iter().filter(|op| !FORMS.iter().any(|&f| exercised.contains(&(**op as u16, f)))).collect();
    assert!(missing.is_empty(), "rows without a form: {missing:?}");
    assert!(count > 100_000, "only {count} instructions");
}

/// The names of the tests' calls stand for the methods: a method nobody calls here is untested.
#[test]
fn every_vector_method_has_a_case() {
    let source = include_str!("vector.rs");
    let untested: Vec<_> = methods(include_str!("../vector.rs"))
        .into_iter()
        .filter(|name| !source.contains(&format!("asm.{name}(")))
        .collect();
    assert!(untested.is_empty(), "{untested:?}");
}

#[test]
fn vzeroupper_is_itself() {
    let mut asm = Asm::new();
    asm.vzeroupper();
    assert_eq!(Listing::new(MemorySizeOptions::Never).one(asm.code()).1, "vzeroupper");
}

/// A row has one name per variant: the variant is the mnemonic, perhaps with a word for the direction.
#[test]
fn variants_are_named_after_their_mnemonic() {
    for &op in VecOp::ALL {
        let variant = format!("{op:?}").to_lowercase();
        let rest = variant.strip_prefix(op.name());
        assert!(matches!(rest, Some("" | "store" | "from" | "to" | "i")), "{op:?} is {}", op.name());
    }
}
