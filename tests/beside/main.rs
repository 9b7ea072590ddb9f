//! What a snapshot records beside the data directory: names of relations, configuration files that lie elsewhere.

#[path = "../support/mod.rs"]
mod support;

mod configuration;
mod debian;
mod names;
mod started;
