//! `-netdev tap` and `-netdev bridge`: the host's kernel is the other end of the cable.
//!
//! Reference: Linux tuntap.rst; `struct virtio_net_hdr` (VIRTIO 1.2, 5.1.6). The `bridge` helper is
//! QEMU's `qemu-bridge-helper`: it opens an interface with privileges of its own and passes its descriptor.
//! Not modelled: several queues.
//!
//! With [`TapNet::serve`] the kernel moves frames between the interface and the rings of a card that has some; in front of
//! any other card, a hub, or before a driver is there, frames go through us as without.

use std::fs::File;
use std::io::{ErrorKind, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use host::tap::{HEADER, Tap};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use spec::error::{Context, Error, Result};

use crate::backend::{Accepts, Backend, Checksum, Guest, MAX_FRAME, Nanos, Offload, Segmentation, Transmit};
use crate::poller::Poller;
use crate::vhost::Vhost;
use crate::vhost::kernel::{Service, TapService, VhostKernel};

/// What runs when the user names no script.
pub const DEFAULT_SCRIPT: &str = "/etc/qemu-ifup";
pub const DEFAULT_DOWN_SCRIPT: &str = "/etc/qemu-ifdown";
pub const DEFAULT_HELPER: &str = "/usr/lib/qemu/qemu-bridge-helper";
pub const DEFAULT_BRIDGE: &str = "br0";
/// Frames given to the guest in one poll.
const TURN: usize = 256;
/// Tokens at the poller.
const TAP: u64 = 0;
const KERNEL: u64 = 1;

const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP_L4: u8 = 5;

pub struct TapNet {
    tap: Tap,
    poller: Poller,
    /// Who serves the rings of a card.
    kernel: Option<VhostKernel>,
    /// The poller knows the interface: the kernel does not serve the rings now.
    watched: bool,
    down_script: Option<String>,
    text: String,
    readable: bool,
    more: bool,
    buffer: Vec<u8>,
    waiting: Option<usize>,
}

impl TapNet {
    /// Opens an interface by name (empty: a new one) and runs `script` with its name.
    /// `has_header`: with offload headers.
    pub fn open(name: &str, has_header: bool, script: Option<&str>, down_script: Option<&str>) -> Result<TapNet> {
        let tap = Tap::open(name, has_header)?;
        let text = format!(
            "ifname={},script={},downscript={}",
            tap.name,
            script.unwrap_or("no"),
            down_script.unwrap_or("no")
        );
        if let Some(script) = script {
            run_script(script, &tap.name)?;
        }
        let mut net = TapNet::new(tap, text)?;
        net.down_script = down_script.map(str::to_string);
        Ok(net)
    }

    /// Uses an interface that somebody else opened.
    pub fn given(fd: OwnedFd) -> Result<TapNet> {
        let tap = Tap::given(File::from(fd))?;
        let text = format!("fd={}", std::os::fd::AsRawFd::as_raw_fd(&tap.file));
        TapNet::new(tap, text)
    }

    /// Lets a helper with privileges open an interface and put it into a bridge.
    pub fn helper(helper: &str, bridge: &str) -> Result<TapNet> {
        let mut net = TapNet::given(ask_helper(helper, bridge)?)?;
        net.text = format!("helper={helper},br={bridge}");
        Ok(net)
    }

    fn new(tap: Tap, text: String) -> Result<TapNet> {
        let sentence = || format!("could not use tap interface {}", tap.name);
        let flags = rustix::fs::fcntl_getfl(&tap.file).context(sentence)?;
        rustix::fs::fcntl_setfl(&tap.file, flags | rustix::fs::OFlags::NONBLOCK).context(sentence)?;
        let poller = Poller::new()?;
        poller.add(&tap.file, TAP).context(sentence)?;
        let buffer = vec![0; HEADER + MAX_FRAME];
        let (kernel, watched, down_script) = (None, true, None);
        Ok(TapNet { tap, poller, kernel, watched, down_script, text, readable: true, more: false, buffer, waiting: None })
    }

    /// Has the kernel serve the rings of a card. `given`: its service, opened by somebody else; `busy_loop`: microseconds
    /// for which it looks at a ring before it sleeps.
    pub fn serve(&mut self, given: Option<OwnedFd>, busy_loop: u32) -> Result<()> {
        self.serve_by(Box::new(TapService::open(given, &self.tap)?), busy_loop)
    }

    fn serve_by(&mut self, service: Box<dyn Service>, busy_loop: u32) -> Result<()> {
        let kernel = VhostKernel::over(service, busy_loop)?;
        self.poller.add_poller(kernel.event_fd(), KERNEL).context(|| "vhost-net cannot be polled".into())?;
        self.kernel = Some(kernel);
        Ok(())
    }

    pub fn set_send_buffer(&self, bytes: i32) -> Result<()> {
        self.tap.set_send_buffer(bytes)
    }

    /// Looks at the interface while the kernel does not.
    fn watch(&mut self) {
        let wanted = self.kernel.as_ref().is_none_or(|k| !k.is_running());
        if std::mem::replace(&mut self.watched, wanted) == wanted {
            return;
        }
        let done = if wanted { self.poller.add(&self.tap.file, TAP) } else { self.poller.remove(&self.tap.file) };
        if let Err(error) = done {
            log::warn!("tap interface {}: {error}", self.tap.name);
        }
        self.readable = wanted;
    }

    pub fn name(&self) -> &str {
        &self.tap.name
    }

    fn header(&self) -> usize {
        if self.tap.has_header { HEADER } else { 0 }
    }
}

fn run_script(script: &str, interface: &str) -> Result<()> {
    let status = Command::new(script).arg(interface).stdin(Stdio::null()).status();
    let status = status.context(|| format!("could not launch network script '{script}'"))?;
    if !status.success() {
        return Err(Error::new(format!("network script {script} failed with status {}", status.into_raw())));
    }
    Ok(())
}

/// The descriptor that a bridge helper passes over a socket.
fn ask_helper(helper: &str, bridge: &str) -> Result<OwnedFd> {
    let sentence = || format!("bridge helper '{helper}' failed for bridge '{bridge}'");
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().context(sentence)?;
    let (vnet, fd, bridge) = ("--use-vnet", "--fd=0", format!("--br={bridge}"));
    // A command line is for the shell, which finds the arguments of the helper behind its own; it may name the bridge itself.
    let mut command = if helper.contains([' ', '\t']) {
        let bridge = if helper.contains("--br=") { "" } else { &bridge };
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(format!("exec {helper} {vnet} {fd} {bridge}"));
        command
    } else if Path::new(helper).exists() {
        let mut command = Command::new(helper);
        command.args([vnet, fd, &bridge]);
        command
    } else {
        return Err(Error::new(format!("bridge helper '{helper}' does not exist (package qemu-system-common has one)")));
    };
    // The helper gets its end as standard input, which is the descriptor number it is told.
    let mut child = command.stdin(Stdio::from(OwnedFd::from(theirs))).spawn().context(sentence)?;
    // It keeps that end open, and a helper that says nothing would be waited for.
    drop(command);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0; 16];
    let received = rustix::net::recvmsg(&ours, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::empty());
    let status = child.wait().context(sentence)?;
    received.context(sentence)?;
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fd.ok_or_else(|| Error::new(format!("{}: it ended with {status}", sentence())))
}

