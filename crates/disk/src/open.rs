//! Opens disk graphs from file names, `json:` texts and option tables.
//!
//! Reference: QEMU's block options (`driver`, `file.filename`, `backing.…`) and messages of version 10.0.2.
//!
//! Invariants: names of backing files are relative to the file that names them; a chain longer than
//! `chain::MAX_DEPTH` is refused.

mod protocol;

pub use protocol::host_path;

use crate::chain::MAX_DEPTH;
use crate::engine::Aio;
use crate::filter::Filtered;
use crate::filter::copy_on_read::CopyOnRead;
use crate::filter::throttle::{self, Throttle};
use crate::node::{NodeRef, strerror};
use crate::options::Options;
use crate::probe::{self, PROBE_BYTES};
use crate::qcow2::{KeyOptions, Qcow2, Qcow2Options, read_header};
use crate::raw::Raw;
use protocol::{has_protocol, open_protocol, set_file};
use spec::error::{Context, Error, Result};
use std::path::Path;
use std::sync::Arc;

/// How a graph is to be opened.
#[derive(Clone, Debug, Default)]
pub struct OpenFlags {
    pub write: bool,
    pub direct: bool,
    pub no_flush: bool,
    /// Others may write at the same time (`-U`).
    pub share: bool,
    pub unmap: bool,
    /// Unless a file's own options say another.
    pub aio: Aio,
    /// Leave the backing file closed.
    pub no_backing: bool,
    /// The image is opened to be checked or repaired.
    pub check: bool,
    /// The size of the top file will change.
    pub resize: bool,
    /// Data is neither read nor written: an encrypted image opens without its secret.
    pub no_data: bool,
    /// Keep the guard for guessed raw images quiet.
    pub quiet_probe: bool,
}

impl OpenFlags {
    /// Applies `cache=`; returns whether every write must reach the disk.
    pub fn set_cache(&mut self, mode: &str) -> Option<bool> {
        let (direct, no_flush, writethrough) = match mode {
            "none" | "off" => (true, false, false),
            "writeback" => (false, false, false),
            "writethrough" => (false, false, true),
            "directsync" => (true, false, true),
            "unsafe" => (false, true, false),
            _ => return None,
        };
        self.direct = direct;
        self.no_flush = no_flush;
        Some(writethrough)
    }

    fn for_backing(&self) -> OpenFlags {
        OpenFlags { write: false, no_backing: false, check: false, resize: false, quiet_probe: true, ..self.clone() }
    }
}

/// Drivers that are protocols: they provide bytes and are never guessed.
pub const PROTOCOLS: &[&str] = &["blkdebug", "file", "host_device", "host_cdrom", "nbd", "null-co", "null-aio"];
/// Filters that are nodes of their own, above a `file`.
pub const FILTERS: &[&str] = &["compress", "copy-on-read", "throttle"];
/// Formats that can be opened.
pub const FORMATS: &[&str] =
    &["bochs", "cloop", "dmg", "luks", "parallels", "qcow", "qcow2", "qed", "raw", "vdi", "vhdx", "vmdk", "vpc"];

pub fn is_known_driver(name: &str) -> bool {
    PROTOCOLS.contains(&name) || FORMATS.contains(&name) || FILTERS.contains(&name)
}

/// Opens an image by name; without a format it is guessed.
pub fn open(name: &str, format: Option<&str>, flags: &OpenFlags) -> Result<NodeRef> {
    let mut options = match name.strip_prefix("json:") {
        Some(text) => Options::parse_json(text)?,
        None => {
            let mut o = Options::new();
            o.set("filename", name);
            o
        }
    };
    if let Some(format) = format {
        if !is_known_driver(format) {
            return Err(Error::new(format!("Unknown driver '{format}'")));
        }
        if options.get("driver").is_some_and(|d| d != format) {
            return Err(Error::new("Driver specified twice"));
        }
        options.set("driver", format);
    }
    open_options(options, flags)
}

