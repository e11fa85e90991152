//! `cargo xtask bench disk`: the disk tools beside the installed ones, on the same files, paired and interleaved.
//!
//! Each row prepares its own copy of the input, runs once with each tool per run, in an order that alternates, and prints the
//! ratios of the shortest times: CPU time (user and system), wall time, and our peak memory. The inputs are in the host's
//! page cache for both. Rows that write an image let the
//! reference compare it with the source afterwards, so that the benchmark is a test as well.

use super::report::geomean;
use super::{Options, matches};
use crate::process::capture;
use crate::project;
use serde_json::{Value, json};
use spec::error::{Context, Error, Result};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use wait4::Wait4;

const CLASS: &str = "disk";
/// Stored bytes of the full image, and what compressed rows take of it.
const FULL: usize = 384 << 20;
const PART: usize = 128 << 20;
const REFERENCE: &str = "/usr/bin";
/// A start-up is too short to be measured once.
const STARTS: u32 = 20;

struct Row {
    name: &'static str,
    /// The file that is copied to the output before the run.
    from: Option<&'static str>,
    /// Tool and arguments; `OUT` is the output.
    command: &'static str,
    /// Fed to the tool's standard input.
    script: Option<fn() -> String>,
    /// The file that the output must have the contents of, with its format.
    same_as: Option<(&'static str, &'static str)>,
    repeat: u32,
}

const fn row(name: &'static str, command: &'static str) -> Row {
    Row { name, from: None, command, script: None, same_as: None, repeat: 1 }
}

const fn writes(name: &'static str, command: &'static str, format: &'static str) -> Row {
    Row { same_as: Some(("full.raw", format)), ..row(name, command) }
}

const ROWS: &[Row] = &[
    writes("convert raw to qcow2, full", "qemu-img convert -f raw -O qcow2 full.raw OUT", "qcow2"),
    writes("convert qcow2 to raw, full", "qemu-img convert -f qcow2 -O raw full.qcow2 OUT", "raw"),
    row("convert raw to qcow2, sparse", "qemu-img convert -f raw -O qcow2 sparse.raw OUT"),
    row("convert qcow2 to raw, sparse", "qemu-img convert -f qcow2 -O raw sparse.qcow2 OUT"),
    Row { same_as: Some(("part.raw", "qcow2")), ..row("convert -c, zlib", "qemu-img convert -c -f raw -O qcow2 part.raw OUT") },
    Row { same_as: Some(("part.raw", "raw")), ..row("convert compressed to raw", "qemu-img convert -f qcow2 -O raw packed.qcow2 OUT") },
    row("check", "qemu-img check -f qcow2 many.qcow2"),
    row("compare", "qemu-img compare -f raw -F qcow2 full.raw full.qcow2"),
    row("map", "qemu-img map -f qcow2 --output=json many.qcow2"),
    Row { from: Some("many.qcow2"), ..row("snapshot", "qemu-img snapshot -c bench OUT") },
    Row { from: Some("many.qcow2"), script: Some(random_writes), ..row("4 KiB random writes, new clusters", "qemu-io -f qcow2 OUT") },
    Row { script: Some(random_reads), ..row("4 KiB random reads", "qemu-io -r -f qcow2 full.qcow2") },
    Row { from: Some("empty.qcow2"), ..row("1 MiB sequential writes", "qemu-img bench -w -f qcow2 -c 256 -s 1M -d 1 OUT") },
    row("1 MiB sequential reads", "qemu-img bench -f qcow2 -c 256 -s 1M -d 1 full.qcow2"),
    row("4 KiB reads, bench", "qemu-img bench -f qcow2 -c 75000 -s 4096 full.qcow2"),
    row("4 KiB direct reads, threads", "qemu-img bench -t none -f qcow2 -c 20000 -s 4096 full.qcow2"),
    row("4 KiB direct reads, io_uring", "qemu-img bench -t none -i io_uring -f qcow2 -c 20000 -s 4096 full.qcow2"),
    row("4 KiB direct reads, Linux AIO", "qemu-img bench -t none -i native -f qcow2 -c 20000 -s 4096 full.qcow2"),
    Row { repeat: STARTS, ..row("info (start)", "qemu-img info full.qcow2") },
];

/// A small generator (splitmix64): the same requests for both tools in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn script(verb: &str, count: usize, span: u64) -> String {
    let mut r = Random(1);
    let mut text = String::new();
    for _ in 0..count {
        let _ = writeln!(text, "{verb} {} 4k", r.next() % (span / 4096) * 4096);
    }
    text
}

fn random_writes() -> String {
    script("write -q -P 7", 6000, 4 << 30)
}

fn random_reads() -> String {
    script("read -q", 20_000, FULL as u64)
}

#[derive(Default)]
struct Samples {
    cpu: Vec<f64>,
    wall: Vec<f64>,
    peak_kib: u64,
}

struct Bench {
    dir: PathBuf,
    ours: PathBuf,
}

