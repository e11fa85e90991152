//! The benchmark rows: class, name, what runs, how much of it. To add a row, add it here (and, for a kernel, to its C file).
//!
//! Amounts are chosen so that QEMU 10 needs about one second of CPU time on the machine where they were measured.

pub struct Row {
    pub class: &'static str,
    pub name: &'static str,
    pub work: Work,
    /// Runs that make up one sample; more than one only where a single run is very short.
    pub repeat: u32,
    /// Why the reference is not measured, where it cannot do this.
    pub reference_lacks: Option<&'static str>,
}

#[derive(Clone, Copy)]
pub enum Work {
    /// A row of `tests/bench/FILE.c`, and its N.
    Kernel { file: &'static str, row: &'static str, n: u32 },
    /// A program of the Debian root. `@NAME` is the path of a generated input (`Bench::write_inputs`).
    Program { path: &'static str, arguments: &'static [&'static str] },
}

const fn kernel(class: &'static str, file: &'static str, row: &'static str, n: u32) -> Row {
    Row { class, name: row, work: Work::Kernel { file, row, n }, repeat: 1, reference_lacks: None }
}

const fn program(class: &'static str, name: &'static str, path: &'static str, arguments: &'static [&'static str]) -> Row {
    Row { class, name, work: Work::Program { path, arguments }, repeat: 1, reference_lacks: None }
}

const fn times(mut row: Row, repeat: u32) -> Row {
    row.repeat = repeat;
    row
}

const fn only_ours(mut row: Row, reason: &'static str) -> Row {
    row.reference_lacks = Some(reason);
    row
}

const fn named(mut row: Row, name: &'static str) -> Row {
    row.name = name;
    row
}

const NO_CHILDREN: &str = "the reference cannot run ARM children without binfmt";

#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    times(named(kernel("start-up", "kernel", "nothing", 1), "static"), 20),
    times(program("start-up", "true",    "usr/bin/true",    &[]), 12),
    times(program("start-up", "bash",    "usr/bin/bash",    &["-c", ":"]), 10),
    times(program("start-up", "perl",    "usr/bin/perl",    &["-e", "1"]), 10),
    times(program("start-up", "python3", "usr/bin/python3", &["-c", "pass"]), 3),

    kernel("integer", "integer", "records",    4_000_000),
    kernel("integer", "integer", "crc32",         80_000),
    kernel("integer", "integer", "sha256",       200_000),
    kernel("integer", "integer", "heapsort",   2_000_000),
    kernel("integer", "integer", "sieve",          1_000),
    kernel("integer", "integer", "machine",       30_000),
    kernel("integer", "integer", "bignum",       200_000),
    kernel("integer", "integer", "divide",     1_000_000),
    kernel("integer", "integer", "matrix",         7_000),
    kernel("integer", "integer", "squeeze",        1_700),
    kernel("integer", "integer", "hanoi",            800),
    kernel("integer", "integer", "bitcount",  24_000_000),

    kernel("fp", "fp", "nbody",            550_000),
    kernel("fp", "fp", "mandelbrot",           900),
    kernel("fp", "fp", "matmul_double",        480),
    kernel("fp", "fp", "matmul_float",         500),
    kernel("fp", "fp", "linpack",            1_300),
    kernel("fp", "fp", "fft",                5_000),
    kernel("fp", "fp", "libm",             400_000),
    kernel("fp", "fp", "fused",         12_000_000),
    kernel("fp", "fp", "mixture",        2_000_000),
    kernel("fp", "fp", "convert",       13_000_000),

    kernel("simd", "simd", "vfloat",    14_000),
    kernel("simd", "simd", "vreduce",    6_000),
    kernel("simd", "simd", "vint",      70_000),
    kernel("simd", "simd", "vbyte",    250_000),
    kernel("simd", "simd", "vfilter",   60_000),
    kernel("simd", "simd", "vshuffle", 120_000),

    kernel("memory", "memory", "stream",               60),
    kernel("memory", "memory", "copies",          130_000),
    kernel("memory", "memory", "small_copies", 20_000_000),
    kernel("memory", "memory", "strings",          45_000),
    kernel("memory", "memory", "allocate",      2_200_000),
    kernel("memory", "memory", "chase",       200_000_000),

    kernel("control", "control", "fib",                     37),
    kernel("control", "control", "deep",                 1_600),
    kernel("control", "control", "indirect",        33_000_000),
    kernel("control", "control", "indirect_random", 33_000_000),
    kernel("control", "control", "interpreter",      5_000_000),
    kernel("control", "control", "threaded",         6_000_000),
    kernel("control", "control", "jumps",            9_000_000),
    kernel("control", "control", "callbacks",              500),
    kernel("control", "control", "methods",            600_000),
    kernel("control", "control", "wide",             1_000_000),

    kernel("threads", "kernel", "create",         1_200),
    kernel("threads", "kernel", "mutex",     10_000_000),
    kernel("threads", "kernel", "contended",    900_000),
    kernel("threads", "kernel", "atomic",    16_000_000),
    kernel("threads", "kernel", "tls",       80_000_000),
    kernel("threads", "kernel", "turns",         90_000),

    kernel("system calls", "kernel", "getppid",  2_700_000),
    kernel("system calls", "kernel", "clock",    3_000_000),
    kernel("system calls", "kernel", "read_write", 900_000),
    kernel("system calls", "kernel", "stat",       350_000),
    kernel("system calls", "kernel", "open",       170_000),
    kernel("system calls", "kernel", "map",         65_000),
    kernel("system calls", "kernel", "pipe",        30_000),

    kernel("signals", "kernel", "signal", 170_000),
    kernel("signals", "kernel", "mask",   350_000),
    kernel("signals", "kernel", "fault",   85_000),

    kernel("processes", "kernel", "fork", 1_200),
    only_ours(kernel("processes", "kernel", "exec", 300), NO_CHILDREN),
    only_ours(program("processes", "shell_loop", "usr/bin/bash",
        &["-c", "for i in {1..60}; do uname -m >/dev/null; done; for i in {1..30}; do seq 3 | tail -n1; done"]), NO_CHILDREN),

    program("python", "nbody", "usr/bin/python3", &["-c", PYTHON_NBODY]),
    program("python", "dicts", "usr/bin/python3", &["-c", PYTHON_DICTS]),
    program("python", "json_re", "usr/bin/python3", &["-c", PYTHON_JSON]),
    program("python", "objects", "usr/bin/python3", &["-c", PYTHON_OBJECTS]),
    program("python", "integers", "usr/bin/python3", &["-c", "a, b = 1, 1\nfor i in range(9000): a, b = b, a + b\nprint(len(str(a)), pow(3, 10**5, 10**300) % 10**9)"]),

    program("scripts", "bash",   "usr/bin/bash",    &["-c", "s=0; for ((i=0;i<25000;i++)); do ((s=(s*31+i)%65521)); a[i%50]=$s; done; echo $s ${a[7]}"]),
    program("scripts", "perl",   "usr/bin/perl",    &["-e", PERL]),
    program("scripts", "lua",    "usr/bin/lua5.4",  &["-e", LUA]),
    program("scripts", "gawk",   "usr/bin/gawk",    &["{ n[$1 % 97] += length($0); for (i = 1; i <= NF; i++) w[$i]++ } END { print length(w), n[5] }", "@short"]),
    program("scripts", "sqlite", "usr/bin/sqlite3", &[":memory:", SQL]),

    program("crypto", "sha256",   "usr/bin/openssl", &["dgst", "-sha256", "-r", "@noise", "@noise", "@noise"]),
    program("crypto", "sha512",   "usr/bin/openssl", &["dgst", "-sha512", "-r", "@noise", "@noise", "@noise"]),
    program("crypto", "aes",      "usr/bin/openssl", &["enc", "-aes-128-cbc", "-K", "000102030405060708090a0b0c0d0e0f", "-iv", "00000000000000000000000000000001", "-in", "@noise", "-out", "/dev/null"]),
    program("crypto", "chacha20", "usr/bin/openssl", &["enc", "-chacha20", "-K", "000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f", "-iv", "00000000000000000000000000000001", "-in", "@noise", "-out", "/dev/null"]),
    program("crypto", "modexp",   "usr/bin/openssl", &["prime", MERSENNE_1279]),

    program("compression", "xz",      "usr/bin/xz",    &["-6", "-c", "@short"]),
    program("compression", "unxz",    "usr/bin/xz",    &["-dc", "@packed", "@packed", "@packed", "@packed"]),
    program("compression", "gzip",    "usr/bin/gzip",  &["-6", "-n", "-c", "@text"]),
    program("compression", "zstd",    "usr/bin/zstd",  &["-q", "-9", "--single-thread", "-c", "@text"]),
    program("compression", "bzip2",   "usr/bin/bzip2", &["-c", "@short", "@short", "@short"]),

    program("tools", "sort",      "usr/bin/sort",      &["--parallel=1", "@text", "@text", "@text"]),
    program("tools", "grep",      "usr/bin/grep",      &["-cE", "^[0-9]*7 .*([a-d])\\1[a-z]* ", "@text"]),
    program("tools", "sed",       "usr/bin/sed",       &["s/a\\([b-z]*\\)/\\1a/g", "@short"]),
    program("tools", "wc",        "usr/bin/wc",        &["@text"]),
    program("tools", "sha1sum",   "usr/bin/sha1sum",   &["@noise", "@noise", "@noise", "@noise"]),
    program("tools", "cc1",       "usr/lib/gcc/arm-linux-gnueabihf/12/cc1", &["-quiet", "-O2", "-o", "/dev/null", "@source.c"]),

    program("jit runtimes", "node_hello", "usr/bin/node", &["-e", "console.log('hello')"]),
    program("jit runtimes", "node_loops", "usr/bin/node", &["-e", "let s = 0; for (let i = 0; i < 2e7; i++) s = (s * 31 + i) | 0; const o = {}; for (let i = 0; i < 2e5; i++) o['k' + i % 5000] = i; console.log(s, Object.keys(o).length)"]),
    program("jit runtimes", "java_version", "usr/lib/jvm/java-17-openjdk-armhf/bin/java", &["-version"]),
    program("jit runtimes", "gron", "usr/bin/gron", &["@json"]),
];

const PYTHON_NBODY: &str = "p = [[0, 0, 0.0], [4.8, -1.1, -.1], [8.3, 4.1, -.4], [12.8, -15.1, -.2]]; v = [[0, .1, 0.0], [.6, 2.8, 0], [-1, 1.8, 0], [1, .8, 0]]
m = [39.4, .03, .01, .002]
for n in range(900):
    for i in range(4):
        for k in range(i + 1, 4):
            d = [a - b for a, b in zip(p[i], p[k])]
            f = .01 / (sum(x * x for x in d) ** 1.5)
            for c in range(3):
                v[i][c] -= d[c] * m[k] * f; v[k][c] += d[c] * m[i] * f
    for a, b in zip(p, v):
        for c in range(3): a[c] += .01 * b[c]
print('%.9f' % p[0][0])";
const PYTHON_DICTS: &str = "d = {}
for i in range(60000):
    k = 'key%d' % (i * 7919 % 5003)
    d[k] = d.get(k, 0) + len(k)
print(len(d), sum(d.values()), sorted(d, key=lambda k: (d[k], k))[:2])";
const PYTHON_JSON: &str = "import json, re
data = [{'id': i, 'name': 'n%d' % i, 'v': [i / 7, None, True]} for i in range(1500)]
s = json.dumps(data); t = json.loads(s)
print(len(s), len(t), len(re.findall(r'\"n(\\d+)5\"', s)), len(re.sub(r'[0-9]+', lambda m: m.group()[::-1], s)))";
const PYTHON_OBJECTS: &str = "class P:
    __slots__ = ('x', 'n')
    def __init__(self, x, n): self.x = x; self.n = n
    def walk(self): return self.x if self.n is None else self.n.x ^ self.x
l = None; s = 0
for i in range(60000):
    l = P(i, l)
    s += l.walk()
    if i % 50 == 0: l = None
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
print(s, fib(17))";
const PERL: &str = "my %h; for my $i (1..60000) { my $k = 'k' . ($i * 7919 % 4001); $h{$k} .= chr(97 + $i % 26); } my $n = 0; for (sort keys %h) { $n += length($h{$_}) if /7/; $n++ while $h{$_} =~ /a(.)/g } print \"$n\\n\"";
const LUA: &str = "local t = {} for i = 1, 60000 do t[i] = (i * 7919) % 60013 end table.sort(t) local s = 0 for i = 1, #t do s = (s * 31 + t[i]) % 1000003 end local p = {} for i = 1, 20000 do p[#p + 1] = tostring(i):reverse() end print(s, #table.concat(p)) local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end print(fib(23))";
const SQL: &str = "CREATE TABLE t(a INTEGER PRIMARY KEY, b, c); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000) INSERT INTO t SELECT i, (i * 7919) % 10007, 'text' || i % 37 FROM n; CREATE INDEX tb ON t(b); SELECT c, sum(b), count(*) FROM t GROUP BY c ORDER BY 2 LIMIT 3; SELECT count(*) FROM t x JOIN t y ON x.b = y.a; UPDATE t SET b = b + 1 WHERE a % 2; SELECT sum(b) FROM t WHERE c LIKE '%7';";
/// 2^1279 - 1, a prime, in decimal for `openssl prime`.
const MERSENNE_1279: &str = "10407932194664399081925240327364085538615262247266704805319112350403608059673360298012239441732324184842421613954281007791383566248323464908139906605677320762924129509389220345773183349661583550472959420547689811211693677147548478866962501384438260291732348885311160828538416585028255604666224831890918801847068222203140521026698435488732958028878050869736186900714720710555703168729087";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_names_are_unique_within_their_class() {
        for row in ROWS {
            let same = ROWS.iter().filter(|r| (r.class, r.name) == (row.class, row.name)).count();
            assert_eq!(same, 1, "{} {}", row.class, row.name);
        }
    }

    #[test]
    fn every_kernel_is_in_its_file_and_every_row_of_a_file_is_used() {
        let used = |file: &str, name: &str| {
            ROWS.iter().any(|r| matches!(r.work, Work::Kernel { file: f, row, .. } if f == file && row == name))
        };
        for file in ["integer", "fp", "simd", "memory", "control", "kernel"] {
            let path = crate::project::root().join(format!("tests/bench/{file}.c"));
            let text = std::fs::read_to_string(path).unwrap();
            let table = &text[text.find("static const struct row rows[]").unwrap()..];
            let names: Vec<&str> = table.split("{ \"").skip(1).map(|r| r.split('"').next().unwrap()).collect();
            assert!(names.len() > 4, "{file}");
            for name in &names {
                assert!(used(file, name), "{file}.c has '{name}', but no row runs it");
            }
            for row in ROWS {
                if let Work::Kernel { file: f, row, .. } = row.work {
                    assert!(f != file || names.contains(&row), "{file}.c has no '{row}'");
                }
            }
        }
    }
}
