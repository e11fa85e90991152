//! Sessions over a socket pair with a target made up for the purpose: what goes over the wire.

use gdb::{Action, Connection, Ended, Event, Stop, Thread};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::channel;
use toy::{Machine, thread};

#[path = "session/toy.rs"]
mod toy;

/// What the target is asked when these packets are sent, and how the session ends; every answer is checked.
fn talk(stops: &[Stop], lines: &[(&str, &str)]) -> (Vec<String>, Ended) {
    talk_to(None, stops, lines)
}

fn talk_to(pid: Option<Thread>, stops: &[Stop], lines: &[(&str, &str)]) -> (Vec<String>, Ended) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let connection = Arc::new(Connection::Unix(theirs));
    let (events, receiver) = channel();
    let (reader, to) = (connection.clone(), events.clone());
    let reading = std::thread::spawn(move || gdb::read(&reader, 7, &to));
    let mut machine = Machine::new(events, stops, pid, &[]);
    let serving = std::thread::spawn(move || {
        let wire: Arc<dyn gdb::Wire> = connection.clone();
        let ended = gdb::serve(&wire, 7, &mut machine, &receiver).unwrap();
        connection.close();
        (machine.noted, ended)
    });
    let mut stream = &ours;
    for (sent, expected) in lines {
        match sent.strip_prefix('\x03') {
            Some(_) => stream.write_all(b"\x03").unwrap(),
            None => {
                let sum = sent.bytes().fold(0u8, u8::wrapping_add);
                stream.write_all(format!("${sent}#{sum:02x}").as_bytes()).unwrap();
            }
        }
        for expected in expected.split('|').filter(|e| !e.is_empty()) {
            let answer = answer(stream);
            let same = expected.strip_suffix("...").map_or(answer == *expected, |start| answer.starts_with(start));
            assert!(same, "to {sent}: expected {expected}, got {answer}");
        }
    }
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    let result = serving.join().unwrap();
    reading.join().unwrap();
    result
}

/// The next packet, decoded.
fn answer(mut stream: &UnixStream) -> String {
    let mut byte = [0];
    let mut next = || {
        stream.read_exact(&mut byte).unwrap();
        byte[0]
    };
    while next() != b'$' {}
    let mut text: Vec<u8> = Vec::new();
    loop {
        match next() {
            b'#' => break,
            b'*' => {
                let count = next() - 29;
                let last = *text.last().unwrap();
                text.extend((0..count).map(|_| last));
            }
            b => text.push(b),
        }
    }
    (next(), next());
    String::from_utf8(text).unwrap()
}

#[test]
fn registers_and_memory() {
    let (noted, ended) = talk(&[], &[
        ("qSupported:multiprocess+", "PacketSize=010000;..."),
        ("qXfer:features:read:target.xml:0,14", "m<?xml version=\"1.0\"?"),
        ("qXfer:features:read:target.xml:57,30", "m<architecture>i386:x86-64</architecture>\n<featur"),
        ("qAttached:1", "0"),
        ("?", "T05thread:p01.01;"),
        ("Hgp1.2", "OK"),
        ("g", "020000000200000002000000000000000000000000000000"),
        ("p1", "02000000"),
        ("P0=78563412", "OK"),
        ("p0", "7a563412"),
        ("p9", "E79"),
        ("m1000,2", "0000"),
        ("m11,2", "1111"),
        ("mffff0000,4", "E0e"),
        ("qqemu.PhyMemMode", "0"),
        ("Qqemu.PhyMemMode:1", "OK"),
        ("m11,2", "9999"),
        ("M20,2:abcd", "OK"),
        ("qRcmd,696e666f", "O796f75207361696420696e666f0a|OK"),
        ("qThreadExtraInfo,p1.2", "435055233..."),
        ("vUnknown", "..."),
        ("D;1", "OK"),
    ]);
    assert_eq!((noted, ended), (vec!["write 0x20 [ab, cd]".to_string()], Ended::Detached));
}

#[test]
fn going_on_and_stopping() {
    let stops = [
        Stop::Breakpoint { thread: thread(2), hardware: false },
        Stop::Step { thread: thread(1) },
        Stop::Signal { thread: thread(1), signal: 11 },
        Stop::Killed(11),
    ];
    let (noted, ended) = talk(&stops, &[
        ("qSupported:multiprocess+", "PacketSize=..."),
        ("Z0,1000,4", "OK"),
        ("Z1,1004,2", "OK"),
        ("vCont;c:p1.-1", "T05thread:p01.02;swbreak:;"),
        ("z0,1000,4", "OK"),
        ("vCont;s:p1.1", "T05thread:p01.01;"),
        ("vCont;r1000,1010:p1.1;c:p1.-1", "T0bthread:p01.01;"),
        ("vCont;C0b:p1.1;c:p1.-1", "X0b"),
    ]);
    let resumes: Vec<&str> = noted.iter().filter_map(|n| n.strip_prefix("resume ")).collect();
    let range = Action::StepRange { start: 0x1000, end: 0x1010 };
    assert_eq!(resumes, [
        "Continue(None) Continue(None)",
        "Step(None) Stay",
        &format!("{range:?} Continue(None)"),
        "Continue(Some(11)) Continue(None)",
    ]);
    assert_eq!(noted[..2], ["insert Software { addr: 1000 }", "insert Hardware { addr: 1004 }"]);
    assert_eq!(ended, Ended::Finished);
}

