//! A virtual machine as an object: options, wiring, lifecycle, monitors.
//!
//! Reference: the command line, texts and exit statuses of `qemu-system-arm` 10.0.2.
//!
//! Not modelled: displays, migration, snapshots of machines; `options/refused.rs` lists the options that are missing.
//!
//! Module map: `options` (the table) fills a `config::Config`; `settings` are the comma lists; `log` is `-d`.
#![forbid(unsafe_code)]

pub mod config;
pub mod daemon;
pub mod drives;
pub mod lifecycle;
pub mod lines;
pub mod log;
pub mod monitor;
pub mod options;
pub mod settings;
pub mod signals;

use options::Request;
use spec::{Error, Result};
use std::ffi::OsString;
use std::process::ExitCode;

/// The version of QEMU whose behaviour this is.
pub const QEMU_VERSION: &str = "10.0.2";

/// A whole run of the program.
pub fn program(name: &'static str, args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match run(name, args) {
        Ok(status) => ExitCode::from(status),
        Err(e) => {
            eprintln!("{name}: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &'static str, args: impl IntoIterator<Item = OsString>) -> Result<u8> {
    match options::parse(name, args)? {
        Request::Print(text, status) => {
            print!("{text}");
            Ok(status)
        }
        Request::Run(_) => Err(Error::new("machines cannot run yet")),
    }
}
