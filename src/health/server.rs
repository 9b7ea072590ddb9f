//! Is the server set up so that it can be backed up and restored to any point?

use super::Line;
use crate::pg::connection::{Archiver, Connection, Facts, PgConnError};
use crate::units::{ByteSize, Timestamp, counted};

/// What `check` asks a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    /// Its settings.
    pub facts: Facts,
    /// How archiving goes.
    pub archiver: Archiver,
    /// `archive_timeout` in seconds; 0: none.
    pub archive_timeout: i64,
    /// `summarize_wal`; none before 17.
    pub summarize_wal: Option<bool>,
    /// `fsync`.
    pub fsync: bool,
    /// `max_slot_wal_keep_size`, where it is limited.
    pub slots_limited: bool,
    /// Replication slots and the WAL that each keeps.
    pub slots: Vec<Slot>,
    /// Files that wait to be archived; none where the role may not see it (`pg_monitor`).
    pub waiting: Option<i64>,
    /// What the role may do.
    pub rights: Rights,
    /// The role.
    pub user: String,
    /// The server's clock.
    pub clock: Timestamp,
}

/// A replication slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Is somebody using it?
    pub active: bool,
    /// Bytes of WAL that it keeps.
    pub keeps: u64,
}

/// What the role may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights {
    /// Start and stop a backup.
    pub backup: bool,
    /// `pg_read_all_settings`.
    pub settings: bool,
    /// `pg_switch_wal()`.
    pub switch: bool,
}

const DURING: &str = "asking how the server is set up";

const SETTINGS: &str = "SELECT name, setting FROM pg_catalog.pg_settings \
     WHERE name IN ('archive_timeout', 'summarize_wal', 'fsync', 'max_slot_wal_keep_size')";

const SLOTS: &str = "SELECT slot_name::pg_catalog.text, active, \
     pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
     ELSE pg_catalog.pg_current_wal_lsn() END, restart_lsn)::pg_catalog.int8 \
     FROM pg_catalog.pg_replication_slots WHERE restart_lsn IS NOT NULL ORDER BY 3 DESC, 1";

const WAITING: &str = "SELECT count(*) FROM pg_catalog.pg_ls_archive_statusdir() WHERE name LIKE '%.ready'";

/// Whoever has none of these functions has no right to them either: their names changed with 15.
const RIGHTS: &str = "SELECT \
     coalesce(bool_and(pg_catalog.has_function_privilege(p.oid, 'EXECUTE')) FILTER (WHERE p.proname IN \
     ('pg_backup_start', 'pg_backup_stop') OR (p.proname = 'pg_start_backup' AND p.pronargs = 3) OR \
     (p.proname = 'pg_stop_backup' AND p.pronargs = 2)), false), \
     coalesce(bool_and(pg_catalog.has_function_privilege(p.oid, 'EXECUTE')) FILTER (WHERE p.proname = 'pg_switch_wal'), false), \
     pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE') \
     FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace";

/// Asks.
///
/// # Errors
/// If the server can't be asked.
pub fn ask(connection: &mut Connection) -> Result<Server, PgConnError> {
    let mut settings = std::collections::HashMap::new();
    for row in connection.query(DURING, SETTINGS)? {
        let get = |i| row.try_get::<_, String>(i).map_err(|e| PgConnError::answer(DURING, &e));
        settings.insert(get(0)?, get(1)?);
    }
    let mut slots = Vec::new();
    for row in connection.query(DURING, SLOTS)? {
        let answer = |e: &tokio_postgres::Error| PgConnError::answer(DURING, e);
        slots.push(Slot {
            name: row.try_get(0).map_err(|e| answer(&e))?,
            active: row.try_get(1).map_err(|e| answer(&e))?,
            keeps: row.try_get::<_, i64>(2).map_err(|e| answer(&e))?.max(0).cast_unsigned(),
        });
    }
    let waiting = match connection.query(DURING, WAITING) {
        Ok(rows) => rows.first().and_then(|row| row.try_get(0).ok()),
        Err(PgConnError::NoRight { .. }) => None,
        Err(e) => return Err(e),
    };
    let rows = connection.query(DURING, RIGHTS)?;
    let right = |i| rows.first().and_then(|row| row.try_get::<_, bool>(i).ok()).unwrap_or(false);
    Ok(Server {
        facts: connection.facts()?,
        archiver: connection.archiver()?,
        archive_timeout: settings.get("archive_timeout").and_then(|s| s.parse().ok()).unwrap_or(0),
        summarize_wal: settings.get("summarize_wal").map(|s| s == "on"),
        fsync: settings.get("fsync").is_none_or(|s| s == "on"),
        slots_limited: settings.get("max_slot_wal_keep_size").is_some_and(|s| s != "-1"),
        slots,
        waiting,
        rights: Rights { backup: right(0), switch: right(1), settings: right(2) },
        user: connection.user().to_owned(),
        clock: connection.clock()?,
    })
}

