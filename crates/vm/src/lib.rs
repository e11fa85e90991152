//! A virtual machine as an object: options, wiring, lifecycle, monitors.
//!
//! Reference: the command line, texts and exit statuses of `qemu-system-arm` 10.0.2.
//!
//! Not modelled: displays, migration, snapshots of machines; `options/refused.rs` lists the options that are missing.
//!
//! Module map: `options` (the table) fills a `config::Config`; `settings` are the comma lists; `assemble` builds a machine from
//! it; `engine` is what runs, `lifecycle` decides when; `lines` are serial ports and monitors, `drives` and `blocks` disks; `log` is `-d`.
#![forbid(unsafe_code)]

pub mod assemble;
pub mod blocks;
pub mod config;
pub mod cpu;
pub mod daemon;
pub mod debugger;
pub mod devices;
pub mod drives;
pub mod engine;
pub mod firmware;
pub mod lifecycle;
pub mod lines;
pub mod log;
pub mod memory;
pub mod monitor;
pub mod network;
pub mod options;
pub mod session;
pub mod settings;
pub mod signals;
pub mod time;

use config::Config;
use lifecycle::{Cause, Lifecycle};
use options::Request;
use spec::{Context, Error, Result};
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

/// The version of QEMU whose behaviour this is.
pub const QEMU_VERSION: &str = "10.0.2";

/// A whole run of the program.
pub fn program(name: &'static str, args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match run(name, args.into_iter().collect()) {
        Ok(status) => ExitCode::from(status),
        Err(e) => {
            // The user can read it then.
            console::terminal::restore();
            report(&e)
                .split('\n')
                .enumerate()
                .for_each(|(n, line)| if n == 0 { eprintln!("{name}: {line}") } else { eprintln!("{line}") });
            ExitCode::FAILURE
        }
    }
}

/// An error as QEMU words it: without Rust's numbers of the operating system's errors.
pub fn report(error: &Error) -> String {
    let text = error.to_string();
    let mut pieces = text.split(" (os error ");
    let mut out = pieces.next().unwrap_or_default().to_string();
    for piece in pieces {
        out.push_str(piece.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches(')'));
    }
    out
}

fn run(name: &'static str, args: Vec<OsString>) -> Result<u8> {
    match options::parse(name, args.iter().cloned())? {
        Request::Print(text, status) => {
            print!("{text}");
            Ok(status)
        }
        Request::Run(config) if config.daemonize && !daemon::is_child() => daemon::launch(&args),
        Request::Run(config) => machine(&config),
    }
}

/// Builds a machine and serves it until it ends. Gives the exit status.
fn machine(config: &Config) -> Result<u8> {
    if config.daemonize {
        if config.display == config::Display::Nographic {
            return Err(Error::new("-nographic cannot be used with -daemonize"));
        }
        daemon::detach()?;
    }
    if let Some(file) = dump_tree(config)? {
        return file;
    }
    let signals = signals::block()?;
    log::start(config.log_items, config.log_file.as_deref())?;
    let assembled = assemble::assemble(config)?;
    let engine = assembled.engine.clone();
    trace(config, &engine.machine);
    engine.switch_on()?;
    let life = Lifecycle::new(engine.clone(), config.actions);
    engine.connect(&life);
    assembled.power.connect(&life);
    let button = engine.clone();
    life.set_button(move || button.board.power.press());
    signals.watch(config.program, life.clone())?;
    let assemble::Assembled { lines, drives, devices, ends, .. } = assembled;
    let devices = Arc::new(devices);
    let blocks = blocks::Blocks::new(life.clone(), drives);
    lines.consoles.set_actions(Arc::new(Keys { life: life.clone(), blocks: blocks.clone() }));
    let session = session::Session {
        life: life.clone(),
        engine: engine.clone(),
        consoles: lines.consoles,
        blocks: blocks.clone(),
        config: config.clone(),
        network: network::Network::new(ends, devices.clone()),
        debugging: Default::default(),
    };
    let session = Arc::new(session);
    let debugging = session.debugging.get_or_init(|| debugger::Debugging::new(&session));
    if let Some(device) = &config.gdb {
        debugging
            .listen(device)
            .map_err(|e| Error::new(format!("-gdb {device}: {e}\n-gdb {device}: gdbstub: couldn't create chardev")))?;
    }
    let start = |m: lines::Monitor| monitor::Monitor::start(session.clone(), m.port, m.mode);
    let monitors = lines.monitors.into_iter().map(start).collect::<Result<Vec<_>>>()?;
    let pid_file = config.pid_file.as_deref().map(daemon::PidFile::create).transpose()?;
    engine.machine.spawn()?;
    if config.daemonize {
        daemon::ready()?;
    }
    if !config.stopped {
        life.cont()?;
    }
    life.wait();
    debugging.finish(0);
    engine.machine.stop();
    blocks.lift();
    devices.drain();
    session.network.close();
    let closed = blocks.close();
    drop(monitors);
    session.consoles.finish();
    drop(pid_file);
    closed.map(|()| 0)
}

/// Connects the translator with the log.
fn trace(config: &Config, machine: &Arc<jit::Machine>) {
    machine.set_trace(jit::trace::Trace {
        items: log::traced,
        filter: config.log_filter.clone(),
        guest: machine.guest().clone(),
        symbol: Box::new(|_| None),
        out: Box::new(log::write),
    });
    let machine = Arc::downgrade(machine);
    log::on_change(move || {
        if let Some(machine) = machine.upgrade() {
            machine.follow_items();
        }
    });
}

/// `-M dumpdtb=FILE`: writes the tree and ends.
fn dump_tree(config: &Config) -> Result<Option<Result<u8>>> {
    let choices = assemble::Choices::new(config)?;
    let Some(path) = &choices.options.dumpdtb else { return Ok(None) };
    let plan = assemble::boot_plan(config, &choices)?;
    let mut blob = board::boot::linux::padded(&plan.tree)?;
    blob.resize(board::boot::linux::TREE_BYTES as usize, 0);
    std::fs::write(path, blob).context(|| format!("Failed to write '{path}'"))?;
    Ok(Some(Ok(0)))
}

/// What the multiplexer's keys do.
struct Keys {
    life: Arc<Lifecycle>,
    blocks: Arc<blocks::Blocks>,
}

impl console::Actions for Keys {
    fn quit(&self) {
        self.life.quit(Cause::HostUi);
    }

    fn commit(&self) -> Result<()> {
        self.blocks.commit("all")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_worded_as_qemu_does() {
        let missing = std::io::Error::from_raw_os_error(2);
        let e = Error::caused("Could not open 'x'", Error::caused("Could not open 'y'", missing));
        assert_eq!(report(&e), "Could not open 'x': Could not open 'y': No such file or directory");
        assert_eq!(report(&Error::new("plain (text)\nof two lines")), "plain (text)\nof two lines");
    }
}
