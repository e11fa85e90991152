//! Shells and their tools: BusyBox, bash, dash; every child is an ARM program and runs under the same emulator.

use crate::Story;
use crate::stage::Stage;
use libtest_mimic::Failed;

#[rustfmt::skip]
pub const STORIES: &[Story] = &[
    Story::core("hello",                   20, hello),
    Story::core("busybox_applets",        120, busybox_applets),
    Story::core("busybox_shell",           60, busybox_shell),
    Story::core("children_are_arm",        30, children_are_arm),
    Story::core("scripts_with_hashbang",   30, scripts_with_hashbang),
    Story::core("native_children",         30, native_children),
    Story::core("missing_program",         30, missing_program),
    Story::core("bash_language",           60, bash_language),
    Story::core("bash_pipes",              60, bash_pipes),
    Story::core("bash_job_control",        60, bash_job_control),
    Story::core("bash_traps_and_signals",  60, bash_traps_and_signals),
    Story::core("bash_coprocess",          60, bash_coprocess),
    Story::core("bash_loop_of_processes", 120, bash_loop_of_processes),
    Story::core("dash_script",             30, dash_script),
    Story::core("fatal_signals_are_ours",  60, fatal_signals_are_ours),
    Story::core("terminal_of_its_own",     60, terminal_of_its_own),
];

fn hello(s: &Stage) -> Result<(), Failed> {
    s.guest("usr/bin/hello").run()?.succeeds()?.prints("Hello, world!\n")?;
    s.guest("usr/bin/hello").args(["-g", "good morning"]).run()?.succeeds()?.prints("good morning\n")?;
    let done = s.guest("usr/bin/hello").arg("--nonsense").run()?;
    if !String::from_utf8_lossy(&done.stderr).contains("unrecognized option '--nonsense'") {
        return Err(done.fail("a complaint about the option was expected on stderr"));
    }
    Ok(())
}

