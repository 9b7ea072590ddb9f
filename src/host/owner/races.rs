//! What two owners do to the key slots at the same time.

use std::sync::Arc;

use super::open::{merged, try_slot};
use super::slots::{list_slots, store};
use super::*;
use crate::crypt::Secret;
use crate::crypt::slot::{Lock, Slot, Unlock};
use crate::host::HostError;
use crate::host::access::testing::{Host, Meanwhile, Moment};
use crate::host::access::{Opened, StoredSlot};
use crate::repo::log::{Role, WalEnd};
use crate::store::Backend;
use crate::store::memory::MemoryStore;
use crate::units::ids::hex;
use crate::units::{Class, Explain};

/// The key of a key file.
pub(super) fn key(number: u8) -> Secret {
    Secret::new([number; 32])
}

/// A repository with a slot for each of these keys.
pub(super) fn with_slots(backend: &Arc<dyn Backend>, keys: &[u8]) -> (Host, Vec<String>) {
    let host = Host::new(Arc::clone(backend));
    let seal = |number: &u8| Slot::seal(&host.root, &Lock::KeyFile(&key(*number))).unwrap();
    let ids = keys.iter().map(|number| id(&store(&host.opened, seal(number)).unwrap())).collect();
    (host, ids)
}

fn id(stored: &StoredSlot) -> String {
    hex(&stored.slot.id())
}

/// An owner who has these keys at hand, and has just opened the repository.
pub(super) fn owner(host: &Host, backend: &Arc<dyn Backend>, keys: &[u8]) -> (Arc<Opened>, Owner) {
    let opened = host.again(Arc::clone(backend)).unwrap();
    let unlocks: Vec<Unlock> = keys.iter().map(|number| Unlock::KeyFile(key(*number))).collect();
    let (stored, _) = list_slots(&opened).unwrap();
    let (mut slots, mut roots) = (Vec::new(), Vec::new());
    for stored in stored {
        let tried = try_slot(&opened, stored, &unlocks);
        roots.extend(tried.root);
        slots.push(tried.slot);
    }
    let root = merged(&roots, &opened).unwrap();
    (opened, Owner { root, slots, unlocks })
}

/// The ids of the slots that are there.
fn there(host: &Host) -> Vec<String> {
    let mut ids: Vec<String> = list_slots(&host.opened).unwrap().0.iter().map(id).collect();
    ids.sort();
    ids
}

fn sorted(ids: &[&String]) -> Vec<String> {
    let mut ids: Vec<String> = ids.iter().map(|id| (*id).clone()).collect();
    ids.sort();
    ids
}

fn refused<T>(result: Result<T, HostError>) -> String {
    let error = result.err().expect("a refusal");
    assert_eq!((error.class(), error.cure().is_some()), (Class::Refused, true), "{error}");
    error.to_string()
}

fn memory() -> Arc<dyn Backend> {
    Arc::new(MemoryStore::default())
}

/// Each counts the slot that the other removes as the way that is left.
#[test]
fn two_who_remove_each_others_slot_leave_one() {
    let backend = memory();
    let (host, ids) = with_slots(&backend, &[1, 2, 3]);
    let (first, has_2) = owner(&host, &backend, &[2]);
    let (second, has_1) = owner(&host, &backend, &[1]);
    remove_slot(&first, &has_2, &ids[0]).unwrap();
    // The third slot is there still, but nobody knows what opens it.
    assert!(refused(remove_slot(&second, &has_1, &ids[1])).contains("such as are being removed"));
    assert_eq!(there(&host), sorted(&[&ids[1], &ids[2]]));
    owner(&host, &backend, &[2]);
    // Whoever has both at hand is not hindered.
    let (opened, has_all) = owner(&host, &backend, &[2, 3]);
    remove_slot(&opened, &has_all, &ids[1]).unwrap();
    assert_eq!(there(&host), [ids[2].clone()]);
}

