//! Perl, Lua, gawk, bc and SQLite.

use crate::Story;
use crate::stage::Stage;
use libtest_mimic::Failed;

#[rustfmt::skip]
pub const STORIES: &[Story] = &[
    Story::core("perl_modules",     90, perl_modules),
    Story::core("perl_threads",     60, perl_threads),
    Story::core("lua",              60, lua),
    Story::core("gawk",             60, gawk),
    Story::core("bc_pi",            90, bc_pi),
    Story::core("sqlite_queries",  120, sqlite_queries),
    Story::core("sqlite_file",     120, sqlite_file),
];

fn perl_modules(s: &Stage) -> Result<(), Failed> {
    let script = "use strict; use warnings; use POSIX qw(floor fmod strftime); use List::Util qw(sum max); use Digest::MD5 qw(md5_hex); \
        use MIME::Base64; use Socket; use IO::Handle; use Time::HiRes qw(usleep time); use Storable qw(freeze thaw); use Math::BigInt; \
        print floor(-2.5), ' ', fmod(7.5, 2), ' ', sum(1..10), ' ', max(3, 9, 4), \"\\n\"; print md5_hex('abc'), ' ', encode_base64('hello'); \
        print Math::BigInt->new(2)->bpow(200), \"\\n\"; my $t = thaw(freeze({ a => [1, 2, 3] })); print scalar @{ $t->{a} }, \"\\n\"; \
        socketpair(my $x, my $y, AF_UNIX, SOCK_STREAM, 0) or die; $x->autoflush(1); print $x \"over\\n\"; print scalar <$y>; \
        my $before = time; usleep 50_000; print time - $before >= 0.05 ? \"slept\\n\" : \"early\\n\"; print strftime('%F', gmtime 0), \"\\n\";";
    let expected = "-3 1.5 55 9\n900150983cd24fb0d6963f7d28e17f72 aGVsbG8=\n1606938044258990275541962092341162602522202993782792835301376\n\
                    3\nover\nslept\n1970-01-01\n";
    s.guest("usr/bin/perl").args(["-e", script]).run()?.succeeds()?.prints(expected)?;
    Ok(())
}

fn perl_threads(s: &Stage) -> Result<(), Failed> {
    let script = "use threads; use threads::shared; use Thread::Queue; my $n :shared = 0; my $q = Thread::Queue->new; \
        my @t = map { my $i = $_; threads->create(sub { for (1..500) { lock($n); $n++ } $q->enqueue($i); return $i * $i }) } 1..4; \
        my $s = 0; $s += $_->join for @t; print \"$n $s \", $q->pending, \"\\n\";";
    s.guest("usr/bin/perl").args(["-e", script]).run()?.succeeds()?.prints("2000 30 4\n")?;
    Ok(())
}

fn lua(s: &Stage) -> Result<(), Failed> {
    let script = "local t = {} for i = 1, 2000 do t[i] = (i * 7919) % 1009 end table.sort(t) print(t[1], t[#t], #t) \
        print(string.format('%.14g %d %5.1f', math.pi, 2^53 // 1 | 0, 3.14159), 7 // -2, 7 % -3, 1 << 40, 10 / 4) \
        local co = coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i) end return 'end' end) print(co(), co(), co(), co()) \
        print(select(2, pcall(error, { code = 1 })).code) print(('hello world'):gsub('o', '0'), ('abc'):rep(3, '-')) print(#string.pack('i4d', 1, 2.5)) \
        local function fib(n) if n < 2 then return n end return fib(n-1) + fib(n-2) end print(fib(22))";
    let expected = [
        "0\t1008\t2000",
        "3.1415926535898 9007199254740992   3.1\t-4\t-2\t1099511627776\t2.5",
        "1\t2\t3\tend",
        "1",
        "hell0 w0rld\tabc-abc-abc",
        "12",
        "17711\n",
    ];
    s.guest("usr/bin/lua5.4").args(["-e", script]).run()?.succeeds()?.prints(&expected.join("\n"))?;
    Ok(())
}

fn gawk(s: &Stage) -> Result<(), Failed> {
    let script = "BEGIN { srand(1); for (i = 0; i < 5000; i++) { n = (i * 7919) % 10007; count[n % 10]++; total += n } \
        print total, asort(count, sorted), sorted[1] <= sorted[10]; printf \"%.10f %.10f %.10f %d\\n\", atan2(0, -1), exp(1), sqrt(2), 2^53; \
        print toupper(\"abc\"), substr(\"hello\", 2, 3), index(\"hello\", \"l\"), length(\"xyz\"), strftime(\"%F\", 0, 1); \
        print gensub(/(a)(b)/, \"\\\\2\\\\1\", \"g\", \"abab\"), and(12, 10), lshift(1, 20); \"echo from a child; uname -m\" | getline x; print x }";
    let total: u64 = (0..5000u64).map(|i| (i * 7919) % 10007).sum();
    let expected = format!(
        "{total} 10 1\n3.1415926536 2.7182818285 1.4142135624 9007199254740992\nABC ell 3 3 1970-01-01\nbaba 8 1048576\nfrom a child\n"
    );
    s.guest("usr/bin/gawk").arg(script).run()?.succeeds()?.prints(&expected)?;
    Ok(())
}

