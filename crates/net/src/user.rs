//! `-netdev user`: a guest is online with no privileges.
//!
//! A virtual router, name server, DHCP and TFTP server in front of ordinary host sockets. The guest's
//! TCP is terminated here and its data goes through a host connection of our own; UDP and echo requests
//! go through datagram sockets.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | options and addresses |
//! | `engine` | the back end itself: frames in, events, timers |
//! | `input` | from Ethernet to the protocols |
//! | `link` | our end of the cable: headers, neighbours, fragmentation, queue |
//! | `neighbour` | ARP, IPv6 neighbour and router discovery |
//! | `tcp` | connections, `hostfwd`, `guestfwd` |
//! | `udp` `dns` | flows, the virtual name server |
//! | `icmp` | echo and errors |
//! | `dhcp` `dhcp6` `tftp` | configuration and booting |
//! | `command` | programs behind virtual servers |
//! | `smb` | a share through the host's Samba |
//! | `fragment` | reassembly |
//! | `info` | monitor texts |
//!
//! Not modelled: multicast and broadcast beyond the virtual network, IGMP/MLD, TCP timestamps, IPsec.

mod command;
pub mod config;
mod dhcp;
mod dhcp6;
mod dns;
mod engine;
pub mod forward;
mod fragment;
mod icmp;
mod info;
mod input;
mod link;
mod neighbour;
mod smb;
mod tcp;
mod tftp;
mod token;
mod udp;

pub use self::config::Config;
pub use self::dns::Resolvers;
pub use self::engine::UserNet;
pub use self::icmp::{MAX_PINGS, PING_TIMEOUT};
pub use self::link::{HOST_MAC, MAX_OUTBOX, Stats};
pub use self::tcp::{
    Dial,
    KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, MAX_BUFFERED, MAX_CONNECTING, MAX_CONNECTIONS, MAX_RETRIES,
    RECEIVE_MAX, SEND_MAX, TIME_WAIT,
};
pub use self::tftp::MAX_SESSIONS;
pub use self::udp::{DNS_TIMEOUT, MAX_FLOWS, TIMEOUT as UDP_TIMEOUT};
