//! `tap` by name with its scripts, the `bridge` helper and the kernel's service for rings, on a real kernel: each test runs this program again in namespaces where
//! an ordinary user is root. Where the kernel does not allow that (or a program is missing) the test says so on standard error.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use net::hub::Hub;
use net::netdev::Netdev;
use net::vhost::{RINGS, Region, Ring, Vhost};
use net::{Backend, Guest, Nanos, Offload, Transmit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

#[path = "../src/vhost/driver.rs"]
mod driver;

/// Set in the environment of the second run.
const INSIDE: &str = "RHEA_TEST_IN_NAMESPACE";
const HELPER: &str = "/usr/lib/qemu/qemu-bridge-helper";
const SECONDS: &str = "120";
const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
/// The kernel's address and the guest's.
const KERNEL: [u8; 4] = [192, 0, 2, 1];
const GUEST: [u8; 4] = [192, 0, 2, 15];

/// Runs the named test in namespaces of its own, if `probe` (a shell command) succeeds in such.
fn in_namespaces(name: &str, probe: &str, work: fn()) {
    in_namespaces_of(&["-Urnm"], name, probe, work);
}

/// `flags`: which namespaces, as `unshare` spells them.
fn in_namespaces_of(flags: &[&str], name: &str, probe: &str, work: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        return work();
    }
    let run = |arguments: &[&OsStr]| {
        let mut command = Command::new("unshare");
        command.args(flags).args(["timeout", SECONDS]).args(arguments).env(INSIDE, "1").stdin(Stdio::null());
        command.output()
    };
    let ready = run(&["sh", "-c", probe].map(OsStr::new));
    let refusal = match &ready {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_string()),
        Err(error) => Some(format!("unshare: {error}")),
    };
    if let Some(refusal) = refusal {
        // Past the test harness, which shows nothing of a test that passes.
        let _ =
            writeln!(std::io::stderr(), "NOT TESTED: {name}: '{probe}' is not possible in a namespace here: {refusal}");
        return;
    }
    let program = std::env::current_exe().unwrap();
    let output =
        run(&[program.as_os_str(), OsStr::new(name), OsStr::new("--exact"), OsStr::new("--nocapture")]).unwrap();
    let [text, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success() && text.contains("1 passed"), "{}\n{text}\n{errors}", output.status);
}

fn sh(command: &str) {
    assert!(Command::new("sh").args(["-ec", command]).status().unwrap().success(), "{command}");
}

/// A card that looks for the answer to [`question`].
struct Card(bool);

impl Guest for Card {
    fn ready(&mut self) -> bool {
        true
    }

    fn deliver(&mut self, parts: &[&[u8]], _: Offload) -> bool {
        self.0 |= is_answer(&parts.concat());
        true
    }
}

fn is_answer(frame: &[u8]) -> bool {
    let is_arp = frame.len() >= 42 && frame[..6] == MAC && frame[12..14] == [8, 6] && frame[20..22] == [0, 2];
    is_arp && frame[28..32] == KERNEL && frame[38..42] == GUEST
}

/// An ARP request for the kernel's address.
fn question() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(MAC);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(MAC);
    frame.extend(GUEST);
    frame.extend([0; 6]);
    frame.extend(KERNEL);
    frame.resize(60, 0);
    frame
}

/// Frames reach the kernel and its own come back.
fn kernel_answers(net: &mut dyn Backend) {
    let (mut card, start) = (Card(false), Instant::now());
    while !card.0 {
        assert!(start.elapsed() < Duration::from_secs(20), "no answer");
        assert_eq!(net.transmit(Nanos(0), &question(), Offload::default()), Transmit::Taken);
        let wait = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        let fd = net.event_fd().unwrap();
        let _ = poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&wait));
        net.poll(Nanos(0), &mut card);
    }
}

fn open(text: &str) -> spec::error::Result<Box<dyn Backend>> {
    Netdev::parse(text)?.open()
}

fn script(directory: &Path, name: &str, commands: &str) -> PathBuf {
    let file = directory.join(name);
    std::fs::write(&file, format!("#!/bin/sh -e\n{commands}\necho {name} $1 >> {}/log\n", directory.display()))
        .unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    file
}

