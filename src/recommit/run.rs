//! Committing again: a session for each snapshot, each ended by the COMMIT that replaces the old one.
//!
//! The first session copies the blobs, for all. The others are opened before it ends: what it stored and only they need is
//! named by nobody until their COMMITs, and a CONDEMN by another prune comes behind their BEGINs (R5). Interrupted anywhere,
//! the old COMMITs stand, or new ones beside them that say the same: [`finish_replacements`] forgets what was replaced.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

pub use super::carry::BadBlob;
use super::carry::Carried;
use super::choose::Limits;
use super::failure::RecommitError;
use super::plan::{Plan, Skipped, Work, may_replace, plan, said};
use super::rewrite::{Memo, Rewrite};
use super::writing::{Leftovers, Writing, begin};
use crate::host::HostError;
use crate::host::access::{OpenSession, Opened};
use crate::host::paths::StateDir;
use crate::repo::RepoError;
use crate::repo::log::{Commit, CommitLists, Fold, Forget, Held, Kind, LiveCommit, LogError, NewPacks, PackSet, Root};
use crate::repo::write::is_of_one_pack;
use crate::units::{Cancel, Explain, KeyId, PackId, Progress, SessionId};

/// What it takes to run.
pub struct Setting<'a> {
    /// The repository, opened by a host whose key is a maintainer's.
    pub opened: &'a Arc<Opened>,
    /// The state folder: sessions have locks there.
    pub state: &'a StateDir,
    /// This machine.
    pub machine: [u8; 16],
    /// Keys whose packs are relied on besides this host's own, where damage is healed.
    pub trust_writers: &'a [KeyId],
    /// What is copied is sorted into packs by how quiet it was; else not, to compare.
    pub sort_blobs: bool,
    /// Asked to stop?
    pub cancel: &'a Cancel,
    /// Told of everything.
    pub progress: &'a dyn Progress,
}

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Done {
    /// Packs that no live snapshot names any more.
    pub emptied: BTreeSet<(SessionId, PackId)>,
    /// Their bytes.
    pub emptied_bytes: u64,
    /// Ids of the snapshots that were committed again.
    pub replaced: BTreeSet<String>,
    /// Blobs that were copied, and their bytes.
    pub copied: (u64, u64),
    /// Bytes of all packs that were stored, structure included.
    pub stored: u64,
    /// Chunks at damaged places that got another place.
    pub healed: usize,
    /// Blobs that are not what their tables say; the packs that hold them stay.
    pub bad: Vec<BadBlob>,
    /// Snapshots that were left as they are.
    pub skipped: Vec<Skipped>,
}

/// How often a plan is made anew: what is written anew leaves old nodes behind, which can make their packs mostly dead.
const ROUNDS: usize = 4;

/// Empties mostly dead packs and heals what was stored anew, until nothing is left to do or the budget is used up.
///
/// # Errors
/// If the store or the log fails; the repository is as sound as before, and the next call goes on.
pub fn empty(setting: &Setting<'_>, max_rewrite: Option<u64>) -> Result<Done, RecommitError> {
    let mut all = Done::default();
    let mut left = max_rewrite;
    setting.opened.read_whole()?;
    for _ in 0..ROUNDS {
        setting.opened.refresh()?;
        finish_replacements(setting)?;
        let plan = plan(setting, left)?;
        all.skipped.clone_from(&plan.skipped);
        if plan.is_empty() {
            break;
        }
        let budget = left.unwrap_or_else(|| default_budget(setting));
        let done = run(setting, &plan)?;
        left = Some(budget.saturating_sub(done.copied.1));
        let went_on = !done.replaced.is_empty();
        all.join(done);
        if !went_on {
            break;
        }
    }
    Ok(all)
}

fn default_budget(setting: &Setting<'_>) -> u64 {
    let view = setting.opened.view();
    let all = view.fold.sessions.values().flat_map(|s| s.packs.values()).map(|f| f.size).fold(0, u64::saturating_add);
    Limits::of(None, all, 0).max_rewrite
}

impl Done {
    fn join(&mut self, more: Done) {
        self.emptied.extend(more.emptied);
        self.emptied_bytes += more.emptied_bytes;
        self.replaced.extend(more.replaced);
        self.copied = (self.copied.0 + more.copied.0, self.copied.1 + more.copied.1);
        self.stored += more.stored;
        self.healed += more.healed;
        more.bad.into_iter().for_each(|bad| {
            if !self.bad.contains(&bad) {
                self.bad.push(bad);
            }
        });
        self.skipped.extend(more.skipped);
    }
}

