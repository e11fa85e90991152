//! seccomp filters, interpreted: the guest's programs see the guest's call numbers and architecture.
//!
//! Filters survive execve of a program that runs under this emulator: they go to it in a file without a name. A program for the
//! host runs without them, because they are about other call numbers.
//!
//! **Not modelled**: user notification, TSYNC of other threads' filters.
//!
//! **Reference.** seccomp(2); `Documentation/networking/filter.rst` for the instructions.

use crate::abi::arm as abi;
use crate::errno::{self, Errno, Ret};
use crate::memory::abi_struct;
use crate::siginfo::SigInfo;
use crate::task::Task;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

abi_struct! {
    /// struct sock_filter
    Insn 8 { code: u16, jt: u8, jf: u8, k: u32, }
    /// struct sock_fprog of a 32-bit program
    Program32 8 { len: u16, pad: u16, filter: u32, }
}

/// BPF_MAXINSNS.
const MAX_INSNS: usize = 4096;
/// The kernel's bound on all filters of a task, in instructions.
const MAX_TOTAL: usize = 32768;
const AUDIT_ARCH_ARM: u32 = 0x4000_0028;
/// struct seccomp_data.
const DATA_BYTES: u32 = 64;

const MODE_STRICT: u32 = 1;
const MODE_FILTER: u32 = 2;

const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_ACTION: u32 = 0xffff_0000;
const MAX_ERRNO: u32 = 4095;

/// A thread's filters, oldest first; children inherit them.
#[derive(Clone, Default)]
pub struct Filters {
    programs: Vec<Arc<Vec<Insn>>>,
    strict: bool,
}

impl Filters {
    pub fn mode(&self) -> u32 {
        if self.strict {
            MODE_STRICT
        } else if self.programs.is_empty() {
            0
        } else {
            MODE_FILTER
        }
    }
}

/// A saved instruction: code, jt, jf, k. A program is its length and then its instructions.
const SAVED_BYTES: usize = 8;

impl Filters {
    /// Writes the filters to a file without a name that execve leaves open; none if there are none.
    pub fn leave(&self) -> Result<Option<File>, Errno> {
        if self.programs.is_empty() {
            return Ok(None);
        }
        // SAFETY: the name is a constant; the descriptors are ours. The second is out of the way of the guest's.
        let mut file = unsafe {
            let low = libc::memfd_create(c"seccomp".as_ptr(), 0);
            if low < 0 {
                return Err(Errno::last());
            }
            let low = File::from_raw_fd(low);
            let high = libc::fcntl(low.as_raw_fd(), libc::F_DUPFD, LEFT_FROM);
            if high < 0 {
                return Err(Errno::last());
            }
            File::from_raw_fd(high)
        };
        let mut bytes = Vec::new();
        for p in &self.programs {
            bytes.extend((p.len() as u32).to_le_bytes());
            for i in p.iter() {
                bytes.extend(i.code.to_le_bytes());
                bytes.extend([i.jt, i.jf]);
                bytes.extend(i.k.to_le_bytes());
            }
        }
        file.write_all(&bytes).map_err(|e| Errno(e.raw_os_error().unwrap_or(libc::EIO)))?;
        Ok(Some(file))
    }

    /// Takes over what `leave` has written, and closes the descriptor.
    pub fn take_over(fd: i32) -> spec::Result<Filters> {
        let bad = || spec::Error::new(format!("qemu-arm: -seccomp-filters {fd}: not a list of filters"));
        // SAFETY: asks for flags only.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            return Err(bad());
        }
        // SAFETY: the descriptor is open, and left for us.
        let file = unsafe { File::from_raw_fd(fd) };
        let mut bytes = vec![0; file.metadata().map_or(0, |m| m.len()).min((MAX_TOTAL * SAVED_BYTES) as u64) as usize];
        file.read_exact_at(&mut bytes, 0).map_err(|_| bad())?;
        let mut filters = Filters::default();
        let mut rest = &bytes[..];
        while let Some((length, more)) = rest.split_first_chunk::<4>() {
            let size = u32::from_le_bytes(*length) as usize * SAVED_BYTES;
            let program: Vec<Insn> = more.get(..size).ok_or_else(bad)?.chunks_exact(SAVED_BYTES).map(saved).collect();
            if !check(&program) {
                return Err(bad());
            }
            filters.programs.push(Arc::new(program));
            rest = &more[size..];
        }
        Ok(filters)
    }
}

