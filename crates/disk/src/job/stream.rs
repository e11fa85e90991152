//! Stream: copies what the layers between an image and a base have into the image, then drops those layers.

use super::copy::{BUFFER, reading};
use super::{Control, Stop, Work};
use crate::buffer::Buffer;
use crate::chain;
use crate::filter::Filtered;
use crate::filter::copy_on_read::CopyOnRead;
use crate::filter::slot::Slot;
use crate::node::NodeRef;
use spec::error::Result;
use std::sync::Arc;

pub struct Stream {
    /// Where the image is used, if it is the one that is written to.
    slot: Option<Arc<Slot>>,
    top: NodeRef,
    reader: NodeRef,
    /// What stays below the image; nothing: it stands alone in the end.
    base: Option<NodeRef>,
    /// What the image is to call its backing file from then on, and its format.
    name: Option<(String, Option<String>)>,
}

impl Stream {
    /// Streams the image in a slot.
    ///
    /// Reading through a filter copies into the image. Who uses the disk meanwhile goes through it too, so that no
    /// write comes between the reading and the writing of a copy.
    pub fn new(slot: Arc<Slot>, base: Option<NodeRef>, name: Option<(String, Option<String>)>) -> Result<Stream> {
        let (top, reader) = slot.exchange(|top| {
            let reader = reader(top, base.as_ref());
            Ok((reader.clone(), (top.clone(), reader)))
        })?;
        Ok(Stream { slot: Some(slot), top, reader, base, name })
    }

    /// Streams an image that others have as their backing file; it is open for writing.
    pub fn below(top: NodeRef, base: Option<NodeRef>, name: Option<(String, Option<String>)>) -> Stream {
        Stream { slot: None, reader: reader(&top, base.as_ref()), top, base, name }
    }

    fn leave(&self) -> Result<()> {
        self.slot.as_ref().map_or(Ok(()), |slot| slot.exchange(|_| Ok((self.top.clone(), ()))))
    }
}

fn reader(top: &NodeRef, base: Option<&NodeRef>) -> NodeRef {
    Arc::new(Filtered::new(top.clone(), CopyOnRead::new(lowest_above(top, base))))
}

/// The file name of the layer right above `base`.
fn lowest_above(top: &NodeRef, base: Option<&NodeRef>) -> Option<String> {
    let base = base?;
    let layers = chain::layers(top);
    let at = layers.iter().position(|l| Arc::ptr_eq(l, base))?;
    Some(layers.get(at.checked_sub(1)?)?.filename())
}

impl Work for Stream {
    fn run(&mut self, control: &Control) -> Result<(), Stop> {
        // There is nothing between an image and what is right below it.
        let below = self.top.backing();
        let same = match (&below, &self.base) {
            (None, _) => true,
            (Some(below), Some(base)) => Arc::ptr_eq(below, base),
            _ => false,
        };
        let size = if same { 0 } else { self.top.size() };
        control.begin(size);
        let mut at = 0;
        while at < size {
            let seen = chain::status(self.top.as_ref(), self.base.as_ref(), at, size - at).map_err(reading);
            let copied = seen.and_then(|seen| {
                let wanted = seen.depth > 0 && seen.extent.allocated;
                let n = seen.extent.len.max(1).min(if wanted { BUFFER } else { u64::MAX });
                if wanted {
                    self.reader.read(at, &mut Buffer::new(n as usize)).map_err(reading)?;
                }
                Ok((n, wanted))
            });
            match copied {
                Ok((n, wanted)) => {
                    at += n;
                    // What is not copied takes no time.
                    if wanted {
                        control.step(n)?
                    } else {
                        control.advance(n)
                    }
                    control.point()?;
                }
                Err(fault) => control.failed(fault)?,
            }
        }
        self.top.flush()?;
        Ok(())
    }

    fn finish(&mut self, _control: &Control) -> Result<()> {
        if self.top.backing().is_some() {
            let name = self.name.as_ref();
            self.top.change_backing_file(name.map(|n| n.0.as_str()), name.and_then(|n| n.1.as_deref()))?;
            self.top.set_backing(self.base.clone());
        }
        self.leave()
    }

    fn abort(&mut self) {
        // Putting a node back where it was does not fail.
        let _ = self.leave();
    }
}
