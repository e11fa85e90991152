//! A running machine as its monitors see it.
//!
//! Reference: the texts of QEMU 10.0.2's `info` commands.

use crate::config::Config;
use crate::drives::Drive;
use crate::engine::Engine;
use crate::lifecycle::Lifecycle;
use crate::monitor::machine::{Cpu, Disk, Image, Machine, Topic};
use console::Consoles;
use fabric::SectionKind;
use spec::{Error, Result};
use std::fmt::Write;
use std::sync::Arc;

pub struct Session {
    pub life: Arc<Lifecycle>,
    pub engine: Arc<Engine>,
    pub consoles: Consoles,
    pub drives: Vec<Drive>,
    pub config: Config,
}

/// Bytes that an instruction may have.
const INSN_MAX: u64 = 4;

impl Session {
    fn jit(&self) -> &Arc<jit::Machine> {
        &self.engine.machine
    }

    /// Calls `f` with the machine paused, and lets it go on.
    fn paused<T>(&self, f: impl FnOnce() -> T) -> T {
        let running = !self.jit().is_paused();
        if running {
            self.jit().pause();
        }
        let result = f();
        if running && self.life.is_running() {
            self.jit().resume();
        }
        result
    }

    /// `info mtree -f`: what answers where.
    fn flat_view(&self) -> String {
        let mut out = String::from("FlatView #0\n AS \"memory\", root: system\n");
        for cpu in 0..self.jit().count() {
            let _ = writeln!(out, " AS \"cpu-memory-{cpu}\", root: system");
        }
        out.push_str(" Root memory region: system\n");
        for s in self.engine.board.space().view().sections() {
            let kind = match &s.kind {
                SectionKind::Nothing => continue,
                SectionKind::Device { .. } => "i/o",
                SectionKind::Ram { writable: true, .. } => "ram",
                SectionKind::Ram { writes: Some(_), .. } => "romd",
                SectionKind::Ram { .. } => "rom",
            };
            let _ = writeln!(out, "  {:016x}-{:016x} (prio 0, {kind}): {}", s.start, s.end() - 1, s.name);
        }
        out.push('\n');
        out
    }

    fn roms(&self) -> String {
        let line = |b: &board::boot::Blob| format!("addr={:016x} size=0x{:06x} mem=ram name=\"{}\"\n", b.base, b.room, b.name);
        self.engine.blobs().iter().map(line).collect()
    }

    /// Devices of the board with what they say about themselves.
    fn devices(&self) -> String {
        let mut out = String::from("bus: main-system-bus\n  type System\n");
        for p in &self.engine.board.placed {
            let _ = writeln!(out, "  dev: {}\n    mmio {:016x}", p.name, p.base);
            for line in (p.info)().lines() {
                let _ = writeln!(out, "    {line}");
            }
        }
        out
    }

    /// Functions on the PCI buses.
    fn pci(&self) -> String {
        let mut out = String::new();
        for f in self.engine.board.pci.bus.functions() {
            let Some(at) = f.at() else { continue };
            let (id, class) = { let c = f.config(); (c.get32(0), c.get16(0x0a)) };
            let _ = writeln!(out, "  Bus  0, device {:3}, function {}:", at.slot, at.function);
            let _ = writeln!(out, "    Class {class:04x}: PCI device {:04x}:{:04x}", id & 0xffff, id >> 16);
            let _ = writeln!(out, "      id \"{}\"", f.id().unwrap_or(""));
        }
        out
    }
}

