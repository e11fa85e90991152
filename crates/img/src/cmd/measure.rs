//! `qemu-img measure`.

use super::create::{merge, wants_help};
use crate::cli::{Parsed, long, opt};
use crate::common::{self, Command, Done, Exit, fail, objects, usage, wants_json};
use crate::text;
use disk::chain;
use disk::node::NodeRef;
use disk::open::{OpenFlags, is_known_driver};
use disk::qcow2::create::{CreateOptions, full_size};
use disk::size;
use serde_json::{Map, Value, json};

pub const COMMAND: Command = Command {
    name: "measure",
    summary: "tells how large a new image would be",
    arguments: "(--size SIZE | FILE)",
    options: &[
        opt('O', "target-format", true),
        opt('o', "options", true),
        opt('s', "size", true),
        opt('f', "format", true),
        long("image-opts", false),
        opt('l', "snapshot", true),
        long("output", true),
        opt('U', "force-share", false),
        long("object", true),
    ],
    run,
};

#[derive(Default)]
struct Sizes {
    required: u64,
    full: u64,
    bitmaps: Option<u64>,
}

fn run(p: &Parsed) -> Done {
    let as_json = wants_json(p)?;
    objects(p)?;
    let texts = p.values("options");
    let format = p.value("target-format").unwrap_or("raw");
    if texts.iter().any(|t| wants_help(t)) {
        return super::create::print_options(format);
    }
    let given = match p.value("size") {
        None => None,
        Some(text) => match size::parse(text, 0) {
            Ok(v) if v <= i64::MAX as u64 => Some(v),
            Ok(_) | Err(size::SizeError::Range) => return fail("Image size must be less than 8 EiB!"),
            Err(_) => return fail(format!("Invalid image size specified: '{text}'.")),
        },
    };
    let name = match p.rest.as_slice() {
        [] => None,
        [one] => Some(one),
        _ => return fail("At most one filename argument is allowed."),
    };
    if name.is_none() && (p.has("format") || p.has("image-opts") || p.has("snapshot")) {
        return fail("--image-opts, -f, and -l can only be used with a filename argument.");
    }
    let source = match (name, given) {
        (None, None) => return Err(usage("measure", "Either --size N or one filename must be specified.")),
        (Some(_), Some(_)) => return fail("--size N cannot be used together with a filename."),
        (None, Some(_)) => None,
        (Some(name), None) => {
            let flags = OpenFlags { share: p.has("force-share"), quiet_probe: true, ..OpenFlags::default() };
            let mut node = common::open(p, name, p.value("format"), &flags)?;
            if let Some(key) = p.value("snapshot") {
                super::snapshot_view::select(&mut node, key)?;
            }
            Some(node)
        }
    };
    if !is_known_driver(format) {
        return fail(format!("Unknown file format '{format}'"));
    }
    let sizes = match format {
        "raw" | "file" => {
            let size = given.unwrap_or_else(|| source.as_ref().map_or(0, |s| s.size())).next_multiple_of(512);
            Sizes { required: size, full: size, bitmaps: None }
        }
        "luks" => {
            let mut options = merge(&texts)?;
            let size = given.or_else(|| source.as_ref().map(|s| s.size())).unwrap_or(0).next_multiple_of(512);
            let luks = disk::luks::options::CreateOptions::take(&mut options, "")?;
            let total = if luks.detached { 0 } else { size } + disk::luks::header::Header::places(luks.key_bytes).1 as u64 * 512;
            Sizes { required: total, full: total, bitmaps: None }
        }
        "qcow2" => qcow2(&texts, given, source.as_ref())?,
        other => return fail(format!("Block driver '{other}' does not support size measurement")),
    };
    print(&sizes, as_json);
    Ok(0)
}

fn print(s: &Sizes, as_json: bool) {
    if !as_json {
        println!("required size: {}\nfully allocated size: {}", s.required, s.full);
        if let Some(b) = s.bitmaps {
            println!("bitmaps size: {b}");
        }
        return;
    }
    let mut m = Map::new();
    if let Some(b) = s.bitmaps {
        m.insert("bitmaps".into(), json!(b));
    }
    m.insert("required".into(), json!(s.required));
    m.insert("fully-allocated".into(), json!(s.full));
    println!("{}", text::json(&Value::Object(m)));
}

fn qcow2(texts: &[&str], given: Option<u64>, source: Option<&NodeRef>) -> Result<Sizes, Exit> {
    let mut options = merge(texts)?;
    let size = given.or_else(|| source.map(|s| s.size())).unwrap_or(0);
    if options.get("size").is_none() {
        options.set("size", &size.to_string());
    }
    let o = CreateOptions::take(&mut options)?;
    if let Some(key) = options.first_key() {
        return fail(format!("Invalid parameter '{key}'"));
    }
    let cluster = o.cluster_size;
    let size = o.size.next_multiple_of(cluster);
    // The header of an encrypted image is in clusters of its own.
    let key = match &o.key {
        Some(disk::qcow2::NewKey::Luks(luks)) => (disk::luks::header::Header::places(luks.key_bytes).1 as u64 * 512).next_multiple_of(cluster),
        _ => 0,
    };
    let full = key + full_size(size, cluster, o.refcount_bits.trailing_zeros(), o.extended_l2);
    let eager = matches!(o.preallocation, disk::Preallocation::Falloc | disk::Preallocation::Full);
    let mut needed = 0;
    if eager {
        needed = size;
    } else if let Some(source) = source {
        needed = used(source, cluster, o.backing_file.is_some())?;
    }
    if o.data_file.is_some() {
        return Ok(Sizes { required: full - size, full: full - size, bitmaps: None });
    }
    let bitmaps = match source.and_then(|s| s.as_qcow2()) {
        Some(image) if o.version >= 3 => Some(bitmap_bytes(image, cluster)?),
        _ => None,
    };
    Ok(Sizes { required: full - size + needed, full, bitmaps })
}

/// Target clusters that hold anything, in bytes.
fn used(source: &NodeRef, cluster: u64, backed: bool) -> Result<u64, Exit> {
    let size = source.size();
    if backed {
        return Ok(size.next_multiple_of(cluster));
    }
    let (mut total, mut counted_to, mut at) = (0, 0, 0);
    while at < size {
        let seen = chain::status(source.as_ref(), None, at, size - at).map_err(|e| Exit::Fail(format!("Unable to get block status: {}", disk::node::strerror(&e))))?;
        let e = seen.extent;
        let end = at + e.len.max(1);
        if e.data && !e.zero {
            let from = (at / cluster * cluster).max(counted_to);
            let to = end.next_multiple_of(cluster);
            total += to.saturating_sub(from);
            counted_to = to;
        }
        at = end;
    }
    Ok(total)
}

fn bitmap_bytes(image: &disk::qcow2::Qcow2, cluster: u64) -> Result<u64, Exit> {
    let list = image.bitmap_list()?;
    let size = disk::Node::size(image);
    let mut total = 0;
    let mut directory = 0u64;
    for e in &list {
        let bits = size.div_ceil(1 << e.granularity_bits);
        let data_clusters = bits.div_ceil(8).div_ceil(cluster);
        total += data_clusters * cluster + (data_clusters * 8).next_multiple_of(cluster);
        directory += (24 + e.name.len() as u64).next_multiple_of(8);
    }
    Ok(total + directory.next_multiple_of(cluster))
}
