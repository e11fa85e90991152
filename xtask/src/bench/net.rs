//! `cargo xtask bench net`: the user-mode networks of the installed QEMU and of ours, with the same ARM guest, paired.
//!
//! A program in the guest (`tests/bench/net.c`) moves bytes by TCP in both directions and makes small requests; its other end is
//! in this process. The cost of a row is the CPU time of the emulator meanwhile. With the Debian package `passt`, both emulators
//! run on `-netdev stream` to it, too, and its CPU time is added to theirs.

use super::system::guest::Guest;
use super::{Options, matches, prepare, report};
use crate::guests;
use serde_json::{Value, json};
use spec::error::{Context, Error, Result};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const INSTALLER: &str = "usr/lib/debian-installer/images/12/armhf/text/debian-installer/armhf";
const PROMPT: &str = "~ # ";
/// Bytes of a stream, and small requests of a row.
const BYTES: u64 = 256 << 20;
const REQUESTS: u64 = 3000;
/// Throughput for a CPU second, ours over QEMU's.
const GOAL: f64 = 3.0;
const PASST: &str = "/usr/bin/passt";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Down,
    Up,
    Requests,
}

struct Row {
    class: &'static str,
    name: &'static str,
    kind: Kind,
    address: &'static str,
}

const fn row(class: &'static str, name: &'static str, kind: Kind, address: &'static str) -> Row {
    Row { class, name, kind, address }
}

const ROWS: &[Row] = &[
    row("user", "down", Kind::Down, "10.0.2.2"),
    row("user", "up", Kind::Up, "10.0.2.2"),
    row("user", "down-v6", Kind::Down, "fec0::2"),
    row("user", "up-v6", Kind::Up, "fec0::2"),
    row("user", "requests", Kind::Requests, "10.0.2.2"),
    row("passt", "down", Kind::Down, "10.0.2.2"),
    row("passt", "up", Kind::Up, "10.0.2.2"),
    row("passt", "requests", Kind::Requests, "10.0.2.2"),
];

/// What one row cost on one emulator.
#[derive(Clone, Copy)]
struct Sample {
    cpu_s: f64,
    wall_s: f64,
    /// Of small requests, in microseconds.
    median_us: f64,
    p99_us: f64,
}

#[derive(Default)]
struct Samples([Vec<Sample>; 2]);

pub fn command(options: &Options) -> Result<()> {
    let passt = PathBuf::from(PASST).exists();
    let wanted = |r: &&Row| matches(r.class, r.name, &options.filters) && (passt || r.class != "passt");
    let chosen: Vec<&Row> = ROWS.iter().filter(wanted).collect();
    if options.list {
        chosen.iter().for_each(|r| println!("{}/{}", r.class, r.name));
        return Ok(());
    }
    if chosen.is_empty() {
        return Err(Error::new(format!("no row matches {}; --list shows all", options.filters.join(","))));
    }
    let bench = Bench::prepare()?;
    let mut samples: Vec<Samples> = chosen.iter().map(|_| Samples::default()).collect();
    for run in 0..options.runs as usize {
        for class in ["user", "passt"] {
            let rows: Vec<usize> = (0..chosen.len()).filter(|n| chosen[*n].class == class).collect();
            for turn in 0..2 {
                let index = (run + turn) % 2;
                if !rows.is_empty() {
                    eprintln!("run {} of {}: {class}, {}", run + 1, options.runs, bench.emulators[index].display());
                    bench.run(index, class, &rows, &chosen, &mut samples)?;
                }
            }
        }
    }
    if options.json {
        println!("{:#}", value(&chosen, &samples));
    } else {
        print!("{}", text(&chosen, &samples, options.runs));
        if !passt {
            println!("no rows with passt: the Debian package passt is not installed");
        }
    }
    Ok(())
}

struct Bench {
    dir: PathBuf,
    /// The reference, ours.
    emulators: [PathBuf; 2],
    /// Where the guest's other end listens: down, up, requests.
    ports: [u16; 3],
}

/// What serves the guest's addresses besides an emulator.
struct Passt {
    child: Child,
    socket: PathBuf,
}

impl Drop for Passt {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Bench {
    fn prepare() -> Result<Bench> {
        let (dir, emulators) = prepare::emulators()?;
        guests::ensure_named(&["installer"])?;
        prepare::compile(&dir, prepare::CROSS, "net", "arm", &["-O2"], &[])?;
        let read = |file: PathBuf| std::fs::read(&file).context(|| format!("Could not read '{}'", file.display()));
        let mut initrd = read(guests::armhf_root().join(INSTALLER).join("initrd.gz"))?;
        let mut archive = guests::Archive::default();
        archive.file("net", 0o755, &read(dir.join("net.arm"))?);
        initrd.extend(archive.finish());
        let file = dir.join("initrd-net");
        std::fs::write(&file, initrd).context(|| format!("Could not write '{}'", file.display()))?;
        let ports = [serve(send)?, serve(take)?, serve(echo)?];
        Ok(Bench { dir, emulators, ports })
    }

