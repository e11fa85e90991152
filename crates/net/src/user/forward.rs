//! The rules of `hostfwd=` and `guestfwd=`.
//!
//! `hostfwd=[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport`, with IPv6 addresses in brackets, and
//! `hostfwd=unix:path-[guestaddr]:guestport`; `guestfwd=[tcp]:server:port-(device|cmd:command)`, where a device
//! is `chardev:ID` or what `-serial` takes (`tcp:host:port`, `unix:path`, …).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use spec::error::{Error, Result};

use crate::options;

/// Where the host listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostForward {
    pub listen: Listen,
    /// `None`: the first address that DHCP gives out (of the rule's IP version).
    pub guest: Option<IpAddr>,
    pub guest_port: u16,
    /// What the user wrote, for messages.
    pub rule: String,
}

/// What a connection to a virtual server reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardTarget {
    /// A character device as `-serial` spells it; the owner of character devices attaches it.
    Chardev(String),
    /// A shell command, started for each connection with the stream as its input and output.
    Command(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestForward {
    /// An unspecified address stands for the fourth of the network.
    pub server: SocketAddr,
    pub target: ForwardTarget,
    /// What the user wrote, for messages.
    pub rule: String,
}

/// Takes an address (in brackets for IPv6, maybe empty) up to the next `separator`.
fn take_address(text: &str, separator: char) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        return Some((address, rest.strip_prefix(separator)?));
    }
    text.split_once(separator)
}

fn address(text: &str) -> Option<IpAddr> {
    options::ipv4(text).map(IpAddr::V4).or_else(|| text.parse().ok())
}

fn port(text: &str) -> Option<u16> {
    if !text.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

impl HostForward {
    pub fn parse(rule: &str) -> Result<HostForward> {
        HostForward::parts(rule)
            .map_err(|reason| Error::new(format!("Invalid host forwarding rule '{rule}' ({reason})")))
    }

    fn parts(rule: &str) -> Result<HostForward, &'static str> {
        let (protocol, rest) = rule.split_once(':').ok_or("No : separators")?;
        if protocol == "unix" {
            let (path, guest) = rest.rsplit_once('-').ok_or("Missing - separator")?;
            if path.is_empty() {
                return Err("Bad host path");
            }
            let (guest, guest_port) = guest_part(guest)?;
            return Ok(HostForward { listen: Listen::Unix(path.into()), guest, guest_port, rule: rule.into() });
        }
        let (host, rest) = take_address(rest, ':').ok_or("Missing : separator")?;
        let host = match host {
            "" => None,
            text => Some(address(text).ok_or("Bad host address")?),
        };
        let (host_port, guest) = rest.split_once('-').ok_or("Bad host port separator")?;
        let (host_port, after) = options::c_number(host_port).ok_or("Bad host port")?;
        let host_port = u16::try_from(host_port).ok().filter(|_| after.is_empty()).ok_or("Bad host port")?;
        let (guest, guest_port) = guest_part(guest)?;
        // An IPv6 guest without a host address listens on all IPv6 addresses.
        let any = if guest.is_some_and(|g| g.is_ipv6()) {
            IpAddr::from([0u16; 8])
        } else {
            IpAddr::from(Ipv4Addr::UNSPECIFIED)
        };
        let address = SocketAddr::new(host.unwrap_or(any), host_port);
        let listen = match protocol {
            "" | "tcp" => Listen::Tcp(address),
            "udp" => Listen::Udp(address),
            _ => return Err("Bad protocol name"),
        };
        Ok(HostForward { listen, guest, guest_port, rule: rule.into() })
    }

    /// What `hostfwd_remove` compares: protocol, host address and port.
    pub fn parse_removal(text: &str) -> Result<Listen> {
        let bad = || Error::new("invalid format");
        let (protocol, rest) = text.split_once(':').ok_or_else(bad)?;
        if protocol == "unix" {
            return Ok(Listen::Unix(rest.into()));
        }
        let (host, host_port) = take_address(rest, ':').ok_or_else(bad)?;
        let host = if host.is_empty() { "0.0.0.0" } else { host };
        let address = SocketAddr::new(address(host).ok_or_else(bad)?, port(host_port).ok_or_else(bad)?);
        match protocol {
            "" | "tcp" => Ok(Listen::Tcp(address)),
            "udp" => Ok(Listen::Udp(address)),
            _ => Err(bad()),
        }
    }
}

