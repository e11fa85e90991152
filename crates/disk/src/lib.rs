//! Disk images: nodes (files, formats, filters), the graph that joins them, and their creation and repair.
//!
//! Reference: `docs/interop/qcow2.txt` of QEMU 10.0 (format description), the formats' own specifications named in
//! each file, and the recorded behaviour of `qemu-img` 10.0.2.
//!
//! Module map: `node` is the trait everything implements; `file` and `null` are the leaves, `raw`, `qcow2`, … the
//! formats (`archive` those that are only read); `filter` stands above a node; `job` copies between nodes while they are in use;
//! `open` builds a graph from a file name or options; `chain` looks through backing files; `create` makes
//! new images.
#![forbid(unsafe_code)]

pub mod archive;
pub mod blkdebug;
mod blocks;
pub mod buffer;
pub mod chain;
pub mod create;
pub mod crypt;
pub mod engine;
pub mod file;
pub mod filter;
pub mod job;
pub mod lock;
pub mod luks;
pub mod nbd;
pub mod node;
pub mod null;
pub mod open;
pub mod options;
pub mod probe;
pub mod qcow2;
mod random;
pub mod raw;
pub mod secret;
pub mod size;
pub mod vdi;
pub mod vhdx;
pub mod vmdk;
pub mod vpc;

pub use node::{Extent, Node, NodeRef, Preallocation};
pub use open::{OpenFlags, open, open_options};
