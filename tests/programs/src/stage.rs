//! What a story stands on: the emulator, the guest root, a scratch directory, and runs with a deadline.
//!
//! Invariants: the guest's environment and its signals' dispositions are fixed (nothing of the caller's leaks in); output goes to files, so that a
//! grandchild that outlives its parent cannot hold a pipe open; a failure prints the command to reproduce it.

use libtest_mimic::Failed;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A story may take so many times what its row says, which is about an idle machine.
const PATIENCE: u32 = 3;

/// How many lines of each stream a failure shows.
const SHOWN_LINES: usize = 40;

pub struct Setting {
    pub emulator: PathBuf,
    pub root: PathBuf,
    pub guests: PathBuf,
    /// Who started this has signals ignored (`nohup`, a shell's background job), which programs would inherit.
    ignored_signals: bool,
}

/// Whether any signal is ignored but SIGPIPE, which only Rust's runtime ignores, and gives back to what it starts.
fn ignored_signals() -> bool {
    const SIGPIPE_BIT: u64 = 1 << 12;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:")).and_then(|m| u64::from_str_radix(m.trim(), 16).ok());
    mask.unwrap_or(0) & !SIGPIPE_BIT != 0
}

impl Setting {
    pub fn find() -> Result<Arc<Setting>, String> {
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/programs").to_path_buf();
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let guests = set("RHEA_GUESTS").unwrap_or_else(|| project.join("target/guests"));
        let target = set("CARGO_TARGET_DIR").unwrap_or_else(|| project.join("target"));
        let emulator = set("RHEA_QEMU_ARM").unwrap_or_else(|| target.join("release/qemu-arm"));
        let root = guests.join("armhf-root");
        if !emulator.exists() {
            return Err(format!("there is no emulator at '{}'; build it: cargo build --release -p user", emulator.display()));
        }
        if !root.join("usr/bin/bash").exists() {
            return Err(format!("there are no guest programs in '{}'; fetch them: cargo xtask guests", root.display()));
        }
        Ok(Arc::new(Setting { emulator, root, guests, ignored_signals: ignored_signals() }))
    }
}

pub struct Stage {
    pub setting: Arc<Setting>,
    pub work: PathBuf,
    deadline: Instant,
    timeout: Duration,
}

impl Stage {
    pub fn new(setting: Arc<Setting>, name: &str, timeout: Duration) -> Result<Stage, Failed> {
        let work = std::env::temp_dir().join(format!("rhea-programs-{}", std::process::id())).join(name.replace("::", "-"));
        std::fs::create_dir_all(work.join("tmp"))?;
        let timeout = timeout * PATIENCE;
        Ok(Stage { setting, work, deadline: Instant::now() + timeout, timeout })
    }

    /// Removes the scratch directory; a failed story keeps its own.
    pub fn clear(&self) {
        let _ = std::fs::remove_dir_all(&self.work);
        if let Some(parent) = self.work.parent() {
            let _ = std::fs::remove_dir(parent);
        }
    }

    pub fn root(&self) -> &Path {
        &self.setting.root
    }

    /// A program of the guest root (`usr/bin/bash`) under the emulator.
    pub fn guest(&self, program: &str) -> Run<'_> {
        self.guest_file(&self.root().join(program))
    }

    /// Any ARM program under the emulator.
    pub fn guest_file(&self, program: &Path) -> Run<'_> {
        self.guest_with(&[], program)
    }

    /// Any ARM program under the emulator with these options.
    pub fn guest_with(&self, options: &[&str], program: &Path) -> Run<'_> {
        let root = self.root();
        let mut run = Run::new(self, &self.setting.emulator);
        run.command.args(options).arg("-L").arg(root).arg(program);
        let path = ["usr/bin", "bin", "usr/sbin"].map(|d| root.join(d).display().to_string()).join(":");
        run.env("PATH", path)
    }

    /// A program of the host.
    pub fn host(&self, program: impl AsRef<Path>) -> Run<'_> {
        Run::new(self, program.as_ref()).env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    }

    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> Result<PathBuf, Failed> {
        let path = self.work.join(name);
        std::fs::write(&path, contents)?;
        Ok(path)
    }
}

pub struct Run<'a> {
    stage: &'a Stage,
    command: Command,
    input: Vec<u8>,
}

