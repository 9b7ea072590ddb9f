//! What a repository is.
