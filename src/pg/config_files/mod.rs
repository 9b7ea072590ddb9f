//! Configuration files: which other files they name, and how they are told of another place.
//!
//! In come bytes of postgresql.conf, pg_hba.conf, pg_ident.conf or pg_hosts.conf (19), untrusted; out come references, or
//! the same bytes with other paths. Nothing is opened here.
//!
//! - `lines.rs`: settings, their values and quoting (`guc-file.l`)
//! - `tokens.rs`: words of the other files (`next_token` in `hba.c`)
//! - `references.rs`: [`references`]: includes and `@file` lists
//! - `moved.rs`: [`Moved`]: what a file has to say in another place

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod lines;
mod moved;
mod references;
mod tokens;

pub use lines::{last_setting, without_settings};
pub use moved::{Moved, resolve_from};
pub use references::{Include, Reference, references};

/// The annex of a snapshot that holds them.
pub const ANNEX: &str = "configuration";
/// The largest file that is stored or read, in bytes.
pub const MAX_FILE: u64 = 1 << 20;
/// The most files.
pub const MAX_FILES: usize = 1000;
/// The most bytes of all together.
pub const MAX_ALL: u64 = 16 << 20;
/// How deep files include each other (`CONF_FILE_MAX_DEPTH`).
pub const MAX_DEPTH: usize = 10;

/// Settings that say where files lie: in a copy they would lead to the original's.
pub const PLACES: [&str; 6] = ["data_directory", "config_file", "hba_file", "ident_file", "hosts_file", "external_pid_file"];

/// What a file is written in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Language {
    /// `name = value`: postgresql.conf and what it includes.
    Settings,
    /// Words in columns: pg_hba.conf, pg_ident.conf, pg_hosts.conf and what they include.
    Columns,
    /// A list of names that a word `@file` brings in.
    Names,
}
