//! Ways in which a server may ask who one is (`require_auth`).
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::fmt;

use super::ConninfoError;

/// One way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// It doesn't ask (trust, peer, a client certificate).
    None,
    /// The password itself.
    Password,
    /// Its MD5 hash.
    Md5,
    /// SCRAM-SHA-256.
    Scram,
    /// GSSAPI.
    Gss,
    /// SSPI.
    Sspi,
    /// OAuth.
    Oauth,
}

use AuthMethod as M;

const ALL: [(&str, AuthMethod); 7] = [
    ("none", M::None),
    ("password", M::Password),
    ("md5", M::Md5),
    ("scram-sha-256", M::Scram),
    ("gss", M::Gss),
    ("sspi", M::Sspi),
    ("oauth", M::Oauth),
];

impl fmt::Display for AuthMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = ALL.iter().find(|(_, method)| method == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// The ways that are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequireAuth {
    /// As given.
    text: String,
    allowed: Vec<AuthMethod>,
}

impl RequireAuth {
    /// Reads `scram-sha-256,none` or `!password,!md5`.
    pub(super) fn parse(text: &str) -> Result<RequireAuth, ConninfoError> {
        let bad = |expected| ConninfoError::BadValue { keyword: "require_auth", value: text.to_owned(), expected };
        let (mut named, mut negated) = (Vec::new(), 0);
        for word in text.split(',').map(str::trim) {
            let (word, not) = word.strip_prefix('!').map_or((word, 0), |word| (word, 1));
            let (_, method) = ALL
                .iter()
                .find(|(name, _)| *name == word)
                .ok_or_else(|| bad("a list of password, md5, gss, sspi, scram-sha-256, oauth and none"))?;
            if named.contains(method) {
                return Err(bad("each method once"));
            }
            named.push(*method);
            negated += not;
        }
        let allowed = match negated {
            0 => named,
            n if n == named.len() => ALL.iter().map(|(_, method)| *method).filter(|method| !named.contains(method)).collect(),
            _ => return Err(bad("methods that are all with \"!\" or all without")),
        };
        Ok(RequireAuth { text: text.to_owned(), allowed })
    }

    /// Is this one accepted?
    pub fn allows(&self, method: AuthMethod) -> bool {
        self.allowed.contains(&method)
    }
}

impl fmt::Display for RequireAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
