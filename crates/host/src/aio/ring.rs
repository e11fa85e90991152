//! A queue on io_uring.
//!
//! Reference: io_uring_setup(2), io_uring_enter(2). Invariants: those of `aio.rs`, by number.

use super::{Op, UnderWay};
use io_uring::{IoUring, opcode, squeue, types};
use std::io;
use std::os::fd::RawFd;

pub(super) struct Ring {
    ring: IoUring,
}

impl Ring {
    pub(super) fn new(depth: usize) -> io::Result<Ring> {
        // Completions need not interrupt a thread that is about to ask for them. Kernels before 5.19 do not know this.
        let ring = IoUring::builder().setup_coop_taskrun().build(depth as u32);
        Ok(Ring { ring: ring.or_else(|_| IoUring::new(depth as u32))? })
    }

    /// Makes the transfers, at most as many as the queue is deep; `answers` gets bytes or negative error numbers.
    ///
    /// # Safety
    /// The bytes of every `Op` are valid for its transfer until this returns.
    pub(super) unsafe fn turn(&mut self, file: RawFd, ops: &[Op], answers: &mut [i32]) {
        let under_way = UnderWay;
        {
            let mut queue = self.ring.submission();
            for (i, op) in ops.iter().enumerate() {
                let entry = entry(file, op).user_data(i as u64);
                // SAFETY: invariants 1 and 3: the bytes and the descriptor outlive this function, which waits below.
                let pushed = unsafe { queue.push(&entry) };
                pushed.expect("the ring is empty between turns and as deep as a batch is long");
            }
        }
        let mut missing = ops.len();
        while missing > 0 {
            match self.ring.submit_and_wait(missing) {
                Ok(_) => {}
                // A signal, or the host is short of memory for requests at the moment.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR)) => {}
                Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => std::thread::yield_now(),
                Err(e) => under_way.hopeless("io_uring_enter", &e),
            }
            for answer in self.ring.completion() {
                answers[answer.user_data() as usize] = answer.result();
                missing -= 1;
            }
        }
        under_way.over();
    }
}

fn entry(file: RawFd, op: &Op) -> squeue::Entry {
    let fd = types::Fd(file);
    match op.write {
        true => opcode::Write::new(fd, op.address.cast_const(), op.len).offset(op.offset).build(),
        false => opcode::Read::new(fd, op.address, op.len).offset(op.offset).build(),
    }
}
