//! `qemu-img convert`.
//!
//! Not modelled: `-C` (copy offload; the copy is made with reads and writes), `-r` limits the rate by pausing.

use super::create::{create_image, merge, wants_help};
use crate::cli::{Opt, Parsed, long, opt};
use crate::common::{self, Command, Done, Exit, Progress, cache, fail, objects, usage};
use disk::buffer::Buffer;
use disk::chain;
use disk::create::{options_of, takes_backing};
use disk::node::{NodeRef, is_zero, strerror};
use disk::open::{OpenFlags, is_known_driver};
use disk::options::Options;
use disk::size;
use std::sync::{Mutex, PoisonError};

mod order;
use order::Order;

const OPTIONS: &[Opt] = &[
    opt('q', "quiet", false),
    opt('p', "progress", false),
    opt('f', "source-format", true),
    long("image-opts", false),
    long("source-image-opts", false),
    opt('l', "source-snapshot", true),
    opt('T', "source-cache", true),
    opt('O', "target-format", true),
    long("target-image-opts", false),
    opt('o', "target-options", true),
    opt('c', "compress", false),
    opt('t', "target-cache", true),
    opt('B', "backing", true),
    opt('F', "backing-format", true),
    opt('n', "no-create", false),
    long("target-is-zero", false),
    opt('S', "sparse-size", true),
    long("bitmaps", false),
    long("skip-broken-bitmaps", false),
    opt('U', "force-share", false),
    opt('r', "rate", true),
    opt('m', "parallel", true),
    opt('C', "copy-range-offloading", false),
    long("salvage", false),
    opt('W', "oob-writes", false),
    long("object", true),
];

pub const COMMAND: Command =
    Command { name: "convert", summary: "copies images into a new image of any format", arguments: "FILE [FILE2 …] TARGET", options: OPTIONS, run };

const BUFFER: u64 = 2 << 20;
/// What a thread compresses at once, at least.
const PACKED_PIECE: u64 = 64 << 10;
/// Pieces that are read ahead of the one that is being written.
const COPY_WINDOW: usize = 2;
const PACKED_WINDOW: usize = 32;
const DEFAULT_SPARSE: u64 = 4096;
const MAX_PARALLEL: u64 = 16;
/// Threads that help even where there are fewer processors: one may wait for the disk.
const FEW_THREADS: u64 = 4;

/// One source image and where it starts in the target.
struct Source {
    node: NodeRef,
    start: u64,
    size: u64,
}

struct Job {
    sources: Vec<Source>,
    target: NodeRef,
    total: u64,
    /// Runs of zeroes at least this long are not written; zero writes everything.
    sparse: u64,
    /// The target reads as zero where nothing is written.
    target_zero: bool,
    /// The target shows its backing file where nothing is written.
    target_backed: bool,
    backing_base: Option<NodeRef>,
    compress: bool,
    unit: u64,
    salvage: bool,
    quiet: bool,
    flush_each: bool,
    rate: Option<u64>,
    /// Pieces may be written as they come (`-W`).
    any_order: bool,
}

