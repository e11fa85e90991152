//! Network stories: real drivers of Debian's kernel, U-Boot, and the host's sockets at the other end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use crate::console::{Machine, Setting};
use crate::{Story, check, contains, core, full};
use libtest_mimic::Failed;

pub const STORIES: &[Story] = &[
    core("network: a lease, a name, 32 MiB up and down over IPv4 and IPv6", |s| traffic(s, 32 << 20)),
    full("network: 1 GiB up and down over IPv4 and IPv6", |s| traffic(s, 1 << 30)),
    core("network: e1000 with Debian's driver", |s| card(s, "e1000", "e1000")),
    core("network: e1000e with Debian's driver", |s| card(s, "e1000e", "e1000e")),
    core("network: rtl8139 with Debian's driver", |s| card(s, "rtl8139", "8139cp")),
    full("network: pcnet with Debian's driver", |s| card(s, "pcnet", "pcnet32")),
    full("network: ne2k_pci with Debian's driver", |s| card(s, "ne2k_pci", "ne2k-pci")),
    core("network: forwarded sessions in both directions", sessions),
    core("network: restrict=on leaks nothing", restricted),
    core("network: U-Boot boots a kernel over TFTP", tftp),
    core("network: guestfwd reaches a program behind a character device", guest_forward),
    core("network: what the host's side made ends with the machine", ends),
    full("network: vhost-user to a program of DPDK", vhost_user),
];

/// Files of one story.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch, Failed> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rhea-network-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Scratch(path))
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Bytes that are the same in every run and hard to compress; the same for guest and host.
fn content(bytes: u64) -> impl Iterator<Item = Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut left = bytes;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let mut block = Vec::with_capacity(1 << 16);
        while block.len() < 1 << 16 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block.extend(state.to_le_bytes());
        }
        block.truncate(left.min(1 << 16) as usize);
        left -= block.len() as u64;
        Some(block)
    })
}

/// The SHA-256 of what `write` writes, by the host's own program.
fn digest(write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> std::io::Result<String> {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    write(child.stdin.as_mut().expect("it was piped"))?;
    let done = child.wait_with_output()?;
    Ok(String::from_utf8_lossy(&done.stdout).split_whitespace().next().unwrap_or_default().to_string())
}

/// Bytes that the servers of a story have sent: how far its downloads are, also where they are uploaded again.
type Moved = Arc<AtomicU64>;

/// A web server on both loop-back addresses that has one file of this size.
fn web(bytes: u64) -> Result<(u16, Moved), Failed> {
    let moved = Moved::default();
    let (v4, port) = listen()?;
    let v6 = TcpListener::bind(("::1", port))?;
    for listener in [v4, v6] {
        let moved = moved.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let moved = moved.clone();
                thread::spawn(move || serve(stream, bytes, &moved));
            }
        });
    }
    Ok((port, moved))
}

/// A port that is free on both loop-back addresses.
fn listen() -> Result<(TcpListener, u16), Failed> {
    for _ in 0..100 {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        if TcpListener::bind(("::1", port)).is_ok() {
            return Ok((listener, port));
        }
    }
    Err("no port is free".into())
}

/// Answers one request. Whoever goes away early is none of our business.
fn serve(stream: TcpStream, bytes: u64, moved: &AtomicU64) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let mut stream = &stream;
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n")?;
    content(bytes).try_for_each(|block| {
        moved.fetch_add(block.len() as u64, Ordering::Relaxed);
        stream.write_all(&block)
    })
}

/// Takes one connection on each loop-back address, and this many bytes of each; gives the digests in the order they end.
fn sink(bytes: u64) -> Result<(u16, Receiver<String>), Failed> {
    let (v4, port) = listen()?;
    let v6 = TcpListener::bind(("::1", port))?;
    let (send, digests) = channel();
    for listener in [v4, v6] {
        let send = send.clone();
        thread::spawn(move || {
            let Ok((stream, _)) = listener.accept() else { return };
            let copy = |to: &mut dyn Write| std::io::copy(&mut (&stream).take(bytes), to).map(|_| ());
            let _ = send.send(digest(copy).unwrap_or_else(|e| e.to_string()));
        });
    }
    Ok((port, digests))
}

