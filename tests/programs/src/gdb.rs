//! `qemu-arm -g` with Debian's gdb-multiarch: a Debian program as it is shipped, and one of our own with debug information.

use crate::Story;
use crate::stage::{Finished, Stage};
use libtest_mimic::Failed;
use std::path::{Path, PathBuf};

#[rustfmt::skip]
pub const STORIES: &[Story] = &[
    Story::core("debian_bash",          120, debian_bash),
    Story::core("files_from_the_guest", 120, files_from_the_guest),
    Story::core("lines_and_values",     120, lines_and_values),
    Story::core("registers",            120, registers),
    Story::core("threads",              120, threads),
    Story::core("every_hit_counts",     180, every_hit_counts),
    Story::core("watchpoints",          120, watchpoints),
    Story::core("software_watchpoint",  120, software_watchpoint),
    Story::core("signals",              120, signals),
    Story::core("interrupted_call",     120, interrupted_call),
    Story::core("detach_and_come_back", 120, detach_and_come_back),
    Story::core("next_program",         120, next_program),
    Story::core("parent_of_forks",      120, parent_of_forks),
    Story::core("child_is_followed",    120, child_is_followed),
    Story::core("child_executes",       120, child_executes),
    Story::core("closed_descriptors",   180, closed_descriptors),
    Story::core("native_program",       120, native_program),
    Story::core("no_debugger_no_wait",   60, no_debugger_no_wait),
];

/// Our own program, with debug information.
pub fn debugged(s: &Stage) -> Result<PathBuf, Failed> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/debugged.c");
    let program = s.work.join("debugged");
    let flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-g", "-O0", "-pthread", "-o"];
    s.host("arm-linux-gnueabihf-gcc").args(flags).arg(&program).arg(source).run()?.succeeds()?;
    Ok(program)
}

/// Runs a program under the emulator with `-g`, and GDB with each of the scripts, one after the other. Gives what GDB prints,
/// then the program's status and what it prints; the program's input comes when the file `go` is there. `{}` in the option stands for the socket.
fn session(s: &Stage, option: &str, program: &Path, args: &[&str], scripts: &[&str]) -> Result<Finished, Failed> {
    session_with(s, option, program, program, args, scripts)
}

/// As `session`, with the file that GDB is started with.
fn session_with(s: &Stage, option: &str, program: &Path, file: &Path, args: &[&str], scripts: &[&str]) -> Result<Finished, Failed> {
    let socket = s.work.join("gdb.sock").display().to_string();
    let root = s.root().display().to_string();
    let sysroot = if file == program { root.as_str() } else { "target:" };
    let mut names = Vec::new();
    for (n, script) in scripts.iter().enumerate() {
        let begin = "set pagination off\nset confirm off\nset debuginfod enabled off\nset width 0\nset remotetimeout 60\nset tcp connect-timeout 60\n";
        let text = format!("{begin}set sysroot {sysroot}\ntarget remote {socket}\n{script}\n");
        names.push(s.write(&format!("script{n}"), text)?.display().to_string());
    }
    let shell = r#"emulator=$1 root=$2 option=$3 socket=$4 scripts=$5 file=$6 program=$7; shift 7
        (until test -e go; do sleep 0.05; done; echo some input) | "$emulator" -L "$root" -g "$option" "$program" "$@" >program.out 2>program.err & pid=$!
        for i in $(seq 1000); do test -S "$socket" && break; sleep 0.05; done
        case $option in *suspend=n) for i in $(seq 1000); do test -e arrived && break; sleep 0.05; done;; esac
        for script in $scripts; do gdb-multiarch -nx -batch -x "$script" "$file" 2>&1; done
        touch go; wait $pid; echo "status $?"; cat program.out program.err"#;
    let run = s.host("sh").args(["-c", shell, "sh"]).arg(&s.setting.emulator).arg(s.root());
    run.arg(option.replace("{}", &socket)).arg(socket).arg(names.join(" ")).arg(file).arg(program).args(args).run()
}