pub fn command(options: &Options) -> Result<()> {
    let chosen: Vec<&Row> = ROWS.iter().filter(|r| matches(CLASS, r.name, &options.filters)).collect();
    if options.list {
        chosen.iter().for_each(|r| println!("{CLASS}/{}", r.name));
        return Ok(());
    }
    if chosen.is_empty() {
        return Err(Error::new(format!("no row matches {}; --list shows all", options.filters.join(","))));
    }
    let bench = Bench::prepare()?;
    let version = capture(Command::new(Path::new(REFERENCE).join("qemu-img")).arg("--version"))?;
    let reference = version.lines().next().unwrap_or("unknown").to_owned();
    let mut lines = Vec::new();
    for (number, row) in chosen.iter().enumerate() {
        eprint!("\r\x1b[K{}/{} {}", number + 1, chosen.len(), row.name);
        lines.push(Line::of(row, bench.run(row, options.runs)?));
    }
    eprint!("\r\x1b[K");
    let cpu = geomean(lines.iter().map(|l| l.cpu)).unwrap_or(0.0);
    let wall = geomean(lines.iter().map(|l| l.wall)).unwrap_or(0.0);
    if options.json {
        let rows: Vec<Value> = lines.iter().map(Line::value).collect();
        println!("{:#}", json!({ "reference": reference, "runs": options.runs, "rows": rows, "cpu": cpu, "wall": wall }));
        return Ok(());
    }
    println!("reference ÷ ours, the best of {} paired runs against {reference}\n", options.runs);
    println!("{:36} {:>6} {:>6} {:>9} {:>9} {:>10}", "row", "CPU", "wall", "ours CPU", "ours wall", "ours peak");
    lines.iter().for_each(|l| println!("{}", l.text()));
    println!("{:36} {cpu:6.2} {wall:6.2}", "geometric mean");
    Ok(())
}

struct Line {
    name: &'static str,
    cpu: f64,
    wall: f64,
    ours_cpu: f64,
    ours_wall: f64,
    peak_kib: [u64; 2],
}

impl Line {
    fn of(row: &Row, samples: [Samples; 2]) -> Line {
        let [r, o] = &samples;
        // Other work of the machine only adds: the shortest run is the one with the least of it.
        let best = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min).max(1e-6);
        let (rc, rw, oc, ow) = (best(&r.cpu), best(&r.wall), best(&o.cpu), best(&o.wall));
        Line { name: row.name, cpu: rc / oc, wall: rw / ow, ours_cpu: oc, ours_wall: ow, peak_kib: [r.peak_kib, o.peak_kib] }
    }

    fn text(&self) -> String {
        let peak = format!("{} MiB", self.peak_kib[1] / 1024);
        format!("{:36} {:6.2} {:6.2} {:7.3} s {:7.3} s {peak:>10}", self.name, self.cpu, self.wall, self.ours_cpu, self.ours_wall)
    }

    fn value(&self) -> Value {
        json!({
            "row": self.name, "cpu": self.cpu, "wall": self.wall, "ours_cpu_s": self.ours_cpu, "ours_wall_s": self.ours_wall,
            "reference_peak_kib": self.peak_kib[0], "ours_peak_kib": self.peak_kib[1],
        })
    }
}

impl Bench {
    fn prepare() -> Result<Bench> {
        let ours = project::target().join("release");
        for tool in ["qemu-img", "qemu-io"] {
            if !ours.join(tool).exists() {
                return Err(Error::new(format!("{} is missing: cargo build --release -p img", ours.join(tool).display())));
            }
            if !Path::new(REFERENCE).join(tool).exists() {
                return Err(Error::new(format!("{REFERENCE}/{tool} is missing: install the Debian package qemu-utils")));
            }
        }
        let dir = project::target().join("bench/disk");
        std::fs::create_dir_all(&dir).context(|| format!("Could not make '{}'", dir.display()))?;
        let bench = Bench { dir, ours };
        bench.inputs()?;
        bench.warm()?;
        Ok(bench)
    }

