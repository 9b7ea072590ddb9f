//! The choice of snapshot, timeline and settings.

use super::line::{Damage, Index, Line};
use super::search::{Find, Search};
use super::{Archive, Candidate, OtherLine, RecoveryChoice, Target, TargetError, TargetSettings, Wanted, Window};
use crate::pg::recovery::{RecoveryTarget, TargetAction, TargetTimeline};
use crate::pg::timeline::TimelineTree;
use crate::pg::wal::{Found, TransactionEnds};
use crate::units::{Lsn, SegmentName, TimelineId};

/// Chooses among the snapshots that may be taken: all of a cluster, or the one that the user names. `find` reads WAL where
/// a transaction id or a restore point must be looked up.
///
/// # Errors
/// Why the target can't be reached.
pub fn choose(archive: &Archive, candidates: &[Candidate], wanted: &Wanted, find: &mut Find<'_>) -> Result<RecoveryChoice, TargetError> {
    if !wanted.inclusive && matches!(wanted.target, Target::Name(_) | Target::Immediate | Target::End) {
        return Err(TargetError::Exclusive(wanted.target.to_string()));
    }
    let mut newest_first: Vec<&Candidate> = candidates.iter().collect();
    newest_first.sort_by_key(|c| std::cmp::Reverse(c.number));
    let mut choice = Choice { index: Index::new(archive), wanted, search: Search::new(find), passed: Passed::default() };
    for candidate in newest_first {
        if let Some(chosen) = choice.consider(candidate)? {
            return Ok(chosen);
        }
    }
    Err(choice.passed.error(wanted))
}

/// Why snapshots were passed over: the first reason of each kind, that of the newest.
#[derive(Default)]
struct Passed {
    waits: Option<TargetError>,
    unknown: Option<TargetError>,
    no_descendant: Option<TargetError>,
    /// The oldest of those that were consistent too late.
    too_late: Option<Candidate>,
    notes: Vec<String>,
}

impl Passed {
    fn error(self, wanted: &Wanted) -> TargetError {
        let too_late = self.too_late.map(|c| TargetError::BeforeFirst {
            target: wanted.target.to_string(),
            snapshot: c.id,
            lsn: c.stop_lsn,
            time: c.stopped_at,
        });
        self.waits.or(self.unknown).or(too_late).or(self.no_descendant).unwrap_or(TargetError::NoSnapshot)
    }
}

struct Choice<'a, 'f> {
    index: Index<'a>,
    wanted: &'a Wanted,
    search: Search<'a, 'f>,
    passed: Passed,
}

/// What was settled for a snapshot: where to stop, in the server's terms and in words.
struct Stop {
    target: RecoveryTarget,
    /// Where that is, if the target doesn't say it.
    at: Option<Lsn>,
    words: String,
    /// Told to the user besides.
    warnings: Vec<String>,
}

impl Stop {
    fn new(target: RecoveryTarget, words: String) -> Self {
        Stop { target, at: None, words, warnings: Vec::new() }
    }
}

