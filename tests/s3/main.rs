//! Repositories in buckets, on real services.

#[path = "../support/mod.rs"]
mod support;

mod clock;
mod configured;
mod cost;
mod crowd;
mod deletions;
mod faults;
mod flips;
mod formats;
mod identity;
mod keys;
mod late;
mod locked;
mod loopback;
mod race;
mod refused;
mod road;
mod roles;
mod standby;
mod verified;
mod ways;
mod world;

use std::ffi::OsString;

use support::s3::{Role, Service};

/// What the environment of a host says of a service, by one of its identities.
fn environment(service: &Service, role: Role) -> Vec<(&'static str, OsString)> {
    at(service.endpoint(), service, role)
}

/// As [`environment`], where the service is reached by another address: a proxy's.
fn at(endpoint: &str, service: &Service, role: Role) -> Vec<(&'static str, OsString)> {
    let mut all: Vec<(&'static str, OsString)> = service.environment(role).into_iter().map(|(n, v)| (n, v.into())).collect();
    all.push(("AWS_ENDPOINT_URL", endpoint.into()));
    all
}
