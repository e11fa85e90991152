//! `-strace`: each call as QEMU prints it, `PID name(arguments) = result`.

use crate::call::ioctl;
use crate::errno::{self, Ret};
use crate::siginfo::SigInfo;
use crate::table::{Fmt, Row};
use crate::task::Task;
use std::fmt::Write;

/// Names of bits, most specific first.
type Bits = &'static [(u32, &'static str)];

/// O_SYNC has O_DSYNC in it, O_TMPFILE has O_DIRECTORY.
const OPEN: Bits = &[
    (0o2000, "O_APPEND"), (0o100, "O_CREAT"), (0o40000, "O_DIRECTORY"), (0o200, "O_EXCL"), (0o400000, "O_LARGEFILE"),
    (0o400, "O_NOCTTY"), (0o100000, "O_NOFOLLOW"), (0o4000, "O_NONBLOCK"), (0o10000, "O_DSYNC"), (0o4000000, "__O_SYNC"),
    (0o1000, "O_TRUNC"), (0o200000, "O_DIRECT"), (0o1000000, "O_NOATIME"), (0o2000000, "O_CLOEXEC"), (0o10000000, "O_PATH"),
    (0o20000000, "__O_TMPFILE"), (0o20000, "O_ASYNC"),
];
const PROT: Bits = &[
    (4, "PROT_EXEC"), (1, "PROT_READ"), (2, "PROT_WRITE"), (8, "PROT_SEM"), (0x0100_0000, "PROT_GROWSDOWN"), (0x0200_0000, "PROT_GROWSUP"),
];
const MAP: Bits = &[
    (1, "MAP_SHARED"), (2, "MAP_PRIVATE"), (0x20, "MAP_ANONYMOUS"), (0x800, "MAP_DENYWRITE"), (0x1000, "MAP_EXECUTABLE"),
    (0x10, "MAP_FIXED"), (0x100000, "MAP_FIXED_NOREPLACE"), (0x100, "MAP_GROWSDOWN"), (0x40000, "MAP_HUGETLB"),
    (0x2000, "MAP_LOCKED"), (0x10000, "MAP_NONBLOCK"), (0x4000, "MAP_NORESERVE"), (0x8000, "MAP_POPULATE"),
    (0x20000, "MAP_STACK"), (0x80000, "MAP_SYNC"),
];
const ACCESS: Bits = &[(4, "R_OK"), (2, "W_OK"), (1, "X_OK")];
const AT: Bits = &[
    (0x100, "AT_SYMLINK_NOFOLLOW"), (0x200, "AT_REMOVEDIR"), (0x400, "AT_SYMLINK_FOLLOW"), (0x800, "AT_NO_AUTOMOUNT"),
    (0x1000, "AT_EMPTY_PATH"),
];
const STATX_FLAGS: Bits = &[(0x1000, "AT_EMPTY_PATH"), (0x800, "AT_NO_AUTOMOUNT"), (0x100, "AT_SYMLINK_NOFOLLOW")];
const MESSAGE: Bits = &[
    (0x800, "MSG_CONFIRM"), (4, "MSG_DONTROUTE"), (0x40, "MSG_DONTWAIT"), (0x80, "MSG_EOR"), (0x8000, "MSG_MORE"),
    (0x4000, "MSG_NOSIGNAL"), (1, "MSG_OOB"), (2, "MSG_PEEK"), (0x20, "MSG_TRUNC"), (0x100, "MSG_WAITALL"),
    (0x4000_0000, "MSG_CMSG_CLOEXEC"),
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
const STATX: Bits = &[
    (0xfff, "STATX_ALL"), (0x7ff, "STATX_BASIC_STATS"), (1, "STATX_TYPE"), (2, "STATX_MODE"), (4, "STATX_NLINK"), (8, "STATX_UID"),
    (0x10, "STATX_GID"), (0x20, "STATX_ATIME"), (0x40, "STATX_MTIME"), (0x80, "STATX_CTIME"), (0x100, "STATX_INO"), (0x200, "STATX_SIZE"),
    (0x400, "STATX_BLOCKS"), (0x800, "STATX_BTIME"),
];
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
    "PF_UNSPEC", "PF_UNIX", "PF_INET", "PF_AX25", "PF_IPX", "PF_APPLETALK", "PF_NETROM", "PF_BRIDGE", "PF_ATMPVC", "PF_X25",
    "PF_INET6", "PF_ROSE", "PF_DECnet", "PF_NETBEUI", "PF_SECURITY", "PF_KEY", "PF_NETLINK", "PF_PACKET",
];
const SOCK_TYPES: Names = &["", "SOCK_STREAM", "SOCK_DGRAM", "SOCK_RAW", "SOCK_RDM", "SOCK_SEQPACKET"];
const FCNTL: Names = &[
    "F_DUPFD", "F_GETFD", "F_SETFD", "F_GETFL", "F_SETFL", "F_GETLK", "F_SETLK", "F_SETLKW", "F_SETOWN", "F_GETOWN", "F_SETSIG",
    "F_GETSIG", "F_GETLK64", "F_SETLK64", "F_SETLKW64",
];
const ADVICE: Names = &[
    "MADV_NORMAL", "MADV_RANDOM", "MADV_SEQUENTIAL", "MADV_WILLNEED", "MADV_DONTNEED", "", "", "", "MADV_FREE", "MADV_REMOVE",
    "MADV_DONTFORK", "MADV_DOFORK", "MADV_MERGEABLE", "MADV_UNMERGEABLE", "MADV_HUGEPAGE", "MADV_NOHUGEPAGE", "MADV_DONTDUMP",
    "MADV_DODUMP", "MADV_WIPEONFORK", "MADV_KEEPONFORK", "MADV_COLD", "MADV_PAGEOUT",
];
const RESOURCES: Names = &[
    "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_CORE", "RLIMIT_RSS", "RLIMIT_NPROC", "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK", "RLIMIT_AS", "RLIMIT_LOCKS", "RLIMIT_SIGPENDING", "RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_RTTIME",
];
const ITIMERS: Names = &["ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF"];
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

