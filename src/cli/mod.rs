//! The command line: parses, calls the library, renders, and knows exit codes.
//!
//! In come the process's arguments, out go an answer on stdout, progress and errors on stderr, and an exit code.
//!
//! - `args/`: what can be asked, as clap reads it
//! - `contract.rs`: exit codes: ours, and PostgreSQL's for `archive-get` and `archive-push`
//! - `process.rs`: umask, core dumps, panics, signals
//! - `context.rs`: settings, state, cache and repository of a command · `clusters.rs`: whose snapshots are meant
//! - `failure.rs`: any layer's error, on its way to the exit
//! - `output/`: how things are shown
//! - `fronts.rs`: fronts of WAL objects, kept in the catalog
//! - `archived.rs`: what a snapshot waits for · `tail.rs`: the log as the archive asks for it
//! - `evidence.rs`: what verify found, noted in the log
//! - `maintainer.rs`: whose key signs what only a maintainer may do
//! - `snapshot_files.rs`: what `ls`, `cat` and `diff` have in common
//! - `secret_file.rs`: files with secrets · `key/`: the commands of the owner
//! - `own_command.rs`: this program as a command that works anywhere · `postgresql_conf.rs`: values for that file
//! - one file a command: its arguments, its call, its answer

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod archive;
mod archive_get;
mod archive_push;
mod archived;
mod args;
mod backup;
mod cat;
mod check;
mod clusters;
mod context;
mod contract;
mod diff;
mod evidence;
mod failure;
mod forget;
mod fronts;
mod hold;
mod init;
mod key;
mod list;
mod ls;
mod maintainer;
pub mod output;
mod own_command;
mod postgresql_conf;
mod process;
mod prune;
mod restore;
mod secret_file;
mod show;
mod snapshot_files;
mod stats;
mod status;
mod tail;
mod verify;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use args::{Command, Parsed, Traits};
use context::Context;
use contract::{Contract, Exit};
use failure::Failure;
use output::answered;
use output::error::Described;

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    process::catch_panics();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // Before they are parsed: whatever goes wrong from here on must not look like "this segment is not there".
    let contract = Contract::of_arguments(&arguments);
    let code = std::panic::catch_unwind(|| run(&arguments, contract)).unwrap_or_else(|_| panicked(&arguments, contract));
    ExitCode::from(code)
}

fn run(arguments: &[OsString], contract: Contract) -> u8 {
    process::harden();
    match args::parse(arguments) {
        Parsed::Command(mut cli) => {
            if let Command::Key(command) = &mut cli.command {
                command.take_new_secret(&mut cli.global);
            }
            let Traits { cluster_keys, contract } = cli.command.traits();
            let cancel = process::watch_signals();
            let json = args::json_is_asked_for(arguments);
            match Context::load(&cli.global, cluster_keys, cancel) {
                Ok(context) => {
                    let json = context.settings.json;
                    let result = cli.command.run(&context);
                    let signal = context.cancel.is_cancelled();
                    // A bar must be gone before an error is written.
                    drop(context);
                    match result {
                        Ok(exit) => exit.code(),
                        Err(failure) => fail(&failure.describe(), json, contract, signal),
                    }
                }
                Err(failure) => fail(&failure.describe(), json, contract, false),
            }
        }
        Parsed::Help(text) => {
            let written = answered(io::Write::write_all(&mut io::stdout(), text.as_bytes()));
            if written.is_ok() { contract.help(arguments) } else { contract.code(1) }
        }
        Parsed::Wrong(wrong) => {
            if args::json_is_asked_for(arguments) {
                return fail(&wrong.describe(), true, contract, false);
            }
            drop(io::Write::write_all(&mut io::stderr(), wrong.text.as_bytes()));
            contract.code(2)
        }
    }
}

/// Says what failed, and ends.
fn fail(error: &Described, json: bool, contract: Contract, interrupted: bool) -> u8 {
    let exit = if interrupted { contract.interrupted() } else { contract.code(error.exit) };
    let error = Described { exit, ..error.clone() };
    // The answer is on stdout, the log on stderr, where cron and the server's log find it. Nothing can be said about an
    // error that can't be said.
    if json {
        drop(error.write_json(&mut io::stdout()));
    }
    drop(error.write_text(&mut io::stderr()));
    exit
}

fn panicked(arguments: &[OsString], contract: Contract) -> u8 {
    let exit = contract.panicked();
    if args::json_is_asked_for(arguments) {
        drop(Described { exit, ..process::panic_described() }.write_json(&mut io::stdout()));
    }
    exit
}

impl Command {
    fn run(&self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Command::Init(args) => init::run(context, args),
            Command::Backup(args) => backup::run(context, args),
            Command::ArchivePush(args) => archive_push::run(context, args),
            Command::ArchiveGet(args) => archive_get::run(context, args),
            Command::Archive(command) => archive::run(context, command),
            Command::Restore(args) => restore::run(context, args),
            Command::List => list::run(context),
            Command::Show(args) => show::run(context, args),
            Command::Ls(args) => ls::run(context, args),
            Command::Cat(args) => cat::run(context, args),
            Command::Diff(args) => diff::run(context, args),
            Command::Stats => stats::run(context),
            Command::Check(args) => check::run(context, args),
            Command::Status(args) => status::run(context, args),
            Command::Verify(args) => verify::run(context, args),
            Command::Prune(args) => prune::run(context, args),
            Command::Forget(args) => forget::run(context, args),
            Command::Hold(command) => hold::run(context, command),
            Command::Key(command) => key::run(context, command),
        }
    }
}
