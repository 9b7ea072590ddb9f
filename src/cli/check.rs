//! `check`: is this cluster's backup set-up sound, end to end?

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::args::values;
use super::context::{Context, Here};
use super::contract::Exit;
use super::failure::Failure;
use super::output::{answered, health, json};
use super::own_command::OwnCommand;
use super::postgresql_conf;
use super::tail::OpenedTail;
use crate::archive;
use crate::backup::checks;
use crate::backup::source::Disk;
use crate::health::archiving::{self, Answer, Tried};
use crate::health::server::{self, Server};
use crate::health::{Line, State, place, worst};
use crate::host::HostError;
use crate::host::access::{Need, Opened, process_tag};
use crate::host::config::{ClusterKeys, ClusterSettings, SecretSource};
use crate::pg::connection::{ConnectOptions, Connection, PgConnError};
use crate::pg::conninfo::{Conninfo, Surroundings};
use crate::repo::log::Role;
use crate::store::StoreError;
use crate::units::{Explain, Progress, SegmentName, Timestamp, counted, with_causes};

/// Arguments of `check`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The data directory (default: the server says it)
    #[arg(long, value_name = "DIR")]
    pgdata: Option<PathBuf>,
    /// The server: libpq's words or URL (default: PGHOST and so on)
    #[arg(long, value_name = "CONNINFO")]
    dsn: Option<String>,
    /// How long a switched segment may take to arrive
    #[arg(long, value_name = "DURATION", value_parser = values::duration, default_value = "60s")]
    timeout: Duration,
    /// Don't make the server switch to another WAL segment
    #[arg(long)]
    no_switch: bool,
}

impl Args {
    pub(super) fn cluster_keys(&self) -> ClusterKeys {
        ClusterKeys { pgdata: self.pgdata.clone(), dsn: self.dsn.clone(), ..ClusterKeys::default() }
    }
}

#[derive(Serialize)]
struct Checked<'a> {
    version: u32,
    ok: bool,
    cluster: &'a str,
    lines: &'a [Line],
}

/// How long archive_command may take to say where it leads.
const COMMAND: Duration = Duration::from_secs(30);

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let cluster = context.settings.cluster(None)?;
    let here = context.here(Some(&cluster), Need::Write)?;
    let mut lines = Vec::new();
    let opened = match context.open(&here, Need::Write) {
        Ok(opened) => {
            lines.extend(repository(&here, &opened, &cluster));
            Some(opened)
        }
        Err(failure) => {
            let said = failure.describe();
            let why = if said.why.is_empty() { String::new() } else { format!(": {}", said.why.join(": ")) };
            lines.push(Line::error("repository", format!("{}{why}", said.what), said.cure.unwrap_or_else(|| "see above".into())));
            None
        }
    };
    let archiving = postgresql_conf::archiving(&OwnCommand::find(context, &here, &cluster.name)?.line(&["archive-push", "%p"]));
    let checked = Cluster { context, args, cluster: &cluster, opened: opened.as_ref(), archiving };
    let server = checked.server(&mut lines);
    let newest = opened.as_ref().map_or(Timestamp(0), |opened| opened.view().fold.newest_time);
    lines.push(place::clocks(Timestamp::now(), server.map(|s| s.clock), newest));
    let state = worst(&lines);
    let out = &mut io::stdout().lock();
    let answer = Checked { version: 1, ok: state == State::Ok, cluster: &cluster.name, lines: &lines };
    answered(if context.settings.json { json::write(out, &answer) } else { write_text(out, &lines, state) })?;
    Ok(match state {
        State::Ok => Exit::DONE,
        State::Warning => Exit::LOOK,
        State::Error => Exit::UNSOUND,
    })
}

fn write_text(out: &mut dyn Write, lines: &[Line], state: State) -> io::Result<()> {
    health::write(out, lines)?;
    let said = match state {
        State::Ok => "all is well; the next step is a backup, and then a restore that is tried",
        State::Warning => "it works, and what is marked as a warning should be looked at",
        State::Error => "what is marked as an error must be mended first",
    };
    writeln!(out, "\n{said}")
}