fn run(p: &Parsed) -> Done {
    let format = p.value("target-format").unwrap_or("raw");
    let texts = p.values("target-options");
    if texts.iter().any(|t| wants_help(t)) {
        return super::create::print_options(format);
    }
    objects(p)?;
    check_options(p)?;
    let [sources @ .., target_name] = p.rest.as_slice() else {
        return Err(usage("convert", "Must specify image file name"));
    };
    if sources.is_empty() {
        return fail("Must specify image file name");
    }
    let sparse = sparse_size(p)?;
    let sources = open_sources(p, sources)?;
    let total: u64 = sources.iter().map(|s| s.size).sum();
    let mut options = merge(&texts)?;
    backing_options(p, format, &mut options)?;
    let backing = options.get("backing_file").map(str::to_owned);
    let (target, flush_each) = open_target(p, format, target_name, options, total)?;
    if total > target.size() {
        return fail("output file is smaller than input file");
    }
    if p.has("compress") && !target.can_compress() {
        return fail("Compression not supported for this file format");
    }
    let created = !p.has("no-create");
    let mut job = Job {
        total,
        sparse,
        target_zero: (created && target.starts_zero() || p.has("target-is-zero")) && backing.is_none(),
        target_backed: backing.is_some() || target.backing().is_some(),
        backing_base: shared_base(&sources, backing.as_deref()),
        compress: p.has("compress") || target.needs_compression(),
        unit: target.info()?.cluster_size.unwrap_or(512),
        salvage: p.has("salvage"),
        quiet: p.has("quiet"),
        flush_each,
        rate: p.value("rate").map(|r| common::size_argument(r, "rate limit")).transpose()?,
        any_order: p.has("oob-writes"),
        sources,
        target,
    };
    job.prepare_target()?;
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let useful = if job.compress { MAX_PARALLEL } else { processors.max(FEW_THREADS) };
    let threads = p.value("parallel").map_or(Ok(8), parallel)?.min(useful);
    // Warnings about what is lost come in the order of the disk.
    job.copy(if job.salvage { 1 } else { threads }, p.has("progress"))?;
    if p.has("bitmaps") {
        super::bitmap::copy_all(&job.sources[0].node, &job.target, p.has("skip-broken-bitmaps"))?;
    }
    common::close(&job.target)?;
    Ok(0)
}

fn check_options(p: &Parsed) -> Result<(), Exit> {
    if p.has("target-is-zero") && !p.has("no-create") {
        return fail("--target-is-zero requires use of -n flag");
    }
    if p.has("target-image-opts") && !p.has("no-create") {
        return fail("--target-image-opts requires use of -n flag");
    }
    if p.has("no-create") && p.has("target-options") {
        return fail("-o has no effect when skipping image creation");
    }
    if p.has("skip-broken-bitmaps") && !p.has("bitmaps") {
        return fail("Use of --skip-broken-bitmaps requires --bitmaps");
    }
    if p.has("copy-range-offloading") && p.has("sparse-size") {
        return fail("Cannot enable copy offloading when -S is used");
    }
    if p.has("copy-range-offloading") && p.has("compress") {
        return fail("Cannot enable copy offloading when -c is used");
    }
    if p.has("backing-format") && !p.has("backing") && p.value("target-options").is_none_or(|o| !o.contains("backing_file")) {
        return fail("Backing format specified without backing file");
    }
    if let Some(f) = p.value("target-format")
        && !is_known_driver(f)
    {
        return fail(format!("Unknown file format '{f}'"));
    }
    Ok(())
}

fn parallel(text: &str) -> Result<u64, Exit> {
    match text.parse::<u64>() {
        Ok(n) if (1..=MAX_PARALLEL).contains(&n) => Ok(n),
        _ => fail(format!("Invalid number of coroutines. Allowed number of coroutines is between 1 and {MAX_PARALLEL}")),
    }
}

fn sparse_size(p: &Parsed) -> Result<u64, Exit> {
    let Some(text) = p.value("sparse-size") else { return Ok(DEFAULT_SPARSE) };
    match size::parse(text, 0) {
        Ok(v) if v % 512 == 0 && v <= BUFFER => Ok(v),
        _ => fail(format!("Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to {BUFFER}. Select 0 to disable sparse detection (fully allocates output).")),
    }
}

fn open_sources(p: &Parsed, names: &[String]) -> Result<Vec<Source>, Exit> {
    let mut flags = OpenFlags { share: p.has("force-share"), quiet_probe: true, ..OpenFlags::default() };
    if cache(&mut flags, p.value("source-cache"), "writeback").is_err() {
        return fail(format!("Invalid source cache option: {}", p.value("source-cache").unwrap_or("")));
    }
    let image_opts = p.has("image-opts") || p.has("source-image-opts");
    let mut start = 0;
    let mut list = Vec::new();
    for name in names {
        let node = common::open_named(name, p.value("source-format"), image_opts, &flags)?;
        let size = node.size();
        list.push(Source { node, start, size });
        start += size;
    }
    if let Some(key) = p.value("source-snapshot") {
        if list.len() > 1 {
            return fail("No support for concatenating multiple snapshot");
        }
        super::snapshot_view::select(&mut list[0].node, key)?;
        list[0].size = list[0].node.size();
    }
    Ok(list)
}

