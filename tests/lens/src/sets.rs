//! The instruction sets and their rows.

use arm::{Flow, Translator, a32, t16, t32};
use spec::decode::Row;
use spec::error::{Error, Result};

pub type ArmRow = Row<Translator, Flow>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    A32,
    T32,
    T16,
}

impl Set {
    pub fn parse(name: &str) -> Result<Set> {
        match name {
            "a32" => Ok(Set::A32),
            "t32" => Ok(Set::T32),
            "t16" => Ok(Set::T16),
            _ => Err(Error::new(format!("there is no instruction set '{name}'; there are a32, t32, t16"))),
        }
    }

    pub fn rows(self) -> Vec<&'static ArmRow> {
        let flat = |tables: &[&'static [ArmRow]]| tables.iter().flat_map(|t| t.iter()).collect::<Vec<_>>();
        match self {
            Set::A32 => {
                let mut rows = flat(a32::CONDITIONAL);
                rows.extend(flat(a32::UNCONDITIONAL));
                a32::neon::TABLES.iter().for_each(|t| rows.extend(flat(t)));
                rows
            }
            Set::T32 => flat(t32::CHAPTERS),
            Set::T16 => flat(&[t16::ROWS]),
        }
    }

    /// The row that decodes a word, as the translator finds it.
    pub fn find(self, word: u32) -> Option<&'static ArmRow> {
        match self {
            Set::A32 => a32::find(word),
            Set::T32 => a32::fp::find_t32(word).0,
            Set::T16 => t16::find(word),
        }
    }

    /// An instruction's bytes in memory.
    pub fn bytes(self, word: u32) -> Vec<u8> {
        let half = |h: u32| (h as u16).to_le_bytes();
        match self {
            Set::A32 => word.to_le_bytes().to_vec(),
            Set::T32 => [half(word >> 16), half(word)].concat(),
            Set::T16 => half(word).to_vec(),
        }
    }
}
