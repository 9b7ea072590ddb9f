//! What tests on real servers share: a test is one call of [`on`] (with a PostgreSQL of some major) or [`ordinary`]
//! (without), and its body is a closure. PostgreSQL refuses to run as root, and root may read what others can't: called
//! by root, both run the same test once more as an ordinary user and hand back its result.
//!
//! ```ignore
//! mod support;
//!
//! #[test]
//! fn counts_survive_a_crash() {
//!     support::on(18, |pg| {
//!         let mut server = support::Server::build(pg).conf("wal_level", "replica").start();
//!         server.sql("postgres", "create table t as select 1");
//!         server.crash();
//!         server.start();
//!         assert_eq!(server.sql("postgres", "select count(*) from t"), "1");
//!     });
//! }
//! ```
//!
//! - `ordinary.rs`: [`ordinary`], [`on`], [`skip`]
//! - `postgres.rs`: [`Postgres`], the programs of one major, found by `scripts/postgres`
//! - `server.rs`: [`Server`]: its data directory from a cached initdb, start, stop, crash, SQL
//! - `certificates.rs`: certificates of all kinds
//! - `load.rs`: [`Load`]: pgbench in the background
//! - `host.rs`: [`Host`]: a home of its own for the program, and [`Outcome`] of running it
//! - `repository.rs`: [`Repository`]: the commands that stories are made of
//! - `race.rs`: processes that append to one log at once
//! - `s3/`: S3 services, with a client and a proxy of ours
//! - `folder.rs`: [`TestDir`]: a scratch folder that stays when the test fails

#![allow(dead_code, unused_imports)] // each test binary uses a part

pub mod certificates;
mod folder;
mod host;
mod load;
mod ordinary;
mod postgres;
pub mod race;
mod repository;
pub mod s3;
mod server;

pub use folder::{TestDir, copy_tree, temporary};
pub use host::{Host, Outcome, shell_quote};
pub use load::Load;
pub use ordinary::{on, ordinary, skip};
pub use postgres::Postgres;
pub use repository::{Repository, amcheck, bytes_below, verify_backup};
pub use server::{Server, Setup, Stop, wait_until};

/// One test a major: `on_majors!(fn_name: pg13 13, pg18 18);` makes `fn_name::pg13`, ... of `fn fn_name(pg: &Postgres)`.
#[macro_export]
macro_rules! on_majors {
    ($story:ident: $($name:ident $major:literal),+ $(,)?) => {
        mod $story {
            $(
                #[test]
                fn $name() {
                    $crate::support::on($major, |pg| super::$story(pg));
                }
            )+
        }
    };
}

/// Is `make test-full` running (all majors, larger data)?
pub fn full() -> bool {
    std::env::var_os("PGCAIRN_TEST_FULL").is_some_and(|v| !v.is_empty() && v != "0")
}
