//! Guesses an image's format from its first bytes and its name.
//!
//! Reference: the magic numbers of each format's specification.
//!
//! Invariants: a guess of `raw` is only the absence of every other format; `raw` nodes opened by a guess are guarded.

/// Bytes that a guess may look at.
pub const PROBE_BYTES: usize = 2048;

type Test = fn(&[u8]) -> bool;

/// Format name and how its first bytes look. Order matters only where two could match.
const MAGICS: &[(&str, Test)] = &[
    ("qcow2", |b| be32(b, 0) == Some(0x514649fb) && be32(b, 4) >= Some(2)),
    ("qcow", |b| be32(b, 0) == Some(0x514649fb) && be32(b, 4) == Some(1)),
    ("qed", |b| b.starts_with(b"QED\0")),
    ("vmdk", |b| b.starts_with(b"KDMV") || b.starts_with(b"COWD") || vmdk_text(b)),
    ("vdi", |b| b.get(0x40..0x44) == Some(&[0x7f, 0x10, 0xda, 0xbe])),
    ("vhdx", |b| b.starts_with(b"vhdxfile")),
    ("vpc", |b| b.starts_with(b"conectix")),
    ("luks", |b| b.starts_with(b"LUKS\xba\xbe") && b.get(6..8) == Some(&[0, 1])),
    ("parallels", |b| b.starts_with(b"WithoutFreeSpace") || b.starts_with(b"WithouFreSpacExt")),
    ("bochs", |b| b.starts_with(b"Bochs Virtual HD Image")),
    ("cloop", |b| b.starts_with(b"#!/bin/sh\n#V2.0 Format\n")),
];

/// The name of the format that `head` (the start of the image called `name`) most looks like.
pub fn by_content(head: &[u8], name: &str) -> &'static str {
    for (format, test) in MAGICS {
        if test(head) {
            return format;
        }
    }
    if name.ends_with(".dmg") { "dmg" } else { "raw" }
}

fn be32(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

/// A VMDK descriptor is text: comment and blank lines, then a `version=` line.
fn vmdk_text(b: &[u8]) -> bool {
    for line in b.split(|c| *c == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = line.strip_prefix(b" ").unwrap_or(line);
        if line.starts_with(b"#") || text.is_empty() {
            continue;
        }
        return [&b"version=1"[..], b"version=2", b"version=3"].contains(&line);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_apart() {
        assert_eq!(by_content(b"QFI\xfb\0\0\0\x03", "x"), "qcow2");
        assert_eq!(by_content(b"QFI\xfb\0\0\0\x01", "x"), "qcow");
        assert_eq!(by_content(b"# Disk DescriptorFile\nversion=1\n", "x"), "vmdk");
        assert_eq!(by_content(&[0; 512], "x"), "raw");
        assert_eq!(by_content(&[], "x"), "raw");
        assert_eq!(by_content(&[0; 512], "x.dmg"), "dmg");
    }
}
