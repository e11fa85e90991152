//! `pty`: a pseudo-terminal that another program opens, such as `screen /dev/pts/3`.
//!
//! Reference: Linux pty(7), inotify(7). While nobody has the terminal open its master hangs up for good, so it is not
//! polled then; inotify tells when somebody opens it.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::PollFlags;
use rustix::fs::inotify;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use spec::error::{Context, Error, Result};

use crate::io::{Backend, Outcome, Ready, Tag, Traffic, Watch, ready_now};

#[derive(Debug)]
pub struct Pty {
    master: OwnedFd,
    opened: OwnedFd,
    connected: bool,
    /// Everybody left, and what they sent has not been read.
    hung_up: bool,
    link: Option<PathBuf>,
}

impl Pty {
    /// A new pseudo-terminal and its name.
    pub fn new(link: Option<&Path>) -> Result<(Pty, String)> {
        let failed = || "could not open a pseudo-terminal".to_string();
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).context(failed)?;
        grantpt(&master).context(failed)?;
        unlockpt(&master).context(failed)?;
        rustix::io::ioctl_fionbio(&master, true).context(failed)?;
        let name = ptsname(&master, Vec::new()).context(failed)?;
        let name = name.into_string().map_err(|e| Error::caused(failed(), e))?;
        let opened = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).context(failed)?;
        // Raw from the start; and once it was opened and closed, the master knows that nobody is there.
        let end = std::fs::File::options().read(true).write(true).open(&name).context(failed)?;
        let mut settings = tcgetattr(&end).context(failed)?;
        settings.make_raw();
        tcsetattr(&end, OptionalActions::Now, &settings).context(failed)?;
        drop(end);
        inotify::add_watch(&opened, name.as_str(), inotify::WatchFlags::OPEN).context(failed)?;
        if let Some(link) = link {
            std::os::unix::fs::symlink(&name, link)
                .context(|| format!("Failed to create PTY symlink '{}'", link.display()))?;
        }
        let link = link.map(Path::to_path_buf);
        Ok((Pty { master, opened, connected: false, hung_up: false, link }, name))
    }

    fn somebody_is_there(&self) -> bool {
        !ready_now(self.master.as_fd(), PollFlags::empty()).contains(PollFlags::HUP)
    }

    fn forget_notices(&self) {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 512];
        let mut reader = inotify::Reader::new(&self.opened, &mut buffer);
        while reader.next().is_ok() {}
    }
}

impl Backend for Pty {
    fn start(&mut self, _traffic: &mut Traffic) {}

    fn watch<'a>(&'a self, traffic: &Traffic, watch: &mut Watch<'a>) {
        watch.readable(Tag::Notify, &self.opened);
        if !self.connected {
            return;
        }
        if traffic.wants_input() {
            watch.readable(Tag::Input, &self.master);
        } else if !self.hung_up {
            watch.add(Tag::Input, &self.master, PollFlags::empty());
        }
        if traffic.has_output() && !self.hung_up {
            watch.writable(Tag::Output, &self.master);
        }
    }

    fn turn(&mut self, traffic: &mut Traffic, ready: &Ready) {
        if ready.readable(Tag::Notify) {
            self.forget_notices();
            self.hung_up = false;
            if !self.connected && self.somebody_is_there() {
                self.connected = true;
                traffic.open();
            }
        }
        let input = ready.flags(Tag::Input);
        if input.contains(PollFlags::HUP) && !traffic.wants_input() {
            self.hung_up = true;
            traffic.discard();
        }
        let gone = input.intersects(PollFlags::IN | PollFlags::HUP)
            && traffic.wants_input()
            && traffic.read(&self.master) == Outcome::Gone;
        if gone {
            self.connected = false;
            self.hung_up = false;
            traffic.close();
        } else if ready.flags(Tag::Output).contains(PollFlags::OUT) && traffic.write(&self.master) == Outcome::Gone {
            traffic.discard();
        }
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            let _ = std::fs::remove_file(link);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::*;
    use crate::Consoles;
    use crate::port::Event;
    use crate::testing::{Recorder, directory, expect};

    #[test]
    fn programs_come_and_go() {
        let dir = directory("pty");
        let link = dir.join("link");
        let consoles = Consoles::new().unwrap();
        let (pty, name) = Pty::new(Some(&link)).unwrap();
        assert_eq!(std::fs::read_link(&link).unwrap(), PathBuf::from(&name));
        consoles.install("p", "pty", Box::new(pty));
        let port = consoles.connect("p").unwrap();
        let recorder = Arc::new(Recorder::default());
        port.attach(recorder.clone());
        for round in 0..3 {
            assert_eq!(port.write(b"nobody sees this"), 16, "round {round}");
            let mut far = std::fs::File::options().read(true).write(true).open(&name).unwrap();
            recorder.wait_event(Event::Opened);
            assert_eq!(port.write(b"hello\n"), 6);
            expect(&mut far, b"hello\n");
            far.write_all(b"typed\r").unwrap();
            recorder.wait_bytes(b"typed\r");
            drop(far);
            recorder.wait_event(Event::Closed);
        }
        drop(consoles);
        assert!(std::fs::read_link(&link).is_err(), "the link is gone with the terminal");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
