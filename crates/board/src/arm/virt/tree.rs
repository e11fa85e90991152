//! The device tree of `virt`.
//!
//! Reference: the bindings in Linux `Documentation/devicetree/bindings`; the trees QEMU 10.0 writes (`-M virt,dumpdtb=`),
//! whose nodes, order and handles these are.

use super::layout::Layout;
use super::options::{Gic, Options};
use super::slots::{self, Slot, gpio, ppi};
use crate::fdt::{Node, Tree, wide};
use arm::Features;
use std::iter::once;

/// What the tree describes.
pub struct Machine<'a> {
    pub options: &'a Options,
    pub layout: &'a Layout,
    pub gic: Gic,
    pub cpu: &'static arm::Model,
    pub cpu_options: &'a arm::system::Options,
    pub cpus: u32,
    pub sockets: u32,
    pub clusters: u32,
    pub cores: u32,
    pub threads: u32,
    /// There is a second serial port for the guest.
    pub uart1: bool,
    /// Nothing in the guest's own firmware answers PSCI calls: we do.
    pub psci: bool,
    /// Random bytes for the guest: `rng-seed`, `kaslr-seed`.
    pub seeds: Option<([u8; 32], [u8; 8])>,
}

const KEY_POWER: u32 = 0x74;
/// Bus clock of the PrimeCells.
const APB_HZ: u32 = 24_000_000;
/// Functions and versions of PSCI 0.1, which old kernels look up.
const PSCI_FUNCTIONS: [(&str, u32); 4] = [("cpu_suspend", 0x8400_0001), ("cpu_off", 0x8400_0002), ("cpu_on", 0x8400_0003), ("migrate", 0x8400_0005)];
/// First cell of an interrupt specifier.
const SPI: u32 = 0;
const PPI: u32 = 1;
/// Last cell of an interrupt specifier.
const EDGE: u32 = 1;
const LEVEL: u32 = 4;

/// Handles that nodes refer to one another by.
struct Handles {
    clock: u32,
    first_cpu: u32,
    gic: u32,
    msi: u32,
    gpio: u32,
    secure_gpio: u32,
}