/// Descriptors of `leave` begin here.
const LEFT_FROM: i32 = 900;

fn saved(b: &[u8]) -> Insn {
    Insn { code: u16::from_le_bytes([b[0], b[1]]), jt: b[2], jf: b[3], k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]) }
}

/// The bytes that a filter looks at, as 32-bit words.
fn data_word(at: u32, number: u32, pc: u32, args: &[u32; 6]) -> u32 {
    match at {
        0 => number,
        4 => AUDIT_ARCH_ARM,
        8 => pc,
        _ if at >= 16 && at.is_multiple_of(8) => args[(at as usize - 16) / 8],
        _ => 0,
    }
}

/// Checks a program as the kernel does: known instructions, jumps forward and inside, a return at the end.
fn check(program: &[Insn]) -> bool {
    let len = program.len() as u64;
    let last_returns = program.last().is_some_and(|i| i.code & 7 == 6);
    last_returns
        && program.iter().enumerate().all(|(at, i)| {
            let left = len - at as u64 - 1;
            match i.code {
                0x20 => i.k < DATA_BYTES && i.k.is_multiple_of(4),
                0x60 | 0x61 | 0x02 | 0x03 => i.k < 16,
                0x34 | 0x94 => i.k != 0,
                0x64 | 0x74 => i.k < 32,
                0x05 => (i.k as u64) < left,
                0x15 | 0x25 | 0x35 | 0x45 | 0x1d | 0x2d | 0x3d | 0x4d => (i.jt as u64) < left && (i.jf as u64) < left,
                0x00 | 0x01 | 0x80 | 0x81 | 0x06 | 0x16 | 0x07 | 0x87 => true,
                0x04 | 0x0c | 0x14 | 0x1c | 0x24 | 0x2c | 0x3c | 0x44 | 0x4c | 0x54 | 0x5c | 0x6c | 0x7c | 0x84 | 0xa4 | 0xac => true,
                _ => false,
            }
        })
}

/// Runs a checked program.
fn evaluate(program: &[Insn], load: impl Fn(u32) -> u32) -> u32 {
    let (mut a, mut x, mut m) = (0u32, 0u32, [0u32; 16]);
    let mut pc = 0;
    while let Some(i) = program.get(pc) {
        pc += 1;
        let operand = if i.code & 8 != 0 { x } else { i.k };
        let mut jump = |taken: bool| pc += if taken { i.jt } else { i.jf } as usize;
        match i.code {
            0x20 => a = load(i.k),
            0x00 => a = i.k,
            0x01 => x = i.k,
            0x60 => a = m[i.k as usize & 15],
            0x61 => x = m[i.k as usize & 15],
            0x02 => m[i.k as usize & 15] = a,
            0x03 => m[i.k as usize & 15] = x,
            0x80 => a = DATA_BYTES,
            0x81 => x = DATA_BYTES,
            0x06 => return i.k,
            0x16 => return a,
            0x07 => x = a,
            0x87 => a = x,
            0x04 | 0x0c => a = a.wrapping_add(operand),
            0x14 | 0x1c => a = a.wrapping_sub(operand),
            0x24 | 0x2c => a = a.wrapping_mul(operand),
            0x34 | 0x3c => match a.checked_div(operand) {
                Some(q) => a = q,
                None => return RET_KILL_THREAD,
            },
            0x44 | 0x4c => a |= operand,
            0x54 | 0x5c => a &= operand,
            0x64 | 0x6c => a = a.checked_shl(operand).unwrap_or(0),
            0x74 | 0x7c => a = a.checked_shr(operand).unwrap_or(0),
            0xa4 | 0xac => a ^= operand,
            0x84 => a = a.wrapping_neg(),
            0x05 => pc += i.k as usize,
            0x15 | 0x1d => jump(a == operand),
            0x25 | 0x2d => jump(a > operand),
            0x35 | 0x3d => jump(a >= operand),
            0x45 | 0x4d => jump(a & operand != 0),
            _ => return RET_KILL_THREAD,
        }
    }
    RET_KILL_THREAD
}

