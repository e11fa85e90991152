//! The same script in the guest's tools and in the host's: outputs must be equal byte for byte.
//!
//! Scripts avoid `long double` output, whose width is the architecture's. Only tools of Debian's essential set, which every host has; scripts avoid what differs between versions.

use crate::Story;
use crate::stage::Stage;
use libtest_mimic::Failed;

#[rustfmt::skip]
pub const STORIES: &[Story] = &[
    Story::core("checksums",   90, |s| same(s, CHECKSUMS)),
    Story::core("text",        90, |s| same(s, TEXT)),
    Story::core("files",       90, |s| same(s, FILES)),
    Story::core("numbers",     90, |s| same(s, NUMBERS)),
    Story::core("times",       60, |s| same(s, TIMES)),
    Story::core("limits",      60, |s| same(s, LIMITS)),
    Story::core("perl",        90, |s| same(s, PERL)),
    Story::core("sort_large", 120, |s| same(s, SORT_LARGE)),
];

/// Data that differ in every byte position, without a random source.
const CHECKSUMS: &str = r#"
seq 1 100000 > data
for t in md5sum sha1sum sha224sum sha256sum sha384sum sha512sum b2sum cksum sum; do $t data; done
cksum -a crc data 2>/dev/null | cut -d' ' -f1,2
base64 data | md5sum; base32 data | md5sum; od -An -tx8 data | md5sum; od -An -tf4 -N4000 data | md5sum; od -An -tf8 -N4000 data | md5sum
gzip -1 < data | gzip -dc | md5sum
"#;

const TEXT: &str = r#"
seq 1 3000 | sed 's/\(.\)\(.\)/\2\1/g;n;d' | md5sum
seq 1 3000 | grep -E '^(1|2)[0-9]*[02468]$' | md5sum
seq 1 2000 | paste - - - - | md5sum
seq 1 100 | shuf --random-source=/dev/zero | md5sum
seq 1 500 | fmt -w 40 | md5sum; seq 1 500 | pr -t -5 | md5sum; seq 1 50 | nl -ba -w3 | expand | unexpand -a | md5sum
printf 'b 2\na 1\nc 3\n' | sort > l; printf 'a x\nc z\n' > r; join l r; comm -12 <(cut -d' ' -f1 l) <(cut -d' ' -f1 r)
printf 'äöü ß €\n' | wc -m; printf 'a,b;c' | tr ',;' '\n\n'; echo; printf 'one\ntwo\n' | tac | rev 2>/dev/null
echo 'The Quick' | sed 's/.*/\L&/; s/q/\U&/'; seq 10 | split -l 3 - part; cat partab; csplit -s -f cs l 2; cat cs01
"#;

const FILES: &str = r#"
umask 022; mkdir -p a/b/c; cd a; echo text > f; ln f hard; ln -s f soft; ln -s nowhere broken; mkfifo fifo
stat -c '%n %F %a %h' f hard soft broken fifo b
chmod 4751 f; stat -c %a f; chmod u-s,g=w f; stat -c %A f; touch -d '2001-02-03 04:05:06 UTC' f; stat -c '%Y %y' f
cp -a . ../copy; (cd ../copy && find . | sort); du --apparent-size -b f; truncate -s 5G big; stat -c '%s %b' big; ls -s big | cut -c1
dd if=/dev/zero of=holes bs=1 count=1 seek=3000000000 2>/dev/null; stat -c %s holes; rm big holes
find . -newer f -name 's*' ; find . -type l | sort; find . -perm -u+r -type f | sort | xargs wc -c
tar cf ../t.tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner . && tar tvf ../t.tar | sort
readlink -f soft; realpath --relative-to=/ /usr/../etc; mv f g; test -e soft; echo $?; rmdir b 2>/dev/null; echo $?; rm -rf b; ls
for i in $(seq 300); do : > x$i; done; ls | wc -l; rm x*; ls | wc -l
mktemp -u XXXX | wc -c; df . | wc -l; sync; install -m 600 hard inst; stat -c %a inst; pathchk ok; echo $?; cmp g hard; echo $?
"#;

