//! A disk image with a Debian root: packages unpacked, set up by us, made into ext4 by `mke2fs -d`.
//!
//! Nothing is mounted and no maintainer script runs, so any user can do this, on any host: what those scripts would have written
//! and a boot needs is in [`FILES`]. dpkg's database is written from the packages, so that dpkg and apt work in the guest.
//! Root's password is empty. Files belong to root in the image: by `fakeroot` where the builder is somebody else.

use super::initrd::remove;
use super::unpack::{self, Modes};
use crate::process::capture;
use spec::error::{Context, Result};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The size of the file system; the image is sparse.
const SIZE: &str = "1200M";

/// Files that a configured Debian has and no package contains.
#[rustfmt::skip]
const FILES: &[(&str, u32, &str)] = &[
    ("etc/hostname", 0o644, "rhea\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost rhea\n"),
    ("etc/resolv.conf", 0o644, "nameserver 10.0.2.3\n"),
    ("etc/fstab", 0o644, "/dev/vda / ext4 errors=remount-ro 0 1\n"),
    ("etc/machine-id", 0o444, "52686561205268656120526865612052\n"),
    ("etc/apt/sources.list", 0o644, "deb http://deb.debian.org/debian bookworm main\n"),
    ("etc/shadow", 0o600, "root::20000:0:99999:7:::\n"),
    ("etc/pam.d/common-auth", 0o644, "auth required pam_unix.so nullok\n"),
    ("etc/pam.d/common-account", 0o644, "account required pam_unix.so\n"),
    ("etc/pam.d/common-password", 0o644, "password required pam_unix.so nullok yescrypt\n"),
    ("etc/pam.d/common-session", 0o644, "session required pam_unix.so\nsession optional pam_systemd.so\n"),
    ("etc/pam.d/common-session-noninteractive", 0o644, "session required pam_unix.so\n"),
    ("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"),
    ("etc/environment", 0o644, ""),
    ("root/.profile", 0o644, "export PS1='\\u@\\h:\\w# '\n"),
    ("etc/default/locale", 0o644, "LANG=C.UTF-8\n"),
    ("etc/systemd/network/any.network", 0o644, "[Match]\nName=e*\n[Network]\nDHCP=yes\n"),
    // The guest's caches are as new as its programs: no first-boot work.
    ("etc/.updated", 0o644, ""),
    ("var/.updated", 0o644, ""),
];

const DIRECTORIES: &[&str] = &["media", "mnt", "opt", "srv"];

/// (link, target)
const LINKS: &[(&str, &str)] = &[
    ("usr/bin/awk", "mawk"),
    ("usr/bin/cc", "gcc"),
    ("etc/localtime", "/usr/share/zoneinfo/Etc/UTC"),
    ("var/run", "/run"),
    ("var/lock", "/run/lock"),
];

/// Users that packages make for their services: (name, number).
const USERS: &[(&str, u32)] = &[("messagebus", 100), ("systemd-network", 998), ("systemd-resolve", 997), ("systemd-timesync", 996), ("_apt", 995)];
const GROUPS: &[(&str, u32)] = &[("systemd-journal", 990), ("input", 991), ("sgx", 992), ("kvm", 993), ("render", 994)];

pub fn build(image: &Path, debs: &[PathBuf]) -> Result<()> {
    let tree = image.with_extension("tree");
    remove(&tree)?;
    unpack::prepare(&tree)?;
    let info = tree.join("var/lib/dpkg/info");
    std::fs::create_dir_all(&info).context(|| format!("Could not create '{}'", info.display()))?;
    let mut status = String::new();
    for deb in debs {
        unpack::unpack(deb, &tree, Modes::Kept)?;
        status += &register(deb, &info)?;
    }
    let file = |name: &str| tree.join(name);
    write(&file("var/lib/dpkg/status"), 0o644, &status)?;
    write(&file("var/lib/dpkg/available"), 0o644, "")?;
    accounts(&tree)?;
    for (name, mode, text) in FILES {
        write(&file(name), *mode, text)?;
    }
    for name in DIRECTORIES {
        std::fs::create_dir_all(file(name)).context(|| format!("Could not create '{}'", file(name).display()))?;
    }
    for (name, target) in LINKS {
        link(&file(name), target)?;
    }
    let unfinished = image.with_extension("part");
    mke2fs(&tree, &unfinished)?;
    std::fs::rename(&unfinished, image).context(|| format!("Could not write '{}'", image.display()))?;
    remove(&tree)
}

