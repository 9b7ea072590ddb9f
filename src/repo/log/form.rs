//! What makes an entry well-formed besides its spelling: constraints that the types of `kind.rs` can't express.

use std::collections::BTreeSet;

use super::kind::*;
use super::wal::SnapshotWal;
use crate::units::ids::{hex, unhex};

impl Kind {
    /// What the types can't exclude: an entry that fails here is not well-formed. A list in a body is checked once it
    /// is there.
    pub fn check(&self) -> Result<(), &'static str> {
        match self {
            Kind::Key(keys) => check_keys(keys),
            Kind::Begin(begin) => check_begin(begin),
            Kind::Progress(_) | Kind::Abort(_) | Kind::Forget(_) => Ok(()),
            Kind::Commit(commit) => check_commit(commit),
            Kind::Condemn(Packs { packs }) | Kind::Sweep(Packs { packs }) | Kind::Audit(Audit { packs }) => {
                packs.get().map_or(Ok(()), |set| if set.is_empty() { Err("no packs are listed") } else { set.check() })
            }
            Kind::ExpireWal(expire) => check_expire(expire),
            Kind::Note(note) => check_note(note),
            Kind::Damaged(damaged) => damaged.places.get().map_or(Ok(()), check_damaged),
        }
    }
}

fn ensure(holds: bool, what: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(what) }
}

/// Cluster names: 1 to 64 of `[a-z0-9_-]`.
pub fn is_cluster_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

fn check_cluster(name: &str) -> Result<(), &'static str> {
    ensure(is_cluster_name(name), "a cluster's name is not 1 to 64 of [a-z0-9_-]")
}

fn check_text(text: &str, longest: usize) -> Result<(), &'static str> {
    ensure(text.len() <= longest && !text.chars().any(char::is_control), "a text is too long or has control characters")
}

fn check_word(text: &str) -> Result<(), &'static str> {
    ensure((1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()), "a word is not 1 to 64 printable ASCII characters")
}

fn check_keys(keys: &Keys) -> Result<(), &'static str> {
    ensure(!keys.keys.is_empty(), "no keys are listed")?;
    // An entry has one body at most.
    let lists = keys.keys.iter().filter(|op| matches!(op, KeyOp::WalEnd { .. })).count();
    ensure(lists < 2, "the last segments of two keys")?;
    for op in &keys.keys {
        match op {
            KeyOp::Owner { .. } | KeyOp::Revoke { .. } | KeyOp::RemoveSlot { .. } => {}
            KeyOp::Seal { public, .. } => {
                ensure(unhex(public).is_some_and(|b| (1..=4096).contains(&b.len())), "a sealing key is not 1 to 4096 bytes in hex")?;
            }
            KeyOp::Host { name, roles, clusters, .. } => {
                ensure(!name.is_empty(), "a host has no name")?;
                check_text(name, 256)?;
                ensure(!roles.is_empty(), "a host has no role")?;
                clusters.iter().flatten().try_for_each(|c| check_cluster(c))?;
            }
            KeyOp::WalEnd { ends, .. } => {
                let mut seen = BTreeSet::new();
                for end in ends.get().into_iter().flatten() {
                    check_cluster(&end.cluster)?;
                    let new = seen.insert((&end.cluster, end.system_identifier, end.last.timeline));
                    ensure(new, "two ends for one timeline")?;
                }
            }
        }
    }
    Ok(())
}

fn check_begin(begin: &Begin) -> Result<(), &'static str> {
    check_word(&begin.purpose)?;
    check_word(&begin.machine)?;
    begin.cluster.iter().try_for_each(|c| check_cluster(c))?;
    ensure(begin.cluster.is_some() == begin.system_identifier.is_some(), "a cluster without its system identifier, or the reverse")?;
    let lock_is_hex = begin.lock.as_ref().is_none_or(|l| (1..=64).contains(&l.len()) && unhex(l).is_some_and(|b| hex(&b) == *l));
    ensure(lock_is_hex, "a lock's name is not hex")?;
    ensure(begin.floor.is_none() || begin.cluster.is_some(), "a WAL floor without a cluster")?;
    ensure(begin.floor.is_none() || begin.reads.is_none(), "a WAL floor and a snapshot that is read")?;
    ensure(begin.purpose != "backup" || begin.cluster.is_some(), "a backup without a cluster")?;
    begin.floor.iter().try_for_each(|floor| ensure(floor.timeline.0 > 0, "timeline 0"))
}

