//! What other processes of this host do while one opens the repository.

use std::sync::Arc;

use super::session::append;
use super::testing::{Host, Meanwhile, Moment};
use crate::host::HostError;
use crate::host::state::{Head, Seen, StateError};
use crate::repo::log::{Begin, Kind, LogError, entry_name};
use crate::store::memory::MemoryStore;
use crate::store::{Backend, ObjectName};

/// Appends an entry, and remembers it.
fn append_and_remember(host: &Host, backend: &Arc<dyn Backend>) {
    let other = host.again(Arc::clone(backend)).unwrap();
    let begin = Begin { purpose: "restore".into(), machine: "m1".into(), ..Begin::default() };
    let head = append(&other, &Kind::Begin(begin)).unwrap();
    let state = host.state.repository(other.format.repository);
    let remember = |seen: &mut Seen| Ok::<_, StateError>(seen.advance(Head { number: head.number, hash: head.hash })?);
    state.update(remember).unwrap();
}

/// The log is read to its end; another process appends and remembers; then what is remembered is looked at: it is newer than
/// what was read, and no sign of a store that was set back.
#[test]
fn what_another_process_appends_meanwhile_is_no_sign_of_an_older_store() {
    for there in [0, 1, 3] {
        let store: Arc<dyn Backend> = Arc::new(MemoryStore::default());
        let host = Arc::new(Host::new(Arc::clone(&store)));
        (0..there).for_each(|_| append_and_remember(&host, &store));
        let meanwhile = Meanwhile::over(Arc::clone(&store));
        let (theirs, behind) = (Arc::clone(&host), Arc::clone(&store));
        meanwhile.at_entry(Moment::AfterAbsent, there + 1, move || append_and_remember(&theirs, &behind));
        let opened = host.again(Arc::clone(&meanwhile) as _).unwrap_or_else(|e| panic!("{there}: {e}"));
        assert!(meanwhile.is_over(), "{there}: the moment was missed");
        assert_eq!(opened.view().newest.number, there);
        opened.refresh().unwrap();
        assert_eq!(opened.view().newest.number, there + 1);
    }
}

/// One that was set back is noticed all the same.
#[test]
fn an_older_store_is_noticed() {
    let store: Arc<dyn Backend> = Arc::new(MemoryStore::default());
    let host = Host::new(Arc::clone(&store));
    (0..2).for_each(|_| append_and_remember(&host, &store));
    store.delete(&ObjectName::new(entry_name(2)).unwrap()).unwrap();
    let refused = host.again(store).map(|_| ()).unwrap_err();
    assert!(matches!(refused, HostError::Log(LogError::SetBack { newest: 1, .. })), "{refused:?}");
}
