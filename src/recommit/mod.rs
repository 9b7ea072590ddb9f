//! Mostly dead packs are emptied by committing again, and what was damaged gets the places where it was stored anew.
//!
//! In come the log's fold and a budget; out go, for each snapshot that a chosen pack still serves, a COMMIT that replaces the
//! old one (same content, same id, other places) and a FORGET of that. Blobs of content are copied byte for byte, structure
//! nodes written anew: it takes the table key and the id key, and nothing that opens content. The emptied packs are then
//! named by nobody, and go the way of all such packs: CONDEMN, SWEEP, delete, by others.
//!
//! - `plan.rs`: [`plan`]: which packs, which snapshots · `choose.rs`: the choice itself, pure · `together.rs`: packs weighed
//!   with those whose patches refer to them
//! - `live.rs`: which blobs the live snapshots need: bits, by a walk over all nodes, each once · `nodes.rs`: reading them
//! - `run.rs`: [`run`], [`empty`]: the sessions and their entries · `writing.rs`: what one session writes with
//! - `carry.rs`: copying blobs · `rewrite.rs`: a snapshot's tree, with the new places
//! - `failure.rs`: what ends it
//!
//! Memory: for each pack a few hundred bytes and three bits a blob, some 60 for each pair of packs between
//! which there are patches; 100 bytes for each blob that is copied, whose number
//! `--max-rewrite` bounds; the nodes from the root to where the walk is; a window of 8 MiB, and open packs.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod carry;
mod choose;
mod failure;
mod live;
mod nodes;
#[cfg(test)]
mod outside;
mod plan;
mod rewrite;
mod run;
#[cfg(test)]
mod simulation;
mod together;
mod writing;

pub use choose::{Choice, Limits, PackUse, choose};
pub use failure::RecommitError;
pub use plan::{Emptied, Healed, Plan, Skipped, plan};
pub use run::{BadBlob, Done, Setting, empty, finish_replacements, run};
pub use together::Drags;