/// (arguments, standard input, standard output)
#[rustfmt::skip]
const APPLETS: &[(&[&str], &str, &str)] = &[
    (&["echo", "-e", "a\\tb"], "", "a\tb\n"),
    (&["cat", "-n"], "x\ny\n", "     1\tx\n     2\ty\n"),
    (&["wc"], "one two\nthree\n", "        2         3        14\n"),
    (&["sort", "-n"], "10\n9\n-1\n", "-1\n9\n10\n"),
    (&["sort", "-ru"], "b\na\nb\n", "b\na\n"),
    (&["uniq", "-c"], "a\na\nb\n", "      2 a\n      1 b\n"),
    (&["head", "-n1"], "1\n2\n", "1\n"),
    (&["tail", "-n", "+2"], "1\n2\n3\n", "2\n3\n"),
    (&["tac"], "1\n2\n3\n", "3\n2\n1\n"),
    (&["rev"], "abc\n", "cba\n"),
    (&["tr", "a-z", "A-Z"], "hello\n", "HELLO\n"),
    (&["cut", "-d:", "-f2,3"], "a:b:c:d\n", "b:c\n"),
    (&["sed", "-E", "s/([a-z]+) ([a-z]+)/\\2 \\1/;2d"], "one two\nthree four\n", "two one\n"),
    (&["awk", "{ s += $1 * 1.5 } END { printf \"%.3f %d\\n\", s, NR }"], "1\n2\n3.25\n", "9.375 3\n"),
    (&["awk", "BEGIN { x = 2; for (i = 0; i < 20; i++) x = (x + 2 / x) / 2; printf \"%.12f %d\\n\", x, 1e9 * 2 }"], "", "1.414213562373 2000000000\n"),
    (&["grep", "-c", "a.c"], "abc\nxyz\na-c\n", "2\n"),
    (&["expr", "6", "*", "7"], "", "42\n"),
    (&["seq", "-s,", "1", "5"], "", "1,2,3,4,5\n"),
    (&["factor", "4294967291", "600851475143"], "", "4294967291: 4294967291\n600851475143: 71 839 1471 6857\n"),
    (&["md5sum"], "abc", "900150983cd24fb0d6963f7d28e17f72  -\n"),
    (&["sha1sum"], "abc", "a9993e364706816aba3e25717850c26c9cd0d89d  -\n"),
    (&["sha256sum"], "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  -\n"),
    (&["sha3sum", "-a", "256"], "abc", "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532  -\n"),
    (&["base64"], "hello world", "aGVsbG8gd29ybGQ=\n"),
    (&["base64", "-d"], "aGVsbG8gd29ybGQ=\n", "hello world"),
    (&["od", "-An", "-tx1"], "\u{1}AZ", " 01 41 5a\n"),
    (&["hexdump", "-C"], "0123456789abcdef", "00000000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  |0123456789abcdef|\n00000010\n"),
    (&["xxd", "-p"], "rhea", "72686561\n"),
    (&["printf", "%08.3f|%x|%o|%c|%s\\n", "3.14159", "255", "8", "z", "s"], "", "0003.142|ff|10|z|s\n"),
    (&["basename", "/a/b/c.txt", ".txt"], "", "c\n"),
    (&["dirname", "/a/b/c.txt"], "", "/a/b\n"),
    (&["date", "-u", "-d", "@1700000000", "+%F %T"], "", "2023-11-14 22:13:20\n"),
    (&["cal", "2", "2024"], "", "   February 2024\nSu Mo Tu We Th Fr Sa\n             1  2  3\n 4  5  6  7  8  9 10\n11 12 13 14 15 16 17\n18 19 20 21 22 23 24\n25 26 27 28 29\n                     \n"),
    (&["bc"], "scale=20; 1/7\nscale=0; 2^100\n", ".14285714285714285714\n1267650600228229401496703205376\n"),
    (&["dc", "-e", "2 64 ^ p"], "", "18446744073709551616\n"),
    (&["fold", "-w", "3"], "abcdefg\n", "abc\ndef\ng\n"),
    (&["expand", "-t", "4"], "a\tb\n", "a   b\n"),
    (&["nl"], "a\nb\n", "     1\ta\n     2\tb\n"),
    (&["strings"], "\u{1}\u{2}visible\u{3}", "visible\n"),
    (&["xargs", "-n", "2", "echo", "-"], "1 2 3\n", "- 1 2\n- 3\n"),
    (&["uname", "-m"], "", "armv7l\n"),
    (&["tee", "copy"], "both\n", "both\n"),
    (&["cat", "copy"], "", "both\n"),
    (&["stat", "-c", "%s %F", "copy"], "", "5 regular file\n"),
    (&["mkdir", "-p", "d/e/f"], "", ""),
    (&["find", "d", "-type", "d"], "", "d\nd/e\nd/e/f\n"),
    (&["ln", "-s", "copy", "link"], "", ""),
    (&["readlink", "link"], "", "copy\n"),
    (&["rm", "-r", "d"], "", ""),
    (&["env", "-i", "A=1", "env"], "", "A=1\n"),
    (&["yes", "--help"], "", ""),
    (&["true"], "", ""),
];

fn busybox_applets(s: &Stage) -> Result<(), Failed> {
    for (arguments, input, output) in APPLETS {
        let done = s.guest("usr/bin/busybox").args(*arguments).input(*input).run()?.succeeds()?;
        match arguments[0] {
            "yes" => {}
            _ => {
                done.prints(output)?;
            }
        }
    }
    s.guest("usr/bin/busybox").arg("false").run()?.exits(1)?;
    s.guest("usr/bin/busybox").arg("nosuchapplet").run()?.exits(127)?;
    Ok(())
}

const BUSYBOX_SHELL: &str = r#"
i=0; while [ $i -lt 200 ]; do i=$((i+1)); done; echo $i
seq 1 1000 | awk '{s+=$1} END {print s}'
(echo c; echo a; echo b) | sort | tr '\n' ' '; echo
mkdir t; for f in 1 2 3; do echo file $f > t/$f; done
tar cf - t | gzip | gunzip | tar tf - | sort
find t -type f | cpio -o -H newc 2>/dev/null | cpio -t 2>/dev/null | sort
cat <<END | sed 's/x/y/g'
xxx
END
f() { local v=$1; [ $v -le 1 ] && { echo 1; return; }; echo $(( v * $(f $((v-1))) )); }
f 6
sleep 0.1 & wait $!; echo waited $?
timeout -s KILL 1 sleep 5 2>/dev/null; echo killed $?
diff t/1 t/2; echo diff $?
"#;

