//! Requests beside each other: those that are asked for without waiting, and where `blkdebug` stops them.

use super::{node, unsupported};
use crate::io::Session;
use disk::node::strerror;
use std::io;
use std::time::{Duration, Instant};

/// Runs a command on the node where requests can be stopped.
fn on_blkdebug(s: &Session, run: impl FnOnce(&disk::blkdebug::Blkdebug) -> io::Result<()>) -> io::Result<()> {
    let found = disk::blkdebug::find(&node(s));
    found.as_deref().and_then(|n| n.as_blkdebug()).map_or(Err(unsupported()), run)
}

pub(super) fn set_break(s: &mut Session, args: &[&str]) -> bool {
    let result = on_blkdebug(s, |b| b.add_breakpoint(args[0], args[1]));
    // From now on a request may stop, so that others must go on without it.
    s.stopping |= result.is_ok();
    told("set breakpoint", result)
}

pub(super) fn remove_break(s: &mut Session, args: &[&str]) -> bool {
    told(&format!("remove breakpoint {}", args[0]), on_blkdebug(s, |b| b.remove_breakpoint(args[0])))
}

pub(super) fn resume(s: &mut Session, args: &[&str]) -> bool {
    told("resume request", on_blkdebug(s, |b| b.resume(args[0])))
}

pub(super) fn wait_break(s: &mut Session, args: &[&str]) -> bool {
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

pub(super) fn aio_flush(s: &mut Session, _: &[&str]) -> bool {
    s.finish_requests();
    true
}

/// How long a new request is given before the next command, when it neither ends nor stops at a breakpoint: it waits
/// for one that has stopped.
const START: Duration = Duration::from_millis(20);

/// Runs an asynchronous request: at once, or beside the others once requests may be stopped.
pub(super) fn beside(s: &mut Session, args: &[&str], run: fn(&mut Session, &[&str]) -> bool) -> bool {
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
