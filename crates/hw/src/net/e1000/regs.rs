//! Registers: 317453 chapter 13, 317694 chapter 10. Names are the manuals'.

use super::Kind;

macro_rules! regs {
    ($($(#[$doc:meta])* $name:ident = $value:expr;)*) => { $($(#[$doc])* pub const $name: u32 = $value;)* };
}

regs! {
    CTRL = 0x0000;
    CTRL_GIO_MASTER_DISABLE = 1 << 2;
    CTRL_RST = 1 << 26;
    CTRL_VME = 1 << 30;
    CTRL_PHY_RST = 1 << 31;
    STATUS = 0x0008;
    STATUS_FD = 1 << 0;
    STATUS_LU = 1 << 1;
    STATUS_SPEED_1000 = 2 << 6;
    STATUS_ASDV_1000 = 2 << 8;
    STATUS_GIO_MASTER = 1 << 19;
    EECD = 0x0010;
    EECD_SK = 1 << 0;
    EECD_CS = 1 << 1;
    EECD_DI = 1 << 2;
    EECD_DO = 1 << 3;
    EECD_REQ = 1 << 6;
    EECD_GNT = 1 << 7;
    EECD_PRES = 1 << 8;
    EECD_AUTO_RD = 1 << 9;
    EECD_WRITABLE = 0x77;
    EERD = 0x0014;
    EERD_START = 1 << 0;
    EERD_DONE = 1 << 4;
    EERD_DONE_82574 = 1 << 1;
    CTRL_EXT = 0x0018;
    /// Interrupts are masked by IAM when their message is sent.
    CTRL_EXT_EIAME = 1 << 24;
    /// They are when ICR is read.
    CTRL_EXT_IAME = 1 << 27;
    MDIC = 0x0020;
    MDIC_READY = 1 << 28;
    MDIC_INTERRUPT = 1 << 29;
    MDIC_ERROR = 1 << 30;
    VET = 0x0038;
    ICR = 0x00c0;
    ICR_TXDW = 1 << 0;
    ICR_TXQE = 1 << 1;
    ICR_LSC = 1 << 2;
    ICR_RXDMT0 = 1 << 4;
    ICR_RXO = 1 << 6;
    ICR_RXT0 = 1 << 7;
    ICR_MDAC = 1 << 9;
    ICR_RXQ0 = 1 << 20;
    ICR_TXQ0 = 1 << 22;
    ICR_TXQ1 = 1 << 23;
    ICR_OTHER = 1 << 24;
    ICR_INT_ASSERTED = 1 << 31;
    ITR = 0x00c4;
    ICS = 0x00c8;
    IMS = 0x00d0;
    IMC = 0x00d8;
    EIAC = 0x00dc;
    IAM = 0x00e0;
    IVAR = 0x00e4;
    EITR = 0x00e8;
    RCTL = 0x0100;
    RCTL_EN = 1 << 1;
    RCTL_SBP = 1 << 2;
    RCTL_UPE = 1 << 3;
    RCTL_MPE = 1 << 4;
    RCTL_LPE = 1 << 5;
    RCTL_BAM = 1 << 15;
    RCTL_VFE = 1 << 18;
    RCTL_CFIEN = 1 << 19;
    RCTL_CFI = 1 << 20;
    RCTL_BSEX = 1 << 25;
    RCTL_SECRC = 1 << 26;
    TCTL = 0x0400;
    TCTL_EN = 1 << 1;
    TCTL_PSP = 1 << 3;
    EEMNGCTL = 0x1010;
    EEMNGCTL_DONE = 3 << 18;
    RDBAL = 0x2800;
    RDBAH = 0x2804;
    RDLEN = 0x2808;
    RDH = 0x2810;
    RDT = 0x2818;
    TDBAL = 0x3800;
    TDLEN = 0x3808;
    TDH = 0x3810;
    TDT = 0x3818;
    TDT1 = 0x3918;
    /// From one transmit queue's registers to the next one's.
    TX_QUEUE = 0x100;
    STATISTICS = 0x4000;
    STATISTICS_LAST = 0x4127;
    MPC = 0x4010;
    GPRC = 0x4074;
    BPRC = 0x4078;
    MPRC = 0x407c;
    GPTC = 0x4080;
    GORCL = 0x4088;
    GOTCL = 0x4090;
    ROC = 0x40ac;
    TORL = 0x40c0;
    TOTL = 0x40c8;
    TPR = 0x40d0;
    TPT = 0x40d4;
    MPTC = 0x40f0;
    BPTC = 0x40f4;
    TSCTC = 0x40f8;
    RXCSUM = 0x5000;
    RXCSUM_IPOFL = 1 << 8;
    RXCSUM_TUOFL = 1 << 9;
    RFCTL = 0x5008;
    RFCTL_EXSTEN = 1 << 15;
    MTA = 0x5200;
    RA = 0x5400;
    RAH_VALID = 1 << 31;
    VFTA = 0x5600;
    SWSM = 0x5b50;
    SWSM_SMBI = 1 << 0;
    SYSTIML = 0xb600;
    SYSTIMH = 0xb604;
    TIMINCA = 0xb608;
}

/// Pairs of receive addresses.
pub const ADDRESSES: u32 = 16;

/// First and last address of plain registers, and the bits that software may write.
const PLAIN: &[(u32, u32, u32)] = &[
    (CTRL_EXT, CTRL_EXT, !0),
    (0x0028, 0x0028, !0),     // FCAL
    (0x002c, 0x0030, 0xffff), // FCAH, FCT
    (VET, VET, 0xffff),
    (ITR, ITR, 0xffff),
    (RCTL, RCTL, !0),
    (0x0170, 0x0170, 0xffff), // FCTTV
    (0x0178, 0x0178, !0),     // TXCW
    (TCTL, TCTL, !0),
    (0x0410, 0x0410, !0),     // TIPG
    (0x0458, 0x0458, 0xffff), // AIT
    (0x0e00, 0x0e00, !0),     // LEDCTL
    (0x1000, 0x1000, 0xffff), // PBA
    (0x2160, 0x2168, !7),     // FCRTL, FCRTH
    (RDBAL, RDBAL, !15),
    (RDBAH, RDBAH, !0),
    (RDLEN, RDLEN, 0xfff80),
    (RDH, RDH, 0xffff),
    (RDT, RDT, 0xffff),
    (0x2820, 0x282c, !0),     // RDTR, RXDCTL, RADV
    (0x2c00, 0x2c00, 0xfff),  // RSRPD
    (0x3000, 0x3000, !0),     // TXDMAC
    (TDBAL, TDBAL, !15),
    (0x3804, 0x3804, !0),     // TDBAH
    (TDLEN, TDLEN, 0xfff80),
    (TDH, TDH, 0xffff),
    (TDT, TDT, 0xffff),
    (0x3820, 0x3830, !0),     // TIDV, TXDCTL, TADV, TSPMT
    (0x2410, 0x2430, 0x1fff), // receive FIFO
    (0x3410, 0x3430, 0x1fff), // transmit FIFO
    (RXCSUM, RXCSUM, !0),
    (MTA, 0x53fc, !0),
    (RA, 0x547c, !0),
    (VFTA, 0x57fc, !0),
    (0x5800, 0x5820, !0),     // WUC, WUFC, WUS, MANC
    (0x5838, 0x588c, !0),     // IPAV, IP4AT, IP6AT
    (0x5f00, 0x5f40, !0),     // FFLT
    (0x9000, 0x93fc, !0),     // FFMT
    (0x9800, 0x9bfc, !0),     // FFVT
    (0x1_0000, 0x1_fffc, !0), // PBM
];

/// What only the 82574 has.
const PLAIN_82574: &[(u32, u32, u32)] = &[
    (EIAC, EIAC, 0x01f0_0000),
    (IAM, IAM, !0),
    (IVAR, IVAR, 0x800f_ffff),
    (EITR, EITR + 16, 0xffff),
    (0x0f00, 0x0f10, !0), // EXTCNF_CTRL, EXTCNF_SIZE, PHY_CTRL
    (0x1008, 0x100c, !0), // PBS, PBECCSTS
    (0x2900, 0x292c, !0), // the second receive queue
    (0x3840, 0x3840, !0), // TARC0
    (0x3900, 0x3900, !15),
    (0x3904, 0x3904, !0),
    (0x3908, 0x3908, 0xfff80),
    (0x3910, 0x3910, 0xffff),
    (TDT1, TDT1, 0xffff),
    (0x3928, 0x3940, !0),     // TXDCTL1, TARC1
    (RFCTL, 0x501c, !0),
    (0x5818, 0x5818, !0),     // MRQC
    (0x5860, 0x5870, !0),     // MANC2H
    (0x5b00, 0x5b38, !0),     // GCR, GSCL, FACTPS
    (SWSM, 0x5b64, !0),       // SWSM, FWSM
    (0x5c00, 0x5cff, !0),     // RETA, RSSRK
    (SYSTIML, 0xb640, !0),
];

/// The bits of a register that software may write; `None`: there is no such register.
pub fn writable(at: u32, kind: Kind) -> Option<u32> {
    let more = if kind == Kind::I82574 { PLAIN_82574 } else { &[] };
    PLAIN.iter().chain(more).find(|(first, last, _)| (*first..=*last).contains(&at)).map(|row| row.2)
}

/// What registers hold after a reset, if it is not zero.
pub fn defaults(kind: Kind) -> &'static [(u32, u32)] {
    match kind {
        Kind::I82540 => &[(CTRL, 0x0000_0241), (0x1000, 0x0010_0030), (0x0e00, 0x0706_0302), (0x0410, 0x0060_200a)],
        Kind::I82574 => &[
            (CTRL, 0x0014_0241),
            (0x1000, 0x0014_0014),
            (0x0e00, 0x0706_0302),
            (0x0410, 0x0060_2006),
            (RXCSUM, RXCSUM_IPOFL | RXCSUM_TUOFL),
            (VET, 0x8100),
            // The 82574's flash is there, its firmware is not.
            (0x5b30, 0x2000_0000),
        ],
    }
}
