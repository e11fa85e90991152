//! Entropy device.
//!
//! Reference: VIRTIO 1.2, 5.4.
//! Not modelled: entropy from another process (`rng-egd`).

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

use fabric::{Clock, Timer};
use spec::{Context, Result};

use super::device::{Core, Handle, KICK_MAX, Model};
use super::ring::{Cursor, Fault};
use super::id;

const QUEUE_SIZE: u16 = 8;
/// Bytes that one buffer gets; the driver asks again for more.
const FILL_MAX: usize = 64 * 1024;
/// How long to wait for a source that has nothing.
const RETRY_NS: u64 = 10_000_000;

/// Where the bytes come from: a back end object (`-object rng-…`).
#[derive(Clone)]
pub struct Source(Arc<Origin>);

enum Origin {
    /// `rng-builtin`: the host's generator.
    Builtin,
    /// `rng-random`: a file or device.
    File(File, String),
}

impl Source {
    pub fn builtin() -> Source {
        Source(Arc::new(Origin::Builtin))
    }

    pub fn file(path: &Path) -> Result<Source> {
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::RDONLY;
        let name = path.display().to_string();
        let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).context(|| format!("Could not open '{name}'"))?;
        Ok(Source(Arc::new(Origin::File(fd.into(), name))))
    }

    /// Fills the front of `to`; says how much.
    fn fill(&self, to: &mut [u8]) -> usize {
        let mut done = 0;
        while done < to.len() {
            let rest = &mut to[done..];
            let got = match &*self.0 {
                Origin::Builtin => rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()).map_err(Into::into),
                Origin::File(file, _) => (&mut &*file).read(rest),
            };
            match got {
                Ok(0) => return done,
                Ok(n) => done += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    if let (Origin::File(_, name), true) = (&*self.0, error.kind() != ErrorKind::WouldBlock) {
                        log::warn!("virtio-rng: reading '{name}' failed: {error}");
                    }
                    return done;
                }
            }
        }
        done
    }
}

/// At most so many bytes in each period.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    pub bytes: u64,
    pub period_ms: u32,
}

impl Default for Rate {
    fn default() -> Rate {
        Rate { bytes: i64::MAX as u64, period_ms: 1 << 16 }
    }
}

pub struct Rng {
    source: Source,
    rate: Rate,
    clock: Clock,
    /// Bytes that may still be given in this period, and its end.
    quota: u64,
    period_end_ns: Option<u64>,
    timer: Option<Timer>,
}

impl Rng {
    pub fn new(source: Source, rate: Rate, clock: Clock) -> Rng {
        Rng { source, rate, clock, quota: rate.bytes, period_end_ns: None, timer: None }
    }

    fn wait_until(&self, ns: u64) {
        if let Some(timer) = &self.timer {
            timer.at(ns);
        }
    }

    /// Starts a new period when the old one is over.
    fn renew(&mut self) -> u64 {
        let now = self.clock.now_ns();
        if self.period_end_ns.is_none_or(|end| end <= now) {
            self.quota = self.rate.bytes;
            self.period_end_ns = Some(now.saturating_add(u64::from(self.rate.period_ms) * 1_000_000));
        }
        now
    }
}

impl Model for Rng {
    fn id(&self) -> u16 {
        id::RNG
    }
    fn name(&self) -> &'static str {
        "virtio-rng"
    }
    fn features(&self) -> u64 {
        0
    }
    fn queues(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }
    fn config(&self, _core: &Core) -> Vec<u8> {
        Vec::new()
    }

    fn attach(&mut self, handle: Handle) {
        self.timer = Some(self.clock.timer(move || {
            handle.wake();
        }));
    }

    fn kick(&mut self, core: &mut Core, queue: usize) -> std::result::Result<(), Fault> {
        let now = self.renew();
        for n in 0.. {
            if n == KICK_MAX {
                core.again(queue);
                break;
            }
            let Some(chain) = core.pop(queue)? else { break };
            let mut to = Cursor::new(chain.writable());
            let len = to.left().min(FILL_MAX as u64).min(self.quota) as usize;
            let mut bytes = vec![0; len];
            let got = self.source.fill(&mut bytes);
            if got == 0 && to.left() > 0 {
                core.undo(queue);
                let period_end = self.period_end_ns.filter(|_| self.quota == 0);
                self.wait_until(period_end.unwrap_or(now.saturating_add(RETRY_NS)));
                break;
            }
            self.quota -= got as u64;
            to.write(&core.memory, &bytes[..got])?;
            core.put(queue, chain.head, got as u32)?;
        }
        core.finish(queue)
    }

    fn wake(&mut self, core: &mut Core) -> std::result::Result<(), Fault> {
        if core.is_running() || core.queues[0].ready { self.kick(core, 0) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{Guest, random_rings, rounds};

    #[test]
    fn buffers_are_filled() {
        let mut guest = Guest::started(Box::new(Rng::new(Source::builtin(), Rate::default(), Clock::manual())));
        let (a, b) = (guest.request(0, b"", 64), guest.request(0, b"", 64));
        assert_eq!((a.len(), b.len()), (64, 64));
        assert_ne!(a, b);
        assert!(a.iter().any(|&x| x != 0));
    }

    #[test]
    fn the_rate_is_kept() {
        let clock = Clock::manual();
        let rate = Rate { bytes: 10, period_ms: 100 };
        let mut guest = Guest::started(Box::new(Rng::new(Source::builtin(), rate, clock.clone())));
        assert_eq!(guest.request(0, b"", 64).len(), 10);
        guest.rings[0].add(&[(0x1000, 8, true)]);
        guest.virtio.notify(0);
        clock.advance(99_000_000);
        assert!(guest.rings[0].take_used().is_empty());
        clock.advance(1_000_000);
        assert_eq!(guest.rings[0].take_used()[0].1, 8);
    }

    #[test]
    fn a_file_can_be_the_source() {
        let source = Source::file(Path::new("/dev/zero")).unwrap();
        let mut guest = Guest::started(Box::new(Rng::new(source, Rate::default(), Clock::manual())));
        assert_eq!(guest.request(0, b"", 5), [0; 5]);
        let error = Source::file(Path::new("/does/not/exist")).err().unwrap();
        assert!(error.to_string().starts_with("Could not open '/does/not/exist': No such file"), "{error}");
    }

    #[test]
    fn random_rings_are_survived() {
        let mut guest = Guest::started(Box::new(Rng::new(Source::builtin(), Rate::default(), Clock::manual())));
        random_rings(&mut guest, rounds(100_000));
    }
}
