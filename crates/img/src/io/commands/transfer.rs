//! Commands that move data, or say that it need not be kept.

use super::{Flags, in_bounds, node, unsupported, usage};
use crate::io::Session;
use crate::io::report::{self, number};
use disk::node::strerror;
use std::io;
use std::time::Instant;

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

pub(super) fn read(s: &mut Session, args: &[&str]) -> bool {
    let Some(f) = Flags::parse("read", "abCl:pP:qrs:v", args) else { return false };
    let [offset, len] = f.rest.as_slice() else {
        usage("read");
        return false;
    };
    do_read(s, &f, offset, &[len], "read")
}

pub(super) fn readv(s: &mut Session, args: &[&str]) -> bool {
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

pub(super) fn aio_read(s: &mut Session, args: &[&str]) -> bool {
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

pub(super) fn write(s: &mut Session, args: &[&str]) -> bool {
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

pub(super) fn writev(s: &mut Session, args: &[&str]) -> bool {
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

pub(super) fn aio_write(s: &mut Session, args: &[&str]) -> bool {
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

pub(super) fn discard(s: &mut Session, args: &[&str]) -> bool {
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

pub(super) fn flush(s: &mut Session, _: &[&str]) -> bool {
    match node(s).flush() {
        Ok(()) => true,
        Err(e) => {
            println!("flush failed: {}", strerror(&e));
            false
        }
    }
}
