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
    ipv6_prefixlen: Option<u8>,
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
    "host"             "addr: the host as the guest sees it"      |w, v| w.host = Some(address("host", v)?);
    "ipv6-net"         "addr[/len]: the IPv6 network"             |w, v| ipv6_net(w, v)?;
    "ipv6-prefix"      "addr: the IPv6 network"                   |w, v| w.ipv6_prefix = Some(address("ipv6-prefix", v)?);
    "ipv6-prefixlen"   "len: the length of the prefix"            |w, v| w.ipv6_prefixlen = Some(options::number("ipv6-prefixlen", v)?);
    "ipv6-host"        "addr: the host in IPv6"                   |w, v| w.ipv6_host = Some(address("ipv6-host", v)?);
    "restrict"         "on|off: isolate the guest"                |w, v| w.config.restrict = options::boolean("restrict", v)?;
    "hostname"         "name that DHCP gives the guest"           |w, v| w.config.hostname = Some(text("hostname", v)?);
    "dhcpstart"        "addr: the first of 16 leases"             |w, v| w.dhcpstart = Some(address("dhcpstart", v)?);
    "dns"              "addr: the virtual name server"            |w, v| w.dns = Some(address("dns", v)?);
    "ipv6-dns"         "addr: the virtual name server in IPv6"    |w, v| w.ipv6_dns = Some(address("ipv6-dns", v)?);
    "dnssearch"        "domain to search; may be repeated"        |w, v| w.config.dnssearch.push(text("dnssearch", v)?);
    "domainname"       "domain that DHCP gives the guest"         |w, v| w.config.domainname = Some(text("domainname", v)?);
    "tftp"             "dir: served read-only over TFTP"          |w, v| w.config.tftp = Some(PathBuf::from(v));
    "tftp-server-name" "name that DHCP announces (option 66)"     |w, v| w.config.tftp_server_name = Some(text("tftp-server-name", v)?);
    "bootfile"         "file that DHCP announces for booting"     |w, v| w.config.bootfile = Some(text("bootfile", v)?);
    "hostfwd"          "[tcp|udp|unix]:[addr]:port-[addr]:port"   |w, v| w.config.hostfwd.push(HostForward::parse(v)?);
    "guestfwd"         "[tcp]:addr:port-(device|cmd:command)"    |w, v| w.config.guestfwd.push(GuestForward::parse(v)?);
    "smb"              "dir: shared over SMB (needs smbd)"        |w, v| w.config.smb = Some(PathBuf::from(v));
    "smbserver"        "addr: the SMB server"                     |w, v| w.smbserver = Some(address("smbserver", v)?);
};

fn address<A: std::str::FromStr>(name: &str, value: &str) -> Result<A> {
    value.parse().map_err(|_| Error::new(format!("'{name}={value}' is not an address of the right kind")))
}

/// Text that ends up in a DHCP option.
fn text(name: &str, value: &str) -> Result<String> {
    if value.is_empty() || value.len() > MAX_DHCP_TEXT {
        return Err(Error::new(format!("'{name}' takes 1 to {MAX_DHCP_TEXT} characters")));
    }
    Ok(value.to_string())
}

fn ipv6_net(w: &mut Written, value: &str) -> Result<()> {
    let (prefix, len) = value.split_once('/').unwrap_or((value, ""));
    w.ipv6_prefix = Some(address("ipv6-net", prefix)?);
    if !len.is_empty() {
        w.ipv6_prefixlen = Some(options::number("ipv6-net", len)?);
    }
    Ok(())
}

/// `addr`, `addr/24` or `addr/255.255.255.0`. Without a mask, that of the private range around `addr`.
fn network(value: &str) -> Result<(Ipv4Addr, u8)> {
    let (addr, mask) = value.split_once('/').unwrap_or((value, ""));
    let addr: Ipv4Addr = address("net", addr)?;
    let bad = || Error::new(format!("'net={value}' needs a contiguous mask of at most 30 bits"));
    let prefix_len = if mask.is_empty() {
        match addr.octets() {
            [0..=127, ..] => 8,
            [172, 16..=31, ..] => 12,
            [192, 168, ..] => 16,
            [198, 18..=19, ..] => 15,
            _ => 28,
        }
    } else if let Ok(bits) = mask.parse::<u8>() {
        bits
    } else {
        let mask = u32::from(mask.parse::<Ipv4Addr>().map_err(|_| bad())?);
        if mask.leading_ones() + mask.trailing_zeros() != 32 {
            return Err(bad());
        }
        mask.leading_ones() as u8
    };
    if prefix_len > 30 {
        return Err(bad());
    }
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0);
    Ok((Ipv4Addr::from(u32::from(addr) & mask), prefix_len))
}

