//! The text that describes a VMDK image: identifiers, extents, geometry.
//!
//! Reference: VMware, "Virtual Disk Format 5.0", "The Descriptor File".

use spec::error::{Error, Result};

/// A descriptor longer than this is not one.
pub const MAX_BYTES: u64 = 1 << 20;
pub const NO_PARENT: u32 = 0xffff_ffff;
const MAX_EXTENTS: usize = 10_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Raw data from this sector of the file.
    Flat(u64),
    Sparse,
    Zero,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    pub sectors: u64,
    pub kind: Kind,
    pub name: String,
}

#[derive(Clone, Debug, Default)]
pub struct Descriptor {
    pub text: String,
    pub cid: u32,
    pub parent_cid: u32,
    pub create_type: String,
    pub parent_name: Option<String>,
    pub extents: Vec<Row>,
}

impl Descriptor {
    pub fn parse(bytes: &[u8]) -> Result<Descriptor> {
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut d = Descriptor { parent_cid: NO_PARENT, text, ..Descriptor::default() };
        for line in d.text.clone().lines() {
            let line = line.trim_end_matches('\r');
            let hex = |v: &str| u32::from_str_radix(v.trim(), 16).map_err(|_| Error::new("Failed to parse CID"));
            let unquote = |v: &str| v.trim().trim_matches('"').to_owned();
            match line.split_once('=') {
                Some(("CID", v)) => d.cid = hex(v)?,
                Some(("parentCID", v)) => d.parent_cid = hex(v)?,
                Some(("createType", v)) => d.create_type = unquote(v),
                Some(("parentFileNameHint", v)) => d.parent_name = Some(unquote(v)),
                _ => d.extent(line)?,
            }
        }
        if d.create_type.is_empty() {
            return Err(Error::new("invalid VMDK image descriptor"));
        }
        match d.create_type.as_str() {
            "monolithicFlat"
            | "vmfs"
            | "vmfsSparse"
            | "seSparse"
            | "twoGbMaxExtentSparse"
            | "twoGbMaxExtentFlat"
            | "monolithicSparse"
            | "streamOptimized"
            | "custom" => Ok(d),
            other => Err(Error::new(format!("Unsupported image type '{other}'"))),
        }
    }

    /// `RW 20480 SPARSE "a.vmdk"`, `RW 100 FLAT "a-flat.vmdk" 0`, `RW 100 ZERO`; other lines are not extents.
    fn extent(&mut self, line: &str) -> Result<()> {
        let mut words = line.splitn(4, ' ');
        let access = words.next().unwrap_or("");
        if !["RW", "RDONLY"].contains(&access) {
            return Ok(());
        }
        let bad = || Error::new(format!("Invalid extent line: {line}"));
        let sectors: u64 = words
            .next()
            .and_then(|w| w.parse().ok())
            .filter(|s| *s > 0 && *s <= i64::MAX as u64 / 512)
            .ok_or_else(bad)?;
        let kind = words.next().ok_or_else(bad)?;
        let rest = words.next().unwrap_or("");
        let quoted: Vec<&str> = rest.splitn(3, '"').collect();
        let name = quoted.get(1).copied().unwrap_or("").to_owned();
        let offset = quoted.get(2).map_or("", |t| t.trim());
        let kind = match kind {
            "FLAT" => Kind::Flat(offset.parse().map_err(|_| bad())?),
            "VMFS" => Kind::Flat(offset.parse().unwrap_or(0)),
            "SPARSE" => Kind::Sparse,
            "ZERO" => Kind::Zero,
            other => return Err(Error::new(format!("Unsupported extent type '{other}'"))),
        };
        if kind != Kind::Zero && name.is_empty() {
            return Err(bad());
        }
        if self.extents.len() >= MAX_EXTENTS {
            return Err(Error::new("Too many extents"));
        }
        self.extents.push(Row { sectors, kind, name });
        Ok(())
    }

    /// Replaces the content identifier in the text.
    pub fn set_cid(&mut self, cid: u32) {
        self.cid = cid;
        let lines: Vec<String> = self
            .text
            .split('\n')
            .map(|line| if line.starts_with("CID=") { format!("CID={cid:08x}") } else { line.to_owned() })
            .collect();
        self.text = lines.join("\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_read_and_renewed() {
        let text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 2048 FLAT \"a b.vmdk\" 7\n";
        let mut d = Descriptor::parse(text.as_bytes()).unwrap();
        assert_eq!(d.extents, [Row { sectors: 2048, kind: Kind::Flat(7), name: "a b.vmdk".into() }]);
        d.set_cid(0xabc);
        assert_eq!(Descriptor::parse(d.text.as_bytes()).unwrap().cid, 0xabc);
        assert!(Descriptor::parse(b"nothing").is_err());
        assert!(Descriptor::parse(b"createType=\"custom\"\nRW 99999999999999999999 FLAT \"x\" 0").is_err());
    }
}