/// Opens what an option table describes.
pub fn open_options(options: Options, flags: &OpenFlags) -> Result<NodeRef> {
    open_at(options, flags, 0)
}

fn open_at(mut options: Options, flags: &OpenFlags, depth: usize) -> Result<NodeRef> {
    if depth > MAX_DEPTH {
        return Err(Error::new("Too many backing files in a chain"));
    }
    let mut flags = flags.clone();
    options.take("node-name");
    if let Some(read_only) = options.take_bool("read-only")? {
        flags.write &= !read_only;
    }
    options.take_bool("auto-read-only")?;
    if let Some(share) = options.take_bool("force-share")? {
        if share && flags.write {
            return Err(Error::new("force-share=on can only be used with read-only images"));
        }
        flags.share = share;
    }
    if let Some(direct) = options.take_bool("cache.direct")? {
        flags.direct = direct;
    }
    if let Some(no_flush) = options.take_bool("cache.no-flush")? {
        flags.no_flush = no_flush;
    }
    match options.get("discard") {
        None => {}
        Some("unmap" | "on") => flags.unmap = true,
        Some("ignore" | "off") => flags.unmap = false,
        Some(_) => return Err(Error::new("Invalid discard option")),
    }
    // What stands above the node is taken out before the node looks at its options.
    let mut above = Options::new();
    for key in options.iter().map(|(k, _)| k.to_owned()).collect::<Vec<_>>() {
        if ["discard", "detect-zeroes", "copy-on-read"].contains(&key.as_str()) || key.starts_with("throttling.") {
            above.set(&key, &options.take(&key).unwrap_or_default());
        }
    }
    let driver = options.take("driver");
    let node = match driver.as_deref() {
        Some(d) if PROTOCOLS.contains(&d) => open_protocol(d, &mut options, &flags, false)?,
        Some(d) if FILTERS.contains(&d) => open_filter(d, &mut options, &flags, depth)?,
        Some(d) if !FORMATS.contains(&d) => return Err(Error::new(format!("Unknown driver '{d}'"))),
        other => open_format(other, &mut options, &flags, depth)?,
    };
    match options.first_key() {
        None => crate::filter::decorate(node, &mut above, flags.unmap),
        Some(key) => Err(Error::new(format!(
            "Block {} '{}' does not support the option '{key}'",
            if is_format(&node) { "format" } else { "protocol" },
            node.driver()
        ))),
    }
}

/// A filter over its `file`, which is a whole graph.
fn open_filter(driver: &str, options: &mut Options, flags: &OpenFlags, depth: usize) -> Result<NodeRef> {
    let mut below = options.take_below("file");
    if let Some(name) = options.take("filename") {
        below.set("filename", &name);
    }
    if below.is_empty() {
        return Err(Error::new("A block device must be specified for \"file\""));
    }
    filter_above(driver, open_at(below, flags, depth + 1)?, options)
}

/// A filter over a node that is open.
pub fn filter_above(driver: &str, node: NodeRef, options: &mut Options) -> Result<NodeRef> {
    match driver {
        "throttle" => {
            let id = options.take("throttle-group").ok_or_else(|| Error::new("Please specify a throttle group"))?;
            Ok(Arc::new(Filtered::new(node, Throttle::new(throttle::group(&id)?, true))))
        }
        "compress" if !node.can_compress() => Err(Error::new("Compression is not supported for this drive")),
        "compress" => Ok(Arc::new(Filtered::new(node, crate::filter::compress::Compress::default()))),
        // It writes what it reads.
        _ if node.read_only() => Err(Error::new("Block node is read-only")),
        _ => Ok(Arc::new(Filtered::new(node, CopyOnRead::node(options.take("bottom"))))),
    }
}

fn is_format(node: &NodeRef) -> bool {
    FORMATS.contains(&node.driver())
}

