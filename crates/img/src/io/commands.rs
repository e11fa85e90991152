//! The commands of `qemu-io`.

use super::report::{self, amount, number};
use super::{Opening, Session};
use disk::engine::Aio;
use disk::node::{NodeRef, Preallocation, strerror};
use disk::options::Options;
use std::io;
use std::time::{Duration, Instant};

/// A command: names, argument bounds (without options), texts, code.
struct Command {
    name: &'static str,
    short: &'static str,
    min: usize,
    max: usize,
    args: &'static str,
    help: &'static str,
    needs_file: bool,
    run: fn(&mut Session, &[&str]) -> bool,
}

const MANY: usize = usize::MAX;

const fn c(
    name: &'static str,
    short: &'static str,
    bounds: (usize, usize),
    args: &'static str,
    help: &'static str,
    needs_file: bool,
    run: fn(&mut Session, &[&str]) -> bool,
) -> Command {
    Command { name, short, min: bounds.0, max: bounds.1, args, help, needs_file, run }
}

const COMMANDS: &[Command] = &[
    c("abort", "", (0, 0), "", "simulate a program crash using abort(3)", false, |_, _| std::process::abort()),
    c("aio_flush", "", (0, 0), "", "completes all outstanding aio requests", true, aio_flush),
    c(
        "aio_read",
        "",
        (2, MANY),
        "[-Ciqrv] [-P pattern] off len [len..]",
        "asynchronously reads a number of bytes",
        true,
        |s, a| beside(s, a, aio_read),
    ),
    c(
        "aio_write",
        "",
        (2, MANY),
        "[-Cfiqruz] [-P pattern] off len [len..]",
        "asynchronously writes a number of bytes",
        true,
        |s, a| beside(s, a, aio_write),
    ),
    c("alloc", "a", (1, 2), "offset [count]", "checks if offset is allocated in the file", true, alloc),
    c(
        "break",
        "",
        (2, 2),
        "event tag",
        "sets a breakpoint on event and tags the stopped request as tag",
        true,
        set_break,
    ),
    c("close", "c", (0, 0), "", "close the current open file", true, close),
    c("discard", "d", (2, MANY), "[-Cq] off len", "discards a number of bytes at a specified offset", true, discard),
    c("flush", "f", (0, 0), "", "flush all in-core file state to disk", true, flush),
    c("help", "?", (0, 1), "[command]", "help for one or all commands", false, help),
    c("info", "i", (0, 0), "", "prints information about the current file", true, info),
    c("length", "l", (0, 0), "", "gets the length of the current file", true, length),
    c("map", "m", (0, 1), "", "prints the allocated areas of a file", true, map),
    c(
        "open",
        "o",
        (0, MANY),
        "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]",
        "open the file specified by path",
        false,
        open,
    ),
    c("quit", "q", (0, 0), "", "exit the program", false, quit),
    c(
        "read",
        "r",
        (2, MANY),
        "[-abCqrv] [-P pattern [-s off] [-l len]] off len",
        "reads a number of bytes at a specified offset",
        true,
        read,
    ),
    c(
        "readv",
        "rv",
        (2, MANY),
        "[-Cqrv] [-P pattern] off len [len..]",
        "reads a number of bytes at a specified offset",
        true,
        readv,
    ),
    c("remove_break", "", (1, 1), "tag", "remove a breakpoint by tag", true, remove_break),
    c("reopen", "", (0, MANY), "[(-r|-w)] [-c cache] [-o options]", "reopens an image with new options", true, reopen),
    c("resume", "", (1, 1), "tag", "resumes the request tagged as tag", true, resume),
    c("sigraise", "", (1, 1), "signal", "raises a signal", false, sigraise),
    c("sleep", "", (1, 1), "", "waits for the given value in milliseconds", false, sleep),
    c(
        "truncate",
        "t",
        (1, 3),
        "[-m prealloc_mode] off",
        "truncates the current file at the given offset",
        true,
        truncate,
    ),
    c("wait_break", "", (1, 1), "tag", "waits for the suspension of a request", true, wait_break),
    c(
        "write",
        "w",
        (2, MANY),
        "[-bcCfnqruz] [-P pattern | -s source_file] off len",
        "writes a number of bytes at a specified offset",
        true,
        write,
    ),
    c(
        "writev",
        "wv",
        (2, MANY),
        "[-Cfqr] [-P pattern] off len [len..]",
        "writes a number of bytes at a specified offset",
        true,
        writev,
    ),
];

