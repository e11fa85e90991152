//! `cargo xtask where NAME`: the table row (instruction, IR operation, system call, option, register) of that name, and
//! the functions that carry it.

use crate::{layers, project};
use spec::error::{Context, Error, Result};

/// The project's table macros; a line inside one that has the name is its row.
#[rustfmt::skip]
const TABLES: &[&str] = &[
    "commands", "errnos", "features", "insns", "ioctls", "items", "models", "ops", "options", "properties", "regs", "rows", "slots", "syscalls",
    "sysregs",
];

pub fn command(arguments: &[String]) -> Result<()> {
    let [name] = arguments else {
        return Err(Error::new("where takes one name, for example: cargo xtask where umaal"));
    };
    let mut lines = Vec::new();
    for file in layers::sources(&project::root().join("crates"))? {
        let text = std::fs::read_to_string(&file).context(|| format!("Could not read '{}'", file.display()))?;
        let shown = file.strip_prefix(project::root()).unwrap_or(&file).display().to_string();
        lines.extend(found(&text, name).into_iter().map(|(n, kind, line)| format!("{shown}:{n}: {kind}: {}", line.trim())));
    }
    if lines.is_empty() {
        return Err(Error::new(format!("no table row and no function is named '{name}'")));
    }
    println!("{}", lines.join("\n"));
    Ok(())
}

/// (line number, table or "fn", line) of every row and function of that name.
fn found<'a>(text: &'a str, name: &str) -> Vec<(usize, &'static str, &'a str)> {
    let mut table = None;
    let mut depth = 0i32;
    let mut all = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or("");
        if table.is_none() {
            table = opened(code);
            depth = 0;
        }
        let function = code.contains(&format!("fn {name}(")) || code.contains(&format!("fn {name}<"));
        match table {
            Some(t) if has_word(code, name) => all.push((number + 1, t, line)),
            None if function => all.push((number + 1, "fn", line)),
            _ => {}
        }
        if table.is_some() {
            let count = |c: char| code.chars().filter(|x| *x == c).count() as i32;
            depth += count('{') - count('}');
            if depth <= 0 && code.contains('}') {
                table = None;
            }
        }
    }
    all
}

/// The table that begins on a line: `NAME! {`, with or without a path or an item before it.
fn opened(code: &str) -> Option<&'static str> {
    TABLES.iter().copied().find(|table| {
        let beginning = format!("{table}! {{");
        code.match_indices(&beginning).map(|(at, _)| &code[..at]).any(|before| before.trim().is_empty() || before.ends_with("::") || before.ends_with("= "))
    })
}

fn has_word(line: &str, name: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').any(|w| w.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_functions_are_found_and_uses_are_not() {
        let text = "insns! { T;\n    /// ADD\n    add_imm   \"1 0\"  (f);\n    sub_imm \"1 1\" (f);\n}\n\
                    impl T {\n    fn add_imm(&mut self) {}\n    fn other(&self) { self.add_imm() }\n}\n";
        let lines: Vec<_> = found(text, "add_imm").into_iter().map(|(n, kind, _)| (n, kind)).collect();
        assert_eq!(lines, [(3, "insns"), (7, "fn")]);
        assert!(found(text, "imm").is_empty());
    }

    #[test]
    fn every_table_is_found_where_it_is() {
        let sources = layers::sources(&project::root().join("crates")).unwrap();
        let texts: Vec<String> = sources.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
        for table in TABLES {
            assert!(texts.iter().flat_map(|t| t.lines()).any(|line| opened(line) == Some(table)), "{table}");
        }
        for (name, table) in [("umaal", "insns"), ("openat", "syscalls"), ("SCTLR", "sysregs"), ("Popcnt", "ops"), ("guestfwd", "rows")] {
            assert!(texts.iter().any(|t| found(t, name).iter().any(|row| row.1 == table)), "{name}");
        }
    }

    #[test]
    fn a_name_that_does_not_exist_is_an_error() {
        assert!(command(&["no_such_row_anywhere".into()]).unwrap_err().to_string().contains("'no_such_row_anywhere'"));
    }
}
