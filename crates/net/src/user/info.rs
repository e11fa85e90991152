//! The texts of `info network` and `info usernet`.

use std::net::SocketAddr;

use super::config::Config;
use super::engine::UserNet;

/// `net=10.0.2.0,restrict=off`.
pub fn summary(config: &Config) -> String {
    let restrict = if config.restrict { "on" } else { "off" };
    format!("net={},restrict={restrict}", config.shown)
}

fn end(address: Option<SocketAddr>) -> (String, u16) {
    match address {
        Some(a) if a.ip().is_unspecified() => ("*".into(), a.port()),
        Some(a) => (a.ip().to_string(), a.port()),
        None => ("*".into(), 0),
    }
}

fn row(kind: &str, fd: i32, source: Option<SocketAddr>, to: SocketAddr, queues: (usize, usize)) -> String {
    let (source, source_port) = end(source);
    let (destination, port) = end(Some(to));
    let (receive, send) = queues;
    format!("  {kind:<17} {fd:>3} {source:>15} {source_port:>5} {destination:>15} {port:>5} {receive:>5} {send:>5}\n")
}

/// The table of connections.
pub fn usernet(net: &UserNet) -> String {
    let mut text = String::from(
        "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n",
    );
    for r in net.tcp.rows() {
        let queues = (r.receive_queue, r.send_queue);
        text += &row(&format!("TCP[{}]", r.state), r.fd, r.source, r.destination, queues);
    }
    for r in net.udp.rows(net.core.link.now) {
        if r.forward {
            text += &row("UDP[HOST_FORWARD]", r.fd, r.local, r.guest, (0, 0));
        } else {
            // One socket serves every destination of the guest's port.
            let any = SocketAddr::from(([0, 0, 0, 0], 0));
            text += &row(&format!("UDP[{} sec]", r.idle_left.as_secs()), r.fd, Some(r.guest), any, (0, 0));
        }
    }
    text
}
