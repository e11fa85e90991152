//! A second opinion on the walks: the manual's tables as tables, looked up access by access; compared with ours on random
//! descriptors and registers.
//!
//! **Reference.** Arm ARM (DDI 0406C) tables B3-1 (TTBCR.N), B3-8 (AP), B3-23 and B3-24 (fault statuses), figures B3-4, B3-5,
//! B3-14 to B3-16 (descriptors).

use super::walk;
use crate::state::bank::mode;
use crate::state::sys;
use crate::system::Options;
use crate::sysreg::tests::Bench;
use cpu::Access;
use cpu::system::Physical;
use ir::State;

/// Memory whose contents are a function of the address.
struct Noise {
    seed: u64,
    /// ARMv8's address size faults happen sometimes, not nearly always.
    tame: bool,
    /// Long descriptors mostly allow everything.
    friendly: bool,
}

impl Noise {
    fn word(&self, addr: u64) -> u64 {
        let mut x = (addr ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x ^= x >> 29;
        x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^ x >> 32
    }
}

impl Physical for Noise {
    fn read(&self, addr: u64, size: u8) -> Option<u64> {
        assert!(addr.is_multiple_of(size as u64), "descriptors are aligned");
        let x = self.word(addr & !7);
        // One descriptor in 32 is where no memory is.
        if x >> 40 & 31 == 9 {
            return None;
        }
        let x = if self.tame && x >> 50 & 63 != 0 { self.word(!addr & !7) & !0xff00_0000_0000 } else { self.word(!addr & !7) };
        // Valid long descriptors, most of the time.
        let x = if size == 8 && x >> 60 & 3 != 0 { x | 1 } else { x };
        // The access flag and S2AP.
        let x = if size == 8 && self.friendly && x >> 32 & 15 != 7 { (x | 0x4c1) & !(0x15 << 58) } else { x };
        Some(if size == 8 { x } else { x >> (8 * (addr & 4)) & 0xffff_ffff })
    }
    fn compare_exchange(&self, _: u64, _: u8, _: u64, _: u64) -> Option<u64> {
        None
    }
}

/// What a walk of the model comes to: address, log2 of the entry's size, global; or the fault's name, level and domain.
type Outcome = Result<(u64, u8, bool), (&'static str, u32, u32)>;

/// Table B3-23: fault, level, FS\[4:0\].
const SHORT_STATUS: &[(&str, u32, u32)] = &[
    ("translation", 1, 0b00101),
    ("translation", 2, 0b00111),
    ("access flag", 1, 0b00011),
    ("access flag", 2, 0b00110),
    ("domain", 1, 0b01001),
    ("domain", 2, 0b01011),
    ("permission", 1, 0b01101),
    ("permission", 2, 0b01111),
    ("external", 1, 0b01100),
    ("external", 2, 0b01110),
];

/// Table B3-24: fault, STATUS with the level as 0.
const LONG_STATUS: &[(&str, u32)] = &[
    ("size", 0b000000),
    ("translation", 0b000100),
    ("access flag", 0b001000),
    ("permission", 0b001100),
    ("external", 0b010100),
];

/// Table B3-8: AP\[2:0\], PL1, unprivileged.
const AP: [(&str, &str); 8] = [
    ("none", "none"),
    ("read/write", "none"),
    ("read/write", "read"),
    ("read/write", "read/write"),
    ("none", "none"),
    ("read", "none"),
    ("read", "read"),
    ("read", "read"),
];

struct Model<'a> {
    state: &'a State,
    mem: &'a dyn Physical,
    user: bool,
    access: Access,
    dacr: u32,
    v8: bool,
}

fn bits(value: u64, high: u32, low: u32) -> u64 {
    value >> low & ((1 << (high - low + 1)) - 1)
}

impl Model<'_> {
    fn reg(&self, offset: u32) -> u64 {
        self.state.u32_at(offset) as u64
    }

    fn fetch(&self, addr: u64, size: u8) -> Option<u64> {
        let raw = self.mem.read(addr, size)?;
        let bytes = &mut raw.to_le_bytes()[..size as usize].to_vec();
        if bits(self.reg(sys::SCTLR), 25, 25) == 1 {
            bytes.reverse();
        }
        Some(bytes.iter().rev().fold(0, |v, &b| v << 8 | b as u64))
    }

