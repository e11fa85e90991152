//! Asks the host to begin writing a file's pages to its disk.
//!
//! Reference: sync_file_range(2).
//!
//! Invariants:
//! 1. The call takes a descriptor that lives for it, and numbers; the kernel keeps nothing.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Begins to write a range and does not wait for it. This says nothing about when the data is safe: that is fdatasync's.
pub fn begin(file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: invariant 1.
    let done = unsafe { libc::sync_file_range(file.as_raw_fd(), offset as i64, len as i64, libc::SYNC_FILE_RANGE_WRITE) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn files_have_pages_and_devices_have_not() {
        let path = std::env::temp_dir().join(format!("rhea-writeback-{}", std::process::id()));
        std::fs::write(&path, [1; 8192]).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        begin(file.as_fd(), 0, 8192).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(begin(null.as_fd(), 0, 8192).unwrap_err().raw_os_error(), Some(libc::ESPIPE));
        std::fs::remove_file(path).unwrap();
    }
}
