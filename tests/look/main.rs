//! Looking at a repository: is it whole, and what is in it?

#[path = "../support/mod.rs"]
mod support;

mod files;
mod verify;
