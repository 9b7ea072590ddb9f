//! Which relation a file belongs to: each database is asked, in a session of its own, while files are copied.
//!
//! For people alone, so with little patience: a database that can't be asked in a short time is noted as not known.

use std::error::Error;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use super::{Annex, AnnexFile};
use crate::pg::connection::{ConnectOptions, Connection, PgConnError};
use crate::pg::conninfo::Conninfo;
use crate::pg::relations::{
    ANNEX, DatabaseFact, DatabaseList, Extension, GLOBAL_TABLESPACE, LIST, MAX_ALL, MAX_RELATIONS, NotKnown, RelationLine, relations_file,
};
use crate::units::{Cancel, Progress};

/// For how long all databases together may be asked.
const PATIENCE: Duration = Duration::from_secs(20);
/// For how long one is waited for to take a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// Short time-outs on the server's side, and text as it lies in a database without an encoding.
const SET_UP: &str = "SELECT pg_catalog.set_config('statement_timeout', '5s', false), pg_catalog.set_config('lock_timeout', '1s', false), \
     pg_catalog.set_config('default_transaction_read_only', 'on', false), pg_catalog.set_config('client_encoding', \
     CASE pg_catalog.current_setting('server_encoding') WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END, false)";
/// Databases that are noted at most.
const MOST_DATABASES: usize = 50_000;
/// Relations that one query brings.
const PAGE: usize = 20_000;

const DATABASES: &str = "SELECT oid, datname::pg_catalog.text, datallowconn FROM pg_catalog.pg_database ORDER BY oid";
const EXTENSIONS: &str = "SELECT extname::pg_catalog.text, extversion FROM pg_catalog.pg_extension ORDER BY extname LIMIT 10000";

/// The relations behind an oid. A mapped relation has its number in no row; a TOAST table's name tells whose it is, by oid.
fn relations(behind: u32) -> String {
    format!(
        "SELECT c.oid, CASE c.reltablespace WHEN 0 THEN d.dattablespace ELSE c.reltablespace END, \
         CASE c.relfilenode WHEN 0 THEN pg_catalog.pg_relation_filenode(c.oid) ELSE c.relfilenode END, c.relkind::pg_catalog.text, \
         n.nspname::pg_catalog.text, c.relname::pg_catalog.text, m.nspname::pg_catalog.text, o.relname::pg_catalog.text \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         CROSS JOIN (SELECT dattablespace FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) d \
         LEFT JOIN pg_catalog.pg_class o ON o.oid = CASE WHEN c.relkind = 't' AND c.relname ~ '^pg_toast_[0-9]{{1,9}}$' \
         THEN pg_catalog.substr(c.relname::pg_catalog.text, 10)::pg_catalog.oid END AND o.reltoastrelid = c.oid \
         LEFT JOIN pg_catalog.pg_namespace m ON m.oid = o.relnamespace \
         WHERE c.oid > '{behind}'::pg_catalog.oid AND c.relkind IN ('r', 'i', 'S', 't', 'm') AND c.relpersistence <> 't' \
         ORDER BY c.oid LIMIT {PAGE}"
    )
}

/// What one database said.
struct Answer {
    relations: Vec<RelationLine>,
    extensions: Vec<Extension>,
    cut: bool,
}

type Told = (usize, Result<Answer, NotKnown>);

/// Databases that are being asked.
pub(in crate::backup) struct Asking {
    databases: Vec<DatabaseFact>,
    answers: Receiver<Told>,
    cancel: Cancel,
    until: Instant,
}

impl Asking {
    /// Lists the databases by a session that is there, and asks them by others, on a thread of its own. `None` if they can't
    /// be listed.
    pub fn begin(connection: &mut Connection, conninfo: &Conninfo, progress: &dyn Progress) -> Option<Asking> {
        let databases = match list(connection) {
            Ok(databases) => databases,
            Err(e) => {
                progress.warn(&format!("which relations the files belong to is not recorded: {e}"));
                return None;
            }
        };
        let mut theirs = conninfo.clone();
        theirs.endpoints = vec![connection.endpoint().clone()];
        theirs.connect_timeout = Some(conninfo.connect_timeout.map_or(CONNECT, |patience| patience.min(CONNECT)));
        let (tell, answers) = channel();
        let cancel = Cancel::new();
        let until = Instant::now() + PATIENCE;
        let options = ConnectOptions { application_name: "pgcairn backup, names".into(), cancel: cancel.clone() };
        let wanted: Vec<(usize, String)> = databases
            .iter()
            .enumerate()
            .filter(|(_, d)| d.unknown == Some(NotKnown::NotAsked))
            .map(|(at, d)| (at, d.name.clone()))
            .collect();
        // Without a thread nothing is asked, and nothing known.
        let _ = std::thread::Builder::new().name("names".into()).spawn(move || ask_all(&theirs, &options, wanted, until, &tell));
        Some(Asking { databases, answers, cancel, until })
    }

