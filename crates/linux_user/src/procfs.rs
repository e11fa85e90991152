//! Files of /proc that must show the guest instead of the emulator.

use crate::call::file::memory_file;
use crate::errno::{Errno, Ret};
use crate::fds::Kind;
use crate::memory::{HELPER_PAGE, Memory, PAGE, SHARED};
use crate::path::own_proc_file;
use crate::task::Task;
use jit::PageFlags;
use std::ffi::{CStr, CString};
use std::fmt::Write;

/// What a link of /proc points to for the guest; none for all other paths.
pub fn link(t: &Task, path: &CStr) -> Option<CString> {
    (own_proc_file(path)? == "exe").then(|| t.process.config.exe.clone())
}

/// Opens a file of /proc that we make ourselves; none for all other paths.
pub fn open(t: &mut Task, path: &CStr, flags: i32) -> Option<Ret> {
    if !path.to_bytes().starts_with(b"/proc/") {
        return None;
    }
    let cloexec = flags & libc::O_CLOEXEC != 0;
    let stack = &t.process.config.stack;
    let contents = match own_proc_file(path) {
        Some("exe") => {
            let exe = t.process.config.exe.clone();
            // SAFETY: the path lives until the call returns.
            let fd = unsafe { libc::open(exe.as_ptr(), flags) };
            return Some(if fd < 0 { Err(Errno::last()) } else { Ok(fd as u32) });
        }
        Some("mem") => return Some(open_memory(t, flags)),
        Some("smaps") => maps(t, true),
        Some("maps") => {
            let file = memory_file("proc", &maps(t, false), cloexec);
            return Some(file.inspect(|fd| t.fds.set(*fd as i32, Kind::Maps)).map(|fd| fd as u32));
        }
        Some("cmdline") => strings(t, stack.arg_start, stack.arg_end),
        Some("environ") => strings(t, stack.env_start, stack.env_end),
        Some("limits") => limits(t, path)?,
        Some("auxv") => t.process.config.stack.auxv.clone(),
        Some("stat") => stat(t, path)?,
        Some("status") => status(t, path)?,
        Some("statm") => statm(t, path)?,
        _ if path.to_bytes() == b"/proc/cpuinfo" => cpuinfo(t).into_bytes(),
        _ => return None,
    };
    Some(memory_file("proc", &contents, cloexec).map(|fd| fd as u32))
}

/// The process's own memory: positions are guest addresses, which `fds` translates.
fn open_memory(t: &Task, flags: i32) -> Ret {
    // SAFETY: constant path.
    let fd = unsafe { libc::open(c"/proc/self/mem".as_ptr(), flags) };
    if fd < 0 {
        return Err(Errno::last());
    }
    t.fds.set(fd, Kind::Memory);
    // SAFETY: no memory involved; position 0 of the guest.
    unsafe { libc::lseek(fd, t.memory().host(0) as i64, libc::SEEK_SET) };
    Ok(fd as u32)
}

/// One line of the host's maps, with guest addresses.
struct Mapping {
    start: u64,
    end: u64,
    /// Offset, device, inode.
    middle: String,
    offset: u64,
    name: String,
    /// smaps' lines.
    details: String,
}

/// The host's mappings inside of the guest's window.
fn host_mappings(memory: &Memory, file: &str) -> Vec<Mapping> {
    let base = memory.host(0) as u64;
    let Ok(bytes) = std::fs::read(file) else { return Vec::new() };
    let text = String::from_utf8_lossy(&bytes);
    let mut out: Vec<Mapping> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match parse_line(line, base) {
            Some(m) => {
                inside = m.is_some();
                out.extend(m);
            }
            None if inside => {
                if let Some(m) = out.last_mut() {
                    m.details.push_str(line);
                    m.details.push('\n');
                }
            }
            None => {}
        }
    }
    out
}

/// None for a line that is no mapping, `Some(None)` for a mapping outside of the window.
fn parse_line(line: &str, base: u64) -> Option<Option<Mapping>> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    let permissions = words.next()?;
    let (offset, device, inode) = (words.next()?, words.next()?, words.next()?);
    let name = words.next().unwrap_or("").trim_start().to_string();
    let top = base + (1 << 32);
    if end <= base || start >= top || permissions.starts_with("---") && name.is_empty() && inode == "0" {
        return Some(None);
    }
    let (start, end) = (start.max(base) - base, end.min(top) - base);
    let middle = format!("{device} {inode}");
    let offset = u64::from_str_radix(offset, 16).unwrap_or(0);
    Some(Some(Mapping { start, end, middle, offset, name, details: String::new() }))
}

