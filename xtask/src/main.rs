//! The project's toolbox: `cargo xtask <command>`.
//!
//! Every command is one row of [`COMMANDS`] and one file. A command that does not exist yet is not listed and is an
//! error; nothing here pretends.
#![forbid(unsafe_code)]

#[cfg(test)]
mod architecture;
mod bench;
mod bless;
mod demo;
mod diff;
mod fuzz;
mod guests;
mod layers;
mod lens;
mod licences;
mod locate;
mod metadata;
mod process;
mod project;
mod soak;
mod test;

use spec::error::{Error, Result};

struct Command {
    name: &'static str,
    arguments: &'static str,
    purpose: &'static str,
    run: fn(&[String]) -> Result<()>,
}

#[rustfmt::skip]
const COMMANDS: &[Command] = &[
    Command { name: "test", arguments: "[--full]", run: test::command,
        purpose: "layers, licences, unit tests, release build, Debian's programs and machines; what CI runs" },
    Command { name: "demo", arguments: "", run: demo::command,
        purpose: "build everything, run Debian's ARM programs and boot its kernel in the terminal" },
    Command { name: "guests", arguments: "[--full] [--refresh] [SET…]", run: guests::command,
        purpose: "fetch guest programs from Debian packages into target/guests (or $RHEA_GUESTS)" },
    Command { name: "bench", arguments: "user-arm|system-arm|disk|net [-n RUNS] [--rows PART,…] [--json] [--list]", run: bench::command,
        purpose: "CPU time of programs, machines or networks: native, the installed QEMU (or $RHEA_REFERENCE), ours (or $RHEA_QEMU_ARM)" },
    Command { name: "diff", arguments: "[-n N] [--seed S] | arm [--isa a32|t16|t32] [--fp] [--cpu MODEL] [--against PROGRAM] …", run: diff::command,
        purpose: "random instructions: our interpreter, our translated code and the installed QEMU or any other emulator" },
    Command { name: "soak", arguments: "[--seconds N] [PART-OF-A-NAME]", run: soak::command,
        purpose: "long trials: threads, signals, changing code, many processes, damaged programs" },
    Command { name: "fuzz", arguments: "[--seconds N] [TARGET…]", run: fuzz::command,
        purpose: "feed made-up bytes to parsers: disk images, NBD, options, frames, rings, kernels, GDB's packets (libFuzzer; needs g++)" },
    Command { name: "explain", arguments: "WORD…|ROW [--isa a32|t32|t16]", run: lens::explain,
        purpose: "an instruction's row and fields, its IR, the host code" },
    Command { name: "coverage", arguments: "a32|t32|t16", run: lens::coverage,
        purpose: "how many rows an instruction set has, and which are not built" },
    Command { name: "bless", arguments: "", run: bless::command,
        purpose: "rewrite the recorded pages that tests compare with: host code, system calls" },
    Command { name: "where", arguments: "NAME", run: locate::command,
        purpose: "find the table row and the function of an instruction, operation, system call or option" },
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Err(error) = dispatch(&arguments) {
        eprintln!("xtask: {error}");
        std::process::exit(1);
    }
}

fn dispatch(arguments: &[String]) -> Result<()> {
    let Some((name, rest)) = arguments.split_first() else {
        return Err(Error::new(format!("name a command\n{}", help())));
    };
    if matches!(name.as_str(), "help" | "-h" | "--help") {
        print!("{}", help());
        return Ok(());
    }
    match COMMANDS.iter().find(|c| c.name == name) {
        Some(command) => (command.run)(rest),
        None => Err(Error::new(format!("there is no command '{name}'\n{}", help()))),
    }
}

fn help() -> String {
    let mut text = String::from("cargo xtask <command>\n");
    for c in COMMANDS {
        text += &format!("  {:<10} {}\n             {}\n", c.name, c.arguments, c.purpose);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_command_is_an_error_that_lists_the_known_ones() {
        let error = dispatch(&["frobnicate".into()]).unwrap_err().to_string();
        assert!(error.starts_with("there is no command 'frobnicate'"), "{error}");
        assert!(COMMANDS.iter().all(|c| error.contains(c.name)), "{error}");
    }

    #[test]
    fn command_names_are_unique() {
        let names: std::collections::BTreeSet<_> = COMMANDS.iter().map(|c| c.name).collect();
        assert_eq!(names.len(), COMMANDS.len());
    }
}