fn backing_options(p: &Parsed, format: &str, options: &mut Options) -> Result<(), Exit> {
    for (flag, key) in [("backing", "backing_file"), ("backing-format", "backing_fmt")] {
        if let Some(v) = p.value(flag) {
            if !takes_backing(format) {
                return fail(format!("Backing file not supported for file format '{format}'"));
            }
            options.set(key, v);
        }
    }
    if options.get("backing_file").is_some() && p.rest.len() > 2 {
        return fail("Having a backing file for the target makes no sense when concatenating multiple input images");
    }
    if options.get("backing_file").is_some() && options.get("backing_fmt").is_none() && !p.has("no-create") {
        return fail("Use of backing file requires explicit backing format");
    }
    if p.has("compress") && ["encryption", "encrypt.format"].iter().any(|k| options.get(k).is_some_and(|v| v != "off")) {
        return fail("Compression and encryption not supported at the same time");
    }
    if p.has("compress") && options.get("preallocation").is_some_and(|v| v != "off") {
        return fail("Compression and preallocation not supported at the same time");
    }
    Ok(())
}

fn open_target(p: &Parsed, format: &str, name: &str, mut options: Options, total: u64) -> Result<(NodeRef, bool), Exit> {
    let mut flags = OpenFlags { write: true, unmap: true, quiet_probe: true, ..OpenFlags::default() };
    // What the image is made with is needed again to open it.
    let secret = ["key-secret", "encrypt.key-secret"].into_iter().find_map(|k| Some((k, options.get(k)?.to_owned()))).filter(|_| !p.has("no-create"));
    if p.has("no-create") {
        flags.resize = false;
    } else {
        if options.get("size").is_none() {
            options.set("size", &total.to_string());
        }
        if options_of(format).is_none() {
            return fail(format!("Format driver '{format}' does not support image creation"));
        }
        create_image(name, format, options, true, true).map_err(|e| Exit::Fail(format!("{name}: error while converting {format}: {e}")))?;
    }
    let flush_each = cache(&mut flags, p.value("target-cache"), "unsafe")?;
    if let Some((key, secret)) = secret {
        let mut o = Options::new();
        o.set("driver", format);
        o.set("filename", name);
        o.set(key, &secret);
        return Ok((disk::open_options(o, &flags).map_err(|e| Exit::Fail(format!("Could not open '{name}': {e}")))?, flush_each));
    }
    let explicit = if p.has("target-image-opts") { None } else { Some(format) };
    let node = common::open_named(name, explicit, p.has("target-image-opts"), &flags)?;
    Ok((node, flush_each))
}

/// The source layer that equals the target's backing file; data below it need not be copied.
fn shared_base(sources: &[Source], backing: Option<&str>) -> Option<NodeRef> {
    let backing = backing?;
    let wanted = std::fs::canonicalize(backing).ok();
    chain::layers(&sources[0].node).into_iter().skip(1).find(|n| std::fs::canonicalize(n.filename()).ok() == wanted)
}

/// What is to happen with a run of the target.
#[derive(Clone, Copy, PartialEq, Default)]
enum Plan {
    #[default]
    Skip,
    Zero,
    Copy,
}

/// How far the disk has been handed out, and the run that is being handed out: its plan and its end.
#[derive(Clone, Copy, Default)]
struct Cursor {
    at: u64,
    plan: Plan,
    end: u64,
}

/// A run on its way to the target.
struct Piece {
    plan: Plan,
    len: u64,
    /// Its clusters after packing; `None` where that did not make one smaller.
    packed: Vec<Option<Vec<u8>>>,
}

impl Job {
    /// Without a fresh target, what is there must not show through.
    fn prepare_target(&mut self) -> Result<(), Exit> {
        if self.target_zero || self.target_backed || self.compress {
            return Ok(());
        }
        if self.target.has_cheap_zeroes() && self.sparse > 0 {
            let size = self.target.size();
            if self.target.write_zeroes(0, size, true).is_ok() {
                self.target_zero = true;
            }
        }
        Ok(())
    }

