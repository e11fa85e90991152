//! A queue on Linux AIO.
//!
//! Reference: io_setup(2), io_submit(2), io_getevents(2); `include/uapi/linux/aio_abi.h`. Invariants: those of `aio.rs`,
//! by number, and
//! 4. `context` was given by `io_setup` and is destroyed once, with the queue.

use super::{Op, UnderWay};
use libc::{c_long, c_ulong};
use std::io;
use std::os::fd::RawFd;

const IOCB_CMD_PREAD: u16 = 0;
const IOCB_CMD_PWRITE: u16 = 1;
/// How often a transfer is offered to a host that has no room for it while nothing of ours is under way.
const TRIES: usize = 1000;

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

pub(super) struct Native {
    context: c_ulong,
    events: Vec<Event>,
}

impl Native {
    pub(super) fn new(depth: usize) -> io::Result<Native> {
        let mut context: c_ulong = 0;
        // SAFETY: the kernel writes one word, to a local value.
        let done = unsafe { libc::syscall(libc::SYS_io_setup, depth as c_long, &raw mut context) };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(Native { context, events: vec![Event::default(); depth] })
        }
    }

    /// Makes the transfers, at most as many as the queue is deep; `answers` gets bytes or negative error numbers.
    ///
    /// # Safety
    /// The bytes of every `Op` are valid for its transfer until this returns.
    pub(super) unsafe fn turn(&mut self, file: RawFd, ops: &[Op], answers: &mut [i32]) {
        let under_way = UnderWay;
        let mut blocks: Vec<libc::iocb> = ops.iter().enumerate().map(|(i, op)| block(file, op, i)).collect();
        let mut pointers: Vec<*mut libc::iocb> = blocks.iter_mut().map(|b| b as *mut libc::iocb).collect();
        let (mut taken, mut missing, mut refused) = (0, 0, 0);
        while taken < ops.len() || missing > 0 {
            if taken < ops.len() {
                match self.submit(&mut pointers[taken..]) {
                    Ok(n) => {
                        (taken, missing, refused) = (taken + n, missing + n, 0);
                        if taken < ops.len() {
                            continue;
                        }
                    }
                    Err(libc::EINTR) => continue,
                    Err(libc::EAGAIN) if missing > 0 => {}
                    Err(libc::EAGAIN) if refused < TRIES => {
                        refused += 1;
                        std::thread::yield_now();
                        continue;
                    }
                    // It is about the first of those that were offered.
                    Err(code) => {
                        answers[taken] = if code == libc::EAGAIN { -libc::EIO } else { -code };
                        (taken, refused) = (taken + 1, 0);
                        continue;
                    }
                }
            }
            missing -= self.wait(missing, answers, &under_way);
        }
        under_way.over();
    }

    fn submit(&mut self, blocks: &mut [*mut libc::iocb]) -> Result<usize, i32> {
        // SAFETY: invariants 1, 3 and 4: the blocks and what they point to outlive the turn that calls this.
        let n =
            unsafe { libc::syscall(libc::SYS_io_submit, self.context, blocks.len() as c_long, blocks.as_mut_ptr()) };
        match n {
            n if n < 0 => Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)),
            0 => Err(libc::EAGAIN),
            n => Ok(n as usize),
        }
    }

    /// Waits for `count` answers; returns how many there were.
    fn wait(&mut self, count: usize, answers: &mut [i32], under_way: &UnderWay) -> usize {
        let (least, most) = (count as c_long, self.events.len() as c_long);
        let none = std::ptr::null_mut::<libc::timespec>();
        // SAFETY: invariants 3 and 4: the kernel writes at most `most` events to a vector that has as many.
        let n =
            unsafe { libc::syscall(libc::SYS_io_getevents, self.context, least, most, self.events.as_mut_ptr(), none) };
        if n < 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::EINTR) {
                0
            } else {
                under_way.hopeless("io_getevents", &error)
            };
        }
        for event in &self.events[..n as usize] {
            answers[event.data as usize] = event.result as i32;
        }
        n as usize
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: invariant 4; nothing is under way between turns.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

fn block(file: RawFd, op: &Op, number: usize) -> libc::iocb {
    // SAFETY: a structure of integers, for which zeroes are values.
    let mut block: libc::iocb = unsafe { std::mem::zeroed() };
    block.aio_data = number as u64;
    block.aio_lio_opcode = if op.write { IOCB_CMD_PWRITE } else { IOCB_CMD_PREAD };
    block.aio_fildes = file as u32;
    block.aio_buf = op.address.expose_provenance() as u64;
    block.aio_nbytes = u64::from(op.len);
    block.aio_offset = op.offset as i64;
    block
}
