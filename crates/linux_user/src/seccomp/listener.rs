//! User notification: a filter's listener decides about calls, with the host's kernel between the two.
//!
//! The guest's filter is ours to interpret, but the listener must be a descriptor that can wait, be polled, be passed on and be
//! inherited, as only the kernel's can. So a filter with a listener also installs one on the host. It lets everything pass but
//! one marked call, a `close` of a descriptor that cannot be, which carries the guest's call in its other arguments. To make that call is to ask
//! the listener; the kernel does the rest: it wakes the listener, waits for the answer or a signal, installs descriptors, tells
//! when either side has ended. What a listener under this emulator reads is the guest's call again.
//!
//! **Not modelled**: listeners and listened-to programs of different architectures. A program for the host that is given the
//! descriptor sees the marked call.
//!
//! **Reference.** seccomp_unotify(2).

use super::program::AUDIT_ARCH_ARM;
use crate::errno::{self, Errno, Ret};
use crate::memory::abi_struct;
use crate::task::Task;
use libc::{SYS_close, SYS_seccomp, sock_filter, sock_fprog};

abi_struct! {
    /// struct seccomp_notif with its struct seccomp_data
    Notification 80 { id: u64, pid: u32, flags: u32, number: u32, arch: u32, pc: u64, args: [u64; 6], }
    /// struct seccomp_notif_resp
    Answer 24 { id: u64, value: i64, error: i32, flags: u32, }
}

/// Sizes of the three structures as SECCOMP_GET_NOTIF_SIZES tells them.
pub const SIZES: [u16; 3] = [80, 24, 64];

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// Upper half of the first argument of the marked call; the lower is a descriptor that cannot be.
const MARK: u32 = 0x5ec0_3e0f;
const NO_DESCRIPTOR: u32 = u32::MAX;
/// In the value that we answer with: it is the listener's, not the call's own.
const ANSWERED: u64 = 1 << 32;

