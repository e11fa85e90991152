//! Devices on the board's buses: `-device`, the drives with `if=virtio`, objects.
//!
//! Reference: QEMU 10.0.2: which device comes first, messages.
//!
//! **Not modelled**: objects other than sources of random numbers, captures of the network, memory ([`crate::memory`]), secrets
//! and throttle groups.

use crate::config::{Config, Given};
use crate::drives::{Drives, Interface};
use crate::lines::Lines;
use crate::network::{Ends, cards, info};
use board::arm::virt::Virt;
use console::{Consoles, Port};
use fabric::Clock;
use hw::registry::{Devices, Drive, Machine, Request, Resources};
use hw::virtio::rng::Source;
use net::dump::DumpOptions;
use net::{Backend, Mac, MacAllocator};
use spec::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// What the board's bus holds when nobody asks for another model.
const DISK_MODEL: &str = "virtio-blk-pci";

/// What ids on the command line name.
pub struct Backends<'a> {
    drives: &'a mut Drives,
    consoles: &'a Consoles,
    pub ends: Ends,
    sources: BTreeMap<String, Source>,
    macs: MacAllocator,
}

impl<'a> Backends<'a> {
    pub fn new(drives: &'a mut Drives, consoles: &'a Consoles) -> Backends<'a> {
        Backends { drives, consoles, ends: Ends::default(), sources: BTreeMap::new(), macs: MacAllocator::default() }
    }
}

