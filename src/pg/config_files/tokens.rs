//! Words of pg_hba.conf and its like, as `next_token` of `hba.c` takes them: blanks part columns, commas part words,
//! double quotes keep both (and, doubled, stand for one), `#` begins a comment.

use std::ops::Range;

/// A word of a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Token {
    /// Without its quotes.
    pub text: Vec<u8>,
    /// Where it stands in the line, quotes included.
    pub at: Range<usize>,
    /// It began with a quote: then it is no keyword, and `@` means nothing.
    pub quoted: bool,
    /// A column begins with it.
    pub begins_column: bool,
}

fn is_blank(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\r' | b'\n')
}

/// The words of a line.
pub(super) fn tokens(line: &[u8]) -> Vec<Token> {
    let mut all: Vec<Token> = Vec::new();
    let (mut i, mut comma) = (0, false);
    while let Some(byte) = line.get(i) {
        match byte {
            b'#' => break,
            b',' => {
                comma = true;
                i += 1;
            }
            b if is_blank(*b) => i += 1,
            _ => {
                let (text, end, quoted) = token(line, i);
                all.push(Token { text, at: i..end, quoted, begins_column: !comma });
                // A comma right behind it continues the column.
                comma = false;
                i = end;
            }
        }
    }
    all
}

fn token(line: &[u8], start: usize) -> (Vec<u8>, usize, bool) {
    let mut text = Vec::new();
    let (mut in_quotes, mut was_quote, mut quoted) = (false, false, false);
    let mut i = start;
    while let Some(byte) = line.get(i).copied() {
        if !in_quotes && (is_blank(byte) || byte == b',' || byte == b'#') || byte == b'\n' {
            break;
        }
        if byte != b'"' || was_quote {
            text.push(byte);
        }
        was_quote = in_quotes && byte == b'"' && !was_quote;
        if byte == b'"' {
            in_quotes = !in_quotes;
            quoted |= text.is_empty();
        }
        i += 1;
    }
    (text, i, quoted)
}

/// A path as one word.
pub(super) fn quote(path: &[u8]) -> Vec<u8> {
    let mut out = vec![b'"'];
    for byte in path {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_taken_as_the_server_takes_them() {
        let words = |line: &str| -> Vec<(String, bool, bool)> {
            let all = tokens(line.as_bytes());
            all.into_iter().map(|t| (String::from_utf8(t.text).unwrap(), t.quoted, t.begins_column)).collect()
        };
        let plain = |text: &str, column| (text.to_owned(), false, column);
        let expected = [plain("local", true), plain("a", true), plain("b", false), plain("all", true), plain("peer", true)];
        assert_eq!(words("local\ta,b  all peer # x\n"), expected);
        assert_eq!(words("\"all\" @\"my file\""), [("all".into(), true, true), plain("@my file", true)]);
        assert_eq!(words("\"a\"\"b,c d\""), [("a\"b,c d".into(), true, true)]);
        assert_eq!(words("# nothing"), []);
        assert_eq!(words("x#y"), [plain("x", true)]);
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_one_word(path in "[^\\x00\\n]+") {
            let all = tokens(&quote(path.as_bytes()));
            prop_assert_eq!(all.len(), 1);
            prop_assert_eq!(&all[0].text, path.as_bytes());
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            for token in tokens(&bytes) {
                prop_assert!(token.at.start < token.at.end && token.at.end <= bytes.len());
            }
        }
    }
}
