//! Looks on while a session logs in: a way that `require_auth` doesn't allow is refused before an answer is sent to it.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use crate::pg::conninfo::{AuthMethod, RequireAuth};

/// A way to log in that isn't allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server asks for authentication by {asked}, and require_auth={allowed} does not allow that")]
pub(super) struct Forbidden {
    /// What the server asks for.
    pub asked: String,
    /// `require_auth`.
    pub allowed: String,
}

/// Follows the server's messages up to its first request for authentication: type, length, and the request's code
/// ("Frontend/Backend Protocol: Message Formats").
pub(super) struct Guard {
    require: Option<RequireAuth>,
    head: Vec<u8>,
    skip: usize,
}

impl Guard {
    pub fn new(require: Option<RequireAuth>) -> Guard {
        Guard { require, head: Vec::new(), skip: 0 }
    }

    /// Sees the next bytes from the server.
    pub fn see(&mut self, mut bytes: &[u8]) -> Result<(), Forbidden> {
        while let Some(require) = &self.require {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let Some((first, rest)) = bytes.split_first() else { return Ok(()) };
            self.head.push(*first);
            bytes = rest;
            match self.head.as_slice() {
                [b'R', _, _, _, _, code @ ..] => {
                    let Ok(code) = <[u8; 4]>::try_from(code) else { continue };
                    let method = method_of(u32::from_be_bytes(code));
                    if method.is_some_and(|method| require.allows(method)) {
                        self.require = None;
                        return Ok(());
                    }
                    let asked = method.map_or_else(|| "a method that is not known".to_owned(), |method| method.to_string());
                    return Err(Forbidden { asked, allowed: require.to_string() });
                }
                [kind, length @ ..] if *kind != b'R' => {
                    if let Ok(length) = <[u8; 4]>::try_from(length) {
                        self.skip = (u32::from_be_bytes(length) as usize).saturating_sub(4);
                        self.head.clear();
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// AuthenticationOk at once is no authentication; SASL is SCRAM, as nothing else of it is spoken here.
fn method_of(code: u32) -> Option<AuthMethod> {
    match code {
        0 => Some(AuthMethod::None),
        3 => Some(AuthMethod::Password),
        5 => Some(AuthMethod::Md5),
        7 => Some(AuthMethod::Gss),
        9 => Some(AuthMethod::Sspi),
        10 => Some(AuthMethod::Scram),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::conninfo::{Conninfo, Surroundings};

    fn guard(text: &str) -> Guard {
        let around = Surroundings { user: Some("u".into()), ..Surroundings::default() };
        Guard::new(Conninfo::parse(&format!("require_auth='{text}'"), &around).unwrap().require_auth)
    }

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut all = vec![kind];
        all.extend((body.len() as u32 + 4).to_be_bytes());
        all.extend(body);
        all
    }

    #[test]
    fn a_request_is_judged_however_it_is_cut() {
        let mut stream = message(b'N', b"a notice R\0\0\0\x08\0\0\0\x03");
        stream.extend(message(b'v', &[]));
        stream.extend(message(b'R', &[0, 0, 0, 10, b'S', 0]));
        // Data of the session may look like anything.
        stream.extend(message(b'R', &[0, 0, 0, 3]));
        for (require, allowed) in [
            ("scram-sha-256", true),
            ("none, scram-sha-256", true),
            ("!password,!md5", true),
            ("password", false),
            ("!scram-sha-256", false),
            ("none", false),
        ] {
            for cut in 1..stream.len() {
                let mut guard = guard(require);
                let seen = stream.chunks(cut).try_for_each(|bytes| guard.see(bytes));
                assert_eq!(seen.is_ok(), allowed, "{require} {cut}");
            }
        }
    }

    #[test]
    fn methods_are_told_apart() {
        for (code, require) in [(0, "none"), (3, "password"), (5, "md5"), (7, "gss"), (9, "sspi"), (10, "scram-sha-256")] {
            let request = message(b'R', &[0, 0, 0, code]);
            guard(require).see(&request).unwrap();
            let refused = guard(&format!("!{require}")).see(&request).unwrap_err();
            assert_eq!(refused.asked, require);
        }
        let odd = message(b'R', &[0, 0, 0, 99]);
        assert!(guard("!none").see(&odd).is_err());
        assert_eq!(guard("!none").see(b"R\0\0\0\0\0"), Ok(()));
    }
}
