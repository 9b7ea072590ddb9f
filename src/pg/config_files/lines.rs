//! Lines of postgresql.conf, as `guc-file.l` reads them: a name, perhaps an equals sign, a value; `#` begins a comment.

use std::ops::Range;

/// A setting with its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Setting {
    /// In lower case: names are compared without regard to it.
    pub name: String,
    /// The value, unquoted.
    pub value: Vec<u8>,
    /// Where the value stands in the line, quotes included.
    pub at: Range<usize>,
}

/// The lines with their beginnings; each with its line end.
pub(super) fn lines(conf: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut start = 0;
    conf.split_inclusive(|b| *b == b'\n').map(move |line| {
        let at = start;
        start += line.len();
        (at, line)
    })
}

fn skip(line: &[u8], at: usize, what: impl Fn(&u8) -> bool) -> usize {
    line.get(at..).unwrap_or_default().iter().position(|b| !what(b)).map_or(line.len(), |n| at + n)
}

fn is_blank(b: &u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\r' | b'\n')
}

/// Of a line that sets something; `None` for comments, empty lines and what is no setting.
pub(super) fn setting(line: &[u8]) -> Option<Setting> {
    let start = skip(line, 0, is_blank);
    let letter = |b: &u8| b.is_ascii_alphabetic() || *b == b'_' || *b >= 0x80;
    line.get(start).filter(|b| letter(b))?;
    let end = skip(line, start, |b| letter(b) || b.is_ascii_digit() || matches!(b, b'$' | b'.'));
    let name = String::from_utf8_lossy(line.get(start..end)?).to_ascii_lowercase();
    let mut at = skip(line, end, is_blank);
    if line.get(at) == Some(&b'=') {
        at = skip(line, at + 1, is_blank);
    }
    let (value, until) = match line.get(at)? {
        b'#' => return None,
        b'\'' => quoted(line, at)?,
        _ => {
            let until = skip(line, at, |b| !is_blank(b) && *b != b'#');
            (line.get(at..until)?.to_vec(), until)
        }
    };
    Some(Setting { name, value, at: at..until })
}

/// A value in quotes that begins at `at`, and where it ends (`DeescapeQuotedString`).
fn quoted(line: &[u8], at: usize) -> Option<(Vec<u8>, usize)> {
    let mut value = Vec::new();
    let mut i = at + 1;
    loop {
        match (line.get(i)?, line.get(i + 1)) {
            (b'\'', Some(b'\'')) => {
                value.push(b'\'');
                i += 2;
            }
            (b'\'', _) => return Some((value, i + 1)),
            (b'\n', _) => return None,
            (b'\\', Some(next)) => {
                let digits = line.get(i + 1..)?.iter().take(3).take_while(|b| matches!(b, b'0'..=b'7')).count();
                if digits > 0 {
                    let octal = line.get(i + 1..i + 1 + digits)?.iter().fold(0u32, |n, b| n * 8 + u32::from(b - b'0'));
                    value.push(octal as u8);
                    i += 1 + digits;
                    continue;
                }
                value.push(match next {
                    b'b' => 8,
                    b'f' => 12,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    other => *other,
                });
                i += 2;
            }
            (byte, _) => {
                value.push(*byte);
                i += 1;
            }
        }
    }
}

/// The value that a file sets last.
pub fn last_setting(conf: &[u8], name: &str) -> Option<Vec<u8>> {
    lines(conf).filter_map(|(_, line)| setting(line)).filter(|s| s.name == name).last().map(|s| s.value)
}

/// The file with all lines commented out that set one of `names`.
pub fn without_settings(conf: &[u8], names: &[&str]) -> Vec<u8> {
    let mut out = Vec::with_capacity(conf.len());
    for (_, line) in lines(conf) {
        if setting(line).is_some_and(|s| names.contains(&s.name.as_str())) {
            out.extend_from_slice(b"# of the original: ");
        }
        out.extend_from_slice(line);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::recovery::quote_setting;
    use proptest::prelude::*;

    #[test]
    fn settings_are_read_as_the_server_reads_them() {
        for (line, name, value) in [
            ("hba_file = '/etc/x'", "hba_file", "/etc/x"),
            (" \tHBA_file '/etc/it''s \\'q\\'' # hm\n", "hba_file", "/etc/it's 'q'"),
            ("include_dir=conf.d\n", "include_dir", "conf.d"),
            ("include 'a\\101\\tb'", "include", "aA\tb"),
            ("port = 5432#x", "port", "5432"),
            ("a.b = on\r\n", "a.b", "on"),
            ("work_mem ''", "work_mem", ""),
        ] {
            let setting = setting(line.as_bytes()).unwrap_or_else(|| panic!("{line}"));
            assert_eq!((setting.name.as_str(), setting.value.as_slice()), (name, value.as_bytes()), "{line}");
        }
        for none in ["", "# a = 1", "a", "a =", "a = # 1", "a = 'x", "1a = 2", "= 3", "'x'"] {
            assert_eq!(setting(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn lines_are_commented_out_and_all_else_stays() {
        let conf = b"a = 1\n  HBA_FILE = '/etc/x'\r\n#hba_file = 'y'\nhba_files = 2\nident_file='z'";
        let expected =
            b"a = 1\n# of the original:   HBA_FILE = '/etc/x'\r\n#hba_file = 'y'\nhba_files = 2\n# of the original: ident_file='z'";
        assert_eq!(without_settings(conf, &["hba_file", "ident_file"]), expected);
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_read_back(value in "[^\\x00]*") {
            let mut line = b"include = ".to_vec();
            line.extend(quote_setting(value.as_bytes()).unwrap());
            let read = setting(&line).unwrap();
            prop_assert_eq!(read.value, value.as_bytes());
            prop_assert_eq!(read.at, 10..line.len());
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = setting(&bytes);
            let without = without_settings(&bytes, &["a"]);
            prop_assert!(without.len() >= bytes.len());
        }
    }
}