    /// What was said until now, or is within the patience that is left.
    pub fn end(mut self, cancel: &Cancel, progress: &dyn Progress) -> Annex {
        const GLANCE: Duration = Duration::from_millis(50);
        let mut files = Vec::new();
        let (mut shared, mut bytes) = (Vec::new(), 0);
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            match self.answers.recv_timeout(left.min(GLANCE)) {
                Ok((at, answer)) => {
                    let Some(database) = self.databases.get_mut(at) else { continue };
                    let file = note(database, answer, &mut shared);
                    bytes += file.as_ref().map_or(0, |f| f.bytes.len() as u64);
                    if bytes > MAX_ALL {
                        database.unknown = Some(NotKnown::NotAsked);
                        database.extensions.clear();
                        break;
                    }
                    files.extend(file);
                }
                Err(RecvTimeoutError::Timeout) if cancel.is_cancelled() || left.is_zero() => break,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // A session that still waits ends by it, and its thread with it.
        self.cancel.cancel();
        for database in &self.databases {
            if let Some(why) = database.unknown {
                progress.detail(&format!("relations of database {} are not recorded: {}", database.name, why.words()));
            }
        }
        let list = serde_json::to_vec(&DatabaseList { databases: self.databases }).unwrap_or_default();
        files.push(AnnexFile::made(LIST.into(), list));
        if !shared.is_empty() {
            files.push(AnnexFile::made(relations_file(0), encode(shared).0));
        }
        Annex { name: ANNEX, files }
    }
}

/// Takes an answer over; the shared relations of the first that knows them.
fn note(database: &mut DatabaseFact, answer: Result<Answer, NotKnown>, shared: &mut Vec<RelationLine>) -> Option<AnnexFile> {
    match answer {
        Ok(answer) => {
            let (theirs, own): (Vec<_>, Vec<_>) = answer.relations.into_iter().partition(|r| r.tablespace == GLOBAL_TABLESPACE);
            if shared.is_empty() {
                *shared = theirs;
            }
            let (bytes, cut) = encode(own);
            database.unknown = None;
            database.extensions = answer.extensions;
            database.cut = answer.cut || cut;
            Some(AnnexFile::made(relations_file(database.oid), bytes))
        }
        Err(why) => {
            database.unknown = Some(why);
            None
        }
    }
}

/// In an order that does not change while nothing does, up to the length that is read.
fn encode(mut relations: Vec<RelationLine>) -> (Vec<u8>, bool) {
    relations.sort_unstable();
    let mut bytes = Vec::new();
    for line in relations {
        let line = line.encode();
        if bytes.len() as u64 + line.len() as u64 > MAX_RELATIONS {
            return (bytes, true);
        }
        bytes.extend_from_slice(line.as_bytes());
    }
    (bytes, false)
}

fn list(connection: &mut Connection) -> Result<Vec<DatabaseFact>, PgConnError> {
    let rows = connection.query("asking for the databases", DATABASES)?;
    let fact = |row: Row| {
        let takes_connections: bool = row.try_get(2).ok()?;
        let unknown = if takes_connections { NotKnown::NotAsked } else { NotKnown::NoConnections };
        Some(DatabaseFact { oid: row.try_get(0).ok()?, name: text(&row, 1)?, unknown: Some(unknown), extensions: Vec::new(), cut: false })
    };
    Ok(rows.into_iter().take(MOST_DATABASES).filter_map(fact).collect())
}

fn ask_all(conninfo: &Conninfo, options: &ConnectOptions, wanted: Vec<(usize, String)>, until: Instant, tell: &Sender<Told>) {
    for (at, name) in wanted {
        if options.cancel.is_cancelled() || Instant::now() >= until {
            return;
        }
        let mut conninfo = conninfo.clone();
        conninfo.dbname = name;
        let answer = ask(&conninfo, options, until).map_err(|e| reason(&e));
        if tell.send((at, answer)).is_err() {
            return;
        }
    }
}

fn ask(conninfo: &Conninfo, options: &ConnectOptions, until: Instant) -> Result<Answer, PgConnError> {
    const DURING: &str = "asking for relations";
    let mut connection = Connection::open(conninfo, options)?;
    connection.query(DURING, SET_UP)?;
    let (mut answer, mut behind, mut bytes) = (Answer { relations: Vec::new(), extensions: Vec::new(), cut: false }, 0, 0);
    loop {
        let rows = connection.query(DURING, &relations(behind))?;
        let full = rows.len() >= PAGE;
        behind = rows.last().and_then(|row| row.try_get(0).ok()).unwrap_or(u32::MAX);
        for line in rows.iter().filter_map(line) {
            bytes += (line.name.len() + line.schema.len() + 24) as u64;
            answer.relations.push(line);
        }
        answer.cut = full && (bytes > MAX_RELATIONS || Instant::now() >= until);
        if !full || answer.cut {
            break;
        }
    }
    let rows = connection.query("asking for extensions", EXTENSIONS)?;
    answer.extensions = rows.iter().filter_map(|row| Some(Extension { name: text(row, 0)?, version: text(row, 1)? })).collect();
    Ok(answer)
}

fn line(row: &Row) -> Option<RelationLine> {
    let of = text(row, 6).zip(text(row, 7)).map(|(schema, name)| format!("{schema}.{name}"));
    Some(RelationLine {
        tablespace: row.try_get(1).ok()?,
        filenode: row.try_get::<_, Option<u32>>(2).ok()??,
        kind: text(row, 3)?,
        schema: text(row, 4)?,
        name: text(row, 5)?,
        of,
    })
}

/// What is no UTF-8 is replaced: the names are for people.
fn text(row: &Row, column: usize) -> Option<String> {
    row.try_get::<_, Option<Lossy>>(column).ok()?.map(|text| text.0)
}

struct Lossy(String);

impl<'a> FromSql<'a> for Lossy {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Lossy(String::from_utf8_lossy(raw).into_owned()))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT
    }
}

