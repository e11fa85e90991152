//! The commands of `qemu-io`: their table, and what has nothing to do with images.
//!
//! | module | what |
//! |---|---|
//! | `transfer` | reading, writing, discarding |
//! | `image` | the open image as a whole |
//! | `requests` | requests beside each other, and breakpoints |

mod image;
mod requests;
mod transfer;

use super::Session;
use disk::node::NodeRef;
use image::{alloc, close, info, length, map, open, reopen, truncate};
use requests::{aio_flush, beside, remove_break, resume, set_break, wait_break};
use std::io;
use std::time::Duration;
use transfer::{aio_read, aio_write, discard, flush, read, readv, write, writev};

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

/// Requests past the end fail like a device's would.
fn in_bounds(node: &NodeRef, offset: u64, len: u64) -> io::Result<()> {
    if offset.checked_add(len).is_none_or(|end| end > node.size()) { Err(disk::node::eio()) } else { Ok(()) }
}

fn unsupported() -> io::Error {
    disk::node::errno(rustix::io::Errno::OPNOTSUPP)
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