/// The repository, from this host.
fn repository(here: &Here, opened: &Opened, cluster: &ClusterSettings) -> Vec<Line> {
    let url = &here.repository.url;
    let mut lines = vec![Line::ok("repository", format!("repository {} at {url} is open", opened.format.repository))];
    let proof = process_tag().and_then(|tag| opened.backend.prove(&tag));
    lines.push(match proof {
        Ok(said) if said.is_empty() => Line::ok("writable", "it can be written, and of several writers of one name only one wins"),
        Ok(said) => {
            Line::ok("writable", format!("it can be written, and of several writers of one name only one wins; {}", said.join("; ")))
        }
        Err(e) => Line::error("writable", with_causes(&e), e.cure().unwrap_or_else(|| "see docs/reliability.md on file systems".into())),
    });
    if let Some(path) = url.folder() {
        lines.push(place::room("repository_room", "the repository", path));
    }
    lines.extend(locks(opened));
    lines.push(keys(opened, cluster));
    lines.extend(used_elsewhere(opened));
    if let Some(line) = log(opened) {
        lines.push(line);
    }
    if let Some(state) = &here.state {
        lines.push(place::private("state", "the folder with this host's keys", state.path()));
    }
    if let Some(SecretSource::KeyFile(file) | SecretSource::PassphraseFile(file)) = &here.repository.secret {
        lines.push(place::private("secret", "the file", file));
    }
    lines
}

/// Has another host the key of this one?
fn used_elsewhere(opened: &Opened) -> Option<Line> {
    let (mixes, error) = match opened.used_elsewhere() {
        Ok(elsewhere) => {
            let elsewhere = elsewhere?;
            (elsewhere.is_backup(), HostError::from(elsewhere))
        }
        Err(error) => (true, error),
    };
    let (text, cure) = (with_causes(&error), error.cure().unwrap_or_default());
    Some(if mixes { Line::error("host_key", text, cure) } else { Line::warning("host_key", text, cure) })
}

/// Can what is stored be locked, where it shall be?
fn locks(opened: &Opened) -> Option<Line> {
    const NAME: &str = "object_lock";
    let locks = opened.backend.locks()?;
    Some(match locks.bucket() {
        Ok(bucket) if bucket.object_lock && bucket.versioning => {
            Line::ok(NAME, format!("the bucket has versioning and object lock: what a snapshot needs is locked for {} days", locks.days()))
        }
        Ok(_) => {
            let error = StoreError::NoLocks { store: opened.backend.describe() };
            Line::error(NAME, error.to_string(), error.cure().unwrap_or_default())
        }
        Err(e) => Line::warning(
            NAME,
            format!("whether the bucket has versioning and object lock can't be asked: {}", with_causes(&e)),
            "let this credential s3:GetBucketVersioning and s3:GetBucketObjectLockConfiguration, or run check by one that may",
        ),
    })
}

/// What this host's key may do, and what a backup needs.
fn keys(opened: &Opened, cluster: &ClusterSettings) -> Line {
    const NAME: &str = "keys";
    let view = opened.view();
    let key = opened.signer.as_ref().and_then(|s| Some((s.id(), view.fold.keys.get(&s.id())?)));
    match key {
        None => Line::error(
            NAME,
            "this host has no key of its own in this repository",
            "the first command that writes enrols it: give it a passphrase or key file",
        ),
        Some((id, key)) if !key.is_active() => Line::error(
            NAME,
            format!("this host's key {id} was revoked"),
            "enrol this host again: its owner's passphrase or key file, or key add-host",
        ),
        Some((id, key)) if !key.may(Role::Writer, Some(&cluster.name)) => Line::error(
            NAME,
            format!("this host's key {id} is no writer for cluster {}", cluster.name),
            "let its owner enrol it as one: key add-host --role writer",
        ),
        Some((id, _)) => {
            let reads = match opened.opening {
                Some(_) => "and opens content",
                None => "and opens no content: this host can't restore or verify what it stores",
            };
            Line::ok(NAME, format!("this host's key {id} may write for cluster {}, {reads}", cluster.name))
        }
    }
}