fn two(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

fn halves(v: u64) -> [u32; 2] {
    [v as u32, (v >> 32) as u32]
}

/// The marked call's arguments.
fn marked(number: u32, pc: u32, a: &[u32; 6]) -> [u64; 6] {
    [two(NO_DESCRIPTOR, MARK), two(number, pc), two(a[0], a[1]), two(a[2], a[3]), two(a[4], a[5]), 0]
}

/// What the listener sees of a marked call; any other call is shown as it is.
fn unmarked(n: Notification) -> Notification {
    if n.arch != AUDIT_ARCH_X86_64 || n.number != SYS_close as u32 || n.args[0] != two(NO_DESCRIPTOR, MARK) {
        return n;
    }
    let [number, pc] = halves(n.args[1]);
    let mut args = [0; 6];
    for (pair, packed) in args.chunks_exact_mut(2).zip(&n.args[2..5]) {
        pair.copy_from_slice(&halves(*packed).map(u64::from));
    }
    Notification { number, arch: AUDIT_ARCH_ARM, pc: pc.into(), args, ..n }
}

/// The answer as the host's kernel is to give it to the other side's emulator.
fn packed(a: Answer) -> Answer {
    if a.flags != 0 {
        return a;
    }
    let word = if a.error != 0 { a.error as u32 } else { a.value as u32 };
    Answer { value: (ANSWERED | word as u64) as i64, error: 0, ..a }
}

/// The result of the marked call: none if the guest's call is to go on.
fn verdict(result: Result<i64, Errno>) -> Option<Ret> {
    match result {
        Ok(v) if v as u64 & ANSWERED != 0 => Some(errno::check(v as i32 as i64).map(|v| v as u32)),
        // A descriptor that the listener has given.
        Ok(v) => Some(Ok(v as u32)),
        Err(errno::EBADF) => None,
        Err(e) => Some(Err(e)),
    }
}

/// Installs the host's filter for a new listener; its descriptor. `flags` are the guest's.
pub fn install(flags: u32) -> Result<u32, Errno> {
    const SET_MODE_FILTER: u32 = 1;
    let load = |k| sock_filter { code: 0x20, jt: 0, jf: 0, k };
    // Goes on if it is `k`, over so many instructions otherwise.
    let unless = |k, jf| sock_filter { code: 0x15, jt: 0, jf, k };
    let give = |k| sock_filter { code: 0x06, jt: 0, jf: 0, k };
    let mut program = [
        load(4),
        unless(AUDIT_ARCH_X86_64, 5),
        load(0),
        unless(SYS_close as u32, 3),
        load(20),
        unless(MARK, 1),
        give(super::RET_USER_NOTIF),
        give(super::RET_ALLOW),
    ];
    let head = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program lives until the call returns.
    let fd = unsafe { libc::syscall(SYS_seccomp, SET_MODE_FILTER, flags, &raw const head) };
    if fd < 0 { Err(Errno::last()) } else { Ok(fd as u32) }
}

impl Task {
    /// Asks the listener about a call: its answer, or none if the call is to go on.
    pub(super) fn ask_listener(&mut self, number: u32, pc: u32, args: &[u32; 6]) -> Option<Ret> {
        // SAFETY: closes nothing: there is no such descriptor.
        verdict(unsafe { self.host_call_64(SYS_close, marked(number, pc, args)) })
    }

    /// SECCOMP_IOCTL_NOTIF_RECV.
    pub fn receive_notification(&mut self, fd: u32, request: u32, addr: u32) -> Ret {
        let mut n: Notification = self.memory().read(addr)?;
        // SAFETY: the structure lives until the call returns.
        let r = unsafe { self.host_call(libc::SYS_ioctl, [fd as u64, request as u64, (&raw mut n) as u64, 0, 0, 0]) }?;
        self.memory().write(addr, unmarked(n))?;
        Ok(r)
    }

    /// SECCOMP_IOCTL_NOTIF_SEND.
    pub fn answer_notification(&mut self, fd: u32, request: u32, addr: u32) -> Ret {
        let answer = packed(self.memory().read(addr)?);
        // SAFETY: the structure lives until the call returns.
        unsafe { self.host_call(libc::SYS_ioctl, [fd as u64, request as u64, (&raw const answer) as u64, 0, 0, 0]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listener_sees_the_guests_call() {
        let host = Notification {
            number: SYS_close as u32,
            arch: AUDIT_ARCH_X86_64,
            pid: 7,
            args: marked(322, 0x1_0000, &[1, 2, 3, 4, 5, !0]),
            ..Notification::zeroed()
        };
        let seen = unmarked(host);
        assert_eq!((seen.number, seen.arch, seen.pc, seen.pid), (322, AUDIT_ARCH_ARM, 0x1_0000, 7));
        assert_eq!(seen.args, [1, 2, 3, 4, 5, u32::MAX as u64]);
        let other = unmarked(Notification { args: [3, 0, 0, 0, 0, 0], ..host });
        assert_eq!((other.number, other.args[0]), (SYS_close as u32, 3), "a call of the host's");
    }

    #[test]
    fn answers_and_the_calls_own_result_are_told_apart() {
        let through = |value, error| verdict(Ok(packed(Answer { id: 1, value, error, flags: 0 }).value));
        assert_eq!(through(5, 0), Some(Ok(5)));
        assert_eq!(through(0, -libc::EBADF), Some(Err(errno::EBADF)));
        assert_eq!(through(0x1_8000_0000, 0), Some(Ok(0x8000_0000)));
        assert_eq!(packed(Answer { id: 1, value: 0, error: 0, flags: 1 }).value, 0, "SECCOMP_USER_NOTIF_FLAG_CONTINUE");
        assert_eq!(verdict(Ok(9)), Some(Ok(9)), "a descriptor that was installed");
        assert_eq!(verdict(Err(errno::EBADF)), None, "it goes on");
        assert_eq!(verdict(Err(errno::ENOSYS)), Some(Err(errno::ENOSYS)), "nobody listens any more");
    }
}
