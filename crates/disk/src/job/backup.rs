//! Backup: copies a disk in use as it was when the job began.

use super::copy::{Fault, each_allocated, writing};
use super::{Control, Stop, Work};
use crate::filter::Filtered;
use crate::filter::slot::Slot;
use crate::filter::track::{BeforeWrite, Bits, CopyBeforeWrite};
use crate::node::NodeRef;
use spec::error::{Error, Result};
use std::sync::Arc;

/// Which part of the disk is copied.
pub enum Wanted {
    All,
    /// What the layers above this one have.
    Above(Option<NodeRef>),
    /// What is overwritten, until the job is cancelled.
    Overwritten,
    /// What is marked.
    Marked(Bits),
}

pub struct Backup {
    slot: Arc<Slot>,
    source: NodeRef,
    target: NodeRef,
    state: Arc<BeforeWrite>,
    /// Nothing is copied but what is overwritten.
    passive: bool,
    all: bool,
}

impl Backup {
    /// The moment whose contents are copied is when this returns.
    pub fn new(slot: Arc<Slot>, target: NodeRef, wanted: Wanted, granularity: u64, compress: bool) -> Result<Backup> {
        let failed = |f: Fault| Error::new(crate::node::strerror(&f.error));
        let passive = matches!(wanted, Wanted::Overwritten);
        let all = matches!(wanted, Wanted::All);
        let (state, source) = slot.exchange(|old| {
            if old.size() != target.size() {
                return Err(Error::new("Source and target image have different sizes"));
            }
            let state = BeforeWrite::new(old.clone(), target.clone(), granularity, compress);
            match wanted {
                Wanted::All | Wanted::Overwritten => state.wanted.set(0, old.size()),
                Wanted::Above(stop) => {
                    each_allocated(old, stop.as_ref(), |at, len| state.wanted.set(at, len)).map_err(failed)?;
                }
                Wanted::Marked(bits) => bits.each(|at, len| state.wanted.set(at, len)),
            }
            let state = Arc::new(state);
            let node: NodeRef = Arc::new(Filtered::new(old.clone(), CopyBeforeWrite(state.clone())));
            Ok((node, (state, old.clone())))
        })?;
        Ok(Backup { slot, source, target, state, passive, all })
    }

    fn leave(&self) -> Result<()> {
        self.slot.exchange(|_| Ok((self.source.clone(), ())))
    }

    fn copy_all(&self, control: &Control) -> Result<(), Stop> {
        let (size, granularity) = (self.source.size(), self.state.wanted.granularity);
        let mut piece = 0;
        let mut counted = 0;
        while piece < size.div_ceil(granularity) {
            match self.state.copy(piece) {
                Ok(_) => {}
                Err(fault) => {
                    control.failed(fault)?;
                    continue;
                }
            }
            piece += 1;
            // Pieces that writers have copied count too.
            let now = self.state.copied();
            if now > counted {
                control.step(now - std::mem::replace(&mut counted, now))?;
            }
            self.check()?;
        }
        control.advance(self.state.copied().saturating_sub(counted));
        self.check()
    }

    /// Old contents that could not be saved before they were overwritten are lost.
    fn check(&self) -> Result<(), Stop> {
        self.state.failure().map_or(Ok(()), |e| Err(e.into()))
    }
}

impl Work for Backup {
    fn run(&mut self, control: &Control) -> Result<(), Stop> {
        let total = if self.all || self.passive { self.source.size() } else { self.state.wanted.remaining() };
        control.begin(total);
        if self.passive {
            let mut counted = 0;
            loop {
                control.rest()?;
                let now = self.state.copied();
                control.advance(now - std::mem::replace(&mut counted, now));
                self.check()?;
            }
        }
        self.copy_all(control)?;
        self.target.flush().map_err(|e| Stop::from(writing(e).error))
    }

    fn finish(&mut self, _control: &Control) -> Result<()> {
        self.leave()
    }

    fn abort(&mut self) {
        // Putting a node back where it was does not fail.
        let _ = self.leave();
    }
}
