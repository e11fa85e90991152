//! All character devices of a machine, by name.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use spec::error::{Error, Result};

use crate::backend::file::{self, Files};
use crate::backend::null::Null;
use crate::backend::pty::Pty;
use crate::backend::socket::{SocketEnd, UdpEnd};
use crate::backend::stdio::Stdio;
use crate::io::{Backend, Io};
use crate::mux::{Actions, Common, Mux};
use crate::options::{Chardev, Kind};
use crate::port::{Line, Port, Way, lock};

struct Entry {
    label: String,
    line: Arc<Line>,
    mux: Option<Arc<Mux>>,
    /// A port was handed out.
    used: bool,
}

/// The character devices of a machine and the thread that serves them. Output that has not reached the host when it is
/// dropped is lost: call [`Consoles::finish`] before.
pub struct Consoles {
    io: Io,
    common: Arc<Common>,
    entries: Mutex<Vec<Entry>>,
    notice: Mutex<Notice>,
}

/// Shows the user a line: that we wait for a connection.
type Notice = Arc<dyn Fn(&str) + Send + Sync>;

impl Consoles {
    pub fn new() -> Result<Consoles> {
        let notice: Notice = Arc::new(|text| eprintln!("{text}"));
        Ok(Consoles { io: Io::new()?, common: Arc::default(), entries: Mutex::default(), notice: Mutex::new(notice) })
    }

    /// How the user is told something before the machine runs. Without it, on standard error.
    pub fn set_notice(&self, notice: Arc<dyn Fn(&str) + Send + Sync>) {
        *lock(&self.notice) = notice;
    }

    /// The character that introduces a command on shared lines (`-echr`).
    pub fn set_escape(&self, character: u8) {
        self.common.escape.store(character, Ordering::Relaxed);
    }

    /// Who carries out `C-a x` and `C-a s`.
    pub fn set_actions(&self, actions: Arc<dyn Actions>) {
        *lock(&self.common.actions) = Some(actions);
    }

    /// Creates a character device.
    pub fn add(&self, chardev: &Chardev) -> Result<()> {
        if lock(&self.entries).iter().any(|entry| entry.label == chardev.id) {
            return Err(Error::new(format!("Chardev with id '{}' already exists", chardev.id)));
        }
        let log = chardev.log.as_ref().map(file::create).transpose()?;
        let (backend, description) = self.open(chardev)?;
        let line = self.install_full(&chardev.id, &description, backend, chardev.mux, log);
        if let Kind::Ringbuf { size } = chardev.kind {
            line.keep(size);
        }
        Ok(())
    }

    /// The connected socket of a character device that nobody reads or writes through us: vhost-user. Its name is taken.
    pub fn stream(&self, chardev: &Chardev) -> Result<OwnedFd> {
        let Kind::Socket(options) = &chardev.kind else {
            return Err(Error::new(format!("chardev \"{}\" is not reconnectable", chardev.id)));
        };
        if lock(&self.entries).iter().any(|entry| entry.label == chardev.id) {
            return Err(Error::new(format!("Chardev with id '{}' already exists", chardev.id)));
        }
        let notice = lock(&self.notice).clone();
        let (stream, description) = SocketEnd::stream(options, &|text| notice(&text))?;
        self.install_full(&chardev.id, &description, Box::new(Null), false, None);
        self.connect(&chardev.id)?;
        Ok(stream)
    }

    fn open(&self, chardev: &Chardev) -> Result<(Box<dyn Backend>, String)> {
        Ok(match &chardev.kind {
            Kind::Null => (Box::new(Null), "null".into()),
            Kind::Ringbuf { .. } => (Box::new(Null), "ringbuf".into()),
            Kind::Stdio { signals } => {
                if lock(&self.entries).iter().any(|entry| entry.line.description() == "stdio") {
                    return Err(Error::new("cannot use stdio by multiple character devices"));
                }
                (Box::new(Stdio::new(*signals)?), "stdio".into())
            }
            Kind::File { output, input } => (Box::new(Files::file(output, input.as_deref())?), "file".into()),
            Kind::Pipe { path } => (Box::new(Files::pipe(path)?), "pipe".into()),
            Kind::Serial { path } => (Box::new(Files::serial(path)?), "serial".into()),
            Kind::Udp(options) => (Box::new(UdpEnd::new(options)?), "udp".into()),
            Kind::Socket(options) => {
                let notice = lock(&self.notice).clone();
                let (end, description) = SocketEnd::new(options, &|text| notice(&text))?;
                (Box::new(end), description)
            }
            Kind::Pty { link } => {
                let (pty, name) = Pty::new(link.as_deref())?;
                // Programs read this line. It is no loss if standard output is closed.
                let _ = writeln!(std::io::stdout(), "char device redirected to {name} (label {})", chardev.id);
                (Box::new(pty), format!("pty:{name}"))
            }
        })
    }

