//! Descriptors that our parent opened and told us by number (`fd=7`).
//!
//! Invariants:
//! 1. A number that came from the command line is only duplicated, never owned: what is returned is a new
//!    descriptor, and the old one stays whoever's it is.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// A duplicate of an open descriptor; an error if there is none with this number.
pub fn duplicate(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: asks about a number; no memory is involved.
    if number < 0 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: invariant 1; it was open just now, and the borrow ends before anybody can close it
    // (programs parse their command line before they start threads).
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    borrowed.try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn an_open_number_is_duplicated_and_a_closed_one_is_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let copy = duplicate(file.as_raw_fd()).unwrap();
        assert_ne!(copy.as_raw_fd(), file.as_raw_fd());
        assert!(duplicate(-1).is_err() && duplicate(999_999).is_err());
    }
}
