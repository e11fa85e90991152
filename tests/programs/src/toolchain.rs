//! The large programs: git, gcc, make, node, Go, Java. `cargo xtask test --full`.

use crate::Story;
use crate::stage::Stage;
use libtest_mimic::Failed;

#[rustfmt::skip]
pub const STORIES: &[Story] = &[
    Story::full("git_clone",     300, git_clone),
    Story::full("gcc_hello",     300, gcc_hello),
    Story::full("make_library",  600, make_library),
    Story::full("node_script",   300, node_script),
    Story::full("node_workers",  300, node_workers),
    Story::full("go_program",    120, go_program),
    Story::full("go_build",     1200, go_build),
    Story::full("java_version",  300, java_version),
    Story::full("java_hello",    600, java_hello),
];

fn git_clone(s: &Stage) -> Result<(), Failed> {
    let exec = s.root().join("usr/lib/git-core").display().to_string();
    let script = "set -e; git init -q -b main origin; cd origin; git config user.name n; git config user.email n@e; \
        for i in 1 2 3 4 5; do seq $i 500 > f$i; git add f$i; git commit -q -m \"commit $i\"; done; git tag v1; cd ..; \
        git clone -q origin copy; cd copy; git log --format=%s; git fsck --full 2>&1 | grep -v '^Checking' || true; git rev-list --count HEAD; \
        git checkout -q -b side HEAD~2; git rebase -q main 2>&1; git gc -q; git diff --stat HEAD~1 | tail -n1; git describe --tags; \
        git clone -q --no-local file://$PWD/../origin over; git -C over rev-parse --abbrev-ref HEAD; uname -m";
    let expected = "commit 5\ncommit 4\ncommit 3\ncommit 2\ncommit 1\n5\n 1 file changed, 496 insertions(+)\nv1\nmain\narmv7l\n";
    let run = s.guest("usr/bin/bash").args(["-c", script]).env("GIT_EXEC_PATH", exec).env("GIT_CONFIG_NOSYSTEM", "1");
    run.env("GIT_TEMPLATE_DIR", "").run()?.succeeds()?.prints(expected)?;
    Ok(())
}

/// The compiler finds its parts through the root, as it would on an ARM machine.
fn gcc(s: &Stage) -> String {
    let root = s.root().display();
    let libraries = format!("{root}/usr/lib/arm-linux-gnueabihf");
    format!("gcc --sysroot={root} -B{libraries}/ -B{root}/usr/lib/gcc/arm-linux-gnueabihf/12/ -L{libraries}")
}

const HELLO_C: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <math.h>
#include <string.h>
static int compare(const void *a, const void *b) { return strcmp(*(char **)a, *(char **)b); }
int main(int argc, char **argv) {
    double s = 0;
    for (int i = 1; i <= 1000; i++) s += sqrt(i) / (i + 1);
    char *words[] = { "pear", "apple", "fig" };
    qsort(words, 3, sizeof *words, compare);
    printf("hello from ARM %zu %s %.6f %d\n", sizeof(void *), words[0], s, argc);
    return argc == 2 ? atoi(argv[1]) : 0;
}
"#;

fn gcc_hello(s: &Stage) -> Result<(), Failed> {
    s.write("hello.c", HELLO_C)?;
    let sum: f64 = (1..=1000).map(|i| f64::from(i).sqrt() / f64::from(i + 1)).sum();
    let script = format!(
        "set -e; for o in -O0 -O2 '-O3 -mthumb' -Os; do {} $o -o hello hello.c -lm; ./hello; done; ./hello 7 || echo status $?; \
         echo 'int main(void) {{ return x; }}' > bad.c; {} -c bad.c 2>/dev/null || echo refused",
        gcc(s),
        gcc(s)
    );
    let line = format!("hello from ARM 4 apple {sum:.6} 1\n");
    let expected = line.repeat(4) + &line.replace(" 1\n", " 2\n") + "status 7\nrefused\n";
    s.guest("usr/bin/bash").args(["-c", &script]).run()?.succeeds()?.prints(&expected)?;
    Ok(())
}

