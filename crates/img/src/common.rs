//! What the commands share: opening images, messages, exit statuses, progress.
//!
//! Reference: texts and statuses of `qemu-img` 10.0.2.

use crate::cli::{self, Opt, Parsed};
use disk::node::NodeRef;
use disk::open::OpenFlags;
use disk::options::Options;
use nix::sys::signal::{SigSet, Signal};
use spec::error::Error;
use std::io::Write;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

/// How a command ends early: a message has been printed, or is to be printed, and a status follows.
#[derive(Debug)]
pub enum Exit {
    /// Print `qemu-img: <message>`, status 1.
    Fail(String),
    /// The same with another status.
    FailWith(String, i32),
    /// Nothing more to print.
    Status(i32),
}

impl From<Error> for Exit {
    fn from(e: Error) -> Self {
        Exit::Fail(e.to_string())
    }
}

pub type Done = Result<i32, Exit>;

pub fn fail<T>(message: impl Into<String>) -> Result<T, Exit> {
    Err(Exit::Fail(message.into()))
}

/// A command: its name, one line for the overview, its options, its code.
pub struct Command {
    pub name: &'static str,
    pub summary: &'static str,
    pub arguments: &'static str,
    pub options: &'static [Opt],
    pub run: fn(&Parsed) -> Done,
}

/// Parses and runs a command with its arguments.
pub fn run(command: &Command, args: &[String]) -> i32 {
    let mut table = command.options.to_vec();
    table.push(cli::opt('h', "help", false));
    let parsed = match cli::parse(&table, args) {
        Ok(parsed) => parsed,
        Err(message) => {
            eprintln!("qemu-img {}: {message}", command.name);
            eprintln!("Try 'qemu-img {} --help' for more info", command.name);
            return 1;
        }
    };
    if parsed.has("help") {
        print_help(command);
        return 0;
    }
    match (command.run)(&parsed) {
        Ok(status) | Err(Exit::Status(status)) => status,
        Err(Exit::Fail(message)) => {
            eprintln!("qemu-img: {message}");
            1
        }
        Err(Exit::FailWith(message, status)) => {
            eprintln!("qemu-img: {message}");
            status
        }
    }
}

fn print_help(command: &Command) {
    println!("{}: {}.\n", command.name, command.summary);
    println!("  qemu-img {} [options] {}\n", command.name, command.arguments);
    println!("  -h, --help");
    for o in command.options {
        let short = o.short.map_or("    ".to_owned(), |c| format!("-{c}, "));
        println!("  {short}--{}{}", o.long, if o.value { " VALUE" } else { "" });
    }
}

/// A usage mistake that points to `--help`.
pub fn usage(command: &str, message: &str) -> Exit {
    Exit::Fail(format!("{message}\nTry 'qemu-img {command} --help' for more info"))
}

/// Opens an image as most commands do.
pub fn open(parsed: &Parsed, name: &str, format: Option<&str>, flags: &OpenFlags) -> Result<NodeRef, Exit> {
    open_named(name, format, parsed.has("image-opts"), flags)
}

pub fn open_named(name: &str, format: Option<&str>, image_opts: bool, flags: &OpenFlags) -> Result<NodeRef, Exit> {
    let could_not = |e: Error| Exit::Fail(format!("Could not open '{name}': {e}"));
    if !image_opts {
        return disk::open(name, format, flags).map_err(could_not);
    }
    if format.is_some() {
        return fail("--image-opts and --format are mutually exclusive");
    }
    let options = Options::parse(name, None)?;
    disk::open_options(options, flags).map_err(could_not)
}

/// Applies `-t`/`-T`; returns whether every write must be flushed.
pub fn cache(flags: &mut OpenFlags, mode: Option<&str>, default: &str) -> Result<bool, Exit> {
    let mode = mode.unwrap_or(default);
    flags.set_cache(mode).ok_or_else(|| Exit::Fail(format!("Invalid cache option: {mode}")))
}

