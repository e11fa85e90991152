//! The network of a machine: back ends, hubs, and which card is plugged into what.
//!
//! Reference: QEMU 10.0.2: names, the order of addresses, warnings, the texts of `info network` and `info usernet`.
//!
//! | module | what |
//! |---|---|
//! | [`cards`] | `-nic`, `-net` and the default card |
//! | `guestfwd` | virtual servers that are character devices |
//! | [`info`] | monitor texts |
//!
//! Not modelled: a back end that is added later has no card to be plugged into, because no bus takes cards later.

pub mod cards;
mod guestfwd;
pub mod info;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use console::Consoles;
use hw::registry::Devices;
use net::Backend;
use net::dump::DumpOptions;
use net::hub::{Hub, HubDriver};
use net::netdev::{Kind, Netdev};
use net::shared::Shared;
use net::vhost::user::VhostUser;
use spec::{Error, Result};

/// A back end by its name.
struct End {
    name: String,
    /// `user`, `tap`, …
    kind: String,
    shared: Shared,
    place: Place,
    /// Made by `-netdev` or `netdev_add`, not by a short form.
    removable: bool,
    /// Made after the machine.
    late: bool,
}

/// Where the other end of a back end's cable is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Nowhere,
    Card,
    Hub(u32),
}

/// What is plugged into a port of a hub.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Peer {
    Nobody,
    Card,
    End(String),
}

struct Port {
    name: String,
    peer: Peer,
}

struct HubState {
    hub: Hub,
    ports: Vec<Port>,
    /// They stop when they are dropped.
    _drivers: Vec<HubDriver>,
}

/// The host's side of all cables.
#[derive(Default)]
pub struct Ends {
    ends: Vec<End>,
    hubs: BTreeMap<u32, HubState>,
    /// Sockets for vhost-user, by their character devices.
    pub streams: BTreeMap<String, OwnedFd>,
    /// Names given to nameless ones.
    unnamed: u32,
    /// Captures, in the order they were made.
    filters: Vec<DumpOptions>,
}

/// The pairs of an option with its type in front; the lists of JSON become repeated keys.
fn split_kind(pairs: Vec<(String, String)>) -> (String, Vec<(String, String)>) {
    let mut kind = String::new();
    let mut rest = Vec::new();
    for (key, value) in pairs {
        match key.split('.').collect::<Vec<_>>()[..] {
            ["type"] => kind = value,
            [list @ ("hostfwd" | "guestfwd" | "dnssearch"), number, "str"] if number.parse::<u32>().is_ok() => {
                rest.push((list.to_string(), value));
            }
            _ => rest.push((key, value)),
        }
    }
    (kind, rest)
}

impl Ends {
    /// `-netdev` and `netdev_add`.
    pub fn add(&mut self, pairs: Vec<(String, String)>, late: bool, consoles: &Consoles) -> Result<()> {
        let (kind, rest) = split_kind(pairs);
        let netdev = Netdev::from_pairs(&kind, &rest)?;
        if !rest.iter().any(|(key, _)| key == "id") {
            return Err(Error::new("Parameter 'id' is missing"));
        }
        check_id(&netdev.id)?;
        if self.knows(&netdev.id) {
            let of = if late { "" } else { " for netdev" };
            return Err(Error::new(format!("Duplicate ID '{}'{of}", netdev.id)));
        }
        match netdev.kind {
            Kind::HubPort(options) => {
                let hub = options.hubid.ok_or_else(|| Error::new("Parameter 'hubid' is missing"))?;
                let peer = match &options.netdev {
                    Some(name) => Peer::End(name.clone()),
                    None => Peer::Nobody,
                };
                self.port(hub, Some(netdev.id), peer).map(|_| ())
            }
            _ => {
                let name = netdev.id.clone();
                self.open(name, kind, netdev, consoles)?;
                let end = self.ends.last_mut().expect("just opened");
                (end.removable, end.late) = (true, late);
                Ok(())
            }
        }
    }

    fn knows(&self, name: &str) -> bool {
        self.ends.iter().any(|e| e.name == name) || self.ports().any(|p| p.name == name)
    }

    fn ports(&self) -> impl Iterator<Item = &Port> {
        self.hubs.values().flat_map(|h| &h.ports)
    }

    fn nameless(&mut self) -> String {
        self.unnamed += 1;
        format!("#net{:03}", self.unnamed - 1)
    }

    fn open(&mut self, name: String, kind: String, netdev: Netdev, consoles: &Consoles) -> Result<()> {
        let backend: Box<dyn Backend> = match netdev.kind {
            Kind::User(config) => guestfwd::open(*config, consoles)?,
            Kind::VhostUser(options) => Box::new(self.vhost_user(options.chardev, consoles)?),
            _ => netdev.open()?,
        };
        let shared = Shared::new(backend);
        self.ends.push(End { name, kind, shared, place: Place::Nowhere, removable: false, late: false });
        Ok(())
    }