/// Argument `i` of a call; none if the call, as it is, does not have it.
fn argument(t: &Task, formats: &[Fmt], i: usize, args: &[u32; 6]) -> Option<String> {
    let (fmt, v) = (formats[i], args[i]);
    Some(match fmt {
        Fmt::Rest => return None,
        Fmt::OpenMode if args[i - 1] & (libc::O_CREAT | 0o20000000) as u32 == 0 => return None,
        Fmt::OpenMode => octal(v),
        Fmt::FcntlArg => fcntl_argument(args[i - 1], v)?,
        Fmt::Protocol => protocol(args[0], v),
        Fmt::SockAddr(len) => t.memory().read_vec::<u8>(v, args[len as usize].min(128) as usize).map_or_else(|_| pointer(v), |b| socket_address(&b)),
        Fmt::Text(len) => t.memory().read_vec::<u8>(v, args[len as usize].min(TEXT_BYTES) as usize).map_or_else(|_| pointer(v), |b| quoted(&b)),
        Fmt::Pair => format!("{}", crate::call::pair(v, args[i + 1]) as i64),
        Fmt::Clone => clone_flags(v) + &clone_arguments(args),
        _ => plain_argument(t, fmt, v),
    })
}

fn plain_argument(t: &Task, fmt: Fmt, v: u32) -> String {
    match fmt {
        Fmt::Int | Fmt::Fd | Fmt::Size => format!("{}", v as i32),
        Fmt::Uint => format!("{v}"),
        Fmt::Hex if v == 0 => "0".into(),
        Fmt::Hex => format!("{v:#x}"),
        Fmt::Oct => octal(v),
        Fmt::DirFd if v as i32 == libc::AT_FDCWD => "AT_FDCWD".into(),
        Fmt::DirFd => format!("{}", v as i32),
        Fmt::Path | Fmt::Link | Fmt::Str => string(t, v),
        Fmt::In | Fmt::Out(_) | Fmt::OutArg(_) | Fmt::Ptr => pointer(v),
        Fmt::Nil if v == 0 => "(nil)".into(),
        Fmt::Nil => pointer(v),
        Fmt::Times(1) => t.memory().read::<[i64; 2]>(v).map_or_else(|_| pointer(v), |[s, n]| timespec(s, n as i32 as i64)),
        Fmt::Time32 => t.memory().read::<[i32; 2]>(v).map_or_else(|_| pointer(v), |[s, n]| timespec(s as i64, n as i64)),
        Fmt::Timers => t.memory().read::<[i32; 4]>(v).map_or_else(|_| pointer(v), timers),
        Fmt::Times(_) => pointer(v),
        Fmt::Strings => strings(t, v),
        Fmt::SignalSet => t.memory().read::<u64>(v).map_or_else(|_| pointer(v), signal_set),
        Fmt::StatxFlags => bits(v & !0x6000, STATX_FLAGS, vec![], "").to_string() + statx_sync(v),
        Fmt::Advice => named(v, ADVICE),
        Fmt::Resource => named(v, RESOURCES),
        Fmt::Itimer => named(v, ITIMERS),
        Fmt::Message => bits(v, MESSAGE, vec![], "0"),
        Fmt::Open => open_flags(v),
        Fmt::Prot => bits(v, PROT, vec![], "PROT_NONE"),
        Fmt::Map => bits(v, MAP, vec![], "0"),
        Fmt::Signal => signal_name(v),
        Fmt::Whence => named(v, WHENCE),
        Fmt::Access => bits(v, ACCESS, vec![], "F_OK"),
        Fmt::At => bits(v, AT, vec![], "0"),
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
        Fmt::Rest | Fmt::OpenMode | Fmt::FcntlArg | Fmt::Protocol | Fmt::SockAddr(_) | Fmt::Text(_) | Fmt::Pair | Fmt::Clone => {
            unreachable!("these need the other arguments")
        }
    }
}

