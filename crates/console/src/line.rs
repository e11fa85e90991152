//! A line editor for monitors: emacs keys, history, completion.
//!
//! It turns keys into lines and writes what a terminal has to show. Keys at the end of the line are simply echoed, so
//! that a script sees its own words.
//!
//! Reference: ECMA-48 (CSI sequences of the cursor keys), xterm's Home, End and Delete.
//! Not modelled: characters that are wider than one column, lines longer than the terminal.
//! Invariants: a line has at most [`LINE_MAX`] characters and the history [`HISTORY_MAX`] lines; further characters
//! are dropped.

use std::collections::VecDeque;

pub const LINE_MAX: usize = 4095;
pub const HISTORY_MAX: usize = 64;
/// Columns for the candidates of a completion.
const COLUMNS: usize = 80;

const DELETE: u8 = 127;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Esc,
    Csi(u32),
    /// `ESC O`: the cursor keys of a keypad in application mode.
    Ss3,
}

/// What a key led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The line is still being edited.
    Editing,
    /// The user ended it; a new one is begun with [`Editor::start`].
    Line(String),
}

/// Finds what a line could go on with: the candidates for its last word, in order.
pub trait Complete {
    fn complete(&self, line: &str) -> Vec<String>;
}

/// The state of one user's editing.
#[derive(Debug)]
pub struct Editor {
    prompt: String,
    line: Vec<char>,
    cursor: usize,
    escape: Escape,
    /// The bytes of a character that is not complete.
    partial: Vec<u8>,
    history: VecDeque<String>,
    /// Which line of the history is shown; its length for none.
    place: usize,
    /// The new line, while an old one is shown.
    aside: Vec<char>,
}

impl Editor {
    pub fn new(prompt: &str) -> Editor {
        Editor {
            prompt: prompt.to_string(),
            line: Vec::new(),
            cursor: 0,
            escape: Escape::None,
            partial: Vec::new(),
            history: VecDeque::new(),
            place: 0,
            aside: Vec::new(),
        }
    }

    /// The lines so far, oldest first.
    pub fn history(&self) -> impl Iterator<Item = &str> {
        self.history.iter().map(String::as_str)
    }

    /// Begins a new line: shows the prompt.
    pub fn start(&mut self, out: &mut String) {
        self.line.clear();
        self.cursor = 0;
        self.place = self.history.len();
        self.escape = Escape::None;
        out.push_str(&self.prompt);
    }

    /// Shows the prompt and the line once more, after something else was written.
    pub fn show_again(&self, out: &mut String) {
        out.push_str(&self.prompt);
        out.extend(&self.line);
        back(self.line.len() - self.cursor, out);
    }

    /// Takes one byte from the keyboard.
    pub fn key(&mut self, byte: u8, complete: &dyn Complete, out: &mut String) -> Outcome {
        match self.escape {
            Escape::None => return self.plain(byte, complete, out),
            Escape::Esc => {
                self.escape = match byte {
                    b'[' => Escape::Csi(0),
                    b'O' => Escape::Ss3,
                    _ => Escape::None,
                };
            }
            Escape::Csi(n) if byte.is_ascii_digit() => {
                self.escape = Escape::Csi(n.saturating_mul(10).saturating_add(u32::from(byte - b'0')));
            }
            // Modifiers (`1;5C`) do not matter.
            Escape::Csi(_) if byte == b';' => self.escape = Escape::Csi(0),
            Escape::Csi(n) => {
                self.escape = Escape::None;
                self.function_key(byte, n, out);
            }
            Escape::Ss3 => {
                self.escape = Escape::None;
                self.function_key(byte, 0, out);
            }
        }
        Outcome::Editing
    }

    fn function_key(&mut self, byte: u8, number: u32, out: &mut String) {
        match (byte, number) {
            (b'A', _) => self.older(out),
            (b'B', _) => self.newer(out),
            (b'C', _) => self.right(out),
            (b'D', _) => self.left(out),
            (b'H', _) | (b'~', 1 | 7) => self.home(out),
            (b'F', _) | (b'~', 4 | 8) => self.end(out),
            (b'~', 3) => self.delete(out),
            _ => {}
        }
    }

