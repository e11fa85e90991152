//! `cargo xtask where NAME`: the table row (instruction, IR operation, system call, option, register) of that name, and
//! the functions that carry it.

use crate::{layers, project};
use spec::error::{Context, Error, Result};

/// The project's table macros; a line inside one that has the name is its row.
const TABLES: &[&str] = &["insns!", "ops!", "sysregs!", "regs!", "state!", "events!", "syscalls!", "options!", "cpus!", "commands!"];

pub fn command(arguments: &[String]) -> Result<()> {
    let [name] = arguments else {
        return Err(Error::new("where takes one name, for example: cargo xtask where add_imm"));
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
            if let Some(t) = TABLES.iter().find(|t| code.trim_start().trim_start_matches("pub ").starts_with(**t)) {
                table = Some(*t);
                depth = 0;
            }
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
        assert_eq!(lines, [(3, "insns!"), (7, "fn")]);
        assert!(found(text, "imm").is_empty());
    }

    #[test]
    fn a_name_that_does_not_exist_is_an_error() {
        assert!(command(&["no_such_row_anywhere".into()]).unwrap_err().to_string().contains("'no_such_row_anywhere'"));
    }
}
