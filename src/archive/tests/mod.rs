//! Pushes and gets against a repository in memory.

mod get;
mod push;
mod standby;
