//! What PostgreSQL is.
