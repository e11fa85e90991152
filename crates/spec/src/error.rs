//! The one error type: a sentence that names the option, file or device, and its cause.

use std::fmt;

/// A failure that is the user's or the host's: one clear sentence, with the causes below it.
#[derive(Debug)]
pub struct Error {
    sentence: String,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(sentence: impl Into<String>) -> Self {
        Error { sentence: sentence.into(), cause: None }
    }

    pub fn caused(sentence: impl Into<String>, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Error { sentence: sentence.into(), cause: Some(cause.into()) }
    }

    /// The sentence without its causes.
    pub fn sentence(&self) -> &str {
        &self.sentence
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)?;
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<String> for Error {
    fn from(s: String) -> Self {
        Error::new(s)
    }
}

impl From<&str> for Error {
    fn from(s: &str) -> Self {
        Error::new(s)
    }
}

/// Puts a sentence in front of a lower-level error.
pub trait Context<T> {
    fn context(self, sentence: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn context(self, sentence: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::caused(sentence(), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_joins_sentence_and_cause() {
        let io = std::io::Error::new(std::io::ErrorKind::NotFound, "no such thing");
        let e = Error::caused("Could not open 'x'", io);
        assert_eq!(e.to_string(), "Could not open 'x': no such thing");
    }
}
