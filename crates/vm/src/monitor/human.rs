//! The conversation with a human: prompt, commands, help, completion.

use std::sync::Arc;

use console::line::{Complete, Editor, Outcome};

use super::args::{Arg, Args, Format, Kind, parse};
use super::commands::COMMANDS;
use super::info::INFO;
use super::machine::Machine;
use crate::QEMU_VERSION;

const PROMPT: &str = "(qemu) ";

/// One command.
pub(super) struct Command {
    /// `quit|q`.
    pub names: &'static str,
    /// The arguments, as the help shows them.
    pub shown: &'static str,
    pub args: &'static [Arg],
    pub help: &'static str,
    pub run: fn(&mut Shell, &Args, &mut String) -> spec::Result<()>,
}

/// A table of commands: names, arguments as shown, arguments, help => what it does.
macro_rules! commands {
    ($(#[$doc:meta])* $table:ident;
     $($names:literal $shown:literal [$($arg:expr),*] $help:literal => $run:expr;)*) => {
        $(#[$doc])*
        pub(super) const $table: &[$crate::monitor::human::Command] = &[$($crate::monitor::human::Command {
            names: $names,
            shown: $shown,
            args: &[$($arg),*],
            help: $help,
            run: $run,
        }),*];
    };
}
pub(super) use commands;

impl Command {
    /// A line of the help.
    pub fn line(&self) -> String {
        format!("{} {} -- {}\n", self.names, self.shown, self.help)
    }
}

pub(super) fn find(table: &'static [Command], name: &str) -> Option<&'static Command> {
    table.iter().find(|command| command.names.split('|').any(|n| n == name))
}

/// Carries out commands; what a monitor remembers from one to the next.
pub struct Shell {
    pub(super) machine: Arc<dyn Machine>,
    /// The CPU that commands are about.
    pub(super) cpu: usize,
    format: Format,
    /// For `info history`.
    pub(super) history: Vec<String>,
}

impl Shell {
    pub fn new(machine: Arc<dyn Machine>, cpu: usize) -> Shell {
        Shell { machine, cpu, format: Format::default(), history: Vec::new() }
    }

    /// Carries out a line. What it has to say goes to `out`.
    pub fn run(&mut self, line: &str, out: &mut String) {
        let line = line.trim_start();
        if line.is_empty() {
            return;
        }
        let (name, rest) = split_name(line);
        let Some(command) = find(COMMANDS, name) else {
            out.push_str(&format!("unknown command: '{name}'\n"));
            return;
        };
        if command.names != "info" {
            return self.execute(command, name, rest, out);
        }
        let (sub, rest) = split_name(rest.trim_start());
        match find(INFO, sub) {
            _ if sub.is_empty() => INFO.iter().for_each(|row| out.push_str(&format!("info {}", row.line()))),
            Some(command) => self.execute(command, &format!("info {sub}"), rest, out),
            None => out.push_str(&format!("unknown command: 'info {sub}'\n")),
        }
    }

    fn execute(&mut self, command: &Command, typed: &str, rest: &str, out: &mut String) {
        let (machine, cpu) = (self.machine.clone(), self.cpu);
        let registers = |name: &str| machine.register(cpu, name);
        match parse(command.names, command.args, rest, &mut self.format, &registers) {
            Ok(args) => {
                if let Err(error) = (command.run)(self, &args, out) {
                    out.push_str(&format!("Error: {}\n", crate::report(&error)));
                }
            }
            Err(message) => out.push_str(&format!("{message}\nTry \"help {typed}\" for more information\n")),
        }
    }
}

/// A command's name ends at a space, or at the slash of `x/4xw`.
fn split_name(line: &str) -> (&str, &str) {
    let end = line.find(|c: char| c.is_whitespace() || c == '/').unwrap_or(line.len());
    line.split_at(end)
}

impl Complete for Shell {
    fn complete(&self, line: &str) -> Vec<String> {
        let line = line.trim_start();
        let (mut table, mut line) = (COMMANDS, line.strip_prefix("help ").map_or(line, str::trim_start));
        if let Some(rest) = line.strip_prefix("info ") {
            (table, line) = (INFO, rest.trim_start());
        }
        let mut candidates: Vec<String> = match line.split_once(' ') {
            None => table.iter().flat_map(|row| row.names.split('|')).map(String::from).collect(),
            Some((name, arguments)) => match find(table, name) {
                Some(command) => self.argument(command, arguments),
                None => Vec::new(),
            },
        };
        let word = line.rsplit([' ', ',']).next().unwrap_or_default();
        candidates.retain(|candidate| candidate.starts_with(word));
        candidates.sort();
        candidates
    }
}

impl Shell {
    /// What the last of these arguments can be.
    fn argument(&self, command: &Command, arguments: &str) -> Vec<String> {
        let words: Vec<&str> = arguments.split(' ').collect();
        let flags = words.iter().filter(|word| word.starts_with('-')).count();
        let mut positional = command.args.iter().filter(|arg| !matches!(arg.kind, Kind::Flag(_)));
        match positional.nth(words.len() - 1 - flags.min(words.len() - 1)).map(|arg| arg.name) {
            Some("chardev") => self.machine.consoles().info().into_iter().map(|(label, ..)| label).collect(),
            Some("drive") => self.machine.disks().into_iter().map(|disk| disk.device).collect(),
            Some("model") => self.machine.device_models(),
            Some("index") => (0..self.machine.cpus().len()).map(|cpu| cpu.to_string()).collect(),
            _ => Vec::new(),
        }
    }
}

/// A human at a keyboard.
pub struct Human {
    shell: Shell,
    editor: Editor,
    greeted: bool,
}

impl Human {
    pub fn new(machine: Arc<dyn Machine>) -> Human {
        Human { shell: Shell::new(machine, 0), editor: Editor::new(PROMPT), greeted: false }
    }

    /// Somebody is there: for the first time, or again.
    pub fn greet(&mut self, out: &mut String) {
        if std::mem::replace(&mut self.greeted, true) {
            return self.editor.show_again(out);
        }
        out.push_str(&format!("QEMU {QEMU_VERSION} monitor - type 'help' for more information\r\n"));
        self.editor.start(out);
    }

    /// Nobody is there any more; who comes next begins anew.
    pub fn leave(&mut self) {
        self.greeted = false;
    }

    /// Takes what was typed, and says what the terminal shows.
    pub fn keys(&mut self, bytes: &[u8], out: &mut String) {
        for &byte in bytes {
            let Outcome::Line(line) = self.editor.key(byte, &self.shell, out) else { continue };
            self.shell.history = self.editor.history().map(String::from).collect();
            let mut said = String::new();
            self.shell.run(&line, &mut said);
            out.push_str(&said.replace('\n', "\r\n"));
            self.editor.start(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fake;
    use super::*;

    fn human() -> (Arc<Fake>, Human) {
        let fake = Fake::new();
        (fake.clone(), Human::new(fake))
    }

    #[test]
    fn a_conversation_looks_as_in_qemu() {
        let (_fake, mut human) = human();
        let mut out = String::new();
        human.greet(&mut out);
        human.keys(b"info status\rfoo\r", &mut out);
        let expected = "QEMU 10.0.2 monitor - type 'help' for more information\r\n\
                        (qemu) info status\r\nVM status: paused (prelaunch)\r\n\
                        (qemu) foo\r\nunknown command: 'foo'\r\n(qemu) ";
        assert_eq!(out, expected);
    }

    #[test]
    fn names_are_unique_and_in_order() {
        for table in [COMMANDS, INFO] {
            let first: Vec<&str> = table.iter().filter_map(|row| row.names.split('|').next()).collect();
            let mut sorted = first.clone();
            sorted.sort();
            assert_eq!(first, sorted);
            let mut all: Vec<&str> = table.iter().flat_map(|row| row.names.split('|')).collect();
            all.sort();
            all.dedup();
            assert_eq!(all.len(), table.iter().map(|row| row.names.split('|').count()).sum::<usize>());
        }
    }

    #[test]
    fn optional_arguments_come_last_and_flags_first() {
        for row in COMMANDS.iter().chain(INFO) {
            let rank = |arg: &Arg| match (arg.kind, arg.optional) {
                (Kind::Flag(_), _) => 0,
                (_, false) => 1,
                (_, true) => 2,
            };
            assert!(row.args.is_sorted_by_key(rank), "{}", row.names);
        }
    }

    #[test]
    fn tab_completes_commands_and_their_arguments() {
        let (fake, human) = human();
        fake.consoles().add(&console::options::parse("null,id=serial0").unwrap()).unwrap();
        let complete = |line: &str| human.shell.complete(line).join(" ");
        assert_eq!(complete("sys"), "system_powerdown system_reset");
        assert_eq!(complete("info st"), "status");
        assert_eq!(complete("help info st"), "status");
        assert_eq!(complete("help qu"), "quit");
        assert_eq!(complete("chardev-remove s"), "serial0");
        assert_eq!(complete("info block -v v"), "virtio0");
        assert_eq!(complete("cpu "), "0 1");
        assert_eq!(complete("nonsense x"), "");
    }
}
