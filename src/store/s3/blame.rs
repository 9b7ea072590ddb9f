//! What failed before the service was reached: whose fault it is, in words for users. The client tells it by texts alone.

use std::io;

use super::attempt::{Refusal, Trouble};
use crate::store::StoreError;

/// A proxy's 407, to a tunnel or to a plain request.
pub(super) fn login_of_proxy(what: &str) -> StoreError {
    let said = "the proxy demands a login (407): HTTPS_PROXY or HTTP_PROXY takes it as http://USER:PASSWORD@HOST:PORT";
    StoreError::Unreachable { what: what.to_owned(), source: io::Error::other(said) }
}

/// Why no connection could be made: if there is a proxy, it may be the proxy that isn't there.
pub(super) fn with_proxy(why: String, is_set: impl Fn(&str) -> bool) -> String {
    const ALL: [&str; 6] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    let set: Vec<&str> = ALL.into_iter().filter(|name| is_set(name)).collect();
    if set.is_empty() || !why.contains("(Connect)") {
        return why;
    }
    format!("{why} (by the proxy of {}, unless NO_PROXY excepts this address)", set.join(", "))
}

/// Is it what the client says where there are no credentials?
pub(super) fn is_of_credentials(text: &str) -> bool {
    text.contains("credential") || text.contains("identity resolver")
}

/// No credentials could be had: those that a service hands out may be there the next time; those that nobody has set may not.
pub(super) fn without_credentials(text: String, what: &str) -> Trouble {
    // The client's word for a failure that isn't the connection's.
    let text = text.strip_prefix("other: ").map_or(text.clone(), str::to_owned);
    const MAY_PASS: [&str; 3] = ["timed out", "an error occurred while loading credentials", "unexpected credentials error"];
    if MAY_PASS.iter().any(|said| text.contains(said)) {
        return Trouble::Credentials { why: of_credentials(text), expired: false };
    }
    Trouble::Refused(Refusal::Failed(StoreError::NoCredentials { what: what.to_owned(), source: io::Error::other(of_credentials(text)) }))
}

/// What the client says for its programmers, for users.
fn of_credentials(text: String) -> String {
    let between = |before: &str, after: &str| text.split_once(before).and_then(|(_, rest)| rest.split_once(after)).map(|(word, _)| word);
    if let Some(feature) = between("cargo feature(s) enabled: ", ".") {
        return format!("the profile names a source of credentials that this program doesn't have ({feature})");
    }
    if let Some(profile) = between("profile `", "` was not defined") {
        return format!("there is no profile {profile:?} in the files of AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE or ~/.aws");
    }
    if let Some((_, time)) = text.split_once("identity resolver timed out after ") {
        return format!("who hands out credentials (STS, a container's or the instance's) didn't answer within {time}");
    }
    // Each link of the chain says so: one word is enough.
    if text.contains("no credentials found in chain") || text.contains("no providers in chain provided credentials") {
        return "no credentials were found: none in the environment, in a profile, or from a role of this instance".to_owned();
    }
    text
}
