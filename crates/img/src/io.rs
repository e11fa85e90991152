//! `qemu-io`: reads and writes of an image by commands, as test suites use it.
//!
//! Reference: commands, output and statuses of `qemu-io` 10.0.2.
//!
//! Not modelled: zoned devices. Asynchronous requests are done at once and report in order, until a breakpoint is set:
//! from then on each has a thread and reports when it is done.

mod commands;
mod report;

use crate::cli::{self, Opt, long, opt};
use disk::engine::Aio;
use disk::node::NodeRef;
use disk::open::OpenFlags;
use disk::options::Options;
use std::io::{BufRead, Write};

const OPTIONS: &[Opt] = &[
    opt('h', "help", false),
    opt('V', "version", false),
    opt('c', "cmd", true),
    opt('f', "format", true),
    opt('r', "read-only", false),
    opt('s', "snapshot", false),
    opt('n', "nocache", false),
    opt('C', "copy-on-read", false),
    opt('m', "misalign", false),
    opt('k', "native-aio", false),
    opt('i', "aio", true),
    opt('t', "cache", true),
    opt('d', "discard", true),
    opt('T', "trace", true),
    opt('U', "force-share", false),
    long("object", true),
    long("image-opts", false),
];

/// The program's state between commands.
#[derive(Default)]
pub struct Session {
    pub node: Option<NodeRef>,
    pub name: String,
    /// How the image was opened, for `reopen`.
    pub opening: Opening,
    pub quit: bool,
    /// Names are option tables (`--image-opts`).
    image_opts: bool,
    /// A breakpoint has been set: asynchronous requests run beside the commands.
    stopping: bool,
    requests: Vec<std::thread::JoinHandle<()>>,
}

#[derive(Clone)]
pub struct Opening {
    pub options: Options,
    pub flags: OpenFlags,
    pub writethrough: bool,
    pub unmap: bool,
    /// Writes go to a temporary image on top.
    pub snapshot: bool,
}

impl Default for Opening {
    /// Discards reach the image unless the user says otherwise.
    fn default() -> Self {
        let flags = OpenFlags { unmap: true, ..OpenFlags::default() };
        Opening { options: Options::new(), flags, writethrough: false, unmap: true, snapshot: false }
    }
}

pub fn main(args: &[String]) -> i32 {
    let parsed = match cli::parse(OPTIONS, args) {
        Ok(p) => p,
        Err(message) => {
            eprintln!("qemu-io: {message}\nTry 'qemu-io --help' for more information.");
            return 1;
        }
    };
    if parsed.has("help") {
        println!("qemu-io [options] [-c COMMAND]... [FILE]: runs commands on a disk image.\n");
        OPTIONS.iter().for_each(|o| println!("  {}--{}", o.short.map_or("    ".into(), |c| format!("-{c}, ")), o.long));
        println!("\n'qemu-io -c help' lists the commands.");
        return 0;
    }
    if parsed.has("version") {
        crate::cmd::version("qemu-io");
        return 0;
    }
    let mut session = Session { image_opts: parsed.has("image-opts"), ..Session::default() };
    if let Err(message) = open_first(&mut session, &parsed) {
        eprintln!("qemu-io: {message}");
        return 1;
    }
    let texts = parsed.values("cmd");
    let failed = match texts.is_empty() {
        true => interactive(&mut session),
        false => run_all(&mut session, texts.into_iter().map(str::to_owned)),
    };
    let closed = session.close();
    if let Err(e) = &closed {
        eprintln!("qemu-io: {e}");
    }
    i32::from(failed || closed.is_err())
}

/// One command on a node that stays open.
pub fn run_on(node: NodeRef, line: &str) -> bool {
    // The node is not this command's to open or to close.
    if let Some(word @ ("open" | "o" | "close" | "c" | "reopen" | "quit" | "q")) = line.split_whitespace().next() {
        eprintln!("command \"{word}\" not found");
        return false;
    }
    let name = node.filename();
    let mut session = Session { node: Some(node), name, ..Session::default() };
    let done = commands::run_line(&mut session, line);
    session.finish_requests();
    done
}

