//! What was written once is read for ever: vectors of every sealed object, and whole repositories of old releases.
//!
//! - `format/vectors.rs`: reads `format/vectors-1/` (see the README there)
//! - `format/repository.rs`: opens a copy of `format/repository-1/` with its key file and reads everything back
//! - `format/generate.rs`: wrote both; run by hand while format 1 is a draft, and never after its release

#[path = "format/generate.rs"]
mod generate;
#[path = "format/known.rs"]
mod known;
#[path = "format/repository.rs"]
mod repository;
#[path = "format/vectors.rs"]
mod vectors;