/// As much of a message is shown.
const TEXT_BYTES: u32 = 32;
/// As many strings of a list are shown.
const MAX_STRINGS: usize = 256;

fn octal(v: u32) -> String {
    if v == 0 { "0".into() } else { format!("0{v:o}") }
}

fn quoted(bytes: &[u8]) -> String {
    let shown: String = bytes.iter().map(|b| match b {
        0x20..0x7f => (*b as char).to_string(),
        _ => b.escape_ascii().to_string(),
    }).collect();
    format!("\"{shown}\"")
}

fn timespec(sec: i64, nsec: i64) -> String {
    format!("{{tv_sec = {sec},tv_nsec = {nsec}}}")
}

fn timers([a, b, c, d]: [i32; 4]) -> String {
    format!("{{it_interval={{tv_sec = {a},tv_usec = {b}}},it_value={{tv_sec = {c},tv_usec = {d}}},}}")
}

fn strings(t: &Task, list: u32) -> String {
    let words = (0..MAX_STRINGS as u32).map_while(|i| t.memory().read::<u32>(list.wrapping_add(4 * i)).ok().filter(|w| *w != 0));
    let shown: String = words.map(|w| string(t, w) + ",").collect();
    format!("{{{shown}NULL}}")
}

fn signal_set(set: u64) -> String {
    let names = (1..=64).filter(|n| set >> (n - 1) & 1 != 0).map(|n| if n == 6 { "SIGIOT".into() } else { signal_name(n) });
    format!("[{}]", names.collect::<Vec<_>>().join(" "))
}

fn statx_sync(v: u32) -> &'static str {
    let alone = v & 0x1900 == 0;
    match (v & 0x6000, alone) {
        (0x2000, true) => "AT_STATX_FORCE_SYNC",
        (0x2000, false) => "|AT_STATX_FORCE_SYNC",
        (0x4000, true) => "AT_STATX_DONT_SYNC",
        (0x4000, false) => "|AT_STATX_DONT_SYNC",
        (_, true) => "AT_STATX_SYNC_AS_STAT",
        (_, false) => "|AT_STATX_SYNC_AS_STAT",
    }
}

fn fcntl_argument(operation: u32, v: u32) -> Option<String> {
    match operation as i32 {
        // The last is F_GETSIG.
        libc::F_GETFD | libc::F_GETFL | libc::F_GETOWN | libc::F_GETLEASE | libc::F_GETPIPE_SZ | 11 => None,
        libc::F_SETFL => Some(open_flags(v)),
        // F_GETLK to F_SETLKW and their 64-bit kind.
        5..=7 | 12..=14 => Some(pointer(v)),
        _ => Some(format!("{}", v as i32)),
    }
}

