//! `qemu-nbd`: serves an image to NBD clients, or lists what a server has.
//!
//! Reference: options, output and statuses of `qemu-nbd` 10.0.2.
//!
//! Not modelled: TLS, SELinux labels, a socket beside a kernel device (`-c` with `-k`, `-p`, `-b`); each is refused by name.

mod device;

use crate::cli::{self, Opt, Parsed, long, opt};
use crate::common::{self, Exit, fail};
use disk::nbd::address::{Address, PORT, Place};
use disk::nbd::negotiate;
use disk::nbd::server::{Export, serve};
use disk::nbd::wire::flag;
use disk::node::{NodeRef, strerror};
use disk::open::OpenFlags;
use disk::options::Options;
use nix::sys::signal::{SigSet, Signal};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};

const OPTIONS: &[Opt] = &[
    opt('h', "help", false),
    opt('V', "version", false),
    opt('p', "port", true),
    opt('b', "bind", true),
    opt('k', "socket", true),
    opt('e', "shared", true),
    opt('t', "persistent", false),
    opt('v', "verbose", false),
    opt('x', "export-name", true),
    opt('D', "description", true),
    long("handshake-limit", true),
    opt('o', "offset", true),
    opt('A', "allocation-depth", false),
    opt('B', "bitmap", true),
    opt('L', "list", false),
    long("object", true),
    long("tls-creds", true),
    long("tls-authz", true),
    long("tls-hostname", true),
    opt('T', "trace", true),
    long("fork", false),
    long("pid-file", true),
    long("selinux-label", true),
    opt('c', "connect", true),
    opt('d', "disconnect", false),
    opt('f', "format", true),
    opt('r', "read-only", false),
    opt('s', "snapshot", false),
    opt('l', "load-snapshot", true),
    opt('n', "nocache", false),
    long("cache", true),
    long("aio", true),
    long("discard", true),
    long("detect-zeroes", true),
    long("image-opts", false),
];

/// Set for the process that goes on in the background after `--fork`.
const BACKGROUND: &str = "RHEA_NBD_BACKGROUND";

pub fn main(args: &[String]) -> i32 {
    let parsed = match cli::parse(OPTIONS, args) {
        Ok(p) => p,
        Err(message) => {
            eprintln!("qemu-nbd: {message}\nTry 'qemu-nbd --help' for more information.");
            return 1;
        }
    };
    if parsed.has("help") {
        println!(
            "qemu-nbd [options] FILE: serves an image over the NBD protocol.\nqemu-nbd -L [options]: lists a server's exports.\n"
        );
        OPTIONS.iter().for_each(|o| {
            println!(
                "  {}--{}{}",
                o.short.map_or("    ".into(), |c| format!("-{c}, ")),
                o.long,
                if o.value { "=VALUE" } else { "" }
            )
        });
        return 0;
    }
    if parsed.has("version") {
        crate::cmd::version("qemu-nbd");
        return 0;
    }
    let result = match () {
        () if parsed.has("list") => list(&parsed),
        () if parsed.has("disconnect") => device::disconnect(&parsed),
        () => start(&parsed, args),
    };
    match result {
        Ok(status) | Err(Exit::Status(status)) => status,
        Err(Exit::Fail(message) | Exit::FailWith(message, _)) => {
            eprintln!("qemu-nbd: {message}");
            1
        }
    }
}

fn refuse_missing(p: &Parsed) -> Result<(), Exit> {
    for name in ["tls-creds", "tls-authz", "tls-hostname"] {
        if p.has(name) {
            return fail(format!("--{name}: TLS is not supported yet"));
        }
    }
    if p.has("selinux-label") {
        return fail("--selinux-label: SELinux support is not built in");
    }
    Ok(())
}

