//! The time of day that a guest sees (`-rtc`).
//!
//! Reference: QEMU's `-rtc base=…,clock=…`; a localtime base is the host's zone at the start.

use crate::config::{Rtc, RtcBase};
use fabric::Clock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

const NS: i128 = 1_000_000_000;

/// Nanoseconds since 1970 on the host.
fn host_ns() -> i128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i128)
}

/// Seconds by which local time is ahead of UTC.
fn zone_s() -> i64 {
    let text = std::process::Command::new("date").arg("+%z").output();
    let text = text.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
    parse_zone(&text).unwrap_or(0)
}

/// `+0130`.
fn parse_zone(text: &str) -> Option<i64> {
    let (sign, digits) = (text.get(..1)?, text.get(1..5)?);
    let number = |range: std::ops::Range<usize>| digits.get(range)?.parse::<i64>().ok();
    let seconds = number(0..2)? * 3600 + number(2..4)? * 60;
    Some(if sign == "-" { -seconds } else { seconds })
}

/// What the clock chip asks for the time.
pub fn source(rtc: Rtc, clock: Clock) -> Box<dyn Fn() -> u64 + Send> {
    let start = match rtc.base {
        RtcBase::Utc => host_ns(),
        RtcBase::Local => host_ns() + i128::from(zone_s()) * NS,
        RtcBase::At(seconds) => i128::from(seconds) * NS,
    };
    let to_ns = |ns: i128| u64::try_from(ns).unwrap_or(0);
    if rtc.follows_vm {
        return Box::new(move || to_ns(start + i128::from(clock.now_ns())));
    }
    match rtc.base {
        // The host's clock may be set while the machine runs.
        RtcBase::Utc | RtcBase::Local => {
            let offset = start - host_ns();
            Box::new(move || to_ns(host_ns() + offset))
        }
        RtcBase::At(_) => {
            let since = Instant::now();
            Box::new(move || to_ns(start + since.elapsed().as_nanos() as i128))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_have_minutes() {
        assert_eq!(parse_zone("+0130"), Some(5400));
        assert_eq!(parse_zone("-0800"), Some(-28800));
        assert_eq!(parse_zone(""), None);
    }

    #[test]
    fn a_vm_clock_moves_with_the_machine() {
        let clock = Clock::manual();
        let time = source(Rtc { base: RtcBase::At(1000), follows_vm: true }, clock.clone());
        assert_eq!(time(), 1_000_000_000_000);
        clock.advance(5);
        assert_eq!(time(), 1_000_000_000_005);
    }

    #[test]
    fn utc_is_the_hosts() {
        let time = source(Rtc::default(), Clock::manual());
        assert!((i128::from(time()) - host_ns()).abs() < 10 * NS);
    }
}