impl Machine for Session {
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
        self.config.name.clone()
    }

    fn uuid(&self) -> Option<String> {
        let hex: String = self.config.uuid?.iter().map(|b| format!("{b:02x}")).collect();
        Some(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
    }

    fn cpus(&self) -> Vec<Cpu> {
        let smp = &self.config.smp;
        let process = std::process::id();
        let cpu = |n: u32| Cpu {
            thread_id: thread_id(n).unwrap_or(process.into()),
            path: format!("/machine/unattached/device[{n}]"),
            thread: n % smp.threads,
            core: n / smp.threads % smp.cores,
            cluster: n / (smp.threads * smp.cores) % smp.clusters,
            socket: n / (smp.threads * smp.cores * smp.clusters),
        };
        (0..smp.cpus).map(cpu).collect()
    }

    fn registers(&self, cpu: usize) -> Result<String> {
        let guest = self.jit().guest().clone();
        Ok(self.paused(|| self.jit().with_state(cpu, |state| guest.dump(state))))
    }

    fn register(&self, cpu: usize, name: &str) -> Option<u64> {
        let guest = self.jit().guest().clone();
        let number = guest.registers().iter().position(|r| r.name == name || name == "sp" && r.name == "r13" || name == "pc" && r.name == "r15")?;
        Some(self.paused(|| self.jit().with_state(cpu, |state| guest.read_register(state, number) as u64)))
    }

    fn read_virtual(&self, cpu: usize, address: u64, bytes: &mut [u8]) -> bool {
        let pieces = |address: u64, len: usize| {
            let end = address + len as u64;
            std::iter::successors(Some(address), move |at| Some((at | 0xfff) + 1)).take_while(move |at| *at < end)
        };
        self.paused(|| {
            pieces(address, bytes.len()).all(|at| {
                let len = ((at | 0xfff) + 1).min(address + bytes.len() as u64) - at;
                let from = (at - address) as usize;
                let part = &mut bytes[from..from + len as usize];
                self.jit().physical(cpu, at & u64::from(u32::MAX)).is_some_and(|phys| self.read_physical(phys, part))
            })
        })
    }

    fn read_physical(&self, address: u64, bytes: &mut [u8]) -> bool {
        self.engine.board.space().read_bytes(address, bytes) == bytes.len()
    }

    fn disassemble(&self, cpu: usize, address: u64, bytes: &[u8]) -> Option<(usize, String)> {
        let guest = self.jit().guest().clone();
        // Arm or Thumb, as the CPU is now.
        let key = self.paused(|| self.jit().with_state(cpu, |state| state.u64_at(ir::state::KEY)));
        let pc = guest.pc(key);
        let key = key - pc + address;
        let (text, length) = guest.disassemble(key, &Bytes { address, bytes });
        Some((length.min(INSN_MAX as u32) as usize, text))
    }

    fn show(&self, topic: &Topic) -> Result<String> {
        match topic {
            Topic::Mtree { .. } => Ok(self.flat_view()),
            Topic::Roms => Ok(self.roms()),
            Topic::Qtree { .. } => Ok(self.devices()),
            Topic::Pci => Ok(self.pci()),
            Topic::Irq | Topic::Pic => {
                let gic = self.engine.board.placed.iter().find(|p| p.name == "gic-dist");
                Ok(gic.map(|p| (p.info)()).unwrap_or_default())
            }
            other => Err(Error::new(format!("this machine has nothing to say about '{}'", other.name()))),
        }
    }

    fn disks(&self) -> Vec<Disk> {
        let disk = |d: &Drive| Disk {
            device: d.id.clone(),
            image: Some(Image {
                node: format!("#block-{}", d.id),
                file: d.file.clone(),
                format: d.node.driver().to_owned(),
                backing_file: d.node.backing().map(|b| b.filename()),
                backing_depth: u32::from(d.node.backing().is_some()),
                size: d.node.size(),
                read_only: d.read_only,
                writeback: !d.writethrough,
                ..Image::default()
            }),
            removable: d.cdrom,
            ..Disk::default()
        };
        self.drives.iter().map(disk).collect()
    }

    fn device_models(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The host's number of the thread that runs a vCPU.
fn thread_id(cpu: u32) -> Option<u64> {
    let name = format!("CPU {cpu}/TCG");
    let threads = std::fs::read_dir("/proc/self/task").ok()?;
    threads.flatten().find_map(|t| {
        let comm = std::fs::read_to_string(t.path().join("comm")).ok()?;
        (comm.trim_end() == name).then(|| t.file_name().to_str()?.parse().ok())?
    })
}

/// An instruction's bytes as code.
struct Bytes<'a> {
    address: u64,
    bytes: &'a [u8],
}

impl cpu::Code for Bytes<'_> {
    fn read(&self, addr: u64, buf: &mut [u8]) -> usize {
        let from = addr.wrapping_sub(self.address) as usize;
        let there = self.bytes.get(from..).unwrap_or_default();
        let n = there.len().min(buf.len());
        buf[..n].copy_from_slice(&there[..n]);
        n
    }
}