    /// Takes a character device away. One that a device or a monitor uses stays.
    pub fn remove(&self, id: &str) -> Result<()> {
        let mut entries = lock(&self.entries);
        let at = entries.iter().position(|entry| entry.label == id);
        let at = at.ok_or_else(|| Error::new(format!("Chardev '{id}' not found")))?;
        if entries[at].used {
            return Err(Error::new(format!("Chardev '{id}' is busy")));
        }
        let entry = entries.remove(at);
        drop(entries);
        self.io.remove(&entry.line.label);
        Ok(())
    }

    /// Puts another back end behind a name; who uses it does not notice more than a lost connection.
    pub fn change(&self, chardev: &Chardev) -> Result<()> {
        let (line, shared) = {
            let entries = lock(&self.entries);
            let entry = entries.iter().find(|entry| entry.label == chardev.id);
            let entry = entry.ok_or_else(|| Error::new(format!("Chardev '{}' does not exist", chardev.id)))?;
            (entry.line.clone(), entry.mux.is_some())
        };
        if shared || chardev.mux {
            return Err(Error::new("a shared character device cannot be changed"));
        }
        let log = chardev.log.as_ref().map(file::create).transpose()?;
        let (backend, description) = self.open(chardev)?;
        line.set_log(log);
        line.describe(description);
        match chardev.kind {
            Kind::Ringbuf { size } => line.keep(size),
            _ => line.drop_kept(),
        }
        self.io.replace(line, backend);
        Ok(())
    }

    /// Lets whoever uses a character device see a break.
    pub fn send_break(&self, id: &str) -> Result<()> {
        let entries = lock(&self.entries);
        let entry = entries.iter().find(|entry| entry.label == id);
        let entry = entry.ok_or_else(|| Error::new(format!("Chardev '{id}' not found")))?;
        self.io.send_break(&entry.line);
        Ok(())
    }

    fn ringbuf(&self, id: &str) -> Result<Arc<Line>> {
        let entries = lock(&self.entries);
        let entry = entries.iter().find(|entry| entry.label == id);
        let entry = entry.ok_or_else(|| Error::new(format!("Device '{id}' not found")))?;
        if entry.line.description() != "ringbuf" {
            return Err(Error::new(format!("{id} is not a ringbuf device")));
        }
        Ok(entry.line.clone())
    }

    /// Puts bytes into a ring buffer, as if a device had written them.
    pub fn ringbuf_write(&self, id: &str, bytes: &[u8]) -> Result<()> {
        // A ring takes everything.
        let _ = self.ringbuf(id)?.write(bytes);
        Ok(())
    }

    /// What a ring buffer kept, at most `max` bytes of it; they are taken out.
    pub fn ringbuf_read(&self, id: &str, max: usize) -> Result<Vec<u8>> {
        Ok(self.ringbuf(id)?.take_kept(max))
    }

    /// All character devices, by name: label, what is behind it, whether something uses it.
    pub fn info(&self) -> Vec<(String, String, bool)> {
        let mut rows = Vec::new();
        for entry in lock(&self.entries).iter() {
            rows.push((entry.line.label.clone(), entry.line.description(), entry.line.has_front_end()));
            if entry.mux.is_some() {
                rows.push((entry.label.clone(), "mux".into(), entry.used));
            }
        }
        rows.sort();
        rows
    }

    #[cfg(test)]
    pub(crate) fn install(&self, label: &str, description: &str, backend: Box<dyn Backend>) {
        self.install_full(label, description, backend, false, None);
    }

