//! System registers: coprocessors 14 and 15 as rows, and the four instructions that access them.
//!
//! A row has the manual's name, the operands of the instruction (`p15 0 c1 c0 0` for MRC and MCR, `q15 0 c2` for MRRC and
//! MCRR), who may read and write it, and what it does. The first row that fits and is present on the model counts, so rows
//! with `any` come last.
//!
//! **Reference.** Arm ARM (DDI 0406C) B3.15 (access), B3.17 (CP15 by number), B4.1 (by name), C6 and C11 (CP14), D12 (PMU).
//!
//! **Not modelled**: LDC and STC to CP14 (debug data transfer to memory), Jazelle, ThumbEE's instruction set.
//!
//! **Invariants**: a row's function leaves the key as it should be for the next instruction, but for the address, which the
//! caller moves on.

mod cache;
pub mod control;
mod debug;
mod gic;
pub mod id;
mod pmu;
mod security;
#[cfg(test)]
pub(crate) mod tests;
mod timer;
mod tlb;
mod vm;

use crate::mmu::World;
use crate::state::bank::mode;
use crate::state::{self, key, sys};
use crate::{Arm, Features};
use cpu::system::{Alone, Environment};
use ir::State;
use std::sync::LazyLock;

pub use control::{key_bits, set_scr, update_key};
pub use gic::{REGISTER_LEVEL, REGISTER_SECURE, register_code};
pub use timer::{OUTPUT_CNTHP, OUTPUT_CNTP, OUTPUT_CNTPS, OUTPUT_CNTV, OUTPUT_PMU};

/// Why an access is not possible.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The instruction is UNDEFINED.
    Undefined,
    /// It is trapped to Hyp mode with this HSR.
    Hyp(u32),
    /// A translation for it failed in the second stage: the address, what HSR says of it, and HPFAR.
    SecondStage { addr: u32, detail: u32, hpfar: u32 },
}

/// When a hypervisor traps a guest's accesses: bits of one of its registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Trap {
    register: u32,
    read: u32,
    write: u32,
}

/// Privilege levels, as system registers see them: Secure PL1 counts as PL3 where there are Security Extensions.
pub mod rights {
    pub const R0: u8 = 1 << 0;
    pub const W0: u8 = 1 << 1;
    pub const R1: u8 = 1 << 2;
    pub const W1: u8 = 1 << 3;
    pub const R2: u8 = 1 << 4;
    pub const W2: u8 = 1 << 5;
    pub const R3: u8 = 1 << 6;
    pub const W3: u8 = 1 << 7;

    /// UNDEFINED for everyone.
    pub const NONE: u8 = 0;
    pub const PL3_R: u8 = R3;
    pub const PL3_W: u8 = W3;
    pub const PL3_RW: u8 = R3 | W3;
    pub const PL2_R: u8 = PL3_R | R2;
    pub const PL2_W: u8 = PL3_W | W2;
    pub const PL2_RW: u8 = PL2_R | PL2_W;
    pub const PL1_R: u8 = PL2_R | R1;
    pub const PL1_W: u8 = PL2_W | W1;
    pub const PL1_RW: u8 = PL1_R | PL1_W;
    pub const PL0_R: u8 = PL1_R | R0;
    pub const PL0_W: u8 = PL1_W | W0;
    pub const PL0_RW: u8 = PL0_R | PL0_W;
    pub const PL1_RW_PL0_R: u8 = PL1_RW | PL0_R;
    pub const PL1_R_PL3_RW: u8 = PL1_R | PL3_RW;
}