fn check_commit(commit: &Commit) -> Result<(), &'static str> {
    let summary = &commit.summary;
    check_word(&summary.id)?;
    check_word(&summary.kind)?;
    check_cluster(&summary.cluster)?;
    check_word(&summary.pg_version)?;
    summary.parent.iter().try_for_each(|p| check_word(p))?;
    for (key, value) in &summary.labels {
        ensure(!key.is_empty(), "a label without a name")?;
        check_text(key, 128)?;
        check_text(value, 1024)?;
    }
    summary.wal.iter().try_for_each(SnapshotWal::check)?;
    let Some(lists) = commit.lists.get() else { return Ok(()) };
    lists.set.check()?;
    lists.less.check()?;
    ensure(commit.replaces.is_some() || lists.less.is_empty(), "packs are left out of a set that isn't another's")?;
    let mut ids = BTreeSet::new();
    ensure(lists.set.iter().all(|(_, pack)| ids.insert(*pack)), "a pack id stands twice in the set")?;
    // Where another is replaced, it may be in that one's set: R5.
    ensure(commit.replaces.is_some() || ids.contains(&commit.root.place.pack), "the root's pack is not in the set")?;
    ensure(lists.new.keys().all(|pack| lists.set.contains(&commit.session, pack)), "a new pack is not in the set")?;
    let runs_hold = lists.ledger.iter().all(|r| r.first.timeline == r.last.timeline && r.first <= r.last);
    ensure(runs_hold, "a run of the ledger ends before it begins")
}

fn check_expire(expire: &ExpireWal) -> Result<(), &'static str> {
    check_cluster(&expire.cluster)?;
    ensure(expire.timeline.0 > 0 && expire.ancestry.iter().all(|b| b.timeline.0 > 0), "timeline 0")?;
    let Some(objects) = expire.objects.get() else { return Ok(()) };
    ensure(!objects.is_empty() && objects.values().all(|ids| !ids.is_empty()), "no objects are listed")?;
    let all_fit = objects.keys().all(|name| name.timeline == expire.timeline && name.no(expire.segment_size).is_some());
    ensure(all_fit, "a segment of another timeline or size")
}

fn check_note(note: &Note) -> Result<(), &'static str> {
    match note {
        Note::Gap { cluster, from, to, reason, .. } => {
            check_cluster(cluster)?;
            ensure(from.timeline == to.timeline && from <= to, "a gap ends before it begins")?;
            check_text(reason, 2048)
        }
        Note::Fork { cluster, timeline, state, begins, reason, .. } => {
            check_cluster(cluster)?;
            ensure(timeline.0 > 0, "timeline 0")?;
            ensure(begins.is_some() == (*state == ForkState::Announced), "a fork is announced without its point, or accepted with one")?;
            let possible = |at: &ForkPoint| at.parent.0 > 0 && at.parent < *timeline && at.from <= at.to;
            ensure(begins.iter().all(possible), "a fork begins before its parent, or ends before it begins")?;
            check_text(reason, 2048)
        }
        Note::Hold { snapshot, reason } => check_word(snapshot).and_then(|()| check_text(reason, 2048)),
        Note::Unhold { snapshot } => check_word(snapshot),
        Note::Evidence { snapshot, what, detail, .. } => {
            check_word(snapshot)?;
            check_word(what)?;
            ensure(detail.len() <= 8192, "a text is too long")
        }
    }
}

fn check_damaged(places: &DamagedPlaces) -> Result<(), &'static str> {
    let empty = |blobs: &DamagedBlobs| matches!(blobs, DamagedBlobs::Blobs(b) if b.is_empty());
    let fine = !places.is_empty() && places.values().all(|packs| !packs.is_empty() && !packs.values().any(empty));
    ensure(fine, "no places are listed")
}
