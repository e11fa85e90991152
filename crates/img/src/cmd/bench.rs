//! `qemu-img bench`.
//!
//! Not modelled: `-d` and `-i` do not change how requests are made: one at a time with positioned reads and writes.

use crate::cli::{Parsed, long, opt};
use crate::common::{self, Command, Done, Exit, cache, fail, size_argument, usage};
use disk::buffer::Buffer;
use disk::node::strerror;
use disk::open::OpenFlags;
use std::time::Instant;

pub const COMMAND: Command = Command {
    name: "bench",
    summary: "measures requests on an image",
    arguments: "FILE",
    options: &[
        opt('q', "quiet", false),
        opt('f', "format", true),
        long("image-opts", false),
        opt('t', "cache", true),
        opt('c', "count", true),
        opt('d', "depth", true),
        opt('o', "offset", true),
        opt('s', "buffer-size", true),
        opt('S', "step-size", true),
        opt('i', "aio", true),
        opt('n', "native", false),
        opt('w', "write", false),
        long("pattern", true),
        long("flush-interval", true),
        long("no-drain", false),
        opt('U', "force-share", false),
    ],
    run,
};

fn number(p: &Parsed, name: &str, default: u64, message: &str) -> Result<u64, Exit> {
    match p.value(name).map(str::parse) {
        None => Ok(default),
        Some(Ok(v)) => Ok(v),
        Some(Err(_)) => fail(message),
    }
}

fn run(p: &Parsed) -> Done {
    let [name] = p.rest.as_slice() else { return Err(usage("bench", "Expecting one image file name")) };
    let count = number(p, "count", 75000, "Invalid request count specified")?;
    let depth = number(p, "depth", 64, "Invalid queue depth specified")?;
    let pattern = number(p, "pattern", 0, "Invalid pattern byte specified")?;
    let flush = number(p, "flush-interval", 0, "Invalid flush interval specified")?;
    let write = p.has("write");
    if !write && flush > 0 {
        return fail("--flush-interval is only available in write tests");
    }
    if flush > 0 && flush < depth {
        return fail("Flush interval can't be smaller than depth");
    }
    if let Some(aio) = p.value("aio").filter(|a| !["threads", "native", "io_uring"].contains(a)) {
        return fail(format!("Invalid aio option: {aio}"));
    }
    let size = p.value("buffer-size").map_or(Ok(4096), |v| size_argument(v, "buffer size"))?;
    let step = p.value("step-size").map_or(Ok(0), |v| size_argument(v, "step_size"))?;
    let step = if step == 0 { size } else { step };
    let start = p.value("offset").map_or(Ok(0), |v| size_argument(v, "offset"))?;
    let mut flags = OpenFlags { write, share: p.has("force-share"), ..OpenFlags::default() };
    let flush_each = cache(&mut flags, p.value("cache"), "writeback")?;
    let node = common::open(p, name, p.value("format"), &flags)?;
    let disk_size = node.size();
    if size == 0 || size > disk_size {
        return fail("Invalid buffer size specified");
    }
    if !p.has("quiet") {
        println!(
            "Sending {count} {} requests, {size} bytes each, {depth} in parallel (starting at offset {start}, step size {step})",
            if write { "write" } else { "read" }
        );
        if flush > 0 {
            println!("Sending flush every {flush} {}requests", if p.has("no-drain") { "" } else { "drained " });
        }
    }
    let mut buf = Buffer::new(size as usize);
    buf.fill(pattern as u8);
    let mut at = start;
    let began = Instant::now();
    for i in 0..count {
        if at + size > disk_size {
            at %= disk_size.saturating_sub(size).max(1);
        }
        let result = if write { node.write(at, &buf) } else { node.read(at, &mut buf) };
        let flush_now = write && (flush_each || flush > 0 && (i + 1) % flush == 0);
        let result = result.and_then(|()| if flush_now { node.flush() } else { Ok(()) });
        result.map_err(|e| Exit::Fail(format!("Failed request: {}", strerror(&e))))?;
        at += step;
    }
    let seconds = began.elapsed().as_secs_f64();
    common::close(&node)?;
    if !p.has("quiet") {
        println!("Run completed in {seconds:.3} seconds.");
    }
    Ok(0)
}