#[test]
fn scripts_of_a_tap_interface_run_with_its_name() {
    in_namespaces(
        "scripts_of_a_tap_interface_run_with_its_name",
        "mount -t tmpfs none /mnt && ip tuntap add dev probe0 mode tap",
        || {
            // A place that vanishes with the namespace.
            sh("mount -t tmpfs none /mnt");
            let directory = Path::new("/mnt");
            let up = script(directory, "up", "ip address add 192.0.2.1/24 dev $1; ip link set $1 up");
            let down = script(directory, "down", "ip link set $1 down");
            let log = || std::fs::read_to_string(directory.join("log")).unwrap();
            let text = format!("tap,id=n,ifname=cable0,script={},downscript={}", up.display(), down.display());
            let mut net = open(&text).unwrap();
            assert_eq!(net.summary(), "ifname=cable0,script=/mnt/up,downscript=/mnt/down");
            assert_eq!(log(), "up cable0\n");
            kernel_answers(&mut *net);
            drop(net);
            assert_eq!(log(), "up cable0\ndown cable0\n");
            sh("! ip link show dev cable0 2> /dev/null");

            let failed = open("tap,id=n,script=/bin/false,downscript=no").map(|_| ()).unwrap_err().to_string();
            assert_eq!(failed, "network script /bin/false failed with status 256");
            let missing = open("tap,id=n,script=/mnt/none,downscript=no").map(|_| ()).unwrap_err().to_string();
            assert!(missing.starts_with("could not launch network script '/mnt/none'"), "{missing}");
            // An interface that was there before stays; `no` runs nothing.
            sh("ip tuntap add dev kept0 mode tap; ip address add 192.0.2.1/24 dev kept0; ip link set kept0 up");
            kernel_answers(&mut *open("tap,id=n,ifname=kept0,script=no,downscript=no").unwrap());
            sh("ip link show dev kept0 > /dev/null");
            assert_eq!(log().lines().count(), 2);
        },
    );
}

#[test]
fn the_bridge_helper_passes_an_interface() {
    let probe =
        format!("test -x {HELPER} && test -c /dev/net/tun && mount -t tmpfs none /etc && ip link add br0 type bridge");
    in_namespaces("the_bridge_helper_passes_an_interface", &probe, || {
        sh("mount -t tmpfs none /etc; mkdir /etc/qemu; echo allow br0 > /etc/qemu/bridge.conf");
        sh("ip link add br0 type bridge; ip address add 192.0.2.1/24 dev br0; ip link set br0 up");
        for text in [
            "bridge,id=n".to_string(),
            format!("tap,id=n,helper={HELPER}"),
            format!("bridge,id=n,br=br0,helper={HELPER}"),
            format!("bridge,id=n,br=br0,helper=env X=1 {HELPER}"),
            format!("bridge,id=n,br=br0,helper={HELPER} --br=br0"),
        ] {
            let mut net = open(&text).unwrap();
            assert!(net.summary().contains(HELPER) && net.summary().ends_with(",br=br0"), "{}", net.summary());
            sh("ip -o link show master br0 | grep -q tap");
            kernel_answers(&mut *net);
        }
        let refused = open("bridge,id=n,br=br1").map(|_| ()).unwrap_err().to_string();
        assert_eq!(refused, format!("bridge helper '{HELPER}' failed for bridge 'br1': it ended with exit status: 1"));
    });
}

/// Does something with what serves the rings of a card.
fn served<T>(net: &mut dyn Backend, mut work: impl FnMut(&mut dyn Vhost) -> T) -> T {
    let mut result = None;
    assert!(net.vhost(&mut |v| result = Some(work(v))), "it serves no rings");
    result.unwrap()
}

#[test]
fn the_kernel_serves_the_rings_of_a_card() {
    const VERSION_1: u64 = 1 << 32;
    const QUESTIONS: usize = 100;
    let probe = "test -w /dev/vhost-net && ip tuntap add dev probe0 mode tap";
    in_namespaces("the_kernel_serves_the_rings_of_a_card", probe, || {
        sh("ip tuntap add dev cable0 mode tap; ip address add 192.0.2.1/24 dev cable0; ip link set cable0 up");
        for options in ["vhost=on", "vhostforce=on,poll-us=20", "vhost=on,vnet_hdr=off"] {
            let mut net = open(&format!("tap,id=n,ifname=cable0,script=no,downscript=no,{options}")).unwrap();
            // Before there are rings, and in front of cards without rings, frames go through us.
            kernel_answers(&mut *net);
            let mut driver = driver::Driver::new(16);
            let mut next = [0; RINGS];
            // The second time the rings go on where they were.
            for _ in 0..2 {
                served(&mut *net, |v| v.start(VERSION_1, &driver.regions(), &driver.rings(next))).unwrap();
                let (mut answers, start) = (0, Instant::now());
                while answers < QUESTIONS {
                    assert!(start.elapsed() < Duration::from_secs(20), "{answers} answers, {options}");
                    driver.send(&question());
                    served(&mut *net, |v| (0..RINGS).for_each(|ring| v.kick(ring)));
                    let wait = Timespec { tv_sec: 10, tv_nsec: 0 };
                    let fd = net.event_fd().unwrap();
                    let ready = poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&wait));
                    assert_eq!(ready, Ok(1), "the kernel does not call, {options}");
                    served(&mut *net, |v| v.called());
                    while let Some(frame) = driver.receive() {
                        answers += usize::from(is_answer(&frame));
                    }
                }
                next = served(&mut *net, |v| v.stop());
                assert!(usize::from(next[0]) >= QUESTIONS && usize::from(next[1]) >= QUESTIONS, "{next:?}");
            }
            kernel_answers(&mut *net);
        }
        let refused = open("tap,id=n,ifname=cable0,script=no,downscript=no,vhost=off,vhostfd=0").map(|_| ()).unwrap_err();
        assert_eq!(refused.to_string(), "vhostfd(s)= is not valid without vhost");
    });
}

