//! QEMU's `key=value,…` grammar, and options as rows of a table.
//!
//! Each back end has one table of [`Row`]s; parsing, the "unknown option" error and the help text come
//! from it. `,,` stands for a comma inside a value; a key without `=` means `=on`.

use std::net::Ipv4Addr;

use spec::commas;
use spec::error::{Error, Result};

/// One option of a back end whose settings are `C`.
pub struct Row<C: 'static> {
    pub name: &'static str,
    /// For `-netdev TYPE,help`.
    pub help: &'static str,
    pub set: fn(&mut C, &str) -> Result<()>,
}

/// A table of options: `"name" "help" |settings, value| expression;`, where the expression may use `?`.
macro_rules! rows {
    ($($name:literal $help:literal |$settings:ident, $value:ident| $set:expr;)*) => {
        &[$($crate::options::Row {
            name: $name,
            help: $help,
            set: |$settings, $value| {
                $set;
                Ok(())
            },
        }),*]
    };
}
pub(crate) use rows;

/// Splits `a=1,b=x,,y,c` into its pairs.
pub fn split(text: &str) -> Vec<(String, String)> {
    let pair = |field: String| match field.split_once('=') {
        Some((key, value)) => (key.to_string(), value.to_string()),
        None => (field, "on".to_string()),
    };
    commas::split(text).into_iter().filter(|f| !f.is_empty()).map(pair).collect()
}

/// Sets each pair with its row. An option without a row is an error, unless it is the word `no` before one (`norestrict`).
pub fn apply<C>(rows: &[Row<C>], settings: &mut C, pairs: &[(String, String)]) -> Result<()> {
    let find = |key: &str| rows.iter().find(|row| row.name == key);
    for (key, value) in pairs {
        let off = || key.strip_prefix("no").filter(|_| value == "on").and_then(find).map(|row| (row, "off"));
        let found = find(key).map(|row| (row, value.as_str())).or_else(off);
        let (row, value) = found.ok_or_else(|| Error::new(format!("Invalid parameter '{key}'")))?;
        (row.set)(settings, value)?;
    }
    Ok(())
}

/// The lines of `TYPE,help`.
pub fn help<C>(rows: &[Row<C>]) -> String {
    rows.iter().map(|row| format!("  {:<18} {}\n", row.name, row.help)).collect()
}

/// `on` or `off`, with the other spellings of a boolean.
pub fn boolean(name: &str, value: &str) -> Result<bool> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(Error::new(format!("Parameter '{name}' expects 'on' or 'off'"))),
    }
}

pub fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T> {
    value.parse().map_err(|_| Error::new(format!("Parameter '{name}' expects a uint64 value")))
}

