//! The packs that are stored, by one listing: some fifty bytes each.

use std::collections::HashMap;

use crate::repo::log::Fold;
use crate::store::{Backend, ObjectName, StoreError};
use crate::units::{Cancel, Cancelled, Hash32, PackId, SessionId};

/// A pack object: the hash in its name, and its length.
type Object = (Hash32, u64);

/// Packs as the store lists them.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// By session and id. Usually one object; others only where somebody planted them, as a pack's id is random.
    packs: HashMap<(SessionId, PackId), Vec<Object>>,
    /// Names in the folder of packs that no program of this version gives.
    pub strangers: u64,
}

impl Listing {
    /// Lists the folder of packs. What the log says is to be read *after* this: then each pack that is listed has its session's
    /// BEGIN in it, and an unknown session is nobody's.
    ///
    /// # Errors
    /// If it can't be listed; the second error if it was cancelled.
    pub fn read(backend: &dyn Backend, cancel: &Cancel) -> Result<Result<Self, Cancelled>, StoreError> {
        let mut listing = Listing::default();
        let mut stopped = Ok(());
        let folder = ObjectName::new("pack")?;
        let listed = backend.list(Some(&folder), &mut |object| {
            stopped = cancel.check();
            if stopped.is_err() {
                // Any error ends the listing; this one is replaced.
                return Err(StoreError::Absent { store: String::new(), name: object.name });
            }
            listing.take(&object.name, object.size);
            Ok(())
        });
        if let Err(cancelled) = stopped {
            return Ok(Err(cancelled));
        }
        listed.map(|()| Ok(listing))
    }

    fn take(&mut self, name: &ObjectName, size: u64) {
        match parse(name.as_str()) {
            Some((session, pack, hash)) => self.packs.entry((session, pack)).or_default().push((hash, size)),
            None => self.strangers += 1,
        }
    }

    /// Is anything listed that the log doesn't know?
    pub fn has_unknown(&self, fold: &Fold) -> bool {
        self.strangers > 0 || self.packs().any(|(session, pack)| fold.pack(&session, &pack).is_none())
    }

    /// Of packs that the log doesn't know, leaves only those that another listing shows as well: a name that came damaged is
    /// nobody's, and nothing lies there. What has come since is not taken.
    pub fn confirm(&mut self, fold: &Fold, again: &Listing) {
        self.packs.retain(|pack, _| fold.pack(&pack.0, &pack.1).is_some() || again.packs.contains_key(pack));
        self.strangers = self.strangers.min(again.strangers);
    }

    /// Takes one more; for tests.
    #[cfg(test)]
    pub(super) fn with(mut self, session: SessionId, pack: PackId, hash: Hash32, size: u64) -> Self {
        self.packs.entry((session, pack)).or_default().push((hash, size));
        self
    }

    /// The packs: session and id.
    pub fn packs(&self) -> impl Iterator<Item = (SessionId, PackId)> {
        self.packs.keys().copied()
    }

    /// The bytes that a pack takes.
    pub fn size(&self, session: SessionId, pack: PackId) -> Option<u64> {
        self.packs.get(&(session, pack)).map(|objects| objects.iter().fold(0u64, |sum, (_, size)| sum.saturating_add(*size)))
    }

    /// The objects of a pack, and their lengths.
    pub fn objects(&self, session: SessionId, pack: PackId) -> impl Iterator<Item = (Hash32, u64)> {
        self.packs.get(&(session, pack)).into_iter().flatten().copied()
    }

    /// They are deleted.
    pub fn forget(&mut self, session: SessionId, pack: PackId) {
        self.packs.remove(&(session, pack));
    }
}

/// `pack/<session>/<id>-<hash>`, in exactly our spelling.
fn parse(name: &str) -> Option<(SessionId, PackId, Hash32)> {
    let (session, pack) = name.strip_prefix("pack/")?.split_once('/')?;
    let (id, hash) = pack.split_once('-')?;
    let (session, id, hash) = (session.parse().ok()?, id.parse().ok()?, hash.parse().ok()?);
    (object(session, id, hash) == name).then_some((session, id, hash))
}

/// The name of a pack's object.
pub(super) fn object(session: SessionId, pack: PackId, hash: Hash32) -> String {
    format!("pack/{session}/{pack}-{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_spelling_is_a_pack() {
        let (session, pack, hash) = (SessionId([1; 16]), PackId([0xab; 16]), Hash32([3; 32]));
        let name = object(session, pack, hash);
        assert_eq!(parse(&name), Some((session, pack, hash)));
        for other in
            [name.to_uppercase(), format!("{name}0"), format!("{name}/x"), name.replace("pack/", "pack/x/"), name.replace("ab", "AB")]
        {
            assert_eq!(parse(&other), None, "{other}");
        }
    }
}
