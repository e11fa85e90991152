//! Whatever way the emulator ends, the user's terminal is as it was before.
//!
//! The program runs itself as a child on a pseudo-terminal, once for each way to end.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use console::options::parse;
use console::{Consoles, Port};
use rustix::process::{Signal, getpid, kill_process};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, tcgetattr};

const ROLE: &str = "CONSOLE_TEST_ROLE";
const READY: &[u8] = b"\x1b[?7lready";

/// Ways to end, and whether the output is flushed and the process ends with status 0.
const WAYS: &[(&str, bool)] = &[
    ("finish", true),
    ("restore", true),
    ("drop", true),
    ("panic", false),
    ("abort", false),
    ("overflow", false),
    ("INT", false),
    ("TERM", false),
    ("HUP", false),
    ("QUIT", false),
];

fn signal(name: &str) -> Option<Signal> {
    Some(match name {
        "INT" => Signal::INT,
        "TERM" => Signal::TERM,
        "HUP" => Signal::HUP,
        "QUIT" => Signal::QUIT,
        _ => return None,
    })
}

fn child(role: &str) {
    let consoles = Consoles::new().unwrap();
    consoles.add(&parse("stdio,id=s,signal=off").unwrap()).unwrap();
    let port: Port = consoles.connect("s").unwrap();
    assert_eq!(port.write(READY), READY.len());
    // The parent looks at the terminal before it lets us end.
    let (sender, receiver) = std::sync::mpsc::channel();
    port.attach(std::sync::Arc::new(Typed(sender)));
    receiver.recv().unwrap();
    match role {
        "finish" => consoles.finish(),
        "restore" => console::terminal::restore(),
        "drop" => drop(consoles),
        "panic" => panic!("expected by the test"),
        "abort" => std::process::abort(),
        "overflow" => assert_ne!(deep(1), 0),
        name => {
            kill_process(getpid(), signal(name).expect("a way to end")).unwrap();
            loop {
                std::thread::park();
            }
        }
    }
    std::process::exit(0);
}

/// Recursion without an end: the stack overflows.
fn deep(n: u64) -> u64 {
    let below = std::hint::black_box([n; 64]);
    if n == u64::MAX { 0 } else { deep(std::hint::black_box(n + 1)).wrapping_add(below[n as usize % 64]) }
}

struct Typed(std::sync::mpsc::Sender<()>);

impl console::FrontEnd for Typed {
    fn input(&self, bytes: &[u8]) -> usize {
        self.0.send(()).unwrap();
        bytes.len()
    }
}

fn modes(terminal: &Termios) -> impl PartialEq + std::fmt::Debug {
    (terminal.input_modes, terminal.output_modes, terminal.control_modes, terminal.local_modes)
}

fn check(way: &str, success: bool) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let end = File::options().read(true).write(true).open(name).unwrap();
    let before = tcgetattr(&end).unwrap();
    // A background job of a shell is started with SIGINT ignored, and `nohup` ignores SIGHUP: its children would, too.
    let mut child = Command::new("env")
        .arg("--default-signal")
        .arg(std::env::current_exe().unwrap())
        .env(ROLE, way)
        .stdin(Stdio::from(end.try_clone().unwrap()))
        .stdout(Stdio::from(end.try_clone().unwrap()))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut master = File::from(master);
    let mut shown = vec![0; READY.len()];
    master.read_exact(&mut shown).unwrap();
    assert_eq!(shown, READY, "{way}");
    let during = tcgetattr(&end).unwrap();
    assert!(!during.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG), "{way}: raw");
    master.write_all(b"!").unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.success(), success, "{way}: {status}");
    assert_eq!(modes(&tcgetattr(&end).unwrap()), modes(&before), "{way}");
    let mut reset = vec![0; host::terminal::RESET.len()];
    master.read_exact(&mut reset).unwrap();
    assert_eq!(reset, host::terminal::RESET, "{way}");
}

fn main() {
    if let Ok(role) = std::env::var(ROLE) {
        return child(&role);
    }
    for (way, success) in WAYS {
        check(way, *success);
        println!("after {way} the terminal is as it was");
    }
}
