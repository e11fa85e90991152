//! Identification registers: what the CPU is and has.
//!
//! **Reference.** Arm ARM (DDI 0406C) B4.1 and B7; the values are those of the cores' technical reference manuals (DDI 0464,
//! DDI 0438), with the features that our machines leave out left out; `max` is an imaginary core.

use super::{Context, needs, sysregs};
use crate::state::sys::{self, hcr};

sysregs! {
    MIDR [p15 0 c0 c0 0] PL1_R .read(midr);
    CTR [p15 0 c0 c0 1] PL1_R .read(|c| id(c).ctr as u64) .trap(sys::HCR, hcr::TID2);
    TCMTR [p15 0 c0 c0 2] PL1_R .read(|_| 0) .trap(sys::HCR, hcr::TID1);
    TLBTR [p15 0 c0 c0 3] PL1_R .read(|_| 0) .trap(sys::HCR, hcr::TID1);
    MPIDR [p15 0 c0 c0 5] PL1_R .read(mpidr);
    REVIDR [p15 0 c0 c0 6] PL1_R .read(|c| id(c).revidr as u64) .trap(sys::HCR, hcr::TID1);
    /// Two more names of MIDR.
    MIDR_4 [p15 0 c0 c0 4] PL1_R .read(midr);
    MIDR_7 [p15 0 c0 c0 7] PL1_R .read(midr);
    ID_PFR0 [p15 0 c0 c1 0] PL1_R .read(|c| id(c).pfr[0] as u64) .trap(sys::HCR, hcr::TID3);
    ID_PFR1 [p15 0 c0 c1 1] PL1_R .read(id_pfr1) .trap(sys::HCR, hcr::TID3);
    ID_DFR0 [p15 0 c0 c1 2] PL1_R .read(id_dfr0) .trap(sys::HCR, hcr::TID3);
    ID_AFR0 [p15 0 c0 c1 3] PL1_R .read(|_| 0) .trap(sys::HCR, hcr::TID3);
    ID_MMFR0 [p15 0 c0 c1 4] PL1_R .read(|c| id(c).mmfr[0] as u64) .trap(sys::HCR, hcr::TID3);
    ID_MMFR1 [p15 0 c0 c1 5] PL1_R .read(|c| id(c).mmfr[1] as u64) .trap(sys::HCR, hcr::TID3);
    ID_MMFR2 [p15 0 c0 c1 6] PL1_R .read(|c| id(c).mmfr[2] as u64) .trap(sys::HCR, hcr::TID3);
    ID_MMFR3 [p15 0 c0 c1 7] PL1_R .read(|c| id(c).mmfr[3] as u64) .trap(sys::HCR, hcr::TID3);
    ID_ISAR0 [p15 0 c0 c2 0] PL1_R .read(|c| id(c).isar[0] as u64) .trap(sys::HCR, hcr::TID3);
    ID_ISAR1 [p15 0 c0 c2 1] PL1_R .read(|c| id(c).isar[1] as u64) .trap(sys::HCR, hcr::TID3);
    ID_ISAR2 [p15 0 c0 c2 2] PL1_R .read(|c| id(c).isar[2] as u64) .trap(sys::HCR, hcr::TID3);
    ID_ISAR3 [p15 0 c0 c2 3] PL1_R .read(|c| id(c).isar[3] as u64) .trap(sys::HCR, hcr::TID3);
    ID_ISAR4 [p15 0 c0 c2 4] PL1_R .read(|c| id(c).isar[4] as u64) .trap(sys::HCR, hcr::TID3);
    ID_ISAR5 [p15 0 c0 c2 5] PL1_R .read(|c| id(c).isar[5] as u64) .trap(sys::HCR, hcr::TID3);
    ID_MMFR4 [p15 0 c0 c2 6] PL1_R .read(|c| id(c).mmfr[4] as u64) .trap(sys::HCR, hcr::TID3);
    ID_ISAR6 [p15 0 c0 c2 7] PL1_R .read(|c| id(c).isar[6] as u64) .trap(sys::HCR, hcr::TID3);
    ID_PFR2 [p15 0 c0 c3 4] PL1_R .read(|c| id(c).pfr[2] as u64) .trap(sys::HCR, hcr::TID3);
    ID_DFR1 [p15 0 c0 c3 5] PL1_R .read(|c| id(c).dfr1 as u64) .trap(sys::HCR, hcr::TID3);
    ID_MMFR5 [p15 0 c0 c3 6] PL1_R .read(|c| id(c).mmfr[5] as u64) .trap(sys::HCR, hcr::TID3);
    CCSIDR [p15 1 c0 c0 0] PL1_R .read(ccsidr) .trap(sys::HCR, hcr::TID2);
    CLIDR [p15 1 c0 c0 1] PL1_R .read(|c| id(c).clidr as u64) .trap(sys::HCR, hcr::TID2);
    AIDR [p15 1 c0 c0 7] PL1_R .read(|_| 0) .trap(sys::HCR, hcr::TID1);
    CSSELR [p15 2 c0 c0 0] PL1_RW .banked(sys::CSSELR) .mask(0xf) .trap(sys::HCR, hcr::TID2);
    VPIDR [p15 4 c0 c0 0] PL2_RW .at(sys::VPIDR) .needs(needs::HYP) .reset(|arm| of_model(arm.model.name).midr as u64);
    VMPIDR [p15 4 c0 c0 5] PL2_RW .at(sys::VMPIDR) .needs(needs::HYP) .reset(|_| MPIDR_MP as u64);
    /// The rest of the identification space reads as zero.
    ID_RESERVED_1 [p15 0 c0 c3 any] PL1_R .trap(sys::HCR, hcr::TID3);
    ID_RESERVED_2 [p15 0 c0 c4 any] PL1_R .trap(sys::HCR, hcr::TID3);
    ID_RESERVED_3 [p15 0 c0 c5 any] PL1_R .trap(sys::HCR, hcr::TID3);
    ID_RESERVED_4 [p15 0 c0 c6 any] PL1_R .trap(sys::HCR, hcr::TID3);
    ID_RESERVED_5 [p15 0 c0 c7 any] PL1_R .trap(sys::HCR, hcr::TID3);
    ID_RESERVED_8 [p15 0 c0 any any] PL1_R .needs(needs::V8) .trap(sys::HCR, hcr::TID3);
    /// Configuration base address: where the private peripherals are.
    CBAR [p15 4 c15 c0 0] PL1_R .needs(needs::CORTEX_A7_A15) .read(cbar);
    CBAR_8 [p15 1 c15 c3 0] PL1_R .needs(needs::V8) .read(cbar);
}