    /// Whether a location with these permissions is accessible; the XN bits come from the descriptors.
    fn permitted(&self, pl1: &str, pl0: &str, xn: bool, pxn: bool) -> bool {
        let mine = if self.user { pl0 } else { pl1 };
        let (wxn, uwxn) = (bits(self.reg(sys::SCTLR), 19, 19) == 1, bits(self.reg(sys::SCTLR), 20, 20) == 1);
        match self.access {
            Access::Read => mine.starts_with("read"),
            Access::Write => mine.ends_with("write"),
            Access::Execute => {
                let never = [
                    xn,
                    pxn && !self.user,
                    wxn && mine.ends_with("write"),
                    uwxn && !self.user && pl0.ends_with("write"),
                ];
                mine.starts_with("read") && !never.contains(&true)
            }
        }
    }

    fn short(&self, va: u64) -> Outcome {
        let ttbcr = self.reg(sys::TTBCR);
        let n = bits(ttbcr, 2, 0) as u32;
        // Table B3-1: where TTBR1's addresses begin.
        let boundary = [1u64 << 32, 0x8000_0000, 0x4000_0000, 0x2000_0000, 0x1000_0000, 0x800_0000, 0x400_0000, 0x200_0000];
        let first = if va < boundary[n as usize] {
            if bits(ttbcr, 4, 4) == 1 {
                return Err(("translation", 1, 0));
            }
            bits(self.state.u64_at(sys::TTBR0), 31, 14 - n) << (14 - n) | bits(va, 31, 20) << 2
        } else {
            if bits(ttbcr, 5, 5) == 1 {
                return Err(("translation", 1, 0));
            }
            bits(self.state.u64_at(sys::TTBR1), 31, 14) << 14 | bits(va, 31, 20) << 2
        };
        let d = self.fetch(first, 4).ok_or(("external", 1, 0))?;
        let domain = bits(d, 8, 5) as u32;
        let (pa, size, level, domain, ap, xn, pxn, ng) = match (bits(d, 1, 0), bits(d, 18, 18)) {
            (0, _) => return Err(("translation", 1, 0)),
            (1, _) => {
                let second = bits(d, 31, 10) << 10 | bits(va, 19, 12) << 2;
                let page = self.fetch(second, 4).ok_or(("external", 2, domain))?;
                let ap = bits(page, 9, 9) << 2 | bits(page, 5, 4);
                let (ng, pxn) = (bits(page, 11, 11), bits(d, 2, 2));
                match bits(page, 1, 0) {
                    0 => return Err(("translation", 2, domain)),
                    1 => (bits(page, 31, 16) << 16, 16, 2, domain, ap, bits(page, 15, 15), pxn, ng),
                    _ => (bits(page, 31, 12) << 12, 12, 2, domain, ap, bits(page, 0, 0), pxn, ng),
                }
            }
            (_, super_section) => {
                let ap = bits(d, 15, 15) << 2 | bits(d, 11, 10);
                let (xn, pxn, ng) = (bits(d, 4, 4), bits(d, 0, 0), bits(d, 17, 17));
                if super_section == 1 {
                    let pa = bits(d, 8, 5) << 36 | bits(d, 23, 20) << 32 | bits(d, 31, 24) << 24;
                    (pa, 24, 1, 0, ap, xn, pxn, ng)
                } else {
                    (bits(d, 31, 20) << 20, 20, 1, domain, ap, xn, pxn, ng)
                }
            }
        };
        let mut ap = ap as usize;
        if bits(self.reg(sys::SCTLR), 29, 29) == 1 {
            if ap % 2 == 0 {
                return Err(("access flag", level, domain));
            }
            // Table B3-9: AP[2:1] alone, which are rows 1, 3, 5, 7 of the other.
            ap |= 1;
        }
        match bits(self.dacr as u64, 2 * domain + 1, 2 * domain) {
            0 | 2 => return Err(("domain", level, domain)),
            1 if !self.permitted(AP[ap].0, AP[ap].1, xn == 1, pxn == 1) => return Err(("permission", level, domain)),
            _ => {}
        }
        Ok((pa | bits(va, size - 1, 0), size as u8, ng == 0))
    }

