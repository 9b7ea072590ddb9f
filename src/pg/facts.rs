//! What a snapshot says of its cluster, beside the files: written by a backup, read by a restore. Lies as JSON in the
//! snapshot's meta chunk, so only a reader sees it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::units::{Lsn, SegmentSize, TimelineId, Timestamp};

/// A tablespace outside the data directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TablespaceFact {
    /// Its oid: the name of the link in `pg_tblspc`.
    pub oid: u32,
    /// Its name in the database, where it could be asked.
    pub name: Option<String>,
    /// Where its link led; hex of the bytes beside it where they are no UTF-8.
    pub path: String,
    /// See `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_bytes: Option<String>,
}

/// Of which file of the server's a configuration file is a part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConfigRole {
    /// `config_file`: postgresql.conf.
    Config,
    /// `hba_file`.
    Hba,
    /// `ident_file`.
    Ident,
    /// `hosts_file`, of 19.
    Hosts,
}

impl ConfigRole {
    /// The setting that names the file.
    pub fn setting(self) -> &'static str {
        match self {
            ConfigRole::Config => "config_file",
            ConfigRole::Hba => "hba_file",
            ConfigRole::Ident => "ident_file",
            ConfigRole::Hosts => "hosts_file",
        }
    }

    /// What the file is called where nothing names it.
    pub fn default_name(self) -> &'static str {
        match self {
            ConfigRole::Config => "postgresql.conf",
            ConfigRole::Hba => "pg_hba.conf",
            ConfigRole::Ident => "pg_ident.conf",
            ConfigRole::Hosts => "pg_hosts.conf",
        }
    }
}

/// A configuration file that is kept in the snapshot's annex.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigFile {
    /// Its name in the annex.
    pub file: String,
    /// Where it lay; hex of the bytes beside it where they are no UTF-8.
    pub path: String,
    /// See `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_bytes: Option<String>,
    /// Whose part it is.
    pub role: ConfigRole,
    /// It is the file itself; else one that is included.
    pub top: bool,
    /// It is a list of names (`@file`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub names: bool,
}

/// A folder whose files are configuration files.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigFolder {
    /// Where it lay; hex of the bytes beside it where they are no UTF-8.
    pub path: String,
    /// See `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_bytes: Option<String>,
}

/// A configuration file that is not in the snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MissingFile {
    /// Where it lay.
    pub path: String,
    /// Why it isn't there, for people.
    pub why: String,
}

/// The configuration, where a part of it lay outside the data directory.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ConfigurationFacts {
    /// The files of the annex: all that the server reads, those within the data directory too.
    pub files: Vec<ConfigFile>,
    /// Folders that are included whole: the server wants them to be there, empty or not.
    #[serde(default)]
    pub folders: Vec<ConfigFolder>,
    /// What should be among the files.
    pub missing: Vec<MissingFile>,
}

/// A page that was wrong when it was read, and again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DamagedPage {
    /// The file, relative to the data directory.
    pub path: String,
    /// The relation's fork: `main`, `fsm`, `vm` or `init`.
    pub fork: String,
    /// Block within the fork.
    pub block: u32,
    /// What is wrong.
    pub why: String,
}

/// All that a restore needs to know besides files.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClusterFacts {
    /// The server's version as it says it, `18.6`; of an offline backup the major alone.
    pub pg_version: String,
    /// The major.
    pub major: u16,
    /// The cluster's system identifier.
    pub system_identifier: u64,
    /// `catalog_version` of pg_control.
    pub catalog_version: u32,
    /// WAL segment size.
    pub segment_size: SegmentSize,
    /// Page size.
    pub block_size: u32,
    /// pg_control as it was read last of all files: hex, zeros at the end left out, 8192 bytes with them.
    pub control_file: String,
    /// The text of `backup_label` that the server gave; none in an offline backup.
    pub backup_label: Option<String>,
    /// The text of `tablespace_map`, if there are tablespaces.
    pub tablespace_map: Option<String>,
    /// Tablespaces outside the data directory.
    pub tablespaces: Vec<TablespaceFact>,
    /// Where replay starts.
    pub start_lsn: Lsn,
    /// Where the cluster is consistent.
    pub stop_lsn: Lsn,
    /// The timeline at the start.
    pub start_timeline: TimelineId,
    /// The timeline at the stop; another one only on a standby that followed a switch.
    pub stop_timeline: TimelineId,
    /// By the database's clock (the host's, offline).
    pub started_at: Timestamp,
    /// By the database's clock (the host's, offline).
    pub stopped_at: Timestamp,
    /// Taken of a stopped cluster.
    pub offline: bool,
    /// Taken of a standby.
    pub from_standby: bool,
    /// The snapshot holds its own WAL, in `pg_wal`.
    pub wal_copied: bool,
    /// The data directory on the host that was backed up.
    pub data_directory: String,
    /// The machine's architecture, as Rust names it (`x86_64`).
    pub architecture: String,
    /// Files that were not copied because they are sockets, links and the like.
    pub left_out: Vec<String>,
    /// Pages that were damaged.
    pub damaged: Vec<DamagedPage>,
    /// Settings that a restore wants to know, as the server gave them.
    pub settings: BTreeMap<String, String>,
    /// Configuration files outside the data directory; none where all lay inside, or nothing is known.
    #[serde(default)]
    pub configuration: Option<ConfigurationFacts>,
}
