//! From what opens a slot to the root.

use zeroize::Zeroizing;

use super::opened::Opened;
use super::stored::Place;
use crate::crypt::root_text::{is_root_text, parse_root_text};
use crate::crypt::sign::SigningKey;
use crate::crypt::slot::{self, Slot, SlotKind, Unlock};
use crate::crypt::{CryptError, Root};
use crate::host::HostError;
use crate::host::config::{KeyOperation, SecretError, SecretSource, run_key_command};
use crate::repo::format::Format;
use crate::repo::log;
use crate::store::{Backend, Covered, ObjectName, StoreError, list_twice, seen_through};
use crate::units::RepositoryId;

/// Slots that are tried: each may cost a key derivation.
const MOST_SLOTS: usize = 32;

/// The longest text of a key that a command may print.
const KEY_TEXT: usize = 4096;

/// The passphrase or key file behind a configured secret.
///
/// # Errors
/// If it can't be read, or breaks the rules.
pub fn unlock_with(source: &SecretSource) -> Result<Unlock, HostError> {
    match source {
        SecretSource::KeyFile(_) => {
            let (bytes, name) = (source.read_key_file()?, source.to_string());
            let bad = |source| HostError::BadKeyFile { place: name.clone(), source };
            let text = std::str::from_utf8(&bytes).map_err(|_| CryptError::WrongKey)?;
            if is_root_text(text) {
                return Ok(Unlock::Root(Box::new(parse_root_text(text).map_err(bad)?)));
            }
            Ok(Unlock::KeyFile(slot::parse_key_file(text).map_err(bad)?))
        }
        SecretSource::KeyCommand(command) => {
            let command = command.clone();
            Ok(Unlock::Command(Box::new(move |wrapped| unwrap_key(&command, wrapped))))
        }
        _ => {
            let passphrase = source.read_passphrase()?;
            let text = std::str::from_utf8(passphrase.as_bytes())
                .map_err(|_| HostError::Refused { what: "the passphrase is no UTF-8".into(), cure: "choose another one".into() })?;
            Ok(Unlock::Passphrase(Zeroizing::new(text.to_owned())))
        }
    }
}

/// Has a command unwrap a key: what it prints is the text of a key file.
pub(in crate::host) fn unwrap_key(command: &str, wrapped: &[u8]) -> Result<crate::crypt::Secret, CryptError> {
    let failed = |e: SecretError| {
        let cause = std::error::Error::source(&e).map(|cause| format!(": {cause}")).unwrap_or_default();
        CryptError::Command(format!("{e}{cause}"))
    };
    let printed = run_key_command(command, KeyOperation::Unwrap, wrapped, KEY_TEXT).map_err(failed)?;
    let text = std::str::from_utf8(&printed).map_err(|_| CryptError::Command("what it printed is no text".into()))?;
    slot::parse_key_file(text).map_err(|_| CryptError::Command("it did not print the line \"pgcairn-key-1:…\" that was wrapped".into()))
}

/// A slot in the store.
#[derive(Clone, Debug)]
pub struct StoredSlot {
    /// The object.
    pub name: ObjectName,
    /// What it holds.
    pub slot: Slot,
}

/// The slots of a repository, and how many other objects lie among them.
pub(in crate::host) fn read_slots(backend: &dyn Backend, repository: RepositoryId) -> Result<(Vec<StoredSlot>, usize), HostError> {
    let folder = ObjectName::new("key").map_err(StoreError::from)?;
    let mut slots = Vec::new();
    let mut others = 0;
    for object in list_twice(backend, &folder)?.either {
        let read = || match read_slot(backend, &object.name, repository) {
            // Perhaps a flipped bit, and no newer kind.
            Err(HostError::Crypt(CryptError::Unknown { .. })) if backend.rereads() => read_slot(backend, &object.name, repository),
            other => other,
        };
        match seen_through(backend, &object.name, is_no_slot, read) {
            Ok(slot) => slots.push(StoredSlot { name: object.name, slot }),
            // Removed meanwhile, or a name that came damaged.
            Err(HostError::Store(e)) if e.is_absent() => {}
            // No slot, and no reason not to try the others: a slot of a newer kind may lie beside one that we know; and
            // anybody who can write to the store may have put something here.
            Err(HostError::Store(StoreError::TooLarge { .. }) | HostError::Crypt(_)) => others += 1,
            Err(e) => return Err(e),
        }
    }
    // Cheap ones first: one that was planted may cost gigabytes and minutes. Of equal ones those of after a rotation.
    slots.sort_by_key(|s| (s.slot.cost(), std::cmp::Reverse(s.slot.as_bytes().len())));
    Ok((slots, others))
}

