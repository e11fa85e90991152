//! Guest paths: the `-L` prefix, and the files of /proc that must show the guest instead of the emulator.

use crate::errno::{self, Errno};
use crate::memory::{Memory, PATH_MAX};
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Trees that the prefix never covers: the kernel's own.
const KERNEL_TREES: [&[u8]; 3] = [b"/proc", b"/sys", b"/dev"];

/// Room for a path at first; longer ones move.
const TYPICAL_PATH: usize = 256;

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// What is at a path.
#[derive(Clone)]
enum Found {
    Nothing,
    /// A file, a directory: something that is not a link.
    Plain,
    /// A symbolic link, and what it names.
    Link(Vec<u8>),
}

/// Looks with one call: reading a link tells all three apart.
fn look_up(path: &CStr) -> Found {
    let mut buf = [std::mem::MaybeUninit::<u8>::uninit(); PATH_MAX];
    // SAFETY: path and buffer live until the call returns.
    let n = unsafe { libc::readlink(path.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) };
    match usize::try_from(n) {
        // SAFETY: the kernel has written so many bytes.
        Ok(n) => Found::Link(unsafe { std::slice::from_raw_parts(buf.as_ptr().cast(), n) }.to_vec()),
        Err(_) if Errno::last() == errno::EINVAL => Found::Plain,
        Err(_) => Found::Nothing,
    }
}

/// Names that are remembered at a time.
const REMEMBERED: usize = 64;

/// What was found below the prefix, for a program that asks for the same names again and again. It is forgotten when any
/// thread of the process has made a system call that is more than a look at a name, so whatever the program itself does, or
/// learns from others that they have done, is seen; and at every tick of the coarse clock, for those who only look.
struct Seen {
    any: AtomicBool,
    names: Mutex<Names>,
}

struct Names {
    tick: (i64, i64),
    /// By a hash of the guest's name.
    entries: [Option<(CString, Found)>; REMEMBERED],
}

impl Default for Seen {
    fn default() -> Self {
        Seen {
            any: AtomicBool::new(false),
            names: Mutex::new(Names { tick: (0, 0), entries: [const { None }; REMEMBERED] }),
        }
    }
}

impl Seen {
    // A lock that somebody holds (in the child of a fork perhaps for ever) is as good as an empty table.

    fn get(&self, name: &CStr) -> Option<Found> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let names = self.names.try_lock().ok()?;
        if names.tick != tick() {
            return None;
        }
        let (known, found) = names.entries[slot(name)].as_ref()?;
        (known.as_c_str() == name).then(|| found.clone())
    }

    fn put(&self, name: &CStr, found: Found) {
        let Ok(mut names) = self.names.try_lock() else { return };
        let now = tick();
        if names.tick != now || !self.any.load(Ordering::Acquire) {
            names.entries = [const { None }; REMEMBERED];
            names.tick = now;
        }
        names.entries[slot(name)] = Some((name.to_owned(), found));
        self.any.store(true, Ordering::Release);
    }
}

fn slot(name: &CStr) -> usize {
    let hash = |h: u32, b: &u8| (h ^ *b as u32).wrapping_mul(0x0100_0193);
    name.to_bytes().iter().fold(0x811c_9dc5, hash) as usize % REMEMBERED
}

/// The time, to a few milliseconds.
fn tick() -> (i64, i64) {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    (now.tv_sec, now.tv_nsec)
}

/// The prefix under which absolute paths are looked for first.
#[derive(Default)]
pub struct Prefix {
    root: Option<Vec<u8>>,
    seen: Seen,
}

impl Prefix {
    pub fn new(prefix: Option<&OsStr>) -> Prefix {
        let root = prefix.map(|p| {
            let mut bytes = p.as_bytes().to_vec();
            while bytes.last() == Some(&b'/') {
                bytes.pop();
            }
            bytes
        });
        Prefix { root, seen: Seen::default() }
    }

    /// Files may have come or gone.
    pub fn forget(&self) {
        if self.seen.any.load(Ordering::Acquire) {
            self.seen.any.store(false, Ordering::Release);
        }
    }

    /// Whether it is known that nothing is at `name` below the prefix.
    pub fn known_missing(&self, name: &CStr) -> bool {
        matches!(self.seen.get(name), Some(Found::Nothing))
    }

    /// Nothing is at `name` below the prefix.
    pub fn note_missing(&self, name: &CStr) {
        self.seen.put(name, Found::Nothing);
    }

    /// The host path for a guest path: below the prefix if something exists there, else the same. With `follow`, links are
    /// followed as the guest sees them: an absolute target is looked for below the prefix too.
    pub fn apply(&self, path: CString, follow: bool) -> CString {
        self.resolve(self.name(path.to_bytes_with_nul()), follow).host().to_owned()
    }