    /// Boots a guest and has it do all rows of a class.
    fn run(&self, index: usize, class: &str, rows: &[usize], chosen: &[&Row], samples: &mut [Samples]) -> Result<()> {
        let passt = if class == "passt" { Some(self.passt()?) } else { None };
        let mut guest = self.boot(index, passt.is_some())?;
        for &number in rows {
            let row = chosen[number];
            let (word, port, count) = match row.kind {
                Kind::Down => ("down", self.ports[0], BYTES),
                Kind::Up => ("up", self.ports[1], BYTES),
                Kind::Requests => ("rr", self.ports[2], REQUESTS),
            };
            let (begun, before) = (Instant::now(), passt.as_ref().map_or(Ok(0.0), cpu_s)?);
            let ran = guest.run(&format!("/net {word} {} {port} {count}", row.address))?;
            let wall_s = begun.elapsed().as_secs_f64();
            let more = passt.as_ref().map_or(Ok(0.0), cpu_s)? - before;
            if ran.status != "0" {
                let emulator = self.emulators[index].display();
                return Err(Error::new(format!("{class}/{} failed on {emulator}: {} {}", row.name, ran.status, ran.output)));
            }
            let field = |name: &str| {
                let found = ran.output.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
                found.and_then(|text| text.parse().ok()).unwrap_or(0.0)
            };
            let sample = Sample { cpu_s: ran.cpu_s + more, wall_s, median_us: field("median"), p99_us: field("p99") };
            samples[number].0[index].push(sample);
        }
        Ok(())
    }

    fn passt_socket(&self) -> PathBuf {
        // It drops its privileges before it makes the socket, so the place must be open to everybody.
        std::env::temp_dir().join(format!("rhea-passt-{}", std::process::id()))
    }