/// Runs one line; returns whether it worked.
pub fn run_line(session: &mut Session, line: &str) -> bool {
    let words: Vec<&str> = line.split([' ', '\t']).filter(|w| !w.is_empty()).collect();
    let Some((name, args)) = words.split_first() else { return true };
    let Some(command) = COMMANDS.iter().find(|c| c.name == *name || !c.short.is_empty() && c.short == *name) else {
        eprintln!("command \"{name}\" not found");
        return false;
    };
    if command.needs_file && session.node.is_none() {
        eprintln!("no file open, try 'help open'");
        return false;
    }
    if args.len() < command.min || args.len() > command.max {
        let bound = match (command.min, command.max) {
            (0, 0) => "no arguments".to_owned(),
            (min, MANY) => format!("at least {min} arguments"),
            (min, max) if min == max => format!("{min} arguments"),
            (min, max) => format!("between {min} and {max} arguments"),
        };
        eprintln!("bad argument count {} to {}, expected {bound}", args.len(), command.name);
        return false;
    }
    (command.run)(session, args)
}

/// The flags and values in front of a command's arguments.
struct Flags<'a> {
    set: Vec<(char, &'a str)>,
    rest: Vec<&'a str>,
}

impl<'a> Flags<'a> {
    /// `spec` is a getopt text: a letter with a colon takes a value.
    fn parse(command: &str, spec: &str, args: &[&'a str]) -> Option<Flags<'a>> {
        let mut flags = Flags { set: Vec::new(), rest: Vec::new() };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if *arg == "--" {
                flags.rest.extend(args.by_ref());
                break;
            }
            if arg.len() < 2 || !arg.starts_with('-') {
                flags.rest.push(arg);
                continue;
            }
            for (at, letter) in arg.char_indices().skip(1) {
                let place = spec.find(letter).filter(|_| letter != ':');
                let Some(place) = place else {
                    eprintln!("qemu-io: invalid option -- '{letter}'");
                    usage(command);
                    return None;
                };
                if spec[place + 1..].starts_with(':') {
                    let glued = &arg[at + 1..];
                    let value = if glued.is_empty() { args.next().copied() } else { Some(glued) };
                    let Some(value) = value else {
                        eprintln!("qemu-io: option requires an argument -- '{letter}'");
                        usage(command);
                        return None;
                    };
                    flags.set.push((letter, value));
                    break;
                }
                flags.set.push((letter, ""));
            }
        }
        Some(flags)
    }

    fn has(&self, letter: char) -> bool {
        self.set.iter().any(|(c, _)| *c == letter)
    }

    fn value(&self, letter: char) -> Option<&'a str> {
        self.set.iter().rev().find(|(c, _)| *c == letter).map(|(_, v)| *v)
    }
}

fn usage(name: &str) {
    if let Some(c) = COMMANDS.iter().find(|c| c.name == name) {
        println!("{} {} -- {}", c.name, c.args, c.help);
    }
}

fn node(session: &Session) -> NodeRef {
    session.node.clone().expect("run_line has checked that a file is open")
}

fn pattern(text: Option<&str>) -> Result<Option<u8>, ()> {
    let Some(text) = text else { return Ok(None) };
    let value = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    match value {
        Some(v) if v <= 255 => Ok(Some(v as u8)),
        _ => {
            println!("{text} is not a valid pattern byte");
            Err(())
        }
    }
}

/// Requests past the end fail like a device's would.
fn in_bounds(node: &NodeRef, offset: u64, len: u64) -> io::Result<()> {
    if offset.checked_add(len).is_none_or(|end| end > node.size()) { Err(disk::node::eio()) } else { Ok(()) }
}

/// The largest request that a block node takes.
const MAX_REQUEST: u64 = 0x7fff_fe00;

fn lengths(words: &[&str]) -> Option<Vec<u64>> {
    let mut list = Vec::new();
    for w in words {
        let len = number(w)?;
        if len > MAX_REQUEST {
            println!("Argument '{w}' exceeds maximum size {MAX_REQUEST}");
            return None;
        }
        list.push(len);
    }
    Some(list)
}

fn read(s: &mut Session, args: &[&str]) -> bool {
    let Some(f) = Flags::parse("read", "abCl:pP:qrs:v", args) else { return false };
    let [offset, len] = f.rest.as_slice() else {
        usage("read");
        return false;
    };
    do_read(s, &f, offset, &[len], "read")
}

