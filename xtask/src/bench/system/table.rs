//! The table of `bench system-arm`: rows with their units, ratios, geometric means by class, goals.

use super::super::report::{Line, cell, classes, mean, verdict};
use super::rows::{FIRST_BYTE_GOAL, GOALS, Row, Work};
use serde_json::{Value, json};

pub fn text(lines: &[Line], rows: &[&Row], reference: &str, runs: u32) -> String {
    let mut out = format!(
        "CPU seconds of the emulator (user + system), medians of {runs} paired runs; start in ms of wall time, memory in MiB; reference: \
         {reference}\n\n{:<13} {:<13} {:<4} {:>8} {:>8}  {:>7}\n",
        "class", "row", "unit", "qemu", "ours", "ratio"
    );
    for (line, row) in lines.iter().zip(rows) {
        let (reference, ours) = (cell(line.reference, 2), cell(line.ours, 2));
        out += &format!("{:<13} {:<13} {:<4} {reference:>8} {ours:>8}  {:>7}", line.class, line.name, row.unit(), cell(line.speedup(), 2));
        out += &line.failure.as_ref().map(|f| format!("  {f}")).unwrap_or_default();
        out += "\n";
    }
    out += "\ngeometric means\n";
    for class in classes(lines) {
        out += &format!("{class:<42} {:>15}\n", cell(mean(lines, &[class], Line::speedup), 2));
    }
    out += &verdict(lines, GOALS);
    if let Some(ms) = first_byte(lines, rows) {
        let word = if ms < FIRST_BYTE_GOAL { "reached" } else { "missed" };
        out += &format!("goal first byte below {FIRST_BYTE_GOAL} ms: {word} ({ms:.1} ms)\n");
    }
    out
}

fn first_byte(lines: &[Line], rows: &[&Row]) -> Option<f64> {
    let at = rows.iter().position(|r| matches!(r.work, Work::FirstByte))?;
    lines[at].ours
}

pub fn value(lines: &[Line], rows: &[&Row], reference: &str, runs: u32) -> Value {
    let all: Vec<Value> = lines
        .iter()
        .zip(rows)
        .map(|(l, r)| {
            json!({"class": l.class, "row": l.name, "unit": r.unit(), "reference": l.reference, "ours": l.ours,
                   "speedup": l.speedup(), "failure": l.failure})
        })
        .collect();
    let means: Vec<Value> =
        classes(lines).iter().map(|c| json!({"class": c, "speedup": mean(lines, &[c], Line::speedup)})).collect();
    json!({"reference": reference, "runs": runs, "rows": all, "classes": means})
}

#[cfg(test)]
mod tests {
    use super::super::rows::ROWS;
    use super::*;

    #[test]
    fn the_table_has_units_means_and_goals() {
        let rows: Vec<&Row> = ROWS.iter().filter(|r| matches!(r.class, "start" | "boot")).collect();
        let line = |r: &&Row| Line { class: r.class, name: r.name, native: None, reference: Some(90.0), ours: Some(45.0), failure: None };
        let lines: Vec<Line> = rows.iter().map(line).collect();
        let text = text(&lines, &rows, "qemu", 3);
        assert!(text.contains("first_byte    ms      90.00    45.00     2.00"), "{text}");
        assert!(text.contains("goal boot 1.7x: reached (2.00x)"), "{text}");
        assert!(text.contains("goal first byte below 50 ms: reached (45.0 ms)"), "{text}");
        assert_eq!(value(&lines, &rows, "qemu", 3)["classes"][1]["speedup"], 2.0);
    }
}
