//! Ethernet addresses, and which one a network card gets when the user names none.

use std::fmt;
use std::str::FromStr;

use spec::error::{Error, Result};

/// The first address given out; each further card gets the next one.
pub const DEFAULT_MAC: Mac = Mac([0x52, 0x54, 0x00, 0x12, 0x34, 0x56]);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    fn offset(self, n: u8) -> Mac {
        let mut mac = self;
        mac.0[5] = mac.0[5].wrapping_add(n);
        mac
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = Error;

    /// Six hexadecimal bytes between `:` or `-`.
    fn from_str(s: &str) -> Result<Mac> {
        let bad = || Error::new(format!("'{s}' is not a MAC address such as {DEFAULT_MAC}"));
        let separator = if s.contains('-') { '-' } else { ':' };
        let mut mac = [0u8; 6];
        let mut fields = s.split(separator);
        for byte in &mut mac {
            let field = fields.next().ok_or_else(bad)?;
            if field.is_empty() || field.len() > 2 || !field.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(field, 16).map_err(|_| bad())?;
        }
        if fields.next().is_some() {
            return Err(bad());
        }
        Ok(Mac(mac))
    }
}

/// Hands out 52:54:00:12:34:56 and upward, skipping what the user has chosen for another card.
#[derive(Debug, Default)]
pub struct MacAllocator {
    used: Vec<Mac>,
}

impl MacAllocator {
    /// Records an address that the user has chosen.
    pub fn reserve(&mut self, mac: Mac) {
        if !self.used.contains(&mac) {
            self.used.push(mac);
        }
    }

    /// The next free default address; `None` when all 256 are taken.
    pub fn allocate(&mut self) -> Option<Mac> {
        let mac = (0..=255).map(|n| DEFAULT_MAC.offset(n)).find(|mac| !self.used.contains(mac))?;
        self.used.push(mac);
        Some(mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_upward_and_skip_the_users_choice() {
        let mut macs = MacAllocator::default();
        macs.reserve("52:54:00:12:34:57".parse().unwrap());
        assert_eq!(macs.allocate().unwrap().to_string(), "52:54:00:12:34:56");
        assert_eq!(macs.allocate().unwrap().to_string(), "52:54:00:12:34:58");
    }

    #[test]
    fn the_last_byte_wraps_and_the_pool_ends() {
        let mut macs = MacAllocator::default();
        let all: Vec<_> = std::iter::from_fn(|| macs.allocate()).collect();
        assert_eq!(all.len(), 256);
        assert_eq!(all[0xff - 0x56 + 1].to_string(), "52:54:00:12:34:00");
    }

    #[test]
    fn parsing_takes_both_separators_and_nothing_else() {
        assert_eq!("52-54-00-12-34-56".parse::<Mac>().unwrap(), DEFAULT_MAC);
        for bad in ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "52:54:00:12:34:5g", "52:54:00:12:34:+5"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
