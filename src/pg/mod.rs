//! What PostgreSQL is.
pub mod backup_api;
pub mod connection;
pub mod conninfo;
