//! Loads a 32-bit ARM ELF image: the program, and the interpreter that it names.
//!
//! **Reference.** System V ABI, Edition 4.1, chapter 5 (program header); ELF for the Arm Architecture; the kernel's
//! `binfmt_elf` for where things go.
//!
//! **Not modelled**: FDPIC, bFLT, big-endian images.

use crate::memory::{LOWEST, Memory, PAGE, PATH_MAX, TASK_SIZE, page_down, page_up};
use spec::{Context, Error, Result};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

const EM_ARM: u16 = 40;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_PHDR: u32 = 6;
pub const PT_GNU_STACK: u32 = 0x6474_e551;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const PF_R: u32 = 4;
/// Where a position-independent program goes (the kernel's ELF_ET_DYN_BASE for ARM).
const DYN_BASE: u32 = 0x0040_0000;
/// More program headers than any program has.
const MAX_HEADERS: usize = 1024;
/// Bytes of a segment that is read; a damaged file may name four gigabytes.
const COPIED_AT_ONCE: usize = 1 << 20;
const HEADER_BYTES: usize = 52;
pub const PHDR_BYTES: usize = 32;

/// What is in the way of running a file.
#[derive(Debug)]
pub enum Refusal {
    /// Not an ELF image at all.
    NotElf,
    /// An ELF image, but not one that we can run.
    WrongMachine,
    /// It is ours, but damaged or not loadable.
    Bad(Error),
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Self {
        Refusal::Bad(e)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub kind: u32,
    pub offset: u32,
    pub vaddr: u32,
    pub file_bytes: u32,
    pub mem_bytes: u32,
    pub flags: u32,
}

/// The headers of an image.
#[derive(Debug)]
pub struct Header {
    pub dynamic: bool,
    pub entry: u32,
    pub phoff: u32,
    pub segments: Vec<Segment>,
    pub interpreter: Option<Vec<u8>>,
}

/// An image in memory.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    pub bias: u32,
    pub entry: u32,
    /// Guest address of the program headers.
    pub phdr: u32,
    pub phnum: u32,
    /// First byte after the highest segment.
    pub end: u32,
    /// Where code and data begin and end, as the kernel counts them for /proc.
    pub code: (u32, u32),
    pub data: (u32, u32),
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Reads and checks the headers.
pub fn header(file: &File) -> Result<Header, Refusal> {
    let mut raw = [0u8; HEADER_BYTES];
    let got = read_up_to(file, &mut raw, 0).map_err(|e| Error::caused("Could not read the file", e))?;
    if got < HEADER_BYTES || raw[..4] != *b"\x7fELF" {
        return Err(Refusal::NotElf);
    }
    let class_data = [1, 1]; // ELFCLASS32, ELFDATA2LSB
    if raw[4..6] != class_data || u16_at(&raw, 18) != EM_ARM {
        return Err(Refusal::WrongMachine);
    }
    let kind = u16_at(&raw, 16);
    if kind != ET_EXEC && kind != ET_DYN {
        return Err(Refusal::WrongMachine);
    }
    let (phoff, phentsize, phnum) = (u32_at(&raw, 28), u16_at(&raw, 42) as usize, u16_at(&raw, 44) as usize);
    if phentsize != PHDR_BYTES || phnum == 0 || phnum > MAX_HEADERS {
        return Err(Refusal::Bad(Error::new("Invalid ELF program headers")));
    }
    let mut table = vec![0u8; phnum * PHDR_BYTES];
    let got = read_up_to(file, &mut table, phoff as u64)
        .map_err(|e| Error::caused("Could not read the ELF program headers", e))?;
    if got < table.len() {
        return Err(Refusal::Bad(Error::new("The file ends before its ELF program headers do")));
    }
    let segments: Vec<Segment> = table.chunks_exact(PHDR_BYTES).map(segment).collect();
    let interpreter = match segments.iter().find(|s| s.kind == PT_INTERP) {
        Some(s) => Some(interpreter_name(file, s)?),
        None => None,
    };
    Ok(Header { dynamic: kind == ET_DYN, entry: u32_at(&raw, 24), phoff, segments, interpreter })
}

fn segment(raw: &[u8]) -> Segment {
    Segment {
        kind: u32_at(raw, 0),
        offset: u32_at(raw, 4),
        vaddr: u32_at(raw, 8),
        file_bytes: u32_at(raw, 16),
        mem_bytes: u32_at(raw, 20),
        flags: u32_at(raw, 24),
    }
}

fn interpreter_name(file: &File, s: &Segment) -> Result<Vec<u8>> {
    let len = s.file_bytes as usize;
    if !(2..=PATH_MAX).contains(&len) {
        return Err(Error::new("Invalid ELF interpreter name"));
    }
    let mut name = vec![0u8; len];
    file.read_exact_at(&mut name, s.offset as u64).context(|| "Could not read the ELF interpreter name".into())?;
    let nul = name.iter().position(|b| *b == 0).ok_or("Invalid ELF interpreter name")?;
    name.truncate(nul);
    Ok(name)
}

fn read_up_to(file: &File, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

impl Header {
    fn loads(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|s| s.kind == PT_LOAD)
    }

    /// Whether the stack is to be executable. Without a PT_GNU_STACK header it is, and so is everything readable.
    pub fn executable_stack(&self) -> bool {
        self.segments.iter().find(|s| s.kind == PT_GNU_STACK).is_none_or(|s| s.flags & PF_X != 0)
    }

    /// Lowest and highest address that the segments cover, in whole pages.
    fn span(&self) -> Result<(u32, u32)> {
        let (mut low, mut high) = (u64::MAX, 0u64);
        for s in self.loads() {
            if s.file_bytes > s.mem_bytes {
                return Err(Error::new("Invalid ELF segment: more bytes in the file than in memory"));
            }
            low = low.min(page_down(s.vaddr) as u64);
            high = high.max(page_up(s.vaddr as u64 + s.mem_bytes as u64));
        }
        if low >= high || high > TASK_SIZE {
            return Err(Error::new("Invalid ELF segments: outside of the address space"));
        }
        Ok((low as u32, high as u32))
    }

    /// From the lowest executable segment to the end of the highest; from the highest segment to the end of what the file gives.
    fn parts(&self, bias: u32) -> ((u32, u32), (u32, u32)) {
        let ends = |s: &Segment| (s.vaddr.wrapping_add(bias), s.vaddr.wrapping_add(s.file_bytes).wrapping_add(bias));
        let code = |s: &&Segment| s.flags & PF_X != 0;
        let begin = self.loads().filter(code).map(|s| ends(s).0).min().unwrap_or(0);
        let end = self.loads().filter(code).map(|s| ends(s).1).max().unwrap_or(0);
        let (starts, stops) = (self.loads().map(|s| ends(s).0).max(), self.loads().map(|s| ends(s).1).max());
        ((begin, end), (starts.unwrap_or(0), stops.unwrap_or(0)))
    }

    /// Maps the segments. A position-independent image goes to `DYN_BASE` if it is a program with an interpreter, else to
    /// where mappings go.
    pub fn load(&self, file: &File, memory: &Memory, as_program: bool) -> Result<Image> {
        let (low, high) = self.span()?;
        let size = high - low;
        let bias = if self.dynamic {
            let hint = if as_program && self.interpreter.is_some() { DYN_BASE } else { 0 };
            let at = memory
                .mmap(hint, size, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1, 0)
                .map_err(|e| Error::new(format!("No room for {size:#x} bytes of ELF segments: {}", e.text())))?;
            // The gaps between segments belong to the image until all are mapped.
            at.wrapping_sub(low)
        } else {
            if low < LOWEST {
                return Err(Error::new(format!("ELF segment at {low:#x} is below the lowest address {LOWEST:#x}")));
            }
            0
        };
        for s in self.loads() {
            map_segment(file, memory, s, bias)?;
        }
        let first = self.loads().next().expect("span has found a segment");
        let phdr = match self.segments.iter().find(|s| s.kind == PT_PHDR) {
            Some(s) => s.vaddr,
            None => first.vaddr.wrapping_sub(first.offset).wrapping_add(self.phoff),
        };
        let end = self.loads().map(|s| s.vaddr.wrapping_add(s.mem_bytes)).max().unwrap_or(0);
        let (code, data) = self.parts(bias);
        Ok(Image {
            code,
            data,
            bias,
            entry: self.entry.wrapping_add(bias),
            phdr: phdr.wrapping_add(bias),
            phnum: self.segments.len() as u32,
            end: end.wrapping_add(bias),
        })
    }
}

fn protection(flags: u32) -> i32 {
    let bit = |f, p| if flags & f != 0 { p } else { 0 };
    bit(PF_R, libc::PROT_READ) | bit(PF_W, libc::PROT_WRITE) | bit(PF_X, libc::PROT_EXEC)
}

fn map_segment(file: &File, memory: &Memory, s: &Segment, bias: u32) -> Result<()> {
    if s.mem_bytes == 0 {
        return Ok(());
    }
    let fail =
        |e: crate::errno::Errno| Error::new(format!("Could not map the ELF segment at {:#x}: {}", s.vaddr, e.text()));
    let vaddr = s.vaddr.wrapping_add(bias);
    let start = page_down(vaddr);
    let skew = vaddr - start;
    let prot = protection(s.flags);
    let file_end = vaddr as u64 + s.file_bytes as u64;
    let mem_end = vaddr as u64 + s.mem_bytes as u64;
    let fixed = libc::MAP_PRIVATE | libc::MAP_FIXED;
    let file_pages_end = page_up(file_end);
    let congruent = s.offset % PAGE == skew;
    if s.file_bytes > 0 && congruent {
        let len = s.file_bytes + skew;
        memory.mmap(start, len, prot, fixed, file.as_raw_fd(), (s.offset - skew) as u64).map_err(fail)?;
        if mem_end > file_end && s.flags & PF_W != 0 {
            // The whole rest of the last page is zero, not only the bss: the dynamic linker allocates there.
            let tail = (file_pages_end - file_end) as usize;
            memory.write_bytes(file_end as u32, &vec![0; tail]).map_err(fail)?;
        }
    } else if s.file_bytes > 0 {
        // An image whose segments are not aligned to pages is read instead of mapped.
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        memory.mmap(start, s.file_bytes + skew, rw, fixed | libc::MAP_ANONYMOUS, -1, 0).map_err(fail)?;
        let mut bytes = vec![0; COPIED_AT_ONCE];
        for done in (0..s.file_bytes).step_by(COPIED_AT_ONCE) {
            let part = &mut bytes[..((s.file_bytes - done) as usize).min(COPIED_AT_ONCE)];
            let read = file.read_exact_at(part, s.offset as u64 + done as u64);
            read.context(|| format!("Could not read the ELF segment at {:#x}", s.vaddr))?;
            memory.write_bytes(vaddr + done, part).map_err(fail)?;
        }
        memory.mprotect(start, s.file_bytes + skew, prot).map_err(fail)?;
    }
    let bss_start = if s.file_bytes > 0 { file_pages_end } else { start as u64 };
    if page_up(mem_end) > bss_start {
        let len = (page_up(mem_end) - bss_start) as u32;
        memory.mmap(bss_start as u32, len, prot, fixed | libc::MAP_ANONYMOUS, -1, 0).map_err(fail)?;
    }
    Ok(())
}

#[cfg(test)]
mod damaged;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A minimal image with the given program headers.
    fn image(machine: u16, kind: u16, segments: &[[u32; 8]]) -> File {
        let mut b = vec![0u8; HEADER_BYTES];
        b[..7].copy_from_slice(b"\x7fELF\x01\x01\x01");
        b[16..18].copy_from_slice(&kind.to_le_bytes());
        b[18..20].copy_from_slice(&machine.to_le_bytes());
        b[28..32].copy_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
        b[42..44].copy_from_slice(&(PHDR_BYTES as u16).to_le_bytes());
        b[44..46].copy_from_slice(&(segments.len() as u16).to_le_bytes());
        b.extend(segments.iter().flatten().flat_map(|w| w.to_le_bytes()));
        file_of(&b)
    }