/// What a model says of itself.
pub struct Identification {
    pub model: &'static str,
    pub midr: u32,
    pub revidr: u32,
    pub ctr: u32,
    /// Without the fields of extensions that are a machine's choice (ID_PFR1, ID_DFR0).
    pub pfr: [u32; 3],
    pub dfr0: u32,
    pub dfr1: u32,
    pub mmfr: [u32; 6],
    pub isar: [u32; 7],
    pub clidr: u32,
    /// CCSIDR for CSSELR 0 (L1 data), 1 (L1 instruction), 2 (L2).
    pub ccsidr: [u32; 3],
    /// SCTLR after reset, with low vectors.
    pub sctlr: u32,
    pub dbgdidr: u32,
    pub dbgdevid: u32,
    pub dbgdevid1: u32,
    /// PMCR\[31:11\]: implementer, identification code, counters.
    pub pmcr: u32,
    /// What VMRS gives privileged code.
    pub fpsid: u32,
    pub mvfr: [u32; 3],
}

/// The models that can be in a machine.
pub static MODELS: &[Identification] = &[
    Identification {
        model: "cortex-a7",
        midr: 0x410f_c075,
        revidr: 0x410f_c075,
        ctr: 0x8444_8003,
        pfr: [0x0000_1131, 0x0001_0001, 0],
        dfr0: 0x0200_0505,
        dfr1: 0,
        mmfr: [0x1010_1105, 0x4000_0000, 0x0124_0000, 0x0210_2211, 0, 0],
        isar: [0x0210_1110, 0x1311_2111, 0x2123_2041, 0x1111_2131, 0x1001_1142, 0, 0],
        clidr: 0x0a20_0023,
        ccsidr: [0x701f_e00a, 0x201f_e00a, 0x711f_e07a],
        sctlr: 0x00c5_0078,
        dbgdidr: 0x3515_f005,
        dbgdevid: 0x0111_0f13,
        dbgdevid1: 1,
        pmcr: 0x4107_2000,
        fpsid: 0x4102_3075,
        mvfr: [0x1011_0222, 0x1111_1111, 0],
    },
    Identification {
        model: "cortex-a15",
        midr: 0x414f_c0f0,
        revidr: 0x414f_c0f0,
        ctr: 0x8444_c004,
        pfr: [0x0000_1131, 0x0001_0001, 0],
        dfr0: 0x0200_0505,
        dfr1: 0,
        mmfr: [0x1020_1105, 0x2000_0000, 0x0124_0000, 0x0210_2211, 0, 0],
        isar: [0x0210_1110, 0x1311_2111, 0x2123_2041, 0x1111_2131, 0x1001_1142, 0, 0],
        clidr: 0x0a20_0023,
        ccsidr: [0x701f_e00a, 0x201f_e00a, 0x711f_e07a],
        sctlr: 0x00c5_0078,
        dbgdidr: 0x3515_f021,
        dbgdevid: 0x0111_0f13,
        dbgdevid1: 0,
        pmcr: 0x410f_3000,
        fpsid: 0x4104_30f0,
        mvfr: [0x1011_0222, 0x1111_1111, 0],
    },
    Identification {
        model: "max",
        midr: 0x411f_d070,
        revidr: 0,
        ctr: 0x8444_c004,
        // SSBS is left out of ID_PFR2, PAN of ID_MMFR3: CPSR has neither bit.
        pfr: [0x1102_0131, 0x0001_0001, 0x0000_0001],
        dfr0: 0x0600_000a,
        dfr1: 0x10,
        mmfr: [0x1010_1105, 0x4000_0000, 0x0126_0000, 0x0210_2211, 0x2002_1110, 2],
        isar: [0x0210_1110, 0x1311_2111, 0x2123_2042, 0x0111_2131, 0x0001_1142, 0x1101_1121, 0x0111_1111],
        clidr: 0x0a20_0023,
        ccsidr: [0x701f_e00a, 0x201f_e012, 0x70ff_e07a],
        sctlr: 0x00c5_0838,
        dbgdidr: 0x351a_d000,
        dbgdevid: 0x0011_0f13,
        dbgdevid1: 2,
        pmcr: 0x4101_3000,
        fpsid: 0x4103_4070,
        mvfr: [0x1011_0222, 0x1321_1111, 0x43],
    },
];

