//! `-strace`: each call as QEMU prints it, `PID name(arguments) = result`.

use crate::call::ioctl;
use crate::errno::{self, Ret};
use crate::siginfo::SigInfo;
use crate::table::{Fmt, Row};
use crate::task::Task;
use std::fmt::Write;

/// Names of bits, most specific first.
type Bits = &'static [(u32, &'static str)];

const OPEN: Bits = &[
    (0o20040000, "O_TMPFILE"), (0o100, "O_CREAT"), (0o200, "O_EXCL"), (0o400, "O_NOCTTY"), (0o1000, "O_TRUNC"),
    (0o2000, "O_APPEND"), (0o4000, "O_NONBLOCK"), (0o4010000, "O_SYNC"), (0o10000, "O_DSYNC"), (0o20000, "O_ASYNC"),
    (0o40000, "O_DIRECTORY"), (0o100000, "O_NOFOLLOW"), (0o200000, "O_DIRECT"), (0o400000, "O_LARGEFILE"),
    (0o1000000, "O_NOATIME"), (0o2000000, "O_CLOEXEC"), (0o10000000, "O_PATH"),
];
const PROT: Bits = &[(1, "PROT_READ"), (2, "PROT_WRITE"), (4, "PROT_EXEC"), (0x0100_0000, "PROT_GROWSDOWN"), (0x0200_0000, "PROT_GROWSUP")];
const MAP: Bits = &[
    (1, "MAP_SHARED"), (2, "MAP_PRIVATE"), (0x20, "MAP_ANONYMOUS"), (0x10, "MAP_FIXED"), (0x100, "MAP_GROWSDOWN"),
    (0x800, "MAP_DENYWRITE"), (0x1000, "MAP_EXECUTABLE"), (0x2000, "MAP_LOCKED"), (0x4000, "MAP_NORESERVE"),
    (0x8000, "MAP_POPULATE"), (0x10000, "MAP_NONBLOCK"), (0x20000, "MAP_STACK"), (0x40000, "MAP_HUGETLB"),
    (0x100000, "MAP_FIXED_NOREPLACE"),
];
const ACCESS: Bits = &[(1, "X_OK"), (2, "W_OK"), (4, "R_OK")];
const AT: Bits = &[
    (0x100, "AT_SYMLINK_NOFOLLOW"), (0x200, "AT_REMOVEDIR"), (0x400, "AT_SYMLINK_FOLLOW"), (0x800, "AT_NO_AUTOMOUNT"),
    (0x1000, "AT_EMPTY_PATH"), (0x2000, "AT_STATX_FORCE_SYNC"), (0x4000, "AT_STATX_DONT_SYNC"),
];
const CLONE: Bits = &[
    (0x100, "CLONE_VM"), (0x200, "CLONE_FS"), (0x400, "CLONE_FILES"), (0x800, "CLONE_SIGHAND"), (0x1000, "CLONE_PIDFD"),
    (0x2000, "CLONE_PTRACE"), (0x4000, "CLONE_VFORK"), (0x8000, "CLONE_PARENT"), (0x10000, "CLONE_THREAD"),
    (0x20000, "CLONE_NEWNS"), (0x40000, "CLONE_SYSVSEM"), (0x80000, "CLONE_SETTLS"), (0x100000, "CLONE_PARENT_SETTID"),
    (0x200000, "CLONE_CHILD_CLEARTID"), (0x400000, "CLONE_DETACHED"), (0x800000, "CLONE_UNTRACED"),
    (0x1000000, "CLONE_CHILD_SETTID"), (0x4000000, "CLONE_NEWUTS"), (0x8000000, "CLONE_NEWIPC"), (0x10000000, "CLONE_NEWUSER"),
    (0x20000000, "CLONE_NEWPID"), (0x40000000, "CLONE_NEWNET"), (0x80000000, "CLONE_IO"),
];
const WAIT: Bits = &[(1, "WNOHANG"), (2, "WUNTRACED"), (4, "WEXITED"), (8, "WCONTINUED"), (0x0100_0000, "WNOWAIT")];
const STATX: Bits = &[(0xfff, "STATX_ALL"), (0x7ff, "STATX_BASIC_STATS"), (1, "STATX_TYPE"), (2, "STATX_MODE"), (0x100, "STATX_INO"), (0x200, "STATX_SIZE"), (0x800, "STATX_BTIME")];
const FUTEX_FLAGS: Bits = &[(0x80, "FUTEX_PRIVATE_FLAG"), (0x100, "FUTEX_CLOCK_REALTIME")];

/// Names of numbers, by index.
type Names = &'static [&'static str];

