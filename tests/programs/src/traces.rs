//! What `-d` prints of translation and execution, and what `perf` is told.

use crate::Story;
use crate::gdb::debugged;
use crate::stage::Stage;
use libtest_mimic::Failed;
use std::path::Path;

#[rustfmt::skip]
pub const STORIES: &[Story] = &[
    Story::core("system_calls",  60, system_calls),
    Story::core("translation",   60, translation),
    Story::core("execution",     60, execution),
    Story::core("whole_program", 120, whole_program),
    Story::core("perf_files",    60, perf_files),
    Story::core("bad_filters",   60, bad_filters),
    Story::core("memory_map",    60, memory_map),
    Story::core("relative_names", 60, relative_names),
];

/// Lines of `-strace` as the installed QEMU prints them for the same script, but for addresses and process numbers. The
/// shell keeps its output at the first free descriptor from 10 up, and which that is depends on who started the tests.
fn system_calls(s: &Stage) -> Result<(), Failed> {
    let script = "echo hi > new; cat < new; ulimit -n 50; exit 4";
    let dash = s.root().join("usr/bin/dash");
    let mut done = s.guest_with(&["-strace"], &dash).args(["-c", script]).run()?.exits(4)?.prints("hi\n")?;
    for line in [
        " openat(AT_FDCWD,\"/etc/ld.so.cache\",O_RDONLY|O_LARGEFILE|O_CLOEXEC) = ",
        " access(\"/etc/ld.so.preload\",R_OK) = ",
        " statx(3,\"\",AT_EMPTY_PATH|AT_NO_AUTOMOUNT|AT_STATX_SYNC_AS_STAT,STATX_BASIC_STATS,0x",
        ",PROT_EXEC|PROT_READ,MAP_PRIVATE|MAP_DENYWRITE,3,0) = 0x",
        " openat(AT_FDCWD,\"new\",O_WRONLY|O_CREAT|O_LARGEFILE|O_TRUNC,0666) = 3\n",
        " fcntl64(1,F_DUPFD,10) = 1",
        ",F_SETFD,1) = 0\n",
        " rt_sigprocmask(SIG_SETMASK,[],0x",
        " = 0 (oldset=[SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGIOT SIGBUS SIGFPE SIGUSR1 SIGSEGV SIGUSR2 ",
        "/cat\",{\"cat\",NULL})\n",
        "--- SIGCHLD {si_signo=SIGCHLD, si_code=1, si_pid=",
        " wait4(-1,0x",
        " prlimit64(0,RLIMIT_NOFILE,NULL,0x",
        " ({rlim_cur=",
        " exit_group(4)\n",
    ] {
        done = done.logs(line)?;
    }
    let done =
        s.guest_with(&["-strace"], &s.root().join("usr/bin/bash")).args(["-c", "(exit 5); exit $?"]).run()?.exits(5)?;
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    let fork = text.lines().find(|l| l.contains(" clone(CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|0x11,child_stack=0x"));
    match fork {
        Some(line) if line.matches(',').count() == 4 => Ok(()),
        _ => Err(done.fail("a fork with its five arguments was expected")),
    }
}

/// Link-time address and size of the function `sum`, and the filter for it as it is loaded.
fn sum(s: &Stage, program: &Path) -> Result<(u64, String), Failed> {
    let listed = s.host("arm-linux-gnueabihf-nm").arg("-S").arg(program).run()?.succeeds()?.text();
    let line = listed.lines().find(|l| l.ends_with(" T sum")).ok_or("no function 'sum'")?;
    let words: Vec<u64> = line.split(' ').filter_map(|w| u64::from_str_radix(w, 16).ok()).collect();
    // Position-independent programs lie here.
    const BASE: u64 = 0x40_0000;
    let start = (words[0] & !1) + BASE;
    Ok((start, format!("{start:#x}+{:#x}", words[1])))
}

fn translation(s: &Stage) -> Result<(), Failed> {
    let program = debugged(s)?;
    let (start, filter) = sum(s, &program)?;
    let done = s.guest_with(&["-d", "in_asm,op,op_opt,out_asm", "-dfilter", &filter], &program).run()?.exits(7)?;
    let done = done.prints("total 55, scaled 4.50\n")?;
    let done = done
        .logs(&format!("----------------\nIN: sum\n0x{start:08x}:  b480       push     {{r7}}\n"))?
        .logs(&format!("\n\nOP:\n region key={:#x} pc={start:#x} ", start | 1))?
        .logs("\n\nOP after optimization and liveness analysis:\n region key=")?
        .logs("\n\nOUT: [size=")?
        .logs(&format!("]\n  -- guest addr 0x{start:016x} + tb prologue\n0x"))?;
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    if text.lines().any(|l| l.starts_with("IN: ") && l != "IN: sum") {
        return Err(done.fail("something outside of the filter was printed"));
    }
    let lines = |start: &str| text.lines().filter(|l| l.starts_with(start)).count();
    if [lines("IN: "), lines("OP:"), lines("OP after"), lines("OUT: ")] != [lines("IN: "); 4] {
        return Err(done.fail("the parts of the trace do not belong together"));
    }
    Ok(())
}

