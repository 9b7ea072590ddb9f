//! Is everything there, and is it whole?
//!
//! In comes an open repository and how much of the payload is to be read; out goes a [`Report`]: what is damaged, and
//! which snapshots and files that hits. Nothing is written here, and nothing that this host remembers of the repository is
//! believed: the log is read from its beginning, the store listed, tables and trees read from the store. Damage in one
//! place doesn't stop the rest; a store that can't be reached does, since that says nothing about what it holds.
//!
//! - `verify.rs`: [`verify`], the whole of it, in order
//! - `listing.rs`: what the store lists, beside what the log says must be there · `keys.rs`: key slots
//! - `packs.rs`: tables of all packs; all bytes of those that were chosen (`share.rs`)
//! - `tree.rs`: every node of every live snapshot · `places.rs`: where chunks are said to be · `memo.rs`: what of that was walked before
//! - `blind.rs`: the same on a host that can't open content · `state.rs`: what both share
//! - `again.rs`: what was found is looked at a second time; where it was stored anew · `needed.rs`: what of packs that are lost
//! - `counting.rs`: how many bytes that took
//! - `findings.rs`: [`Finding`], what is wrong with an object · `failure.rs`: damage, told from what ends the whole

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod again;
mod blind;
mod counting;
mod failure;
mod findings;
mod keys;
mod listing;
mod memo;
mod needed;
mod packs;
mod places;
mod share;
mod state;
#[cfg(test)]
mod tests;
mod tree;
mod verify;

pub use counting::Counting;
pub use failure::ScrubError;
pub use findings::{Finding, Findings};
pub use listing::Tally;
pub use share::{Percent, Share};
pub use verify::{Report, Setup, verify};
