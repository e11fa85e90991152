//! The initial stack: strings, auxiliary vector, environment, arguments.
//!
//! **Reference.** The kernel's `create_elf_tables`; getauxval(3).

use crate::elf::{Image, PHDR_BYTES};
use crate::memory::{Memory, PAGE, STACK_TOP};
use spec::{Error, Result};
use std::ffi::CString;

/// Tags of the auxiliary vector.
pub mod at {
    pub const NULL: u32 = 0;
    pub const PHDR: u32 = 3;
    pub const PHENT: u32 = 4;
    pub const PHNUM: u32 = 5;
    pub const PAGESZ: u32 = 6;
    pub const BASE: u32 = 7;
    pub const FLAGS: u32 = 8;
    pub const ENTRY: u32 = 9;
    pub const UID: u32 = 11;
    pub const EUID: u32 = 12;
    pub const GID: u32 = 13;
    pub const EGID: u32 = 14;
    pub const PLATFORM: u32 = 15;
    pub const HWCAP: u32 = 16;
    pub const CLKTCK: u32 = 17;
    pub const SECURE: u32 = 23;
    pub const RANDOM: u32 = 25;
    pub const HWCAP2: u32 = 26;
    pub const EXECFN: u32 = 31;
}

/// What the stack is made from.
pub struct Contents<'a> {
    pub args: &'a [CString],
    pub env: &'a [CString],
    pub exec_name: &'a CString,
    pub program: Image,
    /// Load bias of the interpreter, 0 without.
    pub interpreter_base: u32,
    pub hwcap: u32,
    pub hwcap2: u32,
    pub platform: &'a str,
    pub random: [u8; 16],
    pub executable: bool,
    pub size: u32,
}

/// Where things came to lie.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    pub sp: u32,
    pub lowest: u32,
    pub top: u32,
    pub arg_start: u32,
    pub arg_end: u32,
    pub env_start: u32,
    pub env_end: u32,
    pub auxv_start: u32,
    /// The auxiliary vector's bytes, as /proc/self/auxv shows them.
    pub auxv: Vec<u8>,
}

/// Writes downwards from the top of the stack.
struct Pusher<'a> {
    memory: &'a Memory,
    at: u32,
}

impl Pusher<'_> {
    fn bytes(&mut self, b: &[u8]) -> Result<u32> {
        self.at -= b.len() as u32;
        self.memory.write_bytes(self.at, b).map_err(|e| Error::new(format!("Could not write the stack: {}", e.text())))?;
        Ok(self.at)
    }

    /// Strings in ascending order; their addresses.
    fn strings(&mut self, all: &[CString]) -> Result<Vec<u32>> {
        let mut addresses = all.iter().rev().map(|s| self.bytes(s.as_bytes_with_nul())).collect::<Result<Vec<_>>>()?;
        addresses.reverse();
        Ok(addresses)
    }
}

/// Maps the stack and fills it.
pub fn build(memory: &Memory, c: &Contents) -> Result<Layout> {
    let text: usize = c.args.iter().chain(c.env).map(|s| s.as_bytes_with_nul().len() + 4).sum();
    // The kernel's limit: a quarter of the stack.
    if text as u64 + 4096 > c.size as u64 / 4 {
        return Err(Error::new("Argument list too long for the stack"));
    }
    let size = c.size.next_multiple_of(PAGE);
    let lowest = STACK_TOP - size;
    let mut prot = libc::PROT_READ | libc::PROT_WRITE;
    if c.executable {
        prot |= libc::PROT_EXEC;
    }
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_GROWSDOWN;
    let how = kind | libc::MAP_FIXED | libc::MAP_NORESERVE;
    memory
        .mmap(lowest, size, prot, how, -1, 0)
        .map_err(|e| Error::new(format!("Could not map {size} bytes of stack: {}", e.text())))?;
    let mut p = Pusher { memory, at: STACK_TOP };
    p.bytes(&[0; 4])?;
    let exec_name = p.bytes(c.exec_name.as_bytes_with_nul())?;
    let env_end = exec_name;
    let env = p.strings(c.env)?;
    let env_start = p.at;
    let args = p.strings(c.args)?;
    let arg_start = p.at;
    let platform = p.bytes(&[c.platform.as_bytes(), b"\0"].concat())?;
    let random = p.bytes(&c.random)?;
    p.at &= !15;
    let auxv: Vec<u8> = auxiliary_vector(c, exec_name, platform, random).iter().flat_map(|w| w.to_le_bytes()).collect();
    let words = 1 + args.len() + 1 + env.len() + 1;
    // The stack pointer is a multiple of 16 at the entry point.
    let total = words * 4 + auxv.len();
    p.at -= (total.next_multiple_of(16) - total) as u32;
    let auxv_start = p.bytes(&auxv)?;
    let head = [&[args.len() as u32], &args[..], &[0], &env[..], &[0]].concat();
    let sp = p.bytes(&head.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>())?;
    Ok(Layout { sp, lowest, top: STACK_TOP, arg_start, arg_end: env_start, env_start, env_end, auxv_start, auxv })
}

fn auxiliary_vector(c: &Contents, exec_name: u32, platform: u32, random: u32) -> Vec<u32> {
    // SAFETY: these calls take no memory and cannot fail.
    let (uid, euid, gid, egid) = unsafe { (libc::getuid(), libc::geteuid(), libc::getgid(), libc::getegid()) };
    // SAFETY: as above.
    let secure = unsafe { libc::getauxval(libc::AT_SECURE) } as u32;
    let rows = [
        (at::PHDR, c.program.phdr),
        (at::PHENT, PHDR_BYTES as u32),
        (at::PHNUM, c.program.phnum),
        (at::PAGESZ, PAGE),
        (at::BASE, c.interpreter_base),
        (at::FLAGS, 0),
        (at::ENTRY, c.program.entry),
        (at::UID, uid),
        (at::EUID, euid),
        (at::GID, gid),
        (at::EGID, egid),
        (at::HWCAP, c.hwcap),
        (at::CLKTCK, 100),
        (at::RANDOM, random),
        (at::SECURE, secure),
        (at::HWCAP2, c.hwcap2),
        (at::EXECFN, exec_name),
        (at::PLATFORM, platform),
        (at::NULL, 0),
    ];
    rows.iter().flat_map(|(tag, value)| [*tag, *value]).collect()
}