/// The header before a frame to the kernel.
fn encode(frame: &[u8], offload: Offload) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let mut transport_end = 0;
    match offload.checksum {
        Checksum::Complete => {}
        Checksum::Valid => header[0] = DATA_VALID,
        Checksum::Partial { start, offset } => {
            header[0] = NEEDS_CHECKSUM;
            header[6..8].copy_from_slice(&start.to_ne_bytes());
            header[8..10].copy_from_slice(&offset.to_ne_bytes());
            // The TCP header's length, if that is what follows.
            let data_offset = frame.get(usize::from(start) + 12).map_or(0, |b| u16::from(b >> 4) * 4);
            transport_end = start.saturating_add(data_offset);
        }
    }
    let (kind, size) = match offload.segmentation {
        Segmentation::None => (GSO_NONE, 0),
        Segmentation::Tcp4 { size } => (GSO_TCP4, size),
        Segmentation::Tcp6 { size } => (GSO_TCP6, size),
        Segmentation::Udp { size } => (GSO_UDP_L4, size),
    };
    if kind != GSO_NONE {
        header[1] = kind;
        header[2..4].copy_from_slice(&transport_end.to_ne_bytes());
        header[4..6].copy_from_slice(&size.to_ne_bytes());
    }
    header
}

/// What the header before a frame from the kernel says.
fn decode(header: &[u8]) -> Offload {
    let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let checksum = if header[0] & NEEDS_CHECKSUM != 0 {
        Checksum::Partial { start: word(6), offset: word(8) }
    } else if header[0] & DATA_VALID != 0 {
        Checksum::Valid
    } else {
        Checksum::Complete
    };
    let size = word(4);
    // The highest bit tells of ECN, which changes nothing here.
    let segmentation = match header[1] & 0x7f {
        GSO_TCP4 => Segmentation::Tcp4 { size },
        GSO_TCP6 => Segmentation::Tcp6 { size },
        GSO_UDP_L4 => Segmentation::Udp { size },
        _ => Segmentation::None,
    };
    Offload { checksum, segmentation }
}

