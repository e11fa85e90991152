//! From the options to a machine that could run.

use crate::config::{Config, Given};
use crate::cpu::Cpu;
use crate::devices;
use crate::drives::{Drives, Interface};
use crate::engine::{Engine, Wires};
use crate::firmware;
use crate::lifecycle::{Cause, Lifecycle};
use crate::lines::Lines;
use crate::network::Ends;
use arm::Arm;
use arm::system::Conduit;
use board::arm::virt::options::Version;
use board::arm::virt::{self, Gic, Layout, Parts, Virt};
use board::boot::guest::GuestLoader;
use board::boot::linux::{self, Files};
use board::boot::loader::Loader;
use board::fdt::Tree;
use disk::NodeRef;
use fabric::{AddressSpace, Clock, Line, LineSink};
use hw::registry::Devices;
use jit::machine::Machine;
use spec::{Context, Error, Result};
use std::sync::{Arc, OnceLock, Weak};

/// Everything that belongs to a machine.
pub struct Assembled {
    pub engine: Arc<Engine>,
    pub lines: Lines,
    pub drives: Drives,
    pub devices: Devices,
    pub ends: Ends,
    pub tree: Tree,
    pub power: Arc<PowerPins>,
}

/// The generic timers, on every 32-bit model and version of the machine.
const TIMER_HZ: u32 = 62_500_000;
/// CPUs in a cluster: what one SGI register write can reach.
const CLUSTER_V2: u32 = 8;
const CLUSTER_V3: u32 = 16;
/// Physical addresses of these CPUs: the long-descriptor format has 40 bits.
const ADDRESS_BITS: u32 = 40;

/// The choices that follow from the options, before anything is built.
pub struct Choices {
    pub options: virt::Options,
    pub layout: Layout,
    pub gic: Gic,
    pub cpu: Cpu,
    pub cpu_options: arm::system::Options,
    /// Code in flash runs first.
    pub firmware: bool,
}

impl Choices {
    pub fn new(config: &Config) -> Result<Choices> {
        let version = config.machine_type.as_deref().and_then(Version::of);
        let mut options = virt::Options::of_version(version.is_some(), version.unwrap_or(Version::LATEST));
        for (key, value) in config.machine.iter() {
            options.set(key, value)?;
        }
        let cpu = Cpu::parse(config.cpu.as_deref().expect("the options give a default"), &config.globals)?;
        let gic = options.gic_for(config.smp.cpus)?;
        let flash = config.drives.iter().any(|d| d.settings.get("if") == Some("pflash"));
        let firmware = config.bios.is_some() || flash || options.pflash[0].is_some();
        let layout = Layout::new(&options, config.memory, config.smp.cpus, ADDRESS_BITS, firmware)?;
        // Secure firmware answers PSCI calls itself; without a kernel there is only firmware.
        let conduit = match (options.secure && (firmware || config.kernel.is_none()), options.virtualization) {
            (true, _) => Conduit::None,
            (false, true) => Conduit::Smc,
            (false, false) => Conduit::Hvc,
        };
        let cpu_options = arm::system::Options {
            secure: options.secure,
            virtualization: options.virtualization,
            conduit,
            timer_hz: cpu.timer_hz.unwrap_or(TIMER_HZ),
            pmu: cpu.pmu && options.version.has_pmu(),
            gic_system_registers: gic == Gic::V3,
            peripheral_base: virt::slots::GIC_DIST.base,
            cluster: if gic == Gic::V2 { CLUSTER_V2 } else { CLUSTER_V3 },
            high_vectors: cpu.high_vectors,
            secure_view_below: if options.secure { virt::slots::RAM_BASE } else { 0 },
        };
        Ok(Choices { options, layout, gic, cpu, cpu_options, firmware })
    }