fn bc_pi(s: &Stage) -> Result<(), Failed> {
    let done = s.guest("usr/bin/bc").args(["-l", "-q"]).input("scale=60; 4*a(1)\nscale=0; 3^150 % 10^20\n").run()?.succeeds()?;
    done.contains("3.14159265358979323846264338327950288419716939937510582097494")?.contains("\n73815184405301748249\n")?;
    Ok(())
}

const SQL: &str = "
CREATE TABLE t(id INTEGER PRIMARY KEY, a INTEGER, b REAL, c TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
INSERT INTO t SELECT i, (i * 7919) % 10007, i / 7.0, 'row' || (i % 13) FROM n;
CREATE INDEX ta ON t(a); CREATE INDEX tc ON t(c, b);
SELECT count(*), sum(a), printf('%.6f', avg(b)), min(c), max(c) FROM t;
SELECT c, count(*), sum(a) FROM t GROUP BY c ORDER BY c;
SELECT id FROM t WHERE a BETWEEN 100 AND 110 ORDER BY a;
SELECT x.id, y.id FROM t x JOIN t y ON x.a = y.a + 1 WHERE x.id < 20 ORDER BY 1;
BEGIN; UPDATE t SET b = b * 2 WHERE id % 3 = 0; DELETE FROM t WHERE id % 5 = 0; COMMIT;
SELECT count(*), printf('%.4f', sum(b)) FROM t;
BEGIN; DELETE FROM t; ROLLBACK; SELECT count(*) FROM t;
SELECT json_extract('{\"a\":[1,2,{\"b\":3}]}', '$.a[2].b'), upper(hex('rhea')), 9223372036854775807, 1e300 * 1e10, 5 / 2, -5 % 3;
SELECT sum(i) OVER (ORDER BY i ROWS 2 PRECEDING) FROM (SELECT 1 i UNION SELECT 2 UNION SELECT 3 UNION SELECT 4);
PRAGMA integrity_check;
";

/// What every SQLite answers, worked out here.
fn sqlite_queries(s: &Stage) -> Result<(), Failed> {
    let a = |i: u64| (i * 7919) % 10007;
    let total: u64 = (1..=5000).map(a).sum();
    let done = s.guest("usr/bin/sqlite3").arg(":memory:").input(SQL).run()?.succeeds()?;
    let mut by_a: Vec<u64> = (1..=5000).filter(|i| (100..=110).contains(&a(*i))).collect();
    by_a.sort_by_key(|i| a(*i));
    let ids: Vec<String> = by_a.iter().map(u64::to_string).collect();
    let average = (1..=5000).map(|i| f64::from(i) / 7.0).sum::<f64>() / 5000.0;
    done.contains(&format!("5000|{total}|{average:.6}|row0|row9\n"))?
        .contains(&format!("\n{}\n", ids.join("\n")))?
        .contains("\n4000|")?
        .contains("\n4000\n3|72686561|9223372036854775807|Inf|2|-2\n1\n3\n6\n9\nok\n")?;
    Ok(())
}

/// A database on disk: journal, locks, a second process, and a write-ahead log in shared memory.
fn sqlite_file(s: &Stage) -> Result<(), Failed> {
    let sqlite = || s.guest("usr/bin/sqlite3");
    sqlite().arg("db").input("PRAGMA journal_mode=WAL; CREATE TABLE k(v); INSERT INTO k VALUES (1), (2), (3);").run()?.succeeds()?.prints("wal\n")?;
    let script = "for p in 1 2 3; do (for i in 1 2 3 4 5; do sqlite3 -cmd '.timeout 20000' db \"INSERT INTO k VALUES ($p$i)\"; done) & done; wait; \
                  sqlite3 db 'SELECT count(*), sum(v) FROM k; PRAGMA integrity_check'; sqlite3 db .dump | md5sum | wc -c";
    let sum: u32 = 6 + (1..=3).flat_map(|p| (1..=5).map(move |i| p * 10 + i)).sum::<u32>();
    s.guest("usr/bin/bash").args(["-c", script]).run()?.succeeds()?.prints(&format!("18|{sum}\nok\n36\n"))?;
    Ok(())
}
