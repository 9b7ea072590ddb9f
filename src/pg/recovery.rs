//! How a restored server is told what to replay: settings at the end of postgresql.auto.conf, and the command that
//! fetches WAL.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::units::{Class, Explain, Lsn, TimelineId, Timestamp};

/// Settings of the source that must not steer a restore; those that begin with `recovery_target` as well.
const STRIPPED: [&str; 6] = [
    "restore_command",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_end_command",
    "archive_cleanup_command",
    // Would make a recovery wait before each commit.
    "recovery_min_apply_delay",
];

/// Settings that may stand in postgresql.conf, or in a file that it includes, where nothing is edited: empty at the end of
/// postgresql.auto.conf they are of no effect. The targets must stand before the one that is meant: the server refuses a
/// second target that is set while another is, even to nothing (`assign_recovery_target_lsn` and the like).
pub const SWITCHED_OFF: [&str; 7] = [
    "recovery_target",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_lsn",
    "recovery_end_command",
    "archive_cleanup_command",
];

/// The longest name of a restore point, in bytes: `MAXFNAMELEN` less its end.
pub const MAX_NAME: usize = 63;

/// What the server can't be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// No restore point has such a name.
    #[error("a restore point's name has 1 to 63 bytes, {0:?} has not")]
    Name(String),
    /// Transaction ids below 3 are no transactions of users.
    #[error("{0} is no transaction id to recover to")]
    Xid(u64),
    /// A zero byte can stand neither in a command nor in a setting.
    #[error("{0} contains a zero byte")]
    ZeroByte(&'static str),
}

impl Explain for RecoveryError {
    fn class(&self) -> Class {
        Class::Usage
    }
}

/// Where recovery stops.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecoveryTarget {
    /// At the end of the archive. A gap is taken for the end: prefer [`RecoveryTarget::Lsn`] of the last record.
    End,
    /// As soon as the data is consistent.
    Immediate,
    /// At the first restore point of this name.
    Name(String),
    /// Before the first end of a transaction that is later than this (inclusive), or not earlier (exclusive).
    Time(Timestamp),
    /// At the end of this transaction.
    Xid(u64),
    /// At the record that starts here or is the first behind it.
    Lsn(Lsn),
}

/// Which timeline recovery follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TargetTimeline {
    /// What the server finds by counting: see `TimelineTree::latest_from`.
    Latest,
    /// The backup's.
    Current,
    /// This one.
    Number(TimelineId),
}

/// What the server does at the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TargetAction {
    /// Stays read-only until `pg_wal_replay_resume()`; without hot_standby it shuts down.
    Pause,
    /// Becomes a primary on a new timeline.
    Promote,
    /// Shuts down, with recovery.signal kept.
    Shutdown,
}

/// Everything that a restored server has to be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoverySettings {
    /// The command that fetches WAL: see [`shell_command`].
    pub restore_command: Vec<u8>,
    /// Where to stop.
    pub target: RecoveryTarget,
    /// Include what lies at the target (time, xid, LSN)?
    pub inclusive: bool,
    /// Which timeline to follow.
    pub timeline: TargetTimeline,
    /// What to do then.
    pub action: TargetAction,
}

impl RecoverySettings {
    /// The settings by name, in the order in which they are written. Values are not yet quoted.
    ///
    /// # Errors
    /// A target that the server would refuse at its start.
    pub fn settings(&self) -> Result<Vec<(&'static str, Vec<u8>)>, RecoveryError> {
        let mut settings = vec![("restore_command", self.restore_command.clone())];
        let target = match &self.target {
            RecoveryTarget::End => None,
            RecoveryTarget::Immediate => Some(("recovery_target", "immediate".to_owned())),
            RecoveryTarget::Name(name) if name.is_empty() || name.len() > MAX_NAME => return Err(RecoveryError::Name(name.clone())),
            RecoveryTarget::Name(name) => Some(("recovery_target_name", name.clone())),
            RecoveryTarget::Time(time) => Some(("recovery_target_time", time.postgres())),
            // Of an id with its epoch the low half counts.
            RecoveryTarget::Xid(xid) if (*xid as u32) < 3 => return Err(RecoveryError::Xid(*xid)),
            RecoveryTarget::Xid(xid) => Some(("recovery_target_xid", xid.to_string())),
            RecoveryTarget::Lsn(lsn) => Some(("recovery_target_lsn", lsn.to_string())),
        };
        if let Some((name, value)) = target {
            settings.push((name, value.into_bytes()));
            settings.push(("recovery_target_action", self.action.word().as_bytes().to_vec()));
        }
        if matches!(self.target, RecoveryTarget::Time(_) | RecoveryTarget::Xid(_) | RecoveryTarget::Lsn(_)) {
            settings.push(("recovery_target_inclusive", if self.inclusive { b"on".to_vec() } else { b"off".to_vec() }));
        }
        let timeline = match self.timeline {
            TargetTimeline::Latest => "latest".to_owned(),
            TargetTimeline::Current => "current".to_owned(),
            TargetTimeline::Number(number) => number.to_string(),
        };
        settings.push(("recovery_target_timeline", timeline.into_bytes()));
        Ok(settings)
    }
}