fn readv(s: &mut Session, args: &[&str]) -> bool {
    let Some(f) = Flags::parse("readv", "CP:qrv", args) else { return false };
    let [offset, lens @ ..] = f.rest.as_slice() else {
        usage("readv");
        return false;
    };
    if lens.is_empty() {
        usage("readv");
        return false;
    }
    do_read(s, &f, offset, lens, "readv")
}

fn aio_read(s: &mut Session, args: &[&str]) -> bool {
    let Some(f) = Flags::parse("aio_read", "CP:iqrv", args) else { return false };
    let [offset, lens @ ..] = f.rest.as_slice() else {
        usage("aio_read");
        return false;
    };
    if f.has('i') || lens.is_empty() {
        return true;
    }
    do_read(s, &f, offset, lens, "aio_read");
    true // the request itself was accepted; its result has been reported
}

/// Which part of the buffer a pattern is compared with.
fn checked_part(f: &Flags, total: u64) -> Option<(u64, u64)> {
    let from = f.value('s').map_or(Some(0), number)?;
    let len = f.value('l').map_or(Some(total.saturating_sub(from)), number)?;
    if (f.has('s') || f.has('l')) && !f.has('P') {
        usage("read");
        return None;
    }
    if from + len > total {
        println!("pattern verification range exceeds end of read data");
        return None;
    }
    Some((from, len))
}

fn do_read(s: &mut Session, f: &Flags, offset: &str, lens: &[&str], name: &str) -> bool {
    let (Some(offset), Some(lens)) = (number(offset), lengths(lens)) else { return false };
    let total: u64 = lens.iter().sum();
    let Ok(pattern) = pattern(f.value('P')) else { return false };
    let Some((from, part)) = checked_part(f, total) else { return false };
    let node = node(s);
    let mut buf = vec![0xab; total as usize];
    let began = Instant::now();
    let result = match f.has('b') {
        true => node.as_qcow2().map_or(Err(unsupported()), |q| q.read_vm_state(offset, &mut buf)),
        false => in_bounds(&node, offset, total).and_then(|()| node.read(offset, &mut buf)),
    };
    let took = began.elapsed();
    if let Err(e) = result {
        println!("{name} failed: {}", strerror(&e));
        return false;
    }
    let mut fine = true;
    if let Some(byte) = pattern
        && buf[from as usize..(from + part) as usize].iter().any(|b| *b != byte)
    {
        println!("Pattern verification failed at offset {}, {part} bytes", offset + from);
        fine = false;
    }
    if f.has('q') {
        return fine;
    }
    if f.has('v') {
        report::dump(&buf, offset);
    }
    report::print("read", took, offset, total, total, 1, f.has('C'));
    fine
}

fn unsupported() -> io::Error {
    disk::node::errno(rustix::io::Errno::OPNOTSUPP)
}

fn write(s: &mut Session, args: &[&str]) -> bool {
    let Some(f) = Flags::parse("write", "bcCfnpP:qrs:uz", args) else { return false };
    let [offset, len] = f.rest.as_slice() else {
        usage("write");
        return false;
    };
    if f.has('b') && f.has('z') {
        println!("-b and -z cannot be specified at the same time");
        return false;
    }
    if f.has('f') && (f.has('b') || f.has('c')) {
        println!("-f and -b or -c cannot be specified at the same time");
        return false;
    }
    if f.has('n') && !f.has('z') {
        println!("-n requires -z to be specified");
        return false;
    }
    if f.has('u') && !f.has('z') {
        println!("-u requires -z to be specified");
        return false;
    }
    if u8::from(f.has('z')) + u8::from(f.has('P')) + u8::from(f.has('s')) > 1 {
        println!("Only one of -z, -P, and -s can be specified at the same time");
        return false;
    }
    do_write(s, &f, offset, &[len], "write")
}

fn writev(s: &mut Session, args: &[&str]) -> bool {
    let Some(f) = Flags::parse("writev", "CfqrP:", args) else { return false };
    let [offset, lens @ ..] = f.rest.as_slice() else {
        usage("writev");
        return false;
    };
    if lens.is_empty() {
        usage("writev");
        return false;
    }
    do_write(s, &f, offset, lens, "writev")
}

