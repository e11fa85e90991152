//! The interrupt controller's CPU interface as system registers (GICv3): all go to `cpu::system::CpuInterface`.
//!
//! **Reference.** GIC Architecture Specification (IHI 0069) 12.6.

use super::{Context, Refused, needs, sysregs};

sysregs! {
    ICC_PMR [p15 0 c4 c6 0] PL1_RW .needs(needs::GIC) .check(there) .read(read) .write(write);
    ICC_SGI1R [q15 0 c12] PL1_W .needs(needs::GIC) .check(there) .write(write_wide);
    ICC_ASGI1R [q15 1 c12] PL1_W .needs(needs::GIC) .check(there) .write(write_wide);
    ICC_SGI0R [q15 2 c12] PL1_W .needs(needs::GIC) .check(there) .write(write_wide);
    ICC_IAR0 [p15 0 c12 c8 0] PL1_R .needs(needs::GIC) .check(there) .read(read);
    ICC_EOIR0 [p15 0 c12 c8 1] PL1_W .needs(needs::GIC) .check(there) .write(write);
    ICC_HPPIR0 [p15 0 c12 c8 2] PL1_R .needs(needs::GIC) .check(there) .read(read);
    ICC_BPR0 [p15 0 c12 c8 3] PL1_RW .needs(needs::GIC) .check(there) .read(read) .write(write);
    /// ICC_AP0Rn at opc2 4 to 7.
    ICC_AP0R [p15 0 c12 c8 any] PL1_RW .needs(needs::GIC) .check(there) .read(read) .write(write);
    /// ICC_AP1Rn.
    ICC_AP1R [p15 0 c12 c9 any] PL1_RW .needs(needs::GIC) .check(there) .read(read) .write(write);
    ICC_DIR [p15 0 c12 c11 1] PL1_W .needs(needs::GIC) .check(there) .write(write);
    ICC_RPR [p15 0 c12 c11 3] PL1_R .needs(needs::GIC) .check(there) .read(read);
    ICC_IAR1 [p15 0 c12 c12 0] PL1_R .needs(needs::GIC) .check(there) .read(read);
    ICC_EOIR1 [p15 0 c12 c12 1] PL1_W .needs(needs::GIC) .check(there) .write(write);
    ICC_HPPIR1 [p15 0 c12 c12 2] PL1_R .needs(needs::GIC) .check(there) .read(read);
    ICC_BPR1 [p15 0 c12 c12 3] PL1_RW .needs(needs::GIC) .check(there) .read(read) .write(write);
    ICC_CTLR [p15 0 c12 c12 4] PL1_RW .needs(needs::GIC) .check(there) .read(read) .write(write);
    ICC_SRE [p15 0 c12 c12 5] PL1_RW .needs(needs::GIC) .check(there) .read(read) .write(write);
    ICC_IGRPEN0 [p15 0 c12 c12 6] PL1_RW .needs(needs::GIC) .check(there) .read(read) .write(write);
    ICC_IGRPEN1 [p15 0 c12 c12 7] PL1_RW .needs(needs::GIC) .check(there) .read(read) .write(write);
    ICC_HSRE [p15 4 c12 c9 5] PL2_RW .needs(needs::GIC | needs::HYP) .check(there) .read(read) .write(write);
    ICC_MCTLR [p15 6 c12 c12 4] PL3_RW .needs(needs::GIC | needs::SECURITY) .check(there) .read(read) .write(write);
    ICC_MSRE [p15 6 c12 c12 5] PL3_RW .needs(needs::GIC | needs::SECURITY) .check(there) .read(read) .write(write);
    ICC_MGRPEN1 [p15 6 c12 c12 7] PL3_RW .needs(needs::GIC | needs::SECURITY) .check(there) .read(read) .write(write);
}

/// `CpuInterface`'s numbers: opc1, CRn, CRm, opc2 as hexadecimal digits of a 32-bit register (ICC_IAR1 is 0x0cc0), 0x10000 and
/// opc1, CRm of a 64-bit one (ICC_SGI1R is 0x1000c); plus who asks.
pub fn register_code(wide: bool, opc1: u8, crn: u8, crm: u8, opc2: u8) -> u32 {
    let (opc1, crn, crm, opc2) = (opc1 as u32, crn as u32, crm as u32, opc2 as u32);
    if wide { 0x1_0000 | opc1 << 4 | crm } else { opc1 << 12 | crn << 8 | crm << 4 | opc2 }
}

/// Set in the number: the access is Secure.
pub const REGISTER_SECURE: u32 = 1 << 24;
/// The privilege level of the access (1 to 3) is at this bit of the number.
pub const REGISTER_LEVEL: u32 = 25;

fn code(c: &Context, wide: bool) -> u32 {
    let secure = if c.level == 3 || c.secure && c.arm.has_security() { REGISTER_SECURE } else { 0 };
    register_code(wide, c.opc1, c.crn, c.crm, c.opc2) | secure | (c.level as u32) << REGISTER_LEVEL
}

fn there(c: &Context, _: bool) -> Result<(), Refused> {
    if c.env.cpu_interface().is_some() { Ok(()) } else { Err(Refused::Undefined) }
}

/// Registers that this controller does not have read as zero.
fn read(c: &mut Context) -> u64 {
    let code = code(c, false);
    c.env.cpu_interface().and_then(|i| i.read(code)).unwrap_or(0)
}

fn write(c: &mut Context, value: u64) {
    let code = code(c, false);
    if let Some(i) = c.env.cpu_interface() {
        i.write(code, value);
    }
}

fn write_wide(c: &mut Context, value: u64) {
    let code = code(c, true);
    if let Some(i) = c.env.cpu_interface() {
        i.write(code, value);
    }
}
