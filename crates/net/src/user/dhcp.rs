//! The DHCP and BOOTP server.
//!
//! Reference: RFC 2131, RFC 2132 (options), RFC 3397 (search list), RFC 951 (BOOTP).
//! Invariant: at most [`MAX_LEASES`] addresses are given out, from `dhcpstart` upward.

use std::net::Ipv4Addr;

use smoltcp::wire::{DhcpMessageType, DhcpOpCode, DhcpOption, DhcpPacket};

use super::config::{Config, Net4};
use super::dns::encode_name;
use crate::mac::Mac;

pub const MAX_LEASES: usize = 16;
const LEASE_S: u32 = 86400;
/// The smallest message every client accepts; BOOTP clients insist on 300 bytes.
const REPLY_SIZE: usize = 300;
/// Room for our options: the four longest texts and a search list.
const MAX_REPLY: usize = 1400;

mod code {
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOSTNAME: u8 = 12;
    pub const DOMAIN: u8 = 15;
    pub const MTU: u8 = 26;
    pub const REQUESTED: u8 = 50;
    pub const LEASE: u8 = 51;
    pub const MESSAGE: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const RENEWAL: u8 = 58;
    pub const REBINDING: u8 = 59;
    pub const TFTP_SERVER: u8 = 66;
    pub const BOOTFILE: u8 = 67;
    pub const SEARCH: u8 = 119;
}

#[derive(Debug, Default)]
pub struct Dhcp {
    /// Position n is `dhcpstart + n`.
    leases: Vec<Mac>,
    full_reported: bool,
}

/// What the server says.
pub struct Reply {
    pub message: Vec<u8>,
    pub to: Ipv4Addr,
    /// The client and its address, when it now has one.
    pub bound: Option<(Ipv4Addr, Mac)>,
}

/// What a client says.
struct Request {
    mac: Mac,
    message: Option<DhcpMessageType>,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

fn address(data: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(data).ok().map(Ipv4Addr::from)
}

impl Request {
    fn parse(packet: &DhcpPacket<&[u8]>) -> Request {
        let mac = Mac(packet.client_hardware_address().0);
        let mut request = Request { mac, message: None, requested: None, server: None };
        for DhcpOption { kind, data } in packet.options() {
            match kind {
                code::MESSAGE => request.message = data.first().map(|&m| m.into()),
                code::REQUESTED => request.requested = address(data),
                code::SERVER => request.server = address(data),
                _ => {}
            }
        }
        let client = packet.client_ip();
        if request.requested.is_none() && !client.is_unspecified() {
            request.requested = Some(client);
        }
        request
    }
}

impl Dhcp {
    /// The address of a client: its own from before, the one it wants, or the next free one.
    fn lease(&mut self, net: &Net4, mac: Mac) -> Option<Ipv4Addr> {
        let index = match self.leases.iter().position(|m| *m == mac) {
            Some(index) => index,
            None if self.leases.len() < MAX_LEASES => {
                self.leases.push(mac);
                self.leases.len() - 1
            }
            None => {
                if !std::mem::replace(&mut self.full_reported, true) {
                    log::warn!("user network: all {MAX_LEASES} DHCP addresses are in use");
                }
                return None;
            }
        };
        let address = Ipv4Addr::from(u32::from(net.dhcp_start).checked_add(index as u32)?);
        let usable = net.contains(address) && address != net.broadcast() && address != net.host && address != net.dns;
        usable.then_some(address)
    }

    /// Answers a message to the server port.
    pub fn serve(&mut self, config: &Config, payload: &[u8]) -> Option<Reply> {
        let net = config.v4.as_ref()?;
        let packet = DhcpPacket::new_checked(payload).ok()?;
        // Request, Ethernet, and DHCP's options.
        if payload[0] != 1 || packet.hardware_len() != 6 || packet.magic_number() != 0x6382_5363 {
            return None;
        }
        let request = Request::parse(&packet);
        let answer = match request.message {
            None => None,
            Some(DhcpMessageType::Discover) => Some(DhcpMessageType::Offer),
            Some(DhcpMessageType::Request) if request.server.is_some_and(|s| s != net.host) => return None,
            Some(DhcpMessageType::Request) => Some(DhcpMessageType::Ack),
            Some(DhcpMessageType::Inform) => {
                let to = request.requested?;
                return Some(self.reply(config, net, &packet, &request, Some(DhcpMessageType::Ack), None, to));
            }
            // One guest owns the lease for as long as we run: nothing to take back.
            Some(_) => return None,
        };
        let address = self.lease(net, request.mac)?;
        let refused = answer == Some(DhcpMessageType::Ack) && request.requested.is_some_and(|a| a != address);
        if refused {
            let nak = Some(DhcpMessageType::Nak);
            return Some(self.reply(config, net, &packet, &request, nak, None, Ipv4Addr::BROADCAST));
        }
        Some(self.reply(config, net, &packet, &request, answer, Some(address), Ipv4Addr::BROADCAST))
    }

