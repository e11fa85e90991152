//! From the properties of a device to its model.

use std::sync::Arc;

use net::{Backend, Mac};
use spec::{Error, Result};

use super::property::Reader;
use super::rows::Socket;
use super::{Machine, Resources};
use crate::net::card::{Card, Parts};
use crate::net::{e1000, ne2k, pcnet, rtl8139};
use crate::pci::{Function, bridge};
use crate::virtio::blk::{self, Blk, Geometry};
use crate::virtio::device::{Model, RingFeatures};
use crate::virtio::net::{self as card, Net};
use crate::virtio::rng::{self, Rng};
use crate::virtio::serial::{self, PortOptions, Serial};

/// What a maker has at hand.
pub struct Context<'a> {
    /// The name in messages: of the virtio device inside, or of the device.
    pub owner: &'static str,
    pub socket: Socket,
    pub reader: Reader<'a>,
    pub machine: &'a Machine,
    pub resources: &'a mut dyn Resources,
    /// What a network card was given.
    pub mac: Option<Mac>,
}

/// What was made, still unplugged.
pub enum Made {
    Virtio(Inside),
    /// A network card of a real maker.
    Card(Arc<Card>, Arc<Function>),
    /// A bridge: a function with a bus behind it.
    Bridge(Arc<Function>),
    Port(PortOptions, Option<console::Port>),
}

/// A virtio device before it has a transport.
pub struct Inside {
    pub model: Box<dyn Model>,
    pub ring: RingFeatures,
    /// MSI-X vectors that it wants.
    pub vectors: u16,
    /// The bus for ports that it has.
    pub ports: Option<serial::Bus>,
}

pub type Make = fn(&mut Context) -> Result<Made>;

impl Context<'_> {
    fn missing(&self, property: &str, value: &str) -> Error {
        Error::new(format!("Property '{}.{property}' can't find value '{value}'", self.owner))
    }

    fn inside(&self, model: Box<dyn Model>, vectors: u16, ports: Option<serial::Bus>) -> Made {
        let r = &self.reader;
        let ring = RingFeatures {
            indirect_desc: r.bool("indirect_desc"),
            event_idx: r.bool("event_idx"),
            any_layout: r.bool("any_layout"),
            version_1: true,
        };
        Made::Virtio(Inside { model, ring, vectors, ports })
    }
}

pub fn blk(c: &mut Context) -> Result<Made> {
    let id = c.reader.text("drive").ok_or("drive property not set")?;
    let drive = c.resources.drive(&id)?.ok_or_else(|| c.missing("drive", &id))?;
    let r = &c.reader;
    let or_512 = |name| r.number::<u32>(name).filter(|&n| n > 0).unwrap_or(512);
    let queues = match r.number::<u16>("num-queues") {
        Some(u16::MAX) | None if c.socket == Socket::Pci => c.machine.cpus.clamp(1, 64) as u16,
        Some(u16::MAX) | None => 1,
        Some(n) => n,
    };
    let options = blk::Options {
        serial: r.text("serial").unwrap_or_default(),
        read_only: drive.read_only,
        num_queues: queues,
        queue_size: r.number("queue-size").unwrap_or(0),
        logical_block: or_512("logical_block_size"),
        physical_block: or_512("physical_block_size"),
        min_io: r.number("min_io_size").unwrap_or(0),
        opt_io: r.number("opt_io_size").unwrap_or(0),
        discard_granularity: r.given("discard_granularity").filter(|&n: &u32| n != u32::MAX),
        geometry: geometry(r)?,
        discard: r.bool("discard"),
        write_zeroes: r.bool("write-zeroes"),
        max_discard_sectors: r.number("max-discard-sectors").unwrap_or(0),
        max_write_zeroes_sectors: r.number("max-write-zeroes-sectors").unwrap_or(0),
        config_wce: r.bool("config-wce"),
        write_cache: r.choice("write-cache").unwrap_or(drive.write_cache),
        ignore_write_errors: r.text("werror").as_deref() == Some("ignore"),
        ignore_read_errors: r.text("rerror").as_deref() == Some("ignore"),
    };
    let model = Box::new(Blk::new(drive.node, options)?);
    Ok(c.inside(model, queues + 1, None))
}

