//! S3 for tests: real services on loopback, started by `scripts/s3-server`, and what tests do to them behind the program's back.
//!
//! A test is one call of [`on`] (with a PostgreSQL) or [`ordinary`] (without), and gets an [`S3`]:
//!
//! ```ignore
//! support::s3::on(18, |pg, s3| {
//!     let service = s3.seaweed();                     // shared by all tests of this user; s3.private(), s3.rclone(): its own
//!     let bucket = service.bucket();                  // fresh; service.versioned_bucket(), service.locked_bucket()
//!     let url = format!("s3://{}/some/prefix", bucket.name());
//!     command.envs(service.environment(Role::Writer)); // AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION
//!     let endpoint = service.endpoint();              // http://127.0.0.1:port, path style; https: service.https(), service.ca_file()
//!     bucket.put("some/prefix/log/1", b"forged");     // by the raw client, as admin
//! });
//! ```
//!
//! - `service.rs`: [`Service`]: started, shared, ended; its endpoint and identities
//! - `bucket.rs`: [`Bucket`]: what an administrator does to one
//! - `client.rs`: [`Client`]: one signed request after the other, as wrong as a test wants it
//! - `proxy/`: [`proxy::Proxy`]: faults, refusals and counts between the program and a service
//! - `sign.rs`: signatures and checksums
//! - `http.rs`: HTTP/1.1, as much as the client and the proxy need

mod bucket;
mod client;
pub mod http;
pub mod proxy;
mod service;
pub mod sign;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use bucket::{Bucket, Version};
pub use client::{Answer, Client, Request, Trust};
pub use service::{Role, Service};
pub use sign::Keys;

use super::Postgres;
use super::ordinary::{PROOF, found, run, test_name};

/// The programs of S3 services.
#[derive(Debug, Clone)]
pub struct S3 {
    seaweed: PathBuf,
    rclone: PathBuf,
}

const SEAWEED: &str = "PGCAIRN_TEST_SEAWEEDFS";
const RCLONE: &str = "PGCAIRN_TEST_RCLONE";

/// As [`super::ordinary`], with S3 services. Where they can't be had the test is skipped, and counted; in CI it fails.
#[track_caller]
pub fn ordinary<F: FnOnce(&S3)>(body: F) {
    let Some(s3) = found(S3::find(), true) else { return };
    run(test_name::<F>(), s3.environment(), || body(&s3));
}

/// As [`super::on`], with S3 services.
#[track_caller]
pub fn on<F: FnOnce(&Postgres, &S3)>(major: u32, body: F) {
    let Some(postgres) = found(Postgres::find(major), matches!(major, 15 | 18)) else { return };
    let Some(s3) = found(S3::find(), true) else { return };
    let environment = [postgres.environment(), s3.environment()].concat();
    run(test_name::<F>(), environment, || body(&postgres, &s3));
}

impl S3 {
    fn find() -> Result<S3, String> {
        let named = |name| std::env::var_os(name).map(PathBuf::from);
        // As an ordinary user that can't enter this folder, the first run has already found them.
        if let (Some(_), Some(seaweed), Some(rclone)) = (named(PROOF), named(SEAWEED), named(RCLONE)) {
            return Ok(S3 { seaweed, rclone });
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/s3-server");
        let ran = Command::new(&script).args(["fetch", "seaweedfs", "rclone"]).stdin(Stdio::null()).output();
        let ran = ran.map_err(|e| format!("S3 services can't be had: {}: {e}", script.display()))?;
        let answer = String::from_utf8_lossy(&ran.stdout);
        match (ran.status.success(), answer.lines().collect::<Vec<_>>().as_slice()) {
            (true, [seaweed, rclone]) => Ok(S3 { seaweed: seaweed.into(), rclone: rclone.into() }),
            _ => {
                let reason = String::from_utf8_lossy(&ran.stderr);
                let last = reason.lines().last().map(str::to_owned);
                Err(last.unwrap_or_else(|| format!("S3 services can't be had: {}", ran.status)))
            }
        }
    }

    fn environment(&self) -> Vec<(String, PathBuf)> {
        vec![(SEAWEED.to_owned(), self.seaweed.clone()), (RCLONE.to_owned(), self.rclone.clone())]
    }
}