    /// The input files, made once by the reference.
    fn inputs(&self) -> Result<()> {
        if self.dir.join("done").exists() {
            return Ok(());
        }
        let mut r = Random(7);
        // Half noise, half text-like: what a compressor sees in real images lies in between.
        // In pieces: the tools' peak memory would start at ours.
        let create = |name: &str| std::fs::File::create(self.dir.join(name)).context(|| format!("Could not make '{name}'"));
        let (mut full, mut part) = (create("full.raw")?, create("part.raw")?);
        let mut piece = vec![0u8; 4096];
        for at in (0..FULL).step_by(piece.len()) {
            for word in piece.chunks_exact_mut(8) {
                let noise = r.next();
                let plain = noise & 0x0707_0707_0707_0707 | 0x6060_6060_6060_6060;
                word.copy_from_slice(&if (at >> 12) & 1 == 0 { noise } else { plain }.to_le_bytes());
            }
            full.write_all(&piece).context(|| "Could not write 'full.raw'".into())?;
            if at < PART {
                part.write_all(&piece).context(|| "Could not write 'part.raw'".into())?;
            }
        }
        let write = |name: &str, bytes: &[u8]| std::fs::write(self.dir.join(name), bytes).context(|| format!("Could not write '{name}'"));
        write("many", script("write -q -P 9", 30_000, 4 << 30).as_bytes())?;
        let sparse = std::fs::File::create(self.dir.join("sparse.raw")).context(|| "Could not make 'sparse.raw'".into())?;
        sparse.set_len(8 << 30).context(|| "Could not size 'sparse.raw'".into())?;
        let img = |line: &str| self.reference(line, None);
        img("qemu-img convert -O qcow2 full.raw full.qcow2")?;
        img("qemu-img convert -O qcow2 sparse.raw sparse.qcow2")?;
        img("qemu-img convert -c -O qcow2 part.raw packed.qcow2")?;
        img("qemu-img create -q -f qcow2 -o cluster_size=4k many.qcow2 4G")?;
        img("qemu-img create -q -f qcow2 empty.qcow2 1G")?;
        self.reference("qemu-io -f qcow2 many.qcow2", Some("many"))?;
        write("done", b"")
    }

    /// Reads the inputs once.
    fn warm(&self) -> Result<()> {
        for name in ["full.raw", "full.qcow2", "part.raw", "packed.qcow2", "many.qcow2", "empty.qcow2", "sparse.qcow2"] {
            let mut file = std::fs::File::open(self.dir.join(name)).context(|| format!("Could not read '{name}'"))?;
            std::io::copy(&mut file, &mut std::io::sink()).context(|| format!("Could not read '{name}'"))?;
        }
        Ok(())
    }

    fn reference(&self, line: &str, input: Option<&str>) -> Result<()> {
        let mut c = self.tool(Path::new(REFERENCE), line);
        c.stdin(match input {
            Some(name) => std::fs::File::open(self.dir.join(name)).context(|| format!("Could not read '{name}'"))?.into(),
            None => Stdio::null(),
        });
        let out = c.output().context(|| format!("Could not run {line}"))?;
        if out.status.success() { Ok(()) } else { Err(Error::new(format!("{line}: {}", String::from_utf8_lossy(&out.stderr)))) }
    }

    fn tool(&self, place: &Path, line: &str) -> Command {
        let mut words = line.split(' ');
        let mut c = Command::new(place.join(words.next().unwrap_or_default()));
        c.args(words).current_dir(&self.dir);
        c
    }

    /// The reference's samples and ours.
    fn run(&self, row: &Row, runs: u32) -> Result<[Samples; 2]> {
        let mut samples: [Samples; 2] = Default::default();
        for run in 0..runs as usize {
            for turn in 0..2 {
                let who = (run + turn) % 2;
                let place = if who == 0 { Path::new(REFERENCE) } else { &self.ours };
                self.sample(row, place, &mut samples[who])?;
            }
        }
        let _ = std::fs::remove_file(self.dir.join("OUT"));
        Ok(samples)
    }

    fn sample(&self, row: &Row, place: &Path, into: &mut Samples) -> Result<()> {
        let out = self.dir.join("OUT");
        let _ = std::fs::remove_file(&out);
        if let Some(from) = row.from {
            std::fs::copy(self.dir.join(from), &out).context(|| format!("Could not copy '{from}'"))?;
        }
        if let Some(text) = row.script {
            std::fs::write(self.dir.join("script"), text()).context(|| "Could not write 'script'".into())?;
        }
        let (mut cpu, start) = (0.0, Instant::now());
        for _ in 0..row.repeat {
            let mut c = self.tool(place, row.command);
            let log = std::fs::File::create(self.dir.join("log")).context(|| "Could not make 'log'".into())?;
            let open = |name: &str| std::fs::File::open(self.dir.join(name)).context(|| format!("Could not read '{name}'"));
            c.stdin(if row.script.is_some() { open("script")?.into() } else { Stdio::null() }).stdout(Stdio::null()).stderr(log);
            let mut child = c.spawn().context(|| format!("Could not run {}", c.get_program().to_string_lossy()))?;
            let used = child.wait4().context(|| "Could not wait for the tool".into())?;
            if !used.status.success() {
                let said = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                return Err(Error::new(format!("{}: {} {said}", row.name, c.get_program().to_string_lossy())));
            }
            cpu += (used.rusage.utime + used.rusage.stime).as_secs_f64();
            into.peak_kib = into.peak_kib.max(used.rusage.maxrss / 1024);
        }
        into.wall.push(start.elapsed().as_secs_f64());
        into.cpu.push(cpu);
        match row.same_as {
            Some((name, format)) => self.reference(&format!("qemu-img compare -f raw -F {format} {name} OUT"), None),
            None => Ok(()),
        }
    }
}
