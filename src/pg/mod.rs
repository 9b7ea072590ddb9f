//! What PostgreSQL is, for majors 13 to 19: bytes and texts in, facts out. Only `connection/` talks to a server.
//!
//! - `control_file.rs`: [`ControlFile`], what `global/pg_control` says
//! - `page.rs`, `checksum.rs`: data pages, and what to make of one read under a running server
//! - `filenode_map.rs`: is a `pg_filenode.map` whole?
//! - `layout.rs`: what of a data directory is copied, and what the files are
//! - `timeline.rs`: history files, and the way through the tree that they make
//! - `wal/`: segments, records, and what to know of a segment without reading it again
//! - `conninfo/`, `connection/`: connection strings, and sessions
//! - `backup_api.rs`: the calls that start and stop a backup
//! - `facts.rs`: what a snapshot says of its cluster
//! - `relations.rs`: [`relations::RelationNames`]: which relation a file belongs to
//! - `backup_label.rs`: what a backup's stop hands out, and tablespace_map
//! - `backup_manifest.rs`: [`backup_manifest::ManifestWriter`], for pg_verifybackup
//! - `postmaster_pid.rs`: the lock file of a running server
//! - `config_files/`: which files a configuration consists of, and how they are told of another place
//! - `recovery.rs`: what a restored server is told, in postgresql.auto.conf

pub mod backup_api;
pub mod backup_label;
pub mod backup_manifest;
mod bytes;
pub mod checksum;
pub mod config_files;
pub mod connection;
pub mod conninfo;
pub mod control_file;
pub mod facts;
pub mod filenode_map;
#[cfg(test)]
mod fixtures;
pub mod layout;
pub mod page;
pub mod postmaster_pid;
pub mod recovery;
pub mod relations;
pub mod timeline;
pub mod wal;

pub use control_file::ControlFile;
