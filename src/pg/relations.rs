//! Which relation a file of a data directory belongs to: what a backup noted of each database, to be read by people.
//!
//! ```text
//! databases        JSON: {"databases":[{"oid","name","unknown","extensions":[{"name","version"}],"cut"}]}
//! relations-<oid>  a line a relation, sorted: [tablespace, filenode, kind, schema, name] or with a sixth, whose it is;
//!                  relations-0: those that all databases share
//! ```
//! Nothing depends on it: a restore puts files where they were, whatever they are called.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::layout::{Fork, RelationFile};

/// The name of the annex of a snapshot that holds these files.
pub const ANNEX: &str = "databases";
/// The file that lists the databases.
pub const LIST: &str = "databases";
/// The largest list of databases that is read, in bytes.
pub const MAX_LIST: u64 = 16 << 20;
/// The largest file of one database's relations that is written or read, in bytes: some 500,000 relations.
pub const MAX_RELATIONS: u64 = 32 << 20;
/// The most bytes of all files together that are written or read.
pub const MAX_ALL: u64 = 128 << 20;

/// Tablespace of what lies in `base`.
pub const DEFAULT_TABLESPACE: u32 = 1663;
/// Tablespace of what lies in `global`.
pub const GLOBAL_TABLESPACE: u32 = 1664;

/// The name of the file with one database's relations; of oid 0 those that all share.
pub fn relations_file(database: u32) -> String {
    format!("relations-{database}")
}

/// What a relation is: `pg_class.relkind`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RelationKind {
    /// An ordinary table.
    Table,
    /// An index.
    Index,
    /// A sequence.
    Sequence,
    /// A TOAST table: the long values of another one.
    Toast,
    /// A materialized view.
    View,
    /// Something newer.
    Other,
}

impl RelationKind {
    /// By the letter in `pg_class`.
    pub fn from_letter(letter: &str) -> Self {
        match letter {
            "r" => Self::Table,
            "i" => Self::Index,
            "S" => Self::Sequence,
            "t" => Self::Toast,
            "m" => Self::View,
            _ => Self::Other,
        }
    }

    /// For people and for JSON: `table`, `index`, `sequence`, `toast`, `matview`, `other`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Index => "index",
            Self::Sequence => "sequence",
            Self::Toast => "toast",
            Self::View => "matview",
            Self::Other => "other",
        }
    }
}

/// Why nothing is known of a database.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotKnown {
    /// It takes no connections at all (`datallowconn`), as `template0`.
    NoConnections,
    /// The role may not connect to it, or may not read its catalog.
    Denied,
    /// Nobody answered, or all connections were taken.
    Unreachable,
    /// It did not answer in the short time that it was given.
    TimeOut,
    /// No time was left, or the server was stopped.
    NotAsked,
    /// Anything else.
    #[serde(other)]
    Failed,
}

impl NotKnown {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::NoConnections => "it takes no connections",
            Self::Denied => "the role may not look into it",
            Self::Unreachable => "no connection could be had",
            Self::TimeOut => "it did not answer in time",
            Self::NotAsked => "it was not asked: no time was left",
            Self::Failed => "asking it failed",
        }
    }
}

/// An extension that is installed in a database.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Extension {
    /// Its name.
    pub name: String,
    /// Its version, as installed.
    pub version: String,
}

/// A database as a backup found it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DatabaseFact {
    /// Its oid: the name of its folders.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// Why its relations and extensions are not known; null if they are.
    #[serde(default)]
    pub unknown: Option<NotKnown>,
    /// What is installed in it, by name.
    #[serde(default)]
    pub extensions: Vec<Extension>,
    /// There were more relations than are noted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// The list of databases, as a file.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DatabaseList {
    /// By oid.
    pub databases: Vec<DatabaseFact>,
}

impl DatabaseList {
    /// Reads the file.
    ///
    /// # Errors
    /// If it is no list of databases.
    pub fn parse(bytes: &[u8]) -> Result<Self, RelationsError> {
        serde_json::from_slice(bytes).map_err(|e| RelationsError { file: LIST.into(), line: e.line(), why: e.to_string() })
    }
}

/// A relation as its line has it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RelationLine {
    /// Its tablespace: [`DEFAULT_TABLESPACE`], [`GLOBAL_TABLESPACE`], or another one's oid.
    pub tablespace: u32,
    /// The number that its files are called.
    pub filenode: u32,
    /// `relkind`.
    pub kind: String,
    /// Its schema.
    pub schema: String,
    /// Its name within the schema.
    pub name: String,
    /// Of a TOAST table: `schema.name` of the table that it belongs to.
    pub of: Option<String>,
}

