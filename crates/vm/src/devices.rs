//! Devices on the board's buses: `-device`, the drives with `if=virtio`, network cards.
//!
//! Reference: QEMU 10.0.2: which device comes first, the default network card, messages.
//!
//! **Not modelled**: `-net` with several cards or back ends (a hub), objects other than sources of random numbers.

use crate::config::{Config, Given};
use crate::drives::{Drives, Interface};
use board::arm::virt::Virt;
use console::{Consoles, Port};
use fabric::Clock;
use hw::registry::{Devices, Drive, Machine, Request, Resources};
use hw::virtio::rng::Source;
use net::netdev::Netdev;
use net::{Backend, Mac, MacAllocator};
use spec::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// What the board's buses hold when nobody asks for another model.
const NIC_MODEL: &str = "virtio-net-pci";
const DISK_MODEL: &str = "virtio-blk-pci";

/// What ids on the command line name.
struct Backends<'a> {
    drives: &'a mut Drives,
    consoles: &'a Consoles,
    netdevs: BTreeMap<String, Netdev>,
    sources: BTreeMap<String, Source>,
    macs: MacAllocator,
}

impl Resources for Backends<'_> {
    fn drive(&mut self, id: &str) -> Result<Option<Drive>> {
        let drive = self.drives.take(id)?;
        Ok(drive.map(|d| Drive { node: d.node, read_only: d.read_only, write_cache: !d.writethrough }))
    }

    fn netdev(&mut self, id: &str) -> Result<Option<Box<dyn Backend>>> {
        self.netdevs.remove(id).map(Netdev::open).transpose()
    }

    fn chardev(&mut self, id: &str) -> Result<Option<Port>> {
        if !self.consoles.info().iter().any(|(label, ..)| label == id) {
            return Ok(None);
        }
        self.consoles.connect(id).map(Some)
    }

    fn rng(&mut self, id: &str) -> Result<Option<Source>> {
        Ok(self.sources.get(id).cloned())
    }

    fn mac(&mut self, chosen: Option<Mac>) -> Result<Mac> {
        if let Some(mac) = chosen {
            self.macs.reserve(mac);
            return Ok(mac);
        }
        self.macs.allocate().ok_or_else(|| Error::new("there are no addresses left for network cards"))
    }
}

/// Plugs everything in that the command line asks for, except `-device loader`.
pub fn plug(config: &Config, board: &Virt, clock: &Clock, drives: &mut Drives, consoles: &Consoles) -> Result<Devices> {
    let machine = Machine { space: board.space().clone(), clock: clock.clone(), messages: board.messages.clone(), cpus: config.smp.cpus };
    let mut devices = Devices::new(machine);
    devices.add_pci_bus(&board.pci.bus);
    board.mmio.iter().for_each(|slot| devices.add_slot(slot));
    for g in &config.globals {
        let get = |key| g.settings.get(key).unwrap_or_default();
        devices.set_global(get("driver"), get("property"), get("value"));
    }
    let disks = drives.of(Interface::Virtio);
    let mut backends = Backends { drives, consoles, netdevs: BTreeMap::new(), sources: BTreeMap::new(), macs: MacAllocator::default() };
    for given in &config.objects {
        object(given, &mut backends.sources).map_err(|e| in_option(given, &e))?;
    }
    for given in &config.netdevs {
        let netdev = Netdev::parse(&netdev_text(given)).map_err(|e| in_option(given, &e))?;
        backends.netdevs.insert(netdev.id.clone(), netdev);
    }
    for card in cards(config)? {
        card.plug(&mut devices, &mut backends)?;
    }
    for given in config.devices.iter().filter(|d| d.settings.get("driver") != Some("loader")) {
        let request = Request::from_pairs(given.settings.clone().into_pairs());
        request.and_then(|r| devices.plug(&r, &mut backends)).map_err(|e| in_option(given, &e))?;
    }
    for disk in disks {
        let request = Request::from_pairs([("driver".into(), DISK_MODEL.into()), ("drive".into(), disk.id.clone())])?;
        devices.plug(&request, &mut backends).map_err(|e| Error::new(format!("{}: {e}", disk.option)))?;
    }
    for id in backends.netdevs.keys() {
        eprintln!("{}: warning: netdev {id} has no peer", config.program);
    }
    Ok(devices)
}

fn in_option(given: &Given, e: &Error) -> Error {
    Error::new(format!("{}: {e}", given.option))
}

/// The settings with the type in front, as the parser of back ends wants them.
fn netdev_text(given: &Given) -> String {
    let mut s = given.settings.clone();
    let kind = s.take("type").unwrap_or_default();
    format!("{kind},{}", s.to_text())
}

fn object(given: &Given, sources: &mut BTreeMap<String, Source>) -> Result<()> {
    let mut s = given.settings.clone();
    let kind = s.take("qom-type").ok_or_else(|| Error::new("Parameter 'qom-type' is missing"))?;
    let id = s.take("id").ok_or_else(|| Error::new("Parameter 'id' is missing"))?;
    let source = match kind.as_str() {
        "rng-builtin" => Source::builtin(),
        "rng-random" => Source::file(Path::new(&s.take("filename").unwrap_or_else(|| "/dev/urandom".into())))?,
        _ => return Err(Error::new(format!("objects of type '{kind}' are not supported yet"))),
    };
    s.finish()?;
    if sources.insert(id.clone(), source).is_some() {
        return Err(Error::new(format!("attempt to add duplicate property '{id}' to object (type 'container')")));
    }
    Ok(())
}

/// A network card with its back end.
#[derive(Debug, PartialEq, Eq)]
struct Card {
    /// For messages.
    option: String,
    model: String,
    mac: Option<String>,
    id: String,
    kind: String,
    settings: Vec<(String, String)>,
}

