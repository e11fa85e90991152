//! Many transfers of a file under way at once from one thread: io_uring and Linux AIO behind one safe call.
//!
//! Reference: io_uring(7), io_uring_enter(2), io_submit(2), io_getevents(2).
//!
//! Not modelled: polled completion, registered buffers, transfers that outlive the call.
//!
//! Invariants (the two queues name them):
//! 1. A transfer's bytes are borrowed for the whole of [`Engine::run`], and a queue's `turn` does not end while the kernel
//!    still has one of its transfers: it waits for every answer, and ends the process where it cannot (an unwinding
//!    panic, an error of the wait that has no meaning here). So the kernel never touches bytes that were given back.
//! 2. A queue is used by one thread at a time: `turn` takes `&mut self`, and the pool hands a queue to one caller.
//! 3. What is given to the kernel beside the bytes (descriptor, request blocks, answers) lives until `turn` ends.

mod native;
mod ring;

use native::Native;
use ring::Ring;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Transfers that a queue has under way at most.
const DEPTH: usize = 128;
/// Queues of one engine: threads that have transfers under way at the same time. Others wait for one of these.
const QUEUES: usize = 64;
/// What one transfer moves at most (the kernel's own bound for a read or write); the rest follows.
const LONGEST: usize = 0x7fff_f000;

/// Where the bytes of a transfer go to or come from.
pub enum Bytes<'a> {
    Into(&'a mut [u8]),
    From(&'a [u8]),
}

impl Bytes<'_> {
    fn len(&self) -> usize {
        match self {
            Bytes::Into(b) => b.len(),
            Bytes::From(b) => b.len(),
        }
    }
}

/// One transfer of a batch, and how far it came.
pub struct Transfer<'a> {
    offset: u64,
    bytes: Bytes<'a>,
    done: usize,
    error: Option<i32>,
}