fn geometry(r: &Reader) -> Result<Option<Geometry>> {
    let given = ["cyls", "heads", "secs"].map(|name| r.number::<u32>(name).unwrap_or(0));
    if given == [0; 3] {
        return Ok(None);
    }
    for ((name, max), value) in [("cyls", 65535), ("heads", 255), ("secs", 255)].into_iter().zip(given) {
        if !(1..=max).contains(&value) {
            return Err(Error::new(format!("{name} must be between 1 and {max}")));
        }
    }
    let [cylinders, heads, sectors] = given;
    Ok(Some(Geometry { cylinders: cylinders as u16, heads: heads as u8, sectors: sectors as u8 }))
}

/// Feature properties of the network card.
const NET_FEATURES: &[(&str, u64)] = &[
    ("csum", card::feature::CSUM),
    ("guest_csum", card::feature::GUEST_CSUM),
    ("ctrl_guest_offloads", card::feature::CTRL_GUEST_OFFLOADS),
    ("guest_tso4", card::feature::GUEST_TSO4),
    ("guest_tso6", card::feature::GUEST_TSO6),
    ("host_tso4", card::feature::HOST_TSO4),
    ("host_tso6", card::feature::HOST_TSO6),
    ("mrg_rxbuf", card::feature::MRG_RXBUF),
    ("status", card::feature::STATUS),
    ("ctrl_vq", card::feature::CTRL_VQ),
    ("ctrl_rx", card::feature::CTRL_RX),
    ("ctrl_vlan", card::feature::CTRL_VLAN),
    ("ctrl_rx_extra", card::feature::CTRL_RX_EXTRA),
    ("ctrl_mac_addr", card::feature::CTRL_MAC_ADDR),
];

/// What a network card is plugged into, and its address.
fn cable(c: &mut Context) -> Result<(Option<Box<dyn Backend>>, Mac)> {
    let backend = match c.reader.text("netdev") {
        Some(id) => {
            let found = c.resources.netdev(&id).map_err(|e| Error::new(format!("Property '{}.netdev' {e}", c.owner)))?;
            Some(found.ok_or_else(|| c.missing("netdev", &id))?)
        }
        None => None,
    };
    let mac = c.resources.mac(c.reader.mac("mac"))?;
    c.mac = Some(mac);
    Ok((backend, mac))
}

pub fn net(c: &mut Context) -> Result<Made> {
    let (backend, mac) = cable(c)?;
    let r = &c.reader;
    let queue_size = |name: &str, max: u16, end: &str| {
        let size: u16 = r.number(name).unwrap_or(0);
        let fits = size.is_power_of_two() && (256..=max).contains(&size);
        let fail = || Error::new(format!("Invalid {name} (= {size}), must be a power of 2 between 256 and {max}{end}"));
        if fits { Ok(size) } else { Err(fail()) }
    };
    let duplex = match r.text("duplex").as_deref() {
        None | Some("") => None,
        Some("full") => Some(true),
        Some("half") => Some(false),
        Some(_) => return Err(Error::new("'duplex' must be 'half' or 'full'")),
    };
    let speed = match r.number::<i32>("speed") {
        None | Some(-1) => None,
        Some(speed) => Some(u32::try_from(speed).map_err(|_| "'speed' must be between 0 and INT_MAX")?),
    };
    let mtu = r.number("host_mtu").unwrap_or(0);
    let mut features = NET_FEATURES.iter().filter(|f| r.bool(f.0)).fold(card::feature::MAC, |all, f| all | f.1);
    if mtu > 0 {
        features |= card::feature::MTU;
    }
    if !r.bool("gso") {
        features &= !(card::feature::HOST_TSO4 | card::feature::HOST_TSO6);
    }
    // When frames are sent is our own business.
    if let Some(other) = r.text("tx").filter(|tx| !matches!(tx.as_str(), "" | "timer" | "bh")) {
        log::warn!("virtio-net: Unknown option tx={other}, valid options: \"timer\" \"bh\"");
    }
    let options = card::Options {
        mac,
        rx_queue_size: queue_size("rx_queue_size", 1024, ".")?,
        tx_queue_size: queue_size("tx_queue_size", 256, "")?,
        features,
        mtu,
        speed,
        duplex,
    };
    Ok(c.inside(Box::new(Net::new(backend, options)), 4, None))
}

