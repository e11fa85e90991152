//! CPython and its own test suite.

use crate::Story;
use crate::stage::Stage;
use libtest_mimic::Failed;

#[rustfmt::skip]
pub const STORIES: &[Story] = &[
    Story::core("language",         60, language),
    Story::core("processes",        90, processes),
    Story::core("test_math",       300, |s| module(s, "test_math")),
    Story::core("test_struct",     300, |s| module(s, "test_struct")),
    Story::core("test_json",       300, |s| module(s, "test_json")),
    Story::core("test_hashlib",    300, |s| module(s, "test_hashlib")),
    Story::core("test_decimal",    600, |s| module(s, "test_decimal")),
    Story::core("test_signal",     300, |s| module(s, "test_signal")),
    Story::core("test_threading",  300, |s| module(s, "test_threading")),
    Story::core("test_socket",     300, |s| module(s, "test_socket")),
    Story::core("test_ctypes",     300, |s| module(s, "test_ctypes")),
    Story::core("test_subprocess", 600, |s| module(s, "test_subprocess")),
    Story::full("of_the_system",  1800, |s| modules(s, OF_THE_SYSTEM)),
    Story::full("at_once",        3600, |s| modules(s, AT_ONCE)),
];

/// What asks the kernel for more than files.
const OF_THE_SYSTEM: &[&str] = &[
    "test_os", "test_posix", "test_select", "test_selectors", "test_poll", "test_epoll", "test_mmap", "test_fcntl", "test_resource", "test_pty",
    "test_openpty", "test_tempfile", "test_shutil", "test_io", "test_file_eintr", "test_eintr", "test_threadsignals", "test_thread", "test_wait3",
    "test_wait4", "test_fork1", "test_time", "test_tracemalloc", "test_ioctl", "test_largefile", "test_posixpath", "test_glob", "test_cmd_line",
];

/// What does several things at once.
const AT_ONCE: &[&str] = &[
    "test_asyncio", "test_concurrent_futures", "test_multiprocessing_fork", "test_multiprocessing_spawn", "test_multiprocessing_forkserver",
    "test_multiprocessing_main_handling", "test_queue", "test_threadedtempfile", "test_threading_local", "test_logging",
];

fn language(s: &Stage) -> Result<(), Failed> {
    let script = "import sys, platform, math, json, zlib, struct, decimal, fractions, hashlib, re, datetime\n\
        print(platform.machine(), sys.maxsize, struct.calcsize('P'))\n\
        print(2**200 % 10**20, math.factorial(30), 0.1 + 0.2, 1e308 * 10, round(2.675, 2), float.hex(math.pi))\n\
        print(sorted({w: len(w) for w in 'the quick brown fox'.split()}.items()), json.dumps([1.5, None, 'ü']))\n\
        print(zlib.crc32(b'rhea'), hashlib.sha256(b'rhea').hexdigest()[:16], decimal.Decimal(1) / 7, fractions.Fraction(3, 9))\n\
        print(re.sub(r'(\\w+) (\\w+)', r'\\2 \\1', 'hello world'), datetime.datetime.fromtimestamp(2000000000, datetime.timezone.utc))\n\
        def gen():\n\
        \x20   for i in range(3): yield i * i\n\
        print(list(gen()), sum(i * i for i in range(10**5)))\n";
    let expected = "armv7l 2147483647 4\n\
        83576888702520425376 265252859812191058636308480000000 0.30000000000000004 inf 2.67 0x1.921fb54442d18p+1\n\
        [('brown', 5), ('fox', 3), ('quick', 5), ('the', 3)] [1.5, null, \"\\u00fc\"]\n";
    let done = s.guest("usr/bin/python3").args(["-c", script]).run()?.succeeds()?;
    done.contains(&expected.replace("83576888702520425376", &POWER.to_string()))?
        .contains("0.1428571428571428571428571429 1/3\nworld hello 2033-05-18 03:33:20+00:00\n[0, 1, 4] 333328333350000\n")?;
    Ok(())
}

/// 2^200 modulo 10^20.
const POWER: u128 = {
    let mut value = 1u128;
    let mut n = 0;
    while n < 200 {
        value = value * 2 % 100_000_000_000_000_000_000;
        n += 1;
    }
    value
};

fn processes(s: &Stage) -> Result<(), Failed> {
    let script = "import multiprocessing as mp, subprocess, os, sys, asyncio, concurrent.futures as cf\n\
        def square(x): return x * x\n\
        async def ticks():\n\
        \x20   p = await asyncio.create_subprocess_exec('uname', '-m', stdout=subprocess.PIPE)\n\
        \x20   out, _ = await p.communicate()\n\
        \x20   return out.decode().strip(), await asyncio.gather(*(asyncio.sleep(0.01, i) for i in range(5)))\n\
        if __name__ == '__main__':\n\
        \x20   with mp.Pool(3) as pool: print(pool.map(square, range(8)))\n\
        \x20   with cf.ThreadPoolExecutor(4) as pool: print(sum(pool.map(square, range(100))))\n\
        \x20   print(subprocess.run([sys.executable, '-c', 'print(6*7)'], capture_output=True).stdout)\n\
        \x20   print(asyncio.run(ticks()))\n\
        \x20   r, w = os.pipe(); pid = os.posix_spawn('/proc/self/exe', ['python3', '-c', 'print(\"spawned\", flush=True)'], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, w, 1)])\n\
        \x20   print(os.waitpid(pid, 0)[1], os.read(r, 100))\n";
    let file = s.write("processes.py", script)?;
    let expected = "[0, 1, 4, 9, 16, 25, 36, 49]\n328350\nb'42\\n'\n('armv7l', [0, 1, 2, 3, 4])\n0 b'spawned\\n'\n";
    s.guest("usr/bin/python3").arg(file).run()?.succeeds()?.prints(expected)?;
    Ok(())
}

/// Cases that fail for a reason outside the emulator: (module, pattern, reason).
#[rustfmt::skip]
const SET_ASIDE: &[(&str, &str, &str)] = &[
    ("test_ctypes", "test_find_library_with_*", "runs ld and gcc, which look for libraries in the host's /lib; runs only where those are installed"),
];

/// One module of CPython's suite.
fn module(s: &Stage, name: &'static str) -> Result<(), Failed> {
    modules(s, &[name])
}

/// Modules of CPython's suite; the suite's own verdict counts, and it must have run tests.
fn modules(s: &Stage, names: &[&'static str]) -> Result<(), Failed> {
    // -W: the output of what fails.
    let mut words = vec!["-m", "test", "-u", "none", "-W"];
    for (module, pattern, _reason) in SET_ASIDE {
        if names.contains(module) {
            words.extend(["-i", pattern]);
        }
    }
    words.extend(names);
    let done = s.guest("usr/bin/python3").args(words).run()?.succeeds()?;
    done.contains("Tests result: SUCCESS")?;
    Ok(())
}
