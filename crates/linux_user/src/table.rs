//! The system calls of the ARM EABI: one row each, in the kernel's order.
//!
//! A row has the number, the name, the arguments' formats (for `-strace`, and for `pass`, how each goes to the host), and
//! what happens: `call` a handler, `pass` to the host's call with the arguments converted by their formats, `value` for a
//! constant answer, `todo` for ENOSYS with an `unimp` event, `never` for calls that current kernels do not have either.
//!
//! **Reference.** Linux `arch/arm/tools/syscall.tbl`.

use crate::call::{file, futex, ioctl, ipc, link, memory, misc, pages, poll, process, sigcall, socket, stat, time};
use crate::errno::{self, Ret};
use crate::memory::Memory;
use crate::task::Task;
use crate::{log, strace};
use libc::*;
use std::ffi::CString;

/// How an argument is shown, and passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fmt {
    /// Signed number; passed sign-extended.
    Int,
    /// Unsigned number.
    Uint,
    Size,
    Hex,
    Oct,
    Fd,
    /// Descriptor of a directory, or AT_FDCWD.
    DirFd,
    /// Path: redirected below the prefix, links followed.
    Path,
    /// Path: redirected, a link at its end is meant itself.
    Link,
    /// A string that is passed as it is (names of attributes, paths that are created).
    Str,
    /// Address of something that the kernel reads, of the same layout on both sides.
    In,
    /// Address to which the kernel writes so many bytes, of the same layout.
    Out(u32),
    /// Address to which the kernel writes as many bytes as the argument with this index says.
    OutArg(u8),
    /// Address of so many (1 or 2) 64-bit times: the upper halves of the nanoseconds are padding in 32-bit programs.
    Times(u8),
    /// Address that a handler interprets.
    Ptr,
    /// One of the lists in `strace`.
    Open,
    Prot,
    Map,
    Signal,
    Whence,
    Access,
    At,
    Clone,
    Clock,
    Futex,
    Family,
    SockType,
    Wait,
    FcntlOp,
    How,
    StatxMask,
    IoctlOp,
    /// The mode of a file, if the flags before it create one.
    OpenMode,
    /// What an fcntl operation, the argument before, takes.
    FcntlArg,
    StatxFlags,
    Advice,
    Resource,
    Itimer,
    /// Protocol of a socket whose family is the first argument.
    Protocol,
    Message,
    /// Address of a socket address, whose length is the argument with this index.
    SockAddr(u8),
    /// Address of as many bytes as the argument with this index says, shown as text.
    Text(u8),
    /// Address of a list of strings.
    Strings,
    /// Address of a set of signals.
    SignalSet,
    /// Address of a time in two 32-bit words.
    Time32,
    /// The same in microseconds.
    Timers,
    /// 64 bits in this argument and the next, low word first.
    Pair,
    /// Belongs to the argument before, or is there to align the next.
    Rest,
    /// As `Ptr`; null is shown in the C library's way.
    Nil,
}

#[derive(Clone, Copy)]
pub enum Handler {
    Call(fn(&mut Task, [u32; 6]) -> Ret),
    Pass(i64),
    Value(u32),
    Todo,
    Never,
}

pub struct Row {
    pub number: u32,
    pub name: &'static str,
    pub args: &'static [Fmt],
    pub handler: Handler,
}

macro_rules! handler {
    (call $e:expr) => {
        Handler::Call($e)
    };
    (pass $e:expr) => {
        Handler::Pass($e)
    };
    (value $e:expr) => {
        Handler::Value($e)
    };
    (todo) => {
        Handler::Todo
    };
    (never) => {
        Handler::Never
    };
}

macro_rules! syscalls {
    ($($number:literal $name:ident ($($fmt:expr),*) $kind:ident $($what:expr)?;)*) => {
        pub static ROWS: &[Row] = {
            use Fmt::*;
            &[$(Row { number: $number, name: stringify!($name), args: &[$($fmt),*], handler: handler!($kind $($what)?) },)*]
        };
    };
}

/// The first number of the ARM-private calls.
const PRIVATE: u32 = 0xf_0000;
const TABLE_SIZE: usize = 512;