impl Machine<'_> {
    fn handles(&self) -> Handles {
        let clock = self.options.phandle_start;
        let gic = clock + 1 + if self.options.version.has_cpu_map() { self.cpus } else { 0 };
        let gpio = gic + 1 + u32::from(self.has_msi());
        Handles { clock, first_cpu: clock + 1, gic, msi: gic + 1, gpio, secure_gpio: gpio + 1 }
    }

    /// Whether something turns PCI messages into interrupts.
    pub fn has_msi(&self) -> bool {
        self.gic == Gic::V2 || self.options.its
    }

    fn ppi_flags(&self) -> u32 {
        let everyone = ((1u32 << self.cpus.min(8)) - 1) << 8;
        let trigger = if self.options.version.has_edge_timers() { EDGE } else { LEVEL };
        trigger | if self.gic == Gic::V2 { everyone } else { 0 }
    }

    /// The whole tree.
    pub fn tree(&self) -> Tree {
        let h = self.handles();
        let secure = self.options.secure;
        let compatible = self.options.compatible.as_deref().unwrap_or("linux,dummy-virt");
        let ram = &self.layout.ram;
        let mut nodes = Vec::new();
        nodes.extend(self.psci.then(|| self.psci()));
        nodes.push(Node::at("memory", ram.base).reg(&[(ram.base, ram.size)]).text("device_type", "memory"));
        nodes.push(platform_bus(&h));
        nodes.push(at(&slots::FW_CFG, "fw-cfg").flag("dma-coherent").text("compatible", "qemu,fw-cfg-mmio"));
        nodes.extend(virtio_mmio());
        if secure && self.options.version.has_secure_gpio() {
            nodes.extend(secure_gpio(&h));
        }
        nodes.push(gpio_keys(&h));
        nodes.push(pl061(&slots::GPIO, Some(slots::GPIO.spi()), h.gpio, &h));
        nodes.push(self.pcie(&h));
        nodes.push(primecell(&slots::RTC, "pl031", &h));
        if secure {
            nodes.push(secure_only(at(&slots::SECURE_RAM, "secram").text("device_type", "memory")));
        }
        nodes.extend(self.uarts(&h));
        nodes.extend(self.pmu());
        nodes.push(self.interrupt_controller(&h));
        nodes.extend(self.flashes());
        nodes.push(self.cpus(&h));
        nodes.push(self.timer());
        nodes.push(
            Node::new("apb-pclk").cell("phandle", h.clock).text("clock-output-names", "clk24mhz").cell("clock-frequency", APB_HZ)
                .cell("#clock-cells", 0).text("compatible", "fixed-clock"),
        );
        nodes.push(self.aliases());
        if secure {
            nodes.push(Node::new("secure-chosen").text("stdout-path", &path("pl011", &slots::UART1)));
        }
        nodes.push(self.chosen());
        let root = Node::new("root").cell("interrupt-parent", h.gic).flag("dma-coherent").text("model", "linux,dummy-virt");
        Tree::new(root.cell("#size-cells", 2).cell("#address-cells", 2).text("compatible", compatible).children(nodes))
    }

    fn psci(&self) -> Node {
        let method = if self.options.virtualization { "smc" } else { "hvc" };
        let node = Node::new("psci").text("method", method).texts("compatible", &["arm,psci-1.0", "arm,psci-0.2", "arm,psci"]);
        PSCI_FUNCTIONS.into_iter().fold(node, |n, (name, function)| n.cell(name, function))
    }

    fn uarts(&self, h: &Handles) -> Vec<Node> {
        let uart = |slot: &Slot| {
            let node = at(slot, "pl011").texts("clock-names", &["uartclk", "apb_pclk"]).cells("clocks", &[h.clock, h.clock]);
            node.cells("interrupts", &[SPI, slot.spi(), LEVEL]).texts("compatible", &["arm,pl011", "arm,primecell"])
        };
        let first = uart(&slots::UART0);
        if self.options.secure {
            return vec![secure_only(uart(&slots::UART1)), first];
        }
        once(first).chain(self.uart1.then(|| uart(&slots::UART1))).collect()
    }

    fn pmu(&self) -> Option<Node> {
        let node = self.cpu_options.pmu.then(|| Node::new("pmu"))?;
        if !self.cpu.features.has(Features::V8) {
            return Some(node);
        }
        Some(node.cells("interrupts", &[PPI, ppi::PMU, self.ppi_flags()]).text("compatible", "arm,armv8-pmuv3"))
    }

    fn interrupt_controller(&self, h: &Handles) -> Node {
        let mut ranges = vec![(slots::GIC_DIST.base, slots::GIC_DIST.size)];
        let node = Node::at("intc", slots::GIC_DIST.base).cell("phandle", h.gic).flag("ranges").cell("#size-cells", 2);
        let node = node.cell("#address-cells", 2).flag("interrupt-controller").cell("#interrupt-cells", 3);
        let maintenance = [PPI, ppi::MAINTENANCE, LEVEL];
        let node = if self.options.virtualization { node.cells("interrupts", &maintenance) } else { node };
        match self.gic {
            Gic::V2 => {
                ranges.push((slots::GIC_CPU.base, slots::GIC_CPU.size));
                if self.options.virtualization {
                    ranges.extend([&slots::GIC_HYP, &slots::GIC_VCPU].map(|s| (s.base, s.size)));
                }
                let frame = at(&slots::GIC_V2M, "v2m").cell("phandle", h.msi).flag("msi-controller");
                node.reg(&ranges).text("compatible", "arm,cortex-a15-gic").child(frame.text("compatible", "arm,gic-v2m-frame"))
            }
            Gic::V3 => {
                ranges.push((slots::GIC_REDIST.base, slots::GIC_REDIST.size));
                ranges.extend(self.layout.redist2.map(|r| (r.base, r.size)));
                let node = node.cell("#redistributor-regions", ranges.len() as u32 - 1).reg(&ranges).text("compatible", "arm,gic-v3");
                let its = || at(&slots::GIC_ITS, "its").cell("phandle", h.msi).flag("msi-controller").cell("#msi-cells", 1);
                node.maybe(self.options.its.then(its), |n, its| n.child(its.text("compatible", "arm,gic-v3-its")))
            }
        }
    }

    fn flashes(&self) -> Vec<Node> {
        let (f0, f1) = (&slots::FLASH0, &slots::FLASH1);
        let bank = |name: &str, slots: &[&Slot]| {
            let node = Node::at(name, slots[0].base).cell("bank-width", 4).text("compatible", "cfi-flash");
            node.reg(&slots.iter().map(|s| (s.base, s.size)).collect::<Vec<_>>())
        };
        if self.options.secure {
            return vec![bank("flash", &[f1]), secure_only(bank("secflash", &[f0]))];
        }
        vec![bank("flash", &[f0, f1])]
    }

    fn cpus(&self, h: &Handles) -> Node {
        let has_map = self.options.version.has_cpu_map();
        // Handles were given from the last CPU to the first.
        let handle = |cpu: u32| h.first_cpu + (self.cpus - 1 - cpu);
        let compatible = match self.cpu.name {
            "max" => "arm,cortex-a57".to_owned(),
            name => format!("arm,{name}"),
        };
        let cpu = |n: u32| {
            // QEMU names them in decimal.
            let node = Node::new(format!("cpu@{n}")).maybe(has_map.then(|| handle(n)), |n, h| n.cell("phandle", h)).cell("reg", self.cpu_options.affinity(n as usize));
            // With a single CPU there is none to start.
            let node = node.maybe((self.cpus > 1).then_some("psci"), |n, method| n.text("enable-method", method));
            node.text("compatible", &compatible).text("device_type", "cpu")
        };
        let map = has_map.then(|| Node::new("cpu-map").children(self.sockets_map(&handle)));
        let node = Node::new("cpus").cell("#size-cells", 0).cell("#address-cells", 1).children(map);
        node.children((0..self.cpus).map(cpu))
    }

    /// Sockets of clusters of cores of threads, as far as there are CPUs.
    fn sockets_map(&self, handle: &dyn Fn(u32) -> u32) -> Vec<Node> {
        let per_core = self.threads;
        let per_cluster = per_core * self.cores;
        let per_socket = per_cluster * self.clusters;
        let parts = |from: u32, to: u32, step: u32| (from..to.min(self.cpus)).step_by(step as usize).enumerate();
        let core = |(n, first): (usize, u32)| {
            let node = Node::new(format!("core{n}"));
            if per_core == 1 {
                return node.cell("cpu", handle(first));
            }
            let threads = parts(first, first + per_core, 1).map(|(n, cpu)| Node::new(format!("thread{n}")).cell("cpu", handle(cpu)));
            node.children(threads)
        };
        let cluster = |(n, first): (usize, u32)| Node::new(format!("cluster{n}")).children(parts(first, first + per_cluster, per_core).map(core));
        let socket = |(n, first): (usize, u32)| Node::new(format!("socket{n}")).children(parts(first, first + per_socket, per_cluster).map(cluster));
        parts(0, self.cpus, per_socket).map(socket).collect()
    }

    fn timer(&self) -> Node {
        let numbers = [ppi::SECURE_TIMER, ppi::PHYSICAL_TIMER, ppi::VIRTUAL_TIMER, ppi::HYP_TIMER];
        let interrupts: Vec<u32> = numbers.into_iter().flat_map(|n| [PPI, n, self.ppi_flags()]).collect();
        let node = Node::new("timer").cells("interrupts", &interrupts).flag("always-on");
        let v8: &[&str] = &["arm,armv8-timer", "arm,armv7-timer"];
        node.texts("compatible", if self.cpu.features.has(Features::V8) { v8 } else { &v8[1..] })
    }

    fn pcie(&self, h: &Handles) -> Node {
        let (mmio, pio, ecam) = (&slots::PCIE_MMIO, &slots::PCIE_PIO, &self.layout.ecam);
        /// First cell of a PCI address: its space.
        const IO: u32 = 0x0100_0000;
        const MEM32: u32 = 0x0200_0000;
        const MEM64: u32 = 0x0300_0000;
        let window = |space: u32, pci: u64, base: u64, size: u64| {
            once(space).chain(wide(pci)).chain(wide(base)).chain(wide(size)).collect::<Vec<u32>>()
        };
        let mut ranges = window(IO, 0, pio.base, pio.size);
        ranges.extend(window(MEM32, mmio.base, mmio.base, mmio.size));
        ranges.extend(self.layout.mmio64.iter().flat_map(|m| window(MEM64, m.base, m.base, m.size)));
        let node = Node::at("pcie", mmio.base).cells("interrupt-map-mask", &[3 << 11, 0, 0, 7]).cells("interrupt-map", &interrupt_map(h));
        let node = node.cell("#interrupt-cells", 1).cells("ranges", &ranges).reg(&[(ecam.base, ecam.size)]);
        let node = node.maybe(self.has_msi().then_some(h.msi), |n, msi| n.cells("msi-map", &[0, msi, 0, 0x1_0000]));
        let node = node.flag("dma-coherent").cells("bus-range", &[0, self.layout.buses() - 1]).cell("linux,pci-domain", 0);
        node.cell("#size-cells", 2).cell("#address-cells", 3).text("device_type", "pci").text("compatible", "pci-host-ecam-generic")
    }

    fn aliases(&self) -> Node {
        let node = Node::new("aliases").text("serial0", &path("pl011", &slots::UART0));
        let second = (self.uart1 || self.options.secure).then(|| path("pl011", &slots::UART1));
        node.maybe(second, |n, path| n.text("serial1", &path))
    }

    fn chosen(&self) -> Node {
        let node = Node::new("chosen").text("stdout-path", &path("pl011", &slots::UART0));
        node.maybe(self.seeds, |n, (rng, kaslr)| n.bytes("rng-seed", &rng).bytes("kaslr-seed", &kaslr))
    }
}

