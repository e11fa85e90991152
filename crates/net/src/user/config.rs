//! The options of `-netdev user`, one row each, and the addresses that follow from them.
//!
//! Reference: QEMU's `-netdev user` documentation (spellings and defaults).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use spec::error::{Error, Result};

use super::forward::{GuestForward, HostForward};
use crate::options::{self, Row, rows};

/// The longest text that fits one DHCP option.
const MAX_DHCP_TEXT: usize = 255;
/// The longest domain search list we announce, in names.
const MAX_SEARCH_DOMAINS: usize = 16;

/// The addresses of the virtual IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net4 {
    pub network: Ipv4Addr,
    pub prefix_len: u8,
    pub host: Ipv4Addr,
    pub dns: Ipv4Addr,
    pub dhcp_start: Ipv4Addr,
    pub smb: Ipv4Addr,
}

impl Net4 {
    pub fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix_len)).unwrap_or(0)
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.network)
    }

    /// What is number `n` where the user names none: in networks that are large enough at 0.0.2.`n`, as in the default one.
    pub fn usual(&self, n: u8) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) | (0x200 | u32::from(n)) & !self.mask())
    }

    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) | !self.mask())
    }
}

/// The addresses of the virtual IPv6 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net6 {
    pub prefix: Ipv6Addr,
    pub prefix_len: u8,
    pub host: Ipv6Addr,
    pub dns: Ipv6Addr,
}

impl Net6 {
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_len)).unwrap_or(0);
        u128::from(address) & mask == u128::from(self.prefix) & mask
    }
}

/// What the options say, checked and completed.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The IPv4 network as lists show it, also where there is none.
    pub shown: Ipv4Addr,
    pub v4: Option<Net4>,
    pub v6: Option<Net6>,
    pub restrict: bool,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub dnssearch: Vec<String>,
    pub tftp: Option<PathBuf>,
    pub bootfile: Option<String>,
    pub tftp_server_name: Option<String>,
    pub smb: Option<PathBuf>,
    pub hostfwd: Vec<HostForward>,
    pub guestfwd: Vec<GuestForward>,
    /// Not an option of QEMU: the virtual cable's MTU.
    pub mtu: usize,
}

/// What the user wrote.
#[derive(Default)]
struct Written {
    ipv4: Option<bool>,
    ipv6: Option<bool>,
    net: Option<String>,
    host: Option<Ipv4Addr>,
    dns: Option<Ipv4Addr>,
    dhcpstart: Option<Ipv4Addr>,
    smbserver: Option<Ipv4Addr>,
    ipv6_prefix: Option<Ipv6Addr>,
    ipv6_prefixlen: Option<i64>,
    ipv6_host: Option<Ipv6Addr>,
    ipv6_dns: Option<Ipv6Addr>,
    config: Config,
}

