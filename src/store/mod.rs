//! Where objects lie: the backend trait and the local directory.
