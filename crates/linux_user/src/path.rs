//! Guest paths: the `-L` prefix, and the files of /proc that must show the guest instead of the emulator.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;

/// Trees that the prefix never covers: the kernel's own.
const KERNEL_TREES: [&[u8]; 3] = [b"/proc", b"/sys", b"/dev"];

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// What a symbolic link names; none for anything else.
fn link_target(path: &CStr) -> Option<Vec<u8>> {
    let mut buf = vec![0u8; crate::memory::PATH_MAX];
    // SAFETY: path and buffer live until the call returns.
    let n = unsafe { libc::readlink(path.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) };
    buf.truncate(usize::try_from(n).ok()?);
    Some(buf)
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
        let Some(prefix) = &self.0 else { return path };
        let mut path = path;
        for _ in 0..MAX_LINKS {
            let bytes = path.as_bytes();
            let kernels = |t: &&[u8]| bytes.starts_with(t) && matches!(bytes.get(t.len()), None | Some(b'/'));
            if bytes.first() != Some(&b'/') || KERNEL_TREES.iter().any(|t| kernels(t)) {
                return path;
            }
            let joined = CString::new([prefix, bytes].concat()).expect("two strings without NUL");
            // SAFETY: the string lives until the call returns.
            let found = unsafe { libc::faccessat(libc::AT_FDCWD, joined.as_ptr(), libc::F_OK, libc::AT_SYMLINK_NOFOLLOW) } == 0;
            if !found {
                return path;
            }
            match follow.then(|| link_target(&joined)).flatten() {
                None => return joined,
                Some(target) if target.starts_with(b"/") => path = CString::new(target).expect("a link has no NUL"),
                Some(target) => {
                    let slash = bytes.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
                    path = CString::new([&bytes[..slash], &target[..]].concat()).expect("a link has no NUL");
                }
            }
        }
        path
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
