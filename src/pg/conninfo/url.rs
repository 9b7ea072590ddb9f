//! `postgresql://user:password@host:port,host:port/dbname?key=value` (`conninfo_uri_parse_options` in fe-connect.c).
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use zeroize::Zeroizing;

use super::ConninfoError;

/// What follows the scheme, if this is a URL.
pub(super) fn without_scheme(text: &str) -> Option<&str> {
    text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"))
}

/// Pairs in the order given, percent-decoded.
pub(super) fn parse(rest: &str) -> Result<Vec<(String, Zeroizing<String>)>, ConninfoError> {
    let mut pairs = Vec::new();
    let mut add = |key: &str, value: Zeroizing<String>| {
        if !value.is_empty() {
            pairs.push((key.to_owned(), value));
        }
    };
    // A user's name and password may hold anything but "@" and "/".
    let rest = match rest.find(['@', '/']).and_then(|at| rest.get(..at).zip(rest.get(at..)?.strip_prefix('@'))) {
        Some((who, rest)) => {
            let (user, password) = who.split_once(':').unwrap_or((who, ""));
            add("user", decode(user)?);
            add("password", decode(password)?);
            rest
        }
        None => rest,
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (hosts, dbname) = rest.split_once('/').unwrap_or((rest, ""));
    let (hosts, ports) = split_hosts(hosts)?;
    add("host", hosts);
    add("port", ports);
    add("dbname", decode(dbname)?);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or(ConninfoError::BadUrl("a parameter has no \"=\""))?;
        if value.contains('=') {
            return Err(ConninfoError::BadUrl("a parameter has a second \"=\"; write it as %3D"));
        }
        let (key, value) = (decode(key)?, decode(value)?);
        // JDBC's spelling, which libpq takes as well.
        match (key.as_str(), value.as_str()) {
            ("ssl", "true") => pairs.push(("sslmode".to_owned(), Zeroizing::new("require".to_owned()))),
            _ => pairs.push((key.to_string(), value)),
        }
    }
    Ok(pairs)
}

/// The lists of hosts and of ports.
fn split_hosts(text: &str) -> Result<(Zeroizing<String>, Zeroizing<String>), ConninfoError> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for element in text.split(',') {
        let (host, port) = if let Some(bracketed) = element.strip_prefix('[') {
            let (address, after) = bracketed.split_once(']').ok_or(ConninfoError::BadUrl("a \"[\" has no \"]\""))?;
            match after.strip_prefix(':') {
                Some(port) => (address, port),
                None if after.is_empty() => (address, ""),
                None => return Err(ConninfoError::BadUrl("only a port may follow \"]\"")),
            }
        } else {
            element.split_once(':').unwrap_or((element, ""))
        };
        hosts.push(decode(host)?.to_string());
        ports.push(decode(port)?.to_string());
    }
    let join = |list: Vec<String>| if list.iter().all(String::is_empty) { String::new() } else { list.join(",") };
    Ok((Zeroizing::new(join(hosts)), Zeroizing::new(join(ports))))
}

/// `%XX` decoded; a zero byte and bytes that aren't UTF-8 are refused.
fn decode(text: &str) -> Result<Zeroizing<String>, ConninfoError> {
    const BAD: ConninfoError = ConninfoError::BadUrl("a \"%\" is not followed by two hex digits of a character");
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = if byte == b'%' {
            let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16)).ok_or(BAD);
            u8::try_from(digit()? * 16 + digit()?).ok().filter(|b| *b != 0).ok_or(BAD)?
        } else {
            byte
        };
        bytes.push(byte);
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| BAD)?;
    Ok(Zeroizing::new(text.to_owned()))
}
