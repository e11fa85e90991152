//! The schematic of `virt`: which device is where, and which wire goes to what.

use super::layout::Layout;
use super::options::{Gic, Options};
use super::slots::{self, Slot, gpio, ppi};
use arm::system::SECURE_VIEW;
use console::Port;
use cpu::system::CpuInterface;
use disk::NodeRef;
use fabric::{AddressSpace, Clock, Device, Line, Mmio, MmioTarget, Msi, MsiSink, Ram, Region};
use hw::char::Nobody;
use hw::char::pl011::Pl011;
use hw::gpio::key::Key;
use hw::gpio::pl061::Pl061;
use hw::intc::gic_v2::{Extensions, GicV2};
use hw::intc::gic_v2m::GicV2m;
use hw::intc::gic_v3::GicV3;
use hw::intc::gic_v3_its::Its;
use hw::misc::fw_cfg::FwCfg;
use hw::pci::{Gpex, GpexConfig};
use hw::rtc::pl031::Pl031;
use hw::storage::cfi_flash::CfiFlash;
use hw::virtio::mmio;
use spec::{Error, Result};
use std::sync::Arc;

/// The vCPUs' wires, as the executor has them.
pub trait Processors {
    fn count(&self) -> usize;
    fn input(&self, cpu: usize, number: u32) -> Line;
    fn set_output(&self, cpu: usize, output: usize, line: Line);
    fn set_interface(&self, cpu: usize, interface: Arc<dyn CpuInterface>);
}

/// Inputs of an ARM CPU.
mod input {
    pub const IRQ: u32 = 0;
    pub const FIQ: u32 = 1;
    pub const VIRTUAL_IRQ: u32 = 2;
    pub const VIRTUAL_FIQ: u32 = 3;
}

/// Outputs of an ARM CPU, by number: the private interrupt each of them is.
const OUTPUTS: [u32; 5] = [ppi::PHYSICAL_TIMER, ppi::VIRTUAL_TIMER, ppi::SECURE_TIMER, ppi::HYP_TIMER, ppi::PMU];
/// What the virtual interfaces of a GICv2 take of their slots.
const GIC_HYP_BYTES: u64 = 0x1000;
const GIC_VCPU_BYTES: u64 = 0x2000;
/// INTID of the first private peripheral interrupt, and of the first shared one.
const FIRST_PPI: u32 = 16;
const FIRST_SPI: u32 = 32;

/// What a board is built from.
pub struct Parts<'a> {
    pub options: &'a Options,
    pub layout: &'a Layout,
    pub gic: Gic,
    pub processors: &'a dyn Processors,
    pub space: Arc<AddressSpace>,
    pub clock: Clock,
    /// One port for each UART that is there.
    pub serials: [Option<Port>; 2],
    /// The time of day, in nanoseconds since 1970.
    pub time_ns: Box<dyn Fn() -> u64 + Send>,
    /// What the flashes hold.
    pub flash: [Option<NodeRef>; 2],
    /// Code for the first flash.
    pub bios: Option<(String, Vec<u8>)>,
    pub fw_cfg: FwCfg,
    /// The CPUs' affinity fields.
    pub affinities: Vec<u32>,
    /// Virtio over memory-mapped registers is as in version 0.9.5 (`force-legacy`).
    pub mmio_legacy: bool,
    /// How secure firmware switches off and restarts.
    pub secure_power: [Line; 2],
    /// A kernel starts without firmware: the interrupt controller is the Non-secure world's.
    pub for_kernel: bool,
    /// The main memory, of the layout's size, if somebody made it already.
    pub memory: Option<Ram>,
}

/// Something that is reset with the machine.
pub struct Placed {
    pub name: &'static str,
    pub base: u64,
    pub reset: Box<dyn Fn() + Send + Sync>,
    pub info: Box<dyn Fn() -> String + Send + Sync>,
}

/// The finished board.
pub struct Virt {
    pub ram: Arc<Ram>,
    pub placed: Vec<Placed>,
    pub pci: Gpex,
    /// Where PCI functions send messages.
    pub messages: Arc<dyn MsiSink>,
    /// Virtio transports by address.
    pub mmio: Vec<Arc<mmio::Slot>>,
    /// The power button.
    pub power: Key,
    space: Arc<AddressSpace>,
}

/// The interrupt controller's wires, whichever it is.
enum Interrupts {
    V2(Arc<GicV2>),
    V3(Arc<GicV3>),
}

impl Interrupts {
    /// Shared peripheral interrupt `n`.
    fn spi(&self, n: u32) -> Line {
        match self {
            Interrupts::V2(gic) => gic.spi(n),
            Interrupts::V3(gic) => gic.spi(n),
        }
    }

