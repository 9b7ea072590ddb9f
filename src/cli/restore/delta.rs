//! A restore in place: what stands there, and WAL in its pg_wal that the archive doesn't have.

use std::path::{Path, PathBuf};

use super::args::Args;
use super::reach::{self, Reached};
use crate::archive::{self, Archive, GetContext, PushContext, PushError};
use crate::cli::context::{Context, Here};
use crate::cli::failure::Failure;
use crate::cli::fronts::CatalogFronts;
use crate::cli::tail::OpenedTail;
use crate::codec;
use crate::host::access::{Need, Opened};
use crate::pg::wal::WalFileName;
use crate::repo::log::ClusterId;
use crate::repo::wal::content_id;
use crate::restore::rescue::{self, Archived, LocalSegment, LocalWal, WalRescue};
use crate::restore::target::SearchError;
use crate::restore::{self, Existing, RestoreError, RestorePlan};
use crate::units::{Class, Explain, Progress, TimelineId, Timestamp};

/// What was found in the target.
pub(super) struct Target {
    /// What stands there.
    pub existing: Existing,
    path: PathBuf,
    local: LocalWal,
    rescue: WalRescue,
    /// The newest timeline that the archive knows.
    newest: Option<TimelineId>,
    /// What became of its WAL.
    pub kept: Kept,
}

/// What became of WAL that the archive lacked.
#[derive(Clone, Default)]
pub(super) struct Kept {
    /// Segments that were pushed.
    pub pushed: Vec<String>,
    /// The folder in which the others lie.
    pub saved: Option<PathBuf>,
}

/// A segment of the target could not be pushed, and nothing was touched.
#[derive(Debug, thiserror::Error)]
#[error("WAL segment {name} of the target is not in the archive, and can't be pushed: nothing was touched")]
struct NotPushed {
    name: String,
    source: PushError,
}

impl Explain for NotPushed {
    fn class(&self) -> Class {
        match self.source.class() {
            Class::Absent => Class::Failed,
            class => class,
        }
    }

    fn cure(&self) -> Option<String> {
        let aside = "with --no-push it is moved to a folder beside the target instead, and what it holds is not in the restored server";
        Some(self.source.cure().map_or(aside.to_owned(), |cure| format!("{cure}; or {aside}")))
    }
}

/// The target of a restore in place; `None` if there is nothing yet. No server may run there.
pub(super) fn stands_there(args: &Args) -> Result<Option<(PathBuf, Existing)>, Failure> {
    if !args.delta {
        return Ok(None);
    }
    let path = restore::resolve(&args.to)?;
    if path.is_dir() {
        restore::check_stopped(&path)?;
    }
    let existing = Existing::look(&path)?;
    if existing.is_some() {
        // Nor while it was looked at.
        restore::check_stopped(&path)?;
    }
    Ok(existing.map(|existing| (path, existing)))
}

impl Target {
    /// Sorts the target's WAL. Nothing is written.
    pub fn look(context: &Context, opened: &Opened, args: &Args, path: PathBuf, existing: Existing) -> Result<Self, Failure> {
        let cluster = reach::cluster_of(context, opened, args)?;
        if existing.system_identifier != cluster.system_identifier {
            let (expected, found) = (cluster.system_identifier, existing.system_identifier);
            return Err(RestoreError::ForeignCluster { folder: path, expected, found }.into());
        }
        let local = existing.wal.clone();
        let (archived, newest) = archived(context, opened, &cluster)?;
        let mut rescue = sort(opened, &cluster, &local, &archived)?;
        if rescue.tail.is_none() {
            rescue.tail = tail_of_before(&existing, &archived);
        }
        if args.no_push {
            rescue.without_push();
        }
        Ok(Target { existing, path, local, rescue, newest, kept: Kept::default() })
    }

    /// The segment in which the server was when it ended, where recovery may use it.
    fn tail(&self) -> Option<&LocalSegment> {
        self.rescue.tail.as_ref()
    }

    /// The target's segments that recovery will have besides those of the archive as it is now.
    pub fn own_segments(&self, pushed: bool) -> Vec<&LocalSegment> {
        let push = if pushed { [].as_slice() } else { self.rescue.push.as_slice() };
        push.iter().chain(self.tail()).collect()
    }

    /// Must something be pushed?
    pub fn has_to_push(&self) -> bool {
        !self.rescue.push.is_empty()
    }

