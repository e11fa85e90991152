//! Cards that nobody gave a `-device` for: `-nic`, `-net`, and the default one.
//!
//! Reference: QEMU 10.0.2. `-nic` comes before `-net`; each card takes an address where its option stands, also one
//! whose model does not exist; everything of `-net` is on hub 0.

use console::Consoles;
use hw::registry;
use net::{DEFAULT_MAC, Mac, MacAllocator};
use spec::{Error, Result};

use super::{Ends, Peer};
use crate::config::{Config, Given};

/// What the board's bus holds when nobody asks for another model.
const DEFAULT_MODEL: &str = "virtio-net-pci";
/// The hub of `-net`.
const HUB: u32 = 0;
/// What `-net` can have behind it.
const OLD_TYPES: &[&str] = &["user", "socket", "stream", "dgram", "tap", "bridge"];

/// A card that is to be plugged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// For messages; empty for the default card.
    pub option: String,
    /// `None`: the machine has no such model, which has to be said.
    pub model: Option<&'static str>,
    /// As the user wrote it.
    pub wanted: String,
    pub name: Option<String>,
    pub mac: Mac,
    pub netdev: String,
    pub properties: Vec<(String, String)>,
}

impl Card {
    /// The pairs of a `-device`.
    pub fn pairs(&self) -> Option<Vec<(String, String)>> {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut pairs = vec![pair("driver", self.model?), pair("netdev", &self.netdev), pair("mac", &self.mac.to_string())];
        pairs.extend(self.properties.clone());
        Some(pairs)
    }

    /// The warning about a model that does not exist.
    pub fn missing(&self) -> String {
        let name = self.name.as_deref().unwrap_or("anonymous");
        format!("requested NIC ({name}, model {}) was not created (not supported by this machine?)", self.wanted)
    }
}

/// The device that a card's model names, if this machine has it.
fn model(name: &str) -> Option<&'static str> {
    registry::network_cards().find(|row| row.name == if name == "virtio" { DEFAULT_MODEL } else { name }).map(|row| row.name)
}

/// The text of `-nic model=help`.
pub fn model_help() -> String {
    let mut names: Vec<&str> = registry::network_cards().filter(|row| row.socket == registry::rows::Socket::Pci).map(|row| row.name).collect();
    names.sort_unstable();
    let line = |name: &&str| if *name == DEFAULT_MODEL { format!("{name} (aka virtio)\n") } else { format!("{name}\n") };
    format!("Available NIC models for this configuration:\n{}", names.iter().map(line).collect::<String>())
}

/// The address of a card: what the user chose, or the next one.
fn address(chosen: Option<String>, macs: &mut MacAllocator) -> Result<Mac> {
    // An empty address, or one of zeros, is none.
    let Some(text) = chosen.filter(|text| !text.is_empty() && text.parse::<Mac>().ok() != Some(Mac([0; 6]))) else {
        return macs.allocate().ok_or_else(|| Error::new("there are no addresses left for network cards"));
    };
    let mac: Mac = text.parse().map_err(|_| Error::new("invalid syntax for ethernet address"))?;
    if mac.is_multicast() {
        return Err(Error::new("NIC cannot have multicast MAC address"));
    }
    macs.reserve(mac);
    Ok(mac)
}

/// Opens the back ends of `-nic` and `-net` and gives the cards for them.
pub fn cards(config: &Config, ends: &mut Ends, macs: &mut MacAllocator, consoles: &Consoles) -> Result<Vec<Card>> {
    let mut list = Vec::new();
    if config.defaults.net {
        let netdev = ends.open_short("user", &[], "", consoles)?;
        let mac = macs.allocate().unwrap_or(DEFAULT_MAC);
        let card = Card { option: String::new(), model: model(DEFAULT_MODEL), wanted: DEFAULT_MODEL.into(), name: None, mac, netdev, properties: vec![] };
        list.push(card);
    }
    for given in &config.nics {
        list.extend(nic(given, ends, macs, consoles).map_err(|e| in_option(given, &e))?);
    }
    for given in &config.nets {
        list.extend(net(given, ends, macs, consoles).map_err(|e| in_option(given, &e))?);
    }
    Ok(list)
}

fn in_option(given: &Given, e: &Error) -> Error {
    Error::new(format!("{}: {e}", given.option))
}

/// `-nic TYPE,…,mac=…,model=…`: a back end with its card.
fn nic(given: &Given, ends: &mut Ends, macs: &mut MacAllocator, consoles: &Consoles) -> Result<Option<Card>> {
    let mut s = given.settings.clone();
    let kind = s.take("type").unwrap_or_else(|| "user".into());
    if kind == "none" {
        return Ok(None);
    }
    let wanted = s.take("model").unwrap_or_else(|| "virtio".into());
    let chosen = s.take("mac");
    let name = s.iter().find(|(key, _)| *key == "id").map(|(_, id)| id.to_owned());
    let netdev = ends.open_short(&kind, &s.into_pairs(), "", consoles)?;
    let mac = address(chosen, macs)?;
    Ok(Some(Card { option: given.option.clone(), model: model(&wanted), wanted, name, mac, netdev, properties: vec![] }))
}

/// `-net nic,…` or `-net TYPE,…`: half of what is on the hub.
fn net(given: &Given, ends: &mut Ends, macs: &mut MacAllocator, consoles: &Consoles) -> Result<Option<Card>> {
    let mut s = given.settings.clone();
    let kind = s.take("type").ok_or_else(|| Error::new("Parameter 'type' is missing"))?;
    match kind.as_str() {
        "none" => Ok(None),
        "nic" => {
            let mac = address(s.take("macaddr"), macs)?;
            let wanted = s.take("model").unwrap_or_else(|| "virtio".into());
            let name = s.take("id");
            let mut properties = Vec::new();
            for key in ["addr", "vectors"] {
                properties.extend(s.take(key).map(|value| (key.to_owned(), value)));
            }
            let netdev = s.take("netdev");
            s.finish()?;
            let netdev = match netdev {
                Some(name) if ends.knows(&name) => name,
                Some(name) => return Err(Error::new(format!("netdev '{name}' not found"))),
                None => ends.port(HUB, None, Peer::Nobody)?,
            };
            // Only some cards have vectors; the others have always ignored the word here.
            let model = model(&wanted);
            properties.retain(|(key, _)| key != "vectors" || model.is_some_and(|m| m.starts_with("virtio-net-pci")));
            Ok(Some(Card { option: given.option.clone(), model, wanted, name, mac, netdev, properties }))
        }
        kind if OLD_TYPES.contains(&kind) => {
            let end = ends.open_short(kind, &s.into_pairs(), " for net", consoles)?;
            ends.port(HUB, None, Peer::End(end))?;
            Ok(None)
        }
        "hubport" => Err(Error::new("network backend 'hubport' is only supported with -netdev/-nic")),
        other => Err(Error::new(format!("Parameter 'type' does not accept value '{other}'"))),
    }
}
