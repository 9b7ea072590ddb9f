//! When is a file that isn't there *absent*? If the archive holds nothing that shows that it was written. The server would
//! take an absence in the middle for the end of WAL, and promote; and a lost history for a timeline that never was.
//!
//! ```text
//! a segment:
//! before the timeline's own first segment (its history says so)      absent: it was never written
//! it, or a segment behind it, was expired                            an error
//! a later segment of the timeline counts, or can't be judged         an error
//! a timeline that left this one behind the segment is in the archive an error
//! else                                                               absent
//! a history file:
//! its timeline's first segment came from another timeline            an error
//! a descendant's history names its ancestors                         an error
//! its timeline's first segments can't be judged                      an error
//! else                                                               absent
//! ```
//! What the archive holds is what either of two listings shows, where the way to the store is long: a name may have come damaged.
//! Acknowledged gaps are gaps. WAL that lies in snapshots is no part of the archive and shows nothing.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::BTreeMap;

use super::facts::{FileFacts, HistoryFacts};
use super::failure::{GetError, SiteError};
use super::names::{ArchivedName, parse_listed};
use super::site::{GetContext, Rights};
use super::standing::Standing;
use crate::pg::wal::WalFileName;
use crate::store::ObjectName;
use crate::units::{SegmentName, SegmentSize, TimelineId};

/// What came of looking for proof.
pub(super) enum Proof {
    /// The file is absent.
    Absent,
    /// It is there by now.
    Appeared,
}

/// The objects of one name by variant, with their sizes.
type Objects = BTreeMap<u32, (ObjectName, u64)>;

/// Names and objects of the archive that bear on a segment, or on the history of a timeline.
#[derive(Default)]
struct Listing {
    /// Segments of the timeline.
    segments: BTreeMap<SegmentName, Objects>,
    /// All history files.
    histories: BTreeMap<WalFileName, Objects>,
    /// A segment of another timeline, to learn the size of segments from.
    elsewhere: Option<(SegmentName, Objects)>,
}

/// Proves that `file`, which its folder didn't list, is absent.
///
/// # Errors
/// [`GetError::Gap`] if it is missing instead.
pub(super) fn prove(ctx: &GetContext<'_>, rights: &mut Rights, file: &WalFileName) -> Result<Proof, GetError> {
    let name = match *file {
        WalFileName::Segment(name) => name,
        WalFileName::History(timeline) => return prove_history(ctx, rights, timeline),
        WalFileName::Partial(_) | WalFileName::Backup { .. } => return Ok(Proof::Absent),
    };
    let listing = list(ctx, name.timeline)?;
    if let Some(objects) = listing.segments.get(&name)
        && first_valid(ctx, rights, file, objects)?.is_some()
    {
        return Ok(Proof::Appeared);
    }
    let mut histories = Vec::new();
    for (file, objects) in &listing.histories {
        if let Some(facts) = first_valid(ctx, rights, file, objects)? {
            let history = facts.history().cloned();
            histories.push(history.ok_or_else(|| undecided(&name, format!("{file} has the facts of another kind of file")))?);
        }
    }
    let size = size_of_segments(ctx, rights, &listing)?;
    if began_behind(&name, size, &histories) {
        return Ok(Proof::Absent);
    }
    if rights.is_expired(ctx.system_identifier, name) {
        return Err(GetError::Expired { name: *file });
    }
    let mut behind = None;
    for (later, objects) in listing.segments.range(name..).filter(|(later, _)| **later != name) {
        if first_valid(ctx, rights, &WalFileName::Segment(*later), objects)?.is_some() {
            behind = Some(later.to_string());
            break;
        }
    }
    let child = || histories.iter().find(|h| leaves_behind(&name, size, h)).map(|h| format!("timeline {}", h.timeline));
    match behind.or_else(child) {
        None => Ok(Proof::Absent),
        // A server pushes in order: what lay before it in the listing may have come meanwhile.
        Some(_) if is_there(ctx, rights, file)? => Ok(Proof::Appeared),
        Some(later) => Err(GetError::Gap { name: *file, later }),
    }
}

/// Proves that there never was a history file of a timeline. The first of a cluster has none.
fn prove_history(ctx: &GetContext<'_>, rights: &mut Rights, timeline: TimelineId) -> Result<Proof, GetError> {
    let file = WalFileName::History(timeline);
    let listing = list(ctx, timeline)?;
    if let Some(objects) = listing.histories.get(&file)
        && first_valid(ctx, rights, &file, objects)?.is_some()
    {
        return Ok(Proof::Appeared);
    }
    let shown_by = match copied_from_parent(ctx, rights, &listing)? {
        None => named_by(ctx, rights, &listing, timeline)?,
        segment => segment,
    };
    match shown_by {
        None => Ok(Proof::Absent),
        Some(_) if is_there(ctx, rights, &file)? => Ok(Proof::Appeared),
        Some(later) => Err(GetError::Gap { name: file, later }),
    }
}

/// The first segment of the listed timeline, if it began as a copy of another timeline's.
fn copied_from_parent(ctx: &GetContext<'_>, rights: &mut Rights, listing: &Listing) -> Result<Option<String>, GetError> {
    for (segment, objects) in &listing.segments {
        if let Some(facts) = first_valid(ctx, rights, &WalFileName::Segment(*segment), objects)? {
            return Ok(facts.segment().filter(|record| record.is_of_child()).map(|_| segment.to_string()));
        }
    }
    Ok(None)
}

