//! A simulated year: backups, pushes, forgets and prunes of the real program on a real repository, day after day, with another
//! clock; at the end all that is kept restores, and what is stored is little more than what is needed.
//!
//! - `clock.rs`, `clock.c`: another time for the program
//! - `cluster.rs`: a made-up cluster that changes · `segment.rs`: its WAL
//! - `days.rs`: what is done each day, and counted · `mixed.rs`: the same without sorting
//! - `rules.rs`: attempts to break the rules of forgetting
//! - `keep.rs`: which snapshots, which WAL must be there, worked out anew
//!
//! A month by `cargo nextest run --test year`; a year, four times, with its figures and its picture by `scripts/year`.

#[path = "../support/mod.rs"]
mod support;

mod clock;
mod cluster;
mod days;
mod keep;
mod mixed;
mod rules;
mod segment;

use days::{How, Length, simulate};
use support::{full, ordinary};

const DEFAULT: How = How { name: "sorted, emptied", sorts: true, empties: true };

/// Three months in the full form.
#[test]
fn a_month_keeps_what_it_must_and_little_more() {
    ordinary(|| simulate(&DEFAULT, &if full() { Length { days: 90, tables: 64 } } else { Length { days: 30, tables: 24 } }));
}

const YEAR: Length = Length { days: 365, tables: 32 };

#[test]
#[ignore = "takes long: scripts/year"]
fn a_year() {
    ordinary(|| simulate(&DEFAULT, &YEAR));
}

#[test]
#[ignore = "takes long: scripts/year"]
fn a_year_without_emptying() {
    ordinary(|| simulate(&How { name: "sorted", empties: false, ..DEFAULT }, &YEAR));
}

#[test]
#[ignore = "takes long: scripts/year"]
fn a_year_without_sorting() {
    ordinary(|| simulate(&How { name: "emptied", sorts: false, ..DEFAULT }, &YEAR));
}

#[test]
#[ignore = "takes long: scripts/year"]
fn a_year_without_either() {
    ordinary(|| simulate(&How { name: "neither", sorts: false, empties: false }, &YEAR));
}