/// The slots as they come now, of those that came otherwise before: a bit may have been flipped on the way, which a slot shows
/// only by not opening.
///
/// # Errors
/// If they can't be read.
pub(in crate::host) fn otherwise_now(
    backend: &dyn Backend,
    repository: RepositoryId,
    before: &[StoredSlot],
) -> Result<Vec<StoredSlot>, HostError> {
    if !backend.rereads() {
        return Ok(Vec::new());
    }
    let (mut now, _) = read_slots(backend, repository)?;
    now.retain(|now| !before.iter().any(|before| before.name == now.name && before.slot == now.slot));
    Ok(now)
}

fn read_slot(backend: &dyn Backend, name: &ObjectName, repository: RepositoryId) -> Result<Slot, HostError> {
    let slot = Slot::parse(&backend.read(name, slot::MOST as u64)?)?;
    if slot.repository() == repository { Ok(slot) } else { Err(CryptError::WrongKey.into()) }
}

fn is_no_slot(error: &HostError) -> bool {
    match error {
        HostError::Store(e) => matches!(e, StoreError::TooLarge { .. }),
        HostError::Crypt(e) => !matches!(e, CryptError::Unknown { .. }),
        _ => false,
    }
}

/// The slots that lie beneath what was put over them, or that were deleted while the store keeps them: of those that `wanted`
/// takes the ones that are there longest, as the owner's are.
pub(in crate::host) fn buried_slots(
    backend: &dyn Backend,
    repository: RepositoryId,
    wanted: impl Fn(&Covered) -> bool,
) -> Result<Vec<StoredSlot>, HostError> {
    let folder = ObjectName::new("key").map_err(StoreError::from)?;
    let mut slots = Vec::new();
    let mut covered = backend.covered(&folder)?;
    covered.retain(wanted);
    covered.sort_by_key(|covered| covered.since);
    for covered in covered.into_iter().take(MOST_SLOTS) {
        backend.choose(&covered.name, Some(&covered.oldest));
        match read_slot(backend, &covered.name, repository) {
            Ok(slot) => slots.push(StoredSlot { name: covered.name, slot }),
            Err(_) => backend.choose(&covered.name, None),
        }
    }
    slots.sort_by_key(|s| (s.slot.cost(), std::cmp::Reverse(s.slot.as_bytes().len())));
    Ok(slots)
}