/// What a model or machine must have for a row to be present.
pub mod needs {
    pub const V8: u16 = 1 << 0;
    /// Not on ARMv8 models.
    pub const V7: u16 = 1 << 1;
    pub const SECURITY: u16 = 1 << 2;
    pub const HYP: u16 = 1 << 3;
    pub const LPAE: u16 = 1 << 4;
    pub const PMU: u16 = 1 << 5;
    pub const GIC: u16 = 1 << 6;
    pub const SECURITY_OR_HYP: u16 = 1 << 7;
    /// Generic timers: with LPAE, on our models.
    pub const TIMER: u16 = LPAE;
    /// Neither Security nor Virtualization Extensions, on ARMv8.
    pub const NO_SECURITY: u16 = 1 << 8;
    /// Models with the Cortex-A7's and A15's implementation-defined registers.
    pub const CORTEX_A7_A15: u16 = 1 << 9;
}

/// An operand that does not matter.
pub const ANY: u8 = 0xff;

/// One register.
pub struct Row {
    pub name: &'static str,
    /// 14 or 15.
    pub coproc: u8,
    /// MRRC and MCRR.
    pub wide: bool,
    pub opc1: u8,
    pub crn: u8,
    pub crm: u8,
    pub opc2: u8,
    pub rights: u8,
    pub needs: u16,
    /// Where it is stored.
    place: Option<Place>,
    read: Option<fn(&mut Context) -> u64>,
    write: Option<fn(&mut Context, u64)>,
    check: Option<fn(&Context, bool) -> Result<(), Refused>>,
    trap: Option<Trap>,
    reset: Option<fn(&Arm) -> u64>,
    /// Bits that writes change.
    mask: u64,
    plain_read: bool,
    plain_write: bool,
    /// Where reads of translated code find it, by security state and key.
    plain_at: Option<fn(bool, u64) -> u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    offset: u32,
    banked: bool,
    /// A 64-bit register.
    double: bool,
}

/// A register that translated code may access directly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plain {
    pub offset: u32,
    pub readable: bool,
    pub writable: bool,
}

/// What a row's functions work on.
pub struct Context<'a> {
    pub arm: &'a Arm,
    pub state: &'a mut State,
    pub env: &'a mut dyn Environment,
    /// The bank of registers that are banked by security state.
    pub secure: bool,
    /// 0 to 3, see [`rights`].
    pub level: u8,
    /// Operands of the instruction, for rows that stand for several registers.
    pub opc1: u8,
    pub crn: u8,
    pub crm: u8,
    pub opc2: u8,
    /// The whole instruction.
    pub word: u32,
    /// What a write found out too late to refuse it.
    pub failed: Option<Refused>,
}

impl Context<'_> {
    /// Below Hyp mode, in Non-secure state, where there is Hyp mode.
    pub fn is_guest(&self) -> bool {
        self.arm.has_virtualization() && self.level < 2 && crate::mmu::world(self.state.u64_at(ir::state::KEY)) == World::NonSecure
    }

    /// A trap of this access to Hyp mode.
    pub fn trap(&self) -> Refused {
        Refused::Hyp(security::trap_syndrome(self.word))
    }

    pub fn get(&self, offset: u32) -> u32 {
        self.state.u32_at(offset)
    }

    pub fn set(&mut self, offset: u32, value: u32) {
        self.state.set_u32(offset, value);
    }

    /// A register banked by security state.
    pub fn banked(&self, offset: u32) -> u32 {
        self.state.u32_at(sys::bank(offset, self.secure))
    }

    pub fn set_banked(&mut self, offset: u32, value: u32) {
        self.state.set_u32(sys::bank(offset, self.secure), value);
    }

    pub fn banked64(&self, offset: u32) -> u64 {
        self.state.u64_at(sys::bank64(offset, self.secure))
    }

    pub fn set_banked64(&mut self, offset: u32, value: u64) {
        self.state.set_u64(sys::bank64(offset, self.secure), value);
    }

    /// Whether the long-descriptor format is in use.
    pub fn long_format(&self) -> bool {
        self.banked(sys::TTBCR) & sys::TTBCR_EAE != 0
    }
}

impl Row {
    pub const fn new(name: &'static str, operands: [u8; 6], rights: u8) -> Row {
        let [coproc, wide, opc1, crn, crm, opc2] = operands;
        Row {
            name,
            coproc,
            wide: wide != 0,
            opc1,
            crn,
            crm,
            opc2,
            rights,
            needs: 0,
            place: None,
            read: None,
            write: None,
            check: None,
            trap: None,
            reset: None,
            mask: u64::MAX,
            plain_read: false,
            plain_write: false,
            plain_at: None,
        }
    }