impl Card {
    fn plug(self, devices: &mut Devices, backends: &mut Backends) -> Result<()> {
        let Card { option, model, mac, id, kind, settings } = self;
        let at = |e: Error| if option.is_empty() { e } else { Error::new(format!("{option}: {e}")) };
        let mut netdev = Netdev::from_pairs(&kind, &settings).map_err(at)?;
        netdev.id = id.clone();
        backends.netdevs.insert(id.clone(), netdev);
        let pair = |key: &str, value: String| (key.to_owned(), value);
        let pairs = [pair("driver", model), pair("netdev", id)].into_iter().chain(mac.map(|m| pair("mac", m)));
        devices.plug(&Request::from_pairs(pairs)?, backends).map_err(at)?;
        Ok(())
    }
}

/// The device that a card's model names, if this machine has it.
fn model(name: &str) -> Option<&str> {
    let name = if name == "virtio" { NIC_MODEL } else { name };
    (hw::registry::knows(name) && name.contains("net")).then_some(name)
}

/// The text of `-nic model=help`.
pub fn model_help() -> String {
    format!("Available NIC models for this configuration:\n{NIC_MODEL} (aka virtio)\n")
}

/// The cards that `-nic` and `-net` ask for, or the default one.
fn cards(config: &Config) -> Result<Vec<Card>> {
    let mut cards = Vec::new();
    if config.defaults.net {
        cards.push(Card { option: String::new(), model: NIC_MODEL.into(), mac: None, id: "#net0".into(), kind: "user".into(), settings: Vec::new() });
    }
    for (number, given) in config.nics.iter().enumerate() {
        let mut s = given.settings.clone();
        let kind = s.take("type").ok_or_else(|| in_option(given, &Error::new("Parameter 'type' is missing")))?;
        if kind == "none" {
            continue;
        }
        let wanted = s.take("model").unwrap_or_else(|| "virtio".into());
        let (mac, name) = (s.take("mac"), s.take("id"));
        let Some(model) = model(&wanted) else {
            let name = name.as_deref().unwrap_or("anonymous");
            let end = "was not created (not supported by this machine?)";
            eprintln!("{}: warning: requested NIC ({name}, model {wanted}) {end}", config.program);
            continue;
        };
        let id = name.unwrap_or_else(|| format!("#net{number}"));
        cards.push(Card { option: given.option.clone(), model: model.into(), mac, id, kind, settings: s.into_pairs() });
    }
    cards.extend(old_style(config)?);
    Ok(cards)
}

/// `-net nic -net user`: a card and a back end on one hub, which is a cable.
fn old_style(config: &Config) -> Result<Option<Card>> {
    let is_nic = |g: &&Given| g.settings.get("type") == Some("nic");
    let nics: Vec<&Given> = config.nets.iter().filter(is_nic).collect();
    let others: Vec<&Given> = config.nets.iter().filter(|g| !is_nic(g) && g.settings.get("type") != Some("none")).collect();
    match (&nics[..], &others[..]) {
        ([], []) => Ok(None),
        ([nic], [other]) => {
            let (mut n, mut s) = (nic.settings.clone(), other.settings.clone());
            n.take("type");
            let wanted = n.take("model").unwrap_or_else(|| "virtio".into());
            let unknown = || in_option(nic, &Error::new(format!("Unsupported NIC model: {wanted}")));
            let model = model(&wanted).ok_or_else(unknown)?.to_owned();
            let mac = n.take("macaddr");
            n.take("name");
            n.finish().map_err(|e| in_option(nic, &e))?;
            s.take("name");
            let kind = s.take("type").unwrap_or_default();
            Ok(Some(Card { option: other.option.clone(), model, mac, id: "#hub0".into(), kind, settings: s.into_pairs() }))
        }
        _ => Err(Error::new("-net with other than one card and one back end is not supported yet: use -nic or -netdev")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::tests::config;

    fn list(args: &str) -> Vec<(String, String, Option<String>)> {
        let cards = cards(&config(&format!("-M virt {args}"))).unwrap();
        cards.into_iter().map(|c| (c.model, c.kind, c.mac)).collect()
    }

    fn card(model: &str, kind: &str, mac: Option<&str>) -> (String, String, Option<String>) {
        (model.into(), kind.into(), mac.map(Into::into))
    }

    #[test]
    fn there_is_a_card_unless_options_say_otherwise() {
        assert_eq!(list(""), [card("virtio-net-pci", "user", None)]);
        for args in ["-nodefaults", "-nic none", "-net none", "-netdev user,id=n"] {
            assert_eq!(list(args), [], "{args}");
        }
    }

    #[test]
    fn cards_have_models_and_addresses() {
        let mac = "52:54:00:00:00:01";
        assert_eq!(list(&format!("-nic user,model=virtio-net-device,mac={mac}")), [card("virtio-net-device", "user", Some(mac))]);
        assert_eq!(list(&format!("-net nic,macaddr={mac} -net user")), [card("virtio-net-pci", "user", Some(mac))]);
        assert_eq!(list("-nic user,model=foo"), []);
        assert!(cards(&config("-M virt -net nic -net nic -net user")).is_err());
    }

    #[test]
    fn objects_give_random_numbers() {
        let c = config("-M virt -object rng-builtin,id=a -object rng-random,id=b,filename=/dev/zero -object foo,id=c -object rng-builtin,id=a");
        let mut sources = BTreeMap::new();
        assert!(object(&c.objects[0], &mut sources).is_ok() && object(&c.objects[1], &mut sources).is_ok());
        assert_eq!(object(&c.objects[2], &mut sources).unwrap_err().sentence(), "objects of type 'foo' are not supported yet");
        assert!(object(&c.objects[3], &mut sources).is_err());
    }
}
