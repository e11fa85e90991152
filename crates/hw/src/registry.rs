//! `-device`: from the text of the option to a device in its slot.
//!
//! | module | what |
//! |---|---|
//! | [`rows`] | the devices, one row each, with their properties |
//! | [`property`] | types of properties, parsing, help |
//! | [`make`] | from properties to models |
//!
//! A board adds its buses to [`Devices`]; the option parser calls [`Devices::plug`] for each `-device`, with the back ends
//! that ids name behind [`Resources`].
//!
//! Reference: spellings and messages follow QEMU 10.

pub mod make;
pub mod property;
pub mod rows;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use disk::NodeRef;
use fabric::{AddressSpace, Clock, MsiSink};
use net::{Backend, Mac};
use spec::{Context as _, Error, Result, commas};

use self::make::{Context, Inside, Made};
use self::property::{Reader, Values};
use self::rows::{Category, Row, Socket, Variant};
use crate::net::card::Card;
use crate::pci::{Bus, Function, SlotFunction};
use crate::virtio::mmio::Slot;
use crate::virtio::pci::PciOptions;
use crate::virtio::serial::{self, PortOptions};
use crate::virtio::{Virtio, rng};

/// The largest expansion ROM.
const ROM_MAX: usize = 16 << 20;

/// A disk for a device.
pub struct Drive {
    pub node: NodeRef,
    pub read_only: bool,
    /// Writes may stay in a cache until a flush (not `cache=writethrough`).
    pub write_cache: bool,
}

/// What ids on the command line name. `None`: there is no such thing; an error says why it cannot be had.
pub trait Resources {
    fn drive(&mut self, id: &str) -> Result<Option<Drive>>;
    fn netdev(&mut self, id: &str) -> Result<Option<Box<dyn Backend>>>;
    fn chardev(&mut self, id: &str) -> Result<Option<console::Port>>;
    fn rng(&mut self, id: &str) -> Result<Option<rng::Source>>;
    /// The address of a network card: the user's choice, which is to be remembered, or the next free one.
    fn mac(&mut self, chosen: Option<Mac>) -> Result<Mac>;
}

/// What devices need of the machine.
#[derive(Clone)]
pub struct Machine {
    pub space: Arc<AddressSpace>,
    pub clock: Clock,
    pub messages: Arc<dyn MsiSink>,
    pub cpus: u32,
}

/// What one `-device` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub driver: String,
    pub id: Option<String>,
    pub bus: Option<String>,
    pub properties: Vec<(String, String)>,
}

impl Request {
    /// From pairs in the order of the command line; `driver` is one of them.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Request> {
        let mut request = Request::default();
        for (key, value) in pairs {
            match key.as_str() {
                "driver" => request.driver = value,
                "id" => request.id = Some(value),
                "bus" => request.bus = Some(value),
                _ => request.properties.push((key, value)),
            }
        }
        if request.driver.is_empty() {
            return Err(Error::new("Parameter 'driver' is missing"));
        }
        if let Some(id) = &request.id
            && !is_identifier(id)
        {
            return Err(Error::new(
                "Parameter 'id' expects an identifier\nIdentifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
            ));
        }
        Ok(request)
    }

    /// From `DRIVER,key=value,…`; a double comma stands for one in a value.
    pub fn parse(text: &str) -> Result<Request> {
        let pairs = commas::split(text).into_iter().enumerate().filter(|(i, f)| *i == 0 || !f.is_empty()).map(|(i, field)| match field.split_once('=') {
            Some((key, value)) => (key.to_string(), value.to_string()),
            None if i == 0 => ("driver".to_string(), field),
            None => (field, "on".to_string()),
        });
        Request::from_pairs(pairs)
    }

    /// Whether the option only asks for the properties of the device.
    pub fn wants_help(&self) -> bool {
        self.properties.iter().any(|(key, _)| key == "help" || key == "?")
    }
}

