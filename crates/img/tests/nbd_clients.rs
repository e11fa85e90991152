//! Programs of others as clients of our `qemu-nbd`: `nbdinfo` and `nbdcopy` of libnbd, and the installed `qemu-img`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const SIZE: usize = 8 << 20;

/// A server on a socket of its own, gone with the test.
struct Server {
    child: Child,
    dir: PathBuf,
}

impl Server {
    /// Serves `image`, which `contents` fills, with more options for the server.
    fn start(name: &str, contents: &[u8], options: &[&str]) -> Server {
        let dir = std::env::temp_dir().join(format!("rhea-nbd-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("source.raw"), contents).unwrap();
        let image = dir.join("image.qcow2");
        let source = dir.join("source.raw");
        run(Command::new(env!("CARGO_BIN_EXE_qemu-img")).args(["convert", "-f", "raw", "-O", "qcow2"]).arg(&source).arg(&image));
        let pid = dir.join("pid");
        let child = Command::new(env!("CARGO_BIN_EXE_qemu-nbd"))
            .args(["-t", "-e", "4", "-f", "qcow2"])
            .args(options)
            .arg("-k")
            .arg(dir.join("socket"))
            .arg("--pid-file")
            .arg(&pid)
            .arg(&image)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        // The file appears once clients can connect.
        while !pid.exists() {
            std::thread::yield_now();
        }
        Server { child, dir }
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.dir.join("socket").display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn run(c: &mut Command) -> Output {
    let program = c.get_program().to_string_lossy().into_owned();
    let out = c.output().unwrap_or_else(|e| panic!("{program}: {e}: install the Debian packages libnbd-bin and qemu-utils"));
    assert!(out.status.success(), "{c:?}\n{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    out
}

fn contents() -> Vec<u8> {
    let mut disk = vec![0; SIZE];
    disk[65536..131_072].fill(5);
    let mut x = 1u32;
    for b in &mut disk[3 << 20..4 << 20] {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *b = (x >> 24) as u8;
    }
    disk
}

#[test]
fn nbdinfo_shows_the_export_and_its_map() {
    let s = Server::start("info", &contents(), &["-r"]);
    // Where the program `file` is not installed, nbdinfo 1.14 prints stray bytes after "content:".
    let out = run(Command::new("nbdinfo").arg(s.uri()));
    let text = String::from_utf8_lossy(&out.stdout);
    for line in ["newstyle-fixed", "structured packets", "export-size: 8388608", "base:allocation", "is_read_only: true"] {
        assert!(text.contains(line), "no '{line}' in\n{text}");
    }
    let map = String::from_utf8(run(Command::new("nbdinfo").arg("--map").arg(s.uri())).stdout).unwrap();
    let rows: Vec<Vec<&str>> = map.lines().map(|l| l.split_whitespace().take(3).collect()).collect();
    assert_eq!(rows[0], ["0", "65536", "3"], "{map}");
    assert_eq!(rows[1], ["65536", "65536", "0"], "{map}");
    let size = run(Command::new("nbdinfo").arg("--size").arg(s.uri()));
    assert_eq!(String::from_utf8_lossy(&size.stdout).trim(), SIZE.to_string());
}

#[test]
fn nbdcopy_moves_a_disk_out_and_in() {
    let s = Server::start("copy", &contents(), &["-x", ""]);
    let out = s.dir.join("out.raw");
    run(Command::new("nbdcopy").arg(s.uri()).arg(&out));
    assert!(std::fs::read(&out).unwrap() == contents());
    let other: Vec<u8> = contents().iter().map(|b| b.wrapping_add(1)).collect();
    std::fs::write(&out, &other).unwrap();
    run(Command::new("nbdcopy").args(["--flush", "--connections=4"]).arg(&out).arg(s.uri()));
    let back = s.dir.join("back.raw");
    run(Command::new("nbdcopy").arg(s.uri()).arg(&back));
    assert!(std::fs::read(&back).unwrap() == other);
}

#[test]
fn the_installed_qemu_img_reads_and_writes_our_export() {
    let s = Server::start("img", &contents(), &[]);
    let reference = Path::new("/usr/bin/qemu-img");
    let source = s.dir.join("source.raw");
    run(Command::new(reference).args(["compare", "-f", "raw", "-F", "raw"]).arg(&source).arg(s.uri()));
    let io = |commands: &[&str]| {
        let mut c = Command::new("/usr/bin/qemu-io");
        c.args(["-f", "raw"]);
        commands.iter().for_each(|text| {
            c.args(["-c", text]);
        });
        let out = run(c.arg(s.uri()));
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(!text.contains("ailed"), "{text}");
    };
    io(&["write -P 9 1000 100000", "write -z 65536 65536", "discard 3M 1M", "flush"]);
    io(&["read -P 9 1000 64536", "read -P 0 65536 65536", "read -P 0 3M 1M"]);
}