    #[cfg(test)]
    pub(crate) fn install_mux(&self, label: &str, backend: Box<dyn Backend>) {
        self.install_full(label, "test", backend, true, None);
    }

    fn install_full(
        &self,
        label: &str,
        description: &str,
        backend: Box<dyn Backend>,
        mux: bool,
        log: Option<File>,
    ) -> Arc<Line> {
        let own = if mux { format!("{label}-base") } else { label.to_string() };
        let line = Line::new(&own, description, log, self.io.waker());
        let mux = mux.then(|| Mux::new(label, line.clone(), self.common.clone()));
        lock(&self.entries).push(Entry { label: label.to_string(), line: line.clone(), mux, used: false });
        self.io.add(line.clone(), backend);
        line
    }

    /// A port for a device.
    pub fn connect(&self, id: &str) -> Result<Port> {
        self.connect_as(id, false)
    }

    /// A port for a monitor. On a shared line a monitor gets the user's keys first only if there is nobody else.
    pub fn connect_monitor(&self, id: &str) -> Result<Port> {
        self.connect_as(id, true)
    }

    fn connect_as(&self, id: &str, monitor: bool) -> Result<Port> {
        let mut entries = lock(&self.entries);
        let entry = entries.iter_mut().find(|entry| entry.label == id);
        let entry = entry.ok_or_else(|| Error::new(format!("chardev \"{id}\" not found")))?;
        if let Some(mux) = &entry.mux {
            entry.used = true;
            return Ok(Port::new(Way::Muxed(mux.clone(), mux.place(monitor))));
        }
        if std::mem::replace(&mut entry.used, true) {
            return Err(Error::new(format!("chardev \"{id}\" is already in use")));
        }
        Ok(Port::new(Way::Direct(entry.line.clone())))
    }

    /// Waits (not for ever) until all output has reached the host, and puts the terminal back. Not on the I/O thread.
    pub fn finish(&self) {
        let deadline = Instant::now() + Duration::from_secs(1);
        let lines: Vec<Arc<Line>> = lock(&self.entries).iter().map(|entry| entry.line.clone()).collect();
        for line in lines {
            line.flush(deadline.saturating_duration_since(Instant::now()));
        }
        crate::terminal::restore();
    }
}

impl Drop for Consoles {
    /// A program that ends before it has begun leaves the terminal as it was, too.
    fn drop(&mut self) {
        crate::terminal::restore();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chardev(id: &str, kind: Kind) -> Chardev {
        Chardev { id: id.into(), kind, mux: false, log: None }
    }

    #[test]
    fn a_ring_buffer_keeps_the_last_bytes() {
        let consoles = Consoles::new().unwrap();
        consoles.add(&chardev("r", Kind::Ringbuf { size: 4 })).unwrap();
        let port = consoles.connect("r").unwrap();
        assert_eq!((port.write(b"abc"), port.write(b"def")), (3, 3));
        assert_eq!(consoles.ringbuf_read("r", 3).unwrap(), b"cde");
        assert_eq!(consoles.ringbuf_read("r", 9).unwrap(), b"f");
        consoles.add(&chardev("n", Kind::Null)).unwrap();
        assert_eq!(consoles.ringbuf_read("n", 9).unwrap_err().to_string(), "n is not a ringbuf device");
    }

    #[test]
    fn a_name_is_given_once_and_a_port_is_for_one() {
        let consoles = Consoles::new().unwrap();
        let null = chardev("n", Kind::Null);
        consoles.add(&null).unwrap();
        assert_eq!(consoles.add(&null).unwrap_err().to_string(), "Chardev with id 'n' already exists");
        consoles.connect("n").unwrap();
        assert_eq!(consoles.connect("n").unwrap_err().to_string(), "chardev \"n\" is already in use");
        assert_eq!(consoles.connect("m").unwrap_err().to_string(), "chardev \"m\" not found");
        assert_eq!(consoles.remove("n").unwrap_err().to_string(), "Chardev 'n' is busy");
        assert_eq!(consoles.remove("m").unwrap_err().to_string(), "Chardev 'm' not found");
    }
}
