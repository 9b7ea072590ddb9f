//! `init`: a new repository. `log/0` is the moment at which it comes into being; killed before, `init` starts over.

use std::sync::Arc;

use super::enrol;
use super::log_store::{is_of_the_dead, process_tag};
use super::opened::{LogParts, Opened, Role};
use super::stored::{Place, open_bucket};
use crate::crypt::sign::SigningKey;
use crate::crypt::slot::{Lock, Slot};
use crate::crypt::{Root, secret};
use crate::host::HostError;
use crate::host::config::RepositoryUrl;
use crate::host::paths::StateDir;
use crate::repo::format::{self, Format};
use crate::repo::log::{self, KeyOp, LogError};
use crate::store::{Backend, Create, LocalStore, ObjectName, SessionTag, StoreError};
use crate::units::ids::hex;

/// What is to be created.
pub struct NewRepository<'a> {
    /// What will open it.
    pub lock: Lock<'a>,
    /// May this host forget and prune?
    pub maintainer: bool,
}

/// What was created.
pub struct Created {
    /// It, open.
    pub opened: Opened,
    /// The slot's id.
    pub slot: String,
}

/// Creates a repository, or finishes one whose `init` was killed.
///
/// # Errors
/// If there is one already, something else lies there, or the store can't be relied on.
pub fn create(place: &Place<'_>, new: &NewRepository<'_>) -> Result<Created, HostError> {
    let shown = place.repository.url.to_string();
    let Some(state) = place.state else {
        return Err(HostError::Refused {
            what: "this host has no state folder to keep its key in".into(),
            cure: "set PGCAIRN_STATE_DIR to a folder that only this user can enter".into(),
        });
    };
    let backend: Arc<dyn Backend> = match &place.repository.url {
        RepositoryUrl::Local(path) => {
            let store = LocalStore::create(path)?;
            if !store.strangers()?.is_empty() {
                look_first(&store, &shown)?;
                return Err(HostError::NotEmpty { place: shown });
            }
            Arc::new(store)
        }
        RepositoryUrl::S3 { .. } => open_bucket(place.repository, place.watch)?,
    };
    create_in(backend, place, state, new)
}