const NUMBERS: &str = r#"
seq -f %.10g 0 0.37 40 | md5sum; seq 1e6 1e5 2e6; numfmt --to=iec 1234567890 999 1048576; numfmt --from=si 1.5G
factor 9223372036854775807 18446744073709551615 600851475143; printf '%e %x %.2f\n' 123456.75 3735928559 2.125
expr 9223372036854775807 / 3; expr length abc : . ; test 10 -gt 9 && echo yes
printf '%s\n' 1.5 10 9 -3 1e3 0x1f | sort -g; printf '%s\n' 2K 1M 3G 5 | sort -h; printf '1.10\n1.9\n1.2\n' | sort -V
echo $((0x7fffffffffffffff + 1)) $((10#077)) $((1 << 63)) $((-9223372036854775807 / -1)) $(( 7 % -3 )) $(( -7 % 3 ))
seq 1 200 | while read n; do echo $((n*n*n % 97)); done | md5sum
"#;

const TIMES: &str = r#"
for t in 0 86399 1000000000 2147483647 2147483648 4294967296 253402300799; do date -u -d @$t '+%F %T %j %U %a'; done
date -u -d '2024-02-29 +1 year' +%F; date -u -d 'last monday 2024-05-05' +%F 2>&1; TZ=America/New_York date -d @1700000000 '+%H' ; date -u -d '1 Jan 1970 00:00:00 -0100' +%s
touch -d @4000000000 late; stat -c %Y late; touch -d @-1 early; stat -c %Y early
"#;

const LIMITS: &str = r#"
ulimit -n 77; ulimit -n; (ulimit -c 0; ulimit -c); (ulimit -s 4096; ulimit -s)
nice -n 5 nice; getconf PAGESIZE 2>/dev/null; cat < /dev/null; echo $?; exec 9<&-; (echo x >&9) 2>/dev/null; echo $?
timeout 0.2 sleep 5; echo $?; timeout -s INT 0.2 sleep 5; echo $?; env -u HOME sh -c 'echo ${HOME-unset}'; nohup true 2>/dev/null; echo $?
umask; basename $PWD; printenv LC_ALL; setsid true 2>/dev/null; echo $?; tty; echo $?
"#;

const PERL: &str = r#"
perl -e 'my %h; $h{$_ % 97} .= chr(65 + $_ % 26) for 1..5000; print join(",", map { "$_=" . length $h{$_} } sort { $a <=> $b } keys %h), "\n"'
perl -e 'printf "%.15g %.15g %.15g\n", atan2(1,1)*4, exp(1), sqrt(2); print 2**53, " ", 10/3, " ", -7 % 3, " ", int(-7/2), "\n"'
perl -e 'my $s = "x" x 1000; my $n = 0; $n++ while $s =~ /x(?=x)/g; print "$n\n"; print join("|", "a1b22c333" =~ /(\d+)/g), "\n"'
perl -e 'print pack("N n C a3", 1, 2, 3, "abc") =~ s/(.)/sprintf "%02x", ord $1/gser, "\n"; print unpack("%32C*", "checksum"), "\n"'
perl -e 'my @a = map { ($_ * 7919) % 10007 } 1..3000; my @s = sort { $a <=> $b } @a; print "$s[0] $s[-1] $s[1500]\n"; print scalar reverse("rhea"), "\n"'
perl -e 'pipe R, W; if (!fork) { close R; print W "child $_\n" for 1..3; exit 3 } close W; print while <R>; wait; print $? >> 8, "\n"'
perl -e '$SIG{ALRM} = sub { print "alarm\n"; exit 2 }; alarm 1; 1 while 1'; echo $?
perl -e 'eval { die { code => 42 } }; print $@->{code}, "\n"; local $@; print eval("1 +") // "syntax\n"; print `echo back`; printf "%vd\n", "1.22.333"'
"#;

const SORT_LARGE: &str = r#"
seq 1 150000 | sed 's/\(.*\)\(.\)\(.\)/\3\2\1/' > in; sort in | md5sum; sort -n in | md5sum; sort -k1.2,1.4 -s in | md5sum; sort --parallel=4 -S 2M in | md5sum
sort -u in | wc -l; sort -c in 2>/dev/null; echo $?; sort -m <(sort in) <(sort in) | uniq -d | wc -l
"#;

fn same(s: &Stage, script: &str) -> Result<(), Failed> {
    let run = |directory: &str, bash| -> Result<_, Failed> {
        let script = format!("mkdir {directory}; cd {directory}; {script}");
        let done = crate::stage::Run::args(bash, ["-c", &script]).run()?.succeeds()?;
        Ok((done.text().replace(directory, "DIR"), done))
    };
    let (native, _) = run("in-native", s.host("/bin/bash"))?;
    let (guest, done) = run("in-guest", s.guest("usr/bin/bash"))?;
    if native.lines().count() < 3 {
        return Err(format!("the script printed next to nothing natively: {native:?}").into());
    }
    match native.lines().zip(guest.lines()).find(|(n, g)| n != g) {
        Some((n, g)) => Err(done.fail(&format!("differs from native\n  native: {n}\n  guest:  {g}"))),
        None if native != guest => Err(done.fail("differs from native in the number of lines")),
        None => Ok(()),
    }
}