    fn vhost_user(&mut self, chardev: Option<String>, consoles: &Consoles) -> Result<VhostUser> {
        let id = chardev.ok_or_else(|| Error::new("Parameter 'chardev' is missing"))?;
        let what = match consoles.info().iter().any(|(label, ..)| *label == id) {
            true => "is not reconnectable",
            false => "not found",
        };
        let stream = self.streams.remove(&id).ok_or_else(|| Error::new(format!("chardev \"{id}\" {what}")))?;
        VhostUser::new(stream, &format!("vhost-user to {id}"))
    }

    /// Whether the cards of vhost-user can do it; warns if the machine's memory cannot be seen by others.
    pub fn check_vhost(&self, cards: &[info::Nic], shared: bool) -> Result<()> {
        for end in self.ends.iter().filter(|e| e.kind == "vhost-user" && e.place != Place::Nowhere) {
            let card = cards.iter().find(|c| c.netdev.as_ref() == Some(&end.name));
            if !card.is_some_and(|c| c.model.starts_with("virtio-net")) {
                return Err(Error::new("vhost-user requires frontend driver virtio-net-*"));
            }
            if !shared {
                let memory = "consider using -object memory-backend-memfd,share=on and -machine memory-backend=";
                eprintln!("warning: netdev {}: the guest's memory cannot be shared, {memory}", end.name);
            }
        }
        Ok(())
    }

    /// A back end of `-nic` or `-net`; gives its name. `what`: for the message about a name that is taken.
    fn open_short(&mut self, kind: &str, pairs: &[(String, String)], what: &str, consoles: &Consoles) -> Result<String> {
        let netdev = Netdev::from_pairs(kind, pairs)?;
        let named = pairs.iter().any(|(key, _)| key == "id");
        if named {
            check_id(&netdev.id)?;
        }
        if named && self.knows(&netdev.id) {
            return Err(Error::new(format!("Duplicate ID '{}'{what}", netdev.id)));
        }
        let name = if named { netdev.id.clone() } else { self.nameless() };
        if let Kind::HubPort(options) = &netdev.kind {
            let hub = options.hubid.ok_or_else(|| Error::new("Parameter 'hubid' is missing"))?;
            return self.port(hub, Some(name), options.netdev.clone().map_or(Peer::Nobody, Peer::End));
        }
        self.open(name.clone(), kind.into(), netdev, consoles)?;
        Ok(name)
    }

    /// Makes a port of a hub; gives its name.
    fn port(&mut self, number: u32, name: Option<String>, peer: Peer) -> Result<String> {
        let fresh = || HubState { hub: Hub::new(number), ports: Vec::new(), _drivers: Vec::new() };
        let state = self.hubs.entry(number).or_insert_with(fresh);
        let name = name.unwrap_or_else(|| format!("hub{number}port{}", state.ports.len()));
        if let Peer::End(end) = &peer {
            let end = self.ends.iter_mut().find(|e| e.name == *end).ok_or_else(|| Error::new(format!("netdev '{end}' not found")))?;
            if end.place != Place::Nowhere {
                return Err(Error::new(format!("netdev '{}' is already in use", end.name)));
            }
            end.place = Place::Hub(number);
            state._drivers.push(state.hub.attach(Box::new(end.shared.plug()?))?.drive()?);
        }
        state.ports.push(Port { name: name.clone(), peer });
        Ok(name)
    }

    /// The cable that a card's `netdev=` names.
    pub fn plug(&mut self, name: &str) -> Result<Option<Box<dyn Backend>>> {
        let in_use = || Error::new(format!("can't take value '{name}', it's in use"));
        if let Some(end) = self.ends.iter_mut().find(|e| e.name == name) {
            if end.place != Place::Nowhere {
                return Err(in_use());
            }
            end.place = Place::Card;
            return Ok(Some(Box::new(end.shared.plug()?)));
        }
        for state in self.hubs.values_mut() {
            if let Some(port) = state.ports.iter_mut().find(|p| p.name == name) {
                if port.peer != Peer::Nobody {
                    return Err(in_use());
                }
                port.peer = Peer::Card;
                return Ok(Some(Box::new(state.hub.port()?)));
            }
        }
        Ok(None)
    }

    /// `-object filter-dump`.
    pub fn dump(&mut self, options: &DumpOptions) -> Result<()> {
        let end = self.ends.iter().find(|e| e.name == options.netdev);
        let end = end.ok_or_else(|| Error::new("Parameter 'netdev' expects a network backend id"))?;
        if self.filters.iter().any(|f| f.id == options.id) {
            return Err(Error::new(format!("Duplicate ID '{}' for object", options.id)));
        }
        let beside = options.beside().map(|id| (id, self.filters.iter().find(|f| f.id == id)));
        match beside {
            Some((id, None)) => return Err(Error::new(format!("filter '{id}' not found"))),
            Some((id, Some(other))) if other.netdev != options.netdev => {
                return Err(Error::new(format!("filter '{id}' belongs to a different netdev")));
            }
            _ => {}
        }
        if end.shared.with(|b| b.vhost(&mut |_| {})) == Some(true) {
            return Err(Error::new("Vhost is not supported"));
        }
        end.shared.wrap(|inner| Ok(Box::new(options.open(inner)?)))?;
        self.filters.push(options.clone());
        Ok(())
    }