    fn long(&self, va: u64) -> Outcome {
        let ttbcr = self.reg(sys::TTBCR);
        let (t0, t1) = (bits(ttbcr, 2, 0), bits(ttbcr, 18, 16));
        // Figure B3-13: the lower region's end and the upper one's beginning.
        let (end0, begin1) = (1u64 << (32 - t0), if t1 == 0 { 1u64 << (32 - t0) } else { (1 << 32) - (1u64 << (32 - t1)) });
        let (ttbr, t, off) = if va >= begin1 {
            (self.state.u64_at(sys::TTBR1), t1, bits(ttbcr, 23, 23))
        } else if va < end0 {
            (self.state.u64_at(sys::TTBR0), t0, bits(ttbcr, 7, 7))
        } else {
            return Err(("translation", 1, 0));
        };
        if off == 1 {
            return Err(("translation", 1, 0));
        }
        if self.v8 && bits(ttbr, 47, 40) != 0 {
            return Err(("size", 0, 0));
        }
        // Table B3-10: where the first table lies.
        let (mut level, low) = if t <= 1 { (1, 5 - t as u32) } else { (2, 14 - t as u32) };
        let mut table = bits(ttbr, 39, low) << low;
        let mut high = 31 - t as u32;
        let (mut ap_table, mut xn_table, mut pxn_table) = (0, 0, 0);
        loop {
            let low = [0, 30, 21, 12][level as usize];
            let d = self.fetch(table | bits(va, high.max(low), low) << 3, 8).ok_or(("external", level, 0))?;
            let kind = match (bits(d, 1, 0), level) {
                (0 | 2, _) | (1, 3) => return Err(("translation", level, 0)),
                (3, 1 | 2) => "table",
                _ => "entry",
            };
            if self.v8 && bits(d, 47, 40) != 0 {
                return Err(("size", level, 0));
            }
            if kind == "table" {
                ap_table |= bits(d, 62, 61);
                xn_table |= bits(d, 60, 60);
                pxn_table |= bits(d, 59, 59);
                table = bits(d, 39, 12) << 12;
                (level, high) = (level + 1, low - 1);
                continue;
            }
            if bits(d, 10, 10) == 0 {
                return Err(("access flag", level, 0));
            }
            // Tables B3-11 and B3-12.
            let read_only = bits(d, 7, 7) | bits(ap_table, 1, 1) == 1;
            let kernel_only = bits(d, 6, 6) == 0 || bits(ap_table, 0, 0) == 1;
            let pl1 = if read_only { "read" } else { "read/write" };
            let pl0 = if kernel_only { "none" } else { pl1 };
            if !self.permitted(pl1, pl0, bits(d, 54, 54) | xn_table == 1, bits(d, 53, 53) | pxn_table == 1) {
                return Err(("permission", level, 0));
            }
            return Ok((bits(d, 39, low) << low | bits(va, low - 1, 0), low as u8, bits(d, 11, 11) == 0));
        }
    }

    /// The fault status of an outcome.
    fn status(long: bool, (name, level, domain): (&str, u32, u32)) -> u32 {
        if long {
            let base = LONG_STATUS.iter().find(|s| s.0 == name).expect("a long status").1;
            return 1 << 9 | base | level;
        }
        let fs = SHORT_STATUS.iter().find(|s| (s.0, s.1) == (name, level)).expect("a short status").2;
        (fs & 15) | (fs >> 4 & 1) << 10 | domain << 4
    }
}

/// A CPU with random tables and registers, deterministic by seed.
fn compare(model: &str, long: bool, rounds: u32, mut x: u64) -> [u32; 2] {
    let mut next = move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    let mut b = Bench::new(model, Options::default());
    let mut seen = [0; 2];
    for round in 0..rounds {
        let mem = Noise { seed: next(), tame: model == "max", friendly: false };
        let s = &mut *b.state;
        let random = next();
        let spaces = if random & 0x80 == 0 { 0 } else { random >> 8 & 0x0007_0007 };
        let disables = if random & 0x700 == 0 { random & 0x0080_0080 } else { 0 };
        let ttbcr = match long {
            true => 1 << 31 | spaces | disables,
            false => random & 7 | if random & 0x700 == 0 { random & 0x30 } else { 0 },
        };
        s.set_u32(sys::TTBCR, ttbcr as u32);
        let addresses = if mem.tame && next() & 31 != 0 { 0xff_ffff_ffff } else { u64::MAX };
        s.set_u64(sys::TTBR0, next() & addresses);
        s.set_u64(sys::TTBR1, next() & addresses);
        // M, and any of WXN, UWXN, EE, AFE.
        s.set_u32(sys::SCTLR, 1 | (next() & 0x2218_0000) as u32);
        let which = (next() & 1) as u32;
        s.set_u32(sys::dacr(false, which), next() as u32 | if next() & 1 == 0 { 0x5555_5555 } else { 0 });
        s.set_u32(sys::dacr(false, which ^ 1), 0);
        s.set_u32(sys::DACR_CURRENT, which);
        b.mode(mode::SVC);
        let va = next() & 0xffff_ffff;
        for (user, access) in
            [false, true].into_iter().flat_map(|u| [Access::Read, Access::Write, Access::Execute].map(|a| (u, a)))
        {
            let regime = !user as u8 | (which as u8) << 1;
            let dacr = b.state.u32_at(sys::dacr(false, which));
            let says = |access| {
                let m = Model { state: &b.state, mem: &mem, user, access, dacr, v8: model == "max" };
                if long { m.long(va) } else { m.short(va) }
            };
            let want = says(access).map_err(|f| Model::status(long, f));
            let got = walk(&b.arm, &b.state, regime, va, access, &mem);
            let about = format!("{model} long {long} round {round} va {va:#x} user {user} {access:?}");
            assert_eq!(got.map(|m| (m.phys, m.size_bits, m.global)), want.map(|(p, s, g)| (p & !0xfff, s, g)), "{about}");
            seen[got.is_ok() as usize] += 1;
            if let Ok(m) = got {
                let allowed = [Access::Read, Access::Write, Access::Execute].map(|a| says(a).is_ok());
                assert_eq!([m.read, m.write, m.execute], allowed, "{about}");
            }
        }
    }
    seen
}

