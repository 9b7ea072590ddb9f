//! Sessions that are dead: whose lock on this machine is free, or that stood still for an hour since this host first saw
//! them so. An hour is counted since boot, so that two prunes an hour apart do, and no clock setting matters.

use std::collections::BTreeSet;
use std::time::Duration;

use super::failure::PruneError;
use super::report::{Report, Waiting, Why};
use super::run::Setting;
use crate::host::access::{append_if, clear_locks};
use crate::host::lock::LockState;
use crate::host::state::{FirstSight, StateError};
use crate::repo::log::{Abort, Kind, LogError, LogView, Session, Void};
use crate::units::SessionId;
use crate::units::ids::unhex;

/// Who gives no sign of life for so long is taken for dead (BEGIN and PROGRESS are signs; a living one gives one every ten
/// minutes).
pub(super) const STILL: Duration = Duration::from_secs(3600);

/// This boot, and the time since.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clock {
    /// Which boot.
    pub boot: String,
    /// The time since it.
    pub since: Duration,
}

/// What is to be done with an open session.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Dead { lock: Option<Vec<u8>> },
    Waits(Why),
}

/// Ends sessions that are dead, and says which are waited for. The ended ones, in a dry run those that would be.
pub(super) fn end_dead(setting: &Setting<'_>, dry_run: bool, report: &mut Report) -> Result<BTreeSet<SessionId>, PruneError> {
    let open: Vec<(SessionId, Session)> = {
        let view = setting.opened.view();
        let open = view.fold.sessions.iter().filter(|(_, s)| s.open);
        open.map(|(id, s)| (*id, Session { packs: Default::default(), ..s.clone() })).collect()
    };
    let mut ended = BTreeSet::new();
    for (id, session) in &open {
        match judge(setting, *id, session)? {
            Verdict::Waits(why) => report.waiting_for.push(waiting(*id, session, why)),
            Verdict::Dead { .. } if dry_run => _ = ended.insert(*id),
            Verdict::Dead { lock } => {
                let mut still = |view: &LogView| view.fold.sessions.get(id).is_none_or(|now| !now.open || now.alive == session.alive);
                match append_if(setting.opened, &Kind::Abort(Abort { session: *id }), &mut still) {
                    // It has ended by itself, or another was faster.
                    Err(crate::host::HostError::Log(LogError::Void { void: Void::Rule(_), .. })) => {}
                    // A sign of life, while others were judged.
                    Ok(None) => {
                        report.waiting_for.push(waiting(*id, session, Why::Foreign(Duration::ZERO)));
                        continue;
                    }
                    other => drop(other?),
                }
                if let Some(lock) = lock {
                    setting.state.locks().clear(&lock)?;
                }
                setting.progress.info(&format!("ended session {id} ({}), which had died", session.purpose));
                ended.insert(*id);
            }
        }
    }
    report.ended = ended.iter().copied().collect();
    if !dry_run {
        // A prune that commits again has locks of its own, and one that was killed leaves them: before its BEGIN, or behind
        // its end after a power failure.
        clear_locks(setting.opened, &setting.state.locks())?;
        remember(setting, &open, &ended)?;
    }
    Ok(ended)
}

fn waiting(id: SessionId, session: &Session, why: Why) -> Waiting {
    Waiting {
        session: id,
        purpose: session.purpose.clone(),
        cluster: session.cluster.as_ref().map(|c| c.name.clone()),
        machine: session.machine.clone(),
        begun_at: session.begun_at,
        why,
    }
}

fn judge(setting: &Setting<'_>, id: SessionId, session: &Session) -> Result<Verdict, PruneError> {
    if session.machine == setting.machine
        && let Some(lock) = session.lock.as_deref().and_then(unhex)
    {
        match setting.state.locks().probe(&lock)? {
            LockState::Free => return Ok(Verdict::Dead { lock: Some(lock) }),
            LockState::Held => return Ok(Verdict::Waits(Why::Alive)),
            // Another user's of this machine, or of one that shares its id.
            LockState::Missing => {}
        }
    }
    let Some(clock) = &setting.clock else { return Ok(Verdict::Waits(Why::Timeless)) };
    let seen = setting.opened.state.as_ref().map(|s| s.seen()).transpose()?;
    let still = match seen.as_ref().and_then(|seen| seen.sight(id)) {
        Some(sight) if sight.entry == session.alive && sight.boot == clock.boot => {
            clock.since.saturating_sub(Duration::from_millis(sight.monotonic_ms))
        }
        _ => Duration::ZERO,
    };
    Ok(if still >= STILL { Verdict::Dead { lock: None } } else { Verdict::Waits(Why::Foreign(still)) })
}

/// Keeps first sights of all that is open; those of ended sessions are dropped.
fn remember(setting: &Setting<'_>, open: &[(SessionId, Session)], ended: &BTreeSet<SessionId>) -> Result<(), PruneError> {
    let (Some(clock), Some(state)) = (&setting.clock, &setting.opened.state) else { return Ok(()) };
    let now = u64::try_from(clock.since.as_millis()).unwrap_or(u64::MAX);
    state.update(|seen| {
        for (id, session) in open.iter().filter(|(id, _)| !ended.contains(id)) {
            let sight = FirstSight { entry: session.alive, boot: clock.boot.clone(), monotonic_ms: now };
            seen.remember_sight(*id, sight);
        }
        seen.keep_sights(|id| open.iter().any(|(known, _)| *known == id) && !ended.contains(&id));
        Ok::<(), StateError>(())
    })?;
    Ok(())
}