/// A name server that knows one name. Gives its port.
fn names() -> Result<u16, Failed> {
    let socket = UdpSocket::bind(("127.0.0.1", 0))?;
    let port = socket.local_addr()?.port();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut query) {
            let _ = answer(&query[..len]).map(|reply| socket.send_to(&reply, from));
        }
    });
    Ok(port)
}

/// RFC 1035: the question again, and for an address of `web.rhea.test` 10.0.2.2.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let name = b"\x03web\x04rhea\x04test\x00";
    let end = 12 + query.get(12..)?.iter().position(|b| *b == 0)? + 5;
    let question = query.get(12..end)?;
    let known = question.starts_with(name);
    let wants_v4 = question.get(name.len()..name.len() + 2) == Some(&[0, 1]);
    let mut reply = query[..2].to_vec();
    reply.extend([0x81, if known { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(known && wants_v4), 0, 0, 0, 0]);
    reply.extend(question);
    if known && wants_v4 {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(Ipv4Addr::new(10, 0, 2, 2).octets());
    }
    Some(reply)
}

/// An emulator that asks this name server.
fn with_resolver(s: &Setting, scratch: &Scratch, port: u16) -> Result<Setting, Failed> {
    let (conf, wrapper) = (scratch.join("resolv.conf"), scratch.join("emulator"));
    std::fs::write(&conf, format!("nameserver [127.0.0.1]:{port}\n"))?;
    let text = format!("#!/bin/sh\nRHEA_RESOLV_CONF='{}' exec '{}' \"$@\"\n", conf.display(), s.emulator.display());
    std::fs::write(&wrapper, text)?;
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755))?;
    let mut setting = s.clone();
    setting.emulator = wrapper;
    Ok(setting)
}

/// A shell with the card up, an address by DHCP and one by router advertisement.
fn online(s: &Setting, options: &[&str], module: &str) -> Result<Machine, Failed> {
    let mut m = s.shell(options)?;
    m.run("mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; dmesg -n 1")?;
    m.run(&format!("modprobe {module}"))?;
    m.run("for i in 1 2 3 4 5 6 7 8 9; do test -e /sys/class/net/eth0 && break; sleep 1; done; ip link set lo up")?;
    contains(&m.run("udhcpc -i eth0 -q -n -t 10 2>&1")?, "lease of 10.0.2.15 obtained from 10.0.2.2")?;
    Ok(m)
}

/// Waits for the address that router advertisements give.
fn wait_for_v6(m: &mut Machine) -> Result<(), Failed> {
    let wait = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do ip -6 addr show dev eth0 | grep site | grep -qv tentative && break; sleep 1; done; ip -6 addr show dev eth0";
    contains(&m.run(wait)?, "fec0::5054:ff:fe12:3456/64")
}

/// Downloads of this file by this address have the right digest.
fn download(m: &mut Machine, host: &str, (port, moved): &(u16, Moved), expected: &str) -> Result<(), Failed> {
    let command = format!("wget -q -O - http://{host}:{port}/file | sha256sum");
    let got = m.run_while(&command, || moved.load(Ordering::Relaxed))?;
    check(got.contains(expected), || format!("downloaded from {host}: {got}, not {expected}"))
}

