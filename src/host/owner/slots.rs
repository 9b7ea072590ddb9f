//! Adding and removing key slots.

use zeroize::Zeroizing;

use super::open::{Owner, try_slot};
use crate::crypt::Secret;
use crate::crypt::slot::{self, Lock, Slot, key_file_text};
use crate::host::HostError;
use crate::host::access::{Opened, StoredSlot, buried_slots, process_tag, read_slots, unwrap_key};
use crate::host::config::{KeyOperation, SecretError, run_key_command};
use crate::store::{Create, ObjectName, StoreError};
use crate::units::KeyId;
use crate::units::ids::hex;

/// The slots of a repository, and how many other objects lie among them.
///
/// # Errors
/// If the store can't be read.
pub fn list_slots(opened: &Opened) -> Result<(Vec<StoredSlot>, usize), HostError> {
    read_slots(opened.backend.as_ref(), opened.format.repository)
}

/// Slots that were deleted while the store keeps them: who has what opens them, and may read older versions, still can.
///
/// # Errors
/// If the store can't be read.
pub fn deleted_slots(opened: &Opened) -> Result<Vec<StoredSlot>, HostError> {
    buried_slots(opened.backend.as_ref(), opened.format.repository, |covered| covered.deleted)
}

/// Stores a new slot with all of the owner's keys. Killed before it is there, nothing has happened.
///
/// # Errors
/// If it can't be stored; or if somebody else has rotated the content key since the owner's slots were opened: it would open
/// nothing new, and is taken away again.
pub fn add_slot(opened: &Opened, owner: &Owner, lock: &Lock<'_>) -> Result<StoredSlot, HostError> {
    let stored = store(opened, Slot::seal(&owner.root, lock)?)?;
    // After it is there: a rotation lists slots once more behind its entry, so that one of the two sees the other.
    opened.refresh()?;
    if lacked(opened, owner).is_empty() {
        return Ok(stored);
    }
    opened.backend.delete(&stored.name)?;
    settle(opened)?;
    Err(HostError::Refused {
        what: "somebody else has rotated the content key at the same time: the new key slot would not have opened new content, and was removed again".into(),
        cure: "run it again".into(),
    })
}

/// Content keys that the log names, as far as it was read, and that the owner's root lacks: of a rotation since.
fn lacked(opened: &Opened, owner: &Owner) -> Vec<KeyId> {
    let has = |id: &KeyId| owner.root.contents().any(|content| content.public().id() == *id);
    opened.view().fold.keys.sealing.iter().map(|key| key.id).filter(|id| !has(id)).collect()
}

/// Stores a slot under its id.
pub(super) fn store(opened: &Opened, slot: Slot) -> Result<StoredSlot, HostError> {
    let name = ObjectName::new(format!("key/{}", hex(&slot.id()))).map_err(StoreError::from)?;
    match opened.backend.create(&name, &[slot.as_bytes()], &process_tag()?)? {
        Create::Created | Create::Same => Ok(StoredSlot { name, slot }),
        Create::Other => Err(HostError::Exists { place: name.to_string() }),
    }
}

/// Removes a slot. What opens another one must be at hand: so that the last way in can't be shut, and not by two who each
/// count on what the other removes either.
///
/// # Errors
/// If there is none of that id, several, or no other slot is known to open. If none is left that opens once it is removed: it
/// is then stored again.
pub fn remove_slot(opened: &Opened, owner: &Owner, id: &str) -> Result<StoredSlot, HostError> {
    let mut meant = owner.slots.iter().filter(|slot| !id.is_empty() && slot.id().starts_with(id));
    let slot = match (meant.next(), meant.next()) {
        (Some(slot), None) => slot,
        (None, _) => return Err(HostError::NoSuch { what: format!("there is no key slot {id}"), cure: "`pgcairn key list` names them" }),
        (Some(_), Some(_)) => {
            let cure = "give more digits of the slot's id".into();
            return Err(HostError::Refused { what: format!("several key slots begin with {id}"), cure });
        }
    };
    let another = owner.slots.iter().any(|other| other.id() != slot.id() && other.is_open() && other.holds_all_of(&owner.root));
    if !another {
        return Err(HostError::Refused {
            what: format!("no other slot than {} opens with what was given: it could be the last way into the repository", slot.id()),
            cure: "give what opens another slot; make one by `pgcairn key add` if there is none".into(),
        });
    }
    opened.backend.delete(&slot.stored.name)?;
    let left = is_way_left(opened, owner);
    if !matches!(left, Ok(true)) {
        put_back(opened, &slot.stored)?;
    }
    let (id, left) = (slot.id(), left?);
    settle(opened)?;
    if !left {
        return Err(HostError::Refused {
            what: format!(
                "somebody else has removed the other key slots at the same time: {id} is stored again, since it could be the last way into the repository"
            ),
            cure: "look at `pgcairn key list`, and run it again".into(),
        });
    }
    if !lacked(opened, owner).is_empty() {
        return Err(HostError::Refused {
            what: format!(
                "somebody else has rotated the content key at the same time: {id} is removed, and the rotation may have made a slot in its stead that the same passphrase, key file or command opens"
            ),
            cure: "look at `pgcairn key list`, and remove that one, too".into(),
        });
    }
    Ok(slot.stored.clone())
}