impl Resources for Backends<'_> {
    fn drive(&mut self, id: &str) -> Result<Option<Drive>> {
        let drive = self.drives.take(id)?;
        Ok(drive.map(|d| Drive { node: d.node, read_only: d.read_only, write_cache: !d.writethrough }))
    }

    fn netdev(&mut self, id: &str) -> Result<Option<Box<dyn Backend>>> {
        self.ends.plug(id)
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

/// Plugs everything in that the command line asks for, except `-device loader` and `guest-loader`.
pub fn plug(
    config: &Config,
    board: &Virt,
    clock: &Clock,
    drives: &mut Drives,
    lines: &mut Lines,
) -> Result<(Devices, Ends)> {
    let machine = Machine {
        space: board.space().clone(),
        clock: clock.clone(),
        messages: board.messages.clone(),
        cpus: config.smp.cpus,
    };
    let mut devices = Devices::new(machine);
    devices.add_pci_bus(&board.pci.bus);
    board.mmio.iter().for_each(|slot| devices.add_slot(slot));
    for g in &config.globals {
        let get = |key| g.settings.get(key).unwrap_or_default();
        devices.set_global(get("driver"), get("property"), get("value"));
    }
    let disks = drives.of(Interface::Virtio);
    let mut backends = Backends::new(drives, &lines.consoles);
    backends.ends.streams = std::mem::take(&mut lines.streams);
    for given in config.objects.iter().filter(|o| !is_filter(o) && !crate::memory::is_backend(o) && !is_for_disks(o)) {
        object(given, &mut backends.sources).map_err(|e| in_option(given, &e))?;
    }
    let missing = plug_cards(config, &mut devices, &mut backends)?;
    let mut nameless = 0;
    for given in config.devices.iter().filter(|d| !matches!(d.settings.get("driver"), Some("loader" | "guest-loader")))
    {
        let request = Request::from_pairs(given.settings.clone().into_pairs());
        let before = backends.drives.taken();
        let plugged = request.and_then(|r| devices.plug(&r, &mut backends).map(|_| path(&r, &mut nameless)));
        let path = plugged.map_err(|e| in_option(given, &e))?;
        backends.drives.attach(before, &path);
    }
    for disk in disks {
        let request = Request::from_pairs([("driver".into(), DISK_MODEL.into()), ("drive".into(), disk.id.clone())])?;
        let before = backends.drives.taken();
        devices.plug(&request, &mut backends).map_err(|e| Error::new(format!("{}: {e}", disk.option)))?;
        backends.drives.attach(before, &path(&request, &mut nameless));
    }
    let nics = info::nics(&devices);
    backends.ends.check_vhost(&nics, board.ram.file().is_some())?;
    // Whoever asks for no network at all need not be told that a card has none.
    let warnings = if config.defaults.net { Vec::new() } else { backends.ends.warnings(&nics) };
    for warning in warnings.iter().chain(&missing) {
        eprintln!("{}: warning: {warning}", config.program);
    }
    Ok((devices, backends.ends))
}

/// Where a device is in QEMU's tree of objects; what has no id is counted.
fn path(request: &Request, nameless: &mut u32) -> String {
    let place = match &request.id {
        Some(id) => format!("peripheral/{id}"),
        None => {
            *nameless += 1;
            format!("peripheral-anon/device[{}]", *nameless - 1)
        }
    };
    // A card on a bus has the device proper inside.
    let inside = if request.driver.ends_with("-pci") { "/virtio-backend" } else { "" };
    format!("/machine/{place}{inside}")
}

/// Back ends, captures, and the cards that have no `-device`. Gives warnings about cards that could not be made.
pub fn plug_cards(config: &Config, devices: &mut Devices, backends: &mut Backends) -> Result<Vec<String>> {
    for given in &config.netdevs {
        backends
            .ends
            .add(given.settings.clone().into_pairs(), false, backends.consoles)
            .map_err(|e| in_option(given, &e))?;
    }
    let cards = cards::cards(config, &mut backends.ends, &mut backends.macs, backends.consoles)?;
    for given in config.objects.iter().filter(|o| is_filter(o)) {
        let mut settings = given.settings.clone();
        settings.take("qom-type");
        let dump = DumpOptions::parse(&settings.to_text()).and_then(|options| backends.ends.dump(&options));
        dump.map_err(|e| in_option(given, &e))?;
    }
    let mut missing = Vec::new();
    for card in cards {
        let Some(pairs) = card.pairs() else {
            missing.push(card.missing());
            continue;
        };
        let plugged = Request::from_pairs(pairs).and_then(|r| devices.plug(&r, backends));
        plugged.map_err(|e| if card.option.is_empty() { e } else { Error::new(format!("{}: {e}", card.option)) })?;
    }
    Ok(missing)
}

/// Secrets and throttle groups, which disks name: they are there before any disk.
pub fn define_for_disks(config: &Config) -> Result<()> {
    for given in config.objects.iter().filter(|o| is_for_disks(o)) {
        let mut options = disk::options::Options::new();
        given.settings.iter().filter(|(k, _)| *k != "qom-type").for_each(|(k, v)| options.set(k, v));
        let defined = match given.settings.get("qom-type") {
            Some("secret") => disk::secret::define(options),
            _ => disk::filter::throttle::define(options),
        };
        defined.map_err(|e| in_option(given, &e))?;
    }
    Ok(())
}

fn is_for_disks(given: &Given) -> bool {
    matches!(given.settings.get("qom-type"), Some("secret" | "throttle-group"))
}

fn is_filter(given: &Given) -> bool {
    given.settings.get("qom-type") == Some("filter-dump")
}

fn in_option(given: &Given, e: &Error) -> Error {
    Error::new(format!("{}: {e}", given.option))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::tests::config;

    #[test]
    fn disks_find_their_secrets_and_groups() {
        let c = config("-M virt -object secret,id=vm-sec,data=x -object throttle-group,id=vm-group,x-iops-total=100");
        define_for_disks(&c).unwrap();
        let drive = |text: &str| crate::drives::Drives::open(&config(text).drives, &[], false).map(drop);
        drive("-M virt -drive driver=throttle,throttle-group=vm-group,file.driver=null-co,if=none").unwrap();
        assert!(drive("-M virt -drive driver=throttle,throttle-group=other,file.driver=null-co,if=none").is_err());
        assert_eq!(disk::secret::lookup("vm-sec").unwrap(), b"x");
        assert!(define_for_disks(&c).is_err(), "twice the same name");
    }

    #[test]
    fn objects_give_random_numbers() {
        let c = config(
            "-M virt -object rng-builtin,id=a -object rng-random,id=b,filename=/dev/zero -object foo,id=c -object rng-builtin,id=a",
        );
        let mut sources = BTreeMap::new();
        assert!(object(&c.objects[0], &mut sources).is_ok() && object(&c.objects[1], &mut sources).is_ok());
        assert_eq!(
            object(&c.objects[2], &mut sources).unwrap_err().sentence(),
            "objects of type 'foo' are not supported yet"
        );
        assert!(object(&c.objects[3], &mut sources).is_err());
    }
}