fn traffic(s: &Setting, bytes: u64) -> Result<(), Failed> {
    let scratch = Scratch::new()?;
    let s = with_resolver(s, &scratch, names()?)?;
    let expected = digest(|to| content(bytes).try_for_each(|block| to.write_all(&block)))?;
    let web = web(bytes)?;
    let (port, moved) = &web;
    let mut m = online(&s, &["-M", "virt", "-nic", "user,model=virtio-net-device"], "virtio_mmio virtio_net; modprobe virtio_net")?;
    contains(&m.run("cat /etc/resolv.conf")?, "nameserver 10.0.2.3")?;
    contains(&m.run("ping -c 2 10.0.2.2")?, "2 packets received")?;
    // The name is looked up by the host's name server, through 10.0.2.3.
    download(&mut m, "web.rhea.test", &web, &expected)?;
    let unknown = m.run("wget -q -t 1 -O /dev/null http://nobody.rhea.test/ ; echo status=$?")?;
    contains(&unknown, "status=4")?;
    wait_for_v6(&mut m)?;
    contains(&m.run("ping6 -c 2 fec0::2")?, "2 packets received")?;
    download(&mut m, "[fec0::2]", &web, &expected)?;
    let (up, digests) = sink(bytes)?;
    for host in ["10.0.2.2", "fec0::2"] {
        // Down by one protocol and up by the other, at once.
        let from = if host == "10.0.2.2" { "[fec0::2]" } else { "10.0.2.2" };
        let command = format!("wget -q -O - http://{from}:{port}/file | nc {host} {up}");
        m.run_while(&command, || moved.load(Ordering::Relaxed))?;
        let got = digests.recv_timeout(Duration::from_secs(300))?;
        check(got == expected, || format!("uploaded to {host}: {got}, not {expected}"))?;
    }
    m.power_off()
}

fn card(s: &Setting, model: &str, module: &str) -> Result<(), Failed> {
    let bytes = 16 << 20;
    let expected = digest(|to| content(bytes).try_for_each(|block| to.write_all(&block)))?;
    let web = web(bytes)?;
    let (port, moved) = &web;
    let nic = format!("user,model={model},id=n0");
    let mut m = online(s, &["-M", "virt", "-nic", &nic], module)?;
    contains(&m.run("ip link show eth0")?, "52:54:00:12:34:56")?;
    contains(&m.run("ping -c 2 10.0.2.2")?, "2 packets received")?;
    download(&mut m, "10.0.2.2", &web, &expected)?;
    let (up, digests) = sink(bytes)?;
    let command = format!("wget -q -O - http://10.0.2.2:{port}/file | nc 10.0.2.2 {up}");
    m.run_while(&command, || moved.load(Ordering::Relaxed))?;
    check(digests.recv_timeout(Duration::from_secs(300))? == expected, || "what was uploaded differs".into())?;
    // Fragments and large frames of their own.
    contains(&m.run("ping -s 4000 -c 2 10.0.2.2")?, "2 packets received")?;
    m.run("ip link set eth0 down; sleep 1; ip link set eth0 up; sleep 2")?;
    contains(&m.run("udhcpc -i eth0 -q -n -t 10 2>&1")?, "lease of 10.0.2.15")?;
    // An NE2000 knows nothing of its cable; a PCnet's driver looks every few seconds.
    if model != "ne2k_pci" {
        cable(&mut m, model)?;
    }
    let errors = m.run("cd /sys/class/net/eth0/statistics; echo err''ors=$(($(cat rx_errors) + $(cat tx_errors))); cd /")?;
    contains(&errors, "errors=0")?;
    let log = m.run("dmesg")?;
    for bad in ["Oops", "BUG:", "WARNING:", "Hang", "transmit timed out", "NETDEV WATCHDOG"] {
        check(!log.contains(bad), || format!("'{bad}' in the kernel's log:\n{log}"))?;
    }
    m.power_off()
}

/// The monitor unplugs the cable and plugs it in again.
fn cable(m: &mut Machine, model: &str) -> Result<(), Failed> {
    let carrier = |wanted: u8| format!("for i in 1 2 3 4 5 6 7 8; do test $(cat /sys/class/net/eth0/carrier) = {wanted} && break; sleep 1; done; cat /sys/class/net/eth0/carrier");
    for (word, wanted) in [("off", 0), ("on", 1)] {
        m.send("\u{1}c")?;
        m.wait_for("(qemu) ")?;
        m.send(&format!("set_link {model}.0 {word}\n"))?;
        m.wait_for("\n(qemu) ")?;
        m.send("info network\n")?;
        let text = m.wait_for("restrict=off")?;
        contains(&text, &format!("{model}.0: index=0,type=nic,model={model},macaddr=52:54:00:12:34:56"))?;
        m.send("\u{1}c\n")?;
        let got = m.run(&carrier(wanted))?;
        check(got.contains(&format!("\n{wanted}")), || format!("carrier after set_link {word}: {got}"))?;
    }
    contains(&m.run("ping -c 1 10.0.2.2 || ping -c 3 10.0.2.2")?, " packets received")
}

