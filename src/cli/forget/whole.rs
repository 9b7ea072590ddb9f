//! What comes back, and what can be restored afterwards: of the whole repository, by what the log would then say.

use std::collections::{BTreeMap, BTreeSet};

use super::Cluster;
use crate::archive::Archive;
use crate::archive::status::{Known, Status, Window};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::fronts::CatalogFronts;
use crate::cli::output::one_line;
use crate::cli::tail::OpenedTail;
use crate::host::access::Opened;
use crate::look::{self, Listed};
use crate::repo::log::{Branch, ClusterId, Fold, Need};
use crate::units::{PackId, Progress, SessionId, TimelineId, Timestamp};

/// What all of it comes to.
pub(super) struct Whole {
    /// Bytes of packs that nothing names afterwards: what a prune gets without writing anything anew.
    pub packs: u64,
    /// Bytes of WAL that nothing needs afterwards.
    pub wal: u64,
    /// Bytes of blobs that nothing needs afterwards, if they were counted.
    pub exact: Option<u64>,
    /// By cluster: what can be restored then.
    pub restorable: BTreeMap<String, Vec<Window>>,
}

/// Counts it.
pub(super) fn of(context: &Context, opened: &Opened, planned: &[Cluster], exact: bool) -> Result<Whole, Failure> {
    let before = opened.view().fold.clone();
    let after = after(&before, planned);
    let mut whole = Whole { packs: packs(&before, &after), wal: 0, exact: None, restorable: BTreeMap::new() };
    for cluster in planned {
        let ids: BTreeSet<ClusterId> = before
            .commits
            .values()
            .filter(|c| c.summary.cluster == cluster.name && c.summary.wal.is_some())
            .map(|c| c.summary.cluster_id())
            .collect();
        for id in ids {
            let tail = OpenedTail::new(opened, &id.name)?;
            let archive = Archive::read(&tail.site(), id.system_identifier, &CatalogFronts::of(opened), &context.cancel)?;
            whole.wal = whole.wal.saturating_add(wal(&archive, &id, &before, &after));
            let known = Known::of(&after, &id.name, id.system_identifier);
            let status = Status::of(&archive, &known, Timestamp::now(), None);
            let windows = status.restorable.into_iter().map(|window| narrowed(window, &after)).collect::<Vec<_>>();
            whole.restorable.entry(id.name).or_default().extend(windows);
        }
    }
    if exact {
        let all = look::snapshots(&before, None);
        let goes = |listed: &Listed<'_>| !after.commits.contains_key(&listed.number);
        let (going, staying): (Vec<_>, Vec<_>) = all.into_iter().partition(goes);
        let (bytes, warnings) = look::needed_alone(opened, &before, &staying, &going, &context.reporter, &context.cancel)?;
        context.reporter.phase("", None);
        warnings.iter().for_each(|warning| context.reporter.warn(&one_line(warning)));
        whole.exact = Some(bytes);
    }
    Ok(whole)
}

/// The log's fold once all of it is carried out.
fn after(before: &Fold, planned: &[Cluster]) -> Fold {
    let mut after = before.clone();
    for decision in planned.iter().flat_map(|cluster| &cluster.plan.decisions) {
        for number in &decision.commits {
            if !decision.stays() {
                after.commits.remove(number);
            } else if decision.narrows
                && let Some(commit) = after.commits.get_mut(number)
                && let Some((need, wal)) = commit.need.as_mut().zip(commit.summary.wal.as_ref())
            {
                need.window = wal.ranges.clone();
            }
        }
    }
    after
}

fn packs(before: &Fold, after: &Fold) -> u64 {
    let named = |fold: &Fold| -> BTreeSet<(SessionId, PackId)> {
        fold.commits.values().flat_map(|c| c.set.iter().map(|(s, p)| (*s, *p)).collect::<Vec<_>>()).collect()
    };
    let still = named(after);
    let gone = named(before).into_iter().filter(|pack| !still.contains(pack));
    gone.filter_map(|(session, pack)| before.pack(&session, &pack)).map(|facts| facts.size).fold(0, u64::saturating_add)
}

fn wal(archive: &Archive, id: &ClusterId, before: &Fold, after: &Fold) -> u64 {
    let tree = archive.tree();
    let mut ancestries: BTreeMap<TimelineId, Vec<Branch>> = BTreeMap::new();
    let mut ancestry = |timeline: TimelineId| {
        let of = || -> Vec<Branch> {
            let branches = tree.ancestry(timeline).into_iter().filter(|b| b.timeline != timeline);
            branches.filter_map(|b| Some(Branch { timeline: b.timeline, lsn: b.end? })).collect()
        };
        ancestries.entry(timeline).or_insert_with(of).clone()
    };
    let needs = |fold: &Fold| -> Vec<Need> {
        let commits = fold.commits.values().filter_map(|c| c.need.clone());
        commits.chain(fold.sessions.values().filter_map(|s| s.need.clone())).filter(|need| need.cluster == *id).collect()
    };
    let (before, after) = (needs(before), needs(after));
    let mut freed: u64 = 0;
    for ((timeline, no), entry) in &archive.segments {
        let ancestry = ancestry(*timeline);
        let needed = |needs: &[Need]| needs.iter().any(|need| need.covers(id, *timeline, *no, entry.facts.size, &ancestry));
        if needed(&before) && !needed(&after) {
            freed = freed.saturating_add(entry.stored);
        }
    }
    freed
}

/// A snapshot that keeps just what makes it consistent gets to its stop and no further.
fn narrowed(window: Window, after: &Fold) -> Window {
    let narrow = after.commits_of(&window.snapshot).any(|(_, c)| c.need.as_ref().is_some_and(|need| !need.window.is_empty()));
    if narrow { Window { to_lsn: window.from_lsn, to_time: None, ..window } } else { window }
}