/// The table of options; the order is that of the documentation.
const ROWS: &[Row<Written>] = rows! {
    "id"               "name for monitor commands"                |_w, _v| {};
    "ipv4"             "on|off: IPv4"                             |w, v| w.ipv4 = Some(options::boolean("ipv4", v)?);
    "ipv6"             "on|off: IPv6"                             |w, v| w.ipv6 = Some(options::boolean("ipv6", v)?);
    "net"              "addr[/mask]: the network"                 |w, v| w.net = Some(v.to_string());
    "host"             "addr: the host as the guest sees it"      |w, v| w.host = Some(v4("host", v)?);
    "ipv6-net"         "addr[/len]: the IPv6 network"             |w, v| ipv6_net(w, v)?;
    "ipv6-prefix"      "addr: the IPv6 network"                   |w, v| w.ipv6_prefix = Some(v6("prefix", v)?);
    "ipv6-prefixlen"   "len: the length of the prefix"            |w, v| w.ipv6_prefixlen = Some(options::number("ipv6-prefixlen", v)?);
    "ipv6-host"        "addr: the host in IPv6"                   |w, v| w.ipv6_host = Some(v6("host", v)?);
    "restrict"         "on|off: isolate the guest"                |w, v| w.config.restrict = options::boolean("restrict", v)?;
    "hostname"         "name that DHCP gives the guest"           |w, v| w.config.hostname = text("hostname", v)?;
    "dhcpstart"        "addr: the first of 16 leases"             |w, v| w.dhcpstart = Some(v4("DHCP start address", v)?);
    "dns"              "addr: the virtual name server"            |w, v| w.dns = Some(v4("DNS", v)?);
    "ipv6-dns"         "addr: the virtual name server in IPv6"    |w, v| w.ipv6_dns = Some(v6("DNS", v)?);
    "dnssearch"        "domain to search; may be repeated"        |w, v| search(w, v)?;
    "domainname"       "domain that DHCP gives the guest"         |w, v| w.config.domainname = text("domainname", v)?;
    "tftp"             "dir: served read-only over TFTP"          |w, v| w.config.tftp = Some(v).filter(|v| !v.is_empty()).map(PathBuf::from);
    "tftp-server-name" "name that DHCP announces (option 66)"     |w, v| w.config.tftp_server_name = text("tftp-server-name", v)?;
    "bootfile"         "file that DHCP announces for booting"     |w, v| w.config.bootfile = text("bootfile", v)?;
    "hostfwd"          "[tcp|udp|unix]:[addr]:port-[addr]:port"   |w, v| w.config.hostfwd.push(HostForward::parse(v)?);
    "guestfwd"         "[tcp]:addr:port-(device|cmd:command)"    |w, v| w.config.guestfwd.push(GuestForward::parse(v)?);
    "smb"              "dir: shared over SMB (needs smbd)"        |w, v| w.config.smb = Some(PathBuf::from(v));
    "smbserver"        "addr: the SMB server"                     |w, v| w.smbserver = Some(v4("SMB address", v)?);
};

fn v4(what: &str, value: &str) -> Result<Ipv4Addr> {
    options::ipv4(value).ok_or_else(|| Error::new(format!("Failed to parse {what}")))
}

fn v6(what: &str, value: &str) -> Result<Ipv6Addr> {
    value.parse().map_err(|_| Error::new(format!("Failed to parse IPv6 {what}")))
}

/// Text that ends up in a DHCP option; empty text is none.
fn text(name: &str, value: &str) -> Result<Option<String>> {
    must(value.len() <= MAX_DHCP_TEXT, &format!("'{name}' parameter cannot exceed {MAX_DHCP_TEXT} bytes"))?;
    must(!value.is_empty() || name != "domainname", "'domainname' parameter cannot be empty")?;
    Ok(Some(value.to_string()).filter(|v| !v.is_empty()))
}

fn search(w: &mut Written, value: &str) -> Result<()> {
    match text("dnssearch", value)? {
        Some(domain) => w.config.dnssearch.push(domain),
        None => log::warn!("failed to parse domain name ''"),
    }
    Ok(())
}

fn ipv6_net(w: &mut Written, value: &str) -> Result<()> {
    let (prefix, len) = value.split_once('/').unwrap_or((value, ""));
    w.ipv6_prefix = Some(v6("prefix", prefix)?);
    if !len.is_empty() {
        w.ipv6_prefixlen = Some(options::number("ipv6-net", len)?);
    }
    Ok(())
}

/// `addr`, `addr/24` or `addr/255.255.255.0`. Without a mask, that of the private range around `addr`, or of its class.
fn network(value: &str) -> Result<(Ipv4Addr, u8)> {
    let (addr, mask) = value.split_once('/').map_or((value, None), |(addr, mask)| (addr, Some(mask)));
    let addr = v4("netmask", addr)?;
    let prefix_len = match mask {
        None => match addr.octets() {
            [0..=127, ..] => 8,
            [172, 16..=31, ..] => 12,
            [128..=191, ..] | [192, 168, ..] => 16,
            [198, 18..=19, ..] => 15,
            [224..=255, ..] => 24,
            [192..=223, ..] => 28,
        },
        Some(mask) => match options::c_number(mask).filter(|(_, rest)| rest.is_empty()) {
            Some((bits @ 4..=32, _)) => bits as u8,
            _ if mask.is_empty() || !mask.contains('.') && options::ipv4(mask).is_some() => {
                return Err(Error::new("Invalid netmask provided (must be in range 4-32)"));
            }
            _ => {
                let mask = options::ipv4(mask).ok_or_else(|| Error::new("Failed to parse netmask (trailing chars)"))?;
                let bits = u32::from(mask).leading_ones();
                // QEMU takes any; a network whose addresses are not in a row is nothing that we can serve.
                must(bits + u32::from(mask).trailing_zeros() == 32, &format!("'net={value}' needs a contiguous mask"))?;
                bits as u8
            }
        },
    };
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0);
    Ok((Ipv4Addr::from(u32::from(addr) & mask), prefix_len))
}

