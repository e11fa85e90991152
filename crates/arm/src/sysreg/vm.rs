//! Virtual memory: tables, domains, faults, attributes, address translation operations.
//!
//! **Reference.** Arm ARM (DDI 0406C) B4.1 by name; B4.1.112 (PAR), B4.2.4 (address translation operations), B3.5.2 (TTBCR).
//!
//! **Not modelled**: memory attributes of the short format in PAR.
//!
//! **Invariants**: the state holds two values of DACR for each security state. Writing the one that is not in force only
//! changes which is; a third replaces that one, so that the regimes' translations hold its effect. Machines with the
//! Virtualization Extensions use one.

use super::{Context, Refused, needs, sysregs};
use crate::Features;
use crate::mmu::{self, Fault, Second, Translation, Walker, World};
use crate::state::key;
use crate::state::sys::{self, hcr};
use crate::system::{HSR_CM, HSR_S1PTW, HSR_WNR, hpfar, regime};
use cpu::Access;
use cpu::system::Flush;

sysregs! {
    TTBR0 [p15 0 c2 c0 0] PL1_RW .banked64(sys::TTBR0) .plain() .memory();
    TTBR1 [p15 0 c2 c0 1] PL1_RW .banked64(sys::TTBR1) .plain() .memory();
    TTBCR [p15 0 c2 c0 2] PL1_RW .banked(sys::TTBCR) .write(write_ttbcr) .plain_read() .memory();
    TTBCR2 [p15 0 c2 c0 3] PL1_RW .needs(needs::V8) .banked(sys::TTBCR2) .write(write_ttbcr2) .memory();
    TTBR0_64 [q15 0 c2] PL1_RW .needs(needs::LPAE) .banked64(sys::TTBR0) .memory();
    TTBR1_64 [q15 1 c2] PL1_RW .needs(needs::LPAE) .banked64(sys::TTBR1) .memory();
    DACR [p15 0 c3 c0 0] PL1_RW .read(read_dacr) .write(write_dacr) .plain_at(place_of_dacr) .memory();
    DFSR [p15 0 c5 c0 0] PL1_RW .banked(sys::DFSR) .plain() .memory();
    IFSR [p15 0 c5 c0 1] PL1_RW .banked(sys::IFSR) .plain() .memory();
    /// Nothing auxiliary is recorded.
    ADFSR [p15 0 c5 c1 0] PL1_RW .memory();
    AIFSR [p15 0 c5 c1 1] PL1_RW .memory();
    /// There are no error records.
    ERRIDR [p15 0 c5 c3 0] PL1_R .needs(needs::V8);
    DFAR [p15 0 c6 c0 0] PL1_RW .banked(sys::DFAR) .plain() .memory();
    WFAR [p15 0 c6 c0 1] PL1_RW;
    IFAR [p15 0 c6 c0 2] PL1_RW .banked(sys::IFAR) .plain() .memory();
    PAR [p15 0 c7 c4 0] PL1_RW .banked64(sys::PAR) .plain();
    PAR_64 [q15 0 c7] PL1_RW .needs(needs::LPAE) .banked64(sys::PAR);
    ATS1CPR [p15 0 c7 c8 0] PL1_W .write(ats);
    ATS1CPW [p15 0 c7 c8 1] PL1_W .write(ats);
    ATS1CUR [p15 0 c7 c8 2] PL1_W .write(ats);
    ATS1CUW [p15 0 c7 c8 3] PL1_W .write(ats);
    ATS12NSOPR [p15 0 c7 c8 4] PL2_W .needs(needs::SECURITY_OR_HYP) .write(ats);
    ATS12NSOPW [p15 0 c7 c8 5] PL2_W .needs(needs::SECURITY_OR_HYP) .write(ats);
    ATS12NSOUR [p15 0 c7 c8 6] PL2_W .needs(needs::SECURITY_OR_HYP) .write(ats);
    ATS12NSOUW [p15 0 c7 c8 7] PL2_W .needs(needs::SECURITY_OR_HYP) .write(ats);
    ATS1HR [p15 4 c7 c8 0] PL2_W .needs(needs::HYP) .write(ats);
    ATS1HW [p15 4 c7 c8 1] PL2_W .needs(needs::HYP) .write(ats);
    /// MAIR0 in the long format.
    PRRR [p15 0 c10 c2 0] PL1_RW .banked(sys::PRRR) .plain() .memory();
    /// MAIR1 in the long format.
    NMRR [p15 0 c10 c2 1] PL1_RW .banked(sys::NMRR) .plain() .memory();
    AMAIR0 [p15 0 c10 c3 0] PL1_RW .needs(needs::LPAE) .memory();
    AMAIR1 [p15 0 c10 c3 1] PL1_RW .needs(needs::LPAE) .memory();
    CONTEXTIDR [p15 0 c13 c0 1] PL1_RW .banked(sys::CONTEXTIDR) .plain_read() .memory();
}

/// TTBCR bits of the short format: N, and with Security Extensions PD0 and PD1.
const TTBCR_N: u32 = 0x07;
const TTBCR_PD: u32 = 0x30;
/// What the long format leaves out in ARMv7.
const TTBCR_LONG_RESERVED: u32 = 7 << 19 | 3 << 14 | 0xf << 3;

/// PAR: the translation failed.
const PAR_F: u64 = 1;
const PAR_SUPERSECTION: u64 = 1 << 1;
const PAR_NS: u64 = 1 << 9;
/// Of a fault in the long format: it is the second stage's, in a walk of the first.
const PAR_FSTAGE: u64 = 1 << 9;
const PAR_S2WLK: u64 = 1 << 8;
/// PAR is in the long format.
const PAR_LPAE: u64 = 1 << 11;

