//! The guest programs: which Debian packages go into which root.
//!
//! To add a program, add its package to a row. Dependencies are resolved by apt; maintainer scripts do not run.

/// Guests are this Debian release, whatever the host is.
pub const RELEASE: &str = "bookworm";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// `armhf-root`: what the programs run from.
    Armhf,
    /// `amd64-root`: the same programs for the host, so that "emulated ÷ native" compares like with like.
    Amd64,
    /// `machine/kernels`: kernels for machines, each with an initial RAM disk (`initrd.rs`).
    Kernels,
    /// `machine/disk.img`: a disk that a machine boots from (`disk.rs`).
    Disk,
}

pub const ROOTS: [Root; 4] = [Root::Armhf, Root::Amd64, Root::Kernels, Root::Disk];

impl Root {
    pub fn architecture(self) -> &'static str {
        match self {
            Root::Armhf | Root::Kernels | Root::Disk => "armhf",
            Root::Amd64 => "amd64",
        }
    }
}

pub struct Set {
    pub name: &'static str,
    pub root: Root,
    /// Fetched when no set is named; the others with `--full`, or by name.
    pub default: bool,
    pub packages: &'static [&'static str],
}

#[rustfmt::skip]
pub const SETS: &[Set] = &[
    Set { name: "core", root: Root::Armhf, default: true, packages: &[
        // shells and the usual tools
        "busybox-static", "bash", "dash", "coreutils", "hello", "sed", "grep", "gawk", "findutils", "diffutils",
        "util-linux", "procps", "hostname", "libc-bin", "file", "bc", "tar", "time",
        // languages
        "perl-base", "perl", "python3-minimal", "python3", "libpython3.11-testsuite", "lua5.4",
        // data
        "sqlite3", "openssl", "xz-utils", "gzip", "bzip2", "zstd",
    ] },
    // A kernel with its initrd (BusyBox inside), for machines.
    Set { name: "installer", root: Root::Armhf, default: true, packages: &["debian-installer-12-netboot-armhf"] },
    Set { name: "firmware", root: Root::Armhf, default: true, packages: &["u-boot-qemu", "qemu-efi-arm"] },
    Set { name: "kernels", root: Root::Kernels, default: true, packages: &["linux-image-armmp", "linux-image-armmp-lpae", "busybox-static"] },
    Set { name: "disk", root: Root::Disk, default: true, packages: &[
        // what every Debian has, and an init
        "base-files", "base-passwd", "bash", "coreutils", "dash", "debianutils", "diffutils", "dpkg", "findutils", "grep", "gzip",
        "hostname", "init-system-helpers", "libc-bin", "login", "mawk", "mount", "ncurses-base", "ncurses-bin", "perl-base", "sed",
        "sysvinit-utils", "tar", "util-linux", "apt", "passwd", "libpam-runtime", "libpam-modules", "kmod", "procps", "udev", "dbus",
        "systemd-sysv", "e2fsprogs", "iproute2",
        // what the stories and the benchmark do in it
        "gcc", "libc6-dev", "python3", "openssl", "stress-ng",
    ] },
    // For its file in /boot alone.
    Set { name: "xen",   root: Root::Armhf, default: false, packages: &["xen-hypervisor-4.17-armhf"] },
    Set { name: "git",   root: Root::Armhf, default: false, packages: &["git"] },
    Set { name: "gcc",   root: Root::Armhf, default: false, packages: &["gcc", "libc6-dev", "make"] },
    Set { name: "node",  root: Root::Armhf, default: false, packages: &["nodejs"] },
    // gron is a Go program with a Go runtime, goroutines and the Go garbage collector; small enough to fetch.
    Set { name: "go",    root: Root::Armhf, default: false, packages: &["gron", "golang-go"] },
    Set { name: "java",  root: Root::Armhf, default: false, packages: &["openjdk-17-jdk-headless"] },
    Set { name: "compilers", root: Root::Armhf, default: false, packages: &["luajit", "sbcl", "erlang-base", "ruby", "php-cli", "valgrind"] },
    Set { name: "video", root: Root::Armhf, default: false, packages: &["ffmpeg"] },
    Set { name: "debootstrap", root: Root::Armhf, default: false, packages: &["debootstrap"] },
    Set { name: "bench", root: Root::Amd64, default: false, packages: &[
        "bash", "coreutils", "sed", "grep", "gawk", "perl", "python3", "lua5.4",
        "sqlite3", "openssl", "xz-utils", "gzip", "bzip2", "zstd",
    ] },
];

pub fn find(name: &str) -> Option<&'static Set> {
    SETS.iter().find(|s| s.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_names_are_unique_and_rows_are_not_empty() {
        for set in SETS {
            assert_eq!(SETS.iter().filter(|s| s.name == set.name).count(), 1, "{}", set.name);
            assert!(!set.packages.is_empty(), "{}", set.name);
        }
    }
}
