//! Filters and jobs on real images: what they leave behind is compared with what was written meanwhile, and with the
//! installed QEMU tools where those have the same switch.

#[path = "support/common.rs"]
mod common;

use common::Random;
use disk::filter::slot::Slot;
use disk::job::backup::{Backup, Wanted};
use disk::job::commit::Commit;
use disk::job::mirror::{Mirror, Plan, Sync};
use disk::job::stream::Stream;
use disk::job::{Job, Manner, News, OnError, Status};
use disk::node::{NodeRef, Preallocation};
use disk::open::OpenFlags;
use disk::options::Options;
use disk::{Node, chain};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const SIZE: u64 = 4 << 20;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("disk-graph-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn create(&self, name: &str, backing: Option<&str>) -> String {
        let path = self.path(name);
        let mut o = Options::parse(&format!("size={SIZE}"), None).unwrap();
        if let Some(b) = backing {
            o.set("backing_file", &self.path(b));
            o.set("backing_fmt", "qcow2");
        }
        disk::create::create("qcow2", &path, o).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn open(path: &str, more: &str) -> NodeRef {
    let text = format!("driver=qcow2,file.filename={path}{more}");
    disk::open_options(Options::parse(&text, None).unwrap(), &OpenFlags { write: true, ..OpenFlags::default() })
        .unwrap()
}

fn contents(node: &dyn Node) -> Vec<u8> {
    let mut all = vec![0; node.size() as usize];
    node.read(0, &mut all).unwrap();
    all
}

fn check(path: &str) {
    let out = Command::new("/usr/bin/qemu-img")
        .args(["check", "-U", path])
        .output()
        .expect("install the Debian package qemu-utils");
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
}

#[test]
fn zeroes_are_found_and_discards_kept_or_passed() {
    let dir = Dir::new("zeroes");
    let path = dir.create("a.qcow2", None);
    let plain = open(&path, "");
    plain.write(0, &[7; 1 << 20]).unwrap();
    plain.close().unwrap();
    drop(plain);
    let node = open(&path, ",detect-zeroes=on");
    node.write(0, &[0; 65536]).unwrap();
    node.write(65536, &[1; 65536]).unwrap();
    assert!(node.map(0, 65536).unwrap().zero, "zeroes were stored");
    assert!(node.map(65536, 65536).unwrap().data);
    node.close().unwrap();
    drop(node);
    let node = open(&path, ",discard=ignore");
    node.discard(1 << 19, 65536).unwrap();
    assert!(node.map(1 << 19, 65536).unwrap().data, "an ignored discard did something");
    node.close().unwrap();
    drop(node);
    let before = std::fs::metadata(&path).map(|m| std::os::unix::fs::MetadataExt::blocks(&m)).unwrap();
    let node = open(&path, ",discard=unmap,detect-zeroes=unmap");
    node.discard(1 << 19, 262144).unwrap();
    node.write(262144, &[0; 65536]).unwrap();
    assert!(!node.map(1 << 19, 65536).unwrap().data);
    node.close().unwrap();
    drop(node);
    let after = std::fs::metadata(&path).map(|m| std::os::unix::fs::MetadataExt::blocks(&m)).unwrap();
    assert!(after < before, "the host got nothing back: {before} -> {after}");
    check(&path);
    let wrong = Options::parse(&format!("driver=qcow2,file.filename={path},detect-zeroes=unmap"), None).unwrap();
    assert!(disk::open_options(wrong, &OpenFlags { write: true, ..OpenFlags::default() }).is_err());
}

#[test]
fn reading_copies_what_the_reference_copies() {
    let dir = Dir::new("cor");
    let base = open(&dir.create("base.qcow2", None), "");
    base.write(100_000, &[5; 300_000]).unwrap();
    base.close().unwrap();
    drop(base);
    let maps: Vec<String> = [true, false]
        .iter()
        .map(|ours| {
            let path = dir.create(if *ours { "o.qcow2" } else { "t.qcow2" }, Some("base.qcow2"));
            if *ours {
                let node = open(&path, ",copy-on-read=on");
                let mut buf = vec![0; 150_000];
                node.read(150_000, &mut buf).unwrap();
                assert!(buf.iter().all(|b| *b == 5));
                node.write(131_072, &[9; 512]).unwrap();
                node.close().unwrap();
            } else {
                let commands = ["-c", "read -P 5 150000 150000", "-c", "write -P 9 131072 512"];
                let out = Command::new("/usr/bin/qemu-io")
                    .args(["-C", "-f", "qcow2"])
                    .args(commands)
                    .arg(&path)
                    .output()
                    .unwrap();
                assert!(out.status.success());
            }
            check(&path);
            let out = Command::new("/usr/bin/qemu-img").args(["map", "--output=json", &path]).output().unwrap();
            // Places in the file are each side's own affair.
            String::from_utf8_lossy(&out.stdout)
                .lines()
                .map(|l| {
                    l.split(", \"offset\"").next().unwrap_or("").trim_end_matches(['}', ',', ']']).to_owned() + "\n"
                })
                .collect()
        })
        .collect();
    assert_eq!(maps[0], maps[1]);
}

#[test]
fn filters_are_nodes_of_their_own() {
    let dir = Dir::new("nodes");
    let path = dir.create("a.qcow2", None);
    disk::filter::throttle::define(Options::parse("id=graph,x-iops-total=1000000", None).unwrap()).unwrap();
    let text = format!(
        "driver=throttle,throttle-group=graph,file.driver=copy-on-read,file.file.driver=qcow2,file.file.file.filename={path}"
    );
    let node =
        disk::open_options(Options::parse(&text, None).unwrap(), &OpenFlags { write: true, ..OpenFlags::default() })
            .unwrap();
    assert_eq!(node.driver(), "throttle");
    node.write(0, &[3; 4096]).unwrap();
    let mut buf = [0; 4096];
    node.read(0, &mut buf).unwrap();
    assert_eq!(buf, [3; 4096]);
    node.close().unwrap();
    drop(node);
    let missing =
        Options::parse(&format!("driver=throttle,throttle-group=no,file.driver=qcow2,file.file.filename={path}"), None)
            .unwrap();
    assert_eq!(
        disk::open_options(missing, &OpenFlags::default()).err().unwrap().to_string(),
        "Throttle group 'no' does not exist"
    );
}

/// A user that writes to the disk until it is told to stop; the model has all it wrote.
fn writer(slot: Arc<Slot>, model: Arc<Mutex<Vec<u8>>>, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut r = Random(3);
        while !stop.load(Ordering::Relaxed) {
            let (at, len) = (r.below(SIZE - 200_000), 1 + r.below(100_000));
            let range = at as usize..(at + len) as usize;
            let value = r.below(256) as u8;
            let mut model = model.lock().unwrap();
            if r.below(4) == 0 {
                slot.write_zeroes(at, len, true).unwrap();
                model[range].fill(0);
            } else {
                slot.write(at, &vec![value; len as usize]).unwrap();
                model[range].fill(value);
            }
        }
    })
}