fn aio_write(s: &mut Session, args: &[&str]) -> bool {
    let Some(f) = Flags::parse("aio_write", "CfiP:qruz", args) else { return false };
    let [offset, lens @ ..] = f.rest.as_slice() else {
        usage("aio_write");
        return false;
    };
    if f.has('i') || lens.is_empty() {
        return true;
    }
    if f.has('z') && lens.len() != 1 {
        println!("-z supports only a single length parameter");
        return false;
    }
    if f.has('u') && !f.has('z') {
        println!("-u requires -z to be specified");
        return false;
    }
    if f.has('z') && f.has('P') {
        println!("-z and -P cannot be specified at the same time");
        return false;
    }
    do_write(s, &f, offset, lens, "aio_write");
    true
}

/// What a write stores: a pattern, or a file's bytes over and over.
fn contents(f: &Flags, total: u64) -> Option<Vec<u8>> {
    let Ok(pattern) = pattern(f.value('P')) else { return None };
    let Some(file) = f.value('s') else { return Some(vec![pattern.unwrap_or(0xcd); total as usize]) };
    let read = || -> io::Result<Vec<u8>> {
        // The file may be a device without an end.
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(std::fs::File::open(file)?, total), &mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) if !bytes.is_empty() => Some(bytes.iter().copied().cycle().take(total as usize).collect()),
        Ok(_) => {
            println!("{file}: file is empty");
            None
        }
        Err(e) => {
            eprintln!("{file}: {}", strerror(&e));
            None
        }
    }
}

fn do_write(s: &mut Session, f: &Flags, offset: &str, lens: &[&str], name: &str) -> bool {
    let (Some(offset), Some(lens)) = (number(offset), lengths(lens)) else { return false };
    let total: u64 = lens.iter().sum();
    let node = node(s);
    if node.read_only() {
        eprintln!("qemu-io: Block node is read-only");
        return false;
    }
    let buf = match f.has('z') {
        true => Vec::new(),
        false => match contents(f, total) {
            Some(b) => b,
            None => return false,
        },
    };
    let began = Instant::now();
    let mut result = if f.has('b') {
        node.as_qcow2().map_or(Err(unsupported()), |q| q.write_vm_state(offset, &buf))
    } else {
        in_bounds(&node, offset, total).and_then(|()| match (f.has('z'), f.has('c')) {
            (true, _) => node.write_zeroes(offset, total, f.has('u') && s.opening.unmap),
            (_, true) => node.write_compressed(offset, &buf),
            _ => node.write(offset, &buf),
        })
    };
    if f.has('f') || s.opening.writethrough {
        result = result.and_then(|()| node.flush());
    }
    let took = began.elapsed();
    if let Err(e) = result {
        println!("{name} failed: {}", strerror(&e));
        return false;
    }
    if !f.has('q') {
        report::print("wrote", took, offset, total, total, 1, f.has('C'));
    }
    true
}

fn discard(s: &mut Session, args: &[&str]) -> bool {
    let Some(f) = Flags::parse("discard", "Cq", args) else { return false };
    let [offset, len] = f.rest.as_slice() else {
        usage("discard");
        return false;
    };
    let (Some(offset), Some(len)) = (number(offset), number(len)) else { return false };
    let node = node(s);
    let began = Instant::now();
    let result = in_bounds(&node, offset, len).and_then(|()| match (node.read_only(), s.opening.unmap) {
        (true, _) => Err(disk::node::errno(rustix::io::Errno::PERM)),
        (_, true) => node.discard(offset, len),
        // With -d ignore a discard is only a hint that is not taken.
        _ => Ok(()),
    });
    let took = began.elapsed();
    if let Err(e) = result {
        println!("discard failed: {}", strerror(&e));
        return false;
    }
    if !f.has('q') {
        report::print("discard", took, offset, len, len, 1, f.has('C'));
    }
    true
}

fn flush(s: &mut Session, _: &[&str]) -> bool {
    match node(s).flush() {
        Ok(()) => true,
        Err(e) => {
            println!("flush failed: {}", strerror(&e));
            false
        }
    }
}

fn truncate(s: &mut Session, args: &[&str]) -> bool {
    let Some(f) = Flags::parse("truncate", "m:", args) else { return false };
    let [offset] = f.rest.as_slice() else {
        usage("truncate");
        return false;
    };
    let Some(offset) = number(offset) else { return false };
    let mode = match f.value('m').map(Preallocation::parse) {
        None => Preallocation::Off,
        Some(Ok(mode)) => mode,
        Some(Err(_)) => {
            eprintln!("qemu-io: invalid parameter value: {}", f.value('m').unwrap_or(""));
            return false;
        }
    };
    match node(s).resize(offset, mode) {
        Ok(()) => true,
        Err(e) => {
            eprintln!("qemu-io: {e}");
            false
        }
    }
}