impl TargetAction {
    fn word(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Promote => "promote",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Removes from a configuration file what would steer a restore: recovery settings of the source, and the line by
/// which pg_createsubscriber of 19 includes its own. All other bytes stay as they are.
pub fn strip_recovery_settings(conf: &[u8]) -> Vec<u8> {
    conf.split_inclusive(|b| *b == b'\n').filter(|line| !steers_recovery(line)).flatten().copied().collect()
}

/// `name = value` or `name value`, names without regard to case (guc-file.l). A setting can't go over lines.
fn steers_recovery(line: &[u8]) -> bool {
    let line = line.trim_ascii_start();
    let end = line.iter().position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'$'))).unwrap_or(line.len());
    let (name, value) = line.split_at(end);
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    let includes_subscriber = name == "include_if_exists" && value.windows(24).any(|w| w == b"pg_createsubscriber.conf");
    STRIPPED.contains(&name.as_str()) || name.starts_with("recovery_target") || includes_subscriber
}

/// postgresql.auto.conf for a restored server: `original` without the source's recovery settings, and `settings` at
/// its end, where they win. `comment` is put above them.
///
/// # Errors
/// A value with a zero byte.
pub fn edit_auto_conf<'a>(
    original: &[u8],
    comment: &str,
    settings: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<Vec<u8>, RecoveryError> {
    let mut conf = strip_recovery_settings(original);
    if conf.last().is_some_and(|b| *b != b'\n') {
        conf.push(b'\n');
    }
    for line in comment.lines() {
        conf.extend_from_slice(b"# ");
        conf.extend_from_slice(line.as_bytes());
        conf.push(b'\n');
    }
    for (name, value) in settings {
        conf.extend_from_slice(name.as_bytes());
        conf.extend_from_slice(b" = ");
        conf.extend(quote_setting(value)?);
        conf.push(b'\n');
    }
    Ok(conf)
}

/// A value in quotes as a configuration file takes it: quotes and backslashes doubled, line ends by their names
/// (`DeescapeQuotedString`).
///
/// # Errors
/// A zero byte.
pub fn quote_setting(value: &[u8]) -> Result<Vec<u8>, RecoveryError> {
    let mut out = Vec::with_capacity(value.len() + 2);
    out.push(b'\'');
    for byte in value {
        match byte {
            0 => return Err(RecoveryError::ZeroByte("a setting")),
            b'\'' => out.extend_from_slice(b"''"),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            _ => out.push(*byte),
        }
    }
    out.push(b'\'');
    Ok(out)
}

/// A word of a command that the server runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommandWord<'a> {
    /// Exactly this text.
    Literal(&'a OsStr),
    /// `%f`: the name of the file that is wanted.
    FileName,
    /// `%p`: where it has to be put, or where it is.
    Path,
}

