//! Which entries are valid on a fold: the rights of whoever signed (format-spec.md, "Trust"), and the rules R3 to R16.
//!
//! All of it is decided by the log alone. A refused entry keeps its number and changes nothing.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use super::fold::{At, Fold, Session};
use super::kind::*;
use super::wal::{ClusterId, Need};
use crate::units::{PackId, SessionId, TimelineId};

/// Why an entry is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Void {
    /// A rule, by its number in format-spec.md, and what stands against it.
    Rule(&'static str),
    /// Its key has no right to it.
    Right(&'static str),
    /// Its bytes are not those of an entry (format-spec.md, "Well-formed").
    Form(&'static str),
}

impl fmt::Display for Void {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Void::Rule(why) | Void::Right(why) | Void::Form(why) => f.write_str(why),
        }
    }
}

fn rule(holds: bool, why: &'static str) -> Result<(), Void> {
    if holds { Ok(()) } else { Err(Void::Rule(why)) }
}

fn right(holds: bool, why: &'static str) -> Result<(), Void> {
    if holds { Ok(()) } else { Err(Void::Right(why)) }
}

fn inline<T>(held: &Held<T>) -> Result<&T, Void> {
    held.get().ok_or(Void::Form("its list is in a body that was not read"))
}

/// May this key append that?
pub(super) fn rights(fold: &Fold, at: &At, kind: &Kind) -> Result<(), Void> {
    let key = fold.keys.get(&at.signer).ok_or(Void::Right("its key is not enrolled"))?;
    right(key.is_active(), "its key was revoked")?;
    if key.owner {
        return Ok(());
    }
    let own = |session: &SessionId| fold.sessions.get(session).is_none_or(|s| s.key == at.signer);
    let maintains = |cluster: Option<&str>| key.may(Role::Maintainer, cluster);
    let writes_or_reads = |cluster: Option<&str>| [Role::Writer, Role::Reader, Role::Maintainer].iter().any(|role| key.may(*role, cluster));
    match kind {
        Kind::Key(_) => Err(Void::Right("only the owner changes keys")),
        Kind::Begin(begin) if begin.purpose == "backup" => {
            right(key.may(Role::Writer, begin.cluster.as_deref()), "its key is no writer for this cluster")
        }
        Kind::Begin(_) => Ok(()),
        Kind::Progress(progress) => right(own(&progress.session), "the session is another key's"),
        Kind::Abort(abort) => right(own(&abort.session) || maintains(None), "the session is another key's, and its key is no maintainer"),
        Kind::Commit(commit) => {
            right(own(&commit.session), "the session is another key's")?;
            let cluster = Some(commit.summary.cluster.as_str());
            match commit.replaces {
                Some(_) => right(maintains(cluster), "it replaces a COMMIT, and its key is no maintainer"),
                None => right(key.may(Role::Writer, cluster), "its key is no writer for this cluster"),
            }
        }
        Kind::Forget(forget) => {
            let cluster = fold.commits.get(&forget.commit).map(|c| c.summary.cluster.as_str());
            right(maintains(cluster), "its key is no maintainer")
        }
        Kind::Condemn(_) | Kind::Sweep(_) => right(maintains(None), "its key is no maintainer"),
        Kind::ExpireWal(expire) => right(maintains(Some(&expire.cluster)), "its key is no maintainer"),
        Kind::Note(Note::Hold { .. } | Note::Unhold { .. }) => right(maintains(None), "its key is no maintainer"),
        Kind::Note(Note::Gap { cluster, .. }) => right(writes_or_reads(Some(cluster)), "its key has no right to this cluster"),
        Kind::Note(Note::Fork { cluster, .. }) => {
            let writes = key.may(Role::Writer, Some(cluster)) || maintains(Some(cluster));
            right(writes, "its key is neither a writer nor a maintainer of this cluster")
        }
        Kind::Note(Note::Evidence { snapshot, .. }) => {
            let cluster = fold.commits_of(snapshot).next().map(|(_, c)| c.summary.cluster.as_str());
            right(key.may_prove(cluster), "its key is neither a reader nor a maintainer of this cluster")
        }
        Kind::Audit(_) => right(key.may(Role::Reader, None), "its key is no reader"),
        Kind::Damaged(_) => right(key.may(Role::Reader, None) || maintains(None), "its key is neither a reader nor a maintainer"),
    }
}