#[test]
fn walks_agree_with_the_manuals_tables() {
    for (model, long) in [("cortex-a15", false), ("cortex-a15", true), ("max", false), ("max", true)] {
        let [faults, mappings] = compare(model, long, 60_000, 0x1234_5678_9abc_def1);
        assert!(faults > 10_000 && mappings > 10_000, "{model} {long}: {faults} faults, {mappings} mappings");
    }
}

#[test]
fn without_translation_addresses_are_physical() {
    let mut b = Bench::new("cortex-a15", Options::default());
    b.mode(mode::SVC);
    let mem = Noise { seed: 1, tame: false, friendly: false };
    let m = walk(&b.arm, &b.state, 1, 0x1234_5678, Access::Execute, &mem).expect("a mapping");
    assert_eq!((m.phys, m.read, m.write, m.execute, m.global), (0x1234_5000, true, true, true, true));
}

/// PAR in both formats, for the mappings of a table made by hand.
#[test]
fn address_translation_operations_fill_par() {
    let mut b = Bench::new("cortex-a15", Options::default());
    b.env.memory.borrow_mut().extend([(0x4000, 0x1230_0c12), (0x4004, 0x5604_0c02), (0x4008, 0)]);
    for (name, value) in [("p15 0 c2 c0 0", 0x4000), ("p15 0 c3 c0 0", 1), ("p15 0 c1 c0 0", 0x00c5_0079)] {
        b.write(name, value).unwrap();
    }
    let par = |b: &mut Bench, op: &str, va| {
        b.write(op, va).unwrap();
        b.read("p15 0 c7 c4 0").unwrap()
    };
    assert_eq!(par(&mut b, "p15 0 c7 c8 0", 0x6_7000), 0x1236_7200, "a section");
    assert_eq!(par(&mut b, "p15 0 c7 c8 3", 0x10_0000), 0x5600_0202, "a supersection");
    assert_eq!(par(&mut b, "p15 0 c7 c8 0", 0x20_0000), 0x0b, "a translation fault");
    assert_eq!(par(&mut b, "p15 0 c7 c8 0", 0x30_0000), 0x19, "no memory");
    // Long: a 1 GiB block, Normal memory.
    let mut b = Bench::new("cortex-a15", Options::default());
    b.env.memory.borrow_mut().extend([(0x4000, 0x8000_0741), (0x4004, 1), (0x4008, 0), (0x400c, 0)]);
    for (name, value) in [
        ("q15 0 c2", 0x4000),
        ("p15 0 c2 c0 2", 1 << 31),
        ("p15 0 c10 c2 0", 0xff),
        ("p15 0 c1 c0 0", 0x00c5_0079),
    ] {
        b.write(name, value).unwrap();
    }
    let par = |b: &mut Bench, va| {
        b.write("p15 0 c7 c8 0", va).unwrap();
        b.read("q15 0 c7").unwrap()
    };
    assert_eq!(par(&mut b, 0x1234_5678), 0xff00_0001_9234_5b80);
    assert_eq!(par(&mut b, 0x4000_0000), 0x80b);
}

/// What a walk of both stages comes to in the model: address and permissions; or status, address asked of the second stage,
/// whether that was for a descriptor.
type Both = Result<(u64, [bool; 3]), (u32, Option<(u64, bool)>)>;

