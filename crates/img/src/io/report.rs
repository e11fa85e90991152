//! Numbers as `qemu-io` prints them, and the arguments it takes.
//!
//! Reference: recorded output of `qemu-io` 10.0.2.

use std::time::Duration;

/// `4 KiB`, `278.178 MiB`, `512 bytes`.
pub fn amount(value: f64) -> String {
    const UNITS: [&str; 6] = ["EiB", "PiB", "TiB", "GiB", "MiB", "KiB"];
    for (i, unit) in UNITS.iter().enumerate() {
        let scale = (1u64 << (60 - 10 * i)) as f64;
        if value >= scale {
            return format!("{} {unit}", trimmed(value / scale));
        }
    }
    format!("{} bytes", trimmed(value))
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.strip_suffix(".000").map_or(text.clone(), str::to_owned)
}

/// `00.00 sec`, or hours and minutes when there are any.
fn clock(t: Duration) -> String {
    let s = t.as_secs();
    let hundredths = t.subsec_millis() / 10;
    match s / 60 {
        0 => format!("{s:02}.{hundredths:02} sec"),
        _ => format!("{}:{:02}:{:02}.{hundredths:02}", s / 3600, s / 60 % 60, s % 60),
    }
}

/// The two lines about a request.
pub fn print(op: &str, took: Duration, offset: u64, asked: u64, total: u64, requests: u32, machine: bool) {
    let seconds = took.as_secs_f64().max(1e-9);
    let (rate, ops) = (total as f64 / seconds, requests as f64 / seconds);
    if machine {
        let s = took.as_secs();
        println!(
            "{total},{requests},{}:{:02}:{:02}.{:02},{rate:.3},{ops:.3}",
            s / 3600,
            s / 60 % 60,
            s % 60,
            took.subsec_millis() / 10
        );
        return;
    }
    // Both at once: several requests may end at the same time.
    println!(
        "{op} {total}/{asked} bytes at offset {offset}\n{}, {requests} ops; {} ({}/sec and {ops:.4} ops/sec)",
        amount(total as f64),
        clock(took),
        amount(rate)
    );
}

/// Rows of 16 bytes in hexadecimal and as text.
pub fn dump(buf: &[u8], offset: u64) {
    let mut out = String::new();
    for (i, row) in buf.chunks(16).enumerate() {
        out += &format!("{:08x}:  ", offset + i as u64 * 16);
        row.iter().for_each(|b| out += &format!("{b:02x} "));
        out.push(' ');
        out.extend(row.iter().map(|b| if b.is_ascii_graphic() { *b as char } else { '.' }));
        out.push('\n');
    }
    print!("{out}");
}

/// Parses an offset or length argument; prints what is wrong with it.
pub fn number(text: &str) -> Option<u64> {
    match disk::size::parse(text, 0) {
        Ok(v) if v <= i64::MAX as u64 => Some(v),
        Ok(_) | Err(disk::size::SizeError::Range) => {
            println!("Parsing error: argument too large -- {text}");
            None
        }
        Err(_) => {
            println!("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- {text}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_look_like_the_reference() {
        assert_eq!(amount(512.0), "512 bytes");
        assert_eq!(amount(4096.0), "4 KiB");
        assert_eq!(amount(8.5 * 1048576.0), "8.500 MiB");
        assert_eq!(amount(0.0), "0 bytes");
    }
}