fn debug(s: &Stage, args: &[&str], script: &str) -> Result<Finished, Failed> {
    session(s, "{}", &debugged(s)?, args, &[script])
}

/// Each of these, in this order.
fn tells(done: Finished, parts: &[&str]) -> Result<(), Failed> {
    let text = done.text();
    let mut from = 0;
    for part in parts {
        match text[from..].find(part) {
            Some(at) => from += at + part.len(),
            None => return Err(done.fail(&format!("expected, after what came before it: {part}\n--- all of it:\n{text}\n---"))),
        }
    }
    Ok(())
}

/// A stripped, dynamically linked program from the archive: its exported functions are enough to look around.
fn debian_bash(s: &Stage) -> Result<(), Failed> {
    let script = "break echo_builtin\ncontinue\nbacktrace 2\nx/2i $pc\ninfo sharedlibrary\nprint/x $cpsr & 0x1f\n\
        catch syscall exit_group\ncontinue\ninfo registers r0 r7\ncontinue";
    let bash = s.root().join("usr/bin/bash");
    let done = session(s, "{}", &bash, &["-c", "x=5; echo value $((x * 8 + 2)); exit $x"], &[script])?;
    tells(done, &[
        "Breakpoint 1, ", "in echo_builtin ()", "#0  ", "#1  ", "=> 0x", "ld-linux-armhf.so.3",
        "libc.so.6", "= 0x10", "call to syscall exit_group", "r0             0x5", "r7             0xf8",
        "exited with code 05", "status 5", "value 42",
    ])
}

/// GDB knows neither program nor libraries and asks the emulator for them.
fn files_from_the_guest(s: &Stage) -> Result<(), Failed> {
    let script = "break sum\ncontinue\ninfo sharedlibrary\nbacktrace\ncontinue";
    let file = s.write("nothing", "")?;
    let done = session_with(s, "{}", &debugged(s)?, &file, &[], &[script])?;
    tells(done, &["Breakpoint 1, sum (n=10)", "target:/", "ld-linux-armhf.so.3", "target:/", "libc.so.6", "#1  ", "in main (argc=1", "exited with code 07", "status 7"])
}

fn lines_and_values(s: &Stage) -> Result<(), Failed> {
    let script = "break main\ncontinue\nnext\nprint total\nset var total = 54\nprint total\nbreak scaled\ncontinue\nbacktrace\n\
        finish\nstepi\nnexti\nx/3i $pc\nx/s argv[0]\nprint twice(100)\n\
        delete\nprint scaled(4.0)\nlist sum\ninfo symbol sum\ncontinue";
    tells(debug(s, &[], script)?, &[
        "Breakpoint 1, main (argc=1, argv=0x", "int total = sum(10);", "double y = scaled(3.0);", "$1 = 55", "$2 = 54", "Breakpoint 2, scaled (x=3)",
        "#0  scaled (x=3)", "#1  ", "in main (argc=1, argv=0x", "Value returned is $3 = 4.5", "=> 0x", "debugged\"", "$4 = 200",
        "$5 = 6", "int sum(int n)", "sum in section .text", "exited with code 01", "status 1", "total 54, scaled 4.50",
    ])
}

/// Core, floating-point and vector registers, read and written.
fn registers(s: &Stage) -> Result<(), Failed> {
    let script = "break scaled\ncontinue\ninfo registers r0 sp lr pc cpsr fpscr\nprint $d0.f64\nprint $q0.u64\nprint $s0\nset var $d31.u64 = 0x1122334455667788\n\
        print/x $q15.u16\nset var $q8.u32[3] = 77\nprint $d17.u32\nset var $d0.f64 = 10\nset var $fpscr = 0x00c00000\nprint/x $fpscr\nset var $fpscr = 0\n\
        next\nprint x\nprint y\nset var $r0 = 0xdeadbeef\nprint/x $r0\nset var x = 8\nset var $pc = $pc\ntbreak printf\ncontinue\ninfo all-registers\ncontinue";
    tells(debug(s, &[], script)?, &[
        "Breakpoint 1, scaled", "cpsr ", "fpscr          0x0", "$1 = 3\n", "$2 = {4613937818241073152, ", "$3 = 0", "{0x", "0x7788, 0x5566, 0x3344, 0x1122}",
        "{0, 77}", "= 0xc00000", "= 3\n", "= 4.5\n", "= 0xdeadbeef", "breakpoint 2, ", "q15            {u8", "exited with code 07", "status 7",
    ])
}