/// The table that describes the `file` child.
fn file_options(options: &mut Options, flags: &OpenFlags) -> Result<(Options, OpenFlags)> {
    let mut below = options.take_below("file");
    let mut flags = flags.clone();
    if let Some(text) = below.get("filename").and_then(|n| n.strip_prefix("json:")).map(str::to_owned) {
        below.take("filename");
        for (k, v) in Options::parse_json(&text)?.iter() {
            below.set(k, v);
        }
    }
    if let Some(name) = options.take("filename") {
        set_file(&mut below, &name)?;
    } else if below.get("driver").is_none()
        && let Some(name) = below.take("filename")
    {
        set_file(&mut below, &name)?;
    }
    if below.is_empty() {
        return Err(Error::new("A block device must be specified for \"file\""));
    }
    below.take("node-name");
    if let Some(direct) = below.take_bool("cache.direct")? {
        flags.direct = direct;
    }
    if let Some(no_flush) = below.take_bool("cache.no-flush")? {
        flags.no_flush = no_flush;
    }
    if let Some(share) = below.take_bool("force-share")? {
        flags.share = share;
    }
    match below.take("discard").as_deref() {
        Some("unmap" | "on") => flags.unmap = true,
        Some(_) => flags.unmap = false,
        None => {}
    }
    below.take_bool("auto-read-only")?;
    Ok((below, flags))
}

fn open_file(below: Options, flags: &OpenFlags, locked_format: bool) -> Result<NodeRef> {
    let mut below = below;
    let driver = below.take("driver").unwrap_or_else(|| "file".into());
    let node = if PROTOCOLS.contains(&driver.as_str()) {
        open_protocol(&driver, &mut below, flags, locked_format)?
    } else if FORMATS.contains(&driver.as_str()) {
        open_format(Some(&driver), &mut below, flags, 0)?
    } else {
        return Err(Error::new(format!("Unknown driver '{driver}'")));
    };
    match below.first_key() {
        None => Ok(node),
        Some(key) => Err(Error::new(format!("Block protocol '{}' doesn't support the option '{key}'", node.driver()))),
    }
}

fn open_format(driver: Option<&str>, options: &mut Options, flags: &OpenFlags, depth: usize) -> Result<NodeRef> {
    let (below, file_flags) = file_options(options, flags)?;
    let (driver, guessed) = match driver {
        Some(d) => (d.to_owned(), false),
        None => {
            let guess = guess(&below, &file_flags)?;
            (guess.to_owned(), true)
        }
    };
    // A raw image may have several writers; every other format denies them.
    let file = open_file(below, &file_flags, driver != "raw")?;
    match driver.as_str() {
        "raw" => {
            let offset = options.take_size("offset")?.unwrap_or(0);
            let window = options.take_size("size")?;
            if guessed && flags.write && !flags.quiet_probe {
                warn_guessed(&file.filename());
            }
            let raw = Raw::new(file, offset, window, guessed && flags.write)?;
            Ok(Arc::new(if guessed { raw.probed() } else { raw }))
        }
        "qcow2" => open_qcow2(file, options, flags, depth),
        "luks" => open_luks(file, options, flags),
        "vdi" => Ok(Arc::new(crate::vdi::open(file, flags.write)?)),
        "vhdx" => Ok(Arc::new(crate::vhdx::open(file, flags.write)?)),
        "vmdk" => open_vmdk(file, options, flags, depth),
        "vpc" => {
            let by = crate::vpc::SizeBy::take(options)?;
            crate::vpc::open(file, flags.write, by)
        }
        other => open_archive(other, file, options, flags, depth),
    }
}

fn warn_guessed(name: &str) {
    eprintln!("WARNING: Image format was not specified for '{name}' and probing guessed raw.");
    eprintln!(
        "         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted."
    );
    eprintln!("         Specify the 'raw' format explicitly to remove the restrictions.");
}

