//! From `.deb` files to a root directory, without running a maintainer script.
//!
//! Invariants: the root is merged-/usr (`bin`, `sbin`, `lib` are links into `usr`), and every symbolic link in it is
//! relative, so that following one from outside the root stays inside.

use spec::error::{Context, Error, Result};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The links of a merged-/usr Debian root.
const USR_LINKS: &[&str] = &["bin", "sbin", "lib"];

pub fn prepare(root: &Path) -> Result<()> {
    for dir in USR_LINKS {
        let link = root.join(dir);
        std::fs::create_dir_all(root.join("usr").join(dir)).context(|| format!("Could not create '{}'", root.display()))?;
        if link.symlink_metadata().is_err() {
            symlink(format!("usr/{dir}"), &link).context(|| format!("Could not link '{}'", link.display()))?;
        }
    }
    for dir in ["tmp", "etc"] {
        std::fs::create_dir_all(root.join(dir)).context(|| format!("Could not create '{}'", root.join(dir).display()))?;
    }
    Ok(())
}

/// Whether files keep the modes of their package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modes {
    /// No owners and no set-user-id bits: the root may belong to any user, and runs on the host.
    Plain,
    /// For a disk image.
    Kept,
}

/// Unpacks one package over the root; links to directories in the root stay links.
pub fn unpack(deb: &Path, root: &Path, modes: Modes) -> Result<()> {
    let failed = || format!("Could not unpack '{}'", deb.display());
    let mut dpkg = Command::new("dpkg-deb").arg("--fsys-tarfile").arg(deb).stdout(Stdio::piped()).spawn().context(failed)?;
    let tarball = dpkg.stdout.take().expect("piped above");
    let permissions = if modes == Modes::Kept { "--same-permissions" } else { "--no-same-permissions" };
    let tar = Command::new("tar")
        .args(["-x", "--keep-directory-symlink", "--no-same-owner", permissions, "-C"])
        .arg(root)
        .stdin(tarball)
        .output()
        .context(failed)?;
    let status = dpkg.wait().context(failed)?;
    if !status.success() || !tar.status.success() {
        let reason = String::from_utf8_lossy(&tar.stderr).trim().to_string();
        return Err(Error::new(format!("{}: {reason} (dpkg-deb: {status}, tar: {}); delete the file to fetch it again", failed(), tar.status)));
    }
    Ok(())
}

/// Makes the absolute symbolic links below `root` relative.
pub fn relative_links(root: &Path) -> Result<()> {
    let mut pending = vec![root.to_path_buf()];
    while let Some(dir) = pending.pop() {
        let entries = std::fs::read_dir(&dir).context(|| format!("Could not list '{}'", dir.display()))?;
        for entry in entries {
            let entry = entry.context(|| format!("Could not list '{}'", dir.display()))?;
            let kind = entry.file_type().context(|| format!("Could not examine '{}'", entry.path().display()))?;
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_symlink() {
                relink(root, &entry.path())?;
            }
        }
    }
    Ok(())
}

fn relink(root: &Path, link: &Path) -> Result<()> {
    let failed = || format!("Could not make the link '{}' relative", link.display());
    let target = std::fs::read_link(link).context(failed)?;
    let Ok(inside) = target.strip_prefix("/") else { return Ok(()) };
    // Links into the kernel's file systems mean the host's.
    if ["proc", "sys", "dev", "run"].iter().any(|d| inside.starts_with(d)) {
        return Ok(());
    }
    let here = link.parent().and_then(|p| p.strip_prefix(root).ok()).unwrap_or(Path::new(""));
    std::fs::remove_file(link).context(failed)?;
    symlink(relative(here, inside), link).context(failed)
}

/// The way from directory `from` to `to`, both relative to the root.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let mut way: PathBuf = from.components().map(|_| "..").collect();
    way.push(to);
    way
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_up_and_down() {
        assert_eq!(relative(Path::new("usr/lib/jvm"), Path::new("etc/java")), Path::new("../../../etc/java"));
        assert_eq!(relative(Path::new(""), Path::new("etc/x")), Path::new("etc/x"));
    }

    #[test]
    fn absolute_links_are_made_relative_and_others_kept() {
        let root = std::env::temp_dir().join(format!("rhea-unpack-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        prepare(&root).unwrap();
        symlink("/etc/java", root.join("usr/bin/conf")).unwrap();
        symlink("../x", root.join("usr/bin/kept")).unwrap();
        symlink("/proc/self/mounts", root.join("etc/mtab")).unwrap();
        relative_links(&root).unwrap();
        let read = |p: &str| std::fs::read_link(root.join(p)).unwrap();
        assert_eq!(read("usr/bin/conf"), Path::new("../../etc/java"));
        assert_eq!(read("usr/bin/kept"), Path::new("../x"));
        assert_eq!(read("etc/mtab"), Path::new("/proc/self/mounts"));
        assert_eq!(read("bin"), Path::new("usr/bin"));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
