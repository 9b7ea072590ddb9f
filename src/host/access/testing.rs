//! A repository in memory with one enrolled host, a store whose answers get lost, and one behind whose back things happen.

use std::io;
use std::sync::{Arc, Mutex};

use super::enrol::{host_keys, host_op};
use super::open::with_host_keys;
use super::opened::{LogParts, Opened, Role};
use crate::crypt::sign::SigningKey;
use crate::crypt::{Root, secret};
use crate::host::HostError;
use crate::host::paths::StateDir;
use crate::repo::format::Format;
use crate::repo::log::{self, KeyOp, entry_name};
use crate::store::memory::MemoryStore;
use crate::store::{Backend, Create, Listed, ObjectName, SessionTag, StoreError};
use crate::units::Quiet;
use crate::units::ids::hex;

/// A host with its state folder, and the repository as it has opened it.
pub(crate) struct Host {
    pub opened: Arc<Opened>,
    pub state: StateDir,
    /// The owner's keys.
    pub root: Root,
    _folder: tempfile::TempDir,
}

impl Host {
    /// Creates the repository, as `init` does.
    pub fn new(backend: Arc<dyn Backend>) -> Host {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open_at(&folder.path().join("state"), &Quiet).unwrap();
        let (root, seed) = (Root::random().unwrap(), secret::random().unwrap());
        let format = Format { repository: root.repository, domain: root.domain, read_only_features: 0 };
        let (key, keys, owner) = (SigningKey::from_seed(&seed), host_keys(&root, &seed), root.owner_public().clone());
        let repository = state.repository(root.repository);
        repository.create_host_keys(&keys).unwrap();
        let (sealing, opening) = (root.sealing(), Some(root.opening()));
        let parts = LogParts::new(&backend, &sealing, &format, &owner).unwrap();
        let seal = KeyOp::Seal { algorithm: 1, public: hex(&root.content.public().0) };
        let host = host_op(&key, &[log::Role::Writer, log::Role::Reader, log::Role::Maintainer]);
        let view = parts.log().create(&root.owner, vec![KeyOp::Owner { public: owner.clone() }, seal, host]).unwrap();
        let (shown, signer, state_of) = ("memory".into(), Some(key), Some(repository));
        let role = Role { backend, shown, format, owner, sealing, opening, signer, keys, state: state_of, cache_folder: None };
        Host { opened: Arc::new(Opened::of(parts, view, role)), state, root, _folder: folder }
    }

    /// The repository as another process of this host opens it, through that store.
    pub fn again(&self, backend: Arc<dyn Backend>) -> Result<Arc<Opened>, HostError> {
        let (opened, state) = (&self.opened, self.state.repository(self.opened.format.repository));
        let format = Format { ..opened.format };
        with_host_keys(backend, opened.shown.clone(), format, &opened.keys, Some(state), None).map(Arc::new)
    }
}

/// When something happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Moment {
    /// Before an object of this name is created.
    BeforeCreate,
    /// After it was created.
    AfterCreate,
    /// After it was read and not there.
    AfterAbsent,
    /// After it was deleted.
    AfterDelete,
}

type Deed = Box<dyn FnOnce() + Send>;

/// A store behind whose back something happens at a moment, once.
pub(crate) struct Meanwhile {
    inner: Arc<dyn Backend>,
    deed: Mutex<Option<(Moment, ObjectName, Deed)>>,
}

impl Meanwhile {
    pub fn over(inner: Arc<dyn Backend>) -> Arc<Self> {
        Arc::new(Meanwhile { inner, deed: Mutex::new(None) })
    }

    /// Lets it happen when the log's entry of this number is asked for or created.
    pub fn at_entry(&self, moment: Moment, number: u64, deed: impl FnOnce() + Send + 'static) {
        self.at(moment, ObjectName::new(entry_name(number)).unwrap(), deed);
    }

    /// Lets it happen at an object.
    pub fn at(&self, moment: Moment, name: ObjectName, deed: impl FnOnce() + Send + 'static) {
        *self.deed.lock().unwrap() = Some((moment, name, Box::new(deed)));
    }

    /// Has it happened?
    pub fn is_over(&self) -> bool {
        self.deed.lock().unwrap().is_none()
    }

