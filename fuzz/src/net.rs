//! What a guest sends, and what a user writes about networks.

use net::dump::DumpOptions;
use net::netdev::Netdev;
use net::user::forward::{GuestForward, HostForward};
use net::user::{Config, Dial, Resolvers, UserNet};
use net::{Accepts, Backend, Checksum, Guest, Nanos, Offload, Segmentation};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The values of `-netdev`, `filter-dump` and of the rules within them.
pub fn options(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(netdev) = Netdev::parse(text) {
        assert!(!netdev.id.is_empty());
    }
    if let Ok(dump) = DumpOptions::parse(text) {
        let _ = (dump.beside(), dump.summary());
    }
    let _ = HostForward::parse(text);
    let _ = HostForward::parse_removal(text);
    let _ = GuestForward::parse(text);
}

/// A card that has room for everything.
struct Card;

impl Guest for Card {
    fn ready(&mut self) -> bool {
        true
    }

    fn deliver(&mut self, parts: &[&[u8]], _: Offload) -> bool {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        assert!(len <= net::backend::MAX_FRAME, "{len}");
        true
    }
}

/// Makes the sum of an IPv4 header right, so that more than its check is met.
fn correct(frame: &mut [u8]) {
    let Some((ether, ip)) = frame.split_at_mut_checked(14) else { return };
    if ether[12..] != [8, 0] || ip.len() < 20 {
        return;
    }
    let len = (usize::from(ip[0] & 15) * 4).clamp(20, ip.len());
    ip[10..12].fill(0);
    let sum = net::checksum::Sum::default().bytes(&ip[..len]).finish();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn offload(mode: u8, size: u16) -> Offload {
    let checksum = match mode & 3 {
        0 => Checksum::Complete,
        1 => Checksum::Partial { start: size & 0xff, offset: size >> 8 },
        _ => Checksum::Valid,
    };
    let segmentation = match mode >> 2 & 3 {
        1 => Segmentation::Tcp4 { size },
        2 => Segmentation::Tcp6 { size },
        3 => Segmentation::Udp { size },
        _ => Segmentation::None,
    };
    Offload { checksum, segmentation }
}

/// A guest behind the user network that may not reach anything but a server of ours: frames, each after a byte for its offloads
/// (bit 7: with a right header sum), a size of segments and a length, little-endian.
pub fn frames(mut bytes: &[u8]) {
    let dir = crate::scratch("tftp");
    std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(dir.join("file"), [7; 3000])).expect("room in memory");
    let text = format!("restrict=on,hostname=vm,tftp={},guestfwd=tcp:10.0.2.100:7-server", dir.display());
    let mut net = UserNet::with_resolvers(Config::parse(&text).expect("good options"), Resolvers::Fixed(Vec::new()))
        .expect("a network");
    let mut servers = Vec::new();
    let (dialled, dialling) = std::sync::mpsc::channel();
    let dial = Dial(Box::new(move || {
        let (ours, mut theirs) = UnixStream::pair()?;
        theirs.write_all(&[b'x'; 5000])?;
        let _ = dialled.send(theirs);
        Ok(OwnedFd::from(ours))
    }));
    net.attach_chardev("10.0.2.100:7".parse().expect("an address"), dial);
    net.set_accepts(Accepts { checksum: true, tcp4: true, tcp6: true });
    let mut now = Nanos(0);
    while let Some((&[mode, s0, s1, l0, l1], rest)) = bytes.split_first_chunk() {
        let len = usize::from(u16::from_le_bytes([l0, l1])).min(rest.len());
        let (frame, rest) = rest.split_at(len);
        bytes = rest;
        let mut frame = frame.to_vec();
        if mode & 0x80 != 0 {
            correct(&mut frame);
        }
        let _ = net.transmit(now, &frame, offload(mode, u16::from_le_bytes([s0, s1])));
        net.poll(now, &mut Card);
        servers.extend(dialling.try_iter());
        now = now.after(Duration::from_millis(if mode & 0x40 != 0 { 5000 } else { 10 }));
    }
    net.poll(now.after(Duration::from_secs(600)), &mut Card);
    let _ = net.usernet();
}
