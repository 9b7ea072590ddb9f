//! Secrets as texts: key files, and the whole root for the safe.
//!
//! ```text
//! pgcairn-key-1:<64 hex digits>
//! pgcairn-root-1:<hex digits of the root as in a slot, and of the first 8 bytes of its BLAKE3 hash>
//! ```
//! In the root's text white space doesn't count, nor do lines that begin with `#`: it can be printed and typed.

use zeroize::Zeroizing;

use super::keys::{ContentSecret, MOST_FORMER, Root};
use super::sign::SigningKey;
use super::{CryptError, Secret, seal};
use crate::units::ids::{hex, unhex};
use crate::units::{DomainId, RepositoryId};

/// Bytes of a root with one content secret; each former one has 32 more.
pub const ROOT: usize = 224;
const KEY_PREFIX: &str = "pgcairn-key-1:";
const ROOT_PREFIX: &str = "pgcairn-root-1:";
const CHECK: usize = 8;

/// The text of a key file: one line, `pgcairn-key-1:` and 64 hex digits.
pub fn key_file_text(secret: &Secret) -> Zeroizing<String> {
    Zeroizing::new(format!("{KEY_PREFIX}{}\n", hex(secret.expose())))
}

/// Reads the text of a key file.
///
/// # Errors
/// If it is none.
pub fn parse_key_file(text: &str) -> Result<Secret, CryptError> {
    let malformed = CryptError::Malformed { what: "the key file", why: "a line \"pgcairn-key-1:\" with 64 hex digits is expected" };
    let digits = text.trim_end_matches(['\r', '\n']).strip_prefix(KEY_PREFIX);
    let bytes = digits.and_then(unhex).map(Zeroizing::new);
    bytes.and_then(|b| <[u8; 32]>::try_from(b.as_slice()).ok()).map(Secret::new).ok_or(malformed)
}

/// Is this the text of a root, rather than of a key file?
pub fn is_root_text(text: &str) -> bool {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    first.and_then(|line| line.get(..ROOT_PREFIX.len())).is_some_and(|start| start.eq_ignore_ascii_case(ROOT_PREFIX))
}

/// The root as a text to be printed and kept: 64 digits a line, an upper bound of 5 KiB.
pub fn root_text(root: &Root) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(ROOT + 32 * MOST_FORMER + CHECK));
    encode_root_into(root, &mut bytes);
    let check = blake3::hash(&bytes);
    bytes.extend_from_slice(check.as_bytes().first_chunk::<CHECK>().map_or(&[], |c| c.as_slice()));
    // Reserved whole: growing would leave copies of secrets behind.
    let mut text = Zeroizing::new(String::with_capacity(bytes.len() * 2 + bytes.len() / 16 + 256));
    text.push_str("# pgcairn: all keys of repository ");
    text.push_str(&root.repository.to_string());
    text.push_str(". Whoever has this text reads everything.\n");
    text.push_str(ROOT_PREFIX);
    text.push('\n');
    for line in bytes.chunks(32) {
        text.push_str(&Zeroizing::new(hex(line)));
        text.push('\n');
    }
    text
}

/// Reads the text of a root.
///
/// # Errors
/// If it is none, or something was left out or mistyped.
pub fn parse_root_text(text: &str) -> Result<Root, CryptError> {
    let malformed = |why| CryptError::Malformed { what: "the text with the repository's keys", why };
    let mut digits = Zeroizing::new(String::with_capacity(text.len()));
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines.flat_map(|line| line.chars()).filter(|c| !c.is_whitespace()).for_each(|c| digits.push(c.to_ascii_lowercase()));
    let digits = digits.strip_prefix(ROOT_PREFIX).ok_or(malformed("it does not begin with \"pgcairn-root-1:\""))?;
    let bytes = Zeroizing::new(unhex(digits).ok_or(malformed("after \"pgcairn-root-1:\" only pairs of hex digits are expected"))?);
    let (root, check) =
        bytes.len().checked_sub(CHECK).and_then(|at| bytes.split_at_checked(at)).ok_or(malformed("it is too short: a part is missing"))?;
    if blake3::hash(root).as_bytes().get(..CHECK) != Some(check) {
        return Err(malformed("its check digits are wrong: a digit was mistyped, or a part is missing"));
    }
    decode_root(root)
}

