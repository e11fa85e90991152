//! `guestfwd` to a character device: connections of the guest meet a line, which has none.
//!
//! Reference: QEMU 10.0.2: spellings, names of the devices, messages. What any connection sends goes to the line; what
//! comes from the line goes to the newest connection, and waits for one if there is none.
//! Invariants: [`FrontEnd::input`] never waits; at most [`QUEUE_MAX`] bytes and [`CONNECTIONS_MAX`] connections are held.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use console::options::{self, Redirect};
use console::{Consoles, Event, FrontEnd, Port};
use net::Backend;
use net::user::forward::{ForwardTarget, GuestForward};
use net::user::{Config, Dial, UserNet};
use spec::{Error, Result};

/// Connections to one line at a time.
const CONNECTIONS_MAX: usize = 64;
/// Bytes that wait for a guest.
const QUEUE_MAX: usize = 64 * 1024;
/// Bytes that move at a time.
const PIECE: usize = 16 * 1024;
/// How long a guest that has ended its side may wait for the rest of an answer, from one piece to the next.
const LINGER: Duration = Duration::from_secs(5);
/// How often a guest that does not read is tried; a newer connection gets the next bytes.
const TRY: Duration = Duration::from_millis(250);
/// How long a line may take nothing before the connection is given up.
const STUCK: Duration = Duration::from_secs(60);

/// The user-mode network with its `guestfwd` rules connected.
pub fn open(config: Config, consoles: &Consoles) -> Result<Box<dyn Backend>> {
    let rules = config.guestfwd.clone();
    let mut net = UserNet::new(config)?;
    for GuestForward { server, target, .. } in rules {
        if let ForwardTarget::Chardev(device) = target {
            let port = connect(server, &device, consoles)?;
            net.attach_chardev(server, Line::dial(port)?);
        }
    }
    Ok(Box::new(net))
}

fn connect(server: SocketAddr, device: &str, consoles: &Consoles) -> Result<Port> {
    let label = format!("guestfwd.tcp.{}", server.port());
    let failed = |e: Error| Error::new(format!("{e}\nCould not open guest forwarding device '{label}'"));
    let id = match options::redirect(&label, device).map_err(failed)? {
        Redirect::Existing(id) => id,
        Redirect::New { chardev, monitor: false } => {
            consoles.add(&chardev).map_err(failed)?;
            chardev.id
        }
        Redirect::New { monitor: true, .. } => return Err(failed(Error::new("a monitor cannot share this device"))),
        Redirect::None => return Err(failed(Error::new("'none' is not a valid char driver"))),
    };
    consoles.connect(&id).map_err(failed)
}

#[derive(Default)]
struct State {
    /// The newest is the last.
    connections: Vec<Arc<UnixStream>>,
    /// From the line, for the guest.
    queue: VecDeque<u8>,
    /// The line was told to wait.
    short: bool,
    /// The far end of the line is gone: connections end when the queue is empty.
    closed: bool,
    /// The network is gone.
    over: bool,
    /// Pieces that went to the guest.
    count: u64,
    /// The writer has a piece that is no longer in the queue.
    writing: bool,
}

/// A line and the connections to it.
struct Line {
    port: Port,
    state: Mutex<State>,
    changed: Condvar,
}

/// Ends the line's threads with the network.
struct Owner(Arc<Line>);

impl Line {
    fn dial(port: Port) -> Result<Dial> {
        let line = Arc::new(Line { port: port.clone(), state: Mutex::default(), changed: Condvar::new() });
        let writer = line.clone();
        let thread = thread::Builder::new().name("guestfwd".into()).spawn(move || writer.write());
        thread.map_err(|e| Error::caused("no thread for guestfwd", e))?;
        port.attach(Arc::new(Ear(line.clone())));
        let owner = Owner(line);
        Ok(Dial(Box::new(move || owner.0.connection())))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more connection.
    fn connection(self: &Arc<Line>) -> std::io::Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_write_timeout(Some(TRY))?;
        let ours = Arc::new(ours);
        {
            let mut state = self.lock();
            if state.connections.len() >= CONNECTIONS_MAX {
                return Err(ErrorKind::ConnectionRefused.into());
            }
            state.connections.push(ours.clone());
        }
        let (line, stream) = (self.clone(), ours.clone());
        if let Err(error) = thread::Builder::new().name("guestfwd".into()).spawn(move || line.read(&stream)) {
            self.forget(&ours);
            return Err(error);
        }
        self.go_on();
        Ok(theirs.into())
    }

    /// Wakes the writer, and the line if it waits.
    fn go_on(&self) {
        let short = std::mem::replace(&mut self.lock().short, false);
        self.changed.notify_all();
        if short {
            self.port.more_room();
        }
    }

    fn forget(&self, stream: &Arc<UnixStream>) {
        self.lock().connections.retain(|c| !Arc::ptr_eq(c, stream));
    }

