//! Lists as option values have them: `one,two=a,,b` are `one` and `two=a,b`.

/// Splits at commas; a doubled comma is a comma in the text. There is always one part at least.
pub fn split(text: &str) -> Vec<String> {
    let (mut parts, mut part) = (Vec::new(), String::new());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != ',' || chars.next_if_eq(&',').is_some() {
            part.push(c);
        } else {
            parts.push(std::mem::take(&mut part));
        }
    }
    parts.push(part);
    parts
}

/// A part that is to stand in such a list.
pub fn doubled(part: &str) -> String {
    part.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubled_commas_are_text() {
        let cases: [(&str, &[&str]); 6] = [
            ("", &[""]),
            ("a", &["a"]),
            ("a,b=,", &["a", "b=", ""]),
            ("a,,b,c", &["a,b", "c"]),
            (",,,", &[",", ""]),
            (",,,,", &[",,"]),
        ];
        for (text, parts) in cases {
            assert_eq!(split(text), parts, "{text}");
            let again: Vec<String> = parts.iter().map(|p| doubled(p)).collect();
            assert_eq!(again.join(","), text);
        }
    }
}
