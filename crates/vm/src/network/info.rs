//! The texts of `info network` and `info usernet`.

use hw::registry::Devices;
use net::Mac;

use super::{Ends, End, Peer, Place};

/// A card as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Its id, or its model with a number.
    pub name: String,
    pub model: &'static str,
    pub mac: Mac,
    pub netdev: Option<String>,
    /// Its place among the plugged devices.
    pub index: usize,
}

/// All network cards in the order they were made.
pub fn nics(devices: &Devices) -> Vec<Nic> {
    let mut list: Vec<Nic> = Vec::new();
    for (index, device) in devices.plugged().iter().enumerate() {
        let Some(mac) = device.mac else { continue };
        let number = list.iter().filter(|n| n.model == device.driver).count();
        let name = device.id.clone().unwrap_or_else(|| format!("{}.{number}", device.driver));
        list.push(Nic { name, model: device.driver, mac, netdev: device.netdev.clone(), index });
    }
    list
}

fn nic(nic: &Nic) -> String {
    format!("{}: index=0,type=nic,model={},macaddr={}\n", nic.name, nic.model, nic.mac)
}

fn end(ends: &Ends, end: &End) -> String {
    let summary = end.shared.with(|b| b.summary()).unwrap_or_default();
    let mut text = format!("{}: index=0,type={},{summary}\n", end.name, end.kind);
    let mut filters = ends.filters.iter().filter(|f| f.netdev == end.name).peekable();
    if filters.peek().is_some() {
        text += "filters:\n";
    }
    text.extend(filters.map(|f| format!("  - {}\n", f.summary())));
    text
}

/// `info network`: hubs, then back ends without a peer and cards with theirs.
pub fn network(ends: &Ends, nics: &[Nic]) -> String {
    let by_name = |name: &str| ends.ends.iter().find(|e| e.name == name);
    let mut text = String::new();
    for (number, state) in &ends.hubs {
        text += &format!("hub {number}\n");
        for port in state.ports.iter().rev() {
            let peer = match &port.peer {
                Peer::Nobody => None,
                Peer::Card => nics.iter().find(|n| n.netdev.as_ref() == Some(&port.name)).map(nic),
                Peer::End(name) => by_name(name).map(|e| end(ends, e)),
            };
            text += &peer.map_or(format!(" \\ {}\n", port.name), |peer| format!(" \\ {}: {peer}", port.name));
        }
    }
    let alone = |late: bool| ends.ends.iter().filter(move |e| e.place == Place::Nowhere && e.late == late);
    text.extend(alone(false).map(|e| end(ends, e)));
    for card in nics {
        let on_hub = card.netdev.as_ref().is_some_and(|name| ends.ports().any(|p| p.name == *name));
        if on_hub {
            continue;
        }
        text += &nic(card);
        if let Some(peer) = card.netdev.as_deref().and_then(by_name) {
            text += &format!(" \\ {}", end(ends, peer));
        }
    }
    text.extend(alone(true).map(|e| end(ends, e)));
    text
}

/// `info usernet`.
pub fn usernet(ends: &Ends) -> String {
    let mut text = String::new();
    for end in &ends.ends {
        if let Some(Some(table)) = end.shared.with(|b| b.usernet()) {
            let hub = if let Place::Hub(number) = end.place { i64::from(number) } else { -1 };
            text += &format!("Hub {hub} ({}):\n{table}", end.name);
        }
    }
    text
}
