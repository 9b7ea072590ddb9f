//! While a snapshot is read, an open session says so: nothing that it needs is then reclaimed.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::cli::context::{Context, Here};
use crate::cli::failure::Failure;
use crate::host::HostError;
use crate::host::access::{OpenSession, Opened};
use crate::host::machine::MachineId;
use crate::repo::log::Begin;
use crate::repo::write::Uploaded;
use crate::units::ids::hex;
use crate::units::{Class, Explain, Progress};

/// Between two occasions for a sign of life.
const OFTEN: Duration = Duration::from_secs(30);

/// A session that reads; none where this host can't write, which was said.
pub(super) struct Reading(Option<OpenSession>);

impl Reading {
    /// Opens it. A store that can't be written, or a host without a key of its own, goes without.
    pub fn begin(context: &Context, here: &Here, opened: &Arc<Opened>, commit: u64) -> Result<Self, Failure> {
        let active = |o: &Opened| o.signer.as_ref().is_some_and(|s| o.view().fold.keys.get(&s.id()).is_some_and(|k| k.is_active()));
        let Some(state) = here.state.as_ref().filter(|_| active(opened)) else { return Ok(Reading(None)) };
        let machine = hex(MachineId::of_this_machine(state)?.as_bytes());
        let begin = Begin { purpose: "restore".into(), machine, reads: Some(commit), ..Begin::default() };
        match OpenSession::begin(opened, &state.locks(), begin) {
            Ok(session) => Ok(Reading(Some(session))),
            Err(error) if goes_without(&error) => {
                context.reporter.warn(&format!("the restore goes on without a session, since it can't be opened: {error}"));
                Ok(Reading(None))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Does `work`, with signs of life, and ends the session.
    pub fn during<T>(self, context: &Context, work: impl FnOnce() -> T) -> T {
        let Some(session) = self.0 else { return work() };
        let result = std::thread::scope(|scope| {
            let (done, ended) = channel::<()>();
            let session = &session;
            scope.spawn(move || {
                while ended.recv_timeout(OFTEN) == Err(RecvTimeoutError::Timeout) {
                    if let Err(error) = session.told(Uploaded::Idle) {
                        context.reporter.detail(&format!("no sign of life of the restore's session: {error}"));
                    }
                }
            });
            let result = work();
            drop(done);
            result
        });
        if let Err(error) = session.abort() {
            context.reporter.detail(&format!("the restore's session is ended by the next run: {error}"));
        }
        result
    }
}

/// The store can't be written; that the snapshot is gone, or the log damaged, is another thing.
fn goes_without(error: &HostError) -> bool {
    matches!(error.class(), Class::Denied | Class::Failed | Class::Unreachable)
}
