//! The region builder: front ends call it instruction by instruction; it folds constants and identities, and forwards
//! guest-register writes to later reads, so that most `get`s and many operations never exist.

use crate::interp::pure::eval;
use crate::ops::{ENDS_REGION, Op, PURE, WRITES_STATE};
use crate::region::*;

/// What is known to be at a place of the guest state.
#[derive(Clone, Copy)]
struct Known {
    offset: u32,
    size: u8,
    ty: Ty,
    val: Val,
}

/// Builds one region.
#[derive(Default)]
pub struct Builder {
    region: Region,
    known: Vec<Known>,
    ended: bool,
    /// Constants made last, by their value; where it was in an earlier region there is something else now.
    constants: [u32; CONSTANTS],
    /// First instruction from which constants may be shared (constants, too, do not live across labels).
    scope: usize,
    /// Translation regime of the memory operations that follow (their `fl` byte).
    pub regime: u8,
}

const CONSTANTS: usize = 32;

fn constant_place(value: u64) -> usize {
    (value ^ value >> 5 ^ value >> 16) as usize % CONSTANTS
}

macro_rules! unary {
    ($($(#[$m:meta])* $name:ident $op:ident;)*) => {$(
        $(#[$m])*
        #[inline]
        pub fn $name(&mut self, a: Val) -> Val {
            let ty = self.ty(a);
            self.pure(Op::$op, ty, 0, a, Val::NONE, Val::NONE)
        }
    )*};
}

macro_rules! binary {
    ($($name:ident $op:ident;)*) => {$(
        #[inline]
        pub fn $name(&mut self, a: Val, b: Val) -> Val {
            let ty = self.ty(a);
            self.pure(Op::$op, ty, 0, a, b, Val::NONE)
        }
    )*};
}

macro_rules! vector_unary {
    ($($name:ident $op:ident;)*) => {$(
        /// Lanes of `8 << lane` bits.
        #[inline]
        pub fn $name(&mut self, lane: u8, a: Val) -> Val {
            self.pure(Op::$op, Ty::V128, lane, a, Val::NONE, Val::NONE)
        }
    )*};
}

macro_rules! vector_binary {
    ($($name:ident $op:ident;)*) => {$(
        /// Lanes of `8 << lane` bits.
        #[inline]
        pub fn $name(&mut self, lane: u8, a: Val, b: Val) -> Val {
            self.pure(Op::$op, Ty::V128, lane, a, b, Val::NONE)
        }
    )*};
}

macro_rules! with_constant {
    ($($name:ident $operation:ident $number:ty;)*) => {$(
        /// The operation of that name with a constant of the operand's type.
        pub fn $name(&mut self, a: Val, k: $number) -> Val {
            let k = self.imm(self.ty(a), k.into());
            self.$operation(a, k)
        }
    )*};
}

macro_rules! vector_imm {
    ($($name:ident $op:ident;)*) => {$(
        /// Lanes of `8 << lane` bits.
        #[inline]
        pub fn $name(&mut self, lane: u8, a: Val, imm: u32) -> Val {
            self.pure(Op::$op, Ty::V128, lane, a, Val(imm), Val::NONE)
        }
    )*};
}

macro_rules! fp_unary {
    ($($name:ident $op:ident;)*) => {$(
        #[inline]
        pub fn $name(&mut self, fmt: FpFmt, mode: FpMode, a: Val) -> Val {
            self.push(Op::$op, Ty::V128, fmt.0, mode.0, a.0, u32::MAX, u32::MAX)
        }
    )*};
}

macro_rules! fp_binary {
    ($($name:ident $op:ident;)*) => {$(
        #[inline]
        pub fn $name(&mut self, fmt: FpFmt, mode: FpMode, a: Val, b: Val) -> Val {
            self.push(Op::$op, Ty::V128, fmt.0, mode.0, a.0, b.0, u32::MAX)
        }
    )*};
}

impl Builder {
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Starts a region, keeping the allocations of the last one.
    pub fn begin(&mut self, key: u64, pc: u64) {
        self.region.clear();
        self.region.key = key;
        self.region.pc = pc;
        self.known.clear();
        self.ended = false;
        self.scope = 0;
        self.regime = 0;
    }

    pub fn region(&self) -> &Region {
        &self.region
    }

    pub fn region_mut(&mut self) -> &mut Region {
        &mut self.region
    }

    /// The region, which the builder has no longer.
    pub fn take(&mut self) -> Region {
        std::mem::take(&mut self.region)
    }

    /// Whether the last operation ended the region.
    pub fn ended(&self) -> bool {
        self.ended
    }

    #[inline]
    pub fn ty(&self, v: Val) -> Ty {
        self.region.insts[v.index()].gives()
    }

    /// The constant that a value is, if it is one.
    #[inline]
    pub fn constant(&self, v: Val) -> Option<u64> {
        self.region.constant(v)
    }

    /// Appends an instruction as it is.
    #[allow(clippy::too_many_arguments)]
    pub fn push(&mut self, op: Op, ty: Ty, aux: u8, fl: u8, a: u32, b: u32, c: u32) -> Val {
        debug_assert!(!self.ended, "{} after the end of the region", op.name());
        let v = Val(self.region.insts.len() as u32);
        self.region.insts.push(Inst { op, ty, aux, fl, a, b, c });
        if op.has(ENDS_REGION) {
            self.ended = true;
        }
        v
    }

    // ---- constants and state ---------------------------------------------------------------------------------------

    /// An integer constant; of an I32 the low half.
    pub fn imm(&mut self, ty: Ty, value: u64) -> Val {
        let value = if ty == Ty::I32 { value as u32 as u64 } else { value };
        let (b, c) = (value as u32, (value >> 32) as u32);
        let last = self.constants[constant_place(value)];
        if let Some(i) = self.region.insts.get(last as usize)
            && last as usize >= self.scope
            && (i.op, i.ty, i.b, i.c) == (Op::Const, ty, b, c)
        {
            return Val(last);
        }
        let v = self.push(Op::Const, ty, 0, 0, u32::MAX, b, c);
        self.constants[constant_place(value)] = v.0;
        v
    }

    pub fn i32(&mut self, value: u32) -> Val {
        self.imm(Ty::I32, value as u64)
    }

    pub fn i64(&mut self, value: u64) -> Val {
        self.imm(Ty::I64, value)
    }

    /// A 128-bit constant.
    pub fn vconst(&mut self, value: u128) -> Val {
        let n = self.region.vconsts.iter().position(|&c| c == value).unwrap_or_else(|| {
            self.region.vconsts.push(value);
            self.region.vconsts.len() - 1
        });
        self.push(Op::VConst, Ty::V128, 0, 0, n as u32, u32::MAX, u32::MAX)
    }

    /// Reads `size` bytes of guest state at `offset`, zero-extended to `ty`.
    pub fn get(&mut self, ty: Ty, offset: u32, size: u8) -> Val {
        if let Some(k) = self.known.iter().find(|k| k.offset == offset && k.size == size && k.ty == ty) {
            return k.val;
        }
        let v = self.push(Op::Get, ty, size, 0, offset, u32::MAX, u32::MAX);
        self.known.push(Known { offset, size, ty, val: v });
        v
    }

    /// Writes the low `size` bytes of `v` to guest state at `offset`.
    pub fn set(&mut self, offset: u32, size: u8, v: Val) {
        let ty = self.ty(v);
        self.forget(offset, size as u32);
        self.push(Op::Set, ty, size, 0, offset, v.0, u32::MAX);
        // A narrower place than the value: what a later `get` sees is the zero-extended part, not the value.
        let natural = match ty {
            Ty::I32 => 4,
            Ty::I64 => 8,
            Ty::Flags => 4,
            Ty::V128 if size == 8 || size == 4 => {
                if self.zero_above(v, size, 0) {
                    size
                } else {
                    16
                }
            }
            _ => 16,
        };
        if natural == size {
            self.known.push(Known { offset, size, ty, val: v });
        }
    }

    /// [`Builder::get`] of an I32.
    pub fn get32(&mut self, offset: u32) -> Val {
        self.get(Ty::I32, offset, 4)
    }

    /// [`Builder::set`] of an I32.
    pub fn set32(&mut self, offset: u32, v: Val) {
        self.set(offset, 4, v);
    }

    /// The guest's arithmetic flags.
    pub fn get_flags(&mut self) -> Val {
        self.get(Ty::Flags, crate::state::FLAGS, 4)
    }

    pub fn set_flags(&mut self, f: Val) {
        self.set(crate::state::FLAGS, 4, f);
    }

    /// Whether all bytes of a vector from `size` up are zero for certain.
    fn zero_above(&self, v: Val, size: u8, depth: u32) -> bool {
        if depth > 4 {
            return false;
        }
        let i = self.region.inst(v);
        let again = |x: u32| self.zero_above(Val(x), size, depth + 1);
        match i.op {
            Op::Get => i.aux <= size,
            Op::Ld => MemOp(i.aux).bytes() <= size,
            Op::VConst => self.region.vconsts[i.a as usize] >> (8 * size as u32) == 0,
            Op::VLow | Op::VHigh | Op::VNarrow | Op::VNarrowSS | Op::VNarrowSU | Op::VNarrowUU => size >= 8,
            Op::VAnd => again(i.a) || again(i.b),
            Op::VSel => again(i.b) && again(i.c),
            Op::VInsert => again(i.a) && (i.c + 1) << i.aux <= size as u32,
            _ => match scalar_bytes(i) {
                Some(n) => n <= size,
                None => self.zero_gives_zero(i, size, depth),
            },
        }
    }

    /// Whether a vector operation is one that makes zero lanes of zero lanes, and gets such lanes from `size` up.
    fn zero_gives_zero(&self, i: &Inst, size: u8, depth: u32) -> bool {
        let nearest = i.fl & 7 == softfloat::Rounding::NearestEven as u8;
        let preserves = match i.op {
            Op::VAdd | Op::VSub | Op::VMul | Op::VOr | Op::VXor | Op::VAndNot | Op::VNeg | Op::VAbs => true,
            Op::VShlI | Op::VShrI | Op::VSarI | Op::VShlU | Op::VShlS | Op::VPopcnt => true,
            Op::VMinS | Op::VMinU | Op::VMaxS | Op::VMaxU | Op::VAvgU | Op::VCmpGtS | Op::VCmpGtU => true,
            Op::VAddSatS | Op::VAddSatU | Op::VSubSatS | Op::VSubSatU => true,
            // 0 - 0 is -0 when rounding down.
            Op::FpAdd | Op::FpSub | Op::FpFma => nearest,
            Op::FpMul | Op::FpMin | Op::FpMax | Op::FpMinNum | Op::FpMaxNum | Op::FpAbs | Op::FpSqrt => true,
            Op::FpRint | Op::FpToInt | Op::FpFromInt => true,
            Op::FpCmpMask => i.c == 2,
            _ => false,
        };
        preserves && i.values().all(|v| self.zero_above(v, size, depth + 1))
    }

    fn forget(&mut self, offset: u32, size: u32) {
        let mut n = 0;
        while let Some(k) = self.known.get(n) {
            if k.offset + k.size as u32 <= offset || offset + size <= k.offset {
                n += 1;
            } else {
                self.known.swap_remove(n);
            }
        }
    }

    /// Forgets everything known of the guest state.
    pub fn forget_all(&mut self) {
        self.known.clear();
    }

    // ---- pure operations ---------------------------------------------------------------------------------------------

    /// Appends a pure operation unless it folds.
    pub fn pure(&mut self, op: Op, ty: Ty, aux: u8, a: Val, b: Val, c: Val) -> Val {
        self.pure_fl(op, ty, aux, 0, a, b, c)
    }

    #[allow(clippy::too_many_arguments)]
    fn pure_fl(&mut self, op: Op, ty: Ty, aux: u8, fl: u8, mut a: Val, mut b: Val, c: Val) -> Val {
        if op.has(crate::ops::COMMUTES) && self.constant(a).is_some() && self.constant(b).is_none() {
            std::mem::swap(&mut a, &mut b);
        }
        let inst = Inst { op, ty, aux, fl, a: a.0, b: b.0, c: c.0 };
        if let Some(v) = self.fold(&inst) {
            return v;
        }
        self.push(op, ty, aux, fl, a.0, b.0, c.0)
    }

    /// The value an instruction is without executing it, if that can be told.
    fn fold(&mut self, i: &Inst) -> Option<Val> {
        let result = i.gives();
        if matches!(result, Ty::I32 | Ty::I64) && i.values().all(|v| self.constant(v).is_some()) {
            let mut args = [0u64; 3];
            for (slot, raw) in args.iter_mut().zip([i.a, i.b, i.c]) {
                *slot = self.constant(Val(raw)).unwrap_or(0);
            }
            let value = eval(i, args)?;
            return Some(self.imm(result, value));
        }
        let (a, b) = (Val(i.a), Val(i.b));
        let width_mask = i.ty.bits() as u64 - 1;
        let ones = if i.ty == Ty::I64 { u64::MAX } else { u32::MAX as u64 };
        match (i.op, self.constant(b)) {
            (Op::Add | Op::Sub | Op::Or | Op::Xor | Op::AndNot, Some(0)) => Some(a),
            (Op::Shl | Op::Shr | Op::Sar | Op::Ror, Some(n)) if n & width_mask == 0 => Some(a),
            (Op::And | Op::Mul, Some(0)) => Some(self.imm(i.ty, 0)),
            (Op::And, Some(m)) if m == ones => Some(a),
            (Op::And, Some(0xff)) => Some(self.zext8(a)),
            (Op::And, Some(0xffff)) => Some(self.zext16(a)),
            (Op::Or, Some(m)) if m == ones => Some(b),
            (Op::Xor, Some(m)) if m == ones => Some(self.not(a)),
            (Op::Mul, Some(1)) | (Op::UDiv | Op::SDiv, Some(1)) => Some(a),
            (Op::Mul, Some(n)) if n.is_power_of_two() => {
                let n = self.imm(i.ty, n.trailing_zeros() as u64);
                Some(self.shl(a, n))
            }
            (Op::And | Op::Or, None) if a == b => Some(a),
            (Op::Xor | Op::Sub, None) if a == b => Some(self.imm(i.ty, 0)),
            _ => self.fold_structure(i),
        }
    }

    /// Folds that look at the operand's own operation.
    fn fold_structure(&mut self, i: &Inst) -> Option<Val> {
        let a = Val(i.a);
        if i.op == Op::Select {
            return match self.constant(a) {
                Some(0) => Some(Val(i.c)),
                Some(_) => Some(Val(i.b)),
                None => (i.b == i.c).then_some(Val(i.b)),
            };
        }
        if i.op == Op::SelectCc && i.b == i.c {
            return Some(Val(i.b));
        }
        let inner = *self.region.insts.get(a.index())?;
        match (i.op, inner.op) {
            (Op::Zext8, Op::Zext8) | (Op::Zext16, Op::Zext8 | Op::Zext16) => Some(a),
            (Op::Trunc, Op::Zext32 | Op::Sext32) => Some(Val(inner.a)),
            (Op::Trunc, Op::Concat) => Some(Val(inner.a)),
            (Op::High, Op::Concat) => Some(Val(inner.b)),
            (Op::High, Op::Zext32) => Some(self.i32(0)),
            (Op::FInvC, Op::FInvC) | (Op::FMake, Op::FWord) | (Op::Not, Op::Not) | (Op::Neg, Op::Neg) => {
                Some(Val(inner.a))
            }
            (Op::VLow, _) if self.zero_above(a, 8, 0) => Some(a),
            (Op::Add, Op::Add) => self.fold_add_chain(i, &inner),
            _ => None,
        }
    }

    /// (x + k) + m = x + (k + m).
    fn fold_add_chain(&mut self, i: &Inst, inner: &Inst) -> Option<Val> {
        let m = self.constant(Val(i.b))?;
        let k = self.constant(Val(inner.b))?;
        let sum = self.imm(i.ty, k.wrapping_add(m));
        Some(self.add(Val(inner.a), sum))
    }

    binary! {
        add Add; sub Sub; mul Mul; mulhu MulHiU; mulhs MulHiS; udiv UDiv; sdiv SDiv; urem URem; srem SRem;
        and And; or Or; xor Xor; andn AndNot; shl Shl; shr Shr; sar Sar; ror Ror;
    }

    unary! {
        not Not; neg Neg; clz Clz; ctz Ctz; popcnt Popcnt; bswap Bswap; bswap16 Bswap16; rbit Rbit;
        zext8 Zext8; zext16 Zext16; sext8 Sext8; sext16 Sext16;
        /// I32 to I64.
        zext32 Zext32;
        /// I32 to I64.
        sext32 Sext32;
        /// I64 to I32.
        trunc Trunc;
        /// I64 to I32.
        high High;
    }

    /// I64 from two I32.
    pub fn concat(&mut self, low: Val, high: Val) -> Val {
        self.pure(Op::Concat, Ty::I64, 0, low, high, Val::NONE)
    }

    with_constant! { add_imm add u64; and_imm and u64; or_imm or u64; shl_imm shl u32; shr_imm shr u32; sar_imm sar u32; ror_imm ror u32; }

    /// `len` bits (1 to width) of `a` from `lsb`, zero-extended.
    pub fn ubfx(&mut self, a: Val, lsb: u32, len: u32) -> Val {
        let ty = self.ty(a);
        self.pure(Op::Ubfx, ty, 0, a, Val(lsb | len << 8), Val::NONE)
    }

    /// `len` bits of `a` from `lsb`, sign-extended.
    pub fn sbfx(&mut self, a: Val, lsb: u32, len: u32) -> Val {
        let ty = self.ty(a);
        self.pure(Op::Sbfx, ty, 0, a, Val(lsb | len << 8), Val::NONE)
    }

    /// `a` with the low `len` bits of `b` inserted at `lsb`.
    pub fn deposit(&mut self, a: Val, b: Val, lsb: u32, len: u32) -> Val {
        let ty = self.ty(a);
        self.pure(Op::Deposit, ty, 0, a, b, Val(lsb | len << 8))
    }

    /// a + b + C(f).
    pub fn adc(&mut self, a: Val, b: Val, f: Val) -> Val {
        let ty = self.ty(a);
        self.pure(Op::Adc, ty, 0, a, b, f)
    }

    /// a - b - C(f).
    pub fn sbb(&mut self, a: Val, b: Val, f: Val) -> Val {
        let ty = self.ty(a);
        self.pure(Op::Sbb, ty, 0, a, b, f)
    }

    /// 1 if the comparison holds, else 0.
    pub fn icmp(&mut self, cmp: Cmp, a: Val, b: Val) -> Val {
        let ty = self.ty(a);
        self.pure(Op::Icmp, ty, cmp as u8, a, b, Val::NONE)
    }

    /// `b` if `cond` (I32) is not zero, else `c`.
    pub fn select(&mut self, cond: Val, b: Val, c: Val) -> Val {
        let ty = self.ty(b);
        self.pure(Op::Select, ty, 0, cond, b, c)
    }

    /// `b` if the condition holds in the flags, else `c`.
    pub fn select_cc(&mut self, cc: Cc, f: Val, b: Val, c: Val) -> Val {
        let ty = self.ty(b);
        self.pure(Op::SelectCc, ty, cc as u8, f, b, c)
    }

    /// The condition as 0 or 1.
    pub fn cc_bit(&mut self, cc: Cc, f: Val) -> Val {
        self.pure(Op::CcBit, Ty::I32, cc as u8, f, Val::NONE, Val::NONE)
    }

    // ---- flags -------------------------------------------------------------------------------------------------------

    /// Flags of a + b in the width of the operands' type.
    pub fn f_add(&mut self, a: Val, b: Val) -> Val {
        let ty = self.ty(a);
        self.pure(Op::FAdd, ty, ty.bits() as u8, a, b, Val::NONE)
    }

    /// Flags of a - b; C is the borrow.
    pub fn f_sub(&mut self, a: Val, b: Val) -> Val {
        let ty = self.ty(a);
        self.pure(Op::FSub, ty, ty.bits() as u8, a, b, Val::NONE)
    }

    /// Flags of a + b + the C of `f`.
    pub fn f_adc(&mut self, a: Val, b: Val, f: Val) -> Val {
        let ty = self.ty(a);
        self.pure(Op::FAdc, ty, ty.bits() as u8, a, b, f)
    }

    /// Flags of a - b - the C of `f`; C is the borrow.
    pub fn f_sbb(&mut self, a: Val, b: Val, f: Val) -> Val {
        let ty = self.ty(a);
        self.pure(Op::FSbb, ty, ty.bits() as u8, a, b, f)
    }

    /// N and Z of a; C and V clear.
    pub fn f_logic(&mut self, a: Val) -> Val {
        let ty = self.ty(a);
        self.pure(Op::FLogic, ty, ty.bits() as u8, a, Val::NONE, Val::NONE)
    }

    pub fn f_invert_c(&mut self, f: Val) -> Val {
        self.pure(Op::FInvC, Ty::Flags, 0, f, Val::NONE, Val::NONE)
    }

    /// `f` with C = bit 0 of `bit` (I32).
    pub fn f_set_c(&mut self, f: Val, bit: Val) -> Val {
        self.pure(Op::FSetC, Ty::Flags, 0, f, bit, Val::NONE)
    }

    /// Flags of `a` where `mask` (see `flag`) is 1, of `b` elsewhere.
    pub fn f_merge(&mut self, a: Val, mut b: Val, mask: u32) -> Val {
        // What is replaced again need not be merged before.
        while self.region.inst(b).op == Op::FMerge && self.region.inst(b).c & !mask == 0 {
            b = Val(self.region.inst(b).b);
        }
        self.pure(Op::FMerge, Ty::Flags, 0, a, b, Val(mask))
    }

    /// Flags as an I32 in the layout of [`crate::flag`].
    pub fn f_word(&mut self, f: Val) -> Val {
        self.pure(Op::FWord, Ty::I32, 0, f, Val::NONE, Val::NONE)
    }

    /// Flags from such a word.
    pub fn f_make(&mut self, word: Val) -> Val {
        self.pure(Op::FMake, Ty::Flags, 0, word, Val::NONE, Val::NONE)
    }

    // ---- memory ------------------------------------------------------------------------------------------------------

    /// Splits an address into base and constant displacement where that is known.
    fn address(&mut self, addr: Val) -> (Val, u32) {
        let i = *self.region.inst(addr);
        if i.op == Op::Add
            && let Some(k) = self.constant(Val(i.b))
        {
            let k = if i.ty == Ty::I32 { k as u32 as i32 as i64 } else { k as i64 };
            if i32::try_from(k).is_ok() {
                return (Val(i.a), k as i32 as u32);
            }
        }
        (addr, 0)
    }

    /// Load; `ty` is the type of the result (V128: zero-extended).
    pub fn ld(&mut self, ty: Ty, mem: MemOp, addr: Val) -> Val {
        let (base, disp) = self.address(addr);
        self.push(Op::Ld, ty, mem.0, self.regime, base.0, disp, u32::MAX)
    }

    /// Store of the low bytes of `value`.
    pub fn st(&mut self, mem: MemOp, addr: Val, value: Val) {
        let (base, disp) = self.address(addr);
        let ty = self.ty(value);
        self.push(Op::St, ty, mem.0, self.regime, base.0, disp, value.0);
    }

    /// Load that opens the exclusive monitor for `addr`.
    pub fn ld_ex(&mut self, ty: Ty, mem: MemOp, addr: Val) -> Val {
        self.push(Op::LdEx, ty, mem.0, self.regime, addr.0, u32::MAX, u32::MAX)
    }

    /// 0 if the store was done, 1 if not.
    pub fn st_ex(&mut self, mem: MemOp, addr: Val, value: Val) -> Val {
        let ty = self.ty(value);
        let loaded = self.paired_load(ty, mem, addr).map_or(u32::MAX, |v| v.0);
        self.push(Op::StEx, ty, mem.0, self.regime, addr.0, value.0, loaded)
    }

    /// The `ldex` that a `stex` belongs to, if only computation (and ways out) lies between: what is stored then depends on
    /// nothing that another vCPU could have changed but the value itself.
    fn paired_load(&self, ty: Ty, mem: MemOp, addr: Val) -> Option<Val> {
        for (n, i) in self.region.insts.iter().enumerate().rev() {
            match i.op {
                Op::LdEx => {
                    let same = i.ty == ty && i.aux == mem.0 && i.fl == self.regime && self.same(Val(i.a), addr);
                    return (same && !mem.is_swapped()).then_some(Val(n as u32));
                }
                Op::Insn
                | Op::Get
                | Op::Set
                | Op::ExitCc
                | Op::ExitNz
                | Op::ExitZ
                | Op::SkipCc
                | Op::SkipNz
                | Op::SkipZ => {}
                op if op.has(PURE) => {}
                _ => return None,
            }
        }
        None
    }

    /// Whether two values are the same or sums of the same parts.
    fn same(&self, a: Val, b: Val) -> bool {
        let (x, y) = (self.region.inst(a), self.region.inst(b));
        let constants = self.constant(Val(x.b)).is_some() && self.constant(Val(x.b)) == self.constant(Val(y.b));
        a == b || x.op == Op::Add && y.op == Op::Add && x.a == y.a && (x.b == y.b || constants)
    }

    /// Closes the exclusive monitor.
    pub fn clr_ex(&mut self) {
        self.push(Op::ClrEx, Ty::None, 0, 0, u32::MAX, u32::MAX, u32::MAX);
    }

    /// Compare-and-swap; gives the old memory.
    pub fn cas(&mut self, mem: MemOp, addr: Val, expected: Val, new: Val) -> Val {
        let ty = self.ty(new);
        self.push(Op::Cas, ty, mem.0, self.regime, addr.0, expected.0, new.0)
    }

    /// Atomic read-modify-write; gives the old memory.
    pub fn rmw(&mut self, op: Rmw, mem: MemOp, addr: Val, value: Val) -> Val {
        let ty = self.ty(value);
        self.push(Op::RmwOp, ty, mem.0, self.regime, addr.0, value.0, op as u32)
    }

    /// `free`: orders loads with loads or stores with stores only.
    pub fn fence(&mut self, free: bool) {
        self.push(Op::Fence, Ty::None, free as u8, 0, u32::MAX, u32::MAX, u32::MAX);
    }

    // ---- vectors -----------------------------------------------------------------------------------------------------

    vector_binary! {
        vadd VAdd; vsub VSub; vmul VMul; vshlu VShlU; vshls VShlS; vcmpeq VCmpEq; vcmpgts VCmpGtS; vcmpgtu VCmpGtU;
        vmins VMinS; vminu VMinU; vmaxs VMaxS; vmaxu VMaxU; vaddss VAddSatS; vaddsu VAddSatU; vsubss VSubSatS;
        vsubsu VSubSatU; vavgu VAvgU; vzip1 VZip1; vzip2 VZip2; vuzp1 VUzp1; vuzp2 VUzp2; vtrn1 VTrn1; vtrn2 VTrn2;
        vmulws VMulWideS; vmulwu VMulWideU; vpadd VPairAdd;
    }

    vector_unary! {
        vneg VNeg; vabs VAbs; vwidens VWidenS; vwidenu VWidenU; vnarrow VNarrow; vnarrowss VNarrowSS;
        vnarrowsu VNarrowSU; vnarrowuu VNarrowUU;
    }

    vector_imm! { vshli VShlI; vshri VShrI; vsari VSarI; vduplane VDupLane; vrev VRev; }

    pub fn vand(&mut self, a: Val, b: Val) -> Val {
        self.pure(Op::VAnd, Ty::V128, 0, a, b, Val::NONE)
    }

    pub fn vor(&mut self, a: Val, b: Val) -> Val {
        self.pure(Op::VOr, Ty::V128, 0, a, b, Val::NONE)
    }

    pub fn vxor(&mut self, a: Val, b: Val) -> Val {
        self.pure(Op::VXor, Ty::V128, 0, a, b, Val::NONE)
    }

    /// a and not b.
    pub fn vandn(&mut self, a: Val, b: Val) -> Val {
        self.pure(Op::VAndNot, Ty::V128, 0, a, b, Val::NONE)
    }

    pub fn vnot(&mut self, a: Val) -> Val {
        let ones = self.vconst(u128::MAX);
        self.vxor(a, ones)
    }

    /// (mask & a) | (!mask & b).
    pub fn vsel(&mut self, mask: Val, a: Val, b: Val) -> Val {
        self.pure(Op::VSel, Ty::V128, 0, mask, a, b)
    }

    /// The number of ones of each byte.
    pub fn vpopcnt(&mut self, a: Val) -> Val {
        self.pure(Op::VPopcnt, Ty::V128, 0, a, Val::NONE, Val::NONE)
    }

    /// Every lane = the low bits of `a` (I32; I64 for 64-bit lanes).
    pub fn vdup(&mut self, lane: u8, a: Val) -> Val {
        let ty = self.ty(a);
        self.push(Op::VDup, ty, lane, 0, a.0, u32::MAX, u32::MAX)
    }

    /// `a` with lane `index` (of `8 << lane` bits) replaced by the low bits of `b`, an integer.
    pub fn vinsert(&mut self, lane: u8, a: Val, b: Val, index: u32) -> Val {
        let ty = self.ty(b);
        self.push(Op::VInsert, ty, lane, 0, a.0, b.0, index)
    }

    /// I32, or I64 for 64-bit lanes.
    pub fn vextract(&mut self, lane: u8, a: Val, index: u32) -> Val {
        let ty = if lane == 3 { Ty::I64 } else { Ty::I32 };
        self.push(Op::VExtract, ty, lane, 0, a.0, index, u32::MAX)
    }

    /// Bytes `from` to `from + 15` of (a, b).
    pub fn vext(&mut self, a: Val, b: Val, from: u32) -> Val {
        self.pure(Op::VExt, Ty::V128, 0, a, b, Val(from))
    }

    /// Each byte: the byte of `table` that `index` names, 0 from 16 on.
    pub fn vtbl(&mut self, table: Val, index: Val) -> Val {
        self.pure(Op::VTbl, Ty::V128, 0, table, index, Val::NONE)
    }

    /// The low 8 bytes; the upper half is zero.
    pub fn vlow(&mut self, a: Val) -> Val {
        self.pure(Op::VLow, Ty::V128, 0, a, Val::NONE, Val::NONE)
    }

    /// The high 8 bytes in the low half; the upper half is zero.
    pub fn vhigh(&mut self, a: Val) -> Val {
        self.pure(Op::VHigh, Ty::V128, 0, a, Val::NONE, Val::NONE)
    }

    /// The low halves of both.
    pub fn vconcat(&mut self, low: Val, high: Val) -> Val {
        self.pure(Op::VConcat, Ty::V128, 0, low, high, Val::NONE)
    }

    // ---- floating point ----------------------------------------------------------------------------------------------

    fp_binary! {
        fp_add FpAdd; fp_sub FpSub; fp_mul FpMul; fp_div FpDiv; fp_min FpMin; fp_max FpMax; fp_minnum FpMinNum;
        fp_maxnum FpMaxNum; fp_recip_step FpRecipStep; fp_rsqrt_step FpRsqrtStep;
    }

    fp_unary! { fp_sqrt FpSqrt; fp_recip_est FpRecipEst; fp_rsqrt_est FpRsqrtEst; }

    /// a * b + c with one rounding.
    pub fn fp_fma(&mut self, fmt: FpFmt, mode: FpMode, a: Val, b: Val, c: Val) -> Val {
        self.push(Op::FpFma, Ty::V128, fmt.0, mode.0, a.0, b.0, c.0)
    }

    pub fn fp_neg(&mut self, fmt: FpFmt, a: Val) -> Val {
        self.push(Op::FpNeg, Ty::V128, fmt.0, 0, a.0, u32::MAX, u32::MAX)
    }

    pub fn fp_abs(&mut self, fmt: FpFmt, a: Val) -> Val {
        self.push(Op::FpAbs, Ty::V128, fmt.0, 0, a.0, u32::MAX, u32::MAX)
    }

    /// A flags word (I32), see `Op::FpCmp`.
    pub fn fp_cmp(&mut self, fmt: FpFmt, mode: FpMode, a: Val, b: Val, signaling: bool) -> Val {
        self.push(Op::FpCmp, Ty::V128, fmt.0, mode.0, a.0, b.0, signaling as u32)
    }

    /// Relation: 0 equal, 1 a >= b, 2 a > b.
    pub fn fp_cmp_mask(&mut self, fmt: FpFmt, mode: FpMode, a: Val, b: Val, relation: u32) -> Val {
        self.push(Op::FpCmpMask, Ty::V128, fmt.0, mode.0, a.0, b.0, relation)
    }

    /// Rounded to an integral value; `exact` raises INEXACT.
    pub fn fp_rint(&mut self, fmt: FpFmt, mode: FpMode, a: Val, exact: bool) -> Val {
        self.push(Op::FpRint, Ty::V128, fmt.0, mode.0, a.0, exact as u32, u32::MAX)
    }

    /// To another scalar format.
    pub fn fp_cvt(&mut self, from: FpFmt, to: FpFmt, mode: FpMode, a: Val) -> Val {
        self.push(Op::FpCvt, Ty::V128, from.0, mode.0, a.0, to.0 as u32, u32::MAX)
    }

    /// To an integer of `1 << log2` bytes with `frac` fraction bits.
    #[allow(clippy::too_many_arguments)]
    pub fn fp_to_int(&mut self, fmt: FpFmt, mode: FpMode, a: Val, signed: bool, log2: u32, frac: u32) -> Val {
        self.push(Op::FpToInt, Ty::V128, fmt.0, mode.0, a.0, signed as u32 | log2 << 1 | frac << 8, u32::MAX)
    }

    /// From an integer of `1 << log2` bytes with `frac` fraction bits.
    #[allow(clippy::too_many_arguments)]
    pub fn fp_from_int(&mut self, fmt: FpFmt, mode: FpMode, a: Val, signed: bool, log2: u32, frac: u32) -> Val {
        self.push(Op::FpFromInt, Ty::V128, fmt.0, mode.0, a.0, signed as u32 | log2 << 1 | frac << 8, u32::MAX)
    }

    /// The accumulated exception flags, an I32 in the layout of softfloat's `Flags`.
    pub fn fp_flags(&mut self) -> Val {
        self.push(Op::FpFlagsGet, Ty::I32, 0, 0, u32::MAX, u32::MAX, u32::MAX)
    }

    /// Replaces them.
    pub fn set_fp_flags(&mut self, v: Val) {
        self.push(Op::FpFlagsSet, Ty::None, 0, 0, v.0, u32::MAX, u32::MAX);
    }

    // ---- helpers -----------------------------------------------------------------------------------------------------

    /// Calls helper number `helper` of the guest's table; unused arguments are `Val::NONE`.
    pub fn call(&mut self, ty: Ty, helper: u16, writes_state: bool, args: [Val; 3]) -> Val {
        let op = if ty == Ty::V128 { Op::VCall } else { Op::Call };
        debug_assert!(op.has(WRITES_STATE));
        if writes_state {
            self.forget_all();
        }
        let v = self.push(op, ty, helper as u8, (helper >> 8) as u8, args[0].0, args[1].0, args[2].0);
        if writes_state {
            self.forget_all();
        }
        v
    }

    // ---- control -----------------------------------------------------------------------------------------------------

    /// Starts a guest instruction at region pc + `delta`.
    pub fn insn(&mut self, delta: i32, note: u32) {
        self.region.guest_insns += 1;
        self.push(Op::Insn, Ty::None, 0, 0, delta as u32, note, u32::MAX);
    }

    fn exit_to(&mut self, key: u64) -> u32 {
        self.region.exits.push(Exit { key, flags_dead: false, far: false });
        self.region.exits.len() as u32 - 1
    }

    /// Leaves to a constant key.
    pub fn exit(&mut self, key: u64) {
        let e = self.exit_to(key);
        self.push(Op::Exit, Ty::None, 0, 0, u32::MAX, e, u32::MAX);
    }

    /// Leaves to a constant key if the condition holds.
    pub fn exit_cc(&mut self, cc: Cc, f: Val, key: u64) {
        let e = self.exit_to(key);
        self.push(Op::ExitCc, Ty::None, cc as u8, 0, f.0, e, u32::MAX);
    }

    /// Leaves if `v` (I32) is not zero.
    pub fn exit_nz(&mut self, v: Val, key: u64) {
        let e = self.exit_to(key);
        self.push(Op::ExitNz, Ty::None, 0, 0, v.0, e, u32::MAX);
    }

    /// Leaves if `v` (I32) is zero.
    pub fn exit_z(&mut self, v: Val, key: u64) {
        let e = self.exit_to(key);
        self.push(Op::ExitZ, Ty::None, 0, 0, v.0, e, u32::MAX);
    }

    /// Leaves to a computed key (I64).
    pub fn exit_ind(&mut self, key: Val, hint: Hint) {
        self.push(Op::ExitInd, Ty::None, 0, 0, key.0, hint as u32, u32::MAX);
    }

    /// The call that follows will return to `key`.
    pub fn push_ret(&mut self, key: u64) {
        let e = self.exit_to(key);
        self.push(Op::PushRet, Ty::None, 0, 0, e, u32::MAX, u32::MAX);
    }

    /// Leaves to the run loop; execution resumes at `key`.
    pub fn trap(&mut self, kind: TrapKind, arg: u32, key: u64) {
        let e = self.exit_to(key);
        self.push(Op::Trap, Ty::None, kind as u8, 0, arg, e, u32::MAX);
    }

    /// As [`Builder::trap`], if `v` (I32) is not zero.
    pub fn trap_nz(&mut self, v: Val, kind: TrapKind, arg: u32, key: u64) {
        let e = self.exit_to(key);
        self.push(Op::TrapNz, Ty::None, kind as u8, 0, v.0, e, arg);
    }

    /// Continues at the next label if the condition holds.
    pub fn skip_cc(&mut self, cc: Cc, f: Val) {
        self.push(Op::SkipCc, Ty::None, cc as u8, 0, f.0, u32::MAX, u32::MAX);
    }

    /// Continues at the next label if `v` (I32) is not zero.
    pub fn skip_nz(&mut self, v: Val) {
        self.push(Op::SkipNz, Ty::None, 0, 0, v.0, u32::MAX, u32::MAX);
    }

    /// Continues at the next label if `v` (I32) is zero.
    pub fn skip_z(&mut self, v: Val) {
        self.push(Op::SkipZ, Ty::None, 0, 0, v.0, u32::MAX, u32::MAX);
    }

    /// Where the skips before it continue. Values made before do not live on; guest state does.
    pub fn label(&mut self) {
        // The skipped part may have ended the region; the label begins the other way on.
        self.ended = false;
        self.push(Op::Label, Ty::None, 0, 0, u32::MAX, u32::MAX, u32::MAX);
        self.known.clear();
        self.scope = self.region.insts.len();
    }
}

/// Bytes of the result of a scalar floating-point operation (the rest is zero), `None` for any other operation.
pub fn scalar_bytes(i: &Inst) -> Option<u8> {
    let log2 = match i.op {
        Op::FpCvt => FpFmt(i.b as u8).log2(),
        _ if FpFmt(i.aux).is_vector() => return None,
        Op::FpToInt => (i.b >> 1 & 3) as u8,
        Op::FpAdd | Op::FpSub | Op::FpMul | Op::FpDiv | Op::FpSqrt | Op::FpFma | Op::FpMin | Op::FpMax => {
            FpFmt(i.aux).log2()
        }
        Op::FpMinNum | Op::FpMaxNum | Op::FpNeg | Op::FpAbs | Op::FpRint | Op::FpFromInt => FpFmt(i.aux).log2(),
        _ => return None,
    };
    Some(1 << log2)
}

/// What kind of indirect jump it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Hint {
    Jump = 0,
    Call = 1,
    Return = 2,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn b() -> Builder {
        let mut b = Builder::new();
        b.begin(0x1000, 0x1000);
        b
    }

    #[test]
    fn reads_after_writes_are_forwarded() {
        let mut b = b();
        let five = b.i32(5);
        b.set32(16, five);
        assert_eq!(b.get32(16), five);
        let wide = b.get(Ty::I64, 16, 8);
        assert_eq!(b.region().inst(wide).op, Op::Get);
    }

    #[test]
    fn a_wider_write_is_forgotten_by_an_overlapping_one() {
        let mut b = b();
        let q = b.get(Ty::V128, 128, 16);
        let d = b.get(Ty::V128, 136, 8);
        b.set(136, 8, d);
        assert_ne!(b.get(Ty::V128, 128, 16), q);
    }

    #[test]
    fn narrow_vector_writes_are_forwarded_where_the_rest_is_zero() {
        let mut b = b();
        let (x, y) = (b.get(Ty::V128, 128, 4), b.get(Ty::V128, 132, 4));
        // A scalar has nothing above it.
        let sum = b.fp_add(FpFmt::F32, FpMode::ARM, x, y);
        b.set(136, 4, sum);
        assert_eq!(b.get(Ty::V128, 136, 4), sum);
        // Zeros compared for equality are ones; compared for order they stay zeros.
        let (p, q) = (b.get(Ty::V128, 160, 8), b.get(Ty::V128, 168, 8));
        let (equal, greater) = (b.vcmpeq(0, p, q), b.vcmpgtu(0, p, q));
        b.set(176, 8, equal);
        b.set(184, 8, greater);
        assert_ne!(b.get(Ty::V128, 176, 8), equal);
        assert_eq!(b.get(Ty::V128, 184, 8), greater);
        // -0 in the upper lanes.
        let down = FpMode::ARM.with_rounding(softfloat::Rounding::Down);
        let (near, down) = (b.fp_sub(FpFmt::V32, FpMode::ARM, p, q), b.fp_sub(FpFmt::V32, down, p, q));
        assert_eq!(b.vlow(near), near);
        assert_ne!(b.vlow(down), down);
    }

    #[test]
    fn constants_fold_and_identities_vanish() {
        let mut b = b();
        let (x, k) = (b.i32(6), b.i32(7));
        let p = b.mul(x, k);
        assert_eq!(b.constant(p), Some(42));
        let r = b.get32(16);
        assert_eq!(b.add_imm(r, 0), r);
        let s = b.add_imm(r, 4);
        let t = b.add_imm(s, 8);
        let i = *b.region().inst(t);
        assert_eq!((Val(i.a), b.constant(Val(i.b))), (r, Some(12)));
    }

    #[test]
    fn nothing_is_known_after_a_label() {
        let mut b = b();
        let r = b.get32(16);
        b.skip_nz(r);
        b.label();
        assert_ne!(b.get32(16), r);
    }

    #[test]
    fn a_store_exclusive_is_paired_over_computation_only() {
        for (between, paired) in [("nothing", true), ("a way out", true), ("a load", false), ("another address", false)]
        {
            let mut b = Builder::new();
            b.begin(0, 0);
            let (addr, x) = (b.get32(16), b.get32(20));
            let op = MemOp::B4.aligned();
            let loaded = b.ld_ex(Ty::I32, op, addr);
            match between {
                "a way out" => b.exit_nz(x, 8),
                "a load" => drop(b.ld(Ty::I32, MemOp::B4, x)),
                _ => {}
            }
            let sum = b.add(loaded, x);
            b.st_ex(op, if between == "another address" { x } else { addr }, sum);
            b.exit(4);
            let r = b.take();
            crate::verify::verify(&r).unwrap();
            let store = r.insts.iter().find(|i| i.op == Op::StEx).unwrap();
            assert_eq!(store.c == loaded.0, paired, "{between}");
        }
    }
}