/// Makes durable that slots were deleted: one that is called removed must not be back after a power failure.
pub(super) fn settle(opened: &Opened) -> Result<(), HostError> {
    Ok(opened.backend.settle_deletions(&ObjectName::new("key").map_err(StoreError::from)?)?)
}

/// Is there a slot in the store, as it is now, that the owner opens and that holds all content keys that the log names now?
fn is_way_left(opened: &Opened, owner: &Owner) -> Result<bool, HostError> {
    let (slots, _) = list_slots(opened)?;
    opened.refresh()?;
    let named: Vec<KeyId> = opened.view().fold.keys.sealing.iter().map(|key| key.id).collect();
    Ok(slots.into_iter().any(|stored| {
        // Opening costs seconds, and most have been opened.
        let known = owner.slots.iter().find(|known| known.stored.slot.as_bytes() == stored.slot.as_bytes());
        let tried;
        let slot = match known {
            Some(known) => known,
            None => {
                tried = try_slot(opened, stored, &owner.unlocks).slot;
                &tried
            }
        };
        slot.is_open() && named.iter().all(|id| slot.holds.contains(id))
    }))
}

/// Stores a slot once more under the name that it had.
fn put_back(opened: &Opened, removed: &StoredSlot) -> Result<(), HostError> {
    store(opened, removed.slot.clone()).map(drop).map_err(|e| HostError::Refused {
        what: format!("key slot {} is removed, whether another one opens is not known, and it can't be stored again: {e}", hex(&removed.slot.id())),
        cure: "once the store can be written to, look at `pgcairn key list`, and make another one by `pgcairn key add`: this host's own keys and what opens another slot still work".into(),
    })
}

/// A fresh key that a command has wrapped, and that `unwrap` gives back: tried before anything is stored.
///
/// # Errors
/// If a command fails, prints nothing or too much, or the key that comes back is another.
pub fn wrapped_lock(wrap: &str, unwrap: &str) -> Result<(Secret, Zeroizing<Vec<u8>>), HostError> {
    let key = Secret::random()?;
    let wrapped = run_key_command(wrap, KeyOperation::Wrap, key_file_text(&key).as_bytes(), slot::MOST_WRAPPED)?;
    if wrapped.is_empty() {
        return Err(SecretError::Malformed { place: "the command that wraps the key".into(), problem: "it printed nothing" }.into());
    }
    let clear = hex(key.expose());
    if wrapped.windows(clear.len()).any(|part| part.eq_ignore_ascii_case(clear.as_bytes())) {
        let what = "the command that wraps the key printed the key itself: anybody could open the slot".into();
        let cure =
            "it reads the key on its standard input, and prints it encrypted; $PGCAIRN_KEY_OPERATION is `wrap` then, and `unwrap` later"
                .into();
        return Err(HostError::Refused { what, cure });
    }
    if unwrap_key(unwrap, &wrapped)?.expose() != key.expose() {
        let what = "the key that was unwrapped is not the one that was wrapped".into();
        return Err(HostError::Refused { what, cure: "do both commands use the same key?".into() });
    }
    Ok((key, wrapped))
}