    /// Stored at `offset`.
    pub const fn at(mut self, offset: u32) -> Row {
        self.place = Some(Place { offset, banked: false, double: false });
        self
    }

    /// Stored at `offset`, one copy for each security state.
    pub const fn banked(mut self, offset: u32) -> Row {
        self.place = Some(Place { offset, banked: true, double: false });
        self
    }

    /// Stored in 64 bits; a 32-bit access is to the low half and leaves the other alone.
    pub const fn at64(mut self, offset: u32) -> Row {
        self.place = Some(Place { offset, banked: false, double: true });
        self
    }

    pub const fn banked64(mut self, offset: u32) -> Row {
        self.place = Some(Place { offset, banked: true, double: true });
        self
    }

    pub const fn read(mut self, f: fn(&mut Context) -> u64) -> Row {
        self.read = Some(f);
        self
    }

    pub const fn write(mut self, f: fn(&mut Context, u64)) -> Row {
        self.write = Some(f);
        self
    }

    /// May refuse an access that the rights allow; the flag says that it is a write.
    pub const fn check(mut self, f: fn(&Context, bool) -> Result<(), Refused>) -> Row {
        self.check = Some(f);
        self
    }

    /// A hypervisor traps accesses by any of these bits of one of its registers.
    pub const fn trap(mut self, register: u32, bits: u32) -> Row {
        self.trap = Some(Trap { register, read: bits, write: bits });
        self
    }

    /// A register of virtual memory: writes are trapped by HCR.TVM, reads by HCR.TRVM.
    pub const fn memory(mut self) -> Row {
        self.trap = Some(Trap { register: sys::HCR, read: sys::hcr::TRVM, write: sys::hcr::TVM });
        self
    }

    /// Whether a hypervisor traps this access of its guest.
    fn trapped(&self, c: &Context, write: bool) -> bool {
        let Some(t) = self.trap else { return false };
        let value = if t.register == sys::HCR { crate::mmu::effective_hcr(c.arm, c.state) } else { c.get(t.register) };
        value & if write { t.write } else { t.read } != 0
    }

    pub const fn reset(mut self, f: fn(&Arm) -> u64) -> Row {
        self.reset = Some(f);
        self
    }

    pub const fn mask(mut self, mask: u64) -> Row {
        self.mask = mask;
        self
    }

    pub const fn needs(mut self, needs: u16) -> Row {
        self.needs = self.needs | needs;
        self
    }

    /// Reads have no effect and no condition: translated code does them itself.
    pub const fn plain_read(mut self) -> Row {
        self.plain_read = true;
        self
    }

    /// Writes only store.
    pub const fn plain(mut self) -> Row {
        self.plain_read = true;
        self.plain_write = true;
        self
    }

    /// As `plain_read`, for a register whose place depends on the key.
    pub const fn plain_at(mut self, f: fn(bool, u64) -> u32) -> Row {
        self.plain_read = true;
        self.plain_at = Some(f);
        self
    }

    /// Width as debuggers see it.
    pub fn bits(&self) -> u16 {
        if self.wide || self.place.is_some_and(|p| p.double) { 64 } else { 32 }
    }

    fn fits(&self, o: &Operands) -> bool {
        let same = |mine: u8, theirs: u8| mine == ANY || mine == theirs;
        self.coproc == o.coproc
            && self.wide == o.wide
            && same(self.opc1, o.opc1)
            && same(self.crm, o.crm)
            && (o.wide || same(self.crn, o.crn) && same(self.opc2, o.opc2))
    }