impl Default for Config {
    fn default() -> Config {
        Config {
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
        must(v4 || v6, "ipv4=off and ipv6=off leave no network")?;
        self.config.v4 = if v4 { Some(self.net4()?) } else { None };
        self.config.v6 = if v6 { Some(self.net6()?) } else { None };
        let any4 = self.net.is_some() || self.host.is_some() || self.dns.is_some() || self.dhcpstart.is_some();
        must(v4 || !any4, "IPv4 is off, but 'net', 'host', 'dns' or 'dhcpstart' is given")?;
        let any6 = self.ipv6_prefix.is_some() || self.ipv6_host.is_some() || self.ipv6_dns.is_some();
        must(v6 || !any6, "IPv6 is off, but 'ipv6-net', 'ipv6-host' or 'ipv6-dns' is given")?;
        must(self.config.dnssearch.len() <= MAX_SEARCH_DOMAINS, "too many 'dnssearch' domains")?;
        if let Some(dir) = &self.config.tftp {
            must(dir.is_dir(), &format!("tftp directory '{}' does not exist", dir.display()))?;
        }
        Ok(self.config)
    }

    fn net4(&self) -> Result<Net4> {
        let (network, prefix_len) = match &self.net {
            Some(net) => network(net)?,
            None => {
                let default = Config::default().v4.expect("the default has IPv4");
                (default.network, default.prefix_len)
            }
        };
        let default = |n: u32| Ipv4Addr::from(u32::from(network) | n);
        let net = Net4 {
            network,
            prefix_len,
            host: self.host.unwrap_or(default(2)),
            dns: self.dns.unwrap_or(default(3)),
            dhcp_start: self.dhcpstart.unwrap_or(default(15)),
            smb: self.smbserver.unwrap_or(default(4)),
        };
        for (name, address) in [("host", net.host), ("dns", net.dns), ("dhcpstart", net.dhcp_start), ("smbserver", net.smb)] {
            must(net.contains(address), &format!("'{name}={address}' is not in {network}/{prefix_len}"))?;
        }
        must(net.host != net.dns, "'dns' must differ from 'host'")?;
        must(net.dhcp_start != net.host && net.dhcp_start != net.dns, "'dhcpstart' must differ from 'host' and 'dns'")?;
        Ok(net)
    }

    fn net6(&self) -> Result<Net6> {
        let default = Config::default().v6.expect("the default has IPv6");
        let prefix_len = self.ipv6_prefixlen.unwrap_or(64);
        must(prefix_len <= 126, "the IPv6 prefix length must be between 0 and 126")?;
        let mask = u128::MAX.checked_shl(128 - u32::from(prefix_len)).unwrap_or(0);
        let prefix = u128::from(self.ipv6_prefix.unwrap_or(default.prefix)) & mask;
        let net = Net6 {
            prefix: Ipv6Addr::from(prefix),
            prefix_len,
            host: self.ipv6_host.unwrap_or(Ipv6Addr::from(prefix | 2)),
            dns: self.ipv6_dns.unwrap_or(Ipv6Addr::from(prefix | 3)),
        };
        must(net.contains(net.host), "'ipv6-host' is not in the IPv6 network")?;
        must(net.contains(net.dns), "'ipv6-dns' is not in the IPv6 network")?;
        must(net.host != net.dns, "'ipv6-dns' must differ from 'ipv6-host'")?;
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
        addresses("net=10.0.0.0", "10.0.0.0/8 10.0.0.2 10.0.0.3 10.0.0.15");
        addresses("host=10.0.2.10,dhcpstart=10.0.2.100", "10.0.2.0/24 10.0.2.10 10.0.2.3 10.0.2.100");
    }

    #[test]
    fn one_version_alone_switches_the_other_off() {
        let on = |text| Config::parse(text).map(|c| (c.v4.is_some(), c.v6.is_some())).unwrap();
        assert_eq!(on("ipv6=on"), (false, true));
        assert_eq!(on("ipv4"), (true, false));
        assert_eq!(on("ipv6=off"), (true, false));
        assert_eq!(on("ipv4=on,ipv6=on"), (true, true));
        error("ipv4=off,ipv6=off", "ipv4=off and ipv6=off leave no network");
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
        error("host=10.0.3.2", "'host=10.0.3.2' is not in 10.0.2.0/24");
        error("dns=10.0.2.2", "'dns' must differ from 'host'");
        error("net=10.0.2.0/31", "'net=10.0.2.0/31' needs a contiguous mask of at most 30 bits");
        error("ipv4=off,host=10.0.2.2", "IPv4 is off, but 'net', 'host', 'dns' or 'dhcpstart' is given");
        error("tftp=/does/not/exist", "tftp directory '/does/not/exist' does not exist");
        error("hostfwd=tcp::99999-:22", "Invalid host forwarding rule 'tcp::99999-:22' (Bad host port)");
    }

    #[test]
    fn the_help_has_a_line_for_every_option() {
        assert_eq!(Config::help().lines().count(), ROWS.len());
    }
}
