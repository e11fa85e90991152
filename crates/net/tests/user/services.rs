//! What the virtual network itself offers: DHCP, TFTP, isolation.

use std::net::TcpListener;

use smoltcp::socket::{dhcpv4, tcp};
use smoltcp::wire::{IpAddress, IpEndpoint, Ipv4Address};

use crate::harness::*;

#[test]
fn dhcp_configures_the_guest() {
    let mut world = World::bare("hostname=vm", Vec::new(), |_| {});
    let handle = world.sockets.add(dhcpv4::Socket::new());
    let mut configured = None;
    world.until("a lease", |w| {
        if let Some(dhcpv4::Event::Configured(config)) = w.sockets.get_mut::<dhcpv4::Socket>(handle).poll() {
            configured = Some((config.address.to_string(), config.router, config.dns_servers.first().copied()));
        }
        configured.is_some()
    });
    let expected = ("10.0.2.15/24".to_string(), Some(Ipv4Address::new(10, 0, 2, 2)), Some(Ipv4Address::new(10, 0, 2, 3)));
    assert_eq!(configured, Some(expected));
}

/// Fetches a file the way a boot loader does.
fn fetch(world: &mut World, name: &str, options: &[(&str, &str)], block: usize) -> Result<Vec<u8>, String> {
    let socket = world.udp_socket();
    let mut request = format!("\0\u{1}{name}\0octet\0");
    for (key, value) in options {
        request += &format!("{key}\0{value}\0");
    }
    let (mut message, mut from) = world.ask(socket, (HOST4, 69), request.as_bytes());
    let mut data = Vec::new();
    loop {
        match message[..4] {
            [0, 6, ..] => (message, from) = world.ask(socket, from, &[0, 4, 0, 0]),
            [0, 3, b0, b1] => {
                data.extend(&message[4..]);
                let ack = [0, 4, b0, b1];
                if message.len() - 4 < block {
                    world.udp(socket).send_slice(&ack, from).unwrap();
                    world.settle();
                    return Ok(data);
                }
                (message, from) = world.ask(socket, from, &ack);
            }
            _ => return Err(String::from_utf8_lossy(&message[4..message.len() - 1]).into_owned()),
        }
    }
}

#[test]
fn tftp_serves_files_of_its_directory_only() {
    let dir = std::env::temp_dir().join(format!("net-tftp-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    let data = pattern(100_000);
    std::fs::write(dir.join("sub/kernel"), &data).unwrap();
    std::fs::write(dir.join("exact"), &data[..1024]).unwrap();
    let _ = std::os::unix::fs::symlink("/etc/hostname", dir.join("link"));
    let mut world = World::new(&format!("restrict=on,tftp={}", dir.display()));
    assert!(fetch(&mut world, "sub/kernel", &[], 512).unwrap() == data);
    let options = [("tsize", "0"), ("blksize", "1468")];
    assert!(fetch(&mut world, "/sub/kernel", &options, 1468).unwrap() == data);
    assert!(fetch(&mut world, "exact", &[], 512).unwrap() == data[..1024]);
    for name in ["absent", "../../etc/hostname", "link", "sub", ""] {
        assert_eq!(fetch(&mut world, name, &[], 512), Err("file not found".into()), "{name}");
    }
    assert_eq!(world.net.tables()[3], 0, "no transfer is left");
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_lost_tftp_block_is_sent_again() {
    let dir = std::env::temp_dir().join(format!("net-tftp-lost-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("f"), b"content").unwrap();
    let mut world = World::new(&format!("tftp={}", dir.display()));
    let socket = world.udp_socket();
    // The guest's address must be known, or the block waits for that instead of being lost.
    let _ = fetch(&mut world, "f", &[], 512);
    world.card.lose = Some(1);
    world.udp(socket).send_slice(b"\0\x01f\0octet\0", (HOST4, 69)).unwrap();
    world.settle();
    world.card.lose = None;
    world.advance(std::time::Duration::from_millis(1100));
    world.until("the block", |w| w.udp(socket).can_recv());
    assert_eq!(world.udp(socket).recv().unwrap().0, b"\0\x03\0\x01content");
    std::fs::remove_dir_all(dir).unwrap();
}

/// With `restrict=on` nothing of a guest's attempts reaches a host socket.
#[test]
fn restrict_leaks_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    datagrams.set_nonblocking(true).unwrap();
    let udp_port = datagrams.local_addr().unwrap().port();
    let mut world = World::with("restrict=on", vec![datagrams.local_addr().unwrap()], |_| {});
    let stream = world.connect((HOST4, port), 4096);
    let outside = world.connect(IpEndpoint::new(IpAddress::v4(127, 0, 0, 1), port), 4096);
    let socket = world.udp_socket();
    let targets = [(HOST4, udp_port), (DNS4, 53), (HOST6, udp_port), (IpAddress::v4(127, 0, 0, 1), udp_port)];
    for target in targets {
        world.udp(socket).send_slice(b"leak", target).unwrap();
    }
    world.until("all were stopped", |w| w.net.stats().restricted >= 6);
    world.settle();
    assert!(listener.accept().is_err() && datagrams.recv(&mut [0; 10]).is_err());
    assert!(world.tcp(stream).state() == tcp::State::SynSent && world.tcp(outside).state() == tcp::State::SynSent);
    assert_eq!(world.net.tables()[..3], [0, 0, 0]);
}