fn length(s: &mut Session, _: &[&str]) -> bool {
    println!("{}", amount(node(s).size() as f64));
    true
}

fn info(s: &mut Session, _: &[&str]) -> bool {
    let node = node(s);
    println!("format name: {}", node.driver());
    if disk::open::PROTOCOLS.contains(&node.driver()) {
        // Protocols have a second name, which is the same.
        println!("format name: {}", node.driver());
    }
    match node.info() {
        Ok(info) => {
            if let Some(c) = info.cluster_size {
                println!("cluster size: {}", amount(c as f64));
                println!("vm state offset: {}", amount(node.as_qcow2().map_or(0, |q| q.vm_state_offset()) as f64));
            }
            if let Some((_, data)) = info.specific {
                let mut out = String::from("Format specific information:\n");
                crate::text::dump(&data, 1, &mut out);
                print!("{out}");
            }
            true
        }
        Err(e) => {
            eprintln!("qemu-io: {e}");
            false
        }
    }
}

fn alloc(s: &mut Session, args: &[&str]) -> bool {
    let Some(start) = number(args[0]) else { return false };
    let count = match args.get(1) {
        Some(text) => match number(text) {
            Some(n) => n,
            None => return false,
        },
        None => 512,
    };
    let node = node(s);
    let count = count.min(node.size().saturating_sub(start));
    let (mut at, end, mut sum) = (start, start + count, 0);
    while at < end {
        match node.map(at, end - at) {
            Ok(e) if e.len > 0 => {
                sum += if e.allocated { e.len.min(end - at) } else { 0 };
                at += e.len;
            }
            Ok(_) => break,
            Err(e) => {
                println!("is_allocated failed: {}", strerror(&e));
                return false;
            }
        }
    }
    println!("{sum}/{count} bytes allocated at offset {}", amount(start as f64));
    true
}

fn map(s: &mut Session, _: &[&str]) -> bool {
    let node = node(s);
    let size = node.size();
    let allocated = |at: u64| -> io::Result<(bool, u64)> {
        let e = node.map(at, size - at)?;
        Ok((e.allocated, e.len))
    };
    let mut at = 0;
    while at < size {
        let (kind, mut len) = match allocated(at) {
            Ok((_, 0)) => break,
            Ok(run) => run,
            Err(e) => {
                eprintln!("Failed to get allocation status: {}", strerror(&e));
                return false;
            }
        };
        while at + len < size {
            match allocated(at + len) {
                Ok((k, n)) if k == kind && n > 0 => len += n,
                _ => break,
            }
        }
        let text = if kind { "    allocated" } else { "not allocated" };
        println!("{} ({len:#x}) bytes {text} at offset {} ({at:#x})", amount(len as f64), amount(at as f64));
        at += len;
    }
    true
}

fn close(s: &mut Session, _: &[&str]) -> bool {
    match s.close() {
        Ok(()) => true,
        Err(e) => {
            eprintln!("qemu-io: {e}");
            false
        }
    }
}

