//! What the rows run on: compiled kernels, generated inputs, and the command line of each machine.

use super::rows::{Row, Work};
use crate::process::capture;
use crate::{guests, project};
use spec::error::{Context, Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who runs a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    Native,
    Reference,
    Ours,
}

pub const MACHINES: [Machine; 3] = [Machine::Native, Machine::Reference, Machine::Ours];

/// The compiler for guests.
pub const CROSS: &str = "arm-linux-gnueabihf-gcc";

pub struct Bench {
    dir: PathBuf,
    pub ours: PathBuf,
    pub reference: PathBuf,
}

/// (file, flags beyond those that all share)
const FILES: &[(&str, &[&str])] = &[
    ("integer", &["-O2"]),
    ("fp", &["-O2"]),
    ("simd", &["-O3", "-ffast-math"]),
    ("memory", &["-O2"]),
    ("control", &["-O2"]),
    ("kernel", &["-O2"]),
];

/// Compiles `tests/bench/FILE.c` to `FILE.SUFFIX`.
pub fn compile(dir: &Path, compiler: &str, file: &str, suffix: &str, flags: &[&str], more: &[&str]) -> Result<()> {
    let source = project::root().join(format!("tests/bench/{file}.c"));
    let mut gcc = Command::new(compiler);
    gcc.args(["-std=gnu11", "-Wall", "-Wextra", "-ffp-contract=off", "-static", "-pthread"]).args(flags).args(more);
    gcc.arg("-o").arg(dir.join(format!("{file}.{suffix}"))).arg(source).arg("-lm");
    capture(&mut gcc).context(|| format!("a kernel could not be compiled (Debian package: {})", package(compiler)))?;
    Ok(())
}

/// Where builds of a benchmark of machines go, and the emulators: the reference (`RHEA_REFERENCE_SYSTEM`) and ours.
pub fn emulators() -> Result<(PathBuf, [PathBuf; 2])> {
    let dir = project::target().join("bench");
    std::fs::create_dir_all(&dir).context(|| format!("Could not create '{}'", dir.display()))?;
    let reference = std::env::var_os("RHEA_REFERENCE_SYSTEM").map_or_else(|| PathBuf::from("/usr/bin/qemu-system-arm"), PathBuf::from);
    let emulators = [reference, project::system_emulator()];
    for (file, hint) in emulators.iter().zip(["the Debian package qemu-system-arm", "cargo build --release -p system"]) {
        if !file.exists() {
            return Err(Error::new(format!("there is no emulator at '{}' ({hint})", file.display())));
        }
    }
    Ok((dir, emulators))
}

impl Bench {
    pub fn prepare(rows: &[&Row]) -> Result<Bench> {
        let dir = project::target().join("bench");
        std::fs::create_dir_all(&dir).context(|| format!("Could not create '{}'", dir.display()))?;
        let reference = std::env::var_os("RHEA_REFERENCE").map_or_else(|| PathBuf::from("/usr/bin/qemu-arm"), PathBuf::from);
        let bench = Bench { dir, ours: project::emulator(), reference };
        for (file, hint) in [(&bench.ours, "cargo build --release -p user"), (&bench.reference, "the Debian package qemu-user")] {
            if !file.exists() {
                return Err(Error::new(format!("there is no emulator at '{}' ({hint})", file.display())));
            }
        }
        for (file, flags) in FILES {
            if rows.iter().any(|r| matches!(r.work, Work::Kernel { file: f, .. } if f == *file)) {
                compile(&bench.dir, CROSS, file, "arm", flags, &["-mfpu=neon-vfpv4"])?;
                compile(&bench.dir, "gcc", file, "native", flags, &[])?;
            }
        }
        if rows.iter().any(|r| matches!(r.work, Work::Program { .. })) {
            guests::ensure_named(&["core", "bench"])?;
            bench.write_inputs()?;
        }
        Ok(bench)
    }

    /// Where a sample's output goes.
    pub fn scratch(&self) -> &Path {
        &self.dir
    }

    /// The command of a row on a machine; `None` where the program is not installed there.
    pub fn command(&self, row: &Row, machine: Machine) -> Option<Command> {
        let root = guests::armhf_root();
        let (program, arguments): (PathBuf, Vec<String>) = match row.work {
            Work::Kernel { file, row, n } => {
                let suffix = if machine == Machine::Native { "native" } else { "arm" };
                (self.dir.join(format!("{file}.{suffix}")), vec![row.into(), n.to_string()])
            }
            Work::Program { path, arguments } => {
                let root = if machine == Machine::Native { guests::amd64_root() } else { root.clone() };
                (root.join(path), arguments.iter().map(|a| self.argument(a)).collect())
            }
        };
        if !program.exists() {
            return None;
        }
        let mut command = match machine {
            Machine::Native => native(&program, matches!(row.work, Work::Program { .. })),
            Machine::Reference => emulated(&self.reference, &root, &program),
            Machine::Ours => emulated(&self.ours, &root, &program),
        };
        command.args(arguments).current_dir(&self.dir).env_clear();
        let path_root = if machine == Machine::Native { guests::amd64_root() } else { root };
        command.env("PATH", path_root.join("usr/bin")).env("LC_ALL", "C").env("HOME", &self.dir).env("OPENSSL_CONF", "/dev/null");
        Some(command)
    }