/// One line of maps and smaps: the host's file and offset, the guest's addresses and permissions.
pub struct Line<'a> {
    pub start: u64,
    pub end: u64,
    pub flags: PageFlags,
    pub offset: u64,
    pub name: &'a str,
    /// The host's line.
    host: Option<&'a Mapping>,
}

impl Line<'_> {
    pub fn is_of_file(&self) -> bool {
        self.host.is_some_and(|m| !m.middle.ends_with(" 0"))
    }
}

/// The guest's mappings.
fn lines<'a>(t: &Task, host: &'a [Mapping]) -> Vec<Line<'a>> {
    let memory = t.memory();
    let stack = &t.process.config.stack;
    let heap = memory.brk_range();
    let sp = crate::abi::arm::reg(t.vcpu.state(), crate::abi::arm::SP) as u64;
    let mut out = Vec::new();
    for (start, area) in memory.areas() {
        let (mut at, end) = (start as u64, area.end);
        while at < end {
            // The host's lines are in order, and may be many.
            let mut index = host.partition_point(|m| m.end <= at);
            let here = host.get(index);
            let m = here.filter(|m| m.start <= at);
            let mut stop = m.map_or_else(|| here.map_or(end, |m| m.start), |m| m.end).min(end);
            // Host lines are cut where translated code made pages read-only: join what is one mapping.
            while let (Some(first), Some(next)) = (m, host.get(index + 1))
                && next.start == stop
                && stop < end
                && continues(first, next)
            {
                stop = next.end.min(end);
                index += 1;
            }
            let name = match m {
                Some(m) if !m.name.is_empty() => m.name.as_str(),
                _ if stop > heap.0 && at < heap.1 => "[heap]",
                _ if at < stack.top as u64 && stop > stack.lowest as u64 && sp < stack.top as u64 => "[stack]",
                _ => "",
            };
            let offset = m.map_or(0, |m| if m.offset == 0 && m.name.is_empty() { 0 } else { m.offset + (at - m.start) });
            out.push(Line { start: at, end: stop, flags: area.flags, offset, name, host: m });
            at = stop;
        }
    }
    let flags = PageFlags::MAPPED.with(PageFlags::READ).with(PageFlags::EXEC);
    let page = HELPER_PAGE as u64;
    out.push(Line { start: page, end: page + PAGE as u64, flags, offset: 0, name: "[vectors]", host: None });
    out
}

/// maps and smaps.
fn maps(t: &Task, with_details: bool) -> Vec<u8> {
    let host = host_mappings(t.memory(), if with_details { "/proc/self/smaps" } else { "/proc/self/maps" });
    let mut out = String::new();
    for l in lines(t, &host) {
        let flag = |f: PageFlags, c: char| if l.flags.has(f) { c } else { '-' };
        let middle = l.host.map_or("00:00 0", |m| m.middle.as_str());
        let head = format!(
            "{:08x}-{:08x} {}{}{}{} {:08x} {middle}",
            l.start,
            l.end,
            flag(PageFlags::READ, 'r'),
            flag(PageFlags::WRITE, 'w'),
            flag(PageFlags::EXEC, 'x'),
            if l.flags.has(SHARED) { 's' } else { 'p' },
            l.offset,
        );
        let _ = if l.name.is_empty() { writeln!(out, "{head} ") } else { writeln!(out, "{head:<72} {}", l.name) };
        if with_details {
            out.push_str(l.host.map_or("", |m| m.details.as_str()));
        }
    }
    out.into_bytes()
}

/// The guest's mapping at `addr`, or the next one that is wanted, if `next` may be looked for.
pub fn find_line<R>(t: &Task, addr: u64, next: bool, wanted: impl Fn(&Line) -> bool, then: impl FnOnce(&Line) -> R) -> Option<R> {
    let host = host_mappings(t.memory(), "/proc/self/maps");
    let lines = lines(t, &host);
    lines.iter().filter(|l| l.end > addr && (next || l.start <= addr)).find(|l| wanted(l)).map(then)
}