    fn plain(&mut self, byte: u8, complete: &dyn Complete, out: &mut String) -> Outcome {
        const fn ctrl(c: u8) -> u8 {
            c & 0x1f
        }
        const HOME: u8 = ctrl(b'a');
        const LEFT: u8 = ctrl(b'b');
        const CANCEL: u8 = ctrl(b'c');
        const DELETE_RIGHT: u8 = ctrl(b'd');
        const END: u8 = ctrl(b'e');
        const RIGHT: u8 = ctrl(b'f');
        const BACKSPACE: u8 = ctrl(b'h');
        const TAB: u8 = ctrl(b'i');
        const KILL: u8 = ctrl(b'k');
        const CLEAR: u8 = ctrl(b'l');
        const NEWER: u8 = ctrl(b'n');
        const OLDER: u8 = ctrl(b'p');
        const KILL_LEFT: u8 = ctrl(b'u');
        const KILL_WORD: u8 = ctrl(b'w');
        match byte {
            b'\r' | b'\n' => return Outcome::Line(self.enter(out)),
            0x1b => self.escape = Escape::Esc,
            HOME => self.home(out),
            LEFT => self.left(out),
            DELETE_RIGHT => self.delete(out),
            END => self.end(out),
            RIGHT => self.right(out),
            BACKSPACE | DELETE => self.backspace(out),
            TAB => self.complete(complete, out),
            KILL => {
                self.line.truncate(self.cursor);
                self.redraw(out);
            }
            CLEAR => {
                out.push_str("\x1b[2J\x1b[1;1H");
                self.show_again(out);
            }
            NEWER => self.newer(out),
            OLDER => self.older(out),
            KILL_LEFT | CANCEL => self.kill_left(0, out),
            KILL_WORD => self.kill_left(self.word_start(), out),
            0..32 => {}
            _ => self.character(byte, out),
        }
        Outcome::Editing
    }

    /// Collects the bytes of a character.
    fn character(&mut self, byte: u8, out: &mut String) {
        self.partial.push(byte);
        match std::str::from_utf8(&self.partial) {
            Ok(text) => {
                let c = text.chars().next().expect("there is at least one byte");
                self.partial.clear();
                self.insert(c, out);
            }
            // Only an unfinished character may go on.
            Err(error) if error.error_len().is_some() => self.partial.clear(),
            Err(_) => {}
        }
    }

    fn insert(&mut self, c: char, out: &mut String) {
        if self.line.len() == LINE_MAX {
            return;
        }
        self.line.insert(self.cursor, c);
        self.cursor += 1;
        out.push(c);
        if self.cursor < self.line.len() {
            self.redraw(out);
        }
    }

    /// Draws everything from the cursor on again.
    fn redraw(&self, out: &mut String) {
        out.extend(&self.line[self.cursor..]);
        out.push_str("\x1b[K");
        back(self.line.len() - self.cursor, out);
    }

    fn home(&mut self, out: &mut String) {
        back(self.cursor, out);
        self.cursor = 0;
    }

    fn end(&mut self, out: &mut String) {
        out.extend(&self.line[self.cursor..]);
        self.cursor = self.line.len();
    }

    fn left(&mut self, out: &mut String) {
        if self.cursor > 0 {
            self.cursor -= 1;
            back(1, out);
        }
    }

    fn right(&mut self, out: &mut String) {
        if self.cursor < self.line.len() {
            out.push(self.line[self.cursor]);
            self.cursor += 1;
        }
    }

    fn backspace(&mut self, out: &mut String) {
        if self.cursor > 0 {
            self.left(out);
            self.delete(out);
        }
    }

    fn delete(&mut self, out: &mut String) {
        if self.cursor < self.line.len() {
            self.line.remove(self.cursor);
            self.redraw(out);
        }
    }

