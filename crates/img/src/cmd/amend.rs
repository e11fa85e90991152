//! `qemu-img amend`.

use super::create::{merge, wants_help};
use crate::cli::{Parsed, long, opt};
use crate::common::{self, Command, Done, Progress, cache, fail, objects, usage};
use disk::create::QCOW2_OPTIONS;
use disk::open::OpenFlags;

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
const AMENDABLE: &[&str] = &["backing_file", "backing_fmt", "compat", "data_file", "data_file_raw", "lazy_refcounts", "refcount_bits", "size"];

fn run(p: &Parsed) -> Done {
    let texts = p.values("options");
    if texts.is_empty() {
        return Err(usage("amend", "Must specify options (-o)"));
    }
    objects(p)?;
    if texts.iter().any(|t| wants_help(t)) {
        if p.value("format").is_some_and(|f| f != "qcow2") {
            return fail(format!("Format driver '{}' does not support option amendment", p.value("format").unwrap_or("")));
        }
        println!("Amend options for 'qcow2':");
        let mut rows: Vec<_> = QCOW2_OPTIONS.iter().filter(|r| AMENDABLE.contains(&r.name)).collect();
        rows.sort_by_key(|r| r.name);
        for r in rows {
            let kind = if r.kind == "bool" { "bool (on/off)" } else { r.kind };
            println!("{:24} - {}", format!("  {}=<{kind}>", r.name), r.help);
        }
        return Ok(0);
    }
    let [name] = p.rest.as_slice() else { return Err(usage("amend", "Expecting one image file name")) };
    let mut options = merge(&texts)?;
    let mut flags = OpenFlags { write: true, resize: true, unmap: true, ..OpenFlags::default() };
    cache(&mut flags, p.value("cache"), "writeback")?;
    let node = common::open(p, name, p.value("format"), &flags)?;
    let Some(image) = node.as_qcow2() else {
        return fail(format!("Format driver '{}' does not support option amendment", node.driver()));
    };
    let mut progress = Progress::new(p.has("progress"), 1);
    image.amend(&mut options)?;
    progress.add(1);
    common::close(&node)?;
    progress.complete();
    progress.finish();
    Ok(0)
}