impl Choice<'_, '_> {
    /// `None`: this snapshot doesn't serve, an older one may.
    fn consider(&mut self, candidate: &Candidate) -> Result<Option<RecoveryChoice>, TargetError> {
        let too_late = match self.wanted.target {
            Target::Time(time) if self.wanted.inclusive => candidate.stopped_at > time,
            Target::Time(time) => candidate.stopped_at >= time,
            Target::Lsn(lsn) => candidate.stop_lsn > lsn,
            Target::End | Target::Immediate | Target::Xid(_) | Target::Name(_) => false,
        };
        if too_late {
            self.passed.too_late = Some(candidate.clone());
            return Ok(None);
        }
        let Some(timeline) = self.timeline(candidate)? else { return Ok(None) };
        let line = self.index.line(candidate, timeline);
        if !line.reaches(candidate.stop_lsn) {
            return self.not_archived(candidate, timeline, &line);
        }
        if let Target::Time(time) = self.wanted.target
            && line.ends_before(candidate.stop_lsn).any(|t| if self.wanted.inclusive { t.max_time > time } else { t.max_time >= time })
        {
            // The server would stop at that transaction, before it is consistent: an older snapshot can.
            self.passed.too_late = Some(candidate.clone());
            return Ok(None);
        }
        let stop = match &self.wanted.target {
            Target::End => Some(self.end(candidate, &line, timeline)?),
            Target::Immediate => Some(immediate(candidate, &line)?),
            Target::Lsn(lsn) => Some(self.lsn(*lsn, &line, candidate, timeline)?),
            Target::Time(_) => Some(self.time(&line, candidate, timeline)?),
            Target::Xid(_) | Target::Name(_) => self.found(&line, candidate, timeline)?,
        };
        Ok(stop.map(|stop| self.chosen(candidate, timeline, &line, stop)))
    }

    /// The timeline to follow from a snapshot, if it leads on from it.
    fn timeline(&mut self, candidate: &Candidate) -> Result<Option<TimelineId>, TargetError> {
        let tree = &self.index.archive.timelines;
        let (own, stop) = (candidate.stop_timeline, candidate.stop_lsn);
        if let Some((of, why)) = self.unusable_history(own) {
            let choices = self.descendants(candidate).into_iter().filter(|t| *t != of).collect();
            return Err(TargetError::History { timeline: of, why: why.clone(), choices });
        }
        let timeline = match self.wanted.timeline {
            TargetTimeline::Current => own,
            TargetTimeline::Latest => TimelineTree::latest_from(own, |t| tree.history(t).is_some()),
            TargetTimeline::Number(number) => {
                let known = known_timelines(self.index.archive, candidate);
                if !known.contains(&number) {
                    return Err(TargetError::UnknownTimeline { timeline: number, known });
                }
                number
            }
        };
        if tree.is_ancestor_at(own, stop, timeline) {
            return Ok(Some(timeline));
        }
        let choices = self.descendants(candidate);
        let error = TargetError::NoDescendant { timeline, snapshot: candidate.id.clone(), own, stop, choices };
        match self.wanted.timeline {
            // Nobody said which of two lines is meant, and an older snapshot would settle it silently.
            TargetTimeline::Latest | TargetTimeline::Current => Err(error),
            TargetTimeline::Number(_) => {
                self.passed.no_descendant.get_or_insert(error);
                Ok(None)
            }
        }
    }

    /// The history without which it can't be told where the wanted timeline leads, if it can't be used: of `latest` any
    /// above the snapshot's own timeline, of a number its own.
    fn unusable_history(&self, own: TimelineId) -> Option<(TimelineId, &String)> {
        let unusable = self.index.archive.unusable_histories.iter().map(|(timeline, why)| (*timeline, why));
        unusable.filter(|(timeline, _)| *timeline > own).find(|(timeline, _)| match self.wanted.timeline {
            TargetTimeline::Latest => true,
            TargetTimeline::Number(number) => number == *timeline,
            TargetTimeline::Current => false,
        })
    }

    /// The timelines that lead on from a snapshot.
    fn descendants(&self, candidate: &Candidate) -> Vec<TimelineId> {
        let archive = self.index.archive;
        let leads_on = |t: &TimelineId| archive.timelines.is_ancestor_at(candidate.stop_timeline, candidate.stop_lsn, *t);
        known_timelines(archive, candidate).into_iter().filter(leads_on).collect()
    }

