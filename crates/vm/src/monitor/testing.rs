//! A machine without hardware, for tests of the monitors.

use std::sync::{Arc, Mutex};

use console::Consoles;
use spec::error::Result;

use super::Machine;
use super::machine::{Cpu, Disk, Image, Topic};
use crate::config::Actions;
use crate::lifecycle::{Lifecycle, Processors};

struct NoCpus;

impl Processors for NoCpus {
    fn pause(&self) {}
    fn resume(&self) {}
    fn reset(&self) {}
}

/// Where its 64 KiB of memory are.
const RAM: u64 = 0x4000_0000;
const RAM_SIZE: usize = 0x1_0000;

/// What QEMU's `virt` has at the beginning of memory before the guest runs.
#[rustfmt::skip]
const BEGINNING: [u8; 16] = [0xd0, 0x0d, 0xfe, 0xed, 0, 0x10, 0, 0, 0, 0, 0, 0x40, 0, 0, 0x1b, 0x84];

pub(crate) struct Fake {
    life: Arc<Lifecycle>,
    consoles: Consoles,
    /// What happened in the machine's life.
    pub events: Arc<Mutex<Vec<String>>>,
    pub blocks: Option<Arc<crate::blocks::Blocks>>,
}

impl Fake {
    pub fn new() -> Arc<Fake> {
        Fake::with(|_| None)
    }

    /// A machine with disks.
    pub fn with(blocks: impl FnOnce(&Arc<Lifecycle>) -> Option<Arc<crate::blocks::Blocks>>) -> Arc<Fake> {
        let life = Lifecycle::new(Arc::new(NoCpus), Actions::default());
        let events: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = events.clone();
        life.on_event(move |event| heard.lock().unwrap().push(format!("{event:?}")));
        let blocks = blocks(&life);
        Arc::new(Fake { life, consoles: Consoles::new().unwrap(), events, blocks })
    }

    pub fn happened(&self) -> Vec<String> {
        std::mem::take(&mut *self.events.lock().unwrap())
    }
}

impl Machine for Fake {
    fn life(&self) -> &Arc<Lifecycle> {
        &self.life
    }

    fn consoles(&self) -> &Consoles {
        &self.consoles
    }

    fn arch(&self) -> &'static str {
        "arm"
    }

    fn name(&self) -> Option<String> {
        Some("fake".into())
    }

    fn cpus(&self) -> Vec<Cpu> {
        let cpu = |core: u32| Cpu {
            thread_id: 100 + u64::from(core),
            path: format!("/machine/unattached/device[{core}]"),
            socket: 0,
            cluster: 0,
            core,
            thread: 0,
        };
        vec![cpu(0), cpu(1)]
    }

    fn registers(&self, cpu: usize) -> Result<String> {
        Ok(format!("R00=0000000{cpu}\n"))
    }

    fn register(&self, cpu: usize, name: &str) -> Option<u64> {
        (name == "pc").then_some(RAM + cpu as u64)
    }

    fn read_virtual(&self, _cpu: usize, address: u64, bytes: &mut [u8]) -> bool {
        self.read_physical(address, bytes)
    }

    fn read_physical(&self, address: u64, bytes: &mut [u8]) -> bool {
        let Some(start) = address.checked_sub(RAM).map(|at| at as usize) else { return false };
        if start.checked_add(bytes.len()).is_none_or(|end| end > RAM_SIZE) {
            return false;
        }
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = BEGINNING.get(start + i).copied().unwrap_or(0);
        }
        true
    }

    fn physical(&self, _cpu: usize, address: u64) -> Option<u64> {
        (address >> 28 == 4).then_some(address + 0x1000)
    }

    fn memory_size(&self) -> u64 {
        RAM_SIZE as u64
    }

    fn disassemble(&self, _cpu: usize, address: u64, _bytes: &[u8]) -> Option<(usize, String)> {
        (address == RAM).then(|| (4, "first".into()))
    }

    fn show(&self, topic: &Topic) -> Result<String> {
        Ok(format!("{topic:?}\n"))
    }

    fn blocks(&self) -> Option<&Arc<crate::blocks::Blocks>> {
        self.blocks.as_ref()
    }

    fn disks(&self) -> Vec<Disk> {
        if let Some(blocks) = &self.blocks {
            return blocks.disks();
        }
        let image = Image {
            node: "#block123".into(),
            file: "disk.img".into(),
            format: "raw".into(),
            size: 1 << 20,
            writeback: true,
            ..Image::default()
        };
        let attached_to = Some("/machine/peripheral-anon/device[0]/virtio-backend".into());
        let full = Disk { device: "virtio0".into(), attached_to, image: Some(image), ..Disk::default() };
        vec![full, Disk { device: "floppy0".into(), removable: true, ..Disk::default() }]
    }
}
