//! The road: a cluster into the repository, and back.

#[path = "../support/mod.rs"]
mod support;

mod configured;
mod connecting;
mod folders;
mod increments;
mod offline;
mod online;
mod places;
mod processes;
mod readonly;
mod refusals;
mod shown;
mod states;
