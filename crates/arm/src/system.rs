//! The system level: how this CPU is put into a machine.

/// Which instruction carries firmware calls (PSCI).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Conduit {
    #[default]
    None,
    Hvc,
    Smc,
}

/// What a machine chooses about its CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// The Security Extensions (EL3): Secure state and Monitor mode.
    pub secure: bool,
    /// The Virtualization Extensions (EL2): Hyp mode.
    pub virtualization: bool,
    pub conduit: Conduit,
}

/// Translation regimes: the `fl` byte of memory operations, and `cpu::system`'s numbers.
///
/// A machine with Hyp mode has no second set of domains, and one with Secure state tags all its mappings by world.
pub mod regime {
    /// Unprivileged.
    pub const USER: u8 = 0;
    /// PL1.
    pub const KERNEL: u8 = 1;
    /// Added to `USER` or `KERNEL`: the other value of DACR (key bit DOMAINS).
    pub const OTHER_DOMAINS: u8 = 2;
    /// Hyp mode, in machines that have it.
    pub const HYP: u8 = 3;

    /// The regime of data accesses and fetches at a key.
    pub const fn of_key(key: u64) -> u8 {
        use crate::state::{bank::mode, key};
        let domains = if key & key::DOMAINS != 0 { OTHER_DOMAINS } else { 0 };
        match key::mode(key) {
            mode::USR => USER | domains,
            mode::HYP => HYP,
            _ => KERNEL | domains,
        }
    }
}
