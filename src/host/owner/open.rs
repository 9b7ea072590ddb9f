//! From what opens slots to all that the owner holds.

use crate::crypt::keys::ContentSecret;
use crate::crypt::slot::{SlotKind, Unlock};
use crate::crypt::{CryptError, Root};
use crate::host::HostError;
use crate::host::access::{self, Need, Opened, Place, StoredSlot, buried_slots, opened_beneath, otherwise_now, read_slots, unlock_with};
use crate::host::config::SecretSource;
use crate::repo::format::FormatError;
use crate::repo::log::LogView;
use crate::units::{KeyId, SlotId};

/// A slot, and whether it is known what opens it.
pub struct OwnersSlot {
    /// It.
    pub stored: StoredSlot,
    /// Which of the owner's secrets opens it.
    pub(super) by: Option<usize>,
    /// The content keys that it holds; empty if it wasn't opened.
    pub(super) holds: Vec<KeyId>,
}

impl OwnersSlot {
    /// Its id, in hex.
    pub fn id(&self) -> String {
        crate::units::ids::hex(&self.stored.slot.id())
    }

    /// The same as the log names it.
    pub(super) fn slot_id(&self) -> SlotId {
        SlotId(self.stored.slot.id())
    }

    /// Does anything that was given open it?
    pub fn is_open(&self) -> bool {
        self.by.is_some()
    }

    /// Does it hold all content keys of a root? If not, it is from before a rotation.
    pub(super) fn holds_all_of(&self, root: &Root) -> bool {
        root.contents().all(|content| self.holds.contains(&content.public().id()))
    }

    /// Is it a way in, as far as this log goes? The owner opens it, it holds all content keys that are named there, and nobody
    /// is removing it. It is then in the store: nobody deletes it before the log says so.
    pub(super) fn is_way_in(&self, view: &LogView) -> bool {
        let keys = &view.fold.keys;
        let holds_named = keys.sealing.iter().all(|key| self.holds.contains(&key.id));
        self.is_open() && holds_named && !keys.removed_slots.contains_key(&self.slot_id())
    }
}

/// What the owner holds.
pub struct Owner {
    /// All keys: the union of what the opened slots hold. Content keys are in the order of the log; one that the log does
    /// not name, left behind by a rotation that was interrupted, is the newest.
    pub root: Root,
    /// The slots of the repository.
    pub slots: Vec<OwnersSlot>,
    pub(super) unlocks: Vec<Unlock>,
}

/// Opens a repository as its owner: with what is configured, and with `more`.
///
/// # Errors
/// As [`access::open`]; and if nothing that was given opens a slot of this repository's owner, or what it opens lacks
/// content keys.
pub fn open_as_owner(place: &Place<'_>, more: &[SecretSource]) -> Result<(Opened, Owner), HostError> {
    let opened = access::open(place, Need::Read)?;
    if opened.format.read_only_features != 0 {
        return Err(FormatError::Features(opened.format.read_only_features).into());
    }
    let sources = place.repository.secret.iter().chain(more);
    let mut unlocks: Vec<Unlock> = sources.map(unlock_with).collect::<Result<_, _>>()?;
    let (stored, _) = read_slots(opened.backend.as_ref(), opened.format.repository)?;
    let again = |seen: &[StoredSlot]| otherwise_now(opened.backend.as_ref(), opened.format.repository, seen);
    let has_clear = |slots: &[StoredSlot]| slots.iter().any(|s| s.slot.kind() == SlotKind::Clear);
    // Whose it is, is compared below: a slot in clear can't pass off another repository.
    if unlocks.is_empty() && (has_clear(&stored) || has_clear(&again(&stored)?)) {
        unlocks.push(Unlock::Clear);
    }
    if unlocks.is_empty() {
        return Err(HostError::NoSecret);
    }
    let mut tried: Vec<TriedSlot> = stored.iter().map(|stored| try_slot(&opened, stored.clone(), &unlocks)).collect();
    // One that came with a flipped bit shows it in nothing but that it doesn't open.
    if tried.is_empty() || !tried.iter().all(|tried| tried.slot.is_open()) {
        for stored in again(&stored)? {
            tried.retain(|tried| tried.slot.is_open() || tried.slot.stored.name != stored.name);
            if tried.iter().all(|tried| tried.slot.stored.name != stored.name) {
                tried.push(try_slot(&opened, stored, &unlocks));
            }
        }
    }
    let mut roots = Vec::new();
    let mut slots = Vec::new();
    let mut failed = None;
    for tried in tried {
        failed = failed.or(tried.failed);
        if tried.is_foreign {
            place.progress.warn(&format!("{} holds keys of another owner: it was planted", tried.slot.stored.name));
        }
        roots.extend(tried.root);
        slots.push(tried.slot);
    }
    for unlock in &unlocks {
        if let Unlock::Root(root) = unlock {
            if !is_of(root, &opened) {
                return Err(HostError::Another { place: opened.shown.clone() });
            }
            roots.push((**root).clone());
        }
    }
    if roots.is_empty() {
        roots.extend(beneath(place, &opened, &unlocks)?);
    }
    if roots.is_empty() {
        return Err(failed.unwrap_or(CryptError::WrongKey).into());
    }
    let root = merged(&roots, &opened)?;
    Ok((opened, Owner { root, slots, unlocks }))
}