    pub fn file_of(bytes: &[u8]) -> File {
        // SAFETY: memfd_create with a constant name; the descriptor is ours.
        let mut f = unsafe {
            let fd = libc::memfd_create(c"elf-test".as_ptr(), 0);
            assert!(fd >= 0);
            <File as std::os::fd::FromRawFd>::from_raw_fd(fd)
        };
        f.write_all(bytes).unwrap();
        f
    }

    #[test]
    fn foreign_files_are_told_apart() {
        assert!(matches!(header(&file_of(b"#!/bin/sh\n")), Err(Refusal::NotElf)));
        assert!(matches!(header(&file_of(b"")), Err(Refusal::NotElf)));
        assert!(matches!(header(&file_of(b"\x7fELF")), Err(Refusal::NotElf)));
        assert!(matches!(header(&image(62, ET_EXEC, &[])), Err(Refusal::WrongMachine)));
        assert!(matches!(header(&image(EM_ARM, ET_EXEC, &[])), Err(Refusal::Bad(_))));
    }

    #[test]
    fn hostile_segments_are_refused() {
        let spans = |s: &[[u32; 8]]| header(&image(EM_ARM, ET_EXEC, s)).unwrap().span().is_ok();
        assert!(spans(&[[PT_LOAD, 0, 0x10000, 0, 100, 100, 5, 4096]]));
        assert!(!spans(&[[PT_LOAD, 0, 0x10000, 0, 101, 100, 5, 4096]]));
        assert!(!spans(&[[PT_LOAD, 0, 0xffff_f000, 0, 0, 0xffff_ffff, 5, 4096]]));
        assert!(!spans(&[[PT_GNU_STACK, 0, 0, 0, 0, 0, 6, 0]]));
    }

    #[test]
    fn a_missing_stack_header_means_executable() {
        let exec = |s: &[[u32; 8]]| header(&image(EM_ARM, ET_EXEC, s)).unwrap().executable_stack();
        assert!(exec(&[[PT_LOAD, 0, 0x10000, 0, 0, 4, 5, 4096]]));
        assert!(!exec(&[[PT_GNU_STACK, 0, 0, 0, 0, 0, 6, 0]]));
        assert!(exec(&[[PT_GNU_STACK, 0, 0, 0, 0, 0, 7, 0]]));
    }
}