/// The bytes of a root, with room for a tag behind them.
pub(super) fn encode_root(root: &Root) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ROOT + 32 * root.former.len() + seal::TAG);
    encode_root_into(root, &mut bytes);
    bytes
}

fn encode_root_into(root: &Root, bytes: &mut Vec<u8>) {
    for part in [
        root.repository.0.as_slice(),
        &root.domain.0,
        root.owner.seed().as_slice(),
        root.content.expose(),
        root.id_key.expose(),
        root.table_key.expose(),
        root.owner_public().as_bytes(),
        &root.content.public().0,
    ] {
        bytes.extend_from_slice(part);
    }
    root.former.iter().for_each(|former| bytes.extend_from_slice(former.expose()));
}

pub(super) fn decode_root(bytes: &[u8]) -> Result<Root, CryptError> {
    let malformed = |why| CryptError::Malformed { what: "the root in a key slot", why };
    let (ids, keys) = bytes.split_at_checked(32).ok_or(malformed("too short"))?;
    let (keys, rest) = keys.as_chunks::<32>();
    let ([owner, content, id_key, table_key, owner_public, content_public, former @ ..], []) = (keys, rest) else {
        return Err(malformed("wrong length"));
    };
    if former.len() > MOST_FORMER {
        return Err(malformed("too many former keys"));
    }
    let id = |range: std::ops::Range<usize>| ids.get(range).and_then(|b| <[u8; 16]>::try_from(b).ok()).ok_or(malformed("too short"));
    let root = Root {
        repository: RepositoryId(id(0..16)?),
        domain: DomainId(id(16..32)?),
        owner: SigningKey::from_seed(owner),
        content: ContentSecret::new(Secret::new(*content))?,
        former: former.iter().map(|former| ContentSecret::new(Secret::new(*former))).collect::<Result<_, _>>()?,
        id_key: Secret::new(*id_key),
        table_key: Secret::new(*table_key),
    };
    if root.owner_public().as_bytes() != owner_public || root.content.public().0 != *content_public {
        return Err(malformed("its secret and public halves don't match"));
    }
    Ok(root)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn key_files_are_text() {
        let secret = Secret::new([0xab; 32]);
        let text = key_file_text(&secret);
        assert_eq!(parse_key_file(&text).unwrap().expose(), secret.expose());
        assert!(parse_key_file("pgcairn-key-1:00").is_err() && parse_key_file("").is_err() && !is_root_text(&text));
    }

    #[test]
    fn the_root_can_be_printed_and_typed() {
        let root = Root::random().unwrap().rotated().unwrap().rotated().unwrap();
        let text = root_text(&root);
        assert!(is_root_text(&text) && text.lines().all(|line| line.len() <= 120), "{}", text.len());
        let typed = format!("\n  # from the safe\r\n{}\n\n", text.to_uppercase().replace("PGCAIRN-ROOT-1:\n", "pgcairn-root-1: "));
        for text in [text.as_str(), typed.as_str()] {
            let read = parse_root_text(text).unwrap();
            assert_eq!(encode_root(&read), encode_root(&root));
        }
        let digits = text.rfind(['7', '3']).unwrap();
        let mistyped = format!("{}8{}", &text[..digits], &text[digits + 1..]);
        assert!(parse_root_text(&mistyped).unwrap_err().to_string().contains("check digits"));
        let cut: Vec<&str> = text.lines().enumerate().filter(|(n, _)| *n != 4).map(|(_, line)| line).collect();
        assert!(parse_root_text(&cut.join("\n")).is_err());
        for bad in ["", "pgcairn-root-1:", "pgcairn-root-1:00", "pgcairn-key-1:00", "pgcairn-root-1:zz"] {
            assert!(parse_root_text(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(pgcairn-root-1:)?[0-9a-f #\n]{0,700}") {
            let _ = (parse_root_text(&text).is_ok(), parse_key_file(&text).is_ok(), is_root_text(&text));
        }

        #[test]
        fn roots_are_read_as_they_are_written(rotations in 0usize..5) {
            let mut root = Root::random().unwrap();
            for _ in 0..rotations {
                root = root.rotated().unwrap();
            }
            let bytes = encode_root(&root);
            prop_assert_eq!(bytes.len(), ROOT + 32 * rotations);
            prop_assert_eq!(encode_root(&decode_root(&bytes).unwrap()), bytes);
        }
    }
}
