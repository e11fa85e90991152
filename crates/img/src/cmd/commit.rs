//! `qemu-img commit`.

use crate::cli::{Parsed, long, opt};
use crate::common::{self, Command, Done, Exit, Progress, cache, fail, objects, usage};
use disk::buffer::Buffer;
use disk::chain;
use disk::node::{NodeRef, Preallocation, strerror};
use disk::open::{OpenFlags, relative_to};
use disk::options::Options;

pub const COMMAND: Command = Command {
    name: "commit",
    summary: "writes an image's changes into its backing file",
    arguments: "FILE",
    options: &[
        opt('q', "quiet", false),
        opt('p', "progress", false),
        opt('f', "format", true),
        long("image-opts", false),
        opt('t', "cache", true),
        opt('d', "drop", false),
        opt('b', "base", true),
        opt('r', "rate", true),
        long("object", true),
    ],
    run,
};

const BUFFER: u64 = 2 << 20;

fn run(p: &Parsed) -> Done {
    let [name] = p.rest.as_slice() else { return Err(usage("commit", "Expecting one image file name")) };
    objects(p)?;
    let mut flags = OpenFlags { write: true, unmap: true, ..OpenFlags::default() };
    let flush_each = cache(&mut flags, p.value("cache"), "writeback")?;
    let rate = p.value("rate").map(|r| common::size_argument(r, "rate limit")).transpose()?;
    let top = common::open(p, name, p.value("format"), &flags)?;
    let layers = chain::layers(&top);
    let base_index = match p.value("base") {
        None if layers.len() < 2 => return fail("Image does not have a backing file"),
        None => 1,
        Some(base) => find_layer(&layers, base)?,
    };
    let base = open_for_write(&layers, base_index, &flags, options_of(p, name)?)?;
    if base.size() < top.size() {
        base.resize(top.size(), Preallocation::Off)
            .map_err(|e| Exit::Fail(format!("Could not resize the backing file: {e}")))?;
    }
    let mut progress = Progress::new(p.has("progress"), top.size());
    copy_down(&top, &layers[base_index], &base, flush_each, rate, &mut progress)?;
    base.flush().map_err(|e| Exit::Fail(format!("Could not flush the backing file: {}", strerror(&e))))?;
    common::close(&base)?;
    // What is in the backing file now need not stay in the image.
    if !p.has("drop") && p.value("base").is_none() {
        empty(&top)?;
    }
    common::close(&top)?;
    progress.complete();
    progress.finish();
    if !p.has("quiet") {
        println!("Image committed.");
    }
    Ok(0)
}

fn find_layer(layers: &[NodeRef], base: &str) -> Result<usize, Exit> {
    for (i, layer) in layers.iter().enumerate().skip(1) {
        let named = layers[i - 1].info()?.backing_file;
        // A name is meant as the layer above would mean it.
        let wanted = std::fs::canonicalize(relative_to(&layers[i - 1].filename(), base)).ok();
        let same_file = wanted.is_some() && std::fs::canonicalize(layer.filename()).ok() == wanted;
        if named.as_deref() == Some(base) || same_file {
            return Ok(i);
        }
    }
    fail(format!("Did not find '{base}' in the backing chain of '{}'", layers[0].filename()))
}

/// A layer of the chain is open for reading only: opens it once more for writing.
/// `options` are those of the image, with what they say about its layers.
fn open_for_write(layers: &[NodeRef], index: usize, flags: &OpenFlags, mut options: Options) -> Result<NodeRef, Exit> {
    let info = layers[index - 1].info()?;
    let name =
        info.backing_file.map_or_else(|| layers[index].filename(), |f| relative_to(&layers[index - 1].filename(), &f));
    // Our own read-only handle denies writers; the second handle must not ask the first.
    layers[index].release_locks();
    let flags = OpenFlags { resize: false, ..flags.clone() };
    let format = if name.starts_with("json:") { None } else { Some(layers[index].driver()) };
    (0..index).for_each(|_| options = options.take_below("backing"));
    options.take_below("backing");
    if format.is_none() || options.is_empty() {
        return common::open_named(&name, format, false, &flags);
    }
    options.set("driver", layers[index].driver());
    if options.get("filename").is_none() && options.get("file.filename").is_none() {
        options.set("filename", &name);
    }
    disk::open_options(options, &flags).map_err(|e| Exit::Fail(format!("Could not open '{name}': {e}")))
}

/// The options that a name stands for.
fn options_of(p: &Parsed, name: &str) -> Result<Options, Exit> {
    Ok(match name.strip_prefix("json:") {
        Some(text) => Options::parse_json(text)?,
        None if p.has("image-opts") => Options::parse(name, None)?,
        None => Options::new(),
    })
}

fn copy_down(
    top: &NodeRef,
    stop: &NodeRef,
    base: &NodeRef,
    flush_each: bool,
    rate: Option<u64>,
    progress: &mut Progress,
) -> Result<(), Exit> {
    let failed = |e: std::io::Error| Exit::Fail(format!("Block job failed: {}", strerror(&e)));
    let mut buf = Buffer::new(BUFFER as usize);
    let size = top.size();
    let mut at = 0;
    while at < size {
        let seen = chain::status(top.as_ref(), Some(stop), at, size - at).map_err(failed)?;
        let e = seen.extent;
        if e.len == 0 {
            return fail("Block job failed: Input/output error");
        }
        let copy = e.allocated;
        let n = if copy && !e.zero { e.len.min(BUFFER) } else { e.len };
        if copy && e.zero {
            base.write_zeroes(at, n, true).map_err(failed)?;
        } else if copy {
            let part = &mut buf[..n as usize];
            top.read(at, part).map_err(failed)?;
            base.write(at, part).map_err(failed)?;
            if flush_each {
                base.flush().map_err(failed)?;
            }
            if let Some(rate) = rate.filter(|r| *r > 0) {
                std::thread::sleep(std::time::Duration::from_secs_f64(n as f64 / rate as f64));
            }
        }
        at += n;
        progress.add(n);
    }
    Ok(())
}

fn empty(top: &NodeRef) -> Result<(), Exit> {
    match top.as_qcow2() {
        Some(image) => image.make_empty().map_err(|e| Exit::Fail(format!("Failed to empty {}: {e}", top.filename()))),
        None => Ok(()),
    }
}
