//! `qemu-img`: the list of commands and the options in front of them.

use crate::common::{self, Command};

mod amend;
mod bench;
mod bitmap;
mod check;
mod commit;
mod compare;
mod convert;
mod create;
mod dd;
mod info;
mod map;
mod measure;
mod rebase;
mod resize;
mod snapshot;
pub mod snapshot_view;

/// Every command, in the order of the overview.
pub const COMMANDS: &[&Command] = &[
    &amend::COMMAND,
    &bench::COMMAND,
    &bitmap::COMMAND,
    &check::COMMAND,
    &commit::COMMAND,
    &compare::COMMAND,
    &convert::COMMAND,
    &create::COMMAND,
    &dd::COMMAND,
    &info::COMMAND,
    &map::COMMAND,
    &measure::COMMAND,
    &rebase::COMMAND,
    &resize::COMMAND,
    &snapshot::COMMAND,
];

pub fn main(args: &[String]) -> i32 {
    let mut args = args;
    // Only trace options may stand before the command; there are no trace events to switch on.
    while let [first, rest @ ..] = args {
        match first.as_str() {
            "-h" | "--help" => {
                overview();
                return 0;
            }
            "-V" | "--version" => {
                version("qemu-img");
                return 0;
            }
            "-T" | "--trace" => {
                args = rest.get(1..).unwrap_or(&[]);
            }
            text if text.starts_with("--trace=") => args = rest,
            text if text.starts_with('-') => {
                eprintln!("qemu-img: unrecognized option '{text}'");
                eprintln!("Try 'qemu-img --help' for more info");
                return 1;
            }
            _ => break,
        }
    }
    let Some((name, rest)) = args.split_first() else {
        eprintln!("qemu-img: Not enough arguments");
        eprintln!("Try 'qemu-img --help' for more info");
        return 1;
    };
    match COMMANDS.iter().find(|c| c.name == name) {
        Some(command) => common::run(command, rest),
        None => {
            eprintln!("qemu-img: Command not found: {name}");
            eprintln!("Try 'qemu-img --help' for more info");
            1
        }
    }
}

/// The first line that every tool prints for `--version`.
pub fn version(program: &str) {
    println!("{program} version {} (Rhea {})", crate::FOLLOWS, env!("CARGO_PKG_VERSION"));
}

fn overview() {
    version("qemu-img");
    println!("Makes, inspects and changes disk images.\n");
    println!("  qemu-img [-h | -V | -T TRACE] COMMAND [options]\n");
    println!("Commands (COMMAND --help says more):\n");
    for c in COMMANDS {
        println!("  {} - {}", c.name, c.summary);
    }
    let mut formats: Vec<&str> = disk::open::FORMATS.iter().chain(disk::open::PROTOCOLS).copied().collect();
    formats.sort_unstable();
    println!("\nSupported image formats:\n\n  {}", formats.join(" "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_sorted_and_their_options_unique() {
        assert!(COMMANDS.is_sorted_by_key(|c| c.name));
        for c in COMMANDS {
            let mut names: Vec<_> = c.options.iter().map(|o| o.long).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{}", c.name);
        }
    }
}