/// A port of the host that nobody uses now.
fn free_port() -> Result<u16, Failed> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Somebody at the host types into a shell of the guest while somebody in the guest types into a program of the host.
fn sessions(s: &Setting) -> Result<(), Failed> {
    let forward = free_port()?;
    let nic = format!("user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:{forward}-:2222");
    let mut m = online(s, &["-M", "virt", "-nic", &nic], "virtio_pci; modprobe virtio_net")?;
    m.run("(while :; do nc -l -p 2222 -e /bin/sh; done) > /dev/null 2>&1 & true")?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    // The host's program answers each line with its length.
    let host = thread::spawn(move || -> std::io::Result<usize> {
        let (stream, _) = listener.accept()?;
        let mut count = 0;
        for line in BufReader::new(stream.try_clone()?).lines() {
            writeln!(&stream, "{}", line?.len())?;
            count += 1;
        }
        Ok(count)
    });
    let guest = "(for i in 1 2 3 4 5 6 7 8; do echo line$i; sleep 1; done; echo last) | nc 10.0.2.2";
    m.send(&format!("({guest} {port} > /answers; echo done >> /answers) &\n"))?;
    m.run("true")?;
    let stream = dial(forward)?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    let mut answers = BufReader::new(stream.try_clone()?).lines();
    for number in 0..200 {
        writeln!(&stream, "echo $(({number} * 7)) $(uname -m)")?;
        let line = answers.next().ok_or("the session ended")??;
        check(line == format!("{} armv7l", number * 7), || format!("the guest's shell said '{line}'"))?;
    }
    writeln!(&stream, "exit")?;
    check(answers.next().is_none(), || "the session goes on".into())?;
    m.run("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do test $(wc -l < /answers) -ge 9 && break; sleep 1; done")?;
    let printed = m.run("cat /answers")?;
    check(printed.matches("\n5").count() == 8 && printed.contains("\n4"), || format!("the host answered:\n{printed}"))?;
    m.send("\u{1}c")?;
    m.wait_for("(qemu) ")?;
    m.send(&format!("hostfwd_remove tcp:127.0.0.1:{forward}\n"))?;
    m.wait_for("removed")?;
    m.send("info usernet\n")?;
    let table = m.wait_for("\n(qemu) ")?;
    check(!table.contains("HOST_FORWARD"), || format!("still forwarded:\n{table}"))?;
    m.send("\u{1}c\n")?;
    m.power_off()?;
    let lines = host.join().map_err(|_| "the host's program failed")??;
    check(lines == 9, || format!("the host's program got {lines} lines"))
}

/// The guest may be slow to listen again.
fn dial(port: u16) -> Result<TcpStream, Failed> {
    for _ in 0..60 {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        writeln!(&stream, "echo ready")?;
        let mut line = String::new();
        if BufReader::new(stream.try_clone()?).read_line(&mut line).is_ok_and(|n| n > 0) {
            return Ok(stream);
        }
        thread::sleep(Duration::from_millis(500));
    }
    Err(format!("nobody answers behind port {port}").into())
}

/// Ethernet frames of a capture.
fn frames(path: &Path) -> Result<Vec<Vec<u8>>, Failed> {
    let bytes = std::fs::read(path)?;
    check(bytes.starts_with(&0xa1b2_c3d4u32.to_le_bytes()), || "no capture".into())?;
    let (mut list, mut at) = (Vec::new(), 24);
    while let Some(header) = bytes.get(at..at + 16) {
        let len = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        list.push(bytes.get(at + 16..at + 16 + len).ok_or("the capture is cut off")?.to_vec());
        at += 16 + len;
    }
    Ok(list)
}