    /// The archive doesn't hold the snapshot's own WAL.
    fn not_archived(
        &mut self,
        candidate: &Candidate,
        timeline: TimelineId,
        line: &Line<'_>,
    ) -> Result<Option<RecoveryChoice>, TargetError> {
        let as_itself = candidate.wal_inside && matches!(self.wanted.target, Target::End | Target::Immediate);
        let size = self.index.archive.segment_size;
        let behind = size.segment_before(candidate.stop_lsn);
        let later = line.later.filter(|later| later.no(line.size).is_some_and(|no| no > behind));
        if as_itself {
            // WAL behind the stop that can't be read is not passed over in silence.
            if let Some(damage) =
                line.damaged.as_ref().filter(|d| self.wanted.target == Target::End && size.end_of(d.no) > candidate.stop_lsn)
            {
                return Err(self.damaged(damage, true));
            }
            if let Some(later) = later.filter(|_| self.wanted.target == Target::End) {
                return Err(TargetError::Gap {
                    target: self.wanted.target.to_string(),
                    missing: line.missing,
                    later,
                    reach: candidate.stop_lsn,
                    reach_time: Some(candidate.stopped_at),
                    as_itself: true,
                });
            }
            return Ok(Some(self.as_itself(candidate, timeline)));
        }
        let snapshot = candidate.id.clone();
        let (error, why) = match &line.damaged {
            Some(damage) => (self.damaged(damage, false), format!("WAL segment {}, which it needs, is damaged", damage.segment)),
            None => {
                let waits = TargetError::WaitsForWal { snapshot, segment: line.missing, later };
                (waits, format!("it waits for WAL segment {}", line.missing))
            }
        };
        self.passed.waits.get_or_insert(error);
        self.passed.notes.push(format!("snapshot {} was passed over: {why}", candidate.id));
        Ok(None)
    }

    fn as_itself(&self, candidate: &Candidate, timeline: TimelineId) -> RecoveryChoice {
        let mut warnings = self.passed.notes.clone();
        if self.wanted.target == Target::Immediate && self.wanted.action != TargetAction::Promote {
            warnings.push("without recovery settings the server doesn't pause: it comes up read-write at once".into());
        }
        RecoveryChoice {
            snapshot: candidate.id.clone(),
            timeline,
            settings: None,
            explanation: vec![
                format!("snapshot {}, consistent at {} ({})", candidate.id, candidate.stop_lsn, candidate.stopped_at.for_people()),
                "as it is, with the WAL that it holds; the archive is not used".into(),
            ],
            warnings,
            window: None,
            others: self.others(candidate, timeline),
            next_timeline: self.next_timeline(timeline),
            read_ahead: None,
        }
    }

    /// What the server counts to when its recovery along a timeline ends (`findNewestTimeLine`).
    fn next_timeline(&self, timeline: TimelineId) -> TimelineId {
        let tree = &self.index.archive.timelines;
        TimelineId(TimelineTree::latest_from(timeline, |t| tree.history(t).is_some()).0.saturating_add(1))
    }

    fn gap_or(&self, line: &Line<'_>, candidate: &Candidate, otherwise: impl FnOnce() -> TargetError) -> TargetError {
        if let Some(damage) = &line.damaged {
            return self.damaged(damage, false);
        }
        match line.later {
            Some(later) => TargetError::Gap {
                target: self.wanted.target.to_string(),
                missing: line.missing,
                later,
                reach: line.end,
                reach_time: line.last_time(candidate.stop_lsn),
                as_itself: false,
            },
            None => otherwise(),
        }
    }

    fn damaged(&self, damage: &Damage, as_itself: bool) -> TargetError {
        TargetError::Damaged {
            target: self.wanted.target.to_string(),
            segment: damage.segment,
            at: damage.at,
            why: damage.why.clone(),
            as_pushed: damage.as_pushed,
            as_itself,
        }
    }

    fn after_last(&self, candidate: &Candidate, line: &Line<'_>, timeline: TimelineId) -> TargetError {
        let last = match (line.last_time(candidate.stop_lsn), line.last_record()) {
            (Some(time), Some(lsn)) => format!("its last transaction ended at {time}, its last record starts at {lsn}"),
            (None, Some(lsn)) => format!("no transaction ended behind snapshot {}, its last record starts at {lsn}", candidate.id),
            (_, None) => "it holds no complete record".into(),
        };
        TargetError::AfterLast { target: self.wanted.target.to_string(), timeline, last }
    }

