//! A new content key: what is written from then on is sealed to it, and only who has got it can read that.
//!
//! In this order, so that at no moment content is sealed to a key that no slot holds: a fresh secret; each slot once more
//! with it, under what opened it before; this host's state; the KEY entry, which also says that the old slots go; then they
//! do. Killed in between, all old slots are there and the new ones do no harm; done again, it goes on with the secret that
//! they hold.

use std::collections::BTreeMap;

use super::open::{Owner, OwnersSlot};
use super::slots::{list_slots, removing, settle, store};
use crate::crypt::Root;
use crate::crypt::slot::SlotKind;
use crate::host::HostError;
use crate::host::access::{Opened, StoredSlot, content_secrets};
use crate::repo::log::{Head, KeyOp, Keys, Kind, LogView};
use crate::units::ids::hex;
use crate::units::{KeyId, SlotId};

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

/// Rotates, or finishes a rotation that was interrupted. Slots that are being removed are not sealed again, and go.
///
/// # Errors
/// If a slot isn't opened by what was given: it would open no new content. If there is only a slot in clear. If store or
/// log can't be written. If another owner does the same meanwhile.
pub fn rotate(opened: &Opened, owner: &Owner) -> Result<Rotated, HostError> {
    let (going, staying): (Vec<&OwnersSlot>, Vec<&OwnersSlot>) =
        owner.slots.iter().partition(|slot| removing(opened, &slot.stored.slot).is_some());
    check(&staying)?;
    let named: Vec<KeyId> = opened.view().fold.keys.sealing.iter().map(|key| key.id).collect();
    let is_named = named.contains(&owner.root.content.public().id());
    // An old one that is going is what a rotation has left that was killed behind its entry.
    let behind = owner.slots.iter().any(|slot| slot.is_open() && !slot.holds_all_of(&owner.root));
    let target = if is_named && !behind { owner.root.rotated()? } else { owner.root.clone() };
    let slots = seal_all(opened, owner, &staying, &target)?;
    keep(opened, &target)?;
    let mut old: Vec<StoredSlot> = staying.iter().filter(|slot| !slot.holds_all_of(&target)).map(|slot| slot.stored.clone()).collect();
    let Noted { entry, slots, unwanted } = note(opened, owner, &target, &named, slots, &old)?;
    // Behind the entry: who adds a slot looks for one behind that slot, so that one of the two sees the other.
    let (now, _) = list_slots(opened)?;
    let is_known = |slot: &StoredSlot| {
        let known = owner.slots.iter().map(|known| &known.stored).chain(&slots).chain(&unwanted);
        known.into_iter().any(|known| known.name == slot.name)
    };
    let lacks = |slot: &StoredSlot| slot.slot.former_keys() < target.former.len() && removing(opened, &slot.slot).is_none();
    let behind: Vec<StoredSlot> = now.into_iter().filter(|slot| !is_known(slot) && lacks(slot)).collect();
    old.extend(going.into_iter().map(|slot| slot.stored.clone()));
    for slot in unwanted.iter().chain(&old) {
        opened.backend.delete(&slot.name)?;
    }
    settle(opened)?;
    Ok(Rotated { key: target.content.public().id(), entry, slots, removed: old, behind })
}

/// A slot with the new key.
struct Resealed {
    slot: StoredSlot,
    /// The one of which it was made just now.
    of: Option<StoredSlot>,
}

/// Are all slots open, and none in clear?
fn check(slots: &[&OwnersSlot]) -> Result<(), HostError> {
    if slots.iter().any(|slot| slot.stored.slot.kind() == SlotKind::Clear) {
        let what = "this repository is not encrypted: a new key would protect nothing".into();
        return Err(HostError::Refused { what, cure: "make a new repository with a passphrase or key file".into() });
    }
    let shut: Vec<String> = slots.iter().filter(|slot| !slot.is_open()).map(|slot| slot.id()).collect();
    if !shut.is_empty() {
        return Err(HostError::Refused {
            what: format!("what was given does not open these key slots, which would then open no new content: {}", shut.join(", ")),
            cure: "give what opens them, too, by --with-passphrase-file, --with-key-file or --with-key-command; or remove them first by `pgcairn key remove`".into(),
        });
    }
    if slots.is_empty() {
        let what = "there is no key slot that could hold the new key".into();
        return Err(HostError::Refused { what, cure: "make one by `pgcairn key add`".into() });
    }
    Ok(())
}

