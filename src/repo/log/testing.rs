//! Stores and a sealer for tests.