/// Puts a package into dpkg's database; gives its paragraph of the status file.
fn register(deb: &Path, info: &Path) -> Result<String> {
    let fields = capture(Command::new("dpkg-deb").arg("-f").arg(deb))?;
    let field = |name: &str| fields.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "));
    let package = field("Package").unwrap_or_default();
    // dpkg's name for the files of a package that may be there for several architectures
    let stem = match (field("Multi-Arch"), field("Architecture")) {
        (Some("same"), Some(architecture)) => format!("{package}:{architecture}"),
        _ => package.to_string(),
    };
    let control = info.join("unpacked");
    capture(Command::new("dpkg-deb").arg("-e").arg(deb).arg(&control))?;
    for entry in std::fs::read_dir(&control).context(|| format!("Could not list '{}'", control.display()))?.flatten() {
        if entry.file_name() != "control" {
            let to = info.join(format!("{stem}.{}", entry.file_name().to_string_lossy()));
            std::fs::rename(entry.path(), &to).context(|| format!("Could not write '{}'", to.display()))?;
        }
    }
    remove(&control)?;
    let listed = capture(Command::new("dpkg-deb").arg("-c").arg(deb))?;
    write(&info.join(format!("{stem}.list")), 0o644, &file_list(&listed))?;
    Ok(paragraph(&fields))
}

/// From `dpkg-deb -c` to a `.list` file: every path, without the dot in front.
fn file_list(listed: &str) -> String {
    let mut text = String::new();
    for line in listed.lines() {
        let Some(at) = line.find(" ./") else { continue };
        let path = line[at + 2..].split(" -> ").next().unwrap_or_default().trim_end_matches('/');
        let _ = writeln!(text, "{}", if path.is_empty() { "/." } else { path });
    }
    text
}

fn paragraph(fields: &str) -> String {
    let (first, rest) = fields.trim_end().split_once('\n').unwrap_or((fields, ""));
    format!("{first}\nStatus: install ok installed\n{rest}\n\n")
}

/// `/etc/passwd` and `/etc/group` from base-passwd's masters, and the services' users.
fn accounts(tree: &Path) -> Result<()> {
    let master = |name: &str| {
        let file = tree.join("usr/share/base-passwd").join(name);
        std::fs::read_to_string(&file).context(|| format!("Could not read '{}'", file.display()))
    };
    let mut passwd = master("passwd.master")?.replace("root:*:", "root:x:");
    let mut group = master("group.master")?;
    for (name, number) in USERS {
        let _ = writeln!(passwd, "{name}:!:{number}:{number}::/nonexistent:/usr/sbin/nologin");
    }
    for (name, number) in USERS.iter().chain(GROUPS) {
        let _ = writeln!(group, "{name}:!:{number}:");
    }
    write(&tree.join("etc/passwd"), 0o644, &passwd)?;
    write(&tree.join("etc/group"), 0o644, &group)
}

fn write(file: &Path, mode: u32, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let failed = || format!("Could not write '{}'", file.display());
    std::fs::create_dir_all(file.parent().expect("in the tree")).context(failed)?;
    std::fs::write(file, text).context(failed)?;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).context(failed)
}

fn link(file: &Path, target: &str) -> Result<()> {
    if file.symlink_metadata().is_ok() {
        return Ok(());
    }
    std::os::unix::fs::symlink(target, file).context(|| format!("Could not link '{}'", file.display()))
}

fn mke2fs(tree: &Path, image: &Path) -> Result<()> {
    let _ = std::fs::remove_file(image);
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("mke2fs")
    } else {
        let mut fakeroot = Command::new("fakeroot");
        fakeroot.args(["--", "mke2fs"]);
        fakeroot
    };
    command.env("PATH", path).args(["-q", "-t", "ext4", "-L", "root", "-m", "0", "-E", "root_owner=0:0", "-d"]);
    capture(command.arg(tree).arg(image).arg(SIZE))
        .map(drop)
        .context(|| "The disk image could not be made (Debian packages: e2fsprogs, and fakeroot unless you are root)".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_file_has_every_path_without_the_dot() {
        let listed = "drwxr-xr-x root/root 0 2022-01-01 00:00 ./\ndrwxr-xr-x root/root 0 2022-01-01 00:00 ./bin/\n\
                      lrwxrwxrwx root/root 0 2022-01-01 00:00 ./bin/sh -> dash\n-rwxr-xr-x root/root 9 2022-01-01 00:00 ./bin/a b\n";
        assert_eq!(file_list(listed), "/.\n/bin\n/bin/sh\n/bin/a b\n");
    }

    #[test]
    fn a_paragraph_says_installed() {
        assert_eq!(paragraph("Package: dash\nVersion: 1\n"), "Package: dash\nStatus: install ok installed\nVersion: 1\n\n");
    }
}