impl RelationLine {
    /// As a line, with its end.
    pub fn encode(&self) -> String {
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let of = self.of.as_deref().map(|of| format!(",{}", text(of))).unwrap_or_default();
        let (kind, schema, name) = (text(&self.kind), text(&self.schema), text(&self.name));
        format!("[{},{},{kind},{schema},{name}{of}]\n", self.tablespace, self.filenode)
    }

    fn parse(line: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Line {
            Six(u32, u32, String, String, String, String),
            Five(u32, u32, String, String, String),
        }
        match serde_json::from_slice(line).map_err(|_| "it is no relation".to_owned())? {
            Line::Five(tablespace, filenode, kind, schema, name) => Ok(RelationLine { tablespace, filenode, kind, schema, name, of: None }),
            Line::Six(tablespace, filenode, kind, schema, name, of) => {
                Ok(RelationLine { tablespace, filenode, kind, schema, name, of: Some(of) })
            }
        }
    }
}

/// What was noted can't be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{file}, line {line}: {why}")]
pub struct RelationsError {
    /// Of the annex.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

/// The relation that a file belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelationRef<'a> {
    /// Its database; none for a relation that all share.
    pub database: Option<&'a str>,
    /// Its schema.
    pub schema: &'a str,
    /// Its name.
    pub name: &'a str,
    /// What it is.
    pub kind: RelationKind,
    /// Of a TOAST table: `schema.name` of the table that it belongs to.
    pub of: Option<&'a str>,
    /// Which fork the file is of.
    pub fork: Fork,
    /// The segment's number, from 0.
    pub segment: u32,
}

impl fmt::Display for RelationRef<'_> {
    /// `shop.public.orders`, `pg_catalog.pg_database`; a TOAST table by what it belongs to.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(database) = self.database {
            write!(f, "{database}.")?;
        }
        match self.of {
            Some(of) => write!(f, "{of} (toast)"),
            None => write!(f, "{}.{}", self.schema, self.name),
        }
    }
}

struct Noted {
    schema: u32,
    kind: RelationKind,
    name: Box<str>,
    of: Option<Box<str>>,
}

/// Names of relations, by the files of a snapshot.
#[derive(Default)]
pub struct RelationNames {
    databases: Vec<DatabaseFact>,
    schemas: Vec<String>,
    numbers: HashMap<String, u32>,
    relations: HashMap<(u32, u32, u32), Noted>,
}

impl fmt::Debug for RelationNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelationNames").field("databases", &self.databases.len()).field("relations", &self.relations.len()).finish()
    }
}

impl RelationNames {
    /// Of these databases, with no relations yet.
    pub fn new(list: DatabaseList) -> Self {
        RelationNames { databases: list.databases, ..RelationNames::default() }
    }

    /// Adds the relations of a database (0: those that all share), as their file has them.
    ///
    /// # Errors
    /// The first line that is none.
    pub fn add(&mut self, database: u32, file: &[u8]) -> Result<(), RelationsError> {
        for (at, line) in file.split(|b| *b == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
            let failed = |why| RelationsError { file: relations_file(database), line: at + 1, why };
            let line = RelationLine::parse(line).map_err(failed)?;
            let schema = match self.numbers.get(&line.schema) {
                Some(number) => *number,
                None => {
                    let number = self.schemas.len() as u32;
                    self.schemas.push(line.schema.clone());
                    self.numbers.insert(line.schema, number);
                    number
                }
            };
            let kind = RelationKind::from_letter(&line.kind);
            let noted = Noted { schema, kind, name: line.name.into(), of: line.of.map(Into::into) };
            self.relations.insert((database, line.tablespace, line.filenode), noted);
        }
        Ok(())
    }

    /// The databases, by oid.
    pub fn databases(&self) -> &[DatabaseFact] {
        &self.databases
    }

    /// A database's name.
    pub fn database(&self, oid: u32) -> Option<&str> {
        self.databases.iter().find(|d| d.oid == oid).map(|d| d.name.as_str())
    }

    /// Relations that are known.
    pub fn len(&self) -> usize {
        self.relations.len()
    }

    /// None is known.
    pub fn is_empty(&self) -> bool {
        self.relations.is_empty()
    }

    /// The relation that a file belongs to, by its path below the data directory (`base/5/16384.1`, `global/1260`,
    /// `pg_tblspc/16400/PG_18_202506291/5/16384_fsm`); `None` for files that are no relation's, and where it isn't known.
    pub fn lookup(&self, path: &[u8]) -> Option<RelationRef<'_>> {
        let (database, tablespace, file) = place(path)?;
        let noted = self.relations.get(&(database, tablespace, file.relfilenode))?;
        let database = if database == 0 { None } else { Some(self.database(database)?) };
        Some(RelationRef {
            database,
            schema: self.schemas.get(noted.schema as usize)?,
            name: &noted.name,
            kind: noted.kind,
            of: noted.of.as_deref(),
            fork: file.fork,
            segment: file.segment,
        })
    }
}