fn write_ttbcr(c: &mut Context, value: u64) {
    let mut value = value as u32;
    if !c.arm.features.has(Features::V8) {
        value &= if c.arm.features.has(Features::LPAE) && value & sys::TTBCR_EAE != 0 {
            !TTBCR_LONG_RESERVED
        } else if c.arm.has_security() {
            TTBCR_N | TTBCR_PD
        } else {
            TTBCR_N
        };
    }
    if value != c.banked(sys::TTBCR) {
        c.set_banked(sys::TTBCR, value);
        c.env.flush(Flush::All { regimes: super::tlb::ALL }, false);
    }
}

fn write_ttbcr2(c: &mut Context, value: u64) {
    // HPD1, HPD0.
    c.set_banked(sys::TTBCR2, value as u32 & 0x600);
    c.env.flush(Flush::All { regimes: super::tlb::ALL }, false);
}

fn place_of_dacr(secure: bool, key: u64) -> u32 {
    sys::dacr(secure, (key & key::DOMAINS != 0) as u32)
}

fn read_dacr(c: &mut Context) -> u64 {
    let which = c.banked(sys::DACR_CURRENT);
    c.get(sys::dacr(c.secure, which)) as u64
}

fn write_dacr(c: &mut Context, value: u64) {
    let (value, which) = (value as u32, c.banked(sys::DACR_CURRENT));
    let [current, other] = [which, which ^ 1].map(|w| sys::dacr(c.secure, w));
    if value == c.get(current) {
        return;
    }
    if c.arm.has_virtualization() {
        c.set(current, value);
        c.env.flush(Flush::All { regimes: super::tlb::ALL }, false);
        return;
    }
    if value != c.get(other) {
        c.set(other, value);
        // The regimes that go with the value replaced.
        let first = if which == 0 { regime::OTHER_DOMAINS } else { 0 };
        let regimes = 1 << (first | regime::USER) | 1 << (first | regime::KERNEL);
        c.env.flush(Flush::All { regimes }, false);
    }
    c.set_banked(sys::DACR_CURRENT, which ^ 1);
    super::update_key(c.arm, c.state);
}

/// Whose translation of which access an address translation operation asks for, by opc1 and opc2.
struct Wanted {
    world: World,
    user: bool,
    access: Access,
    /// By both stages.
    both: bool,
    /// PAR has the long format.
    long: bool,
}

impl Wanted {
    fn of(c: &Context) -> Wanted {
        let access = if c.opc2 & 1 != 0 { Access::Write } else { Access::Read };
        let (both, user) = (c.opc1 == 0 && c.opc2 & 4 != 0, c.opc1 == 0 && c.opc2 & 2 != 0);
        let world = match (c.opc1, both || c.level == 2) {
            (4, _) => World::Hyp,
            (_, true) => World::NonSecure,
            _ if c.secure => World::Secure,
            _ => World::NonSecure,
        };
        let second = both && c.arm.has_virtualization() && c.get(sys::HCR) & (hcr::VM | hcr::DC) != 0;
        let long = mmu::long_format(c.state, world) || second || !both && c.level == 2;
        Wanted { world, user, access, both, long }
    }
}

/// The address translation operations.
fn ats(c: &mut Context, value: u64) {
    let w = Wanted::of(c);
    let secure = w.world == World::Secure;
    let which = c.get(sys::bank(sys::DACR_CURRENT, secure));
    let dacr = c.get(sys::dacr(secure, which));
    let walker = Walker { arm: c.arm, state: c.state, mem: c.env.physical(), world: w.world, user: w.user, dacr };
    let addr = value as u32;
    let done = if w.both { walker.access(addr, w.access) } else { walker.access_first(addr, w.access) };
    let par = match done {
        Ok(t) => par_of(&t, w.long),
        // A guest's own operation finds that its tables are out of its hypervisor's.
        Err(fault @ Fault { second: Some(Second { ipa, .. }), .. }) if c.level < 2 => {
            let detail = fault.syndrome(true).status() & 0x3f | HSR_CM | HSR_S1PTW | HSR_WNR;
            c.failed = Some(Refused::SecondStage { addr, detail, hpfar: hpfar(ipa) });
            return;
        }
        Err(fault) => par_of_fault(fault, w.long),
    };
    c.set_banked64(sys::PAR, par);
}

fn par_of(t: &Translation, long: bool) -> u64 {
    let ns = if t.non_secure { PAR_NS } else { 0 };
    if long {
        // Device memory and what is not cached are Outer Shareable.
        let shareability = if t.attributes & 0xf0 == 0 || t.attributes == 0x44 { 2 } else { t.shareability };
        let attributes = (t.attributes as u64) << 56 | (shareability as u64) << 7;
        return attributes | t.phys & 0xff_ffff_f000 | PAR_LPAE | ns;
    }
    // A supersection's address has bits 39:32 at 23:16.
    if t.size_bits == 24 {
        t.phys & 0xff00_0000 | t.phys >> 32 << 16 | PAR_SUPERSECTION | ns
    } else {
        t.phys & 0xffff_f000 | ns
    }
}

fn par_of_fault(fault: Fault, long: bool) -> u64 {
    let status = fault.syndrome(long).status() as u64;
    if !long {
        // FS[4:0] at 5:1 and 6: FS[3:0] stay together, FS[4] follows.
        return (status & 15) << 1 | (status >> 10 & 1) << 5 | PAR_F;
    }
    let second = match fault.second {
        Some(Second { on_walk: true, .. }) => PAR_FSTAGE | PAR_S2WLK,
        Some(_) => PAR_FSTAGE,
        None => 0,
    };
    (status & 0x3f) << 1 | PAR_LPAE | PAR_F | second
}
