//! A bucket of an S3-compatible service as a store.
//!
//! An object is one PUT with `If-None-Match: *`, so that nothing is overwritten and of several writers of one name one
//! wins; what the service answers late, twice or not at all is settled by asking again and comparing. A client of this
//! kind has no state of its own but its connections: a process that dies leaves no unfinished object behind.
//!
//! - `settings.rs`: [`S3Settings`], what is configured · `client.rs`: credentials, region, certificates, proxy
//! - `runtime.rs`: the one thread on which requests run; the layers above are blocking
//! - `attempt.rs`: which failures are worth another attempt, until when, and what is said of the rest · `blame.rs`: credentials and proxies that fail · `parting.rs`: after a signal
//! - `gate.rs`: how many requests run at once · `counts.rs`: [`Requests`], how many there were
//! - `create.rs`: create-if-absent, and how ambiguous answers are settled · `sending.rs`: does what is sent go on? · `prove.rs`: does the service honour it?
//! - `read.rs`: reading, in the middle of a body too · `versions.rs`: older versions · `lock.rs`: object lock · `date.rs`: the service's clock · `list.rs`: listing and deleting · `whole.rs`: is a listing whole?

mod attempt;
mod blame;
mod client;
mod counts;
mod create;
mod date;
mod gate;
mod list;
mod lock;
mod parting;
mod prove;
mod read;
mod runtime;
mod sending;
mod settings;
#[cfg(test)]
mod tests;
mod versions;
mod whole;

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use bytes::Bytes;

use super::{Backend, Covered, Create, Listed, Locks, ObjectName, Pace, Requests, SessionTag, Start, StoreError, Version};
use counts::Counts;
use gate::Gate;
use lock::Stored;
use parting::Parting;
use runtime::Runtime;
pub use settings::{BadS3Setting, S3Settings, Watch};
use versions::Layers;

use crate::units::counted;

/// A store in a bucket.
pub struct S3Store {
    settings: S3Settings,
    watch: Watch,
    client: Client,
    gate: Gate,
    counts: Arc<Counts>,
    layers: Layers,
    stored: Stored,
    parting: Parting,
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
        Ok(S3Store {
            gate: Gate::new(settings.most_requests),
            settings,
            watch,
            client,
            counts,
            layers: Layers::default(),
            stored: Stored::default(),
            parting: Parting::default(),
            runtime,
        })
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

    /// Asked to stop, and nothing is left to say?
    fn is_stopped(&self) -> bool {
        self.parting.is_over(&self.watch.cancel)
    }

    fn absent(&self, name: &ObjectName) -> StoreError {
        StoreError::Absent { store: self.describe(), name: name.clone() }
    }
}

impl Drop for S3Store {
    fn drop(&mut self) {
        let beneath = self.layers.all_chosen();
        if let Some(first) = beneath.first() {
            let all = match beneath.len() - 1 {
                0 => format!("{first} was"),
                others => format!("{first} and {} were", counted(others, "other object", "other objects")),
            };
            (self.watch.notice)(&format!(
                "{all} read from older versions: something was put over what was meant, or it was deleted; `pgcairn verify` names it and the cure"
            ));
        }
        (self.watch.summary)(&format!("{}: {}", self.settings.place(), self.counts.so_far()));
    }
}

/// Bytes that whoever stores them holds, too.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Backend for S3Store {
    fn create(&self, name: &ObjectName, parts: &[&[u8]], _: &SessionTag) -> Result<Create, StoreError> {
        self.create_object(name, Bytes::from(parts.concat()))
    }

    fn create_shared(&self, name: &ObjectName, bytes: &Arc<Vec<u8>>, _: &SessionTag) -> Result<Create, StoreError> {
        self.create_object(name, Bytes::from_owner(Shared(Arc::clone(bytes))))
    }

    fn read(&self, name: &ObjectName, max: u64) -> Result<Vec<u8>, StoreError> {
        self.read_whole(name, max)
    }

    fn read_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        self.read_part(name, offset, len)
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

    fn rereads(&self) -> bool {
        true
    }

    fn durable_once_read(&self) -> bool {
        true
    }

    fn covered(&self, folder: &ObjectName) -> Result<Vec<Covered>, StoreError> {
        self.covered_in(folder)
    }

    fn choose(&self, name: &ObjectName, version: Option<&Version>) {
        self.layers.choose(name, version);
    }

    fn chosen(&self) -> Vec<ObjectName> {
        self.layers.all_chosen()
    }

    fn part(&self, time: Duration) {
        self.parting.begin(time, &self.watch.cancel);
    }

    fn locks(&self) -> Option<&dyn Locks> {
        self.settings.lock_days.map(|_| self as &dyn Locks)
    }

    fn pace(&self) -> Pace {
        Pace::of_a_service(self.settings.most_requests)
    }

    fn requests(&self) -> Option<Requests> {
        Some(self.counts.so_far())
    }

    fn describe(&self) -> String {
        format!("the repository in {}", self.settings.place())
    }
}
