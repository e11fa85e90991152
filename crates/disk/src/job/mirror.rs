//! Mirror: copies a disk that is in use until both sides are equal, keeps them so, and on demand puts the copy in the disk's
//! place. A commit of the layer in use is the same with a lower layer as the target.

use super::copy::{copy_piece, each_allocated};
use super::{Control, Stop, Work};
use crate::filter::Filtered;
use crate::filter::slot::Slot;
use crate::filter::track::{Bits, Tracker};
use crate::node::{NodeRef, Preallocation};
use spec::error::{Error, Result};
use std::sync::Arc;

/// Which part of a disk is copied at first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sync {
    Full,
    /// What the layers above `Plan::stop` have.
    Top,
    /// Only what is written from now on.
    None,
}

pub struct Plan {
    pub sync: Sync,
    /// With `Sync::Top`: this layer, and those below it, are not copied.
    pub stop: Option<NodeRef>,
    pub granularity: u64,
    /// The target is new and reads as zeroes: what no layer has need not be written.
    pub blank: bool,
    /// The target may be made larger.
    pub grow: bool,
}

pub struct Mirror {
    slot: Arc<Slot>,
    source: NodeRef,
    target: NodeRef,
    plan: Plan,
    bits: Arc<Bits>,
}

impl Mirror {
    /// From now on writes to the slot's disk are noted.
    pub fn new(slot: Arc<Slot>, target: NodeRef, plan: Plan) -> Result<Mirror> {
        let granularity = plan.granularity;
        let (bits, source) = slot.exchange(|old| {
            let bits = Arc::new(Bits::new(old.size(), granularity));
            let node: NodeRef = Arc::new(Filtered::new(old.clone(), Tracker(bits.clone())));
            Ok((node, (bits, old.clone())))
        })?;
        Ok(Mirror { slot, source, target, plan, bits })
    }

    fn stop(&self) -> Option<&NodeRef> {
        self.plan.stop.as_ref()
    }

    fn mark(&self) -> Result<(), Stop> {
        match (self.plan.sync, self.plan.blank) {
            (Sync::None, _) => {}
            (Sync::Full, false) => self.bits.set(0, self.source.size()),
            _ => each_allocated(&self.source, self.stop(), |at, len| self.bits.set(at, len))
                .map_err(|f| Stop::from(f.error))?,
        }
        Ok(())
    }

    /// Copies pieces until there are none, and then for as long as nobody ends it.
    fn follow(&self, control: &Control) -> Result<(), Stop> {
        let mut from = 0;
        loop {
            control.remaining(self.bits.remaining());
            let Some((at, len)) = self.bits.take_next(from) else {
                if control.ready() {
                    return Ok(());
                }
                control.rest()?;
                continue;
            };
            if let Err(fault) = copy_piece(&self.source, self.stop(), &self.target, at, len) {
                self.bits.set(at, len);
                control.failed(fault)?;
                continue;
            }
            from = at + len;
            control.step(len)?;
        }
    }

    /// Copies what is left while no request is under way.
    fn catch_up(&self, control: &Control) -> Result<()> {
        while let Some((at, len)) = self.bits.take_next(0) {
            let copied = copy_piece(&self.source, self.stop(), &self.target, at, len);
            copied.map_err(|f| Error::new(crate::node::strerror(&f.error)))?;
            control.advance(len);
        }
        control.remaining(0);
        self.target.flush().map_err(|e| Error::new(crate::node::strerror(&e)))
    }
}

impl Work for Mirror {
    fn run(&mut self, control: &Control) -> Result<(), Stop> {
        let size = self.source.size();
        if self.plan.grow && self.target.size() < size {
            self.target.resize(size, Preallocation::Off)?;
        }
        if !self.plan.grow && self.target.size() != size {
            return Err(Stop::Failed(Error::new("Source and target image have different sizes")));
        }
        self.mark()?;
        self.follow(control)
    }

    fn finish(&mut self, control: &Control) -> Result<()> {
        self.slot.exchange(|_| {
            self.catch_up(control)?;
            // A user that only wanted a copy keeps the disk.
            let node = if control.wants_completion() { &self.target } else { &self.source };
            Ok((node.clone(), ()))
        })
    }

    fn abort(&mut self) {
        // Putting a node back where it was does not fail.
        let _ = self.slot.exchange(|_| Ok((self.source.clone(), ())));
    }
}
