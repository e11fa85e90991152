//! `stdio`: standard input and output, usually the user's terminal.
//!
//! The descriptors are shared with our parent and our siblings, so their flags stay as they are (a shell does not
//! expect its terminal to be non-blocking): a terminal is opened once more, a pipe takes PIPE_BUF bytes once poll(2)
//! says so, and regular files never wait.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::{FileType, OFlags};
use spec::error::{Context, Result};

use crate::io::{Backend, Outcome, Ready, Tag, Traffic, Watch};

/// A write of this size to a pipe or a blocking terminal does not wait if poll(2) says that it is writable.
const PIECE_BLOCKING: usize = 256;
const PIECE: usize = 4096;

#[derive(Debug)]
pub struct Stdio {
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    piece: usize,
    terminal: bool,
}

impl Stdio {
    /// Uses standard input and output, and makes the terminal raw.
    pub fn new(signals: bool) -> Result<Stdio> {
        let stdio = Stdio::over(std::io::stdin(), std::io::stdout())?;
        crate::terminal::raw(std::io::stdin(), signals)?;
        host::terminal::shows_output(std::io::stdout()).context(|| "could not use standard output".into())?;
        Ok(stdio)
    }

    /// Over any two descriptors.
    pub(crate) fn over(input: impl AsFd, output: impl AsFd) -> Result<Stdio> {
        let sentence = || "could not use standard input and output".to_string();
        let input = input.as_fd().try_clone_to_owned().context(sentence)?;
        let output = output.as_fd();
        let terminal = rustix::termios::isatty(output);
        let (output, piece) = match reopened(output, terminal) {
            Some(own) => (own, PIECE),
            None => {
                let piece = if terminal { PIECE_BLOCKING } else { PIECE };
                (output.try_clone_to_owned().context(sentence)?, piece)
            }
        };
        Ok(Stdio { input: Some(input), output: Some(output), piece, terminal })
    }
}

/// The terminal once more, with flags of its own. Another user's terminal may refuse.
fn reopened(fd: impl AsFd, terminal: bool) -> Option<OwnedFd> {
    if !terminal {
        return None;
    }
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC).bits() as i32;
    let file: File = OpenOptions::new().write(true).custom_flags(flags).open(path).ok()?;
    Some(file.into())
}

/// Regular files are always ready, and poll(2) agrees; sockets must not wait.
fn write(fd: &OwnedFd, bytes: &[u8]) -> rustix::io::Result<usize> {
    let socket = rustix::fs::fstat(fd).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Socket);
    if socket {
        let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
        return rustix::net::send(fd, bytes, flags);
    }
    rustix::io::write(fd, bytes)
}

impl Backend for Stdio {
    fn start(&mut self, traffic: &mut Traffic) {
        traffic.open();
    }

    fn watch<'a>(&'a self, traffic: &Traffic, watch: &mut Watch<'a>) {
        traffic.watch(watch, self.input.as_ref(), self.output.as_ref());
    }

    fn turn(&mut self, traffic: &mut Traffic, ready: &Ready) {
        // What ends may be a script or a closed terminal.
        traffic.take(ready, &mut self.input);
        let (piece, terminal) = (self.piece, self.terminal);
        if let Some(output) = &self.output
            && ready.writable(Tag::Output)
        {
            let send = |bytes: &[u8]| {
                if terminal && bytes.contains(&0x1b) {
                    host::terminal::controlled();
                }
                write(output, bytes)
            };
            if traffic.send(piece, send) == Outcome::Gone {
                self.output = None;
                traffic.close();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use super::*;
    use crate::consoles::Consoles;
    use crate::testing::Recorder;

    #[test]
    fn bytes_go_both_ways_and_the_end_of_input_leaves_output_open() {
        let (near, far) = UnixStream::pair().unwrap();
        let consoles = Consoles::new().unwrap();
        consoles.install("s", "stdio", Box::new(Stdio::over(&near, &near).unwrap()));
        let port = consoles.connect("s").unwrap();
        let recorder = Arc::new(Recorder::default());
        port.attach(recorder.clone());
        assert_eq!(port.write(b"out"), 3);
        let mut far = far;
        crate::testing::expect(&mut far, b"out");
        std::io::Write::write_all(&mut far, b"in").unwrap();
        recorder.wait_bytes(b"in");
        far.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(port.write(b"still"), 5);
        crate::testing::expect(&mut far, b"still");
    }
}