/// Forgets COMMITs that others replace: a run that was killed between its COMMIT and its FORGET has left them.
///
/// # Errors
/// If it can't be appended.
pub fn finish_replacements(setting: &Setting<'_>) -> Result<usize, RecommitError> {
    let own = setting.opened.signer.as_ref().map(|s| s.id());
    let left: Vec<u64> = {
        let view = setting.opened.view();
        let fold = &view.fold;
        let may = |number: &u64| fold.commits.get(number).is_some_and(|c| may_replace(fold, own, c));
        fold.superseded().into_iter().filter(may).collect()
    };
    left.iter().try_for_each(|number| forget(setting, *number))?;
    Ok(left.len())
}

fn forget(setting: &Setting<'_>, commit: u64) -> Result<(), RecommitError> {
    let opened = setting.opened;
    let key = opened.key()?;
    let mut view = opened.view();
    match opened.log().append(&mut view, key, &Kind::Forget(Forget { commit, window: false })) {
        // Another run of ours was faster.
        Err(LogError::Void { .. }) if !view.fold.commits.contains_key(&commit) => Ok(()),
        other => other.map(|_| ()).map_err(RecommitError::from),
    }
}

/// Does what was planned. Snapshots that were forgotten since are passed over; what has come since stays as it is.
///
/// # Errors
/// As [`empty`].
pub fn run(setting: &Setting<'_>, plan: &Plan) -> Result<Done, RecommitError> {
    finish_replacements(setting)?;
    let fold = setting.opened.view().fold.clone();
    let concerned = concerned(setting, &fold, &plan.work);
    let mut done = Done::default();
    let Some((first, others)) = concerned.split_first() else { return Ok(done) };
    let left = Leftovers::of(setting, &fold)?;
    let mut carried = Carried::new(&fold, &plan.work);
    let mut again = Again { setting, fold: &fold, work: &plan.work, left: &left, memo: Memo::default(), done: &mut done };
    setting.progress.phase("copying blobs", Some(plan.copies()));
    let session = begin(setting)?;
    let writing = again.start(&session, first.1, Vec::new())?;
    carried.all(&writing, setting.cancel, setting.progress)?;
    setting.progress.phase("committing again", Some(concerned.len() as u64));
    let mut waiting = Vec::new();
    let mut before_end = || -> Result<(), RecommitError> {
        for _ in others {
            waiting.push(begin(setting)?);
        }
        Ok(())
    };
    again.one(*first, session, writing, &mut carried, &mut before_end)?;
    let mut waiting = std::collections::VecDeque::from(waiting);
    for commit in others {
        setting.cancel.check()?;
        let Some(session) = waiting.pop_front() else { break };
        let writing = again.start(&session, commit.1, waiting.iter().cloned().collect())?;
        again.one(*commit, session, writing, &mut carried, &mut || Ok(()))?;
    }
    done.copied = (carried.blobs, carried.bytes);
    done.bad = std::mem::take(&mut carried.bad);
    if !done.replaced.is_empty() {
        done.healed = plan.healed.chunks;
    }
    let view = setting.opened.view();
    for pack in plan.work.emptied().filter(|p| !view.fold.is_named(&p.session, &p.id)) {
        done.emptied.insert((pack.session, pack.id));
        done.emptied_bytes += pack.size;
    }
    Ok(done)
}

/// The COMMITs that name a pack out of which something moves, in the order of their snapshots.
fn concerned<'f>(setting: &Setting<'_>, fold: &'f Fold, work: &Work) -> Vec<(u64, &'f LiveCommit)> {
    let touched: HashSet<(SessionId, PackId)> = work.touched().map(|p| (p.session, p.id)).collect();
    let own = setting.opened.signer.as_ref().map(|s| s.id());
    let superseded = fold.superseded();
    let names = |c: &LiveCommit| c.set.iter().any(|(session, pack)| touched.contains(&(*session, *pack)));
    let fits = |number: &u64, c: &LiveCommit| {
        !superseded.contains(number) && !work.live.unreadable.contains_key(number) && may_replace(fold, own, c) && names(c)
    };
    let mut all: Vec<_> = fold.commits.iter().filter(|(number, c)| fits(number, c)).map(|(number, c)| (*number, c)).collect();
    all.sort_by_key(|(number, c)| (c.first, *number));
    all
}

/// One run's snapshots, one after the other.
struct Again<'a> {
    setting: &'a Setting<'a>,
    fold: &'a Fold,
    work: &'a Work,
    left: &'a Leftovers,
    memo: Memo,
    done: &'a mut Done,
}

