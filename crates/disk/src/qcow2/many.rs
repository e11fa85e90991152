//! Requests of several parts, and requests whose data lies in several places, above a file that does more than one
//! thing at a time.
//!
//! Invariants: those of `io.rs`. What needs a change of a mapping is done there, one after the other, when the rest is
//! written.

use super::Qcow2;
use super::meta::Kind;
use std::io;
use std::sync::PoisonError;

impl Qcow2 {
    /// Whether several parts go to the file together. Encrypted data passes through buffers of its own.
    pub(super) fn works_in_parallel(&self) -> bool {
        self.seal.get().is_none() && self.data().parallel()
    }

    pub(super) fn read_parts(&self, parts: &mut [(u64, &mut [u8])]) -> io::Result<()> {
        let _shared = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let backing = self.backing_node();
        let backing_size = backing.as_ref().map_or(0, |b| b.size());
        let (mut stored, mut below) = (Vec::with_capacity(parts.len()), Vec::new());
        for (offset, buf) in parts {
            let (mut at, mut rest): (u64, &mut [u8]) = (*offset, buf);
            while !rest.is_empty() {
                let run = self.lock().lookup(at, rest.len() as u64)?;
                let (now, next) = rest.split_at_mut(run.len as usize);
                match run.kind {
                    Kind::Data(host) => {
                        self.data().event("read_aio");
                        stored.push((host, now));
                    }
                    Kind::Unallocated | Kind::Hole(_) => {
                        let inside = backing_size.saturating_sub(at).min(run.len) as usize;
                        let (there, beyond) = now.split_at_mut(inside);
                        beyond.fill(0);
                        if !there.is_empty() {
                            below.push((at, there));
                        }
                    }
                    _ => self.read_run(&run, at, now)?,
                }
                (at, rest) = (at + run.len, next);
            }
        }
        if !stored.is_empty() {
            self.data().read_many(&mut stored)?;
        }
        match backing {
            Some(backing) if !below.is_empty() => backing.read_many(&mut below),
            _ => Ok(()),
        }
    }

    /// Writes what has clusters of its own together, and then the rest.
    pub(super) fn write_parts(&self, parts: &[(u64, &[u8])]) -> io::Result<()> {
        let mut rest = Vec::new();
        {
            let _shared = self.gate.read().unwrap_or_else(PoisonError::into_inner);
            let stored = self.stored_parts(parts, &mut rest)?;
            if !stored.is_empty() {
                stored.iter().for_each(|_| self.data().event("write_aio"));
                self.data().write_many(&stored)?;
            }
        }
        rest.into_iter().try_for_each(|(offset, buf)| self.write_guest(offset, buf))
    }

    /// Where the leading pieces of the parts go that have clusters of their own; what follows the first other piece of a
    /// part is put into `rest`.
    fn stored_parts<'a>(
        &self,
        parts: &[(u64, &'a [u8])],
        rest: &mut Vec<(u64, &'a [u8])>,
    ) -> io::Result<Vec<(u64, &'a [u8])>> {
        let mut stored = Vec::with_capacity(parts.len());
        let mut meta = self.lock();
        for (offset, buf) in parts {
            let (mut at, mut left) = (*offset, *buf);
            while !left.is_empty() {
                let run = meta.lookup(at, left.len() as u64)?;
                let Kind::Data(host) = run.kind else { break };
                if !run.copied {
                    break;
                }
                self.check_target(&mut meta, host, run.len)?;
                let (now, next) = left.split_at(run.len as usize);
                stored.push((host, now));
                (at, left) = (at + run.len, next);
            }
            if !left.is_empty() {
                rest.push((at, left));
            }
        }
        Ok(stored)
    }
}
