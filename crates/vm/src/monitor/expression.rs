//! Expressions: numbers, `'c'`, `$register`, `+ - * / % & | ^ ~ ( )`.
//!
//! Reference: QEMU's monitor: 64-bit two's complement; `& | ^` bind tighter than `* / %`, and these than `+ -`.
//! An expression ends where no operator follows, or before a word that begins with a slash (a file name).
//!
//! Invariant: nesting is at most [`DEPTH_MAX`] deep.

/// Parentheses and signs within each other.
pub const DEPTH_MAX: usize = 64;

/// What is left of a command line.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    pub rest: &'a str,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str) -> Cursor<'a> {
        Cursor { rest: text }
    }

    pub fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    pub fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    pub fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next();
        self.rest = chars.as_str();
        c
    }

    pub fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !keep(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }
}

/// Finds a register's value.
pub type Registers<'r> = &'r dyn Fn(&str) -> Option<u64>;

struct Parser<'a, 'r> {
    cursor: Cursor<'a>,
    registers: Registers<'r>,
    depth: usize,
}

/// The value at the beginning of what is left.
pub fn evaluate(cursor: &mut Cursor, registers: Registers) -> Result<u64, String> {
    let mut parser = Parser { cursor: *cursor, registers, depth: 0 };
    let value = parser.level(0)?;
    *cursor = parser.cursor;
    Ok(value)
}

/// The operators, loosest first.
const LEVELS: [&[char]; 3] = [&['+', '-'], &['*', '/', '%'], &['&', '|', '^']];

fn apply(operator: char, a: u64, b: u64) -> Result<u64, String> {
    Ok(match operator {
        '+' => a.wrapping_add(b),
        '-' => a.wrapping_sub(b),
        '*' => a.wrapping_mul(b),
        '/' | '%' if b == 0 => return Err("division by zero".into()),
        '/' => (a as i64).wrapping_div(b as i64) as u64,
        '%' => (a as i64).wrapping_rem(b as i64) as u64,
        '&' => a & b,
        '|' => a | b,
        _ => a ^ b,
    })
}

/// Whether a slash begins a file name: it follows a space and no operand can follow it.
fn is_path(cursor: &Cursor, spaced: bool) -> bool {
    let mut after = *cursor;
    let slash = after.next() == Some('/');
    let operand = |c: char| c.is_ascii_digit() || c.is_whitespace() || matches!(c, '(' | '$' | '\'' | '-' | '~' | '+');
    slash && spaced && after.peek().is_some_and(|c| !operand(c))
}

impl Parser<'_, '_> {
    fn level(&mut self, level: usize) -> Result<u64, String> {
        let Some(operators) = LEVELS.get(level) else { return self.unary() };
        let mut value = self.level(level + 1)?;
        loop {
            let before = self.cursor.rest.len();
            let mut ahead = self.cursor;
            ahead.skip_spaces();
            let Some(operator) = ahead.peek().filter(|c| operators.contains(c)) else { return Ok(value) };
            if is_path(&ahead, ahead.rest.len() < before) {
                return Ok(value);
            }
            ahead.next();
            self.cursor = ahead;
            let right = self.level(level + 1)?;
            value = apply(operator, value, right)?;
        }
    }

    fn nested(&mut self, parse: impl FnOnce(&mut Self) -> Result<u64, String>) -> Result<u64, String> {
        if self.depth == DEPTH_MAX {
            return Err("expression is nested too deeply".into());
        }
        self.depth += 1;
        let value = parse(self);
        self.depth -= 1;
        value
    }

    fn unary(&mut self) -> Result<u64, String> {
        self.cursor.skip_spaces();
        let Some(c) = self.cursor.peek() else { return Err("unexpected end of expression".into()) };
        if c.is_ascii_digit() {
            return self.number();
        }
        self.cursor.next();
        match c {
            '+' => self.nested(Self::unary),
            '-' => Ok(self.nested(Self::unary)?.wrapping_neg()),
            '~' => Ok(!self.nested(Self::unary)?),
            '(' => {
                let value = self.nested(|parser| parser.level(0))?;
                self.cursor.skip_spaces();
                match self.cursor.next() {
                    Some(')') => Ok(value),
                    _ => Err("')' expected".into()),
                }
            }
            '\'' => {
                let value = self.cursor.next().ok_or("character constant expected")?;
                match self.cursor.next() {
                    Some('\'') => Ok(u64::from(u32::from(value))),
                    _ => Err("missing terminating \' character".into()),
                }
            }
            '$' => {
                let name = self.cursor.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':'));
                (self.registers)(name).ok_or_else(|| "unknown register".into())
            }
            c => Err(format!("invalid char '{c}' in expression")),
        }
    }

    fn number(&mut self) -> Result<u64, String> {
        let word = self.cursor.take_while(|c| c.is_ascii_alphanumeric());
        let (digits, radix) = match word.strip_prefix("0x").or(word.strip_prefix("0X")) {
            Some(digits) => (digits, 16),
            None if word.len() > 1 && word.starts_with('0') => (&word[1..], 8),
            None => (word, 10),
        };
        if let Some(c) = digits.chars().find(|c| !c.is_digit(radix)) {
            return Err(format!("invalid char '{c}' in expression"));
        }
        u64::from_str_radix(digits, radix).map_err(|_| "number too large".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluate_all(text: &str) -> Result<(u64, String), String> {
        let mut cursor = Cursor::new(text);
        let value = evaluate(&mut cursor, &|name| (name == "pc").then_some(0x8000))?;
        Ok((value, cursor.rest.to_string()))
    }

    fn check(text: &str, value: u64) {
        assert_eq!(evaluate_all(text), Ok((value, String::new())), "{text}");
    }

    #[test]
    fn values_are_qemus() {
        check("1+2*3", 7);
        check("2*(3+4)", 14);
        check("10%3", 1);
        check("3|4^5", 2);
        check("2*1|4", 10);
        check("7 - 2 - 1", 4);
        check("-5/2", (-2i64) as u64);
        check("~0", u64::MAX);
        check("'a'", 97);
        check("010", 8);
        check("0x10", 16);
        check("$pc+4", 0x8004);
        check("0xffffffffffffffff+1", 0);
        check("-0x8000000000000000/-1", 1 << 63);
    }

    #[test]
    fn it_ends_where_no_operator_follows() {
        assert_eq!(evaluate_all("1 2").unwrap(), (1, " 2".into()));
        assert_eq!(evaluate_all("1==1").unwrap(), (1, "==1".into()));
        assert_eq!(evaluate_all("16 /tmp/x").unwrap(), (16, " /tmp/x".into()));
        assert_eq!(evaluate_all("16 /4").unwrap(), (4, String::new()));
        assert_eq!(evaluate_all("16/ 4").unwrap(), (4, String::new()));
    }

    #[test]
    fn mistakes_have_qemus_words() {
        let error = |text: &str| evaluate_all(text).unwrap_err();
        assert_eq!(error(""), "unexpected end of expression");
        assert_eq!(error("1+"), "unexpected end of expression");
        assert_eq!(error("(1"), "')' expected");
        assert_eq!(error("4/0"), "division by zero");
        assert_eq!(error("$foo"), "unknown register");
        assert_eq!(error("foo"), "invalid char 'f' in expression");
        assert_eq!(error("5&&1"), "invalid char '&' in expression");
        assert_eq!(error("0x1g"), "invalid char 'g' in expression");
        assert_eq!(error("99999999999999999999"), "number too large");
        assert_eq!(error(&"(".repeat(100_000)), "expression is nested too deeply");
        assert_eq!(error(&"-".repeat(100_000)), "expression is nested too deeply");
    }
}
