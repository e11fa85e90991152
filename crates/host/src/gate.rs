//! A gate between a process and its forked child: the parent waits until the child has opened it or has died.
//!
//! Invariants:
//! 1. The descriptors belong to the gate and are closed when it is dropped, on both sides.

/// Made before a fork. Without descriptors left it stands open, which is no worse than not having it.
pub struct Gate {
    read: i32,
    write: i32,
}

impl Gate {
    #[allow(clippy::new_without_default, reason = "it takes descriptors")]
    pub fn new() -> Gate {
        let mut fds = [-1; 2];
        // SAFETY: the array has room for two descriptors.
        if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
            fds = [-1; 2];
        }
        Gate { read: fds[0], write: fds[1] }
    }

    /// In the parent: waits for `open` in the child, or for its end.
    pub fn wait(mut self) {
        close(&mut self.write);
        let mut byte = 0u8;
        // SAFETY: the byte is ours. Signals do not end the wait.
        while unsafe { libc::read(self.read, (&raw mut byte).cast(), 1) } < 0
            && std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted
        {}
    }

    /// In the child.
    pub fn open(self) {
        // SAFETY: one byte of a constant.
        unsafe { libc::write(self.write, b"!".as_ptr().cast(), 1) };
    }
}

fn close(fd: &mut i32) {
    if *fd >= 0 {
        // SAFETY: invariant 1.
        unsafe { libc::close(*fd) };
        *fd = -1;
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        close(&mut self.read);
        close(&mut self.write);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_waits_for_the_child() {
        let gate = Gate::new();
        // SAFETY: the child makes system calls only.
        match unsafe { libc::fork() } {
            0 => {
                gate.open();
                // SAFETY: ends the child.
                unsafe { libc::_exit(0) }
            }
            child => {
                assert!(child > 0);
                gate.wait();
                // SAFETY: collects the child.
                unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            }
        }
    }
}
