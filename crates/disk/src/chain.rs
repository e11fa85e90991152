//! Looking through a chain of backing files.
//!
//! Reference: what `qemu-img map` 10.0.2 reports for layered images.

use crate::node::{Extent, Node, NodeRef};
use std::io;

/// Longest chain that is followed; a longer one is a loop or a mistake.
pub const MAX_DEPTH: usize = 500;

/// A run of bytes as the top of a chain sees it.
#[derive(Clone)]
pub struct Seen {
    pub extent: Extent,
    /// Layers below the top that decided: 0 is the top.
    pub depth: u32,
    /// The deciding layer below the top; `None` is the top itself.
    pub node: Option<NodeRef>,
}

/// Describes a run in one layer, knowing what its backing file cannot provide.
fn in_layer(node: &dyn Node, offset: u64, len: u64) -> io::Result<Extent> {
    let mut extent = node.map(offset, len)?;
    if extent.recurse
        && let Some(at) = extent.offset
        && let Some((_, file)) = node.children().into_iter().nth(extent.child)
    {
        let below = file.map(at, extent.len)?;
        // Behind the end of the file nothing is stored, and the run is as long as it was.
        extent.len = extent.len.min(below.len);
        extent.zero |= below.zero;
    }
    if !extent.allocated {
        match node.backing() {
            // What an NBD server leaves open is not known to be zero.
            None => extent.zero = !matches!(node.driver(), "nbd" | "raw"),
            Some(backing) => {
                let size = backing.size();
                if offset >= size {
                    extent.zero = true;
                } else {
                    extent.len = extent.len.min(size - offset);
                }
            }
        }
    }
    Ok(extent)
}

/// Describes a run that starts at `offset`, looking through backing files down to (not into) `base`.
pub fn status(top: &dyn Node, base: Option<&NodeRef>, offset: u64, len: u64) -> io::Result<Seen> {
    let len = len.min(top.size().saturating_sub(offset));
    let mut extent = in_layer(top, offset, len)?;
    let mut depth = 0;
    let mut node: Option<NodeRef> = None;
    while !extent.allocated && depth < MAX_DEPTH as u32 {
        let below = match &node {
            None => top.backing(),
            Some(n) => n.backing(),
        };
        let Some(next) = below else { break };
        if base.is_some_and(|b| std::sync::Arc::ptr_eq(b, &next)) {
            break;
        }
        depth += 1;
        if offset >= next.size() {
            // The end of a short backing file: this layer decides that there is nothing.
            extent = Extent { len: extent.len, zero: true, allocated: true, ..Extent::default() };
            node = Some(next);
            break;
        }
        let run = in_layer(next.as_ref(), offset, extent.len)?;
        extent = Extent { len: run.len.min(extent.len), ..run };
        node = Some(next);
    }
    Ok(Seen { extent, depth, node })
}

/// Whether a range is known to read as zeroes without reading stored data.
pub fn reads_zero(node: &dyn Node, mut offset: u64, len: u64) -> io::Result<bool> {
    let end = (offset + len).min(node.size());
    while offset < end {
        let seen = status(node, None, offset, end - offset)?;
        if !seen.extent.zero || seen.extent.len == 0 {
            return Ok(false);
        }
        offset += seen.extent.len;
    }
    Ok(true)
}

/// The nodes of a chain from the top down.
pub fn layers(top: &NodeRef) -> Vec<NodeRef> {
    let mut list = vec![top.clone()];
    while let Some(next) = list.last().and_then(|n| n.backing()) {
        if list.len() >= MAX_DEPTH {
            break;
        }
        list.push(next);
    }
    list
}
