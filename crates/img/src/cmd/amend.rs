//! `qemu-img amend`.

use super::create::{merge, wants_help};
use crate::cli::{Parsed, long, opt};
use crate::common::{self, Command, Done, Progress, cache, fail, objects, usage};
use disk::create::{KEYSLOT_OPTIONS, QCOW2_OPTIONS};
use disk::node::NodeRef;
use disk::open::OpenFlags;
use disk::options::Options;

pub const COMMAND: Command = Command {
    name: "amend",
    summary: "changes an image's options",
    arguments: "FILE",
    options: &[
        opt('q', "quiet", false),
        opt('p', "progress", false),
        opt('f', "format", true),
        long("image-opts", false),
        opt('t', "cache", true),
        opt('o', "options", true),
        long("force", false),
        long("object", true),
    ],
    run,
};

/// Options of an image that can be changed later.
const AMENDABLE: &[&str] =
    &["backing_file", "backing_fmt", "compat", "data_file", "data_file_raw", "lazy_refcounts", "refcount_bits", "size"];

fn run(p: &Parsed) -> Done {
    let texts = p.values("options");
    if texts.is_empty() {
        return Err(usage("amend", "Must specify options (-o)"));
    }
    objects(p)?;
    if texts.iter().any(|t| wants_help(t)) {
        return print_options(p.value("format"));
    }
    let [name] = p.rest.as_slice() else { return Err(usage("amend", "Expecting one image file name")) };
    let mut options = merge(&texts)?;
    let mut flags = OpenFlags { write: true, resize: true, unmap: true, ..OpenFlags::default() };
    cache(&mut flags, p.value("cache"), "writeback")?;
    let node = common::open(p, name, p.value("format"), &flags)?;
    let secret = opened_with(p, name)?;
    let mut progress = Progress::new(p.has("progress"), 1);
    let mut steps = false;
    let mut reached = |done, total| {
        steps = true;
        progress.reach(done, total);
    };
    amend(&node, &mut options, secret.as_deref(), p.has("force"), &mut reached)?;
    if let Some(key) = options.first_key() {
        return fail(format!("Invalid parameter '{key}'"));
    }
    if !steps {
        progress.add(1);
    }
    common::close(&node)?;
    progress.complete();
    progress.finish();
    Ok(0)
}

fn print_options(format: Option<&str>) -> Done {
    let format = format.unwrap_or("qcow2");
    let (rows, prefix): (Vec<_>, _) = match format {
        "qcow2" => (QCOW2_OPTIONS.iter().filter(|r| AMENDABLE.contains(&r.name)).collect(), "encrypt."),
        "luks" => (Vec::new(), ""),
        other => return fail(format!("Format driver '{other}' does not support option amendment")),
    };
    println!("Amend options for '{format}':");
    let mut all: Vec<_> = rows.iter().map(|r| (r.name.to_owned(), r.kind, r.help)).collect();
    all.extend(KEYSLOT_OPTIONS.iter().map(|r| (format!("{prefix}{}", r.name), r.kind, r.help)));
    all.sort();
    for (name, kind, help) in all {
        let kind = if kind == "bool" { "bool (on/off)" } else { kind };
        println!("{:24} - {help}", format!("  {name}=<{kind}>"));
    }
    Ok(0)
}

/// The id of the secret in the image's options.
fn opened_with(p: &Parsed, name: &str) -> Result<Option<String>, common::Exit> {
    let o = match (p.has("image-opts"), name.strip_prefix("json:")) {
        (true, _) => Options::parse(name, None)?,
        (false, Some(text)) => Options::parse_json(text)?,
        (false, None) => return Ok(None),
    };
    Ok(o.get("key-secret").or(o.get("encrypt.key-secret")).map(str::to_owned))
}

fn amend(
    node: &NodeRef,
    options: &mut Options,
    secret: Option<&str>,
    force: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), common::Exit> {
    if let Some(image) = node.as_qcow2() {
        return image.amend(options, secret, force, progress).or_else(|e| match image.first_snapshot_damage() {
            Some(damage) if e.to_string().starts_with("Failed to turn") => fail(format!("{damage}\nqemu-img: {e}")),
            _ => Err(e.into()),
        });
    }
    if let Some(image) = node.as_luks() {
        return Ok(image.amend(options, secret.unwrap_or_default(), force)?);
    }
    fail(format!("Format driver '{}' does not support option amendment", node.driver()))
}