/// Do the rules allow it?
pub(super) fn rules(fold: &Fold, at: &At, kind: &Kind) -> Result<(), Void> {
    match kind {
        Kind::Key(keys) => fold.keys.judge(at, keys).map_err(Void::Rule),
        Kind::Begin(begin) => judge_begin(fold, at, begin),
        Kind::Progress(progress) => judge_progress(fold, progress),
        Kind::Commit(commit) => judge_commit(fold, commit),
        Kind::Abort(abort) => rule(fold.is_open(&abort.session), "R6 the session is not open"),
        Kind::Forget(forget) => judge_forget(fold, forget),
        Kind::Condemn(packs) => judge_condemn(fold, inline(&packs.packs)?),
        Kind::Sweep(packs) => judge_sweep(fold, inline(&packs.packs)?),
        Kind::ExpireWal(expire) => judge_expire(fold, expire),
        Kind::Note(Note::Hold { snapshot, .. }) => {
            rule(fold.commits_of(snapshot).next().is_some(), "there is no such live snapshot to hold")
        }
        Kind::Note(Note::Unhold { snapshot }) => rule(fold.holds.contains_key(snapshot), "there is no such hold"),
        Kind::Note(_) => Ok(()),
        Kind::Audit(audit) => inline(&audit.packs).map(|_| ()),
        Kind::Damaged(damaged) => inline(&damaged.places).map(|_| ()),
    }
}

/// Do the rules allow it, whatever its list says?
pub(super) fn rules_without_lists(fold: &Fold, at: &At, kind: &Kind) -> Result<(), Void> {
    match kind {
        Kind::Progress(progress) => rule(fold.is_open(&progress.session), "R4 the session is not open"),
        Kind::Commit(commit) => {
            let session = fold.sessions.get(&commit.session).filter(|s| s.open).ok_or(Void::Rule("R5 the session is not open"))?;
            match commit.replaces {
                Some(number) => judge_replacement(fold, commit, number),
                None => judge_snapshot(fold, session, commit),
            }
        }
        Kind::Condemn(_) | Kind::Sweep(_) | Kind::ExpireWal(_) | Kind::Audit(_) => Ok(()),
        _ => rules(fold, at, kind),
    }
}

fn judge_begin(fold: &Fold, at: &At, begin: &Begin) -> Result<(), Void> {
    rule(!fold.sessions.contains_key(&at.session()), "R3 the session id is not new")?;
    if let Some(commit) = begin.reads {
        rule(fold.commits.contains_key(&commit), "R3 the snapshot that it reads is not live")?;
    }
    let Some((start, cluster)) = begin.floor.zip(begin.cluster_id()) else { return Ok(()) };
    let need = Need { cluster: cluster.clone(), start, window: Vec::new() };
    let would_need = fold.expired.get(&cluster).into_iter().flatten().any(|(timeline, row)| {
        let highest = row.segment_size.segment_of(row.highest);
        need.covers(&cluster, *timeline, highest, row.segment_size, &row.ancestry)
    });
    rule(!would_need, "R16 WAL that it would need was expired")
}

fn judge_progress(fold: &Fold, progress: &Progressed) -> Result<(), Void> {
    let session = fold.sessions.get(&progress.session).filter(|s| s.open).ok_or(Void::Rule("R4 the session is not open"))?;
    judge_facts(session, inline(&progress.packs)?)
}

/// One pack has one hash, one size and one tail.
fn judge_facts(session: &Session, packs: &NewPacks) -> Result<(), Void> {
    let agree = packs.iter().all(|(id, facts)| session.packs.get(id).is_none_or(|known| known == facts));
    rule(agree, "R4 a pack was listed with another hash or size")
}

fn judge_commit(fold: &Fold, commit: &Commit) -> Result<(), Void> {
    let lists = inline(&commit.lists)?;
    let session = fold.sessions.get(&commit.session).filter(|s| s.open).ok_or(Void::Rule("R5 the session is not open"))?;
    judge_facts(session, &lists.new)?;
    for (of, pack) in set_of(fold, commit, lists)?.iter() {
        let new = *of == commit.session && lists.new.contains_key(pack);
        rule(new || fold.may_name(&commit.session, of, pack), "R5 it may not name a pack")?;
    }
    match commit.replaces {
        Some(number) => judge_replacement(fold, commit, number),
        None => judge_snapshot(fold, session, commit),
    }
}