impl Backend for TapNet {
    fn transmit(&mut self, _now: Nanos, frame: &[u8], offload: Offload) -> Transmit {
        let header = encode(frame, offload);
        let parts = [std::io::IoSlice::new(&header[..self.header()]), std::io::IoSlice::new(frame)];
        match (&self.tap.file).write_vectored(&parts) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Transmit::Full,
            // An interface that is down, or a frame it does not like: lost.
            _ => Transmit::Taken,
        }
    }

    fn poll(&mut self, _now: Nanos, guest: &mut dyn Guest) {
        let mut called = false;
        self.poller.ready(|ready| match ready.token {
            TAP => self.readable |= ready.readable,
            _ => called = true,
        });
        if let Some(kernel) = self.kernel.as_mut().filter(|k| called && !k.is_running()) {
            // What it said last concerns nobody any more.
            kernel.called();
        }
        self.more = false;
        let start = self.header();
        for _ in 0..TURN {
            if let Some(length) = self.waiting {
                let offload = if start > 0 { decode(&self.buffer[..start]) } else { Offload::default() };
                if !guest.ready() || !guest.deliver(&[&self.buffer[start..length]], offload) {
                    return;
                }
                self.waiting = None;
            }
            if !self.readable {
                return;
            }
            match (&self.tap.file).read(&mut self.buffer) {
                Ok(length) if length > start => self.waiting = Some(length),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.readable = false,
            }
        }
        self.more = true;
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.poller.fd())
    }

    fn deadline(&self) -> Option<Nanos> {
        self.more.then_some(Nanos(0))
    }

    fn takes_offloads(&self) -> bool {
        self.tap.has_header
    }

    fn set_accepts(&mut self, accepts: Accepts) {
        if self.tap.has_header
            && let Err(error) = self.tap.set_offloads(accepts.checksum, accepts.tcp4, accepts.tcp6)
        {
            log::warn!("{error}");
        }
    }

    fn vhost(&mut self, work: &mut dyn FnMut(&mut dyn Vhost)) -> bool {
        let Some(kernel) = &mut self.kernel else { return false };
        work(kernel);
        self.watch();
        if self.watched {
            // Nobody else looks while the rings wait for their driver, and the descriptor must not stay readable.
            self.poller.ready(|ready| self.readable |= ready.token == TAP && ready.readable);
        }
        true
    }

    fn summary(&self) -> String {
        self.text.clone()
    }
}

