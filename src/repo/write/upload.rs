//! The threads that store finished packs: as many as the store likes. Builders go on filling the next packs meanwhile; the
//! queue holds one more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::repo::pack::{FinishedPack, Packs};
use crate::repo::{PackRef, RepoError};
use crate::store::{Backend, Create, ObjectName, SessionTag, StoreError};
use crate::units::SessionId;

/// What the uploading threads tell their session.
#[derive(Clone, Copy, Debug)]
pub enum Uploaded<'a> {
    /// This pack is stored, durably.
    Pack(&'a PackRef),
    /// Nothing to store for a while: an occasion for a sign of life.
    Idle,
}

/// Called in the uploading threads, by one at a time.
pub type OnStored = Box<dyn FnMut(Uploaded<'_>) -> Result<(), RepoError> + Send>;

/// How often a session that stores nothing is given an occasion for a sign of life.
const IDLE: Duration = Duration::from_secs(20);

pub(super) struct Uploader {
    queue: Option<SyncSender<FinishedPack>>,
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

/// What the uploading threads share.
struct Shared {
    backend: Arc<dyn Backend>,
    packs: Arc<Packs>,
    session: SessionId,
    tag: SessionTag,
    on_stored: Mutex<OnStored>,
    stored: Mutex<Vec<PackRef>>,
    failure: Mutex<Option<RepoError>>,
    failed: AtomicBool,
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
        let count = backend.pace().writes.max(1);
        let (on_stored, stored, failure) = (Mutex::new(on_stored), Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { backend, packs, session, tag, on_stored, stored, failure, failed: AtomicBool::new(false) });
        let mut uploader = Uploader { queue: Some(queue), threads: Vec::new(), shared };
        // Only the threads hold the queue's other end: when all have ended, sending fails instead of waiting.
        let finished = Arc::new(Mutex::new(finished));
        for number in 0..count {
            let (finished, shared) = (Arc::clone(&finished), Arc::clone(&uploader.shared));
            let thread = std::thread::Builder::new().name(format!("store packs {number}")).spawn(move || shared.work(&finished));
            match thread {
                Ok(thread) => uploader.threads.push(thread),
                Err(_) if number > 0 => break,
                Err(_) => return Err(RepoError::internal("no thread can be started")),
            }
        }
        Ok(uploader)
    }

    /// Hands a pack over; waits while the queue is full.
    pub(super) fn send(&self, pack: FinishedPack) -> Result<(), RepoError> {
        match self.queue.as_ref().filter(|_| !self.shared.failed.load(Ordering::SeqCst)).map(|queue| queue.send(pack)) {
            Some(Ok(())) => Ok(()),
            _ => Err(self.take_failure()),
        }
    }

    /// Waits until all is stored.
    pub(super) fn finish(mut self) -> Result<Vec<PackRef>, RepoError> {
        let whole = self.join();
        let failed = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        match failed {
            Some(error) => Err(error),
            None if whole && !self.shared.failed.load(Ordering::SeqCst) => {
                Ok(std::mem::take(&mut *self.shared.stored.lock().unwrap_or_else(PoisonError::into_inner)))
            }
            None => Err(RepoError::internal("a storing thread died")),
        }
    }

    /// Closes the queue and waits for the threads; `false` if one has panicked.
    fn join(&mut self) -> bool {
        self.queue = None;
        let mut whole = true;
        for thread in self.threads.drain(..) {
            whole &= thread.join().is_ok();
        }
        whole
    }

    fn take_failure(&self) -> RepoError {
        // A thread sets the failure before it lets go of its end of the queue, and another sender may have taken it.
        self.shared
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .unwrap_or(RepoError::internal("storing has failed before"))
    }
}

impl Drop for Uploader {
    /// A writer that is given up leaves no thread behind that could append in the name of its session.
    fn drop(&mut self) {
        self.join();
    }
}

impl Shared {
    /// What each thread does.
    fn work(&self, finished: &Mutex<Receiver<FinishedPack>>) {
        while !self.failed.load(Ordering::SeqCst) {
            // One waits for a pack, the others wait for that one.
            let next = finished.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(IDLE);
            let done = match next {
                Ok(_) if self.failed.load(Ordering::SeqCst) => return,
                Ok(pack) => self.store(&pack).and_then(|pack| {
                    self.stored.lock().unwrap_or_else(PoisonError::into_inner).push(pack);
                    self.tell(Uploaded::Pack(&pack))
                }),
                Err(RecvTimeoutError::Timeout) => self.tell(Uploaded::Idle),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Err(error) = done {
                self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                self.failed.store(true, Ordering::SeqCst);
            }
        }
    }

    fn tell(&self, what: Uploaded<'_>) -> Result<(), RepoError> {
        (self.on_stored.lock().unwrap_or_else(PoisonError::into_inner))(what)
    }

    fn store(&self, pack: &FinishedPack) -> Result<PackRef, RepoError> {
        let size = pack.bytes.len() as u64;
        let stored = PackRef { session: self.session, id: pack.id, hash: pack.hash, size, tail: pack.tail };
        let name: ObjectName = crate::repo::pack::pack_name(self.session, &stored)?;
        match self.backend.create_shared(&name, &pack.bytes, &self.tag).map_err(|e: StoreError| e)? {
            Create::Created | Create::Same => {
                self.packs.add([stored]);
                self.packs.keep_stored(&name, pack);
                Ok(stored)
            }
            Create::Other => Err(RepoError::corrupt(&name, "other bytes lie under the name of a pack that was drawn at random")),
        }
    }
}
