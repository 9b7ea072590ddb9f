//! What `verify` found, noted in the log: retention never drops the last snapshot that was proven good.

use super::context::{Context, Here};
use super::output::error::describe;
use crate::crypt::sign::SigningKey;
use crate::host::access::Opened;
use crate::look;
use crate::repo::log::{Evidence, Key, Kind, LogError, LogView, Note};
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
///
/// `seen` is the log as the verify found it when it began.
pub(super) fn note(context: &Context, here: &Here, opened: &Opened, seen: &LogView, share: &str, findings: &[scrub::Finding]) {
    let amiss = findings.iter().any(|f| f.object.starts_with("log/") || f.object.starts_with("body/"));
    let Some(signer) = opened.signer.as_ref().filter(|_| !amiss) else { return };
    if !opened.view().fold.keys.get(&signer.id()).is_some_and(Key::is_active) {
        return;
    }
    let noted = append(opened, signer, seen.newest.number, share, &snapshots(&seen.fold), findings);
    opened.settle(&here.place(&context.reporter));
    if let Err(e) = noted {
        context.reporter.detail(&format!("what was found is not noted in the log: {}", describe(&e).what));
    }
}

fn append(
    opened: &Opened,
    signer: &SigningKey,
    began: u64,
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
        let finding = Finding { ok: damage.is_none(), share: share.to_owned(), damage };
        // What another noted meanwhile is judged anew.
        while let Some((note, before)) = note_of(&view, signer, snapshot, &finding, began) {
            let mut still = |view: &LogView| said_of(view, snapshot).map(|e| e.number) == before;
            if log.append_if(&mut view, signer, &Kind::Note(note), &mut still)?.is_some() {
                break;
            }
        }
    }
    Ok(())
}

/// What verify noted last of a snapshot.
fn said_of<'a>(view: &'a LogView, snapshot: &str) -> Option<&'a Evidence> {
    view.fold.evidence.get(snapshot)?.get("verify")
}

/// What is to be noted behind what the log says, and the number of that; `None` if nothing is.
fn note_of(view: &LogView, signer: &SigningKey, snapshot: &str, finding: &Finding, began: u64) -> Option<(Note, Option<u64>)> {
    let before = said_of(view, snapshot);
    let (ok, detail) = (finding.ok, finding.detail(before));
    // It may have been forgotten meanwhile; and what is known needs no second entry.
    let cluster = view.fold.commits_of(snapshot).next().map(|(_, c)| c.summary.cluster.clone())?;
    let known = before.is_some_and(|e| e.ok == ok && e.detail == detail && Timestamp::now().0.saturating_sub(e.at.0) < AGAIN);
    let may = view.fold.keys.get(&signer.id()).is_some_and(|key| key.may_prove(Some(&cluster)));
    if known || !may || !finding.replaces(before, began) {
        return None;
    }
    Some((Note::Evidence { snapshot: snapshot.to_owned(), what: "verify".into(), ok, detail }, before.map(|e| e.number)))
}

/// The ids of the live snapshots, in the order of the log.
fn snapshots(fold: &crate::repo::log::Fold) -> Vec<String> {
    look::snapshots(fold, None).iter().map(|listed| listed.id().to_owned()).collect()
}
