//! Adding and removing key slots.

use zeroize::Zeroizing;

use super::open::{Owner, OwnersSlot};
use crate::crypt::Secret;
use crate::crypt::slot::{self, Lock, Slot, key_file_text};
use crate::host::HostError;
use crate::host::access::{Opened, StoredSlot, buried_slots, process_tag, read_slots, unwrap_key};
use crate::host::config::{KeyOperation, SecretError, run_key_command};
use crate::repo::log::{KeyOp, Keys, Kind, LogView};
use crate::store::{Create, ObjectName, StoreError};
use crate::units::ids::hex;
use crate::units::{KeyId, SlotId};

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

/// Removes a slot. What opens another one must be at hand, so that the last way in can't be shut; and not by several who each
/// count on what the other removes either: the log says that it goes before it does, and gives them one order.
/// Killed behind that, it is there and counts as nobody's way in, and removing it again finishes it.
///
/// # Errors
/// If there is none of that id, several, or no other slot is known to open, as it is or by what others do at the same time.
/// If the log can't be written: then nothing is deleted.
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
    opened.refresh()?;
    let ways = ways_in_but(opened, owner, slot)?;
    if ways.is_empty() {
        return Err(not_removed(opened, owner, slot));
    }
    if removing(opened, &slot.stored.slot).is_none() {
        note(opened, owner, slot, &ways)?;
    }
    opened.backend.delete(&slot.stored.name)?;
    settle(opened)?;
    Ok(slot.stored.clone())
}

/// The entry of the log, as far as it was read, by which a slot is being removed.
pub fn removing(opened: &Opened, slot: &Slot) -> Option<u64> {
    opened.view().fold.keys.removed_slots.get(&SlotId(slot.id())).copied()
}

/// The ways in that are left without this slot, and are in the store now, durably.
fn ways_in_but<'o>(opened: &Opened, owner: &'o Owner, removed: &OwnersSlot) -> Result<Vec<&'o OwnersSlot>, HostError> {
    let others = owner.slots.iter().filter(|other| other.id() != removed.id());
    let known: Vec<&OwnersSlot> = {
        let view = opened.view();
        others.filter(|other| other.is_way_in(&view)).collect()
    };
    let mut ways = Vec::new();
    for way in known {
        // It was read a while ago, and somebody may have deleted it by hand.
        let is_there = || match opened.backend.read(&way.stored.name, slot::MOST as u64) {
            Ok(bytes) => Ok(bytes == way.stored.slot.as_bytes()),
            Err(e) if e.is_absent() => Ok(false),
            Err(e) => Err(e),
        };
        // Twice, as a bit may have been flipped on the way.
        if is_there()? || (opened.backend.rereads() && is_there()?) {
            ways.push(way);
        }
    }
    // Whoever stored one may have died before its name was durable.
    settle(opened)?;
    Ok(ways)
}

/// Notes in the log that a slot is removed, if one of these ways in is left then.
///
/// Whoever wins the entry's number has read all before it, and a slot of which no entry says that it goes is there. So at each
/// entry one way in is left, whoever is killed when: of two who count on each other's slots the second finds the first's note.
fn note(opened: &Opened, owner: &Owner, slot: &OwnersSlot, ways: &[&OwnersSlot]) -> Result<(), HostError> {
    let kind = Kind::Key(Keys { keys: vec![KeyOp::RemoveSlot { slot: slot.slot_id() }] });
    let mut still = |view: &LogView| ways.iter().any(|way| way.is_way_in(view));
    let noted = opened.log().append_if(&mut opened.view(), &owner.root.owner, &kind, &mut still)?;
    noted.map(drop).ok_or_else(|| not_removed(opened, owner, slot))
}

/// Why a slot is not removed: by the log, as far as it was read.
fn not_removed(opened: &Opened, owner: &Owner, slot: &OwnersSlot) -> HostError {
    let id = slot.id();
    if !lacked(opened, owner).is_empty() {
        return HostError::Refused {
            what: format!("somebody else has rotated the content key at the same time: key slot {id} is not removed by this command"),
            cure: "look at `pgcairn key list`: the rotation removes the old slots, and has made others that the same passphrases, key files or commands open".into(),
        };
    }
    let others = owner.slots.iter().filter(|other| other.id() != id && other.is_open());
    let going = others.filter(|other| removing(opened, &other.stored.slot).is_some()).count();
    let (beside, cure) = match going {
        0 => ("", "give what opens another slot; make one by `pgcairn key add` if there is none"),
        _ => (
            " but such as are being removed",
            "look at `pgcairn key list`; give what opens a slot that stays, or make one by `pgcairn key add`",
        ),
    };
    HostError::Refused {
        what: format!("no other slot than {id} opens with what was given{beside}: it could be the last way into the repository"),
        cure: cure.into(),
    }
}

/// Makes durable what the folder of slots shows: one that is called removed must not be back after a power failure, one that
/// is relied upon must not be gone.
pub(super) fn settle(opened: &Opened) -> Result<(), HostError> {
    Ok(opened.backend.settle_deletions(&ObjectName::new("key").map_err(StoreError::from)?)?)
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