    fn end(&self, candidate: &Candidate, line: &Line<'_>, timeline: TimelineId) -> Result<Stop, TargetError> {
        let no_record = || TargetError::NoRecord { snapshot: candidate.id.clone() };
        if line.damaged.is_some() || line.later.is_some() {
            return Err(self.gap_or(line, candidate, no_record));
        }
        let last = line.last_record().ok_or_else(no_record)?;
        let time = match line.last_time(candidate.stop_lsn) {
            Some(time) => format!("; the last transaction there ended at {time}"),
            None => String::new(),
        };
        Ok(Stop::new(
            RecoveryTarget::Lsn(last),
            format!("to the last complete record of the archive on timeline {timeline}, which starts at {last}{time}"),
        ))
    }

    fn lsn(&self, lsn: Lsn, line: &Line<'_>, candidate: &Candidate, timeline: TimelineId) -> Result<Stop, TargetError> {
        if line.last_record().is_none_or(|last| last < lsn) {
            return Err(self.gap_or(line, candidate, || self.after_last(candidate, line, timeline)));
        }
        let words = if self.wanted.inclusive { "with" } else { "without" };
        Ok(Stop::new(RecoveryTarget::Lsn(lsn), format!("to {lsn}, {words} the first record that starts there or behind it")))
    }

    fn time(&self, line: &Line<'_>, candidate: &Candidate, timeline: TimelineId) -> Result<Stop, TargetError> {
        let Target::Time(time) = self.wanted.target else { return Err(TargetError::NoSnapshot) };
        let reached = line.last_time(candidate.stop_lsn).is_some_and(|last| if self.wanted.inclusive { last > time } else { last >= time });
        if !reached {
            return Err(self.gap_or(line, candidate, || self.after_last(candidate, line, timeline)));
        }
        let words = if self.wanted.inclusive { "until" } else { "before" };
        Ok(Stop::new(RecoveryTarget::Time(time), format!("to {time}: all that was committed {words} then, by the server's clock")))
    }

    /// A transaction or restore point: `None` if it isn't behind this snapshot.
    fn found(&mut self, line: &Line<'_>, candidate: &Candidate, timeline: TimelineId) -> Result<Option<Stop>, TargetError> {
        let target = &self.wanted.target;
        if let Some(error) = wrong_epoch(target, candidate) {
            self.passed.unknown.get_or_insert(error);
            return Ok(None);
        }
        let Some(found) = self.search.first(line, candidate.stop_lsn, target)? else {
            // Before this snapshot it may be, and an older one can reach it. If none can: the newest saw all there is.
            let error = self.gap_or(line, candidate, || TargetError::Unknown {
                target: target.to_string(),
                from: candidate.stop_lsn,
                to: line.end,
                timeline,
            });
            let oldest = match (self.passed.unknown.take(), error) {
                (Some(TargetError::Unknown { to, timeline, target, .. }), TargetError::Unknown { from, .. }) => {
                    TargetError::Unknown { target, from, to, timeline }
                }
                (Some(before), _) => before,
                (None, error) => error,
            };
            self.passed.unknown = Some(oldest);
            return Ok(None);
        };
        let met_before = self.search.first(line, candidate.start_lsn, target)?.is_some_and(|first| first.start < candidate.stop_lsn);
        Ok(Some(Stop { at: Some(found.start), ..self.found_stop(found, met_before) }))
    }