fn open_first(session: &mut Session, p: &cli::Parsed) -> Result<(), String> {
    p.values("object").into_iter().try_for_each(crate::common::object).map_err(|e| e.to_string())?;
    let name = match p.rest.as_slice() {
        [] => return Ok(()),
        [name] => name,
        _ => return Err("Only one image file can be given".into()),
    };
    let mut opening = Opening::default();
    opening.flags.write = !p.has("read-only");
    opening.flags.share = p.has("force-share");
    opening.snapshot = p.has("snapshot");
    let cache = p.value("cache").or(if p.has("nocache") { Some("none") } else { None });
    if let Some(mode) = cache {
        opening.writethrough = opening.flags.set_cache(mode).ok_or_else(|| format!("Invalid cache option: {mode}"))?;
    }
    opening.set_discard(p.value("discard"))?;
    let aio = p.value("aio").unwrap_or("threads");
    opening.flags.aio = Aio::named(aio).ok_or_else(|| format!("Invalid aio option: {aio}"))?;
    if p.has("native-aio") {
        opening.flags.aio = Aio::Native;
    }
    opening.options = match (p.has("image-opts"), name.strip_prefix("json:")) {
        (true, _) if p.has("format") => return Err("--image-opts and -f are mutually exclusive".into()),
        (true, _) => Options::parse(name, None).map_err(|e| e.to_string())?,
        (false, Some(text)) => Options::parse_json(text).map_err(|e| e.to_string())?,
        (false, None) => {
            let mut o = Options::new();
            o.set("filename", name);
            o
        }
    };
    if p.has("copy-on-read") {
        opening.options.set("copy-on-read", "on");
    }
    if let Some(format) = p.value("format") {
        opening.options.set("driver", format);
    }
    // Options are no name.
    session.open(if p.has("image-opts") { "" } else { name }, opening)
}

impl Opening {
    fn set_discard(&mut self, mode: Option<&str>) -> Result<(), String> {
        self.unmap = match mode {
            None => return Ok(()),
            Some("unmap" | "on") => true,
            Some("ignore" | "off") => false,
            Some(other) => return Err(format!("Invalid discard option: {other}")),
        };
        self.flags.unmap = self.unmap;
        Ok(())
    }
}

impl Session {
    fn open(&mut self, name: &str, opening: Opening) -> Result<(), String> {
        if self.node.is_some() {
            return Err("file open already, try 'help close'".into());
        }
        let cannot = |e: spec::error::Error| match name {
            "" => format!("can't open: {e}"),
            _ => format!("can't open device {name}: {e}"),
        };
        let mut flags = opening.flags.clone();
        flags.write &= !opening.snapshot;
        let mut node = disk::open_options(opening.options.clone(), &flags).map_err(cannot)?;
        if opening.snapshot {
            node = disk::create::temporary_overlay(node, &opening.flags).map_err(cannot)?;
        }
        self.opening = opening;
        self.opening.unmap |= self.opening.options.get("discard").is_some_and(|d| d == "unmap" || d == "on");
        self.name = name.to_owned();
        self.node = Some(node);
        Ok(())
    }

    /// Waits for the asynchronous requests.
    fn finish_requests(&mut self) {
        for request in self.requests.drain(..) {
            // A request that panicked has said so.
            let _ = request.join();
        }
    }

    fn close(&mut self) -> Result<(), String> {
        self.finish_requests();
        match self.node.take() {
            // Each line of the reason is one thing that could not be written.
            Some(node) => node.close().map_err(|e| disk::node::strerror(&e).replace('\n', "\nqemu-io: ")),
            None => Ok(()),
        }
    }
}

/// Runs commands until one quits; returns whether any failed.
fn run_all(session: &mut Session, lines: impl Iterator<Item = String>) -> bool {
    let mut failed = false;
    for line in lines {
        failed |= !commands::run_line(session, &line);
        if session.quit {
            break;
        }
    }
    failed
}

fn interactive(session: &mut Session) -> bool {
    let mut failed = false;
    let mut lines = std::io::stdin().lock().lines();
    loop {
        print!("qemu-io> ");
        let _ = std::io::stdout().flush();
        let Some(Ok(line)) = lines.next() else { break };
        failed |= !commands::run_line(session, &line);
        if session.quit {
            return failed;
        }
    }
    failed
}