impl Default for Config {
    fn default() -> Config {
        Config {
            shown: Ipv4Addr::new(10, 0, 2, 0),
            v4: Some(Net4 {
                network: Ipv4Addr::new(10, 0, 2, 0),
                prefix_len: 24,
                host: Ipv4Addr::new(10, 0, 2, 2),
                dns: Ipv4Addr::new(10, 0, 2, 3),
                dhcp_start: Ipv4Addr::new(10, 0, 2, 15),
                smb: Ipv4Addr::new(10, 0, 2, 4),
            }),
            v6: Some(Net6 {
                prefix: Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0),
                prefix_len: 64,
                host: Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2),
                dns: Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 3),
            }),
            restrict: false,
            hostname: None,
            domainname: None,
            dnssearch: Vec::new(),
            tftp: None,
            bootfile: None,
            tftp_server_name: None,
            smb: None,
            hostfwd: Vec::new(),
            guestfwd: Vec::new(),
            mtu: 1500,
        }
    }
}

impl Config {
    /// Parses what follows `user,`.
    pub fn parse(text: &str) -> Result<Config> {
        Config::from_pairs(&options::split(text))
    }

    pub fn from_pairs(pairs: &[(String, String)]) -> Result<Config> {
        let mut written = Written::default();
        options::apply(ROWS, &mut written, pairs)?;
        written.complete()
    }

    /// The text of `-netdev user,help`.
    pub fn help() -> String {
        options::help(ROWS)
    }
}

fn must(condition: bool, sentence: &str) -> Result<()> {
    if condition { Ok(()) } else { Err(Error::new(sentence)) }
}

impl Written {
    fn complete(mut self) -> Result<Config> {
        // Asking for one version alone switches the other off.
        let v4 = self.ipv4.unwrap_or(self.ipv6 != Some(true));
        let v6 = self.ipv6.unwrap_or(self.ipv4 != Some(true));
        must(v4 || self.net.is_none() && self.host.is_none() && self.dns.is_none(), "IPv4 disabled but netmask/host/dns provided")?;
        let any6 = self.ipv6_prefix.is_some() || self.ipv6_host.is_some() || self.ipv6_dns.is_some();
        must(v6 || !any6, "IPv6 disabled but prefix/host6/dns6 provided")?;
        must(v4 || v6, "IPv4 and IPv6 disabled")?;
        let net4 = self.net4()?;
        self.config.shown = net4.network;
        self.config.v4 = if v4 { Some(net4) } else { None };
        self.config.v6 = if v6 { Some(self.net6()?) } else { None };
        for server in self.config.guestfwd.iter_mut().map(|f| &mut f.server).filter(|s| s.ip().is_unspecified()) {
            server.set_ip(net4.usual(4).into());
        }
        must(self.config.dnssearch.len() <= MAX_SEARCH_DOMAINS, "too many 'dnssearch' domains")?;
        if let Some(dir) = self.config.tftp.as_ref().filter(|dir| !dir.is_dir()) {
            log::warn!("tftp directory '{}' does not exist", dir.display());
        }
        Ok(self.config)
    }