    fn found_stop(&self, found: Found, met_before: bool) -> Stop {
        let Found { start, time, committed, .. } = found;
        let by_lsn = RecoveryTarget::Lsn(start);
        match &self.wanted.target {
            Target::Xid(xid) => {
                let ended = if committed { "committed" } else { "rolled back" };
                let words = if self.wanted.inclusive { "with" } else { "without" };
                let target = if met_before { by_lsn } else { RecoveryTarget::Xid(*xid) };
                Stop::new(target, format!("to transaction {xid}, {ended} at {time} ({start}), {words} it"))
            }
            target => {
                let Target::Name(name) = target else { return Stop::new(by_lsn, format!("to {start}")) };
                let made = self.index.archive.segments.iter().flat_map(|s| &s.restore_points).filter(|p| p.name == *name).count();
                // The server stops at the first of that name that it meets.
                let server = if met_before { by_lsn } else { RecoveryTarget::Name(name.clone()) };
                let mut stop = Stop::new(server, format!("to restore point {name:?}, made at {time} ({start})"));
                if made > 1 {
                    stop.warnings.push(format!("restore point {name:?} was made {made} times; the one of {time} is taken"));
                }
                stop
            }
        }
    }

    /// What else is there, and what the server will stumble over.
    fn about_timelines(&self, candidate: &Candidate, timeline: TimelineId, others: &[OtherLine]) -> Vec<String> {
        let archive = self.index.archive;
        let mut warnings = Vec::new();
        let newer: Vec<String> = others.iter().filter(|o| o.timeline > timeline).map(ToString::to_string).collect();
        if !newer.is_empty() {
            warnings.push(format!("the archive has WAL of {}, which this restore doesn't follow (--target-timeline)", newer.join(" and ")));
        }
        for (of, why) in archive.unusable_histories.iter().filter(|(of, _)| **of >= candidate.start_timeline) {
            let name = of.history_name();
            warnings.push(format!("{name} can't be used ({why}): the server stops when it asks for it; bring it back and push it"));
        }
        warnings
    }

    /// The ends of the archive's lines, but for the one that is followed: timelines that no other one left, or that went on
    /// behind the last point at which one did.
    fn others(&self, candidate: &Candidate, timeline: TimelineId) -> Vec<OtherLine> {
        let archive = self.index.archive;
        let (tree, size) = (&archive.timelines, archive.segment_size);
        let known = known_timelines(archive, candidate);
        let last_left = |t: TimelineId| {
            let others = known.iter().filter(|other| **other != t);
            others.flat_map(|other| tree.ancestry(*other)).filter(|b| b.timeline == t).filter_map(|b| b.end).max()
        };
        // One whole segment may come late from a server that was replaced.
        let goes_on = |t: TimelineId, from: Lsn| {
            let last = archive.segments.iter().filter(|s| s.timeline == t).map(|s| s.no.0).max();
            last.is_some_and(|last| last > size.segment_before(from).0.saturating_add(1))
        };
        let is_end = |t: TimelineId| last_left(t).is_none_or(|from| goes_on(t, from));
        let ends = known.iter().copied().filter(|t| *t != timeline && is_end(*t));
        let left = |t| tree.history(t).and_then(|h| h.parent()).map(|p| (p.parent, p.switch));
        ends.map(|t| OtherLine { timeline: t, left: left(t) }).collect()
    }

    /// Behind the segment in which the server stops, the one that it may read ahead (recovery_prefetch: half a megabyte).
    fn read_ahead(&self, candidate: &Candidate, line: &Line<'_>, stop: &Stop) -> Option<SegmentName> {
        let at = match (stop.target.clone(), stop.at) {
            (_, Some(at)) | (RecoveryTarget::Lsn(at), None) => line.from(at),
            (RecoveryTarget::Immediate, None) => line.from(candidate.stop_lsn),
            (RecoveryTarget::Time(time), None) => {
                let later = |t: TransactionEnds| t.last_lsn >= candidate.stop_lsn && t.max_time >= time;
                line.segments.iter().position(|s| s.transactions.is_some_and(later))?
            }
            _ => return None,
        };
        line.segments.get(at + 1).map(|s| s.name(line.size))
    }