    fn now(&self, moment: Moment, name: &ObjectName) {
        let due = self.deed.lock().unwrap().take_if(|(when, what, _)| *when == moment && what == name);
        if let Some((_, _, deed)) = due {
            deed();
        }
    }
}

impl Backend for Meanwhile {
    fn create(&self, name: &ObjectName, parts: &[&[u8]], session: &SessionTag) -> Result<Create, StoreError> {
        self.now(Moment::BeforeCreate, name);
        let created = self.inner.create(name, parts, session);
        self.now(Moment::AfterCreate, name);
        created
    }

    fn read(&self, name: &ObjectName, max: u64) -> Result<Vec<u8>, StoreError> {
        let read = self.inner.read(name, max);
        if read.as_ref().is_err_and(StoreError::is_absent) {
            self.now(Moment::AfterAbsent, name);
        }
        read
    }

    fn read_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        self.inner.read_range(name, offset, len)
    }

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        self.inner.size(name)
    }

    fn list(&self, folder: Option<&ObjectName>, each: &mut dyn FnMut(Listed) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.inner.list(folder, each)
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        let deleted = self.inner.delete(name);
        self.now(Moment::AfterDelete, name);
        deleted
    }

    fn settle_deletions(&self, folder: &ObjectName) -> Result<(), StoreError> {
        self.inner.settle_deletions(folder)
    }

    fn prove(&self, session: &SessionTag) -> Result<Vec<String>, StoreError> {
        self.inner.prove(session)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// What happens to calls about one object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loss {
    /// It is written, and this many answers about it are lost.
    Answers(u32),
    /// It is not written, and nothing is answered about it.
    Requests(u32),
}

/// A store of which the network loses a part.
#[derive(Default)]
pub(crate) struct Flaky {
    pub inner: MemoryStore,
    losses: Mutex<Vec<(ObjectName, Loss)>>,
    created: Mutex<Vec<ObjectName>>,
}

impl Flaky {
    /// The log's entry of this number is written, and that call and so many in all about it go unanswered.
    pub fn lose_answers(&self, number: u64, calls: u32) {
        self.losses.lock().unwrap().push((ObjectName::new(entry_name(number)).unwrap(), Loss::Answers(calls)));
    }

    /// From the first attempt to write it on, so many calls about the log's entry of this number are lost on their way.
    pub fn lose_requests(&self, number: u64, calls: u32) {
        self.losses.lock().unwrap().push((ObjectName::new(entry_name(number)).unwrap(), Loss::Requests(calls)));
    }

    fn call<T>(&self, name: &ObjectName, call: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let loss = {
            let mut losses = self.losses.lock().unwrap();
            let offered = self.created.lock().unwrap().contains(name);
            losses.iter_mut().find(|(lost, _)| offered && lost == name).and_then(|(_, loss)| {
                let before = *loss;
                let (Loss::Answers(left) | Loss::Requests(left)) = loss;
                let any = *left > 0;
                *left = left.saturating_sub(1);
                any.then_some(before)
            })
        };
        let lost = || StoreError::Unreachable { what: self.inner.describe(), source: io::Error::from(io::ErrorKind::TimedOut) };
        match loss {
            None => call(),
            Some(Loss::Answers(_)) => call().and(Err(lost())),
            Some(Loss::Requests(_)) => Err(lost()),
        }
    }
}

impl Backend for Flaky {
    fn create(&self, name: &ObjectName, parts: &[&[u8]], session: &SessionTag) -> Result<Create, StoreError> {
        self.created.lock().unwrap().push(name.clone());
        self.call(name, || self.inner.create(name, parts, session))
    }

    fn read(&self, name: &ObjectName, max: u64) -> Result<Vec<u8>, StoreError> {
        self.call(name, || self.inner.read(name, max))
    }

    fn read_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        self.call(name, || self.inner.read_range(name, offset, len))
    }

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        self.call(name, || self.inner.size(name))
    }

    fn list(&self, folder: Option<&ObjectName>, each: &mut dyn FnMut(Listed) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.inner.list(folder, each)
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.call(name, || self.inner.delete(name))
    }

    fn prove(&self, session: &SessionTag) -> Result<Vec<String>, StoreError> {
        self.inner.prove(session)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