fn place(p: &Parsed) -> Result<Place, Exit> {
    if let Some(path) = p.value("socket") {
        if p.has("port") || p.has("bind") {
            return fail("socket path and port or address are mutually exclusive");
        }
        if !path.starts_with('/') {
            return fail("socket path must be absolute");
        }
        return Ok(Place::Unix(path.to_owned()));
    }
    let port = match p.value("port").map(str::parse) {
        None => PORT,
        Some(Ok(port)) => port,
        Some(Err(_)) => return fail(format!("Invalid port '{}'", p.value("port").unwrap_or(""))),
    };
    Ok(Place::Tcp(p.value("bind").unwrap_or("0.0.0.0").to_owned(), port))
}

fn list(p: &Parsed) -> Result<i32, Exit> {
    if !p.rest.is_empty() {
        return fail("List mode is incompatible with a file name");
    }
    if p.has("connect") || p.has("disconnect") {
        return fail("List mode is incompatible with per-device settings");
    }
    refuse_missing(p)?;
    let mut place = place(p)?;
    if let Place::Tcp(host, _) = &mut place
        && !p.has("bind")
    {
        *host = "localhost".into();
    }
    let all = negotiate::list(&Address { place, export: String::new() })?;
    println!("exports available: {}", all.len());
    for e in all {
        println!(" export: '{}'", e.name);
        if !e.description.is_empty() {
            println!("  description: {}", e.description);
        }
        if e.flags & flag::HAS_FLAGS != 0 {
            let names: Vec<&str> = flag::NAMES.iter().filter(|(bit, _)| e.flags & bit != 0).map(|(_, n)| *n).collect();
            println!("  size:  {}\n  flags: {:#x} ( {} )", e.size, e.flags, names.join(" "));
        }
        if let Some((min, preferred, max)) = e.blocks {
            println!("  min block: {min}\n  opt block: {preferred}\n  max block: {max}");
        }
        println!(
            "  transaction size: {}-bit\n  available meta contexts: {}",
            if e.extended { 64 } else { 32 },
            e.contexts.len()
        );
        e.contexts.iter().for_each(|c| println!("   {c}"));
    }
    Ok(0)
}

fn start(p: &Parsed, args: &[String]) -> Result<i32, Exit> {
    refuse_missing(p)?;
    common::objects(p)?;
    let [name] = p.rest.as_slice() else {
        eprintln!("qemu-nbd: Invalid number of arguments\nTry 'qemu-nbd --help' for more information.");
        return Err(Exit::Status(1));
    };
    let device = device::wanted(p)?;
    let forks = p.has("fork") || device.is_some() && !p.has("verbose");
    if forks && std::env::var_os(BACKGROUND).is_none() {
        return go_to_background(args);
    }
    let place = place(p)?;
    let limit = match p.value("shared").map(str::parse::<usize>) {
        None => 1,
        Some(Ok(n)) => n,
        Some(Err(_)) => return fail(format!("Invalid shared device number '{}'", p.value("shared").unwrap_or(""))),
    };
    let export = open_export(p, name, limit != 1 && device.is_none())?;
    // Signals end the program in order; they are blocked before any thread starts.
    let mut signals = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().for_each(|s| signals.add(s));
    signals.thread_block().map_err(|e| Exit::Fail(format!("signals: {e}")))?;
    let (send, events) = channel();
    let exports = Arc::new(vec![export]);
    let connected = match device {
        Some(path) => Some(device::connect(path, name, &exports[0], p.has("verbose"), send.clone())?),
        None => {
            listen(&place, limit, exports.clone(), send.clone())?;
            None
        }
    };
    let socket = socket_number(&place);
    if let Some(path) = p.value("pid-file") {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .map_err(|e| Exit::Fail(format!("Failed to store PID: {}", strerror(&e))))?;
    }
    announce();
    std::thread::spawn(move || {
        let _ = signals.wait();
        let _ = send.send(Event::Signal);
    });
    let asked = wait_for_end(&events, p.has("persistent") && connected.is_none());
    if let Some(device) = connected {
        device.end(asked);
    }
    let closed = exports[0].node.close();
    // Another server may have its socket there by now.
    if let Place::Unix(path) = &place
        && socket_number(&place) == socket
    {
        let _ = std::fs::remove_file(path);
    }
    if let Some(path) = p.value("pid-file") {
        let _ = std::fs::remove_file(path);
    }
    closed.map_err(|e| Exit::Fail(format!("closing the image failed: {}", strerror(&e))))?;
    Ok(0)
}