    fn passt(&self) -> Result<Passt> {
        let socket = self.passt_socket();
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new(PASST);
        command.args(["-f", "-q", "-1", "-a", "10.0.2.15", "-n", "24", "-g", "10.0.2.2", "-s"]).arg(&socket);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context(|| "Could not run passt".into())?;
        let passt = Passt { child, socket };
        let until = Instant::now() + Duration::from_secs(10);
        while !passt.socket.exists() {
            if Instant::now() > until {
                return Err(Error::new("passt did not make its socket"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(passt)
    }

    fn boot(&self, index: usize, passt: bool) -> Result<Guest> {
        let images = guests::armhf_root().join(INSTALLER);
        let mut command = Command::new(&self.emulators[index]);
        command.args(["-M", "virt,highmem=off", "-cpu", "cortex-a15", "-m", "512M", "-nographic"]);
        if passt {
            let socket = self.passt_socket();
            command.arg("-netdev").arg(format!("stream,id=n,server=off,addr.type=unix,addr.path={}", socket.display()));
        } else {
            command.args(["-netdev", "user,id=n"]);
        }
        command.args(["-device", "virtio-net-pci,netdev=n"]);
        command.arg("-kernel").arg(images.join("vmlinuz")).arg("-initrd").arg(self.dir.join("initrd-net"));
        command.args(["-append", "console=ttyAMA0 quiet rdinit=/bin/sh"]);
        let mut guest = Guest::start(command)?;
        guest.wait_for(PROMPT)?;
        guest.must("mount -t proc proc /proc; mount -t sysfs sys /sys; echo 1 > /proc/sys/kernel/printk")?;
        guest.must("modprobe virtio_pci; modprobe virtio_net; for i in 1 2 3 4 5 6 7 8 9; do test -e /sys/class/net/eth0 && break; sleep 1; done")?;
        guest.must("ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.2.2")?;
        let v6 = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do ip -6 addr show dev eth0 | grep -v tentative | grep -q site && break; sleep 1; done; true";
        guest.must(if passt { "sleep 2" } else { v6 })?;
        Ok(guest)
    }
}

/// User and system time of passt.
fn cpu_s(passt: &Passt) -> Result<f64> {
    let path = format!("/proc/{}/stat", passt.child.id());
    let stat = std::fs::read_to_string(&path).context(|| format!("Could not read '{path}'"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|n| fields.get(*n)?.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Listens on both loop-back addresses. Whoever goes away early is none of our business.
fn serve(work: fn(TcpStream) -> std::io::Result<()>) -> Result<u16> {
    let failed = || "Could not listen".to_string();
    let v4 = TcpListener::bind(("127.0.0.1", 0)).context(failed)?;
    let port = v4.local_addr().context(failed)?.port();
    let v6 = TcpListener::bind(("::1", port)).context(failed)?;
    for listener in [v4, v6] {
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || work(stream));
            }
        });
    }
    Ok(port)
}

fn send(mut stream: TcpStream) -> std::io::Result<()> {
    let block: Vec<u8> = (0..1 << 18).map(|n: u32| (n * 7) as u8).collect();
    let mut left = BYTES as usize;
    while left > 0 {
        left -= stream.write(&block[..left.min(block.len())])?;
    }
    Ok(())
}

fn take(mut stream: TcpStream) -> std::io::Result<()> {
    let mut block = vec![0; 1 << 18];
    while stream.read(&mut block)? > 0 {}
    Ok(())
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    while stream.read(&mut byte)? > 0 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

fn median(samples: &[Sample], of: fn(&Sample) -> f64) -> f64 {
    report::median(&mut samples.iter().map(of).collect::<Vec<_>>()).unwrap_or(0.0)
}

/// The value of a row (a gigabit for a CPU second, or thousands of requests) and its wall form.
fn figures(row: &Row, samples: &[Sample]) -> (f64, f64, f64) {
    let (cpu, wall) = (median(samples, |s| s.cpu_s), median(samples, |s| s.wall_s));
    match row.kind {
        Kind::Requests => (REQUESTS as f64 / 1000.0 / cpu, median(samples, |s| s.median_us), median(samples, |s| s.p99_us)),
        _ => (BYTES as f64 * 8e-9 / cpu, BYTES as f64 * 8e-9 / wall, 0.0),
    }
}

fn text(rows: &[&Row], samples: &[Samples], runs: u32) -> String {
    let mut out = format!(
        "medians of {runs} paired runs: the installed QEMU, ours, ratio of the CPU figures\nGbit (or 1000 requests) per CPU second of the \
         emulator, and of passt where it serves;\nthen Gbit/s, or the median and the 99th percentile of a request in microseconds\n\n"
    );
    let mut ratios = Vec::new();
    for (row, s) in rows.iter().zip(samples) {
        let [reference, ours] = [0, 1].map(|n| figures(row, &s.0[n]));
        let ratio = ours.0 / reference.0;
        let unit = if row.kind == Kind::Requests { "kreq" } else { "Gbit" };
        out += &format!("{:<6} {:<9} {unit} {:>7.2} {:>7.2} {ratio:>6.2}", row.class, row.name, reference.0, ours.0);
        out += &match row.kind {
            Kind::Requests => format!("   {:>6.0}/{:<7.0} {:>6.0}/{:<7.0} us\n", reference.1, reference.2, ours.1, ours.2),
            _ => format!("   {:>14.2} {:>14.2} Gbit/s\n", reference.1, ours.1),
        };
        if row.class == "user" && row.kind != Kind::Requests {
            ratios.push(ratio);
        }
    }
    if let Some(mean) = report::geomean(ratios.into_iter()) {
        let word = if mean >= GOAL { "reached" } else { "missed" };
        out += &format!("\ngoal {GOAL} times QEMU's throughput for a CPU second on the user network: {word} ({mean:.2})\n");
    }
    out
}

fn value(rows: &[&Row], samples: &[Samples]) -> Value {
    let one = |(row, s): (&&Row, &Samples)| {
        let [reference, ours] = [0, 1].map(|n| figures(row, &s.0[n]));
        json!({"class": row.class, "row": row.name, "per_cpu_s": [reference.0, ours.0], "ratio": ours.0 / reference.0,
               "gbit_s_or_median_us": [reference.1, ours.1], "p99_us": [reference.2, ours.2]})
    };
    json!({"rows": rows.iter().zip(samples).map(one).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_ratios_and_the_goal() {
        let rows: Vec<&Row> = ROWS.iter().filter(|r| r.class == "user" && r.kind != Kind::Down).collect();
        let sample = |cpu_s| Sample { cpu_s, wall_s: 2.0, median_us: 100.0, p99_us: 900.0 };
        let samples: Vec<Samples> = rows.iter().map(|_| Samples([vec![sample(8.0)], vec![sample(2.0)]])).collect();
        let text = text(&rows, &samples, 1);
        assert!(text.contains("goal 3 times") && text.contains("reached (4.00)"), "{text}");
        assert!(text.contains("100/900"), "{text}");
        assert_eq!(value(&rows, &samples)["rows"][0]["ratio"], 4.0);
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = ROWS.iter().map(|r| (r.class, r.name)).collect();
        assert_eq!(names.len(), ROWS.len());
    }
}