    fn present(&self, arm: &Arm) -> bool {
        let has = |need: u16, there: bool| self.needs & need == 0 || there;
        let v8 = arm.features.has(Features::V8);
        let security = arm.has_security();
        has(needs::V8, v8)
            && has(needs::V7, !v8)
            && has(needs::SECURITY, security)
            && has(needs::HYP, arm.has_virtualization())
            && has(needs::LPAE, arm.features.has(Features::LPAE))
            && has(needs::PMU, arm.options.is_some_and(|o| o.pmu))
            && has(needs::GIC, arm.options.is_some_and(|o| o.gic_system_registers))
            && has(needs::SECURITY_OR_HYP, security || arm.has_virtualization())
            && has(needs::NO_SECURITY, !security)
            && has(needs::CORTEX_A7_A15, matches!(arm.model.name, "cortex-a7" | "cortex-a15"))
    }
}

/// Names of operands in the tables.
#[allow(non_upper_case_globals)]
mod operands {
    pub const p14: u8 = 14;
    pub const p15: u8 = 15;
    pub const q14: u8 = 14 | 0x80;
    pub const q15: u8 = 15 | 0x80;
    pub const any: u8 = super::ANY;
    macro_rules! numbers {
        ($($name:ident $n:literal)*) => { $(pub const $name: u8 = $n;)* };
    }
    numbers! { c0 0 c1 1 c2 2 c3 3 c4 4 c5 5 c6 6 c7 7 c8 8 c9 9 c10 10 c11 11 c12 12 c13 13 c14 14 c15 15 }
}

/// `NAME [p15 opc1 CRn CRm opc2] rights .what() .it() .does();`
macro_rules! sysregs {
    ($($(#[doc = $doc:literal])* $name:ident [$($operand:tt)+] $rights:ident $(.$what:ident($($argument:expr),*))*;)*) => {
        pub static ROWS: &[$crate::sysreg::Row] = &[$(
            $crate::sysreg::Row::new(
                stringify!($name),
                $crate::sysreg::sysregs!(@operands $($operand)+),
                $crate::sysreg::rights::$rights,
            )
            $(.$what($($argument),*))*
        ),*];
    };
    (@operands $cp:ident $opc1:tt $crm:tt) => {{
        #[allow(unused_imports)]
        use $crate::sysreg::operands::*;
        [$cp & 15, 1, $opc1, 0, $crm, 0]
    }};
    (@operands $cp:ident $opc1:tt $crn:tt $crm:tt $opc2:tt) => {{
        #[allow(unused_imports)]
        use $crate::sysreg::operands::*;
        [$cp, 0, $opc1, $crn, $crm, $opc2]
    }};
}
use sysregs;

/// The chapters. Rows for single registers come before those with `any`, which are in `cache`.
static CHAPTERS: [&[Row]; 10] = [
    id::ROWS,
    control::ROWS,
    vm::ROWS,
    security::ROWS,
    tlb::ROWS,
    pmu::ROWS,
    timer::ROWS,
    debug::ROWS,
    gic::ROWS,
    cache::ROWS,
];

/// Operands of an MRC, MCR, MRRC or MCRR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Operands {
    coproc: u8,
    wide: bool,
    opc1: u8,
    crn: u8,
    crm: u8,
    opc2: u8,
    read: bool,
    rt: u32,
    rt2: u32,
}

impl Operands {
    /// Of an A32 or T32 instruction word; `None` for other instructions.
    fn of(word: u32) -> Option<Operands> {
        let nibble = |at: u32| (word >> at & 15) as u8;
        let coproc = nibble(8);
        if !matches!(coproc, 14 | 15) {
            return None;
        }
        let common = Operands {
            coproc,
            wide: false,
            opc1: 0,
            crn: 0,
            crm: nibble(0),
            opc2: 0,
            read: word >> 20 & 1 != 0,
            rt: word >> 12 & 15,
            rt2: word >> 16 & 15,
        };
        match (word >> 20 & 0xff, word >> 4 & 1) {
            (0xe0..=0xef, 1) => Some(Operands {
                opc1: (word >> 21 & 7) as u8,
                crn: nibble(16),
                opc2: (word >> 5 & 7) as u8,
                ..common
            }),
            (0xc4 | 0xc5, _) => Some(Operands { wide: true, opc1: nibble(4), ..common }),
            _ => None,
        }
    }

    fn index(&self) -> usize {
        let cp = (self.coproc & 1) as usize;
        if self.wide {
            return NARROW + (cp << 8 | (self.opc1 as usize) << 4 | self.crm as usize);
        }
        cp << 14
            | (self.opc1 as usize) << 11
            | (self.crn as usize) << 7
            | (self.crm as usize) << 3
            | self.opc2 as usize
    }
}

const NARROW: usize = 1 << 15;

/// All rows in the order in which they count.
fn rows() -> impl Iterator<Item = &'static Row> {
    CHAPTERS.iter().flat_map(|c| c.iter())
}

