//! What ends a re-commit. Whatever it is, the repository is as sound as before, and the next run goes on.

pub use crate::host::RepositoryError as RecommitError;
