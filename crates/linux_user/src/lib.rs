//! Runs one Linux program for 32-bit ARM as a process of an x86-64 host: loads it, translates its system calls, delivers its
//! signals.
//!
//! **Reference.** Linux `arch/arm` (EABI); ELF; the manual pages. `docs/coverage` says which system calls are handled.
//!
//! **Not modelled**: ptrace, FDPIC and bFLT binaries, big-endian programs, pages other than 4 KiB.
//!
//! | file | what |
//! |---|---|
//! | `options`, `log` | command line and environment variables, `-d` items |
//! | `load`, `exec`, `elf`, `stack` | from a file name to a process image |
//! | `memory`, `layout` | the guest's mappings and access to its memory; `-d page` |
//! | `task` | one guest thread and the loop that runs it |
//! | `signal`, `host_signal`, `siginfo` | signals for the guest, from the host |
//! | `debug` | the process under a debugger (`-g`) |
//! | `safe` | host calls that never sleep through a signal |
//! | `table` | the system calls: number, name, arguments, handler |
//! | `call/*` | their handlers by subject |
//! | `path`, `procfs`, `fds` | what the guest sees of the file system and of /proc |
//! | `strace` | `-strace` output |
//! | `trace`, `symbols` | `-d` of translation and execution, `perf` |
//! | `abi/*` | what is particular to a guest architecture |

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("linux_user runs on x86-64 Linux hosts so far");

pub mod abi;
pub mod call;
pub mod debug;
pub mod elf;
pub mod errno;
pub mod exec;
pub mod fds;
pub mod host_signal;
pub mod layout;
pub mod load;
pub mod log;
pub mod memory;
pub mod options;
pub mod path;
pub mod procfs;
pub mod safe;
pub mod seccomp;
pub mod siginfo;
pub mod signal;
pub mod stack;
pub mod strace;
pub mod symbols;
pub mod table;
pub mod task;
pub mod trace;

use options::{Options, Request};
use std::ffi::OsString;
use std::process::ExitCode;

/// `qemu-arm`'s main: gives the status of runs that do not get as far as a program; those that do end with the program.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let (args, options_allowed) = load::binfmt_arguments(args);
    let request = if options_allowed {
        Options::parse(&args, |name| std::env::var_os(name))
    } else {
        Options::parse_program(&args, |name| std::env::var_os(name))
    };
    match request {
        Ok(Request::Print(text, status)) => {
            print!("{text}");
            ExitCode::from(status)
        }
        Ok(Request::Run(options)) => match load::run(*options) {
            Ok(status) => ExitCode::from(status as u8),
            Err(failure) => {
                eprintln!("{}", failure.error);
                if let Some(hint) = failure.hint {
                    eprintln!("hint: {hint}");
                }
                ExitCode::from(failure.status)
            }
        },
        Err(e) => {
            eprintln!("{e}");
            ExitCode::from(1)
        }
    }
}