    /// Where the word before the cursor begins.
    fn word_start(&self) -> usize {
        let before = &self.line[..self.cursor];
        let end = before.iter().rposition(|&c| c != ' ').map_or(0, |at| at + 1);
        before[..end].iter().rposition(|&c| c == ' ').map_or(0, |at| at + 1)
    }

    fn kill_left(&mut self, from: usize, out: &mut String) {
        back(self.cursor - from, out);
        self.line.drain(from..self.cursor);
        self.cursor = from;
        self.redraw(out);
    }

    fn replace(&mut self, line: Vec<char>, out: &mut String) {
        self.home(out);
        self.line = line;
        self.redraw(out);
        self.end(out);
    }

    fn older(&mut self, out: &mut String) {
        if self.place == 0 {
            return;
        }
        if self.place == self.history.len() {
            self.aside = self.line.clone();
        }
        self.place -= 1;
        let line = self.history[self.place].chars().collect();
        self.replace(line, out);
    }

    fn newer(&mut self, out: &mut String) {
        if self.place == self.history.len() {
            return;
        }
        self.place += 1;
        let line = match self.history.get(self.place) {
            Some(line) => line.chars().collect(),
            None => std::mem::take(&mut self.aside),
        };
        self.replace(line, out);
    }

    fn enter(&mut self, out: &mut String) -> String {
        self.end(out);
        out.push_str("\r\n");
        let line: String = std::mem::take(&mut self.line).into_iter().collect();
        self.cursor = 0;
        if !line.trim().is_empty() {
            // Said again, it moves to the end.
            self.history.retain(|old| *old != line);
            if self.history.len() == HISTORY_MAX {
                self.history.pop_front();
            }
            self.history.push_back(line.clone());
        }
        line
    }

    fn complete(&mut self, complete: &dyn Complete, out: &mut String) {
        let before: String = self.line[..self.cursor].iter().collect();
        let candidates = complete.complete(&before);
        let Some(first) = candidates.first() else { return };
        let word = before.rsplit([' ', ',']).next().unwrap_or_default().chars().count();
        let common = candidates.iter().fold(first.clone(), |common, c| common_prefix(&common, c));
        let rest: Vec<char> = common.chars().skip(word).collect();
        let alone = candidates.len() == 1;
        for c in rest.iter().copied().chain(alone.then_some(' ')) {
            self.insert(c, out);
        }
        if !alone && rest.is_empty() {
            out.push_str("\r\n");
            columns(&candidates, out);
            self.show_again(out);
        }
    }
}

/// Moves the cursor to the left.
fn back(n: usize, out: &mut String) {
    match n {
        0 => {}
        1..4 => out.extend(std::iter::repeat_n('\x08', n)),
        _ => out.push_str(&format!("\x1b[{n}D")),
    }
}

fn common_prefix(a: &str, b: &str) -> String {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
}

