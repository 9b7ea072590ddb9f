//! Paths within a snapshot, as they are shown and as users type them back.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// A path for people, to be copied: bytes that are no UTF-8, and control characters, as `\xNN`; a backslash only where
/// it would otherwise be taken for one of these.
pub fn show_path(path: &[u8]) -> String {
    let mut shown = String::with_capacity(path.len());
    let mut at = 0;
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            let rest = path.get(at..).unwrap_or_default();
            if c.is_control() || c == '\\' && escaped(rest).is_some() {
                let mut buffer = [0; 4];
                c.encode_utf8(&mut buffer).bytes().for_each(|b| shown.push_str(&format!("\\x{b:02x}")));
            } else {
                shown.push(c);
            }
            at += c.len_utf8();
        }
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
            at += 1;
        }
    }
    shown
}

/// A path as a user gives it: `\xNN` is that byte, slashes before and behind it, and `./`, are of no matter.
pub fn parse_path(text: &OsStr) -> Vec<u8> {
    let text = text.as_bytes();
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        if let Some(byte) = escaped(rest) {
            path.push(byte);
            rest = rest.get(4..).unwrap_or_default();
        } else {
            path.push(*first);
            rest = behind;
        }
    }
    let names: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
    names.join(b"/".as_slice())
}

/// The byte of a `\xNN` that stands here.
fn escaped(text: &[u8]) -> Option<u8> {
    let [b'\\', b'x', high, low, ..] = text else { return None };
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_shown_to_be_copied() {
        for (path, shown) in [
            (b"base/5/1259".as_slice(), "base/5/1259"),
            (b"a\xff/\xc3\xa9", "a\\xff/\u{e9}"),
            (b"a\nb\x1b[2J", "a\\x0ab\\x1b[2J"),
            (b"a\\b", "a\\b"),
            (b"a\\x41", "a\\x5cx41"),
            (b"a\xc2\x9b", "a\\xc2\\x9b"),
        ] {
            assert_eq!(show_path(path), shown);
            assert_eq!(parse_path(OsStr::new(shown)), path);
        }
        for (text, path) in [("/", ""), (".", ""), ("./base/", "base"), ("/base//5", "base/5"), ("\\x4", "\\x4"), ("", "")] {
            assert_eq!(parse_path(OsStr::new(text)), path.as_bytes(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(names in prop::collection::vec(prop::collection::vec(1u8.., 1..12), 1..4)) {
            let fine = |name: &Vec<u8>| !name.contains(&b'/') && name != b".";
            prop_assume!(names.iter().all(fine));
            let path = names.join(b"/".as_slice());
            let shown = show_path(&path);
            prop_assert_eq!(parse_path(OsStr::new(&shown)), path);
            prop_assert!(!shown.chars().any(char::is_control));
        }

        #[test]
        fn backslashes_are_told_apart(text in r"(\\|x|4|1|a){0,12}") {
            let shown = show_path(text.as_bytes());
            prop_assert_eq!(parse_path(OsStr::new(&shown)), text.as_bytes());
        }
    }
}
