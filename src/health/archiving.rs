//! archive_command, as the archiver runs it: in the data directory, as the server's user, with nothing in its environment
//! but what the server has for services of S3.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Line;
use crate::host::service_variables_of;
use crate::pg::connection::{Connection, PgConnError};
use crate::units::{Cancel, SegmentName};

/// A name that no server gives a file of WAL: `archive-push` of it says where it would store, stores nothing and fails.
pub const PROBE: &str = "pgcairn-check";

/// What `archive-push` answers to the probe, on one line.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Answer {
    /// The repository's id.
    pub repository: String,
    /// The cluster's name.
    pub cluster: String,
    /// May this host's key archive for it?
    pub may_write: bool,
}

impl Answer {
    /// What the line begins with.
    pub const MARK: &'static str = "pgcairn-check ";

    /// The line.
    pub fn line(&self) -> String {
        format!("{}{}", Answer::MARK, serde_json::to_string(self).unwrap_or_default())
    }

    /// Looks for it in what a command printed.
    pub fn find(printed: &str) -> Option<Answer> {
        printed.lines().find_map(|line| serde_json::from_str(line.strip_prefix(Answer::MARK)?).ok())
    }
}

/// The most that is read of what a command prints.
const MOST_PRINTED: usize = 64 << 10;
/// Between two looks at it.
const OFTEN: Duration = Duration::from_millis(20);
/// How long its words are awaited once it has ended.
const LINGER: Duration = Duration::from_secs(1);

/// What came of running the command.
pub enum Tried {
    /// It is a pgcairn.
    Ours(Answer),
    /// It ended with this code, or by a signal, and said this.
    Other {
        /// The exit code.
        code: Option<i32>,
        /// Its last line.
        said: String,
    },
    /// It didn't end in time.
    Slow,
    /// It can't be started here.
    NotRun(String),
}

/// Puts a path and a name in, as the server does (`BuildArchiveCommand`, access/transam/shell_archive.c).
pub fn filled(command: &str, path: &str, name: &str) -> String {
    let mut out = String::with_capacity(command.len() + path.len());
    let mut chars = command.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('%', Some('p')) => out.push_str(path),
            ('%', Some('f')) => out.push_str(name),
            ('%', Some('%')) => out.push('%'),
            (c, _) => {
                out.push(c);
                continue;
            }
        }
        chars.next();
    }
    out
}

/// Runs it on [`PROBE`]. As root it is run as the owner of the data directory.
pub fn try_command(command: &str, pgdata: &Path, patience: Duration, cancel: &Cancel) -> Tried {
    let line = filled(command, &format!("pg_wal/{PROBE}"), PROBE);
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(line).current_dir(pgdata).env_clear().envs(of_server(pgdata)).env("PWD", pgdata);
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    match std::fs::metadata(pgdata) {
        Ok(owner) if nix::unistd::geteuid().is_root() && owner.uid() != 0 => _ = shell.uid(owner.uid()).gid(owner.gid()),
        Ok(_) => {}
        Err(e) => return Tried::NotRun(format!("{}: {e}", pgdata.display())),
    }
    let mut child = match shell.spawn() {
        Ok(child) => child,
        Err(e) => return Tried::NotRun(e.to_string()),
    };
    let words = [Words::listen(child.stdout.take()), Words::listen(child.stderr.take())];
    // All that it has started.
    let group = nix::unistd::Pid::from_raw(child.id().cast_signed());
    let kill = || _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    let until = Instant::now() + patience;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < until && !cancel.is_cancelled() => std::thread::sleep(OFTEN),
            _ => {
                kill();
                drop(child.wait());
                return Tried::Slow;
            }
        }
    };
    // What it left running may hold the other ends open for ever.
    if !words.iter().all(|words| words.have_ended(until.min(Instant::now() + LINGER), cancel)) {
        kill();
    }
    let [out, err] = words.map(|words| words.so_far(Instant::now() + LINGER));
    match Answer::find(&out) {
        Some(answer) => Tried::Ours(answer),
        None => {
            let said = err.lines().chain(out.lines()).map(str::trim).find(|line| !line.is_empty()).unwrap_or("nothing");
            Tried::Other { code: status.code(), said: said.chars().filter(|c| !c.is_control()).take(300).collect() }
        }
    }
}