struct Scene {
    dir: Dir,
    slot: Arc<Slot>,
    model: Arc<Mutex<Vec<u8>>>,
    stop: Arc<AtomicBool>,
    writer: Option<std::thread::JoinHandle<()>>,
}

impl Scene {
    /// A disk of two layers with a busy user.
    fn new(name: &str) -> Scene {
        let dir = Dir::new(name);
        let base = open(&dir.create("base.qcow2", None), "");
        let mut model = vec![0; SIZE as usize];
        base.write(0, &[0x11; 2 << 20]).unwrap();
        model[..2 << 20].fill(0x11);
        base.close().unwrap();
        drop(base);
        let top = open(&dir.create("top.qcow2", Some("base.qcow2")), "");
        top.write(1 << 20, &[0x22; 65536]).unwrap();
        model[1 << 20..(1 << 20) + 65536].fill(0x22);
        Scene {
            dir,
            slot: Arc::new(Slot::new(top)),
            model: Arc::new(Mutex::new(model)),
            stop: Arc::default(),
            writer: None,
        }
    }

    fn busy(mut self) -> Scene {
        self.writer = Some(writer(self.slot.clone(), self.model.clone(), self.stop.clone()));
        self
    }

    fn settle(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(w) = self.writer.take() {
            w.join().unwrap();
        }
        assert!(contents(self.slot.as_ref()) == *self.model.lock().unwrap(), "the disk is not what its user wrote");
    }
}

fn plan() -> Plan {
    Plan { sync: Sync::Full, stop: None, granularity: 65536, blank: false, grow: false }
}

/// A user who writes sees nothing of a job whose target fails; the job says what happened, and why.
#[test]
fn a_target_that_is_full_stops_a_mirror_until_there_is_room() {
    let mut s = Scene::new("full").busy();
    let path = s.dir.create("copy.qcow2", None);
    let config = s.dir.path("rules");
    std::fs::write(&config, "[inject-error]\nevent = \"write_aio\"\nerrno = \"28\"\nonce = \"on\"\n").unwrap();
    let text = format!("driver=qcow2,file.driver=blkdebug,file.config={config},file.image.filename={path}");
    let flags = OpenFlags { write: true, ..OpenFlags::default() };
    let target = disk::open_options(Options::parse(&text, None).unwrap(), &flags).unwrap();
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = heard.clone();
    let news = move |_: &Job, news: News| log.lock().unwrap().push(format!("{news:?}"));
    let manner = Manner { on_write_error: OnError::Enospc, news: Box::new(news), ..Manner::default() };
    let work = Mirror::new(s.slot.clone(), target.clone(), plan()).unwrap();
    let job = Job::start("m", "mirror", manner, Box::new(work)).unwrap();
    job.control().wait_until(|s| s == Status::Paused);
    assert_eq!(job.control().io_status(), "nospace");
    job.resume().unwrap();
    job.wait_ready();
    job.complete().unwrap();
    job.wait().unwrap();
    s.settle();
    assert!(contents(target.as_ref()) == *s.model.lock().unwrap());
    let heard = heard.lock().unwrap().join(" ");
    let expected = "Status(Created) Status(Running) Error { write: true, action: Stop } Status(Paused) Status(Running) \
                    Status(Ready) Ready Status(Waiting) Status(Pending) Done { cancelled: false, error: None } \
                    Status(Concluded) Status(Null)";
    assert_eq!(heard, expected);
}

