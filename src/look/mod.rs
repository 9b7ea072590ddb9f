//! Questions about a repository, answered as values.
