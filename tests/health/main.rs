//! `check` and `status` on real servers: a sound set-up, and what is wrong with others.

#[path = "../support/mod.rs"]
mod support;

mod check;
mod status;
