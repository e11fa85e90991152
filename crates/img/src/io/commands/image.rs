//! Commands on the open image as a whole: what it is, which one it is.

use super::{Flags, node, usage};
use crate::io::report::{amount, number};
use crate::io::{Opening, Session};
use disk::engine::Aio;
use disk::node::{Preallocation, strerror};
use disk::options::Options;
use std::io;

pub(super) fn truncate(s: &mut Session, args: &[&str]) -> bool {
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

pub(super) fn length(s: &mut Session, _: &[&str]) -> bool {
    println!("{}", amount(node(s).size() as f64));
    true
}

pub(super) fn info(s: &mut Session, _: &[&str]) -> bool {
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

pub(super) fn alloc(s: &mut Session, args: &[&str]) -> bool {
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

pub(super) fn map(s: &mut Session, _: &[&str]) -> bool {
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

pub(super) fn close(s: &mut Session, _: &[&str]) -> bool {
    match s.close() {
        Ok(()) => true,
        Err(e) => {
            eprintln!("qemu-io: {e}");
            false
        }
    }
}

pub(super) fn open(s: &mut Session, args: &[&str]) -> bool {
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

pub(super) fn reopen(s: &mut Session, args: &[&str]) -> bool {
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