/// The variables for services of S3 that the running server has, and so its archiver; none where they can't be read.
fn of_server(pgdata: &Path) -> Vec<(OsString, OsString)> {
    let pid = std::fs::read_to_string(pgdata.join("postmaster.pid")).ok();
    let pid = pid.and_then(|text| text.lines().next()?.trim().parse::<u32>().ok());
    pid.map(service_variables_of).unwrap_or_default()
}

/// What a child prints, as it comes.
struct Words {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Cut off when all other ends of the pipe are closed.
    ended: Receiver<()>,
}

impl Words {
    fn listen(pipe: Option<impl Read + Send + 'static>) -> Words {
        let (bytes, (tell, ended)) = (Arc::new(Mutex::new(Vec::new())), channel());
        let words = Words { bytes: Arc::clone(&bytes), ended };
        std::thread::spawn(move || {
            let _tell: Sender<()> = tell;
            let Some(mut pipe) = pipe else { return };
            let mut part = [0; 4096];
            // Whoever prints more than is kept must not wait for a reader.
            while let Ok(n @ 1..) = pipe.read(&mut part) {
                let mut bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
                let room = MOST_PRINTED.saturating_sub(bytes.len());
                bytes.extend(part.iter().take(n.min(room)));
            }
        });
        words
    }

    fn have_ended(&self, until: Instant, cancel: &Cancel) -> bool {
        loop {
            match self.ended.recv_timeout(OFTEN) {
                Err(RecvTimeoutError::Disconnected) | Ok(()) => return true,
                Err(RecvTimeoutError::Timeout) if Instant::now() < until && !cancel.is_cancelled() => {}
                Err(RecvTimeoutError::Timeout) => return false,
            }
        }
    }