    /// What would be done with its WAL, in lines.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.rescue.notes.clone();
        if self.has_to_push() {
            let names: Vec<String> = self.rescue.push.iter().map(|segment| segment.name.to_string()).collect();
            lines.push(format!("pushed into the archive, which lacks them: {}", names.join(", ")));
        }
        if !self.rescue.save.is_empty() {
            let names: Vec<String> = self.rescue.save.iter().map(|path| shown(path)).collect();
            lines.push(format!("moved to {}: {}", rescue::name_for(&self.path, Timestamp::now()).display(), names.join(", ")));
        }
        if let Some(tail) = self.tail() {
            lines.push(format!("the unfinished last segment {}: WAL up to {}", tail.name, tail.facts.valid_until));
        }
        lines
    }

    /// Pushes what the archive lacks, with the checks of archive-push.
    pub fn push(&mut self, context: &Context, here: &Here, opened: &Opened, cluster: &str) -> Result<(), Failure> {
        if !self.has_to_push() {
            return Ok(());
        }
        context.reporter.phase("pushing WAL that the archive lacks", None);
        let tail = OpenedTail::new(opened, cluster)?;
        let push = PushContext { site: tail.site(), signer: opened.key()?, pgdata: &self.path, level: codec::DENSE, now: Timestamp::now() };
        for segment in &self.rescue.push {
            context.cancel.check().map_err(RestoreError::from)?;
            let pushed = archive::push(&push, &segment.path).map_err(|source| NotPushed { name: segment.name.to_string(), source })?;
            pushed.warnings.iter().for_each(|warning| context.reporter.warn(warning));
            self.kept.pushed.push(segment.name.to_string());
        }
        opened.settle(&here.place(&context.reporter));
        let (first, last) = (self.kept.pushed.first(), self.kept.pushed.last());
        if let (Some(first), Some(last)) = (first, last) {
            let count = self.kept.pushed.len();
            context.reporter.info(&format!("{count} WAL segments of the target that the archive lacked were pushed: {first} to {last}"));
        }
        Ok(())
    }

    /// Copies to a folder beside the target what nobody else has, and tells the plan of it.
    pub fn save(&mut self, context: &Context, plan: &mut RestorePlan, reached: &Reached) -> Result<(), Failure> {
        let before = self.existing.marker.as_ref().and_then(|m| m.wal_saved.clone());
        let mut files = self.rescue.save.clone();
        files.extend(self.tail().map(|tail| tail.path.clone()));
        let saved = rescue::save(&self.path, &files, before.as_deref(), plan.owner, Timestamp::now())?;
        self.rescue.notes.iter().for_each(|note| context.reporter.warn(note));
        if let (Some(folder), false) = (&saved, self.rescue.save.is_empty()) {
            let count = self.rescue.save.len();
            context.reporter.warn(&format!(
                "{count} WAL files of the target that are not in the archive lie in {} now: remove it when nobody misses them",
                folder.display()
            ));
        }
        if let (true, Some(folder)) = (self.local.is_link, &self.local.folder) {
            context.reporter.info(&format!("pg_wal is a link to {}: it becomes a folder, and that one stays as it is", folder.display()));
        }
        if let Some(tail) = self.rescue.tail.as_ref().filter(|tail| reached.reads(tail.name.timeline, self.newest)) {
            let copy = [&saved, &before].into_iter().flatten().map(|folder| folder.join(tail.name.to_string())).find(|copy| copy.is_file());
            if let Some(copy) = copy {
                context.reporter.info(&format!(
                    "the target's last segment {} is not finished: it is put into pg_wal, where recovery finds it behind the archive's last; \
                     a copy lies in {}",
                    tail.name,
                    copy.parent().unwrap_or(&copy).display()
                ));
                plan.tail = Some((tail.name, copy));
            }
        }
        self.kept.saved = saved.or(before);
        plan.wal_saved.clone_from(&self.kept.saved);
        Ok(())
    }
}

fn shown(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What the archive has, and the newest timeline of it.
fn archived(context: &Context, opened: &Opened, cluster: &ClusterId) -> Result<(Archived, Option<TimelineId>), Failure> {
    let tail = OpenedTail::new(opened, &cluster.name)?;
    let archive = Archive::read(&tail.site(), cluster.system_identifier, &CatalogFronts::of(opened), &context.cancel)?;
    let mut archived = Archived::default();
    for entry in archive.segments.values() {
        let record = &entry.facts;
        let name = crate::units::SegmentName::new(record.timeline, record.no, record.size);
        archived.files.insert(WalFileName::Segment(name), entry.content);
    }
    archived.files.extend(archive.histories.iter().map(|(timeline, entry)| (WalFileName::History(*timeline), entry.content)));
    archived.files.extend(archive.partials.iter().map(|(name, entry)| (WalFileName::Partial(*name), entry.content)));
    let newest = archived.files.keys().map(WalFileName::timeline).max();
    Ok((archived, newest))
}

fn sort(opened: &Opened, cluster: &ClusterId, local: &LocalWal, archived: &Archived) -> Result<WalRescue, Failure> {
    let tail = OpenedTail::new(opened, &cluster.name)?;
    let get = GetContext { site: tail.site(), opening: opened.reader()?, system_identifier: cluster.system_identifier };
    let mut fetch = |name| {
        let fetched = archive::fetch(&get, &WalFileName::Segment(name)).map_err(SearchError::new)?;
        Ok(fetched.map(|fetched| fetched.bytes))
    };
    let id = |bytes: &[u8]| content_id(&opened.sealing, bytes);
    Ok(rescue::sort(local, cluster.system_identifier, archived, &id, &mut fetch)?)
}

/// The unfinished segment that an interrupted restore has saved: its pg_wal no longer has it.
fn tail_of_before(existing: &Existing, archived: &Archived) -> Option<LocalSegment> {
    let marker = existing.marker.as_ref()?;
    let (name, folder) = (marker.tail?, marker.wal_saved.as_ref()?);
    if archived.files.contains_key(&WalFileName::Segment(name)) {
        return None;
    }
    LocalSegment::read(&folder.join(name.to_string()), name, existing.system_identifier)
}

/// The repository, opened to write where something must be pushed and this host has no key of its own yet.
pub(super) fn open_to_push(context: &Context, here: Here, opened: Opened, target: Option<&Target>) -> Result<(Here, Opened), Failure> {
    if opened.signer.is_some() || !target.is_some_and(Target::has_to_push) {
        return Ok((here, opened));
    }
    drop(opened);
    let cluster = context.cluster_if_one()?;
    let here = context.here(cluster.as_ref(), Need::Write)?;
    let opened = context.open(&here, Need::Write)?;
    Ok((here, opened))
}