fn threads(s: &Stage) -> Result<(), Failed> {
    let script = "break worker\ncontinue\ncontinue\ninfo threads\nthread apply all backtrace 1\nprint twice(4)\nset scheduler-locking on\nnext\nprint id\n\
        set scheduler-locking off\ndelete\nthread 1\ninfo registers pc\ncontinue";
    tells(debug(s, &["threads"], script)?, &[
        "[New Thread", "hit Breakpoint 1, worker (arg=", "hit Breakpoint 1, worker (arg=", "Target Id", "\n  1    Thread ", "\n* 3    Thread ", "worker (arg=",
        "Thread 3 (", "worker (arg=", "Thread 1 (", "= 8\n", "for (int i = 0; i < 3; i++)", "= 10\n", "[Switching to thread 1", "exited normally", "status 0", "counter 33",
    ])
}

/// Eight threads at one breakpoint whose condition GDB checks: 400 stops, of which 8 are shown. Children pass it unseen.
fn every_hit_counts(s: &Stage) -> Result<(), Failed> {
    let again = "continue\n".repeat(7);
    let script = format!("break twice if x == 49\ncontinue\n{again}info breakpoints\ntbreak vfork\ncontinue\nbacktrace 1\ncontinue");
    let hit = "twice (x=49)";
    tells(debug(s, &["storm"], &script)?, &[
        hit, hit, hit, hit, hit, hit, hit, hit, "breakpoint already hit 8 times", "vfork ()", "exited normally", "status 0",
        "total 19622, vforked 14",
    ])
}

/// Hardware watchpoints, in all threads, atomics included; GDB removes them to step over the access.
fn watchpoints(s: &Stage) -> Result<(), Failed> {
    let script = "break main\ncontinue\nwatch shared_counter\nrwatch scale\nawatch spin\nhbreak twice\ncontinue\nbacktrace 1\n\
        break threads\ncontinue\ncontinue\ncontinue\nbacktrace 1\ndelete\ncontinue";
    tells(debug(s, &["threads"], script)?, &[
        "Hardware watchpoint 2: shared_counter", "Hardware read watchpoint 3: scale", "watchpoint 3: scale", "Value = 1.5", "#0  ", "scaled (x=3)",
        "threads ()", "hit Hardware watchpoint 2: shared_counter", "Old value = 0", "New value = ", "hit Hardware watchpoint 2", "worker (arg=", "exited normally",
        "status 0", "counter 33",
    ])
}

/// GDB's own watchpoints step through everything.
fn software_watchpoint(s: &Stage) -> Result<(), Failed> {
    let script = "set can-use-hw-watchpoints 0\nbreak sum\ncontinue\nwatch s if s > 5\ncontinue\ncontinue\nprint i\ndelete\ncontinue";
    tells(debug(s, &[], script)?, &[
        "Watchpoint 2: s", "Old value = 3", "New value = 6", "Old value = 6", "New value = 10", "= 4\n", "exited with code 07", "status 7",
    ])
}