/// One line and one dump for each instruction that is executed.
fn execution(s: &Stage) -> Result<(), Failed> {
    let program = debugged(s)?;
    let (start, filter) = sum(s, &program)?;
    for interpret in [false, true] {
        let options = ["-one-insn-per-tb", "-d", "exec,cpu,nochain", "-dfilter", &filter];
        let run = s.guest_with(&options, &program);
        let run = if interpret { run.env("QEMU_INTERPRET", "1") } else { run };
        let done = run.run()?.exits(7)?;
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        let first = format!("[00000000/{start:016x}/00000000/00000000] sum\nR00=0000000a ");
        let done = done.logs("Trace 0: 0x")?.logs(&first)?;
        let dumps: Vec<&str> = text.lines().filter(|l| l.starts_with("PSR=")).collect();
        let traces = text.lines().filter(|l| l.starts_with("Trace ")).count();
        // The loop: ten times round, and some instructions before and behind.
        let looks_right =
            (100..250).contains(&traces) && dumps.len() == traces && dumps.iter().all(|d| d.ends_with(" T usr32"));
        if !looks_right || !text.lines().rev().take(5).any(|l| l.starts_with("R00=00000037 ")) {
            return Err(done.fail("not every instruction of the loop was traced, or the sum is missing at its end"));
        }
    }
    Ok(())
}

/// Everything about everything, into a file: the program does not notice.
fn whole_program(s: &Stage) -> Result<(), Failed> {
    let log = s.work.join("log-%d").display().to_string();
    let options = ["-D", &log, "-d", "in_asm,op,op_opt,out_asm,exec,cpu,nochain,int,unimp,page,strace"];
    let bash = s.root().join("usr/bin/bash");
    let script = "x=$(echo in a child | wc -c); echo $x; exit 4";
    s.guest_with(&options, &bash).args(["-c", script]).run()?.exits(4)?.prints("11\n")?;
    Ok(())
}

fn perf_files(s: &Stage) -> Result<(), Failed> {
    let program = debugged(s)?;
    let script = "echo $$; exec \"$@\"";
    let run = s.host("sh").args(["-c", script, "sh"]).arg(&s.setting.emulator).arg("-L").arg(s.root());
    let done = run.args(["-perfmap", "-jitdump"]).arg(&program).run()?.exits(7)?;
    let pid = done.text().lines().next().unwrap_or_default().to_string();
    let map_path = format!("/tmp/perf-{pid}.map");
    let map = std::fs::read_to_string(&map_path)?;
    std::fs::remove_file(&map_path)?;
    let has = |name: &str| map.lines().any(|l| l.split(' ').nth(2) == Some(name));
    if !has("sum")
        || !has("main")
        || !map.lines().all(|l| l.split(' ').take(2).all(|w| u64::from_str_radix(w, 16).is_ok()))
    {
        return Err(done.fail(&format!("the perf map lacks functions:\n{map}")));
    }
    let dump = std::fs::read(s.work.join(format!("jit-{pid}.dump")))?;
    let word = |at: usize| u32::from_le_bytes(dump[at..at + 4].try_into().expect("four bytes"));
    if word(0) != 0x4a69_5444 || word(8) != 40 || word(20).to_string() != pid {
        return Err(done.fail("the dump's header is wrong"));
    }
    let (mut at, mut records) = (40, 0);
    while at < dump.len() {
        if word(at) != 0 || word(at + 4) < 56 {
            return Err(done.fail(&format!("a record at {at:#x} is wrong")));
        }
        at += word(at + 4) as usize;
        records += 1;
    }
    let regions = map.lines().count();
    if at == dump.len() && records == regions {
        Ok(())
    } else {
        Err(done.fail(&format!("{records} records for {regions} regions")))
    }
}

/// `-d page`: the map when the program is loaded, where things are, and the map again after each mapping.
fn memory_map(s: &Stage) -> Result<(), Failed> {
    let done = s.guest_with(&["-d", "page"], &debugged(s)?).run()?.exits(7)?;
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    let begin = "guest_base  0x";
    let head =
        "page layout changed following binary load\nstart    end      size     prot\n00400000-00401000 00001000 r-x\n";
    let inner = [
        "\nffff0000-ffff1000 00001000 r-x\nend_code    0x00400",
        "\nstart_code  0x00400000\n",
        "\nstart_stack 0xef",
        "\nentry       0xe7",
        "\nauxv_start  0xef",
    ];
    let again = text.matches("page layout changed following mmap\nstart    end      size     prot\n").count();
    if !text.starts_with(begin) || !text.contains(head) || again < 3 || inner.iter().any(|part| !text.contains(part)) {
        return Err(done.fail("the memory map does not look as expected"));
    }
    Ok(())
}

fn bad_filters(s: &Stage) -> Result<(), Failed> {
    for (filter, sentence) in
        [("foo", "Bad range specifier"), ("5+", "Invalid number to the right of +"), ("10..5", "Invalid range")]
    {
        let done = s.guest_with(&["-dfilter", filter], Path::new("nothing")).run()?.exits(1)?;
        done.logs(&format!("qemu-arm: {sentence}\n"))?;
    }
    Ok(())
}

/// A prefix and a log that are named from where the emulator was started, and a prefix that is a link, mean the same to
/// children that begin elsewhere; what a family of programs logs is in one file, nothing overwritten.
fn relative_names(s: &Stage) -> Result<(), Failed> {
    std::os::unix::fs::symlink(s.root(), s.work.join("root"))?;
    let script = "cd tmp; uname -m; for i in 1 2 3; do uname -m; done & wait; exec uname -m";
    let run = s.host(&s.setting.emulator).args(["-L", "root", "-D", "log", "-strace", "root/usr/bin/bash", "-c", script]);
    run.env("PATH", "/usr/bin").run()?.succeeds()?.prints(&"armv7l\n".repeat(5))?;
    let log = std::fs::read(s.work.join("log"))?;
    let text = String::from_utf8_lossy(&log);
    let ends = text.matches(" exit_group(0)\n").count();
    // Four programs that ended by themselves, the shell of the loop, and the shell's place taken by the last.
    if ends != 6 || log.contains(&0) {
        return Err(format!("{ends} ends of programs are logged, {} bytes are zero", log.iter().filter(|b| **b == 0).count()).into());
    }
    Ok(())
}