fn protocol(family: u32, v: u32) -> String {
    match (family as i32, v) {
        (libc::AF_NETLINK, 0) => "NETLINK_ROUTE".into(),
        (libc::AF_NETLINK | libc::AF_PACKET, _) => format!("{v}"),
        (_, 0) => "IPPROTO_IP".into(),
        (_, 1) => "IPPROTO_ICMP".into(),
        (_, 6) => "IPPROTO_TCP".into(),
        (_, 17) => "IPPROTO_UDP".into(),
        (_, 255) => "IPPROTO_RAW".into(),
        _ => format!("{v}"),
    }
}

fn socket_address(b: &[u8]) -> String {
    let family = b.first_chunk::<2>().map_or(0, |f| u16::from_le_bytes(*f)) as i32;
    let port = || u16::from_be_bytes([b[2], b[3]]);
    match family {
        libc::AF_UNIX => {
            let path = b[2..].split(|c| *c == 0).next().unwrap_or_default();
            format!("{{sun_family=AF_UNIX,sun_path=\"{}\"}}", String::from_utf8_lossy(path))
        }
        libc::AF_INET if b.len() >= 8 => {
            format!("{{sin_family=AF_INET,sin_port=htons({}),sin_addr=inet_addr(\"{}.{}.{}.{}\")}}", port(), b[4], b[5], b[6], b[7])
        }
        libc::AF_INET6 if b.len() >= 24 => {
            let address: [u8; 16] = b[8..24].try_into().expect("sixteen bytes");
            format!("{{sin6_family=AF_INET6,sin6_port=htons({}),sin6_addr={}}}", port(), std::net::Ipv6Addr::from(address))
        }
        _ => format!("{{sa_family={family}, sa_data={{{}}}}}", b.iter().skip(2).map(|v| format!("{v:02x}")).collect::<Vec<_>>().join(", ")),
    }
}

fn clone_flags(v: u32) -> String {
    let mut out = Vec::new();
    let named = CLONE.iter().filter(|(bit, _)| v & bit != 0).map(|(_, name)| name.to_string());
    out.extend(named);
    if v & 0xff != 0 || out.is_empty() {
        out.push(format!("{:#x}", v & 0xff));
    }
    out.join("|")
}

fn clone_arguments(a: &[u32; 6]) -> String {
    format!(",child_stack=0x{:08x},parent_tidptr=0x{:08x},tls=0x{:08x},child_tidptr=0x{:08x}", a[1], a[2], a[3], a[4])
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
    let shown = |i: usize| match args[i] {
        v @ 1.. if EIGHT_DIGITS.contains(&(row.name, i)) => Some(format!("{v:#010x}")),
        _ => argument(t, row.args, i, &args),
    };
    let shown: Vec<String> = (0..row.args.len()).filter_map(shown).collect();
    out.push_str(&shown.join(","));
    out.push(')');
    // These do not come back to print their result.
    if matches!(row.name, "exit" | "exit_group") {
        crate::log::write(&format!("{out}\n"));
        return String::new();
    }
    // Nor do these, if all goes well.
    if matches!(row.name, "execve" | "execveat") {
        crate::log::write(&out);
        return String::new();
    }
    out
}

/// Addresses, by call and argument, that QEMU prints with all their digits.
#[rustfmt::skip]
const EIGHT_DIGITS: [(&str, usize); 11] = [
    ("brk", 0), ("mprotect", 0), ("readlink", 1), ("futex", 0), ("futex", 4), ("clock_gettime64", 1), ("statfs64", 1),
    ("fstatfs64", 1), ("pwrite64", 1), ("lgetxattr", 2), ("rt_sigprocmask", 2),
];

/// Calls whose result is an address.
const ADDRESSES: [&str; 5] = ["brk", "mmap", "mmap2", "mremap", "shmat"];