fn log(opened: &Opened) -> Option<Line> {
    let view = opened.view();
    if let Some(doubt) = view.doubt() {
        return Some(Line::error("log", with_causes(&doubt), doubt.cure().unwrap_or_else(|| "pgcairn verify says more".into())));
    }
    let (number, alarm) = view.fold.alarms.last_key_value()?;
    Some(Line::warning(
        "log",
        format!(
            "{} void, the last one log/{number}: {}",
            counted(view.fold.alarms.len(), "entry of the log is", "entries of the log are"),
            alarm.why
        ),
        "find out who wrote it: somebody without the right, or with an old program, writes to the repository",
    ))
}

/// A cluster that is looked at.
struct Cluster<'a> {
    context: &'a Context,
    args: &'a Args,
    cluster: &'a ClusterSettings,
    opened: Option<&'a Opened>,
    archiving: [String; 3],
}

impl Cluster<'_> {
    /// The server, its archiving, and its data directory.
    fn server(&self, lines: &mut Vec<Line>) -> Option<Server> {
        match self.ask() {
            Ok((mut connection, server)) => {
                self.data_directory(&mut connection, &server, lines);
                lines.extend(server.lines(&self.archiving));
                if server.facts.archive_mode != "off" && server.facts.archive_library.is_none() {
                    self.archiving(&mut connection, &server, lines);
                }
                Some(server)
            }
            Err((what, cure)) => {
                lines.push(Line::error("server", what, cure.unwrap_or_else(|| "start the server, and check --dsn".into())));
                None
            }
        }
    }

    fn ask(&self) -> Result<(Connection, Server), (String, Option<String>)> {
        let told = |e: &dyn Explain| {
            let said = super::output::error::describe(e);
            let why = if said.why.is_empty() { String::new() } else { format!(": {}", said.why.join(": ")) };
            (format!("{}{why}", said.what), said.cure)
        };
        let dsn = self.cluster.dsn.as_deref().unwrap_or_default();
        let conninfo = Conninfo::parse(dsn, &Surroundings::of_process()).map_err(|e| told(&e))?;
        let options = ConnectOptions { application_name: "pgcairn check".into(), cancel: self.context.cancel.clone() };
        let mut connection = Connection::open(&conninfo, &options).map_err(|e| told(&e))?;
        let server = server::ask(&mut connection).map_err(|e| told(&e))?;
        Ok((connection, server))
    }

    fn pgdata(&self, server: &Server) -> Option<PathBuf> {
        self.cluster.pgdata.clone().or_else(|| server.facts.data_directory.clone())
    }

    /// Is it this server's, and can it be backed up from here?
    fn data_directory(&self, connection: &mut Connection, server: &Server, lines: &mut Vec<Line>) {
        let Some(pgdata) = self.pgdata(server) else {
            lines.push(Line::error(
                "server",
                "where the data directory lies is not known: the role may not see it",
                "GRANT pg_read_all_settings, or give --pgdata",
            ));
            return;
        };
        let looked = checks::read_major(&pgdata).and_then(|major| {
            let (control, _) = checks::read_control(&Disk, &pgdata)?;
            checks::check_online(connection, &server.facts, &control, &pgdata, major)
        });
        lines.push(match looked {
            Ok(()) => Line::ok("server", format!("PostgreSQL {} runs on {}", server.facts.version_text, pgdata.display())),
            Err(e) => Line::error(
                "server",
                with_causes(&e),
                e.cure().unwrap_or_else(|| "run check on the server's machine, as the server's user".into()),
            ),
        });
        lines.push(place::room("pg_wal_room", "pg_wal", &pgdata.join("pg_wal")));
        lines.extend(owner(&pgdata));
    }

    fn archiving(&self, connection: &mut Connection, server: &Server, lines: &mut Vec<Line>) {
        let Some(opened) = self.opened else { return };
        let Some(pgdata) = self.pgdata(server) else { return };
        if server.facts.archive_command.is_none() && !server.rights.settings {
            lines.push(Line::warning(
                "archive_command",
                "archive_command can't be seen: the role may not",
                format!("GRANT pg_read_all_settings TO {}", server.user),
            ));
            return;
        }
        let wanted = Answer { repository: opened.format.repository.to_string(), cluster: self.cluster.name.clone(), may_write: true };
        let command = server.facts.archive_command.as_deref();
        let tried = match command {
            Some(command) => archiving::try_command(command, &pgdata, COMMAND, &self.context.cancel),
            None => Tried::NotRun(String::new()),
        };
        lines.push(archiving::line(command, &tried, &wanted, &self.archiving));
        if self.args.no_switch || server.facts.in_recovery {
            return;
        }
        lines.push(self.switch(connection, server, opened));
    }

    /// A real segment, from the server into the repository.
    fn switch(&self, connection: &mut Connection, server: &Server, opened: &Opened) -> Line {
        const NAME: &str = "switch";
        let failed = server.archiver.failed_count;
        let begun = Instant::now();
        let segment = match archiving::switch(connection) {
            Ok(Some(segment)) => segment,
            Err(PgConnError::NoRight { .. }) => {
                return Line::warning(
                    NAME,
                    format!("role {} may not switch to another segment: that one arrives was not tried", server.user),
                    format!("GRANT EXECUTE ON FUNCTION pg_switch_wal() TO {}, or run check as a superuser once", server.user),
                );
            }
            Ok(None) => return Line::warning(NAME, "the server didn't say which segment it finished", "run check again"),
            Err(e) => return Line::error(NAME, with_causes(&e), "see the server's log"),
        };
        self.context.reporter.info(&format!("waiting for {segment}, at most {} s", self.args.timeout.as_secs()));
        match self.arrives(connection, server, opened, segment, begun, failed) {
            Ok(line) => line,
            Err(e) => Line::error(NAME, with_causes(&e), "see the server's log"),
        }
    }

    fn arrives(
        &self,
        connection: &mut Connection,
        server: &Server,
        opened: &Opened,
        segment: SegmentName,
        begun: Instant,
        failed: i64,
    ) -> Result<Line, PgConnError> {
        const NAME: &str = "switch";
        let tail = match OpenedTail::new(opened, &self.cluster.name) {
            Ok(tail) => tail,
            Err(e) => return Ok(Line::error(NAME, with_causes(&e), e.cure().unwrap_or_default())),
        };
        let cure = "the server's log has archive_command's own words";
        loop {
            match archive::segment(&tail.site(), server.facts.system_identifier, segment) {
                Ok(Some(_)) => {
                    return Ok(Line::ok(
                        NAME,
                        format!("{segment} was archived {:.1} s after the server finished it", begun.elapsed().as_secs_f64()),
                    ));
                }
                Ok(None) => {}
                Err(e) => {
                    return Ok(Line::error(
                        NAME,
                        format!("{segment} can't be looked for: {}", with_causes(&e)),
                        e.cure().unwrap_or(cure.into()),
                    ));
                }
            }
            let archiver = connection.archiver()?;
            if archiver.failed_count > failed {
                let name = archiver.last_failed.map(|(name, _)| name).unwrap_or_default();
                return Ok(Line::error(NAME, format!("archive_command failed for {name} while {segment} was waited for"), cure));
            }
            if begun.elapsed() > self.args.timeout || self.context.cancel.is_cancelled() {
                let text = format!("{segment} didn't arrive within {} s", self.args.timeout.as_secs());
                return Ok(Line::error(NAME, text, format!("{cure}; a long queue may only need longer: --timeout")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Commands of a cluster are run by the user of its server.
fn owner(pgdata: &Path) -> Option<Line> {
    use std::os::unix::fs::MetadataExt;
    let (owner, us) = (pgdata.metadata().ok()?.uid(), nix::unistd::geteuid().as_raw());
    Some(if owner == us {
        Line::ok("user", "this is the server's user")
    } else {
        let name = nix::unistd::User::from_uid(owner.into()).ok().flatten().map_or(owner.to_string(), |user| user.name);
        Line::warning(
            "user",
            format!("the data directory belongs to user {name}, and check runs as another: keys, state and rights may differ"),
            format!("run it as {name}: sudo -u {name} pgcairn check"),
        )
    })
}