const SIGNALS: Names = &[
    "", "SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL", "SIGUSR1", "SIGSEGV",
    "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGSTKFLT", "SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU",
    "SIGURG", "SIGXCPU", "SIGXFSZ", "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO", "SIGPWR", "SIGSYS",
];
const CLOCKS: Names = &[
    "CLOCK_REALTIME", "CLOCK_MONOTONIC", "CLOCK_PROCESS_CPUTIME_ID", "CLOCK_THREAD_CPUTIME_ID", "CLOCK_MONOTONIC_RAW",
    "CLOCK_REALTIME_COARSE", "CLOCK_MONOTONIC_COARSE", "CLOCK_BOOTTIME", "CLOCK_REALTIME_ALARM", "CLOCK_BOOTTIME_ALARM",
];
const FUTEX: Names = &[
    "FUTEX_WAIT", "FUTEX_WAKE", "FUTEX_FD", "FUTEX_REQUEUE", "FUTEX_CMP_REQUEUE", "FUTEX_WAKE_OP", "FUTEX_LOCK_PI",
    "FUTEX_UNLOCK_PI", "FUTEX_TRYLOCK_PI", "FUTEX_WAIT_BITSET", "FUTEX_WAKE_BITSET", "FUTEX_WAIT_REQUEUE_PI",
    "FUTEX_CMP_REQUEUE_PI", "FUTEX_LOCK_PI2",
];
const FAMILIES: Names = &[
    "PF_UNSPEC", "PF_LOCAL", "PF_INET", "PF_AX25", "PF_IPX", "PF_APPLETALK", "PF_NETROM", "PF_BRIDGE", "PF_ATMPVC", "PF_X25",
    "PF_INET6", "PF_ROSE", "PF_DECnet", "PF_NETBEUI", "PF_SECURITY", "PF_KEY", "PF_NETLINK", "PF_PACKET",
];
const SOCK_TYPES: Names = &["", "SOCK_STREAM", "SOCK_DGRAM", "SOCK_RAW", "SOCK_RDM", "SOCK_SEQPACKET"];
const FCNTL: Names = &[
    "F_DUPFD", "F_GETFD", "F_SETFD", "F_GETFL", "F_SETFL", "F_GETLK", "F_SETLK", "F_SETLKW", "F_SETOWN", "F_GETOWN", "F_SETSIG",
    "F_GETSIG", "F_GETLK64", "F_SETLK64", "F_SETLKW64",
];
const HOW: Names = &["SIG_BLOCK", "SIG_UNBLOCK", "SIG_SETMASK"];
const WHENCE: Names = &["SEEK_SET", "SEEK_CUR", "SEEK_END", "SEEK_DATA", "SEEK_HOLE"];

/// The set bits by name, joined by bars; what has no name in hexadecimal.
fn bits(value: u32, names: Bits, mut out: Vec<String>, none: &str) -> String {
    let mut left = value;
    for (bit, name) in names {
        if left & bit == *bit {
            out.push((*name).into());
            left &= !bit;
        }
    }
    if left != 0 {
        out.push(format!("{left:#x}"));
    }
    if out.is_empty() { none.into() } else { out.join("|") }
}

fn named(value: u32, names: Names) -> String {
    names.get(value as usize).filter(|n| !n.is_empty()).map_or_else(|| format!("{value}"), |n| n.to_string())
}

pub fn signal_name(signal: u32) -> String {
    named(signal, SIGNALS)
}

fn open_flags(v: u32) -> String {
    let mode = ["O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"][(v & 3) as usize];
    bits(v & !3, OPEN, vec![mode.into()], "")
}

fn string(t: &Task, addr: u32) -> String {
    match t.memory().read_path(addr) {
        _ if addr == 0 => "NULL".into(),
        Ok(s) => format!("\"{}\"", s.to_string_lossy().escape_debug().to_string().replace("\\'", "'")),
        Err(_) => pointer(addr),
    }
}

fn pointer(v: u32) -> String {
    if v == 0 { "NULL".into() } else { format!("0x{v:x}") }
}

fn argument(t: &Task, fmt: Fmt, v: u32) -> String {
    match fmt {
        Fmt::Int | Fmt::Fd | Fmt::Size => format!("{}", v as i32),
        Fmt::Uint => format!("{v}"),
        Fmt::Hex => format!("{v:#x}"),
        Fmt::Oct => format!("{v:#o}").replace("0o", "0"),
        Fmt::DirFd if v as i32 == libc::AT_FDCWD => "AT_FDCWD".into(),
        Fmt::DirFd => format!("{}", v as i32),
        Fmt::Path | Fmt::Link | Fmt::Str => string(t, v),
        Fmt::In | Fmt::Out(_) | Fmt::OutArg(_) | Fmt::Times(_) | Fmt::Ptr => pointer(v),
        Fmt::Open => open_flags(v),
        Fmt::Prot => bits(v, PROT, vec![], "PROT_NONE"),
        Fmt::Map => bits(v, MAP, vec![], "0"),
        Fmt::Signal => signal_name(v),
        Fmt::Whence => named(v, WHENCE),
        Fmt::Access => bits(v, ACCESS, vec![], "F_OK"),
        Fmt::At => bits(v, AT, vec![], "0"),
        Fmt::Clone => clone_flags(v),
        Fmt::Clock => named(v, CLOCKS),
        Fmt::Futex => bits(v & 0x180, FUTEX_FLAGS, vec![], "").to_string() + if v & 0x180 != 0 { "|" } else { "" } + &named(v & 0x7f, FUTEX),
        Fmt::Family => named(v, FAMILIES),
        Fmt::SockType => sock_type(v),
        Fmt::Wait => bits(v, WAIT, vec![], "0"),
        Fmt::FcntlOp if v as i32 == libc::F_DUPFD_CLOEXEC => "F_DUPFD_CLOEXEC".into(),
        Fmt::FcntlOp => named(v, FCNTL),
        Fmt::How => named(v, HOW),
        Fmt::StatxMask => bits(v, STATX, vec![], "0"),
        Fmt::IoctlOp => ioctl::name(v).map_or_else(|| format!("{v:#x}"), str::to_owned),
    }
}