syscalls! {
    0   restart_syscall () call sigcall::restart_syscall;
    1   exit (Int) call process::exit;
    2   fork () call process::fork;
    3   read (Fd, OutArg(2), Size) call file::read;
    4   write (Fd, In, Size) call file::write;
    5   open (Path, Open, OpenMode) call file::open;
    6   close (Fd) call file::close;
    8   creat (Path, Oct) call file::creat;
    9   link (Link, Str) pass SYS_link;
    10  unlink (Link) pass SYS_unlink;
    11  execve (Path, Strings, Rest) call process::execve;
    12  chdir (Path) pass SYS_chdir;
    13  time (Ptr) call time::time;
    14  mknod (Link, Oct, Hex) pass SYS_mknod;
    15  chmod (Path, Oct) pass SYS_chmod;
    16  lchown (Link, Uint, Uint) call process::lchown16;
    19  lseek (Fd, Int, Whence) call file::lseek;
    20  getpid () pass SYS_getpid;
    21  mount (Str, Path, Str, Hex, In) pass SYS_mount;
    22  umount (Path) call file::umount;
    23  setuid (Uint) call process::setuid16;
    24  getuid () call process::getuid16;
    25  stime (Ptr) call time::stime;
    26  ptrace (Int, Int, Ptr, Ptr) todo;
    27  alarm (Uint) pass SYS_alarm;
    29  pause () pass SYS_pause;
    30  utime (Path, Ptr) call stat::utime;
    33  access (Path, Access) call stat::access;
    34  nice (Int) call process::nice;
    36  sync () pass SYS_sync;
    37  kill (Int, Signal) pass SYS_kill;
    38  rename (Link, Link) pass SYS_rename;
    39  mkdir (Str, Oct) pass SYS_mkdir;
    40  rmdir (Link) pass SYS_rmdir;
    41  dup (Fd) call file::dup;
    42  pipe (Out(8)) pass SYS_pipe;
    43  times (Ptr) call time::times;
    45  brk (Ptr) call memory::brk;
    46  setgid (Uint) call process::setgid16;
    47  getgid () call process::getgid16;
    49  geteuid () call process::geteuid16;
    50  getegid () call process::getegid16;
    51  acct (Path) pass SYS_acct;
    52  umount2 (Path, Hex) pass SYS_umount2;
    54  ioctl (Fd, IoctlOp, Ptr) call ioctl::ioctl;
    55  fcntl (Fd, FcntlOp, FcntlArg) call file::fcntl;
    57  setpgid (Int, Int) pass SYS_setpgid;
    60  umask (Oct) pass SYS_umask;
    61  chroot (Path) call process::chroot;
    62  ustat (Hex, Ptr) never;
    63  dup2 (Fd, Fd) call file::dup2;
    64  getppid () pass SYS_getppid;
    65  getpgrp () pass SYS_getpgrp;
    66  setsid () pass SYS_setsid;
    67  sigaction (Signal, Ptr, Ptr) call sigcall::sigaction;
    70  setreuid (Uint, Uint) call process::setreuid16;
    71  setregid (Uint, Uint) call process::setregid16;
    72  sigsuspend (Int, Int, Hex) call sigcall::sigsuspend;
    73  sigpending (Ptr) call sigcall::sigpending;
    74  sethostname (In, Size) pass SYS_sethostname;
    75  setrlimit (Int, Ptr) call process::setrlimit;
    76  getrlimit (Resource, Ptr) call process::getrlimit;
    77  getrusage (Int, Ptr) call process::getrusage;
    78  gettimeofday (Ptr, Out(8)) call time::gettimeofday;
    79  settimeofday (Ptr, In) call time::settimeofday;
    80  getgroups (Int, Ptr) call process::getgroups16;
    81  setgroups (Int, Ptr) call process::setgroups16;
    82  select (Ptr) call poll::old_select;
    83  symlink (Str, Str) pass SYS_symlink;
    85  readlink (Link, OutArg(2), Size) call link::readlink;
    86  uselib (Str) never;
    87  swapon (Path, Hex) pass SYS_swapon;
    88  reboot (Hex, Hex, Hex, In) pass SYS_reboot;
    89  readdir (Fd, Ptr, Uint) never;
    90  mmap (Ptr) call memory::old_mmap;
    91  munmap (Ptr, Size) call memory::munmap;
    92  truncate (Path, Int) pass SYS_truncate;
    93  ftruncate (Fd, Int) pass SYS_ftruncate;
    94  fchmod (Fd, Oct) pass SYS_fchmod;
    95  fchown (Fd, Uint, Uint) call process::fchown16;
    96  getpriority (Int, Int) pass SYS_getpriority;
    97  setpriority (Int, Int, Int) pass SYS_setpriority;
    99  statfs (Path, Ptr) call stat::statfs;
    100 fstatfs (Fd, Ptr) call stat::fstatfs;
    102 socketcall (Int, Ptr) call socket::socketcall;
    103 syslog (Int, OutArg(2), Size) pass SYS_syslog;
    104 setitimer (Itimer, Timers, Ptr) call time::setitimer;
    105 getitimer (Itimer, Ptr) call time::getitimer;
    106 stat (Path, Ptr) call stat::stat;
    107 lstat (Link, Ptr) call stat::lstat;
    108 fstat (Fd, Ptr) call stat::fstat;
    111 vhangup () pass SYS_vhangup;
    113 syscall (Int, Hex, Hex, Hex, Hex, Hex) call misc::syscall;
    114 wait4 (Int, Nil, Int, Nil) call process::wait4;
    115 swapoff (Path) pass SYS_swapoff;
    116 sysinfo (Ptr) call process::sysinfo;
    117 ipc (Uint, Int, Int, Int, Ptr, Int) call ipc::ipc;
    118 fsync (Fd) pass SYS_fsync;
    119 sigreturn () call sigcall::sigreturn;
    120 clone (Clone, Rest, Rest, Rest, Rest) call process::clone;
    121 setdomainname (In, Size) pass SYS_setdomainname;
    122 uname (Ptr) call process::uname;
    124 adjtimex (Ptr) call time::adjtimex;
    125 mprotect (Ptr, Size, Prot) call memory::mprotect;
    126 sigprocmask (How, Ptr, Ptr) call sigcall::sigprocmask;
    128 init_module (In, Size, Str) pass SYS_init_module;
    129 delete_module (Str, Hex) pass SYS_delete_module;
    131 quotactl (Hex, Path, Int, Out(256)) pass SYS_quotactl;
    132 getpgid (Int) pass SYS_getpgid;
    133 fchdir (Fd) pass SYS_fchdir;
    134 bdflush () never;
    135 sysfs (Int, Ptr, Ptr) never;
    136 personality (Hex) call process::personality;
    138 setfsuid (Uint) call process::setfsuid16;
    139 setfsgid (Uint) call process::setfsgid16;
    140 _llseek (Fd, Uint, Uint, Ptr, Whence) call file::llseek;
    141 getdents (Fd, Ptr, Size) call link::getdents;
    142 _newselect (Int, Ptr, Ptr, Ptr, Ptr) call poll::select;
    143 flock (Fd, Int) pass SYS_flock;
    144 msync (Ptr, Size, Int) call memory::msync;
    145 readv (Fd, Ptr, Int) call file::readv;
    146 writev (Fd, Ptr, Int) call file::writev;
    147 getsid (Int) pass SYS_getsid;
    148 fdatasync (Fd) pass SYS_fdatasync;
    149 _sysctl (Ptr) never;
    150 mlock (Ptr, Size) call memory::mlock;
    151 munlock (Ptr, Size) call memory::munlock;
    152 mlockall (Hex) call memory::mlockall;
    153 munlockall () call memory::munlockall;
    154 sched_setparam (Int, In) pass SYS_sched_setparam;
    155 sched_getparam (Int, Out(4)) pass SYS_sched_getparam;
    156 sched_setscheduler (Int, Int, In) pass SYS_sched_setscheduler;
    157 sched_getscheduler (Int) pass SYS_sched_getscheduler;
    158 sched_yield () pass SYS_sched_yield;
    159 sched_get_priority_max (Int) pass SYS_sched_get_priority_max;
    160 sched_get_priority_min (Int) pass SYS_sched_get_priority_min;
    161 sched_rr_get_interval (Int, Ptr) call time::sched_rr_get_interval;
    162 nanosleep (Time32, Ptr) call time::nanosleep;
    163 mremap (Ptr, Size, Size, Hex, Ptr) call memory::mremap;
    164 setresuid (Uint, Uint, Uint) call process::setresuid16;
    165 getresuid (Ptr, Ptr, Ptr) call process::getresuid16;
    168 poll (Ptr, Uint, Int) call poll::poll;
    169 nfsservctl () never;
    170 setresgid (Uint, Uint, Uint) call process::setresgid16;
    171 getresgid (Ptr, Ptr, Ptr) call process::getresgid16;
    172 prctl (Int, Hex, Hex, Hex, Hex) call process::prctl;
    173 rt_sigreturn () call sigcall::rt_sigreturn;
    174 rt_sigaction (Signal, Ptr, Ptr, Rest) call sigcall::rt_sigaction;
    175 rt_sigprocmask (How, SignalSet, Ptr, Size) call sigcall::rt_sigprocmask;
    176 rt_sigpending (Out(8), Size) call sigcall::rt_sigpending;
    177 rt_sigtimedwait (Ptr, Ptr, Ptr, Size) call sigcall::rt_sigtimedwait;
    178 rt_sigqueueinfo (Int, Signal, Ptr) call sigcall::rt_sigqueueinfo;
    179 rt_sigsuspend (Ptr, Size) call sigcall::rt_sigsuspend;
    180 pread64 (Fd, OutArg(2), Size, Rest, Pair, Rest) call file::pread64;
    181 pwrite64 (Fd, In, Size, Rest, Pair, Rest) call file::pwrite64;
    182 chown (Path, Uint, Uint) call process::chown16;
    183 getcwd (OutArg(1), Size) call link::getcwd;
    184 capget (In, Out(24)) pass SYS_capget;
    185 capset (In, In) pass SYS_capset;
    186 sigaltstack (Nil, Nil) call sigcall::sigaltstack;
    187 sendfile (Fd, Fd, Ptr, Size) call file::sendfile;
    190 vfork () call process::vfork;
    191 ugetrlimit (Int, Ptr) call process::ugetrlimit;
    192 mmap2 (Ptr, Size, Prot, Map, Fd, Hex) call memory::mmap2;
    193 truncate64 (Path, Rest, Pair, Rest) call file::truncate64;
    194 ftruncate64 (Fd, Rest, Pair, Rest) call file::ftruncate64;
    195 stat64 (Path, Ptr) call stat::stat64;
    196 lstat64 (Link, Ptr) call stat::lstat64;
    197 fstat64 (Fd, Ptr) call stat::fstat64;
    198 lchown32 (Link, Uint, Uint) pass SYS_lchown;
    199 getuid32 () pass SYS_getuid;
    200 getgid32 () pass SYS_getgid;
    201 geteuid32 () pass SYS_geteuid;
    202 getegid32 () pass SYS_getegid;
    203 setreuid32 (Uint, Uint) pass SYS_setreuid;
    204 setregid32 (Uint, Uint) pass SYS_setregid;
    205 getgroups32 (Int, Ptr) call process::getgroups32;
    206 setgroups32 (Int, In) pass SYS_setgroups;
    207 fchown32 (Fd, Uint, Uint) pass SYS_fchown;
    208 setresuid32 (Uint, Uint, Uint) pass SYS_setresuid;
    209 getresuid32 (Out(4), Out(4), Out(4)) pass SYS_getresuid;
    210 setresgid32 (Uint, Uint, Uint) pass SYS_setresgid;
    211 getresgid32 (Out(4), Out(4), Out(4)) pass SYS_getresgid;
    212 chown32 (Path, Uint, Uint) pass SYS_chown;
    213 setuid32 (Uint) pass SYS_setuid;
    214 setgid32 (Uint) pass SYS_setgid;
    215 setfsuid32 (Uint) pass SYS_setfsuid;
    216 setfsgid32 (Uint) pass SYS_setfsgid;
    217 getdents64 (Fd, Ptr, Size) call link::getdents64;
    218 pivot_root (Path, Path) pass SYS_pivot_root;
    219 mincore (Ptr, Size, Ptr) call memory::mincore;
    220 madvise (Ptr, Size, Advice) call memory::madvise;
    221 fcntl64 (Fd, FcntlOp, FcntlArg) call file::fcntl64;
    224 gettid () pass SYS_gettid;
    225 readahead (Fd, Int, Hex, Hex, Size) call file::readahead;
    226 setxattr (Path, Str, In, Size, Hex) pass SYS_setxattr;
    227 lsetxattr (Link, Str, In, Size, Hex) pass SYS_lsetxattr;
    228 fsetxattr (Fd, Str, In, Size, Hex) pass SYS_fsetxattr;
    229 getxattr (Path, Str, OutArg(3), Size) pass SYS_getxattr;
    230 lgetxattr (Link, Str, OutArg(3), Size) pass SYS_lgetxattr;
    231 fgetxattr (Fd, Str, OutArg(3), Size) pass SYS_fgetxattr;
    232 listxattr (Path, OutArg(2), Size) pass SYS_listxattr;
    233 llistxattr (Link, OutArg(2), Size) pass SYS_llistxattr;
    234 flistxattr (Fd, OutArg(2), Size) pass SYS_flistxattr;
    235 removexattr (Path, Str) pass SYS_removexattr;
    236 lremovexattr (Link, Str) pass SYS_lremovexattr;
    237 fremovexattr (Fd, Str) pass SYS_fremovexattr;
    238 tkill (Int, Signal) pass SYS_tkill;
    239 sendfile64 (Fd, Fd, Out(8), Size) pass SYS_sendfile;
    240 futex (Ptr, Futex, Int, Ptr, Ptr, Int) call futex::futex;
    241 sched_setaffinity (Int, Size, In) pass SYS_sched_setaffinity;
    242 sched_getaffinity (Int, Size, OutArg(1)) call process::sched_getaffinity;
    243 io_setup (Uint, Ptr) call misc::io_setup;
    244 io_destroy (Hex) call misc::io_destroy;
    245 io_getevents (Hex, Int, Int, Ptr, Ptr) call misc::io_getevents;
    246 io_submit (Hex, Int, Ptr) call misc::io_submit;
    247 io_cancel (Hex, Ptr, Ptr) call misc::io_cancel;
    248 exit_group (Int) call process::exit_group;
    249 lookup_dcookie () never;
    250 epoll_create (Int) pass SYS_epoll_create;
    251 epoll_ctl (Fd, Int, Fd, Ptr) call poll::epoll_ctl;
    252 epoll_wait (Fd, Ptr, Int, Int) call poll::epoll_wait;
    253 remap_file_pages (Ptr, Size, Hex, Hex, Hex) call memory::remap_file_pages;
    256 set_tid_address (Ptr) call process::set_tid_address;
    257 timer_create (Clock, Ptr, Out(4)) call time::timer_create;
    258 timer_settime (Int, Hex, Ptr, Ptr) call time::timer_settime;
    259 timer_gettime (Int, Ptr) call time::timer_gettime;
    260 timer_getoverrun (Int) pass SYS_timer_getoverrun;
    261 timer_delete (Int) pass SYS_timer_delete;
    262 clock_settime (Clock, Ptr) call time::clock_settime;
    263 clock_gettime (Clock, Ptr) call time::clock_gettime;
    264 clock_getres (Clock, Ptr) call time::clock_getres;
    265 clock_nanosleep (Clock, Int, Time32, Ptr) call time::clock_nanosleep;
    266 statfs64 (Path, Rest, Ptr) call stat::statfs64;
    267 fstatfs64 (Fd, Rest, Ptr) call stat::fstatfs64;
    268 tgkill (Int, Int, Signal) pass SYS_tgkill;
    269 utimes (Path, Ptr) call stat::utimes;
    270 arm_fadvise64_64 (Fd, Int, Pair, Rest, Pair, Rest) call file::fadvise;
    271 pciconfig_iobase () never;
    272 pciconfig_read () never;
    273 pciconfig_write () never;
    274 mq_open (Str, Open, Oct, Ptr) call ipc::mq_open;
    275 mq_unlink (Str) call ipc::mq_unlink;
    276 mq_timedsend (Fd, In, Size, Uint, Ptr) call ipc::mq_timedsend;
    277 mq_timedreceive (Fd, OutArg(2), Size, Ptr, Ptr) call ipc::mq_timedreceive;
    278 mq_notify (Fd, Ptr) call ipc::mq_notify;
    279 mq_getsetattr (Fd, Ptr, Ptr) call ipc::mq_getsetattr;
    280 waitid (Int, Int, Ptr, Wait, Ptr) call process::waitid;
    281 socket (Family, SockType, Protocol) call socket::socket;
    282 bind (Fd, SockAddr(2), Size) call socket::bind;
    283 connect (Fd, SockAddr(2), Size) call socket::connect;
    284 listen (Fd, Int) pass SYS_listen;
    285 accept (Fd, Ptr, Ptr) call socket::accept;
    286 getsockname (Fd, Ptr, Ptr) call socket::getsockname;
    287 getpeername (Fd, Ptr, Ptr) call socket::getpeername;
    288 socketpair (Family, SockType, Protocol, Out(8)) pass SYS_socketpair;
    289 send (Fd, Text(2), Size, Message) call socket::send;
    290 sendto (Fd, Text(2), Size, Message, SockAddr(5), Size) pass SYS_sendto;
    291 recv (Fd, OutArg(2), Size, Message) call socket::recv;
    292 recvfrom (Fd, OutArg(2), Size, Message, Ptr, Ptr) call socket::recvfrom;
    293 shutdown (Fd, Int) pass SYS_shutdown;
    294 setsockopt (Fd, Int, Int, Ptr, Size) call socket::setsockopt;
    295 getsockopt (Fd, Int, Int, Ptr, Ptr) call socket::getsockopt;
    296 sendmsg (Fd, Ptr, Hex) call socket::sendmsg;
    297 recvmsg (Fd, Ptr, Hex) call socket::recvmsg;
    298 semop (Int, In, Size) pass SYS_semop;
    299 semget (Hex, Int, Oct) pass SYS_semget;
    300 semctl (Int, Int, Int, Ptr) call ipc::semctl;
    301 msgsnd (Int, Ptr, Size, Hex) call ipc::msgsnd;
    302 msgrcv (Int, Ptr, Size, Int, Hex) call ipc::msgrcv;
    303 msgget (Hex, Oct) pass SYS_msgget;
    304 msgctl (Int, Int, Ptr) call ipc::msgctl;
    305 shmat (Int, Ptr, Hex) call ipc::shmat;
    306 shmdt (Ptr) call ipc::shmdt;
    307 shmget (Hex, Size, Oct) pass SYS_shmget;
    308 shmctl (Int, Int, Ptr) call ipc::shmctl;
    309 add_key (Str, Str, In, Size, Int) pass SYS_add_key;
    310 request_key (Str, Str, Str, Int) pass SYS_request_key;
    311 keyctl (Int, Hex, Hex, Hex, Hex) call misc::keyctl;
    312 semtimedop (Int, In, Size, Ptr) call ipc::semtimedop;
    313 vserver () never;
    314 ioprio_set (Int, Int, Int) pass SYS_ioprio_set;
    315 ioprio_get (Int, Int) pass SYS_ioprio_get;
    316 inotify_init () pass SYS_inotify_init;
    317 inotify_add_watch (Fd, Path, Hex) pass SYS_inotify_add_watch;
    318 inotify_rm_watch (Fd, Int) pass SYS_inotify_rm_watch;
    319 mbind (Ptr, Size, Int, Ptr, Uint, Hex) value 0;
    320 get_mempolicy (Ptr, Ptr, Uint, Ptr, Hex) call pages::get_mempolicy;
    321 set_mempolicy (Int, Ptr, Uint) call pages::set_mempolicy;
    322 openat (DirFd, Path, Open, OpenMode) call file::openat;
    323 mkdirat (DirFd, Str, Oct) pass SYS_mkdirat;
    324 mknodat (DirFd, Str, Oct, Hex) pass SYS_mknodat;
    325 fchownat (DirFd, Path, Uint, Uint, At) pass SYS_fchownat;
    326 futimesat (DirFd, Path, Ptr) call stat::futimesat;
    327 fstatat64 (DirFd, Path, Ptr, At) call stat::fstatat64;
    328 unlinkat (DirFd, Link, At) pass SYS_unlinkat;
    329 renameat (DirFd, Link, DirFd, Link) pass SYS_renameat;
    330 linkat (DirFd, Link, DirFd, Str, At) pass SYS_linkat;
    331 symlinkat (Str, DirFd, Str) pass SYS_symlinkat;
    332 readlinkat (DirFd, Link, OutArg(3), Size) call link::readlinkat;
    333 fchmodat (DirFd, Path, Oct) pass SYS_fchmodat;
    334 faccessat (DirFd, Path, Access) call stat::faccessat;
    335 pselect6 (Int, Ptr, Ptr, Ptr, Ptr, Ptr) call poll::pselect6;
    336 ppoll (Ptr, Uint, Ptr, Ptr, Size) call poll::ppoll;
    337 unshare (Clone) call process::unshare;
    338 set_robust_list (Ptr, Size) call futex::set_robust_list;
    339 get_robust_list (Int, Ptr, Ptr) call futex::get_robust_list;
    340 splice (Fd, Out(8), Fd, Out(8), Size, Hex) pass SYS_splice;
    341 arm_sync_file_range (Fd, Hex, Hex, Hex, Hex, Hex) call file::sync_file_range;
    342 tee (Fd, Fd, Size, Hex) pass SYS_tee;
    343 vmsplice (Fd, Ptr, Size, Hex) call file::vmsplice;
    344 move_pages (Int, Uint, Ptr, Ptr, Ptr, Hex) call pages::move_pages;
    345 getcpu (Out(4), Out(4), Ptr) pass SYS_getcpu;
    346 epoll_pwait (Fd, Ptr, Int, Int, Ptr, Size) call poll::epoll_pwait;
    347 kexec_load () never;
    348 utimensat (DirFd, Path, Ptr, At) call stat::utimensat;
    349 signalfd (Fd, Ptr, Size) call sigcall::signalfd;
    350 timerfd_create (Clock, Hex) pass SYS_timerfd_create;
    351 eventfd (Uint) pass SYS_eventfd;
    352 fallocate (Fd, Int, Pair, Rest, Pair, Rest) call file::fallocate;
    353 timerfd_settime (Fd, Hex, Ptr, Ptr) call time::timerfd_settime;
    354 timerfd_gettime (Fd, Ptr) call time::timerfd_gettime;
    355 signalfd4 (Fd, Ptr, Size, Hex) call sigcall::signalfd4;
    356 eventfd2 (Uint, Hex) pass SYS_eventfd2;
    357 epoll_create1 (Int) pass SYS_epoll_create1;
    358 dup3 (Fd, Fd, Int) call file::dup3;
    359 pipe2 (Out(8), Int) call file::pipe2;
    360 inotify_init1 (Open) pass SYS_inotify_init1;
    361 preadv (Fd, Ptr, Int, Hex, Hex) call file::preadv;
    362 pwritev (Fd, Ptr, Int, Hex, Hex) call file::pwritev;
    363 rt_tgsigqueueinfo (Int, Int, Signal, Ptr) call sigcall::rt_tgsigqueueinfo;
    364 perf_event_open (In, Int, Int, Fd, Hex) pass SYS_perf_event_open;
    365 recvmmsg (Fd, Ptr, Uint, Hex, Ptr) call socket::recvmmsg;
    366 accept4 (Fd, Ptr, Ptr, Hex) call socket::accept4;
    367 fanotify_init (Hex, Open) call misc::fanotify_init;
    368 fanotify_mark (Fd, Hex, Hex, Hex, DirFd, Path) call misc::fanotify_mark;
    369 prlimit64 (Int, Resource, Ptr, Ptr) call process::prlimit64;
    370 name_to_handle_at (DirFd, Path, Out(136), Out(4), Hex) pass SYS_name_to_handle_at;
    371 open_by_handle_at (Fd, In, Open) call file::open_by_handle_at;
    372 clock_adjtime (Clock, Ptr) call time::clock_adjtime;
    373 syncfs (Fd) pass SYS_syncfs;
    374 sendmmsg (Fd, Ptr, Uint, Hex) call socket::sendmmsg;
    375 setns (Fd, Hex) pass SYS_setns;
    376 process_vm_readv (Int, Ptr, Uint, Ptr, Uint, Hex) call misc::process_vm_readv;
    377 process_vm_writev (Int, Ptr, Uint, Ptr, Uint, Hex) call misc::process_vm_writev;
    378 kcmp (Int, Int, Int, Uint, Uint) pass SYS_kcmp;
    379 finit_module (Fd, Str, Hex) pass SYS_finit_module;
    380 sched_setattr (Int, In, Hex) pass SYS_sched_setattr;
    381 sched_getattr (Int, OutArg(2), Size, Hex) pass SYS_sched_getattr;
    382 renameat2 (DirFd, Link, DirFd, Link, Hex) pass SYS_renameat2;
    383 seccomp (Int, Hex, Ptr) call misc::seccomp;
    384 getrandom (OutArg(1), Size, Uint) pass SYS_getrandom;
    385 memfd_create (Str, Hex) pass SYS_memfd_create;
    386 bpf (Int, In, Size) todo;
    387 execveat (DirFd, Path, Strings, Rest, At) call process::execveat;
    388 userfaultfd (Hex) todo;
    389 membarrier (Int, Hex, Int) call memory::membarrier;
    390 mlock2 (Ptr, Size, Hex) call memory::mlock2;
    391 copy_file_range (Fd, Out(8), Fd, Out(8), Size, Hex) pass SYS_copy_file_range;
    392 preadv2 (Fd, Ptr, Int, Hex, Hex, Hex) call file::preadv2;
    393 pwritev2 (Fd, Ptr, Int, Hex, Hex, Hex) call file::pwritev2;
    394 pkey_mprotect (Ptr, Size, Prot, Int) call memory::pkey_mprotect;
    395 pkey_alloc (Hex, Hex) call pages::pkey_alloc;
    396 pkey_free (Int) call pages::pkey_free;
    397 statx (DirFd, Path, StatxFlags, StatxMask, Out(256)) call stat::statx;
    398 rseq (Ptr, Size, Hex, Hex) call process::rseq;
    399 io_pgetevents (Hex, Int, Int, Ptr, Ptr, Ptr) call misc::io_pgetevents;
    400 migrate_pages (Int, Uint, Ptr, Ptr) call pages::migrate_pages;
    401 kexec_file_load () never;
    403 clock_gettime64 (Clock, Out(16)) call time::clock_gettime64;
    404 clock_settime64 (Clock, Times(1)) pass SYS_clock_settime;
    405 clock_adjtime64 (Clock, Out(208)) pass SYS_clock_adjtime;
    406 clock_getres_time64 (Clock, Out(16)) pass SYS_clock_getres;
    407 clock_nanosleep_time64 (Clock, Int, Times(1), Out(16)) pass SYS_clock_nanosleep;
    408 timer_gettime64 (Int, Out(32)) pass SYS_timer_gettime;
    409 timer_settime64 (Int, Hex, Times(2), Out(32)) pass SYS_timer_settime;
    410 timerfd_gettime64 (Fd, Out(32)) pass SYS_timerfd_gettime;
    411 timerfd_settime64 (Fd, Hex, Times(2), Out(32)) pass SYS_timerfd_settime;
    412 utimensat_time64 (DirFd, Path, In, At) call stat::utimensat_time64;
    413 pselect6_time64 (Int, Ptr, Ptr, Ptr, Ptr, Ptr) call poll::pselect6_time64;
    414 ppoll_time64 (Ptr, Uint, Ptr, Ptr, Size) call poll::ppoll_time64;
    416 io_pgetevents_time64 (Hex, Int, Int, Ptr, Ptr, Ptr) call misc::io_pgetevents_time64;
    417 recvmmsg_time64 (Fd, Ptr, Uint, Hex, Ptr) call socket::recvmmsg_time64;
    418 mq_timedsend_time64 (Fd, In, Size, Uint, Times(1)) pass SYS_mq_timedsend;
    419 mq_timedreceive_time64 (Fd, OutArg(2), Size, Out(4), Times(1)) pass SYS_mq_timedreceive;
    420 semtimedop_time64 (Int, In, Size, Times(1)) pass SYS_semtimedop;
    421 rt_sigtimedwait_time64 (Ptr, Ptr, Ptr, Size) call sigcall::rt_sigtimedwait_time64;
    422 futex_time64 (Ptr, Futex, Int, Ptr, Ptr, Int) call futex::futex_time64;
    423 sched_rr_get_interval_time64 (Int, Out(16)) pass SYS_sched_rr_get_interval;
    424 pidfd_send_signal (Fd, Signal, Ptr, Hex) call sigcall::pidfd_send_signal;
    425 io_uring_setup (Uint, Ptr) todo;
    426 io_uring_enter (Fd, Uint, Uint, Hex, Ptr, Size) todo;
    427 io_uring_register (Fd, Uint, Ptr, Uint) todo;
    428 open_tree (DirFd, Path, Hex) pass 428;
    429 move_mount (DirFd, Path, DirFd, Path, Hex) pass 429;
    430 fsopen (Str, Hex) pass 430;
    431 fsconfig (Fd, Uint, Str, In, Int) pass 431;
    432 fsmount (Fd, Hex, Hex) pass 432;
    433 fspick (DirFd, Path, Hex) pass 433;
    434 pidfd_open (Int, Hex) pass 434;
    435 clone3 (Ptr, Size) call process::clone3;
    436 close_range (Fd, Uint, Hex) call file::close_range;
    437 openat2 (DirFd, Path, Ptr, Size) call file::openat2;
    438 pidfd_getfd (Fd, Fd, Hex) pass 438;
    439 faccessat2 (DirFd, Path, Access, At) call stat::faccessat2;
    440 process_madvise (Fd, Ptr, Uint, Int, Hex) call pages::process_madvise;
    441 epoll_pwait2 (Fd, Ptr, Int, Ptr, Ptr, Size) call poll::epoll_pwait2;
    442 mount_setattr (DirFd, Path, Hex, In, Size) pass 442;
    443 quotactl_fd (Fd, Hex, Int, Out(256)) pass 443;
    444 landlock_create_ruleset (In, Size, Hex) pass 444;
    445 landlock_add_rule (Fd, Int, In, Hex) pass 445;
    446 landlock_restrict_self (Fd, Hex) pass 446;
    447 memfd_secret (Hex) pass 447;
    448 process_mrelease (Fd, Hex) pass 448;
    449 futex_waitv (Ptr, Uint, Hex, In, Clock) call futex::futex_waitv;
    450 set_mempolicy_home_node (Ptr, Size, Int, Hex) call pages::set_mempolicy_home_node;
    451 cachestat (Fd, In, Out(40), Hex) pass 451;
    452 fchmodat2 (DirFd, Path, Oct, At) pass 452;
    453 map_shadow_stack (Ptr, Size, Hex) never;
    454 futex_wake (Ptr, Hex, Int, Hex) call futex::futex2_wake;
    455 futex_wait (Ptr, Hex, Hex, Hex, In, Clock) call futex::futex2_wait;
    456 futex_requeue (Ptr, Hex, Int, Int) call futex::futex2_requeue;
    457 statmount (In, OutArg(2), Size, Hex) pass 457;
    458 listmount (In, Ptr, Size, Hex) call misc::listmount;
    459 lsm_get_self_attr (Int, Out(256), Out(4), Hex) pass 459;
    460 lsm_set_self_attr (Int, In, Size, Hex) pass 460;
    461 lsm_list_modules (Out(64), Out(4), Hex) pass 461;
    462 mseal (Ptr, Size, Hex) call memory::mseal;
    463 setxattrat (DirFd, Path, At, Str, Ptr, Size) call misc::setxattrat;
    464 getxattrat (DirFd, Path, At, Str, Ptr, Size) call misc::getxattrat;
    465 listxattrat (DirFd, Path, At, OutArg(4), Size) pass 465;
    466 removexattrat (DirFd, Path, At, Str) pass 466;
    467 open_tree_attr (DirFd, Path, Hex, In, Size) pass 467;
    468 file_getattr (DirFd, Path, OutArg(3), Size, At) pass 468;
    469 file_setattr (DirFd, Path, In, Size, At) pass 469;

    0xf0001 breakpoint () call misc::breakpoint;
    0xf0002 cacheflush (Ptr, Ptr, Hex) call memory::cacheflush;
    0xf0003 usr26 () never;
    0xf0004 usr32 () value 0;
    0xf0005 set_tls (Ptr) call misc::set_tls;
    0xf0006 get_tls () call misc::get_tls;
}