impl Again<'_> {
    fn start(&self, session: &Arc<OpenSession>, commit: &LiveCommit, others: Vec<Arc<OpenSession>>) -> Result<Writing, RecommitError> {
        // By id, as the COMMIT means them.
        let avoid = self.work.emptied().map(|p| p.id).collect();
        Writing::start(self.setting, session, commit, &avoid, self.left, others)
    }

    /// Replaces one COMMIT. What is damaged in this snapshot alone leaves the others alone.
    fn one(
        &mut self,
        (number, commit): (u64, &LiveCommit),
        session: Arc<OpenSession>,
        writing: Writing,
        carried: &mut Carried<'_>,
        before_end: &mut dyn FnMut() -> Result<(), RecommitError>,
    ) -> Result<(), RecommitError> {
        let touched: HashSet<PackId> = self.work.touched().map(|p| p.id).collect();
        let own = self.setting.opened.signer.as_ref().map(|s| s.id());
        let trusts = |there: &SessionId, lost: &SessionId| super::plan::trusts(self.fold, own, self.setting.trust_writers, there, lost);
        let mut rewrite = Rewrite {
            writing: &writing,
            carried,
            memo: &mut self.memo,
            fold: self.fold,
            work: self.work,
            trusts: &trusts,
            touched: &touched,
            cancel: self.setting.cancel,
            used: BTreeSet::new(),
        };
        let root = rewrite.root(commit);
        let used = std::mem::take(&mut rewrite.used);
        let planned = root.and_then(|root| Ok((root, set_of(&writing, &used)?)));
        let Writing { writer, session: theirs, .. } = writing;
        drop(theirs);
        // Whatever becomes of this one: others rely on what it has stored.
        let (_, totals) = writer.finish()?;
        self.done.stored += totals.packs;
        before_end()?;
        let session = Arc::into_inner(session).ok_or(RepoError::internal("a session is still in use"))?;
        let skip = match planned {
            // It names a pack with damage, and needs nothing of that.
            Ok((root, set)) if root == commit.root && set == commit.set => {
                session.abort()?;
                return Ok(());
            }
            Ok((root, set)) => self.commit((number, commit), session, root, set)?.map(|why| (why, false)),
            Err(e) if is_of_one_pack(&e) => {
                session.abort()?;
                Some((said(&e), true))
            }
            Err(e) => return Err(e.into()),
        };
        match skip {
            Some((why, damaged)) => self.done.skipped.push(Skipped { snapshot: commit.summary.id.clone(), why, damaged }),
            None => drop(self.done.replaced.insert(commit.summary.id.clone())),
        }
        self.setting.progress.advance(1);
        Ok(())
    }

    /// Appends the COMMIT, and forgets the one that it replaces; why not, if the log says no.
    fn commit(
        &self,
        (number, commit): (u64, &LiveCommit),
        session: OpenSession,
        root: Root,
        set: PackSet,
    ) -> Result<Option<String>, RecommitError> {
        // Most of the set is the replaced one's, and needn't be said again.
        let (less, set) = (commit.set.minus(&set), set.minus(&commit.set));
        let new = session.unlisted();
        let new = if new.keys().all(|pack| set.contains(&session.id(), pack)) {
            new
        } else {
            // What only others need belongs into this session's list, too.
            session.list_all()?;
            NewPacks::new()
        };
        let entry = Commit {
            session: session.id(),
            summary: commit.summary.clone(),
            root,
            lists: Held::Inline(CommitLists { new, set, less, ledger: Vec::new() }),
            replaces: Some(number),
        };
        match session.commit(entry) {
            Ok(_) => {}
            // It was forgotten meanwhile, for example: then there is nothing to replace.
            Err(HostError::Log(e @ LogError::Void { .. })) => return Ok(Some(said(&e as &dyn Explain))),
            Err(e) => return Err(e.into()),
        }
        forget(self.setting, number)?;
        Ok(None)
    }
}

/// The packs of the new tree, with their sessions.
fn set_of(writing: &Writing, used: &BTreeSet<PackId>) -> Result<PackSet, RepoError> {
    let one = |pack: &PackId| {
        if writing.is_own(*pack) {
            return Ok((writing.session.id(), *pack));
        }
        let session = writing.session_of(*pack)?;
        match writing.adopted.packs.get(pack) {
            Some(known) if known.session == session => Ok((session, *pack)),
            _ => Err(RepoError::Corrupt { object: format!("pack {pack}"), why: "it may not be named by a new snapshot".into() }),
        }
    };
    used.iter().map(one).collect()
}
