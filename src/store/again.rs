//! Listing a second time before anything is concluded from what a listing doesn't show.
//!
//! A listing has no hash and no signature: a bit that is flipped on the way makes one name another, or an object none. What is
//! read by its name proves itself; that something is *not* there, only two listings say that agree. Where the way to a store is
//! short ([`Backend::rereads`] says so) one is enough.

use std::collections::BTreeMap;

use super::{Backend, Listed, ObjectName, StoreError};

/// What two listings of a folder showed, in the order of names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Twice {
    /// What either showed; a name that came damaged may be among it.
    pub either: Vec<Listed>,
    /// What both showed, of the same length.
    pub both: Vec<Listed>,
}

/// Lists a folder twice, one after the other.
///
/// # Errors
/// If it can't be listed.
pub fn list_twice(backend: &dyn Backend, folder: &ObjectName) -> Result<Twice, StoreError> {
    let first = backend.list_sorted(Some(folder))?;
    if !backend.rereads() {
        return Ok(Twice { both: first.clone(), either: first });
    }
    let (first, second) = (by_name(first), by_name(backend.list_sorted(Some(folder))?));
    let both = first.iter().filter(|(name, size)| second.get(*name) == Some(*size)).map(listed).collect();
    let either = by_name(first.iter().chain(&second).map(listed).collect());
    Ok(Twice { either: either.iter().map(listed).collect(), both })
}

/// What two readings in a row have, of at most four, where a bit may be flipped on the way: for what shows that by nothing, or
/// only late.
///
/// # Errors
/// If it can't be read.
pub fn agreed<T: PartialEq, E>(backend: &dyn Backend, mut read: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let mut last = read()?;
    for _ in 0..if backend.rereads() { 3 } else { 0 } {
        let again = read()?;
        if std::mem::replace(&mut last, again) == last {
            break;
        }
    }
    Ok(last)
}

/// By their names. Of a name that came twice, as one became the other, the greater length: the front of an object is looked for
/// in it.
fn by_name(listed: Vec<Listed>) -> BTreeMap<ObjectName, u64> {
    let mut sizes = BTreeMap::new();
    for Listed { name, size } in listed {
        sizes.entry(name).and_modify(|known: &mut u64| *known = size.max(*known)).or_insert(size);
    }
    sizes
}

fn listed((name, size): (&ObjectName, &u64)) -> Listed {
    Listed { name: name.clone(), size: *size }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::memory::MemoryStore;
    use super::super::troubled::Troubled;
    use super::super::{Pace, SessionTag};
    use super::*;

    #[test]
    fn what_one_listing_showed_otherwise_is_in_either_and_not_in_both() {
        let name = |text: &str| ObjectName::new(text).unwrap();
        let memory = Arc::<MemoryStore>::default();
        for object in ["key/a", "key/b", "log/1"] {
            let _ = memory.create(&name(object), &[b"x"], &SessionTag::new("test").unwrap()).unwrap();
        }
        let names = |some: &[Listed]| some.iter().map(|l| l.name.to_string()).collect::<Vec<_>>();
        let store = Troubled::paced(Arc::clone(&memory) as _, Some(Pace::OF_A_DISK));
        let whole = list_twice(store.as_ref(), &name("key")).unwrap();
        assert!(whole.both == whole.either && names(&whole.both) == ["key/a", "key/b"]);
        for (other, either) in [(None, vec!["key/a", "key/b"]), (Some(name("key/c")), vec!["key/a", "key/b", "key/c"])] {
            store.list_once_as(name("key/b"), other);
            let twice = list_twice(store.as_ref(), &name("key")).unwrap();
            assert_eq!(
                (names(&twice.both), names(&twice.either)),
                (vec!["key/a".to_owned()], either.into_iter().map(str::to_owned).collect())
            );
        }
        assert_eq!(list_twice(memory.as_ref(), &name("none")).unwrap(), Twice::default());
    }
}
