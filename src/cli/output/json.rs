//! An answer as JSON: one line.

use std::io::{self, Write};

use serde::Serialize;

/// Writes `value` and a line end.
pub fn write(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    // The kind of an I/O error is kept: a closed pipe must be told from a full disk.
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_answer_is_a_line_and_a_closed_pipe_is_known() {
        let mut out = Vec::new();
        write(&mut out, &serde_json::json!({"version": 1})).unwrap();
        assert_eq!(out, b"{\"version\":1}\n");
        assert_eq!(write(&mut Closed, &1).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
