//! Disks that change under a running guest: a backup of a moment, a snapshot and its commit, a mirror that takes over, while
//! Debian's kernel writes files all the time. What is left is read by the installed tools.

use crate::console::{Kernel, Machine, Setting};
use crate::debian::{Scratch, host};
use crate::{Story, check, contains, core};
use libtest_mimic::Failed;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

pub const STORIES: &[Story] = &[core("block jobs under a guest that writes", under_a_writer)];

/// Writes eight files again and again until it is told to stop, and then their sums.
const WRITE: &str = "{ (n=0; while [ ! -e /stop ]; do n=$((n+1)); dd if=/dev/urandom of=/mnt/f$((n%8)) bs=4k count=97 2>/dev/null; sync; done; \
                     cd /mnt; md5sum f? >sums; sync; cd /) & }";
/// A job on a loaded machine takes no longer.
const PATIENCE: Duration = Duration::from_secs(180);

/// A program at the machine's monitor.
struct Program {
    lines: BufReader<UnixStream>,
    /// What came before the answer to a command, and was not waited for yet: a short job is over by then.
    events: VecDeque<String>,
}

impl Program {
    fn connect(socket: &Scratch) -> Result<Program, Failed> {
        let stream = UnixStream::connect(&socket.0)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut program = Program { lines: BufReader::new(stream), events: VecDeque::new() };
        program.wait("\"QMP\"")?;
        program.ask("qmp_capabilities", "")?;
        Ok(program)
    }

    /// The next line that the monitor writes. `text` is what it is hoped to have.
    fn line(&mut self, text: &str) -> Result<String, Failed> {
        let mut line = String::new();
        match self.lines.read_line(&mut line).map_err(|e| format!("no {text}: {e}"))? {
            0 => Err(format!("no {text}, the monitor is closed").into()),
            _ => Ok(line),
        }
    }

    /// Goes on to an event that has the text.
    fn wait(&mut self, text: &str) -> Result<(), Failed> {
        loop {
            let line = match self.events.pop_front() {
                Some(line) => line,
                None => self.line(text)?,
            };
            if line.contains(text) {
                return Ok(());
            }
            check(!line.contains("\"error\""), || format!("no {text}: {line}"))?;
        }
    }

    fn ask(&mut self, command: &str, arguments: &str) -> Result<(), Failed> {
        let command = format!("{{\"execute\": \"{command}\", \"arguments\": {{{arguments}}}}}\n");
        self.lines.get_mut().write_all(command.as_bytes())?;
        loop {
            let line = self.line("answer")?;
            if line.contains("\"return\"") {
                return Ok(());
            }
            check(line.contains("\"event\""), || format!("{command}: {line}"))?;
            self.events.push_back(line);
        }
    }

    /// Waits until the job is gone.
    fn over(&mut self) -> Result<(), Failed> {
        self.wait("\"null\"")
    }
}

fn must(command: &mut Command) -> Result<String, Failed> {
    let (status, text) = host(command)?;
    check(status == Some(0), || format!("{command:?}: {status:?}\n{text}"))?;
    Ok(text)
}

fn tool(words: &[&str], files: &[&Scratch]) -> Result<String, Failed> {
    must(Command::new("/usr/bin/qemu-img").args(words).args(files.iter().map(|f| &f.0)))
}

fn under_a_writer(s: &Setting) -> Result<(), Failed> {
    let [base, top, snap, mirror, moment, copy] =
        ["base.img", "top.qcow2", "snap.qcow2", "mirror.qcow2", "moment.img", "copy.img"]
            .map(|n| Scratch::new(&format!("jobs-{n}")));
    // The name of a socket must not be long.
    let socket = Scratch(std::env::temp_dir().join(format!("boot-jobs-{}", std::process::id())));
    std::fs::File::create(&base.0)?.set_len(256 << 20)?;
    must(Command::new("mke2fs").args(["-q", "-t", "ext4", "-F"]).arg(&base.0))?;
    tool(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b"], &[&base, &top])?;
    let (drive, monitor) =
        (format!("{},id=d0", top.drive("qcow2")), format!("unix:{},server=on,wait=off", socket.0.display()));
    let mut m: Machine =
        s.debian(&s.emulator, Kernel::Lpae, &["-M", "virt", "-drive", &drive, "-qmp", &monitor], "quiet")?;
    m.wait_for("~ # ")?;
    m.run("mount -t ext4 /dev/vda /mnt; echo before >/mnt/moment; sync")?;
    m.run(WRITE)?;
    let mut q = Program::connect(&socket)?;
    let to = |file: &Scratch| format!("\"device\": \"d0\", \"sync\": \"full\", \"target\": \"{}\"", file.0.display());
    // A moment is kept while the guest goes on.
    q.ask("drive-backup", &format!("{}, \"format\": \"raw\", \"speed\": 50000000", to(&moment)))?;
    m.run("echo after >/mnt/moment; sync")?;
    q.over()?;
    // A new layer, which is written down into the old one again.
    q.ask("blockdev-snapshot-sync", &format!("\"device\": \"d0\", \"snapshot-file\": \"{}\"", snap.0.display()))?;
    m.run("sleep 1; dd if=/dev/urandom of=/mnt/big bs=64k count=100 2>/dev/null; md5sum /mnt/big >/mnt/bigsum; sync")?;
    q.ask("block-commit", &format!("\"device\": \"d0\", \"base\": \"{}\"", top.0.display()))?;
    q.wait("BLOCK_JOB_READY")?;
    q.ask("block-job-complete", "\"device\": \"d0\"")?;
    q.over()?;
    // The disk moves to another file.
    q.ask("drive-mirror", &to(&mirror))?;
    q.wait("BLOCK_JOB_READY")?;
    q.ask("block-job-complete", "\"device\": \"d0\"")?;
    q.over()?;
    let sums = m.run("touch /stop; wait; cd /mnt; md5sum -c sums; md5sum -c bigsum; cat moment; cd /")?;
    contains(&sums, "big: OK")?;
    contains(&sums, "after")?;
    m.run("umount /mnt")?;
    // A copy of what is there now, beside the disk.
    q.ask("drive-mirror", &format!("{}, \"format\": \"raw\"", to(&copy)))?;
    q.wait("BLOCK_JOB_READY")?;
    q.ask("block-job-cancel", "\"device\": \"d0\"")?;
    q.over()?;
    m.power_off()?;
    contains(&tool(&["check", "-f", "qcow2"], &[&mirror])?, "No errors")?;
    contains(&tool(&["check", "-f", "qcow2"], &[&top])?, "No errors")?;
    contains(&tool(&["compare", "-f", "qcow2", "-F", "raw"], &[&mirror, &copy])?, "identical")?;
    must(Command::new("e2fsck").arg("-fn").arg(&copy.0))?;
    // The journal of a moment is replayed first, as after a power cut; what is repaired is no error.
    let (status, text) = host(Command::new("e2fsck").arg("-fy").arg(&moment.0))?;
    check(matches!(status, Some(0 | 1)), || format!("e2fsck of the moment: {status:?}\n{text}"))?;
    contains(&must(Command::new("debugfs").args(["-R", "cat /moment"]).arg(&moment.0))?, "before")
}