impl Drop for TapNet {
    fn drop(&mut self) {
        if let Some(script) = &self.down_script
            && let Err(error) = run_script(script, &self.tap.name)
        {
            log::warn!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_the_same_both_ways() {
        let mut frame = [0; 60];
        frame[34 + 12] = 8 << 4;
        for checksum in [Checksum::Complete, Checksum::Valid, Checksum::Partial { start: 34, offset: 16 }] {
            for segmentation in [Segmentation::None, Segmentation::Tcp4 { size: 1460 }, Segmentation::Tcp6 { size: 9 }] {
                let offload = Offload { checksum, segmentation };
                assert_eq!(decode(&encode(&frame, offload)), offload);
            }
        }
        let offload = Offload {
            checksum: Checksum::Partial { start: 34, offset: 16 },
            segmentation: Segmentation::Tcp4 { size: 1460 },
        };
        let [_, _, h0, h1, ..] = encode(&frame, offload);
        assert_eq!(u16::from_ne_bytes([h0, h1]), 34 + 32, "the length of all headers");
    }

    /// The thread of a card waits for the descriptor while another one kicks.
    #[test]
    fn a_kick_swallows_no_call() {
        use crate::vhost::driver::Driver;
        use crate::vhost::kernel::tests::{ACCEPTED, SECONDS, StandIn};
        use rustix::event::{PollFd, PollFlags, poll};

        let (frames, _kept) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let tap = Tap { file: File::from(OwnedFd::from(frames)), name: "t".into(), has_header: false };
        let mut net = TapNet::new(tap, String::new()).unwrap();
        let mut driver = Driver::new(16);
        let (service, _, other) = StandIn::new(&driver, "", true);
        net.serve_by(Box::new(service), 0).unwrap();
        let served = |net: &mut TapNet, work: &mut dyn FnMut(&mut dyn Vhost)| assert!(net.vhost(work));
        served(&mut net, &mut |v| v.start(ACCEPTED, &driver.regions(), &driver.rings([0; 2])).unwrap());
        let is_readable = |net: &TapNet, wait: &rustix::event::Timespec| {
            poll(&mut [PollFd::from_borrowed_fd(net.event_fd().unwrap(), PollFlags::IN)], Some(wait)).unwrap() == 1
        };
        for round in 0..100u8 {
            other.send(&[round; 60]).unwrap();
            assert!(is_readable(&net, &SECONDS), "round {round}");
            served(&mut net, &mut |v| v.kick(1));
            assert!(is_readable(&net, &SECONDS), "round {round}: after a kick");
            // A frame is in the ring before the call for it, and a call may have been written twice before it was read.
            while driver.receive().is_none() {}
            served(&mut net, &mut |v| v.kick(0));
            let mut called = 0;
            while called & 1 == 0 {
                assert!(is_readable(&net, &SECONDS), "round {round}: the call is lost");
                served(&mut net, &mut |v| called |= v.called());
            }
        }
        let mut next = [0; 2];
        served(&mut net, &mut |v| next = v.stop());
        assert_eq!(next, [100, 0]);
        served(&mut net, &mut |v| _ = v.called());
        assert!(!is_readable(&net, &rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }), "nothing is left");
    }

    #[test]
    fn a_missing_helper_is_named() {
        let error = TapNet::helper("/does/not/exist", "br0").map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("bridge helper '/does/not/exist' does not exist"), "{error}");
    }

    /// Without the privilege the error is a sentence; with it frames reach the kernel and its own arrive.
    #[test]
    fn an_interface_opens_or_says_why() {
        match TapNet::open("", true, None, None) {
            Ok(mut net) => {
                assert!(net.summary().starts_with("ifname=tap"), "{}", net.summary());
                net.set_accepts(Accepts { checksum: true, tcp4: true, tcp6: true });
                // The interface is down, so the frame is lost, not queued.
                assert_eq!(net.transmit(Nanos(0), &[0; 60], Offload::default()), Transmit::Taken);
            }
            Err(error) => assert!(error.to_string().contains("/dev/net/tun"), "{error}"),
        }
    }
}