    fn ppi(&self, cpu: usize, n: u32) -> Line {
        match self {
            Interrupts::V2(gic) => gic.ppi(cpu, FIRST_PPI + n),
            Interrupts::V3(gic) => gic.ppi(cpu, FIRST_PPI + n),
        }
    }
}

impl Virt {
    pub fn build(parts: Parts) -> Result<Virt> {
        let Parts { options, layout, processors, space, clock, .. } = parts;
        let ram = Arc::new(match parts.memory {
            Some(ram) => ram,
            None => memory(layout.ram.size)?,
        });
        assert!(ram.len() >= layout.ram.size, "the layout says how much memory there is");
        space.map(layout.ram.base, layout.ram.size, 0, Region::ram("mach-virt.ram", ram.clone()));
        let mut board = Board { space: space.clone(), placed: Vec::new(), secure: options.secure };
        if options.secure {
            // What only one world has is mapped over this.
            let everything = Region::device("secure view", Arc::new(NonSecure(space.clone())));
            space.map(SECURE_VIEW, slots::RAM_BASE, VIEW_PRIORITY, everything);
        }

        let interrupts = match parts.gic {
            Gic::V2 => board.gic_v2(processors, options, parts.for_kernel),
            Gic::V3 => board.gic_v3(processors, parts.affinities, layout, options.its),
        };
        for cpu in 0..processors.count() {
            for (output, number) in OUTPUTS.into_iter().enumerate() {
                processors.set_output(cpu, output, interrupts.ppi(cpu, number));
            }
        }
        let line = |slot: &Slot| interrupts.spi(slot.spi());

        board.flashes(parts.flash, parts.bios)?;
        let [first, second] = parts.serials;
        board.uart(&slots::UART0, first, line(&slots::UART0));
        if options.secure {
            board.uart(&secure(&slots::UART1), second, line(&slots::UART1));
        } else if second.is_some() {
            board.uart(&slots::UART1, second, line(&slots::UART1));
        }
        board.add(&slots::RTC, "pl031", Pl031::new(&clock, parts.time_ns, line(&slots::RTC)));
        board.add(&slots::FW_CFG, "fwcfg", Mmio::new(parts.fw_cfg));
        let port = Pl061::new(line(&slots::GPIO), Vec::new());
        let power = Key::new(&clock, Pl061::input(&port, gpio::POWER_BUTTON));
        board.add(&slots::GPIO, "pl061", port);
        if options.secure {
            board.secure_world(parts.secure_power, options)?;
        }
        let mmio = board.virtio_mmio(&interrupts, parts.mmio_legacy);
        let messages: Arc<dyn MsiSink> = match &interrupts {
            Interrupts::V2(_) => board.message_frame(&interrupts),
            Interrupts::V3(gic) if options.its => board.translation_service(gic.clone()),
            Interrupts::V3(_) => Arc::new(NoMessages),
        };
        let pci = board.pcie(layout, &interrupts, messages.clone());
        Ok(Virt { ram, placed: board.placed, pci, messages, mmio, power, space })
    }

    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }

    /// Puts all devices in their state at power-on. The vCPUs are paused.
    pub fn reset(&self) {
        self.placed.iter().for_each(|p| (p.reset)());
    }
}

/// Nothing turns messages into interrupts: functions have their pins.
struct NoMessages;

impl MsiSink for NoMessages {
    fn send(&self, _: Msi) {}
}

/// Regions of the Secure view have more than this.
const VIEW_PRIORITY: i32 = -1;

/// A slot that only Secure accesses see.
fn secure(slot: &Slot) -> Slot {
    Slot { base: SECURE_VIEW + slot.base, ..*slot }
}

/// The Non-secure view, for Secure accesses to what both worlds share.
struct NonSecure(Arc<AddressSpace>);

impl MmioTarget for NonSecure {
    fn read(&self, offset: u64, size: u8) -> u64 {
        self.0.read(offset, size).unwrap_or(0)
    }

    fn write(&self, offset: u64, size: u8, value: u64) {
        // Nobody hears a write to nothing.
        let _ = self.0.write(offset, size, value);
    }
}

/// Guest memory, with QEMU's message.
fn memory(bytes: u64) -> Result<Ram> {
    Ram::new(bytes).map_err(|e| Error::new(format!("cannot set up guest memory 'mach-virt.ram': {e}")))
}

/// The board while it is built.
struct Board {
    space: Arc<AddressSpace>,
    placed: Vec<Placed>,
    /// There is a Secure view.
    secure: bool,
}

