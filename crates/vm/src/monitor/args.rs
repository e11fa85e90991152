//! The arguments of a human's command, from its row in the table.

use super::expression::{Cursor, Registers, evaluate};

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A word, or text in double quotes.
    Word,
    /// The same, called a file name in messages.
    File,
    /// Everything to the end of the line.
    Rest,
    /// A 64-bit expression.
    Number,
    /// A 32-bit expression.
    Small,
    /// Bytes: mebibytes, unless a letter says otherwise.
    Size,
    /// `/4xw`.
    Format,
    /// `on` or `off`.
    OnOff,
    /// `-f`.
    Flag(char),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arg {
    pub name: &'static str,
    pub kind: Kind,
    pub optional: bool,
}

/// An argument that must be there.
pub const fn arg(name: &'static str, kind: Kind) -> Arg {
    Arg { name, kind, optional: false }
}

/// An argument that may be missing.
pub const fn maybe(name: &'static str, kind: Kind) -> Arg {
    Arg { name, kind, optional: true }
}

/// How memory and numbers are shown. Each session remembers the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub count: u64,
    /// One of `x d u o c i`.
    pub letter: char,
    /// Bytes of an item.
    pub size: usize,
}

impl Default for Format {
    fn default() -> Format {
        Format { count: 1, letter: 'x', size: 4 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    Number(u64),
    Format(Format),
    Set(bool),
}

/// The arguments of one command.
#[derive(Clone, Debug, Default)]
pub struct Args(Vec<(&'static str, Value)>);

impl Args {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// An argument that the row says is needed.
    pub fn needed(&self, name: &str) -> &str {
        self.text(name).expect("the row says that it is needed")
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        match self.get(name) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    pub fn needed_number(&self, name: &str) -> u64 {
        self.number(name).expect("the row says that it is needed")
    }

    pub fn set(&self, name: &str) -> bool {
        self.get(name) == Some(&Value::Set(true))
    }

    pub fn format(&self) -> Format {
        match self.get("fmt") {
            Some(Value::Format(format)) => *format,
            _ => Format::default(),
        }
    }
}

/// Reads the arguments of `command` (all its names) from what follows its name.
pub fn parse(command: &str, args: &[Arg], text: &str, last: &mut Format, registers: Registers) -> Result<Args, String> {
    let mut cursor = Cursor::new(text);
    let mut values = Args::default();
    for (at, arg) in args.iter().enumerate() {
        cursor.skip_spaces();
        if let (Kind::Flag(_), Some(letter)) = (arg.kind, dashed(cursor))
            && args[at + 1..].iter().any(|later| later.kind == Kind::Flag(letter))
        {
            // It is another flag's, which comes later in the row.
            continue;
        }
        if let Some(value) = read(command, arg, &mut cursor, last, registers)? {
            values.0.push((arg.name, value));
        }
    }
    cursor.skip_spaces();
    if !cursor.rest.is_empty() {
        return Err(format!("{command}: extraneous characters at the end of line"));
    }
    Ok(values)
}

fn read(
    command: &str,
    arg: &Arg,
    cursor: &mut Cursor,
    last: &mut Format,
    registers: Registers,
) -> Result<Option<Value>, String> {
    let end = cursor.rest.is_empty();
    match arg.kind {
        Kind::Flag(letter) => flag(command, letter, cursor),
        Kind::OnOff => on_off(cursor).map(|on| Some(Value::Set(on))),
        Kind::Format => format(cursor, last).map(|format| Some(Value::Format(format))),
        _ if end && arg.optional => Ok(None),
        Kind::Word | Kind::File | Kind::Rest if end => {
            let what = if arg.kind == Kind::File { "filename" } else { "string" };
            Err(format!("{command}: {what} expected"))
        }
        Kind::Word | Kind::File => word(cursor).map(|text| Some(Value::Text(text))),
        Kind::Rest => {
            let text = std::mem::take(&mut cursor.rest).trim_end().to_string();
            Ok(Some(Value::Text(text)))
        }
        Kind::Number => evaluate(cursor, registers).map(|number| Some(Value::Number(number))),
        Kind::Size => {
            let text = cursor.take_while(|c| !c.is_whitespace());
            let size = crate::settings::size("size", text, 20).map_err(|_| "invalid size".to_string())?;
            Ok(Some(Value::Number(size)))
        }
        Kind::Small => {
            let number = evaluate(cursor, registers)?;
            if number > u64::from(u32::MAX) {
                return Err(format!("'{command}' has failed: integer is for 32-bit values"));
            }
            Ok(Some(Value::Number(number)))
        }
    }
}

fn on_off(cursor: &mut Cursor) -> Result<bool, String> {
    match cursor.take_while(|c| !c.is_whitespace()) {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("Expected 'on' or 'off'".into()),
    }
}

/// The letter of a flag that comes next.
fn dashed(mut cursor: Cursor) -> Option<char> {
    let letter = (cursor.next() == Some('-')).then(|| cursor.next())?.filter(char::is_ascii_alphabetic)?;
    cursor.peek().is_none_or(char::is_whitespace).then_some(letter)
}

/// Takes `-f`; what is no flag stays for the next argument.
fn flag(command: &str, letter: char, cursor: &mut Cursor) -> Result<Option<Value>, String> {
    match dashed(*cursor) {
        None => Ok(None),
        Some(c) if c != letter => Err(format!("{command}: unsupported option -{c}")),
        Some(_) => {
            cursor.next();
            cursor.next();
            Ok(Some(Value::Set(true)))
        }
    }
}

/// A word; in double quotes it may have spaces, and backslashes introduce `n r \ ' "`.
pub fn word(cursor: &mut Cursor) -> Result<String, String> {
    if cursor.peek() != Some('"') {
        return Ok(cursor.take_while(|c| !c.is_whitespace()).to_string());
    }
    cursor.next();
    let mut text = String::new();
    loop {
        match cursor.next() {
            None => return Err("unterminated string".into()),
            Some('"') => return Ok(text),
            Some('\\') => match cursor.next() {
                Some('n') => text.push('\n'),
                Some('r') => text.push('\r'),
                Some(c @ ('\\' | '\'' | '"')) => text.push(c),
                Some(c) => return Err(format!("unsupported escape code: '\\{c}'")),
                None => return Err("unterminated string".into()),
            },
            Some(c) => text.push(c),
        }
    }
}

fn format(cursor: &mut Cursor, last: &mut Format) -> Result<Format, String> {
    let mut format = Format { count: 1, ..*last };
    if cursor.peek() != Some('/') {
        return Ok(format);
    }
    cursor.next();
    let digits = cursor.take_while(|c| c.is_ascii_digit());
    if !digits.is_empty() {
        format.count = digits.parse().map_err(|_| "number too large".to_string())?;
    }
    let (mut letter, mut size) = (None, None);
    loop {
        match cursor.peek() {
            Some(c @ ('o' | 'd' | 'u' | 'x' | 'i' | 'c')) => letter = Some(c),
            Some('b') => size = Some(1),
            Some('h') => size = Some(2),
            Some('w') => size = Some(4),
            Some('g' | 'L') => size = Some(8),
            Some(c) if !c.is_whitespace() => return Err(format!("invalid char in format: '{c}'")),
            _ => break,
        }
        cursor.next();
    }
    format.letter = letter.unwrap_or(format.letter);
    // Characters are bytes unless told otherwise.
    let usual = if letter == Some('c') { 1 } else { format.size };
    format.size = size.unwrap_or(usual);
    *last = format;
    Ok(format)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Kind::*;

    fn parse_line(args: &[Arg], text: &str) -> Result<Args, String> {
        parse("foo|f", args, text, &mut super::Format::default(), &|_| None)
    }

    #[test]
    fn words_numbers_and_flags() {
        let args = [maybe("force", Flag('f')), arg("name", Word), arg("size", Number), maybe("file", File)];
        let parsed = parse_line(&args, " -f \"a \\\"b\" 2+3 /tmp/x").unwrap();
        assert!(parsed.set("force"));
        assert_eq!((parsed.text("name"), parsed.number("size")), (Some("a \"b"), Some(5)));
        assert_eq!(parsed.text("file"), Some("/tmp/x"));
        let two = [maybe("n", Flag('n')), maybe("f", Flag('f')), arg("name", Word)];
        let parsed = parse_line(&two, "-f x").unwrap();
        assert_eq!((parsed.set("n"), parsed.set("f"), parsed.text("name")), (false, true, Some("x")));
        let parsed = parse_line(&two, "-n -f x").unwrap();
        assert!(parsed.set("n") && parsed.set("f"));
        let parsed = parse_line(&args, "-x-y 1").unwrap();
        assert_eq!((parsed.set("force"), parsed.text("name"), parsed.text("file")), (false, Some("-x-y"), None));
    }

    #[test]
    fn mistakes_have_qemus_words() {
        let error = |args: &[Arg], text: &str| parse_line(args, text).unwrap_err();
        assert_eq!(error(&[arg("a", Word)], " "), "foo|f: string expected");
        assert_eq!(error(&[arg("a", File)], " "), "foo|f: filename expected");
        assert_eq!(error(&[arg("a", Number)], " "), "unexpected end of expression");
        assert_eq!(error(&[], "x"), "foo|f: extraneous characters at the end of line");
        assert_eq!(error(&[maybe("a", Flag('a'))], "-b"), "foo|f: unsupported option -b");
        assert_eq!(error(&[arg("fmt", Format)], "/q"), "invalid char in format: 'q'");
        assert_eq!(error(&[arg("a", Small)], "-1"), "'foo|f' has failed: integer is for 32-bit values");
        assert_eq!(error(&[arg("a", Word)], "\"abc"), "unterminated string");
    }

    #[test]
    fn the_last_format_is_remembered() {
        let mut last = super::Format::default();
        let mut format = |text: &str| {
            let args = parse("x", &[arg("fmt", Format), maybe("a", Word)], text, &mut last, &|_| None).unwrap();
            let format = args.format();
            (format.count, format.letter, format.size)
        };
        assert_eq!(format("0"), (1, 'x', 4));
        assert_eq!(format("/3uh 0"), (3, 'u', 2));
        assert_eq!(format("/5 0"), (5, 'u', 2));
        assert_eq!(format("0"), (1, 'u', 2));
        assert_eq!(format("/c 0"), (1, 'c', 1));
        assert_eq!(format("/xg 0"), (1, 'x', 8));
    }
}
