//! What a repository is.

pub mod json;
pub mod log;
