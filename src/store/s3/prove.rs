//! Does the service honour `If-None-Match`?

use std::sync::Barrier;

use bytes::Bytes;

use super::S3Store;
use super::attempt::{Refusal, Size};
use crate::store::{Backend, ObjectName, RequestKind, StoreError};

/// How many try at once to create one name.
const RACERS: u8 = 8;

impl S3Store {
    /// Of several that create one name at once exactly one must win, and its bytes must be there. Says, too, whether this
    /// credential could overwrite without a condition. Leaves one object of a byte where it may not delete.
    pub(super) fn prove_create_if_absent(&self) -> Result<Vec<String>, StoreError> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|e| StoreError::Io { what: "drawing a name".to_owned(), source: e.into() })?;
        // No object's name: none lies in `tmp`.
        let name = format!("tmp/probe-{}", crate::units::ids::hex(&random));
        let what = format!("trying {name} in {}", self.settings.place());
        let result = self.race(&name, &what);
        let overwritten = if result.is_ok() { self.overwrites(&name, &what) } else { Ok(false) };
        let removed = self.delete_key(&name);
        let winners = result?;
        let single = self.settings.single_writer;
        let mut said = Vec::new();
        if winners > 1 && !single {
            return Err(StoreError::NotExclusive { store: self.describe(), racers: usize::from(RACERS), winners });
        }
        if winners > 1 {
            said.push(format!(
                "the service ignores If-None-Match ({winners} of {RACERS} were told that they had created one object): this must stay the only \
                 process that ever writes here, as single-writer says"
            ));
        }
        if overwritten? {
            said.push(
                "this credential may overwrite objects: give writers the policy of docs/s3.md, which demands If-None-Match, so that a thief of it can't"
                    .to_owned(),
            );
        }
        if let Err(StoreError::Denied { .. } | StoreError::WrongCredentials { .. }) = &removed {
            said.push(format!("this credential may not delete, as is right for a writer: {name}, of one byte, stays"));
        } else {
            removed?;
        }
        Ok(said)
    }

    /// How many of those who create one name at once are told that they did. None, where the answer to the one that did
    /// was lost.
    fn race(&self, name: &str, what: &str) -> Result<usize, StoreError> {
        let barrier = Barrier::new(usize::from(RACERS));
        let one = |number: u8| {
            barrier.wait();
            let bytes = Bytes::from(vec![number]);
            match self.ask(RequestKind::Put, what, Size::Sent(1), || self.put(name, bytes.clone(), true, None, 1, what)) {
                Ok(()) => Ok(true),
                Err(Refusal::Condition) => Ok(false),
                Err(other) => Err(other.into_error(what)),
            }
        };
        let outcomes: Vec<Result<bool, StoreError>> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..RACERS).map(|number| scope.spawn(move || one(number))).collect();
            let ended = || Err(StoreError::Io { what: what.to_owned(), source: std::io::Error::other("a thread ended early") });
            racers.into_iter().map(|racer| racer.join().unwrap_or_else(|_| ended())).collect()
        });
        let mut winners = 0;
        for outcome in outcomes {
            winners += usize::from(outcome?);
        }
        Ok(winners)
    }

    /// Was an unconditional PUT over an object allowed?
    fn overwrites(&self, name: &str, what: &str) -> Result<bool, StoreError> {
        match self.ask(RequestKind::Put, what, Size::Sent(1), || self.put(name, Bytes::from_static(b"-"), false, None, 1, what)) {
            Ok(()) => Ok(true),
            Err(Refusal::Failed(StoreError::Denied { .. } | StoreError::WrongCredentials { .. })) | Err(Refusal::Condition) => Ok(false),
            Err(other) => Err(other.into_error(what)),
        }
    }

    /// As [`S3Store::prove_create_if_absent`] without leaving or deleting anything: creates an object anew that is there,
    /// with the bytes that it has. A service that ignores the condition changes nothing by that.
    pub(super) fn prove_at_object(&self, name: &ObjectName, bytes: &[u8]) -> Result<(), StoreError> {
        if self.settings.single_writer {
            return Ok(());
        }
        let what = format!("trying create-if-absent on {name} in {}", self.settings.place());
        let bytes = Bytes::copy_from_slice(bytes);
        match self
            .ask(RequestKind::Put, &what, Size::Sent(bytes.len() as u64), || self.put(name.as_str(), bytes.clone(), true, None, 1, &what))
        {
            Err(Refusal::Condition) => Ok(()),
            Ok(()) => Err(StoreError::NotExclusive { store: self.describe(), racers: 2, winners: 2 }),
            Err(other) => Err(other.into_error(&what)),
        }
    }
}
