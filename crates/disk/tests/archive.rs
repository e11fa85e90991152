//! Formats that are only read: each sample, made by the reference or built from the format's description, reads as its
//! contents both here and in the installed `qemu-img`.

#[path = "support/samples.rs"]
mod samples;

use disk::open::OpenFlags;
use disk::options::Options;
use std::path::PathBuf;
use std::process::Command;

fn place(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("disk-archive-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn check(name: &str, format: &str, bytes: Vec<u8>) {
    check_contents(name, format, bytes, samples::contents());
}

fn check_contents(name: &str, format: &str, bytes: Vec<u8>, wanted: Vec<u8>) {
    let dir = place(name);
    // The name of a dmg is all that tells it from raw.
    let path = dir.join(format!("image.{}", if format == "dmg" { "dmg" } else { "bin" }));
    std::fs::write(&path, bytes).unwrap();
    let file = path.to_str().unwrap();
    let node = disk::open(file, None, &OpenFlags { quiet_probe: true, ..OpenFlags::default() }).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(node.driver(), format, "{name}: guessed format");
    assert_eq!(node.size(), wanted.len() as u64, "{name}: size");
    let mut now = vec![0xaa; wanted.len()];
    node.read(0, &mut now).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(now == wanted, "{name}: contents");
    let mut odd = vec![0; 70_001];
    node.read(299_999, &mut odd).unwrap();
    assert!(odd == wanted[299_999..][..70_001], "{name}: an odd range");
    assert!(node.write(0, &[0; 512]).is_err(), "{name}: written to");
    assert!(disk::open(file, Some(format), &OpenFlags { write: true, ..OpenFlags::default() }).is_err(), "{name}: opened for writing");
    let raw = dir.join("contents.raw");
    std::fs::write(&raw, &wanted).unwrap();
    let out = Command::new("/usr/bin/qemu-img").args(["compare", "-f", "raw", "-F", format]).arg(&raw).arg(&path).output().unwrap();
    assert!(out.status.success(), "{name}: the reference: {}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn qed_qcow_and_parallels_of_the_reference_are_read() {
    let dir = place("made");
    for (format, options) in [
        ("qed", ""),
        ("qed", "cluster_size=4096,table_size=2"),
        ("qcow", ""),
        ("parallels", ""),
        ("parallels", "cluster_size=65536"),
    ] {
        check(&format!("{format}-{options}"), format, samples::by_reference(&dir, format, options));
    }
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn packed_clusters_of_a_qcow_are_read() {
    // `convert -c` of the reference fails for this format, so the packed cluster is put in by hand.
    let dir = place("packed");
    let mut bytes = samples::by_reference(&dir, "qcow", "");
    let (be64, contents) = (|b: &[u8], at: usize| u64::from_be_bytes(b[at..at + 8].try_into().unwrap()), samples::contents());
    let l2 = be64(&bytes, be64(&bytes, 40) as usize) as usize;
    let cluster = 1 << bytes[32];
    let index = 300_000 / cluster + 1;
    let data: Vec<u8> = (0..cluster).map(|i| (i / 100) as u8).collect();
    let mut z = flate2::Compress::new(flate2::Compression::default(), false);
    let mut packed = Vec::with_capacity(cluster);
    z.compress_vec(&data, &mut packed, flate2::FlushCompress::Finish).unwrap();
    let entry = 1 << 63 | (packed.len() as u64) << (63 - bytes[32]) | bytes.len() as u64;
    bytes.extend(packed);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes[l2 + index * 8..l2 + index * 8 + 8].copy_from_slice(&entry.to_be_bytes());
    let mut wanted = contents;
    wanted[index * cluster..(index + 1) * cluster].copy_from_slice(&data);
    check_contents("qcow-packed", "qcow", bytes, wanted);
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn bochs_cloop_and_dmg_are_read() {
    check("bochs", "bochs", samples::bochs());
    check("cloop", "cloop", samples::cloop());
    check("dmg-list", "dmg", samples::dmg(false, false));
    check("dmg-fork", "dmg", samples::dmg(true, false));
}

#[test]
fn a_dmg_with_bzip2_is_read() {
    // The reference needs a module for these chunks that is not always installed.
    let dir = place("bzip2");
    let path = dir.join("image.dmg");
    std::fs::write(&path, samples::dmg(false, true)).unwrap();
    let node = disk::open(path.to_str().unwrap(), None, &OpenFlags::default()).unwrap();
    let mut now = vec![0; samples::SIZE];
    node.read(0, &mut now).unwrap();
    assert!(now == samples::contents());
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn an_encrypted_qcow_is_read_with_its_secret() {
    let dir = place("encrypted");
    disk::secret::define(Options::parse("id=s,data=hello", None).unwrap()).unwrap();
    let path = dir.join("image.qcow");
    std::fs::write(&path, samples::by_reference(&dir, "qcow", "encrypt.format=aes,encrypt.key-secret=s")).unwrap();
    let open = |secret: &str| {
        let text = format!("driver=qcow,file.filename={}{secret}", path.display());
        disk::open_options(Options::parse(&text, None).unwrap(), &OpenFlags::default())
    };
    assert_eq!(open("").err().unwrap().to_string(), "Parameter 'encrypt.key-secret' is required for cipher");
    let node = open(",encrypt.key-secret=s").unwrap();
    let mut odd = vec![0; 70_001];
    node.read(299_999, &mut odd).unwrap();
    assert!(odd == samples::contents()[299_999..][..70_001]);
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn backing_files_show_through() {
    let dir = place("backing");
    let base = dir.join("base.raw");
    std::fs::write(&base, vec![0x42; samples::SIZE]).unwrap();
    for format in ["qed", "qcow"] {
        let path = dir.join(format!("top.{format}"));
        let run = |c: &mut Command| assert!(c.output().unwrap().status.success(), "{c:?}");
        run(Command::new("/usr/bin/qemu-img").args(["create", "-q", "-f", format, "-F", "raw", "-b"]).arg(&base).arg(&path).arg("2M"));
        run(Command::new("/usr/bin/qemu-io").args(["-f", format, "-c", "write -P 5 64k 4k"]).arg(&path));
        let node = disk::open(path.to_str().unwrap(), None, &OpenFlags::default()).unwrap();
        let mut now = vec![0; 2 << 20];
        node.read(0, &mut now).unwrap();
        let mut wanted = vec![0x42; samples::SIZE];
        wanted.resize(2 << 20, 0);
        wanted[65536..69632].fill(5);
        assert!(now == wanted, "{format}");
    }
    let _ = std::fs::remove_dir_all(&dir);
}