#[test]
fn the_debugger_interrupts_kills_or_is_gone() {
    let (noted, ended) = talk(&[], &[("vCont;c", ""), ("\x03", "T02thread:01;"), ("vKill;1", "OK")]);
    assert_eq!((noted.last().unwrap().as_str(), ended), ("interrupt", Ended::Killed));
    assert_eq!(talk(&[], &[("k", "")]).1, Ended::Killed);
    assert_eq!(talk(&[], &[("?", "T05thread:01;")]).1, Ended::Lost);
}

const SUPPORTED: &str = "qSupported:multiprocess+;fork-events+;exec-events+";

/// The parent answers for its child, which is let go.
#[test]
fn a_fork_and_staying_with_the_parent() {
    let fork = Stop::Fork { thread: thread(1), child: thread(0x99) };
    let (noted, ended) = talk_to(Some(thread(100)), &[fork, Stop::Exec { thread: thread(1) }, Stop::Exited(3)], &[
        (SUPPORTED, "PacketSize=..."),
        ("Z0,1000,4", "OK"),
        ("vCont;c:p64.-1", "T05thread:p64.01;fork:p99.99;"),
        ("qfThreadInfo", "mp64.1,p64.2,p99.99"),
        ("Hgp99.99", "OK"),
        ("Tp99.99", "OK"),
        ("p0", "00000000"),
        ("p1", "01000000"),
        ("P1=00000000", "E01"),
        ("z0,1000,4", "OK"),
        ("vCont;c:p99.-1", "E01"),
        ("D;99", "OK"),
        ("Hgp64.1", "OK"),
        ("vCont;c:p64.-1", "T05thread:p64.01;exec:2f62696e2f6e657874;"),
        ("vCont;c:p64.-1", "W03"),
    ]);
    assert_eq!(ended, Ended::Finished);
    let told: Vec<&String> = noted.iter().filter(|n| !n.starts_with("resume")).collect();
    let heard = format!("heard {SUPPORTED}");
    assert_eq!(told, [&"insert Software { addr: 1000 }".to_string(), &heard, &"release 153 false".into(), &heard, &heard]);
}

/// The child learns what was said, and its points.
#[test]
fn a_fork_and_going_with_the_child() {
    let fork = Stop::Fork { thread: thread(2), child: thread(0x99) };
    let (noted, ended) = talk_to(Some(thread(100)), &[fork], &[
        (SUPPORTED, "PacketSize=..."),
        ("!", "..."),
        ("Z0,1000,4", "OK"),
        ("Z0,2000,4", "OK"),
        ("vCont;c:p64.-1", "T05thread:p64.02;fork:p99.99;"),
        ("z0,1000,4", "OK"),
        ("Hgp99.99", "OK"),
        ("z0,2000,4", "OK"),
        ("Z0,3000,4", "OK"),
        ("D;64", "OK"),
    ]);
    assert_eq!(ended, Ended::HandedOver);
    assert_eq!(*noted.last().unwrap(), format!("hand over 153 {SUPPORTED} Z01000,4 Z03000,4 Hgp99.99").replace("Z0", "Z0,"));
}

/// Whatever comes in, the session ends in order.
#[test]
fn nonsense_ends_a_session_at_worst() {
    let mut x = 0x1234_5678_9abc_def1u64;
    for turn in 0..400 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let connection = Arc::new(Connection::Unix(theirs));
        let (events, receiver) = channel();
        let pid = if turn % 2 == 0 { None } else { Some(thread(100)) };
        let mut machine = Machine::new(events.clone(), &[], pid, &[thread(5)]);
        let mut bytes = Vec::new();
        for _ in 0..40 {
            let mut random = || {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                x
            };
            let starts = ["m", "M10,4:", "P1=", "G", "vCont;s:", "Z0,", "qXfer:features:read:", "qXfer:siginfo:read::", "QPassSignals:", "Hg", "Hgp5.", "D;", "vFile:open:", "X1,1:", "p", ""];
            let mut body = starts[random() as usize % starts.len()].as_bytes().to_vec();
            body.extend((0..random() % 12).map(|_| b"0123456789abcdef,;:.-}*p~\xff"[random() as usize % 26]));
            let sum = body.iter().copied().fold(0u8, u8::wrapping_add);
            bytes.extend([b"$", &body[..], format!("#{sum:02x}").as_bytes()].concat());
        }
        drop(ours);
        events.send(Event::Data(7, bytes)).unwrap();
        events.send(Event::Data(7, Vec::new())).unwrap();
        let wire: Arc<dyn gdb::Wire> = connection.clone();
        let _ = gdb::serve(&wire, 7, &mut machine, &receiver);
    }
}
