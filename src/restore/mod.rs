//! From the repository into a data directory.