fn open(s: &mut Session, args: &[&str]) -> bool {
    let Some(f) = Flags::parse("open", "snCro:ki:t:d:U", args) else { return false };
    let fail = |e: String| {
        eprintln!("qemu-io: {e}");
        false
    };
    let mut opening = Opening::default();
    opening.snapshot = f.has('s');
    opening.flags.write = !f.has('r');
    opening.flags.share = f.has('U');
    if let Some(mode) = f.value('t').or(if f.has('n') { Some("none") } else { None }) {
        match opening.flags.set_cache(mode) {
            Some(writethrough) => opening.writethrough = writethrough,
            None => return fail(format!("Invalid cache option: {mode}")),
        }
    }
    let aio = f.value('i').unwrap_or("threads");
    match Aio::named(aio) {
        Some(_) if f.has('k') => opening.flags.aio = Aio::Native,
        Some(aio) => opening.flags.aio = aio,
        None => return fail(format!("Invalid aio option: {aio}")),
    }
    if let Err(e) = opening.set_discard(f.value('d')) {
        return fail(e);
    }
    if let Some(text) = f.value('o') {
        match Options::parse(text, None) {
            Ok(o) => opening.options = o,
            Err(e) => return fail(e.to_string()),
        }
    }
    match f.rest.as_slice() {
        [] if opening.options.is_empty() => {
            usage("open");
            return false;
        }
        [] => {}
        [path] if s.image_opts || path.starts_with("json:") => {
            let table = match path.strip_prefix("json:") {
                Some(text) => Options::parse_json(text),
                None => Options::parse(path, None),
            };
            match table {
                // What was given beside the name counts more.
                Ok(o) => o.iter().for_each(|(k, v)| {
                    if opening.options.get(k).is_none() {
                        opening.options.set(k, v);
                    }
                }),
                Err(e) => return fail(e.to_string()),
            }
        }
        [path] => opening.options.set("filename", path),
        _ => {
            usage("open");
            return false;
        }
    }
    if f.has('C') {
        opening.options.set("copy-on-read", "on");
    }
    let name = f.rest.first().filter(|_| !s.image_opts).map_or(String::new(), |p| p.to_string());
    s.open(&name, opening).or_else(|e| if fail(e) { Ok(()) } else { Err(()) }).is_ok()
}

fn reopen(s: &mut Session, args: &[&str]) -> bool {
    let Some(f) = Flags::parse("reopen", "c:o:rw", args) else { return false };
    let mut opening = s.opening.clone();
    if f.has('r') && f.has('w') {
        eprintln!("qemu-io: Only one -r/-w option can be given");
        return false;
    }
    if let Err(e) = f.value('o').map_or(Ok(()), |text| reopen_options(s, &f, text)) {
        eprintln!("qemu-io: {e}");
        return false;
    }
    if f.has('r') {
        opening.flags.write = false;
    }
    if f.has('w') {
        opening.flags.write = true;
    }
    if let Some(mode) = f.value('c') {
        match opening.flags.set_cache(mode) {
            Some(writethrough) => opening.writethrough = writethrough,
            None => {
                eprintln!("qemu-io: Invalid cache option: {mode}");
                return false;
            }
        }
    }
    if let Some(text) = f.value('o') {
        match Options::parse(text, None) {
            Ok(o) => {
                if o.iter().any(|(k, _)| k.starts_with("overlap-check")) {
                    // Two spellings of one option: the new one counts.
                    opening.options.take("overlap-check");
                    opening.options.take("overlap-check.template");
                }
                const CACHES: [&str; 3] = ["cache-size", "l2-cache-size", "refcount-cache-size"];
                if o.iter().any(|(k, _)| CACHES.contains(&k)) {
                    // The three divide one memory; the new division counts.
                    CACHES.iter().for_each(|k| drop(opening.options.take(k)));
                }
                o.iter().for_each(|(k, v)| opening.options.set(k, v));
            }
            Err(e) => {
                eprintln!("qemu-io: {e}");
                return false;
            }
        }
    }
    let name = s.name.clone();
    let before = s.opening.clone();
    let mut result = s.close().and_then(|()| s.open(&name, opening));
    if let Err(e) = result {
        // The image stays open as it was.
        let again = s.open(&name, before);
        result = Err(e
            .strip_prefix("can't open: ")
            .or(e.split_once(": ").map(|(_, rest)| rest).filter(|_| e.starts_with("can't open device ")))
            .unwrap_or(&e)
            .to_owned());
        if let Err(e) = again {
            result = Err(e);
        }
    }
    if let Err(e) = &result {
        eprintln!("qemu-io: {e}");
    }
    result.is_ok()
}

/// Options that cannot change while an image is open, and those that contradict a flag of `reopen`.
fn reopen_options(s: &Session, f: &Flags, text: &str) -> Result<(), String> {
    let o = Options::parse(text, None).map_err(|e| e.to_string())?;
    for (key, value) in o.iter() {
        let last = key.rsplit('.').next().unwrap_or(key);
        if !["driver", "node-name"].contains(&last) {
            continue;
        }
        let now = s.opening.options.get(key).map(str::to_owned).or_else(|| {
            let node = s.node.as_ref()?;
            match key {
                "driver" => Some(node.driver().to_owned()),
                "file.driver" => node.children().first().map(|c| c.1.driver().to_owned()),
                "backing.driver" => node.backing().map(|b| b.driver().to_owned()),
                _ => None,
            }
        });
        if now.as_deref() != Some(value) {
            return Err(format!("Cannot change the option '{last}'"));
        }
    }
    if (f.has('r') || f.has('w')) && o.get("read-only").is_some() {
        return Err("Cannot set both -r/-w and 'read-only'".into());
    }
    if f.value('c').is_some() && o.iter().any(|(k, _)| k.starts_with("cache.")) {
        return Err("Cannot set both -c and the cache options".into());
    }
    Ok(())
}

