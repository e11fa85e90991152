//! The table: rows, ratios, geometric means by class, goals.

use super::prepare::Machine;
use serde_json::{Value, json};

/// A row's medians in seconds; `None` where it did not run.
pub struct Line {
    pub class: &'static str,
    pub name: &'static str,
    pub native: Option<f64>,
    pub reference: Option<f64>,
    pub ours: Option<f64>,
    pub failure: Option<String>,
}

impl Line {
    /// How many times faster than the reference.
    pub fn speedup(&self) -> Option<f64> {
        Some(self.reference? / self.ours?)
    }

    pub fn ours_to_native(&self) -> Option<f64> {
        Some(self.ours? / self.native?)
    }

    pub fn reference_to_native(&self) -> Option<f64> {
        Some(self.reference? / self.native?)
    }

    pub fn set(&mut self, machine: Machine, seconds: Option<f64>) {
        match machine {
            Machine::Native => self.native = seconds,
            Machine::Reference => self.reference = seconds,
            Machine::Ours => self.ours = seconds,
        }
    }
}

/// Speed against the reference that the project promises: (classes, geometric mean).
pub const GOALS: &[(&[&str], f64)] = &[(&["integer"], 1.7), (&["fp", "simd"], 4.0), (&["control"], 2.5)];

pub fn median(samples: &mut [f64]) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    match samples.len() {
        0 => None,
        n if n % 2 == 1 => Some(samples[n / 2]),
        n => Some((samples[n / 2 - 1] + samples[n / 2]) / 2.0),
    }
}

pub fn geomean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0u32), |(s, n), v| (s + v.ln(), n + 1));
    (n > 0).then(|| (sum / f64::from(n)).exp())
}

pub fn classes(lines: &[Line]) -> Vec<&'static str> {
    let mut all = Vec::new();
    for line in lines {
        if !all.contains(&line.class) {
            all.push(line.class);
        }
    }
    all
}

pub fn mean(lines: &[Line], classes: &[&str], ratio: fn(&Line) -> Option<f64>) -> Option<f64> {
    geomean(lines.iter().filter(|l| classes.contains(&l.class)).filter_map(ratio))
}

pub fn cell(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".into(), |v| format!("{v:.decimals$}"))
}

pub fn text(lines: &[Line], reference: &str, runs: u32) -> String {
    let head = format!(
        "CPU seconds (user + system of the process tree), medians of {runs} interleaved runs; reference: {reference}\n\n\
         {:<13} {:<16} {:>8} {:>8} {:>8}  {:>9} {:>9}  {:>8}\n",
        "class", "row", "native", "qemu", "ours", "qemu/nat", "ours/nat", "speed-up"
    );
    let row = |class: &str, name: &str, l: [String; 3], r: [String; 3]| {
        format!("{class:<13} {name:<16} {:>8} {:>8} {:>8}  {:>9} {:>9}  {:>8}", l[0], l[1], l[2], r[0], r[1], r[2])
    };
    let mut out = head;
    for l in lines {
        let seconds = [cell(l.native, 3), cell(l.reference, 3), cell(l.ours, 3)];
        let ratios = [cell(l.reference_to_native(), 1), cell(l.ours_to_native(), 1), cell(l.speedup(), 2)];
        out += &row(l.class, l.name, seconds, ratios);
        out += &l.failure.as_ref().map(|f| format!("  {f}")).unwrap_or_default();
        out += "\n";
    }
    out += "\ngeometric means\n";
    let nothing = || [String::new(), String::new(), String::new()];
    let all = classes(lines);
    let mut means: Vec<(&str, Vec<&str>)> = all.iter().map(|c| (*c, vec![*c])).collect();
    means.push(("all", all));
    for (name, members) in means {
        let of = |ratio| mean(lines, &members, ratio);
        let ratios = [cell(of(Line::reference_to_native), 1), cell(of(Line::ours_to_native), 1), cell(of(Line::speedup), 2)];
        out += &(row(name, "", nothing(), ratios) + "\n");
    }
    out + &verdict(lines, GOALS)
}

/// The goals, and the rows that are slower than the reference or failed.
pub fn verdict(lines: &[Line], goals: &[(&[&str], f64)]) -> String {
    let mut out = String::from("\n");
    for (members, goal) in goals {
        if let Some(reached) = mean(lines, members, Line::speedup) {
            let word = if reached >= *goal { "reached" } else { "missed" };
            out += &format!("goal {} {goal:.1}x: {word} ({reached:.2}x)\n", members.join("+"));
        }
    }
    let slower: Vec<String> = lines
        .iter()
        .filter_map(|l| l.speedup().filter(|s| *s < 1.0).map(|s| format!("{}/{} {s:.2}x", l.class, l.name)))
        .collect();
    if !slower.is_empty() {
        out += &format!("slower than the reference: {}\n", slower.join(", "));
    }
    let failed: Vec<String> = failures(lines).map(|l| format!("{}/{}", l.class, l.name)).collect();
    if !failed.is_empty() {
        out += &format!("failed: {}\n", failed.join(", "));
    }
    out
}

pub fn failures(lines: &[Line]) -> impl Iterator<Item = &Line> {
    lines.iter().filter(|l| l.failure.is_some())
}

pub fn value(lines: &[Line], reference: &str, runs: u32) -> Value {
    let rows: Vec<Value> = lines
        .iter()
        .map(|l| {
            json!({"class": l.class, "row": l.name, "native": l.native, "reference": l.reference, "ours": l.ours,
                   "speedup": l.speedup(), "ours_to_native": l.ours_to_native(), "failure": l.failure})
        })
        .collect();
    let means: Vec<Value> = classes(lines)
        .iter()
        .map(|c| json!({"class": c, "speedup": mean(lines, &[c], Line::speedup), "ours_to_native": mean(lines, &[c], Line::ours_to_native)}))
        .collect();
    json!({"reference": reference, "runs": runs, "unit": "CPU seconds", "rows": rows, "classes": means})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(class: &'static str, name: &'static str, native: f64, reference: f64, ours: f64) -> Line {
        Line { class, name, native: Some(native), reference: Some(reference), ours: Some(ours), failure: None }
    }

    #[test]
    fn medians_and_means() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut [4.0, 1.0]), Some(2.5));
        assert_eq!(median(&mut []), None);
        assert!((geomean([1.0, 4.0].into_iter()).unwrap() - 2.0).abs() < 1e-12);
    }

    #[test]
    fn the_table_has_ratios_means_goals_and_the_slow_rows() {
        let lines = [line("integer", "a", 0.1, 1.0, 0.25), line("integer", "b", 0.1, 1.0, 4.0), line("fp", "c", 0.1, 8.0, 1.0)];
        let text = text(&lines, "qemu", 3);
        assert!(text.contains("goal integer 1.7x: missed (1.00x)"), "{text}");
        assert!(text.contains("goal fp+simd 4.0x: reached (8.00x)"), "{text}");
        assert!(text.contains("slower than the reference: integer/b 0.25x"), "{text}");
    }

    #[test]
    fn rows_that_did_not_run_are_left_out_of_the_means() {
        let mut missing = line("fp", "x", 0.1, 2.0, 1.0);
        missing.set(Machine::Ours, None);
        let value = value(&[line("fp", "y", 0.1, 2.0, 1.0), missing], "qemu", 1);
        assert_eq!(value["classes"][0]["speedup"], 2.0);
        assert_eq!(value["rows"][1]["speedup"], Value::Null);
    }
}