#[test]
fn a_mirror_takes_over_from_a_busy_disk() {
    let mut s = Scene::new("mirror").busy();
    let path = s.dir.create("copy.qcow2", None);
    let (slot, target) = (s.slot.clone(), open(&path, ""));
    let copy = target.clone();
    let work = Mirror::new(slot, target, plan()).unwrap();
    let job = Job::start("m", "mirror", Manner::default(), Box::new(work)).unwrap();
    assert!(job.status() != Status::Null);
    job.wait_ready();
    while let Err(e) = job.complete() {
        assert!(job.status() != Status::Null, "{e}");
        std::thread::yield_now();
    }
    job.wait().unwrap();
    assert_eq!(s.slot.filename(), path);
    let (done, total) = job.progress();
    assert!(done >= SIZE && total >= done);
    s.settle();
    assert!(contents(copy.as_ref()) == *s.model.lock().unwrap());
    s.slot.close().unwrap();
    check(&path);
}

#[test]
fn a_cancelled_mirror_leaves_the_disk_alone() {
    let mut s = Scene::new("cancel").busy();
    let path = s.dir.create("copy.qcow2", None);
    let (slot, target) = (s.slot.clone(), open(&path, ""));
    let work = Mirror::new(slot, target, plan()).unwrap();
    let job = Job::start("m", "mirror", Manner { speed: 1, auto_dismiss: false, ..Manner::default() }, Box::new(work))
        .unwrap();
    job.cancel(false).unwrap();
    assert_eq!(job.wait().unwrap_err().to_string(), "Operation canceled");
    assert_eq!(job.status(), Status::Concluded);
    assert!(s.slot.filename().ends_with("top.qcow2"));
    s.settle();
}

#[test]
fn a_backup_has_the_disk_as_it_was() {
    let mut s = Scene::new("backup");
    let then = s.model.lock().unwrap().clone();
    let path = s.dir.create("copy.qcow2", None);
    let (slot, target) = (s.slot.clone(), open(&path, ""));
    let copy = target.clone();
    // The user starts to write once the job stands between it and the disk.
    let work = Backup::new(slot, target, Wanted::All, 65536, false).unwrap();
    let job = Job::start("b", "backup", Manner::default(), Box::new(work)).unwrap();
    s = s.busy();
    job.wait().unwrap();
    s.settle();
    assert!(contents(copy.as_ref()) == then, "the backup has later writes");
    copy.close().unwrap();
    check(&path);
}

#[test]
fn streaming_makes_the_top_stand_alone() {
    let mut s = Scene::new("stream").busy();
    let slot = s.slot.clone();
    let job = Job::start("s", "stream", Manner::default(), Box::new(Stream::new(slot, None, None).unwrap())).unwrap();
    job.wait().unwrap();
    s.settle();
    assert!(s.slot.backing().is_none());
    let info = s.slot.info().unwrap();
    assert_eq!(info.backing_file, None);
    s.slot.close().unwrap();
    check(&s.dir.path("top.qcow2"));
}

#[test]
fn committing_moves_data_down() {
    let s = Scene::new("commit");
    let top = s.slot.node();
    let wanted = contents(top.as_ref());
    chain::layers(&top)[1].release_locks();
    let base = open(&s.dir.path("base.qcow2"), "");
    top.set_backing(Some(base.clone()));
    let work = Commit { top, base: base.clone(), link: None };
    let job =
        Job::prepare("c", "commit", Manner { auto_finalize: false, ..Manner::default() }, Box::new(work)).unwrap();
    job.pause().unwrap();
    assert_eq!(job.pause().unwrap_err().to_string(), "Job is already paused");
    job.go();
    job.resume().unwrap();
    assert_eq!(
        job.complete().unwrap_err().to_string(),
        format!("Job 'c' in state '{}' cannot accept command verb 'complete'", job.status().name())
    );
    job.control().wait_until(|s| s == Status::Pending);
    job.finalize().unwrap();
    job.wait().unwrap();
    base.resize(SIZE, Preallocation::Off).unwrap();
    assert!(contents(base.as_ref()) == wanted);
    base.close().unwrap();
    check(&s.dir.path("base.qcow2"));
}