fn restricted(s: &Setting) -> Result<(), Failed> {
    let scratch = Scratch::new()?;
    static HEARD: OnceLock<Arc<AtomicUsize>> = OnceLock::new();
    let heard = HEARD.get_or_init(Arc::default).clone();
    let listener = TcpListener::bind(("0.0.0.0", 0))?;
    let port = listener.local_addr()?.port();
    let datagrams = UdpSocket::bind(("0.0.0.0", port))?;
    let (tcp, udp) = (heard.clone(), heard.clone());
    thread::spawn(move || listener.incoming().for_each(|_| { tcp.fetch_add(1, Ordering::SeqCst); }));
    thread::spawn(move || while datagrams.recv(&mut [0; 100]).is_ok() { udp.fetch_add(1, Ordering::SeqCst); });
    let forward = free_port()?;
    let nic = format!("user,model=virtio-net-pci,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{forward}-:2222");
    let capture = scratch.join("capture");
    let dump = format!("filter-dump,id=d,netdev=n0,file={}", capture.display());
    let mut m = online(s, &["-M", "virt", "-nic", &nic, "-object", &dump], "virtio_pci; modprobe virtio_net")?;
    for target in ["10.0.2.2", "127.0.0.1", "10.0.2.3", "192.0.2.1"] {
        m.run("ip route add default via 10.0.2.2 2>/dev/null; true")?;
        let got = m.run(&format!("wget -q -T 3 -t 1 -O /dev/null http://{target}:{port}/; echo status=$?"))?;
        check(!got.contains("status=0"), || format!("{target} was reached: {got}"))?;
        m.run(&format!("echo hello | nc -w 2 {target} {port}; ping -c 1 -W 1 {target} > /dev/null; true"))?;
    }
    // What is forwarded on purpose works all the same.
    m.run("(while :; do nc -l -p 2222 -e /bin/sh; done) > /dev/null 2>&1 & true")?;
    drop(dial(forward)?);
    m.power_off()?;
    check(heard.load(Ordering::SeqCst) == 0, || "the host heard the guest".into())?;
    let frames = frames(&capture)?;
    check(frames.len() > 20, || format!("{} frames were captured", frames.len()))?;
    let guest = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    for frame in frames.iter().filter(|f| f[6..12] != guest && f[12..14] == [8, 0]) {
        // To the guest: DHCP, errors and refusals, and the forwarded connection.
        let head = 14 + usize::from(frame[14] & 15) * 4;
        let source = u16::from_be_bytes([frame[head], frame[head + 1]]);
        let to = u16::from_be_bytes([frame[head + 2], frame[head + 3]]);
        let good = match frame[23] {
            6 => to == 2222 || frame[head + 13] & 4 != 0,
            17 => source == 67,
            // Answers to pings come from the virtual network only; the rest are errors.
            1 => frame[head] != 0 || frame[26..29] == [10, 0, 2],
            _ => false,
        };
        check(good, || format!("the guest was sent {frame:02x?}"))?;
    }
    Ok(())
}

