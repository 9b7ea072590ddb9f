//! What `verify` found, noted in the log: retention never drops the last snapshot that was proven good.

use super::context::{Context, Here};
use super::output::error::describe;
use crate::host::access::Opened;
use crate::look;
use crate::repo::log::{Key, Kind, LogError, Note};
use crate::retain::Finding;
use crate::scrub;
use crate::units::{Progress, Timestamp};

/// The same good finding is noted again after so long (µs): who verifies every five minutes doesn't fill the log.
const AGAIN: i64 = 20 * 3_600_000_000;

/// Notes what was found of each snapshot that was there, if this host can write. That it can't is no error: what was
/// found has been said.
///
/// Nothing is appended behind a log in which anything is amiss: an entry vouches for the bytes of the one before, and
/// what has rotted could not be brought back any more.
pub(super) fn note(context: &Context, here: &Here, opened: &Opened, share: &str, snapshots: &[String], findings: &[scrub::Finding]) {
    let amiss = findings.iter().any(|f| f.object.starts_with("log/") || f.object.starts_with("body/"));
    let Some(signer) = opened.signer.as_ref().filter(|_| !amiss) else { return };
    if !opened.view().fold.keys.get(&signer.id()).is_some_and(Key::is_active) {
        return;
    }
    let noted = append(opened, signer, share, snapshots, findings);
    opened.settle(&here.place(&context.reporter));
    if let Err(e) = noted {
        context.reporter.detail(&format!("what was found is not noted in the log: {}", describe(&e).what));
    }
}

fn append(
    opened: &Opened,
    signer: &crate::crypt::sign::SigningKey,
    share: &str,
    snapshots: &[String],
    findings: &[scrub::Finding],
) -> Result<(), LogError> {
    let mut view = opened.view();
    let log = opened.log();
    log.advance(&mut view)?;
    for snapshot in snapshots {
        let hit: Vec<&scrub::Finding> = findings.iter().filter(|f| f.snapshots.contains(snapshot)).collect();
        let damage = hit.first().map(|first| {
            let more = if hit.len() > 1 { format!(" and {} more objects", hit.len() - 1) } else { String::new() };
            format!("{}: {}{more}", first.object, first.problem)
        });
        let before = view.fold.evidence.get(snapshot).and_then(|found| found.get("verify")).cloned();
        let finding = Finding { ok: damage.is_none(), share: share.to_owned(), damage };
        let (ok, detail) = (finding.ok, finding.detail(before.as_ref()));
        // It may have been forgotten meanwhile; and what is known needs no second entry.
        let known = before.as_ref().is_some_and(|e| e.ok == ok && e.detail == detail && Timestamp::now().0.saturating_sub(e.at.0) < AGAIN);
        let cluster = view.fold.commits_of(snapshot).next().map(|(_, c)| c.summary.cluster.clone());
        let may = view.fold.keys.get(&signer.id()).is_some_and(|key| key.may_prove(cluster.as_deref()));
        if known || !may || !finding.replaces(before.as_ref()) || cluster.is_none() {
            continue;
        }
        let note = Note::Evidence { snapshot: snapshot.clone(), what: "verify".into(), ok, detail };
        log.append(&mut view, signer, &Kind::Note(note))?;
    }
    Ok(())
}

/// The ids of the live snapshots, in the order of the log.
pub(super) fn snapshots(fold: &crate::repo::log::Fold) -> Vec<String> {
    look::snapshots(fold, None).iter().map(|listed| listed.id().to_owned()).collect()
}