/// What tells one socket file from another under the same name.
fn socket_number(place: &Place) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    match place {
        Place::Unix(path) => std::fs::metadata(path).ok().map(|m| m.ino()),
        Place::Tcp(..) => None,
    }
}

enum Event {
    Signal,
    Came,
    Left,
}

/// Waits until a signal asks for the end (true) or nobody is left to be served.
fn wait_for_end(events: &Receiver<Event>, persistent: bool) -> bool {
    let mut clients = 0;
    while let Ok(event) = events.recv() {
        match event {
            Event::Signal => return true,
            Event::Came => clients += 1,
            Event::Left => {
                clients -= 1;
                if clients == 0 && !persistent {
                    return false;
                }
            }
        }
    }
    false
}

/// Starts this program again without a terminal and waits until it serves.
fn go_to_background(args: &[String]) -> Result<i32, Exit> {
    let broken = |e: std::io::Error| Exit::Fail(format!("Failed to fork: {}", strerror(&e)));
    let program = std::env::current_exe().map_err(broken)?;
    let mut child = Command::new(program)
        .args(args)
        .env(BACKGROUND, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(broken)?;
    let mut ready = [0; 1];
    let said = child.stdout.take().map(|mut out| out.read(&mut ready));
    match said {
        Some(Ok(1)) => Ok(0),
        _ => {
            let status = child.wait().ok().and_then(|s| s.code()).unwrap_or(1);
            Ok(status.max(1))
        }
    }
}

/// Tells the waiting parent that clients can connect, and lets go of its terminal.
fn announce() {
    if std::env::var_os(BACKGROUND).is_none() {
        return;
    }
    let _ = rustix::process::setsid();
    let _ = std::io::stdout().write_all(b"+");
    let _ = std::io::stdout().flush();
    if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

fn open_export(p: &Parsed, name: &str, shared: bool) -> Result<Export, Exit> {
    let read_only = p.has("read-only") || p.has("load-snapshot");
    let mut flags = OpenFlags { write: !read_only && !p.has("snapshot"), ..OpenFlags::default() };
    let mode = p.value("cache").or(if p.has("nocache") { Some("none") } else { None });
    if p.has("cache") && p.has("nocache") {
        return fail("-n and --cache can only be specified once");
    }
    let writethrough = match mode {
        None => false,
        Some(mode) => flags.set_cache(mode).ok_or_else(|| Exit::Fail(format!("Invalid cache mode `{mode}'")))?,
    };
    let aio = p.value("aio").unwrap_or("threads");
    flags.aio = disk::engine::Aio::named(aio).ok_or_else(|| Exit::Fail(format!("Invalid aio mode '{aio}'")))?;
    flags.unmap = match p.value("discard") {
        None | Some("ignore" | "off") => false,
        Some("unmap" | "on") => true,
        Some(other) => return fail(format!("Invalid discard mode `{other}'")),
    };
    let mut node = open_node(p, name, &flags)?;
    if let Some(key) = p.value("load-snapshot") {
        crate::cmd::snapshot_view::select(&mut node, key)?;
    }
    let offset = p.value("offset").map_or(Ok(0), |o| common::size_argument(o, "offset"))?;
    let whole = node.size();
    if offset > whole {
        return fail(format!("Invalid offset {offset}"));
    }
    let mut bitmaps = Vec::new();
    for bitmap in p.values("bitmap") {
        // The first layer that has it.
        let has = |n: &disk::NodeRef| n.as_qcow2().and_then(|q| q.bitmap_list().ok()).is_some_and(|l| l.iter().any(|e| e.name == bitmap));
        let layer = disk::chain::layers(&node).into_iter().find(has);
        let Some(image) = layer.as_deref().and_then(|n| n.as_qcow2()) else {
            return fail(format!("Bitmap '{bitmap}' is not found"));
        };
        bitmaps.push((bitmap.to_owned(), Arc::new(image.bitmap_bits(bitmap)?)));
    }
    Ok(Export {
        name: p.value("export-name").unwrap_or("").to_owned(),
        description: p.value("description").unwrap_or("").to_owned(),
        read_only: read_only || node.read_only(),
        node,
        shared,
        depth: p.has("allocation-depth"),
        bitmaps,
        offset,
        size: whole - offset,
        writethrough,
    })
}

fn open_node(p: &Parsed, name: &str, flags: &OpenFlags) -> Result<NodeRef, Exit> {
    let could_not = |e: spec::error::Error| Exit::Fail(format!("Failed to blk_new_open '{name}': {e}"));
    let node = match p.has("image-opts") {
        true => Options::parse(name, None).and_then(|o| disk::open_options(o, flags)),
        false => disk::open(name, p.value("format"), flags),
    };
    let mut node = node.map_err(could_not)?;
    if let Some(mode) = p.value("detect-zeroes") {
        let mut above = Options::new();
        above.set("detect-zeroes", mode);
        node = disk::filter::decorate(node, &mut above, flags.unmap)?;
    }
    if !p.has("snapshot") {
        return Ok(node);
    }
    disk::create::temporary_overlay(node, flags).map_err(could_not)
}

/// Counts clients and holds new ones back at the limit.
struct Gate {
    active: Mutex<usize>,
    changed: Condvar,
    limit: usize,
}

impl Gate {
    fn enter(&self) {
        let mut active = self.active.lock().unwrap_or_else(|e| e.into_inner());
        while self.limit > 0 && *active >= self.limit {
            active = self.changed.wait(active).unwrap_or_else(|e| e.into_inner());
        }
        *active += 1;
    }

    fn leave(&self) {
        *self.active.lock().unwrap_or_else(|e| e.into_inner()) -= 1;
        self.changed.notify_one();
    }
}

fn listen(place: &Place, limit: usize, exports: Arc<Vec<Export>>, events: Sender<Event>) -> Result<(), Exit> {
    let gate = Arc::new(Gate { active: Mutex::new(0), changed: Condvar::new(), limit });
    let broken = |what: String| move |e: std::io::Error| Exit::Fail(format!("{what}: {}", strerror(&e)));
    match place {
        Place::Unix(path) => {
            let listener = UnixListener::bind(path).map_err(broken(format!("Failed to bind socket to {path}")))?;
            std::thread::spawn(move || accept_loop(|| listener.accept().map(|(s, _)| s), &gate, &exports, &events));
        }
        Place::Tcp(host, port) => {
            let listener = TcpListener::bind((host.as_str(), *port))
                .map_err(broken(format!("Failed to find an available port: {host}:{port}")))?;
            let accept = move || {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Ok(stream)
            };
            std::thread::spawn(move || accept_loop(accept, &gate, &exports, &events));
        }
    }
    Ok(())
}

fn accept_loop<S: Read + Write + Send + 'static>(
    accept: impl Fn() -> std::io::Result<S>,
    gate: &Arc<Gate>,
    exports: &Arc<Vec<Export>>,
    events: &Sender<Event>,
) {
    loop {
        gate.enter();
        let Ok(stream) = accept() else {
            gate.leave();
            continue;
        };
        let (gate, exports, events) = (gate.clone(), exports.clone(), events.clone());
        // The event comes first, so that a client that leaves at once is counted.
        let _ = events.send(Event::Came);
        std::thread::spawn(move || {
            // A client that breaks the protocol or vanishes only ends its own connection.
            let _ = serve(stream, &exports);
            gate.leave();
            let _ = events.send(Event::Left);
        });
    }
}