/// The second stage over the first one's model.
struct Guest<'a> {
    b: &'a Bench,
    mem: &'a Noise,
    user: bool,
    v8: bool,
    long: bool,
}

/// Descriptors as the second stage shows them to the first; remembers why one could not be read.
struct Shown<'a> {
    guest: &'a Guest<'a>,
    why: std::cell::Cell<Option<(u32, Option<(u64, bool)>)>>,
}

impl Guest<'_> {
    fn hcr(&self, bit: u32) -> bool {
        self.b.state.u32_at(sys::HCR) >> bit & 1 == 1
    }

    /// Address, MemAttr and permissions of an intermediate physical address.
    fn second(&self, ipa: u64, on_walk: bool) -> Result<(u64, u64, [bool; 3], u32), (u32, Option<(u64, bool)>)> {
        let failed = |name: &str, level: u32| {
            let base = LONG_STATUS.iter().find(|s| s.0 == name).expect("a long status").1;
            (1 << 9 | base | level, Some((ipa, on_walk)))
        };
        let vtcr = self.b.state.u32_at(sys::VTCR) as u64;
        // T0SZ is a two's complement number of four bits.
        let t0sz = [0i32, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1][bits(vtcr, 3, 0) as usize];
        let n = (32 - t0sz) as u32;
        // Table B3-15: entries of the first table, as a power of two: at most 16 tables in a row.
        let (mut level, entries) = match bits(vtcr, 7, 6) {
            0 if (1..=13).contains(&(n as i32 - 21)) => (2, n - 21),
            1 if (1..=13).contains(&(n as i32 - 30)) => (1, n - 30),
            _ => return Err(failed("translation", 0)),
        };
        if ipa >= 1 << n {
            return Err(failed("translation", 1));
        }
        let vttbr = self.b.state.u64_at(sys::VTTBR);
        if self.v8 && bits(vttbr, 47, 40) != 0 {
            return Err(failed("size", 0));
        }
        let mut table = bits(vttbr, 39, 3 + entries) << (3 + entries);
        let mut high = n - 1;
        loop {
            let low = [0, 30, 21, 12][level as usize];
            let raw = self.mem.read(table + (bits(ipa, high, low) << 3), 8).ok_or(failed("external", level))?;
            let d = if bits(self.b.state.u32_at(sys::HSCTLR) as u64, 25, 25) == 1 { raw.swap_bytes() } else { raw };
            match (bits(d, 1, 0), level) {
                (0 | 2, _) | (1, 3) => return Err(failed("translation", level)),
                _ if self.v8 && bits(d, 47, 40) != 0 => return Err(failed("size", level)),
                (3, 1 | 2) => {
                    table = bits(d, 39, 12) << 12;
                    (level, high) = (level + 1, low - 1);
                }
                _ if bits(d, 10, 10) == 0 => return Err(failed("access flag", level)),
                _ => {
                    let (read, write) = (bits(d, 6, 6) == 1, bits(d, 7, 7) == 1);
                    let execute = match (self.v8, bits(d, 54, 54), bits(d, 53, 53)) {
                        (false, xn, _) => xn == 0 && read,
                        (true, 0, 0) => true,
                        (true, 0, 1) => self.user,
                        (true, 1, 0) => false,
                        _ => !self.user,
                    };
                    let pa = bits(d, 39, low) << low | bits(ipa, low - 1, 0);
                    return Ok((pa, bits(d, 5, 2), [read, write, execute], level));
                }
            }
        }
    }

    fn access(&self, va: u64, access: Access, dacr: u32) -> Both {
        let shown = Shown { guest: self, why: Default::default() };
        let mut execute_first = [true; 3];
        let ipa = if self.hcr(12) || self.hcr(27) || bits(self.b.state.u32_at(sys::SCTLR) as u64, 0, 0) == 0 {
            va
        } else {
            let says = |access| {
                let m = Model { state: &self.b.state, mem: &shown, user: self.user, access, dacr, v8: self.v8 };
                if self.long { m.long(va) } else { m.short(va) }
            };
            let first = says(access);
            if let Some(why) = shown.why.take() {
                return Err(why);
            }
            execute_first = [Access::Read, Access::Write, Access::Execute].map(|a| says(a).is_ok());
            first.map_err(|f| (Model::status(self.long, f), None))?.0
        };
        if !self.hcr(0) && !self.hcr(12) {
            return Ok((ipa, execute_first));
        }
        let (pa, _, allowed, level) = self.second(ipa, false)?;
        if !allowed[access as usize] {
            return Err((1 << 9 | 0b001100 | level, Some((ipa, false))));
        }
        Ok((pa, [0, 1, 2].map(|i| allowed[i] && execute_first[i])))
    }
}

