//! The password file, `hostname:port:database:username:password` a line (`passwordFromFile` in fe-connect.c).
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::{Password, file};

/// For what a password is wanted.
pub(super) struct Login<'a> {
    /// A host's name or address, or a socket's folder.
    pub host: &'a str,
    /// Is it a folder in which servers put their sockets by default? Lines for `localhost` fit then.
    pub default_socket: bool,
    pub port: u16,
    pub dbname: &'a str,
    pub user: &'a str,
}

/// The password of the first line that fits. A file that others may read is not used, as in libpq, and `warn` is told;
/// one that isn't there is nothing to speak of.
pub(super) fn look_up(path: &Path, login: &Login<'_>, warn: &mut dyn FnMut(String)) -> Option<Password> {
    match read(path) {
        Ok(text) => find(&text?, login),
        Err(reason) => {
            warn(format!("the password file {} is not used: {reason}", path.display()));
            None
        }
    }
}

/// The file's text; `None` where there is none.
fn read(path: &Path) -> Result<Option<Zeroizing<String>>, String> {
    let (bytes, meta) = match file::read(path) {
        Ok(read) => read,
        Err(error) if file::is_absent(&error) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if meta.mode() & 0o077 != 0 {
        return Err(format!("its mode {:04o} lets others in; chmod 0600 it", meta.mode() & 0o7777));
    }
    // Lines in another encoding don't hinder the others.
    Ok(Some(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned())))
}

fn find(text: &str, login: &Login<'_>) -> Option<Password> {
    let port = login.port.to_string();
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.find_map(|line| {
        let fits = |field: &Field<'_>, wanted: &str| field.is_any() || field.text().as_str() == wanted;
        let (host, rest) = Field::take(line)?;
        let host_fits = fits(&host, login.host) || login.default_socket && fits(&host, "localhost");
        let (line_port, rest) = Field::take(rest)?;
        let (dbname, rest) = Field::take(rest)?;
        let (user, rest) = Field::take(rest)?;
        // What is behind another colon isn't the password's.
        let password = Field::take(rest).map_or(Field(rest), |(field, _)| field);
        let all = host_fits && fits(&line_port, &port) && fits(&dbname, login.dbname) && fits(&user, login.user);
        all.then(|| Password::new(password.text().to_string()))
    })
}

/// A field as written, with its backslashes.
struct Field<'a>(&'a str);

impl<'a> Field<'a> {
    /// Up to the next colon that has no backslash before it; and what follows.
    fn take(text: &'a str) -> Option<(Field<'a>, &'a str)> {
        let mut escaped = false;
        for (at, c) in text.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                ':' => return Some((Field(text.get(..at)?), text.get(at + 1..)?)),
                _ => {}
            }
        }
        None
    }

    fn is_any(&self) -> bool {
        self.0 == "*"
    }

    fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(self.0.len()));
        let mut rest = self.0.chars();
        while let Some(c) = rest.next() {
            let escaped = if c == '\\' { rest.next() } else { None };
            text.push(escaped.unwrap_or(c));
        }
        text
    }
}

/// Arbitrary text as a password file (`crate::fuzzing`).
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn probe(text: &str) {
    let login = Login { host: "localhost", default_socket: true, port: 5432, dbname: "postgres", user: "postgres" };
    let _ = find(text, &login);
}
