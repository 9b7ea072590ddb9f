//! The road: a cluster into the repository, and back.

#[path = "../support/mod.rs"]
mod support;

mod increments;
mod offline;
mod online;
mod processes;
mod refusals;
