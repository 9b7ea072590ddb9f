//! What PostgreSQL is.
pub mod connection;
pub mod conninfo;