impl Physical for Shown<'_> {
    fn read(&self, addr: u64, size: u8) -> Option<u64> {
        if !self.guest.hcr(0) && !self.guest.hcr(12) {
            return self.guest.mem.read(addr, size);
        }
        let found = self.guest.second(addr, true).and_then(|(pa, attributes, allowed, level)| {
            // HCR.PTW forbids walks in Device memory.
            let device = self.guest.hcr(2) && attributes < 4;
            if !allowed[0] || device { Err((1 << 9 | 0b001100 | level, Some((addr, true)))) } else { Ok(pa) }
        });
        match found {
            Ok(pa) => self.guest.mem.read(pa, size),
            Err(why) => {
                self.why.set(Some(why));
                None
            }
        }
    }
    fn compare_exchange(&self, _: u64, _: u8, _: u64, _: u64) -> Option<u64> {
        None
    }
}

/// Random tables and registers of a guest and its hypervisor: results of walks by kind (of the first stage, of the second, of
/// the second for a descriptor, mappings).
fn compare_guests(model: &str, long: bool, rounds: u32, mut x: u64) -> [u32; 4] {
    let mut next = move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    let mut b = Bench::new(model, Options { virtualization: true, ..Options::default() });
    let v8 = model == "max";
    let mut seen = [0; 4];
    for round in 0..rounds {
        let mem = Noise { seed: next(), tame: v8, friendly: true };
        let s = &mut *b.state;
        let random = next();
        s.set_u32(sys::TTBCR, if long { 1 << 31 } else { (random & 7) as u32 });
        let addresses = if v8 && next() & 31 != 0 { 0xff_ffff_ffff } else { u64::MAX };
        for place in [sys::TTBR0, sys::TTBR1, sys::VTTBR] {
            s.set_u64(place, next() & addresses);
        }
        // VM mostly, PTW, rarely DC and TGE.
        let rare = if next() & 15 == 0 { next() as u32 & (1 << 12 | 1 << 27) } else { 0 };
        s.set_u32(sys::HCR, (next() as u32 & 5) | (next() & 7 != 0) as u32 | rare);
        // All forty bits mostly.
        s.set_u32(sys::VTCR, if next() & 3 == 0 { next() as u32 } else { 0x58 });
        s.set_u32(sys::HSCTLR, (next() & 1) as u32 * (next() & 0x200_0000) as u32);
        s.set_u32(sys::SCTLR, (next() & 15 != 0) as u32 | (next() & 0x2218_0000) as u32);
        s.set_u32(sys::dacr(false, 0), next() as u32 | 0x5555_5555);
        b.mode(mode::SVC);
        // TGE with the first stage on is for user mode only, where it is off: neither model takes it from the mode.
        let va = next() & 0xffff_ffff;
        let user = next() & 1 == 0;
        let access = [Access::Read, Access::Write, Access::Execute][(next() % 3) as usize];
        let guest = Guest { b: &b, mem: &mem, user, v8, long };
        let want = guest.access(va, access, b.state.u32_at(sys::dacr(false, 0)));
        let walker = super::Walker::of_regime(&b.arm, &b.state, !user as u8, &mem);
        let got = walker.access(va as u32, access);
        let about = format!("{model} long {long} round {round} va {va:#x} user {user} {access:?}: {got:x?}");
        let got: Both = got.map(|t| (t.phys, [t.read, t.write, t.execute])).map_err(|f| {
            let status = f.syndrome(long || f.second.is_some()).status();
            (status, f.second.map(|s| (s.ipa, s.on_walk)))
        });
        let kind = match &got {
            Ok(_) => 3,
            Err((_, None)) => 0,
            Err((_, Some((_, false)))) => 1,
            Err(_) => 2,
        };
        assert_eq!(got, want, "{about}");
        seen[kind] += 1;
    }
    seen
}

#[test]
fn walks_by_two_stages_agree_with_the_manuals_tables() {
    for (model, long) in [("cortex-a15", false), ("cortex-a15", true), ("max", false), ("max", true)] {
        let seen = compare_guests(model, long, 40_000, 0x9abc_def1_1234_5679);
        assert!(seen.iter().all(|&n| n > 1_000), "{model} {long}: {seen:?}");
    }
}
