//! The interrupt controller's CPU interface as system registers (GICv3): all go to `cpu::system::CpuInterface`.
//!
//! **Reference.** GIC Architecture Specification (IHI 0069) 12.6.

use super::{Context, Refused, needs, sysregs};
use crate::mmu::effective_hcr;
use crate::state::bank::mode;
use crate::state::key;
use crate::state::sys::{self, hcr, scr};

sysregs! {
    ICC_PMR [p15 0 c4 c6 0] PL1_RW .needs(needs::GIC) .check(common) .read(read) .write(write);
    ICC_SGI1R [q15 0 c12] PL1_W .needs(needs::GIC) .check(software) .write(write_wide);
    ICC_ASGI1R [q15 1 c12] PL1_W .needs(needs::GIC) .check(software) .write(write_wide);
    ICC_SGI0R [q15 2 c12] PL1_W .needs(needs::GIC) .check(software) .write(write_wide);
    ICC_IAR0 [p15 0 c12 c8 0] PL1_R .needs(needs::GIC) .check(group_0) .read(read);
    ICC_EOIR0 [p15 0 c12 c8 1] PL1_W .needs(needs::GIC) .check(group_0) .write(write);
    ICC_HPPIR0 [p15 0 c12 c8 2] PL1_R .needs(needs::GIC) .check(group_0) .read(read);
    ICC_BPR0 [p15 0 c12 c8 3] PL1_RW .needs(needs::GIC) .check(group_0) .read(read) .write(write);
    /// ICC_AP0Rn at opc2 4 to 7.
    ICC_AP0R [p15 0 c12 c8 any] PL1_RW .needs(needs::GIC) .check(group_0) .read(read) .write(write);
    /// ICC_AP1Rn.
    ICC_AP1R [p15 0 c12 c9 any] PL1_RW .needs(needs::GIC) .check(group_1) .read(read) .write(write);
    ICC_DIR [p15 0 c12 c11 1] PL1_W .needs(needs::GIC) .check(deactivation) .write(write);
    ICC_RPR [p15 0 c12 c11 3] PL1_R .needs(needs::GIC) .check(common) .read(read);
    ICC_IAR1 [p15 0 c12 c12 0] PL1_R .needs(needs::GIC) .check(group_1) .read(read);
    ICC_EOIR1 [p15 0 c12 c12 1] PL1_W .needs(needs::GIC) .check(group_1) .write(write);
    ICC_HPPIR1 [p15 0 c12 c12 2] PL1_R .needs(needs::GIC) .check(group_1) .read(read);
    ICC_BPR1 [p15 0 c12 c12 3] PL1_RW .needs(needs::GIC) .check(group_1) .read(read) .write(write);
    ICC_CTLR [p15 0 c12 c12 4] PL1_RW .needs(needs::GIC) .check(common) .read(read) .write(write);
    ICC_SRE [p15 0 c12 c12 5] PL1_RW .needs(needs::GIC) .check(there) .read(read) .write(write);
    ICC_IGRPEN0 [p15 0 c12 c12 6] PL1_RW .needs(needs::GIC) .check(group_0) .read(read) .write(write);
    ICC_IGRPEN1 [p15 0 c12 c12 7] PL1_RW .needs(needs::GIC) .check(group_1) .read(read) .write(write);
    ICC_HSRE [p15 4 c12 c9 5] PL2_RW .needs(needs::GIC | needs::HYP) .check(there) .read(read) .write(write);
    /// The virtual interface, as a hypervisor has it: ICH_AP0Rn, ICH_AP1Rn.
    ICH_AP0R [p15 4 c12 c8 any] PL2_RW .needs(needs::GIC | needs::HYP) .check(there) .read(read) .write(write);
    ICH_AP1R [p15 4 c12 c9 any] PL2_RW .needs(needs::GIC | needs::HYP) .check(there) .read(read) .write(write);
    ICH_HCR [p15 4 c12 c11 0] PL2_RW .needs(needs::GIC | needs::HYP) .check(there) .read(read) .write(write);
    ICH_VTR [p15 4 c12 c11 1] PL2_R .needs(needs::GIC | needs::HYP) .check(there) .read(read);
    ICH_MISR [p15 4 c12 c11 2] PL2_R .needs(needs::GIC | needs::HYP) .check(there) .read(read);
    ICH_EISR [p15 4 c12 c11 3] PL2_R .needs(needs::GIC | needs::HYP) .check(there) .read(read);
    ICH_ELRSR [p15 4 c12 c11 5] PL2_R .needs(needs::GIC | needs::HYP) .check(there) .read(read);
    ICH_VMCR [p15 4 c12 c11 7] PL2_RW .needs(needs::GIC | needs::HYP) .check(there) .read(read) .write(write);
    /// Lower and upper halves of sixteen list registers.
    ICH_LR_0 [p15 4 c12 c12 any] PL2_RW .needs(needs::GIC | needs::HYP) .check(listed) .read(read) .write(write);
    ICH_LR_8 [p15 4 c12 c13 any] PL2_RW .needs(needs::GIC | needs::HYP) .check(listed) .read(read) .write(write);
    ICH_LRC_0 [p15 4 c12 c14 any] PL2_RW .needs(needs::GIC | needs::HYP) .check(listed) .read(read) .write(write);
    ICH_LRC_8 [p15 4 c12 c15 any] PL2_RW .needs(needs::GIC | needs::HYP) .check(listed) .read(read) .write(write);
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
/// Set in the number: a guest asks whose FIQs (group 0) or IRQs (group 1) are its hypervisor's.
pub const REGISTER_VIRTUAL_FIQ: u32 = 1 << 27;
pub const REGISTER_VIRTUAL_IRQ: u32 = 1 << 28;

fn code(c: &Context, wide: bool) -> u32 {
    let secure = if c.level == 3 || c.secure && c.arm.has_security() { REGISTER_SECURE } else { 0 };
    let control = if c.is_guest() { effective_hcr(c.arm, c.state) } else { 0 };
    let routed = |bit: u32, flag: u32| if control & bit != 0 { flag } else { 0 };
    let virtual_ = routed(hcr::FMO, REGISTER_VIRTUAL_FIQ) | routed(hcr::IMO, REGISTER_VIRTUAL_IRQ);
    register_code(wide, c.opc1, c.crn, c.crm, c.opc2) | secure | virtual_ | (c.level as u32) << REGISTER_LEVEL
}

/// ICH_HCR's traps: of what both groups share, of group 0, of group 1, of ICC_DIR.
const TC: u64 = 1 << 10;
const TALL0: u64 = 1 << 11;
const TALL1: u64 = 1 << 12;
const TDIR: u64 = 1 << 14;

/// Whether an access is trapped by ICH_HCR, or kept from all but Monitor mode by SCR.
fn allowed(c: &Context, traps: u64, routed: u32) -> Result<(), Refused> {
    let interface = c.env.cpu_interface().ok_or(Refused::Undefined)?;
    if c.is_guest() && c.level == 1 && interface.read(register_code(false, 4, 12, 11, 0)).unwrap_or(0) & traps != 0 {
        return Err(c.trap());
    }
    let control = if c.is_guest() { effective_hcr(c.arm, c.state) } else { 0 };
    let to_hyp = if routed & scr::IRQ != 0 { hcr::IMO } else { 0 } | if routed & scr::FIQ != 0 { hcr::FMO } else { 0 };
    let monitor = key::mode(c.state.u64_at(ir::state::KEY)) == mode::MON;
    let taken = c.arm.has_security() && c.get(sys::SCR) & routed == routed && control & to_hyp == 0;
    if taken && !monitor { Err(Refused::Undefined) } else { Ok(()) }
}

fn common(c: &Context, _: bool) -> Result<(), Refused> {
    allowed(c, TC, scr::IRQ | scr::FIQ)
}

fn deactivation(c: &Context, _: bool) -> Result<(), Refused> {
    allowed(c, TC | TDIR, scr::IRQ | scr::FIQ)
}

fn group_0(c: &Context, _: bool) -> Result<(), Refused> {
    allowed(c, TALL0, scr::FIQ)
}

fn group_1(c: &Context, _: bool) -> Result<(), Refused> {
    allowed(c, TALL1, scr::IRQ)
}

/// There are no virtual software interrupts: the hypervisor makes them.
fn software(c: &Context, _: bool) -> Result<(), Refused> {
    if c.is_guest() && effective_hcr(c.arm, c.state) & (hcr::IMO | hcr::FMO) != 0 {
        return Err(c.trap());
    }
    allowed(c, TC, scr::IRQ | scr::FIQ)
}

/// List registers beyond ICH_VTR's number are UNDEFINED.
fn listed(c: &Context, _: bool) -> Result<(), Refused> {
    let interface = c.env.cpu_interface().ok_or(Refused::Undefined)?;
    let last = interface.read(register_code(false, 4, 12, 11, 1)).unwrap_or(0) & 31;
    let number = (c.crm as u64 & 1) << 3 | c.opc2 as u64;
    if number <= last { Ok(()) } else { Err(Refused::Undefined) }
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