fn help(_: &mut Session, args: &[&str]) -> bool {
    if let Some(name) = args.first() {
        return match COMMANDS.iter().find(|c| c.name == *name || c.short == *name) {
            Some(c) => {
                usage(c.name);
                true
            }
            None => {
                println!("command {name} not found");
                true
            }
        };
    }
    COMMANDS.iter().for_each(|c| usage(c.name));
    println!("\nUse 'help commandname' for extended help.");
    true
}

fn quit(s: &mut Session, _: &[&str]) -> bool {
    s.quit = true;
    true
}

fn sleep(_: &mut Session, args: &[&str]) -> bool {
    match args[0].parse() {
        Ok(ms) => {
            std::thread::sleep(Duration::from_millis(ms));
            true
        }
        Err(_) => {
            println!("{} is not a valid timeout", args[0]);
            false
        }
    }
}

fn sigraise(_: &mut Session, args: &[&str]) -> bool {
    let signal = args[0].parse().ok().and_then(rustix::process::Signal::from_named_raw);
    let Some(signal) = signal else {
        println!("non-numeric signal argument -- {}", args[0]);
        return false;
    };
    // What was said so far must be seen: the signal ends the program.
    let _ = io::Write::flush(&mut io::stdout());
    rustix::process::kill_process(rustix::process::getpid(), signal).is_ok()
}

/// Runs a command on the node where requests can be stopped.
fn on_blkdebug(s: &Session, run: impl FnOnce(&disk::blkdebug::Blkdebug) -> io::Result<()>) -> io::Result<()> {
    let found = disk::blkdebug::find(&node(s));
    found.as_deref().and_then(|n| n.as_blkdebug()).map_or(Err(unsupported()), run)
}

fn set_break(s: &mut Session, args: &[&str]) -> bool {
    let result = on_blkdebug(s, |b| b.add_breakpoint(args[0], args[1]));
    // From now on a request may stop, so that others must go on without it.
    s.stopping |= result.is_ok();
    told("set breakpoint", result)
}

fn remove_break(s: &mut Session, args: &[&str]) -> bool {
    told(&format!("remove breakpoint {}", args[0]), on_blkdebug(s, |b| b.remove_breakpoint(args[0])))
}

fn resume(s: &mut Session, args: &[&str]) -> bool {
    told("resume request", on_blkdebug(s, |b| b.resume(args[0])))
}

fn wait_break(s: &mut Session, args: &[&str]) -> bool {
    let _ = on_blkdebug(s, |b| {
        b.wait_stopped(args[0]);
        Ok(())
    });
    true
}

fn told(what: &str, result: io::Result<()>) -> bool {
    if let Err(e) = &result {
        println!("Could not {what}: {}", strerror(e));
    }
    result.is_ok()
}

fn aio_flush(s: &mut Session, _: &[&str]) -> bool {
    s.finish_requests();
    true
}

/// How long a new request is given before the next command, when it neither ends nor stops at a breakpoint: it waits
/// for one that has stopped.
const START: Duration = Duration::from_millis(20);

/// Runs an asynchronous request: at once, or beside the others once requests may be stopped.
fn beside(s: &mut Session, args: &[&str], run: fn(&mut Session, &[&str]) -> bool) -> bool {
    if !s.stopping {
        return run(s, args);
    }
    let stops =
        |s: &Session| disk::blkdebug::find(&node(s)).as_deref().and_then(|n| n.as_blkdebug()).map_or(0, |b| b.stops());
    let before = stops(s);
    let mut own =
        Session { node: s.node.clone(), name: s.name.clone(), opening: s.opening.clone(), ..Session::default() };
    let words: Vec<String> = args.iter().map(|a| a.to_string()).collect();
    let request = std::thread::spawn(move || {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        run(&mut own, &words);
    });
    let began = Instant::now();
    while !request.is_finished() && stops(s) == before && began.elapsed() < START {
        std::thread::sleep(Duration::from_millis(1));
    }
    s.requests.push(request);
    true
}