    fn chosen(&self, candidate: &Candidate, timeline: TimelineId, line: &Line<'_>, stop: Stop) -> RecoveryChoice {
        let own = candidate.start_timeline == timeline && candidate.stop_timeline == timeline;
        let action = if self.wanted.target == Target::End { TargetAction::Promote } else { self.wanted.action };
        let latest = if self.wanted.timeline == TargetTimeline::Latest { ": the latest" } else { "" };
        let along = match own {
            true => format!("along timeline {timeline}, the snapshot's own{latest}"),
            false => format!("along timeline {timeline}, from the snapshot's {}{latest}", candidate.stop_timeline),
        };
        let others = self.others(candidate, timeline);
        let read_ahead = self.read_ahead(candidate, line, &stop);
        let mut warnings = self.passed.notes.clone();
        warnings.extend(stop.warnings);
        warnings.extend(self.about_timelines(candidate, timeline, &others));
        let mut explanation =
            vec![format!("snapshot {}, consistent at {} ({})", candidate.id, candidate.stop_lsn, candidate.stopped_at.for_people()), along];
        if !others.is_empty() {
            let all: Vec<String> = others.iter().map(ToString::to_string).collect();
            explanation.push(format!("other lines in the archive, not followed: {}", all.join(", ")));
        }
        explanation.push(stop.words);
        RecoveryChoice {
            snapshot: candidate.id.clone(),
            timeline,
            settings: Some(TargetSettings {
                target: stop.target,
                inclusive: self.wanted.inclusive,
                // Without a history file the server takes a number for a mistake, unless it is 1.
                timeline: if own { TargetTimeline::Current } else { TargetTimeline::Number(timeline) },
                action,
                gap_behind: line.ends_badly(),
            }),
            explanation,
            warnings,
            others,
            next_timeline: self.next_timeline(timeline),
            read_ahead,
            window: Some(Window {
                timeline,
                from_lsn: candidate.stop_lsn,
                to_lsn: line.end,
                from_time: candidate.stopped_at,
                to_time: line.last_time(candidate.stop_lsn),
            }),
        }
    }
}

/// As soon as it is consistent. The server notices that when it meets the *next* record (or a transaction's end): where
/// nothing follows the stop it would replay all and fail, and the last record is named instead.
fn immediate(candidate: &Candidate, line: &Line<'_>) -> Result<Stop, TargetError> {
    let last = line.last_record().ok_or_else(|| TargetError::NoRecord { snapshot: candidate.id.clone() })?;
    let target = if last >= candidate.stop_lsn { RecoveryTarget::Immediate } else { RecoveryTarget::Lsn(last) };
    Ok(Stop::new(target, format!("to the end of the backup, {}", candidate.stop_lsn)))
}

/// Is an epoch given that no transaction behind this snapshot with those low 32 bits can have? The server compares these
/// alone (`recovery_target_xid`).
fn wrong_epoch(target: &Target, candidate: &Candidate) -> Option<TargetError> {
    let Target::Xid(xid) = *target else { return None };
    let low = xid as u32;
    // Ids within 2³¹ of the next one are told apart.
    let likely = candidate.next_xid.map(|next| next.wrapping_add_signed(i64::from(low.wrapping_sub(next as u32) as i32)));
    let given = xid > u64::from(u32::MAX);
    (given && likely != Some(xid)).then(|| TargetError::Epoch { xid, low, likely, snapshot: candidate.id.clone() })
}

/// The snapshot's timeline and those that the archive knows, in order.
fn known_timelines(archive: &Archive, candidate: &Candidate) -> Vec<TimelineId> {
    let mut known: Vec<TimelineId> = archive.timelines.timelines().collect();
    known.extend(archive.segments.iter().map(|s| s.timeline).chain(archive.unusable.keys().map(|name| name.timeline)));
    known.extend(archive.unusable_histories.keys());
    known.push(candidate.stop_timeline);
    known.sort_unstable();
    known.dedup();
    known
}
