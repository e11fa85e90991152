//! Images of the formats that are only read: made by the installed `qemu-img` where it can, and built here where it cannot
//! (the structures are those of the formats' descriptions; the trials let the reference read them too).

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

pub const SIZE: usize = 1 << 20;

/// What all samples hold: two patterns, noise and zeroes.
pub fn contents() -> Vec<u8> {
    let mut disk = vec![0u8; SIZE];
    disk[1000..60_000].fill(7);
    let mut x = 1u64;
    for b in &mut disk[300_000..400_000] {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        *b = (x >> 56) as u8;
    }
    disk[SIZE - 5000..].fill(9);
    disk
}

fn run(c: &mut Command) {
    let out = c.output().expect("the reference starts: install the Debian package qemu-utils");
    assert!(out.status.success(), "{c:?}\n{}", String::from_utf8_lossy(&out.stderr));
}

/// `options` go to `-o`.
pub fn by_reference(dir: &Path, format: &str, options: &str) -> Vec<u8> {
    let (raw, out) = (dir.join("sample.raw"), dir.join(format!("sample.{format}")));
    std::fs::write(&raw, contents()).unwrap();
    let mut c = Command::new("/usr/bin/qemu-img");
    c.args(["convert", "-f", "raw", "-O", format, "--object", "secret,id=s,data=hello"]);
    if !options.is_empty() {
        c.args(["-o", options]);
    }
    run(c.arg(&raw).arg(&out));
    std::fs::read(&out).unwrap()
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut z = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    z.write_all(data).unwrap();
    z.finish().unwrap()
}

fn bzip2(data: &[u8]) -> Vec<u8> {
    let mut child = Command::new("bzip2").arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("bzip2: install the Debian package");
    let mut stdin = child.stdin.take().unwrap();
    let data = data.to_vec();
    let feed = std::thread::spawn(move || stdin.write_all(&data));
    let out = child.wait_with_output().unwrap();
    feed.join().unwrap().unwrap();
    out.stdout
}

pub fn cloop() -> Vec<u8> {
    const BLOCK: usize = 64 << 10;
    let pieces: Vec<Vec<u8>> = contents().chunks(BLOCK).map(zlib).collect();
    let mut file = b"#!/bin/sh\n#V2.0 Format\n".to_vec();
    file.resize(128, 0);
    file.extend((BLOCK as u32).to_be_bytes());
    file.extend((pieces.len() as u32).to_be_bytes());
    let mut at = 136 + (pieces.len() as u64 + 1) * 8;
    for p in &pieces {
        file.extend(at.to_be_bytes());
        at += p.len() as u64;
    }
    file.extend(at.to_be_bytes());
    pieces.iter().for_each(|p| file.extend(p));
    file
}

pub fn bochs() -> Vec<u8> {
    const EXTENT: usize = 64 << 10;
    let disk = contents();
    let extents = SIZE / EXTENT;
    let mut file = vec![0; 512];
    let put = |f: &mut Vec<u8>, at: usize, b: &[u8]| f[at..at + b.len()].copy_from_slice(b);
    put(&mut file, 0, b"Bochs Virtual HD Image");
    put(&mut file, 32, b"Redolog");
    put(&mut file, 48, b"Growing");
    for (at, v) in [(64, 0x0002_0000u32), (68, 512), (72, extents as u32), (76, 16), (80, EXTENT as u32)] {
        put(&mut file, at, &v.to_le_bytes());
    }
    put(&mut file, 88, &(SIZE as u64).to_le_bytes());
    let mut used = 0u32;
    let mut body = Vec::new();
    for part in disk.chunks(EXTENT) {
        if part.iter().all(|b| *b == 0) {
            file.extend(u32::MAX.to_le_bytes());
            continue;
        }
        file.extend(used.to_le_bytes());
        used += 1;
        let mut bitmap = vec![0u8; 512];
        for (i, sector) in part.chunks(512).enumerate().filter(|(_, s)| s.iter().any(|b| *b != 0)) {
            bitmap[i / 8] |= 1 << (i % 8);
            assert_eq!(sector.len(), 512);
        }
        body.extend(bitmap);
        body.extend(part);
    }
    file.extend(body);
    file
}

fn base64(data: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for part in data.chunks(3) {
        let word = part.iter().fold(0u32, |w, b| w << 8 | *b as u32) << (8 * (3 - part.len()));
        (0..4).for_each(|i| out.push(if i <= part.len() { LETTERS[(word >> (18 - 6 * i)) as usize & 63] as char } else { '=' }));
    }
    out
}

/// Chunks of each kind: stored, zlib, bzip2, zero. With a property list, or the same table in a resource fork.
pub fn dmg(with_resource_fork: bool, with_bzip2: bool) -> Vec<u8> {
    const CHUNK: usize = 128 << 10;
    let mut file = Vec::new();
    let mut table = Vec::new();
    let disk = contents();
    for (i, part) in disk.chunks(CHUNK).enumerate() {
        let zero = part.iter().all(|b| *b == 0);
        let (kind, stored) = match i % 3 {
            _ if zero => (0u32, Vec::new()),
            0 => (0x8000_0005, zlib(part)),
            1 => (1, part.to_vec()),
            _ if with_bzip2 => (0x8000_0006, bzip2(part)),
            _ => (0x8000_0005, zlib(part)),
        };
        table.extend(kind.to_be_bytes());
        table.extend([0; 4]);
        for v in [(i * CHUNK / 512) as u64, (CHUNK / 512) as u64, file.len() as u64, stored.len() as u64] {
            table.extend(v.to_be_bytes());
        }
        file.extend(stored);
    }
    table.extend(u32::MAX.to_be_bytes());
    table.resize(table.len() + 36, 0);
    let mut mish = vec![0; 204];
    let put = |f: &mut Vec<u8>, at: usize, b: &[u8]| f[at..at + b.len()].copy_from_slice(b);
    put(&mut mish, 0, b"mish");
    put(&mut mish, 4, &1u32.to_be_bytes());
    put(&mut mish, 16, &((SIZE / 512) as u64).to_be_bytes());
    put(&mut mish, 200, &((table.len() / 40) as u32).to_be_bytes());
    mish.extend(table);
    let mut koly = vec![0; 512];
    put(&mut koly, 0, b"koly");
    put(&mut koly, 4, &4u32.to_be_bytes());
    put(&mut koly, 8, &512u32.to_be_bytes());
    put(&mut koly, 0x20, &(file.len() as u64).to_be_bytes());
    let at = file.len() as u64;
    let list = if with_resource_fork {
        let mut fork = vec![0; 0x100];
        put(&mut fork, 0, &0x100u32.to_be_bytes());
        put(&mut fork, 4, &(0x104 + mish.len() as u32).to_be_bytes());
        put(&mut fork, 8, &(4 + mish.len() as u32).to_be_bytes());
        fork.extend((mish.len() as u32).to_be_bytes());
        fork.extend(mish);
        fork
    } else {
        let text = base64(&mish);
        format!("<plist version=\"1.0\"><dict><key>resource-fork</key><dict><key>blkx</key><array><dict><key>Data</key><data>\n{text}\n</data></dict></array></dict></dict></plist>").into_bytes()
    };
    let place = if with_resource_fork { 0x28 } else { 0xd8 };
    put(&mut koly, place, &at.to_be_bytes());
    put(&mut koly, place + 8, &(list.len() as u64).to_be_bytes());
    put(&mut koly, 0x1ec, &((SIZE / 512) as u64).to_be_bytes());
    file.extend(list);
    file.extend(koly);
    file
}
