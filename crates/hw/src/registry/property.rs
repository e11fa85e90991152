//! Properties of devices: rows with a type, and values that were parsed by them.
//!
//! Reference: the messages follow QEMU 10.

use std::collections::BTreeMap;

use net::Mac;
use spec::{Error, Result};

use crate::pci::SlotFunction;

/// What a property takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Bool,
    OnOffAuto,
    U8,
    U16,
    U32,
    U64,
    I32,
    Size,
    Str,
    /// What a back end is called.
    Drive,
    Netdev,
    Chardev,
    Rng,
    Mac,
    /// Slot and function.
    Addr,
    /// What to do on errors of a disk.
    OnError,
    /// A power of two from 512 to 2 MiB.
    BlockSize,
    /// `on` or `off`, of which only one is built.
    Only(bool),
    /// Taken for compatibility: there is nothing a guest could notice.
    Hint,
}

impl Kind {
    /// The type as help shows it.
    fn name(self) -> &'static str {
        match self {
            Kind::Bool | Kind::Only(_) | Kind::Hint => "bool",
            Kind::OnOffAuto => "OnOffAuto",
            Kind::U8 => "uint8",
            Kind::U16 => "uint16",
            Kind::U32 => "uint32",
            Kind::U64 => "uint64",
            Kind::I32 => "int32",
            Kind::Size | Kind::BlockSize => "size",
            Kind::Str | Kind::Drive | Kind::Netdev | Kind::Chardev | Kind::Mac | Kind::Addr => "str",
            Kind::Rng => "link<rng-backend>",
            Kind::OnError => "BlockdevOnError",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Kind::Bool | Kind::Only(_) | Kind::Hint => "on/off",
            Kind::OnOffAuto => "on/off/auto",
            Kind::OnError => "Error handling policy (report/ignore/auto)",
            Kind::Drive => "Node name or ID of a block device to use as a backend",
            Kind::Netdev => "ID of a netdev to use as a backend",
            Kind::Chardev => "ID of a chardev to use as a backend",
            Kind::Mac => "Ethernet 6-byte MAC Address, example: 52:54:00:12:34:56",
            Kind::Addr => "Slot and optional function number, example: 06.0 or 06",
            Kind::BlockSize => "A power of two between 512 B and 2 MiB",
            _ => "",
        }
    }
}

/// One property.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    pub name: &'static str,
    pub kind: Kind,
    /// As help shows it; empty: none.
    pub default: &'static str,
}

/// Rows of one part of a device: `"name" Kind "default";`.
macro_rules! properties {
    ($($name:literal $kind:ident $(($only:literal))? $default:literal;)*) => {
        &[$($crate::registry::property::Property {
            name: $name,
            kind: $crate::registry::property::Kind::$kind $(($only))?,
            default: $default,
        }),*]
    };
}
pub(crate) use properties;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Value {
    Bool(bool),
    /// `None` is `auto`.
    Choice(Option<bool>),
    Number(i128),
    Text(String),
    Mac(Mac),
    Addr(SlotFunction),
}

/// The properties that the user set, parsed.
#[derive(Debug, Default)]
pub struct Values(BTreeMap<&'static str, Value>);

/// A group of properties with the type that messages name.
#[derive(Clone, Debug)]
pub struct Group {
    pub owner: String,
    pub rows: &'static [Property],
}

/// The line of `-device X,help` for a property.
fn help_line(row: &Property) -> String {
    let name = format!("{}=<{}>", row.name, row.kind.name());
    let default = if row.default.is_empty() { String::new() } else { format!("(default: {})", row.default) };
    let description = row.kind.description();
    if default.is_empty() && description.is_empty() {
        return format!("  {name}\n");
    }
    let gap = if default.is_empty() { "" } else { " " };
    format!("  {name:<22} - {description}{gap}{default}\n")
}

/// The text of `-device X,help`.
pub fn help(device: &str, groups: &[Group]) -> String {
    let mut lines: Vec<String> = groups.iter().flat_map(|g| g.rows).map(help_line).collect();
    lines.sort();
    format!("{device} options:\n{}", lines.concat())
}

impl Values {
    /// Sets one property by the row that has its name. `device` is what an unknown property is said to be missing from.
    pub fn set(&mut self, device: &str, groups: &[Group], name: &str, text: &str) -> Result<()> {
        let found = groups.iter().find_map(|g| g.rows.iter().find(|r| r.name == name).map(|r| (g, r)));
        let (group, row) = found.ok_or_else(|| Error::new(format!("Property '{device}.{name}' not found")))?;
        let value = parse(&group.owner, row, text)?;
        self.0.insert(row.name, value);
        Ok(())
    }

    fn get(&self, groups: &[Group], name: &str) -> Option<Value> {
        if let Some(value) = self.0.get(name) {
            return Some(value.clone());
        }
        let row = groups.iter().flat_map(|g| g.rows).find(|r| r.name == name)?;
        if row.default.is_empty() {
            return None;
        }
        // A default that stands for "the device decides" has no value of its type.
        parse("", row, row.default).ok()
    }
}

/// Values with the rows that give defaults.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    pub values: &'a Values,
    pub groups: &'a [Group],
}

