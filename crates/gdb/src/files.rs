//! Reading files for the debugger (`vFile`), so that it finds the guest's libraries where the guest finds them.

use crate::adapter::Adapter;
use gdbstub::target::ext::host_io::*;
use std::os::unix::fs::FileExt;

/// Files that a debugger may have open at once.
const MAX_OPEN: usize = 256;

impl HostIo for Adapter<'_> {
    fn support_open(&mut self) -> Option<HostIoOpenOps<'_, Self>> {
        Some(self)
    }

    fn support_close(&mut self) -> Option<HostIoCloseOps<'_, Self>> {
        Some(self)
    }

    fn support_pread(&mut self) -> Option<HostIoPreadOps<'_, Self>> {
        Some(self)
    }

    fn support_setfs(&mut self) -> Option<HostIoSetfsOps<'_, Self>> {
        Some(self)
    }
}

fn failed<T, E>(errno: HostIoErrno) -> Result<T, HostIoError<E>> {
    Err(HostIoError::Errno(errno))
}

impl HostIoOpen for Adapter<'_> {
    fn open(&mut self, name: &[u8], flags: HostIoOpenFlags, _: HostIoOpenMode) -> HostIoResult<u32, Self> {
        let writes = HostIoOpenFlags::O_WRONLY | HostIoOpenFlags::O_RDWR | HostIoOpenFlags::O_CREAT | HostIoOpenFlags::O_TRUNC;
        if flags.intersects(writes) {
            return failed(HostIoErrno::EROFS);
        }
        let file = self.target.open_file(name)?;
        let free = self.files.iter().position(Option::is_none).unwrap_or(self.files.len());
        if free >= MAX_OPEN {
            return failed(HostIoErrno::EMFILE);
        }
        self.files.resize_with(self.files.len().max(free + 1), || None);
        self.files[free] = Some((name.to_vec(), file));
        Ok(free as u32)
    }
}

impl HostIoClose for Adapter<'_> {
    fn close(&mut self, fd: u32) -> HostIoResult<(), Self> {
        match self.files.get_mut(fd as usize).and_then(Option::take) {
            Some(_) => Ok(()),
            None => failed(HostIoErrno::EBADF),
        }
    }
}

impl HostIoPread for Adapter<'_> {
    fn pread(&mut self, fd: u32, count: usize, offset: u64, buf: &mut [u8]) -> HostIoResult<usize, Self> {
        let Some(Some((_, file))) = self.files.get(fd as usize) else { return failed(HostIoErrno::EBADF) };
        // Escaped bytes take two, and all of it must fit a packet.
        let n = (buf.len() / 2).saturating_sub(64).min(count);
        Ok(file.read_at(&mut buf[..n], offset)?)
    }
}

impl HostIoSetfs for Adapter<'_> {
    /// There is one view of the file system.
    fn setfs(&mut self, _: FsKind) -> HostIoResult<(), Self> {
        Ok(())
    }
}
