//! A running machine as its monitors see it.
//!
//! Reference: the texts of QEMU 10.0.2's `info` commands; `info tlb` and `info mem`, which QEMU lacks for Arm, are our own.
//! Not modelled: the translator's counters in `info jit`; aliases in `info mtree`, which
//! shows what is really seen, flat or not.
//!
//! Invariant: vCPU state is looked at only inside of [`Lifecycle::while_stopped`], so that nobody else starts or stops the
//! machine meanwhile.

use crate::blocks::Blocks;
use crate::config::Config;
use crate::engine::Engine;
use crate::lifecycle::Lifecycle;
use crate::monitor::machine::{Cpu, Disk, Machine, Topic};
use crate::network::Network;
use console::Consoles;
use fabric::{AddressSpace, SectionKind};
use spec::{Error, Result};
use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

mod devices;
mod mappings;

pub struct Session {
    pub life: Arc<Lifecycle>,
    pub engine: Arc<Engine>,
    pub consoles: Consoles,
    pub blocks: Arc<Blocks>,
    pub config: Config,
    pub network: Network,
    pub debugging: crate::debugger::Slot,
}

/// Bytes that an instruction may have.
const INSN_MAX: u64 = 4;

impl Session {
    fn jit(&self) -> &Arc<jit::Machine> {
        &self.engine.machine
    }

    /// Calls `f` for the physical pieces of a virtual range, as a paused vCPU sees it, until one is not all there; how many
    /// bytes were.
    pub(crate) fn each_piece(
        &self,
        cpu: usize,
        address: u64,
        len: usize,
        mut f: impl FnMut(u64, Range<usize>) -> usize,
    ) -> usize {
        let mut done = 0;
        for (at, range) in mappings::pieces(address, len) {
            let Some(phys) = self.jit().physical(cpu, at & u64::from(u32::MAX)) else { break };
            let wanted = range.len();
            let got = f(phys, range);
            done += got;
            if got < wanted {
                break;
            }
        }
        done
    }

    /// `info mtree`: what answers where.
    fn map(&self, flat: bool) -> String {
        let mut out = String::new();
        if flat {
            out.push_str("FlatView #0\n AS \"memory\", root: system\n");
            for cpu in 0..self.jit().count() {
                let _ = writeln!(out, " AS \"cpu-memory-{cpu}\", root: system");
            }
            out.push_str(" Root memory region: system\n");
        } else {
            out.push_str("address-space: memory\n  0000000000000000-ffffffffffffffff (prio 0, i/o): system\n");
        }
        let indent = if flat { 2 } else { 4 };
        for s in self.engine.board.space().view().sections() {
            let kind = match &s.kind {
                SectionKind::Nothing => continue,
                SectionKind::Device { .. } => "i/o",
                SectionKind::Ram { writable: true, .. } => "ram",
                SectionKind::Ram { writes: Some(_), .. } => "romd",
                SectionKind::Ram { .. } => "rom",
            };
            let _ = writeln!(out, "{:indent$}{:016x}-{:016x} (prio 0, {kind}): {}", "", s.start, s.end() - 1, s.name);
        }
        out.push('\n');
        out
    }

    fn roms(&self) -> String {
        let line =
            |b: &board::boot::Blob| format!("addr={:016x} size=0x{:06x} mem=ram name=\"{}\"\n", b.base, b.room, b.name);
        self.engine.blobs().iter().map(line).collect()
    }

    fn translator(&self) -> String {
        let one = if self.config.tcg.one_insn_per_tb { "on" } else { "off" };
        let (s, replaced) = self.jit().statistics();
        let n = s.regions.max(1);
        let percent = |part: u64| 100 * part / n;
        let mut out = format!("Accelerator settings:\none-insn-per-tb: {one}\n\nTranslation buffer state:\n");
        let expansion = s.host_bytes as f64 / s.guest_bytes.max(1) as f64;
        let rows = [
            ("gen code size", format!("{}/{}", s.code_bytes, s.code_bytes_max)),
            ("TB count", s.regions.to_string()),
            ("TB avg target size", format!("{} max={} bytes", s.guest_bytes / n, s.guest_bytes_max)),
            ("TB avg host size", format!("{} bytes (expansion ratio: {expansion:.1})", s.host_bytes / n)),
            ("cross page TB count", format!("{} ({}%)", s.cross_page, percent(s.cross_page))),
            (
                "direct jump count",
                format!(
                    "{} ({}%) (2 jumps={} {}%)",
                    s.jumping,
                    percent(s.jumping),
                    s.jumping_twice,
                    percent(s.jumping_twice)
                ),
            ),
            ("\nStatistics:", String::new()),
            ("TB flush count", replaced.to_string()),
            ("TB invalidate count", s.dropped.to_string()),
        ];
        for (name, value) in rows {
            let _ = writeln!(out, "{}", format!("{name:<19} {value}").trim_end());
        }
        out
    }
}

