//! Guest paths: the `-L` prefix, and the files of /proc that must show the guest instead of the emulator.

use crate::errno::{self, Errno};
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;

/// Trees that the prefix never covers: the kernel's own.
const KERNEL_TREES: [&[u8]; 3] = [b"/proc", b"/sys", b"/dev"];

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// What is at a path.
enum Found {
    Nothing,
    /// A file, a directory: something that is not a link.
    Plain,
    /// A symbolic link, and what it names.
    Link(Vec<u8>),
}

/// Looks with one call: reading a link tells all three apart.
fn look_up(path: &CStr) -> Found {
    let mut buf = [std::mem::MaybeUninit::<u8>::uninit(); crate::memory::PATH_MAX];
    // SAFETY: path and buffer live until the call returns.
    let n = unsafe { libc::readlink(path.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) };
    match usize::try_from(n) {
        // SAFETY: the kernel has written so many bytes.
        Ok(n) => Found::Link(unsafe { std::slice::from_raw_parts(buf.as_ptr().cast(), n) }.to_vec()),
        Err(_) if Errno::last() == errno::EINVAL => Found::Plain,
        Err(_) => Found::Nothing,
    }
}

/// The prefix under which absolute paths are looked for first.
#[derive(Clone, Debug, Default)]
pub struct Prefix(Option<Vec<u8>>);

impl Prefix {
    pub fn new(prefix: Option<&OsStr>) -> Prefix {
        Prefix(prefix.map(|p| {
            let mut bytes = p.as_bytes().to_vec();
            while bytes.last() == Some(&b'/') {
                bytes.pop();
            }
            bytes
        }))
    }

    /// The host path for a guest path: below the prefix if something exists there, else the same. With `follow`, links are
    /// followed as the guest sees them: an absolute target is looked for below the prefix too.
    pub fn apply(&self, path: CString, follow: bool) -> CString {
        let mut path = path;
        for _ in 0..MAX_LINKS {
            let Some(joined) = self.candidate(&path) else { return path };
            match look_up(&joined) {
                Found::Nothing => return path,
                Found::Link(target) if follow => {
                    let bytes = path.as_bytes();
                    let slash = bytes.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
                    let base = if target.starts_with(b"/") { &[] } else { &bytes[..slash] };
                    path = CString::new([base, &target[..]].concat()).expect("a link has no NUL");
                }
                _ => return joined,
            }
        }
        path
    }

    /// Where a path would be below the prefix; none if the prefix does not apply to it.
    pub fn candidate(&self, path: &CStr) -> Option<CString> {
        let prefix = self.0.as_ref()?;
        let bytes = path.to_bytes();
        let kernels = |t: &&[u8]| bytes.starts_with(t) && matches!(bytes.get(t.len()), None | Some(b'/'));
        if bytes.first() != Some(&b'/') || KERNEL_TREES.iter().any(|t| kernels(t)) {
            return None;
        }
        Some(CString::new([prefix, bytes].concat()).expect("two strings without NUL"))
    }

    pub fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// A path under the prefix as the guest knows it.
    pub fn strip<'a>(&self, path: &'a [u8]) -> &'a [u8] {
        match &self.0 {
            Some(p) if path.starts_with(p) && path.get(p.len()) == Some(&b'/') => &path[p.len()..],
            _ => path,
        }
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
        assert_eq!(p.strip(b"/usr/bin/x"), b"/bin/x");
        assert_eq!(p.strip(b"/usrlocal"), b"/usrlocal");
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