fn is_identifier(id: &str) -> bool {
    id.starts_with(|c: char| c.is_ascii_alphabetic()) && id.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

/// The text of `-device help`.
pub fn help() -> String {
    let section = |category: Category| {
        let mut lines: Vec<String> = rows::all().filter(|r| r.category == category).map(Row::help_line).collect();
        if category == Category::Misc {
            lines.extend(rows::LOADERS.map(|(name, description, _)| format!("name \"{name}\", desc \"{description}\"\n")));
        }
        lines.sort();
        format!("{}:\n{}", category.title(), lines.concat())
    };
    Category::ALL.map(section).join("\n")
}

/// The text of `-device NAME,help`.
pub fn help_for(name: &str) -> Result<String> {
    if let Some((name, _, rows)) = rows::LOADERS.into_iter().find(|(known, ..)| *known == name) {
        return Ok(property::help(name, &[property::Group { owner: name.into(), rows }]));
    }
    let row = rows::find(name).ok_or_else(|| Error::new(format!("Device '{name}' not found")))?;
    Ok(property::help(row.name, &row.groups()))
}

/// Whether there is a device of this name.
pub fn knows(name: &str) -> bool {
    rows::find(name).is_some()
}

/// The models of network cards.
pub fn network_cards() -> impl Iterator<Item = &'static Row> {
    rows::all().filter(|row| row.category == Category::Network)
}

/// A device in its place.
pub struct Plugged {
    pub driver: &'static str,
    pub id: Option<String>,
    /// Name of the bus it is on.
    pub bus: String,
    pub at: Option<SlotFunction>,
    pub function: Option<Arc<Function>>,
    pub virtio: Option<Arc<Virtio>>,
    /// A network card that is not a virtio device.
    pub card: Option<Arc<Card>>,
    pub bootindex: Option<i32>,
    pub drive: Option<String>,
    pub netdev: Option<String>,
    /// The address of a network card.
    pub mac: Option<Mac>,
    pub properties: Vec<(String, String)>,
}

/// Where a device can go.
#[derive(Clone)]
enum Place {
    Pci(Arc<Bus>),
    Slot(Arc<Slot>),
    Ports(serial::Bus),
}

impl Place {
    fn socket(&self) -> Socket {
        match self {
            Place::Pci(_) => Socket::Pci,
            Place::Slot(_) => Socket::VirtioMmio,
            Place::Ports(_) => Socket::VirtioSerial,
        }
    }

    /// The bus type, as messages name it.
    fn kind(&self) -> &'static str {
        match self {
            Place::Pci(bus) => bus.kind(),
            Place::Slot(_) => "virtio-mmio-bus",
            Place::Ports(_) => "virtio-serial-bus",
        }
    }

    fn is_full(&self) -> bool {
        matches!(self, Place::Slot(slot) if slot.device().is_some())
    }
}

/// The devices of a machine and the buses they can be plugged into.
pub struct Devices {
    machine: Machine,
    places: Vec<(String, Place)>,
    /// `-global`: by device or device type, property and value.
    globals: Vec<(String, String, String)>,
    plugged: Vec<Plugged>,
    serials: usize,
    bridges: usize,
}

impl Devices {
    pub fn new(machine: Machine) -> Devices {
        Devices { machine, places: Vec::new(), globals: Vec::new(), plugged: Vec::new(), serials: 0, bridges: 0 }
    }

    pub fn add_pci_bus(&mut self, bus: &Arc<Bus>) {
        self.places.push((bus.name().into(), Place::Pci(bus.clone())));
    }

    /// Adds a slot of the memory-mapped transport. Devices without `bus=` go to the slot that was added last first.
    pub fn add_slot(&mut self, slot: &Arc<Slot>) {
        self.places.push((slot.name().into(), Place::Slot(slot.clone())));
    }

    /// A default for a property of all devices of a kind (`-global DRIVER.PROPERTY=VALUE`).
    pub fn set_global(&mut self, driver: &str, property: &str, value: &str) {
        self.globals.push((driver.into(), property.into(), value.into()));
    }

    pub fn plugged(&self) -> &[Plugged] {
        &self.plugged
    }

    /// Resets all buses and what is on them.
    pub fn reset(&self) {
        for (_, place) in &self.places {
            match place {
                Place::Pci(bus) if bus.is_root() => bus.reset(),
                Place::Slot(slot) => slot.reset(),
                _ => {}
            }
        }
    }

    /// Waits until requests on their way have ended, before disks are closed or the machine is saved.
    pub fn drain(&self) {
        self.plugged.iter().filter_map(|p| p.virtio.as_ref()).for_each(|v| v.drain());
    }

