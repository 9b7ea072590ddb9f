//! CONDEMN, SWEEP, delete: each in lists that fit a body, each planned anew on the log as it then is.

use std::collections::BTreeSet;

use super::failure::PruneError;
use super::listing::{Listing, object};
use super::plan::{PackPlan, batches, plan};
use super::report::{Amount, Report};
use super::run::Setting;
use crate::host::HostError;
use crate::host::access::append;
use crate::repo::log::{Fold, Held, Kind, LogError, PackSet, Packs, Void};
use crate::store::{ObjectName, at_once};
use crate::units::SessionId;

/// Packs of one entry: their ids take 2 MB of a body, which may have 64.
const MOST: usize = 50_000;
/// How often others may be faster.
const PATIENCE: u32 = 1000;

/// Condemns, sweeps and deletes all that may be.
pub(super) fn reclaim(setting: &Setting<'_>, listing: &mut Listing, report: &mut Report) -> Result<(), PruneError> {
    report.condemned = Amount::default();
    for _ in 0..PATIENCE {
        setting.cancel.check()?;
        let now = planned(setting, listing);
        let Some(batch) = batches(&now.condemn, MOST).into_iter().next() else { break };
        if entry(setting, Kind::Condemn(Packs { packs: Held::Inline(batch.clone()) }))? {
            report.condemned = sum(report.condemned, &batch, listing);
            let orphans: PackSet = batch.iter().filter(|(s, p)| now.orphans.contains(s, p)).map(|(s, p)| (*s, *p)).collect();
            report.orphans = sum(report.orphans, &orphans, listing);
        }
    }
    for _ in 0..PATIENCE {
        setting.cancel.check()?;
        let now = planned(setting, listing);
        report.waiting = sum(Amount::default(), &now.waiting, listing);
        let Some(batch) = batches(&now.sweep, MOST).into_iter().next() else { break };
        // Before they leave their session's list.
        let objects = objects(setting, listing, &batch);
        if entry(setting, Kind::Sweep(Packs { packs: Held::Inline(batch.clone()) }))? {
            report.swept = sum(report.swept, &batch, listing);
            delete(setting, &objects, report)?;
            batch.iter().for_each(|(session, pack)| listing.forget(*session, *pack));
        }
    }
    Ok(())
}

/// What [`reclaim`] would do on this fold, of which `ended` have ended.
pub(super) fn foresee(mut fold: Fold, ended: &BTreeSet<SessionId>, next: u64, listing: &Listing, report: &mut Report) {
    for session in ended {
        if let Some(session) = fold.sessions.get_mut(session) {
            session.open = false;
            session.need = None;
        }
    }
    let now = plan(&fold, listing);
    report.condemned = sum(Amount::default(), &now.condemn, listing);
    report.orphans = sum(Amount::default(), &now.orphans, listing);
    for (session, pack) in now.condemn.iter() {
        fold.condemned.entry(*session).or_default().insert(*pack, next);
    }
    let then = plan(&fold, listing);
    report.waiting = sum(Amount::default(), &then.waiting, listing);
    report.swept = sum(Amount::default(), &then.sweep, listing);
    for (session, pack) in then.sweep.iter() {
        listing.objects(*session, *pack).for_each(|(_, size)| report.deleted.add(size));
    }
}

/// Bytes of packs as they are stored; of those that aren't, none.
fn sum(mut amount: Amount, packs: &PackSet, listing: &Listing) -> Amount {
    packs.iter().for_each(|(session, pack)| amount.add(listing.size(*session, *pack).unwrap_or(0)));
    amount
}

fn planned(setting: &Setting<'_>, listing: &Listing) -> PackPlan {
    plan(&setting.opened.view().fold, listing)
}

/// Appends an entry; `false`: the log has grown meanwhile, and it would be void now.
pub(super) fn entry(setting: &Setting<'_>, kind: Kind) -> Result<bool, PruneError> {
    match append(setting.opened, &kind) {
        Ok(_) => Ok(true),
        Err(HostError::Log(LogError::Void { void: Void::Rule(_), .. })) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// All objects of these packs: those that are listed, and those that the log names, which may have come since.
fn objects(setting: &Setting<'_>, listing: &Listing, packs: &PackSet) -> Vec<(String, u64)> {
    let view = setting.opened.view();
    let mut objects = Vec::new();
    for (session, pack) in packs.iter() {
        let listed: Vec<_> = listing.objects(*session, *pack).collect();
        objects.extend(listed.iter().map(|(hash, size)| (object(*session, *pack, *hash), *size)));
        if let Some(facts) = view.fold.pack(session, pack).filter(|facts| listed.iter().all(|(hash, _)| *hash != facts.hash)) {
            objects.push((object(*session, *pack, facts.hash), 0));
        }
    }
    objects
}

/// Deletes what the SWEEP that was just read back lists.
fn delete(setting: &Setting<'_>, objects: &[(String, u64)], report: &mut Report) -> Result<(), PruneError> {
    setting.progress.phase("deleting packs", Some(objects.iter().map(|(_, size)| size).sum()));
    setting.opened.view().may_delete()?;
    let backend = setting.opened.backend.as_ref();
    let named = |name: &str| ObjectName::new(name).map_err(crate::store::StoreError::from);
    let one = |(name, _): &(String, u64)| {
        setting.cancel.check()?;
        Ok::<_, PruneError>(backend.delete(&named(name)?)?)
    };
    let mut folders = BTreeSet::new();
    at_once(objects, backend.pace().reads, one, &mut |at, deleted| {
        deleted?;
        let Some((name, size)) = objects.get(at) else { return Ok(()) };
        folders.extend(name.rsplit_once('/').map(|(folder, _)| folder));
        if *size > 0 {
            report.deleted.add(*size);
        }
        setting.progress.advance(*size);
        Ok::<(), PruneError>(())
    })?;
    // Each folder once: what is reported as deleted doesn't come back.
    for folder in folders {
        backend.settle_deletions(&named(folder)?)?;
    }
    Ok(())
}