fn continues(first: &Mapping, next: &Mapping) -> bool {
    first.name == next.name
        && first.middle == next.middle
        && (first.name.is_empty() || next.offset == first.offset + (next.start - first.start))
}

/// ` in FILE+OFFSET` material: which file a code address belongs to.
pub fn place(memory: &Memory, pc: u32) -> Option<String> {
    let all = host_mappings(memory, "/proc/self/maps");
    let m = all.iter().find(|m| m.start <= pc as u64 && (pc as u64) < m.end && !m.name.is_empty())?;
    Some(format!("{}+{:#x}", m.name, m.offset + pc as u64 - m.start))
}

fn host_text(path: &CStr) -> Option<String> {
    let path = path.to_str().ok()?;
    Some(String::from_utf8_lossy(&std::fs::read(path).ok()?).into_owned())
}

/// Name of the program without its directories, as the kernel cuts it.
fn command_name(t: &Task) -> String {
    let exe = t.process.config.exe.to_string_lossy();
    let name = exe.rsplit('/').next().unwrap_or("");
    name.chars().take(15).collect()
}

/// Bytes that the guest has mapped.
fn mapped_bytes(t: &Task) -> u64 {
    t.memory().areas().iter().map(|(s, a)| a.end - *s as u64).sum()
}

/// Arguments or environment: what their place in memory holds now, which is how a program changes what `ps` shows of it.
fn strings(t: &Task, start: u32, end: u32) -> Vec<u8> {
    t.memory().read_vec(start, end.saturating_sub(start) as usize).unwrap_or_default()
}

/// limits: those that are kept for the guest instead of the host's.
fn limits(t: &Task, path: &CStr) -> Option<Vec<u8>> {
    const LINES: [(&str, u32); 3] =
        [("Max address space", libc::RLIMIT_AS), ("Max data size", libc::RLIMIT_DATA), ("Max stack size", libc::RLIMIT_STACK)];
    let kept = t.process.limits.lock().unwrap();
    let number = |v: u64| if v == libc::RLIM_INFINITY { "unlimited".to_string() } else { v.to_string() };
    let mut out = String::new();
    for line in host_text(path)?.lines() {
        let own = LINES.iter().find(|(name, _)| line.starts_with(name)).and_then(|(name, r)| kept.get(r).map(|v| (name, v)));
        let _ = match own {
            Some((name, (soft, hard))) => writeln!(out, "{name:<25} {:<20} {:<20} {:<10}", number(*soft), number(*hard), "bytes"),
            None => writeln!(out, "{line}"),
        };
    }
    Some(out.into_bytes())
}

/// stat: the name, the size, and the addresses of stack and arguments are the guest's.
fn stat(t: &Task, path: &CStr) -> Option<Vec<u8>> {
    let text = host_text(path)?;
    let (head, tail) = text.rsplit_once(") ")?;
    let pid = head.split(' ').next()?;
    let mut fields: Vec<String> = tail.trim_end().split(' ').map(str::to_owned).collect();
    // Field numbers of proc(5), of which the first two are in the head. 25: a limit is a word of the guest's.
    if let Some(f) = fields.get_mut(25 - 3)
        && f.parse::<u64>().is_ok_and(|v| v > u32::MAX as u64)
    {
        *f = u32::MAX.to_string();
    }
    let mut put = |number: usize, value: u64| {
        if let Some(f) = fields.get_mut(number - 3) {
            *f = value.to_string();
        }
    };
    let (s, image) = (&t.process.config.stack, &t.process.config.program);
    put(23, mapped_bytes(t));
    put(28, s.sp as u64);
    for (number, value) in [(26, image.code.0), (27, image.code.1), (45, image.data.0), (46, image.data.1)] {
        put(number, value as u64);
    }
    put(47, t.memory().brk_range().0);
    put(29, 0);
    put(30, 0);
    for (number, value) in [(48, s.arg_start), (49, s.arg_end), (50, s.env_start), (51, s.env_end)] {
        put(number, value as u64);
    }
    Some(format!("{pid} ({}) {}\n", comm(t), fields.join(" ")).into_bytes())
}

/// The thread's name: what prctl has set, else the program's.
fn comm(t: &Task) -> String {
    let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap_or_default();
    let name = name.trim_end();
    if name.is_empty() { command_name(t) } else { name.to_owned() }
}