fn busybox_shell(s: &Stage) -> Result<(), Failed> {
    let expected = "200\n500500\na b c \nt/\nt/1\nt/2\nt/3\nt/1\nt/2\nt/3\nyyy\n720\nwaited 0\nkilled 137\n\
                    --- t/1\n+++ t/2\n@@ -1 +1 @@\n-file 1\n+file 2\ndiff 1\n";
    s.guest("usr/bin/busybox").args(["sh", "-c", BUSYBOX_SHELL]).run()?.succeeds()?.prints(expected)?;
    Ok(())
}

/// Without binfmt, only the emulator itself can make the child see an ARM machine.
fn children_are_arm(s: &Stage) -> Result<(), Failed> {
    let script = "uname -m; bash -c 'uname -m; env uname -m'; find . -maxdepth 0 -exec uname -m ';'; echo x | xargs -I{} uname -m";
    s.guest("usr/bin/bash").args(["-c", script]).run()?.succeeds()?.prints(&"armv7l\n".repeat(5))?;
    Ok(())
}

fn scripts_with_hashbang(s: &Stage) -> Result<(), Failed> {
    let bin = s.root().join("usr/bin").display().to_string();
    s.write("inner", format!("#!{bin}/bash\necho inner $# \"$1\" $(uname -m)\nexit 5\n"))?;
    s.write("outer", format!("#!{bin}/dash -e\necho outer ${{0##*/}}\n./inner 'a b' || echo status $?\n"))?;
    s.write("py", format!("#!{bin}/env python3\nimport os; print(os.uname().machine)\n"))?;
    let script = "chmod +x inner outer py; ./outer; ./py";
    s.guest("usr/bin/bash").args(["-c", script]).run()?.succeeds()?.prints("outer outer\ninner 1 a b armv7l\nstatus 5\narmv7l\n")?;
    Ok(())
}

/// A program of the host's architecture runs natively, from an ARM shell.
fn native_children(s: &Stage) -> Result<(), Failed> {
    let native = s.host("/bin/uname").arg("-m").run()?.succeeds()?.text();
    let copy = s.work.join("native-uname");
    std::fs::copy("/bin/uname", &copy)?;
    let done = s.guest("usr/bin/bash").args(["-c", "./native-uname -m; uname -m"]).run()?.succeeds()?;
    done.prints(&format!("{native}armv7l\n"))?;
    Ok(())
}

/// bash runs a text file without `#!` itself, and names a missing program and one that is not executable.
fn missing_program(s: &Stage) -> Result<(), Failed> {
    let script = "./nosuch 2>/dev/null; echo $?; touch plain; ./plain 2>/dev/null; echo $?; \
                  printf 'garbage\\001\\002' > g; chmod +x g; ./g 2>/dev/null; echo $(($? != 0)); \
                  echo 'echo no hashbang $BASH_VERSINFO' > t; chmod +x t; ./t; exec 2>/dev/null; nosuch; echo $?";
    s.guest("usr/bin/bash").args(["-c", script]).run()?.succeeds()?.prints("127\n126\n1\nno hashbang 5\n127\n")?;
    Ok(())
}