/// Signals stop before they are delivered, may be kept from the program, and kill it at last.
fn signals(s: &Stage) -> Result<(), Failed> {
    let script = "continue\nbacktrace 2\nbreak handler\ncontinue\nprint n\nbacktrace\ncontinue\nsignal 0\nx/i $pc\nprint $_siginfo.si_signo\nprint $_siginfo._sifields._sigfault.si_addr\ncontinue\nprint $_exitsignal";
    tells(debug(s, &["signals"], script)?, &[
        "Program received signal SIGUSR1", "#1  ", "Breakpoint 1, handler (n=10)", "= 10\n", "#1  <signal handler called>", "in signals ()",
        "Program received signal SIGUSR1", "Program received signal SIGSEGV", "signals ()", "=> 0x", "= 11\n", "= (void *) 0x10", "Program terminated with signal SIGSEGV",
        "status 139", "seen 10\nseen 0\n", "uncaught target signal 11",
    ])
}

/// In a script: GDB gets its Ctrl-C half a second after the program, which goes on, has come to where it waits.
const INTERRUPT: &str = "python\nimport threading, os, signal, time\n\
    def interrupt():\n\
    \x20   while not os.path.exists('arrived'): time.sleep(0.05)\n\
    \x20   time.sleep(0.5)\n\
    \x20   os.kill(os.getpid(), signal.SIGINT)\n\
    def going_on(event):\n\
    \x20   gdb.events.cont.disconnect(going_on)\n\
    \x20   threading.Thread(target=interrupt).start()\n\
    gdb.events.cont.connect(going_on)\nend\ncontinue\n";

/// Ctrl-C reaches a thread that waits in a system call; a function called there does not disturb the call.
fn interrupted_call(s: &Stage) -> Result<(), Failed> {
    let script = format!("{INTERRUPT}backtrace\nprint twice(33)\ninfo threads\nshell touch go\ncontinue");
    tells(debug(s, &["blocked"], &script)?, &[
        "Program received signal SIGINT", "in blocked ()", "= 66\n", "exited normally", "status 0", "total 55, scaled 4.50\nread 11: some input\n",
    ])
}

/// With `suspend=n` the program runs at once; debuggers come and go, breakpoints go with them.
fn detach_and_come_back(s: &Stage) -> Result<(), Failed> {
    let first = "backtrace 1\nbreak twice\nprint spin\ndetach";
    let second = format!("{INTERRUPT}backtrace 1\nset var spin = 0\nprint spin\ncontinue");
    let done = session(s, "{},suspend=n", &debugged(s)?, &["loops"], &[first, &second])?;
    tells(done, &[
        "in loops ()", "= 1\n", "detached]", "Program received signal SIGINT", "in loops ()", "= 0\n", "exited with code 05", "status 5",
        "total 55, scaled 4.50\nleft the loop\n",
    ])
}

/// The debugger goes along into the next program of the process, threads or not, whose files it finds.
fn next_program(s: &Stage) -> Result<(), Failed> {
    let bash = s.root().join("usr/bin/bash");
    let echo = s.root().join("usr/bin/echo").display().to_string();
    let script = "catch exec\ncontinue\ninfo inferiors\nbreak exit\ncontinue\nbacktrace 1\ncontinue";
    let done = session(s, "{}", &bash, &["-c", &format!("x=$({echo} aside); exec {echo} $x from the next")], &[script])?;
    tells(done, &[
        "Detaching after fork from child", "is executing new program: ", "/usr/bin/echo", "Catchpoint 1 (exec'd ", "/usr/bin/echo",
        "Breakpoint 2", "exit (", "exited normally", "status 0", "aside from the next",
    ])?;
    let python = s.root().join("usr/bin/python3");
    let program = format!("import os, threading, time\nthreading.Thread(target=lambda: os.execv('{echo}', ['echo', 'from a thread'])).start()\ntime.sleep(60)");
    let done = session(s, "{}", &python, &["-c", &program], &["catch exec\ncontinue\ninfo threads\ncontinue"])?;
    tells(done, &["Catchpoint 1 (exec'd ", "* 1    Thread ", "exited normally", "status 0", "from a thread"])
}

