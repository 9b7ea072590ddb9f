//! WAL: push, get, status.
