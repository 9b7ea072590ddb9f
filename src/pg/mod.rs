//! What PostgreSQL is.
pub mod conninfo;
