//! siginfo_t between the host's layout and that of a 32-bit guest.
//!
//! **Reference.** `include/uapi/asm-generic/siginfo.h`: the kinds by signal and si_code.

use crate::memory::Pod;

/// Bytes of siginfo_t, on both sides.
pub const BYTES: usize = 128;

/// A signal's information in the host's layout.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct SigInfo(pub [u8; BYTES]);

// SAFETY: bytes.
unsafe impl Pod for SigInfo {}

/// Where the fields of a kind lie: (offset in the guest's, offset in the host's, bytes) after the three common words.
type Fields = &'static [(usize, usize, usize)];

const KILL: Fields = &[(12, 16, 4), (16, 20, 4)];
const QUEUED: Fields = &[(12, 16, 4), (16, 20, 4), (20, 24, 4)];
const TIMER: Fields = &[(12, 16, 4), (16, 20, 4), (20, 24, 4), (24, 32, 4)];
const CHILD: Fields = &[(12, 16, 4), (16, 20, 4), (20, 24, 4), (24, 32, 4), (28, 40, 4)];
const FAULT: Fields = &[(12, 16, 4), (16, 24, 2)];
const POLL: Fields = &[(12, 16, 4), (16, 24, 4)];
const SYS: Fields = &[(12, 16, 4), (16, 24, 4), (20, 28, 4)];

/// POLL_IN to POLL_HUP.
const CODES_OF_POLL: i32 = 6;

fn fields(signal: i32, code: i32) -> Fields {
    match code {
        libc::SI_TIMER => TIMER,
        libc::SI_USER | libc::SI_KERNEL | libc::SI_TKILL => KILL,
        libc::SI_SIGIO => POLL,
        _ if code < 0 => QUEUED,
        _ => match signal {
            libc::SIGCHLD => CHILD,
            libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP => FAULT,
            libc::SIGSYS => SYS,
            // SIGIO, and what F_SETSIG sends in its place.
            _ if code <= CODES_OF_POLL => POLL,
            _ => KILL,
        },
    }
}

impl SigInfo {
    pub fn new(signal: i32, code: i32) -> SigInfo {
        let mut s = SigInfo([0; BYTES]);
        s.put(0, signal);
        s.put(8, code);
        s
    }

    /// A fault at a guest address.
    pub fn fault(signal: i32, code: i32, address: u32) -> SigInfo {
        let mut s = SigInfo::new(signal, code);
        s.put(16, address as i32);
        s
    }

    fn put(&mut self, at: usize, value: i32) {
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn word(&self, at: usize) -> i32 {
        i32::from_le_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }

    pub fn signal(&self) -> i32 {
        self.word(0)
    }

    pub fn set_signal(&mut self, signal: i32) {
        self.put(0, signal);
    }

    /// The value of a queued signal, as wide as the host's.
    pub fn set_value(&mut self, value: u64) {
        self.0[24..32].copy_from_slice(&value.to_le_bytes());
    }

    pub fn code(&self) -> i32 {
        self.word(8)
    }

    pub fn pid(&self) -> i32 {
        self.word(16)
    }

    pub fn uid(&self) -> i32 {
        self.word(20)
    }

    /// The low word of a fault's address.
    pub fn address(&self) -> u32 {
        self.word(16) as u32
    }

    /// CPU time of a child that has ended, user and system, in ticks.
    pub fn times(&self) -> [i32; 2] {
        [self.word(32), self.word(40)]
    }

    pub fn status(&self) -> i32 {
        self.word(24)
    }

    /// The guest's layout.
    pub fn to_guest(&self) -> [u8; BYTES] {
        let mut out = [0; BYTES];
        out[..12].copy_from_slice(&self.0[..12]);
        for &(guest, host, bytes) in fields(self.signal(), self.code()) {
            out[guest..guest + bytes].copy_from_slice(&self.0[host..host + bytes]);
        }
        out
    }

    /// The host's layout of what a guest hands to rt_sigqueueinfo.
    pub fn from_guest(raw: &[u8; BYTES]) -> SigInfo {
        let mut out = SigInfo([0; BYTES]);
        out.0[..12].copy_from_slice(&raw[..12]);
        for &(guest, host, bytes) in fields(out.signal(), out.code()) {
            out.0[host..host + bytes].copy_from_slice(&raw[guest..guest + bytes]);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_moves_its_times() {
        let mut s = SigInfo::new(libc::SIGCHLD, libc::CLD_EXITED);
        for (at, v) in [(16, 77), (20, 1000), (24, 3), (32, 5), (40, 6)] {
            s.put(at, v);
        }
        let g = s.to_guest();
        let words: Vec<i32> = g[..32].chunks(4).map(|c| i32::from_le_bytes(c.try_into().unwrap())).collect();
        assert_eq!(words, [libc::SIGCHLD, 0, libc::CLD_EXITED, 77, 1000, 3, 5, 6]);
    }

    #[test]
    fn a_descriptor_tells_of_itself_by_any_signal() {
        let mut s = SigInfo::new(35, 1);
        s.put(16, 0x41);
        s.put(24, 9);
        assert_eq!(s.to_guest()[12..20], [0x41, 0, 0, 0, 9, 0, 0, 0]);
    }

    #[test]
    fn queued_values_come_back() {
        let mut s = SigInfo::new(40, libc::SI_QUEUE);
        for (at, v) in [(16, 77), (20, 1000), (24, 0x1234)] {
            s.put(at, v);
        }
        assert_eq!(SigInfo::from_guest(&s.to_guest()).0, s.0);
        assert_eq!(SigInfo::fault(11, 1, 0xdead_beef).to_guest()[12..16], 0xdead_beef_u32.to_le_bytes());
    }
}