    /// From one connection to the line.
    fn read(&self, stream: &Arc<UnixStream>) {
        let mut piece = vec![0; PIECE];
        loop {
            match (&**stream).read(&mut piece) {
                Ok(0) => break self.linger(),
                Ok(n) if self.port.write_waiting(&piece[..n], STUCK) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        self.forget(stream);
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }

    /// The guest says nothing more and may hear the rest.
    fn linger(&self) {
        let mut state = self.lock();
        loop {
            let count = state.count;
            // Of a closed line, what it said before is still on its way.
            let silent = |s: &State| s.over || s.closed && s.queue.is_empty() && !s.writing;
            let waited = self.changed.wait_timeout_while(state, LINGER, |s| s.count == count && !silent(s));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.count == count {
                return;
            }
        }
    }

    /// From the line to the newest connection.
    fn write(&self) {
        loop {
            let (stream, piece) = {
                let idle = |s: &mut State| !s.over && (s.connections.is_empty() || s.queue.is_empty() && !s.closed);
                let mut state = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
                if state.over {
                    return;
                }
                if state.queue.is_empty() {
                    for stream in state.connections.drain(..) {
                        let _ = stream.shutdown(std::net::Shutdown::Write);
                    }
                    continue;
                }
                let len = state.queue.len().min(PIECE);
                let piece: Vec<u8> = state.queue.drain(..len).collect();
                state.writing = true;
                (state.connections.last().expect("there is one").clone(), piece)
            };
            let written = (&*stream).write(&piece);
            let taken = *written.as_ref().unwrap_or(&0);
            {
                let mut state = self.lock();
                piece[taken..].iter().rev().for_each(|byte| state.queue.push_front(*byte));
                state.count += u64::from(taken > 0);
                state.writing = false;
            }
            let waits = |e: &std::io::Error| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted);
            if written.is_err_and(|e| !waits(&e)) {
                self.forget(&stream);
            }
            self.go_on();
        }
    }
}

/// What hears the line.
struct Ear(Arc<Line>);

impl FrontEnd for Ear {
    fn input(&self, bytes: &[u8]) -> usize {
        let line = &self.0;
        let mut state = line.lock();
        let room = if state.connections.is_empty() { 0 } else { QUEUE_MAX.saturating_sub(state.queue.len()) };
        let n = room.min(bytes.len());
        state.queue.extend(&bytes[..n]);
        state.short |= n < bytes.len();
        drop(state);
        line.changed.notify_all();
        n
    }

    fn event(&self, event: Event) {
        if matches!(event, Event::Opened | Event::Closed) {
            self.0.lock().closed = event == Event::Closed;
            self.0.changed.notify_all();
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let line = &self.0;
        line.port.detach();
        let mut state = line.lock();
        state.over = true;
        for stream in state.connections.drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        drop(state);
        line.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::sync::mpsc::channel;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A line to a TCP server of the test.
    fn line(consoles: &Consoles) -> (Dial, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let device = format!("tcp:127.0.0.1:{}", listener.local_addr().unwrap().port());
        let port = connect("10.0.2.100:80".parse().unwrap(), &device, consoles).unwrap();
        let dial = Line::dial(port).unwrap();
        let stream = listener.accept().unwrap().0;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        (dial, stream)
    }

    fn guest(dial: &mut Dial) -> UnixStream {
        let stream = UnixStream::from((dial.0)().unwrap());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn hears(mut stream: impl Read, expected: &[u8]) {
        let mut got = vec![0; expected.len()];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, expected);
    }

    #[test]
    fn what_comes_goes_to_the_newest_connection_and_waits_for_one() {
        let consoles = Consoles::new().unwrap();
        let (mut dial, mut far) = line(&consoles);
        far.write_all(b"early ").unwrap();
        let mut first = guest(&mut dial);
        hears(&first, b"early ");
        first.write_all(b"one").unwrap();
        hears(&far, b"one");
        let second = guest(&mut dial);
        far.write_all(b"two").unwrap();
        hears(&second, b"two");
        drop(second);
        // More than all queues hold, both ways.
        let data: Vec<u8> = (0..1_000_000u32).map(|i| (i * 7 >> 3) as u8).collect();
        let third = guest(&mut dial);
        let (copy, mut writer) = (data.clone(), far.try_clone().unwrap());
        let write = thread::spawn(move || writer.write_all(&copy).unwrap());
        let mut got = vec![0; data.len()];
        (&third).read_exact(&mut got).unwrap();
        write.join().unwrap();
        assert!(got == data, "the data was changed");
        let (copy, mut writer) = (data.clone(), third.try_clone().unwrap());
        let write = thread::spawn(move || writer.write_all(&copy).unwrap());
        (&far).read_exact(&mut got).unwrap();
        write.join().unwrap();
        assert!(got == data, "the data was changed");
    }

    #[test]
    fn a_half_closed_connection_gets_its_answer_and_a_closed_line_ends_it() {
        let consoles = Consoles::new().unwrap();
        let (mut dial, mut far) = line(&consoles);
        let mut stream = guest(&mut dial);
        stream.write_all(b"question").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        hears(&far, b"question");
        far.write_all(b"answer").unwrap();
        drop(far);
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"answer");
    }

    #[test]
    fn connections_have_a_limit_and_end_with_the_network() {
        let consoles = Consoles::new().unwrap();
        let (mut dial, _far) = line(&consoles);
        let streams: Vec<UnixStream> = (0..CONNECTIONS_MAX).map(|_| guest(&mut dial)).collect();
        assert_eq!((dial.0)().unwrap_err().kind(), ErrorKind::ConnectionRefused);
        drop(dial);
        let (send, ended) = channel();
        thread::spawn(move || streams.iter().for_each(|mut s| send.send(s.read(&mut [0; 1]).unwrap()).unwrap()));
        (0..CONNECTIONS_MAX).for_each(|_| assert_eq!(ended.recv_timeout(PATIENCE), Ok(0)));
    }
}