/// Opens a slot. One in clear only where `clear` allows it and no secret is given: where this host knows the repository,
/// the caller must be able to tell whether what opens is the same one, else a store could pass off another.
pub(super) fn unlock(place: &Place<'_>, backend: &dyn Backend, format: &Format, shown: &str, clear: bool) -> Result<Root, HostError> {
    let given = place.repository.secret.as_ref().map(unlock_with).transpose()?;
    if let Some(Unlock::Root(root)) = given {
        return of_this(*root, format, shown);
    }
    let (mut slots, others) = read_slots(backend, format.repository)?;
    let again = |slots: &[StoredSlot]| otherwise_now(backend, format.repository, slots);
    if slots.is_empty() {
        slots = again(&slots)?;
    }
    if slots.is_empty() {
        slots = buried_slots(backend, format.repository, |_| true)?;
    }
    if slots.is_empty() {
        let first = ObjectName::new(log::entry_name(0)).map_err(StoreError::from)?;
        return Err(match backend.size(&first) {
            Err(e) if e.is_absent() => HostError::Unfinished { place: shown.into() },
            _ => HostError::NoSlot { place: shown.into(), others },
        });
    }
    let unlock = match given {
        Some(unlock) => unlock,
        None if clear && (has_clear(&slots) || has_clear(&again(&slots)?)) => Unlock::Clear,
        None => return Err(HostError::NoKey { place: shown.into() }),
    };
    let mut failed = None;
    if let Some((root, _)) = try_slots(place, shown, &slots, &unlock, &mut failed) {
        return of_this(root, format, shown);
    }
    if let Some((root, _)) = try_slots(place, shown, &again(&slots)?, &unlock, &mut failed) {
        return of_this(root, format, shown);
    }
    let covered = buried_slots(backend, format.repository, |covered| !covered.deleted)?;
    if let Some((root, _)) = try_slots(place, shown, &covered, &unlock, &mut failed) {
        return of_this(root, format, shown);
    }
    // Removed on purpose, perhaps; but whoever can delete must not be able to lock the owner out.
    let deleted = buried_slots(backend, format.repository, |covered| covered.deleted)?;
    if let Some((root, slot)) = try_slots(place, shown, &deleted, &unlock, &mut failed) {
        place.progress.warn(&opened_beneath(&slot.name));
        return of_this(root, format, shown);
    }
    if slots.len() > MOST_SLOTS {
        place.progress.warn(&format!("there are {} key slots, of which {MOST_SLOTS} were tried: were some of them planted?", slots.len()));
    }
    Err(failed.unwrap_or(CryptError::WrongKey).into())
}

fn has_clear(slots: &[StoredSlot]) -> bool {
    slots.iter().any(|s| s.slot.kind() == SlotKind::Clear)
}

/// What is said of a slot that opens although it was deleted.
pub(in crate::host) fn opened_beneath(name: &ObjectName) -> String {
    format!(
        "the key slot that opens, {name}, was deleted, and is read from what the store keeps: by `pgcairn key remove` or `key rotate`, or by \
         somebody who wants to lock you out; if it was not you, `pgcairn key add` makes another"
    )
}

fn try_slots<'a>(
    place: &Place<'_>,
    shown: &str,
    slots: &'a [StoredSlot],
    unlock: &Unlock,
    failed: &mut Option<CryptError>,
) -> Option<(Root, &'a StoredSlot)> {
    for stored in slots.iter().take(MOST_SLOTS) {
        let slot = &stored.slot;
        match slot.open(unlock) {
            Ok(None) => {}
            Err(e) => _ = failed.get_or_insert(e),
            Ok(Some(root)) => {
                if slot.is_weak() {
                    place.progress.warn(&format!("the passphrase of {shown} is cheap to guess: its key slot was made with --test-kdf"));
                }
                return Some((root, stored));
            }
        }
    }
    None
}

/// The owner's key, if the configured secret opens a slot; `None` where no secret is configured. For what this host's own
/// key has no right to.
///
/// # Errors
/// If the secret opens no slot, or one of another owner's.
pub fn owner_key(place: &Place<'_>, opened: &Opened) -> Result<Option<SigningKey>, HostError> {
    if place.repository.secret.is_none() {
        return Ok(None);
    }
    let root = unlock(place, opened.backend.as_ref(), &opened.format, &opened.shown, false)?;
    if *root.owner_public() != opened.owner {
        return Err(HostError::Another { place: opened.shown.clone() });
    }
    Ok(Some(root.owner))
}

fn of_this(root: Root, format: &Format, shown: &str) -> Result<Root, HostError> {
    if root.repository == format.repository && root.domain == format.domain {
        Ok(root)
    } else {
        Err(HostError::Another { place: shown.into() })
    }
}
