//! QEMU's `key=value,…` grammar, and options as rows of a table.
//!
//! Each back end has one table of [`Row`]s; parsing, the "unknown option" error and the help text come
//! from it. `,,` stands for a comma inside a value; a key without `=` means `=on`.

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
    let mut fields = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ',' if chars.peek() == Some(&',') => {
                chars.next();
                fields.last_mut().expect("never empty").push(',');
            }
            ',' => fields.push(String::new()),
            c => fields.last_mut().expect("never empty").push(c),
        }
    }
    let pair = |field: String| match field.split_once('=') {
        Some((key, value)) => (key.to_string(), value.to_string()),
        None => (field, "on".to_string()),
    };
    fields.into_iter().filter(|f| !f.is_empty()).map(pair).collect()
}

/// Sets each pair with its row. An option without a row is an error.
pub fn apply<C>(rows: &[Row<C>], settings: &mut C, pairs: &[(String, String)]) -> Result<()> {
    for (key, value) in pairs {
        let row = rows.iter().find(|row| row.name == key);
        let row = row.ok_or_else(|| Error::new(format!("Invalid parameter '{key}'")))?;
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
    value.parse().map_err(|_| Error::new(format!("Parameter '{name}' expects a number")))
}

/// A number of bytes with an optional suffix.
pub fn size(name: &str, value: &str) -> Result<u64> {
    let (digits, shift) = match value.char_indices().next_back() {
        Some((at, c)) if c.is_ascii_alphabetic() => match "bkmgt".find(c.to_ascii_lowercase()) {
            Some(power) => (&value[..at], 10 * power as u32),
            None => (value, 0),
        },
        _ => (value, 0),
    };
    let bytes = number::<u64>(name, digits)?.checked_mul(1 << shift);
    bytes.ok_or_else(|| Error::new(format!("Parameter '{name}' expects a size below 2^64")))
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
        for text in ["", "K", "4KK", "4x", "-1", "99999999999999999999", "17179869184G", "4\u{e9}"] {
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
        assert_eq!(apply(rows, &mut value, &split("a=x")).unwrap_err().to_string(), "Parameter 'a' expects a number");
    }
}