    /// The device tree, without what the boot loader adds.
    pub fn tree(&self, config: &Config) -> Tree {
        let smp = &config.smp;
        let mut source = Random::new(config.seed);
        let seeds = self.options.dtb_randomness.then(|| (source.bytes(), source.bytes()));
        let machine = virt::tree::Machine {
            options: &self.options,
            layout: &self.layout,
            gic: self.gic,
            cpu: self.cpu.model,
            cpu_options: &self.cpu_options,
            cpus: smp.cpus,
            sockets: smp.sockets,
            clusters: smp.clusters,
            cores: smp.cores,
            threads: smp.threads,
            uart1: config.serials.get(1).is_some_and(|s| s.device != "none"),
            psci: self.cpu_options.conduit != Conduit::None,
            seeds,
        };
        machine.tree()
    }
}

/// Random bytes for the guest: the host's, or with `-seed` always the same.
struct Random(Option<u64>);

impl Random {
    fn new(seed: Option<u64>) -> Random {
        Random(seed)
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        if let Some(state) = &mut self.0 {
            // SplitMix64.
            for byte in &mut bytes {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let z = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                *byte = ((z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) >> 56) as u8;
            }
            return bytes;
        }
        let got = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
        assert_eq!(got, N, "the host's random number generator gives few bytes at once");
        bytes
    }
}

/// Builds everything; the machine is paused and not switched on yet.
pub fn assemble(config: &Config) -> Result<Assembled> {
    let choices = Choices::new(config)?;
    let mut lines = Lines::open(config)?;
    crate::devices::define_for_disks(config)?;
    let mut drives = Drives::open(&config.drives, &config.blockdevs, config.snapshot)?;
    let plan = boot_plan(config, &choices)?;
    if let Some(warning) = &plan.warning {
        eprintln!("{}: warning: {warning}", config.program);
    }
    let machine = executor(config, &choices)?;
    let power = Arc::<PowerPins>::default();
    let board = build_board(config, &choices, &machine, &mut lines, &mut drives, &power)?;
    let mut blobs = plan.blobs;
    let mut starts = Vec::new();
    for given in config.devices.iter().filter(|d| d.settings.get("driver") == Some("loader")) {
        loader(given, &mut blobs, &mut starts).map_err(|e| Error::new(format!("{}: {e}", given.option)))?;
    }
    let (devices, ends) = devices::plug(config, &board, machine.clock(), &mut drives, &mut lines)?;
    board::boot::check(&blobs)?;
    let engine = Engine::new(machine, board, blobs, plan.start, starts);
    Ok(Assembled { engine, lines, drives, devices, ends, tree: plan.tree, power })
}

/// Kernel, initrd and device tree in their places.
pub fn boot_plan(config: &Config, choices: &Choices) -> Result<linux::Plan> {
    let mut tree = match &config.dtb {
        Some(path) => {
            let blob = board::boot::read(path).context(|| format!("Couldn't open dtb file {path}"))?;
            Tree::parse(&blob).context(|| format!("Couldn't open dtb file {path}"))?
        }
        None => choices.tree(config),
    };
    let read = |path: &Option<String>, what: &str| -> Result<Option<(String, Vec<u8>)>> {
        let Some(path) = path else { return Ok(None) };
        let bytes = std::fs::read(path).map_err(|e| Error::new(format!("could not load {what} '{path}': {}", disk::node::strerror(&e))))?;
        Ok(Some((path.clone(), bytes)))
    };
    let files = Files { kernel: read(&config.kernel, "kernel")?, initrd: read(&config.initrd, "initrd")?, append: config.append.clone() };
    let ram = &choices.layout.ram;
    let mut guests = Vec::new();
    for given in config.devices.iter().filter(|d| d.settings.get("driver") == Some("guest-loader")) {
        guests.push(guest(given, &mut tree).map_err(|e| Error::new(format!("{}: {e}", given.option)))?);
    }
    let mut plan = linux::plan(tree, files, ram.base, ram.size, choices.firmware)?;
    plan.blobs.extend(guests);
    Ok(plan)
}

