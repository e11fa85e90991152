//! `explain WORD… --isa SET`: the row of each word, its fields, the IR of the region they make, and the host code.
//! `explain NAME --isa SET`: the rows of that name, and the simplest word of each.
//!
//! Not modelled: guest memory and the offsets of the runtime's fields; host code shows them as zero.

use crate::sets::{ArmRow, Set};
use arm::{Arm, features};
use cpu::{Code, Guest, Limits};
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use ir::{Builder, Region};
use spec::error::{Error, Result};
use std::fmt::Write;
use x64::env::{Features, HelperInfo, Memory, Offsets};

/// Where the words lie.
const ORIGIN: u32 = 0x1_0000;
/// Condition "always" of an A32 word.
const ALWAYS: u32 = 0xe000_0000;

pub struct Words(pub Vec<u8>);

impl Code for Words {
    fn read(&self, addr: u64, buf: &mut [u8]) -> usize {
        let from = addr.checked_sub(ORIGIN.into()).map_or(self.0.len(), |o| (o as usize).min(self.0.len()));
        let n = buf.len().min(self.0.len() - from);
        buf[..n].copy_from_slice(&self.0[from..from + n]);
        n
    }
}

pub fn command(arguments: &[String]) -> Result<String> {
    let mut set = Set::A32;
    let mut words = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--isa" {
            set = Set::parse(rest.next().ok_or_else(|| Error::new("--isa needs a value"))?)?;
        } else {
            words.push(argument.as_str());
        }
    }
    if words.is_empty() {
        return Err(Error::new(
            "explain takes instruction words in hexadecimal, or a row's name, and --isa a32|t32|t16",
        ));
    }
    let rows: Vec<&ArmRow> = set.rows().into_iter().filter(|r| words == [r.name]).collect();
    if !rows.is_empty() {
        let each = rows.iter().map(|row| {
            let condition = if set == Set::A32 && row.diagram.mask >> 28 == 0 { ALWAYS } else { 0 };
            region(set, &[row.diagram.value | condition])
        });
        return each.collect::<Result<Vec<_>>>().map(|v| v.join("\n"));
    }
    let parse = |w: &&str| u32::from_str_radix(w.trim_start_matches("0x"), 16);
    match words.iter().map(parse).collect::<std::result::Result<Vec<_>, _>>() {
        Ok(numbers) => region(set, &numbers),
        Err(_) => Err(Error::new(format!("'{}' is neither a row's name nor hexadecimal words", words.join(" ")))),
    }
}

fn region(set: Set, words: &[u32]) -> Result<String> {
    let mut text = String::new();
    for word in words {
        describe(&mut text, set, *word);
    }
    let code = Words(words.iter().flat_map(|w| set.bytes(*w)).collect());
    let (guest, mut region) = region_of(set, &code, words.len() as u32);
    let _ = writeln!(text, "IR\n{}", ir::text::print(&region));
    let mut compiler = x64::Compiler::new();
    match compiler.compile(&mut region, &environment(&guest, Features::detect()), 0, 0) {
        Ok(()) => host_code(&mut text, compiler.asm.code()),
        Err(_) => text += "host code: the region is too complex for the back end\n",
    }
    Ok(text)
}

/// Row and fields of one word.
fn describe(text: &mut String, set: Set, word: u32) {
    let Some(row) = set.find(word) else {
        let _ = writeln!(text, "{word:08x}  no row: UNDEFINED\n");
        return;
    };
    let built = if row.handler.is_some() { "" } else { "  (not built)" };
    let _ = writeln!(text, "{word:08x}  {}{built}  {}\n          {}", row.name, row.doc.trim(), row.text);
    let mut seen = String::new();
    for letter in row.text.chars().filter(char::is_ascii_alphabetic) {
        if !seen.contains(letter) {
            seen.push(letter);
            let _ = write!(text, "          {letter} = {:#x}", row.diagram.field(&letter.to_string()).get(word));
        }
    }
    text.push_str("\n\n");
}

/// The region that instructions make.
pub fn region_of(set: Set, code: &Words, max_insns: u32) -> (Arm, Region) {
    let guest = Arm::new(features::model("max").expect("the default model"));
    let key = u64::from(ORIGIN) | u64::from(set != Set::A32) * arm::state::key::T;
    let mut builder = Builder::new();
    builder.begin(key, guest.pc(key));
    guest.translate(key, Limits { max_insns, relative: false }, code, &mut builder);
    (guest, builder.take())
}

pub fn environment(guest: &Arm, features: Features) -> x64::Env {
    let helpers = guest.helpers().iter().map(|h| HelperInfo::of(&h.f));
    let layout = guest.layout().clone();
    x64::Env {
        features,
        pins: x64::env::Pins::new(&layout),
        layout,
        memory: Memory::Window32,
        offsets: Offsets { jump_cache_entries: 4096, ..Default::default() },
        stubs: Default::default(),
        fix_up_alignment: true,
        alone: false,
        helpers: helpers.collect(),
    }
}

fn host_code(text: &mut String, code: &[u8]) {
    let _ = writeln!(text, "host code, {} bytes", code.len());
    let mut formatter = IntelFormatter::new();
    for instruction in &mut Decoder::with_ip(64, code, 0, DecoderOptions::NONE) {
        let mut line = String::new();
        formatter.format(&instruction, &mut line);
        let _ = writeln!(text, "  {:4x}  {line}", instruction.ip());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(line: &str) -> String {
        command(&line.split_whitespace().map(str::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn words_have_row_fields_ir_and_host_code() {
        let text = explain("e0810002 e12fff1e --isa a32");
        for part in ["add", "n = 0x1", "IR", "host code", "jmp"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn thumb_words_and_row_names() {
        assert!(explain("1888 --isa t16").contains("add"));
        let name = Set::T16.rows()[0].name;
        assert!(explain(&format!("{name} --isa t16")).contains(name));
    }

    #[test]
    fn nonsense_is_named() {
        let error = command(&["frob".into()]).unwrap_err().to_string();
        assert!(error.contains("'frob'"), "{error}");
    }
}
