//! seccomp filters, interpreted: the guest's programs see the guest's call numbers and architecture.
//!
//! Filters survive execve of a program that runs under this emulator: they go to it in a file without a name. A program for the
//! host runs without them, because they are about other call numbers.
//!
//! | module | what |
//! |---|---|
//! | `program` | a filter's instructions |
//! | `listener` | user notification |
//! | `threads` | whose filters, TSYNC |
//! | `saved` | across execve |
//!
//! **Reference.** seccomp(2).

pub mod listener;
pub mod program;
pub mod saved;
pub mod threads;

pub use self::threads::{Seat, Seats};

use crate::abi::arm as abi;
use crate::errno::{self, Errno, Ret};
use crate::memory::abi_struct;
use crate::siginfo::SigInfo;
use crate::task::Task;
use program::{AUDIT_ARCH_ARM, Insn, check, data_word, evaluate};
use std::sync::Arc;

abi_struct! {
    /// struct sock_fprog of a 32-bit program
    Program32 8 { len: u16, pad: u16, filter: u32, }
}

/// BPF_MAXINSNS.
const MAX_INSNS: usize = 4096;
/// The kernel's bound on all filters of a task, in instructions.
const MAX_TOTAL: usize = 32768;

const MODE_STRICT: u32 = 1;
const MODE_FILTER: u32 = 2;

const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_ACTION: u32 = 0xffff_0000;
const MAX_ERRNO: u32 = 4095;

/// SECCOMP_FILTER_FLAG_*.
const TSYNC: u32 = 1;
const LOG: u32 = 2;
const SPEC_ALLOW: u32 = 4;
const NEW_LISTENER: u32 = 8;
const TSYNC_ESRCH: u32 = 16;
const WAIT_KILLABLE_RECV: u32 = 32;

/// One filter: the same for all who have inherited it.
struct Filter {
    program: Vec<Insn>,
    listens: bool,
}

/// Filters, oldest first; children inherit them.
#[derive(Clone, Default)]
pub struct Filters {
    list: Vec<Arc<Filter>>,
    strict: bool,
}

impl Filters {
    fn mode(&self) -> u32 {
        match self {
            Filters { strict: true, .. } => MODE_STRICT,
            Filters { list, .. } if list.is_empty() => 0,
            _ => MODE_FILTER,
        }
    }

    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Whether who has `self` came from having `older`.
    fn descend_from(&self, older: &Filters) -> bool {
        !older.strict
            && older.list.len() <= self.list.len()
            && older.list.iter().zip(&self.list).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    /// The filters' answer to a call, and whether the filter that gave it has a listener.
    fn answer(&self, load: impl Fn(u32) -> u32) -> (u32, bool) {
        let answers = self.list.iter().rev().map(|f| (evaluate(&f.program, &load), f.listens));
        answers.fold((RET_ALLOW, false), |a, b| if severity(b.0) < severity(a.0) { b } else { a })
    }
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

/// Whether the thread has given up gaining privileges by execve.
fn has_no_new_privileges() -> bool {
    // SAFETY: a plain call without memory.
    unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 }
}

impl Task {
    /// The filters' verdict on a call: none to go on with it.
    pub fn filter_system_call(&mut self, number: u32, args: [u32; 6]) -> Option<Ret> {
        match self.seccomp.mode() {
            0 => return None,
            // read, write, exit, sigreturn, rt_sigreturn.
            MODE_STRICT if matches!(number, 1 | 3 | 4 | 119 | 173) => return None,
            MODE_STRICT => return self.kill_for_call(libc::SIGKILL),
            _ => self.seccomp.settle(),
        }
        let pc = abi::reg(self.vcpu.state(), 15);
        let (answer, listens) = self.seccomp.filters().answer(|at| data_word(at, number, pc, &args));
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
            RET_USER_NOTIF if listens => self.ask_listener(number, pc, &args),
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
            MODE_STRICT if self.seccomp.mode() != MODE_FILTER => {
                self.seccomp.set(Filters { strict: true, ..Filters::default() });
                Ok(0)
            }
            MODE_FILTER => self.add_seccomp_filter(program, 0),
            _ => Err(errno::EINVAL),
        }
    }