fn reason(e: &PgConnError) -> NotKnown {
    match e {
        PgConnError::NoPassword { .. } | PgConnError::NotLetIn { .. } | PgConnError::NoRight { .. } => NotKnown::Denied,
        PgConnError::NotReached { reason, .. } if reason.contains("in time") => NotKnown::TimeOut,
        PgConnError::NotReached { .. } | PgConnError::NotNow { .. } | PgConnError::Full { .. } | PgConnError::Lost { .. } => {
            NotKnown::Unreachable
        }
        // query_canceled, lock_not_available.
        PgConnError::Server { code, .. } if matches!(code.as_str(), "57014" | "55P03") => NotKnown::TimeOut,
        PgConnError::Interrupted { .. } => NotKnown::TimeOut,
        _ => NotKnown::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(tablespace: u32, filenode: u32, name: &str) -> RelationLine {
        RelationLine { tablespace, filenode, kind: "r".into(), schema: "public".into(), name: name.into(), of: None }
    }

    #[test]
    fn the_same_relations_give_the_same_bytes_in_any_order() {
        let all: Vec<_> = (0..100).map(|i| relation(1663, (i * 37) % 101, &format!("t{i}"))).collect();
        let mut other = all.clone();
        other.reverse();
        assert_eq!(encode(all), encode(other));
    }

    #[test]
    fn what_is_too_long_is_cut_between_lines() {
        let long = "x".repeat(1 << 20);
        let (bytes, cut) = encode((0..40).map(|i| relation(1663, i, &long)).collect());
        assert!(cut && bytes.len() as u64 <= MAX_RELATIONS && bytes.ends_with(b"\n"));
    }

    #[test]
    fn shared_relations_are_noted_once() {
        let mut shared = Vec::new();
        for oid in [1, 5] {
            let mut database =
                DatabaseFact { oid, name: "a".into(), unknown: Some(NotKnown::NotAsked), extensions: Vec::new(), cut: false };
            let relations = vec![relation(1664, 1262, "pg_database"), relation(1663, 1259, "pg_class")];
            let file = note(&mut database, Ok(Answer { relations, extensions: Vec::new(), cut: false }), &mut shared).unwrap();
            assert_eq!((file.name, database.unknown), (format!("relations-{oid}"), None));
            assert_eq!(String::from_utf8(file.bytes).unwrap(), "[1663,1259,\"r\",\"public\",\"pg_class\"]\n");
        }
        assert_eq!(shared.len(), 1);
    }
}
