//! Inside a chroot, with a copy of the emulator: how Debian images for other machines are built.
//!
//! These need root (chroot, device nodes) and an emulator that is a static binary.

use crate::Story;
use crate::stage::Stage;
use libtest_mimic::Failed;

#[rustfmt::skip]
pub const STORIES: &[Story] = &[
    Story::core("ldconfig_1000_times",   300, ldconfig_1000_times),
    Story::core("static_program",         60, static_program),
    Story::core("binfmt_by_hand",         60, binfmt_by_hand),
    Story::core("binfmt",                 90, binfmt),
    Story::full("debootstrap_and_dpkg", 3000, debootstrap_and_dpkg),
];

/// How often; `ldconfig` is a static PIE that emulators were known to crash at random addresses.
const LDCONFIG_RUNS: usize = 1000;

fn ldconfig_1000_times(s: &Stage) -> Result<(), Failed> {
    let setting = std::fs::read_to_string("/proc/sys/kernel/randomize_va_space")?;
    if setting.trim() == "0" {
        eprintln!("ldconfig_1000_times: this host does not randomize addresses, so this shows less than elsewhere");
    }
    let library = s.root().join("usr/lib/arm-linux-gnueabihf");
    std::fs::create_dir_all(s.work.join("lib"))?;
    for name in ["libc.so.6", "libm.so.6", "libdl.so.2"] {
        std::fs::copy(library.join(name), s.work.join("lib").join(name))?;
    }
    let mut first = Vec::new();
    for n in 0..LDCONFIG_RUNS {
        let run = s.guest("usr/sbin/ldconfig").args(["-X", "-f", "/dev/null", "-C", "cache"]).arg(s.work.join("lib"));
        run.run()?.succeeds().map_err(|e| format!("run {n}: {}", e.message().unwrap_or_default()))?;
        let cache = std::fs::read(s.work.join("cache"))?;
        if n == 0 {
            first = cache;
        } else if cache != first {
            return Err(format!("run {n} wrote a different cache").into());
        }
    }
    if first.windows(9).any(|w| w == b"libc.so.6") { Ok(()) } else { Err("the cache does not name libc.so.6".into()) }
}

/// The static BusyBox as the only file of a chroot, next to the emulator.
fn static_program(s: &Stage) -> Result<(), Failed> {
    let jail = s.work.join("jail");
    std::fs::create_dir_all(jail.join("bin"))?;
    std::fs::copy(&s.setting.emulator, jail.join("qemu-arm"))?;
    std::fs::copy(s.root().join("usr/bin/busybox"), jail.join("bin/busybox"))?;
    let script = "/bin/busybox uname -m; cd /; /bin/busybox ls; /bin/busybox sh -c 'echo $0 $((6*7))' inner; exit 3";
    let run = in_chroot(s, &jail).args(["/qemu-arm", "/bin/busybox", "sh", "-c", script]);
    run.run()?.exits(3)?.prints("armv7l\nbin\nproc\nqemu-arm\ninner 42\n")?;
    Ok(())
}

/// What the kernel's flag P gives an interpreter: the program's path, its own name, its arguments.
fn binfmt_by_hand(s: &Stage) -> Result<(), Failed> {
    let emulator = s.work.join("qemu-arm-binfmt-P");
    std::os::unix::fs::symlink(&s.setting.emulator, &emulator)?;
    let run = s.host(&emulator).env("QEMU_LD_PREFIX", s.root()).arg(s.root().join("usr/bin/cat"));
    run.args(["odd name", "/proc/self/cmdline"]).run()?.succeeds()?.prints("odd name\0/proc/self/cmdline\0")?;
    Ok(())
}

