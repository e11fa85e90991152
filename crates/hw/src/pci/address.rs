//! Where a function sits: bus, slot (device number) and function.
//!
//! Reference: PCI Local Bus Specification 3.0, 3.2.2.3; the spelling of `addr=` follows QEMU (`06.0`, `6`, hexadecimal).

use std::fmt;

pub const SLOTS: u8 = 32;
pub const FUNCTIONS: u8 = 8;

/// A slot and function on one bus.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct SlotFunction {
    pub slot: u8,
    pub function: u8,
}

impl SlotFunction {
    pub const fn new(slot: u8, function: u8) -> SlotFunction {
        assert!(slot < SLOTS && function < FUNCTIONS, "no such slot or function");
        SlotFunction { slot, function }
    }

    /// `6`, `06.0`, `1f.7`; `None` for anything else.
    pub fn parse(text: &str) -> Option<SlotFunction> {
        let (slot, function) = text.split_once('.').unwrap_or((text, "0"));
        let hex = |text: &str| {
            let digits = text.strip_prefix("0x").unwrap_or(text);
            let all = !digits.is_empty() && digits.len() <= 2 && digits.bytes().all(|c| c.is_ascii_hexdigit());
            all.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
        };
        let (slot, function) = (hex(slot)?, hex(function)?);
        (slot < SLOTS && function < FUNCTIONS).then_some(SlotFunction { slot, function })
    }

    /// The low byte of a requester number.
    pub fn devfn(self) -> u8 {
        self.slot << 3 | self.function
    }

    pub fn from_devfn(devfn: u8) -> SlotFunction {
        SlotFunction { slot: devfn >> 3, function: devfn & 7 }
    }
}

impl fmt::Display for SlotFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}.{:x}", self.slot, self.function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hexadecimal() {
        for (text, expected) in [
            ("5", Some((5, 0))),
            ("05.1", Some((5, 1))),
            ("1f.7", Some((31, 7))),
            ("0x1f", Some((31, 0))),
            ("33", None),
            ("5.9", None),
            ("zz", None),
            ("", None),
            ("5.", None),
            ("+5", None),
        ] {
            let expected = expected.map(|(slot, function)| SlotFunction { slot, function });
            assert_eq!(SlotFunction::parse(text), expected, "{text}");
        }
        assert_eq!(SlotFunction::new(5, 1).to_string(), "05.1");
        assert_eq!(SlotFunction::from_devfn(SlotFunction::new(31, 7).devfn()), SlotFunction::new(31, 7));
    }
}
