//! The S3 services that tests stand on, and the proxy between: each does what the tests take for granted.

#[path = "../support/mod.rs"]
mod support;

mod parts;
mod proxy;
mod services;
