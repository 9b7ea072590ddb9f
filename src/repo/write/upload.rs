//! The thread that stores finished packs. Builders go on filling the next pack meanwhile; the queue holds one more.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::repo::pack::{FinishedPack, Packs};
use crate::repo::{PackRef, RepoError};
use crate::store::{Backend, Create, ObjectName, SessionTag, StoreError};
use crate::units::SessionId;

/// What the uploading thread tells its session.
#[derive(Clone, Copy, Debug)]
pub enum Uploaded<'a> {
    /// This pack is stored, durably.
    Pack(&'a PackRef),
    /// Nothing to store for a while: an occasion for a sign of life.
    Idle,
}

/// Called in the uploading thread.
pub type OnStored = Box<dyn FnMut(Uploaded<'_>) -> Result<(), RepoError> + Send>;

/// How often a session that stores nothing is given an occasion for a sign of life.
const IDLE: Duration = Duration::from_secs(20);

pub(super) struct Uploader {
    queue: Option<SyncSender<FinishedPack>>,
    thread: Option<JoinHandle<Vec<PackRef>>>,
    failure: Arc<Mutex<Option<RepoError>>>,
}

impl Uploader {
    pub(super) fn start(
        backend: Arc<dyn Backend>,
        packs: Arc<Packs>,
        session: SessionId,
        tag: SessionTag,
        on_stored: OnStored,
    ) -> Result<Self, RepoError> {
        let (queue, finished) = sync_channel(1);
        let failure = Arc::new(Mutex::new(None));
        let theirs = Arc::clone(&failure);
        let work = Work { backend, packs, session, tag, on_stored };
        let thread = std::thread::Builder::new()
            .name("store packs".into())
            .spawn(move || {
                let mut stored = Vec::new();
                if let Err(error) = work.run(&finished, &mut stored) {
                    *theirs.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
                stored
            })
            .map_err(|_| RepoError::internal("no thread can be started"))?;
        Ok(Uploader { queue: Some(queue), thread: Some(thread), failure })
    }

    /// Hands a pack over; waits while the queue is full.
    pub(super) fn send(&self, pack: FinishedPack) -> Result<(), RepoError> {
        match self.queue.as_ref().map(|queue| queue.send(pack)) {
            Some(Ok(())) => Ok(()),
            _ => Err(self.take_failure()),
        }
    }

    /// Waits until all is stored.
    pub(super) fn finish(mut self) -> Result<Vec<PackRef>, RepoError> {
        let stored = self.join();
        let failed = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (stored, failed) {
            (Some(Ok(stored)), None) => Ok(stored),
            (_, Some(error)) => Err(error),
            _ => Err(RepoError::internal("the storing thread died")),
        }
    }

    /// Closes the queue and waits for the thread.
    fn join(&mut self) -> Option<std::thread::Result<Vec<PackRef>>> {
        self.queue = None;
        self.thread.take().map(JoinHandle::join)
    }

    fn take_failure(&self) -> RepoError {
        // The thread sets the failure before it drops its end of the queue, and another sender may have taken it.
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or(RepoError::internal("storing has failed before"))
    }
}

impl Drop for Uploader {
    /// A writer that is given up leaves no thread behind that could append in the name of its session.
    fn drop(&mut self) {
        self.join();
    }
}

struct Work {
    backend: Arc<dyn Backend>,
    packs: Arc<Packs>,
    session: SessionId,
    tag: SessionTag,
    on_stored: OnStored,
}

impl Work {
    fn run(mut self, finished: &Receiver<FinishedPack>, stored: &mut Vec<PackRef>) -> Result<(), RepoError> {
        loop {
            match finished.recv_timeout(IDLE) {
                Ok(pack) => {
                    let pack = self.store(&pack)?;
                    stored.push(pack);
                    (self.on_stored)(Uploaded::Pack(&pack))?;
                }
                Err(RecvTimeoutError::Timeout) => (self.on_stored)(Uploaded::Idle)?,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn store(&self, pack: &FinishedPack) -> Result<PackRef, RepoError> {
        let size = pack.bytes.len() as u64;
        let stored = PackRef { session: self.session, id: pack.id, hash: pack.hash, size, tail: pack.tail };
        let name: ObjectName = crate::repo::pack::pack_name(self.session, &stored)?;
        match self.backend.create(&name, &[&pack.bytes], &self.tag).map_err(|e: StoreError| e)? {
            Create::Created | Create::Same => {
                self.packs.add([stored]);
                self.packs.keep_stored(&name, pack);
                Ok(stored)
            }
            Create::Other => Err(RepoError::corrupt(&name, "other bytes lie under the name of a pack that was drawn at random")),
        }
    }
}