    /// Plugs a device in. The index of the new one among [`Devices::plugged`].
    pub fn plug(&mut self, request: &Request, resources: &mut dyn Resources) -> Result<usize> {
        let row = rows::find(&request.driver)
            .ok_or_else(|| Error::new(format!("'{}' is not a valid device model name", request.driver)))?;
        if let Some(id) = &request.id
            && self.plugged.iter().any(|p| p.id.as_ref() == Some(id))
        {
            return Err(Error::new(format!("Duplicate ID '{id}' for device")));
        }
        let groups = row.groups();
        let (bus, place) = self.place(row, request.bus.as_deref())?;
        let mut values = Values::default();
        for (driver, property, value) in &self.globals {
            if driver == row.name || groups.iter().any(|g| g.owner == *driver) {
                values.set(driver, &groups, property, value)?;
            }
        }
        for (name, value) in &request.properties {
            values.set(row.name, &groups, name, value)?;
        }
        let reader = Reader { values: &values, groups: &groups };
        let owner = if row.inner.is_empty() { row.name } else { row.inner };
        let mut context = Context { owner, socket: row.socket, reader, machine: &self.machine, resources, mac: None };
        let made = (row.make)(&mut context)?;
        let mac = context.mac;
        let mut plugged = Plugged {
            driver: row.name,
            id: request.id.clone(),
            bus,
            at: None,
            function: None,
            virtio: None,
            card: None,
            bootindex: groups_have(&groups, "bootindex").then(|| reader.given("bootindex")).flatten(),
            drive: groups_have(&groups, "drive").then(|| reader.text("drive")).flatten(),
            netdev: groups_have(&groups, "netdev").then(|| reader.text("netdev")).flatten(),
            mac,
            properties: request.properties.clone(),
        };
        match made {
            Made::Virtio(inside) => self.plug_virtio(row, reader, &place, inside, &mut plugged)?,
            Made::Card(card, function) => self.plug_card(reader, &place, card, &function, &mut plugged)?,
            Made::Bridge(function) => self.plug_bridge(reader, &place, function, &mut plugged)?,
            Made::Port(options, port) => plug_port(&place, options, port)?,
        }
        self.plugged.push(plugged);
        Ok(self.plugged.len() - 1)
    }

    /// The bus that `bus=` names, or the first that takes the device.
    fn place(&self, row: &Row, bus: Option<&str>) -> Result<(String, Place)> {
        let found = match bus {
            Some(name) => {
                let found = self.places.iter().find(|(n, _)| n == name);
                let (_, place) = found.ok_or_else(|| Error::new(format!("Bus '{name}' not found")))?;
                if place.socket() != row.socket {
                    return Err(Error::new(format!("Device '{}' can't go on {} bus", row.name, place.kind())));
                }
                if place.is_full() {
                    return Err(Error::new(format!("Bus '{name}' is full")));
                }
                found
            }
            // Slots fill from the last one down, other buses from the first one up.
            None if row.socket == Socket::VirtioMmio => {
                self.places.iter().rev().find(|(_, p)| p.socket() == row.socket && !p.is_full())
            }
            None => self.places.iter().find(|(_, p)| p.socket() == row.socket),
        };
        let none = || Error::new(format!("No '{}' bus found for device '{}'", row.socket.name(), row.name));
        found.cloned().ok_or_else(none)
    }

    fn plug_virtio(&mut self, row: &Row, reader: Reader, place: &Place, inside: Inside, plugged: &mut Plugged) -> Result<()> {
        let Inside { model, mut ring, vectors, ports } = inside;
        match place {
            Place::Slot(slot) => {
                let virtio = Virtio::new(model, self.machine.space.clone(), ring);
                let free = slot.plug(virtio.clone());
                assert!(free, "a full slot was refused before");
                plugged.virtio = Some(virtio);
            }
            Place::Pci(bus) => {
                let options = pci_options(row, reader, bus, vectors)?;
                ring.version_1 = options.modern;
                let virtio = Virtio::new(model, self.machine.space.clone(), ring);
                let function = crate::virtio::pci::function(virtio.clone(), options, self.machine.messages.clone())?;
                plug_function(bus, &function, reader, plugged)?;
                plugged.virtio = Some(virtio);
            }
            Place::Ports(_) => unreachable!("the socket of a virtio device is another"),
        }
        if let Some(ports) = ports {
            let name = match &plugged.id {
                Some(id) => format!("{id}.0"),
                None => format!("virtio-serial-bus.{}", self.serials),
            };
            self.serials += 1;
            self.places.push((name, Place::Ports(ports)));
        }
        Ok(())
    }

