//! Backups of a tree in memory into a repository in memory, read back byte by byte.
//!
//! - `files.rs`: the tree, scripted · `world.rs`: the repository, one copy, one restore · `relation.rs`: pages
//! - the others: what must come of it

mod blind;
mod files;
mod forgotten;
mod huge;
mod layout;
mod lengths;
mod pages;
mod patches;
mod references;
mod relation;
mod small;
mod unchanged;
mod vanish;
mod whole;
mod world;
