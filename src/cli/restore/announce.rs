//! A cluster that is restored in its own place begins a new timeline when its recovery ends, beside a line that was archived
//! until just now: the archive refuses that of a copy. So it is said in the log beforehand, as narrowly as can be: by number,
//! by the timeline that it leaves and the part of it that can be reached, and by the key that will push it.

use super::reach::Reached;
use crate::cli::context::Context;
use crate::host::HostError;
use crate::host::access::Opened;
use crate::repo::log::{ForkPoint, ForkState, Kind, Note};
use crate::restore::{ArchiveMode, Recovery, RestoreOptions, RestorePlan};
use crate::units::{Progress, TimelineId};

/// What became of it.
pub(super) enum Announced {
    /// It begins no timeline that would be archived here.
    NotNeeded,
    /// It stands in the log.
    Noted {
        /// The new timeline.
        timeline: TimelineId,
        /// The entry.
        number: u64,
    },
    /// It will begin one, and nobody was told: it isn't restored in its own place, or the log can't be written.
    Not {
        /// The new timeline.
        timeline: TimelineId,
    },
}

/// Announces the timeline that the restored server will begin. Whatever keeps it from that, the restore goes on: the server
/// runs, and its archiving waits until somebody accepts the timeline.
pub(super) fn announce(
    context: &Context,
    opened: &Opened,
    reached: &Reached,
    options: &RestoreOptions,
    plan: &RestorePlan,
    in_own_place: bool,
) -> Announced {
    let Some((choice, window)) = reached.choice().and_then(|c| Some((c, c.window?))) else { return Announced::NotNeeded };
    if options.archive_mode != ArchiveMode::Preserve || !matches!(options.recovery, Recovery::Target { .. }) {
        return Announced::NotNeeded;
    }
    let timeline = choice.next_timeline;
    if !in_own_place {
        return Announced::Not { timeline };
    }
    // Restored for another user, the server will push by a key that isn't known here.
    let for_another = plan.owner.is_some_and(|(uid, _)| uid != nix::unistd::geteuid().as_raw());
    let key = opened.signer.as_ref().map(|signer| signer.id()).filter(|_| !for_another);
    let begins = ForkPoint { parent: choice.timeline, from: window.from_lsn, to: window.to_lsn.max(window.from_lsn), key };
    let cluster = reached.commit.summary.cluster_id();
    let note = Note::Fork {
        cluster: cluster.name,
        system_identifier: cluster.system_identifier,
        timeline,
        state: ForkState::Announced,
        begins: Some(begins),
        reason: format!("restored in place from snapshot {}", reached.commit.summary.id),
    };
    let appended = || -> Result<u64, HostError> {
        let mut view = opened.view();
        Ok(opened.log().append(&mut view, opened.key()?, &Kind::Note(note))?.number)
    };
    match appended() {
        Ok(number) => Announced::Noted { timeline, number },
        Err(e) => {
            context.reporter.warn(&format!("timeline {timeline}, which it will begin, can't be announced in the repository ({e})"));
            Announced::Not { timeline }
        }
    }
}
