//! What can be wrong with a configuration.

use std::io;
use std::path::PathBuf;

use crate::units::{Class, Explain};

/// Why there are no settings. Always wrong usage: exit 2.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file that was named, or one that is there, can't be read.
    #[error("cannot read the configuration file {}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file that was named isn't there.
    #[error("there is no configuration file {}", file.display())]
    NoFile {
        /// The file.
        file: PathBuf,
        /// What named it.
        from: &'static str,
    },
    /// No TOML.
    #[error("{}, line {line}: {problem}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What the parser says.
        problem: String,
    },
    /// A key that pgcairn doesn't know.
    #[error("unknown key `{key}` in {place}")]
    UnknownKey {
        /// The section and file.
        place: String,
        /// The key.
        key: String,
        /// The known key that is most like it.
        nearest: Option<String>,
        /// All that are known there.
        known: Vec<&'static str>,
        /// The kind of section where it would be known.
        belongs: Option<&'static str>,
    },
    /// A value that can't be used.
    #[error("{place}: {problem}")]
    BadValue {
        /// Key and file, variable, or flag.
        place: String,
        /// What was expected, and what was found.
        problem: String,
    },
    /// A name that isn't `[a-z0-9_-]`.
    #[error("{name:?} is no name for a {what}: a to z, 0 to 9, `_` and `-` are allowed, at most 64 of them")]
    BadName {
        /// `cluster` or `repository`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A cluster or repository that the file, which lists others, doesn't have.
    #[error("there is no {what} `{name}` in {}", file.display())]
    NoSuch {
        /// `cluster` or `repository`.
        what: &'static str,
        /// The name.
        name: String,
        /// The file.
        file: PathBuf,
        /// Those that it has.
        known: Vec<String>,
    },
    /// Several are configured and none is chosen.
    #[error("several {} are configured, and none is chosen", plural(what))]
    Which {
        /// `cluster` or `repository`.
        what: &'static str,
        /// Those there are.
        known: Vec<String>,
    },
    /// No repository is configured.
    #[error("no repository is configured")]
    NoRepository,
    /// A cluster that is to be written to several repositories.
    #[error("cluster `{cluster}` names {} repositories: several repositories are not supported yet", names.len())]
    SeveralRepositories {
        /// The cluster.
        cluster: String,
        /// The repositories.
        names: Vec<String>,
    },
    /// A URL that no backend serves.
    #[error("repository `{url}`: {problem}")]
    UnsupportedUrl {
        /// The URL.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// More than one way to the key at once.
    #[error("{place} names several keys at once: {}", names.join(", "))]
    SeveralSecrets {
        /// `the command line`, `the environment`, or the section and file.
        place: String,
        /// The names set.
        names: Vec<&'static str>,
    },
    /// A relative path, and no folder to count it from.
    #[error("a relative path cannot be used: the working folder is unknown")]
    WorkingFolder(#[source] io::Error),
}

impl Explain for ConfigError {
    fn class(&self) -> Class {
        Class::Usage
    }

    fn cure(&self) -> Option<String> {
        match self {
            ConfigError::UnknownKey { key, .. } if key == "passphrase" => {
                Some("a passphrase does not stand in the file: use passphrase-file, passphrase-command or PGCAIRN_PASSPHRASE".into())
            }
            ConfigError::UnknownKey { belongs: Some(section), .. } => Some(format!("it belongs into a section [{section}.NAME]")),
            ConfigError::UnknownKey { nearest: Some(nearest), .. } => Some(format!("did you mean `{nearest}`?")),
            ConfigError::UnknownKey { known, .. } => Some(format!("known here: {}", known.join(", "))),
            ConfigError::NoFile { from, .. } => {
                Some(format!("correct {from}, or leave it out: settings may also come from flags and PGCAIRN_* variables"))
            }
            ConfigError::NoSuch { what, known, .. } if known.is_empty() => Some(format!("the file has no section [{what}.NAME]: add one")),
            ConfigError::NoSuch { what, known, .. } => Some(format!("known {}: {}", plural(what), known.join(", "))),
            ConfigError::Which { what: "cluster", known } => Some(format!("choose with --cluster: {}", known.join(", "))),
            ConfigError::Which { known, .. } => Some(format!("choose with --repo: {}", known.join(", "))),
            ConfigError::NoRepository => Some("name it by --repo, PGCAIRN_REPO, or [repository.NAME] url in the configuration file".into()),
            ConfigError::SeveralRepositories { cluster, .. } => Some(format!("leave one in `repositories` of [cluster.{cluster}]")),
            ConfigError::SeveralSecrets { .. } => Some("leave one of them".into()),
            ConfigError::WorkingFolder(_) => Some("use absolute paths".into()),
            _ => None,
        }
    }
}

impl ConfigError {
    /// Of the environment: keys are called as variables there.
    pub(super) fn of_variables(self) -> Self {
        let variable = |name: &'static str| match name {
            "passphrase-file" => "PGCAIRN_PASSPHRASE_FILE",
            "passphrase-command" => "PGCAIRN_PASSPHRASE_COMMAND",
            "key-file" => "PGCAIRN_KEY_FILE",
            "key-command" => "PGCAIRN_KEY_COMMAND",
            other => other,
        };
        match self {
            ConfigError::SeveralSecrets { place, names } => {
                ConfigError::SeveralSecrets { place, names: names.into_iter().map(variable).collect() }
            }
            other => other,
        }
    }
}

fn plural(what: &str) -> &'static str {
    if what == "cluster" { "clusters" } else { "repositories" }
}