/// Slots that keep more than this are worth a look.
const SLOT_KEEPS: u64 = 1 << 30;
/// So many files waiting are more than the archiver's usual breath.
const WAITING_FILES: i64 = 5;
/// A segment is at most so old when it is archived, or a quiet server loses more.
const LONGEST_TIMEOUT: i64 = 3600;

impl Server {
    /// What to say of it; `lines` are those of postgresql.conf that `init` prints.
    pub fn lines(&self, archiving: &[String]) -> Vec<Line> {
        let mut lines = vec![self.wal_level(archiving), self.archive_mode(archiving)];
        if self.facts.archive_mode != "off" {
            lines.extend([self.archiver(), self.waiting(), self.archive_timeout()]);
        }
        lines.extend([self.durability(), self.checksums()]);
        lines.extend(self.summaries());
        lines.extend([self.slots(), self.rights()]);
        lines
    }

    fn wal_level(&self, archiving: &[String]) -> Line {
        match self.facts.wal_level.as_str() {
            "minimal" => Line::error(
                "wal_level",
                "wal_level is minimal: its WAL can't restore anything",
                format!("set {}, and restart the server", archiving.first().map_or("wal_level = replica", String::as_str)),
            ),
            level => Line::ok("wal_level", format!("wal_level is {level}")),
        }
    }

    fn archive_mode(&self, archiving: &[String]) -> Line {
        match (self.facts.archive_mode.as_str(), &self.facts.archive_library) {
            ("off", _) => Line::error(
                "archive_mode",
                "archive_mode is off: only snapshots taken with --wal copy can be restored, and only as themselves",
                format!(
                    "set {}, and restart the server; in a restored cluster, remove archive_mode = 'off' at the end of postgresql.auto.conf first",
                    archiving.join(", ")
                ),
            ),
            (_, Some(library)) => Line::error(
                "archive_mode",
                format!("archive_library is {library:?}: archive_command is not used"),
                "set archive_library = '', and reload",
            ),
            ("always", _) if !self.facts.in_recovery => Line::warning(
                "archive_mode",
                "archive_mode is always: a standby with the same setting pushes the same segments again",
                "set archive_mode = on unless standbys are meant to archive",
            ),
            (mode, _) => Line::ok("archive_mode", format!("archive_mode is {mode}")),
        }
    }

    fn archiver(&self) -> Line {
        let archiver = &self.archiver;
        match (&archiver.last_failed, &archiver.last_archived) {
            (Some((failed, at)), done) if done.as_ref().is_none_or(|(_, time)| time < at) => Line::error(
                "archiver",
                format!("archiving failed at {}: {failed}, and nothing was archived since", at.for_people()),
                "the server's log has the command's own words; nothing is lost as long as pg_wal has room",
            ),
            (_, Some((last, at))) => Line::ok("archiver", format!("{last} was archived at {}", at.for_people())),
            _ => Line::ok("archiver", "nothing was archived since the statistics were reset"),
        }
    }