/// `-device guest-loader`.
fn guest(given: &Given, tree: &mut Tree) -> Result<board::boot::Blob> {
    let mut s = given.settings.clone();
    s.take("driver");
    s.take("id");
    let loader = GuestLoader {
        addr: s.take_number("addr")?,
        kernel: s.take("kernel"),
        initrd: s.take("initrd"),
        bootargs: s.take("bootargs"),
    };
    if let Some((key, _)) = s.iter().next() {
        return Err(Error::new(format!("Property 'guest-loader.{key}' not found")));
    }
    let file = loader.file()?;
    let bytes = std::fs::read(file).map_err(|_| Error::new(format!("Cannot load specified image {file}")))?;
    loader.load(bytes, tree)
}

fn executor(config: &Config, choices: &Choices) -> Result<Arc<Machine>> {
    let guest = Arc::new(Arm::machine(choices.cpu.model, choices.cpu_options));
    let tcg = &config.tcg;
    let mut engine = jit::engine::Config { one_insn_per_tb: tcg.one_insn_per_tb, one_thread: tcg.single_thread, icount: config.icount, ..Default::default() };
    if config.tcg.cache_bytes > 0 {
        engine.tb_size = usize::try_from(config.tcg.cache_bytes).map_err(|_| Error::new("-accel tcg: tb-size is too large"))?;
    }
    let clock = if config.icount.is_some() { Clock::manual() } else { Clock::new() };
    Machine::new(guest, AddressSpace::new(), clock, config.smp.cpus as usize, engine)
}

fn build_board(config: &Config, choices: &Choices, machine: &Arc<Machine>, lines: &mut Lines, drives: &mut Drives, power: &Arc<PowerPins>) -> Result<Virt> {
    let mut serials = std::mem::take(&mut lines.serials).into_iter();
    let ports = [serials.next().flatten(), serials.next().flatten()];
    if serials.flatten().next().is_some() {
        return Err(Error::new("this machine has two serial ports"));
    }
    let flash = flash_contents(choices, drives)?;
    let bios = firmware::find_bios(config)?;
    if bios.is_some() && flash[0].is_some() {
        return Err(Error::new("The contents of the first flash device may be specified with -bios or with -drive if=pflash... but you cannot use both options at once"));
    }
    let modern = config.globals.iter().any(|g| {
        let is = |key, value| g.settings.get(key) == Some(value);
        is("driver", "virtio-mmio") && is("property", "force-legacy") && ["off", "false", "no"].iter().any(|v| is("value", v))
    });
    Virt::build(Parts {
        options: &choices.options,
        layout: &choices.layout,
        gic: choices.gic,
        processors: &Wires(machine),
        space: machine.space().clone(),
        clock: machine.clock().clone(),
        serials: ports,
        time_ns: crate::time::source(config.rtc, machine.clock().clone()),
        flash,
        bios,
        fw_cfg: firmware::fw_cfg(config, choices, machine.space().clone())?,
        affinities: (0..machine.count()).map(|n| choices.cpu_options.affinity(n)).collect(),
        mmio_legacy: !modern,
        secure_power: [0, 1].map(|pin| Line::new(power.clone(), pin)),
        for_kernel: config.kernel.is_some() && !choices.firmware,
        memory: crate::memory::main(config)?,
    })
}

/// `-drive if=pflash`, or `-M pflash0=NODE`.
fn flash_contents(choices: &Choices, drives: &mut Drives) -> Result<[Option<NodeRef>; 2]> {
    let mut flash = [None, None];
    for drive in drives.of(Interface::Pflash) {
        let place = flash.get_mut(drive.index as usize);
        *place.ok_or_else(|| Error::new(format!("{}: this machine has two flashes", drive.option)))? = Some(drive.node);
    }
    for (place, name) in flash.iter_mut().zip(&choices.options.pflash) {
        let Some(name) = name else { continue };
        let missing = || Error::new(format!("Property 'cfi.pflash01.drive' can't find value '{name}'"));
        *place = Some(drives.take(name)?.ok_or_else(missing)?.node);
    }
    Ok(flash)
}

