//! Two holders of one host key: noticed by the sessions that this state folder didn't begin (decision 016).

use super::opened::Opened;
use crate::host::HostError;
use crate::host::state::StateError;
use crate::units::{SessionId, Timestamp};

/// A session that was begun with this host's key, and not out of this host's state folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Elsewhere {
    /// Its id.
    pub session: SessionId,
    /// What for: `backup`, `restore` and so on.
    pub purpose: String,
    /// The number of its BEGIN.
    pub number: u64,
    /// When that was written, by its writer's clock.
    pub at: Timestamp,
    /// The machine that it names.
    pub machine: String,
}

impl Elsewhere {
    /// Did it write a snapshot, or try to?
    pub fn is_backup(&self) -> bool {
        self.purpose == "backup"
    }
}

impl From<Elsewhere> for HostError {
    fn from(e: Elsewhere) -> Self {
        HostError::UsedElsewhere { session: e.session, purpose: e.purpose, number: e.number, at: e.at, machine: e.machine }
    }
}

/// A session of this host's key, as the log says it.
struct Own {
    begin: u64,
    lock: String,
    found: Elsewhere,
}

impl Opened {
    /// The newest backup by this host's key that this state folder didn't begin, as far as the log was read, else the newest
    /// such session of another purpose. The folder was copied to another host then, or set back.
    ///
    /// # Errors
    /// If the state can't be read.
    pub fn used_elsewhere(&self) -> Result<Option<Elsewhere>, HostError> {
        let Some(state) = &self.state else { return Ok(None) };
        // The log first: a session that is in it is in the state since before.
        let (newest, sessions) = self.own_sessions();
        if sessions.is_empty() {
            return Ok(None);
        }
        let seen = state.seen()?;
        let foreign = sessions.iter().filter(|s| !seen.own().knows(s.begin, Some(&s.lock))).max_by_key(|s| (s.found.is_backup(), s.begin));
        if let Some(foreign) = foreign {
            return Ok(Some(foreign.found.clone()));
        }
        if sessions.iter().any(|s| !seen.own().knows(s.begin, None)) {
            self.account(newest, &sessions)?;
        }
        Ok(None)
    }

    /// Refuses where [`Opened::used_elsewhere`] finds a backup. Who only restores with a copy of this host's key is a reason to
    /// warn: nothing is mixed up by it. What that is.
    ///
    /// # Errors
    /// [`HostError::UsedElsewhere`].
    pub fn backs_up_here_alone(&self) -> Result<Option<Elsewhere>, HostError> {
        match self.used_elsewhere()? {
            Some(elsewhere) if elsewhere.is_backup() => Err(elsewhere.into()),
            other => Ok(other),
        }
    }

    /// A person says that this host is the only one with its key: what others may have begun with it is accounted for.
    /// What that was.
    ///
    /// # Errors
    /// If the state can't be read or written.
    pub fn claim(&self) -> Result<Option<Elsewhere>, HostError> {
        let foreign = self.used_elsewhere()?;
        if foreign.is_some() {
            let (newest, sessions) = self.own_sessions();
            self.account(newest, &sessions)?;
        }
        Ok(foreign)
    }

    /// Remembers that a session with this lock is about to begin.
    pub(super) fn begins(&self, lock: &str) -> Result<(), HostError> {
        let Some(state) = &self.state else { return Ok(()) };
        Ok(state.update(|seen| {
            seen.own_mut().begins(lock);
            Ok::<(), StateError>(())
        })?)
    }

    /// Remembers that this host's state is used on this machine. The one before, if it was another, and that is worth a word.
    ///
    /// # Errors
    /// If the state can't be read or written.
    pub fn is_on(&self, machine: &str) -> Result<Option<String>, HostError> {
        let Some(state) = &self.state else { return Ok(None) };
        Ok(state.update(|seen| Ok::<_, StateError>(seen.own_mut().is_on(machine)))?)
    }

    fn own_sessions(&self) -> (u64, Vec<Own>) {
        let view = self.view();
        let Some(own) = self.signer.as_ref().map(|s| s.id()) else { return (view.newest.number, Vec::new()) };
        let sessions = view.fold.sessions.iter().filter(|(_, s)| s.key == own);
        // All of this program's have a lock.
        let sessions = sessions.filter_map(|(id, s)| {
            let found = Elsewhere { session: *id, purpose: s.purpose.clone(), number: s.begin, at: s.begun_at, machine: s.machine.clone() };
            Some(Own { begin: s.begin, lock: s.lock.clone()?, found })
        });
        (view.newest.number, sessions.collect())
    }

    fn account(&self, newest: u64, sessions: &[Own]) -> Result<(), HostError> {
        let Some(state) = &self.state else { return Ok(()) };
        let accounted = state.update(|seen| {
            seen.own_mut().account(newest, |lock| sessions.iter().any(|s| s.lock == lock));
            Ok::<(), StateError>(())
        });
        match accounted {
            // Another time.
            Err(e) if e.is_about_writing() => Ok(()),
            other => Ok(other?),
        }
    }
}