fn create_in(backend: Arc<dyn Backend>, place: &Place<'_>, state: &StateDir, new: &NewRepository<'_>) -> Result<Created, HostError> {
    let shown = place.repository.url.to_string();
    let leftovers = look_first(backend.as_ref(), &shown)?;
    // Where this host knows a repository and none is there, its disk may not be mounted.
    if let Some(pin) = state.pin(&place.repository.url)? {
        let pin_file = state.pin_path(&place.repository.url);
        return Err(HostError::Refused {
            what: format!("this host knows repository {} at {shown}, and it is not there now", pin.repository),
            cure: format!("is its disk mounted? If it is gone for good, remove {}", pin_file.display()),
        });
    }
    remove(backend.as_ref(), leftovers)?;
    let tag = process_tag()?;
    can_lock(backend.as_ref())?;
    for said in backend.prove(&tag)? {
        place.progress.warn(&said);
    }
    if place.repository.url.folder().is_none() && place.repository.bucket.single_writer != Some(true) {
        state.remember_proved(&place.repository.url)?;
    }
    let root = Root::random()?;
    let name = |text: &str| ObjectName::new(text).map_err(StoreError::from);
    let format = Format { repository: root.repository, domain: root.domain, read_only_features: 0 };
    must_create(backend.as_ref(), &name(format::NAME)?, &format.encode(), &tag)?;
    let slot = Slot::seal(&root, &new.lock)?;
    let id = hex(&slot.id());
    let slot_name = name(&format!("key/{id}"))?;
    must_create(backend.as_ref(), &slot_name, slot.as_bytes(), &tag)?;
    let seed = secret::random()?;
    let key = SigningKey::from_seed(&seed);
    let repository = state.repository(root.repository);
    let keys = enrol::host_keys(&root, &seed);
    repository.create_host_keys(&keys)?;
    let cache_folder = place.cache.clone();
    let (sealing, opening, owner) = (root.sealing(), root.opening(), root.owner_public().clone());
    let mut roles = vec![log::Role::Writer, log::Role::Reader];
    if new.maintainer {
        roles.push(log::Role::Maintainer);
    }
    let seal = KeyOp::Seal { algorithm: 1, public: hex(&root.content.public().0) };
    let parts = LogParts::new(&backend, &sealing, &format, &owner)?;
    let born = parts.log().create(&root.owner, vec![KeyOp::Owner { public: owner.clone() }, seal, enrol::host_op(&key, &roles)]);
    if let Err(LogError::Exists) = born {
        // Another `init` at the same time was faster, and had taken our format for a leftover: our slot, made since, would lie
        // beside its own for ever. If it can't be deleted, `verify` names it.
        let _ = backend.delete(&slot_name).and_then(|()| backend.settle_deletions(&name("key")?));
    }
    let mut view = born?;
    view.follow(key.id());
    // Another `init` at the same time may have taken our format or slot for a leftover, before one of us made the log.
    let still = |name: &str, bytes: &[u8]| -> Result<bool, HostError> {
        let object = ObjectName::new(name).map_err(StoreError::from)?;
        // A bit that was flipped on the way is no other object.
        for _ in 0..3 {
            match backend.read(&object, 65536) {
                Ok(there) if there == bytes => return Ok(true),
                Ok(_) => {}
                Err(e) if e.is_absent() => return Ok(false),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(false)
    };
    if !still(format::NAME, &format.encode())? || !still(&format!("key/{id}"), slot.as_bytes())? {
        return Err(HostError::Refused {
            what: format!("two runs of init were at {shown} at the same time"),
            cure: format!("empty {shown} and run one init"),
        });
    }
    let (opening, signer, state) = (Some(opening), Some(key), Some(repository));
    let opened = Opened::of(parts, view, Role { backend, shown, format, owner, sealing, opening, signer, keys, state, cache_folder });
    opened.remember(place)?;
    opened.pin(place)?;
    Ok(Created { opened, slot: id })
}

/// Where locks are configured, the store must be able to keep them. One that may not be asked says so when it is written.
fn can_lock(backend: &dyn Backend) -> Result<(), HostError> {
    let Some(locks) = backend.locks() else { return Ok(()) };
    match locks.bucket() {
        Ok(bucket) if bucket.object_lock && bucket.versioning => Ok(()),
        Ok(_) => Err(StoreError::NoLocks { store: backend.describe() }.into()),
        Err(StoreError::Denied { .. } | StoreError::WrongCredentials { .. } | StoreError::NotOffered { .. }) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn must_create(backend: &dyn Backend, name: &ObjectName, bytes: &[u8], tag: &SessionTag) -> Result<(), HostError> {
    match backend.create(name, &[bytes], tag)? {
        Create::Created | Create::Same => Ok(()),
        Create::Other => Err(HostError::Exists { place: backend.describe() }),
    }
}

/// Nothing may lie here but what an `init` that was killed has left: a format object and slots without a log.
fn look_first(store: &dyn Backend, shown: &str) -> Result<Vec<ObjectName>, HostError> {
    let mut leftovers = Vec::new();
    for object in store.list_sorted(None)? {
        let name = object.name.as_str();
        if name.starts_with("log/") {
            return Err(HostError::Exists { place: shown.into() });
        }
        if name != format::NAME && !name.starts_with("key/") {
            return Err(HostError::NotEmpty { place: shown.into() });
        }
        leftovers.push(object.name);
    }
    Ok(leftovers)
}

/// Removes what was left, and what processes of this machine that are dead had begun to write.
fn remove(store: &dyn Backend, leftovers: Vec<ObjectName>) -> Result<(), HostError> {
    for name in leftovers {
        store.delete(&name)?;
    }
    for (tag, _) in store.leftovers()? {
        if is_of_the_dead(&tag) {
            store.remove_leftovers(&tag)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Meanwhile, Moment};
    use super::*;
    use crate::host::config::RepositorySettings;
    use crate::store::memory::MemoryStore;
    use crate::store::s3::Watch;
    use crate::units::Quiet;

    fn init(backend: Arc<dyn Backend>, folder: &std::path::Path) -> Result<Created, HostError> {
        let state = StateDir::open_at(&folder.join("state"), &Quiet).unwrap();
        let settings = RepositorySettings::at(RepositoryUrl::Local(folder.join("repository")), None);
        let place = Place { repository: &settings, watch: &Watch::default(), state: Some(&state), cache: None, progress: &Quiet };
        create_in(backend, &place, &state, &NewRepository { lock: Lock::Clear, maintainer: true })
    }

    /// Another one takes the format for a leftover, and is done before this one has stored its slot.
    #[test]
    fn who_comes_second_leaves_no_slot_beside_the_first_s() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
        [&ours, &theirs].iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
        let store: Arc<dyn Backend> = Arc::new(MemoryStore::default());
        let meanwhile = Meanwhile::over(Arc::clone(&store));
        let (behind, made) = (Arc::clone(&store), Arc::new(std::sync::Mutex::new(None)));
        let slot = Arc::clone(&made);
        meanwhile.at(Moment::AfterCreate, ObjectName::new(format::NAME).unwrap(), move || {
            *slot.lock().unwrap() = Some(init(behind, &theirs).map(|created| created.slot).unwrap());
        });
        let refused = init(Arc::clone(&meanwhile) as _, &ours).map(|_| ()).unwrap_err();
        assert!(meanwhile.is_over() && matches!(refused, HostError::Log(LogError::Exists)), "{refused:?}");
        let left: Vec<String> =
            store.list_sorted(Some(&ObjectName::new("key").unwrap())).unwrap().into_iter().map(|l| l.name.to_string()).collect();
        assert_eq!(left, [format!("key/{}", made.lock().unwrap().clone().unwrap())]);
    }
}
