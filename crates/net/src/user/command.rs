//! Commands of `guestfwd=…-cmd:` and Samba's server: a program with a socket as its input and output.
//!
//! The socket is a TCP connection over the host's loop-back interface where there is one, because servers that inetd would start
//! (smbd among them) ask for their peer's address and leave if it is none of IP.

use std::io::{Error, ErrorKind, Result};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// How long a connection to ourselves may take: only strangers who call the port meanwhile can delay it.
const PATIENCE: Duration = Duration::from_secs(1);
const BACKLOG: i32 = 16;

/// Starts a shell command; the socket is our end of its input and output.
pub fn spawn(command: &str) -> Result<(Socket, Child)> {
    let (ours, theirs) = match loopback_pair() {
        Ok(pair) => pair,
        // A network namespace whose loop-back interface is down.
        Err(_) => Socket::pair(Domain::UNIX, Type::STREAM.cloexec(), None)?,
    };
    ours.set_nonblocking(true)?;
    let theirs = OwnedFd::from(theirs);
    let child = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .stdin(Stdio::from(theirs.try_clone()?))
        .stdout(Stdio::from(theirs))
        // smbd ends with a signal to its whole process group, which must not be ours.
        .process_group(0)
        .spawn()?;
    Ok((ours, child))
}

/// Two ends of one TCP connection.
fn loopback_pair() -> Result<(Socket, Socket)> {
    let listener = Socket::new(Domain::IPV4, Type::STREAM.cloexec().nonblocking(), None)?;
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    listener.listen(BACKLOG)?;
    let ours = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None)?;
    ours.connect_timeout(&listener.local_addr()?, PATIENCE)?;
    let address = ours.local_addr()?.as_socket();
    for _ in 0..BACKLOG {
        let (theirs, peer) = listener.accept()?;
        // Anybody on this host may call the port before it is closed again.
        if peer.as_socket() == address {
            theirs.set_nonblocking(false)?;
            for end in [&ours, &theirs] {
                end.set_tcp_nodelay(true)?;
            }
            return Ok((ours, theirs));
        }
    }
    Err(Error::from(ErrorKind::ConnectionRefused))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn the_pair_is_one_connection() {
        let (mut ours, mut theirs) = loopback_pair().unwrap();
        assert_eq!(ours.local_addr().unwrap().as_socket(), theirs.peer_addr().unwrap().as_socket());
        ours.write_all(b"there").unwrap();
        theirs.write_all(b"back!").unwrap();
        let mut five = [0; 5];
        theirs.read_exact(&mut five).unwrap();
        assert_eq!(&five, b"there");
        ours.read_exact(&mut five).unwrap();
        assert_eq!(&five, b"back!");
    }

    /// A program that signals its process group at its end does not end us.
    #[test]
    fn a_command_leads_a_group_and_has_a_peer_with_an_address() {
        let (mut ours, mut child) = spawn("cut -d' ' -f1,5 /proc/$$/stat").unwrap();
        assert!(ours.peer_addr().unwrap().as_socket().is_some());
        ours.set_nonblocking(false).unwrap();
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("{0} {0}\n", child.id()));
        assert!(child.wait().unwrap().success());
    }
}
