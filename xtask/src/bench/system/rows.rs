//! The rows of `bench system-arm`: class, name, what happens. To add a row, add it here (and, for a kernel, to its C file).
//!
//! Amounts are chosen so that QEMU 10 needs about one second of CPU time.

#[derive(Clone, Copy)]
pub enum Work {
    /// From the start of the emulator until the console prints this: CPU seconds.
    Boot(Boot),
    /// A shell command in the guest's Debian root, in the directory with the kernels and inputs: CPU seconds.
    Run(&'static str),
    /// From the start of the emulator until a byte comes that the guest's first instructions print: milliseconds of wall time.
    FirstByte,
    /// Memory of the emulator's process when the guest has booted to a shell: MiB.
    Memory(Memory),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    /// The installer's kernel and initrd, to a shell.
    Installer,
    /// The LPAE kernel and our initrd, to a shell; the guest in which the commands run.
    Shell,
    /// The LPAE kernel and a Debian disk, to systemd's login prompt.
    Login,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    Settled,
    Peak,
}

pub struct Row {
    pub class: &'static str,
    pub name: &'static str,
    pub work: Work,
}

impl Row {
    pub fn unit(&self) -> &'static str {
        match self.work {
            Work::Boot(_) | Work::Run(_) => "s",
            Work::FirstByte => "ms",
            Work::Memory(_) => "MiB",
        }
    }
}

/// Speed against the reference that the project promises: (classes, geometric mean).
pub const GOALS: &[(&[&str], f64)] = &[
    (&["boot"], 1.7),
    (&["integer"], 1.7),
    (&["shell"], 1.7),
    (&["compile"], 1.7),
    (&["python"], 1.7),
    (&["fp"], 3.0),
    (&["system calls"], 1.5),
    (&["page faults"], 1.5),
    (&["switches"], 1.5),
    (&["forks"], 1.5),
    (&["disk"], 1.3),
    (&["memory"], 1.0),
];
/// Start to the first byte, in milliseconds.
pub const FIRST_BYTE_GOAL: f64 = 50.0;

const fn run(class: &'static str, name: &'static str, command: &'static str) -> Row {
    Row { class, name, work: Work::Run(command) }
}

#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { class: "start",  name: "first_byte", work: Work::FirstByte },
    Row { class: "boot",   name: "installer",  work: Work::Boot(Boot::Installer) },
    Row { class: "boot",   name: "lpae_shell", work: Work::Boot(Boot::Shell) },
    Row { class: "boot",   name: "systemd",    work: Work::Boot(Boot::Login) },
    Row { class: "memory", name: "settled",    work: Work::Memory(Memory::Settled) },
    Row { class: "memory", name: "peak",       work: Work::Memory(Memory::Peak) },

    run("integer", "records",  "./integer records 4000000"),
    run("integer", "sha256",   "./integer sha256 200000"),
    run("integer", "heapsort", "./integer heapsort 600000"),
    run("integer", "squeeze",  "./integer squeeze 800"),
    run("integer", "openssl",  "for i in 1 2 3 4 5 6; do openssl dgst -sha256 -r noise; done"),
    run("integer", "gzip",     "gzip -6 -n -c text | cksum"),

    run("fp", "nbody",      "./fp nbody 550000"),
    run("fp", "linpack",    "./fp linpack 1300"),
    run("fp", "mandelbrot", "./fp mandelbrot 500"),
    run("fp", "libm",       "./fp libm 400000"),

    run("shell", "loop",     "i=0; s=0; while [ $i -lt 20000 ]; do s=$(((s*31+i)%65521)); i=$((i+1)); done; echo $s"),
    run("shell", "bash",     "bash -c 's=0; for ((i=0;i<12000;i++)); do ((s=(s*31+i)%65521)); a[i%50]=$s; done; echo $s ${a[7]}'"),
    run("shell", "programs", "i=0; while [ $i -lt 60 ]; do uname -m >/dev/null; i=$((i+1)); done; for i in 1 2 3 4 5 6 7 8 9; do seq 3 | tail -n1; done"),

    run("compile", "gcc",   "gcc -O2 -c -o /tmp/source.o source.c && size /tmp/source.o"),
    run("compile", "hello", "for i in 1 2 3; do gcc -o /tmp/hello hello.c && /tmp/hello; done"),

    run("python", "start",   "for i in 1 2 3; do python3 -c 'import json; print(json.dumps([1]))'; done"),
    run("python", "objects", "python3 objects.py"),
    run("python", "dicts",   "python3 dicts.py"),

    run("system calls", "getppid",    "./kernel getppid 500000"),
    run("system calls", "read_write", "./kernel read_write 150000"),
    run("system calls", "stat",       "./kernel stat 40000"),
    run("system calls", "signal",     "./kernel signal 50000"),

    run("page faults", "touch", "./machine touch 6"),
    run("page faults", "map",   "./kernel map 4000"),
    run("page faults", "fault", "./kernel fault 15000"),

    run("switches", "pipe",  "./kernel pipe 6000"),
    run("switches", "turns", "./kernel turns 40000"),
    run("switches", "yield", "./machine yield 60000"),

    run("forks", "fork", "./kernel fork 400"),
    run("forks", "exec", "./kernel exec 200"),

    run("disk", "read",         "./disk read /dev/vdb 256"),
    run("disk", "write",        "./disk write /dev/vdb 256"),
    run("disk", "read_random",  "./disk read_random /dev/vdb 5000"),
    run("disk", "write_random", "./disk write_random /dev/vdb 4000"),
];

/// Small inputs of the rows: (name, contents).
pub const INPUTS: &[(&str, &str)] = &[
    ("hello.c", "#include <stdio.h>\nint main(void) { printf(\"hello\\n\"); return 0; }\n"),
    (
        "objects.py",
        "class P:
    __slots__ = ('x', 'n')
    def __init__(self, x, n): self.x = x; self.n = n
    def walk(self): return self.x if self.n is None else self.n.x ^ self.x
l = None; s = 0
for i in range(90000):
    l = P(i, l)
    s += l.walk()
    if i % 50 == 0: l = None
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
print(s, fib(17))
",
    ),
    (
        "dicts.py",
        "d = {}
for i in range(120000):
    k = 'key%d' % (i * 7919 % 5003)
    d[k] = d.get(k, 0) + len(k)
print(len(d), sum(d.values()), sorted(d, key=lambda k: (d[k], k))[:2])
",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_names_are_unique_and_every_goal_has_rows() {
        for row in ROWS {
            let same = ROWS.iter().filter(|r| (r.class, r.name) == (row.class, row.name)).count();
            assert_eq!(same, 1, "{} {}", row.class, row.name);
        }
        for (classes, _) in GOALS {
            assert!(classes.iter().all(|c| ROWS.iter().any(|r| r.class == *c)), "{classes:?}");
        }
    }

    #[test]
    fn kernels_that_rows_name_are_in_their_files() {
        for row in ROWS {
            let Work::Run(command) = row.work else { continue };
            let Some(rest) = command.strip_prefix("./") else { continue };
            let mut words = rest.split(' ');
            let (file, name) = (words.next().unwrap(), words.next().unwrap());
            let text = std::fs::read_to_string(crate::project::root().join(format!("tests/bench/{file}.c"))).unwrap();
            assert!(text.contains(&format!("\"{name}\"")), "{file}.c has no '{name}'");
        }
    }
}