/// GDB stays with the parent, as it does unless told otherwise; breakpoints are the parent's.
fn parent_of_forks(s: &Stage) -> Result<(), Failed> {
    let script = "catch fork\nbreak sum\ncontinue\ncontinue\ninfo inferiors\nprint twice(4)\ncontinue\ncontinue\ncontinue";
    tells(debug(s, &["family"], script)?, &[
        "Breakpoint 2, sum (n=10)", "Catchpoint 1 (forked process ", "* 1    process ", "Detaching after fork from child", "= 8\n",
        "Catchpoint 1 (forked process ", "Detaching after fork from child", "Breakpoint 2, sum (n=2)", "exited with code 03", "status 3",
        "child 36\n", "leaf 45\n",
    ])
}

/// GDB goes with the child, which has the breakpoints; the parent runs on undebugged.
fn child_is_followed(s: &Stage) -> Result<(), Failed> {
    let script = "set follow-fork-mode child\nbreak sum if n == 8\ncatch syscall exit_group\ncontinue\nbacktrace 2\nprint twice(n)\nstepi\nnext\n\
        print s\ninfo inferiors\ncontinue\ncontinue";
    tells(debug(s, &["family"], script)?, &[
        "fork to child", "Detaching after fork from parent", "hit Breakpoint 1, sum (n=8)", "#0  sum (n=8)", "#1  ", "in family (", "= 16\n",
        "= 0\n", "<null>", "* 2    process ", "call to syscall exit_group", "exited with code 044", "status 3", "child 36\n", "leaf 45\n",
    ])
}

/// From the child of a vfork to the program that it executes.
fn child_executes(s: &Stage) -> Result<(), Failed> {
    let script = "catch fork\ncontinue\ncontinue\ndelete\nset follow-fork-mode child\ncatch exec\ncontinue\nbreak sum\ncontinue\ncontinue\ndetach";
    tells(debug(s, &["family"], script)?, &[
        "Catchpoint 1 (forked process ", "Catchpoint 1 (forked process ", "fork to child", "is executing new program: ", "Catchpoint 2 (exec'd ",
        "sum (n=10)", "sum (n=9)", "detached]", "status 3", "child 36\n", "leaf 45\n",
    ])
}

/// Python closes all descriptors in children, as it thinks.
fn closed_descriptors(s: &Stage) -> Result<(), Failed> {
    let python = s.root().join("usr/bin/python3");
    let sort = s.root().join("usr/bin/sort").display().to_string();
    let program = format!("import subprocess\nprint(subprocess.run(['{sort}', '-r'], input=b'a\\nb\\n', capture_output=True).stdout)");
    let script = "set follow-fork-mode child\ncatch exec\ncontinue\ncontinue";
    tells(session(s, "{}", &python, &["-c", &program], &[script])?, &[
        "fork to child", "Catchpoint 1 (exec'd ", "/usr/bin/sort", "exited normally", "status 0", r"b'b\na\n'",
    ])
}

/// A program for the host runs without the debugger, and somebody says so.
fn native_program(s: &Stage) -> Result<(), Failed> {
    let dash = s.root().join("usr/bin/dash");
    let native = s.setting.emulator.display();
    let done = session(s, "{}", &dash, &["-c", &format!("exec {native} -version")], &["continue"])?;
    tells(done, &["Remote connection closed", "status 0", "qemu-arm version", "qemu-arm: the debugger does not follow the execution of ", "; to debug it, start it with -g"])
}

fn no_debugger_no_wait(s: &Stage) -> Result<(), Failed> {
    let program = debugged(s)?;
    let socket = format!("{}/s-%d.sock,suspend=n", s.work.display());
    s.guest_with(&["-g", &socket], &program).arg("threads").run()?.succeeds()?.prints("total 55, scaled 4.50\ncounter 33\n")?;
    s.guest_with(&["-g", "70000"], &program).run()?.exits(1)?;
    s.guest_with(&["-g", "/nowhere/s.sock"], &program).run()?.exits(1)?;
    Ok(())
}