/// All packs that a COMMIT relies on: where it replaces another, that one's without those that it leaves out, and its own.
pub(super) fn set_of<'a>(fold: &Fold, commit: &Commit, lists: &'a CommitLists) -> Result<Cow<'a, PackSet>, Void> {
    let Some(number) = commit.replaces else { return Ok(Cow::Borrowed(&lists.set)) };
    let replaced = fold.commits.get(&number).ok_or(Void::Rule("R5 the COMMIT that it replaces is not live"))?;
    let theirs = lists.less.iter().all(|(session, pack)| replaced.set.contains(session, pack));
    rule(theirs, "R5 it leaves out a pack that the COMMIT that it replaces doesn't name")?;
    let mut set = replaced.set.minus(&lists.less);
    let mut ids: BTreeSet<PackId> = set.iter().map(|(_, pack)| *pack).collect();
    for (session, pack) in lists.set.iter() {
        rule(ids.insert(*pack), "R5 a pack id stands twice in its set")?;
        set.insert(*session, *pack);
    }
    rule(ids.contains(&commit.root.place.pack), "R5 the root's pack is not in its set")?;
    Ok(Cow::Owned(set))
}

/// The same snapshot in other packs. Its WAL need is that of the replaced COMMIT, which is live: R16 has nothing to ask.
fn judge_replacement(fold: &Fold, commit: &Commit, number: u64) -> Result<(), Void> {
    let replaced = fold.commits.get(&number).ok_or(Void::Rule("R5 the COMMIT that it replaces is not live"))?;
    rule(replaced.root.digest == commit.root.digest, "R5 its content is not that of the COMMIT that it replaces")?;
    rule(replaced.summary == commit.summary, "R5 its summary is not that of the COMMIT that it replaces")?;
    rule(fold.commits_of(&commit.summary.id).count() == 1, "R5 the COMMIT that it replaces was replaced already")
}

fn judge_snapshot(fold: &Fold, session: &Session, commit: &Commit) -> Result<(), Void> {
    let summary = &commit.summary;
    rule(fold.commits_of(&summary.id).next().is_none(), "R5 the snapshot is there already")?;
    let cluster = summary.cluster_id();
    rule(session.cluster.as_ref() == Some(&cluster), "R5 its session is of another cluster")?;
    let Some(wal) = &summary.wal else { return Ok(()) };
    let start = wal.segment_size.segment_of(wal.start_lsn);
    let covers = |need: &Need| need.window.is_empty() && need.covers(&cluster, wal.timeline, start, wal.segment_size, &wal.ancestry);
    rule(session.need.as_ref().is_some_and(covers), "R16 its session doesn't need the WAL where the snapshot starts")
}

fn judge_forget(fold: &Fold, forget: &Forget) -> Result<(), Void> {
    let commit = fold.commits.get(&forget.commit).ok_or(Void::Rule("R7 there is no such live COMMIT"))?;
    if forget.window {
        let more = commit.need.as_ref().is_some_and(|need| need.window.is_empty());
        return rule(more, "R13 it needs no more than its window already");
    }
    // A held snapshot stays; one of two COMMITs of it (one replaces the other) may go.
    let last = fold.commits_of(&commit.summary.id).count() < 2;
    rule(!(last && fold.holds.contains_key(&commit.summary.id)), "R7 the snapshot is held")
}

fn judge_condemn(fold: &Fold, packs: &PackSet) -> Result<(), Void> {
    for (session, pack) in packs.iter() {
        rule(fold.condemned_at(session, pack).is_none(), "R8 a pack is condemned already")?;
        rule(!fold.is_open(session), "R8 the session of a pack is open")?;
        rule(!fold.is_named(session, pack), "R8 a live COMMIT names a pack")?;
    }
    Ok(())
}

fn judge_sweep(fold: &Fold, packs: &PackSet) -> Result<(), Void> {
    for (session, pack) in packs.iter() {
        let at = fold.condemned_at(session, pack).ok_or(Void::Rule("R9 a pack is not condemned"))?;
        rule(fold.open_before(at).next().is_none(), "R9 a session that was open at CONDEMN is still open")?;
    }
    Ok(())
}

fn judge_expire(fold: &Fold, expire: &ExpireWal) -> Result<(), Void> {
    let objects = inline(&expire.objects)?;
    rule(!objects.is_empty(), "R14 it lists nothing")?;
    let cluster = ClusterId { name: expire.cluster.clone(), system_identifier: expire.system_identifier };
    let timeline: TimelineId = expire.timeline;
    let needed = |need: &Need| {
        let mut segments = objects.keys().filter_map(|name| name.no(expire.segment_size));
        segments.any(|no| need.covers(&cluster, timeline, no, expire.segment_size, &expire.ancestry))
    };
    rule(!fold.commits.values().filter_map(|c| c.need.as_ref()).any(needed), "R14 a live COMMIT needs an object")?;
    rule(!fold.sessions.values().filter_map(|s| s.need.as_ref()).any(needed), "R14 an open session needs an object")
}
