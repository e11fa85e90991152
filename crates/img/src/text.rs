//! JSON and indented text the way the QEMU tools print them.
//!
//! Reference: recorded output of `qemu-img info` 10.0.2.

use serde_json::Value;
use std::fmt::Write;

/// Pretty JSON: four blanks a level, one member a line, brackets of empty lists on lines of their own.
pub fn json(value: &Value) -> String {
    let mut out = String::new();
    write_json(value, 0, &mut out);
    out
}

fn write_json(value: &Value, level: usize, out: &mut String) {
    let indent = |n: usize| "    ".repeat(n);
    match value {
        Value::Object(map) => {
            out.push('{');
            for (i, (key, v)) in map.iter().enumerate() {
                let _ = write!(out, "{}\n{}{}: ", if i > 0 { "," } else { "" }, indent(level + 1), Value::from(key.as_str()));
                write_json(v, level + 1, out);
            }
            let _ = write!(out, "\n{}}}", indent(level));
        }
        Value::Array(list) => {
            out.push('[');
            for (i, v) in list.iter().enumerate() {
                let _ = write!(out, "{}\n{}", if i > 0 { "," } else { "" }, indent(level + 1));
                write_json(v, level + 1, out);
            }
            let _ = write!(out, "\n{}]", indent(level));
        }
        other => {
            let _ = write!(out, "{other}");
        }
    }
}

/// Members of an object as indented `key: value` lines, dashes in keys as blanks.
pub fn dump(value: &Value, level: usize, out: &mut String) {
    let indent = "    ".repeat(level);
    match value {
        Value::Object(map) => {
            for (key, v) in map {
                let _ = write!(out, "{indent}{}:", key.replace('-', " "));
                dump_value(v, level, out);
            }
        }
        Value::Array(list) => {
            for (i, v) in list.iter().enumerate() {
                let _ = write!(out, "{indent}[{i}]:");
                dump_value(v, level, out);
            }
        }
        other => {
            let _ = writeln!(out, "{indent}{}", scalar(other));
        }
    }
}

fn dump_value(value: &Value, level: usize, out: &mut String) {
    match value {
        Value::Object(_) | Value::Array(_) => {
            out.push('\n');
            dump(value, level + 1, out);
        }
        other => {
            let _ = writeln!(out, " {}", scalar(other));
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}