fn make_library(s: &Stage) -> Result<(), Failed> {
    let mut makefile = format!("CC = {}\nCFLAGS = -O1 -fPIC\nobjects =", gcc(s));
    for i in 0..12 {
        s.write(&format!("f{i}.c"), format!("int f{i}(int x) {{ int s = {i}; for (int k = 0; k < x; k++) s += k ^ {i}; return s; }}\n"))?;
        makefile += &format!(" f{i}.o");
    }
    makefile += "\nall: main\nlibf.so: $(objects)\n\t$(CC) -shared -o $@ $^\nmain: main.c libf.so\n\t$(CC) -o $@ main.c -L. -lf -Wl,-rpath,$(CURDIR)\n";
    s.write("Makefile", makefile)?;
    s.write("main.c", "#include <stdio.h>\nint f3(int), f11(int);\nint main(void) { printf(\"%d %d\\n\", f3(10), f11(5)); return 0; }\n")?;
    let expected = [(3, 10), (11, 5)].map(|(i, x)| (0..x).fold(i, |s, k| s + (k ^ i)));
    let script = "make -s -j3 SHELL=$(type -p dash) && ./main && make -q SHELL=$(type -p dash) && echo fresh";
    let done = s.guest("usr/bin/bash").args(["-c", script]).run()?.succeeds()?;
    done.prints(&format!("{} {}\nfresh\n", expected[0], expected[1]))?;
    Ok(())
}

fn node_script(s: &Stage) -> Result<(), Failed> {
    let script = "const crypto = require('crypto'), zlib = require('zlib'), os = require('os'), cp = require('child_process'); \
        console.log(process.arch, os.machine ? os.machine() : 'armv7l', 2n ** 100n, [3, 1, 2].sort(), Math.hypot(3, 4)); \
        console.log(crypto.createHash('sha256').update('abc').digest('hex').slice(0, 16), zlib.gunzipSync(zlib.gzipSync('packed')).toString()); \
        let s = 0; for (let i = 0; i < 3e6; i++) s = (s * 31 + i) | 0; console.log(s); \
        const f = new Float64Array(1000).map((_, i) => Math.sqrt(i)); console.log(f.reduce((a, b) => a + b).toFixed(6)); \
        console.log(cp.execFileSync('uname', ['-m']).toString().trim()); \
        (async () => { for await (const x of (async function* () { yield 1; yield 2 })()) console.log(x); setTimeout(() => console.log('later'), 20) })();";
    let sum = (0..3_000_000i32).fold(0i32, |s, i| s.wrapping_mul(31).wrapping_add(i));
    let roots: f64 = (0..1000).map(|i| f64::from(i).sqrt()).sum();
    let expected = format!(
        "arm armv7l 1267650600228229401496703205376n [ 1, 2, 3 ] 5\nba7816bf8f01cfea packed\n{sum}\n{roots:.6}\narmv7l\n1\n2\nlater\n"
    );
    s.guest("usr/bin/node").args(["-e", script]).run()?.succeeds()?.prints(&expected)?;
    Ok(())
}

fn node_workers(s: &Stage) -> Result<(), Failed> {
    let script = "const { Worker, isMainThread, workerData, parentPort } = require('worker_threads');\n\
        if (isMainThread) {\n\
        \x20 const shared = new Int32Array(new SharedArrayBuffer(4)); let left = 4;\n\
        \x20 for (let i = 0; i < 4; i++) new Worker(__filename, { workerData: shared }).on('exit', () => { if (--left === 0) console.log(shared[0]); });\n\
        } else { for (let i = 0; i < 20000; i++) Atomics.add(workerData, 0, 1); }\n";
    let file = s.write("workers.js", script)?;
    s.guest("usr/bin/node").arg(file).run()?.succeeds()?.prints("80000\n")?;
    Ok(())
}