/// A number of bytes with an optional suffix, before which there may be a fraction (`1.5k`).
pub fn size(name: &str, value: &str) -> Result<u64> {
    let (digits, shift) = match value.char_indices().next_back() {
        Some((at, c)) if c.is_ascii_alphabetic() => match "bkmgt".find(c.to_ascii_lowercase()) {
            Some(power) => (&value[..at], 10 * power as u32),
            None => (value, 0),
        },
        _ => (value, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let bytes = || {
        let whole: u64 = whole.parse().ok()?;
        // More digits than these are less than a byte.
        let fraction = fraction.get(..fraction.len().min(15))?;
        let part = u128::from(fraction.parse::<u64>().ok()?) * (1 << shift) / 10u128.pow(fraction.len() as u32);
        whole.checked_mul(1 << shift)?.checked_add(part as u64)
    };
    bytes().ok_or_else(|| Error::new(format!("Parameter '{name}' expects a size value")))
}

/// A number at the start of a text as C's `strtol` reads it with base 0, and what follows.
pub fn c_number(text: &str) -> Option<(i64, &str)> {
    let text = text.trim_start();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) if hex.starts_with(|c: char| c.is_ascii_hexdigit()) => (16, hex),
        _ => (if digits.starts_with('0') { 8 } else { 10 }, digits),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    let value = i64::from_str_radix(&digits[..end], radix).ok()?;
    Some((if negative { -value } else { value }, &digits[end..]))
}

/// An IPv4 address with one to four parts, the last of which fills what is left (`127.1`), as C's `inet_aton` reads it.
pub fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = text.split('.').collect();
    let (last, front) = parts.split_last()?;
    let part = |text: &str, limit: u64| {
        let starts = text.starts_with(|c: char| c.is_ascii_digit());
        let (value, rest) = c_number(text).filter(|_| starts)?;
        u64::try_from(value).ok().filter(|v| rest.is_empty() && *v < limit)
    };
    if front.len() > 3 {
        return None;
    }
    let mut address = 0;
    for (index, text) in front.iter().enumerate() {
        address |= part(text, 256)? << (24 - 8 * index);
    }
    address |= part(last, 1 << (32 - 8 * front.len()))?;
    Some(Ipv4Addr::from(address as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting_knows_double_commas_and_bare_keys() {
        let pairs = split("user,id=n0,tftp=/a,,b=c,restrict,");
        let expected = [("user", "on"), ("id", "n0"), ("tftp", "/a,b=c"), ("restrict", "on")];
        assert_eq!(pairs, expected.map(|(k, v)| (k.to_string(), v.to_string())));
    }

    #[test]
    fn sizes_have_suffixes() {
        for (text, bytes) in [("7", 7), ("7b", 7), ("4K", 4096), ("1m", 1 << 20), ("2G", 2 << 30), ("3T", 3 << 40)] {
            assert_eq!(size("s", text).unwrap(), bytes, "{text}");
        }
        assert_eq!(
            (size("s", "1.5k").unwrap(), size("s", "0.25M").unwrap(), size("s", "2.9").unwrap()),
            (1536, 1 << 18, 2)
        );
        for text in [
            "",
            "K",
            "4KK",
            ".5",
            "1.",
            "1.x",
            "1.-5",
            "1.2.3",
            "4x",
            "-1",
            "99999999999999999999",
            "17179869184G",
            "4\u{e9}",
        ] {
            assert!(size("s", text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_unknown_option_is_an_error() {
        let rows: &[Row<u8>] = rows! { "a" "a number" |c, v| *c = number("a", v)?; };
        let mut value = 0;
        apply(rows, &mut value, &split("a=7")).unwrap();
        assert_eq!(value, 7);
        let error = apply(rows, &mut value, &split("b=7")).unwrap_err();
        assert_eq!(error.to_string(), "Invalid parameter 'b'");
        assert_eq!(
            apply(rows, &mut value, &split("a=x")).unwrap_err().to_string(),
            "Parameter 'a' expects a uint64 value"
        );
    }

    #[test]
    fn no_before_a_name_is_off() {
        let rows: &[Row<Option<bool>>] = rows! { "a" "a switch" |c, v| *c = Some(boolean("a", v)?); };
        let mut value = None;
        apply(rows, &mut value, &split("noa")).unwrap();
        assert_eq!(value, Some(false));
        assert_eq!(apply(rows, &mut value, &split("noa=off")).unwrap_err().to_string(), "Invalid parameter 'noa'");
        assert_eq!(apply(rows, &mut value, &split("nob")).unwrap_err().to_string(), "Invalid parameter 'nob'");
    }

    #[test]
    fn addresses_are_read_as_c_does() {
        for (text, expected) in [
            ("10.0.2.15", "10.0.2.15"),
            ("127.1", "127.0.0.1"),
            ("10", "0.0.0.10"),
            ("10.1.258", "10.1.1.2"),
            ("0x7f.010.0.1", "127.8.0.1"),
        ] {
            assert_eq!(ipv4(text), Some(expected.parse().unwrap()), "{text}");
        }
        for text in
            ["", "x", "1.2.3.4.5", "256.1", "1.2.3.256", "1..2", "1.2.", "-1", " 1", "09.1", "4294967296", "1.2.3.4 "]
        {
            assert_eq!(ipv4(text), None, "{text}");
        }
        for (text, expected) in [
            ("22", (22, "")),
            (" +0x10-", (16, "-")),
            ("-5x", (-5, "x")),
            ("010", (8, "")),
            ("0", (0, "")),
            ("0x", (0, "x")),
        ] {
            assert_eq!(c_number(text), Some(expected), "{text}");
        }
        assert_eq!(c_number("x"), None);
    }
}