fn status(t: &Task, path: &CStr) -> Option<Vec<u8>> {
    let size = mapped_bytes(t) / 1024;
    let caught = t.process.actions.lock().unwrap().caught();
    let mut out = String::new();
    for line in host_text(path)?.lines() {
        let _ = match line.split_once(':').map_or("", |l| l.0) {
            key @ ("VmPeak" | "VmSize") => writeln!(out, "{key}:\t{size:8} kB"),
            "SigCgt" => writeln!(out, "SigCgt:\t{caught:016x}"),
            "Seccomp" => writeln!(out, "Seccomp:\t{}", t.seccomp.mode()),
            "Seccomp_filters" => writeln!(out, "Seccomp_filters:\t{}", t.seccomp.filters().count()),
            "SigBlk" => writeln!(out, "SigBlk:\t{:016x}", t.signals.mask),
            _ => writeln!(out, "{line}"),
        };
    }
    Some(out.into_bytes())
}

fn statm(t: &Task, path: &CStr) -> Option<Vec<u8>> {
    let text = host_text(path)?;
    let rest = text.split_once(' ')?.1;
    Some(format!("{} {rest}", mapped_bytes(t) / 4096).into_bytes())
}

/// Names of the hardware capabilities, by bit of AT_HWCAP and AT_HWCAP2.
const HWCAP: [&str; 32] = [
    "swp", "half", "thumb", "26bit", "fastmult", "fpa", "vfp", "edsp", "java", "iwmmxt", "crunch", "thumbee", "neon",
    "vfpv3", "vfpv3d16", "tls", "vfpv4", "idiva", "idivt", "vfpd32", "lpae", "evtstrm", "fphp", "asimdhp", "asimddp",
    "asimdfhm", "asimdbf16", "i8mm", "", "", "", "",
];
const HWCAP2: [&str; 7] = ["aes", "pmull", "sha1", "sha2", "crc32", "sb", "ssbs"];

fn cpuinfo(t: &Task) -> String {
    let cpu = t.process.config.options.cpu;
    let names = |bits: u32, all: &[&'static str]| -> Vec<&'static str> {
        (0..all.len()).filter(|i| bits & 1 << i != 0).map(|i| all[i]).filter(|n| !n.is_empty()).collect()
    };
    let features = [names(cpu.hwcap, &HWCAP), names(cpu.hwcap2, &HWCAP2)].concat().join(" ");
    let version: u32 = cpu.platform.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(7);
    let midr = cpu.midr();
    // The kernel's names, from ARMv6 on.
    let name = match version {
        0..=5 => cpu.name.to_uppercase(),
        6 => "ARMv6-compatible processor".into(),
        _ => format!("ARMv{version} Processor"),
    };
    let count = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut out = String::new();
    for i in 0..count {
        let _ = write!(
            out,
            "processor\t: {i}\nmodel name\t: {name} rev {} ({})\nBogoMIPS\t: 100.00\nFeatures\t: {features} \n\
             CPU implementer\t: {:#04x}\nCPU architecture: {version}\nCPU variant\t: {:#x}\nCPU part\t: {:#05x}\nCPU revision\t: {}\n\n",
            midr & 15,
            cpu.platform,
            midr >> 24,
            midr >> 20 & 15,
            midr >> 4 & 0xfff,
            midr & 15
        );
    }
    out.push_str("Hardware\t: QEMU user mode\nRevision\t: 0000\nSerial\t\t: 0000000000000000\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_outside_of_the_window_are_left_out() {
        let base = 0x7f00_0000_0000;
        let line = "7f0000010000-7f0000020000 r--p 00001000 fe:01 1234   /bin/my file";
        let m = parse_line(line, base).unwrap().unwrap();
        assert_eq!((m.start, m.end, m.offset, m.name.as_str()), (0x10000, 0x20000, 0x1000, "/bin/my file"));
        assert!(parse_line("400000-401000 r-xp 00000000 00:00 0", base).unwrap().is_none());
        assert!(parse_line("7f0000010000-7f0000020000 ---p 00000000 00:00 0 ", base).unwrap().is_none());
        assert!(parse_line("Size:                  4 kB", base).is_none());
    }
}
