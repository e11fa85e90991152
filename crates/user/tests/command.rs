//! The command itself: small ARM programs run, mistakes get QEMU's sentences and exit statuses.

use std::path::PathBuf;
use std::process::{Command, Output};

const EMULATOR: &str = env!("CARGO_BIN_EXE_qemu-arm");

fn run(args: &[&str]) -> Output {
    Command::new(EMULATOR).args(args).output().expect("the emulator starts")
}

fn stderr(o: &Output) -> String {
    String::from_utf8_lossy(&o.stderr).into_owned()
}

/// Builds a C program for 32-bit ARM; its path.
fn build(name: &str, source: &str, flags: &[&str]) -> String {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (c, program) = (directory.join(format!("{name}.c")), directory.join(name));
    std::fs::write(&c, source).expect("the target directory can be written");
    let made = Command::new("arm-linux-gnueabihf-gcc").args(["-O1", "-w"]).args(flags).arg(&c).arg("-o").arg(&program).status();
    let made = made.expect("arm-linux-gnueabihf-gcc is needed (Debian package gcc-arm-linux-gnueabihf)");
    assert!(made.success(), "the test program does not compile");
    program.to_str().expect("a plain path").to_owned()
}

#[test]
fn probes_of_calls_and_signals() {
    let program = build("guest", include_str!("guest.c"), &["-static", "-pthread", "-mfpu=neon"]);
    let o = run(&[&program]);
    let text = String::from_utf8_lossy(&o.stdout);
    let bad: Vec<&str> = text.lines().filter(|l| !l.starts_with("ok ")).collect();
    assert!(o.status.success() && bad.is_empty(), "{bad:?}\n{text}\n{}", stderr(&o));
    assert_eq!(text.lines().last(), Some("ok not replaced"), "{text}");
}

#[test]
fn arguments_environment_and_status_pass() {
    let source = "#include <stdio.h>\n#include <stdlib.h>\nint main(int c, char **v) { printf(\"%s %s %s %s\\n\", v[0], v[1], getenv(\"A\"), getenv(\"HOME\")); return 7; }";
    let program = build("arguments", source, &["-static"]);
    let o = run(&["-0", "zero", "-E", "A=1", "-U", "HOME", &program, "-x"]);
    assert_eq!(String::from_utf8_lossy(&o.stdout), "zero -x 1 (null)\n");
    assert_eq!(o.status.code(), Some(7));
}

#[test]
fn dynamic_programs_find_the_cross_toolchain() {
    let program = build("dynamic", "#include <stdio.h>\nint main(void) { puts(\"hi\"); return 0; }", &[]);
    let o = run(&[&program]);
    assert_eq!(String::from_utf8_lossy(&o.stdout), "hi\n", "{}", stderr(&o));
    let o = run(&["-L", "/nowhere", &program]);
    assert_eq!(o.status.code(), Some(255));
    assert!(stderr(&o).starts_with("qemu-arm: Could not open '/lib/ld-linux-armhf.so.3': No such file or directory\n"));
}

#[test]
fn a_fatal_signal_ends_the_emulator() {
    use std::os::unix::process::ExitStatusExt;
    let program = build("fatal", "int main(void) { *(volatile int *)0x1234 = 1; return 0; }", &["-static"]);
    let o = run(&[&program]);
    assert_eq!(o.status.signal(), Some(11));
    assert!(stderr(&o).starts_with("qemu: uncaught target signal 11 (Segmentation fault) - core dumped\n"), "{}", stderr(&o));
}

#[test]
fn mistakes_have_sentences_and_statuses() {
    for (args, status, sentence) in [
        (&[][..], 1, "qemu: no user program specified\n"),
        (&["-foo"], 1, "qemu: unknown option 'foo'\n"),
        (&["./nofile"], 1, "Error while loading ./nofile: No such file or directory\n"),
        (&[EMULATOR], 255, "Invalid ELF image for this architecture\n"),
        (&["-cpu", "foo", "x"], 1, "qemu-arm: unable to find CPU model 'foo'\n"),
    ] {
        let o = run(args);
        assert_eq!(o.status.code(), Some(status), "{args:?}");
        assert!(stderr(&o).ends_with(sentence), "{args:?}: {}", stderr(&o));
    }
    assert!(String::from_utf8_lossy(&run(&["-version"]).stdout).starts_with("qemu-arm version 10.0.2"));
}