fn at(slot: &Slot, name: &str) -> Node {
    Node::at(name, slot.base).reg(&[(slot.base, slot.size)])
}

fn path(name: &str, slot: &Slot) -> String {
    format!("/{name}@{:x}", slot.base)
}

/// Nothing for the non-secure world.
fn secure_only(node: Node) -> Node {
    node.text("secure-status", "okay").text("status", "disabled")
}

fn platform_bus(h: &Handles) -> Node {
    let bus = &slots::PLATFORM_BUS;
    let node = Node::at("platform-bus", bus.base).cell("interrupt-parent", h.gic);
    let [high, low] = wide(bus.base);
    let node = node.cells("ranges", &[0, high, low, bus.size as u32]).cell("#address-cells", 1).cell("#size-cells", 1);
    node.texts("compatible", &["qemu,platform", "simple-bus"])
}

fn virtio_mmio() -> impl Iterator<Item = Node> {
    let slot = &slots::VIRTIO_MMIO;
    (0..slots::VIRTIO_MMIO_COUNT).map(|n| {
        let base = slot.base + u64::from(n) * slots::VIRTIO_MMIO_STEP;
        let node = Node::at("virtio_mmio", base).flag("dma-coherent").cells("interrupts", &[SPI, slot.spi() + n, EDGE]);
        node.reg(&[(base, slots::VIRTIO_MMIO_STEP)]).text("compatible", "virtio,mmio")
    })
}

