//! `qemu-img rebase`.

use crate::cli::{Parsed, long, opt};
use crate::common::{self, Command, Done, Exit, Progress, cache, fail, objects, usage};
use disk::buffer::Buffer;
use disk::chain;
use disk::node::{NodeRef, is_zero, strerror};
use disk::open::{OpenFlags, is_known_driver, relative_to};

pub const COMMAND: Command = Command {
    name: "rebase",
    summary: "puts an image on another backing file",
    arguments: "FILE",
    options: &[
        opt('q', "quiet", false),
        opt('p', "progress", false),
        opt('f', "format", true),
        long("image-opts", false),
        opt('t', "cache", true),
        opt('b', "backing", true),
        opt('F', "backing-format", true),
        opt('T', "backing-cache", true),
        opt('u', "backing-unsafe", false),
        opt('c', "compress", false),
        opt('U', "force-share", false),
        long("object", true),
    ],
    run,
};

const BUFFER: u64 = 2 << 20;

fn run(p: &Parsed) -> Done {
    let [name] = p.rest.as_slice() else { return Err(usage("rebase", "Expecting one image file name")) };
    let unsafe_mode = p.has("backing-unsafe");
    if !unsafe_mode && p.value("backing").is_none() {
        return Err(usage("rebase", "Use backing file (-b) option or unsafe mode (-u)"));
    }
    if p.has("compress") && unsafe_mode {
        return fail("Cannot use compression with unsafe mode");
    }
    objects(p)?;
    let mut flags = OpenFlags { write: true, unmap: true, no_backing: unsafe_mode, share: p.has("force-share"), ..OpenFlags::default() };
    let flush_each = cache(&mut flags, p.value("cache"), "writeback")?;
    let mut backing_flags = OpenFlags { share: p.has("force-share"), quiet_probe: true, ..OpenFlags::default() };
    cache(&mut backing_flags, p.value("backing-cache"), "writeback")?;
    let node = common::open(p, name, p.value("format"), &flags)?;
    let format = p.value("backing-format");
    if let Some(f) = format
        && !is_known_driver(f)
    {
        return fail(format!("Invalid format name: '{f}'"));
    }
    if p.has("compress") && !node.can_compress() {
        return fail("Compression not supported for this file format");
    }
    let new_name = p.value("backing").filter(|b| !b.is_empty());
    let mut progress = Progress::new(p.has("progress"), node.size());
    if !unsafe_mode {
        let new = match new_name {
            None => None,
            Some(file) => Some(open_new_backing(&node, file, format, &backing_flags)?),
        };
        copy_differences(&node, new.as_ref(), flush_each, p.has("compress"), &mut progress)?;
    }
    change(&node, new_name, format)?;
    node.set_backing(None);
    common::close(&node)?;
    progress.complete();
    progress.finish();
    Ok(0)
}

fn open_new_backing(node: &NodeRef, file: &str, format: Option<&str>, flags: &OpenFlags) -> Result<NodeRef, Exit> {
    let full = relative_to(&node.filename(), file);
    disk::open(&full, format, flags).map_err(|e| Exit::Fail(format!("Could not open new backing file '{file}': {e}")))
}

fn change(node: &NodeRef, file: Option<&str>, format: Option<&str>) -> Result<(), Exit> {
    if file.is_some() && format.is_none() {
        eprintln!("qemu-img: Could not change the backing file to '{}': backing format must be specified", file.unwrap_or(""));
        return Err(Exit::Status(1));
    }
    node.change_backing_file(file, format).map_err(|e| {
        Exit::Fail(format!("Could not change the backing file to '{}': {e}", file.unwrap_or("")))
    })
}

/// Copies into the image whatever would read differently on the new backing file.
fn copy_differences(node: &NodeRef, new: Option<&NodeRef>, flush_each: bool, compress: bool, progress: &mut Progress) -> Result<(), Exit> {
    let failed = |e: std::io::Error| Exit::Fail(format!("error while writing to COW image: {}", strerror(&e)));
    let reading = |e: std::io::Error| Exit::Fail(format!("error while reading from old backing file: {}", strerror(&e)));
    let size = node.size();
    let unit = node.info()?.cluster_size.unwrap_or(512);
    let old = node.backing();
    if old.is_none() && new.is_none() {
        return Ok(());
    }
    let mut mine = Buffer::new(BUFFER as usize);
    let mut theirs = Buffer::new(BUFFER as usize);
    let mut at = 0;
    while at < size {
        let own = node.map(at, size - at).map_err(reading)?;
        let n = own.len.min(BUFFER).min(size - at);
        if own.allocated {
            at += own.len;
            progress.add(own.len);
            continue;
        }
        // Stop at a cluster boundary, so that clusters are filled once.
        let end = at + n;
        let end = if end < size && end / unit * unit > at { end / unit * unit } else { end };
        let n = (end - at) as usize;
        let same_layer = match (&old, new) {
            (Some(o), Some(n)) => std::fs::canonicalize(o.filename()).ok().is_some_and(|a| std::fs::canonicalize(n.filename()).ok() == Some(a)),
            _ => false,
        };
        if !same_layer {
            read_or_zero(old.as_ref(), at, &mut mine[..n]).map_err(reading)?;
            read_or_zero(new, at, &mut theirs[..n]).map_err(|e| Exit::Fail(format!("error while reading from new backing file: {}", strerror(&e))))?;
            write_different(node, at, &mine[..n], &theirs[..n], unit, compress).map_err(failed)?;
            if flush_each {
                node.flush().map_err(failed)?;
            }
        }
        at = end;
        progress.add(n as u64);
    }
    Ok(())
}

/// Writes the runs of clusters in which the two buffers differ.
fn write_different(node: &NodeRef, at: u64, mine: &[u8], theirs: &[u8], unit: u64, compress: bool) -> std::io::Result<()> {
    let mut from = 0;
    while from < mine.len() {
        let boundary = |from: usize| ((((at + from as u64) / unit + 1) * unit - at) as usize).min(mine.len());
        let mut to = boundary(from);
        let differs = mine[from..to] != theirs[from..to];
        while differs && to < mine.len() && mine[to..boundary(to)] != theirs[to..boundary(to)] {
            to = boundary(to);
        }
        let part = &mine[from..to];
        if differs {
            let offset = at + from as u64;
            if is_zero(part) {
                node.write_zeroes(offset, part.len() as u64, true)?;
            } else if compress && offset % unit == 0 {
                node.write_compressed(offset, part)?;
            } else {
                node.write(offset, part)?;
            }
        }
        from = to;
    }
    Ok(())
}

fn read_or_zero(node: Option<&NodeRef>, at: u64, buf: &mut [u8]) -> std::io::Result<()> {
    let Some(node) = node else {
        buf.fill(0);
        return Ok(());
    };
    let inside = node.size().saturating_sub(at).min(buf.len() as u64) as usize;
    let (there, beyond) = buf.split_at_mut(inside);
    beyond.fill(0);
    if there.is_empty() || chain::reads_zero(node.as_ref(), at, inside as u64)? {
        there.fill(0);
        return Ok(());
    }
    node.read(at, there)
}