/// Rows by number.
static BY_NUMBER: [Option<&Row>; TABLE_SIZE] = {
    let mut table = [None; TABLE_SIZE];
    let mut i = 0;
    while i < ROWS.len() {
        let at = slot(ROWS[i].number);
        assert!(table[at].is_none(), "two rows with one number");
        table[at] = Some(&ROWS[i]);
        i += 1;
    }
    table
};

/// The private calls come after the others.
const fn slot(number: u32) -> usize {
    const PRIVATE_SLOT: usize = TABLE_SIZE - 16;
    if number >= PRIVATE && number < PRIVATE + 16 { PRIVATE_SLOT + (number - PRIVATE) as usize } else { number as usize }
}

pub fn row(number: u32) -> Option<&'static Row> {
    BY_NUMBER.get(slot(number)).copied().flatten().filter(|r| r.number == number)
}

/// Performs a system call.
pub fn call(task: &mut Task, number: u32, args: [u32; 6]) -> Ret {
    if let Some(result) = task.filter_system_call(number, args) {
        return result;
    }
    let row = row(number);
    let begin = task.process.config.strace.then(|| strace::call_text(task, number, row, args));
    let result = dispatch(task, number, row, args);
    // Whatever else a call did, files may have come or gone by the time it returned.
    if !task.only_looked.take() {
        task.process.config.prefix.forget();
    }
    if let Some(begin) = begin {
        log::write(&format!("{begin}{}", strace::result_text(task, row, args, result)));
    }
    result
}