/// Registers the emulator with the kernel, in a user namespace so that the host has no part in it (Linux 6.7), with the flags
/// O, C, F and P: names survive, programs run that cannot be read, or change the user, and a chroot needs nothing in it.
fn binfmt(s: &Stage) -> Result<(), Failed> {
    const SETTING: &str = r#"
unshare -U -m true 2>/dev/null || { echo absent; exit 0; }
unshare -U -m sleep 600 & holder=$!
while [ "$(readlink /proc/$holder/ns/user)" = "$(readlink /proc/self/ns/user)" ]; do sleep 0.01; done
if [ "$(id -u)" = 0 ]; then keep=; echo 0 0 65536 > /proc/$holder/uid_map; echo 0 0 65536 > /proc/$holder/gid_map
else keep=--preserve-credentials; echo deny > /proc/$holder/setgroups; echo 0 "$(id -u)" 1 > /proc/$holder/uid_map; echo 0 "$(id -g)" 1 > /proc/$holder/gid_map; fi
nsenter -t $holder -U -m $keep bash -c "$1" "$0" "$2" "$3" "$4"; status=$?; kill $holder; exit $status"#;
    const INSIDE: &str = r#"
emulator=$0 root=$1 work=$2
mount -t binfmt_misc none "$work/binfmt" 2>/dev/null || { echo absent; exit 0; }
mount --rbind "$root" "$work/root" || exit 8; root=$work/root
head='\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x28\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
printf '%s' ":arm:M::$head:$mask:$emulator:OCFP" > "$work/binfmt/register" || exit 9
export QEMU_LD_PREFIX=$root
(exec -a 'odd name' "$root/usr/bin/cat" /proc/self/cmdline) | tr '\0' '|'; echo
if [ "$3" = several ]; then other="setpriv --reuid 1000 --regid 1000 --clear-groups"
cp "$root/usr/bin/id" "$work/plain"; chmod 0111 "$work/plain"; $other "$work/plain" -u
cp "$root/usr/bin/id" "$work/owned"; chown 1234 "$work/owned"; chmod 4111 "$work/owned"; $other "$work/owned" -u; fi
printf '#!/bin/busybox sh\necho script $0 $1\n' > "$work/jail/script"; chmod 755 "$work/jail/script"
chroot "$work/jail" /bin/busybox sh -c '/bin/busybox uname -m; /script one; /bin/busybox env /script two; echo $0' name"#;
    // The libraries, where other users may read them: not all may enter the home directory of root.
    for directory in ["binfmt", "root", "jail/bin"] {
        std::fs::create_dir_all(s.work.join(directory))?;
    }
    std::fs::copy(s.root().join("usr/bin/busybox"), s.work.join("jail/bin/busybox"))?;
    // Other users must be able to come here.
    for directory in s.work.ancestors().take(2) {
        std::fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    // An ordinary user has one user only in a namespace.
    let (users, seen) = if rustix::process::geteuid().is_root() { ("several", "1000\n1234\n") } else { ("one", "") };
    let run = s.host("bash").args(["-c", SETTING]).arg(&s.setting.emulator).arg(INSIDE).arg(s.root()).arg(&s.work).arg(users);
    let done = run.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").run()?.succeeds()?;
    if done.text() != "absent\n" {
        done.prints(&format!("odd name|/proc/self/cmdline|\n{seen}armv7l\nscript /script one\nscript /script two\nname\n"))?;
    }
    Ok(())
}

/// A chroot with /proc, in a mount namespace of its own, so that nothing stays mounted; as an ordinary user, in a user namespace.
/// Root in a container that may not mount has a chroot without /proc.
fn in_chroot<'a>(s: &'a Stage, root: &std::path::Path) -> crate::stage::Run<'a> {
    let flags = if rustix::process::geteuid().is_root() { "-m" } else { "-mr" };
    const SCRIPT: &str = r#"
flags=$0; mkdir -p "$1/proc"
unshare $flags sh -c 'mount --rbind /proc "$0/proc"' "$1" 2>/dev/null || exec chroot "$@"
exec unshare $flags sh -c 'mount --rbind /proc "$0/proc" && exec chroot "$0" "$@"' "$@""#;
    let run = s.host("sh").args(["-c", SCRIPT, flags]).arg(root);
    run.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root").env("TMPDIR", "/tmp")
}

fn debootstrap_and_dpkg(s: &Stage) -> Result<(), Failed> {
    if !rustix::process::geteuid().is_root() {
        return Err("debootstrap makes device nodes and so needs root".into());
    }
    let root = s.root();
    let sources = std::fs::read_to_string(s.setting.guests.join("apt/armhf/etc/sources.list"))?;
    let mirror = sources.split_whitespace().find(|w| w.contains("://")).ok_or("the guests' sources.list names no mirror")?;
    let jail = s.work.join("debian");
    let first = s.host("sh").arg(root.join("usr/sbin/debootstrap")).env("DEBOOTSTRAP_DIR", root.join("usr/share/debootstrap"));
    let first = first.args(["--foreign", "--arch=armhf", "--variant=minbase", "--include=hello,perl", "bookworm"]).arg(&jail).arg(mirror);
    first.run()?.succeeds()?;
    std::fs::copy(&s.setting.emulator, jail.join("usr/bin/qemu-arm"))?;
    let second = in_chroot(s, &jail).args(["/usr/bin/qemu-arm", "/bin/sh", "/debootstrap/debootstrap", "--second-stage"]);
    second.run()?.succeeds()?.contains("Base system installed successfully")?;
    let script = "set -e; dpkg --configure -a; dpkg -l hello | tail -n1 | cut -c1-2; dpkg --audit; hello; \
        mkdir -p /p/DEBIAN /p/usr/share/own; echo data > /p/usr/share/own/file; \
        printf 'Package: own\\nVersion: 1\\nArchitecture: armhf\\nMaintainer: n <n@e>\\nDescription: d\\n' > /p/DEBIAN/control; \
        printf '#!/bin/sh\\necho configured by $(uname -m)\\n' > /p/DEBIAN/postinst; chmod 755 /p/DEBIAN/postinst; \
        dpkg-deb -b /p /own.deb >/dev/null; dpkg --unpack /own.deb >/dev/null; dpkg --configure own | tail -n1; cat /usr/share/own/file; \
        dpkg -r own >/dev/null; test ! -e /usr/share/own/file; ldconfig; perl -e 'print \"perl\\n\"'";
    let run = in_chroot(s, &jail).args(["/usr/bin/qemu-arm", "/bin/sh", "-c", script]);
    run.run()?.succeeds()?.prints("ii\nHello, world!\nconfigured by armv7l\ndata\nperl\n")?;
    Ok(())
}
