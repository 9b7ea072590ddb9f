//! From a cluster into the repository.
