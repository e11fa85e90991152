//! `qemu-img create`.

use crate::cli::{Parsed, long, opt};
use crate::common::{Command, Done, Exit, fail, objects, usage};
use disk::create::{CreateOption, FILE_OPTIONS, options_of, takes_backing};
use disk::open::{OpenFlags, is_known_driver, relative_to};
use disk::options::Options;
use disk::size::{self, SizeError};
use spec::commas;
use spec::error::Error;

pub const COMMAND: Command = Command {
    name: "create",
    summary: "makes a new image",
    arguments: "FILE [SIZE]",
    options: &[
        opt('q', "quiet", false),
        opt('f', "format", true),
        opt('o', "options", true),
        opt('b', "backing", true),
        opt('F', "backing-format", true),
        opt('u', "backing-unsafe", false),
        long("object", true),
    ],
    run,
};

fn run(p: &Parsed) -> Done {
    let format = p.value("format").unwrap_or("raw");
    let texts = p.values("options");
    if texts.iter().any(|t| wants_help(t)) {
        return print_options(format);
    }
    let (name, size) = match p.rest.as_slice() {
        [] => return Err(usage("create", "Expecting image file name")),
        [name] => (name, None),
        [name, size] => (name, Some(size.as_str())),
        [_, size, extra, ..] => {
            creation_size(size)?;
            return fail(format!("Unexpected argument: {extra}"));
        }
    };
    objects(p)?;
    let mut options = merge(&texts)?;
    if let Some(text) = size {
        options.set("size", &creation_size(text)?.to_string());
    }
    for (flag, key) in [("backing", "backing_file"), ("backing-format", "backing_fmt")] {
        if let Some(v) = p.value(flag) {
            if !takes_backing(format) && options_of(format).is_some() {
                let what = if key == "backing_file" { "Backing file" } else { "Backing format" };
                return fail(format!("{name}: {what} not supported for file format '{format}'"));
            }
            options.set(key, v);
        }
    }
    create_image(name, format, options, p.has("backing-unsafe"), p.has("quiet")).map_err(|e| Exit::Fail(format!("{name}: {e}")))?;
    Ok(0)
}

/// Joins several `-o` texts; later ones win.
pub fn merge(texts: &[&str]) -> Result<Options, Exit> {
    let mut all = Options::new();
    for text in texts {
        if text.is_empty() || text.ends_with(',') && !text.ends_with(",,") || text.starts_with(',') {
            return fail(format!("Invalid option list: {text}"));
        }
        for (k, v) in Options::parse(text, None)?.iter() {
            all.set(k, v);
        }
    }
    Ok(all)
}

pub fn wants_help(text: &str) -> bool {
    commas::split(text).iter().any(|w| w == "help" || w == "?" || w == "list")
}

fn creation_size(text: &str) -> Result<u64, Exit> {
    match size::parse(text, 0) {
        Ok(v) if v <= i64::MAX as u64 => Ok(v),
        Ok(_) | Err(SizeError::Range) => fail("Image size must be less than 8 EiB!"),
        Err(SizeError::Syntax) => fail(format!("Invalid image size specified: '{text}'.")),
    }
}

/// Checks the options, looks at the backing file, prints the `Formatting` line and makes the image.
pub fn create_image(name: &str, format: &str, mut options: Options, unsafe_backing: bool, quiet: bool) -> Result<(), Error> {
    let rows = match options_of(format) {
        Some(rows) => rows,
        None if is_known_driver(format) => return Err(Error::new(format!("Format driver '{format}' does not support image creation"))),
        None => return Err(Error::new(format!("Unknown file format '{format}'"))),
    };
    for (key, _) in options.iter() {
        let takes_it = |r: &CreateOption| r.name == key;
        if !rows.iter().any(takes_it) && !FILE_OPTIONS.iter().any(takes_it) {
            return Err(Error::new(format!("Invalid parameter '{key}'")));
        }
    }
    if let Some(text) = options.get("size").map(str::to_owned) {
        let mut one = Options::new();
        one.set("size", &text);
        let size = one.take_size("size")?.unwrap_or(0);
        options.set("size", &size.to_string());
    }
    if let Some(v) = options.get("cluster_size").map(str::to_owned) {
        let mut one = Options::new();
        one.set("cluster_size", &v);
        options.set("cluster_size", &one.take_size("cluster_size")?.unwrap_or(0).to_string());
    }
    if options.get("backing_file") == Some("") {
        return Err(Error::new("Expected backing file name, got empty string"));
    }
    if options.get("backing_file") == Some(name) {
        return Err(Error::new("Error: Trying to create an image with the same filename as the backing file"));
    }
    backing(name, &mut options, unsafe_backing)?;
    if options.get("size").is_none() {
        return Err(Error::new("Image creation needs a size parameter"));
    }
    if !quiet {
        println!("{}", formatting_line(name, format, rows, &options));
    }
    disk::create::create(format, name, options)
}

/// Opens the backing file to check it and to take its size.
fn backing(name: &str, options: &mut Options, unsafe_backing: bool) -> Result<(), Error> {
    let Some(file) = options.get("backing_file").map(str::to_owned) else { return Ok(()) };
    let format = options.get("backing_fmt").map(str::to_owned);
    if let Some(f) = &format
        && !is_known_driver(f)
    {
        return Err(Error::new(format!("Unknown backing file format '{f}'")));
    }
    let full = relative_to(name, &file);
    if unsafe_backing && options.get("size").is_some() {
        return no_format(&format, None);
    }
    let flags = OpenFlags { no_backing: false, no_data: true, quiet_probe: true, ..OpenFlags::default() };
    match disk::open(&full, format.as_deref(), &flags) {
        Ok(node) => {
            no_format(&format, Some(node.driver()))?;
            if options.get("size").is_none() {
                options.set("size", &node.size().to_string());
            }
            Ok(())
        }
        Err(e) => Err(Error::new(format!("{e}\nCould not open backing image."))),
    }
}

fn no_format(given: &Option<String>, detected: Option<&str>) -> Result<(), Error> {
    if given.is_some() {
        return Ok(());
    }
    let detected = detected.map_or(String::new(), |d| format!("\nDetected format of {d}."));
    Err(Error::new(format!("Backing file specified without backing format{detected}")))
}

fn formatting_line(name: &str, format: &str, rows: &[CreateOption], options: &Options) -> String {
    let mut line = format!("Formatting '{name}', fmt={format}");
    for row in rows {
        if let Some(value) = options.get(row.name).or(row.default) {
            let quoted = commas::doubled(value);
            line.push_str(&format!(" {}={quoted}", row.name));
        }
    }
    line
}

pub fn print_options(format: &str) -> Done {
    let Some(rows) = options_of(format) else {
        return match is_known_driver(format) {
            true => fail(format!("Format driver '{format}' does not support image creation")),
            false => fail(format!("Unknown file format '{format}'")),
        };
    };
    let mut all: Vec<&CreateOption> = rows.iter().chain(FILE_OPTIONS).collect();
    all.sort_by_key(|r| r.name);
    println!("Supported options:");
    for r in all {
        let kind = if r.kind == "bool" { "bool (on/off)" } else { r.kind };
        println!("{:24} - {}", format!("  {}=<{kind}>", r.name), r.help);
    }
    Ok(0)
}
