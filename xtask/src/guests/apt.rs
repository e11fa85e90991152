//! A private apt: its own state, cache, sources and architecture; nothing of the host's package database is touched.
//!
//! Invariants: works as any user (no dpkg lock, no `_apt` sandbox user); a failure names the package and keeps what was
//! fetched, so that the next run continues.

use super::sets::Root;
use super::sources;
use crate::process::{capture, shown};
use spec::error::{Context, Error, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Attempts at the network, with a doubling pause from [`FIRST_PAUSE`] between them.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(2);

pub struct Apt {
    config: PathBuf,
    archives: PathBuf,
}

impl Apt {
    /// Writes the configuration under `guests/apt/ARCH`.
    pub fn new(guests: &Path, root: Root) -> Result<Apt> {
        let architecture = root.architecture();
        let dir = guests.join("apt").join(architecture);
        let archives = guests.join("debs");
        for sub in ["state/lists/partial", "cache", "etc/preferences.d"] {
            make_dir(&dir.join(sub))?;
        }
        make_dir(&archives.join("partial"))?;
        let status = dir.join("state/status");
        write(&status, "")?;
        let lines: Vec<String> = sources::sources(Path::new("/etc/apt")).iter().map(|s| s.line(architecture)).collect();
        let list = dir.join("etc/sources.list");
        write(&list, &(lines.join("\n") + "\n"))?;
        let config = dir.join("etc/apt.conf");
        let at = |p: &str| dir.join(p).display().to_string();
        let text = format!(
            "APT::Architecture \"{architecture}\";\n#clear APT::Architectures;\nAPT::Architectures {{ \"{architecture}\"; }};\n\
             APT::Install-Recommends \"false\";\nAPT::Get::AllowUnauthenticated \"false\";\nAPT::Sandbox::User \"\";\n\
             APT::Keep-Downloaded-Packages \"true\";\nAcquire::Languages \"none\";\nAcquire::Retries \"2\";\n\
             Acquire::http::Timeout \"30\";\nAcquire::https::Timeout \"30\";\nDebug::NoLocking \"true\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
             #clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n#clear DPkg::Post-Invoke;\n\
             #clear APT::Default-Release;\n\
             Dir::State \"{}\";\nDir::State::Lists \"{}\";\nDir::State::status \"{}\";\nDir::Cache \"{}\";\n\
             Dir::Cache::archives \"{}\";\nDir::Etc::SourceList \"{}\";\nDir::Etc::SourceParts \"-\";\n\
             Dir::Etc::Preferences \"-\";\nDir::Etc::PreferencesParts \"{}\";\n",
            at("state"),
            at("state/lists"),
            status.display(),
            at("cache"),
            archives.display(),
            list.display(),
            at("etc/preferences.d"),
        );
        write(&config, &text)?;
        Ok(Apt { config, archives })
    }

    fn get(&self) -> Command {
        let mut c = Command::new("apt-get");
        c.arg("-c").arg(&self.config).env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        c
    }

    /// Fetches the package lists.
    pub fn update(&self) -> Result<()> {
        retry(|| capture(self.get().args(["update", "-q", "--error-on=any"])).map(drop))
            .context(|| format!("The package lists of Debian {} could not be fetched", super::sets::RELEASE))
    }

    /// The `.deb` files of these packages and everything they depend on, fetched where missing.
    pub fn fetch(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let plan = capture(self.get().args(["install", "-s", "-q"]).args(packages)).map_err(|e| explain(&e, packages))?;
        let debs: Vec<PathBuf> = plan.lines().filter_map(planned_file).map(|f| self.archives.join(f)).collect();
        if debs.is_empty() {
            return Err(Error::new(format!("apt planned nothing for {}", packages.join(" "))));
        }
        if !debs.iter().all(|d| d.exists()) {
            retry(|| {
                let mut c = self.get();
                c.args(["install", "-y", "-q", "--download-only", "-o", "Dpkg::Use-Pty=0"]).args(packages);
                capture(&mut c).map(drop)
            })
            .map_err(|e| explain(&e, packages))?;
        }
        match debs.iter().find(|d| !d.exists()) {
            Some(missing) => Err(Error::new(format!("apt did not fetch {}", missing.display()))),
            None => Ok(debs),
        }
    }
}

/// `Inst hello (2.10-3 Debian:12/stable [armhf])` → `hello_2.10-3_armhf.deb`, as apt names its cache files.
fn planned_file(line: &str) -> Option<String> {
    let rest = line.strip_prefix("Inst ")?;
    let (name, rest) = rest.split_once(" (")?;
    let (origin, _pending) = rest.split_once(')')?;
    let version = origin.split(' ').next()?.replace(':', "%3a");
    let architecture = origin.rsplit_once('[')?.1.trim_end_matches(']');
    Some(format!("{}_{version}_{architecture}.deb", name.split(':').next()?))
}

/// Puts the package that apt complains about in front.
fn explain(error: &Error, packages: &[&str]) -> Error {
    let text = error.to_string();
    let complaint = text.lines().map(str::trim).find(|l| l.starts_with("E: "));
    let named = complaint.and_then(|c| packages.iter().find(|p| c.split([' ', '/', '_']).any(|w| w == **p)));
    match (named, complaint) {
        (Some(package), Some(complaint)) => Error::new(format!("The Debian package '{package}' could not be fetched: {complaint}")),
        _ => Error::new(format!("The Debian packages {} could not be fetched: {text}", packages.join(" "))),
    }
}

fn retry(mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    let mut pause = FIRST_PAUSE;
    for n in 1.. {
        match attempt() {
            Err(error) if n < ATTEMPTS => {
                eprintln!("{error}\n(attempt {n} of {ATTEMPTS}; next in {} s)", pause.as_secs());
                std::thread::sleep(pause);
                pause *= 2;
            }
            result => return result,
        }
    }
    unreachable!("the last attempt returns")
}

/// Whether the tools this needs are there.
pub fn probe() -> Result<()> {
    for (tool, package) in [("apt-get", "apt"), ("dpkg-deb", "dpkg"), ("tar", "tar")] {
        let mut c = Command::new(tool);
        c.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        c.status().context(|| format!("{} does not run; guests come from Debian packages and need the package '{package}'", shown(&c)))?;
    }
    Ok(())
}

fn make_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).context(|| format!("Could not create '{}'", dir.display()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).context(|| format!("Could not write '{}'", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_file_names_follow_apts_plan() {
        let check = |line: &str, file: Option<&str>| assert_eq!(planned_file(line).as_deref(), file);
        check("Inst hello (2.10-3 Debian:12.1/stable [armhf])", Some("hello_2.10-3_armhf.deb"));
        check("Inst libc6 (2.36-9 Debian:12.1/stable [armhf]) [libgcc-s1:armhf ]", Some("libc6_2.36-9_armhf.deb"));
        check("Inst zlib1g:armhf (1:1.2.13.dfsg-1 Debian:12/stable [armhf])", Some("zlib1g_1%3a1.2.13.dfsg-1_armhf.deb"));
        check("Conf hello (2.10-3 Debian:12.1/stable [armhf])", None);
    }

    #[test]
    fn apts_complaint_is_led_by_the_package() {
        let error = explain(&Error::new("apt-get failed:\n  E: Unable to locate package nosuch"), &["hello", "nosuch"]);
        assert!(error.to_string().starts_with("The Debian package 'nosuch' could not be fetched: E: Unable"), "{error}");
    }
}
