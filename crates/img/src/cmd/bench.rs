//! `qemu-img bench`.
//!
//! `-d` requests are under way at the same time where that helps: as one batch with the engines that take batches, and
//! on as many threads with direct I/O. What lies in the host's page cache is copied by one thread, one after the other.
//!
//! Not modelled: a batch is waited for as a whole before the next begins; `--no-drain` changes nothing.

use crate::cli::{Parsed, long, opt};
use crate::common::{self, Command, Done, Exit, cache, fail, size_argument, usage};
use disk::NodeRef;
use disk::buffer::{ALIGN, Buffer};
use disk::engine::Aio;
use disk::node::strerror;
use disk::open::OpenFlags;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Threads of one run at most, as in the reference's pool.
const THREADS: u64 = 64;

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
    let aio = p.value("aio").unwrap_or("threads");
    let Some(mut aio) = Aio::named(aio) else { return fail(format!("Invalid aio option: {aio}")) };
    if p.has("native") {
        aio = Aio::Native;
    }
    let size = p.value("buffer-size").map_or(Ok(4096), |v| size_argument(v, "buffer size"))?;
    let step = p.value("step-size").map_or(Ok(0), |v| size_argument(v, "step_size"))?;
    let step = if step == 0 { size } else { step };
    let start = p.value("offset").map_or(Ok(0), |v| size_argument(v, "offset"))?;
    let mut flags = OpenFlags { write, share: p.has("force-share"), aio, ..OpenFlags::default() };
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
    let requests = Requests { at: start, left: count, size, step, disk_size };
    let run = Run {
        node: &node,
        write,
        pattern: pattern as u8,
        depth: depth.max(1),
        flush: if flush_each { 1 } else { flush },
    };
    let began = Instant::now();
    let done = match (node.parallel(), flags.direct && flush == 0 && !flush_each && depth > 1) {
        (true, _) => run.in_batches(requests),
        (false, true) => run.on_threads(requests),
        (false, false) => Run { depth: 1, ..run }.in_batches(requests),
    };
    done.map_err(|e| Exit::Fail(format!("Failed request: {}", strerror(&e))))?;
    let seconds = began.elapsed().as_secs_f64();
    common::close(&node)?;
    if !p.has("quiet") {
        println!("Run completed in {seconds:.3} seconds.");
    }
    Ok(0)
}

/// Where the requests go.
struct Requests {
    at: u64,
    left: u64,
    size: u64,
    step: u64,
    disk_size: u64,
}

impl Iterator for Requests {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        if self.at + self.size > self.disk_size {
            self.at %= self.disk_size.saturating_sub(self.size).max(1);
        }
        let at = self.at;
        self.at += self.step;
        Some(at)
    }
}

struct Run<'a> {
    node: &'a NodeRef,
    write: bool,
    pattern: u8,
    depth: u64,
    /// Writes between two flushes; zero for none.
    flush: u64,
}

impl Run<'_> {
    /// One batch after the other; a flush comes between two batches.
    fn in_batches(&self, mut requests: Requests) -> io::Result<()> {
        let (size, mut unflushed) = (requests.size as usize, 0);
        let stride = size.next_multiple_of(ALIGN);
        let mut store = Buffer::new(stride * self.depth.min(requests.left).max(1) as usize);
        store.fill(self.pattern);
        loop {
            // A flush after each write is one after all writes of a batch.
            let room = if self.flush > 1 { self.depth.min(self.flush - unflushed) } else { self.depth };
            let places = requests.by_ref().take(room as usize);
            if self.write {
                let parts: Vec<(u64, &[u8])> = places.zip(store.chunks(stride).map(|b| &b[..size])).collect();
                if parts.is_empty() {
                    return Ok(());
                }
                self.node.write_many(&parts)?;
                unflushed += parts.len() as u64;
            } else {
                let mut parts: Vec<(u64, &mut [u8])> =
                    places.zip(store.chunks_mut(stride).map(|b| &mut b[..size])).collect();
                if parts.is_empty() {
                    return Ok(());
                }
                self.node.read_many(&mut parts)?;
            }
            if self.flush > 0 && unflushed >= self.flush {
                self.node.flush()?;
                unflushed = 0;
            }
        }
    }

    fn on_threads(&self, requests: Requests) -> io::Result<()> {
        let (threads, size) = (self.depth.min(THREADS).min(requests.left), requests.size as usize);
        let requests = Mutex::new(requests);
        let next = || requests.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            let mut buf = Buffer::new(size);
            buf.fill(self.pattern);
            while let Some(at) = next() {
                if self.write { self.node.write(at, &buf)? } else { self.node.read(at, &mut buf)? }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|w| w.join().expect("a request that panicked has said so"))
        })
    }
}
