//! The comma lists of options: `name,key=value,flag,…`.
//!
//! Reference: QEMU's option grammar: `,,` stands for a comma; a first word without `=` may have an implied key; `flag` means
//! `flag=on`, `noflag` means `flag=off`; `{…}` is JSON whose nesting becomes dots; sizes take the suffixes b k M G T P E.
//!
//! Whoever uses settings takes what it knows; what is left over is the user's mistake (`finish`).

use serde_json::Value;
use spec::{Error, Result, commas};

/// Keys and values in the order given. Of a repeated key the last one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pairs: Vec<(String, String)>,
}

impl Settings {
    /// `implied` is the key of a first word without `=`.
    pub fn parse(text: &str, implied: Option<&str>) -> Result<Settings> {
        if text.trim_start().starts_with('{') {
            return Settings::parse_json(text);
        }
        let mut settings = Settings::default();
        for (index, part) in commas::split(text).into_iter().enumerate() {
            match (part.split_once('='), implied) {
                (Some((key, value)), _) => settings.push(key, value),
                (None, _) if part.is_empty() => {}
                (None, Some(key)) if index == 0 => settings.push(key, &part),
                // `node-name` is no "off"; QEMU's short form only knows the two flags of sockets.
                (None, _) if matches!(part.as_str(), "nowait" | "nodelay" | "noserver") => settings.push(&part[2..], "off"),
                (None, _) => settings.push(&part, "on"),
            }
        }
        Ok(settings)
    }

    fn parse_json(text: &str) -> Result<Settings> {
        let value: Value = serde_json::from_str(text).map_err(|e| Error::new(format!("JSON parse error, {e}")))?;
        let mut settings = Settings::default();
        settings.flatten("", &value);
        Ok(settings)
    }

    fn flatten(&mut self, prefix: &str, value: &Value) {
        let join = |key: &str| if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
        match value {
            Value::Object(map) => map.iter().for_each(|(k, v)| self.flatten(&join(k), v)),
            Value::Array(list) => list.iter().enumerate().for_each(|(i, v)| self.flatten(&join(&i.to_string()), v)),
            Value::String(s) => self.push(prefix, s),
            Value::Bool(b) => self.push(prefix, if *b { "on" } else { "off" }),
            Value::Null => self.push(prefix, ""),
            Value::Number(n) => self.push(prefix, &n.to_string()),
        }
    }

    pub fn push(&mut self, key: &str, value: &str) {
        self.pairs.push((key.to_owned(), value.to_owned()));
    }

    /// Appends what `other` has; of a repeated key `other`'s counts.
    pub fn merge(&mut self, other: Settings) {
        self.pairs.extend(other.pairs);
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    pub fn take(&mut self, key: &str) -> Option<String> {
        let value = self.get(key).map(str::to_owned);
        self.pairs.retain(|(k, _)| k != key);
        value
    }

    pub fn take_bool(&mut self, key: &str) -> Result<Option<bool>> {
        self.take(key).map(|v| boolean(key, &v)).transpose()
    }

    pub fn take_size(&mut self, key: &str) -> Result<Option<u64>> {
        self.take(key).map(|v| size(key, &v, 0)).transpose()
    }

    pub fn take_number(&mut self, key: &str) -> Result<Option<u64>> {
        self.take(key).map(|v| number(key, &v)).transpose()
    }

    /// All pairs, to pass on.
    pub fn into_pairs(self) -> Vec<(String, String)> {
        self.pairs
    }

    /// Nobody took what is left.
    pub fn finish(self) -> Result<()> {
        match self.pairs.first() {
            None => Ok(()),
            Some((key, _)) => Err(Error::new(format!("Invalid parameter '{key}'"))),
        }
    }

    /// As comma list again.
    pub fn to_text(&self) -> String {
        let pair = |(k, v): &(String, String)| format!("{k}={}", commas::doubled(v));
        self.pairs.iter().map(pair).collect::<Vec<_>>().join(",")
    }
}

pub fn boolean(key: &str, value: &str) -> Result<bool> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(Error::new(format!("Parameter '{key}' expects 'on' or 'off'"))),
    }
}

/// Decimal, 0x… or with a leading 0 octal.
pub fn number(key: &str, value: &str) -> Result<u64> {
    let parsed = match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None if value.len() > 1 && value.starts_with('0') => u64::from_str_radix(value, 8),
        None => value.parse(),
    };
    parsed.map_err(|_| Error::new(format!("Parameter '{key}' expects a number")))
}

/// A size; without a suffix it counts in units of `1 << default_shift`.
pub fn size(key: &str, value: &str, default_shift: u32) -> Result<u64> {
    disk::size::parse(value, default_shift).map_err(|_| {
        Error::new(format!(
            "Parameter '{key}' expects a non-negative number below 2^64\nOptional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively."
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_may_have_an_implied_key() {
        let mut s = Settings::parse("virt,secure,path=a,,b=c,nowait,gic-version=3", Some("type")).unwrap();
        assert_eq!(s.take("type").as_deref(), Some("virt"));
        assert_eq!(s.take_bool("secure").unwrap(), Some(true));
        assert_eq!(s.take("path").as_deref(), Some("a,b=c"));
        assert_eq!(s.take_bool("wait").unwrap(), Some(false));
        assert_eq!(s.clone().finish().unwrap_err().sentence(), "Invalid parameter 'gic-version'");
        assert_eq!(s.take_number("gic-version").unwrap(), Some(3));
        s.finish().unwrap();
    }

    #[test]
    fn json_nesting_becomes_dots() {
        let s = Settings::parse(r#"{"driver":"raw","file":{"driver":"file","locking":false},"list":[1,2]}"#, None).unwrap();
        let expected = [("driver", "raw"), ("file.driver", "file"), ("file.locking", "off"), ("list.0", "1"), ("list.1", "2")];
        assert_eq!(s.iter().collect::<Vec<_>>(), expected);
        assert!(Settings::parse("{\"driver\"", None).is_err());
    }

    #[test]
    fn the_last_of_a_repeated_key_counts() {
        let mut s = Settings::parse("a=1,a=2", None).unwrap();
        assert_eq!(s.take("a").as_deref(), Some("2"));
        assert!(s.is_empty());
    }

    #[test]
    fn numbers_and_sizes() {
        assert_eq!(number("a", "0x10").unwrap(), 16);
        assert_eq!(number("a", "010").unwrap(), 8);
        assert_eq!(number("a", "10").unwrap(), 10);
        assert!(number("a", "ten").is_err());
        assert_eq!(size("size", "512", 20).unwrap(), 512 << 20);
        assert_eq!(size("size", "2G", 20).unwrap(), 2 << 30);
        assert!(size("size", "4x", 20).unwrap_err().sentence().starts_with("Parameter 'size' expects a non-negative"));
    }
}
