//! `coverage SET`: how many rows there are, and which have no body.

use crate::sets::Set;
use spec::error::{Error, Result};

pub fn command(arguments: &[String]) -> Result<String> {
    let [name] = arguments else { return Err(Error::new("coverage takes one instruction set: a32, t32 or t16")) };
    let rows = Set::parse(name)?.rows();
    let missing: Vec<_> = rows.iter().filter(|r| r.handler.is_none()).collect();
    let mut text = format!("{name}: {} rows, {} built, {} not\n", rows.len(), rows.len() - missing.len(), missing.len());
    for row in missing {
        text += &format!("  {:<20} {} {}\n", row.name, row.text, row.doc.trim());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_has_rows() {
        for set in ["a32", "t32", "t16"] {
            let text = command(&[set.into()]).unwrap();
            let count: usize = text.split_whitespace().nth(1).unwrap().parse().unwrap();
            assert!(count > 50, "{text}");
        }
        assert!(command(&["z80".into()]).is_err());
    }
}
