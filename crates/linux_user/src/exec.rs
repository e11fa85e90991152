//! execve: a program for ARM, or a script whose interpreter is one, runs under this emulator with the same options even
//! where the host has no binfmt entry; anything else is the host's business.

use crate::call::sx;
use crate::elf;
use crate::errno::{self, Errno, Ret};
use crate::memory::PATH_MAX;
use crate::procfs;
use crate::task::Task;
use libc::*;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI32, Ordering};

/// Arguments and environment together (the kernel's limit for an 8 MiB stack is 2 MiB; others may have more).
const MAX_STRINGS: usize = 1 << 20;
const MAX_BYTES: usize = 32 << 20;
/// The longest string (the kernel's MAX_ARG_STRLEN).
const MAX_STRING: usize = 128 << 10;
/// How deep interpreters may be scripts.
const MAX_SCRIPTS: usize = 5;
/// What of a script's first line counts.
const SCRIPT_HEAD: usize = 256;

/// How a file is to be run.
enum Plan {
    /// By the host's kernel.
    Host,
    /// Under this emulator: program on the host, argv[0], further arguments before the caller's.
    Emulate { program: CString, argv0: Option<CString>, extra: Vec<CString> },
}

fn read_strings(t: &Task, addr: u32) -> Result<Vec<CString>, Errno> {
    let mut out = Vec::new();
    let mut bytes = 0;
    if addr == 0 {
        return Ok(out);
    }
    for i in 0..MAX_STRINGS as u32 {
        let at: u32 = t.memory().read(addr.checked_add(4 * i).ok_or(errno::EFAULT)?)?;
        if at == 0 {
            return Ok(out);
        }
        let s = t.memory().read_string(at, MAX_STRING).map_err(|e| if e == errno::ENAMETOOLONG { Errno(E2BIG) } else { e })?;
        bytes += s.as_bytes_with_nul().len();
        if bytes > MAX_BYTES {
            break;
        }
        out.push(s);
    }
    Err(Errno(E2BIG))
}