/// A command for restore_command or archive_command, to be run by /bin/sh: every literal reaches the program as it is,
/// whatever it holds.
///
/// # Errors
/// A zero byte.
pub fn shell_command(words: &[CommandWord<'_>]) -> Result<Vec<u8>, RecoveryError> {
    let mut out = Vec::new();
    for word in words {
        if !out.is_empty() {
            out.push(b' ');
        }
        match word {
            CommandWord::Literal(text) => quote_word(text.as_bytes(), &mut out)?,
            CommandWord::FileName => out.extend_from_slice(b"%f"),
            CommandWord::Path => out.extend_from_slice(b"\"%p\""),
        }
    }
    Ok(out)
}

/// In single quotes unless nothing in it means anything to a shell. A percent sign is doubled: the server replaces
/// `%f`, `%p`, `%r` and `%%` before the shell sees the command.
fn quote_word(word: &[u8], out: &mut Vec<u8>) -> Result<(), RecoveryError> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/' | b':' | b'@' | b'+' | b',');
    if word.contains(&0) {
        return Err(RecoveryError::ZeroByte("a command"));
    }
    if !word.is_empty() && word.iter().all(plain) {
        out.extend_from_slice(word);
        return Ok(());
    }
    out.push(b'\'');
    for byte in word {
        match byte {
            b'\'' => out.extend_from_slice(b"'\\''"),
            b'%' => out.extend_from_slice(b"%%"),
            _ => out.push(*byte),
        }
    }
    out.push(b'\'');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_what_steers_recovery_is_stripped() {
        let conf = b"# Do not edit this file manually!\n\
            wal_level = 'logical'\n\
            primary_conninfo = 'host=a password=''x'''\n\
            \t Recovery_Target_Time  '2026-01-01'\n\
            recovery_target='immediate'\n\
            recovery_prefetch = on\n\
            restore_command_x = 1\n\
            #restore_command = 'kept: a comment'\n\
            include_if_exists 'pg_createsubscriber.conf'\n\
            include_if_exists 'mine.conf'\n\
            ext.restore_command = 'x'\n\
            RESTORE_COMMAND='cp %f %p'\r\n\
            primary_slot_name = s\n\
            work_mem = '1GB'";
        let expected = b"# Do not edit this file manually!\n\
            wal_level = 'logical'\n\
            recovery_prefetch = on\n\
            restore_command_x = 1\n\
            #restore_command = 'kept: a comment'\n\
            include_if_exists 'mine.conf'\n\
            ext.restore_command = 'x'\n\
            work_mem = '1GB'";
        assert_eq!(String::from_utf8(strip_recovery_settings(conf)).unwrap(), String::from_utf8(expected.to_vec()).unwrap());
    }

    fn settings(target: RecoveryTarget, timeline: TargetTimeline) -> Result<String, RecoveryError> {
        let settings = RecoverySettings {
            restore_command: b"get %f \"%p\"".to_vec(),
            target,
            inclusive: false,
            timeline,
            action: TargetAction::Promote,
        }
        .settings()?;
        let conf = edit_auto_conf(b"a = 1", "restored", settings.iter().map(|(n, v)| (*n, &v[..])))?;
        Ok(String::from_utf8(conf).unwrap())
    }

    #[test]
    fn settings_stand_at_the_end_one_target_at_most() {
        let head = "a = 1\n# restored\nrestore_command = 'get %f \"%p\"'\n";
        let tail = "recovery_target_timeline = 'latest'\n";
        let action = "recovery_target_action = 'promote'\n";
        for (target, lines) in [
            (RecoveryTarget::End, String::new()),
            (RecoveryTarget::Immediate, format!("recovery_target = 'immediate'\n{action}")),
            (RecoveryTarget::Name("it's\\".to_owned()), format!("recovery_target_name = 'it''s\\\\'\n{action}")),
            (
                RecoveryTarget::Time(Timestamp::from_postgres(1_500_000)),
                format!("recovery_target_time = '2000-01-01 00:00:01.5+00'\n{action}recovery_target_inclusive = 'off'\n"),
            ),
            (
                RecoveryTarget::Xid(1 << 32 | 700),
                format!("recovery_target_xid = '4294967996'\n{action}recovery_target_inclusive = 'off'\n"),
            ),
            (
                RecoveryTarget::Lsn(Lsn(0x300_0028)),
                format!("recovery_target_lsn = '0/3000028'\n{action}recovery_target_inclusive = 'off'\n"),
            ),
        ] {
            assert_eq!(settings(target, TargetTimeline::Latest).unwrap(), format!("{head}{lines}{tail}"));
        }
        let numbered = settings(RecoveryTarget::End, TargetTimeline::Number(TimelineId(7))).unwrap();
        assert!(numbered.ends_with("recovery_target_timeline = '7'\n"));
        assert!(settings(RecoveryTarget::End, TargetTimeline::Current).unwrap().ends_with("'current'\n"));
    }

    #[test]
    fn targets_that_the_server_refuses_are_refused_first() {
        for target in [
            RecoveryTarget::Name(String::new()),
            RecoveryTarget::Name("é".repeat(32)),
            RecoveryTarget::Name("a\0".to_owned()),
            RecoveryTarget::Xid(2),
            RecoveryTarget::Xid(1 << 32),
        ] {
            assert!(settings(target.clone(), TargetTimeline::Latest).is_err(), "{target:?}");
        }
        assert!(settings(RecoveryTarget::Name("é".repeat(31)), TargetTimeline::Latest).is_ok());
    }

    #[test]
    fn commands_are_written_for_the_shell() {
        let words = [
            CommandWord::Literal(OsStr::new("/usr/bin/pgcairn")),
            CommandWord::Literal(OsStr::new("--config")),
            CommandWord::Literal(OsStr::new("/a dir/it's 100%.toml")),
            CommandWord::Literal(OsStr::new("")),
            CommandWord::FileName,
            CommandWord::Path,
        ];
        let command = String::from_utf8(shell_command(&words).unwrap()).unwrap();
        assert_eq!(command, r#"/usr/bin/pgcairn --config '/a dir/it'\''s 100%%.toml' '' %f "%p""#);
        assert!(shell_command(&[CommandWord::Literal(OsStr::from_bytes(b"a\0b"))]).is_err());
    }

    /// What the server does with a quoted value (GUC_scanstr in guc-file.l), for the escapes that are written.
    fn unquote(quoted: &[u8]) -> Vec<u8> {
        let mut inner = quoted[1..quoted.len() - 1].iter();
        let mut out = Vec::new();
        while let Some(byte) = inner.next() {
            out.push(match byte {
                b'\\' => match inner.next().unwrap() {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    other => *other,
                },
                b'\'' => {
                    assert_eq!(inner.next(), Some(&b'\''));
                    b'\''
                }
                other => *other,
            });
        }
        out
    }

    /// What the server does with a command before it runs it (BuildRestoreCommand).
    fn filled(command: &[u8]) -> Vec<u8> {
        let mut bytes = command.iter();
        let mut out = Vec::new();
        while let Some(byte) = bytes.next() {
            match byte {
                b'%' => match bytes.next().unwrap() {
                    b'f' => out.extend_from_slice(b"NAME"),
                    b'p' => out.extend_from_slice(b"pg_wal/PLACE"),
                    other => out.push(*other),
                },
                other => out.push(*other),
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn every_word_reaches_the_program_through_file_server_and_shell(words in proptest::collection::vec(proptest::collection::vec(1u8.., 0..12), 1..4)) {
            let mut command = vec![CommandWord::Literal(OsStr::new("printf")), CommandWord::Literal(OsStr::new("%s\\0"))];
            command.extend(words.iter().map(|w| CommandWord::Literal(OsStr::from_bytes(w))));
            command.extend([CommandWord::FileName, CommandWord::Path]);
            let quoted = quote_setting(&shell_command(&command).unwrap()).unwrap();
            prop_assert!(!quoted.contains(&b'\n'));
            let script = filled(&unquote(&quoted));
            let output = std::process::Command::new("/bin/sh").arg("-c").arg(OsStr::from_bytes(&script)).output().unwrap();
            let expected: Vec<u8> = words.iter().map(|w| &w[..]).chain([&b"NAME"[..], b"pg_wal/PLACE"]).flat_map(|w| [w, b"\0"].concat()).collect();
            prop_assert_eq!(output.stdout, expected);
        }

        #[test]
        fn stripping_twice_changes_nothing_and_keeps_whole_lines(conf in "([a-z_]{0,12}|restore_command|recovery_target_x| |=|'|#|\n){0,30}") {
            let once = strip_recovery_settings(conf.as_bytes());
            prop_assert_eq!(strip_recovery_settings(&once), once.clone());
            let lines: Vec<&[u8]> = conf.as_bytes().split_inclusive(|b| *b == b'\n').collect();
            prop_assert!(once.split_inclusive(|b| *b == b'\n').all(|line| lines.contains(&line)));
        }
    }
}
