//! `qemu-img resize`.

use crate::cli::{Opt, Parsed, long, opt};
use crate::common::{self, Command, Done, Exit, fail, objects, usage};
use disk::node::Preallocation;
use disk::open::OpenFlags;
use disk::size;

pub const COMMAND: Command = Command { name: "resize", summary: "changes the size of an image's disk", arguments: "FILE [+-]SIZE", options: OPTIONS, run };

const OPTIONS: &[Opt] = &[
    opt('q', "quiet", false),
    opt('f', "format", true),
    long("image-opts", false),
    long("shrink", false),
    long("preallocation", true),
    long("object", true),
    // A size such as -1G looks like an option; digits are taken as what they are.
    opt('0', "size-0", true),
    opt('1', "size-1", true),
    opt('2', "size-2", true),
    opt('3', "size-3", true),
    opt('4', "size-4", true),
    opt('5', "size-5", true),
    opt('6', "size-6", true),
    opt('7', "size-7", true),
    opt('8', "size-8", true),
    opt('9', "size-9", true),
];

/// The size argument and the rest, with a `-1G` put together again.
fn arguments(p: &Parsed) -> Option<(String, String)> {
    let minus = p.options.iter().find_map(|(n, v)| n.strip_prefix("size-").map(|digit| format!("-{digit}{v}")));
    match (p.rest.as_slice(), minus) {
        ([name], Some(size)) => Some((name.clone(), size)),
        ([name, size], None) => Some((name.clone(), size.clone())),
        _ => None,
    }
}

fn run(p: &Parsed) -> Done {
    let Some((name, size)) = arguments(p) else { return Err(usage("resize", "Expecting image file name and size")) };
    objects(p)?;
    let preallocation = match p.value("preallocation") {
        None => Preallocation::Off,
        Some(text) => Preallocation::parse(text).map_err(|_| Exit::Fail(format!("Invalid preallocation mode '{text}'")))?,
    };
    let (sign, digits) = match size.as_bytes().first() {
        Some(b'+') => (1, &size[1..]),
        Some(b'-') => (-1, &size[1..]),
        _ => (0, size.as_str()),
    };
    let amount = match size::parse(digits, 0) {
        Ok(v) if v <= i64::MAX as u64 => v,
        _ => return fail("Parameter 'size' expects a non-negative number below 2^64\nOptional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively."),
    };
    let flags = OpenFlags { write: true, resize: true, ..OpenFlags::default() };
    let node = common::open(p, &name, p.value("format"), &flags)?;
    let now = node.size();
    let wanted = match sign {
        1 => now.checked_add(amount),
        -1 => now.checked_sub(amount),
        _ => Some(amount),
    };
    let Some(wanted) = wanted.filter(|w| *w > 0 || sign == 0) else { return fail("New image size must be positive") };
    let wanted = if node.driver() == "raw" { wanted } else { wanted.next_multiple_of(512) };
    if wanted < now && !p.has("shrink") {
        // Both lines come before the status, in this order.
        eprintln!("qemu-img: Use the --shrink option to perform a shrink operation.");
        eprintln!(
            "qemu-img: warning: Shrinking an image will delete all data beyond the shrunken image's end. Before performing such an operation, make sure there is no important data there."
        );
        return Err(Exit::Status(1));
    }
    if wanted <= now && preallocation != Preallocation::Off {
        return fail("Preallocation can only be used for growing images");
    }
    node.resize(wanted, preallocation)?;
    common::close(&node)?;
    if !p.has("quiet") {
        println!("Image resized.");
    }
    Ok(0)
}