/// MPIDR of a multiprocessor.
const MPIDR_MP: u32 = 1 << 31;
/// ID_PFR1 fields that a machine chooses.
const PFR1_SECURITY: u32 = 0x10;
const PFR1_VIRTUALIZATION: u32 = 0x1000;
const PFR1_GIC: u32 = 0x1000_0000;
/// ID_DFR0.CopSDbg, what it says when there are Security Extensions, and PerfMon.
const DFR0_COP_S_DBG: u32 = 0xf0;
const DFR0_PERF_MON: u32 = 0x0f00_0000;

/// A model's identification; the Cortex-A15's for a model that cannot be in a machine.
pub fn of_model(name: &str) -> &'static Identification {
    MODELS.iter().find(|m| m.model == name).unwrap_or(&MODELS[1])
}

/// DBGDIDR, which programs can read on every model since ARMv7.
pub fn dbgdidr(name: &str) -> u32 {
    match name {
        "cortex-a8" => 0x1514_1000,
        "cortex-a9" => 0x3514_1000,
        other => of_model(other).dbgdidr,
    }
}

fn id(c: &Context) -> &'static Identification {
    of_model(c.arm.model.name)
}

fn midr(c: &mut Context) -> u64 {
    if c.arm.has_virtualization() && c.level <= 1 { c.get(sys::VPIDR) as u64 } else { id(c).midr as u64 }
}

fn mpidr(c: &mut Context) -> u64 {
    if c.arm.has_virtualization() && c.level <= 1 {
        return vmpidr(c);
    }
    (MPIDR_MP | c.arm.options.map_or(0, |o| o.affinity(c.env.index()))) as u64
}

/// The machine's own value until a hypervisor writes another.
fn vmpidr(c: &Context) -> u64 {
    let written = c.get(sys::VMPIDR);
    let own = c.arm.options.map_or(0, |o| o.affinity(c.env.index()));
    (if written == MPIDR_MP { written | own } else { written }) as u64
}

fn id_pfr1(c: &mut Context) -> u64 {
    let mut value = id(c).pfr[1];
    for (there, field) in [
        (c.arm.has_security(), PFR1_SECURITY),
        (c.arm.has_virtualization(), PFR1_VIRTUALIZATION),
        (c.arm.options.is_some_and(|o| o.gic_system_registers), PFR1_GIC),
    ] {
        value |= if there { field } else { 0 };
    }
    value as u64
}

fn id_dfr0(c: &mut Context) -> u64 {
    let mut value = id(c).dfr0;
    if c.arm.has_security() {
        value |= (value & 15) << 4 & DFR0_COP_S_DBG;
    }
    if !c.arm.options.is_some_and(|o| o.pmu) {
        value &= !DFR0_PERF_MON;
    }
    value as u64
}

fn ccsidr(c: &mut Context) -> u64 {
    let select = c.banked(sys::CSSELR) as usize & 15;
    id(c).ccsidr.get(select).copied().unwrap_or(0) as u64
}

fn cbar(c: &mut Context) -> u64 {
    c.arm.options.map_or(0, |o| o.peripheral_base & 0xffff_8000 | o.peripheral_base >> 32)
}