fn clone_flags(v: u32) -> String {
    let text = bits(v & !0xff, CLONE, vec![], "0");
    match v & 0xff {
        0 => text,
        signal => format!("{text}|{}", signal_name(signal)),
    }
}

fn sock_type(v: u32) -> String {
    let mut text = named(v & 0xf, SOCK_TYPES);
    for (bit, name) in [(libc::SOCK_CLOEXEC as u32, "SOCK_CLOEXEC"), (libc::SOCK_NONBLOCK as u32, "SOCK_NONBLOCK")] {
        if v & bit != 0 {
            text = format!("{text}|{name}");
        }
    }
    text
}

/// The call, before it is made.
pub fn call_text(t: &Task, number: u32, row: Option<&Row>, args: [u32; 6]) -> String {
    let Some(row) = row else { return format!("{} Unknown syscall {number}", t.tid) };
    let mut out = format!("{} {}(", t.tid, row.name);
    for (i, fmt) in row.args.iter().enumerate() {
        if i != 0 {
            out.push(',');
        }
        out.push_str(&argument(t, *fmt, args[i]));
    }
    out.push(')');
    // These do not come back to print their result.
    if matches!(row.name, "exit" | "exit_group" | "execve" | "execveat") {
        crate::log::write(&format!("{out}\n"));
        return String::new();
    }
    out
}

/// Calls whose result is an address.
const ADDRESSES: [&str; 5] = ["brk", "mmap", "mmap2", "mremap", "shmat"];

/// What the call gave.
pub fn result_text(_: &Task, _: u32, row: Option<&Row>, _: [u32; 6], result: Ret) -> String {
    let mut out = String::new();
    let name = row.map_or("", |r| r.name);
    let _ = match result {
        _ if row.is_none() => writeln!(out),
        Err(errno::RESTART) => writeln!(out, " = ? ERESTARTSYS (To be restarted)"),
        Err(errno::JUST_RETURN) if matches!(name, "exit" | "exit_group") => Ok(()),
        Err(errno::JUST_RETURN) => writeln!(out, " = ?"),
        Ok(v) if ADDRESSES.contains(&name) => writeln!(out, " = 0x{v:08x}"),
        Ok(v) => writeln!(out, " = {}", v as i32),
        Err(e) => writeln!(out, " = -1 errno={} ({})", e.0, e.text()),
    };
    out
}

/// A signal's arrival.
pub fn signal_line(info: &SigInfo) -> String {
    let name = signal_name(info.signal() as u32);
    let rest = match info.code() {
        libc::SI_USER => format!("si_code=SI_USER, si_pid={}, si_uid={}", info.pid(), info.uid()),
        libc::SI_TKILL => format!("si_code=SI_TKILL, si_pid={}, si_uid={}", info.pid(), info.uid()),
        code => match info.signal() {
            libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE => format!("si_code={code}, si_addr=0x{:08x}", info.address()),
            libc::SIGCHLD => format!("si_code={code}, si_pid={}, si_uid={}, si_status={}", info.pid(), info.uid(), info.status()),
            _ => format!("si_code={code}"),
        },
    };
    format!("--- {name} {{si_signo={name}, {rest}}} ---\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_names() {
        assert_eq!(open_flags(0o2400000), "O_RDONLY|O_LARGEFILE|O_CLOEXEC");
        assert_eq!(bits(3, PROT, vec![], "PROT_NONE"), "PROT_READ|PROT_WRITE");
        assert_eq!(bits(0, PROT, vec![], "PROT_NONE"), "PROT_NONE");
        assert_eq!(bits(0x22, MAP, vec![], "0"), "MAP_PRIVATE|MAP_ANONYMOUS");
        assert_eq!(bits(5, ACCESS, vec![], "F_OK"), "X_OK|R_OK");
        assert_eq!(bits(0x80, ACCESS, vec![], "F_OK"), "0x80");
        assert_eq!(signal_name(11), "SIGSEGV");
        assert_eq!(signal_name(40), "40");
        assert_eq!(sock_type(0o2000001), "SOCK_STREAM|SOCK_CLOEXEC");
    }

    #[test]
    fn a_fault_names_its_address() {
        let line = signal_line(&SigInfo::fault(libc::SIGSEGV, 1, 0x1234));
        assert_eq!(line, "--- SIGSEGV {si_signo=SIGSEGV, si_code=1, si_addr=0x00001234} ---\n");
    }
}