    fn source_at(&self, at: u64) -> Result<&Source, Exit> {
        self.sources.iter().rev().find(|s| s.start <= at).ok_or_else(|| Exit::Fail("no source".into()))
    }

    fn plan(&self, at: u64) -> Result<(Plan, u64, &Source), Exit> {
        let source = self.source_at(at)?;
        let inside = at - source.start;
        let mut len = source.size - inside;
        let seen = loop {
            match chain::status(source.node.as_ref(), self.backing_base.as_ref(), inside, len) {
                Ok(seen) => break seen,
                // What cannot be told about a long run may be known of its start.
                Err(_) if self.salvage && len > 512 => len = len.div_ceil(512).div_ceil(4) * 512,
                Err(e) if self.salvage => {
                    if !self.quiet {
                        eprintln!("qemu-img: warning: error while reading block status at offset {at}: {}", strerror(&e));
                    }
                    return Ok((Plan::Copy, len, source));
                }
                Err(e) => return fail(format!("error while reading block status at offset {at}: {}", strerror(&e))),
            }
        };
        let e = seen.extent;
        if e.len == 0 {
            return fail(format!("error while reading block status at offset {at}: Input/output error"));
        }
        let plan = match (e.zero, e.allocated) {
            (_, false) if self.target_backed && self.backing_base.is_some() => Plan::Skip,
            (true, _) if self.target_zero && self.sparse > 0 => Plan::Skip,
            (true, _) => Plan::Zero,
            (false, false) if self.target_zero && source.node.backing().is_none() => Plan::Skip,
            _ => Plan::Copy,
        };
        Ok((plan, e.len, source))
    }

    /// Bytes that will be copied, for the progress line.
    fn bytes_to_copy(&self) -> Result<u64, Exit> {
        let (mut at, mut sum) = (0, 0);
        while at < self.total {
            let (plan, len, _) = self.plan(at)?;
            sum += if plan == Plan::Copy { len } else { 0 };
            at += len;
        }
        Ok(sum)
    }

    fn copy(&self, threads: u64, progress: bool) -> Result<(), Exit> {
        // With --salvage the survey is always made: its warnings come first.
        let survey = progress || self.salvage;
        let progress = Mutex::new(Progress::new(progress, if survey { self.bytes_to_copy()? } else { self.total }));
        let cursor = self.skip_to_data()?;
        if cursor.at < self.total {
            self.copy_from(cursor, threads, &progress)?;
        }
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.complete();
        progress.finish();
        Ok(())
    }

    /// Deals with what is in front of the first data: an empty image needs no threads.
    fn skip_to_data(&self) -> Result<Cursor, Exit> {
        let mut cursor = Cursor::default();
        while cursor.at < self.total {
            let (plan, len, _) = self.plan(cursor.at)?;
            cursor = Cursor { plan, end: cursor.at + len, ..cursor };
            let (plan, len) = self.whole_clusters(plan, cursor.at, len);
            match plan {
                Plan::Copy => break,
                Plan::Zero => self.write_zero(cursor.at, len)?,
                Plan::Skip => {}
            }
            cursor.at += len;
        }
        Ok(cursor)
    }

