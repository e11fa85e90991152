//! Whose socket became ready: a kind and a key, packed into the number that the poller carries.

use crate::slab::Key;

/// Who a socket belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Token {
    Tcp(Key),
    Listener(Key),
    Udp(Key),
    Ping(Key),
}

impl Token {
    pub fn pack(self) -> u64 {
        let (kind, key) = match self {
            Token::Tcp(key) => (0, key),
            Token::Listener(key) => (1, key),
            Token::Udp(key) => (2, key),
            Token::Ping(key) => (3, key),
        };
        kind << 56 | u64::from(key.generation) << 32 | u64::from(key.index)
    }

    pub fn unpack(value: u64) -> Token {
        let key = Key { index: value as u32, generation: (value >> 32) as u32 & 0xff_ffff };
        match value >> 56 {
            0 => Token::Tcp(key),
            1 => Token::Listener(key),
            2 => Token::Udp(key),
            _ => Token::Ping(key),
        }
    }
}
