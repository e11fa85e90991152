//! Our own small C programs: one question each about atomics, changing code, threads, signals and processes.
//!
//! Each probe is also run natively where it is portable, so that a wrong probe cannot pass for a wrong emulator. Many of
//! them ask for what other emulators get wrong: code written through a second mapping, robust mutexes, `vfork`.

use crate::Story;
use crate::stage::Stage;
use libtest_mimic::Failed;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Whether the file's probes have a native meaning.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Portable {
    Yes,
    /// All but those listed in the C file under `#ifdef __arm__`.
    Mostly,
    No,
}
use Portable::{Mostly, No, Yes};

macro_rules! probes {
    ($($file:ident $portable:ident : $($probe:ident)+ ;)+) => {
        pub const STORIES: &[Story] = &[
            $($(Story::core(concat!(stringify!($file), "_", stringify!($probe)), 120,
                |s| probe(s, stringify!($file), stringify!($probe), $portable)),)+)+
            Story::core("all_are_listed", 120, all_are_listed),
            Story::core("a_signal_at_every_boundary", 120, a_signal_at_every_boundary),
            Story::full("hostile_for_longer", 1200, hostile_for_longer),
        ];
        pub const FILES: &[(&str, &[&str])] = &[$((stringify!($file), &[$(stringify!($probe)),+])),+];
    };
}

probes! {
    atomics Mostly: aba_stack aba_late all_widths across_processes kernel_helpers;
    code No: rewritten second_mapping written_by_a_call read_into_code protection_toggled remapped patched_by_another_thread
        data_beside_code;
    threads Yes: thousand two_hundred_at_once thousand_at_once robust_mutex cancelled thread_locals fork_beside_threads mixed_work
        numbers_of_all_threads one_task;
    signals Mostly: state_survives faults illegal alternate_stack real_time_queue restarted_and_not waited_for nested_and_masked
        rounding_modes fault_storm sent_together context_edited;
    boundaries No: a32_loop t32_loop;
    pressure Yes: carries_and_spills many_values;
    processes Yes: vfork_shares_memory spawn_reports_missing exec_keeps_arguments exec_by_descriptor exec_errors exec_from_a_thread
        proc_files child_command_line clone_with_shared_memory shared_dispositions cleared_dispositions threads_apart parent_settid exit_statuses thousand_short_ones memory_limits
        descriptors_passed directory_entries filter_survives_exec;
    calls Yes: large_offsets file_attributes mappings shared_between_processes event_descriptors many_events clocks_and_timers terminals sockets
        about_the_process;
    newer Mostly: clone3_process vectors_with_flags wait_for_two_words epoll_with_nanoseconds memory_of_a_child asynchronous_io
        locked_pages all_pages_locked guarded_pages barriers sealed_mappings filters namespaces mounts landlock_version attributes_at details refused;
    areas Yes: data_limit area_grows area_stops stack_limit_raised mappings_asked_for;
    listeners Yes: for_all_threads asked_by_a_thread asked_by_another_process;
    restart No: registration processors shared_logs_a32 shared_logs_t32 shared_logs_far_a32 shared_logs_far_t32 shared_logs_hidden
        interrupted_by_signals interrupted_by_a_barrier no_descriptor;
    kept_out Mostly: faults_that_are_sent a_fault_as_exit_signal exit_signals_at_any_time blocked_faults_wait_once left_behind_by_fork
        ranges_of_everything as_many_mappings_as_possible no_huge_pages own_memory_file;
    hostile No: calls streams shaken_code frames areas images;
}

/// Probes that only others run.
const PARTS: &[&str] = &["child_of_exec", "wait_for_end", "filtered_child", "limited_child", "asking_child"];

/// A probe's exit status where this kernel, or the container, has no answer.
const ABSENT: i32 = 77;

/// What the emulator is known not to do yet: these must fail, and whoever makes one pass takes its row out.
#[rustfmt::skip]
const GAPS: &[(&str, &str)] = &[];

fn probe(s: &Stage, file: &str, name: &str, portable: Portable) -> Result<(), Failed> {
    let expected = format!("{name} ok\n");
    if portable != No {
        let native = s.host(built(s, file, "gcc", "native")?).arg(name).run()?;
        if native.status.code() == Some(ABSENT) {
            return s.guest_file(&arm(s, file)?).arg(name).run()?.exits(ABSENT).map(drop);
        }
        if portable == Yes || native.status.code() != Some(2) {
            native.succeeds()?.prints(&expected)?;
        }
    }
    let guest = arm(s, file)?;
    let done = s.guest_file(&guest).arg(name).run()?;
    match GAPS.iter().find(|(gap, _)| *gap == name) {
        Some((_, gap)) if done.status.success() => Err(done.fail(&format!("passes now; take it out of GAPS ({gap})"))),
        Some(_) => Ok(()),
        None => done.succeeds()?.prints(&expected).map(drop),
    }
}

