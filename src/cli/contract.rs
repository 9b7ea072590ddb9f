//! Exit codes. `archive-get` and `archive-push` follow PostgreSQL's contract, all others ours.
//!
//! A restore_command's exit code from 1 to 125 means "there is no such file", and recovery ends there, with a promotion
//! (`RestoreArchivedFile` in access/transam/xlogarchive.c): so everything but proven absence is above 125. An
//! archive_command's code above 125 ends the archiver (`pgarch_archiveXlog` in postmaster/pgarch.c).

use std::ffi::OsString;

/// How a command ended that didn't fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Exit(u8);

impl Exit {
    /// Done.
    pub(super) const DONE: Exit = Exit(0);
    /// Done, and something needs a look.
    pub(super) const LOOK: Exit = Exit(3);
    /// `archive-get` alone: the file is proven absent.
    pub(super) const ABSENT: Exit = Exit(1);
    /// `verify` alone: it was done, and found damage.
    pub(super) const DAMAGED: Exit = Exit(1);
    /// `check` alone: it was done, and something must be mended.
    pub(super) const UNSOUND: Exit = Exit(1);
    /// `archive-push` alone: it was asked where it leads, and has archived nothing.
    pub(super) const PROBED: Exit = Exit(1);

    /// `status --nagios` alone: 0 ok, 1 warning, 2 critical, 3 unknown.
    pub(super) fn nagios(code: u8) -> Self {
        Exit(code.min(3))
    }

    /// As the exit code.
    pub(super) fn code(self) -> u8 {
        self.0
    }
}

/// Whose exit codes hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Contract {
    /// Ours.
    Own,
    /// Those of a restore_command.
    Get,
    /// Those of an archive_command.
    Push,
}

const GET: &str = "archive-get";
const PUSH: &str = "archive-push";
/// `archive-get`: our own code plus this. Clear of the shell's 126 and 127, and of 128 plus a signal.
const ABOVE: u8 = 192;
/// 128 + SIGTERM: the startup process takes it as its own end (`wait_result_is_signal`).
const TERMINATED: u8 = 143;

impl Contract {
    /// By the words on the command line, before they are parsed. `archive get` is no command, and must not tell a server
    /// that mistook it for one that a file is absent.
    pub(super) fn of_arguments(arguments: &[OsString]) -> Self {
        let mut archive = false;
        for word in arguments.iter().skip(1) {
            if word == GET || archive && word == "get" {
                return Contract::Get;
            }
            if word == PUSH || archive && word == "push" {
                return Contract::Push;
            }
            archive |= word == "archive";
        }
        Contract::Own
    }

    /// The code for what would be `code` elsewhere: of something that failed, never 0.
    pub(super) fn code(self, code: u8) -> u8 {
        let code = code.clamp(1, 63);
        match self {
            Contract::Own | Contract::Push => code,
            Contract::Get => ABOVE + code,
        }
    }

    /// The code after a signal asked us to stop.
    pub(super) fn interrupted(self) -> u8 {
        if self == Contract::Get { TERMINATED } else { 1 }
    }

    /// The code after a panic.
    pub(super) fn panicked(self) -> u8 {
        self.code(1)
    }

    /// The code after help or version was printed. `archive_command = 'pgcairn archive-push -h … %p'` must not lose WAL
    /// with exit code 0: only a lone request for help is fulfilled.
    pub(super) fn help(self, arguments: &[OsString]) -> u8 {
        let theirs = |word: &OsString| word == GET || word == PUSH;
        let lone = match arguments {
            [_, command, help] => theirs(command) && (help == "-h" || help == "--help") || command == "help" && theirs(help),
            _ => false,
        };
        if self == Contract::Own || lone { 0 } else { self.code(2) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_restore_command_never_fails_with_a_code_that_means_absence() {
        for code in 0..=u8::MAX {
            assert!(Contract::Get.code(code) > 125);
            assert!((1..=125).contains(&Contract::Push.code(code)));
        }
        for end in [Contract::interrupted, Contract::panicked] {
            assert!(end(Contract::Get) > 125 && end(Contract::Push) == 1 && end(Contract::Own) == 1);
        }
    }

    #[test]
    fn the_contract_is_known_before_arguments_are_parsed() {
        for (text, contract) in [
            ("pgcairn", Contract::Own),
            ("archive-get list", Contract::Own),
            ("pgcairn --bad archive-get f p", Contract::Get),
            ("pgcairn archive-push archive-get", Contract::Push),
            ("pgcairn archive get 000000010000000000000003 pg_wal/RECOVERYXLOG", Contract::Get),
            ("pgcairn --repo /r archive --quiet get f p", Contract::Get),
            ("pgcairn archive push pg_wal/000000010000000000000003", Contract::Push),
            ("pgcairn archive status", Contract::Own),
            ("pgcairn get archive", Contract::Own),
        ] {
            assert_eq!(Contract::of_arguments(&line(text)), contract, "{text}");
        }
    }

    #[test]
    fn help_is_no_success_of_an_archiver() {
        for (text, code) in [
            ("pgcairn --help", 0),
            ("pgcairn archive-push --help", 0),
            ("pgcairn help archive-get", 0),
            ("pgcairn archive-push -h db pg_wal/1", 2),
            ("pgcairn --version archive-push", 2),
            ("pgcairn archive-get --repo r -h f p", 194),
            ("pgcairn archive get f p --help", 194),
            ("pgcairn archive --help", 0),
        ] {
            let line = line(text);
            assert_eq!(Contract::of_arguments(&line).help(&line), code, "{text}");
        }
    }
}
