//! A back end of our own that checks what it is told; real ones are tried in stories of the machine.

use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::{JoinHandle, spawn};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::*;

/// What was asked, and the descriptors that came with it.
type Heard = Vec<(u32, Vec<u8>, Vec<OwnedFd>)>;

/// Answers until the front end leaves.
fn other(mut socket: UnixStream, features: u64, refuse: u32) -> JoinHandle<Heard> {
    spawn(move || {
        let mut heard = Heard::new();
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut header = [0; 12];
            let got = rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut header)], &mut ancillary, RecvFlags::WAITALL);
            if got.map_or(0, |got| got.bytes) < header.len() {
                return heard;
            }
            let files = ancillary.drain().flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(files) => files.collect(),
                _ => Vec::new(),
            });
            let files = files.collect();
            let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
            let mut payload = vec![0; word(8) as usize];
            socket.read_exact(&mut payload).unwrap();
            let answer = match word(0) {
                request::GET_FEATURES => Some(features),
                request::GET_PROTOCOL_FEATURES => Some(REPLY_ACK | 1 << 13),
                request::GET_VRING_BASE => Some(u64::from(payload[0]) | 77 << 32),
                _ if word(4) & NEED_REPLY != 0 => Some((word(0) == refuse).into()),
                _ => None,
            };
            if let Some(answer) = answer {
                socket.write_all(&Payload::default().u32(word(0)).u32(VERSION | IS_REPLY).u32(8).u64(answer).0).unwrap();
            }
            heard.push((word(0), payload, files));
        }
    })
}

fn regions() -> Vec<Region> {
    let file = host::map::memory_file(8192, true).unwrap();
    file.write_all_at(b"guest", 4096).unwrap();
    let memory = Arc::new(host::map::Reservation::of_file(&file, 8192, true).unwrap());
    // Others cannot see the second.
    let private = Region { guest: 0, len: 4096, memory: memory.clone(), offset: 4096, file: None };
    vec![private, Region { guest: 0x4000_0000, len: 8192, memory, offset: 0, file: Some(file) }]
}

const RING: Ring = Ring { size: 256, descriptors: 0x4000_1000, available: 0x4000_2000, used: 0x4000_3000, next: 5 };
const FEATURES: u64 = 1 << 32 | PROTOCOL_FEATURES | 1 << 15 | 1;

#[test]
fn rings_and_memory_are_handed_over_and_taken_back() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let other = other(theirs, FEATURES, 0);
    let mut vhost = VhostUser::new(ours.into(), "v").unwrap();
    assert_eq!(vhost.features(), FEATURES & !PROTOCOL_FEATURES);
    vhost.start(1 << 32 | 1 << 15 | 1 << 5, &regions(), &[RING; RINGS]).unwrap();
    assert_eq!((vhost.called(), vhost.is_alive()), (0, true));
    vhost.kick(1);
    assert_eq!(vhost.stop(), [77, 77]);
    vhost.kick(1);
    drop(vhost);
    let heard = other.join().unwrap();
    let of = |number: u32| heard.iter().filter(move |h| h.0 == number).collect::<Vec<_>>();
    let word = |bytes: &[u8], at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!(word(&of(request::SET_FEATURES)[0].1, 0), 1 << 32 | 1 << 15 | PROTOCOL_FEATURES);
    assert_eq!(word(&of(request::SET_PROTOCOL_FEATURES)[0].1, 0), REPLY_ACK);
    let (_, table, files) = &of(request::SET_MEM_TABLE)[0];
    assert_eq!(table[0], 1);
    assert_eq!([8, 16, 24, 32].map(|at| word(table, at)), [0x4000_0000, 8192, 0x4000_0000, 0]);
    let mut bytes = [0; 5];
    File::from(files[0].try_clone().unwrap()).read_exact_at(&mut bytes, 4096).unwrap();
    assert_eq!(&bytes, b"guest");
    let places = of(request::SET_VRING_ADDR);
    assert_eq!([8, 16, 24].map(|at| word(&places[1].1, at)), [RING.descriptors, RING.used, RING.available]);
    assert_eq!(of(request::SET_VRING_BASE)[0].1, [0, 0, 0, 0, 5, 0, 0, 0]);
    // Two rings: the first kick tells of what was there, the second came while it ran.
    let kicks: Vec<u64> = of(request::SET_VRING_KICK).iter().map(|(.., files)| {
        let mut count = [0; 8];
        rustix::io::read(&files[0], &mut count).unwrap();
        u64::from_ne_bytes(count)
    }).collect();
    assert_eq!(kicks, [1, 2]);
    let enabled: Vec<u8> = of(request::SET_VRING_ENABLE).iter().map(|h| h.1[4]).collect();
    assert_eq!(enabled, [1, 1, 0, 0]);
}

#[test]
fn a_call_is_seen_once() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let other = other(theirs, FEATURES, 0);
    let mut vhost = VhostUser::new(ours.into(), "v").unwrap();
    rustix::io::write(&vhost.rings[1].call, &3u64.to_ne_bytes()).unwrap();
    assert_eq!((vhost.called(), vhost.called()), (2, 0));
    drop(vhost);
    drop(other);
}

#[test]
fn a_back_end_that_refuses_or_leaves_is_an_unplugged_cable() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let other = other(theirs, FEATURES, request::SET_MEM_TABLE);
    let mut vhost = VhostUser::new(ours.into(), "v").unwrap();
    let error = vhost.start(0, &regions(), &[RING; RINGS]).unwrap_err().to_string();
    assert_eq!(error, "vhost-user: request 5 was refused");
    assert!(!vhost.is_alive() && vhost.stop() == [0, 0]);
    drop(vhost);
    drop(other);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let leaver = self::other(theirs.try_clone().unwrap(), FEATURES & !PROTOCOL_FEATURES, 0);
    let mut vhost = VhostUser::new(ours.into(), "v").unwrap();
    assert!(vhost.start(0, &[], &[RING; RINGS]).is_err(), "no memory is shared");
    theirs.shutdown(std::net::Shutdown::Both).unwrap();
    leaver.join().unwrap();
    assert_eq!((vhost.called(), vhost.is_alive()), (0, false));
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    assert!(VhostUser::new(ours.into(), "v").is_err());
}