/// With regions of one instruction, signals are taken between any two instructions; the probe wants to have seen all.
fn a_signal_at_every_boundary(s: &Stage) -> Result<(), Failed> {
    let guest = arm(s, "boundaries")?;
    for name in ["a32_loop", "t32_loop"] {
        let options = ["-one-insn-per-tb", "-d", "nochain"];
        let run = s.guest_with(&options, &guest).arg(name).env("PROBE_EACH", "1");
        run.run()?.succeeds()?.prints(&format!("{name} ok\n"))?;
    }
    Ok(())
}

/// Options that change what the emulator does for a hostile program.
#[rustfmt::skip]
const UNDER: &[&[&str]] = &[
    &[],
    &["-tb-size", "1"],
    &["-one-insn-per-tb"],
    &["-strace"],
    &["-D", "/dev/null", "-d", "in_asm,op,out_asm,exec,cpu,fpu,int,page,strace,unimp,nochain"],
];

/// Programs that mean harm, from a seed that nobody has tried: `PROBE_SEED` is the first one, `PROBE_SECONDS` the time of each.
fn hostile_for_longer(s: &Stage) -> Result<(), Failed> {
    let set = |name: &str| std::env::var(name).ok();
    let since = std::time::UNIX_EPOCH.elapsed().map_or(1, |t| t.as_secs() as u32);
    let seed = set("PROBE_SEED").unwrap_or_else(|| since.to_string());
    let seconds = set("PROBE_SECONDS").unwrap_or_else(|| "5".into());
    eprintln!("hostile programs from seed {seed}");
    let guest = arm(s, "hostile")?;
    let names = FILES.iter().find(|(file, _)| *file == "hostile").map_or(&[][..], |(_, names)| names);
    for options in UNDER {
        for name in names {
            let run = s.guest_with(options, &guest).arg(name).env("PROBE_SEED", &seed).env("PROBE_SECONDS", &seconds);
            run.run()?.succeeds()?.contains(&format!("{name} ok\n"))?;
        }
    }
    Ok(())
}

/// A file's probes as an ARM program.
pub fn arm(s: &Stage, file: &str) -> Result<PathBuf, Failed> {
    built(s, file, "arm-linux-gnueabihf-gcc", "arm")
}

/// Where the compiled programs are; they live as long as the test program's scratch directory.
fn directory() -> PathBuf {
    std::env::temp_dir().join(format!("rhea-probes-{}", std::process::id()))
}

/// Removes them; called when all stories have ended.
pub fn clear() {
    let _ = std::fs::remove_dir_all(directory());
}

/// The compiled file, made by whoever asks first.
fn built(s: &Stage, file: &str, compiler: &str, suffix: &str) -> Result<PathBuf, Failed> {
    static ALL: OnceLock<std::sync::Mutex<Vec<PathBuf>>> = OnceLock::new();
    let mut done = ALL.get_or_init(Default::default).lock().map_err(|_| "another story panicked while compiling")?;
    let program = directory().join(suffix).join(file);
    if !done.contains(&program) {
        std::fs::create_dir_all(directory().join(suffix))?;
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("guest/{file}.c"));
        // The faults that probes provoke on purpose do not survive more optimization; register pressure needs it.
        let level = if file == "pressure" { "-O2" } else { "-O1" };
        let flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", level, "-static", "-pthread", "-o"];
        s.host(compiler).args(flags).arg(&program).arg(source).arg("-lm").run()?.succeeds()?;
        done.push(program.clone());
    }
    Ok(program)
}

/// A probe that is in a C file but in no story would never run.
fn all_are_listed(s: &Stage) -> Result<(), Failed> {
    for (file, names) in FILES {
        let guest = arm(s, file)?;
        let done = s.guest_file(&guest).run()?.exits(2)?;
        let text = done.text();
        let listed: Vec<&str> = text.lines().filter(|l| !PARTS.contains(l)).collect();
        let sorted = |mut v: Vec<&str>| -> Vec<String> {
            v.sort_unstable();
            v.into_iter().map(str::to_string).collect()
        };
        if sorted(listed) != sorted(names.to_vec()) {
            return Err(done.fail(&format!("guest/{file}.c and the table in probes.rs differ")));
        }
    }
    Ok(())
}
