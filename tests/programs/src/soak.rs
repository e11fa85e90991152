//! Long trials, outside of CI: `cargo xtask soak [--seconds N] [PART-OF-A-NAME]`.
//!
//! `RHEA_SOAK` is the time of each trial that can go on for any time; the others have a fixed amount of work.

use crate::Story;
use crate::probes;
use crate::stage::Stage;
use libtest_mimic::Failed;
use std::time::Instant;

#[path = "soak/damage.rs"]
mod damage;

#[rustfmt::skip]
pub const STORIES: &[Story] = &[
    Story::soak("aba_stack",               |s| probe(s, &[], "atomics", "aba_stack")),
    Story::soak("mixed_work",              |s| probe(s, &[], "threads", "mixed_work")),
    Story::soak("mixed_work_in_1_mib",     |s| probe(s, SMALL, "threads", "mixed_work")),
    Story::soak("signals_a32",             |s| probe(s, &[], "boundaries", "a32_loop")),
    Story::soak("signals_t32",             |s| probe(s, &[], "boundaries", "t32_loop")),
    Story::soak("patched_by_another",      |s| probe(s, &[], "code", "patched_by_another_thread")),
    Story::soak("patched_in_1_mib",        |s| probe(s, SMALL, "code", "patched_by_another_thread")),
    Story::soak("threads_one_by_one",      |s| probe(s, &[], "threads", "thousand")),
    Story::soak("thousand_threads_at_once", |s| probe(s, &[], "threads", "thousand_at_once")),
    Story::soak("fork_beside_threads",     |s| probe(s, &[], "threads", "fork_beside_threads")),
    Story::soak("ten_thousand_processes",  ten_thousand_processes),
    Story::soak("probes_in_1_mib",         probes_in_1_mib),
    Story::soak("programs_in_1_mib",       programs_in_1_mib),
    Story::soak("damaged_programs",        damage::damaged_programs),
];

/// A code memory that overflows all the time.
const SMALL: &[&str] = &["-tb-size", "1"];
const PROCESSES: u32 = 10_000;

/// The time of each trial; none outside of a soak.
pub fn seconds() -> Option<u64> {
    std::env::var("RHEA_SOAK").ok()?.parse().ok()
}

fn time() -> String {
    seconds().unwrap_or(1).to_string()
}

fn probe(s: &Stage, options: &[&str], file: &str, name: &str) -> Result<(), Failed> {
    let guest = probes::arm(s, file)?;
    let done = s.guest_with(options, &guest).arg(name).env("PROBE_SECONDS", time()).run()?;
    done.succeeds()?.prints(&format!("{name} ok\n")).map(drop)
}

fn ten_thousand_processes(s: &Stage) -> Result<(), Failed> {
    let script = "i=0; while [ $i -lt $1 ]; do /usr/bin/env true || { echo failed at $i; exit 1; }; i=$((i + 1)); done; echo $i";
    let script = script.replace("/usr/bin/env true", &format!("{}/usr/bin/true", s.root().display()));
    let begun = Instant::now();
    let count = PROCESSES.to_string();
    s.guest("usr/bin/dash").args(["-c", &script, "dash", &count]).run()?.succeeds()?.prints(&format!("{count}\n"))?;
    eprintln!("{PROCESSES} processes in {:.1} s", begun.elapsed().as_secs_f32());
    Ok(())
}

/// Every probe, with a code memory of the smallest size.
fn probes_in_1_mib(s: &Stage) -> Result<(), Failed> {
    for (file, names) in probes::FILES {
        let guest = probes::arm(s, file)?;
        for name in *names {
            let done = s.guest_with(SMALL, &guest).arg(name).run()?;
            done.succeeds()?.prints(&format!("{name} ok\n"))?;
        }
    }
    Ok(())
}

/// (program, arguments, what it prints): each translates several times what fits.
#[rustfmt::skip]
const LARGE: &[(&str, &[&str], &str)] = &[
    ("usr/bin/python3", &["-c", "import json, re, decimal, ctypes, ssl, sqlite3, email, xml.dom.minidom as m\nfor i in range(30):\n    d = json.loads(json.dumps({str(k): [k / 7] for k in range(500)})); r = re.sub('[0-9]+', lambda x: x.group()[::-1], str(d)); x = m.parseString('<a>' + '<b c=\"1\"/>' * 50 + '</a>').toxml()\nprint(len(d), len(r) > 1000, len(x))"], "500 True 529\n"),
    ("usr/bin/perl", &["-e", "for (1..40) { my %h = map { $_ => join ',', sort { $a cmp $b } map { $_ * 7 % 101 } 1..50 } 1..100; $n += length join '', values %h; } print \"$n\\n\""], "576000\n"),
    ("usr/bin/bash", &["-c", "for i in {1..300}; do x=$(printf '%s\\n' {1..20} | sort -rn | head -n1); [[ $x =~ ^2(.)$ ]] || exit 1; done; echo $x ${BASH_REMATCH[1]}"], "20 0\n"),
];

fn programs_in_1_mib(s: &Stage) -> Result<(), Failed> {
    for (program, words, expected) in LARGE {
        let run = s.guest_with(SMALL, &s.root().join(program)).args(*words);
        run.run()?.succeeds()?.prints(expected)?;
    }
    Ok(())
}
