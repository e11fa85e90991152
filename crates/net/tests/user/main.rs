//! The user-mode network as a guest sees it, against real sockets of the host's loopback interface.
mod harness;

mod abuse;
mod datagrams;
mod services;
mod soak;
mod streams;
