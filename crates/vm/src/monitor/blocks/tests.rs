//! Sessions whose answers and events were recorded with the installed QEMU 10.0.2.

use super::super::Machine;
use super::super::human::Shell;
use super::super::qmp::{COMMANDS, run};
use super::super::testing::Fake;
use crate::blocks::tests::disks;
use crate::lifecycle::Event;
use disk::options::Options;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SIZE: usize = 4 << 20;

/// A drive `d0` with node `n0`: `top.qcow2` above `mid.qcow2` above `base.qcow2`.
struct Bench {
    dir: PathBuf,
    machine: Arc<dyn Machine>,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    fn new(test: &str) -> Bench {
        Bench::with(test, "")
    }

    fn with(test: &str, more: &str) -> Bench {
        let dir = std::env::temp_dir().join(format!("rhea-jobs-{}-{test}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let mut below = None;
        for (name, at, value) in [("base", 0, 1), ("mid", 512 << 10, 2), ("top", 1 << 20, 3)] {
            let path = dir.join(format!("{name}.qcow2"));
            let mut o = Options::parse(&format!("size={SIZE}"), None).unwrap();
            if let Some(below) = below.replace(path.clone()) {
                o.set("backing_file", below.to_str().unwrap());
                o.set("backing_fmt", "qcow2");
            }
            disk::create::create("qcow2", path.to_str().unwrap(), o).unwrap();
            let flags = disk::OpenFlags { write: true, ..Default::default() };
            let node = disk::open(path.to_str().unwrap(), Some("qcow2"), &flags).unwrap();
            node.write(at, &[value; 1 << 20]).unwrap();
            node.close().unwrap();
        }
        let options =
            format!("-M virt -drive file={}/top.qcow2,format=qcow2,if=none,id=d0,node-name=n0{more}", dir.display());
        let fake = Fake::with(|life| Some(disks(life.clone(), &options)));
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = heard.clone();
        fake.life().on_event(move |event| {
            if let Event::Job(name, data) = event {
                let word = |key: &str| data[key].as_str().unwrap_or_default().to_owned();
                log.lock().unwrap().push(match name {
                    "JOB_STATUS_CHANGE" => word("status"),
                    _ => format!("{name}:{} {}/{}{}", word("type"), data["offset"], data["len"], word("error")),
                });
            }
        });
        Bench { dir, machine: fake, heard }
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    fn ask(&self, name: &str, arguments: Value) -> Result<Value, String> {
        let command = COMMANDS.iter().find(|command| command.name == name).unwrap();
        let Value::Object(map) = arguments else { panic!("arguments are an object") };
        let answer = run(command, &self.machine, map).map_err(|refusal| refusal.text)?;
        if let Some(then) = answer.then {
            then(&*self.machine);
        }
        Ok(answer.value)
    }

    fn done(&self, name: &str, arguments: Value) {
        assert_eq!(self.ask(name, arguments.clone()), Ok(json!({})), "{name} {arguments}");
    }

    fn refused(&self, name: &str, arguments: Value, text: &str) {
        assert_eq!(self.ask(name, arguments.clone()), Err(text.to_owned()), "{name} {arguments}");
    }

    fn human(&self, line: &str) -> String {
        let mut out = String::new();
        Shell::new(self.machine.clone(), 0).run(line, &mut out);
        out
    }

    /// Waits for an event, and says what happened until then, and forgets it.
    fn until(&self, last: &str) -> String {
        let start = Instant::now();
        loop {
            let heard = std::mem::take(&mut *self.heard.lock().unwrap());
            if heard.iter().any(|event| event.starts_with(last)) {
                return heard.join(" ");
            }
            self.heard.lock().unwrap().splice(0..0, heard);
            assert!(start.elapsed() < Duration::from_secs(60), "no {last}: {:?}", self.heard.lock().unwrap());
            std::thread::yield_now();
        }
    }

    fn node(&self) -> disk::NodeRef {
        self.machine.blocks().unwrap().lock().drives[0].node.clone()
    }

    fn chain(&self) -> Vec<String> {
        let root = self.machine.blocks().unwrap().lock().drives[0].slot.node();
        let name = |n: &disk::NodeRef| {
            let file = n.filename().rsplit('/').next().unwrap_or_default().to_owned();
            if n.read_only() { file } else { format!("{file}+") }
        };
        disk::chain::layers(&root).iter().map(name).collect()
    }

    /// The disk reads as it was written.
    fn intact(&self) {
        let mut all = vec![0; SIZE];
        self.node().read(0, &mut all).unwrap();
        for (at, value) in [(0, 1), (512 << 10, 2), (1 << 20, 3), ((2 << 20) - 1, 3), (2 << 20, 0)] {
            assert_eq!(all[at], value, "at {at}");
        }
    }

    fn close(&self) {
        self.machine.blocks().unwrap().close().unwrap();
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn a_mirror_takes_its_disks_place() {
    let b = Bench::new("mirror");
    let target = b.path("m.qcow2");
    b.done("drive-mirror", json!({"device": "d0", "target": target, "sync": "full"}));
    assert_eq!(b.until("BLOCK_JOB_READY"), "created running ready BLOCK_JOB_READY:mirror 2097152/2097152");
    let expected = json!([{
        "auto-finalize": true, "io-status": "ok", "device": "d0", "auto-dismiss": true, "busy": false, "len": 2097152,
        "offset": 2097152, "status": "ready", "paused": false, "speed": 0, "ready": true, "type": "mirror",
        "actively-synced": false,
    }]);
    assert_eq!(b.ask("query-block-jobs", json!({})), Ok(expected));
    let line = "Type mirror, device d0: Completed 2097152 of 2097152 bytes, speed limit 0 bytes/s\n";
    assert_eq!(b.human("info block-jobs"), line);
    for (name, arguments) in [
        ("drive-mirror", json!({"device": "d0", "target": b.path("x"), "sync": "full"})),
        ("block-commit", json!({"device": "d0"})),
    ] {
        b.refused(name, arguments, "Need a root block node");
    }
    let busy = "Node 'd0' is busy: block device is in use by block job: mirror";
    b.refused("drive-backup", json!({"device": "d0", "target": b.path("x"), "sync": "full", "job-id": "x"}), busy);
    b.refused("block-stream", json!({"device": "d0", "job-id": "x"}), busy);
    b.refused("blockdev-snapshot-sync", json!({"device": "d0", "snapshot-file": b.path("x")}), busy);
    b.refused("block_resize", json!({"device": "d0", "size": 8 << 20}), busy);
    assert_eq!(b.human("commit d0"), "'commit' error for 'd0': Device or resource busy\n");
    b.node().write(3 << 20, &[7; 65536]).unwrap();
    b.done("block-job-pause", json!({"device": "d0"}));
    b.refused("block-job-pause", json!({"device": "d0"}), "Job is already paused");
    b.refused("block-job-cancel", json!({"device": "d0"}), "The block job for device 'd0' is currently paused");
    assert_eq!(b.until("standby"), "standby");
    b.done("block-job-complete", json!({"device": "d0"}));
    b.done("job-resume", json!({"id": "d0"}));
    let end = "ready waiting pending BLOCK_JOB_COMPLETED:mirror 2162688/2162688 concluded null";
    assert_eq!(b.until("null"), end);
    assert_eq!(b.chain(), ["m.qcow2+"]);
    b.intact();
    let mut byte = [0];
    b.node().read(3 << 20, &mut byte).unwrap();
    assert_eq!(byte, [7]);
    b.refused("block-job-complete", json!({"device": "d0"}), "Block job 'd0' not found");
    b.refused("job-complete", json!({"id": "d0"}), "Job not found");
    b.close();
}

#[test]
fn a_mirror_that_is_cancelled_leaves_a_whole_copy_or_none() {
    let b = Bench::new("cancel");
    for (force, end) in [
        (false, "waiting pending BLOCK_JOB_COMPLETED:mirror 1048576/1048576 concluded null"),
        (true, "aborting BLOCK_JOB_CANCELLED:mirror 1048576/1048576 concluded null"),
    ] {
        let target = b.path(&format!("{force}.qcow2"));
        b.done("drive-mirror", json!({"device": "d0", "target": target, "sync": "top"}));
        b.until("BLOCK_JOB_READY");
        b.done("block-job-cancel", json!({"device": "d0", "force": force}));
        assert_eq!(b.until("null"), end);
        assert_eq!(b.chain(), ["top.qcow2+", "mid.qcow2", "base.qcow2"]);
        let copy = disk::open(&target, Some("qcow2"), &Default::default()).unwrap();
        assert_eq!(copy.info().unwrap().backing_file, Some(b.path("mid.qcow2")));
    }
    b.intact();
    b.close();
}

#[test]
fn streams_and_commits_shorten_the_chain() {
    let b = Bench::new("chain");
    b.done("block-stream", json!({"device": "d0", "job-id": "s", "base": b.path("base.qcow2")}));
    assert_eq!(
        b.until("null"),
        "created running waiting pending BLOCK_JOB_COMPLETED:stream 4194304/4194304 concluded null"
    );
    assert_eq!(b.chain(), ["top.qcow2+", "base.qcow2"]);
    b.intact();
    b.done(
        "blockdev-snapshot-sync",
        json!({"device": "d0", "snapshot-file": b.path("s1.qcow2"), "snapshot-node-name": "s1"}),
    );
    let again = json!({"device": "d0", "snapshot-file": b.path("s2.qcow2"), "snapshot-node-name": "n0"});
    b.refused("blockdev-snapshot-sync", again, "New overlay node-name already in use");
    assert_eq!(b.chain(), ["s1.qcow2+", "top.qcow2", "base.qcow2"]);
    b.done("block-commit", json!({"device": "d0", "job-id": "c", "top-node": "n0"}));
    assert_eq!(
        b.until("null"),
        "created running waiting pending BLOCK_JOB_COMPLETED:commit 4194304/4194304 concluded null"
    );
    assert_eq!(b.chain(), ["s1.qcow2+", "base.qcow2"]);
    b.intact();
    b.node().write(3 << 20, &[9; 65536]).unwrap();
    b.done("block-commit", json!({"device": "d0"}));
    assert_eq!(b.until("BLOCK_JOB_READY"), "created running ready BLOCK_JOB_READY:commit 65536/65536");
    assert_eq!(b.chain()[1], "base.qcow2+");
    b.done("block-job-complete", json!({"device": "d0"}));
    b.until("null");
    assert_eq!(b.chain(), ["base.qcow2+"]);
    b.intact();
    b.refused("block-commit", json!({"device": "d0"}), "cannot commit an image into itself");
    b.close();
}

#[test]
fn a_backup_has_the_moment() {
    let b = Bench::new("backup");
    let slow = json!({"device": "d0", "target": b.path("b.raw"), "sync": "full", "format": "raw", "speed": 1 << 20, "job-id": "bb"});
    b.done("drive-backup", slow);
    b.node().write(0, &[8; SIZE]).unwrap();
    b.done("block-job-set-speed", json!({"device": "bb", "speed": 0}));
    assert_eq!(
        b.until("null"),
        "created running waiting pending BLOCK_JOB_COMPLETED:backup 4194304/4194304 concluded null"
    );
    let copy = std::fs::read(b.path("b.raw")).unwrap();
    let wanted = |at: usize| match at >> 19 {
        0 => 1,
        1 => 2,
        2 | 3 => 3,
        _ => 0,
    };
    assert!(copy.len() == SIZE && copy.iter().enumerate().all(|(at, byte)| *byte == wanted(at)));
    let lists = json!({"device": "d0", "target": b.path("p.qcow2"), "sync": "full", "compress": true, "auto-finalize": false, "auto-dismiss": false});
    b.done("drive-backup", lists);
    assert_eq!(b.until("BLOCK_JOB_PENDING"), "created running waiting pending BLOCK_JOB_PENDING:backup null/null");
    b.refused("job-dismiss", json!({"id": "d0"}), "Job 'd0' in state 'pending' cannot accept command verb 'dismiss'");
    b.done("job-finalize", json!({"id": "d0"}));
    assert_eq!(b.until("concluded"), "BLOCK_JOB_COMPLETED:backup 4194304/4194304 concluded");
    b.refused("job-cancel", json!({"id": "d0"}), "Job 'd0' in state 'concluded' cannot accept command verb 'cancel'");
    b.done("job-dismiss", json!({"id": "d0"}));
    assert!(std::fs::metadata(b.path("p.qcow2")).unwrap().len() < 1 << 20, "nothing was compressed");
    std::fs::write(b.path("small"), [0; 512]).unwrap();
    let small = |name: &str| json!({"device": "d0", "target": b.path(name), "sync": "full", "mode": "existing", "format": "raw"});
    b.refused("drive-backup", small("small"), "Source and target image have different sizes");
    b.until("null");
    b.done("drive-mirror", small("small"));
    let end = "created running aborting BLOCK_JOB_COMPLETED:mirror 0/0Source and target image have different sizes concluded null";
    assert_eq!(b.until("null"), end);
    b.close();
}

#[test]
fn mistakes_have_qemus_words() {
    let b = Bench::new("mistakes");
    for (name, arguments, text) in [
        ("block-stream", json!({"device": "nope"}), "Cannot find device='nope' nor node-name='nope'"),
        ("block-stream", json!({"device": "d0", "base": "nope"}), "Can't find 'nope' in the backing chain"),
        ("block-stream", json!({"device": "d0", "job-id": "9x"}), "Invalid job ID '9x'"),
        ("block-stream", json!({"device": "d0", "speed": -1}), "Parameter 'speed' expects a non-negative value"),
        (
            "block-stream",
            json!({"device": "d0", "on-error": "foo"}),
            "Parameter 'on-error' does not accept value 'foo'",
        ),
        ("block-stream", json!({"device": 5}), "Invalid parameter type for 'device', expected: string"),
        ("block-commit", json!({"device": "zz"}), "Device 'zz' not found"),
        ("block-commit", json!({"device": "d0", "top": "nope"}), "Top image file nope not found"),
        ("block-commit", json!({"device": "d0", "base": "nope"}), "Can't find 'nope' in the backing chain"),
        ("block-commit", json!({"device": "d0", "top": b.path("base.qcow2")}), "cannot commit an image into itself"),
        (
            "drive-backup",
            json!({"device": "d0", "target": "x", "sync": "foo"}),
            "Parameter 'sync' does not accept value 'foo'",
        ),
        ("drive-backup", json!({"device": "d0", "target": "x"}), "Parameter 'sync' is missing"),
        (
            "drive-backup",
            json!({"device": "d0", "target": "/nodir/x", "sync": "full"}),
            "Could not create '/nodir/x': No such file or directory",
        ),
        (
            "drive-mirror",
            json!({"device": "d0", "target": "x", "sync": "full", "replaces": "z"}),
            "a node-name must be provided when replacing a named node of the graph",
        ),
        (
            "blockdev-snapshot-sync",
            json!({"device": "zz", "snapshot-file": "x"}),
            "Cannot find device='zz' nor node-name=''",
        ),
        (
            "blockdev-snapshot-sync",
            json!({"device": "d0", "snapshot-file": "x", "format": "raw"}),
            "Backing file not supported for file format 'raw'",
        ),
        (
            "blockdev-snapshot-sync",
            json!({"device": "d0", "snapshot-file": "x", "format": "foo"}),
            "Unknown file format 'foo'",
        ),
        (
            "blockdev-add",
            json!({"driver": "qcow2", "node-name": "x", "file": "nope"}),
            "Cannot find device='nope' nor node-name='nope'",
        ),
        ("blockdev-add", json!({"driver": "foo", "node-name": "x"}), "Parameter 'driver' does not accept value 'foo'"),
        ("blockdev-add", json!({"driver": "null-co", "node-name": "9x"}), "Invalid node-name: '9x'"),
        ("blockdev-add", json!({"driver": "null-co"}), "'node-name' must be specified for the root node"),
        ("blockdev-add", json!({"node-name": "x"}), "Parameter 'driver' is missing"),
        (
            "blockdev-add",
            json!({"driver": "null-co", "node-name": "d0"}),
            "node-name=d0 is conflicting with a device id",
        ),
        ("blockdev-add", json!({"driver": "null-co", "node-name": "n0"}), "Duplicate nodes with node-name='n0'"),
        ("blockdev-del", json!({"node-name": "zz"}), "Failed to find node with node-name='zz'"),
        ("block_resize", json!({"device": "d0", "size": -5}), "Parameter 'size' expects a >0 size"),
        ("block_resize", json!({"size": 5}), "Cannot find device='' nor node-name=''"),
        ("block_set_io_throttle", json!({"device": "d0"}), "Parameter 'bps' is missing"),
        (
            "transaction",
            json!({"actions": [{"type": "foo", "data": {}}]}),
            "Parameter 'type' does not accept value 'foo'",
        ),
        (
            "blockdev-mirror",
            json!({"device": "d0", "target": "zz", "sync": "full"}),
            "Cannot find device='zz' nor node-name='zz'",
        ),
        ("blockdev-mirror", json!({"device": "d0", "target": "n0", "sync": "full"}), "Can't mirror node into itself"),
        (
            "blockdev-backup",
            json!({"device": "d0", "target": "n0", "sync": "full"}),
            "Source and target cannot be the same",
        ),
    ] {
        b.refused(name, arguments, text);
    }
    for (line, text) in [
        ("snapshot_blkdev d0", "Error: Parameter 'snapshot-file' is missing\n"),
        ("block_stream zz", "Error: Cannot find device='zz' nor node-name='zz'\n"),
        ("block_job_complete d0", "Error: Block job 'd0' not found\n"),
        ("block_resize d0 foo", "invalid size\nTry \"help block_resize\" for more information\n"),
        ("block_set_io_throttle zz 1 0 0 0 0 0", "Error: Device 'zz' not found\n"),
        ("qemu-io zz length", "Error: Cannot find device='' nor node-name='zz'\n"),
        ("qemu-io d0", "qemu-io: string expected\nTry \"help qemu-io\" for more information\n"),
        ("info block-jobs", "No active jobs\n"),
        ("commit zz", "Device 'zz' not found\n"),
    ] {
        assert_eq!(b.human(line), text, "{line}");
    }
    assert_eq!(b.chain(), ["top.qcow2+", "mid.qcow2", "base.qcow2"]);
    b.close();
}

#[test]
fn nodes_come_and_go() {
    let b = Bench::new("nodes");
    disk::create::create("qcow2", &b.path("ov.qcow2"), Options::parse(&format!("size={SIZE}"), None).unwrap()).unwrap();
    b.done("blockdev-add", json!({"driver": "file", "node-name": "ovf", "filename": b.path("ov.qcow2")}));
    b.done("blockdev-add", json!({"driver": "qcow2", "node-name": "ov", "file": "ovf", "backing": null}));
    b.refused("blockdev-del", json!({"node-name": "ovf"}), "Block device ovf is in use");
    b.done("blockdev-snapshot", json!({"node": "n0", "overlay": "ov"}));
    assert_eq!(b.chain(), ["ov.qcow2+", "top.qcow2", "mid.qcow2", "base.qcow2"]);
    let busy = "Node 'n0' is busy: node is used as backing hd of 'ov'";
    b.refused("blockdev-snapshot", json!({"node": "n0", "overlay": "ov"}), busy);
    b.refused("blockdev-del", json!({"node-name": "ov"}), "Node ov is in use");
    b.intact();
    std::fs::write(b.path("t.img"), vec![0; SIZE]).unwrap();
    b.done(
        "blockdev-add",
        json!({"driver": "raw", "node-name": "tt", "file": {"driver": "file", "filename": b.path("t.img")}}),
    );
    b.done("blockdev-mirror", json!({"device": "d0", "target": "tt", "sync": "full", "job-id": "m"}));
    b.until("BLOCK_JOB_READY");
    b.refused("blockdev-del", json!({"node-name": "tt"}), "Node tt is in use");
    b.done("job-complete", json!({"id": "m"}));
    b.until("null");
    assert_eq!(b.chain(), ["t.img+"]);
    b.done("blockdev-del", json!({"node-name": "ov"}));
    b.done("blockdev-del", json!({"node-name": "ovf"}));
    b.done("block_resize", json!({"device": "d0", "size": 5 << 20}));
    assert_eq!(b.node().size(), 5 << 20);
    let names = b.ask("query-named-block-nodes", json!({"flat": true})).unwrap();
    let names: Vec<&str> = names.as_array().unwrap().iter().map(|n| n["drv"].as_str().unwrap()).collect();
    assert_eq!(names, ["raw", "file"]);
    b.intact();
    b.close();
}

#[test]
fn a_transaction_is_whole_or_nothing() {
    let b = Bench::new("transaction");
    let snapshot =
        json!({"type": "blockdev-snapshot-sync", "data": {"device": "d0", "snapshot-file": b.path("s.qcow2")}});
    let backup =
        |to: &str| json!({"type": "drive-backup", "data": {"device": "d0", "target": b.path(to), "sync": "full"}});
    let abort = json!({"type": "abort", "data": {}});
    b.refused("transaction", json!({"actions": [backup("1"), abort]}), "Transaction aborted using Abort action");
    b.until("null");
    b.refused("transaction", json!({"actions": [snapshot, abort]}), "Transaction aborted using Abort action");
    assert_eq!(b.chain(), ["top.qcow2+", "mid.qcow2", "base.qcow2"]);
    b.done("transaction", json!({"actions": [snapshot]}));
    assert_eq!(b.chain(), ["s.qcow2+", "top.qcow2", "mid.qcow2", "base.qcow2"]);
    b.done("transaction", json!({"actions": [backup("2")]}));
    b.until("null");
    b.intact();
    b.close();
}

#[test]
fn images_are_made_by_jobs() {
    let b = Bench::new("create");
    b.done(
        "blockdev-create",
        json!({"job-id": "c", "options": {"driver": "file", "filename": b.path("new"), "size": 0}}),
    );
    assert_eq!(b.until("concluded"), "created running waiting pending concluded");
    b.done("job-dismiss", json!({"id": "c"}));
    b.done("blockdev-add", json!({"driver": "file", "node-name": "nf", "filename": b.path("new")}));
    b.done(
        "blockdev-create",
        json!({"job-id": "c", "options": {"driver": "qcow2", "file": "nf", "size": SIZE, "cluster-size": 4096}}),
    );
    b.until("concluded");
    b.done("job-dismiss", json!({"id": "c"}));
    let node = disk::open(&b.path("new"), Some("qcow2"), &Default::default()).unwrap();
    assert_eq!((node.size(), node.info().unwrap().cluster_size), (SIZE as u64, Some(4096)));
    b.done("blockdev-create", json!({"job-id": "c", "options": {"driver": "qcow2", "file": "zz", "size": 1}}));
    assert!(b.until("concluded").ends_with("aborting concluded"));
    let jobs = b.ask("query-jobs", json!({})).unwrap();
    assert_eq!(jobs[0]["error"], "Cannot find device='zz' nor node-name='zz'");
    // The end of the machine forgets it.
    b.close();
    assert_eq!(b.ask("query-jobs", json!({})), Ok(json!([])));
}

#[test]
fn limits_change_and_stay_with_the_drive() {
    let b = Bench::with("limits", ",throttling.iops-total=50,throttling.iops-total-max=60");
    let shown = "    I/O throttling:   bps=0 bps_rd=0 bps_wr=0 bps_max=0 bps_rd_max=0 bps_wr_max=0 iops=50 iops_rd=0 iops_wr=0 \
                 iops_max=60 iops_rd_max=0 iops_wr_max=0 iops_size=0 group=d0\n";
    assert!(b.human("info block").contains(shown), "{}", b.human("info block"));
    b.done("blockdev-snapshot-sync", json!({"device": "d0", "snapshot-file": b.path("s.qcow2")}));
    assert!(b.human("info block").contains(shown));
    let limits = |bps: u64, rd: u64| json!({"device": "d0", "bps": bps, "bps_rd": rd, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0});
    b.done("block_set_io_throttle", limits(1 << 20, 0));
    let both = "bps/iops/max total values and read/write values cannot be used at the same time";
    b.refused("block_set_io_throttle", limits(1 << 20, 5), both);
    // A tenth of a second's bytes may come at once, the rest takes its time.
    let start = Instant::now();
    let mut piece = vec![0; 512 << 10];
    b.node().read(0, &mut piece).unwrap();
    b.node().read(0, &mut piece).unwrap();
    assert!(start.elapsed() > Duration::from_millis(300), "{:?}", start.elapsed());
    // A machine that ends does not wait for hours.
    b.done("block_set_io_throttle", limits(1, 0));
    let (node, blocks) = (b.node(), b.machine.blocks().unwrap().clone());
    let reader = std::thread::spawn(move || node.read(0, &mut [0; 4096]));
    blocks.lift();
    reader.join().unwrap().unwrap();
    b.done("block_set_io_throttle", limits(0, 0));
    assert!(!b.human("info block").contains("throttling"));
    b.close();
}

#[test]
fn a_machine_that_ends_loses_nothing_of_a_disk_with_a_job() {
    for (command, more) in [
        ("drive-mirror", json!({"target": "t", "sync": "full", "speed": 1})),
        ("drive-backup", json!({"target": "t", "sync": "full", "speed": 1})),
        ("block-stream", json!({"speed": 1})),
        ("block-commit", json!({"speed": 1})),
    ] {
        let b = Bench::new(&format!("end-{command}"));
        let mut arguments = more.clone();
        arguments["device"] = json!("d0");
        if arguments["target"].is_string() {
            arguments["target"] = json!(b.path("t"));
        }
        b.done(command, arguments);
        b.node().write(3 << 20, &[5; 4096]).unwrap();
        b.close();
        assert!(b.until("null").contains("aborting BLOCK_JOB_CANCELLED"), "{command}");
        assert_eq!(b.chain(), ["top.qcow2+", "mid.qcow2", "base.qcow2"], "{command}");
        let top =
            disk::open(&b.path("top.qcow2"), Some("qcow2"), &disk::OpenFlags { share: true, ..Default::default() })
                .unwrap();
        let mut back = [0; 4096];
        top.read(3 << 20, &mut back).unwrap();
        assert_eq!(back, [5; 4096], "{command}");
        b.intact();
    }
}