    fn plug_card(&self, reader: Reader, place: &Place, card: Arc<Card>, function: &Arc<Function>, plugged: &mut Plugged) -> Result<()> {
        let Place::Pci(bus) = place else { unreachable!("the card goes into a PCI slot") };
        plug_function(bus, function, reader, plugged)?;
        plugged.card = Some(card);
        Ok(())
    }

    fn plug_bridge(&mut self, reader: Reader, place: &Place, function: Arc<Function>, plugged: &mut Plugged) -> Result<()> {
        let Place::Pci(bus) = place else { unreachable!("a bridge goes into a PCI slot") };
        plug_function(bus, &function, reader, plugged)?;
        self.bridges += 1;
        let name = plugged.id.clone().unwrap_or_else(|| format!("pci.{}", self.bridges));
        self.add_pci_bus(&Bus::secondary(&name, &function));
        Ok(())
    }

    /// Plugs the cable of the card in or out that has this id or uses this back end; false if there is none.
    pub fn set_link(&self, name: &str, up: bool) -> bool {
        let named = |p: &&Plugged| p.id.as_deref() == Some(name) || p.netdev.as_deref() == Some(name);
        self.plugged.iter().position(|p| named(&p)).is_some_and(|index| self.set_link_of(index, up))
    }

    /// As [`Devices::set_link`], by the place among the plugged devices; false if it has no cable.
    pub fn set_link_of(&self, index: usize, up: bool) -> bool {
        match self.plugged.get(index).map(|p| (&p.virtio, &p.card)) {
            Some((Some(virtio), _)) => virtio.set_link(up),
            Some((_, Some(card))) => card.set_link(up),
            _ => return false,
        }
        true
    }

    /// What `bootindex=` says, lowest first.
    pub fn boot_order(&self) -> Vec<&Plugged> {
        let order: BTreeMap<(i32, usize), &Plugged> =
            self.plugged.iter().enumerate().filter_map(|(n, p)| Some(((p.bootindex?, n), p))).collect();
        order.into_values().collect()
    }
}

fn groups_have(groups: &[property::Group], name: &str) -> bool {
    groups.iter().any(|g| g.rows.iter().any(|r| r.name == name))
}

fn plug_function(bus: &Arc<Bus>, function: &Arc<Function>, reader: Reader, plugged: &mut Plugged) -> Result<()> {
    if reader.bool("multifunction") {
        function.set_multifunction();
    }
    if let Some(id) = &plugged.id {
        function.set_id(id);
    }
    plugged.at = Some(bus.plug(function, reader.addr("addr"))?);
    plugged.function = Some(function.clone());
    Ok(())
}

fn plug_port(place: &Place, options: PortOptions, port: Option<console::Port>) -> Result<()> {
    let Place::Ports(bus) = place else { unreachable!("a port goes into a virtio-serial bus") };
    bus.plug(options, port)?;
    Ok(())
}

/// What the PCI properties of a virtio device say.
fn pci_options(row: &Row, reader: Reader, bus: &Bus, vectors: u16) -> Result<PciOptions> {
    let (legacy, modern) = match row.variant {
        Variant::Transitional => (true, true),
        Variant::NonTransitional => (false, true),
        // Behind a PCI Express port there are no port addresses to be had.
        Variant::Chosen => {
            let disable = reader.choice("disable-legacy").unwrap_or(bus.is_express_slot());
            (!disable, !reader.bool("disable-modern"))
        }
    };
    if !legacy && !modern {
        return Err(Error::new(
            "device cannot work as neither modern nor legacy mode is enabled\nSet either disable-modern or disable-legacy to off",
        ));
    }
    let vectors = match reader.number::<u32>("vectors") {
        None | Some(u32::MAX) => vectors,
        Some(n) if n <= u32::from(crate::pci::signal::MSIX_MAX) => n as u16,
        Some(n) => return Err(Error::new(format!("unable to init msix vectors to {n}"))),
    };
    let has_class = groups_have(reader.groups, "class");
    let class = if has_class { reader.number::<u32>("class").filter(|&c| c != 0).map(|c| (c & 0xffff) << 8) } else { None };
    Ok(PciOptions { name: row.name.into(), legacy, modern, vectors, class, rom: rom(reader)? })
}

