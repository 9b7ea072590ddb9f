//! A bucket of an S3-compatible service as a store.
//!
//! An object is one PUT with `If-None-Match: *`, so that nothing is overwritten and of several writers of one name one
//! wins; what the service answers late, twice or not at all is settled by asking again and comparing. A client of this
//! kind has no state of its own but its connections: a process that dies leaves no unfinished object behind.
//!
//! - `settings.rs`: [`S3Settings`], what is configured · `client.rs`: credentials, region, certificates, proxy
//! - `runtime.rs`: the one thread on which requests run; the layers above are blocking
//! - `attempt.rs`: which failures are worth another attempt, until when, and what is said of the rest
//! - `gate.rs`: how many requests run at once · `counts.rs`: [`Requests`], how many there were
//! - `create.rs`: create-if-absent, and how ambiguous answers are settled · `prove.rs`: does the service honour it?
//! - `read.rs`: reading, in the middle of a body too, and older versions · `date.rs`: the service's clock · `list.rs`: listing and deleting

mod attempt;
mod client;
mod counts;
mod create;
mod date;
mod gate;
mod list;
mod prove;
mod read;
mod runtime;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;

use super::{Backend, Create, Listed, ObjectName, Requests, SessionTag, Start, StoreError, Version};
use counts::Counts;
use gate::Gate;
use runtime::Runtime;
pub use settings::{BadS3Setting, S3Settings, Watch};

/// A store in a bucket.
pub struct S3Store {
    settings: S3Settings,
    watch: Watch,
    client: Client,
    gate: Gate,
    counts: Arc<Counts>,
    // Last: requests end before their thread does.
    runtime: Runtime,
}

impl S3Store {
    /// A store at the place that `settings` names. Sends no request, but credentials may be looked up (in files, and
    /// from the service that hands out an instance's role).
    ///
    /// # Errors
    /// If the settings can't be used: a certificate file that is none, no region.
    pub fn open(settings: S3Settings, watch: Watch) -> Result<Self, StoreError> {
        let runtime = Runtime::start()?;
        let counts = Arc::new(Counts::default());
        let client = client::build(&runtime, &settings)?;
        Ok(S3Store { gate: Gate::new(settings.most_requests), settings, watch, client, counts, runtime })
    }

    /// What is configured.
    pub fn settings(&self) -> &S3Settings {
        &self.settings
    }

    /// The key under which an object lies in the bucket.
    fn key(&self, name: &str) -> String {
        match self.settings.prefix.as_str() {
            "" => name.to_owned(),
            prefix => format!("{prefix}/{name}"),
        }
    }

    fn absent(&self, name: &ObjectName) -> StoreError {
        StoreError::Absent { store: self.describe(), name: name.clone() }
    }
}

impl Drop for S3Store {
    fn drop(&mut self) {
        (self.watch.summary)(&format!("{}: {}", self.settings.place(), self.counts.so_far()));
    }
}

impl Backend for S3Store {
    fn create(&self, name: &ObjectName, parts: &[&[u8]], _: &SessionTag) -> Result<Create, StoreError> {
        self.create_object(name, parts)
    }

    fn read(&self, name: &ObjectName, max: u64) -> Result<Vec<u8>, StoreError> {
        self.read_whole(name, max, None)
    }

    fn read_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        self.read_part(name, offset, len, None)
    }

    fn read_start(&self, name: &ObjectName, most: usize) -> Result<Start, StoreError> {
        self.read_first(name, most)
    }

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        Ok(self.look_at(name)?.size)
    }

    fn list(&self, folder: Option<&ObjectName>, each: &mut dyn FnMut(Listed) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.list_folder(folder, each)
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.delete_object(name)
    }

    fn age(&self, name: &ObjectName, _: &SessionTag) -> Result<Option<Duration>, StoreError> {
        Ok(self.look_at(name)?.age)
    }

    fn prove(&self, _: &SessionTag) -> Result<Vec<String>, StoreError> {
        self.prove_create_if_absent()
    }

    fn prove_at(&self, name: &ObjectName, bytes: &[u8]) -> Result<(), StoreError> {
        self.prove_at_object(name, bytes)
    }

    fn versions(&self, name: &ObjectName) -> Result<Vec<Version>, StoreError> {
        self.versions_of(name)
    }

    fn read_version(&self, name: &ObjectName, version: &Version, max: u64) -> Result<Vec<u8>, StoreError> {
        self.read_whole(name, max, Some(version))
    }

    fn read_range_of_version(&self, name: &ObjectName, version: &Version, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        self.read_part(name, offset, len, Some(version))
    }

    fn requests(&self) -> Option<Requests> {
        Some(self.counts.so_far())
    }

    fn describe(&self) -> String {
        format!("the repository in {}", self.settings.place())
    }
}