/// Database, tablespace and file of a path; `None` if no relation lies there.
fn place(path: &[u8]) -> Option<(u32, u32, RelationFile)> {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u32>().ok();
    let names: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    match names.as_slice() {
        [b"global", file] => Some((0, GLOBAL_TABLESPACE, RelationFile::parse(file)?)),
        [b"base", database, file] => Some((number(database)?, DEFAULT_TABLESPACE, RelationFile::parse(file)?)),
        [b"pg_tblspc", tablespace, version, database, file] if version.starts_with(b"PG_") => {
            Some((number(database)?, number(tablespace)?, RelationFile::parse(file)?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(tablespace: u32, filenode: u32, kind: &str, name: &str) -> RelationLine {
        RelationLine { tablespace, filenode, kind: kind.into(), schema: "public".into(), name: name.into(), of: None }
    }

    fn database(oid: u32, name: &str) -> DatabaseFact {
        DatabaseFact { oid, name: name.into(), unknown: None, extensions: Vec::new(), cut: false }
    }

    fn names() -> RelationNames {
        let mut names = RelationNames::new(DatabaseList { databases: vec![database(5, "shop")] });
        let toast =
            RelationLine { schema: "pg_toast".into(), of: Some("public.orders".into()), ..line(1663, 16387, "t", "pg_toast_16384") };
        let lines = [line(1663, 16384, "r", "orders"), toast, line(16400, 16390, "i", "a \"b\"\n")];
        names.add(5, lines.map(|l| l.encode()).concat().as_bytes()).unwrap();
        let shared = RelationLine { schema: "pg_catalog".into(), ..line(1664, 1262, "r", "pg_database") };
        names.add(0, shared.encode().as_bytes()).unwrap();
        names
    }

    #[test]
    fn files_are_found_by_their_paths() {
        let names = names();
        let found = |path: &str| names.lookup(path.as_bytes());
        let orders = found("base/5/16384_fsm.2").unwrap();
        assert_eq!((orders.to_string().as_str(), orders.fork, orders.segment), ("shop.public.orders", Fork::Fsm, 2));
        assert_eq!(found("base/5/16387").unwrap().to_string(), "shop.public.orders (toast)");
        let index = found("pg_tblspc/16400/PG_18_202506291/5/16390").unwrap();
        assert_eq!((index.name, index.kind.word()), ("a \"b\"\n", "index"));
        assert_eq!(found("global/1262").unwrap().to_string(), "pg_catalog.pg_database");
        for none in [
            "base/5/1",
            "base/6/16384",
            "base/5/PG_VERSION",
            "base/5",
            "global/16384",
            "pg_xact/0000",
            "pg_tblspc/16400/x/5/16390",
            "pg_tblspc/16401/PG_18_1/5/16390",
            "",
            "postgresql.conf",
        ] {
            assert_eq!(found(none), None, "{none}");
        }
    }

    #[test]
    fn what_is_no_line_is_refused_with_its_number() {
        for bad in
            ["{}", "[1]", "[1,2,3,4,5]", "[-1,2,\"r\",\"a\",\"b\"]", "[99999999999,2,\"r\",\"a\",\"b\"]", "x", "[1,2,\"r\",\"a\",\"b\""]
        {
            let file = format!("{}{bad}\n", line(1663, 1, "r", "a").encode());
            let error = RelationNames::default().add(5, file.as_bytes()).unwrap_err();
            assert_eq!((error.line, error.file.as_str()), (2, "relations-5"), "{bad}");
        }
        assert!(DatabaseList::parse(b"[]").is_err());
    }

    #[test]
    fn lists_of_later_versions_are_read() {
        let list = DatabaseList::parse(br#"{"databases":[{"oid":5,"name":"a","unknown":"moon-phase","new":1}],"more":2}"#).unwrap();
        assert_eq!(list.databases[0].unknown, Some(NotKnown::Failed));
        let list = DatabaseList::parse(br#"{"databases":[{"oid":1,"name":"a","unknown":"time-out"}]}"#).unwrap();
        assert_eq!(list.databases[0].unknown, Some(NotKnown::TimeOut));
    }

    proptest! {
        #[test]
        fn lines_survive(tablespace: u32, filenode: u32, kind in "[a-zA-Z]", schema: String, name: String, of: Option<String>) {
            let line = RelationLine { tablespace, filenode, kind, schema, name, of };
            let encoded = line.encode();
            prop_assert_eq!(encoded.matches('\n').count(), 1, "a line is a line");
            prop_assert_eq!(RelationLine::parse(encoded.trim_end().as_bytes()), Ok(line));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>, path: Vec<u8>) {
            let mut names = names();
            let _ = names.add(7, &bytes);
            let _ = names.lookup(&path);
            let _ = DatabaseList::parse(&bytes);
        }
    }
}
