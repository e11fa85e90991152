//! `qemu-img dd`.

use crate::cli::{Parsed, long, opt};
use crate::common::{self, Command, Done, Exit, fail, objects};
use disk::buffer::Buffer;
use disk::create::options_of;
use disk::node::strerror;
use disk::open::{OpenFlags, is_known_driver};
use disk::options::Options;
use disk::size;

pub const COMMAND: Command = Command {
    name: "dd",
    summary: "copies blocks from an image into a new image",
    arguments: "[bs=SIZE] [count=N] [skip=N] if=FILE of=FILE",
    options: &[
        opt('f', "format", true),
        long("image-opts", false),
        opt('O', "output-format", true),
        opt('U', "force-share", false),
        long("object", true),
    ],
    run,
};

#[derive(Default)]
struct Operands {
    input: Option<String>,
    output: Option<String>,
    block: Option<u64>,
    count: Option<u64>,
    skip: u64,
}

fn operands(p: &Parsed) -> Result<Operands, Exit> {
    let mut o = Operands::default();
    for text in &p.rest {
        let Some((key, value)) = text.split_once('=') else { return fail(format!("unrecognized operand {text}")) };
        let number = |v: &str| size::parse(v, 0).map_err(|_| Exit::Fail(format!("invalid number: '{v}'")));
        match key {
            "if" => o.input = Some(value.to_owned()),
            "of" => o.output = Some(value.to_owned()),
            "bs" => o.block = Some(number(value)?),
            "count" => o.count = Some(number(value)?),
            "skip" => o.skip = number(value)?,
            _ => return fail(format!("unrecognized operand {key}")),
        }
    }
    if o.block.is_some_and(|b| b == 0 || b > i32::MAX as u64) {
        return fail(format!("invalid number: '{}'", o.block.unwrap_or(0)));
    }
    Ok(o)
}

fn run(p: &Parsed) -> Done {
    objects(p)?;
    let o = operands(p)?;
    let (Some(input), Some(output)) = (&o.input, &o.output) else { return fail("Must specify both input and output files") };
    let flags = OpenFlags { share: p.has("force-share"), quiet_probe: true, ..OpenFlags::default() };
    let source = common::open(p, input, p.value("format"), &flags)?;
    let format = p.value("output-format").unwrap_or("raw");
    if !is_known_driver(format) {
        return fail(format!("Unknown file format '{format}'"));
    }
    if options_of(format).is_none() {
        return fail(format!("Format driver '{format}' does not support image creation"));
    }
    let block = o.block.unwrap_or(512);
    let end = o.count.and_then(|c| c.checked_mul(block)).map_or(source.size(), |n| n.min(source.size()));
    let start = o.skip.saturating_mul(block);
    if start > end {
        eprintln!("qemu-img: {input}: cannot skip to specified offset");
    }
    let total = end.saturating_sub(start);
    let mut options = Options::new();
    options.set("size", &total.to_string());
    super::create::create_image(output, format, options, true, true).map_err(|e| Exit::Fail(format!("{output}: error while creating output image of type {format}: {e}")))?;
    let target_flags = OpenFlags { write: true, resize: false, unmap: true, ..OpenFlags::default() };
    let target = common::open_named(output, Some(format), false, &target_flags)?;
    let mut buf = Buffer::new(block.min(total.max(1)) as usize);
    let mut at = 0;
    while at < total {
        let n = (total - at).min(buf.len() as u64);
        let part = &mut buf[..n as usize];
        source.read(start + at, part).map_err(|e| Exit::Fail(format!("error while reading from input image file: {}", strerror(&e))))?;
        target.write(at, part).map_err(|e| Exit::Fail(format!("error while writing to output image file: {}", strerror(&e))))?;
        at += n;
    }
    common::close(&target)?;
    Ok(0)
}