impl Reader<'_> {
    fn get(&self, name: &str) -> Option<Value> {
        let known = self.groups.iter().any(|g| g.rows.iter().any(|r| r.name == name));
        assert!(known, "no row for the property '{name}'");
        self.values.get(self.groups, name)
    }

    pub fn bool(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Value::Bool(true)))
    }

    /// `None` is `auto`.
    pub fn choice(&self, name: &str) -> Option<bool> {
        match self.get(name) {
            Some(Value::Choice(choice)) => choice,
            _ => None,
        }
    }

    /// A number, if one was given or the row has a default.
    pub fn number<T: TryFrom<i128>>(&self, name: &str) -> Option<T> {
        match self.get(name) {
            Some(Value::Number(n)) => T::try_from(n).ok(),
            _ => None,
        }
    }

    /// A number that the user gave.
    pub fn given<T: TryFrom<i128>>(&self, name: &str) -> Option<T> {
        if self.values.0.contains_key(name) { self.number(name) } else { None }
    }

    pub fn text(&self, name: &str) -> Option<String> {
        match self.get(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub fn mac(&self, name: &str) -> Option<Mac> {
        match self.get(name) {
            Some(Value::Mac(mac)) => Some(mac),
            _ => None,
        }
    }

    pub fn addr(&self, name: &str) -> Option<SlotFunction> {
        match self.get(name) {
            Some(Value::Addr(addr)) => Some(addr),
            _ => None,
        }
    }
}

/// `on` or `off`, with the other spellings of a boolean.
pub fn boolean(name: &str, text: &str) -> Result<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(Error::new(format!("Parameter '{name}' expects 'on' or 'off'"))),
    }
}

fn parse(owner: &str, row: &Property, text: &str) -> Result<Value> {
    let Property { name, kind, .. } = *row;
    let refuse = || Error::new(format!("Property '{owner}.{name}' doesn't take value '{text}'"));
    Ok(match kind {
        Kind::Bool | Kind::Hint => Value::Bool(boolean(name, text)?),
        Kind::Only(built) => match boolean(name, text)? {
            on if on == built => Value::Bool(on),
            on => return Err(Error::new(format!("Property '{owner}.{name}' = {} is not supported", if on { "on" } else { "off" }))),
        },
        Kind::OnOffAuto if text == "auto" => Value::Choice(None),
        Kind::OnOffAuto => Value::Choice(Some(boolean(name, text).map_err(|_| not_accepted(name, text))?)),
        Kind::OnError => match text {
            "report" | "auto" | "ignore" => Value::Text(text.into()),
            "stop" | "enospc" => return Err(Error::new(format!("Property '{owner}.{name}' = {text} is not supported"))),
            _ => return Err(not_accepted(name, text)),
        },
        Kind::U8 => integer(name, text, 0, u8::MAX.into(), "uint8_t")?,
        Kind::U16 => integer(name, text, 0, u16::MAX.into(), "uint16_t")?,
        Kind::U32 => integer(name, text, 0, u32::MAX.into(), "uint32_t")?,
        Kind::U64 => integer(name, text, 0, u64::MAX.into(), "uint64_t")?,
        Kind::I32 => integer(name, text, i32::MIN.into(), i32::MAX.into(), "int32_t")?,
        Kind::Size => Value::Number(size(name, text)?),
        Kind::BlockSize => Value::Number(block_size(name, text)?),
        Kind::Str | Kind::Drive | Kind::Netdev | Kind::Chardev | Kind::Rng => Value::Text(text.into()),
        Kind::Mac => Value::Mac(text.parse().map_err(|_| refuse())?),
        Kind::Addr => Value::Addr(SlotFunction::parse(text).ok_or_else(refuse)?),
    })
}

fn not_accepted(name: &str, text: &str) -> Error {
    Error::new(format!("Parameter '{name}' does not accept value '{text}'"))
}

