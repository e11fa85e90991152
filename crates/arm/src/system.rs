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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// The Security Extensions (EL3): Secure state and Monitor mode.
    pub secure: bool,
    /// The Virtualization Extensions (EL2): Hyp mode.
    pub virtualization: bool,
    pub conduit: Conduit,
    /// Frequency of the generic timers.
    pub timer_hz: u32,
    /// There is a performance monitor.
    pub pmu: bool,
    /// The interrupt controller is reached by system registers (GICv3).
    pub gic_system_registers: bool,
    /// Where the private peripherals are (CBAR).
    pub peripheral_base: u64,
    /// vCPUs in a cluster: MPIDR.Aff0 counts up to this, then Aff1 goes on.
    pub cluster: u32,
    /// Exception vectors are high after reset (SCTLR.V).
    pub high_vectors: bool,
}

impl Default for Options {
    /// What the `virt` board's CPUs are unless told otherwise, without firmware.
    fn default() -> Options {
        Options {
            secure: false,
            virtualization: false,
            conduit: Conduit::None,
            timer_hz: 62_500_000,
            pmu: true,
            gic_system_registers: false,
            peripheral_base: 0x0800_0000,
            cluster: 8,
            high_vectors: false,
        }
    }
}

impl Options {
    /// MPIDR's affinity fields of a vCPU.
    pub fn affinity(&self, cpu: usize) -> u32 {
        let (cpu, cluster) = (cpu as u32, self.cluster.max(1));
        cpu % cluster & 0xff | (cpu / cluster & 0xff) << 8
    }

    /// The vCPU with these affinity fields, of `count`.
    pub fn with_affinity(&self, affinity: u32, count: usize) -> Option<usize> {
        (0..count).find(|&cpu| self.affinity(cpu) == affinity)
    }
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
