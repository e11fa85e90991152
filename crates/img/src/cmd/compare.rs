//! `qemu-img compare`.

use crate::cli::{Parsed, long, opt};
use crate::common::{self, Command, Done, Exit, Progress, cache, objects, usage};
use disk::chain;
use disk::node::{NodeRef, is_zero, strerror};
use disk::open::OpenFlags;

pub const COMMAND: Command = Command {
    name: "compare",
    summary: "tells whether two images have the same contents",
    arguments: "FILE1 FILE2",
    options: &[
        opt('q', "quiet", false),
        opt('p', "progress", false),
        opt('f', "a-format", true),
        opt('F', "b-format", true),
        long("image-opts", false),
        opt('s', "strict", false),
        opt('T', "cache", true),
        opt('U', "force-share", false),
        long("object", true),
    ],
    run,
};

/// Two buffers of this size fit into the second-level cache together.
const BUFFER: u64 = 256 << 10;
/// Statuses beside 0 (same) and 1 (different).
const TROUBLE: i32 = 2;
const READ_ERROR: i32 = 4;

fn run(p: &Parsed) -> Done {
    let [name1, name2] = p.rest.as_slice() else {
        return Err(with(usage("compare", "Expecting two image file names"), TROUBLE));
    };
    objects(p).map_err(|e| with(e, TROUBLE))?;
    let mut flags = OpenFlags { share: p.has("force-share"), quiet_probe: true, ..OpenFlags::default() };
    if cache(&mut flags, p.value("cache"), "writeback").is_err() {
        return Err(Exit::FailWith(format!("Invalid source cache option: {}", p.value("cache").unwrap_or("")), TROUBLE));
    }
    let a = common::open(p, name1, p.value("a-format"), &flags).map_err(|e| with(e, TROUBLE))?;
    let b = common::open(p, name2, p.value("b-format"), &flags).map_err(|e| with(e, TROUBLE))?;
    let say = |text: &str| {
        if !p.has("quiet") {
            println!("{text}");
        }
    };
    let (size1, size2) = (a.size(), b.size());
    let mut progress = Progress::new(p.has("progress"), size1.max(size2));
    if p.has("strict") && size1 != size2 {
        say("Strict mode: Image size mismatch!");
        progress.finish();
        return Ok(1);
    }
    let common_size = size1.min(size2);
    let result = compare_range(&a, &b, name1, name2, common_size, p.has("strict"), &mut progress)?;
    let result = match result {
        None if size1 != size2 => {
            say("Warning: Image size mismatch!");
            let (long, name, end) = if size1 > size2 { (&a, name1, size1) } else { (&b, name2, size2) };
            only_zero(long, name, common_size, end, &mut progress)?
        }
        other => other,
    };
    let status = match result {
        Some(Difference::At(offset)) => {
            say(&format!("Content mismatch at offset {offset}!"));
            1
        }
        Some(Difference::Allocation(offset)) => {
            say(&format!("Strict mode: Offset {offset} block status mismatch!"));
            1
        }
        None => {
            say("Images are identical.");
            0
        }
    };
    progress.finish();
    Ok(status)
}

fn with(e: Exit, status: i32) -> Exit {
    match e {
        Exit::Fail(message) => Exit::FailWith(message, status),
        other => other,
    }
}

enum Difference {
    At(u64),
    Allocation(u64),
}

fn compare_range(
    a: &NodeRef,
    b: &NodeRef,
    name1: &str,
    name2: &str,
    end: u64,
    strict: bool,
    progress: &mut Progress,
) -> Result<Option<Difference>, Exit> {
    let (mut buf1, mut buf2) = (vec![0; BUFFER as usize], vec![0; BUFFER as usize]);
    let mut at = 0;
    let (mut seen1, mut seen2) = (Known::default(), Known::default());
    while at < end {
        let x = seen1.at(a, name1, at, end)?;
        let y = seen2.at(b, name2, at, end)?;
        let len = x.len.min(y.len);
        if strict && x.allocated != y.allocated {
            return Ok(Some(Difference::Allocation(at)));
        }
        let known_equal = x.zero && y.zero;
        let n = if known_equal { len } else { len.min(BUFFER) };
        if !known_equal {
            let (one, two) = (&mut buf1[..n as usize], &mut buf2[..n as usize]);
            if !x.zero {
                read(a, name1, at, one)?;
            }
            if !y.zero {
                read(b, name2, at, two)?;
            }
            let first = match (x.zero, y.zero) {
                (true, _) => first_difference(two, None),
                (_, true) => first_difference(one, None),
                _ => first_difference(one, Some(two)),
            };
            if let Some(i) = first {
                return Ok(Some(Difference::At(at + i)));
            }
        }
        at += n;
        progress.add(n);
    }
    Ok(None)
}

/// Offset of the first sector that differs (from zero, without a second buffer).
fn first_difference(a: &[u8], b: Option<&[u8]>) -> Option<u64> {
    match b {
        Some(b) if a == b => return None,
        None if is_zero(a) => return None,
        _ => {}
    }
    (0..a.len()).step_by(512).find(|i| {
        let end = (i + 512).min(a.len());
        match b {
            Some(b) => a[*i..end] != b[*i..end],
            None => !is_zero(&a[*i..end]),
        }
    }).map(|i| i as u64)
}

fn only_zero(node: &NodeRef, name: &str, from: u64, end: u64, progress: &mut Progress) -> Result<Option<Difference>, Exit> {
    let mut buf = vec![0; BUFFER as usize];
    let mut at = from;
    while at < end {
        let e = status(node, name, at, end - at)?;
        let n = if e.zero { e.len } else { e.len.min(BUFFER) };
        if !e.zero {
            let part = &mut buf[..n as usize];
            read(node, name, at, part)?;
            if let Some(i) = first_difference(part, None) {
                return Ok(Some(Difference::At(at + i)));
            }
        }
        at += n;
        progress.add(n);
    }
    Ok(None)
}

/// The last described run: asking the host again for each buffer would cost more than comparing it.
#[derive(Default)]
struct Known {
    end: u64,
    extent: disk::Extent,
}

impl Known {
    fn at(&mut self, node: &NodeRef, name: &str, at: u64, end: u64) -> Result<disk::Extent, Exit> {
        if at >= self.end {
            self.extent = status(node, name, at, end - at)?;
            self.end = at + self.extent.len;
        }
        Ok(disk::Extent { len: self.end - at, ..self.extent })
    }
}

fn status(node: &NodeRef, name: &str, at: u64, len: u64) -> Result<disk::Extent, Exit> {
    match chain::status(node.as_ref(), None, at, len) {
        Ok(seen) if seen.extent.len > 0 => Ok(seen.extent),
        _ => Err(Exit::FailWith(format!("Sector allocation test failed for {name}"), 3)),
    }
}

fn read(node: &NodeRef, name: &str, at: u64, buf: &mut [u8]) -> Result<(), Exit> {
    node.read(at, buf).map_err(|e| Exit::FailWith(format!("Error while reading offset {at} of {name}: {}", strerror(&e)), READ_ERROR))
}