fn integer(name: &str, text: &str, min: i128, max: i128, kind: &str) -> Result<Value> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => i128::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    let value = value.map_err(|_| Error::new(format!("Parameter '{name}' expects integer")))?;
    let value = if digits.len() < text.len() { -value } else { value };
    if value < min || value > max {
        return Err(Error::new(format!("Parameter '{name}' expects {kind}")));
    }
    Ok(Value::Number(value))
}

fn size(name: &str, text: &str) -> Result<i128> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let Ok(Value::Number(n)) = integer(name, digits, 0, u64::MAX.into(), "size") else {
        return Err(Error::new(format!("Parameter '{name}' expects a size")));
    };
    let bytes = n << shift;
    if bytes > u64::MAX.into() {
        return Err(Error::new(format!("Parameter '{name}' expects a size")));
    }
    Ok(bytes)
}

fn block_size(name: &str, text: &str) -> Result<i128> {
    let bytes = size(name, text)?;
    let fits = bytes == 0 || (512..=2 << 20).contains(&bytes) && (bytes as u64).is_power_of_two();
    if fits { Ok(bytes) } else { Err(Error::new(format!("parameter {name} must be a power of 2 between 512 and 2097152"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &[Property] = properties! {
        "addr" Addr "-1";
        "event_idx" Bool "on";
        "packed" Only(false) "off";
        "legacy" OnOffAuto "auto";
        "vectors" U32 "4294967295";
        "queue-size" U16 "256";
        "block" BlockSize "0";
        "granularity" Size "";
        "serial" Str "";
        "mac" Mac "";
        "bootindex" I32 "";
        "werror" OnError "auto";
    };

    fn groups() -> Vec<Group> {
        vec![Group { owner: "x-device".into(), rows: ROWS }]
    }

    fn fails(name: &str, text: &str) -> String {
        Values::default().set("x-pci", &groups(), name, text).unwrap_err().to_string()
    }

    #[test]
    fn values_have_their_types() {
        let (mut values, groups) = (Values::default(), groups());
        for (name, text) in
            [("addr", "5.1"), ("queue-size", "0x40"), ("granularity", "4K"), ("serial", "x"), ("bootindex", "-1"), ("legacy", "off")]
        {
            values.set("x-pci", &groups, name, text).unwrap();
        }
        let r = Reader { values: &values, groups: &groups };
        assert_eq!(r.addr("addr"), Some(SlotFunction::new(5, 1)));
        assert_eq!((r.number::<u16>("queue-size"), r.number::<u64>("granularity")), (Some(64), Some(4096)));
        assert_eq!((r.text("serial").as_deref(), r.number::<i32>("bootindex")), (Some("x"), Some(-1)));
        assert_eq!((r.choice("legacy"), r.bool("event_idx"), r.bool("packed")), (Some(false), true, false));
        assert_eq!((r.number::<u32>("vectors"), r.given::<u32>("vectors"), r.mac("mac")), (Some(u32::MAX), None, None));
    }

    #[test]
    fn errors_name_the_property() {
        for (name, text, expected) in [
            ("foo", "1", "Property 'x-pci.foo' not found"),
            ("addr", "zz", "Property 'x-device.addr' doesn't take value 'zz'"),
            ("mac", "zz", "Property 'x-device.mac' doesn't take value 'zz'"),
            ("event_idx", "maybe", "Parameter 'event_idx' expects 'on' or 'off'"),
            ("packed", "on", "Property 'x-device.packed' = on is not supported"),
            ("legacy", "foo", "Parameter 'legacy' does not accept value 'foo'"),
            ("vectors", "abc", "Parameter 'vectors' expects integer"),
            ("queue-size", "4294967296", "Parameter 'queue-size' expects uint16_t"),
            ("block", "100", "parameter block must be a power of 2 between 512 and 2097152"),
            ("werror", "foo", "Parameter 'werror' does not accept value 'foo'"),
            ("werror", "stop", "Property 'x-device.werror' = stop is not supported"),
        ] {
            assert_eq!(fails(name, text), expected);
        }
    }

    #[test]
    fn help_is_sorted_and_aligned() {
        let text = help("x-pci", &groups());
        let expected = "x-pci options:\n  addr=<str>             - Slot and optional function number, example: 06.0 or 06 (default: -1)\n  block=<size>           - A power of two between 512 B and 2 MiB (default: 0)\n  bootindex=<int32>\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("  vectors=<uint32>       -  (default: 4294967295)\n"), "{text}");
        assert!(text.contains("  mac=<str>              - Ethernet 6-byte MAC Address, example: 52:54:00:12:34:56\n"), "{text}");
    }
}