    /// seccomp(SECCOMP_SET_MODE_FILTER).
    pub fn add_seccomp_filter(&mut self, addr: u32, flags: u32) -> Ret {
        const KNOWN: u32 = TSYNC | LOG | SPEC_ALLOW | NEW_LISTENER | TSYNC_ESRCH | WAIT_KILLABLE_RECV;
        let has = |flag| flags & flag != 0;
        // Two of them have something to return: a descriptor, and the number of a thread.
        let two_results = has(TSYNC) && has(NEW_LISTENER) && !has(TSYNC_ESRCH);
        if flags & !KNOWN != 0 || two_results || has(WAIT_KILLABLE_RECV) && !has(NEW_LISTENER) {
            return Err(errno::EINVAL);
        }
        let program = self.read_seccomp_program(addr)?;
        let process = self.process.clone();
        let seats = process.seats.lock();
        let mut filters = self.seccomp.filters().clone();
        if filters.strict {
            return Err(errno::EINVAL);
        }
        let total: usize = filters.list.iter().map(|f| f.program.len() + 4).sum();
        if total + program.len() > MAX_TOTAL {
            return Err(errno::ENOMEM);
        }
        let others = match threads::others(&seats, &self.seccomp) {
            _ if !has(TSYNC) => Vec::new(),
            Ok(others) => others,
            Err(_) if has(TSYNC_ESRCH) => return Err(errno::ESRCH),
            Err(tid) => return Ok(tid as u32),
        };
        let result = if has(NEW_LISTENER) { listener::install(flags)? } else { 0 };
        filters.list.push(Arc::new(Filter { program, listens: has(NEW_LISTENER) }));
        for seat in others {
            threads::give(&seat, &filters, has_no_new_privileges());
        }
        self.seccomp.set(filters);
        Ok(result)
    }

    /// The program of a new filter, if this thread may have one.
    fn read_seccomp_program(&self, addr: u32) -> Result<Vec<Insn>, Errno> {
        let head: Program32 = self.memory().read(addr)?;
        if head.len == 0 || head.len as usize > MAX_INSNS {
            return Err(errno::EINVAL);
        }
        if !has_no_new_privileges() && !is_administrator() {
            return Err(errno::EACCES);
        }
        let program: Vec<Insn> = self.memory().read_vec(head.filter, head.len as usize)?;
        if check(&program) { Ok(program) } else { Err(errno::EINVAL) }
    }

    /// seccomp(2).
    pub fn seccomp_call(&mut self, operation: u32, flags: u32, addr: u32) -> Ret {
        match operation {
            0 if flags == 0 && addr == 0 => self.set_seccomp_mode(MODE_STRICT, 0),
            1 => self.add_seccomp_filter(addr, flags),
            // SECCOMP_GET_ACTION_AVAIL
            2 if flags == 0 => match self.memory().read::<u32>(addr)? {
                RET_KILL_PROCESS | RET_KILL_THREAD | RET_TRAP | RET_ERRNO | RET_USER_NOTIF | RET_TRACE | RET_LOG
                | RET_ALLOW => Ok(0),
                _ => Err(errno::EOPNOTSUPP),
            },
            // SECCOMP_GET_NOTIF_SIZES
            3 if flags == 0 => self.memory().write(addr, listener::SIZES).map(|()| 0),
            _ => Err(errno::EINVAL),
        }
    }
}

#[cfg(test)]
impl Filters {
    fn of_one() -> Filters {
        let program = vec![Insn { code: 6, jt: 0, jf: 0, k: RET_ALLOW }];
        Filters { list: vec![Arc::new(Filter { program, listens: false })], strict: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_severest_answer_wins() {
        assert!(severity(RET_KILL_PROCESS) < severity(RET_KILL_THREAD));
        assert!(severity(RET_KILL_THREAD) < severity(RET_TRAP));
        assert!(severity(RET_ERRNO | 5) < severity(RET_ALLOW));
    }
}