    fn net4(&self) -> Result<Net4> {
        let default = Config::default().v4.expect("the default has IPv4");
        let (network, prefix_len) = match &self.net {
            Some(net) => network(net)?,
            None => (default.network, default.prefix_len),
        };
        let mut net = Net4 { network, prefix_len, ..default };
        (net.host, net.dns) = (self.host.unwrap_or(net.usual(2)), self.dns.unwrap_or(net.usual(3)));
        net.dhcp_start = self.dhcpstart.unwrap_or(net.usual(15));
        net.smb = self.smbserver.unwrap_or(net.usual(4));
        must(net.contains(net.host), "Host doesn't belong to network")?;
        // Where nothing is behind the network, a name server outside of it could not be reached.
        must(!self.config.restrict || net.contains(net.dns), "DNS doesn't belong to network")?;
        must(net.host != net.dns, "DNS must be different from host")?;
        must(net.contains(net.dhcp_start), "DHCP doesn't belong to network")?;
        must(net.dhcp_start != net.host && net.dhcp_start != net.dns, "DHCP must be different from host and DNS")?;
        let taken = !net.contains(net.smb) || net.smb == net.host || net.smb == net.dns;
        must(self.config.smb.is_none() || !taken, "Conflicting/invalid smbserver address")?;
        Ok(net)
    }

