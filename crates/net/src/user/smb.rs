//! `smb=dir`: a share named `qemu`, served by the host's Samba at the virtual SMB server's address.
//!
//! Reference: smb.conf(5), smbd(8): with a socket as standard input it serves one connection.
//! Not modelled: a share without Samba.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use spec::error::{Context, Error, Result};

use super::config::Config;
use super::forward::{ForwardTarget, GuestForward};

const SMBD: &[&str] = &["/usr/sbin/smbd", "/usr/local/sbin/smbd", "/usr/local/samba/sbin/smbd"];
/// NetBIOS session service, and SMB directly over TCP.
const PORTS: [u16; 2] = [139, 445];

const CONFIGURATION: &str = "smb.conf";
/// How long Samba's helpers may take to end, and how often we look.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// Samba's private directory; removed with the back end, as are the processes that use it.
#[derive(Debug)]
pub struct Share {
    directory: PathBuf,
}

impl Drop for Share {
    fn drop(&mut self) {
        // Helpers of smbd lead sessions of their own and stay when the connections they were started for have ended.
        let end = Instant::now() + PATIENCE;
        loop {
            let left = helpers(&self.directory);
            let late = Instant::now() >= end;
            for pid in &left {
                let _ = kill_process(*pid, if late { Signal::KILL } else { Signal::TERM });
            }
            if left.is_empty() || late {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Processes that were given the configuration in this directory, whose name is ours alone.
fn helpers(directory: &Path) -> Vec<Pid> {
    let name = directory.join(CONFIGURATION).into_os_string().into_encoded_bytes();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let found = processes.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        command.windows(name.len()).any(|part| part == name).then_some(pid)
    });
    found.filter_map(Pid::from_raw).collect()
}

/// Prepares the share and adds its virtual servers to the configuration.
pub fn open(config: &mut Config) -> Result<Option<Share>> {
    let Some(shared) = &config.smb else { return Ok(None) };
    let net = config.v4.ok_or_else(|| Error::new("smb= needs IPv4"))?;
    let path = shared.canonicalize().context(|| format!("smb directory '{}' cannot be shared", shared.display()))?;
    let smbd = SMBD.iter().find(|path| Path::new(path).exists());
    let smbd = smbd.ok_or_else(|| Error::new("smb= needs Samba's server, and there is no /usr/sbin/smbd (package samba)"))?;
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let unique = format!("net-smb-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let directory = std::env::temp_dir().join(unique);
    let sentence = || format!("could not write '{}'", directory.display());
    std::fs::DirBuilder::new().mode(0o700).create(&directory).context(sentence)?;
    let share = Share { directory: directory.clone() };
    let text = configuration(&directory, &path)?;
    std::fs::write(directory.join(CONFIGURATION), text).context(sentence)?;
    let command = format!("exec {smbd} -l '{0}' -s '{0}/{CONFIGURATION}'", directory.display());
    for port in PORTS {
        let server = SocketAddr::new(IpAddr::V4(net.smb), port);
        config.guestfwd.push(GuestForward { server, target: ForwardTarget::Command(command.clone()), rule: "smb=".into() });
    }
    Ok(Some(share))
}

fn configuration(private: &Path, shared: &Path) -> Result<String> {
    let shared = shared.to_str().filter(|s| !s.contains(['\n', '%']));
    let shared = shared.ok_or_else(|| Error::new("smb= cannot share a directory with such a name"))?;
    let private = private.display();
    let mut text = String::from("[global]\n");
    for key in ["private dir", "pid directory", "lock directory", "state directory", "cache directory", "ncalrpc dir"] {
        text += &format!("{key} = {private}\n");
    }
    text += &format!("log file = {private}/log.smbd\nsmb passwd file = {private}/smbpasswd\n");
    text += "interfaces = 127.0.0.1\nbind interfaces only = yes\nsecurity = user\nmap to guest = Bad User\n";
    text += "load printers = no\nprinting = bsd\ndisable spoolss = yes\nusershare max shares = 0\n";
    text += &format!("[qemu]\npath = {shared}\nread only = no\nguest ok = yes\n");
    // Guests of the share have the rights of whoever runs the machine.
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    if let Some(user) = user_name(&accounts, rustix::process::geteuid().as_raw()) {
        text += &format!("force user = {user}\n");
    }
    Ok(text)
}

/// The name of a user in the text of `/etc/passwd`.
fn user_name(accounts: &str, id: u32) -> Option<&str> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_complete_or_the_error_says_what_is_missing() {
        let mut config = Config::parse("smb=/tmp").unwrap();
        match open(&mut config) {
            Ok(share) => {
                let share = share.expect("asked for");
                assert!(share.directory.join(CONFIGURATION).exists());
                let ports: Vec<u16> = config.guestfwd.iter().map(|f| f.server.port()).collect();
                assert_eq!((ports, config.guestfwd[0].server.ip()), (vec![139, 445], IpAddr::from([10, 0, 2, 4])));
            }
            Err(error) => assert!(error.to_string().contains("package samba"), "{error}"),
        }
        let missing = open(&mut Config::parse("smb=/does/not/exist").unwrap()).unwrap_err();
        assert!(missing.to_string().starts_with("smb directory '/does/not/exist'"), "{missing}");
        assert!(open(&mut Config::default()).unwrap().is_none());
    }

    #[test]
    fn what_uses_the_directory_ends_with_it() {
        let directory = std::env::temp_dir().join(format!("net-smb-test-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let file = directory.join(CONFIGURATION);
        let mut helper = std::process::Command::new("sh");
        let helper = helper.args(["-c", "echo; read line"]).arg(&file).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn();
        let mut helper = helper.unwrap();
        // It has become another program when it says something.
        std::io::Read::read_exact(helper.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let pid = Pid::from_child(&helper);
        assert_eq!(helpers(&directory), [pid]);
        assert!(helpers(Path::new("/nowhere")).is_empty());
        let reaper = std::thread::spawn(move || helper.wait().unwrap());
        drop(Share { directory: directory.clone() });
        assert!(!reaper.join().unwrap().success() && !directory.exists());
    }

    #[test]
    fn users_have_names() {
        let accounts = "root:x:0:0:root:/root:/bin/sh\nbroken\nme:x:1000:1000::/home/me:/bin/sh\n";
        assert_eq!([0, 1000, 1].map(|id| user_name(accounts, id)), [Some("root"), Some("me"), None]);
    }

    #[test]
    fn names_cannot_add_lines() {
        assert!(configuration(Path::new("/p"), Path::new("/a\n[b]")).is_err());
        assert!(configuration(Path::new("/p"), Path::new("/a b")).unwrap().contains("path = /a b\n"));
    }
}
