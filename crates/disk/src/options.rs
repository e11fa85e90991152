//! Options of a node as a flat table of dotted names, from `a=b,c.d=e`, from `json:{…}` or from code.
//!
//! Reference: QEMU's option grammar (`,,` stands for a comma; JSON nesting becomes dots).

use serde_json::Value;
use spec::commas;
use spec::error::{Error, Result};
use std::collections::BTreeMap;

/// Dotted name → text. Openers take what they know; what is left over is the user's mistake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<String, String>);

impl Options {
    pub fn new() -> Self {
        Options::default()
    }

    /// Parses `key=value,key=value`; a first word without `=` gets the name `implied`, a later one means `=on`.
    pub fn parse(text: &str, implied: Option<&str>) -> Result<Self> {
        let mut options = Options::new();
        for (index, part) in commas::split(text).into_iter().enumerate() {
            match (part.split_once('='), implied) {
                (Some((key, value)), _) => options.set(key, value),
                (None, Some(name)) if index == 0 => options.set(name, &part),
                (None, _) if part.is_empty() => {}
                (None, _) => match part.strip_prefix("no") {
                    Some(name) if !name.is_empty() => options.set(name, "off"),
                    _ => options.set(&part, "on"),
                },
            }
        }
        Ok(options)
    }

    /// Parses the text after `json:`.
    pub fn parse_json(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(&double_quoted(text)).map_err(|e| Error::new(format!("Could not parse the JSON options: {e}")))?;
        if !value.is_object() {
            return Err(Error::new("Invalid JSON object given"));
        }
        let mut options = Options::new();
        options.flatten("", &value);
        Ok(options)
    }

    fn flatten(&mut self, prefix: &str, value: &Value) {
        let join = |key: &str| if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
        match value {
            Value::Object(map) => map.iter().for_each(|(k, v)| self.flatten(&join(k), v)),
            Value::Array(list) => list.iter().enumerate().for_each(|(i, v)| self.flatten(&join(&i.to_string()), v)),
            Value::String(s) => self.set(prefix, s),
            Value::Bool(b) => self.set(prefix, if *b { "on" } else { "off" }),
            Value::Null => self.set(prefix, ""),
            Value::Number(n) => self.set(prefix, &n.to_string()),
        }
    }

    pub fn set(&mut self, key: &str, value: &str) {
        self.0.insert(key.to_owned(), value.to_owned());
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub fn take(&mut self, key: &str) -> Option<String> {
        self.0.remove(key)
    }

    pub fn take_bool(&mut self, key: &str) -> Result<Option<bool>> {
        match self.take(key) {
            None => Ok(None),
            Some(text) => match text.as_str() {
                "on" | "yes" | "true" | "y" => Ok(Some(true)),
                "off" | "no" | "false" | "n" => Ok(Some(false)),
                _ => Err(Error::new(format!("Parameter '{key}' expects 'on' or 'off'"))),
            },
        }
    }

    pub fn take_size(&mut self, key: &str) -> Result<Option<u64>> {
        match self.take(key) {
            None => Ok(None),
            Some(text) => match crate::size::parse(&text, 0) {
                Ok(v) => Ok(Some(v)),
                Err(_) => Err(Error::new(format!(
                    "Parameter '{key}' expects a non-negative number below 2^64\nOptional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively."
                ))),
            },
        }
    }

    pub fn take_number(&mut self, key: &str) -> Result<Option<u64>> {
        match self.take(key) {
            None => Ok(None),
            Some(text) => match text.parse() {
                Ok(v) => Ok(Some(v)),
                Err(_) => Err(Error::new(format!("Parameter '{key}' expects a number"))),
            },
        }
    }

    /// Removes and returns everything below `prefix.`, without the prefix.
    pub fn take_below(&mut self, prefix: &str) -> Options {
        let dotted = format!("{prefix}.");
        let keys: Vec<String> = self.0.keys().filter(|k| k.starts_with(&dotted)).cloned().collect();
        Options(keys.into_iter().map(|k| (k[dotted.len()..].to_owned(), self.0.remove(&k).unwrap_or_default())).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn first_key(&self) -> Option<&str> {
        self.0.keys().next().map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
}

/// QEMU's JSON also takes strings in single quotes; they become the usual ones.
fn double_quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(_), '\\') => match chars.next() {
                Some('\'') => out.push('\''),
                Some(next) => out.extend(['\\', next]),
                None => out.push('\\'),
            },
            (Some(q), c) if c == q => {
                quote = None;
                out.push('"');
            }
            (Some(_), '"') => out.push_str("\\\""),
            (None, '\'' | '"') => {
                quote = Some(c);
                out.push('"');
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_and_json_become_one_flat_table() {
        let o = Options::parse("driver=qcow2,file.filename=a,,b,lazy-refcounts", None).unwrap();
        assert_eq!(o.get("file.filename"), Some("a,b"));
        assert_eq!(o.get("lazy-refcounts"), Some("on"));
        let j = Options::parse_json(r#"{"driver":"qcow2","file":{"driver":"file","filename":"x"},"n":[{"a":true}]}"#).unwrap();
        assert_eq!(j.get("file.driver"), Some("file"));
        assert_eq!(j.get("n.0.a"), Some("on"));
        let s = Options::parse_json(r#"{'driver':'raw', "file":{'filename':'it\'s "x"'}}"#).unwrap();
        assert_eq!(s.get("file.filename"), Some(r#"it's "x""#));
    }

    #[test]
    fn below_takes_the_branch_and_leaves_the_rest() {
        let mut o = Options::parse("file.filename=x,file.locking=off,driver=raw", None).unwrap();
        let below = o.take_below("file");
        assert_eq!(below.get("locking"), Some("off"));
        assert_eq!(o.first_key(), Some("driver"));
    }
}