/// What all cards of real makers need.
fn parts(c: &mut Context) -> Result<Parts> {
    let rom = super::rom(c.reader)?;
    let (backend, mac) = cable(c)?;
    Ok(Parts { mac, backend, space: c.machine.space.clone(), messages: c.machine.messages.clone(), rom })
}

pub fn e1000(c: &mut Context) -> Result<Made> {
    let (card, function) = e1000::function(e1000::Kind::I82540, parts(c)?)?;
    Ok(Made::Card(card, function))
}

pub fn e1000e(c: &mut Context) -> Result<Made> {
    let (card, function) = e1000::function(e1000::Kind::I82574, parts(c)?)?;
    Ok(Made::Card(card, function))
}

pub fn ne2k_pci(c: &mut Context) -> Result<Made> {
    let (card, function) = ne2k::function(parts(c)?)?;
    Ok(Made::Card(card, function))
}

pub fn pcnet(c: &mut Context) -> Result<Made> {
    let (card, function) = pcnet::function(parts(c)?)?;
    Ok(Made::Card(card, function))
}

pub fn rtl8139(c: &mut Context) -> Result<Made> {
    let (card, function) = rtl8139::function(parts(c)?)?;
    Ok(Made::Card(card, function))
}

pub fn serial(c: &mut Context) -> Result<Made> {
    let max_ports = c.reader.number("max_ports").unwrap_or(0);
    let model = Serial::new(max_ports, c.reader.bool("emergency-write"))?;
    let ports = model.bus();
    Ok(c.inside(Box::new(model), 2, Some(ports)))
}

pub fn rng(c: &mut Context) -> Result<Made> {
    let bytes: u64 = c.reader.number("max-bytes").unwrap_or(0);
    let period_ms: u32 = c.reader.number("period").unwrap_or(0);
    let source = match c.reader.text("rng") {
        Some(id) => c.resources.rng(&id)?.ok_or_else(|| Error::new(format!("Device '{id}' not found")))?,
        None => rng::Source::builtin(),
    };
    if period_ms == 0 {
        return Err(Error::new("'period' parameter expects a positive integer"));
    }
    if bytes == 0 || bytes > i64::MAX as u64 {
        return Err(Error::new("'max-bytes' parameter must be positive, and less than 2^63"));
    }
    let model = Rng::new(source, rng::Rate { bytes, period_ms }, c.machine.clock.clone());
    Ok(c.inside(Box::new(model), 2, None))
}

fn port(c: &mut Context, console: bool) -> Result<Made> {
    let port = match c.reader.text("chardev") {
        Some(id) => Some(c.resources.chardev(&id)?.ok_or_else(|| c.missing("chardev", &id))?),
        None => None,
    };
    let options = PortOptions { console, name: c.reader.text("name").unwrap_or_default(), number: c.reader.given("nr") };
    Ok(Made::Port(options, port))
}

pub fn virtconsole(c: &mut Context) -> Result<Made> {
    port(c, true)
}

pub fn virtserialport(c: &mut Context) -> Result<Made> {
    port(c, false)
}

pub fn pci_bridge(c: &mut Context) -> Result<Made> {
    Ok(Made::Bridge(bridge::pci_bridge(c.machine.messages.clone())))
}

pub fn root_port(c: &mut Context) -> Result<Made> {
    let (port, slot) = (c.reader.number("port").unwrap_or(0), c.reader.number("slot").unwrap_or(0));
    Ok(Made::Bridge(bridge::root_port(port, slot, c.machine.messages.clone())))
}
