//! Causes of memory faults, and how DFSR, IFSR and PAR say them.
//!
//! **Reference.** Arm ARM (DDI 0406C) B3.13.3 (short format), B3.13.4 (long format), tables B3-23 and B3-24.

/// Why an access is not possible.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    Alignment,
    Debug,
    Translation,
    AccessFlag,
    Domain,
    Permission,
    /// An output address too large for the implementation (ARMv8).
    AddressSize,
    /// Nothing answers at a descriptor's address.
    ExternalOnWalk,
    /// Nothing answers at the access's own address.
    External,
}

/// A fault of a translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    pub cause: Cause,
    /// Of the table entry, from 1.
    pub level: u8,
    /// In the short format.
    pub domain: u8,
    /// Of the second stage, or of the first stage's walk in the second.
    pub second: Option<Second>,
}

/// What the second stage of translation was asked for when it faulted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Second {
    /// The intermediate physical address.
    pub ipa: u64,
    /// It is that of a descriptor of the first stage.
    pub on_walk: bool,
}

/// A fault status as DFSR and IFSR hold it (bit 9: the long format), plus `STAGE_2`. What only the exception knows (WnR, CM)
/// is 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Syndrome(pub u32);

impl Syndrome {
    /// The long format.
    pub const LPAE: u32 = 1 << 9;
    /// Our own mark: the fault goes to Hyp mode.
    pub const STAGE_2: u32 = 1 << 31;

    /// What the status register shows.
    pub fn status(self) -> u32 {
        self.0 & 0xffff
    }

    pub fn is_long(self) -> bool {
        self.0 & Syndrome::LPAE != 0
    }

    pub fn is_stage_2(self) -> bool {
        self.0 & Syndrome::STAGE_2 != 0
    }
}

impl Fault {
    /// A fault that no walk found.
    pub fn new(cause: Cause) -> Fault {
        Fault { cause, level: 1, domain: 0, second: None }
    }

    pub fn syndrome(self, long: bool) -> Syndrome {
        let own = if self.second.is_some() { Syndrome::STAGE_2 } else { 0 };
        Syndrome(own | if long { self.long_status() } else { self.short_status() })
    }

    /// FS\[4\] at bit 10, FS\[3:0\], the domain at 7:4.
    fn short_status(self) -> u32 {
        let first = self.level < 2;
        let fs = match self.cause {
            Cause::Alignment => 0b0_0001,
            Cause::Debug => 0b0_0010,
            Cause::AccessFlag if first => 0b0_0011,
            Cause::AccessFlag => 0b0_0110,
            Cause::Translation | Cause::AddressSize if first => 0b0_0101,
            Cause::Translation | Cause::AddressSize => 0b0_0111,
            Cause::External => 0b0_1000,
            Cause::Domain if first => 0b0_1001,
            Cause::Domain => 0b0_1011,
            Cause::ExternalOnWalk if first => 0b0_1100,
            Cause::ExternalOnWalk => 0b0_1110,
            Cause::Permission if first => 0b0_1101,
            Cause::Permission => 0b0_1111,
        };
        fs & 15 | (fs >> 4) << 10 | (self.domain as u32) << 4
    }

    /// STATUS\[5:0\] and LPAE.
    fn long_status(self) -> u32 {
        let level = self.level as u32 & 3;
        Syndrome::LPAE
            | match self.cause {
                Cause::AddressSize => level,
                Cause::Translation => 0b00_0100 | level,
                Cause::AccessFlag => 0b00_1000 | level,
                Cause::Permission => 0b00_1100 | level,
                Cause::External => 0b01_0000,
                Cause::ExternalOnWalk => 0b01_0100 | level,
                Cause::Alignment => 0b10_0001,
                Cause::Debug => 0b10_0010,
                // There are no domains.
                Cause::Domain => 0b11_1101,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_the_manuals() {
        let f = Fault { cause: Cause::Permission, level: 2, domain: 5, second: None };
        assert_eq!(f.syndrome(false).0, 0x5f);
        assert_eq!(f.syndrome(true).0, 0x20e);
        assert_eq!(Fault::new(Cause::Alignment).syndrome(false).status(), 1);
        assert_eq!(Fault::new(Cause::Alignment).syndrome(true).status(), 0x221);
        let f = Fault { cause: Cause::Translation, level: 3, domain: 0, second: Some(Second { ipa: 0, on_walk: false }) };
        assert!(f.syndrome(true).is_stage_2());
        assert_eq!(f.syndrome(true).status(), 0x207);
    }
}
