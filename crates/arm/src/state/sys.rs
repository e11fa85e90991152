//! Where the system registers (coprocessors 14 and 15) lie in `ir::State`.
//!
//! **Reference.** Arm ARM (DDI 0406C) B3.17, B4.1, C11.
//!
//! **Invariants**: a register that is banked by security state has its Non-secure copy at its offset and its Secure copy right
//! behind it ([`bank`]). Without the Security Extensions only the Non-secure copy is used. All of this is 0 in user-mode
//! emulation.

/// First and last byte that belong to system registers.
pub const FIRST: u32 = 1280;
pub const LAST: u32 = 2047;

macro_rules! places {
    (@ $at:expr;) => {
        /// First free byte.
        pub const END: u32 = $at;
    };
    (@ $at:expr; $(#[$doc:meta])* $name:ident $bytes:literal; $($rest:tt)*) => {
        $(#[$doc])*
        pub const $name: u32 = $at;
        places!(@ $name + $bytes; $($rest)*);
    };
}

places! { @ FIRST;
    // 64-bit registers first, to keep them aligned. 16 bytes: two copies.
    TTBR0 16;
    TTBR1 16;
    PAR 16;
    CNTP_CVAL 16;
    CNTV_CVAL 8;
    CNTVOFF 8;
    CNTHP_CVAL 8;
    VTTBR 8;
    HTTBR 8;
    /// Cycles of the virtual clock up to which the counters have counted.
    PM_SINCE 8;
    /// Event counters 0 to 5, then PMCCNTR: 64 bits each.
    PM_COUNTERS 56;

    SCTLR 8;
    CPACR 4;
    SCR 4;
    SDER 4;
    NSACR 4;
    VBAR 8;
    MVBAR 4;
    TTBCR 8;
    TTBCR2 8;
    /// Two values for each security state, see `DACR_CURRENT`.
    DACR 16;
    /// Which of the two values of DACR is in force (0 or 1).
    DACR_CURRENT 8;
    DFSR 8;
    IFSR 8;
    DFAR 8;
    IFAR 8;
    CONTEXTIDR 8;
    /// PRRR, or MAIR0 in the long format.
    PRRR 8;
    /// NMRR, or MAIR1.
    NMRR 8;
    TPIDRPRW 8;
    /// TPIDRURW and TPIDRURO of the security state whose registers are not in use now.
    TPIDRURW_OTHER 4;
    TPIDRURO_OTHER 4;
    CSSELR 8;

    CNTFRQ 4;
    CNTKCTL 4;
    CNTP_CTL 8;
    CNTV_CTL 4;
    CNTHCTL 4;
    CNTHP_CTL 4;

    PMCR 4;
    PMCNTENSET 4;
    PMOVSR 4;
    PMSELR 4;
    PMUSERENR 4;
    PMINTENSET 4;
    PMCCFILTR 4;
    PMEVTYPER 24;

    HCR 4;
    HCR2 4;
    HSCTLR 4;
    HCPTR 4;
    HDCR 4;
    HSTR 4;
    HTCR 4;
    VTCR 4;
    HPFAR 4;
    HSR 4;
    HMAIR0 4;
    HMAIR1 4;
    HVBAR 4;
    HTPIDR 4;
    VPIDR 4;
    VMPIDR 4;

    DBGDSCR 4;
    /// The OS Lock (0 or 1), the OS Double Lock.
    DBGOSLOCK 4;
    DBGOSDLR 4;
    DBGCLAIM 4;
    /// Six breakpoints, four watchpoints.
    DBGBVR 24;
    DBGBCR 24;
    DBGWVR 16;
    DBGWCR 16;
    TEECR 4;
    TEEHBR 4;
}

/// Offset of a banked register's copy: 4-byte registers, and 8-byte ones.
pub const fn bank(offset: u32, secure: bool) -> u32 {
    offset + if secure { 4 } else { 0 }
}

pub const fn bank64(offset: u32, secure: bool) -> u32 {
    offset + if secure { 8 } else { 0 }
}

/// Offset of one of DACR's two values.
pub const fn dacr(secure: bool, which: u32) -> u32 {
    DACR + if secure { 8 } else { 0 } + 4 * (which & 1)
}

/// SCTLR bits.
pub mod sctlr {
    pub const M: u32 = 1 << 0;
    pub const A: u32 = 1 << 1;
    pub const C: u32 = 1 << 2;
    pub const I: u32 = 1 << 12;
    /// High vectors.
    pub const V: u32 = 1 << 13;
    pub const WXN: u32 = 1 << 19;
    pub const UWXN: u32 = 1 << 20;
    /// Data is big-endian after an exception; descriptors are.
    pub const EE: u32 = 1 << 25;
    pub const TRE: u32 = 1 << 28;
    /// AP\[0\] is the access flag.
    pub const AFE: u32 = 1 << 29;
    /// Exceptions are taken in Thumb state.
    pub const TE: u32 = 1 << 30;
}

/// SCR bits.
pub mod scr {
    pub const NS: u32 = 1 << 0;
    pub const IRQ: u32 = 1 << 1;
    pub const FIQ: u32 = 1 << 2;
    pub const EA: u32 = 1 << 3;
    pub const FW: u32 = 1 << 4;
    pub const AW: u32 = 1 << 5;
    /// SMC is UNDEFINED.
    pub const SCD: u32 = 1 << 7;
    /// HVC is enabled.
    pub const HCE: u32 = 1 << 8;
}

/// HDFAR and HIFAR are other names of the Secure DFAR and IFAR.
pub const HDFAR: u32 = bank(DFAR, true);
pub const HIFAR: u32 = bank(IFAR, true);

/// HCR bits.
pub mod hcr {
    /// The second stage of translation is on.
    pub const VM: u32 = 1 << 0;
    /// Table walks of the first stage must not reach Device memory.
    pub const PTW: u32 = 1 << 2;
    pub const FMO: u32 = 1 << 3;
    pub const IMO: u32 = 1 << 4;
    pub const AMO: u32 = 1 << 5;
    /// A virtual FIQ, IRQ, asynchronous abort is pending.
    pub const VF: u32 = 1 << 6;
    pub const VI: u32 = 1 << 7;
    pub const VA: u32 = 1 << 8;
    /// TLB maintenance is for all CPUs.
    pub const FB: u32 = 1 << 9;
    /// With the first stage off, memory is Normal.
    pub const DC: u32 = 1 << 12;
    pub const TWI: u32 = 1 << 13;
    pub const TWE: u32 = 1 << 14;
    pub const TID0: u32 = 1 << 15;
    pub const TID1: u32 = 1 << 16;
    pub const TID2: u32 = 1 << 17;
    pub const TID3: u32 = 1 << 18;
    pub const TSC: u32 = 1 << 19;
    pub const TIDCP: u32 = 1 << 20;
    pub const TAC: u32 = 1 << 21;
    pub const TSW: u32 = 1 << 22;
    pub const TPC: u32 = 1 << 23;
    pub const TPU: u32 = 1 << 24;
    pub const TTLB: u32 = 1 << 25;
    pub const TVM: u32 = 1 << 26;
    pub const TGE: u32 = 1 << 27;
    /// HVC is disabled (without EL3).
    pub const HCD: u32 = 1 << 29;
    pub const TRVM: u32 = 1 << 30;
    /// What TGE makes ineffective.
    pub const OFF_BY_TGE: u32 = PTW | VF | VI | VA | FB | TID1 | TID3 | TSC | TAC | TSW | TTLB | TVM | HCD | TRVM | 1 << 1;
}

/// HDCR bits: traps of the performance monitors and of debug registers.
pub mod hdcr {
    /// Event counters of PL1 and PL0; the others are Hyp mode's.
    pub const HPMN: u32 = 0x1f;
    pub const TPMCR: u32 = 1 << 5;
    pub const TPM: u32 = 1 << 6;
    /// Hyp mode's event counters are on.
    pub const HPME: u32 = 1 << 7;
    /// Debug exceptions go to Hyp mode.
    pub const TDE: u32 = 1 << 8;
    pub const TDA: u32 = 1 << 9;
    pub const TDOSA: u32 = 1 << 10;
    pub const TDRA: u32 = 1 << 11;
}

/// HCPTR bits: traps of coprocessors.
pub mod hcptr {
    pub const TCP10: u32 = 1 << 10;
    pub const TCPAC: u32 = 1 << 31;
}

/// TTBCR.EAE: the long-descriptor format.
pub const TTBCR_EAE: u32 = 1 << 31;

#[cfg(test)]
mod tests {
    #[test]
    fn registers_fit() {
        assert!(super::END <= super::LAST + 1, "{}", super::END);
        assert!(super::PM_COUNTERS.is_multiple_of(8));
    }
}
