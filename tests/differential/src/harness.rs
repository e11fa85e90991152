//! Builds the harness and runs batches of cases in it.

use spec::{Context, Error, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub const CODE_BASE: u32 = 0x5100_0000;
pub const DATA_BASE: u32 = 0x5200_0000;
/// Bytes of code of one case, the end marker included.
pub const SLOT: u32 = 64;
pub const DATA_SIZE: u32 = 0x3000;

/// A way to build the harness: file name, compiler, its options, its Debian package.
struct Build {
    name: &'static str,
    compiler: &'static str,
    options: &'static [&'static str],
    package: &'static str,
}

/// For models of ARMv7 and later.
const CURRENT: Build =
    Build { name: "arm_harness", compiler: "arm-linux-gnueabihf-gcc", options: &[], package: "gcc-arm-linux-gnueabihf" };
/// For models whose names begin with `arm`.
const OLD: Build = Build {
    name: "arm_harness_old",
    compiler: "arm-linux-gnueabi-gcc",
    options: &["-march=armv5te+fp", "-mfloat-abi=softfp"],
    package: "gcc-arm-linux-gnueabi",
};

/// Whether CLREX exists.
fn has_clrex(cpu: &str) -> bool {
    cpu != "arm926"
}
/// A batch that takes longer than this hangs.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// A state before or after a case.
#[derive(Clone, Debug, PartialEq)]
pub struct Registers {
    pub r: [u32; 16],
    pub cpsr: u32,
    pub fpscr: u32,
    pub d: [u64; 32],
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub registers: Registers,
    pub signal: u32,
    /// si_addr.
    pub address: u32,
    pub sum: u32,
}

/// Compiles the harness into the target directory, once per version of its source.
pub fn build(cpu: &str) -> Result<PathBuf> {
    let how = if cpu.starts_with("arm") { OLD } else { CURRENT };
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/arm_harness.c");
    let directory = scratch()?;
    let program = directory.join(how.name);
    let newer = |a: &Path, b: &Path| Some(a.metadata().ok()?.modified().ok()? > b.metadata().ok()?.modified().ok()?);
    if newer(&program, &source) == Some(true) {
        return Ok(program);
    }
    let status = Command::new(how.compiler)
        .args(how.options)
        .args(["-static", "-O2", "-marm", "-o"])
        .args([&program, &source])
        .status()
        .context(|| format!("Could not run '{}' (Debian package {})", how.compiler, how.package))?;
    if status.success() { Ok(program) } else { Err(Error::new(format!("'{}' failed", how.compiler))) }
}

/// A directory of this process's own.
fn scratch() -> Result<PathBuf> {
    let exe = std::env::current_exe().context(|| "Could not find this program".to_string())?;
    let directory = exe.parent().unwrap_or(Path::new(".")).join("differential-data");
    std::fs::create_dir_all(&directory).context(|| format!("Could not create '{}'", directory.display()))?;
    Ok(directory)
}

/// Serialized input of a batch.
pub struct Batch {
    pub code: Vec<u8>,
    pub data: Vec<u8>,
    pub cases: Vec<(u32, Registers)>,
}

impl Batch {
    fn bytes(&self, cpu: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let code_size = (self.code.len() as u32).next_multiple_of(4096);
        for w in [0x5248_4541, self.cases.len() as u32, CODE_BASE, code_size, DATA_BASE, DATA_SIZE, has_clrex(cpu) as u32, 0] {
            out.extend(w.to_le_bytes());
        }
        out.extend(&self.code);
        out.resize(32 + code_size as usize, 0);
        out.extend(&self.data);
        for (start, s) in &self.cases {
            for w in [*start, s.cpsr, s.fpscr, 0].iter().chain(&s.r) {
                out.extend(w.to_le_bytes());
            }
            out.extend(s.d.iter().flat_map(|d| d.to_le_bytes()));
        }
        out
    }

    /// Runs the batch; `None` for cases that were not reached.
    pub fn run(&self, harness: &Path, against: &str, cpu: &str) -> Result<Vec<Option<Outcome>>> {
        const RESULT: usize = 4 * 22 + 256;
        let directory = scratch()?;
        let id = std::process::id();
        let (input, output) = (directory.join(format!("cases-{id}")), directory.join(format!("results-{id}")));
        let write = |path: &Path, bytes: &[u8]| {
            std::fs::write(path, bytes).context(|| format!("Could not write '{}'", path.display()))
        };
        write(&input, &self.bytes(cpu))?;
        write(&output, &vec![0; RESULT * self.cases.len()])?;
        let mut words = against.split_whitespace();
        let program = words.next().ok_or_else(|| Error::new("--against names no program"))?;
        let mut command = Command::new(program);
        command.args(words).args(["-cpu", cpu]).arg(harness).args([&input, &output]).stdin(Stdio::null());
        let mut child = command.spawn().context(|| format!("Could not run '{program}'"))?;
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().context(|| "Could not wait".to_string())? {
                break status;
            }
            if began.elapsed() > TIME_LIMIT {
                let _ = child.kill();
                break child.wait().context(|| "Could not wait".to_string())?;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        if !status.success() {
            eprintln!("differential: the harness ended with {status}");
        }
        let raw = std::fs::read(&output).context(|| format!("Could not read '{}'", output.display()))?;
        let _ = (std::fs::remove_file(&input), std::fs::remove_file(&output));
        Ok(raw.chunks_exact(RESULT).map(outcome).collect())
    }
}

fn outcome(raw: &[u8]) -> Option<Outcome> {
    let word = |i: usize| u32::from_le_bytes(raw[4 * i..4 * i + 4].try_into().expect("4 bytes"));
    let double = |i: usize| u64::from_le_bytes(raw[88 + 8 * i..96 + 8 * i].try_into().expect("8 bytes"));
    (word(21) != 0).then(|| Outcome {
        registers: Registers {
            r: std::array::from_fn(word),
            cpsr: word(16),
            fpscr: word(19),
            d: std::array::from_fn(double),
        },
        signal: word(17),
        address: word(18),
        sum: word(20),
    })
}