fn dispatch(task: &mut Task, number: u32, row: Option<&Row>, args: [u32; 6]) -> Ret {
    let handler = row.map_or(Handler::Todo, |r| r.handler);
    match handler {
        Handler::Call(f) => f(task, args),
        Handler::Pass(host) => pass(task, host, row.map_or(&[], |r| r.args), args),
        Handler::Value(v) => Ok(v),
        Handler::Todo => {
            if log::on(log::UNIMP) {
                log::write(&format!("Unsupported syscall: {number}\n"));
            }
            Err(errno::ENOSYS)
        }
        Handler::Never => Err(errno::ENOSYS),
    }
}

/// Calls the host with the arguments converted by their formats.
pub fn pass(task: &mut Task, number: i64, formats: &[Fmt], args: [u32; 6]) -> Ret {
    let mut paths: [Option<CString>; 2] = [None, None];
    let mut times = [[0i64; 2]; 2];
    let mut host = [0u64; 6];
    for (i, fmt) in formats.iter().enumerate() {
        let v = args[i];
        host[i] = match fmt {
            Fmt::Path | Fmt::Link if v != 0 && task.process.config.prefix.is_set() => {
                let path = if *fmt == Fmt::Path { task.path(v)? } else { task.path_nofollow(v)? };
                let place = if paths[0].is_none() { 0 } else { 1 };
                paths[place].insert(path).as_ptr() as u64
            }
            Fmt::Times(count) if v != 0 => {
                let given: [[i64; 2]; 1] = task.memory().read(v)?;
                times[0] = given[0];
                if *count == 2 {
                    times = task.memory().read(v)?;
                }
                for t in &mut times {
                    t[1] &= 0xffff_ffff;
                }
                times.as_ptr() as u64
            }
            _ => plain_argument(task.memory(), *fmt, v, &args),
        };
    }
    // SAFETY: every address is the guest's, of a layout that is the same on both sides, or of a path that lives here.
    unsafe { task.host_call(number, host) }
}

