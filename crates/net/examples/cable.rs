//! Plugs one back end into another: for instance a tap interface, behind which a real Linux kernel
//! plays the guest, into the user-mode network.
//!
//! `cargo run --release -p net --example cable -- tap,id=a,fd=3 user,id=b`
//!
//! Prints `info usernet` on standard error at the end (of standard input).

use std::os::fd::AsFd;
use std::time::Instant;

use net::netdev::Netdev;
use net::{Accepts, Backend, Guest, Nanos, Offload, Transmit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The other back end as a guest.
struct Other<'a> {
    backend: &'a mut dyn Backend,
    now: Nanos,
    full: bool,
}

impl Guest for Other<'_> {
    fn ready(&mut self) -> bool {
        !self.full
    }

    fn deliver(&mut self, parts: &[&[u8]], offload: Offload) -> bool {
        self.full = self.backend.transmit(self.now, &parts.concat(), offload) == Transmit::Full;
        !self.full
    }
}

fn main() -> spec::error::Result<()> {
    struct Stderr;
    impl log::Log for Stderr {
        fn enabled(&self, _: &log::Metadata) -> bool {
            true
        }
        fn log(&self, record: &log::Record) {
            eprintln!("{}", record.args());
        }
        fn flush(&self) {}
    }
    log::set_logger(&Stderr).expect("the only logger");
    log::set_max_level(log::LevelFilter::Info);

    let mut ends = Vec::new();
    for text in std::env::args().skip(1).take(2) {
        ends.push(Netdev::parse(&text)?.open()?);
    }
    let Ok([mut a, mut b]) = <[_; 2]>::try_from(ends) else {
        return Err("usage: cable NETDEV NETDEV".into());
    };
    for end in [&mut a, &mut b] {
        end.set_accepts(Accepts { checksum: true, tcp4: true, tcp6: true });
    }
    let start = Instant::now();
    loop {
        let now = Nanos(start.elapsed().as_nanos() as u64);
        a.poll(now, &mut Other { backend: &mut *b, now, full: false });
        b.poll(now, &mut Other { backend: &mut *a, now, full: false });
        // What the second gave the first may need an answer at once.
        a.poll(now, &mut Other { backend: &mut *b, now, full: false });
        let deadline = [a.deadline(), b.deadline()].into_iter().flatten().min();
        let wait = deadline.map_or(1_000_000_000, |at| at.since(now).as_nanos().min(1_000_000_000) as i64);
        let timeout = Timespec { tv_sec: wait / 1_000_000_000, tv_nsec: wait % 1_000_000_000 };
        let fds = [a.event_fd(), b.event_fd()].into_iter().flatten();
        let mut fds: Vec<_> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let stdin = std::io::stdin();
        fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        if poll(&mut fds, Some(&timeout)).is_ok() && !fds[fds.len() - 1].revents().is_empty() {
            eprint!("{}", b.usernet().or(a.usernet()).unwrap_or_default());
            return Ok(());
        }
    }
}