    fn waiting(&self) -> Line {
        match self.waiting {
            None => Line::warning(
                "waiting",
                format!("how many files wait to be archived is not known: role {} may not see it", self.user),
                format!("GRANT pg_monitor TO {}", self.user),
            ),
            Some(n) if n > WAITING_FILES => Line::warning(
                "waiting",
                format!("{} to be archived, {} of WAL", counted(n, "file waits", "files wait"), self.plain(n)),
                "if they grow in number, archiving is slower than the server: see the server's log and the repository's speed",
            ),
            Some(n) => Line::ok("waiting", format!("{} to be archived", counted(n, "file waits", "files wait"))),
        }
    }

    fn plain(&self, files: i64) -> ByteSize {
        ByteSize(files.max(0).cast_unsigned().saturating_mul(self.facts.wal_segment_size.bytes().into()))
    }

    fn archive_timeout(&self) -> Line {
        match self.archive_timeout {
            0 => Line::warning(
                "archive_timeout",
                "archive_timeout is 0: what a quiet server commits stays only on it until 16 MB of WAL are full",
                "set archive_timeout = 60s (or as much as may be lost), and reload; segments cut short are stored in few bytes",
            ),
            s if s > LONGEST_TIMEOUT => Line::warning(
                "archive_timeout",
                format!("archive_timeout is {s} s: so much of a quiet server's work can be lost"),
                "set archive_timeout = 60s (or as much as may be lost), and reload",
            ),
            s => Line::ok("archive_timeout", format!("archive_timeout is {s} s")),
        }
    }

    fn durability(&self) -> Line {
        let off: Vec<&str> = [("fsync", self.fsync), ("full_page_writes", self.facts.full_page_writes)]
            .iter()
            .filter(|(_, on)| !on)
            .map(|(name, _)| *name)
            .collect();
        if off.is_empty() {
            return Line::ok("full_page_writes", "full_page_writes and fsync are on");
        }
        Line::error(
            "full_page_writes",
            format!("{} is off: a crash of the machine can damage the cluster, and then every backup after it", off.join(" and ")),
            "switch it on, and reload; a backup itself writes full pages as long as it runs",
        )
    }

    fn checksums(&self) -> Line {
        if self.facts.data_checksums {
            return Line::ok("data_checksums", "pages have checksums: each backup verifies what it reads");
        }
        Line::warning(
            "data_checksums",
            "pages have no checksums: a backup can't tell a damaged page from a good one",
            "stop the server and run pg_checksums --enable, at a time that suits",
        )
    }

    fn summaries(&self) -> Option<Line> {
        Some(match self.summarize_wal? {
            true => Line::ok("summarize_wal", "summarize_wal is on"),
            false => Line::ok("summarize_wal", "summarize_wal is off: changed files are found by size and times, and read"),
        })
    }

    fn slots(&self) -> Line {
        let idle: Vec<&Slot> = self.slots.iter().filter(|slot| slot.keeps > SLOT_KEEPS && !slot.active).collect();
        match idle.as_slice() {
            [] => Line::ok("slots", format!("{} replication slots, none of them keeps WAL that nobody fetches", self.slots.len())),
            [slot, ..] => {
                let (text, cure) = (
                    format!("slot {} keeps {} of WAL, and nobody uses it", slot.name, ByteSize(slot.keeps)),
                    format!("drop it: SELECT pg_drop_replication_slot('{}'), or start what reads it again", slot.name),
                );
                if self.slots_limited {
                    Line::warning("slots", text, cure)
                } else {
                    Line::error("slots", format!("{text}: pg_wal fills up"), cure)
                }
            }
        }
    }

