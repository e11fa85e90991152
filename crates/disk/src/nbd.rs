//! The network block device protocol: serving a node, and a node that is served elsewhere.
//!
//! Reference: the NBD project's `doc/proto.md` (fixed newstyle negotiation, structured replies, block status);
//! metadata contexts `qemu:allocation-depth` and `qemu:dirty-bitmap:` as documented in QEMU's docs/interop/nbd.rst.
//!
//! Not modelled: TLS (asked for by a client, it is refused), extended headers, the old style of negotiation.
//!
//! Module map: `wire` numbers and framing, `server`, `client`, `negotiate` what a client says first,
//! `address` the spellings of addresses.

pub mod address;
pub mod client;
pub mod negotiate;
pub mod server;
pub mod wire;