/// Guesses the format without holding rights that only a chosen format would want.
fn guess(below: &Options, flags: &OpenFlags) -> Result<&'static str> {
    let quiet = OpenFlags { write: false, share: true, aio: Aio::Threads, ..flags.clone() };
    let mut below = below.clone();
    below.take("aio");
    let node = open_file(below, &quiet, false)?;
    let mut head = vec![0; PROBE_BYTES.min(node.size() as usize)];
    node.read(0, &mut head)
        .map_err(|e| Error::new(format!("Could not read image for determining its format: {}", strerror(&e))))?;
    Ok(probe::by_content(&head, &node.filename()))
}

fn open_qcow2(file: NodeRef, options: &mut Options, flags: &OpenFlags, depth: usize) -> Result<NodeRef> {
    let header = read_header(file.as_ref())?;
    let (overlap, cache_bytes) = crate::qcow2::tuning::take(options, header.cluster_size())?;
    let lazy_refcounts = options.take_bool("lazy-refcounts")?;
    let data_file = open_data_file(&header, options, flags)?;
    let key = take_key(options, flags);
    let open = Qcow2Options {
        write: flags.write,
        check: flags.check,
        unmap: flags.unmap,
        lazy_refcounts,
        data_file,
        key,
        overlap,
        cache_bytes,
    };
    let name = file.filename();
    let image: NodeRef = Arc::new(Qcow2::open(file, open)?);
    let below = options.take_below("backing");
    let nothing = options.take("backing").is_some_and(|b| b.is_empty());
    if flags.no_backing || nothing {
        return Ok(image);
    }
    if header.backing_file.is_some() || !below.is_empty() {
        let backing =
            open_backing(header.backing_file.as_deref(), header.backing_format.as_deref(), &name, below, flags, depth);
        image.set_backing(Some(backing.map_err(|e| Error::new(format!("Could not open backing file: {e}")))?));
    }
    Ok(image)
}

/// Formats that are only read.
fn open_archive(
    driver: &str,
    file: NodeRef,
    options: &mut Options,
    flags: &OpenFlags,
    depth: usize,
) -> Result<NodeRef> {
    use crate::archive::{bochs, cloop, dmg, parallels, qcow1, qed};
    let name = file.filename();
    let image: NodeRef = match driver {
        "bochs" => Arc::new(bochs::open(file, flags.write)?),
        "cloop" => Arc::new(cloop::open(file, flags.write)?),
        "dmg" => Arc::new(dmg::open(file, flags.write)?),
        "parallels" => Arc::new(parallels::open(file, flags.write)?),
        "qed" => Arc::new(qed::open(file, flags.write)?),
        "qcow" => Arc::new(qcow1::open(file, flags.write, &take_key(options, flags))?),
        other => return Err(Error::new(format!("Unknown driver '{other}'"))),
    };
    let info = image.info()?;
    let below = options.take_below("backing");
    let nothing = options.take("backing").is_some_and(|b| b.is_empty());
    if flags.no_backing || nothing || info.backing_file.is_none() && below.is_empty() {
        return Ok(image);
    }
    let backing =
        open_backing(info.backing_file.as_deref(), info.backing_format.as_deref(), &name, below, flags, depth);
    image.set_backing(Some(backing.map_err(|e| Error::new(format!("Could not open backing file: {e}")))?));
    Ok(image)
}

fn take_key(options: &mut Options, flags: &OpenFlags) -> KeyOptions {
    KeyOptions {
        format: options.take("encrypt.format"),
        secret: options.take("encrypt.key-secret"),
        no_data: flags.no_data,
    }
}

fn open_luks(file: NodeRef, options: &mut Options, flags: &OpenFlags) -> Result<NodeRef> {
    let secret = options.take("key-secret");
    if secret.is_none() && !flags.no_data {
        return Err(Error::new("Parameter 'key-secret' is required for cipher"));
    }
    let header = options.take_below("header");
    let detached = if header.is_empty() { None } else { Some(open_file(header, flags, true)?) };
    Ok(Arc::new(crate::luks::Luks::open(file, detached, flags.write, secret.as_deref().filter(|_| !flags.no_data))?))
}