impl<'a> Transfer<'a> {
    pub fn read(offset: u64, into: &'a mut [u8]) -> Transfer<'a> {
        Transfer { offset, bytes: Bytes::Into(into), done: 0, error: None }
    }

    pub fn write(offset: u64, from: &'a [u8]) -> Transfer<'a> {
        Transfer { offset, bytes: Bytes::From(from), done: 0, error: None }
    }

    /// The bytes that were moved. A read that ended before its buffer did met the end of the file there.
    pub fn done(&self) -> usize {
        self.done
    }

    /// What a read did not fill: it lies behind the end of the file.
    pub fn rest(&mut self) -> &mut [u8] {
        match &mut self.bytes {
            Bytes::Into(b) => &mut b[self.done..],
            Bytes::From(_) => &mut [],
        }
    }

    pub fn result(&self) -> io::Result<()> {
        match self.error {
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => Ok(()),
        }
    }

    fn op(&mut self) -> Op {
        let (at, done) = (self.offset + self.done as u64, self.done);
        let (write, address, len) = match &mut self.bytes {
            Bytes::Into(b) => (false, b[done..].as_mut_ptr(), b.len() - done),
            Bytes::From(b) => (true, b[done..].as_ptr().cast_mut(), b.len() - done),
        };
        Op { write, address, len: len.min(LONGEST) as u32, offset: at }
    }

    /// Takes the kernel's answer; whether there is more to do.
    fn take(&mut self, answer: i32) -> bool {
        match answer {
            a if a == -libc::EINTR || a == -libc::EAGAIN => true,
            a if a < 0 => {
                self.error = Some(-a);
                false
            }
            // The end of the file; a write that moves nothing has no room.
            0 => {
                if matches!(self.bytes, Bytes::From(_)) {
                    self.error = Some(libc::ENOSPC);
                }
                false
            }
            n => {
                self.done += n as usize;
                self.done < self.bytes.len()
            }
        }
    }
}

/// What a queue is asked to do: one read or write. `address` is that of `len` bytes borrowed by a [`Transfer`].
struct Op {
    write: bool,
    address: *mut u8,
    len: u32,
    offset: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    IoUring,
    /// Linux AIO. It is asynchronous for files that are open for direct I/O.
    Native,
}

enum Queue {
    Ring(Box<Ring>),
    Native(Native),
}

/// A kind of queue, with the queues of the process: a thread takes one for the time of its batch.
pub struct Engine {
    kind: Kind,
    pool: Mutex<Pool>,
    returned: Condvar,
}

struct Pool {
    idle: Vec<Queue>,
    made: usize,
}

static IO_URING: Engine = Engine::new(Kind::IoUring);
static NATIVE: Engine = Engine::new(Kind::Native);

impl Engine {
    const fn new(kind: Kind) -> Engine {
        Engine { kind, pool: Mutex::new(Pool { idle: Vec::new(), made: 0 }), returned: Condvar::new() }
    }

    /// The process's engine of a kind, or why the kernel does not give one.
    pub fn get(kind: Kind) -> io::Result<&'static Engine> {
        let engine = match kind {
            Kind::IoUring => &IO_URING,
            Kind::Native => &NATIVE,
        };
        let mut pool = engine.pool();
        if pool.made == 0 {
            let queue = engine.make()?;
            pool.idle.push(queue);
            pool.made = 1;
        }
        Ok(engine)
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Makes all transfers and waits for them. Short ones go on where they ended. The result is the first failure in the
    /// order of the batch; each transfer tells its own.
    pub fn run(&self, file: BorrowedFd<'_>, batch: &mut [Transfer<'_>]) -> io::Result<()> {
        let mut left: Vec<usize> = (0..batch.len()).filter(|i| batch[*i].bytes.len() > 0).collect();
        if !left.is_empty() {
            let mut queue = self.borrow();
            while !left.is_empty() {
                left = Self::round(&mut queue, file.as_raw_fd(), batch, &left);
            }
            self.give_back(queue);
        }
        batch.iter().try_for_each(Transfer::result)
    }

    /// Lets a queue do what is left; returns what is left then.
    fn round(queue: &mut Queue, file: RawFd, batch: &mut [Transfer<'_>], left: &[usize]) -> Vec<usize> {
        let mut again = Vec::new();
        let mut answers = [0; DEPTH];
        for part in left.chunks(DEPTH) {
            let ops: Vec<Op> = part.iter().map(|i| batch[*i].op()).collect();
            let answers = &mut answers[..ops.len()];
            match queue {
                // SAFETY: invariant 1; the batch is borrowed for longer than this call.
                Queue::Ring(ring) => unsafe { ring.turn(file, &ops, answers) },
                // SAFETY: invariant 1; as above.
                Queue::Native(native) => unsafe { native.turn(file, &ops, answers) },
            }
            again.extend(part.iter().zip(answers).filter_map(|(i, a)| batch[*i].take(*a).then_some(*i)));
        }
        again
    }

    fn make(&self) -> io::Result<Queue> {
        Ok(match self.kind {
            Kind::IoUring => Queue::Ring(Box::new(Ring::new(DEPTH)?)),
            Kind::Native => Queue::Native(Native::new(DEPTH)?),
        })
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn borrow(&self) -> Queue {
        let mut pool = self.pool();
        loop {
            if let Some(queue) = pool.idle.pop() {
                return queue;
            }
            // There is at least the queue that `get` made: where the host gives no more, those in use come back.
            if pool.made < QUEUES
                && let Ok(queue) = self.make()
            {
                pool.made += 1;
                return queue;
            }
            pool = self.returned.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn give_back(&self, queue: Queue) {
        self.pool().idle.push(queue);
        self.returned.notify_one();
    }
}

/// Ends the process when it is dropped by an unwinding panic: the kernel still has transfers (invariant 1).
struct UnderWay;

impl UnderWay {
    fn over(self) {
        std::mem::forget(self);
    }

    /// The wait for transfers failed in a way that has no meaning here.
    fn hopeless(&self, what: &str, error: &io::Error) -> ! {
        eprintln!("{what} failed while transfers were under way: {error}");
        std::process::abort()
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{FileExt, OpenOptionsExt};

    /// Bytes whose start is aligned for direct I/O.
    struct Aligned(Vec<u8>, usize, usize);

    impl Aligned {
        fn new(len: usize, value: u8) -> Aligned {
            let store = vec![value; len + 4096];
            let start = store.as_ptr().align_offset(4096);
            Aligned(store, start, len)
        }
        fn bytes(&mut self) -> &mut [u8] {
            &mut self.0[self.1..self.1 + self.2]
        }
    }

    fn scratch(name: &str) -> std::path::PathBuf {
        let dir = std::env::var_os("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, Into::into);
        dir.join(format!("rhea-aio-{}-{name}", std::process::id()))
    }

    /// The kinds that this kernel has. A kernel without one has nothing to test, and says so.
    fn engines() -> Vec<&'static Engine> {
        [Kind::IoUring, Kind::Native]
            .into_iter()
            .filter_map(|k| Engine::get(k).map_err(|e| eprintln!("{k:?} is not there: {e}")).ok())
            .collect()
    }

    /// A file of `len` bytes for an engine: open for direct I/O for Linux AIO where the file system can.
    fn file(engine: &Engine, name: &str, len: u64) -> (File, std::path::PathBuf) {
        let path = scratch(&format!("{name}-{:?}", engine.kind()));
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true);
        let plain = options.clone();
        if engine.kind() == Kind::Native {
            options.custom_flags(libc::O_DIRECT);
        }
        let file = options.open(&path).or_else(|_| plain.open(&path)).unwrap();
        file.set_len(len).unwrap();
        (file, path)
    }

    #[test]
    fn batches_longer_than_a_queue_move_every_byte() {
        for engine in engines() {
            let count = 3 * DEPTH + 5;
            let (file, path) = file(engine, "long", (count * 4096) as u64);
            let mut from: Vec<Aligned> = (0..count).map(|i| Aligned::new(4096, i as u8)).collect();
            let mut batch: Vec<Transfer> =
                from.iter_mut().enumerate().map(|(i, b)| Transfer::write((i * 4096) as u64, b.bytes())).collect();
            engine.run(file.as_fd(), &mut batch).unwrap();
            assert!(batch.iter().all(|t| t.done() == 4096));
            let mut into: Vec<Aligned> = (0..count).map(|_| Aligned::new(4096, 0xee)).collect();
            let mut batch: Vec<Transfer> =
                into.iter_mut().enumerate().map(|(i, b)| Transfer::read((i * 4096) as u64, b.bytes())).collect();
            engine.run(file.as_fd(), &mut batch).unwrap();
            drop(batch);
            for (i, b) in into.iter_mut().enumerate() {
                assert!(b.bytes().iter().all(|x| *x == i as u8), "{:?} {i}", engine.kind());
            }
            let whole = std::fs::read(&path).unwrap();
            assert!(whole.iter().enumerate().all(|(at, x)| *x == (at / 4096) as u8));
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_read_ends_at_the_end_of_the_file() {
        for engine in engines() {
            let (file, path) = file(engine, "short", 4096 + 512);
            let (mut one, mut two) = (Aligned::new(8192, 0xee), Aligned::new(4096, 0xee));
            let mut batch = [Transfer::read(0, one.bytes()), Transfer::read(8192, two.bytes())];
            engine.run(file.as_fd(), &mut batch).unwrap();
            assert_eq!((batch[0].done(), batch[0].rest().len()), (4608, 8192 - 4608), "{:?}", engine.kind());
            assert_eq!((batch[1].done(), batch[1].rest().len()), (0, 4096));
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn one_failure_does_not_stop_the_others() {
        for engine in engines() {
            let (file, path) = file(engine, "fail", 8192);
            let (mut good, mut last) = (Aligned::new(4096, 7), Aligned::new(4096, 8));
            let mut batch = [
                Transfer::write(0, good.bytes()),
                // No file reaches that far.
                Transfer::write(i64::MAX as u64 / 4096 * 4096, last.bytes()),
            ];
            let error = engine.run(file.as_fd(), &mut batch).unwrap_err();
            assert!(matches!(error.raw_os_error(), Some(libc::EFBIG | libc::EINVAL)), "{:?}: {error}", engine.kind());
            assert!(batch[0].result().is_ok() && batch[0].done() == 4096);
            // A descriptor that cannot be written to.
            let reader = File::open(&path).unwrap();
            let error = engine.run(reader.as_fd(), &mut [Transfer::write(0, good.bytes())]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{:?}", engine.kind());
            // The queue is as good as new.
            let mut again = Aligned::new(4096, 0);
            engine.run(file.as_fd(), &mut [Transfer::read(0, again.bytes())]).unwrap();
            assert!(again.bytes().iter().all(|x| *x == 7));
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_full_device_has_no_room() {
        let Ok(engine) = Engine::get(Kind::IoUring) else { return };
        let full = File::options().write(true).open("/dev/full").unwrap();
        let error = engine.run(full.as_fd(), &mut [Transfer::write(0, &[1; 512])]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    }

    #[test]
    fn threads_share_the_queues() {
        for engine in engines() {
            let (file, path) = file(engine, "threads", 0);
            let threads = QUEUES + 8;
            std::thread::scope(|scope| {
                for i in 0..threads {
                    let file = &file;
                    scope.spawn(move || {
                        let mut bytes = Aligned::new(4096, i as u8 + 1);
                        engine.run(file.as_fd(), &mut [Transfer::write((i * 4096) as u64, bytes.bytes())]).unwrap();
                    });
                }
            });
            assert!(engine.pool().made <= QUEUES);
            let mut now = Aligned::new(threads * 4096, 0);
            file.read_exact_at(now.bytes(), 0).unwrap();
            assert!(now.bytes().iter().enumerate().all(|(at, x)| *x == (at / 4096) as u8 + 1));
            std::fs::remove_file(path).unwrap();
        }
    }
}
