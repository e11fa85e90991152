//! Command lines in the way of `getopt_long`: short and long options, in any order with the file names.
//!
//! Reference: glibc's getopt_long(3) and the messages of `qemu-img` 10.0.2.

/// One option: short letter, long name, whether it takes a value.
#[derive(Clone, Copy)]
pub struct Opt {
    pub short: Option<char>,
    pub long: &'static str,
    pub value: bool,
}

/// A row with a short form; `=` after the name says that a value follows.
pub const fn opt(short: char, long: &'static str, value: bool) -> Opt {
    Opt { short: Some(short), long, value }
}

/// A row with only a long form.
pub const fn long(long: &'static str, value: bool) -> Opt {
    Opt { short: None, long, value }
}

/// What a command line says: options by long name in order, and the rest.
#[derive(Debug, Default)]
pub struct Parsed {
    pub options: Vec<(&'static str, String)>,
    pub rest: Vec<String>,
}

impl Parsed {
    pub fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(n, _)| *n == name)
    }

    /// The last value of an option.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| v.as_str())
    }

    pub fn values(&self, name: &str) -> Vec<&str> {
        self.options.iter().filter(|(n, _)| *n == name).map(|(_, v)| v.as_str()).collect()
    }
}

/// Parses arguments; the error is a message without the program's name.
pub fn parse(table: &[Opt], args: &[String]) -> Result<Parsed, String> {
    let mut parsed = Parsed::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            parsed.rest.extend(args.cloned());
            break;
        }
        if let Some(name) = arg.strip_prefix("--") {
            parse_long(table, name, &mut args, &mut parsed)?;
        } else if arg.len() > 1 && arg.starts_with('-') {
            parse_short(table, &arg[1..], &mut args, &mut parsed)?;
        } else {
            parsed.rest.push(arg.clone());
        }
    }
    Ok(parsed)
}

fn parse_long<'a>(table: &[Opt], text: &str, args: &mut impl Iterator<Item = &'a String>, out: &mut Parsed) -> Result<(), String> {
    let (name, inline) = match text.split_once('=') {
        Some((n, v)) => (n, Some(v.to_owned())),
        None => (text, None),
    };
    let exact = table.iter().find(|o| o.long == name);
    let row = match exact {
        Some(row) => row,
        None => {
            let close: Vec<&Opt> = table.iter().filter(|o| o.long.starts_with(name)).collect();
            match close.as_slice() {
                [one] => *one,
                [] => return Err(format!("unrecognized option '--{name}'")),
                many => {
                    let list: Vec<String> = many.iter().map(|o| format!("'--{}'", o.long)).collect();
                    return Err(format!("option '--{name}' is ambiguous; possibilities: {}", list.join(" ")));
                }
            }
        }
    };
    let value = match (row.value, inline) {
        (true, Some(v)) => v,
        (true, None) => args.next().cloned().ok_or_else(|| format!("option '--{}' requires an argument", row.long))?,
        (false, None) => String::new(),
        (false, Some(_)) => return Err(format!("option '--{}' doesn't allow an argument", row.long)),
    };
    out.options.push((row.long, value));
    Ok(())
}

fn parse_short<'a>(table: &[Opt], text: &str, args: &mut impl Iterator<Item = &'a String>, out: &mut Parsed) -> Result<(), String> {
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        let row = table.iter().find(|o| o.short == Some(c)).ok_or_else(|| format!("invalid option -- '{c}'"))?;
        if !row.value {
            out.options.push((row.long, String::new()));
            continue;
        }
        let glued = &text[at + c.len_utf8()..];
        let value = match glued.is_empty() {
            false => glued.to_owned(),
            true => args.next().cloned().ok_or_else(|| format!("option requires an argument -- '{c}'"))?,
        };
        out.options.push((row.long, value));
        break;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Opt] = &[opt('f', "format", true), opt('q', "quiet", false), long("output", true)];

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_and_names_may_mix() {
        let p = parse(TABLE, &words("a -qf raw b --output=json -- -c")).unwrap();
        assert_eq!(p.value("format"), Some("raw"));
        assert_eq!(p.value("output"), Some("json"));
        assert!(p.has("quiet"));
        assert_eq!(p.rest, ["a", "b", "-c"]);
    }

    #[test]
    fn mistakes_have_the_usual_texts() {
        assert_eq!(parse(TABLE, &words("--zzz")).unwrap_err(), "unrecognized option '--zzz'");
        assert_eq!(parse(TABLE, &words("-f")).unwrap_err(), "option requires an argument -- 'f'");
        assert_eq!(parse(TABLE, &words("-x")).unwrap_err(), "invalid option -- 'x'");
    }
}
