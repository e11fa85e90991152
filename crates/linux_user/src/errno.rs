//! Error numbers of system calls. The generic numbers are the same on ARM and on the host, so they pass unchanged.

/// A failed system call's error number (positive).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

/// What a system call gives back: the value for r0, or an error.
pub type Ret = Result<u32, Errno>;

/// A signal came before or while the call waited: deliver it, then run the call again unless the handler wants EINTR.
/// No error number of the kernel's, nor of a filter's (4095 at most).
pub const RESTART: Errno = Errno(0x1_0000);
/// The registers are set already (sigreturn).
pub const JUST_RETURN: Errno = Errno(0x1_0001);

macro_rules! errnos {
    ($($name:ident)*) => { $(pub const $name: Errno = Errno(libc::$name);)* };
}

errnos! {
    EPERM ENOENT ESRCH EINTR EIO E2BIG ENOEXEC EBADF EAGAIN ENOMEM EACCES EFAULT EEXIST ENODEV ENOTDIR EINVAL ENOTTY
    ERANGE ENAMETOOLONG ENOSYS EBUSY ENOTSUP EOPNOTSUPP EOVERFLOW EAFNOSUPPORT ENOPROTOOPT ETIMEDOUT ELOOP EDEADLK
}

impl Errno {
    /// The calling thread's `errno`.
    pub fn last() -> Errno {
        Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }

    /// The C library's text for the number.
    pub fn text(self) -> String {
        // SAFETY: strerror_r with a buffer of the length given; the GNU or XSI variant both leave a C string.
        unsafe {
            let mut buf = [0 as libc::c_char; 128];
            if libc::strerror_r(self.0, buf.as_mut_ptr(), buf.len()) != 0 {
                return format!("Unknown error {}", self.0);
            }
            std::ffi::CStr::from_ptr(buf.as_ptr()).to_string_lossy().into_owned()
        }
    }
}

/// The result of a raw host system call as a value or an error.
pub fn check(raw: i64) -> Result<i64, Errno> {
    if (-4095..0).contains(&raw) { Err(Errno(-raw as i32)) } else { Ok(raw) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_results_split_at_minus_4095() {
        assert_eq!(check(-libc::ENOENT as i64), Err(ENOENT));
        assert_eq!(check(-4096), Ok(-4096));
        assert_eq!(check(0), Ok(0));
        assert_eq!(ENOENT.text(), "No such file or directory");
    }
}
