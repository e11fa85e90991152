//! `aio=`: how the bytes of a host file are moved.
//!
//! Reference: names and warnings of QEMU 10.0.2, which goes on with threads where the host gives no queue.

use crate::node::strerror;
use host::aio::{Engine, Kind};

/// The values of `aio=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aio {
    /// Positioned reads and writes on the threads that ask.
    #[default]
    Threads,
    /// Linux AIO; for files that are open for direct I/O.
    Native,
    IoUring,
}

impl Aio {
    pub fn named(name: &str) -> Option<Aio> {
        match name {
            "threads" => Some(Aio::Threads),
            "native" => Some(Aio::Native),
            "io_uring" => Some(Aio::IoUring),
            _ => None,
        }
    }

    /// The queue of the host. Where it gives none a warning says so, and threads do the work.
    pub fn engine(self) -> Option<&'static Engine> {
        let (kind, what, failed) = match self {
            Aio::Threads => return None,
            Aio::Native => (Kind::Native, "Linux AIO", "failed to create linux AIO context"),
            Aio::IoUring => (Kind::IoUring, "linux io_uring", "failed to init linux io_uring ring"),
        };
        match Engine::get(kind) {
            Ok(engine) => Some(engine),
            Err(e) => {
                let cause = strerror(&e);
                eprintln!("{}: Unable to use {what}, falling back to thread pool: {failed}: {cause}", program());
                None
            }
        }
    }
}

/// The name that the program was started by, as its other messages have it.
fn program() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    std::path::Path::new(&path).file_name().unwrap_or(&path).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_option() {
        assert_eq!(Aio::named("threads"), Some(Aio::Threads));
        assert_eq!(Aio::named("native"), Some(Aio::Native));
        assert_eq!(Aio::named("io_uring"), Some(Aio::IoUring));
        assert_eq!(Aio::named("IO_URING"), None);
    }
}
