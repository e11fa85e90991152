//! Sizes as users write and read them: `10G`, `1.5 MiB`.
//!
//! Reference: recorded output of `qemu-img` 10.0.2.

/// Why a size was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SizeError {
    /// Not a number with one of the known suffixes.
    Syntax,
    /// A number below zero or of 2^63 or more.
    Range,
}

fn suffix_shift(c: char) -> Option<u32> {
    Some(match c.to_ascii_lowercase() {
        'b' => 0,
        'k' => 10,
        'm' => 20,
        'g' => 30,
        't' => 40,
        'p' => 50,
        'e' => 60,
        _ => return None,
    })
}

/// Parses `123`, `0x10`, `64k`, `1.5G`; a number without suffix is multiplied by 1 << `default_shift`.
pub fn parse(text: &str, default_shift: u32) -> Result<u64, SizeError> {
    let text = text.trim_start();
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        // Hexadecimal digits include suffix letters, so no suffix is possible there.
        let n = u64::from_str_radix(hex, 16).map_err(|_| SizeError::Syntax)?;
        return n.checked_shl(default_shift).filter(|v| v >> default_shift == n).ok_or(SizeError::Range);
    }
    if text.starts_with('-') {
        return Err(if text[1..].starts_with(|c: char| c.is_ascii_digit()) { SizeError::Range } else { SizeError::Syntax });
    }
    let digits = text.strip_prefix('+').unwrap_or(text);
    let int_len = digits.bytes().take_while(u8::is_ascii_digit).count();
    if int_len == 0 {
        return Err(SizeError::Syntax);
    }
    let (int, rest) = digits.split_at(int_len);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(r) => {
            let n = r.bytes().take_while(u8::is_ascii_digit).count();
            (Some(&r[..n]), &r[n..])
        }
        None => (None, rest),
    };
    let mut chars = rest.chars();
    let shift = match chars.next() {
        None => default_shift,
        Some(c) => suffix_shift(c).ok_or(SizeError::Syntax)?,
    };
    if chars.next().is_some() {
        return Err(SizeError::Syntax);
    }
    let whole: u64 = int.parse().map_err(|_| SizeError::Range)?;
    let mut value = (whole as u128) << shift;
    if let Some(f) = fraction {
        if shift == 0 && f.bytes().any(|b| b != b'0') {
            return Err(SizeError::Syntax);
        }
        let part: f64 = format!("0.{f}0").parse().map_err(|_| SizeError::Syntax)?;
        value += (part * (1u128 << shift) as f64) as u128;
    }
    u64::try_from(value).map_err(|_| SizeError::Range)
}

/// `196 KiB`, `1.27 MiB`: three significant digits and a binary unit.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    // The unit changes at 1000 of the smaller one so that three digits are always enough.
    let mut unit = 0;
    while unit < 6 && bytes as f64 / (1u64 << (10 * unit)) as f64 >= 1000.0 {
        unit += 1;
    }
    let value = bytes as f64 / (1u64 << (10 * unit)) as f64;
    format!("{} {}", three_digits(value), UNITS[unit])
}

/// A number the way C's `%0.3g` prints it (for values below 1000).
pub fn three_digits(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let exponent = value.abs().log10().floor() as i32;
    let mut text = format!("{:.*}", (2 - exponent).max(0) as usize, value);
    // Rounding may have carried into one more digit (9.999 -> 10.00).
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    if digits > 3 && value.abs() >= 1.0 && text.contains('.') {
        text = format!("{:.*}", (1 - exponent).max(0) as usize, value);
    }
    if text.contains('.') {
        text = text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_as_qemu_does() {
        assert_eq!(parse("10G", 0), Ok(10 << 30));
        assert_eq!(parse("1.5k", 0), Ok(1536));
        assert_eq!(parse("0x200", 0), Ok(512));
        assert_eq!(parse("1Q", 0), Err(SizeError::Syntax));
        assert_eq!(parse("-1", 0), Err(SizeError::Range));
        assert_eq!(parse("b", 0), Err(SizeError::Syntax));
        assert_eq!(parse("7E", 0), Ok(7 << 60));
        assert_eq!(parse("99E", 0), Err(SizeError::Range));
        assert_eq!(parse("1", 20), Ok(1 << 20));
    }

    #[test]
    fn sizes_print_as_qemu_does() {
        assert_eq!(human(0), "0 B");
        assert_eq!(human(512), "512 B");
        assert_eq!(human(200704), "196 KiB");
        assert_eq!(human(1335296), "1.27 MiB");
        assert_eq!(human(1573376), "1.5 MiB");
        assert_eq!(human(1 << 30), "1 GiB");
        assert_eq!(human(10 << 30), "10 GiB");
        assert_eq!(human(999), "999 B");
        assert_eq!(human(1023), "0.999 KiB");
    }
}