/// Which of two answers counts: the more severe one (kill process, then the others by their numbers).
fn severity(answer: u32) -> i32 {
    (answer & RET_ACTION) as i32
}

/// Whether the thread has CAP_SYS_ADMIN.
fn is_administrator() -> bool {
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_SYS_ADMIN: u32 = 21;
    let (mut header, mut sets) = ([VERSION_3, 0], [[0u32; 3]; 2]);
    // SAFETY: header and sets, of the version that is named, live until the call returns.
    let r = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) };
    r == 0 && sets[0][0] >> CAP_SYS_ADMIN & 1 != 0
}

impl Task {
    /// The filters' verdict on a call: none to go on with it.
    pub fn filter_system_call(&mut self, number: u32, args: [u32; 6]) -> Option<Ret> {
        if self.seccomp.mode() == 0 {
            return None;
        }
        let pc = abi::reg(self.vcpu.state(), 15);
        if self.seccomp.strict {
            // read, write, exit, sigreturn, rt_sigreturn.
            return if matches!(number, 1 | 3 | 4 | 119 | 173) { None } else { self.kill_for_call(libc::SIGKILL) };
        }
        let load = |at| data_word(at, number, pc, &args);
        let answers = self.seccomp.programs.iter().rev().map(|p| evaluate(p, load));
        let answer = answers.fold(RET_ALLOW, |a, b| if severity(b) < severity(a) { b } else { a });
        match answer & RET_ACTION {
            RET_ALLOW | RET_LOG => None,
            RET_ERRNO => Some(match answer & 0xffff {
                0 => Ok(0),
                e => Err(Errno(e.min(MAX_ERRNO) as i32)),
            }),
            RET_TRAP => {
                self.trap_for_call(number, answer & 0xffff, pc);
                Some(Err(errno::JUST_RETURN))
            }
            RET_KILL_THREAD if !self.first => {
                self.ended = Some(libc::SIGSYS);
                Some(Err(errno::JUST_RETURN))
            }
            RET_KILL_PROCESS | RET_KILL_THREAD => self.kill_for_call(libc::SIGSYS),
            // No tracer and no listener: the call does not exist.
            _ => Some(Err(errno::ENOSYS)),
        }
    }

    fn kill_for_call(&mut self, signal: i32) -> Option<Ret> {
        self.before_process_end();
        crate::host_signal::die(signal)
    }

    fn trap_for_call(&mut self, number: u32, data: u32, pc: u32) {
        const SYS_SECCOMP: i32 = 1;
        let mut info = SigInfo::new(libc::SIGSYS, SYS_SECCOMP);
        info.0[4..8].copy_from_slice(&data.to_le_bytes());
        info.0[16..20].copy_from_slice(&pc.to_le_bytes());
        info.0[24..28].copy_from_slice(&number.to_le_bytes());
        info.0[28..32].copy_from_slice(&AUDIT_ARCH_ARM.to_le_bytes());
        self.force_signal(info);
    }

    /// prctl(PR_SET_SECCOMP).
    pub fn set_seccomp_mode(&mut self, mode: u32, program: u32) -> Ret {
        match mode {
            MODE_STRICT if self.seccomp.programs.is_empty() => {
                self.seccomp.strict = true;
                Ok(0)
            }
            MODE_FILTER => self.add_seccomp_filter(program, 0),
            _ => Err(errno::EINVAL),
        }
    }

