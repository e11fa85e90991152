//! The schematic of `virt`: which device is where, and which wire goes to what.

use super::layout::Layout;
use super::options::{Gic, Options};
use super::slots::{self, Slot, ppi};
use console::Port;
use cpu::system::CpuInterface;
use fabric::{AddressSpace, Clock, Device, Line, Mmio, MmioTarget, MsiSink, Ram, Region};
use hw::char::Nobody;
use hw::char::pl011::Pl011;
use hw::intc::gic_v2::GicV2;
use hw::intc::gic_v2m::GicV2m;
use hw::pci::{Gpex, GpexConfig};
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
}

/// Outputs of an ARM CPU, by number: the private interrupt each of them is.
const OUTPUTS: [u32; 5] = [ppi::PHYSICAL_TIMER, ppi::VIRTUAL_TIMER, ppi::SECURE_TIMER, ppi::HYP_TIMER, ppi::PMU];
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
    space: Arc<AddressSpace>,
}

/// The interrupt controller's wires, whichever it is.
struct Interrupts {
    gic: Arc<GicV2>,
}

impl Interrupts {
    /// Shared peripheral interrupt `n`.
    fn spi(&self, n: u32) -> Line {
        self.gic.spi(n)
    }

    fn ppi(&self, cpu: usize, n: u32) -> Line {
        self.gic.ppi(cpu, FIRST_PPI + n)
    }
}

impl Virt {
    pub fn build(parts: Parts) -> Result<Virt> {
        let Parts { options, layout, gic, processors, space, clock: _, serials } = parts;
        let ram = Arc::new(memory(layout.ram.size)?);
        space.map(layout.ram.base, layout.ram.size, 0, Region::ram("mach-virt.ram", ram.clone()));
        let mut board = Board { space: space.clone(), placed: Vec::new() };

        let interrupts = match gic {
            Gic::V2 => board.gic_v2(processors),
            Gic::V3 => return Err(Error::new("gic-version=3 is not supported yet")),
        };
        for cpu in 0..processors.count() {
            for (output, number) in OUTPUTS.into_iter().enumerate() {
                processors.set_output(cpu, output, interrupts.ppi(cpu, number));
            }
        }

        let [first, second] = serials;
        board.uart(&slots::UART0, first, &interrupts);
        if second.is_some() || options.secure {
            board.uart(&slots::UART1, second, &interrupts);
        }
        if options.secure {
            let ram = Arc::new(memory(slots::SECURE_RAM.size)?);
            board.map(&slots::SECURE_RAM, Region::ram("virt.secure-ram", ram));
        }

        let messages: Arc<dyn MsiSink> = board.message_frame(&interrupts);
        let pci = pcie(&space, layout, &interrupts, messages.clone());
        let bus = pci.bus.clone();
        board.placed.push(Placed { name: "pcie", base: layout.ecam.base, reset: Box::new(move || bus.reset()), info: Box::new(String::new) });
        Ok(Virt { ram, placed: board.placed, pci, messages, space })
    }

    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }

    /// Puts all devices in their state at power-on. The vCPUs are paused.
    pub fn reset(&self) {
        self.placed.iter().for_each(|p| (p.reset)());
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
}

impl Board {
    fn map(&self, slot: &Slot, region: Region) {
        self.space.map(slot.base, slot.size, 0, region);
    }

    /// Maps a device and notes it for resets and the monitor.
    fn add<D: Device + 'static>(&mut self, slot: &Slot, name: &str, device: Arc<Mmio<D>>) {
        self.map(slot, Region::device(name, device.clone()));
        let info = device.clone();
        self.placed.push(Placed {
            name: slot.name,
            base: slot.base,
            reset: Box::new(move || device.reset()),
            info: Box::new(move || info.lock().info()),
        });
    }

    fn gic_v2(&mut self, processors: &dyn Processors) -> Interrupts {
        let count = processors.count();
        let gic = GicV2::new(count, slots::SPI_COUNT as usize);
        for cpu in 0..count {
            gic.connect(cpu, processors.input(cpu, input::IRQ), processors.input(cpu, input::FIQ));
        }
        self.map(&slots::GIC_DIST, Region::device("gic_dist", gic.distributor()));
        self.map(&slots::GIC_CPU, Region::device("gic_cpu", gic.cpu_interface()));
        let (reset, info) = (gic.clone(), gic.clone());
        self.placed.push(Placed {
            name: slots::GIC_DIST.name,
            base: slots::GIC_DIST.base,
            reset: Box::new(move || reset.reset()),
            info: Box::new(move || info.info()),
        });
        Interrupts { gic }
    }

    fn message_frame(&mut self, interrupts: &Interrupts) -> Arc<GicV2m> {
        let slot = &slots::GIC_V2M;
        let lines = (0..slot.spis).map(|n| interrupts.spi(slot.spi() + n)).collect();
        let frame = GicV2m::new(slot.base, FIRST_SPI + slot.spi(), lines);
        self.map(slot, Region::device("gicv2m", frame.clone() as Arc<dyn MmioTarget>));
        frame
    }

    fn uart(&mut self, slot: &Slot, port: Option<Port>, interrupts: &Interrupts) {
        let irq = interrupts.spi(slot.spi());
        let device = match port {
            Some(port) => Pl011::with_port(port, irq),
            None => Mmio::new(Pl011::new(Box::new(Nobody), irq)),
        };
        self.add(slot, "pl011", device);
    }
}

fn pcie(space: &Arc<AddressSpace>, layout: &Layout, interrupts: &Interrupts, messages: Arc<dyn MsiSink>) -> Gpex {
    let (mmio, pio, ecam) = (&slots::PCIE_MMIO, &slots::PCIE_PIO, &layout.ecam);
    let window = std::iter::once(mmio.base..mmio.end());
    let high = layout.mmio64.map(|m| m.base..m.base + m.size);
    Gpex::new(GpexConfig {
        space: space.clone(),
        ecam: ecam.base..ecam.base + ecam.size,
        memory: window.chain(high).collect(),
        io: pio.base..pio.end(),
        lines: [0, 1, 2, 3].map(|n| interrupts.spi(mmio.spi() + n)),
        messages,
    })
}