/// For each register number the first rows that fit (a range of `CANDIDATES`).
static LOOKUP: LazyLock<Lookup> = LazyLock::new(Lookup::new);

struct Lookup {
    first: Vec<(u32, u32)>,
    rows: Vec<&'static Row>,
}

impl Lookup {
    fn new() -> Lookup {
        let all: Vec<&'static Row> = rows().collect();
        let (mut first, mut list) = (Vec::with_capacity(NARROW + 512), Vec::new());
        for index in 0..NARROW + 512 {
            let o = Lookup::operands(index);
            let from = list.len() as u32;
            list.extend(all.iter().filter(|r| r.fits(&o)));
            first.push((from, list.len() as u32));
        }
        Lookup { first, rows: list }
    }

    /// The inverse of `Operands::index`.
    fn operands(index: usize) -> Operands {
        let field = |at: usize, mask: usize| (index >> at & mask) as u8;
        let base = Operands { coproc: 0, wide: false, opc1: 0, crn: 0, crm: 0, opc2: 0, read: true, rt: 0, rt2: 0 };
        if index >= NARROW {
            return Operands { coproc: 14 + field(8, 1), wide: true, opc1: field(4, 15), crm: field(0, 15), ..base };
        }
        Operands {
            coproc: 14 + field(14, 1),
            opc1: field(11, 7),
            crn: field(7, 15),
            crm: field(3, 15),
            opc2: field(0, 7),
            ..base
        }
    }
}

/// The row of a register on a model.
fn find(arm: &Arm, o: &Operands) -> Option<&'static Row> {
    let (from, to) = LOOKUP.first[o.index()];
    LOOKUP.rows[from as usize..to as usize].iter().copied().find(|r| r.present(arm))
}

/// The privilege level of a key.
fn level(arm: &Arm, key: u64) -> u8 {
    match key::mode(key) {
        mode::USR => 0,
        mode::HYP => 2,
        _ if key & key::SECURE != 0 && arm.has_security() => 3,
        _ => 1,
    }
}

/// Whether banked registers are the Secure ones: what SCR.NS says, in Monitor mode too.
pub fn secure_bank(arm: &Arm, state: &State) -> bool {
    arm.has_security() && state.u32_at(sys::SCR) & sys::scr::NS == 0
}

/// Does an MRC, MCR, MRRC or MCRR to coprocessor 14 or 15, but for moving to the next instruction.
pub fn access(arm: &Arm, state: &mut State, env: &mut dyn Environment, word: u32) -> Result<(), Refused> {
    let o = Operands::of(word).ok_or(Refused::Undefined)?;
    let key = state.u64_at(ir::state::KEY);
    let level = level(arm, key);
    let secure = secure_bank(arm, state);
    let Operands { opc1, crn, crm, opc2, .. } = o;
    let mut c = Context { arm, state, env, secure, level, opc1, crn, crm, opc2, word, failed: None };
    let by_number = c.is_guest() && security::trapped_by_number(&c);
    // What user mode has no right to is UNDEFINED all the same.
    if by_number && level == 1 {
        return Err(c.trap());
    }
    let row = find(arm, &o).ok_or(Refused::Undefined)?;
    let right = (if o.read { rights::R0 } else { rights::W0 }) << (2 * level);
    if row.rights & right == 0 {
        return Err(Refused::Undefined);
    }
    let allowed = |c: &Context| row.check.map_or(Ok(()), |check| check(c, !o.read));
    if level == 0 {
        allowed(&c)?;
    }
    if by_number || c.is_guest() && row.trapped(&c, !o.read) {
        return Err(c.trap());
    }
    if level > 0 {
        allowed(&c)?;
    }
    if o.read {
        let value = read_row(row, &mut c);
        move_to_core(c.state, &o, value);
    } else {
        let low = c.state.u32_at(state::r(o.rt)) as u64;
        let high = if o.wide { c.state.u32_at(state::r(o.rt2)) as u64 } else { 0 };
        write_row(row, &mut c, high << 32 | low);
    }
    c.failed.map_or(Ok(()), Err)
}