    fn rights(&self) -> Line {
        let functions = match self.facts.version.major() {
            ..15 => "pg_start_backup(text, boolean, boolean), pg_stop_backup(boolean, boolean)",
            _ => "pg_backup_start(text, boolean), pg_backup_stop(boolean)",
        };
        match self.rights {
            Rights { backup: false, .. } => Line::error(
                "rights",
                format!("role {} may not take a backup", self.user),
                format!("GRANT EXECUTE ON FUNCTION {functions} TO {}", self.user),
            ),
            Rights { settings: false, .. } => Line::warning(
                "rights",
                format!("role {} doesn't see where the configuration files and the server's log lie", self.user),
                format!("GRANT pg_read_all_settings TO {}", self.user),
            ),
            _ => Line::ok("rights", format!("role {} may take backups", self.user)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{State, worst};
    use crate::pg::connection::ServerVersion;
    use crate::units::SegmentSize;

    fn sound() -> Server {
        Server {
            facts: Facts {
                version: ServerVersion(180_001),
                version_text: "18.1".into(),
                system_identifier: 7,
                in_recovery: false,
                data_directory: None,
                config_file: None,
                hba_file: None,
                ident_file: None,
                wal_level: "replica".into(),
                archive_mode: "on".into(),
                archive_command: Some("x".into()),
                archive_library: None,
                wal_segment_size: SegmentSize::DEFAULT,
                full_page_writes: true,
                data_checksums: true,
                block_size: 8192,
            },
            archiver: Archiver { last_archived: Some(("1".into(), Timestamp(5))), last_failed: None, failed_count: 0 },
            archive_timeout: 60,
            summarize_wal: Some(true),
            fsync: true,
            slots_limited: false,
            slots: vec![],
            waiting: Some(0),
            rights: Rights { backup: true, settings: true, switch: true },
            user: "backup".into(),
            clock: Timestamp(0),
        }
    }

    fn with(change: impl FnOnce(&mut Server)) -> Vec<Line> {
        let mut server = sound();
        change(&mut server);
        server.lines(&["wal_level = replica".into()])
    }

    #[test]
    fn a_sound_server_has_nothing_to_say() {
        let lines = with(|_| {});
        assert_eq!(worst(&lines), State::Ok, "{lines:?}");
        assert!(lines.iter().all(|line| line.cure.is_none()));
    }

    #[test]
    fn each_fault_is_named_with_a_cure() {
        let slot = |active, keeps| Slot { name: "s".into(), active, keeps };
        type Change = fn(&mut Server);
        let cases: Vec<(&str, State, Change)> = vec![
            ("wal_level", State::Error, |s| s.facts.wal_level = "minimal".into()),
            ("archive_mode", State::Error, |s| s.facts.archive_mode = "off".into()),
            ("archive_mode", State::Error, |s| s.facts.archive_library = Some("basic_archive".into())),
            ("archive_mode", State::Warning, |s| s.facts.archive_mode = "always".into()),
            ("archiver", State::Error, |s| s.archiver.last_failed = Some(("2".into(), Timestamp(6)))),
            ("archiver", State::Error, |s| {
                s.archiver = Archiver { last_archived: None, last_failed: Some(("2".into(), Timestamp(6))), failed_count: 1 }
            }),
            ("waiting", State::Warning, |s| s.waiting = Some(6)),
            ("waiting", State::Warning, |s| s.waiting = None),
            ("archive_timeout", State::Warning, |s| s.archive_timeout = 0),
            ("archive_timeout", State::Warning, |s| s.archive_timeout = 7200),
            ("full_page_writes", State::Error, |s| s.facts.full_page_writes = false),
            ("full_page_writes", State::Error, |s| s.fsync = false),
            ("data_checksums", State::Warning, |s| s.facts.data_checksums = false),
            ("rights", State::Error, |s| s.rights.backup = false),
            ("rights", State::Warning, |s| s.rights.settings = false),
        ];
        for (name, state, change) in cases {
            let lines = with(change);
            let wrong: Vec<&Line> = lines.iter().filter(|line| line.state != State::Ok).collect();
            assert!(
                matches!(wrong.as_slice(), [line] if line.name == name && line.state == state && line.cure.is_some()),
                "{name}: {lines:?}"
            );
        }
        assert_eq!(worst(&with(|s| s.slots = vec![slot(false, 2 << 30)])), State::Error);
        assert_eq!(worst(&with(|s| (s.slots, s.slots_limited) = (vec![slot(false, 2 << 30)], true))), State::Warning);
        assert_eq!(worst(&with(|s| s.slots = vec![slot(true, 2 << 30), slot(false, 1)])), State::Ok);
        // A failure that a later success has made good.
        assert_eq!(worst(&with(|s| s.archiver.last_failed = Some(("1".into(), Timestamp(4))))), State::Ok);
    }
}