/// gron, a Go program: goroutines, the Go scheduler's signals, its garbage collector.
fn go_program(s: &Stage) -> Result<(), Failed> {
    let done = s.guest("usr/bin/gron").input("{\"b\": [1, {\"c\": null}], \"a\": 2.5}").run()?.succeeds()?;
    done.prints("json = {};\njson.a = 2.5;\njson.b = [];\njson.b[0] = 1;\njson.b[1] = {};\njson.b[1].c = null;\n")?;
    let rows: Vec<String> = (0..20_000).map(|i| format!("{{\"n\":{i}}}")).collect();
    let done = s.guest("usr/bin/gron").input(format!("[{}]", rows.join(","))).run()?.succeeds()?;
    let lines = done.text().lines().count();
    if lines == 40_001 { Ok(()) } else { Err(done.fail(&format!("{lines} lines instead of 40001"))) }
}

const GO_PROGRAM: &str = r#"package main

import ("fmt"; "runtime"; "sort"; "sync")

func main() {
	var wait sync.WaitGroup
	results := make(chan int, 100)
	for i := 0; i < 50; i++ {
		wait.Add(1)
		go func(n int) { defer wait.Done(); s := 0; for k := 0; k < 1000*n; k++ { s += k % 7 }; results <- s }(i)
	}
	wait.Wait(); close(results)
	var all []int
	for r := range results { all = append(all, r) }
	sort.Ints(all)
	defer func() { fmt.Println(recover()) }()
	fmt.Println(runtime.GOARCH, len(all), all[0], all[49])
	var p *int
	fmt.Println(*p)
}
"#;

fn go_build(s: &Stage) -> Result<(), Failed> {
    s.write("main.go", GO_PROGRAM)?;
    let last: u64 = (0..49_000u64).map(|k| k % 7).sum();
    let go = s.root().join("usr/lib/go-1.19").display().to_string();
    let script = "go build -o program main.go && ./program";
    let run = s.guest("usr/bin/bash").args(["-c", script]).env("GOROOT", go).env("GOFLAGS", "-p=2").env("CGO_ENABLED", "0");
    let done = run.env("GO111MODULE", "off").env("GOCACHE", s.work.join("cache")).run()?.succeeds()?;
    done.prints(&format!("arm 50 0 {last}\nruntime error: invalid memory address or nil pointer dereference\n"))?;
    Ok(())
}

const JAVA: &str = "usr/lib/jvm/java-17-openjdk-armhf/bin";

fn java_version(s: &Stage) -> Result<(), Failed> {
    let done = s.guest(&format!("{JAVA}/java")).arg("-version").run()?.succeeds()?;
    if String::from_utf8_lossy(&done.stderr).contains("openjdk version \"17.") { Ok(()) } else { Err(done.fail("no version")) }
}

fn java_hello(s: &Stage) -> Result<(), Failed> {
    let source = "import java.util.*; import java.util.stream.*;\n\
        public class Hello { public static void main(String[] a) throws Exception {\n\
        \x20 System.out.println(\"Hello, World \" + System.getProperty(\"os.arch\"));\n\
        \x20 System.out.println(IntStream.range(0, 100000).filter(i -> i % 3 == 0).asLongStream().sum());\n\
        \x20 Thread[] t = new Thread[4]; long[] r = new long[4];\n\
        \x20 for (int i = 0; i < 4; i++) { int n = i; t[i] = new Thread(() -> { for (int k = 0; k < 100000; k++) r[n] += k ^ n; }); t[i].start(); }\n\
        \x20 for (Thread x : t) x.join();\n\
        \x20 System.out.println(Arrays.stream(r).sum());\n\
        \x20 try { Object o = null; o.hashCode(); } catch (NullPointerException e) { System.out.println(\"caught\"); }\n\
        } }\n";
    s.write("Hello.java", source)?;
    s.guest(&format!("{JAVA}/javac")).arg("Hello.java").run()?.succeeds()?;
    let thirds: u64 = (0..100_000).filter(|i| i % 3 == 0).sum();
    let mixed: u64 = (0..4u64).flat_map(|n| (0..100_000u64).map(move |k| k ^ n)).sum();
    let expected = format!("Hello, World arm\n{thirds}\n{mixed}\ncaught\n");
    s.guest(&format!("{JAVA}/java")).arg("Hello").run()?.succeeds()?.prints(&expected)?;
    Ok(())
}
