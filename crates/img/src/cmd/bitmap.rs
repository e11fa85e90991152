//! `qemu-img bitmap`, and copying of bitmaps for `convert --bitmaps`.

use crate::cli::{Parsed, long, opt};
use crate::common::{self, Command, Done, Exit, fail, objects, size_argument, usage};
use disk::node::NodeRef;
use disk::open::OpenFlags;
use disk::qcow2::Qcow2;
use disk::qcow2::bitmap::{AUTO, Bits, IN_USE};
use spec::error::{Error, Result};

pub const COMMAND: Command = Command {
    name: "bitmap",
    summary: "changes the persistent bitmaps of an image",
    arguments: "FILE BITMAP",
    options: &[
        opt('f', "format", true),
        long("image-opts", false),
        long("add", false),
        opt('g', "granularity", true),
        long("remove", false),
        long("clear", false),
        long("enable", false),
        long("disable", false),
        long("merge", true),
        opt('b', "source-file", true),
        opt('F', "source-format", true),
        long("object", true),
    ],
    run,
};

const ACTIONS: &[&str] = &["add", "remove", "clear", "enable", "disable", "merge"];

fn run(p: &Parsed) -> Done {
    let actions: Vec<_> = p.options.iter().filter(|(n, _)| ACTIONS.contains(n)).collect();
    objects(p)?;
    let [name, bitmap] = p.rest.as_slice() else { return Err(usage("bitmap", "Expecting filename and bitmap name")) };
    if actions.is_empty() {
        return fail("Need at least one of --add, --remove, --clear, --enable, --disable, or --merge");
    }
    if p.has("granularity") && !p.has("add") {
        return fail("granularity only supported with --add");
    }
    if (p.has("source-file") || p.has("source-format")) && !p.has("merge") {
        return fail("Merge bitmap source file only supported with --merge");
    }
    if p.has("source-format") && !p.has("source-file") {
        return fail("-F only supported with -b");
    }
    let granularity = p.value("granularity").map(|g| size_argument(g, "granularity")).transpose()?;
    let source = source(p)?;
    let flags = OpenFlags { write: true, no_backing: true, ..OpenFlags::default() };
    let node = common::open(p, name, p.value("format"), &flags)?;
    let Some(image) = node.as_qcow2() else {
        return fail(format!(
            "Operation {} on bitmap {bitmap} failed: Bitmap operations are only supported by qcow2",
            actions[0].0
        ));
    };
    for (action, value) in actions {
        let from = source.as_ref().and_then(|s| s.as_qcow2()).unwrap_or(image);
        act(image, action, value, bitmap, granularity, from)
            .map_err(|e| Exit::Fail(format!("Operation {action} on bitmap {bitmap} failed: {e}")))?;
    }
    common::close(&node)?;
    Ok(0)
}

fn source(p: &Parsed) -> std::result::Result<Option<NodeRef>, Exit> {
    let Some(file) = p.value("source-file") else { return Ok(None) };
    let flags = OpenFlags { no_backing: true, ..OpenFlags::default() };
    let node = common::open_named(file, p.value("source-format"), false, &flags)?;
    if node.as_qcow2().is_none() { fail(format!("'{file}' has no bitmaps")) } else { Ok(Some(node)) }
}

fn act(image: &Qcow2, action: &str, value: &str, name: &str, granularity: Option<u64>, from: &Qcow2) -> Result<()> {
    let entry = image.bitmap_list()?.into_iter().find(|e| e.name == name);
    let enabled = entry.as_ref().is_some_and(|e| e.flags & AUTO != 0);
    let granularity_bits = entry.as_ref().map_or(16, |e| e.granularity_bits);
    let size = disk::Node::size(image);
    match action {
        "add" if entry.is_some() => Err(Error::new(format!("Bitmap already exists: {name}"))),
        "add" => {
            let bytes = granularity.unwrap_or_else(|| image.cluster_size().clamp(4096, 65536));
            if !bytes.is_power_of_two() {
                return Err(Error::new("Granularity must be power of 2"));
            }
            if !(512..=1 << 31).contains(&bytes) {
                return Err(Error::new("Granularity must be at least 512"));
            }
            image.bitmap_store(name, true, &Bits::new(size, bytes.trailing_zeros() as u8))
        }
        "remove" => image.bitmap_remove(name),
        _ if entry.is_none() => Err(Error::new(format!("Dirty bitmap '{name}' not found"))),
        "clear" => {
            image.bitmap_bits(name)?;
            image.bitmap_store(name, enabled, &Bits::new(size, granularity_bits))
        }
        "enable" => image.bitmap_store(name, true, &image.bitmap_bits(name)?),
        "disable" => image.bitmap_store(name, false, &image.bitmap_bits(name)?),
        _ => {
            let mut bits = image.bitmap_bits(name)?;
            bits.merge(&from.bitmap_bits(value)?);
            image.bitmap_store(name, enabled, &bits)
        }
    }
}

/// Copies every bitmap of one image to another.
pub fn copy_all(from: &NodeRef, to: &NodeRef, skip_broken: bool) -> std::result::Result<(), Exit> {
    let (Some(source), Some(target)) = (from.as_qcow2(), to.as_qcow2()) else {
        let without = if from.as_qcow2().is_some() { to } else { from };
        return fail(format!("Format driver '{}' does not support bitmaps", without.driver()));
    };
    for entry in source.bitmap_list()? {
        if entry.flags & IN_USE != 0 {
            if skip_broken {
                eprintln!("qemu-img: warning: Skipping inconsistent bitmap '{}'", entry.name);
                continue;
            }
            return fail(format!("Cannot copy inconsistent bitmap '{}'", entry.name));
        }
        let mut bits = Bits::new(to.size(), entry.granularity_bits);
        bits.merge(&source.bitmap_bits(&entry.name)?);
        target.bitmap_store(&entry.name, entry.flags & AUTO != 0, &bits)?;
    }
    Ok(())
}