fn open_readable(path: &CStr) -> Option<File> {
    // SAFETY: the path lives until the call returns; the descriptor is ours.
    unsafe {
        let fd = libc::open(path.as_ptr(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        (fd >= 0).then(|| File::from_raw_fd(fd))
    }
}

/// Whether somebody has the program open for writing. Kernels before Linux 6.14 do not tell without executing it.
fn is_being_written(path: &CStr) -> bool {
    const AT_EXECVE_CHECK: c_int = 0x10000;
    let strings = [path.as_ptr(), std::ptr::null()];
    let (argv, envp) = (strings.as_ptr(), strings[1..].as_ptr());
    // SAFETY: path and lists live until the call returns, which executes nothing: kernels that do not know the flag refuse it.
    let r = unsafe { libc::syscall(SYS_execveat, AT_FDCWD, path.as_ptr(), argv, envp, AT_EXECVE_CHECK) };
    r < 0 && Errno::last() == Errno(ETXTBSY)
}

/// What running `path` (on the host; `shown` to the guest) takes.
fn plan(t: &Task, path: &CString, shown: &CString) -> Result<Plan, Errno> {
    // The kernel's own checks come first: the error must be the one that it would give.
    // SAFETY: the path lives until the calls return; the structure is filled by the call.
    unsafe {
        let mut s: libc::stat = std::mem::zeroed();
        if libc::stat(path.as_ptr(), &raw mut s) != 0 {
            return Err(Errno::last());
        }
        if s.st_mode & S_IFMT != S_IFREG || libc::faccessat(AT_FDCWD, path.as_ptr(), X_OK, AT_EACCESS) != 0 {
            return Err(errno::EACCES);
        }
    }
    if is_being_written(path) {
        return Err(Errno(ETXTBSY));
    }
    let mut program = path.clone();
    let mut name = shown.clone();
    let mut extra = Vec::new();
    let mut argv0 = None;
    for _ in 0..MAX_SCRIPTS {
        // A program that can be executed but not read is left to the host.
        let Some(file) = open_readable(&program) else { return Ok(Plan::Host) };
        match elf::header(&file) {
            Ok(_) | Err(elf::Refusal::Bad(_)) => return Ok(Plan::Emulate { program, argv0, extra }),
            Err(elf::Refusal::WrongMachine) => return Ok(Plan::Host),
            Err(elf::Refusal::NotElf) => {}
        }
        let Some((interpreter, argument)) = shebang(&file) else { return Ok(Plan::Host) };
        extra.insert(0, name);
        extra.splice(0..0, argument);
        name = interpreter.clone();
        argv0 = Some(interpreter.clone());
        program = t.process.config.prefix.apply(interpreter, true);
    }
    Err(errno::ELOOP)
}

/// Interpreter and optional argument of a script's first line.
fn shebang(file: &File) -> Option<(CString, Option<CString>)> {
    let mut head = [0u8; SCRIPT_HEAD];
    let n = file.read_at(&mut head, 0).ok()?;
    parse_shebang(&head[..n])
}

pub fn parse_shebang(head: &[u8]) -> Option<(CString, Option<CString>)> {
    let line = head.strip_prefix(b"#!")?;
    let end = line.iter().position(|b| *b == b'\n' || *b == 0).unwrap_or(line.len());
    let line = line[..end].trim_ascii();
    let cut = line.iter().position(|b| *b == b' ' || *b == b'\t').unwrap_or(line.len());
    let (name, rest) = (&line[..cut], line[cut..].trim_ascii());
    if name.is_empty() {
        return None;
    }
    let argument = if rest.is_empty() { None } else { Some(CString::new(rest).ok()?) };
    Some((CString::new(name).ok()?, argument))
}

/// The command line that runs a program under this emulator.
fn emulator_line(t: &Task, program: CString, argv0: CString, rest: impl Iterator<Item = CString>) -> Vec<CString> {
    let c = &t.process.config;
    let mut line = c.emulator.clone();
    line.push(c"-0".into());
    line.push(argv0);
    // A name that looks like an option is no program.
    let program = if program.as_bytes().starts_with(b"-") {
        CString::new([b"./", program.as_bytes()].concat()).expect("no NUL inside")
    } else {
        program
    };
    line.push(program);
    line.extend(rest);
    line
}

fn host_execve(t: &Task, dirfd: u32, path: &CStr, args: &[CString], env: &[CString], flags: u32) -> Ret {
    let pointers = |list: &[CString]| -> Vec<*const c_char> {
        list.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    let (argv, envp) = (pointers(args), pointers(env));
    t.process.actions.lock().unwrap().prepare_exec();
    let call = [sx(dirfd), path.as_ptr() as u64, argv.as_ptr() as u64, envp.as_ptr() as u64, flags as u64, 0];
    let _still = t.process.debug.as_ref().map(|d| d.still());
    // SAFETY: all strings and lists live until the call returns, if it does.
    let failed = unsafe { t.host_call(SYS_execveat, call) };
    t.process.actions.lock().unwrap().after_exec();
    failed
}

/// The emulator's own file, kept open when the guest changes its root; -1 before.
static KEPT: AtomicI32 = AtomicI32::new(-1);
/// Out of the way of the guest's descriptors.
const KEPT_FROM: i32 = 900;

/// The name by which the emulator was started; none under binfmt_misc, where the name is the guest program's.
fn started_as() -> Option<CString> {
    // SAFETY: the auxiliary vector's string lives as long as the process.
    let name = unsafe { (getauxval(AT_EXECFN) as *const c_char).as_ref().map(|c| CStr::from_ptr(c)) }?;
    let file = name.to_bytes().strip_prefix(b"/").and_then(|_| File::open(OsStr::from_bytes(name.to_bytes())).ok())?;
    let mut head = [0u8; 20];
    file.read_exact_at(&mut head, 0).ok()?;
    (head[..4] == *b"\x7fELF" && u16::from_le_bytes([head[18], head[19]]) == EM_X86_64).then(|| name.into())
}

/// To be called before the root directory changes: afterwards the emulator may not be found by any name.
pub fn keep_emulator() {
    if KEPT.load(Ordering::Relaxed) >= 0 {
        return;
    }
    let names = [Some(c"/proc/self/exe".into()), started_as()];
    for name in names.into_iter().flatten() {
        // SAFETY: the name lives until the call returns; the descriptors are ours.
        unsafe {
            let fd = libc::open(name.as_ptr(), O_PATH | O_CLOEXEC);
            if fd >= 0 {
                KEPT.store(libc::fcntl(fd, F_DUPFD_CLOEXEC, KEPT_FROM), Ordering::Relaxed);
                libc::close(fd);
                return;
            }
        }
    }
}

fn execute_emulator(t: &Task, line: &[CString], env: &[CString]) -> Ret {
    let result = host_execve(t, AT_FDCWD as u32, c"/proc/self/exe", line, env, 0);
    if !matches!(result, Err(errno::ENOENT | errno::ENOTDIR | errno::ELOOP | errno::EACCES)) {
        return result;
    }
    // There is no usable /proc here.
    let kept = KEPT.load(Ordering::Relaxed);
    if kept >= 0 {
        return host_execve(t, kept as u32, c"", line, env, AT_EMPTY_PATH as u32);
    }
    match started_as() {
        Some(name) => host_execve(t, AT_FDCWD as u32, &name, line, env, 0),
        None => result,
    }
}

fn run(t: &mut Task, dirfd: u32, path: CString, shown: CString, a: [u32; 3]) -> Ret {
    let [argv, envp, flags] = a;
    let mut args = read_strings(t, argv)?;
    let env = read_strings(t, envp)?;
    if args.is_empty() {
        // As current kernels do.
        args.push(CString::default());
    }
    match plan(t, &path, &shown)? {
        Plan::Host => {
            t.debug_left(&path);
            host_execve(t, dirfd, &path, &args, &env, flags)
        }
        Plan::Emulate { program, argv0, extra } => {
            let argv0 = argv0.unwrap_or_else(|| args[0].clone());
            let mut line = emulator_line(t, program, argv0, extra.into_iter().chain(args.iter().skip(1).cloned()));
            // Open until the call fails, if it does.
            let filters = t.seccomp.filters().leave()?;
            if let Some(file) = &filters {
                let fd = CString::new(file.as_raw_fd().to_string()).expect("digits");
                line.splice(1..1, [c"-seccomp-filters".into(), fd]);
            }
            let limits = crate::options::limits_text(t.process.limits.lock().unwrap().iter().map(|(r, (soft, hard))| (*r, *soft, *hard)));
            if !limits.is_empty() {
                line.splice(1..1, [c"-limits".into(), CString::new(limits).expect("digits")]);
            }
            if t.process.config.options.log_file.is_some() {
                line.insert(1, c"-append-log".into());
            }
            let debugger = t.debug_exec(&path);
            if let Some(handed) = &debugger {
                line.splice(1..1, [c"-debugger".into(), handed.option.clone()]);
            }
            if t.process.config.strace {
                // The call's line ends here: the program that begins writes its own.
                crate::log::write("\n");
            }
            match execute_emulator(t, &line, &env) {
                // Nowhere to be found: the kernel may know how to run the program.
                Err(errno::ENOENT | errno::ENOTDIR | errno::ELOOP | errno::EACCES) => {
                    host_execve(t, dirfd, &path, &args, &env, flags)
                }
                done => done,
            }
        }
    }
}

pub fn execve(t: &mut Task, a: [u32; 6]) -> Ret {
    let shown = t.memory().read_path(a[0])?;
    let path = match procfs::link(t, &shown) {
        Some(exe) => exe,
        None => t.process.config.prefix.apply(shown.clone(), true),
    };
    run(t, AT_FDCWD as u32, path, shown, [a[1], a[2], 0])
}

pub fn execveat(t: &mut Task, a: [u32; 6]) -> Ret {
    let name = t.memory().read_path(a[1])?;
    let flags = a[4] as i32;
    if name.as_bytes().starts_with(b"/") || a[0] as i32 == AT_FDCWD && !name.is_empty() {
        let path = t.process.config.prefix.apply(name.clone(), flags & AT_SYMLINK_NOFOLLOW == 0);
        return run(t, AT_FDCWD as u32, path, name, [a[2], a[3], a[4] & !(AT_EMPTY_PATH as u32)]);
    }
    if name.is_empty() && flags & AT_EMPTY_PATH == 0 {
        return Err(errno::ENOENT);
    }
    let path = descriptor_path(a[0] as i32, &name)?;
    run(t, AT_FDCWD as u32, path.clone(), path, [a[2], a[3], 0])
}

/// A path for a name relative to a descriptor: the real one where there is one, else through /proc.
fn descriptor_path(fd: i32, name: &CStr) -> Result<CString, Errno> {
    let link = CString::new(format!("/proc/thread-self/fd/{fd}")).expect("no NUL");
    let mut buf = vec![0u8; PATH_MAX];
    // SAFETY: link and buffer live until the call returns.
    let n = unsafe { libc::readlink(link.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) };
    if n < 0 {
        return Err(errno::EBADF);
    }
    buf.truncate(n as usize);
    let real = CString::new(buf).map_err(|_| errno::ENOENT)?;
    // SAFETY: the path lives until the call returns.
    let exists = unsafe { libc::access(real.as_ptr(), F_OK) } == 0;
    if name.is_empty() {
        if exists {
            return Ok(real);
        }
        // A file without a name: the descriptor must survive the exec, as it does under a native kernel for scripts.
        // SAFETY: no memory involved.
        unsafe { libc::fcntl(fd, F_SETFD, 0) };
        return Ok(link);
    }
    CString::new([real.as_bytes(), b"/", name.to_bytes()].concat()).map_err(|_| errno::ENOENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines_of_scripts() {
        let parse = |s: &[u8]| parse_shebang(s).map(|(i, a)| (i.into_string().unwrap(), a.map(|a| a.into_string().unwrap())));
        assert_eq!(parse(b"#!/bin/sh\n"), Some(("/bin/sh".into(), None)));
        assert_eq!(parse(b"#! /usr/bin/env  python3 -u \nx"), Some(("/usr/bin/env".into(), Some("python3 -u".into()))));
        assert_eq!(parse(b"#!\n"), None);
        assert_eq!(parse(b"\x7fELF"), None);
    }
}