const BASH_LANGUAGE: &str = r#"
declare -A m=([one]=1 [two]=2 [three]=3); for k in $(printf '%s\n' "${!m[@]}" | sort); do echo $k=${m[$k]}; done
a=(5 3 9 1); IFS=$'\n' s=($(sort -n <<<"${a[*]}")); unset IFS; echo "${s[*]}" ${#a[@]}
x=abcdef; echo ${x:2:3} ${x/cd/XY} ${x^^} ${x#a} ${x%f} ${#x}
echo $(( (1<<40) + 7*6 - 0x10 % 7 )) $((-7/2)) $((2**62))
[[ foo123 =~ ^([a-z]+)([0-9]+)$ ]] && echo ${BASH_REMATCH[1]} ${BASH_REMATCH[2]}
printf '%5.2f|%-6s|%06d|%q\n' 3.14159 ab 42 'a b'
fib() { (( $1 < 2 )) && { echo $1; return; }; echo $(( $(fib $(($1-1))) + $(fib $(($1-2))) )); }; fib 7
case hello in h*o) echo match;; *) echo no;; esac
for ((i=0;i<3;i++)); do printf $i; done; echo
select_me() { local -n ref=$1; ref=changed; }; v=old; select_me v; echo $v
echo {a..e} {1..10..3} | tr ' ' ,
set -- p q r; shift; echo $1 $#
( exit 3 ) ; echo $?
diff <(seq 3) <(seq 4) | tail -n1
mapfile -t lines < <(printf 'l1\nl2\n'); echo ${#lines[@]} ${lines[1]}
trap 'echo bye' EXIT
"#;

fn bash_language(s: &Stage) -> Result<(), Failed> {
    let expected = "one=1\nthree=3\ntwo=2\n1 3 5 9 4\ncde abXYef ABCDEF bcdef abcde 6\n1099511627816 -3 4611686018427387904\n\
                    foo 123\n 3.14|ab    |000042|a\\ b\n13\nmatch\n012\nchanged\na,b,c,d,e,1,4,7,10\nq 2\n3\n> 4\n2 l2\nbye\n";
    s.guest("usr/bin/bash").args(["-c", BASH_LANGUAGE]).run()?.succeeds()?.prints(expected)?;
    Ok(())
}

const BASH_PIPES: &str = r#"
seq 1 20000 | sort -R --random-source=/dev/zero | sort -n | tail -n1
seq 1 5000 | sed 's/^/n/' | grep 7 | wc -l
yes | head -n 100000 | wc -c
head -c 3000000 /dev/zero | tr '\0' 'x' | md5sum | cut -c1-32
set -o pipefail; false | true; echo $?; true | false | true; echo "${PIPESTATUS[@]}"
mkfifo p; (for i in 1 2 3; do echo line $i; done > p) & cat p; wait
exec 3<>p; echo through >&3; read -u 3 got; echo $got; exec 3>&-
{ echo out; echo err >&2; } 2>&1 >/dev/null | cat
echo done | tee >(cat > copy) >/dev/null; for i in {1..300}; do [ -s copy ] && break; sleep 0.1; done; cat copy
"#;

fn bash_pipes(s: &Stage) -> Result<(), Failed> {
    let sum = s.host("sh").args(["-c", "head -c 3000000 /dev/zero | tr '\\0' x | md5sum | cut -c1-32"]).run()?.succeeds()?.text();
    let sevens = (1..=5000).filter(|n: &u32| n.to_string().contains('7')).count();
    let expected = format!("20000\n{sevens}\n200000\n{sum}1\n0 1 0\nline 1\nline 2\nline 3\nthrough\nerr\ndone\n");
    s.guest("usr/bin/bash").args(["-c", BASH_PIPES]).run()?.succeeds()?.prints(&expected)?;
    Ok(())
}

const BASH_JOBS: &str = r#"
set -m
sleep 30 & jobs -r | grep -c Running
kill -STOP %1; for i in {1..300}; do jobs -s > stopped; [ -s stopped ] && break; sleep 0.1; done; jobs -s | grep -c Stopped
kill -CONT %1; jobs -r | grep -c Running
kill %1; wait %1 2>/dev/null; echo status $?
(exit 7) & wait $!; echo status $?
sleep 0.2 & sleep 0.1 & wait -n; echo first $?; wait; echo all $?
{ for i in 1 2 3; do (sleep 0.$i; echo job $i) & done; wait; } | sort
"#;

fn bash_job_control(s: &Stage) -> Result<(), Failed> {
    let expected = "1\n1\n1\nstatus 143\nstatus 7\nfirst 0\nall 0\njob 1\njob 2\njob 3\n";
    s.guest("usr/bin/bash").args(["-c", BASH_JOBS]).run()?.succeeds()?.prints(expected)?;
    Ok(())
}

const BASH_TRAPS: &str = r#"
trap 'echo usr1' USR1; trap 'echo usr2' USR2; trap 'echo chld' RTMIN
kill -USR1 $$; kill -USR2 $$; kill -RTMIN $$
(trap 'echo term; exit 9' TERM; : > ready; while :; do sleep 0.05; done) & until [ -e ready ]; do sleep 0.05; done; kill -TERM $!; wait $!; echo $?
(trap '' INT; kill -INT $BASHPID; echo survived)
bash -c 'kill -SEGV $$' 2>/dev/null; echo $?
bash -c 'kill -KILL $$' 2>/dev/null; echo $?
trap 'echo alarm; exit 4' ALRM; (sleep 0.2; kill -ALRM $$) & while :; do read -t 0.05 < /dev/tcp/nowhere 2>/dev/null; sleep 0.05; done
"#;

fn bash_traps_and_signals(s: &Stage) -> Result<(), Failed> {
    let expected = "usr1\nusr2\nchld\nterm\n9\nsurvived\n139\n137\nalarm\n";
    s.guest("usr/bin/bash").args(["-c", BASH_TRAPS]).run()?.exits(4)?.prints(expected)?;
    Ok(())
}

fn bash_coprocess(s: &Stage) -> Result<(), Failed> {
    let script = "coproc SED { sed -u 's/a/b/g'; }; for w in banana cat; do echo $w >&${SED[1]}; read -u ${SED[0]} r; echo $r; done; \
                  exec {SED[1]}>&-; wait $SED_PID; echo $?";
    s.guest("usr/bin/bash").args(["-c", script]).run()?.succeeds()?.prints("bbnbnb\ncbt\n0\n")?;
    Ok(())
}

fn bash_loop_of_processes(s: &Stage) -> Result<(), Failed> {
    let script = "n=0; for i in {1..300}; do /bin/true && v=$(echo $i) && n=$((n+v)); done; echo $n; for i in {1..60}; do uname -m; done | uniq -c";
    let done = s.guest("usr/bin/bash").args(["-c", script]).run()?.succeeds()?;
    done.prints("45150\n     60 armv7l\n")?;
    Ok(())
}

fn dash_script(s: &Stage) -> Result<(), Failed> {
    let script = "set -e; x=$(printf '%s' abc | wc -c); [ $x -eq 3 ]; i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done; echo $i; \
                  echo a b c | while read p q r; do echo $r$q$p; done; : ${v:=default}; echo $v; trap 'echo end' EXIT; umask 027; umask";
    s.guest("usr/bin/dash").args(["-c", script]).run()?.succeeds()?.prints("1000\ncba\ndefault\n0027\nend\n")?;
    Ok(())
}

/// A guest that dies of a signal: the emulator itself dies of that signal, so that callers see it.
fn fatal_signals_are_ours(s: &Stage) -> Result<(), Failed> {
    for (name, number) in [("SEGV", 11), ("ABRT", 6), ("TERM", 15), ("KILL", 9), ("FPE", 8)] {
        s.guest("usr/bin/bash").args(["-c", &format!("ulimit -c 0; kill -{name} $$")]).run()?.dies_of(number)?;
    }
    s.guest("usr/bin/bash").args(["-c", "exit 200"]).run()?.exits(200)?;
    Ok(())
}

/// A shell on a pseudo-terminal: sessions, window size, job control with a controlling terminal.
fn terminal_of_its_own(s: &Stage) -> Result<(), Failed> {
    let python = "import pty, os, sys\n\
                  pid, fd = pty.fork()\n\
                  if pid == 0: os.execvp('bash', ['bash', '-c', 'test -t 0 && echo tty; stty size; set -m; sleep 0.1 & fg %1; echo $?; ps -o tty= -p $$ | grep -c pts'])\n\
                  import fcntl, termios, struct\n\
                  out = b''\n\
                  while True:\n\
                  \x20   try: data = os.read(fd, 1000)\n\
                  \x20   except OSError: break\n\
                  \x20   if not data: break\n\
                  \x20   out += data\n\
                  _, status = os.waitpid(pid, 0)\n\
                  print(out.decode().replace('\\r', ''), end=''); print(os.waitstatus_to_exitcode(status))\n";
    s.guest("usr/bin/python3").args(["-c", python]).run()?.succeeds()?.prints("tty\n0 0\nsleep 0.1\n0\n1\n0\n")?;
    Ok(())
}
