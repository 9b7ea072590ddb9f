//! What can be wrong with a connection string, its surroundings and the files that they name.

use std::path::PathBuf;

use crate::units::{Class, Explain};

/// A word or a variable of a connection string that can't be used. No variant holds a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConninfoError {
    /// A word without `=`. Its text may be a part of a password, so only its place is told.
    #[error("the connection string has no \"=\" after the word that ends at character {at}")]
    NoEquals {
        /// Characters before it.
        at: usize,
    },
    /// A quote that isn't closed.
    #[error("the connection string has a quote that isn't closed")]
    UnclosedQuote,
    /// A URL that can't be read.
    #[error("the connection URL is malformed: {0}")]
    BadUrl(&'static str),
    /// No such keyword.
    #[error("unknown word in the connection string: {keyword:?}")]
    UnknownKeyword {
        /// As given.
        keyword: String,
        /// The one that was probably meant.
        meant: Option<&'static str>,
    },
    /// A value that isn't one of those that the keyword takes.
    #[error("{keyword} is {value:?}: {expected} is expected")]
    BadValue {
        /// The keyword.
        keyword: &'static str,
        /// As given.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// Lists of different lengths.
    #[error("the connection string names {hosts} hosts and {others} values for {keyword}")]
    Lengths {
        /// How many hosts.
        hosts: usize,
        /// `port` or `host`.
        keyword: &'static str,
        /// How many of these.
        others: usize,
    },
    /// A variable of the environment that isn't text in UTF-8.
    #[error("the environment variable {0} isn't valid UTF-8")]
    NotText(&'static str),
    /// Two values that don't go together, since the one needs more protection than the other asks for.
    #[error("weak sslmode {mode:?} may not be used with {with}")]
    Weak {
        /// The mode given (or the default).
        mode: &'static str,
        /// What asks for more.
        with: &'static str,
        /// Modes that go with it.
        strong: &'static str,
    },
    /// The lower limit of TLS versions is above the upper.
    #[error("ssl_min_protocol_version is above ssl_max_protocol_version")]
    NoVersion,
    /// Something that libpq can and pgcairn can't.
    #[error("{keyword} is not supported in connection strings")]
    NotSupported {
        /// The keyword.
        keyword: &'static str,
        /// What to do instead.
        instead: &'static str,
    },
    /// A value that libpq can and pgcairn can't.
    #[error("{keyword}={value} is not supported")]
    ValueNotSupported {
        /// The keyword.
        keyword: &'static str,
        /// The value.
        value: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// No service file has this service.
    #[error("definition of service {service:?} not found in {}", listed(files))]
    NoService {
        /// The service.
        service: String,
        /// Where it was looked for.
        files: Vec<PathBuf>,
    },
    /// A service file that can't be read, or a line in it that can't.
    #[error("service file {}{}: {reason}", path.display(), line.map(|n| format!(", line {n}")).unwrap_or_default())]
    ServiceFile {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: Option<usize>,
        /// What is wrong.
        reason: String,
    },
    /// The operating system knows no name for this user, and none is given.
    #[error("as which user to connect is not known: this system's user has no name")]
    NoUser,
}

fn listed(files: &[PathBuf]) -> String {
    if files.is_empty() {
        return "any service file".to_owned();
    }
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(" or ")
}

impl Explain for ConninfoError {
    fn class(&self) -> Class {
        Class::Usage
    }

    fn cure(&self) -> Option<String> {
        use ConninfoError as E;
        match self {
            E::NoEquals { .. } => Some("write words as key=value, and values with spaces in single quotes".into()),
            E::UnclosedQuote => Some(r"close it, or write \' for a quote inside a value".into()),
            E::BadUrl(_) => Some("write postgresql://user@host:port/dbname, special characters as %XX".into()),
            E::UnknownKeyword { meant, .. } => meant.map(|meant| format!("did you mean {meant}?")),
            E::Weak { strong, .. } => Some(format!("use sslmode={strong}")),
            E::NotSupported { instead, .. } | E::ValueNotSupported { instead, .. } => Some((*instead).to_owned()),
            E::NoService { .. } => Some("name the file by PGSERVICEFILE, or put the service into ~/.pg_service.conf".into()),
            E::NoUser => Some("add user=NAME, or set PGUSER".into()),
            E::BadValue { .. } | E::Lengths { .. } | E::NotText(_) | E::NoVersion | E::ServiceFile { .. } => None,
        }
    }
}
