//! Stateless DHCPv6: name server, search list and boot file, never addresses.
//!
//! Reference: RFC 8415 (18.3.9 for Information-request), RFC 3646 (DNS), RFC 5970 (boot file).

use super::config::Config;
use super::dns::encode_name;
use super::link::HOST_MAC;

pub const SERVER_PORT: u16 = 547;

const INFORMATION_REQUEST: u8 = 11;
const REPLY: u8 = 7;

const OPTION_CLIENT_ID: u16 = 1;
const OPTION_SERVER_ID: u16 = 2;
const OPTION_REQUESTED: u16 = 6;
const OPTION_DNS: u16 = 23;
const OPTION_SEARCH: u16 = 24;
const OPTION_BOOTFILE: u16 = 59;

/// The longest client identifier (RFC 8415, 11.1).
const MAX_CLIENT_ID: usize = 130;

fn push(message: &mut Vec<u8>, code: u16, data: &[u8]) {
    message.extend(code.to_be_bytes());
    message.extend((data.len() as u16).to_be_bytes());
    message.extend(data);
}

/// The answer to a message at the server port.
pub fn serve(config: &Config, payload: &[u8]) -> Option<Vec<u8>> {
    let net = config.v6?;
    let (&[kind, t0, t1, t2], mut options) = payload.split_first_chunk::<4>()?;
    if kind != INFORMATION_REQUEST {
        return None;
    }
    let mut wanted: Vec<u16> = Vec::new();
    let mut message = vec![REPLY, t0, t1, t2];
    while let Some((&[c0, c1, l0, l1], rest)) = options.split_first_chunk::<4>() {
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let (data, rest) = rest.split_at_checked(length)?;
        match u16::from_be_bytes([c0, c1]) {
            OPTION_CLIENT_ID if length <= MAX_CLIENT_ID => push(&mut message, OPTION_CLIENT_ID, data),
            OPTION_REQUESTED => wanted.extend(data.as_chunks::<2>().0.iter().map(|c| u16::from_be_bytes(*c))),
            // A message for another server.
            OPTION_SERVER_ID if data != server_id() => return None,
            _ => {}
        }
        options = rest;
    }
    push(&mut message, OPTION_SERVER_ID, &server_id());
    if wanted.contains(&OPTION_DNS) && !config.restrict {
        push(&mut message, OPTION_DNS, &net.dns.octets());
    }
    let search: Vec<u8> = config.dnssearch.iter().flat_map(|name| encode_name(name)).collect();
    if wanted.contains(&OPTION_SEARCH) && !search.is_empty() {
        push(&mut message, OPTION_SEARCH, &search);
    }
    if let (true, Some(file)) = (wanted.contains(&OPTION_BOOTFILE), &config.bootfile) {
        let url = format!("tftp://[{}]/{}", net.host, file.trim_start_matches('/'));
        push(&mut message, OPTION_BOOTFILE, url.as_bytes());
    }
    Some(message)
}

/// DUID-LL: hardware type Ethernet and our MAC.
fn server_id() -> Vec<u8> {
    [&[0, 3, 0, 1], &HOST_MAC.0[..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn information_request() {
        let config = Config::parse("bootfile=/a.efi,dnssearch=x.test").unwrap();
        let mut query = vec![INFORMATION_REQUEST, 1, 2, 3];
        push(&mut query, OPTION_CLIENT_ID, b"id");
        push(&mut query, OPTION_REQUESTED, &[0, 23, 0, 24, 0, 59]);
        let mut expected = vec![REPLY, 1, 2, 3];
        push(&mut expected, OPTION_CLIENT_ID, b"id");
        push(&mut expected, OPTION_SERVER_ID, &server_id());
        push(&mut expected, OPTION_DNS, &config.v6.unwrap().dns.octets());
        push(&mut expected, OPTION_SEARCH, b"\x01x\x04test\0");
        push(&mut expected, OPTION_BOOTFILE, b"tftp://[fec0::2]/a.efi");
        assert_eq!(serve(&config, &query), Some(expected));
    }

    #[test]
    fn other_messages_and_cut_ones_get_no_answer() {
        let config = Config::default();
        assert_eq!(serve(&config, &[1, 0, 0, 0]), None);
        assert_eq!(serve(&config, &[INFORMATION_REQUEST, 0]), None);
        assert_eq!(serve(&config, &[INFORMATION_REQUEST, 0, 0, 0, 0, 1, 0, 9, 0]), None);
    }
}