    /// seccomp(SECCOMP_SET_MODE_FILTER).
    pub fn add_seccomp_filter(&mut self, addr: u32, flags: u32) -> Ret {
        /// LOG and SPEC_ALLOW change nothing here; TSYNC can be honoured while there is one thread.
        const HARMLESS: u32 = 2 | 4;
        const TSYNC: u32 = 1;
        let threaded = self.process.threaded.load(std::sync::atomic::Ordering::Relaxed);
        if self.seccomp.strict || flags & !(HARMLESS | TSYNC) != 0 || flags & TSYNC != 0 && threaded {
            return Err(errno::EINVAL);
        }
        let head: Program32 = self.memory().read(addr)?;
        if head.len == 0 || head.len as usize > MAX_INSNS {
            return Err(errno::EINVAL);
        }
        // SAFETY: a plain call without memory.
        let allowed = unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 } || is_administrator();
        if !allowed {
            return Err(errno::EACCES);
        }
        let program: Vec<Insn> = self.memory().read_vec(head.filter, head.len as usize)?;
        if !check(&program) {
            return Err(errno::EINVAL);
        }
        let total: usize = self.seccomp.programs.iter().map(|p| p.len() + 4).sum();
        if total + program.len() > MAX_TOTAL {
            return Err(errno::ENOMEM);
        }
        self.seccomp.programs.push(Arc::new(program));
        Ok(0)
    }

    /// seccomp(2).
    pub fn seccomp_call(&mut self, operation: u32, flags: u32, addr: u32) -> Ret {
        match operation {
            0 if flags == 0 && addr == 0 => self.set_seccomp_mode(MODE_STRICT, 0),
            1 => self.add_seccomp_filter(addr, flags),
            // SECCOMP_GET_ACTION_AVAIL
            2 if flags == 0 => match self.memory().read::<u32>(addr)? {
                RET_KILL_PROCESS | RET_KILL_THREAD | RET_TRAP | RET_ERRNO | RET_LOG | RET_ALLOW => Ok(0),
                _ => Err(errno::EOPNOTSUPP),
            },
            _ => Err(errno::EINVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insn(code: u16, jt: u8, jf: u8, k: u32) -> Insn {
        Insn { code, jt, jf, k }
    }

    #[test]
    fn a_filter_chooses_by_number() {
        // if nr == 20 then ERRNO(1) else ALLOW
        let p = [insn(0x20, 0, 0, 0), insn(0x15, 0, 1, 20), insn(6, 0, 0, RET_ERRNO | 1), insn(6, 0, 0, RET_ALLOW)];
        assert!(check(&p));
        let run = |nr| evaluate(&p, |at| data_word(at, nr, 0, &[0; 6]));
        assert_eq!(run(20), RET_ERRNO | 1);
        assert_eq!(run(21), RET_ALLOW);
    }

    #[test]
    fn arguments_are_64_bits_wide() {
        assert_eq!(data_word(16, 1, 2, &[7, 8, 0, 0, 0, 9]), 7);
        assert_eq!(data_word(20, 1, 2, &[7, 8, 0, 0, 0, 9]), 0);
        assert_eq!(data_word(56, 1, 2, &[7, 8, 0, 0, 0, 9]), 9);
        assert_eq!(data_word(4, 1, 2, &[0; 6]), AUDIT_ARCH_ARM);
    }

    #[test]
    fn filters_go_through_a_file() {
        let p = vec![insn(0x20, 0, 0, 0), insn(0x15, 0, 1, 20), insn(6, 0, 0, RET_ERRNO | 1), insn(6, 0, 0, RET_ALLOW)];
        let filters = Filters { programs: vec![Arc::new(p.clone()), Arc::new(p[3..].to_vec())], strict: false };
        let file = filters.leave().unwrap().unwrap();
        let back = Filters::take_over(std::os::fd::IntoRawFd::into_raw_fd(file)).unwrap();
        assert_eq!(back.programs.len(), 2);
        assert_eq!(evaluate(&back.programs[0], |at| data_word(at, 20, 0, &[0; 6])), RET_ERRNO | 1);
        assert!(Filters::default().leave().unwrap().is_none());
        assert!(Filters::take_over(-1).is_err());
    }

    #[test]
    fn bad_programs_are_refused() {
        assert!(!check(&[]));
        assert!(!check(&[insn(0x15, 5, 0, 0), insn(6, 0, 0, 0)]), "jump outside");
        assert!(!check(&[insn(0x20, 0, 0, 64), insn(6, 0, 0, 0)]), "load outside");
        assert!(!check(&[insn(0x20, 0, 0, 0)]), "no return");
        assert!(!check(&[insn(0xff, 0, 0, 0), insn(6, 0, 0, 0)]), "no such instruction");
    }

    #[test]
    fn the_severest_answer_wins() {
        assert!(severity(RET_KILL_PROCESS) < severity(RET_KILL_THREAD));
        assert!(severity(RET_KILL_THREAD) < severity(RET_TRAP));
        assert!(severity(RET_ERRNO | 5) < severity(RET_ALLOW));
    }
}