/// A slot that is stored behind a rotation's listing holds the old keys alone.
#[test]
fn a_slot_that_is_added_beside_a_rotation_opens_new_content_or_is_named() {
    let backend = memory();
    let (host, _) = with_slots(&backend, &[1]);
    // The rotation ends first: the slot is taken away again.
    let (adding, adds) = owner(&host, &backend, &[1]);
    let (rotating, rotates) = owner(&host, &backend, &[1]);
    let rotated = rotate(&rotating, &rotates).unwrap();
    assert!(rotated.behind.is_empty());
    assert!(refused(add_slot(&adding, &adds, &Lock::KeyFile(&key(2)))).contains("rotated"));
    assert_eq!(there(&host), [id(&rotated.slots[0])]);
    // Run again, as it says.
    let (adding, adds) = owner(&host, &backend, &[1]);
    let (rotating, rotates) = owner(&host, &backend, &[1]);
    let added = add_slot(&adding, &adds, &Lock::KeyFile(&key(2))).unwrap();
    // It ends first: the rotation says that it lacks the new key.
    let rotated = rotate(&rotating, &rotates).unwrap();
    assert_eq!(rotated.behind.iter().map(id).collect::<Vec<_>>(), [id(&added)]);
    assert_eq!(there(&host), sorted(&[&id(&added), &id(&rotated.slots[0])]));
    // As it says: it is removed, and one that is added now holds all.
    let (opened, has_1) = owner(&host, &backend, &[1]);
    remove_slot(&opened, &has_1, &id(&added)).unwrap();
    add_slot(&opened, &has_1, &Lock::KeyFile(&key(2))).unwrap();
    owner(&host, &backend, &[2]);
}

#[test]
fn a_slot_that_is_removed_beside_a_rotation_does_not_come_back_unsaid() {
    let backend = memory();
    let (host, ids) = with_slots(&backend, &[1, 2]);
    // Removed behind the rotation's listing: what it made of it goes, too.
    let (rotating, rotates) = owner(&host, &backend, &[1, 2]);
    let (removing, removes) = owner(&host, &backend, &[1]);
    remove_slot(&removing, &removes, &ids[1]).unwrap();
    let rotated = rotate(&rotating, &rotates).unwrap();
    assert_eq!(there(&host), rotated.slots.iter().map(id).collect::<Vec<_>>());
    let (opened, has_both) = owner(&host, &backend, &[1, 2]);
    assert_eq!((has_both.slots.len(), has_both.slots[0].by), (1, Some(0)));
    // Removed when the rotation has made it once more: that is said.
    let second = add_slot(&opened, &has_both, &Lock::KeyFile(&key(2))).unwrap();
    let (rotating, rotates) = owner(&host, &backend, &[1, 2]);
    let (removing, removes) = owner(&host, &backend, &[1]);
    rotate(&rotating, &rotates).unwrap();
    assert!(refused(remove_slot(&removing, &removes, &id(&second))).contains("rotated"));
    assert_eq!(there(&host).len(), 2);
}

/// Each has read at another moment how far a removed host's WAL goes; one list stands, and both say that one.
#[test]
fn two_who_remove_a_host_say_what_the_log_says() {
    let backend = memory();
    let (host, _) = with_slots(&backend, &[1]);
    let enrolment = Enrolment { name: "db2".into(), roles: [Role::Writer].into(), clusters: None };
    let (opened, first) = owner(&host, &backend, &[1]);
    enrol(&opened, &first, &grant(&opened, &first, &enrolment).unwrap()).unwrap();
    let key = find_host(&opened, "db2").unwrap().0;
    revoke(&opened, &first, key).unwrap();
    let meanwhile = Meanwhile::over(Arc::clone(&backend));
    let (late, second) = owner(&host, &(Arc::clone(&meanwhile) as Arc<dyn Backend>), &[1]);
    let end = |name: &str| vec![WalEnd { cluster: "main".into(), system_identifier: 7, last: name.parse().unwrap() }];
    let ends = end("000000010000000000000005");
    let (earlier, number) = (ends.clone(), opened.view().newest.number + 1);
    // Between its look at the log and its entry.
    meanwhile.at_entry(Moment::BeforeCreate, number, move || assert_eq!(end_wal(&opened, &first, key, earlier.clone()).unwrap(), earlier));
    assert_eq!(end_wal(&late, &second, key, end("000000010000000000000006")).unwrap(), ends);
    assert!(meanwhile.is_over());
    assert_eq!(end_wal(&late, &second, key, end("000000010000000000000007")).unwrap(), ends);
}