fn plain_argument(memory: &Memory, fmt: Fmt, v: u32, args: &[u32; 6]) -> u64 {
    match fmt {
        Fmt::Path | Fmt::Link | Fmt::Str | Fmt::In | Fmt::Ptr | Fmt::Times(_) | Fmt::SockAddr(_) | Fmt::Text(_) | Fmt::SignalSet => memory.input(v),
        Fmt::Out(bytes) => memory.out(v, bytes),
        Fmt::OutArg(i) => memory.out(v, args[i as usize]),
        Fmt::Uint | Fmt::Size | Fmt::Hex => v as u64,
        _ => v as i32 as u64,
    }
}

/// Why a call is not there yet.
const MISSING: &[(&str, &str)] = &[
    ("ptrace", "a tracer would see the emulator's registers and memory; ours would have to be carried to it and back"),
    ("bpf", "its structures hold addresses by command; programs for it are rare and privileged"),
    ("userfaultfd", "faults of the emulator's own accesses would wait for a guest thread that may be waiting for us"),
    ("io_uring_setup", "the kernel reads requests with addresses in them from memory that it shares with the guest; those would \
                        have to be rewritten there"),
    ("io_uring_enter", "see io_uring_setup"),
    ("io_uring_register", "see io_uring_setup"),
];