/// Lists words in columns, row by row.
fn columns(words: &[String], out: &mut String) {
    let width = words.iter().map(|word| word.chars().count()).max().unwrap_or(0) + 2;
    let in_row = (COLUMNS / width).max(1);
    for row in words.chunks(in_row) {
        let line: String = row.iter().map(|word| format!("{word:<width$}")).collect();
        out.push_str(line.trim_end());
        out.push_str("\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Words(&'static [&'static str]);

    impl Complete for Words {
        fn complete(&self, line: &str) -> Vec<String> {
            let word = line.rsplit(' ').next().unwrap();
            self.0.iter().filter(|w| w.starts_with(word)).map(|w| w.to_string()).collect()
        }
    }

    /// A terminal of one row, to see what a user sees.
    fn screen(text: &str) -> String {
        let (mut row, mut column) = (Vec::<char>::new(), 0usize);
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '\r' => column = 0,
                '\n' => row.clear(),
                '\x08' => column -= 1,
                '\x1b' => {
                    let sequence: String = chars.by_ref().skip(1).take_while_inclusive_letter();
                    let (number, letter) = sequence.split_at(sequence.len() - 1);
                    match letter {
                        "K" => row.truncate(column),
                        "D" => column -= number.parse::<usize>().unwrap(),
                        _ => panic!("unknown sequence {sequence}"),
                    }
                }
                c => {
                    row.resize(row.len().max(column + 1), ' ');
                    row[column] = c;
                    column += 1;
                }
            }
        }
        row.insert(column, '|');
        row.into_iter().collect()
    }

    trait TakeLetters {
        fn take_while_inclusive_letter(self) -> String;
    }

    impl<I: Iterator<Item = char>> TakeLetters for I {
        fn take_while_inclusive_letter(self) -> String {
            let mut text = String::new();
            for c in self {
                text.push(c);
                if c.is_ascii_alphabetic() {
                    break;
                }
            }
            text
        }
    }

    struct User {
        editor: Editor,
        words: Words,
        shown: String,
        lines: Vec<String>,
    }

    impl User {
        fn new() -> User {
            let mut user = User {
                editor: Editor::new("> "),
                words: Words(&["cont", "cpu", "info", "stop"]),
                shown: String::new(),
                lines: vec![],
            };
            user.editor.start(&mut user.shown);
            user
        }

        fn types(&mut self, keys: &str) -> &mut User {
            for byte in keys.bytes() {
                if let Outcome::Line(line) = self.editor.key(byte, &self.words, &mut self.shown) {
                    self.lines.push(line);
                    self.editor.start(&mut self.shown);
                }
            }
            self
        }

        fn sees(&mut self, expected: &str) -> &mut User {
            assert_eq!(screen(&self.shown), expected);
            self
        }
    }

    #[test]
    fn keys_at_the_end_are_echoed_as_they_are() {
        let mut user = User::new();
        user.types("stop\r");
        assert_eq!(user.shown, "> stop\r\n> ");
        assert_eq!(user.lines, ["stop"]);
    }

    #[test]
    fn editing_keys_do_what_they_should() {
        let mut user = User::new();
        user.types("hello world").sees("> hello world|");
        user.types("\x01").sees("> |hello world");
        user.types("\x1b[3~J").sees("> J|ello world");
        user.types("\x1b[C\x1b[C\x04\x06").sees("> Jelo| world");
        user.types("\x05\x17x").sees("> Jelo x|");
        user.types("\x1b[H\x1bOC\x0b").sees("> J|");
        user.types("\x7f\x7fabc\x02\x02\x15").sees("> |bc");
        user.types("ä€").sees("> ä€|bc");
        user.types("\x08\x1b[4~!\r");
        assert_eq!(user.lines, ["äbc!"]);
    }

    #[test]
    fn history_goes_back_and_forth_and_keeps_the_new_line() {
        let mut user = User::new();
        user.types("one\rtwo\r\r  \rnew").sees("> new|");
        user.types("\x1b[A").sees("> two|");
        user.types("\x10\x10").sees("> one|");
        user.types("\x1b[B").sees("> two|");
        user.types("\x0e\x0e").sees("> new|");
        user.types("\x15\x1b[A\x1b[A\r");
        assert_eq!(user.lines, ["one", "two", "", "  ", "one"]);
        assert_eq!(user.editor.history().collect::<Vec<_>>(), ["two", "one"]);
    }

    #[test]
    fn tab_completes_or_lists() {
        let mut user = User::new();
        user.types("i\t").sees("> info |");
        user.types("x\t").sees("> info x|");
        user.types("\x15c\t");
        assert!(user.shown.ends_with("\r\ncont  cpu\r\n> c"), "{:?}", user.shown);
        user.types("o\tx").sees("> cont x|");
    }

    #[test]
    fn endless_lines_and_broken_characters_are_bounded() {
        let mut user = User::new();
        for byte in [0xff, 0xc3, 0x28, 0x80] {
            assert_eq!(user.editor.key(byte, &user.words, &mut user.shown), Outcome::Editing);
        }
        user.types(&"x".repeat(2 * LINE_MAX)).types("\r");
        assert_eq!(user.lines[0].len(), LINE_MAX);
    }
}
