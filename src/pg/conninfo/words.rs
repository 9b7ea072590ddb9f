//! `key = value` words (`conninfo_parse` in fe-connect.c).
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::iter::Peekable;
use std::str::Chars;

use zeroize::Zeroizing;

use super::ConninfoError;

/// Pairs in the order given; a later one of the same key wins.
pub(super) fn parse(text: &str) -> Result<Vec<(String, Zeroizing<String>)>, ConninfoError> {
    let total = text.chars().count();
    let mut rest = text.chars().peekable();
    let mut pairs = Vec::new();
    loop {
        skip_blanks(&mut rest);
        if rest.peek().is_none() {
            return Ok(pairs);
        }
        let mut key = String::new();
        while let Some(c) = rest.next_if(|c| *c != '=' && !is_blank(*c)) {
            key.push(c);
        }
        let at = total - rest.clone().count();
        skip_blanks(&mut rest);
        if rest.next_if_eq(&'=').is_none() {
            return Err(ConninfoError::NoEquals { at });
        }
        skip_blanks(&mut rest);
        pairs.push((key, value(&mut rest)?));
    }
}

/// Up to a blank, or in single quotes; a backslash takes the next character as it is.
fn value(rest: &mut Peekable<Chars<'_>>) -> Result<Zeroizing<String>, ConninfoError> {
    let mut value = Zeroizing::new(String::new());
    let quoted = rest.next_if_eq(&'\'').is_some();
    loop {
        match rest.peek().copied() {
            None if quoted => return Err(ConninfoError::UnclosedQuote),
            None => return Ok(value),
            Some('\'') if quoted => {
                rest.next();
                return Ok(value);
            }
            Some(c) if !quoted && is_blank(c) => return Ok(value),
            Some('\\') => {
                rest.next();
                value.extend(rest.next());
            }
            Some(c) => {
                rest.next();
                value.push(c);
            }
        }
    }
}

fn skip_blanks(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|c| is_blank(*c)).is_some() {}
}

/// C's isspace.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}
