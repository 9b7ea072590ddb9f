//! Does the restore_command work for who will run it? Tried once, before a restore is called a success: as the owner of
//! the data directory, by `sh`, with nothing in the environment but what the caller says.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::RestoreError;

/// Where the file is put, relative to the data directory: as the server calls it, but for the name.
const PUT: &str = "pg_wal/pgcairn-probe";
/// What is kept of its words, in bytes.
const MOST_WORDS: u64 = 4096;

/// What came of the trial.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tried {
    /// It brought the file, of so many bytes.
    Brought(u64),
    /// It said that the file isn't there: exit 1 to 125.
    Absent {
        /// The code.
        code: i32,
        /// What it said, the end of it.
        said: String,
    },
    /// It failed in a way that stops a server, or it brought nothing and called that a success.
    Failed {
        /// How it ended.
        how: String,
        /// What it said, the end of it.
        said: String,
    },
}

/// The user and group that own a data directory.
///
/// # Errors
/// If it can't be looked up.
pub fn owner_of(data_directory: &Path) -> Result<(u32, u32), RestoreError> {
    let m = std::fs::metadata(data_directory).map_err(RestoreError::io(format!("looking up {}", data_directory.display())))?;
    Ok((m.uid(), m.gid()))
}

/// Runs `restore_command`, with these variables alone, for the file `name`: one that is surely absent, or the first segment that is needed. Whatever
/// it brings is removed again. Not back after `patience`, it is stopped with all that it started.
///
/// # Errors
/// If it can't be run at all.
pub fn try_restore_command(
    restore_command: &str,
    data_directory: &Path,
    name: &str,
    environment: &[(OsString, OsString)],
    patience: Duration,
) -> Result<Tried, RestoreError> {
    let (uid, gid) = owner_of(data_directory)?;
    let put = data_directory.join(PUT);
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(filled_in(restore_command, name, PUT)).env_clear();
    command.envs(environment.iter().cloned()).current_dir(data_directory);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    if nix::unistd::geteuid().is_root() {
        // Without root's further groups, too: that is how the standard library does it.
        command.uid(uid).gid(gid);
    }
    let mut child = command.spawn().map_err(RestoreError::io("running restore_command"))?;
    let words = listen(&mut child);
    let ended = wait(&mut child, patience).map_err(RestoreError::io("waiting for restore_command"))?;
    // Something that it left running may hold its other end open: it isn't waited for.
    let said = words.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
    let brought = std::fs::metadata(&put).ok().map(|m| m.len());
    match std::fs::remove_file(&put) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(RestoreError::io(format!("removing {}", put.display()))(e)),
        _ => {}
    }
    Ok(judge(ended, brought, said))
}

/// `%f`, `%p`, `%r` and `%%` as the server replaces them (`BuildRestoreCommand`).
fn filled_in(command: &str, name: &str, path: &str) -> String {
    let mut out = String::with_capacity(command.len() + name.len() + path.len());
    let mut rest = command;
    while let Some((before, behind)) = rest.split_once('%') {
        out.push_str(before);
        let (with, used) = match behind.chars().next() {
            Some('f') | Some('r') => (name, 1),
            Some('p') => (path, 1),
            Some('%') => ("%", 1),
            _ => ("%", 0),
        };
        out.push_str(with);
        rest = behind.get(used..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// The end of what a child says, once it is done with it.
fn listen(child: &mut Child) -> mpsc::Receiver<String> {
    let (tell, words) = mpsc::channel();
    if let Some(mut stderr) = child.stderr.take() {
        std::thread::spawn(move || {
            let mut said = Vec::new();
            let _ = stderr.by_ref().take(MOST_WORDS).read_to_end(&mut said);
            // A full pipe would stop it: what is too much is read, and forgotten.
            let _ = io::copy(&mut stderr, &mut io::sink());
            let _ = tell.send(String::from_utf8_lossy(&said).trim().to_owned());
        });
    }
    words
}

/// `None`: it had to be stopped.
fn wait(child: &mut Child, patience: Duration) -> io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() >= patience {
            let group = nix::unistd::Pid::from_raw(-(child.id() as i32));
            // Its whole group, which it leads; that it has ended meanwhile is no failure.
            let _ = nix::sys::signal::kill(group, nix::sys::signal::Signal::SIGKILL);
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn judge(ended: Option<ExitStatus>, brought: Option<u64>, said: String) -> Tried {
    if let Some(code @ 1..=125) = ended.and_then(|status| status.code()) {
        return Tried::Absent { code, said };
    }
    let failed = |how: String| Tried::Failed { how, said };
    let Some(status) = ended else { return failed("it did not end in time".into()) };
    match (status.code(), brought) {
        (Some(0), Some(bytes)) => Tried::Brought(bytes),
        (Some(0), None) => failed("it called it a success and brought nothing".into()),
        (Some(code), _) => failed(format!("exit {code}")),
        (None, _) => failed(format!("signal {}", status.signal().unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn placeholders_are_filled_in_as_the_server_does() {
        for (command, expected) in [
            ("cp /a/%f \"%p\"", "cp /a/NAME \"P\""),
            ("x %% %r %q %", "x % NAME %q %"),
            ("'100%%' %f%f", "'100%' NAMENAME"),
            ("é%fé", "éNAMEé"),
        ] {
            assert_eq!(filled_in(command, "NAME", "P"), expected);
        }
    }

    #[test]
    fn success_absence_and_failure_are_told_apart() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("pg_wal")).unwrap();
        let run = |command: &str, seconds| {
            try_restore_command(command, scratch.path(), "00000001000000000000000A", &[], Duration::from_secs(seconds)).unwrap()
        };
        assert_eq!(run("printf %%s %f > %p", 60), Tried::Brought(24));
        assert_eq!(run("echo part > %p; exit 1", 60), Tried::Absent { code: 1, said: String::new() });
        assert_eq!(run("exit 125", 60), Tried::Absent { code: 125, said: String::new() });
        assert_eq!(run("echo no key >&2; exit 126", 60), Tried::Failed { how: "exit 126".into(), said: "no key".into() });
        assert!(matches!(run("/no/such/program %f %p", 60), Tried::Failed { how, .. } if how == "exit 127"));
        assert!(matches!(run("kill -9 $$", 60), Tried::Failed { how, .. } if how == "signal 9"));
        assert!(matches!(run("true", 60), Tried::Failed { how, .. } if how.contains("brought nothing")));
        assert!(matches!(run("sleep 1000 & sleep 1000", 0), Tried::Failed { how, .. } if how.contains("in time")));
        let one = [(OsString::from("AWS_X"), OsString::from("7"))];
        let with = try_restore_command("test \"$AWS_X\" = 7 && exit 9", scratch.path(), "x", &one, Duration::from_secs(60)).unwrap();
        assert_eq!(with, Tried::Absent { code: 9, said: String::new() });
        // Nothing of the caller's environment gets there, and nothing is left behind.
        assert_eq!(run("test -z \"$HOME$USER$CARGO_MANIFEST_DIR\"", 60), run("true", 60));
        assert_eq!(fs::read_dir(scratch.path().join("pg_wal")).unwrap().count(), 0);
        // A flood of words stops nothing.
        assert!(matches!(run("yes | head -c 300000 >&2; exit 200", 60), Tried::Failed { how, .. } if how == "exit 200"));
    }
}
