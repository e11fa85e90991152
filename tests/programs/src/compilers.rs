//! Programs that write code and execute it, and other languages: LuaJIT, SBCL, Erlang, Ruby, PHP, Valgrind. `cargo xtask test --full`.

use crate::Story;
use crate::stage::Stage;
use libtest_mimic::Failed;

#[rustfmt::skip]
pub const STORIES: &[Story] = &[
    Story::full("luajit",    120, luajit),
    Story::full("sbcl",      300, sbcl),
    Story::full("erlang",    300, erlang),
    Story::full("ruby",      300, ruby),
    Story::full("php",       120, php),
    Story::full("valgrind",  300, valgrind),
];

/// Traces are compiled to ARM code, which is patched when their side exits become hot.
fn luajit(s: &Stage) -> Result<(), Failed> {
    let script = "local sum = 0 for i = 1, 2e7 do sum = sum + i % 7 end print(sum, jit.arch, (jit.status())) \
        local ffi = require 'ffi' ffi.cdef[[ typedef struct { int32_t a; double b; } pair; int abs(int); double floor(double); ]] \
        local p = ffi.new('pair[100]') for i = 0, 99 do p[i].a = -i; p[i].b = i / 2 end \
        local t = 0 for k = 1, 2000 do for i = 0, 99 do t = t + ffi.C.abs(p[i].a) + ffi.C.floor(p[i].b) end end print(t) \
        local names = {} for i = 1, 50000 do names[#names + 1] = tostring(i * 1.5) end print(#table.concat(names)) \
        local next = coroutine.wrap(function() for i = 1, 1e5 do coroutine.yield(i) end end) local c = 0 for i = 1, 1e5 do c = c + next() end print(c) \
        local function f(x) if x % 3 == 0 then return x elseif x % 5 == 0 then return 'five' else return nil end end \
        local n = 0 for i = 1, 300000 do local r = f(i) if type(r) == 'number' then n = n + 1 elseif r then n = n + 2 end end print(n, 2^53)";
    let remainders: u64 = (1..=20_000_000u64).map(|i| i % 7).sum();
    let pairs: u64 = (0..100u64).map(|i| i + i / 2).sum::<u64>() * 2000;
    let names: usize = (1..=50_000u32).map(|i| format!("{}", f64::from(i) * 1.5).len()).sum();
    let kinds: u32 = (1..=300_000)
        .map(|i| {
            if i % 3 == 0 {
                1
            } else if i % 5 == 0 {
                2
            } else {
                0
            }
        })
        .sum();
    let expected = format!("{remainders}\tarm\ttrue\n{pairs}\n{names}\n5000050000\n{kinds}\t9.007199254741e+15\n");
    s.guest("usr/bin/luajit").args(["-e", script]).run()?.succeeds()?.prints(&expected)?;
    Ok(())
}