fn primecell(slot: &Slot, name: &str, h: &Handles) -> Node {
    let node = at(slot, name).text("clock-names", "apb_pclk").cell("clocks", h.clock).cells("interrupts", &[SPI, slot.spi(), LEVEL]);
    node.texts("compatible", &[&format!("arm,{name}"), "arm,primecell"])
}

fn pl061(slot: &Slot, spi: Option<u32>, handle: u32, h: &Handles) -> Node {
    let node = at(slot, "pl061").cell("phandle", handle).text("clock-names", "apb_pclk").cell("clocks", h.clock);
    let node = node.cells("interrupts", &[SPI, spi.unwrap_or(0), LEVEL]).flag("gpio-controller").cell("#gpio-cells", 2);
    node.texts("compatible", &["arm,pl061", "arm,primecell"])
}

fn gpio_keys(h: &Handles) -> Node {
    let key = Node::new("poweroff").cells("gpios", &[h.gpio, gpio::POWER_BUTTON, 0]).cell("linux,code", KEY_POWER);
    Node::new("gpio-keys").text("compatible", "gpio-keys").child(key.text("label", "GPIO Key Poweroff"))
}

/// How secure firmware restarts the machine and turns it off.
fn secure_gpio(h: &Handles) -> [Node; 3] {
    let key = |name: &str, line: u32| secure_only(Node::new(name).cells("gpios", &[h.secure_gpio, line, 0]).text("compatible", name));
    let port = secure_only(pl061(&slots::SECURE_GPIO, None, h.secure_gpio, h));
    [key("gpio-restart", gpio::SECURE_RESTART), key("gpio-poweroff", gpio::SECURE_POWEROFF), port]
}

/// INTA to INTD of four devices, swizzled over four interrupts.
fn interrupt_map(h: &Handles) -> Vec<u32> {
    let spi = slots::PCIE_MMIO.spi();
    let entry = |device: u32, pin: u32| [device << 11, 0, 0, pin + 1, h.gic, 0, 0, SPI, spi + (device + pin) % 4, LEVEL];
    (0..4).flat_map(|device| (0..4).flat_map(move |pin| entry(device, pin))).collect()
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