/// The expansion ROM of `romfile=`, unless `rombar=0`.
pub(crate) fn rom(reader: Reader) -> Result<Option<Vec<u8>>> {
    let Some(file) = reader.text("romfile").filter(|f| !f.is_empty()) else { return Ok(None) };
    let path = Path::new(&file);
    if !path.is_file() {
        return Err(Error::new(format!("failed to find romfile \"{file}\"")));
    }
    let bytes = std::fs::read(path).context(|| format!("failed to load romfile \"{file}\""))?;
    if bytes.is_empty() {
        return Err(Error::new(format!("romfile \"{file}\" is empty")));
    }
    if bytes.len() > ROM_MAX {
        return Err(Error::new(format!("romfile \"{file}\" is too large")));
    }
    Ok((reader.number::<i32>("rombar") != Some(0)).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::testing::Rig;
    use fabric::Line;
    use std::collections::HashMap;

    #[derive(Default)]
    struct Fakes {
        used: HashMap<String, ()>,
        macs: net::MacAllocator,
    }

    impl Resources for Fakes {
        fn drive(&mut self, id: &str) -> Result<Option<Drive>> {
            if id != "x" && id != "y" {
                return Ok(None);
            }
            if self.used.insert(id.into(), ()).is_some() {
                return Err(Error::new(format!("Drive '{id}' is already in use by another device")));
            }
            let node = disk::open("json:{\"driver\":\"null-co\"}", None, &disk::OpenFlags::default())?;
            Ok(Some(Drive { node, read_only: false, write_cache: true }))
        }
        fn netdev(&mut self, _id: &str) -> Result<Option<Box<dyn Backend>>> {
            Ok(None)
        }
        fn chardev(&mut self, _id: &str) -> Result<Option<console::Port>> {
            Ok(None)
        }
        fn rng(&mut self, id: &str) -> Result<Option<rng::Source>> {
            Ok((id == "r").then(rng::Source::builtin))
        }
        fn mac(&mut self, chosen: Option<Mac>) -> Result<Mac> {
            match chosen {
                Some(mac) => {
                    self.macs.reserve(mac);
                    Ok(mac)
                }
                None => Ok(self.macs.allocate().expect("some are left")),
            }
        }
    }

    struct Bench {
        rig: Rig,
        devices: Devices,
        slots: Vec<Arc<Slot>>,
        fakes: Fakes,
    }

    fn bench() -> Bench {
        let rig = Rig::new();
        let machine = Machine { space: rig.space.clone(), clock: Clock::manual(), messages: rig.messages.clone(), cpus: 2 };
        let mut devices = Devices::new(machine);
        devices.add_pci_bus(&rig.bus);
        let slots: Vec<_> = (0..4).map(|n| Slot::new(&format!("virtio-mmio-bus.{n}"), true, Line::nowhere())).collect();
        slots.iter().for_each(|s| devices.add_slot(s));
        Bench { rig, devices, slots, fakes: Fakes::default() }
    }

    impl Bench {
        fn plug(&mut self, text: &str) -> Result<usize> {
            self.devices.plug(&Request::parse(text)?, &mut self.fakes)
        }

        fn fails(&mut self, text: &str) -> String {
            self.plug(text).expect_err(text).to_string()
        }
    }

    #[test]
    fn errors_are_those_of_the_reference() {
        let mut b = bench();
        for (text, expected) in [
            ("foo", "'foo' is not a valid device model name"),
            ("", "Parameter 'driver' is missing"),
            ("virtio-blk-pci", "drive property not set"),
            ("virtio-blk-pci,foo=1", "Property 'virtio-blk-pci.foo' not found"),
            ("virtio-blk,drive=n", "Property 'virtio-blk-device.drive' can't find value 'n'"),
            ("virtio-blk-device,drive=x,addr=3", "Property 'virtio-blk-device.addr' not found"),
            ("virtio-net-pci,netdev=x", "Property 'virtio-net-device.netdev' can't find value 'x'"),
            ("virtio-net-pci,mac=zz", "Property 'virtio-net-device.mac' doesn't take value 'zz'"),
            ("virtio-net-pci,addr=33", "Property 'virtio-net-pci.addr' doesn't take value '33'"),
            ("virtio-net-pci,bus=foo", "Bus 'foo' not found"),
            ("virtio-net-device,bus=pcie.0", "Device 'virtio-net-device' can't go on PCIE bus"),
            ("virtconsole", "No 'virtio-serial-bus' bus found for device 'virtconsole'"),
            ("virtio-net-pci,vectors=abc", "Parameter 'vectors' expects integer"),
            ("virtio-rng-pci,rng=x", "Device 'x' not found"),
            ("virtio-rng-pci,max-bytes=0", "'max-bytes' parameter must be positive, and less than 2^63"),
            ("virtio-rng-pci,period=0", "'period' parameter expects a positive integer"),
            ("virtio-net-pci,tx_queue_size=3", "Invalid tx_queue_size (= 3), must be a power of 2 between 256 and 256"),
            ("virtio-net-pci,rx_queue_size=3", "Invalid rx_queue_size (= 3), must be a power of 2 between 256 and 1024."),
            ("virtio-net-pci,duplex=foo", "'duplex' must be 'half' or 'full'"),
            ("virtio-net-pci,speed=-5", "'speed' must be between 0 and INT_MAX"),
            ("virtio-net-pci,romfile=/nonexist", "failed to find romfile \"/nonexist\""),
            ("virtio-serial-pci,max_ports=0", "Maximum number of serial ports not specified"),
            ("virtio-net-pci,packed=on", "Property 'virtio-net-device.packed' = on is not supported"),
        ] {
            assert_eq!(b.fails(text), expected, "{text}");
        }
        assert!(b.fails("virtio-net-pci,id=1a").starts_with("Parameter 'id' expects an identifier\n"));
        assert!(b.fails("virtio-rng-pci,disable-legacy=on,disable-modern=on").starts_with("device cannot work as neither"));
        assert!(b.devices.plugged().is_empty());
    }

    #[test]
    fn block_errors_come_after_the_drive_is_found() {
        for (property, expected) in [
            ("num-queues=0", "num-queues property must be larger than 0"),
            ("queue-size=3", "invalid queue-size property (3), must be a power of 2 (max 1024)"),
            ("heads=4", "cyls must be between 1 and 65535"),
            ("cyls=5,heads=300,secs=4", "heads must be between 1 and 255"),
            ("logical_block_size=4096", "logical_block_size > physical_block_size not supported"),
            ("max-discard-sectors=0", "invalid max-discard-sectors property (0), must be between 1 and 4194303"),
        ] {
            assert_eq!(bench().fails(&format!("virtio-blk-pci,drive=x,{property}")), expected);
        }
        let mut b = bench();
        b.plug("virtio-blk-pci,drive=x").unwrap();
        assert_eq!(b.fails("virtio-blk-pci,drive=x"), "Drive 'x' is already in use by another device");
    }

    #[test]
    fn devices_go_where_they_are_told() {
        let mut b = bench();
        b.plug("virtio-rng-pci,id=a,rng=r").unwrap();
        let at = b.plug("virtio-net,addr=5,mac=02:00:00:00:00:01").unwrap();
        assert_eq!(b.devices.plugged()[at].at, Some(SlotFunction::new(5, 0)));
        assert_eq!(b.fails("virtio-rng-pci,id=a"), "Duplicate ID 'a' for device");
        assert_eq!(b.fails("virtio-rng-pci,addr=5"), "PCI: slot 5 function 0 not available for virtio-rng-pci, in use by virtio-net-pci,id=(null)");
        b.plug("virtio-rng-device").unwrap();
        b.plug("virtio-serial-device,bus=virtio-mmio-bus.0").unwrap();
        assert_eq!(b.fails("virtio-rng-device,bus=virtio-mmio-bus.0"), "Bus 'virtio-mmio-bus.0' is full");
        assert_eq!([0, 1, 3].map(|n: usize| b.slots[n].device().map(|d| d.id())), [Some(3), None, Some(4)]);
        b.plug("virtconsole").unwrap();
        b.plug("virtserialport,name=agent,bus=virtio-serial-bus.0").unwrap();
        assert_eq!(b.fails("virtconsole,bus=pcie.0"), "Device 'virtconsole' can't go on PCIE bus");
        b.plug("virtio-serial-pci,id=s").unwrap();
        b.plug("virtconsole,bus=s.0").unwrap();
        assert_eq!(b.fails("virtconsole,bus=s.1"), "Bus 's.1' not found");
        b.devices.drain();
        b.devices.reset();
    }

    #[test]
    fn identities_follow_the_properties() {
        let mut b = bench();
        let id = |b: &Bench, slot: u8| b.rig.bus.config_read(0, slot << 3, 0, 4) >> 16;
        for (slot, (text, expected)) in [
            ("virtio-rng-pci", 0x1005),
            ("virtio-rng-pci,disable-legacy=on", 0x1044),
            ("virtio-rng-pci-non-transitional", 0x1044),
            ("virtio-rng-pci-transitional", 0x1005),
            ("virtio-blk-pci,drive=x,disable-modern=on", 0x1001),
        ]
        .into_iter()
        .enumerate()
        {
            b.plug(text).unwrap();
            assert_eq!(id(&b, slot as u8), expected, "{text}");
        }
        assert_eq!(b.rig.bus.config_read(0, 4 << 3, 0x42, 2), 2, "a queue for each CPU, and one vector more");
        b.devices.set_global("virtio-rng-pci", "disable-legacy", "on");
        b.plug("virtio-rng-pci").unwrap();
        assert_eq!(id(&b, 5), 0x1044);
    }

    #[test]
    fn bridges_have_buses() {
        let mut b = bench();
        b.plug("pcie-root-port,id=rp").unwrap();
        b.plug("pci-bridge").unwrap();
        let at = b.plug("virtio-rng-pci,bus=rp").unwrap();
        let function = b.devices.plugged()[at].function.clone().unwrap();
        assert_eq!(function.config().get16(2), 0x1044, "modern only behind a port");
        assert!(b.fails("virtio-rng-pci,bus=rp").contains("no slot/function available"));
        let at = b.plug("virtio-rng-pci,bus=pci.2").unwrap();
        assert_eq!(b.devices.plugged()[at].at, Some(SlotFunction::new(1, 0)));
    }

    #[test]
    fn help_names_everything() {
        let text = help();
        assert!(text.contains("Storage devices:\nname \"virtio-blk-device\", bus virtio-bus\nname \"virtio-blk-pci\", bus PCI, alias \"virtio-blk\"\n"));
        assert!(help_for("virtio-serial").unwrap().contains("\n  vectors=<uint32>       -  (default: 2)\n"));
        assert!(!help_for("virtio-rng-pci-transitional").unwrap().contains("disable-legacy"));
        assert!(text.contains("name \"loader\", desc \"Generic Loader\"\nname \"virtio-rng-device\""), "{text}");
        let loader = help_for("guest-loader").unwrap();
        assert_eq!(loader, "guest-loader options:\n  addr=<uint64>          -  (default: 0)\n  bootargs=<str>\n  initrd=<str>\n  kernel=<str>\n");
        assert!(help_for("virtio-blk").unwrap().contains("\n  drive=<str>            - Node name or ID of a block device to use as a backend\n"));
        assert!(help_for("virtio-rng").unwrap().contains("\n  rng=<link<rng-backend>>\n"));
        assert_eq!(help_for("foo").unwrap_err().to_string(), "Device 'foo' not found");
        assert!(Request::parse("virtio-net-pci,help").unwrap().wants_help());
    }

    #[test]
    fn cards_of_real_makers_are_plugged_in() {
        let mut b = bench();
        for (slot, (text, id)) in [("e1000", 0x100e_8086), ("e1000e", 0x10d3_8086), ("rtl8139", 0x8139_10ec), ("ne2k_pci", 0x8029_10ec), ("pcnet", 0x2000_1022)].into_iter().enumerate() {
            let at = b.plug(text).unwrap();
            assert_eq!(b.rig.bus.config_read(0, (slot as u8) << 3, 0, 4), id);
            assert_eq!(b.devices.plugged()[at].mac.unwrap().0[5], 0x56 + slot as u8);
            assert!(b.devices.set_link_of(at, false));
        }
        assert_eq!(b.fails("e1000,netdev=x"), "Property 'e1000.netdev' can't find value 'x'");
        assert_eq!(b.fails("e1000,foo=x"), "Property 'e1000.foo' not found");
        assert_eq!(b.fails("rtl8139,romfile=/nonexist"), "failed to find romfile \"/nonexist\"");
        b.devices.reset();
    }

    #[test]
    fn boot_order_is_by_index() {
        let mut b = bench();
        b.plug("virtio-net-pci,bootindex=2,id=n").unwrap();
        b.plug("virtio-blk-pci,drive=x,bootindex=1,id=d").unwrap();
        b.plug("virtio-rng-pci").unwrap();
        let order: Vec<_> = b.devices.boot_order().iter().map(|p| p.id.clone().unwrap()).collect();
        assert_eq!(order, ["d", "n"]);
        assert!(b.devices.set_link("n", false) && !b.devices.set_link("zz", true));
    }
}