fn open_vmdk(file: NodeRef, options: &mut Options, flags: &OpenFlags, depth: usize) -> Result<NodeRef> {
    let name = file.filename();
    let image = crate::vmdk::open(file, flags.write, |part| {
        let mut o = Options::new();
        let full = if part.starts_with('/') { part.to_owned() } else { beside(&name, part) };
        set_file(&mut o, &full)?;
        open_file(o, flags, true)
    })?;
    let (parent, parent_cid) = (image.parent(), image.parent_cid());
    let image: NodeRef = Arc::new(image);
    let below = options.take_below("backing");
    if let Some(parent) = parent.filter(|_| !flags.no_backing) {
        let wrap = |e: Error| Error::new(format!("Could not open backing file: {e}"));
        let backing = open_backing(Some(&parent), None, &name, below, flags, depth).map_err(wrap)?;
        // A parent that was written since does not fit any more.
        let cid = backing.info()?.specific.and_then(|(_, d)| d["cid"].as_u64());
        if cid.is_some_and(|c| c != parent_cid as u64) {
            return Err(Error::new(format!("The backing file '{parent}' has changed since '{name}' was made on it")));
        }
        image.set_backing(Some(backing));
    }
    Ok(image)
}

fn open_data_file(
    header: &crate::qcow2::header::Header,
    options: &mut Options,
    flags: &OpenFlags,
) -> Result<Option<NodeRef>> {
    let below = options.take_below("data-file");
    if !header.is(crate::qcow2::header::incompatible::DATA_FILE) {
        return match below.is_empty() {
            true => Ok(None),
            false => Err(Error::new("'data-file' can only be set for images with an external data file")),
        };
    }
    if !below.is_empty() {
        return Ok(Some(open_file(below, flags, true)?));
    }
    let name = header.data_file.as_deref().ok_or_else(|| Error::new("'data-file' is required for this image"))?;
    let mut o = Options::new();
    // Unlike a backing file's, this name is not relative to the image.
    set_file(&mut o, name)?;
    Ok(Some(open_file(o, flags, true)?))
}

fn open_backing(
    name: Option<&str>,
    format: Option<&str>,
    overlay: &str,
    below: Options,
    flags: &OpenFlags,
    depth: usize,
) -> Result<NodeRef> {
    let mut options = below;
    let chosen = options.get("file.filename").is_some()
        || options.get("file.driver").is_some()
        || options.get("driver").is_some_and(|d| PROTOCOLS.contains(&d));
    if !chosen && let Some(name) = name {
        match name.strip_prefix("json:") {
            Some(text) => {
                for (k, v) in Options::parse_json(text)?.iter() {
                    options.set(k, v);
                }
            }
            None => options.set("filename", &relative_to(overlay, name)),
        }
    }
    if options.get("driver").is_none()
        && let Some(format) = format
    {
        if !is_known_driver(format) {
            return Err(Error::new(format!("Unknown driver '{format}'")));
        }
        options.set("driver", format);
    }
    open_at(options, &flags.for_backing(), depth + 1)
}

/// A name as seen from the directory of the file that contains it.
pub fn relative_to(from: &str, name: &str) -> String {
    if name.starts_with('/') || has_protocol(name) { name.to_owned() } else { beside(from, name) }
}

/// A name in the directory of another file, whatever it looks like.
pub fn beside(from: &str, name: &str) -> String {
    match Path::new(from).parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.join(name).to_string_lossy().into_owned(),
        _ if has_protocol(name) => format!("./{name}"),
        _ => name.to_owned(),
    }
}

/// Opens a file for a new image's contents.
pub fn open_new(name: &str) -> Result<NodeRef> {
    let flags = OpenFlags { write: true, resize: true, ..OpenFlags::default() };
    let mut o = Options::new();
    set_file(&mut o, name)?;
    open_file(o, &flags, true).context(|| "Could not open the new image".into())
}
