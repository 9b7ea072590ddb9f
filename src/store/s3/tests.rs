//! What needs no service.