/// How secure firmware ends the machine: the pins of its GPIO port.
#[derive(Default)]
pub struct PowerPins(OnceLock<Weak<Lifecycle>>);

impl PowerPins {
    pub fn connect(&self, life: &Arc<Lifecycle>) {
        let _ = self.0.set(Arc::downgrade(life));
    }
}

impl LineSink for PowerPins {
    fn set(&self, pin: u32, level: bool) {
        let life = self.0.get().and_then(Weak::upgrade);
        match (life, level, pin) {
            (Some(life), true, 0) => life.guest_shutdown(),
            (Some(life), true, _) => life.request_reset(Cause::GuestReset),
            _ => {}
        }
    }
}

fn loader(given: &Given, blobs: &mut Vec<board::boot::Blob>, starts: &mut Vec<(u32, u64)>) -> Result<()> {
    let mut s = given.settings.clone();
    s.take("driver");
    s.take("id");
    let loader = Loader {
        file: s.take("file"),
        addr: s.take_number("addr")?,
        data: s.take_number("data")?,
        data_len: s.take_number("data-len")?,
        data_be: s.take_bool("data-be")?.unwrap_or(false),
        cpu_num: s.take_number("cpu-num")?.map(|n| n as u32),
        force_raw: s.take_bool("force-raw")?.unwrap_or(false),
    };
    if let Some((key, _)) = s.iter().next() {
        return Err(Error::new(format!("Property 'loader.{key}' not found")));
    }
    let contents = match &loader.file {
        Some(path) => Some(std::fs::read(path).map_err(|_| Error::new(format!("Cannot load specified image {path}")))?),
        None => None,
    };
    let loaded = loader.load(contents)?;
    blobs.extend(loaded.blobs);
    starts.extend(loaded.start);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::tests::config;

    fn tree(args: &str) -> Tree {
        let config = config(&format!("-M virt {args}"));
        Choices::new(&config).unwrap().tree(&config)
    }

    #[test]
    fn seeds_make_trees_alike() {
        let seed = |args: &str| tree(args).get("/chosen", "rng-seed");
        assert_eq!(seed("-seed 1"), seed("-seed 1"));
        assert_ne!(seed("-seed 1"), seed("-seed 2"));
        assert_ne!(seed(""), seed(""));
        assert_eq!(seed("-M dtb-randomness=off"), None);
    }

    #[test]
    fn a_second_serial_port_is_there_if_given() {
        let has = |args: &str| tree(args).get("/pl011@9040000", "reg").is_some();
        assert!(!has("") && !has("-serial null -serial none") && has("-serial null -serial null") && has("-M secure=on"));
    }

    #[test]
    fn who_answers_firmware_calls() {
        for (args, conduit) in [
            ("", Conduit::Hvc),
            ("-M virtualization=on", Conduit::Smc),
            ("-M secure=on", Conduit::None),
            ("-M secure=on -kernel k", Conduit::Hvc),
            ("-M secure=on -kernel k -bios b", Conduit::None),
        ] {
            assert_eq!(Choices::new(&config(&format!("-M virt {args}"))).unwrap().cpu_options.conduit, conduit, "{args}");
        }
    }

    #[test]
    fn bad_machine_options_are_named() {
        let refused = |args: &str| Choices::new(&config(&format!("-M virt {args}"))).err().unwrap().to_string();
        assert_eq!(refused("-M foo=1"), "Property 'virt-10.0-machine.foo' not found");
        assert_eq!(refused("-M highmem=off -m 4G"), "Addressing limited to 32 bits, but memory exceeds it by 1073741824 bytes");
    }
}
