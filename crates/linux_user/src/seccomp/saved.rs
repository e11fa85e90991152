//! Filters across execve: a file without a name that the next emulator reads.

use super::program::{Insn, check};
use super::{Filter, Filters, MAX_TOTAL};
use crate::errno::Errno;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A saved instruction: code, jt, jf, k. A program is its length and then its instructions.
const SAVED_BYTES: usize = 8;
/// In the length: the filter has a listener, which the host's kernel knows.
const LISTENS: u32 = 1 << 31;

/// Descriptors of `leave` begin here.
const LEFT_FROM: i32 = 900;

impl Filters {
    /// Writes the filters to a file without a name that execve leaves open; none if there are none.
    pub fn leave(&self) -> Result<Option<File>, Errno> {
        if self.list.is_empty() {
            return Ok(None);
        }
        // SAFETY: the name is a constant; the descriptors are ours. The second is out of the way of the guest's.
        let mut file = unsafe {
            let low = libc::memfd_create(c"seccomp".as_ptr(), 0);
            if low < 0 {
                return Err(Errno::last());
            }
            let low = File::from_raw_fd(low);
            let high = libc::fcntl(low.as_raw_fd(), libc::F_DUPFD, LEFT_FROM);
            if high < 0 {
                return Err(Errno::last());
            }
            File::from_raw_fd(high)
        };
        let mut bytes = Vec::new();
        for filter in &self.list {
            let note = if filter.listens { LISTENS } else { 0 };
            bytes.extend((filter.program.len() as u32 | note).to_le_bytes());
            for i in &filter.program {
                bytes.extend(i.code.to_le_bytes());
                bytes.extend([i.jt, i.jf]);
                bytes.extend(i.k.to_le_bytes());
            }
        }
        file.write_all(&bytes).map_err(|e| Errno(e.raw_os_error().unwrap_or(libc::EIO)))?;
        Ok(Some(file))
    }

    /// Takes over what `leave` has written, and closes the descriptor.
    pub fn take_over(fd: i32) -> spec::Result<Filters> {
        let bad = || spec::Error::new(format!("qemu-arm: -seccomp-filters {fd}: not a list of filters"));
        // SAFETY: asks for flags only.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            return Err(bad());
        }
        // SAFETY: the descriptor is open, and left for us.
        let file = unsafe { File::from_raw_fd(fd) };
        let mut bytes = vec![0; file.metadata().map_or(0, |m| m.len()).min((MAX_TOTAL * SAVED_BYTES) as u64) as usize];
        file.read_exact_at(&mut bytes, 0).map_err(|_| bad())?;
        let mut filters = Filters::default();
        let mut rest = &bytes[..];
        while let Some((length, more)) = rest.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length);
            let size = (length & !LISTENS) as usize * SAVED_BYTES;
            let program: Vec<Insn> = more.get(..size).ok_or_else(bad)?.chunks_exact(SAVED_BYTES).map(saved).collect();
            if !check(&program) {
                return Err(bad());
            }
            filters.list.push(Arc::new(Filter { program, listens: length & LISTENS != 0 }));
            rest = &more[size..];
        }
        Ok(filters)
    }
}

fn saved(b: &[u8]) -> Insn {
    Insn { code: u16::from_le_bytes([b[0], b[1]]), jt: b[2], jf: b[3], k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]) }
}

#[cfg(test)]
mod tests {
    use super::super::program::evaluate;
    use super::super::{RET_ALLOW, RET_ERRNO};
    use super::*;

    #[test]
    fn filters_go_through_a_file() {
        let insn = |code, jt, jf, k| Insn { code, jt, jf, k };
        let p = vec![insn(0x20, 0, 0, 0), insn(0x15, 0, 1, 20), insn(6, 0, 0, RET_ERRNO | 1), insn(6, 0, 0, RET_ALLOW)];
        let filter = |program: &[Insn], listens| Arc::new(Filter { program: program.to_vec(), listens });
        let filters = Filters { list: vec![filter(&p, true), filter(&p[3..], false)], strict: false };
        let file = filters.leave().unwrap().unwrap();
        let back = Filters::take_over(std::os::fd::IntoRawFd::into_raw_fd(file)).unwrap();
        assert_eq!(back.list.iter().map(|f| f.listens).collect::<Vec<_>>(), [true, false]);
        assert_eq!(evaluate(&back.list[0].program, |_| 20), RET_ERRNO | 1);
        assert!(Filters::default().leave().unwrap().is_none());
        assert!(Filters::take_over(-1).is_err());
    }
}