/// What came of trying to open a slot.
pub(super) struct TriedSlot {
    pub slot: OwnersSlot,
    /// What it holds.
    pub root: Option<Root>,
    /// Something that was given opens it, and what it holds is another owner's.
    is_foreign: bool,
    /// Why it could not be opened with something.
    failed: Option<CryptError>,
}

pub(super) fn try_slot(opened: &Opened, stored: StoredSlot, unlocks: &[Unlock]) -> TriedSlot {
    let slot = OwnersSlot { stored, by: None, holds: Vec::new() };
    let mut tried = TriedSlot { slot, root: None, is_foreign: false, failed: None };
    for (number, unlock) in unlocks.iter().enumerate() {
        match tried.slot.stored.slot.open(unlock) {
            Ok(None) => {}
            Err(e) => _ = tried.failed.get_or_insert(e),
            Ok(Some(root)) if is_of(&root, opened) => {
                tried.slot.by = Some(number);
                tried.slot.holds = root.contents().map(|content| content.public().id()).collect();
                tried.root = Some(root);
                break;
            }
            Ok(Some(_)) => tried.is_foreign = true,
        }
    }
    tried
}

/// The keys out of a slot that was deleted or covered: it counts as none of the repository's, but what it holds is the owner's.
fn beneath(place: &Place<'_>, opened: &Opened, unlocks: &[Unlock]) -> Result<Option<Root>, HostError> {
    for stored in buried_slots(opened.backend.as_ref(), opened.format.repository, |_| true)? {
        let root = unlocks.iter().find_map(|unlock| stored.slot.open(unlock).ok().flatten());
        if let Some(root) = root.filter(|root| is_of(root, opened)) {
            place.progress.warn(&opened_beneath(&stored.name));
            return Ok(Some(root));
        }
    }
    Ok(None)
}

fn is_of(root: &Root, opened: &Opened) -> bool {
    let ours = root.owner_public() == &opened.owner && root.repository == opened.format.repository && root.domain == opened.format.domain;
    ours && root.table_key.expose() == opened.sealing.table_key().expose()
}

/// All content keys that any root holds. None that the log names may be lacking, else what is made of it would lack it, too.
pub(super) fn merged(roots: &[Root], opened: &Opened) -> Result<Root, HostError> {
    let named: Vec<KeyId> = opened.view().fold.keys.sealing.iter().map(|key| key.id).collect();
    let mut contents: Vec<ContentSecret> = Vec::new();
    for content in roots.iter().flat_map(Root::contents) {
        if !contents.iter().any(|known| known.public() == content.public()) {
            contents.push(content.clone());
        }
    }
    if let Some(lacking) = named.iter().find(|id| !contents.iter().any(|content| content.public().id() == **id)) {
        return Err(HostError::OldSecret { key: *lacking });
    }
    contents.sort_by_key(|content| named.iter().position(|id| *id == content.public().id()).unwrap_or(usize::MAX));
    let (Some(newest), Some(root)) = (contents.pop(), roots.first()) else { return Err(CryptError::WrongKey.into()) };
    Ok(Root { content: newest, former: contents, ..root.clone() })
}