    /// All of them, or what there is by then.
    fn so_far(self, until: Instant) -> String {
        let _ = self.have_ended(until, &Cancel::new());
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

/// What to say of it. `wanted` is where it should lead, `lines` what belongs into postgresql.conf.
pub fn line(command: Option<&str>, tried: &Tried, wanted: &Answer, lines: &[String]) -> Line {
    const NAME: &str = "archive_command";
    let cure = || format!("set {}, and reload", lines.last().map_or("archive_command", String::as_str));
    match tried {
        _ if command.is_none() => Line::error(NAME, "archive_command is empty: WAL piles up in pg_wal, and nothing is archived", cure()),
        Tried::Ours(found) if found.repository != wanted.repository => {
            Line::error(NAME, format!("archive_command archives to another repository, {}", found.repository), cure())
        }
        Tried::Ours(found) if found.cluster != wanted.cluster => {
            Line::error(NAME, format!("archive_command archives as cluster {}, and not as {}", found.cluster, wanted.cluster), cure())
        }
        Tried::Ours(Answer { may_write: false, .. }) => Line::error(
            NAME,
            "archive_command runs, but the key that it uses may not archive for this cluster",
            "enrol this host as a writer for the cluster: pgcairn key add-host",
        ),
        Tried::Ours(_) => Line::ok(NAME, "archive_command runs with an empty environment, and leads to this repository and cluster"),
        Tried::Other { code, said } => {
            let code = code.map_or("a signal".to_owned(), |code| format!("exit code {code}"));
            Line::error(NAME, format!("archive_command, run as the archiver does, is no pgcairn or can't work: {code}: {said}"), cure())
        }
        Tried::Slow => Line::error(NAME, "archive_command didn't end in time when it was run as the archiver does", cure()),
        Tried::NotRun(why) => Line::warning(
            NAME,
            format!("archive_command could not be run from here: {why}"),
            "run check on the server's machine, as the server's user",
        ),
    }
}

/// Makes the server finish a segment; its name.
///
/// # Errors
/// If the server can't be asked, or the role may not do it.
pub fn switch(connection: &mut Connection) -> Result<Option<SegmentName>, PgConnError> {
    const DURING: &str = "switching to the next WAL segment";
    // A server that has written nothing since the last switch has nothing to switch.
    connection.query(DURING, "SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text")?;
    let rows = connection.query(DURING, "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_switch_wal())")?;
    let name: Option<String> = rows.first().and_then(|row| row.try_get(0).ok());
    Ok(name.and_then(|name| name.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::State;

    #[test]
    fn the_command_is_filled_as_the_server_does() {
        for (command, expected) in [
            ("pgcairn archive-push %p", "pgcairn archive-push pg_wal/x"),
            ("cp %p /a/%f", "cp pg_wal/x /a/x"),
            ("date +%%s; %", "date +%s; %"),
            ("100%% %r %p%p", "100% %r pg_wal/xpg_wal/x"),
        ] {
            assert_eq!(filled(command, "pg_wal/x", "x"), expected);
        }
    }

    fn wanted() -> Answer {
        Answer { repository: "ab".into(), cluster: "main".into(), may_write: true }
    }

    #[test]
    fn a_command_is_judged_by_what_it_answers() {
        let folder = tempfile::tempdir().unwrap();
        let lines = ["archive_command = 'x'".to_owned()];
        let ours = wanted().line().replace('"', "\\\"");
        let other = |what: &str| ours.replace(what, "zz");
        for (command, state, words) in [
            (format!("echo \"{ours}\"; exit 1"), State::Ok, "leads to this repository"),
            (format!("echo \"{}\"", other("ab")), State::Error, "another repository, zz"),
            (format!("echo \"{}\"", other("main")), State::Error, "as cluster zz"),
            (format!("echo \"{}\"", ours.replace("true", "false")), State::Error, "may not archive"),
            ("test -z \"$HOME$PGCAIRN_REPO\" && echo bad >&2; exit 7".into(), State::Error, "exit code 7: bad"),
            ("kill -9 $$".into(), State::Error, "a signal: nothing"),
            ("/nowhere/pgcairn archive-push %p".into(), State::Error, "exit code 127"),
        ] {
            let tried = try_command(&command, folder.path(), Duration::from_secs(60), &Cancel::new());
            let line = line(Some(&command), &tried, &wanted(), &lines);
            assert!(line.state == state && line.text.contains(words), "{command}: {line:?}");
            assert_eq!(line.cure.is_some(), state != State::Ok);
        }
        let slow = try_command("sleep 600 & wait", folder.path(), Duration::from_millis(50), &Cancel::new());
        assert!(line(Some("x"), &slow, &wanted(), &lines).text.contains("didn't end in time"));
        assert!(line(None, &slow, &wanted(), &lines).text.contains("is empty"));
        let nowhere = try_command("true", Path::new("/nowhere"), Duration::from_secs(9), &Cancel::new());
        assert_eq!(line(Some("x"), &nowhere, &wanted(), &lines).state, State::Warning);
    }

    /// The pipe of its words stays open for as long as what it left running likes.
    #[test]
    fn what_a_command_leaves_running_is_not_awaited() {
        let folder = tempfile::tempdir().unwrap();
        let ours = wanted().line().replace('"', "\\\"");
        let late = |name: &str| format!("sh -c 'echo $$ > {name}.pid; sleep 30; echo > {name}.late'");
        let commands = [
            ("group", format!("echo \"{ours}\"; {} & until test -s group.pid; do :; done; exit 1", late("group")), true),
            // Out of its process group, too: nothing ends it.
            ("away", format!("setsid {} & until test -s away.pid; do :; done; exit 7", late("away")), false),
        ];
        for (name, command, is_ours) in commands {
            let tried = try_command(&command, folder.path(), Duration::from_secs(600), &Cancel::new());
            assert!(!folder.path().join(format!("{name}.late")).exists(), "{name}: it was awaited");
            assert!(if is_ours { matches!(tried, Tried::Ours(_)) } else { matches!(tried, Tried::Other { code: Some(7), .. }) }, "{name}");
            let pid = std::fs::read_to_string(folder.path().join(format!("{name}.pid"))).unwrap();
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            assert_eq!(!stat.is_empty() && !stat.contains(") Z "), !is_ours, "{name}: {stat}");
            if !is_ours {
                let group = nix::unistd::Pid::from_raw(pid.trim().parse().unwrap());
                nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).unwrap();
            }
        }
    }
}
