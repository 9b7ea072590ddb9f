//! Passphrases and key files: where they come from, and the rules for a passphrase.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use zeroize::Zeroizing;

use crate::host::files::read_to_limit;
use crate::units::{Class, Explain, class_of_io};

/// The longest passphrase, in bytes.
const PASSPHRASE_LIMIT: usize = 4096;

/// The longest key file, in bytes.
const KEY_FILE_LIMIT: usize = 65_536;

/// A passphrase: one line, not empty. Zeroized when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// From an environment variable, as it is: checked by [`SecretSource::read_passphrase`].
    pub(super) fn unchecked(value: OsString) -> Self {
        Passphrase(Zeroizing::new(value.into_vec()))
    }

    /// Checks the rules: one trailing LF or CRLF is not part of it; empty, several lines or too long is refused.
    fn checked(mut bytes: Zeroizing<Vec<u8>>) -> Result<Self, &'static str> {
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        if bytes.is_empty() {
            return Err("it is empty");
        }
        if bytes.iter().any(|b| matches!(b, b'\n' | b'\r')) {
            return Err("it has several lines");
        }
        if bytes.contains(&0) {
            return Err("it holds a zero byte");
        }
        if bytes.len() > PASSPHRASE_LIMIT {
            return Err("it is longer than 4096 bytes");
        }
        Ok(Passphrase(bytes))
    }

    /// The bytes that the key is derived from.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// Where a repository's key comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SecretSource {
    /// `PGCAIRN_PASSPHRASE`.
    Passphrase(Passphrase),
    /// A file with the passphrase.
    PassphraseFile(PathBuf),
    /// A command of `/bin/sh` that prints the passphrase.
    PassphraseCommand(String),
    /// A key file, as `init` writes it, or the text that `key export` wrote.
    KeyFile(PathBuf),
    /// A command of `/bin/sh` that is given a slot's wrapped key on its standard input and prints the key.
    KeyCommand(String),
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretSource::Passphrase(_) => f.write_str("PGCAIRN_PASSPHRASE"),
            SecretSource::PassphraseFile(path) => write!(f, "the passphrase file {}", path.display()),
            SecretSource::PassphraseCommand(_) => f.write_str("passphrase-command"),
            SecretSource::KeyFile(path) => write!(f, "the key file {}", path.display()),
            SecretSource::KeyCommand(_) => f.write_str("key-command"),
        }
    }
}

/// Why there is no passphrase or key.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// A file or command can't be read.
    #[error("cannot read {place}")]
    Unreadable {
        /// What.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// It breaks the rules.
    #[error("{place} gives no passphrase that can be used: {problem}")]
    Malformed {
        /// Where it comes from.
        place: String,
        /// Which rule.
        problem: &'static str,
    },
    /// The command ended with an error.
    #[error("{place} failed: {status}")]
    CommandFailed {
        /// Which command.
        place: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// A key file was asked for a passphrase, or the other way round.
    #[error("{place} gives {found}, and {wanted} is needed")]
    OtherKind {
        /// Where it comes from.
        place: String,
        /// What it gives.
        found: &'static str,
        /// What was asked for.
        wanted: &'static str,
    },
}

impl Explain for SecretError {
    fn class(&self) -> Class {
        match self {
            SecretError::Unreadable { source, .. } => match class_of_io(source) {
                // "Not found" is the answer about a snapshot, not about our own configuration.
                Class::Absent => Class::Usage,
                class => class,
            },
            SecretError::CommandFailed { .. } => Class::Failed,
            SecretError::Malformed { .. } | SecretError::OtherKind { .. } => Class::Usage,
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            SecretError::Malformed { .. } => Some("a passphrase is one line that is not empty".into()),
            SecretError::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("check the path: relative ones count from the working folder, in a configuration file from its own".into())
            }
            SecretError::Unreadable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("it must be readable for the user who runs this".into())
            }
            SecretError::CommandFailed { .. } => Some("run the command by hand, as this user, with `/bin/sh -c`".into()),
            _ => None,
        }
    }
}

impl SecretSource {
    /// The passphrase; an error if this is a key file.
    pub fn read_passphrase(&self) -> Result<Passphrase, SecretError> {
        let unreadable = |source| SecretError::Unreadable { place: self.to_string(), source };
        let bytes = match self {
            SecretSource::Passphrase(passphrase) => passphrase.0.clone(),
            SecretSource::PassphraseFile(path) => read_file(path, PASSPHRASE_LIMIT + 2).map_err(unreadable)?,
            SecretSource::PassphraseCommand(command) => {
                let (bytes, status) = run(command, None, PASSPHRASE_LIMIT + 2).map_err(unreadable)?;
                if !status.success() {
                    return Err(SecretError::CommandFailed { place: self.to_string(), status });
                }
                bytes
            }
            SecretSource::KeyFile(_) => return Err(self.other_kind("a key file", "a passphrase")),
            SecretSource::KeyCommand(_) => return Err(self.other_kind("a key", "a passphrase")),
        };
        Passphrase::checked(bytes).map_err(|problem| SecretError::Malformed { place: self.to_string(), problem })
    }

    /// The bytes of the key file; an error if this is a passphrase.
    pub fn read_key_file(&self) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        match self {
            SecretSource::KeyFile(path) => {
                read_file(path, KEY_FILE_LIMIT).map_err(|source| SecretError::Unreadable { place: self.to_string(), source })
            }
            _ => Err(self.other_kind("a passphrase", "a key file")),
        }
    }

    fn other_kind(&self, found: &'static str, wanted: &'static str) -> SecretError {
        SecretError::OtherKind { place: self.to_string(), found, wanted }
    }
}

fn read_file(path: &Path, limit: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    read_to_limit(File::open(path)?, limit)
}

