//! Shared by the trials of the disk layer: a random source and a disk in memory that can lose power.
#![allow(dead_code)]

use disk::node::{Extent, Node, Preallocation};
use std::io;
use std::sync::{Arc, Mutex};

/// A small random generator (splitmix64), so that a seed is all that a failure report needs.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e3779b97f4a7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d049bb133111eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }
}

/// A number from the environment, for long runs.
pub fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// A place for the files of a trial: in memory where the host has that, because both sides flush often.
pub fn scratch(name: &str) -> std::path::PathBuf {
    let memory = std::path::Path::new("/dev/shm");
    let place =
        if std::env::var_os("TMPDIR").is_none() && memory.is_dir() { memory.into() } else { std::env::temp_dir() };
    let dir = place.join(format!("{name}-{}", std::process::id()));
    // A dead run with the same process number may have left it.
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    dir
}

#[derive(Default)]
pub struct Store {
    pub bytes: Vec<u8>,
    /// Contents at the last flush, and the writes since then.
    pub durable: Vec<u8>,
    pub since: Vec<(u64, Vec<u8>)>,
    pub writes: u64,
    /// From this write on, nothing reaches the disk any more.
    pub dies_at: Option<u64>,
    pub flushes: u64,
}

/// A file in memory that dies at a chosen write.
#[derive(Clone, Default)]
pub struct Memory(pub Arc<Mutex<Store>>);

impl Memory {
    pub fn of(bytes: Vec<u8>) -> Memory {
        Memory(Arc::new(Mutex::new(Store { durable: bytes.clone(), bytes, ..Store::default() })))
    }

    fn change(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut s = self.0.lock().unwrap();
        s.writes += 1;
        if s.dies_at.is_some_and(|n| s.writes > n) {
            return Err(disk::node::eio());
        }
        apply(&mut s.bytes, offset, data);
        s.since.push((offset, data.to_vec()));
        Ok(())
    }
}

pub fn apply(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let end = offset as usize + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset as usize..end].copy_from_slice(data);
}

impl Node for Memory {
    fn driver(&self) -> &'static str {
        "file"
    }
    fn filename(&self) -> String {
        "memory".into()
    }
    fn size(&self) -> u64 {
        self.0.lock().unwrap().bytes.len() as u64
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let s = self.0.lock().unwrap();
        buf.fill(0);
        let from = (offset as usize).min(s.bytes.len());
        let to = (offset as usize + buf.len()).min(s.bytes.len());
        buf[..to - from].copy_from_slice(&s.bytes[from..to]);
        Ok(())
    }
    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.change(offset, buf)
    }
    fn write_zeroes(&self, offset: u64, len: u64, _unmap: bool) -> io::Result<()> {
        self.change(offset, &vec![0; len as usize])
    }
    fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        let mut s = self.0.lock().unwrap();
        if s.dies_at.is_some_and(|n| s.writes >= n) {
            return Err(disk::node::eio());
        }
        s.flushes += 1;
        s.since.clear();
        s.durable = s.bytes.clone();
        Ok(())
    }
    fn map(&self, offset: u64, len: u64) -> io::Result<Extent> {
        Ok(Extent { len, data: true, allocated: true, offset: Some(offset), ..Extent::default() })
    }
    fn resize(&self, size: u64, _preallocation: Preallocation) -> spec::error::Result<()> {
        let mut s = self.0.lock().unwrap();
        s.writes += 1;
        if s.dies_at.is_some_and(|n| s.writes > n) {
            return Err("dead".into());
        }
        s.bytes.resize(size as usize, 0);
        // A size change is treated as durable together with what came before it.
        s.since.clear();
        s.durable = s.bytes.clone();
        Ok(())
    }
}