/// What the call gave.
pub fn result_text(t: &Task, row: Option<&Row>, args: [u32; 6], result: Ret) -> String {
    let mut out = String::new();
    let name = row.map_or("", |r| r.name);
    let _ = match result {
        _ if row.is_none() => writeln!(out),
        Err(errno::RESTART) => writeln!(out, " = ? ERESTARTSYS (To be restarted)"),
        Err(errno::JUST_RETURN) if matches!(name, "exit" | "exit_group") => Ok(()),
        Err(errno::JUST_RETURN) => writeln!(out, " = ?"),
        Ok(v) if ADDRESSES.contains(&name) => writeln!(out, " = 0x{v:08x}"),
        Ok(v) => writeln!(out, " = {}{}", v as i32, details(t, name, &args).unwrap_or_default()),
        Err(e) => writeln!(out, " = -1 errno={} ({})", e.0, e.text()),
    };
    out
}

/// What a call has written to the guest's memory, for those that are asked for their result only.
fn details(t: &Task, name: &str, args: &[u32; 6]) -> Option<String> {
    let m = t.memory();
    Some(match name {
        "clock_gettime" => {
            let [sec, nsec] = m.read::<[i32; 2]>(args[1]).ok()?;
            format!(" ({{tv_sec={sec},tv_nsec={nsec}}})")
        }
        "clock_gettime64" => {
            let [sec, nsec] = m.read::<[i64; 2]>(args[1]).ok()?;
            format!(" ({{tv_sec={sec},tv_nsec={nsec}}})")
        }
        "rt_sigprocmask" => format!(" (oldset={})", signal_set(m.read(args[2]).ok()?)),
        "prlimit64" => {
            let [now, most] = m.read::<[i64; 2]>(args[3]).ok()?;
            format!(" ({{rlim_cur={now},rlim_max={most}}})")
        }
        "getitimer" => format!(" ({})", timers(m.read(args[1]).ok()?)),
        "setitimer" => format!(" (old_value = {})", timers(m.read(args[2]).ok()?)),
        _ => return None,
    })
}

/// A signal's arrival.
pub fn signal_line(info: &SigInfo) -> String {
    let name = signal_name(info.signal() as u32);
    let rest = match info.code() {
        libc::SI_USER => format!("si_code=SI_USER, si_pid={}, si_uid={}", info.pid(), info.uid()),
        libc::SI_TKILL => format!("si_code=SI_TKILL, si_pid={}, si_uid={}", info.pid(), info.uid()),
        code => match info.signal() {
            libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE => format!("si_code={code}, si_addr=0x{:08x}", info.address()),
            libc::SIGCHLD => format!("si_code={code}, si_pid={}, si_uid={}, si_status={}, si_utime={}, si_stime={}", info.pid(), info.uid(), info.status(), info.times()[0], info.times()[1]),
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
        assert_eq!(open_flags(0o2 | 0o1100 | 0o2000), "O_RDWR|O_APPEND|O_CREAT|O_TRUNC");
        assert_eq!(clone_flags(0x120_0011), "CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|0x11");
        assert_eq!(signal_set(1 << 5 | 1 << 9 | 1 << 34), "[SIGIOT SIGUSR1 35]");
        assert_eq!(fcntl_argument(4, 0x800), Some("O_RDONLY|O_NONBLOCK".into()));
        assert_eq!(fcntl_argument(1, 5), None);
        assert_eq!(octal(0o644), "0644");
        assert_eq!(quoted(b"a\n\"\x01"), "\"a\\n\"\\x01\"");
        let address = [2, 0, 0, 80, 127, 0, 0, 1];
        assert_eq!(socket_address(&address), "{sin_family=AF_INET,sin_port=htons(80),sin_addr=inet_addr(\"127.0.0.1\")}");
        assert_eq!(bits(3, PROT, vec![], "PROT_NONE"), "PROT_READ|PROT_WRITE");
        assert_eq!(bits(0, PROT, vec![], "PROT_NONE"), "PROT_NONE");
        assert_eq!(bits(0x22, MAP, vec![], "0"), "MAP_PRIVATE|MAP_ANONYMOUS");
        assert_eq!(bits(5, ACCESS, vec![], "F_OK"), "R_OK|X_OK");
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