fn guest_part(text: &str) -> Result<(Option<IpAddr>, u16), &'static str> {
    let (guest, guest_port) = take_address(text, ':').ok_or("Missing guest address")?;
    let guest = match guest {
        "" => None,
        text => Some(address(text).ok_or("Bad guest address")?).filter(|a| !a.is_unspecified()),
    };
    // What comes behind it has never mattered.
    let guest_port = options::c_number(guest_port).and_then(|(port, _)| u16::try_from(port).ok());
    Ok((guest, guest_port.filter(|&p| p != 0).ok_or("Bad guest port")?))
}

impl fmt::Display for HostForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rule)
    }
}

impl GuestForward {
    pub fn parse(rule: &str) -> Result<GuestForward> {
        GuestForward::parts(rule)
            .map_err(|reason| Error::new(format!("Invalid guest forwarding rule '{rule}' ({reason})")))
    }

    fn parts(rule: &str) -> Result<GuestForward, &'static str> {
        let (protocol, rest) = rule.split_once(':').ok_or("No : separators")?;
        if !matches!(protocol, "" | "tcp") {
            return Err("Bad protocol name");
        }
        let (server, rest) = take_address(rest, ':').ok_or("Missing : separator")?;
        let server = if server.is_empty() { "0.0.0.0" } else { server };
        let server = address(server).ok_or("Bad server address")?;
        let (server_port, target) = rest.split_once('-').ok_or("Missing - separator")?;
        let server_port = port(server_port).filter(|&p| p != 0).ok_or("Bad server port")?;
        let target = match target.strip_prefix("cmd:") {
            Some(command) => ForwardTarget::Command(command.to_string()),
            None => ForwardTarget::Chardev(target.to_string()),
        };
        Ok(GuestForward { server: SocketAddr::new(server, server_port), target, rule: rule.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rule: &str, expected: Result<&str, &str>) {
        let got = HostForward::parts(rule);
        let got = got.map(|f| format!("{:?} {:?} {}", f.listen, f.guest, f.guest_port));
        assert_eq!(got.as_deref().map_err(|e| *e), expected, "{rule}");
    }

    #[test]
    fn host_rules() {
        check("tcp::2222-:22", Ok("Tcp(0.0.0.0:2222) None 22"));
        check(":127.0.0.1:0-10.0.2.15:80", Ok("Tcp(127.0.0.1:0) Some(10.0.2.15) 80"));
        check("udp::53-:53", Ok("Udp(0.0.0.0:53) None 53"));
        check("tcp:[::1]:2222-[fec0::15]:22", Ok("Tcp([::1]:2222) Some(fec0::15) 22"));
        check("tcp::2222-[fec0::15]:22", Ok("Tcp([::]:2222) Some(fec0::15) 22"));
        check("tcp:127.1: +0x10-0.0.0.0:026-", Ok("Tcp(127.0.0.1:16) None 22"));
        check("unix:/tmp/a-b.sock-:22", Ok("Unix(\"/tmp/a-b.sock\") None 22"));
    }

    #[test]
    fn bad_host_rules_say_why() {
        check("tcp", Err("No : separators"));
        check("tcp:2222", Err("Missing : separator"));
        check("tcp::99999-:22", Err("Bad host port"));
        check("tcp::-:22", Err("Bad host port"));
        check("tcp::22x-:22", Err("Bad host port"));
        check("tcp::-1-:22", Err("Bad host port"));
        check("tcp::2222:22", Err("Bad host port separator"));
        check("foo::2222-:22", Err("Bad protocol name"));
        check("tcp:300.0.0.1:2222-:22", Err("Bad host address"));
        check("tcp::2222-22", Err("Missing guest address"));
        check("tcp::2222-x:22", Err("Bad guest address"));
        check("tcp::2222-:0", Err("Bad guest port"));
        check("unix:-:22", Err("Bad host path"));
    }

    #[test]
    fn guest_rules() {
        let command = GuestForward::parse("tcp:10.0.2.100:1234-cmd:netcat 10.1.1.1 4321").unwrap();
        assert_eq!(command.server, "10.0.2.100:1234".parse().unwrap());
        assert_eq!(command.target, ForwardTarget::Command("netcat 10.1.1.1 4321".into()));
        for device in ["chardev:web", "tcp:192.0.2.1:80", "unix:/run/a-b"] {
            let forward = GuestForward::parse(&format!(":10.0.2.100:80-{device}")).unwrap();
            assert_eq!(forward.target, ForwardTarget::Chardev(device.into()));
        }
        let error = GuestForward::parse("udp:10.0.2.100:80-x").unwrap_err();
        assert_eq!(error.to_string(), "Invalid guest forwarding rule 'udp:10.0.2.100:80-x' (Bad protocol name)");
    }
}