    /// As `apply`.
    pub fn resolve(&self, mut name: Name, follow: bool) -> Name {
        for _ in 0..MAX_LINKS {
            let Some(joined) = name.below() else { return name };
            let path = name.guest();
            let found = self.seen.get(path).unwrap_or_else(|| {
                let found = look_up(joined);
                self.seen.put(path, found.clone());
                found
            });
            match found {
                Found::Nothing => return name,
                Found::Link(target) if follow => {
                    let bytes = path.to_bytes();
                    let slash = bytes.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
                    let base = if target.starts_with(b"/") { &[] } else { &bytes[..slash] };
                    name = self.name(&[base, &target[..], b"\0"].concat());
                }
                _ => {
                    name.chosen = true;
                    return name;
                }
            }
        }
        name
    }

    /// A guest path, given with its NUL.
    fn name(&self, path: &[u8]) -> Name {
        let root = self.root.as_deref().unwrap_or_default();
        Name::new([root, path].concat(), root.len(), self.root.is_some())
    }

    /// The path at a guest address.
    pub fn read(&self, memory: &Memory, addr: u32) -> Result<Name, Errno> {
        let root = self.root.as_deref().unwrap_or_default();
        let mut bytes = Vec::with_capacity(root.len() + TYPICAL_PATH);
        bytes.extend_from_slice(root);
        memory.append_string(addr, PATH_MAX, &mut bytes)?;
        Ok(Name::new(bytes, root.len(), self.root.is_some()))
    }

    pub fn is_set(&self) -> bool {
        self.root.is_some()
    }
}

/// A guest path and, in the same bytes, where it would be below the prefix.
pub struct Name {
    /// The prefix, the path, NUL.
    bytes: Vec<u8>,
    /// Where the path begins.
    at: usize,
    /// The prefix applies to it.
    covered: bool,
    /// There is something below the prefix.
    chosen: bool,
}

impl Name {
    fn new(bytes: Vec<u8>, at: usize, prefixed: bool) -> Name {
        let path = &bytes[at..];
        let kernels = |t: &&[u8]| path.starts_with(t) && matches!(path.get(t.len()), Some(0 | b'/'));
        let covered = prefixed && path.first() == Some(&b'/') && !KERNEL_TREES.iter().any(|t| kernels(t));
        Name { bytes, at, covered, chosen: false }
    }

    fn from_byte(&self, at: usize) -> &CStr {
        // SAFETY: who makes a name cuts it at the first NUL, which it keeps; the prefix, an argument, has none.
        unsafe { CStr::from_bytes_with_nul_unchecked(&self.bytes[at..]) }
    }

    /// As the guest gave it.
    pub fn guest(&self) -> &CStr {
        self.from_byte(self.at)
    }

    /// Where it would be below the prefix; none if the prefix does not apply to it.
    pub fn below(&self) -> Option<&CStr> {
        self.covered.then(|| self.from_byte(0))
    }

    /// What `Prefix::resolve` has decided on.
    pub fn host(&self) -> &CStr {
        self.from_byte(if self.chosen { 0 } else { self.at })
    }
}

/// The file below /proc/<this process> that a path names, for `self`, `thread-self` and the process's own number.
pub fn own_proc_file(path: &CStr) -> Option<&str> {
    let rest = path.to_bytes().strip_prefix(b"/proc/")?;
    let rest = std::str::from_utf8(rest).ok()?;
    let (who, file) = rest.split_once('/')?;
    let own = who == "self" || who == "thread-self" || who.parse() == Ok(std::process::id());
    if !own {
        return None;
    }
    match file.strip_prefix("task/").and_then(|t| t.split_once('/')) {
        Some((_, inner)) => Some(inner),
        None => Some(file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_existing_files_move_under_the_prefix() {
        let p = Prefix::new(Some(OsStr::new("/usr/")));
        let apply = |s: &str| p.apply(CString::new(s).unwrap(), false).into_string().unwrap();
        assert_eq!(apply("/bin"), "/usr/bin");
        assert_eq!(apply("/no such file"), "/no such file");
        assert_eq!(apply("bin"), "bin");
        assert_eq!(apply("/proc/self"), "/proc/self");
    }

    #[test]
    fn what_was_seen_is_forgotten() {
        let dir = std::env::temp_dir().join(format!("rhea-prefix-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let p = Prefix::new(Some(dir.as_os_str()));
        let apply = || p.apply(CString::new("/made later").unwrap(), true).into_string().unwrap();
        assert_eq!(apply(), "/made later");
        std::fs::write(dir.join("made later"), "").unwrap();
        p.forget();
        let below = dir.join("made later").into_os_string().into_string().unwrap();
        assert_eq!(apply(), below);
        std::fs::remove_dir_all(&dir).unwrap();
        // Without being told, it sees the change when the clock has ticked.
        let begin = tick();
        while tick() == begin {
            std::hint::spin_loop();
        }
        assert_eq!(apply(), "/made later");
    }

    #[test]
    fn own_files_of_proc() {
        let own = |s: String| own_proc_file(&CString::new(s).unwrap()).map(str::to_owned);
        assert_eq!(own("/proc/self/maps".into()), Some("maps".into()));
        assert_eq!(own(format!("/proc/{}/exe", std::process::id())), Some("exe".into()));
        assert_eq!(own(format!("/proc/self/task/{}/stat", 1)), Some("stat".into()));
        assert_eq!(own("/proc/1/maps".into()), None);
        assert_eq!(own("/proc/cpuinfo".into()), None);
    }
}
