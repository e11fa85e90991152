//! The control queue: receive filter, address, offloads.
//!
//! Reference: VIRTIO 1.2, 5.1.6.5.

use std::collections::HashSet;

use net::Mac;

use super::{CTRL, Net, feature};
use crate::virtio::device::{Core, KICK_MAX};
use crate::virtio::ring::{Cursor, Fault};

/// Addresses in each table; a driver that has more gets everything.
const TABLE_MAX: usize = 64;
/// Bytes of a command that are looked at.
const COMMAND_MAX: u64 = 64 * 1024;
const VLANS: usize = 4096;

const CLASS_RX: u8 = 0;
const CLASS_MAC: u8 = 1;
const CLASS_VLAN: u8 = 2;
const CLASS_OFFLOADS: u8 = 5;
const ACK_OK: u8 = 0;
const ACK_ERR: u8 = 1;

/// Which frames the driver wants.
pub struct Filter {
    promiscuous: bool,
    all_multicast: bool,
    all_unicast: bool,
    no_multicast: bool,
    no_unicast: bool,
    no_broadcast: bool,
    unicast: Option<HashSet<Mac>>,
    multicast: Option<HashSet<Mac>>,
    /// `None`: every VLAN, as before the driver says anything.
    vlans: Option<Box<[bool; VLANS]>>,
}

impl Filter {
    /// As after a reset: everything.
    pub fn new() -> Filter {
        Filter {
            promiscuous: true,
            all_multicast: false,
            all_unicast: false,
            no_multicast: false,
            no_unicast: false,
            no_broadcast: false,
            unicast: Some(HashSet::new()),
            multicast: Some(HashSet::new()),
            vlans: None,
        }
    }

    /// Whether a frame that starts like this goes to the driver of the card with this address.
    pub fn admits(&self, start: &[u8], mac: Mac) -> bool {
        let Some(to) = start.first_chunk::<6>().map(|b| Mac(*b)) else { return false };
        if self.promiscuous {
            return true;
        }
        if let (Some(vlans), [0x81, 0x00, high, low]) = (&self.vlans, start.get(12..16).unwrap_or(&[])) {
            let vlan = usize::from(u16::from_be_bytes([*high, *low]) & 0xfff);
            if !vlans[vlan] {
                return false;
            }
        }
        if to == Mac::BROADCAST {
            return !self.no_broadcast;
        }
        let (none, all, table) = if to.is_multicast() {
            (self.no_multicast, self.all_multicast, &self.multicast)
        } else {
            (self.no_unicast, self.all_unicast || to == mac, &self.unicast)
        };
        !none && (all || table.as_ref().is_none_or(|t| t.contains(&to)))
    }

    fn set_mode(&mut self, command: u8, on: bool) -> bool {
        let mode = match command {
            0 => &mut self.promiscuous,
            1 => &mut self.all_multicast,
            2 => &mut self.all_unicast,
            3 => &mut self.no_multicast,
            4 => &mut self.no_unicast,
            5 => &mut self.no_broadcast,
            _ => return false,
        };
        *mode = on;
        true
    }

    /// Two tables, each a count and that many addresses: unicast, then multicast.
    fn set_tables(&mut self, data: &[u8]) -> bool {
        let Some((unicast, rest)) = table(data) else { return false };
        let Some((multicast, _)) = table(rest) else { return false };
        (self.unicast, self.multicast) = (unicast, multicast);
        true
    }

    fn set_vlan(&mut self, vlan: u16, on: bool) -> bool {
        let vlans = self.vlans.get_or_insert_with(|| Box::new([false; VLANS]));
        match vlans.get_mut(usize::from(vlan)) {
            Some(place) => {
                *place = on;
                true
            }
            None => false,
        }
    }
}

/// A table at the start of `data`, and what follows it. A table that is too long admits everything.
fn table(data: &[u8]) -> Option<(Option<HashSet<Mac>>, &[u8])> {
    let (count, rest) = data.split_first_chunk::<4>()?;
    let count = u32::from_le_bytes(*count) as usize;
    let bytes = count.checked_mul(6).filter(|&n| n <= rest.len())?;
    let (entries, rest) = rest.split_at(bytes);
    let set = || entries.chunks_exact(6).map(|c| Mac([c[0], c[1], c[2], c[3], c[4], c[5]])).collect();
    Some(((count <= TABLE_MAX).then(set), rest))
}

