//! `qemu-img map`.

use crate::cli::{Parsed, long, opt};
use crate::common::{self, Command, Done, Exit, fail, objects, size_argument, usage, wants_json};
use disk::chain::{self, Seen};
use disk::node::{NodeRef, strerror};
use disk::open::OpenFlags;
use std::io::{BufWriter, StdoutLock, Write as _};

const OUTPUT: usize = 64 << 10;

pub const COMMAND: Command = Command {
    name: "map",
    summary: "shows where an image's data is stored",
    arguments: "FILE",
    options: &[
        opt('f', "format", true),
        long("image-opts", false),
        opt('s', "start-offset", true),
        opt('l', "max-length", true),
        long("output", true),
        opt('U', "force-share", false),
        long("object", true),
    ],
    run,
};

fn run(p: &Parsed) -> Done {
    let [name] = p.rest.as_slice() else { return Err(usage("map", "Expecting one image file name")) };
    let as_json = wants_json(p)?;
    objects(p)?;
    let start = p.value("start-offset").map_or(Ok(0), |v| size_argument(v, "start offset"))?;
    let max = p.value("max-length").map_or(Ok(u64::MAX), |v| size_argument(v, "max length"))?;
    let flags = OpenFlags { share: p.has("force-share"), quiet_probe: true, ..OpenFlags::default() };
    let node = common::open(p, name, p.value("format"), &flags)?;
    let end = node.size().min(start.saturating_add(max));
    if !as_json {
        println!("{:<16}{:<16}{:<16}{}", "Offset", "Length", "Mapped to", "File");
    }
    std::io::stdout().flush().map_err(printing)?;
    let mut printer = Printer { out: BufWriter::with_capacity(OUTPUT, std::io::stdout().lock()), as_json, first: true };
    let mut pending: Option<(u64, Seen)> = None;
    let mut at = start;
    while at < end {
        let seen = extent(&node, at, end - at)?;
        let len = seen.extent.len;
        match &mut pending {
            Some((from, run)) if joins(*from, run, at, &seen) => run.extent.len += len,
            _ => {
                if let Some((from, run)) = pending.take() {
                    printer.print(&node, from, &run)?;
                }
                pending = Some((at, seen));
            }
        }
        at += len;
    }
    if let Some((from, run)) = pending {
        printer.print(&node, from, &run)?;
    }
    printer.finish()?;
    Ok(0)
}

/// A run through the whole chain. Only the top layer of a chain without data decides "present".
fn extent(node: &NodeRef, at: u64, len: u64) -> Result<Seen, Exit> {
    let seen = chain::status(node.as_ref(), None, at, len).map_err(|e| Exit::Fail(format!("Failed to map image: {}", strerror(&e))))?;
    if seen.extent.len == 0 { fail("Failed to map image: Input/output error") } else { Ok(seen) }
}

fn same_node(a: &Option<NodeRef>, b: &Option<NodeRef>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => std::sync::Arc::ptr_eq(a, b),
        _ => false,
    }
}

fn joins(from: u64, run: &Seen, at: u64, next: &Seen) -> bool {
    let (a, b) = (&run.extent, &next.extent);
    let flags = a.zero == b.zero && a.data == b.data && a.allocated == b.allocated && a.compressed == b.compressed;
    let place = match (a.offset, b.offset) {
        (None, None) => true,
        (Some(x), Some(y)) => x + (at - from) == y,
        _ => false,
    };
    flags && place && a.child == b.child && run.depth == next.depth && same_node(&run.node, &next.node)
}

/// C's `%#x`: zero has no prefix.
fn hex(value: u64) -> String {
    if value == 0 { "0".into() } else { format!("{value:#x}") }
}

fn printing(e: std::io::Error) -> Exit {
    Exit::Fail(format!("Could not print: {}", strerror(&e)))
}

struct Printer<'a> {
    /// Tables of many runs are printed in few writes.
    out: BufWriter<StdoutLock<'a>>,
    as_json: bool,
    first: bool,
}

impl Printer<'_> {
    fn finish(&mut self) -> Result<(), Exit> {
        if self.as_json {
            writeln!(self.out, "{}", if self.first { "[]" } else { "]" }).map_err(printing)?;
        }
        self.out.flush().map_err(printing)
    }

    fn print(&mut self, top: &NodeRef, from: u64, run: &Seen) -> Result<(), Exit> {
        let e = &run.extent;
        if self.as_json {
            let lead = if self.first { "[" } else { ",\n" };
            self.first = false;
            write!(
                self.out,
                "{lead}{{ \"start\": {from}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \"data\": {}, \"compressed\": {}{}}}",
                e.len,
                run.depth,
                e.allocated,
                e.zero,
                e.data,
                e.compressed,
                e.offset.map_or(String::new(), |o| format!(", \"offset\": {o}"))
            )
            .map_err(printing)?;
            return Ok(());
        }
        if e.data && e.offset.is_none() {
            return fail("File contains external, encrypted or compressed clusters.");
        }
        if e.data && !e.zero {
            let node = run.node.as_ref().unwrap_or(top);
            let file = node.children().into_iter().nth(e.child).map_or(node.filename(), |(_, c)| c.filename());
            writeln!(self.out, "{:<16}{:<16}{:<16}{file}", hex(from), hex(e.len), hex(e.offset.unwrap_or(0))).map_err(printing)?;
        }
        Ok(())
    }
}