/// The page `docs/coverage/syscalls-arm.md`: what happens to each call.
pub fn coverage() -> String {
    use std::fmt::Write;
    let count = |f: fn(&Handler) -> bool| ROWS.iter().filter(|r| f(&r.handler)).count();
    let handled = count(|h| matches!(h, Handler::Call(_) | Handler::Value(_)));
    let passed = count(|h| matches!(h, Handler::Pass(_)));
    let todo = count(|h| matches!(h, Handler::Todo));
    let never = count(|h| matches!(h, Handler::Never));
    let mut out = format!(
        "# System calls of 32-bit ARM\n\nGenerated from `crates/linux_user/src/table.rs`; `BLESS=1 cargo test -p linux_user coverage` \
         rewrites it.\n\n{} calls: {handled} translated, {passed} passed to the host with their arguments converted, {todo} not yet \
         (ENOSYS and an `unimp` event), {never} that current kernels do not have or that ask for privileged hardware access \
         (ENOSYS).\n\n| number | call | |\n|---|---|---|\n",
        ROWS.len()
    );
    for r in ROWS {
        let what = match r.handler {
            Handler::Call(_) | Handler::Value(_) => "translated",
            Handler::Pass(_) => "passed",
            Handler::Todo => "**not yet**",
            Handler::Never => "ENOSYS",
        };
        let reason = MISSING.iter().find(|m| m.0 == r.name).map(|m| format!(": {}", m.1)).unwrap_or_default();
        let _ = writeln!(out, "| {} | {} | {what}{reason} |", r.number, r.name);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coverage_page_is_fresh() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/coverage/syscalls-arm.md");
        if std::env::var_os("BLESS").is_some() {
            std::fs::create_dir_all(std::path::Path::new(page).parent().unwrap()).unwrap();
            std::fs::write(page, coverage()).unwrap();
        }
        assert!(std::fs::read_to_string(page).unwrap_or_default() == coverage(), "run BLESS=1 cargo test -p linux_user coverage");
    }

    #[test]
    fn what_is_missing_has_a_reason() {
        let todo: Vec<&str> = ROWS.iter().filter(|r| matches!(r.handler, Handler::Todo)).map(|r| r.name).collect();
        assert_eq!(todo, MISSING.iter().map(|m| m.0).collect::<Vec<_>>(), "in the order of the table");
    }

    #[test]
    fn rows_are_in_order_and_found_by_number() {
        assert!(ROWS.windows(2).all(|w| w[0].number < w[1].number));
        for r in ROWS {
            assert!(std::ptr::eq(row(r.number).unwrap(), r), "{}", r.name);
            assert!(r.args.len() <= 6);
        }
        assert!(row(7).is_none() && row(9999).is_none() && row(0xf_0000).is_none());
    }

    #[test]
    fn passed_rows_have_formats_that_can_be_passed() {
        for r in ROWS.iter().filter(|r| matches!(r.handler, Handler::Pass(_))) {
            assert!(r.args.iter().filter(|f| matches!(f, Fmt::Path | Fmt::Link)).count() <= 2, "{}", r.name);
            for f in r.args {
                if let Fmt::OutArg(i) = f {
                    assert_eq!(r.args[*i as usize], Fmt::Size, "{}", r.name);
                }
            }
        }
    }
}