impl<'a> Run<'a> {
    fn new(stage: &'a Stage, program: &Path) -> Run<'a> {
        let mut command = if stage.setting.ignored_signals {
            let mut command = Command::new("/usr/bin/env");
            command.arg("--default-signal").arg(program);
            command
        } else {
            Command::new(program)
        };
        command.env_clear().current_dir(&stage.work);
        command.env("HOME", &stage.work).env("TMPDIR", stage.work.join("tmp")).env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        Run { stage, command, input: Vec::new() }
    }

    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn args<S: AsRef<std::ffi::OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// Runs to the end or to the story's deadline.
    pub fn run(mut self) -> Result<Finished, Failed> {
        let work = &self.stage.work;
        std::fs::write(work.join("stdin"), &self.input)?;
        self.command.stdin(File::open(work.join("stdin"))?);
        self.command.stdout(Stdio::from(File::create(work.join("stdout"))?));
        self.command.stderr(Stdio::from(File::create(work.join("stderr"))?));
        // A session of its own, so that job control inside cannot touch the caller's terminal.
        self.command.process_group(0);
        let line = self.reproduce();
        let mut child = self.command.spawn().map_err(|e| format!("could not start: {e}\n  {line}"))?;
        let group = rustix::process::Pid::from_child(&child);
        let (done, ended) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            let status = child.wait();
            let _ = done.send(());
            status
        });
        let left = self.stage.deadline.saturating_duration_since(Instant::now());
        let late = ended.recv_timeout(left).is_err();
        // Also sweeps up background processes of a story that ended.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let status = waiter.join().map_err(|_| "the waiting thread panicked")??;
        let read = |name: &str| std::fs::read(work.join(name));
        let finished = Finished { status, stdout: read("stdout")?, stderr: read("stderr")?, line };
        if late {
            let seconds = self.stage.timeout.as_secs();
            return Err(finished.fail(&format!("not finished within the story's {seconds} s")));
        }
        Ok(finished)
    }

    /// A shell line that does the same.
    fn reproduce(&self) -> String {
        let mut words = vec!["cd".into(), quoted(&self.stage.work.to_string_lossy()), "&&".into(), "env -i".into()];
        for (name, value) in self.command.get_envs() {
            if let Some(value) = value {
                words.push(format!("{}={}", name.to_string_lossy(), quoted(&value.to_string_lossy())));
            }
        }
        words.push(quoted(&self.command.get_program().to_string_lossy()));
        words.extend(self.command.get_args().map(|a| quoted(&a.to_string_lossy())));
        words.push(if self.input.is_empty() { "</dev/null".into() } else { "<stdin".into() });
        words.join(" ")
    }
}

pub struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    line: String,
}

impl Finished {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// A failure with everything needed to look into it.
    pub fn fail(&self, what: &str) -> Failed {
        let tail = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n    ")
        };
        format!(
            "{what}\n  status: {}\n  stdout:\n    {}\n  stderr:\n    {}\n  to reproduce:\n  {}",
            self.status,
            tail(&self.stdout),
            tail(&self.stderr),
            self.line
        )
        .into()
    }

    pub fn succeeds(self) -> Result<Finished, Failed> {
        if self.status.success() { Ok(self) } else { Err(self.fail("exit status 0 was expected")) }
    }

    pub fn exits(self, code: i32) -> Result<Finished, Failed> {
        if self.status.code() == Some(code) { Ok(self) } else { Err(self.fail(&format!("exit status {code} was expected"))) }
    }

    pub fn dies_of(self, signal: i32) -> Result<Finished, Failed> {
        if self.status.signal() == Some(signal) { Ok(self) } else { Err(self.fail(&format!("death by signal {signal} was expected"))) }
    }

    pub fn prints(self, expected: &str) -> Result<Finished, Failed> {
        if self.text() == expected { Ok(self) } else { Err(self.fail(&format!("expected on stdout:\n    {}", expected.replace('\n', "\n    ")))) }
    }

    /// As `contains`, on stderr, where traces go.
    pub fn logs(self, expected: &str) -> Result<Finished, Failed> {
        let there = String::from_utf8_lossy(&self.stderr).contains(expected);
        if there { Ok(self) } else { Err(self.fail(&format!("expected within stderr: {expected}"))) }
    }

    pub fn contains(self, expected: &str) -> Result<Finished, Failed> {
        if self.text().contains(expected) { Ok(self) } else { Err(self.fail(&format!("expected within stdout: {expected}"))) }
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:+,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_string() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}
