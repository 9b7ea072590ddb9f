//! Lines of `check` and `status`.

use std::io::{self, Write};

use crate::health::Line;

/// For people: state, name, text, and beneath it the cure.
pub(in crate::cli) fn write(out: &mut dyn Write, lines: &[Line]) -> io::Result<()> {
    let name = |line: &Line| match &line.cluster {
        Some(cluster) => format!("{cluster}: {}", line.name),
        None => line.name.to_owned(),
    };
    let width = lines.iter().map(|line| name(line).chars().count()).max().unwrap_or(0);
    for line in lines {
        writeln!(out, "{:7}  {:width$}  {}", line.state.word(), name(line), plain(&line.text))?;
        if let Some(cure) = &line.cure {
            writeln!(out, "{:7}  {:width$}    -> {}", "", "", plain(cure))?;
        }
    }
    Ok(())
}

/// Without what would end a line, move a terminal's cursor, or begin Nagios's performance data.
pub(in crate::cli) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || c == '|' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cure_stands_beneath_its_line() {
        let mut out = Vec::new();
        let lines = [Line::ok("clock", "clocks agree"), Line::error("backup", "old\u{1b}[2J", "run it").of("shop")];
        write(&mut out, &lines).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "ok       clock         clocks agree\nERROR    shop: backup  old [2J\n                         -> run it\n");
    }
}