    fn net6(&self) -> Result<Net6> {
        let default = Config::default().v6.expect("the default has IPv6");
        let prefix_len = u8::try_from(self.ipv6_prefixlen.unwrap_or(64)).unwrap_or(u8::MAX);
        must(prefix_len <= 126, "Invalid IPv6 prefix provided (IPv6 prefix length must be between 0 and 126)")?;
        let mask = u128::MAX.checked_shl(128 - u32::from(prefix_len)).unwrap_or(0);
        let prefix = u128::from(self.ipv6_prefix.unwrap_or(default.prefix)) & mask;
        let net = Net6 {
            prefix: Ipv6Addr::from(prefix),
            prefix_len,
            host: self.ipv6_host.unwrap_or(Ipv6Addr::from(prefix | 2)),
            dns: self.ipv6_dns.unwrap_or(Ipv6Addr::from(prefix | 3)),
        };
        must(net.contains(net.host), "IPv6 Host doesn't belong to network")?;
        must(!self.config.restrict || net.contains(net.dns), "IPv6 DNS doesn't belong to network")?;
        // QEMU takes that, and then has no name server.
        must(net.host != net.dns, "IPv6 DNS must be different from host")?;
        Ok(net)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn addresses(text: &str, expected: &str) {
        let v4 = Config::parse(text).unwrap().v4.unwrap();
        let got = format!("{}/{} {} {} {}", v4.network, v4.prefix_len, v4.host, v4.dns, v4.dhcp_start);
        assert_eq!(got, expected);
    }

    #[track_caller]
    fn error(text: &str, expected: &str) {
        assert_eq!(Config::parse(text).unwrap_err().to_string(), expected);
    }

    #[test]
    fn nothing_said_means_the_documented_defaults() {
        assert_eq!(Config::parse("id=n0").unwrap(), Config::default());
    }

    #[test]
    fn addresses_follow_the_network() {
        addresses("net=192.168.76.0/24", "192.168.76.0/24 192.168.76.2 192.168.76.3 192.168.76.15");
        addresses("net=192.168.76.9/255.255.255.0,host=192.168.76.1", "192.168.76.0/24 192.168.76.1 192.168.76.3 192.168.76.15");
        addresses("net=10.0.0.0", "10.0.0.0/8 10.0.2.2 10.0.2.3 10.0.2.15");
        addresses("net=10.9.0.0/16", "10.9.0.0/16 10.9.2.2 10.9.2.3 10.9.2.15");
        addresses("net=172.16.5.77", "172.16.0.0/12 172.16.2.2 172.16.2.3 172.16.2.15");
        addresses("net=10.9.0.0/29", "10.9.0.0/29 10.9.0.2 10.9.0.3 10.9.0.7");
        addresses("net=10.1/16", "10.0.0.0/16 10.0.2.2 10.0.2.3 10.0.2.15");
        addresses("dns=8.8.8.8", "10.0.2.0/24 10.0.2.2 8.8.8.8 10.0.2.15");
        addresses("host=10.0.2.10,dhcpstart=10.0.2.100", "10.0.2.0/24 10.0.2.10 10.0.2.3 10.0.2.100");
    }

    #[test]
    fn one_version_alone_switches_the_other_off() {
        let on = |text| Config::parse(text).map(|c| (c.v4.is_some(), c.v6.is_some())).unwrap();
        assert_eq!(on("ipv6=on"), (false, true));
        assert_eq!(on("ipv4"), (true, false));
        assert_eq!(on("ipv6=off"), (true, false));
        assert_eq!(on("ipv4=on,ipv6=on"), (true, true));
        error("ipv4=off,ipv6=off", "IPv4 and IPv6 disabled");
        assert_eq!(on("noipv4"), (false, true));
    }

    #[test]
    fn ipv6_spellings() {
        let v6 = Config::parse("ipv6-net=fd00:1::/80,ipv6-dns=fd00:1::53").unwrap().v6.unwrap();
        assert_eq!(format!("{}/{} {} {}", v6.prefix, v6.prefix_len, v6.host, v6.dns), "fd00:1::/80 fd00:1::2 fd00:1::53");
        let other = Config::parse("ipv6-prefix=fd00:1::,ipv6-prefixlen=80").unwrap().v6.unwrap();
        assert_eq!((other.prefix, other.prefix_len), (v6.prefix, v6.prefix_len));
    }

    #[test]
    fn errors_name_the_option() {
        error("foo=1", "Invalid parameter 'foo'");
        error("restrict=maybe", "Parameter 'restrict' expects 'on' or 'off'");
        error("host=10.0.3.2", "Host doesn't belong to network");
        error("host=x", "Failed to parse host");
        error("dns=10.0.2.2", "DNS must be different from host");
        error("dns=8.8.8.8,restrict=on", "DNS doesn't belong to network");
        error("dhcpstart=10.0.2.3", "DHCP must be different from host and DNS");
        error("dhcpstart=10.0.3.3", "DHCP doesn't belong to network");
        error("net=10.0.2.0/30", "DHCP must be different from host and DNS");
        error("net=10.0.2.0/3", "Invalid netmask provided (must be in range 4-32)");
        error("net=10.0.2.0/33", "Invalid netmask provided (must be in range 4-32)");
        error("net=10.0.2.0/", "Invalid netmask provided (must be in range 4-32)");
        error("net=10.0.2.0/x", "Failed to parse netmask (trailing chars)");
        error("net=10.0.2.0/255.0.255.0", "'net=10.0.2.0/255.0.255.0' needs a contiguous mask");
        error("net=x", "Failed to parse netmask");
        error("ipv4=off,host=10.0.2.2", "IPv4 disabled but netmask/host/dns provided");
        error("ipv6=off,ipv6-net=fd00::/64", "IPv6 disabled but prefix/host6/dns6 provided");
        error("ipv6-net=fd00::/127", "Invalid IPv6 prefix provided (IPv6 prefix length must be between 0 and 126)");
        error("ipv6-prefixlen=-1", "Invalid IPv6 prefix provided (IPv6 prefix length must be between 0 and 126)");
        error("ipv6-host=fd00::9", "IPv6 Host doesn't belong to network");
        error("domainname=", "'domainname' parameter cannot be empty");
        error("smb=/tmp,smbserver=10.0.2.2", "Conflicting/invalid smbserver address");
        error("hostfwd=tcp::99999-:22", "Invalid host forwarding rule 'tcp::99999-:22' (Bad host port)");
    }

    #[test]
    fn what_is_empty_is_not_there() {
        let expected = Config::default();
        for text in ["hostname=", "bootfile=", "tftp-server-name=", "dnssearch=", "tftp="] {
            assert_eq!(Config::parse(text).unwrap(), expected, "{text}");
        }
        // It may be made before the guest asks.
        assert!(Config::parse("tftp=/does/not/exist").unwrap().tftp.is_some());
        let server = |text| Config::parse(text).unwrap().guestfwd[0].server.to_string();
        assert_eq!(server("guestfwd=tcp::80-cmd:cat"), "10.0.2.4:80");
        assert_eq!(server("net=10.9.0.0/16,guestfwd=tcp:0.0.0.0:80-cmd:cat"), "10.9.2.4:80");
    }

    #[test]
    fn the_help_has_a_line_for_every_option() {
        assert_eq!(Config::help().lines().count(), ROWS.len());
    }
}
