//! `pitr-window`: the snapshot with which the window begins, and who keeps all WAL from its start on.
//!
//! The window begins with the newest good snapshot that was finished before it does. It and all behind it in the log keep
//! their WAL; those before keep what makes them consistent. Where the cluster's line was left (a restore to an earlier
//! point, a failover), a snapshot that lies in the window may descend from an older one than the newest: then its line
//! has a base of its own.
//!
//! To be a base a snapshot must count (its time fits its place in the log, see `count.rs`), still have its WAL, and have
//! it in the archive: where that can't be said, more is kept.

use std::collections::BTreeSet;
use std::time::Duration;

use super::count::Placed;
use super::subject::SubjectWal;
use crate::units::Timestamp;

/// Where the window begins.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Window {
    /// The snapshots with which it begins, by their places; none: no snapshot is old enough, and all keep their WAL.
    pub bases: BTreeSet<usize>,
    /// Those that keep just what makes them consistent.
    pub narrowed: BTreeSet<usize>,
}

/// Finds it.
pub(super) fn window(placed: &[Placed<'_>], span: Duration, now: Timestamp) -> Window {
    let span = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    let begin = Timestamp(now.0.saturating_sub(span));
    let is_candidate = |p: &&Placed<'_>| {
        let wal = p.subject.wal.as_ref().is_some_and(|wal| !wal.copied && !wal.window_only);
        wal && p.counts && !p.future && p.subject.is_good() && p.subject.finished_at <= begin
    };
    let candidates: Vec<&Placed<'_>> = placed.iter().filter(is_candidate).collect();
    let Some(base) = candidates.last() else { return Window::default() };
    let mut bases = BTreeSet::from([base.at]);
    let mut whole: BTreeSet<usize> = placed.iter().filter(|p| p.at >= base.at).map(|p| p.at).collect();
    // The lines of those that lie in the window.
    for tip in placed.iter().filter(|p| p.at > base.at).filter_map(|p| p.subject.wal.as_ref()) {
        let leads = |p: &Placed<'_>| p.subject.wal.as_ref().is_some_and(|wal| leads_to(wal, tip));
        let own = candidates.iter().rev().find(|p| leads(p)).map(|p| p.at);
        bases.extend(own);
        whole.extend(placed.iter().filter(|p| leads(p) && own.is_none_or(|own| p.at >= own)).map(|p| p.at));
    }
    let narrowed = placed.iter().map(|p| p.at).filter(|at| !whole.contains(at)).collect();
    Window { bases, narrowed }
}

/// Does recovery from this snapshot get to that one's line?
fn leads_to(from: &SubjectWal, to: &SubjectWal) -> bool {
    from.system_identifier == to.system_identifier
        && (from.timeline == to.timeline || to.ancestry.iter().any(|b| b.timeline == from.timeline && from.stop_lsn <= b.lsn))
}
