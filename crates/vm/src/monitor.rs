//! The monitors: a human's (HMP) and a program's (QMP). Both are tables of commands over one [`Machine`].
//!
//! | module | what |
//! |---|---|
//! | [`machine`] | what a monitor asks of a machine |
//! | `commands` | the table of a human's commands; `info` is the table of `info …` |
//! | `args` | arguments: words, expressions, formats, flags |
//! | `expression` | `$pc+4*2` |
//! | `memory` | `x`, `xp`, `print` |
//! | `blocks` | disks and jobs: `block_stream`, `drive_mirror`, `qemu-io` and their likes; `disks` shows them |
//! | `networks` | `set_link`, `netdev_add`, `hostfwd_add` and their likes |
//! | [`human`] | the conversation with a human |
//! | [`json`] | the conversation with a program, and `qmp`, its table of commands |
//! | [`session`] | a conversation on a character device, with a thread of its own |
//!
//! Reference: commands, texts and JSON of QEMU 10.0.2.
//! Invariant: a command runs on its monitor's thread, never on a vCPU's or the consoles' I/O thread; no lock is held
//! while it runs but its own monitor's.

mod args;
mod blocks;
mod commands;
mod disks;
mod expression;
pub mod human;
mod info;
pub mod json;
pub mod machine;
mod memory;
mod networks;
pub(crate) mod qmp;
pub mod session;
#[cfg(test)]
mod testing;

pub use machine::Machine;
pub use session::{Mode, Monitor};
