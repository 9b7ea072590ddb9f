//! Lines of postgresql.conf.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// The lines that make a server archive by this command.
pub(super) fn archiving(command: &OsStr) -> [String; 3] {
    ["wal_level = replica".into(), "archive_mode = on".into(), format!("archive_command = {}", quoted(command))]
}

/// A text in quotes, as `GUC_scanstr` reads it (utils/misc/guc-file.l): quotes doubled, backslashes and control
/// characters escaped; bytes that are no UTF-8 in octal, so that the line is text whatever a path holds.
pub(super) fn quoted(command: &OsStr) -> String {
    let mut text = String::from("'");
    for chunk in command.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\'' => text.push_str("''"),
                '\\' => text.push_str(r"\\"),
                '\n' => text.push_str(r"\n"),
                c if c.is_ascii_control() => text.push_str(&format!("\\{:03o}", u32::from(c))),
                c => text.push(c),
            }
        }
        chunk.invalid().iter().for_each(|b| text.push_str(&format!("\\{b:03o}")));
    }
    text.push('\'');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_for_the_file() {
        for (command, expected) in [
            (b"pgcairn archive-push %p".as_slice(), "'pgcairn archive-push %p'"),
            (br"p 'it'\''s' %p", r"'p ''it''\\''''s'' %p'"),
            ("/größe".as_bytes(), "'/größe'"),
            (b"a\nb\tc\xff", r"'a\nb\011c\377'"),
        ] {
            assert_eq!(quoted(OsStr::from_bytes(command)), expected);
        }
    }
}