fn move_to_core(state: &mut State, o: &Operands, value: u64) {
    if o.wide {
        state.set_u32(state::r(o.rt), value as u32);
        state.set_u32(state::r(o.rt2), (value >> 32) as u32);
    } else if o.rt == 15 {
        // APSR_nzcv.
        state.set_u32(ir::state::FLAGS, state::word_of_nzcv(value as u32));
    } else {
        state.set_u32(state::r(o.rt), value as u32);
    }
}

fn place_of(place: Place, secure: bool) -> u32 {
    match (place.banked, place.double) {
        (false, _) => place.offset,
        (true, false) => sys::bank(place.offset, secure),
        (true, true) => sys::bank64(place.offset, secure),
    }
}

fn read_row(row: &Row, c: &mut Context) -> u64 {
    match (row.read, row.place) {
        (Some(f), _) => f(c),
        (None, Some(place)) => {
            let offset = place_of(place, c.secure);
            if place.double { c.state.u64_at(offset) } else { c.state.u32_at(offset) as u64 }
        }
        (None, None) => 0,
    }
}

fn write_row(row: &Row, c: &mut Context, value: u64) {
    if let Some(f) = row.write {
        return f(c, value);
    }
    let Some(place) = row.place else { return };
    let offset = place_of(place, c.secure);
    if !place.double {
        let old = c.state.u32_at(offset);
        let mask = row.mask as u32;
        return c.state.set_u32(offset, old & !mask | value as u32 & mask);
    }
    let mask = if row.wide { row.mask } else { row.mask & 0xffff_ffff };
    let old = c.state.u64_at(offset);
    c.state.set_u64(offset, old & !mask | value & mask);
}

/// Where translated code at `key` finds the register that an MRC or MCR accesses, if the access is no more than a load or a
/// store of 32 bits.
pub fn plain(arm: &Arm, word: u32, key: u64) -> Option<Plain> {
    let o = Operands::of(word)?;
    let row = find(arm, &o).filter(|r| !r.wide && (r.plain_read || r.plain_write))?;
    let level = level(arm, key);
    let banked = row.plain_at.is_some() || row.place.is_some_and(|p| p.banked);
    if may_be_trapped(arm, level) || banked && arm.has_security() && key::mode(key) == mode::MON {
        return None;
    }
    let secure = arm.has_security() && key & key::SECURE != 0;
    let offset = match (row.plain_at, row.place) {
        (Some(f), _) => f(secure, key),
        (None, Some(place)) => place_of(place, secure),
        (None, None) => return None,
    };
    Some(Plain {
        offset,
        readable: row.plain_read && row.rights & rights::R0 << (2 * level) != 0,
        writable: row.plain_write && row.rights & rights::W0 << (2 * level) != 0,
    })
}

/// Whether an MCR at `key` does nothing at all (maintenance of caches that are not there).
pub fn no_effect(arm: &Arm, word: u32, key: u64) -> bool {
    let level = level(arm, key);
    Operands::of(word).filter(|o| !o.read && !o.wide).and_then(|o| find(arm, &o)).is_some_and(|row| {
        let idle = row.write.is_none() && row.place.is_none() && row.check.is_none();
        idle && row.rights & rights::W0 << (2 * level) != 0 && !may_be_trapped(arm, level)
    })
}