/// A virtual server that is a character device, which is a connection to a program of the host.
fn guest_forward(s: &Setting) -> Result<(), Failed> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    let host = thread::spawn(move || -> std::io::Result<()> {
        let (stream, _) = listener.accept()?;
        BufReader::new(stream.try_clone()?).lines().try_for_each(|line| writeln!(&stream, "<{}>", line?))
    });
    let nic = format!("user,model=virtio-net-pci,restrict=on,guestfwd=tcp:10.0.2.100:80-chardev:web,guestfwd=tcp:10.0.2.101:81-tcp:127.0.0.1:{port}");
    let mut m = online(s, &["-M", "virt", "-chardev", "ringbuf,id=web,size=1K", "-nic", &nic], "virtio_pci; modprobe virtio_net")?;
    // Connections come and go; the line stays.
    for word in ["first", "second"] {
        let got = m.run(&format!("echo {word} | nc 10.0.2.101 81"))?;
        contains(&got, &format!("<{word}>"))?;
    }
    m.run("echo first | nc 10.0.2.100 80; echo second | nc 10.0.2.100 80")?;
    m.send("\u{1}c")?;
    m.wait_for("(qemu) ")?;
    m.send("ringbuf_read web 100\n")?;
    let kept = m.wait_for("\n(qemu) ")?;
    check(kept.contains("first") && kept.contains("second"), || format!("the character device got:\n{kept}"))?;
    m.send("\u{1}c\n")?;
    m.power_off()?;
    host.join().map_err(|_| "the host's program failed")??;
    Ok(())
}