    fn copy_from(&self, cursor: Cursor, threads: u64, progress: &Mutex<Progress>) -> Result<(), Exit> {
        let order = Order::new(cursor.at, self.any_order, if self.compress { PACKED_WINDOW } else { COPY_WINDOW });
        let (cursor, spare) = (Mutex::new(cursor), Mutex::new(Vec::new()));
        let work = || -> Result<(), Exit> {
            while order.room() {
                let Some((plan, at, n)) = self.next(&cursor).inspect_err(|_| order.stop())? else { break };
                let mut buf = if plan == Plan::Copy { spare.lock().unwrap_or_else(PoisonError::into_inner).pop() } else { None };
                let piece = self.fetch(plan, at, n, &mut buf).inspect_err(|_| order.stop())?;
                order.put(at, at + n, (piece, buf), |at, (piece, buf)| {
                    let data = buf.as_deref().unwrap_or(&[]);
                    self.store(&piece, at, &data[..if piece.plan == Plan::Copy { piece.len as usize } else { 0 }])?;
                    spare.lock().unwrap_or_else(PoisonError::into_inner).extend(buf);
                    if piece.plan == Plan::Copy {
                        progress.lock().unwrap_or_else(PoisonError::into_inner).add(piece.len);
                    }
                    self.pause(piece.len);
                    Ok::<(), Exit>(())
                })?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut result = work();
            for h in helpers {
                let other = h.join().unwrap_or_else(|_| fail("a copy thread failed"));
                result = result.and(other);
            }
            result
        })
    }

    /// The next piece to deal with. Only one thread plans at a time, so pieces are handed out in order.
    fn next(&self, cursor: &Mutex<Cursor>) -> Result<Option<(Plan, u64, u64)>, Exit> {
        let mut c = cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let at = c.at;
        if at >= self.total {
            return Ok(None);
        }
        if c.end <= at {
            let (plan, len, _) = self.plan(at)?;
            *c = Cursor { plan, end: at + len, at };
        }
        let (plan, len) = self.whole_clusters(c.plan, at, c.end - at);
        let n = if plan == Plan::Copy { self.piece(at, len) } else { len };
        c.at = at + n;
        Ok(Some((plan, at, n)))
    }

    /// Compressed clusters are written whole: a run that ends inside of one is copied with what follows.
    fn whole_clusters(&self, plan: Plan, at: u64, len: u64) -> (Plan, u64) {
        if self.compress && self.sparse == 0 {
            // Zeroes are stored too, packed.
            return (Plan::Copy, len);
        }
        if !self.compress || at + len >= self.total || plan == Plan::Copy {
            return (plan, len);
        }
        match len / self.unit * self.unit {
            0 => (Plan::Copy, self.unit.min(self.total - at)),
            whole => (plan, whole),
        }
    }

    /// How much of a run one step copies: a buffer, ending at a cluster boundary of the target.
    fn piece(&self, at: u64, len: u64) -> u64 {
        let end = (at + len.min(BUFFER)).min(self.total);
        if self.compress {
            // Compressed clusters are written whole, whatever the source's runs are.
            let chunk = self.unit.max(PACKED_PIECE);
            return ((at + 1).next_multiple_of(chunk)).min(self.total) - at;
        }
        let aligned = end / self.unit * self.unit;
        if aligned > at { aligned - at } else { end - at }
    }

    /// Reads and packs a piece.
    fn fetch(&self, plan: Plan, at: u64, len: u64, buf: &mut Option<Buffer>) -> Result<Piece, Exit> {
        let mut packed = Vec::new();
        if plan == Plan::Copy {
            let buf = buf.get_or_insert_with(|| Buffer::new(if self.compress { self.unit.max(PACKED_PIECE) } else { BUFFER } as usize));
            let buf = &mut buf[..len as usize];
            self.read(at, self.source_at(at)?, buf)?;
            if self.compress {
                packed = buf.chunks(self.unit as usize).map(|c| self.pack(at, c)).collect::<Result<_, _>>()?;
            }
        }
        Ok(Piece { plan, len, packed })
    }

    fn store(&self, piece: &Piece, at: u64, data: &[u8]) -> Result<(), Exit> {
        match piece.plan {
            Plan::Skip => Ok(()),
            Plan::Zero => self.write_zero(at, piece.len),
            Plan::Copy if self.compress => self.write_packed(at, data, &piece.packed),
            Plan::Copy => self.write(at, data),
        }
    }

    fn pack(&self, at: u64, cluster: &[u8]) -> Result<Option<Vec<u8>>, Exit> {
        if is_zero(cluster) && self.sparse > 0 {
            return Ok(None);
        }
        // The disk may end inside of its last cluster.
        let mut whole = cluster.to_vec();
        whole.resize(self.unit as usize, 0);
        self.target.pack(&whole).map_err(|e| Exit::Fail(format!("error while compressing at byte {at}: {}", strerror(&e))))
    }