/// Closes an image; what could not be written is the command's failure.
pub fn close(node: &NodeRef) -> Result<(), Exit> {
    node.close().map_err(|e| Exit::Fail(format!("Could not write back '{}': {}", node.filename(), disk::node::strerror(&e))))
}

/// Parses a size argument or fails with the command's text.
pub fn size_argument(text: &str, what: &str) -> Result<u64, Exit> {
    match disk::size::parse(text, 0) {
        Ok(v) if v <= i64::MAX as u64 => Ok(v),
        Ok(_) | Err(disk::size::SizeError::Range) => {
            fail(format!("Invalid {what} specified. Must be between 0 and {}.", i64::MAX))
        }
        Err(_) => fail(format!("Invalid {what} specified. You may use k, M, G, T, P or E suffixes for\nkilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.")),
    }
}

/// Defines what the `--object` values describe.
pub fn objects(parsed: &Parsed) -> Result<(), Exit> {
    for text in parsed.values("object") {
        object(text)?;
    }
    Ok(())
}

/// Defines one object: `secret,id=…` or JSON.
pub fn object(text: &str) -> Result<(), Error> {
    let mut o = if text.starts_with('{') { Options::parse_json(text)? } else { Options::parse(text, Some("qom-type"))? };
    match o.take("qom-type").as_deref() {
        Some("secret") => disk::secret::define(o),
        Some("throttle-group") => disk::filter::throttle::define(o),
        other => Err(Error::new(format!("invalid object type: {}", other.unwrap_or("")))),
    }
}

/// `--output`.
pub fn wants_json(parsed: &Parsed) -> Result<bool, Exit> {
    match parsed.value("output") {
        None | Some("human") => Ok(false),
        Some("json") => Ok(true),
        Some(_) => fail("--output must be used with human or json as argument."),
    }
}

/// Progress in hundredths of a percent, for whoever asks by signal.
static REACHED: AtomicU64 = AtomicU64::new(0);

/// Without `-p`, SIGUSR1 asks for the progress line.
fn answer_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGUSR1);
        // Blocked before any other thread starts, so that only the one below gets it.
        if signals.thread_block().is_err() {
            return;
        }
        std::thread::spawn(move || {
            while signals.wait().is_ok() {
                eprintln!("    ({:.2}/100%)", REACHED.load(Ordering::Relaxed) as f64 / 100.0);
            }
        });
    });
}

/// The `(12.34/100%)` line.
pub struct Progress {
    enabled: bool,
    total: u64,
    done: u64,
    shown: f64,
}

impl Progress {
    pub fn new(enabled: bool, total: u64) -> Progress {
        if !enabled {
            answer_signals();
        }
        let p = Progress { enabled, total, done: 0, shown: 0.0 };
        p.show(0.0);
        p
    }

    fn show(&self, percent: f64) {
        if self.enabled {
            print!("    ({percent:.2}/100%)\r");
            let _ = std::io::stdout().flush();
        }
    }

    pub fn add(&mut self, amount: u64) {
        self.done += amount;
        let percent = if self.total == 0 { 100.0 } else { self.done as f64 * 100.0 / self.total as f64 };
        REACHED.store((percent.min(100.0) * 100.0) as u64, Ordering::Relaxed);
        if percent - self.shown >= 1.0 || percent >= 100.0 && self.shown < 100.0 {
            self.shown = percent.min(100.0);
            self.show(self.shown);
        }
    }

    /// For work that knows its extent only while it is done.
    pub fn reach(&mut self, done: u64, total: u64) {
        self.total = total;
        self.add(done.saturating_sub(self.done));
    }

    /// Shows the end even when the last step has been shown already.
    pub fn complete(&mut self) {
        self.show(100.0);
    }

    pub fn finish(&mut self) {
        if self.enabled {
            println!();
        }
        self.enabled = false;
    }
}