/// Reads memory, and devices by words where they can be; how many bytes there were.
fn read_any(space: &AddressSpace, address: u64, bytes: &mut [u8]) -> usize {
    let mut done = space.read_bytes(address, bytes);
    while done < bytes.len() {
        let at = address.wrapping_add(done as u64);
        let size = if at.is_multiple_of(4) && bytes.len() - done >= 4 { 4 } else { 1 };
        let Some(value) = space.read(at, size) else { break };
        bytes[done..done + usize::from(size)].copy_from_slice(&value.to_le_bytes()[..size.into()]);
        done += usize::from(size);
    }
    done
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
        Ok(self.life.while_stopped(|| self.jit().with_state(cpu, |state| guest.dump(state))))
    }

    fn register(&self, cpu: usize, name: &str) -> Option<u64> {
        let guest = self.jit().guest().clone();
        let number = guest
            .registers()
            .iter()
            .position(|r| r.name == name || name == "sp" && r.name == "r13" || name == "pc" && r.name == "r15")?;
        Some(self.life.while_stopped(|| self.jit().with_state(cpu, |state| guest.read_register(state, number) as u64)))
    }

    fn read_virtual(&self, cpu: usize, address: u64, bytes: &mut [u8]) -> bool {
        let (len, space) = (bytes.len(), self.engine.board.space());
        self.life.while_stopped(|| {
            self.each_piece(cpu, address, len, |phys, range| read_any(space, phys, &mut bytes[range]))
        }) == len
    }

    fn read_physical(&self, address: u64, bytes: &mut [u8]) -> bool {
        read_any(self.engine.board.space(), address, bytes) == bytes.len()
    }

    fn physical(&self, cpu: usize, address: u64) -> Option<u64> {
        self.life.while_stopped(|| self.jit().physical(cpu, address & u64::from(u32::MAX)))
    }

    fn memory_size(&self) -> u64 {
        self.config.memory
    }

    fn disassemble(&self, cpu: usize, address: u64, bytes: &[u8]) -> Option<(usize, String)> {
        let guest = self.jit().guest().clone();
        // Arm or Thumb, as the CPU is now.
        let key = self.life.while_stopped(|| self.jit().with_state(cpu, |state| state.u64_at(ir::state::KEY)));
        let delta = address.wrapping_sub(guest.pc(key)) as i32;
        let code = mappings::Bytes { address, bytes };
        let (text, length) = guest.disassemble(guest.key_at(key, delta, 0), &code);
        Some((length.min(INSN_MAX as u32) as usize, text))
    }

    fn show(&self, topic: &Topic) -> Result<String> {
        match topic {
            Topic::Mtree { flat, .. } => Ok(self.map(*flat)),
            Topic::Roms => Ok(self.roms()),
            Topic::Qtree { brief } => Ok(devices::tree(&self.engine.board, *brief)),
            Topic::Pci => Ok(devices::pci(&self.engine.board.pci.bus)),
            Topic::Jit => Ok(self.translator()),
            Topic::Tlb { cpu } => {
                Ok(self.life.while_stopped(|| mappings::translations(&|at| self.jit().physical(*cpu, at))))
            }
            Topic::Mem { cpu } => Ok(self.life.while_stopped(|| mappings::mapped(&|at| self.jit().physical(*cpu, at)))),
            Topic::Irq | Topic::Pic => {
                let gic = self.engine.board.placed.iter().find(|p| p.name == "gic-dist");
                Ok(gic.map(|p| (p.info)()).unwrap_or_default())
            }
            Topic::Network => Ok(self.network.network()),
            Topic::Usernet => Ok(self.network.usernet()),
        }
    }

    fn blocks(&self) -> Option<&Arc<Blocks>> {
        Some(&self.blocks)
    }

    fn disks(&self) -> Vec<Disk> {
        self.blocks.disks()
    }

    fn network(&self) -> Option<&Network> {
        Some(&self.network)
    }

    fn gdbserver(&self, device: &str) -> Result<()> {
        match self.debugging.get() {
            Some(debugging) => debugging.listen(device),
            None => Err(Error::new("the machine is not built yet")),
        }
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
        [&name[..], "ALL CPUs/TCG"].contains(&comm.trim_end()).then(|| t.file_name().to_str()?.parse().ok())?
    })
}
