//! `qemu-img compare`.

use crate::cli::{Parsed, long, opt};
use crate::common::{self, Command, Done, Exit, Progress, cache, objects, usage};
use disk::buffer::Buffer;
use disk::chain;
use disk::node::{NodeRef, is_zero, strerror};
use disk::open::OpenFlags;
use std::sync::{Mutex, PoisonError};

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

/// Fewer calls save more than what a smaller cache would.
const BUFFER: u64 = 1 << 20;
/// What one thread compares sooner than another is started.
const ALONE: u64 = 4 << 20;
/// Some of them wait for the disk.
const THREADS: u64 = 4;
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
        return Err(Exit::FailWith(
            format!("Invalid source cache option: {}", p.value("cache").unwrap_or("")),
            TROUBLE,
        ));
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
    let result = compare_range((&a, name1), (&b, name2), common_size, p.has("strict"), &mut progress)?;
    let result = match result {
        None if size1 != size2 => {
            let (long, name, end) = if size1 > size2 { (&a, name1, size1) } else { (&b, name2, size2) };
            match only_zero(long, name, common_size, end, &mut progress) {
                Err(Exit::FailWith(message, status)) => {
                    // The trouble first: the warning is about a result that there is not.
                    eprintln!("qemu-img: {message}");
                    say("Warning: Image size mismatch!");
                    return Err(Exit::Status(status));
                }
                rest => {
                    say("Warning: Image size mismatch!");
                    rest?
                }
            }
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

/// Two images that several threads compare piece by piece. Pieces are handed out in the order of the disk and all of
/// them are finished, so the lowest finding is the one that a single thread would have met.
struct Pair<'a> {
    a: (&'a NodeRef, &'a str),
    b: (&'a NodeRef, &'a str),
    end: u64,
    strict: bool,
    cursor: Mutex<Cursor>,
    finding: Mutex<Option<(u64, Result<Difference, Exit>)>>,
}

#[derive(Default)]
struct Cursor {
    at: u64,
    a: Known,
    b: Known,
    over: bool,
}

/// A run: its start and length, and whether each side is known to be zero.
struct Piece {
    at: u64,
    len: u64,
    zero: (bool, bool),
}

impl Pair<'_> {
    fn found(&self, at: u64, what: Result<Difference, Exit>) {
        let mut finding = self.finding.lock().unwrap_or_else(PoisonError::into_inner);
        if finding.as_ref().is_none_or(|(lowest, _)| at < *lowest) {
            *finding = Some((at, what));
        }
    }

    fn next(&self) -> Option<Piece> {
        let mut guard = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let c = &mut *guard;
        if c.over || c.at >= self.end {
            return None;
        }
        let at = c.at;
        let both = c.a.at(self.a.0, self.a.1, at, self.end).and_then(|x| Ok((x, c.b.at(self.b.0, self.b.1, at, self.end)?)));
        let (x, y) = match both {
            Ok((x, y)) if !self.strict || x.allocated == y.allocated => (x, y),
            other => {
                c.over = true;
                self.found(at, other.map(|_| Difference::Allocation(at)));
                return None;
            }
        };
        let len = x.len.min(y.len);
        let n = if x.zero && y.zero { len } else { len.min(BUFFER) };
        c.at = at + n;
        Some(Piece { at, len: n, zero: (x.zero, y.zero) })
    }

    fn work(&self, progress: &Mutex<&mut Progress>) {
        let mut buffers: Option<(Buffer, Buffer)> = None;
        while let Some(piece) = self.next() {
            if piece.zero != (true, true) {
                let (one, two) = buffers.get_or_insert_with(|| (Buffer::new(BUFFER as usize), Buffer::new(BUFFER as usize)));
                if let Some(finding) = self.differs(&piece, one, two).transpose() {
                    self.cursor.lock().unwrap_or_else(PoisonError::into_inner).over = true;
                    self.found(piece.at, finding);
                }
            }
            progress.lock().unwrap_or_else(PoisonError::into_inner).add(piece.len);
        }
    }

    fn differs(&self, piece: &Piece, one: &mut [u8], two: &mut [u8]) -> Result<Option<Difference>, Exit> {
        let (one, two) = (&mut one[..piece.len as usize], &mut two[..piece.len as usize]);
        if !piece.zero.0 {
            read(self.a.0, self.a.1, piece.at, one)?;
        }
        if !piece.zero.1 {
            read(self.b.0, self.b.1, piece.at, two)?;
        }
        let first = match piece.zero {
            (true, _) => first_difference(two, None),
            (_, true) => first_difference(one, None),
            _ => first_difference(one, Some(two)),
        };
        Ok(first.map(|i| Difference::At(piece.at + i)))
    }
}

fn compare_range(
    a: (&NodeRef, &str),
    b: (&NodeRef, &str),
    end: u64,
    strict: bool,
    progress: &mut Progress,
) -> Result<Option<Difference>, Exit> {
    let pair = Pair { a, b, end, strict, cursor: Mutex::default(), finding: Mutex::new(None) };
    let progress = Mutex::new(progress);
    let helpers = (end / ALONE).min(THREADS - 1);
    std::thread::scope(|scope| {
        (0..helpers).for_each(|_| drop(scope.spawn(|| pair.work(&progress))));
        pair.work(&progress);
    });
    let finding = pair.finding.into_inner().unwrap_or_else(PoisonError::into_inner);
    finding.map(|(_, what)| what).transpose()
}

/// Offset of the first sector that differs (from zero, without a second buffer).
fn first_difference(a: &[u8], b: Option<&[u8]>) -> Option<u64> {
    match b {
        Some(b) if a == b => return None,
        None if is_zero(a) => return None,
        _ => {}
    }
    (0..a.len())
        .step_by(512)
        .find(|i| {
            let end = (i + 512).min(a.len());
            match b {
                Some(b) => a[*i..end] != b[*i..end],
                None => !is_zero(&a[*i..end]),
            }
        })
        .map(|i| i as u64)
}

fn only_zero(node: &NodeRef, name: &str, from: u64, end: u64, progress: &mut Progress) -> Result<Option<Difference>, Exit> {
    let mut buf = Buffer::new(BUFFER as usize);
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
    node.read(at, buf)
        .map_err(|e| Exit::FailWith(format!("Error while reading offset {at} of {name}: {}", strerror(&e)), READ_ERROR))
}
