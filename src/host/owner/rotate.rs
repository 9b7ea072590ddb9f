//! A new content key: what is written from then on is sealed to it, and only who has got it can read that.
//!
//! In this order, so that at no moment content is sealed to a key that no slot holds: a fresh secret; each slot once more
//! with it, under what opened it before; this host's state; the KEY entry; then the old slots go. Killed in between, all old
//! slots are there and the new ones do no harm; done again, it goes on with the secret that they hold.

use super::open::{Owner, OwnersSlot};
use super::slots::{list_slots, settle, store};
use crate::crypt::Root;
use crate::crypt::slot::SlotKind;
use crate::host::HostError;
use crate::host::access::{Opened, StoredSlot, content_secrets};
use crate::repo::log::{Head, KeyOp, Keys, Kind};
use crate::units::KeyId;
use crate::units::ids::hex;

/// What a rotation did.
#[derive(Debug)]
pub struct Rotated {
    /// The key to which content is sealed now.
    pub key: KeyId,
    /// The entry that says so; none if an earlier, interrupted rotation had appended it.
    pub entry: Option<Head>,
    /// The slots now.
    pub slots: Vec<StoredSlot>,
    /// The slots that went.
    pub removed: Vec<StoredSlot>,
    /// Slots that somebody made while this ran: they lack the new key, and open no new content.
    pub behind: Vec<StoredSlot>,
}

/// Rotates, or finishes a rotation that was interrupted.
///
/// # Errors
/// If a slot isn't opened by what was given: it would open no new content. If there is only a slot in clear. If store or
/// log can't be written.
pub fn rotate(opened: &Opened, owner: &Owner) -> Result<Rotated, HostError> {
    check(owner)?;
    let named: Vec<KeyId> = opened.view().fold.keys.sealing.iter().map(|key| key.id).collect();
    let newest = owner.root.content.public().id();
    let is_named = named.contains(&newest);
    let behind = owner.slots.iter().any(|slot| !slot.holds_all_of(&owner.root));
    let target = if is_named && !behind { owner.root.rotated()? } else { owner.root.clone() };
    let mut slots = seal_all(opened, owner, &target)?;
    keep(opened, &target)?;
    let key = target.content.public();
    let entry = match named.contains(&key.id()) {
        true => None,
        false => Some(append(opened, owner, &KeyOp::Seal { algorithm: 1, public: hex(&key.0) }, &named)?),
    };
    // Behind the entry: who adds a slot looks for one behind that slot, so that one of the two sees the other.
    let (now, _) = list_slots(opened)?;
    let is_there = |slot: &StoredSlot| now.iter().any(|there| there.name == slot.name);
    let is_known = |slot: &StoredSlot| {
        owner.slots.iter().map(|known| &known.stored).chain(slots.iter().map(|new| &new.slot)).any(|known| known.name == slot.name)
    };
    let behind: Vec<StoredSlot> =
        now.iter().filter(|slot| !is_known(slot) && slot.slot.former_keys() < target.former.len()).cloned().collect();
    let old: Vec<&StoredSlot> = owner.slots.iter().filter(|slot| !slot.holds_all_of(&target)).map(|slot| &slot.stored).collect();
    // One that was removed meanwhile was not to be made again.
    let (gone, kept): (Vec<Resealed>, Vec<Resealed>) = slots.drain(..).partition(|new| new.of.as_ref().is_some_and(|old| !is_there(old)));
    let unwanted = if kept.iter().any(|new| is_there(&new.slot)) {
        gone
    } else {
        slots.extend(gone);
        Vec::new()
    };
    slots.extend(kept);
    for name in unwanted.iter().map(|new| &new.slot.name).chain(old.iter().map(|old| &old.name)) {
        opened.backend.delete(name)?;
    }
    settle(opened)?;
    let removed = old.into_iter().cloned().collect();
    Ok(Rotated { key: key.id(), entry, slots: slots.into_iter().map(|new| new.slot).collect(), removed, behind })
}

/// A slot with the new key.
struct Resealed {
    slot: StoredSlot,
    /// The one of which it was made just now.
    of: Option<StoredSlot>,
}

/// Are all slots open, and none in clear?
fn check(owner: &Owner) -> Result<(), HostError> {
    if owner.slots.iter().any(|slot| slot.stored.slot.kind() == SlotKind::Clear) {
        let what = "this repository is not encrypted: a new key would protect nothing".into();
        return Err(HostError::Refused { what, cure: "make a new repository with a passphrase or key file".into() });
    }
    let shut: Vec<String> = owner.slots.iter().filter(|slot| !slot.is_open()).map(OwnersSlot::id).collect();
    if !shut.is_empty() {
        return Err(HostError::Refused {
            what: format!("what was given does not open these key slots, which would then open no new content: {}", shut.join(", ")),
            cure: "give what opens them, too, by --with-passphrase-file, --with-key-file or --with-key-command; or remove them first by `pgcairn key remove`".into(),
        });
    }
    if owner.slots.is_empty() {
        let what = "there is no key slot that could hold the new key".into();
        return Err(HostError::Refused { what, cure: "make one by `pgcairn key add`".into() });
    }
    Ok(())
}

/// Each slot once more with the target's keys, where none was made by an earlier run.
fn seal_all(opened: &Opened, owner: &Owner, target: &Root) -> Result<Vec<Resealed>, HostError> {
    let (done, todo): (Vec<&OwnersSlot>, Vec<&OwnersSlot>) = owner.slots.iter().partition(|slot| slot.holds_all_of(target));
    let mut slots: Vec<Resealed> = done.iter().map(|slot| Resealed { slot: slot.stored.clone(), of: None }).collect();
    for old in todo {
        let twin = |new: &&OwnersSlot| new.by == old.by && new.stored.slot.wrapped() == old.stored.slot.wrapped();
        if done.iter().any(twin) {
            continue;
        }
        let unlock = old.by.and_then(|number| owner.unlocks.get(number)).ok_or(HostError::NoSecret)?;
        let again = old.stored.slot.seal_again(target, unlock)?.ok_or(HostError::NoSecret)?;
        slots.push(Resealed { slot: store(opened, again)?, of: Some(old.stored.clone()) });
    }
    Ok(slots)
}

/// This host, if it reads, has the new key before anything is sealed to it.
fn keep(opened: &Opened, target: &Root) -> Result<(), HostError> {
    let Some(state) = &opened.state else { return Ok(()) };
    match state.host_keys()? {
        Some(mut keys) if !keys.content_secrets.is_empty() => {
            keys.content_secrets = content_secrets(target);
            Ok(state.replace_host_keys(&keys)?)
        }
        _ => Ok(()),
    }
}

/// Appends the key, unless somebody else has rotated meanwhile: their slots would lack ours, and ours theirs.
fn append(opened: &Opened, owner: &Owner, op: &KeyOp, named: &[KeyId]) -> Result<Head, HostError> {
    let mut view = opened.view();
    opened.log().advance(&mut view)?;
    let others = |view: &crate::repo::log::LogView, mine: usize| view.fold.keys.sealing.len() != named.len() + mine;
    let meanwhile = || HostError::Refused {
        what: "somebody else has rotated the content key at the same time".into(),
        cure: "run it again: it then brings both keys into all slots".into(),
    };
    if others(&view, 0) {
        return Err(meanwhile());
    }
    let head = opened.log().append(&mut view, &owner.root.owner, &Kind::Key(Keys { keys: vec![op.clone()] }))?;
    if others(&view, 1) { Err(meanwhile()) } else { Ok(head) }
}
