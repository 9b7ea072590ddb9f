//! What this machine keeps and says.
