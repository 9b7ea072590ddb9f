//! Pushes and gets against a repository in memory.

mod flipped;
mod get;
mod push;
mod standby;