/// The history of a descendant that was made from the timeline's own.
fn named_by(ctx: &GetContext<'_>, rights: &mut Rights, listing: &Listing, timeline: TimelineId) -> Result<Option<String>, GetError> {
    for (other, objects) in &listing.histories {
        match first_valid(ctx, rights, other, objects) {
            Ok(Some(facts)) if facts.history().is_some_and(|h| h.shows_histories_of().any(|t| t == timeline)) => {
                return Ok(Some(other.to_string()));
            }
            // A damaged one shows nothing, and may be of another line.
            Ok(_) | Err(GetError::Unusable { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// Is there by now an object of the file that counts?
fn is_there(ctx: &GetContext<'_>, rights: &mut Rights, file: &WalFileName) -> Result<bool, GetError> {
    let mut objects = Objects::new();
    let folder = ctx.site.address(ctx.system_identifier, file).folder()?;
    ctx.site.list(&folder, &mut |listed| {
        if let Some(archived) = parse_listed(&listed.name).filter(|archived| archived.file == *file) {
            objects.insert(archived.variant, (listed.name, listed.size));
        }
        Ok(())
    })?;
    Ok(first_valid(ctx, rights, file, &objects)?.is_some())
}

fn undecided(name: &SegmentName, why: String) -> GetError {
    GetError::Undecided { name: WalFileName::Segment(*name), why }
}

fn list(ctx: &GetContext<'_>, timeline: TimelineId) -> Result<Listing, GetError> {
    let mut listing = Listing::default();
    ctx.site.list_twice(&ctx.site.root(ctx.system_identifier)?, &mut |listed| {
        match parse_listed(&listed.name) {
            Some(ArchivedName { file: WalFileName::Segment(segment), variant }) if segment.timeline == timeline => {
                listing.segments.entry(segment).or_default().insert(variant, (listed.name, listed.size));
            }
            Some(ArchivedName { file: WalFileName::Segment(segment), variant }) => {
                let object = (variant, (listed.name, listed.size));
                match &mut listing.elsewhere {
                    Some((known, objects)) if *known == segment => drop(objects.insert(object.0, object.1)),
                    Some((known, _)) if *known > segment => {}
                    newest => *newest = Some((segment, Objects::from([object]))),
                }
            }
            Some(ArchivedName { file: file @ WalFileName::History(_), variant }) => {
                listing.histories.entry(file).or_default().insert(variant, (listed.name, listed.size));
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(listing)
}

/// The facts of the first object of a name that counts; `None` if all are void. One that can't be judged is an error: it
/// may be the rotten form of one that counts.
fn first_valid(ctx: &GetContext<'_>, rights: &mut Rights, file: &WalFileName, objects: &Objects) -> Result<Option<FileFacts>, GetError> {
    let address = ctx.site.address(ctx.system_identifier, file);
    let mut unproven = None;
    for (object, size) in objects.values() {
        let front = match ctx.site.read_front(object, *size) {
            // Expired meanwhile, or a name that came damaged.
            Err(SiteError::Store(e)) if e.is_absent() => continue,
            other => other?,
        };
        match ctx.site.settle(rights, &address, file, object, &front)? {
            Standing::Valid(front) => {
                let facts = FileFacts::read(&front.meta.facts, ctx.system_identifier, file, front.meta.len);
                return facts.map(Some).map_err(|why| GetError::Unusable { object: object.to_string(), why: why.into() });
            }
            Standing::NotEntitled => {}
            Standing::Unproven { why, .. } => {
                unproven.get_or_insert(GetError::Unusable { object: object.to_string(), why });
            }
        }
    }
    unproven.map_or(Ok(None), Err)
}

/// The size of the cluster's segments, from the newest one of the timeline that counts, else from another timeline's.
fn size_of_segments(ctx: &GetContext<'_>, rights: &mut Rights, listing: &Listing) -> Result<Option<SegmentSize>, GetError> {
    let elsewhere = listing.elsewhere.iter().map(|(name, objects)| (name, objects));
    for (name, objects) in listing.segments.iter().rev().chain(elsewhere) {
        match first_valid(ctx, rights, &WalFileName::Segment(*name), objects) {
            Ok(Some(facts)) => return Ok(facts.segment().map(|record| record.size)),
            // A damaged one before the segment in question is no obstacle to what lies behind it.
            Ok(None) | Err(GetError::Unusable { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// Did the segment's timeline begin behind it?
fn began_behind(name: &SegmentName, size: Option<SegmentSize>, histories: &[HistoryFacts]) -> bool {
    let own = histories.iter().find(|h| h.timeline == name.timeline).and_then(|h| h.lines.last());
    let Some((line, size)) = own.zip(size) else { return false };
    name.no(size).is_some_and(|no| no < size.segment_of(line.switch))
}

/// Was the segment's timeline left in a segment behind it, by this descendant? Then all of the segment was written.
fn leaves_behind(name: &SegmentName, size: Option<SegmentSize>, history: &HistoryFacts) -> bool {
    let line = history.lines.iter().find(|line| line.parent == name.timeline);
    let Some((line, size)) = line.zip(size) else { return false };
    name.no(size).is_some_and(|no| no < size.segment_of(line.switch))
}