    fn read(&self, at: u64, source: &Source, buf: &mut [u8]) -> Result<(), Exit> {
        // A step may reach over the end of one source into the next.
        let mut at = at;
        let mut buf = buf;
        let mut source = source;
        while !buf.is_empty() {
            let n = (source.start + source.size - at).min(buf.len() as u64) as usize;
            let (now, rest) = buf.split_at_mut(n);
            match source.node.read(at - source.start, now) {
                Ok(()) => {}
                Err(_) if self.salvage => self.read_sectors(at, source, now),
                Err(e) => return fail(format!("error while reading at byte {at}: {}", strerror(&e))),
            }
            at += n as u64;
            buf = rest;
            if !buf.is_empty() {
                let Some(next) = self.sources.iter().find(|s| s.start == at && s.size > 0) else { break };
                source = next;
            }
        }
        Ok(())
    }

    fn read_sectors(&self, at: u64, source: &Source, buf: &mut [u8]) {
        for (i, sector) in buf.chunks_mut(512).enumerate() {
            let offset = at + i as u64 * 512;
            if let Err(e) = source.node.read(offset - source.start, sector) {
                sector.fill(0);
                if !self.quiet {
                    eprintln!("qemu-img: warning: error while reading offset {offset}: {}", strerror(&e));
                }
            }
        }
    }

    fn written(&self, at: u64, result: std::io::Result<()>) -> Result<(), Exit> {
        let result = result.and_then(|()| if self.flush_each { self.target.flush() } else { Ok(()) });
        result.map_err(|e| Exit::Fail(format!("error while writing at byte {at}: {}", strerror(&e))))
    }

    fn write_zero(&self, at: u64, len: u64) -> Result<(), Exit> {
        if self.target_zero && self.sparse > 0 {
            return Ok(());
        }
        if self.sparse == 0 {
            let zeroes = Buffer::new(BUFFER.min(len) as usize);
            let mut done = 0;
            while done < len {
                let n = (len - done).min(BUFFER);
                self.written(at + done, self.target.write(at + done, &zeroes[..n as usize]))?;
                done += n;
            }
            return Ok(());
        }
        self.written(at, self.target.write_zeroes(at, len, true))
    }

    /// Writes a buffer, leaving out long runs of zeroes.
    fn write(&self, at: u64, buf: &[u8]) -> Result<(), Exit> {
        if self.sparse == 0 {
            return self.written(at, self.target.write(at, buf));
        }
        let unit = self.sparse as usize;
        let mut from = 0;
        while from < buf.len() {
            let zero = is_zero(&buf[from..(from + unit).min(buf.len())]);
            let mut to = (from + unit).min(buf.len());
            while to < buf.len() && is_zero(&buf[to..(to + unit).min(buf.len())]) == zero {
                to = (to + unit).min(buf.len());
            }
            let offset = at + from as u64;
            match zero {
                true => self.write_zero(offset, (to - from) as u64)?,
                false => self.written(offset, self.target.write(offset, &buf[from..to]))?,
            }
            from = to;
        }
        Ok(())
    }

    fn write_packed(&self, at: u64, buf: &[u8], packed: &[Option<Vec<u8>>]) -> Result<(), Exit> {
        for (i, cluster) in buf.chunks(self.unit as usize).enumerate() {
            let offset = at + i as u64 * self.unit;
            if is_zero(cluster) && self.sparse > 0 {
                self.write_zero(offset, cluster.len() as u64)?;
            } else {
                let result = match &packed[i] {
                    Some(data) => self.target.write_packed(offset, data),
                    None => self.target.write_compressed(offset, cluster),
                };
                self.written(offset, result)?;
            }
        }
        Ok(())
    }

    fn pause(&self, bytes: u64) {
        if let Some(rate) = self.rate.filter(|r| *r > 0) {
            std::thread::sleep(std::time::Duration::from_secs_f64(bytes as f64 / rate as f64));
        }
    }
}