/// Every function is compiled to ARM code when it is defined; the collector moves code and objects.
fn sbcl(s: &Stage) -> Result<(), Failed> {
    let program = "(progn (defun fib (n) (if (< n 2) n (+ (fib (- n 1)) (fib (- n 2)))))
        (format t \"~d ~d~%\" (fib 24) (expt 3 100))
        (let ((lists (loop for i below 50000 collect (list i (* i 2))))) (gc :full t) (format t \"~d~%\" (reduce #'+ lists :key #'second)))
        (format t \"~a~%\" (handler-case (car (opaque 5)) (type-error () :caught)))
        (format t \"~a~%\" (handler-case (/ 1 (opaque 0)) (division-by-zero () :divided)))
        (format t \"~a ~a~%\" (funcall (compile nil '(lambda (x) (declare (double-float x)) (sqrt (* x 2))))  8d0) (machine-type)))";
    let run = s.guest("usr/bin/sbcl").args(["--noinform", "--no-sysinit", "--no-userinit", "--non-interactive"]);
    let run = run.args(["--eval", "(defun opaque (x) x)", "--eval", program]).env("SBCL_HOME", "/usr/lib/sbcl");
    let lists: u64 = (0..50_000u64).map(|i| i * 2).sum();
    let expected =
        format!("46368 515377520732011331036461129765621272702107522001\n{lists}\nCAUGHT\nDIVIDED\n4.0d0 ARM\n");
    run.run()?.succeeds()?.prints(&expected)?;
    Ok(())
}

/// Schedulers on threads of their own, messages, binaries, big numbers.
fn erlang(s: &Stage) -> Result<(), Failed> {
    let program = "P = self(), [spawn(fun() -> P ! X * X end) || X <- lists:seq(1, 2000)], \
        S = lists:sum([receive V -> V end || _ <- lists:seq(1, 2000)]), \
        T = ets:new(t, [ordered_set]), [ets:insert(T, {X rem 97, X}) || X <- lists:seq(1, 5000)], \
        <<H:32, _/binary>> = erlang:md5(binary:copy(<<\"a\">>, 100000)), io:format(\"~p ~p ~p ~.16B ~p~n\", [S, ets:info(T, size), 1 bsl 100, H, try 1 / (S - S) catch error:E -> E end]), halt().";
    let squares: u64 = (1..=2000u64).map(|x| x * x).sum();
    let run = s.guest("usr/bin/erl").args(["-noshell", "-eval", program]).env("ERL_CRASH_DUMP", "/dev/null");
    let done = run.run()?.succeeds()?;
    done.prints(&format!("{squares} 97 1267650600228229401496703205376 1AF6D6F2 badarith\n"))?;
    Ok(())
}

fn ruby(s: &Stage) -> Result<(), Failed> {
    let script = "require 'digest'; require 'json'; puts Digest::SHA256.hexdigest('x' * 100000)[0, 8]; p 4.times.map { |i| Thread.new { (1..20000).sum + i } }.map(&:value); \
        p fork { exit 3 } > 0; Process.wait; p $?.exitstatus; f = Fiber.new { Fiber.yield 1; 2 }; p f.resume, f.resume; p 2**100, JSON.parse('{\"a\": [1.5]}'); \
        begin; Integer('x'); rescue ArgumentError; puts 'caught'; end; GC.start; trap('USR1') { puts 'signal' }; Process.kill('USR1', $$); sleep 0.01; puts `uname -m`; p RUBY_PLATFORM";
    let expected = "d69e6898\n[200010000, 200010001, 200010002, 200010003]\ntrue\n3\n1\n2\n1267650600228229401496703205376\n{\"a\"=>[1.5]}\n\
                    caught\nsignal\narmv7l\n\"arm-linux-gnueabihf\"\n";
    s.guest("usr/bin/ruby").args(["-e", script]).run()?.succeeds()?.prints(expected)?;
    Ok(())
}

fn php(s: &Stage) -> Result<(), Failed> {
    let script = "function fib($n) { return $n < 2 ? $n : fib($n - 1) + fib($n - 2); } echo fib(20), ' ', md5(str_repeat('a', 100000)), ' ', PHP_INT_SIZE, \"\\n\"; \
        echo preg_replace_callback('/(\\d+)/', fn($m) => $m[1] * 2, 'a1b22c333'), ' ', intdiv(PHP_INT_MAX, 3), ' ', json_encode(['x' => 1.5, 'y' => [true, null]]), \"\\n\"; \
        try { (function(int $x) {})('no'); } catch (TypeError $e) { echo \"caught\\n\"; } $a = range(1, 5000); usort($a, fn($x, $y) => $y <=> $x); echo $a[0], ' ', array_sum($a), \"\\n\";";
    let expected = "6765 1af6d6f2f682f76f80e606aeaaee1680 4\na2b44c666 715827882 {\"x\":1.5,\"y\":[true,null]}\ncaught\n5000 12502500\n";
    s.guest("usr/bin/php8.2").args(["-n", "-r", script]).run()?.succeeds()?.prints(expected)?;
    Ok(())
}

/// A translator inside of the translator: it takes the program's code apart, watches its memory, and has its own signals and
/// threads below those of the program.
fn valgrind(s: &Stage) -> Result<(), Failed> {
    let hello = s.root().join("usr/bin/hello");
    let done = s.guest("usr/bin/valgrind").args(["--error-exitcode=9"]).arg(&hello).run()?.succeeds()?;
    done.logs("ERROR SUMMARY: 0 errors from 0 contexts")?.prints("Hello, world!\n")?;
    Ok(())
}
