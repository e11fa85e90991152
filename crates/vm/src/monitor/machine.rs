//! What a monitor asks of a machine. What a machine does not say has an answer here that says so.

use std::sync::Arc;

use console::Consoles;
use spec::error::{Error, Result};

use crate::blocks::Blocks;
use crate::lifecycle::Lifecycle;
use crate::network::Network;

/// A virtual CPU, as monitors list them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// The host thread that runs it.
    pub thread_id: u64,
    /// `/machine/unattached/device[0]`.
    pub path: String,
    pub socket: u32,
    pub cluster: u32,
    pub core: u32,
    pub thread: u32,
}

/// A drive and what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// `virtio0`, `pflash0`, or what `id=` says.
    pub device: String,
    /// `/machine/peripheral-anon/device[0]/virtio-backend`.
    pub attached_to: Option<String>,
    pub removable: bool,
    pub locked: bool,
    pub tray_open: bool,
    /// Nothing, for an empty drive.
    pub image: Option<Image>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    pub node: String,
    pub file: String,
    pub format: String,
    pub backing_file: Option<String>,
    pub backing_depth: u32,
    pub size: u64,
    pub read_only: bool,
    /// Writes count as done before they are on the medium.
    pub writeback: bool,
    /// The host's page cache is not used.
    pub direct: bool,
    pub ignores_flush: bool,
    /// The group whose limits these are, by their names.
    pub group: Option<String>,
    pub limits: Vec<(String, u64)>,
    /// `image` of `query-block`.
    pub about: serde_json::Value,
}

/// What a machine can show as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topic {
    /// The memory tree; `flat`: what is really seen.
    Mtree {
        flat: bool,
        disabled: bool,
    },
    /// The device tree; `brief`: without properties.
    Qtree {
        brief: bool,
    },
    Network,
    Usernet,
    Pci,
    /// Firmware, kernels and what else was put into memory.
    Roms,
    /// The translator's counters.
    Jit,
    /// Cached translations of a CPU.
    Tlb {
        cpu: usize,
    },
    /// Active mappings of a CPU.
    Mem {
        cpu: usize,
    },
    Irq,
    Pic,
}

impl Topic {
    /// The word after `info`.
    pub fn name(&self) -> &'static str {
        match self {
            Topic::Mtree { .. } => "mtree",
            Topic::Qtree { .. } => "qtree",
            Topic::Network => "network",
            Topic::Usernet => "usernet",
            Topic::Pci => "pci",
            Topic::Roms => "roms",
            Topic::Jit => "jit",
            Topic::Tlb { .. } => "tlb",
            Topic::Mem { .. } => "mem",
            Topic::Irq => "irq",
            Topic::Pic => "pic",
        }
    }
}

/// A machine as its monitors see it. Methods may be called on any thread but a vCPU's.
pub trait Machine: Send + Sync {
    fn life(&self) -> &Arc<Lifecycle>;

    fn consoles(&self) -> &Consoles;

    /// `arm`, as `query-target` names it.
    fn arch(&self) -> &'static str;

    /// `-name`.
    fn name(&self) -> Option<String> {
        None
    }

    /// `-uuid`, in its usual form.
    fn uuid(&self) -> Option<String> {
        None
    }

    /// Whether KVM runs the vCPUs, and whether it could.
    fn kvm(&self) -> Kvm {
        Kvm::NotBuilt
    }

    fn cpus(&self) -> Vec<Cpu>;

    /// The disks of a machine that has any.
    fn blocks(&self) -> Option<&Arc<Blocks>> {
        None
    }

    /// Hexadecimal digits of a virtual address.
    fn address_digits(&self) -> usize {
        8
    }

    /// All registers of a CPU as text, without a heading. The CPU is stopped for it.
    fn registers(&self, cpu: usize) -> Result<String>;

    /// One register, by the name that follows a `$`.
    fn register(&self, cpu: usize, name: &str) -> Option<u64>;

    /// Reads memory, and devices word by word, as a CPU sees them; false if any of it cannot be read.
    fn read_virtual(&self, cpu: usize, address: u64, bytes: &mut [u8]) -> bool;

    /// The same by physical addresses.
    fn read_physical(&self, address: u64, bytes: &mut [u8]) -> bool;

    /// Where a virtual address leads.
    fn physical(&self, cpu: usize, address: u64) -> Option<u64>;

    /// Bytes of the board's main memory.
    fn memory_size(&self) -> u64;

    /// The instruction at `address`: its length and its text.
    fn disassemble(&self, cpu: usize, address: u64, bytes: &[u8]) -> Option<(usize, String)> {
        let _ = (cpu, address, bytes);
        None
    }

    fn show(&self, topic: &Topic) -> Result<String> {
        Err(Error::new(format!("this machine has nothing to say about '{}'", topic.name())))
    }

    fn disks(&self) -> Vec<Disk> {
        Vec::new()
    }

    /// Back ends and cards of the network.
    fn network(&self) -> Option<&Network> {
        None
    }

    /// Names of all device models that `device_add` could make; for completion.
    fn device_models(&self) -> Vec<String> {
        Vec::new()
    }

    fn device_add(&self, options: &str) -> Result<()> {
        let model = options.split(',').next().unwrap_or_default();
        Err(Error::new(format!("device '{model}' cannot be added while the machine exists")))
    }

    fn device_del(&self, id: &str) -> Result<()> {
        Err(Error::new(format!("Device '{id}' not found")))
    }

    /// Waits for debuggers on a character device, or no more (`none`).
    fn gdbserver(&self, device: &str) -> Result<()> {
        let _ = device;
        Err(Error::new("this machine has no debugger's stub"))
    }

    fn nmi(&self) -> Result<()> {
        Err(Error::new("machine does not provide NMIs"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kvm {
    NotBuilt,
    Disabled,
    Enabled,
}