impl Net {
    pub(super) fn control(&mut self, core: &mut Core) -> Result<(), Fault> {
        for n in 0.. {
            if n == KICK_MAX {
                core.again(CTRL);
                break;
            }
            let Some(chain) = core.pop(CTRL)? else { break };
            let mut from = Cursor::new(chain.readable());
            if from.left() < 2 || chain.writable().is_empty() {
                return Err(Fault("a control command has no header or no place for the answer"));
            }
            let mut command = vec![0; from.left().min(COMMAND_MAX) as usize];
            from.read(&core.memory, &mut command)?;
            let done = self.command(core, command[0], command[1], &command[2..]);
            if !done {
                self.report(format_args!("control command {}.{} is refused", command[0], command[1]));
            }
            Cursor::new(chain.writable()).write(&core.memory, &[if done { ACK_OK } else { ACK_ERR }])?;
            core.put(CTRL, chain.head, 1)?;
        }
        core.finish(CTRL)
    }

    fn command(&mut self, core: &mut Core, class: u8, command: u8, data: &[u8]) -> bool {
        match (class, command, data) {
            (CLASS_RX, 0 | 1, [on, ..]) => core.has(feature::CTRL_RX) && self.filter.set_mode(command, *on != 0),
            (CLASS_RX, _, [on, ..]) => core.has(feature::CTRL_RX_EXTRA) && self.filter.set_mode(command, *on != 0),
            (CLASS_MAC, 0, _) => core.has(feature::CTRL_RX) && self.filter.set_tables(data),
            (CLASS_MAC, 1, &[a, b, c, d, e, f]) if core.has(feature::CTRL_MAC_ADDR) => {
                self.mac = Mac([a, b, c, d, e, f]);
                true
            }
            (CLASS_VLAN, 0 | 1, &[low, high]) if core.has(feature::CTRL_VLAN) => {
                self.filter.set_vlan(u16::from_le_bytes([low, high]), command == 0)
            }
            (CLASS_OFFLOADS, 0, _) if core.has(feature::CTRL_GUEST_OFFLOADS) => {
                let Some(bytes) = data.first_chunk::<8>() else { return false };
                let wanted = u64::from_le_bytes(*bytes);
                let allowed = core.accepted() & feature::OFFLOADS;
                if wanted & !allowed != 0 {
                    return false;
                }
                self.set_offloads(wanted);
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const GROUP: [u8; 6] = [1, 0, 0x5e, 0, 0, 1];

    fn frame(to: [u8; 6], vlan: Option<u16>) -> Vec<u8> {
        let mut frame = to.to_vec();
        frame.extend([2; 6]);
        match vlan {
            Some(vlan) => {
                frame.extend([0x81, 0]);
                frame.extend(vlan.to_be_bytes());
            }
            None => frame.extend([8, 0, 0, 0]),
        }
        frame
    }

    #[test]
    fn modes_and_tables_decide() {
        let mut f = Filter::new();
        let admitted = |f: &Filter| [MINE.0, OTHER, GROUP, [0xff; 6]].map(|to| f.admits(&frame(to, None), MINE));
        assert_eq!(admitted(&f), [true; 4]);
        f.set_mode(0, false);
        assert_eq!(admitted(&f), [true, false, false, true]);
        f.set_mode(1, true);
        f.set_mode(2, true);
        assert_eq!(admitted(&f), [true; 4]);
        f.set_mode(5, true);
        f.set_mode(3, true);
        f.set_mode(4, true);
        assert_eq!(admitted(&f), [false; 4]);
        assert!(!f.set_mode(6, true));
        let mut f = Filter::new();
        f.set_mode(0, false);
        let mut tables = vec![1, 0, 0, 0];
        tables.extend(OTHER);
        tables.extend([1, 0, 0, 0]);
        tables.extend(GROUP);
        assert!(f.set_tables(&tables));
        assert_eq!(admitted(&f), [true; 4]);
        assert!(!f.set_tables(&tables[..13]));
        assert!(!f.set_tables(&[0xff; 8]));
        let mut long = vec![65, 0, 0, 0];
        long.extend([3; 65 * 6]);
        long.extend([0; 4]);
        assert!(f.set_tables(&long));
        assert_eq!(admitted(&f), [true, true, false, true], "too many to tell apart");
    }

    #[test]
    fn vlans_decide() {
        let mut f = Filter::new();
        f.set_mode(0, false);
        assert!(f.admits(&frame(MINE.0, Some(7)), MINE));
        f.set_vlan(5, true);
        assert!(!f.admits(&frame(MINE.0, Some(7)), MINE));
        assert!(f.admits(&frame(MINE.0, Some(0x2005)), MINE));
        assert!(f.admits(&frame(MINE.0, None), MINE));
        assert!(!f.set_vlan(4096, true));
        assert!(!f.admits(&[1, 2], MINE));
    }
}