/// Each slot once more with the target's keys, where none was made by an earlier run.
fn seal_all(opened: &Opened, owner: &Owner, staying: &[&OwnersSlot], target: &Root) -> Result<Vec<Resealed>, HostError> {
    let (done, todo): (Vec<&OwnersSlot>, Vec<&OwnersSlot>) = staying.iter().partition(|slot| slot.holds_all_of(target));
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

/// What the log says of a rotation.
struct Noted {
    /// The entry, if it names the new key.
    entry: Option<Head>,
    /// The slots that stay.
    slots: Vec<StoredSlot>,
    /// Those that were made of one that somebody has removed meanwhile.
    unwanted: Vec<StoredSlot>,
}

/// Appends the key, and in the same entry that the old slots go, if a slot with the new key is a way in then; unless somebody
/// else has rotated meanwhile: their slots would lack ours, and ours theirs.
fn note(
    opened: &Opened,
    owner: &Owner,
    target: &Root,
    named: &[KeyId],
    new: Vec<Resealed>,
    old: &[StoredSlot],
) -> Result<Noted, HostError> {
    // What an earlier run had stored it may have died upon.
    settle(opened)?;
    let public = target.content.public();
    let seal = (!named.contains(&public.id())).then(|| KeyOp::Seal { algorithm: 1, public: hex(&public.0) });
    let mut view = opened.view();
    opened.log().advance(&mut view)?;
    loop {
        let refused = |what: &str, cure: &str| Err(HostError::Refused { what: what.into(), cure: cure.into() });
        if view.fold.keys.sealing.len() != named.len() {
            return refused(
                "somebody else has rotated the content key at the same time",
                "run it again: it then brings both keys into all slots",
            );
        }
        let removed = view.fold.keys.removed_slots.clone();
        let Some((slots, unwanted)) = sorted(&new, &removed) else {
            return refused("somebody else has removed the new key slots at the same time", "look at `pgcairn key list`, and run it again");
        };
        let going = old.iter().chain(&unwanted).map(|slot| SlotId(slot.slot.id())).filter(|id| !removed.contains_key(id));
        let keys: Vec<KeyOp> = seal.iter().cloned().chain(going.map(|slot| KeyOp::RemoveSlot { slot })).collect();
        if keys.is_empty() {
            return Ok(Noted { entry: None, slots, unwanted });
        }
        let same = |view: &LogView| view.fold.keys.sealing.len() == named.len() && view.fold.keys.removed_slots == removed;
        let appended = opened.log().append_if(&mut view, &owner.root.owner, &Kind::Key(Keys { keys }), &mut { same })?;
        if let Some(head) = appended {
            return Ok(Noted { entry: seal.is_some().then_some(head), slots, unwanted });
        }
    }
}

/// The new slots that stay, and those that don't: one that was removed meanwhile was not to be made again, unless no other
/// holds the new key. `None`: all of them are being removed.
fn sorted(new: &[Resealed], removed: &BTreeMap<SlotId, u64>) -> Option<(Vec<StoredSlot>, Vec<StoredSlot>)> {
    let is_removed = |slot: &StoredSlot| removed.contains_key(&SlotId(slot.slot.id()));
    let there = new.iter().filter(|new| !is_removed(&new.slot));
    let (gone, kept): (Vec<&Resealed>, Vec<&Resealed>) = there.partition(|new| new.of.as_ref().is_some_and(is_removed));
    let slots = |of: Vec<&Resealed>| of.into_iter().map(|new| new.slot.clone()).collect::<Vec<_>>();
    match (kept.is_empty(), gone.is_empty()) {
        (false, _) => Some((slots(kept), slots(gone))),
        (true, false) => Some((slots(gone), Vec::new())),
        (true, true) => None,
    }
}