    fn argument(&self, word: &str) -> String {
        match word.strip_prefix('@') {
            Some(name) => self.dir.join(name).display().to_string(),
            None => word.to_string(),
        }
    }

    fn write_inputs(&self) -> Result<()> {
        let write = |name: &str, data: &[u8]| {
            std::fs::write(self.dir.join(name), data).context(|| format!("Could not write '{}'", self.dir.join(name).display()))
        };
        write("text", &text(4_000_000))?; // for fast programs
        write("short", &text(600_000))?; // for slow ones
        write("noise", &noise(16_000_000))?; // does not compress
        write("source.c", &source())?;
        write("json", &json(4000))?;
        let xz = guests::amd64_root().join("usr/bin/xz");
        let mut pack = native(&xz, true);
        let packed = pack.args(["-6", "-c"]).arg(self.dir.join("short")).output().context(|| "Could not run xz".into())?;
        write("packed", &packed.stdout) // `short` as xz leaves it
    }
}

fn package(compiler: &str) -> &'static str {
    if compiler == "gcc" { "gcc" } else { "gcc-arm-linux-gnueabihf" }
}

/// A program of the amd64 root runs with that root's loader and libraries, whatever the host is.
fn native(program: &Path, from_root: bool) -> Command {
    if !from_root {
        return Command::new(program);
    }
    let root = guests::amd64_root();
    let libraries = [root.join("usr/lib/x86_64-linux-gnu"), root.join("lib/x86_64-linux-gnu")].map(|d| d.display().to_string());
    let mut command = Command::new(root.join("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(libraries.join(":")).arg(program);
    command
}

fn emulated(emulator: &Path, root: &Path, program: &Path) -> Command {
    let mut command = Command::new(emulator);
    command.arg("-L").arg(root).arg(program);
    command
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Lines of lower-case words and numbers, some words much more frequent than others.
pub fn text(size: usize) -> Vec<u8> {
    let mut random = Random(0x5eed);
    let mut out = Vec::with_capacity(size + 100);
    let mut words = Vec::new();
    for _ in 0..3000 {
        let length = 2 + random.next() % 9;
        words.push((0..length).map(|_| b'a' + (random.next() % 26 * (random.next() % 26) / 25) as u8).collect::<Vec<u8>>());
    }
    while out.len() < size {
        out.extend(format!("{} ", random.next() % 100_000).into_bytes());
        for _ in 0..3 + random.next() % 9 {
            let rank = (random.next() % 3000) * (random.next() % 3000) / 3000;
            out.extend(&words[rank as usize]);
            out.push(b' ');
        }
        out.push(b'\n');
    }
    out.truncate(size);
    out
}

pub fn noise(size: usize) -> Vec<u8> {
    let mut random = Random(0xface);
    (0..size.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).take(size).collect()
}

/// A C file of two dozen functions for a compiler to work on.
pub fn source() -> Vec<u8> {
    let mut text = String::from("extern int external(int, unsigned);\n");
    for i in 0..12 {
        text += &format!(
            "int f{i}(int *a, int n) {{\n  int s = {i}, k;\n  for (k = 0; k < n; k++) {{\n    if (a[k] % {m} == 0) s += a[k] * {i}; \
             else if (a[k] > s) s ^= external(a[k] >> {h}, (unsigned)s);\n    switch (s & 7) {{ case 1: a[k] = s; break; case 3: s -= k; \
             break; case 6: return s; default: s++; }}\n  }}\n  return s;\n}}\ndouble g{i}(const double *x, int n) {{ double t = {i}.5; \
             while (n--) t = t * x[n] + x[n & {h}] / (t + {m}); return t; }}\n",
            m = i + 3,
            h = i % 5 + 1
        );
    }
    text.into_bytes()
}

fn json(count: u32) -> Vec<u8> {
    let rows: Vec<String> = (0..count).map(|i| format!("{{\"id\":{i},\"name\":\"n{i}\",\"v\":[{i}.5,null,true]}}")).collect();
    format!("[{}]", rows.join(",")).into_bytes()
}
