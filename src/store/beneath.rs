//! Whoever may write to a bucket, or has stolen what it takes, can put junk over a name or delete it; where the bucket keeps
//! versions, what was meant lies beneath. So an object is called damaged or absent only after its older versions were read.
//!
//! It costs nothing while all is well: no request is made before something is wrong.

use super::{Backend, ObjectName, StoreError};

/// Does what `attempt` does with the object `name`; if that finds it damaged, once more, since the damage may have come on
/// the way, and then with each of its versions, the oldest first. A version that serves is what everybody reads from then
/// on. `attempt` checks what it reads, and has no other effect.
///
/// # Errors
/// The first damage, if no version serves; or what else went wrong.
pub fn seen_through<T, E: From<StoreError>>(
    store: &dyn Backend,
    name: &ObjectName,
    is_damage: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let first = match attempt() {
        Err(e) if is_damage(&e) && store.rereads() => e,
        other => return other,
    };
    match attempt() {
        Err(e) if is_damage(&e) => {}
        other => return other,
    }
    let versions = match store.versions(name) {
        Ok(versions) => versions,
        // Nothing can be said of the object while the store doesn't answer.
        Err(e @ (StoreError::Unreachable { .. } | StoreError::Interrupted { .. })) => return Err(e.into()),
        Err(_) => return Err(first),
    };
    for version in &versions {
        store.choose(name, Some(version));
        match attempt() {
            Err(e) if is_damage(&e) => {}
            // The newest content is no older one: it came with a flipped bit twice. (Where it was deleted, it is.)
            Ok(served) if versions.last() == Some(version) => {
                store.choose(name, None);
                return match attempt() {
                    Err(e) if is_damage(&e) => {
                        store.choose(name, Some(version));
                        Ok(served)
                    }
                    other => other,
                };
            }
            other => return other,
        }
    }
    store.choose(name, None);
    Err(first)
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryStore;
    use super::*;

    fn wanted(store: &MemoryStore, name: &ObjectName) -> Result<Vec<u8>, StoreError> {
        let damaged = |e: &StoreError| matches!(e, StoreError::Absent { .. } | StoreError::Short { .. });
        seen_through(store, name, damaged, || {
            let bytes = store.read(name, 100)?;
            let bad = StoreError::Short { name: name.clone(), offset: 0, len: 0, size: 0 };
            if bytes.starts_with(b"good") { Ok(bytes) } else { Err(bad) }
        })
    }

    #[test]
    fn what_lies_beneath_is_read() {
        let store = MemoryStore::with_versions();
        let [name, other] = ["pack/a", "pack/b"].map(|n| ObjectName::new(n).unwrap());
        store.put_over(&name, b"good");
        for junk in [b"junk", b"more"] {
            store.put_over(&name, junk);
            assert_eq!(wanted(&store, &name).unwrap(), b"good");
            assert_eq!(store.chosen(), std::slice::from_ref(&name));
        }
        store.choose(&name, None);
        store.delete(&name).unwrap();
        assert_eq!(wanted(&store, &name).unwrap(), b"good");

        // The oldest need not be the one that serves, and if none does, that is said of the newest.
        store.put_over(&other, b"rotten");
        assert!(matches!(wanted(&store, &other), Err(StoreError::Short { .. })));
        store.put_over(&other, b"good as new");
        store.put_over(&other, b"rotten again");
        assert_eq!(wanted(&store, &other).unwrap(), b"good as new");
        assert_eq!(store.chosen(), [name, other]);
    }

    #[test]
    fn the_newest_is_no_older_version() {
        let (store, name) = (MemoryStore::with_versions(), ObjectName::new("pack/a").unwrap());
        store.put_over(&name, b"good");
        let mut times = 0;
        let read = seen_through(&store, &name, StoreError::is_absent, || {
            times += 1;
            if times < 3 { Err(StoreError::Absent { store: String::new(), name: name.clone() }) } else { store.read(&name, 100) }
        });
        assert_eq!((read.unwrap().as_slice(), store.chosen()), (b"good".as_slice(), vec![]));
    }

    #[test]
    fn nothing_is_read_twice_where_that_can_not_help() {
        let (store, name) = (MemoryStore::default(), ObjectName::new("pack/a").unwrap());
        let mut times = 0;
        let read = seen_through(&store, &name, StoreError::is_absent, || {
            times += 1;
            store.read(&name, 100)
        });
        assert!(read.is_err_and(|e| e.is_absent()) && times == 1);
        store.set_unreachable(true);
        assert!(matches!(wanted(&store, &name), Err(StoreError::Unreachable { .. })));
    }
}