impl Board {
    fn map(&self, slot: &Slot, region: Region) {
        self.space.map(slot.base, slot.size, 0, region);
    }

    /// Maps a device and notes it for resets and the monitor.
    fn add<D: Device + 'static>(&mut self, slot: &Slot, name: &str, device: Arc<Mmio<D>>) {
        self.map(slot, Region::device(name, device.clone()));
        self.note(slot, device);
    }

    fn note<D: Device + 'static>(&mut self, slot: &Slot, device: Arc<Mmio<D>>) {
        self.place(slot, &device, |d| d.reset(), |d| d.lock().info());
    }

    /// Resets a device with the machine, and has it tell of itself.
    fn place<T: Send + Sync + 'static>(&mut self, slot: &Slot, device: &Arc<T>, reset: fn(&T), info: fn(&T) -> String) {
        let (one, other) = (device.clone(), device.clone());
        let (reset, info) = (Box::new(move || reset(&one)), Box::new(move || info(&other)));
        self.placed.push(Placed { name: slot.name, base: slot.base, reset, info });
    }

    fn gic_v2(&mut self, processors: &dyn Processors, options: &Options, for_kernel: bool) -> Interrupts {
        let count = processors.count();
        let has = Extensions { security: options.secure, virtualization: options.virtualization, for_kernel };
        let gic = GicV2::with(count, slots::SPI_COUNT as usize, has);
        for cpu in 0..count {
            gic.connect(cpu, processors.input(cpu, input::IRQ), processors.input(cpu, input::FIQ));
        }
        if options.virtualization {
            for cpu in 0..count {
                gic.connect_virtual(cpu, processors.input(cpu, input::VIRTUAL_IRQ), processors.input(cpu, input::VIRTUAL_FIQ));
            }
            let [control, guest] = gic.virtual_interface();
            self.space.map(slots::GIC_HYP.base, GIC_HYP_BYTES, 0, Region::device("gic_viface", control));
            self.space.map(slots::GIC_VCPU.base, GIC_VCPU_BYTES, 0, Region::device("gic_vcpu", guest));
        }
        self.map(&slots::GIC_DIST, Region::device("gic_dist", gic.distributor_of(false)));
        self.map(&slots::GIC_CPU, Region::device("gic_cpu", gic.cpu_interface_of(false)));
        if self.secure {
            self.map(&secure(&slots::GIC_DIST), Region::device("gic_dist", gic.distributor_of(true)));
            self.map(&secure(&slots::GIC_CPU), Region::device("gic_cpu", gic.cpu_interface_of(true)));
        }
        self.place(&slots::GIC_DIST, &gic, GicV2::reset, GicV2::info);
        Interrupts::V2(gic)
    }

    fn gic_v3(&mut self, processors: &dyn Processors, affinities: Vec<u32>, layout: &Layout, its: bool) -> Interrupts {
        let count = processors.count();
        let tables = its.then(|| self.space.clone());
        let gic = GicV3::new(affinities, slots::SPI_COUNT as usize, tables);
        for cpu in 0..count {
            gic.connect(cpu, processors.input(cpu, input::IRQ), processors.input(cpu, input::FIQ));
            gic.connect_virtual(cpu, processors.input(cpu, input::VIRTUAL_IRQ), processors.input(cpu, input::VIRTUAL_FIQ));
            processors.set_interface(cpu, gic.cpu_interface(cpu));
        }
        self.map(&slots::GIC_DIST, Region::device("gicv3_dist", gic.distributor()));
        let first = count.min((slots::GIC_REDIST.size / slots::REDIST_BYTES) as usize);
        self.map(&slots::GIC_REDIST, Region::device("gicv3_redist_region[0]", gic.redistributors(0, first)));
        if let Some(range) = layout.redist2 {
            let rest = gic.redistributors(first, count - first);
            self.space.map(range.base, range.size, 0, Region::device("gicv3_redist_region[1]", rest));
        }
        self.place(&slots::GIC_DIST, &gic, GicV3::reset, GicV3::info);
        Interrupts::V3(gic)
    }

    fn translation_service(&mut self, gic: Arc<GicV3>) -> Arc<Its> {
        let slot = &slots::GIC_ITS;
        let its = Its::new(gic, self.space.clone(), slot.base);
        self.map(slot, Region::device("gicv3-its", its.clone() as Arc<dyn MmioTarget>));
        self.place(slot, &its, Its::reset, Its::info);
        its
    }

    fn message_frame(&mut self, interrupts: &Interrupts) -> Arc<GicV2m> {
        let slot = &slots::GIC_V2M;
        let lines = (0..slot.spis).map(|n| interrupts.spi(slot.spi() + n)).collect();
        let frame = GicV2m::new(slot.base, FIRST_SPI + slot.spi(), lines);
        self.map(slot, Region::device("gicv2m", frame.clone() as Arc<dyn MmioTarget>));
        frame
    }

    fn uart(&mut self, slot: &Slot, port: Option<Port>, irq: Line) {
        let device = match port {
            Some(port) => Pl011::with_port(port, irq),
            None => Mmio::new(Pl011::new(Box::new(Nobody), irq)),
        };
        self.add(slot, "pl011", device);
    }

    fn flashes(&mut self, nodes: [Option<NodeRef>; 2], bios: Option<(String, Vec<u8>)>) -> Result<()> {
        let first = if self.secure { secure(&slots::FLASH0) } else { slots::FLASH0 };
        let banks = [(&first, "virt.flash0", bios), (&slots::FLASH1, "virt.flash1", None)];
        for (number, ((slot, name, code), node)) in banks.into_iter().zip(nodes).enumerate() {
            if let Some(node) = node.as_ref().filter(|n| n.size() != slot.size) {
                let (wanted, given) = (slot.size, node.size());
                let sentence = format!("cfi.pflash01 device '/machine/{name}' requires {wanted} bytes");
                return Err(Error::new(format!("{sentence}, pflash{number} block backend provides {given} bytes")));
            }
            let flash = CfiFlash::install(&self.space, name, slot.base, slot.size, node)?;
            if let Some((file, code)) = code {
                if code.len() as u64 > slot.size {
                    return Err(Error::new(format!("Could not load ROM image '{file}'")));
                }
                flash.lock().ram().write(0, &code);
            }
            self.note(slot, flash);
        }
        Ok(())
    }

    /// Memory and power switches of the Secure world.
    fn secure_world(&mut self, power: [Line; 2], options: &Options) -> Result<()> {
        let ram = Arc::new(memory(slots::SECURE_RAM.size)?);
        self.map(&secure(&slots::SECURE_RAM), Region::ram("virt.secure-ram", ram));
        if !options.version.has_secure_gpio() {
            return Ok(());
        }
        let [off, restart] = power;
        let mut outputs = vec![Line::nowhere(); 2];
        outputs[gpio::SECURE_POWEROFF as usize] = off;
        outputs[gpio::SECURE_RESTART as usize] = restart;
        self.add(&secure(&slots::SECURE_GPIO), "pl061", Pl061::new(Line::nowhere(), outputs));
        Ok(())
    }

    fn virtio_mmio(&mut self, interrupts: &Interrupts, legacy: bool) -> Vec<Arc<mmio::Slot>> {
        let slot = &slots::VIRTIO_MMIO;
        let transports: Vec<Arc<mmio::Slot>> = (0..slots::VIRTIO_MMIO_COUNT)
            .map(|n| mmio::Slot::new(&format!("virtio-mmio-bus.{n}"), legacy, interrupts.spi(slot.spi() + n)))
            .collect();
        for (n, transport) in transports.iter().enumerate() {
            let base = slot.base + n as u64 * slots::VIRTIO_MMIO_STEP;
            self.space.map(base, slots::VIRTIO_MMIO_STEP, 0, Region::device("virtio-mmio", transport.clone()));
        }
        let all = transports.clone();
        let reset = Box::new(move || all.iter().for_each(|t| t.reset()));
        self.placed.push(Placed { name: slot.name, base: slot.base, reset, info: Box::new(String::new) });
        transports
    }

    fn pcie(&mut self, layout: &Layout, interrupts: &Interrupts, messages: Arc<dyn MsiSink>) -> Gpex {
        let (mmio, pio, ecam) = (&slots::PCIE_MMIO, &slots::PCIE_PIO, &layout.ecam);
        let window = std::iter::once(mmio.base..mmio.end());
        let high = layout.mmio64.map(|m| m.base..m.base + m.size);
        let pci = Gpex::new(GpexConfig {
            space: self.space.clone(),
            ecam: ecam.base..ecam.base + ecam.size,
            memory: window.chain(high).collect(),
            io: pio.base..pio.end(),
            lines: [0, 1, 2, 3].map(|n| interrupts.spi(mmio.spi() + n)),
            messages,
        });
        let bus = pci.bus.clone();
        self.placed.push(Placed { name: "pcie", base: ecam.base, reset: Box::new(move || bus.reset()), info: Box::new(String::new) });
        pci
    }
}