    /// What looks like a mistake, as warnings without their `warning:`.
    pub fn warnings(&self, cards: &[info::Nic]) -> Vec<String> {
        let mut list = Vec::new();
        for (number, state) in &self.hubs {
            let nobody = |p: &&Port| p.peer == Peer::Nobody;
            list.extend(state.ports.iter().filter(nobody).map(|p| format!("hub port {} has no peer", p.name)));
            let has_card = state.ports.iter().any(|p| p.peer == Peer::Card);
            let has_end = state.ports.iter().any(|p| matches!(p.peer, Peer::End(_)));
            match (has_card, has_end) {
                (true, false) => list.push(format!("hub {number} is not connected to host network")),
                (false, true) => list.push(format!("hub {number} with no nics")),
                _ => {}
            }
        }
        let alone = self.ends.iter().filter(|e| e.place == Place::Nowhere);
        list.extend(alone.map(|e| format!("netdev {} has no peer", e.name)));
        let nobody = self.ports().filter(|p| p.peer == Peer::Nobody);
        list.extend(nobody.map(|p| format!("netdev {} has no peer", p.name)));
        list.extend(cards.iter().filter(|c| c.netdev.is_none()).map(|c| format!("nic {} has no peer", c.name)));
        list
    }
}

/// What names a back end.
fn check_id(id: &str) -> Result<()> {
    let well_formed = id.starts_with(|c: char| c.is_ascii_alphabetic()) && id.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    let text = "Parameter 'id' expects an identifier\nIdentifiers consist of letters, digits, '-', '.', '_', starting with a letter.";
    if well_formed { Ok(()) } else { Err(Error::new(text)) }
}

/// The network of a machine that exists, for its monitors.
pub struct Network {
    ends: Mutex<Ends>,
    devices: Arc<Devices>,
}

impl Network {
    pub fn new(ends: Ends, devices: Arc<Devices>) -> Network {
        Network { ends: Mutex::new(ends), devices }
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the host's side of all cables: scripts that take interfaces down run, sockets and Samba's files vanish.
    pub fn close(&self) {
        self.ends().ends.iter().for_each(|end| end.shared.close());
    }

    /// `info network`.
    pub fn network(&self) -> String {
        info::network(&self.ends(), &info::nics(&self.devices))
    }

    /// `info usernet`.
    pub fn usernet(&self) -> String {
        info::usernet(&self.ends())
    }

    /// `netdev_add`.
    pub fn add(&self, pairs: Vec<(String, String)>, consoles: &Consoles) -> Result<()> {
        self.ends().add(pairs, true, consoles)
    }

    /// `netdev_del`. The card that is plugged into it, if any, sees its cable unplugged.
    pub fn remove(&self, name: &str) -> Result<()> {
        let mut ends = self.ends();
        let found = ends.ends.iter().position(|e| e.name == name);
        let at = found.ok_or_else(|| Error::new(format!("Device '{name}' not found")))?;
        if !ends.ends[at].removable {
            return Err(Error::new(format!("Device '{name}' is not a netdev")));
        }
        ends.ends[at].shared.close();
        let end = ends.ends.remove(at);
        for port in ends.hubs.values_mut().flat_map(|h| &mut h.ports).filter(|p| p.peer == Peer::End(name.into())) {
            port.peer = Peer::Nobody;
        }
        drop(ends);
        if end.place == Place::Card {
            self.devices.set_link(name, false);
        }
        Ok(())
    }

    /// `set_link`: by the name of a card or of what it is plugged into.
    pub fn set_link(&self, name: &str, up: bool) -> bool {
        let known = self.ends().knows(name);
        let card = info::nics(&self.devices).into_iter().find(|c| c.name == name || c.netdev.as_deref() == Some(name));
        match card {
            Some(card) => self.devices.set_link_of(card.index, up),
            None => known,
        }
    }

    /// Does something with the user-mode network that a forwarding command means.
    fn user<T>(&self, name: Option<&str>, work: impl FnOnce(&mut dyn Backend) -> Result<T>) -> Result<T> {
        let ends = self.ends();
        let end = match name {
            Some(name) => {
                let found = ends.ends.iter().find(|e| e.name == name);
                found.ok_or_else(|| Error::new(format!("unrecognized netdev id '{name}'")))?
            }
            None => {
                let found = ends.ends.iter().find(|e| e.kind == "user");
                found.ok_or_else(|| Error::new("user mode network stack not in use"))?
            }
        };
        end.shared.with(work).unwrap_or_else(|| Err(Error::new("invalid device specified")))
    }

    /// `hostfwd_add`.
    pub fn forward(&self, name: Option<&str>, rule: &str) -> Result<()> {
        self.user(name, |b| b.hostfwd_add(rule))
    }

    /// `hostfwd_remove`: whether there was such a rule.
    pub fn unforward(&self, name: Option<&str>, rule: &str) -> Result<bool> {
        self.user(name, |b| b.hostfwd_remove(rule))
    }
}

#[cfg(test)]
mod tests;
