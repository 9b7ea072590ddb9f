//! What can be asked of the program, as clap reads it.
//!
//! - `global.rs`: the flags of all commands · `values.rs`: how values are read from text
//! - the arguments of a command stand in its own file

mod global;
pub(super) mod values;

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

pub(super) use global::GlobalFlags;

use super::contract::Contract;
use super::output::error::Described;
use super::{
    archive, archive_get, archive_push, backup, cat, check, diff, forget, hold, init, key, ls, prune, restore, show, status, verify,
};
use crate::host::config::ClusterKeys;
use crate::units::Class;

/// Deduplicating, encrypted backups for PostgreSQL.
#[derive(Parser, Debug)]
#[command(name = "pgcairn", version, max_term_width = 100, arg_required_else_help = false)]
pub(super) struct Cli {
    #[command(flatten)]
    pub global: GlobalFlags,
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Create a repository, and print the lines for postgresql.conf
    Init(init::Args),
    /// Take a snapshot of a cluster
    Backup(backup::Args),
    /// Archive a WAL file: archive_command = 'pgcairn archive-push %p'
    ArchivePush(archive_push::Args),
    /// Fetch a WAL file: restore_command = 'pgcairn archive-get %f "%p"'
    ArchiveGet(archive_get::Args),
    /// What the WAL archive holds
    #[command(subcommand)]
    Archive(archive::Command),
    /// Restore a snapshot, to any point in time behind it
    Restore(Box<restore::Args>),
    /// List the snapshots, newest last
    List,
    /// Show one snapshot in full
    Show(show::Args),
    /// List the files of a snapshot
    Ls(ls::Args),
    /// Write a file of a snapshot to standard output
    Cat(cat::Args),
    /// Which files and relations changed between two snapshots
    Diff(diff::Args),
    /// Where the space goes
    Stats,
    /// Check that all objects are there and whole
    Verify(verify::Args),
    /// Is this cluster's set-up sound, end to end? The first thing to run after init
    Check(check::Args),
    /// All clusters at a glance, what is wrong first
    Status(status::Args),
    /// Give back the space of what no snapshot needs
    Prune(prune::Args),
    /// Forget snapshots, by a policy or by id
    Forget(forget::Args),
    /// Keep snapshots whatever a policy says
    #[command(subcommand)]
    Hold(hold::Command),
    /// What opens the repository, and which hosts may do what in it
    #[command(subcommand)]
    Key(key::Command),
}

/// What must be known of each command before it runs.
pub(super) struct Traits {
    /// The policy flags that it was given.
    pub cluster_keys: ClusterKeys,
    /// Whose exit codes hold.
    pub contract: Contract,
}

impl Command {
    /// All commands, one by one: a new one must say here what holds for it.
    pub(super) fn traits(&self) -> Traits {
        let of = |cluster_keys: ClusterKeys, contract: Contract| Traits { cluster_keys, contract };
        let own = |cluster_keys: ClusterKeys| of(cluster_keys, Contract::Own);
        match self {
            Command::ArchiveGet(_) => of(ClusterKeys::default(), Contract::Get),
            Command::ArchivePush(args) => of(args.cluster_keys(), Contract::Push),
            Command::Backup(args) => own(args.cluster_keys()),
            Command::Archive(command) => own(command.cluster_keys()),
            Command::Check(args) => own(args.cluster_keys()),
            Command::Status(args) => own(args.cluster_keys()),
            Command::Forget(args) => own(args.cluster_keys()),
            Command::Init(_)
            | Command::Restore(_)
            | Command::List
            | Command::Show(_)
            | Command::Ls(_)
            | Command::Cat(_)
            | Command::Diff(_)
            | Command::Stats
            | Command::Hold(_)
            | Command::Key(_)
            | Command::Prune(_)
            | Command::Verify(_) => own(ClusterKeys::default()),
        }
    }
}

/// What came of the arguments.
pub(super) enum Parsed {
    /// A command.
    Command(Box<Cli>),
    /// Help or version: the answer.
    Help(String),
    /// They are wrong.
    Wrong(Wrong),
}

/// Wrong arguments, in clap's words.
pub(super) struct Wrong {
    /// All that clap says, in lines.
    pub text: String,
}

/// Reads the arguments.
pub(super) fn parse(arguments: &[OsString]) -> Parsed {
    match Cli::try_parse_from(arguments) {
        Ok(cli) => Parsed::Command(Box::new(cli)),
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => Parsed::Help(e.render().to_string()),
        Err(e) => Parsed::Wrong(Wrong { text: e.render().to_string() }),
    }
}

impl Wrong {
    /// As an error like any other.
    pub(super) fn describe(&self) -> Described {
        let mut paragraphs = self.text.split("\n\n").map(|p| p.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|p| !p.is_empty());
        let first = paragraphs.next().unwrap_or_default();
        let what = first.strip_prefix("error: ").unwrap_or(&first).to_owned();
        let cure: Vec<String> = paragraphs.collect();
        Described { class: Class::Usage, what, why: Vec::new(), cure: Some(cure.join("; ")).filter(|c| !c.is_empty()), exit: 2 }
    }
}

/// Is `--json` among arguments that can't be parsed, or in the environment?
pub(super) fn json_is_asked_for(arguments: &[OsString]) -> bool {
    let variable = || std::env::var("PGCAIRN_JSON").is_ok_and(|v| matches!(v.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"));
    arguments.iter().skip(1).any(|a| a == "--json") || variable()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn line(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_arguments_are_an_error_with_a_cure() {
        for (text, what) in [
            ("pgcairn lst", "unrecognized subcommand 'lst'"),
            ("pgcairn list --delta", "unexpected argument '--delta' found"),
            ("pgcairn", "requires a subcommand"),
            ("pgcairn --jobs 0 list", "from 1 to 1024"),
        ] {
            let Parsed::Wrong(wrong) = parse(&line(text)) else { panic!("{text}") };
            let described = wrong.describe();
            assert!(described.what.contains(what) && described.class == Class::Usage && described.exit == 2, "{described:?}");
            assert!(described.cure.is_some(), "{described:?}");
        }
    }

    #[test]
    fn global_flags_stand_before_or_behind_the_command() {
        for text in ["pgcairn --repo /r --json -q list", "pgcairn list --repo /r -q --json"] {
            let Parsed::Command(cli) = parse(&line(text)) else { panic!("{text}") };
            let flags = cli.global.overrides(ClusterKeys::default());
            assert_eq!((flags.global.repo, flags.global.json, flags.global.quiet), (Some("/r".into()), Some(true), Some(true)));
            assert_eq!(flags.global.verbose, None);
        }
        assert!(matches!(parse(&line("pgcairn list --help")), Parsed::Help(_)));
    }
}
