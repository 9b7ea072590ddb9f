//! Key slots: what a fresh machine opens the repository with.

use std::collections::BTreeSet;

use super::failure::{ScrubError, damage};
use super::findings::Findings;
use crate::crypt::slot::{self, Slot, Unlock};
use crate::crypt::{CryptError, Root};
use crate::host::access::Opened;
use crate::host::owner;
use crate::repo::RepoError;
use crate::store::{ObjectName, agreed, seen_through};
use crate::units::ids::hex;

/// Looks at all slots; with what opens one, they are tried. Warnings are for people.
pub(super) fn check(
    opened: &Opened,
    slots: &[ObjectName],
    doubtful: &BTreeSet<ObjectName>,
    unlock: Option<&Unlock>,
    findings: &Findings,
    warnings: &mut Vec<String>,
) -> Result<(), ScrubError> {
    let (mut usable, mut going, mut opens) = (0, 0, matches!(unlock, Some(Unlock::Root(root)) if is_ours(opened, root)));
    for name in slots {
        see_through(opened, name);
        // A flipped bit shows in a slot only by its not opening.
        let backend = opened.backend.as_ref();
        let bytes = match agreed(backend, || backend.read(name, slot::MOST as u64)) {
            Ok(bytes) => bytes,
            Err(e) if e.is_absent() && doubtful.contains(name) => continue,
            Err(e) => {
                let damage = damage(e.into(), name.as_str())?;
                findings.note(&damage.object, &damage.problem);
                continue;
            }
        };
        match Slot::parse(&bytes) {
            Ok(slot) if slot.repository() != opened.format.repository => findings.note(name.as_str(), "it is a slot of another repository"),
            // It opens, and counts for nobody: what is left when it is gone is looked at.
            Ok(slot) if owner::removing(opened, &slot).is_some() => {
                let id = hex(&slot.id());
                warnings.push(format!("key slot {id} is being removed: if nobody is at it, run `pgcairn key remove {id}` again"));
                going += 1;
            }
            Ok(slot) => {
                usable += 1;
                let clear = slot.kind() == slot::SlotKind::Clear;
                for unlock in unlock.into_iter().chain(clear.then_some(&Unlock::Clear)) {
                    opens |= try_slot(opened, &slot, unlock, name, findings)?;
                }
            }
            Err(CryptError::Unknown { .. }) => warnings.push(format!("{name} is a slot of a newer program: it was not checked")),
            Err(e) => findings.note(name.as_str(), &e.to_string()),
        }
    }
    if usable == 0 && going > 0 {
        findings.note("key/", "there is no key slot but such as are being removed: make one by `pgcairn key add`");
    } else if usable == 0 {
        findings.note("key/", "there is no usable key slot: no fresh machine can open this repository");
    } else if unlock.is_some() && !opens {
        findings
            .note("key/", "the passphrase or key file that is configured opens none of the slots: it is another one, or they are damaged");
    }
    Ok(())
}

/// From now on the version of a slot is read that is one.
fn see_through(opened: &Opened, name: &ObjectName) {
    let backend = opened.backend.as_ref();
    let no_slot = |e: &RepoError| e.is_damage();
    // What can't be seen through is said of it afterwards.
    let _ = seen_through(backend, name, no_slot, || match Slot::parse(&backend.read(name, slot::MOST as u64)?) {
        Ok(slot) if slot.repository() == opened.format.repository => Ok(()),
        Err(CryptError::Unknown { .. }) => Ok(()),
        _ => Err(RepoError::corrupt(name, "no slot")),
    });
}

/// Does the slot open, and with what this host knows in it?
fn try_slot(opened: &Opened, slot: &Slot, unlock: &Unlock, name: &ObjectName, findings: &Findings) -> Result<bool, ScrubError> {
    match slot.open(unlock) {
        Ok(None) => Ok(false),
        Ok(Some(root)) if is_ours(opened, &root) => Ok(true),
        Ok(Some(_)) => {
            findings.note(name.as_str(), "it holds other keys than this repository's");
            Ok(false)
        }
        Err(e @ (CryptError::System(_) | CryptError::Command(_))) => Err(RepoError::from(e).into()),
        Err(e) => {
            findings.note(name.as_str(), &e.to_string());
            Ok(false)
        }
    }
}

fn is_ours(opened: &Opened, root: &Root) -> bool {
    let same_keys = root.sealing().table_key().expose() == opened.sealing.table_key().expose();
    root.owner_public() == &opened.owner && root.domain == opened.format.domain && same_keys
}