    #[expect(clippy::too_many_arguments, reason = "all parts of one message")]
    fn reply(
        &self,
        config: &Config,
        net: &Net4,
        query: &DhcpPacket<&[u8]>,
        request: &Request,
        answer: Option<DhcpMessageType>,
        address: Option<Ipv4Addr>,
        to: Ipv4Addr,
    ) -> Reply {
        let nak = answer == Some(DhcpMessageType::Nak);
        let options = options(config, net, answer, address.is_some());
        let mut message = vec![0; (240 + options.len() + 1).max(REPLY_SIZE)];
        let mut packet = DhcpPacket::new_unchecked(&mut message[..]);
        packet.set_sname_and_boot_file_to_zero();
        packet.set_opcode(DhcpOpCode::Reply);
        packet.set_hardware_type(query.hardware_type());
        packet.set_hardware_len(6);
        packet.set_transaction_id(query.transaction_id());
        packet.set_flags(query.flags());
        packet.set_client_hardware_address(query.client_hardware_address());
        packet.set_client_ip(if nak || address.is_some() { Ipv4Addr::UNSPECIFIED } else { query.client_ip() });
        packet.set_your_ip(address.unwrap_or(Ipv4Addr::UNSPECIFIED));
        packet.set_server_ip(if nak { Ipv4Addr::UNSPECIFIED } else { net.host });
        packet.set_relay_agent_ip(query.relay_agent_ip());
        packet.set_magic_number(0x6382_5363);
        if let (Some(bootfile), false) = (&config.bootfile, nak) {
            // The field has a terminating zero; longer names are in option 67 only.
            let name = bootfile.as_bytes();
            if name.len() < 128 {
                message[108..108 + name.len()].copy_from_slice(name);
            }
        }
        message[240..240 + options.len()].copy_from_slice(&options);
        message[240 + options.len()] = 255;
        let bound = address.map(|a| (a, request.mac));
        Reply { message, to, bound }
    }
}

fn options(config: &Config, net: &Net4, answer: Option<DhcpMessageType>, lease: bool) -> Vec<u8> {
    let mut options = Vec::new();
    let mut push = |code: u8, data: &[u8]| {
        // A longer text is continued in another instance of the option (RFC 3396).
        for chunk in data.chunks(255) {
            if options.len() + 2 + chunk.len() <= MAX_REPLY {
                options.extend([code, chunk.len() as u8]);
                options.extend(chunk);
            }
        }
    };
    if let Some(answer) = answer {
        push(code::MESSAGE, &[answer.into()]);
    }
    push(code::SERVER, &net.host.octets());
    if answer == Some(DhcpMessageType::Nak) {
        return options;
    }
    push(code::SUBNET_MASK, &net.mask().to_be_bytes());
    if !config.restrict {
        push(code::ROUTER, &net.host.octets());
        push(code::DNS, &net.dns.octets());
    }
    if lease && answer.is_some() {
        push(code::LEASE, &LEASE_S.to_be_bytes());
        push(code::RENEWAL, &(LEASE_S / 2).to_be_bytes());
        push(code::REBINDING, &(LEASE_S / 8 * 7).to_be_bytes());
    }
    if config.mtu != 1500 {
        push(code::MTU, &(config.mtu as u16).to_be_bytes());
    }
    let texts = [
        (code::HOSTNAME, &config.hostname),
        (code::DOMAIN, &config.domainname),
        (code::TFTP_SERVER, &config.tftp_server_name),
        (code::BOOTFILE, &config.bootfile),
    ];
    for (code, text) in texts {
        if let Some(text) = text {
            push(code, text.as_bytes());
        }
    }
    let search: Vec<u8> = config.dnssearch.iter().flat_map(|name| encode_name(name)).collect();
    push(code::SEARCH, &search);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(dhcp: &mut Dhcp, config: &Config, last: u8, message: u8, extra: &[u8]) -> Option<Reply> {
        let mut text = vec![0; 240];
        text[..3].copy_from_slice(&[1, 1, 6]);
        text[4..8].copy_from_slice(&[1, 2, 3, 4]);
        text[28..34].copy_from_slice(&[2, 0, 0, 0, 0, last]);
        text[236..240].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
        if message > 0 {
            text.extend([53, 1, message]);
        }
        text.extend(extra);
        text.push(255);
        dhcp.serve(config, &text)
    }

    fn option(reply: &Reply, code: u8) -> Option<Vec<u8>> {
        let packet = DhcpPacket::new_checked(&reply.message[..]).unwrap();
        packet.options().find(|o| o.kind == code).map(|o| o.data.to_vec())
    }

    #[test]
    fn discover_request_and_a_wrong_address() {
        let (mut dhcp, config) = (Dhcp::default(), Config::default());
        let offer = ask(&mut dhcp, &config, 1, 1, &[]).unwrap();
        assert_eq!((offer.bound.unwrap().0, option(&offer, 53)), (Ipv4Addr::new(10, 0, 2, 15), Some(vec![2])));
        assert_eq!(option(&offer, 3), Some(vec![10, 0, 2, 2]));
        assert_eq!(option(&offer, 6), Some(vec![10, 0, 2, 3]));
        let ack = ask(&mut dhcp, &config, 1, 3, &[50, 4, 10, 0, 2, 15]).unwrap();
        assert_eq!((option(&ack, 53), option(&ack, 51)), (Some(vec![5]), Some(86400u32.to_be_bytes().to_vec())));
        let nak = ask(&mut dhcp, &config, 1, 3, &[50, 4, 10, 0, 2, 99]).unwrap();
        assert_eq!((option(&nak, 53), nak.bound), (Some(vec![6]), None));
        assert!(ask(&mut dhcp, &config, 1, 3, &[54, 4, 9, 9, 9, 9]).is_none(), "another server was chosen");
    }

    #[test]
    fn each_client_keeps_its_own_address_and_the_pool_ends() {
        let (mut dhcp, config) = (Dhcp::default(), Config::default());
        for n in [0u8, 1, 2, 0, 1] {
            let address = ask(&mut dhcp, &config, n, 1, &[]).unwrap().bound.unwrap().0;
            assert_eq!(address.octets()[3], 15 + n);
        }
        for n in 3..16 {
            assert!(ask(&mut dhcp, &config, n, 1, &[]).is_some());
        }
        assert!(ask(&mut dhcp, &config, 16, 1, &[]).is_none());
    }

    #[test]
    fn names_and_boot_options() {
        let text = "hostname=vm,domainname=lab.test,dnssearch=a.test,dnssearch=b.test,bootfile=/pxe.0,tftp-server-name=srv";
        let (mut dhcp, config) = (Dhcp::default(), Config::parse(text).unwrap());
        let offer = ask(&mut dhcp, &config, 1, 1, &[]).unwrap();
        assert_eq!(option(&offer, 12).unwrap(), b"vm");
        assert_eq!(option(&offer, 15).unwrap(), b"lab.test");
        assert_eq!(option(&offer, 66).unwrap(), b"srv");
        assert_eq!(option(&offer, 67).unwrap(), b"/pxe.0");
        assert_eq!(option(&offer, 119).unwrap(), b"\x01a\x04test\0\x01b\x04test\0");
        assert_eq!(&offer.message[108..115], b"/pxe.0\0");
    }

    #[test]
    fn restrict_offers_no_way_out_and_bootp_gets_no_lease_time() {
        let (mut dhcp, config) = (Dhcp::default(), Config::parse("restrict=on").unwrap());
        let bootp = ask(&mut dhcp, &config, 1, 0, &[]).unwrap();
        assert_eq!([3, 6, 51, 53].map(|code| option(&bootp, code)), [None, None, None, None]);
        assert_eq!(bootp.message.len(), REPLY_SIZE);
    }
}