/// However the machine ends: sockets in the file system vanish, and the files of `smb=` where there is Samba.
fn ends(s: &Setting) -> Result<(), Failed> {
    let scratch = Scratch::new()?;
    let socket = scratch.join("cable");
    let stream = format!("stream,id=n0,server=on,addr.type=unix,addr.path={}", socket.display());
    let smb = if Path::new("/usr/sbin/smbd").exists() { format!(",smb={}", scratch.0.display()) } else { String::new() };
    for by_signal in [false, true] {
        let mut command = Command::new(&s.emulator);
        command.args(["-M", "virt", "-nodefaults", "-S", "-display", "none", "-monitor", "stdio", "-netdev", &stream]);
        command.args(["-netdev", &format!("user,id=n1{smb}")]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.env("TMPDIR", &scratch.0).spawn()?;
        let files = || std::fs::read_dir(&scratch.0).map(|list| list.flatten().map(|f| f.file_name()).collect::<Vec<_>>());
        let mut answer = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut input = child.stdin.take().ok_or("no input")?;
        writeln!(input, "info network")?;
        let mut line = String::new();
        while !line.contains("n1: index=0,type=user") {
            line.clear();
            if answer.read_line(&mut line)? == 0 {
                return Err("the monitor says nothing".into());
            }
        }
        let expected = if smb.is_empty() { 1 } else { 2 };
        check(files()?.len() == expected, || format!("there are {:?}", files()))?;
        if by_signal {
            Command::new("kill").arg(child.id().to_string()).status()?;
        } else {
            writeln!(input, "quit")?;
        }
        let status = child.wait()?;
        check(status.success(), || format!("it ended with {status}"))?;
        check(files()?.is_empty(), || format!("there are still {:?}", files()))?;
    }
    Ok(())
}

/// A program that serves the guest's rings in memory that it shares, and answers pings.
struct Server(std::process::Child);

impl Server {
    fn start(socket: &Path, log: &Path) -> Result<Server, Failed> {
        let mut command = Command::new("dpdk-testpmd");
        command.args(["--no-huge", "-m", "128", "--no-pci", "--file-prefix"]).arg(format!("rhea{}", std::process::id()));
        command.arg("--vdev").arg(format!("net_vhost0,iface={}", socket.display()));
        command.args(["--", "--total-num-mbufs=8192", "--forward-mode=icmpecho", "--auto-start"]);
        // It ends with its standard input.
        let child = command.stdin(Stdio::piped()).stdout(std::fs::File::create(log)?).stderr(std::fs::File::options().append(true).open(log)?).spawn();
        let mut server = Server(child.map_err(|e| format!("dpdk-testpmd (Debian's package dpdk-dev) is needed for this story: {e}"))?);
        for _ in 0..300 {
            if socket.exists() {
                return Ok(server);
            }
            if let Some(status) = server.0.try_wait()? {
                return Err(format!("dpdk-testpmd ended with {status}:\n{}", std::fs::read_to_string(log)?).into());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Err("dpdk-testpmd made no socket".into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn vhost_user(s: &Setting) -> Result<(), Failed> {
    let scratch = Scratch::new()?;
    let socket = scratch.join("vhost");
    let log = scratch.join("log");
    let server = Server::start(&socket, &log)?;
    let chardev = format!("socket,id=c,path={}", socket.display());
    let memory = ["-M", "virt,memory-backend=mem", "-object", "memory-backend-memfd,id=mem,size=512M,share=on"];
    let card = ["-chardev", &chardev, "-netdev", "vhost-user,id=n0,chardev=c", "-device", "virtio-net-pci,netdev=n0"];
    let mut m = s.shell(&[&memory[..], &card].concat())?;
    m.run("mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; dmesg -n 1; modprobe virtio_pci")?;
    // The driver comes twice: the rings are taken back and handed over again.
    for _ in 0..2 {
        m.run("modprobe virtio_net; for i in 1 2 3 4 5 6 7 8 9; do test -e /sys/class/net/eth0 && break; sleep 1; done")?;
        // The program takes its time to notice that the rings are there.
        let answer = "for i in 1 2 3 4 5 6 7 8 9; do ping -c 1 192.168.77.1 > /dev/null && break; sleep 1; done";
        m.run(&format!("ip addr add 192.168.77.2/24 dev eth0; ip link set eth0 up; sleep 1; {answer}"))?;
        let first = m.run("ping -c 2 -w 30 192.168.77.1");
        let first = first.map_err(|e| format!("{}\n{}", e.message().unwrap_or_default(), std::fs::read_to_string(&log).unwrap_or_default()))?;
        contains(&first, "2 packets received")?;
        contains(&m.run("ping -s 1400 -c 2 -w 30 192.168.77.1")?, "2 packets received")?;
        m.run("ip link set eth0 down; rmmod virtio_net")?;
    }
    // Without the program the cable is unplugged.
    m.run("modprobe virtio_net; for i in 1 2 3 4 5 6 7 8 9; do test -e /sys/class/net/eth0 && break; sleep 1; done; ip link set eth0 up")?;
    drop(server);
    let carrier = "for i in 1 2 3 4 5 6 7 8; do test $(cat /sys/class/net/eth0/carrier) = 0 && break; sleep 1; done; cat /sys/class/net/eth0/carrier";
    let got = m.run(carrier)?;
    check(got.contains("\n0"), || format!("carrier without a back end: {got}"))?;
    m.power_off()
}

/// `-bios u-boot.bin`: an address, two files, a kernel.
fn tftp(s: &Setting) -> Result<(), Failed> {
    let directory = s.images();
    let firmware = s.firmware("u-boot/qemu_arm/u-boot.bin");
    let mut command = Command::new(&s.emulator);
    command.args(["-M", "virt", "-nographic", "-m", "512M", "-bios"]).arg(firmware);
    command.arg("-nic").arg(format!("user,bootfile=vmlinuz,tftp={}", directory.display()));
    let mut m = Machine::start(command)?;
    m.wait_for("Hit any key to stop autoboot")?;
    m.send("\n")?;
    m.wait_for("=> ")?;
    let mut say = |line: &str| -> Result<String, Failed> {
        m.send(&format!("{line}\n"))?;
        m.wait_for("\n=> ")
    };
    contains(&say("setenv autoload no; dhcp")?, "DHCP client bound to address 10.0.2.15")?;
    contains(&say("tftpboot ${kernel_addr_r} vmlinuz")?, "Bytes transferred = ")?;
    contains(&say("tftpboot ${ramdisk_addr_r} initrd.gz")?, "Bytes transferred = ")?;
    contains(&say("tftpboot ${loadaddr} ../nothing")?, "TFTP error")?;
    say("setenv bootargs console=ttyAMA0 rdinit=/bin/sh; setenv size ${filesize}")?;
    m.send("tftpboot ${ramdisk_addr_r} initrd.gz; bootz ${kernel_addr_r} ${ramdisk_addr_r}:${filesize} ${fdtcontroladdr}\n")?;
    m.wait_for("~ # ")?;
    contains(&m.run("uname -m")?, "armv7l")?;
    m.power_off()
}