/// What a key's command is asked to do; told to it as `PGCAIRN_KEY_OPERATION`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyOperation {
    /// A key file's text is on its standard input; it prints the wrapped key.
    Wrap,
    /// The wrapped key is on its standard input; it prints the key file's text.
    Unwrap,
}

/// Has a command wrap or unwrap a key.
///
/// # Errors
/// If it can't be run, fails, or prints more than `limit` bytes.
pub fn run_key_command(command: &str, operation: KeyOperation, input: &[u8], limit: usize) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let (bytes, status) = run(command, Some((operation, input)), limit)
        .map_err(|source| SecretError::Unreadable { place: "what the key's command prints".into(), source })?;
    if status.success() { Ok(bytes) } else { Err(SecretError::CommandFailed { place: "the key's command".into(), status }) }
}

/// Runs the command, with an empty stdin unless something is given; its stderr is ours, so that its complaints are seen.
fn run(command: &str, given: Option<(KeyOperation, &[u8])>, limit: usize) -> io::Result<(Zeroizing<Vec<u8>>, ExitStatus)> {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).stdin(if given.is_some() { Stdio::piped() } else { Stdio::null() }).stdout(Stdio::piped());
    if let Some((operation, _)) = given {
        shell.env("PGCAIRN_KEY_OPERATION", if operation == KeyOperation::Wrap { "wrap" } else { "unwrap" });
    }
    let mut child = shell.spawn()?;
    let stdin = child.stdin.take();
    let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let bytes = std::thread::scope(|scope| {
        // It may print before it has read all, or read nothing at all.
        if let (Some(mut stdin), Some((_, input))) = (stdin, given) {
            scope.spawn(move || drop(stdin.write_all(input)));
        }
        let bytes = read_to_limit(stdout, limit);
        if bytes.is_err() {
            // It would wait for a reader; it has ended already or is ended here, and must not stay a zombie.
            let _ = child.kill();
        }
        bytes
    });
    let status = child.wait()?;
    Ok((bytes?, status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_file(bytes: &[u8]) -> Result<Passphrase, SecretError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        std::fs::write(&path, bytes).unwrap();
        SecretSource::PassphraseFile(path).read_passphrase()
    }

    #[test]
    fn a_passphrase_is_one_line() {
        for (bytes, expected) in [
            (b"word".as_slice(), b"word".as_slice()),
            (b"word\n", b"word"),
            (b"word\r\n", b"word"),
            (b" two words \n", b" two words "),
            (b"\xff\xfe\n", b"\xff\xfe"),
        ] {
            assert_eq!(of_file(bytes).unwrap().as_bytes(), expected);
        }
        for (bytes, says) in [
            (b"".as_slice(), "empty"),
            (b"\n", "empty"),
            (b"\r\n", "empty"),
            (b"a\nb", "several lines"),
            (b"a\n\n", "several lines"),
            (b"a\r", "several lines"),
            (b"a\0", "zero byte"),
        ] {
            let error = of_file(bytes).unwrap_err();
            assert!(error.to_string().contains(says), "{bytes:?}: {error}");
            assert_eq!(error.class(), Class::Usage);
        }
        assert_eq!(of_file(&[b'x'; 4096]).unwrap().as_bytes().len(), 4096);
        assert!(of_file(&[b'x'; 4097]).is_err());
        assert!(matches!(of_file(&[b'x'; 5000]), Err(SecretError::Unreadable { .. })));
        let error = SecretSource::PassphraseFile("/does/not/exist".into()).read_passphrase().unwrap_err();
        assert_eq!(error.class(), Class::Usage);
    }

    #[test]
    fn a_command_prints_it() {
        let of = |command: &str| SecretSource::PassphraseCommand(command.into()).read_passphrase();
        assert_eq!(of("printf 'a b\\r\\n'").unwrap().as_bytes(), b"a b");
        assert!(matches!(of("echo x; exit 3"), Err(SecretError::CommandFailed { status, .. }) if status.code() == Some(3)));
        assert!(matches!(of("true"), Err(SecretError::Malformed { .. })));
        assert!(matches!(of("yes"), Err(SecretError::Unreadable { .. })), "endless output is cut and the command ended");
        assert!(matches!(of("cat"), Err(SecretError::Malformed { .. })), "stdin is empty");
    }

    #[test]
    fn a_key_command_is_given_what_it_wraps() {
        let ask = |command: &str, operation| run_key_command(command, operation, b"in", 100).map(|out| out.to_vec());
        assert_eq!(ask("cat; printf \"$PGCAIRN_KEY_OPERATION\"", KeyOperation::Wrap).unwrap(), b"inwrap");
        assert_eq!(ask("printf \"$PGCAIRN_KEY_OPERATION\"", KeyOperation::Unwrap).unwrap(), b"unwrap", "it needs no input");
        assert!(
            matches!(ask("cat; exit 4", KeyOperation::Wrap), Err(SecretError::CommandFailed { status, .. }) if status.code() == Some(4))
        );
        assert!(matches!(ask("yes", KeyOperation::Wrap), Err(SecretError::Unreadable { .. })));
        let large = vec![7; 1 << 20];
        let out = run_key_command("cat", KeyOperation::Wrap, &large, 2 << 20).unwrap();
        assert!(*out == large, "no pipe is full for ever");
    }

    #[test]
    fn secrets_are_not_shown() {
        let source = SecretSource::Passphrase(Passphrase::unchecked("hidden".into()));
        assert!(!format!("{source:?} {source}").contains("hidden"));
        assert!(matches!(source.read_key_file(), Err(SecretError::OtherKind { .. })));
        assert!(matches!(SecretSource::KeyFile("/k".into()).read_passphrase(), Err(SecretError::OtherKind { .. })));
    }
}
