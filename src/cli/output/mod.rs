//! What users see: stdout is the answer, stderr is progress and log.
//!
//! In come values of the library, out go lines. Everything writes to a `Write` that is passed in; nothing here decides
//! what is done.
//!
//! - `error.rs`: an error in three lines or as JSON, and its exit code
//! - `health.rs`: lines of `check` and `status`
//! - `json.rs`: an answer as JSON · `table.rs`: aligned columns
//! - `progress.rs`: bars on a terminal, a line every 30 s elsewhere; messages
//! - `requests.rs`: what a run has asked of a store that counts
//! - `snapshot.rs`: a snapshot as JSON and in words

pub mod error;
pub mod health;
pub mod json;
pub mod progress;
pub mod requests;
pub mod snapshot;
pub mod table;

use std::borrow::Cow;
use std::io;

use crate::units::{Class, Explain};

/// The answer couldn't be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the answer")]
pub struct OutputError(#[source] io::Error);

impl Explain for OutputError {
    fn class(&self) -> Class {
        Class::Failed
    }
}

/// A reader that has seen enough (`| head`) is no error; a full disk is.
pub fn answered(result: io::Result<()>) -> Result<(), OutputError> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(OutputError),
    }
}

/// The text in one line, without control characters: names come from repositories and servers, and must not be able to
/// steer the terminal.
pub fn one_line(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.trim_end().chars() {
        match c {
            '\n' | '\t' => out.push(' '),
            '\r' => {}
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(one_line("plain é"), "plain é");
        assert_eq!(one_line("a\r\nb\t\u{1b}[2J\u{9b}x\n"), "a b \\x1b[2J\\x9bx");
    }

    #[test]
    fn a_closed_pipe_ends_quietly() {
        assert!(answered(Ok(())).is_ok());
        assert!(answered(Err(io::ErrorKind::BrokenPipe.into())).is_ok());
        assert!(answered(Err(io::ErrorKind::StorageFull.into())).is_err());
    }
}