/// Where a write to DACR finds its two values and which of them is in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Domains {
    pub current: u32,
    pub other: u32,
    /// A word that is 0 or 1, and what it is when the other value is in force.
    pub which: u32,
    pub other_number: u32,
}

/// For an MCR to DACR at `key` that is allowed: its places.
pub fn domains(arm: &Arm, word: u32, key: u64) -> Option<Domains> {
    let o = Operands::of(word).filter(|o| !o.read && !o.wide)?;
    let level = level(arm, key);
    let dacr = find(arm, &o)?.name == "DACR";
    if !dacr || level == 0 || arm.has_virtualization() || key::mode(key) == mode::MON {
        return None;
    }
    let secure = arm.has_security() && key & key::SECURE != 0;
    let which = (key & key::DOMAINS != 0) as u32;
    let [current, other] = [which, which ^ 1].map(|w| sys::dacr(secure, w));
    Some(Domains { current, other, which: sys::bank(sys::DACR_CURRENT, secure), other_number: which ^ 1 })
}

/// A hypervisor may trap what its guest does.
fn may_be_trapped(arm: &Arm, level: u8) -> bool {
    arm.has_virtualization() && level < 2
}

/// Sets the system registers to their reset values; the state is all zeros otherwise.
pub fn reset(arm: &Arm, state: &mut State) {
    for row in rows().filter(|r| r.present(arm)) {
        let (Some(value), Some(place)) = (row.reset, row.place) else { continue };
        let value = value(arm);
        for secure in [false, true] {
            let offset = place_of(place, secure);
            if place.double { state.set_u64(offset, value) } else { state.set_u32(offset, value as u32) }
        }
    }
    update_key(arm, state);
}

/// Registers that debuggers are shown: those with a name of their own that can be read without effect, whatever time it is.
pub(crate) fn shown(arm: &Arm) -> impl Iterator<Item = &'static Row> {
    let arm = *arm;
    // They depend on more than the CPU.
    const OTHERS: [&str; 3] = ["MPIDR", "ISR", "L2CTLR"];
    let timed = |row: &Row| row.name.starts_with("PM") || row.name.starts_with("CNT") && !row.name.ends_with("_CVAL");
    rows().filter(move |row| {
        let readable = row.rights & (rights::R1 | rights::R2 | rights::R3) != 0;
        let single = ![row.opc1, row.crn, row.crm, row.opc2].contains(&ANY);
        let other_half = row.name.ends_with("_64") || row.needs & needs::GIC != 0;
        let plain = row.read.is_none() || !timed(row);
        readable && single && plain && !other_half && !OTHERS.contains(&row.name) && row.present(&arm)
    })
}

/// The value of one of those.
pub(crate) fn value(arm: &Arm, state: &State, row: &Row) -> u64 {
    let Some(f) = row.read else {
        return row.place.map_or(0, |p| {
            let offset = place_of(p, secure_bank(arm, state));
            if p.double { state.u64_at(offset) } else { state.u32_at(offset).into() }
        });
    };
    let mut copy = state.clone();
    let secure = secure_bank(arm, state);
    let Row { opc1, crn, crm, opc2, .. } = *row;
    f(&mut Context { arm, state: &mut copy, env: &mut Alone::default(), secure, level: 3, opc1, crn, crm, opc2, word: 0, failed: None })
}

/// A register by name, for debuggers and the monitor; `None` if the model has none or reading it has effects.
pub fn by_name(arm: &Arm, state: &State, name: &str) -> Option<u64> {
    let row = rows().find(|r| r.name.eq_ignore_ascii_case(name) && r.present(arm))?;
    let place = row.place.filter(|_| row.read.is_none())?;
    let offset = place_of(place, secure_bank(arm, state));
    Some(if place.double { state.u64_at(offset) } else { state.u32_at(offset) as u64 })
}