#[test]
fn without_the_service_vhost_is_an_error() {
    let probe = "! test -e /dev/vhost-net && ip tuntap add dev probe0 mode tap";
    in_namespaces("without_the_service_vhost_is_an_error", probe, || {
        let error = |options: &str| {
            let net = open(&format!("tap,id=n,ifname=cable0,script=no,downscript=no,{options}"));
            net.map(|_| ()).unwrap_err().to_string()
        };
        for option in ["vhost=on", "vhostforce=on"] {
            assert_eq!(error(option), "tap: open vhost char device failed: No such file or directory (os error 2)");
        }
        assert_eq!(error("vhostfd=0"), "vhost-net requested but could not be initialized: Inappropriate ioctl for device (os error 25)");
        open("tap,id=n,ifname=cable0,script=no,downscript=no,vhost=off,vhostforce=on,sndbuf=64K,poll-us=5").unwrap();
    });
}

/// Debian's smbclient, on this kernel behind a tap interface, works on a share of `smb=`.
#[test]
fn smbclient_works_on_a_share() {
    // Samba cannot be root where there are no other users.
    let root = rustix::process::geteuid().is_root();
    let flags: &[&str] = if root { &["-n"] } else { &["--map-current-user", "--keep-caps", "-Un"] };
    // "nobody" is whom Samba takes all guests for.
    let probe = "test $(id -un) != nobody && test -x /usr/sbin/smbd && test -x /usr/bin/smbclient && ip tuntap add dev probe0 mode tap";
    in_namespaces_of(flags, "smbclient_works_on_a_share", probe, || {
        let home = std::env::temp_dir().join(format!("net-smbclient-{}", std::process::id()));
        let shared = home.join("shared");
        std::fs::create_dir_all(&shared).unwrap();
        let data: Vec<u8> = (0..8_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        std::fs::write(shared.join("data"), &data).unwrap();
        std::fs::write(shared.join("old"), b"x").unwrap();
        let keys = ["private dir", "lock directory", "state directory", "cache directory"];
        let configuration: String = keys.iter().map(|key| format!("{key} = {}\n", home.display())).collect();
        std::fs::write(home.join("smb.conf"), format!("[global]\n{configuration}")).unwrap();

        let hub = Hub::new(0);
        let text = format!("user,id=b,smb={}", shared.display());
        let [tap, user] = ["tap,id=a,ifname=eth0,script=no,downscript=no", &text].map(|text| open(text).unwrap());
        sh("ip link set lo up; ip link set eth0 address 52:54:00:12:34:56 up; ip address add 10.0.2.15/24 dev eth0");
        let drivers = [tap, user].map(|end| hub.attach(end).unwrap().drive().unwrap());
        let client = |arguments: &[&str]| {
            let mut command = Command::new("smbclient");
            command.arg("-N").arg("-s").arg(home.join("smb.conf")).args(arguments).stdin(Stdio::null());
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && !text.contains("NT_STATUS"), "{arguments:?}: {text} {output:?}");
            text
        };
        assert!(client(&["-L", "10.0.2.4"]).contains("qemu"));
        let (share, at) = ("//10.0.2.4/qemu", home.display());
        let work = format!("ls; get data {at}/data; put {at}/data copy; mkdir made; del old; ls");
        let listing = client(&[share, "-c", &work]);
        assert!(listing.contains("old") && listing.contains("copy") && listing.contains("made"), "{listing}");
        let again = client(&[share, "-p", "139", "-c", "ls"]);
        assert!(again.contains("copy") && !again.contains("old"), "{again}");
        assert!(std::fs::read(shared.join("copy")).unwrap() == data, "what was read and written differs");
        assert!(shared.join("made").is_dir() && !shared.join("old").exists());

        // Samba's processes and files end with the network.
        let name = format!("net-smb-{}-", std::process::id());
        let uses = |path: PathBuf| std::fs::read(path).is_ok_and(|text| String::from_utf8_lossy(&text).contains(&name));
        let processes = || std::fs::read_dir("/proc").unwrap().flatten().filter(|p| uses(p.path().join("cmdline"))).count();
        assert!(processes() > 0, "none to look for");
        drop((drivers, hub));
        let start = Instant::now();
        while processes() > 0 {
            assert!(start.elapsed() < Duration::from_secs(10), "Samba stays");
            std::thread::yield_now();
        }
        let left = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
        assert_eq!(left.filter(|f| f.file_name().to_string_lossy().starts_with(&name)).count(), 0);
        std::fs::remove_dir_all(&home).unwrap();
    });
}
