//! The end of a backup: the upper part of the tree, the wait for WAL, the COMMIT.

use std::collections::HashSet;
use std::sync::Arc;

use super::damage::DamagedPage;
use super::kept::Kept;
use super::price::Choice;
use super::run::{Found, Options, Outcome, Setting};
use super::take::Taken;
use super::{BackupError, wal};
use crate::crypt::ChunkRole;
use crate::host::access::{Adopted, OpenSession, lock_snapshot};
use crate::pg::facts::ClusterFacts;
use crate::repo::PackRef;
use crate::repo::log::{
    ClusterId, Commit, CommitLists, Held, NewPacks, PackSet, Place as LogPlace, Root, SnapshotWal, Summary, WalMode, WalRange,
};
use crate::repo::structure::{ChunkRef, Meta, Needs, put_snapshot};
use crate::repo::wal::WalAddress;
use crate::repo::write::{ChunkWriter, NewChunk};
use crate::units::ids::hex;
use crate::units::{PackId, SessionId, Timestamp};

/// All that the end of a backup needs.
pub(super) struct Ending {
    pub began: Timestamp,
    pub id: String,
    pub cluster: ClusterId,
    pub parent_id: Option<String>,
    pub found: Found,
    pub taken: Taken,
    pub damaged: Vec<DamagedPage>,
    pub damaged_pages: u64,
    pub writer: ChunkWriter,
    pub session: Arc<OpenSession>,
    pub adopted: Adopted,
    pub kept: Option<Kept>,
    pub codec: Choice,
}

/// Stores the upper end of the tree, waits for WAL, commits.
pub(super) fn finish(setting: &Setting<'_>, options: &Options, ending: Ending) -> Result<Outcome, BackupError> {
    let Ending { began, id, cluster, parent_id, found, taken, damaged, damaged_pages, writer, session, adopted, mut kept, codec } = ending;
    let offline = setting.server.is_none();
    let mode = if offline { WalMode::Copy } else { options.wal };
    let facts = cluster_facts(&found, &taken, &damaged, mode, offline);
    let mut needs = taken.copied.needs;
    let extra = serde_json::to_value(&facts).map_err(|_| BackupError::Internal("facts that are no JSON"))?;
    let meta = Meta { folders: taken.scanned.folders.clone(), extra, annexes: taken.annexes };
    let meta = serde_json::to_vec(&meta).map_err(|_| BackupError::Internal("a meta chunk that is no JSON"))?;
    let names = meta;
    let meta = put_content(&writer, &names, &mut needs)?;
    if let Some(kept) = &kept {
        kept.keep_content(meta.id, &names);
    }
    let (root_id, root) = put_snapshot(&writer, meta, taken.copied.folders, &mut needs)?;
    writer.outside().into_iter().for_each(|pack| needs.add(pack, 0));
    setting.progress.phase("storing", None);
    let (own, totals) = writer.finish()?;
    let timeline = taken.timeline;
    let names = wal::needed(timeline, taken.start, taken.stop, found.control.segment_size);
    let waits_for = if mode == WalMode::Archive {
        setting.progress.phase("waiting for WAL", None);
        let pg_wal = found.pgdata.join("pg_wal");
        wal::wait(setting, &session, &cluster, &names, (&pg_wal, options.wal_timeout))?
    } else {
        None
    };
    setting.cancel.check()?;
    let set = pack_set(&needs, session.id(), &own, &adopted)?;
    let new = session.unlisted();
    let new = if new.keys().all(|pack| set.contains(&session.id(), pack)) {
        new
    } else {
        // A pack of which nothing is needed in the end still belongs into this session's list.
        session.list_all()?;
        NewPacks::new()
    };
    let summary = Summary {
        id,
        kind: "physical".into(),
        cluster: cluster.name.clone(),
        system_identifier: cluster.system_identifier,
        started_at: began,
        finished_at: Timestamp::now(),
        wal: Some(SnapshotWal {
            timeline,
            start_lsn: taken.start,
            stop_lsn: taken.stop,
            segment_size: found.control.segment_size,
            ranges: vec![WalRange { timeline, first: taken.start, last: taken.stop }],
            ancestry: taken.ancestry,
            mode,
        }),
        pg_version: facts.pg_version.clone(),
        cluster_bytes: taken.copied.bytes,
        read_bytes: taken.copied.read,
        changed_bytes: totals.plain,
        new_bytes: totals.packs,
        files: taken.copied.files,
        damaged_pages,
        parent: parent_id,
        labels: options.labels.clone(),
    };
    let place = LogPlace { pack: root.place.pack, blob: root.place.blob, position: root.place.position.into() };
    let commit = Commit {
        session: session.id(),
        summary: summary.clone(),
        root: Root { chunk: root_id, place, digest: root.digest },
        lists: Held::Inline(CommitLists { new, set, less: PackSet::default(), ledger: Vec::new() }),
        replaces: None,
    };
    let session = Arc::into_inner(session).ok_or(BackupError::Internal("the session is still in use"))?;
    if let Some(kept) = &mut kept {
        kept.finish(&summary.id, root.digest, setting.progress);
    }
    let head = session.commit(commit)?;
    if let Some(kept) = &kept {
        kept.settle(&summary.id);
    }
    let notes = kept.iter().filter_map(Kept::note).collect();
    let unlocked = lock(setting, &summary, head.number);
    Ok(Outcome {
        summary,
        head,
        waits_for,
        unlocked,
        damaged,
        left_out: taken.scanned.left_out,
        tablespaces: taken.scanned.tablespaces,
        notes,
        codec,
    })
}

/// Locks what the snapshot needs, where that is configured. It is there whatever comes of it: what a person should hear.
fn lock(setting: &Setting<'_>, summary: &Summary, commit: u64) -> Option<String> {
    let opened = setting.opened;
    let cluster = opened.sealing.cluster_key(&summary.cluster);
    let object = |name: String| WalAddress { cluster, system_identifier: summary.system_identifier, name }.object(0).ok();
    let wal = summary.wal.as_ref().map_or_else(Vec::new, |wal| {
        let ranges = wal.ranges.iter().filter(|_| wal.mode == WalMode::Archive);
        let segments = ranges.flat_map(|r| wal::needed(r.timeline, r.first, r.last, wal.segment_size)).map(|name| name.to_string());
        let timelines = wal.ancestry.iter().map(|branch| branch.timeline).chain([wal.timeline]);
        segments.chain(timelines.map(|timeline| timeline.history_name())).filter_map(object).collect()
    });
    match lock_snapshot(opened, commit, wal, setting.progress) {
        Ok(locked) => locked.and_then(|locked| locked.complaint()),
        Err(e) => Some(format!("the snapshot is stored, and what it needs could not be locked: {e}")),
    }
}

fn put_content(writer: &ChunkWriter, plain: &[u8], needs: &mut Needs) -> Result<ChunkRef, BackupError> {
    let id = writer.sealing().chunk_id(ChunkRole::Content, plain);
    writer.is_of_tree(id);
    let frame = crate::codec::encode_whole(plain, crate::codec::DENSE)?;
    let stored = writer.put(ChunkRole::Content, NewChunk { id, plain, frame, reference: None })?;
    stored.add_to(needs);
    Ok(ChunkRef { id: id.short(), place: stored.place, len: plain.len() as u32 })
}

/// Every pack that the snapshot relies on.
fn pack_set(needs: &Needs, session: SessionId, own: &[PackRef], adopted: &Adopted) -> Result<PackSet, BackupError> {
    let own: HashSet<PackId> = own.iter().map(|p| p.id).collect();
    needs
        .0
        .keys()
        .map(|pack| match adopted.packs.get(pack) {
            _ if own.contains(pack) => Ok((session, *pack)),
            Some(theirs) => Ok((theirs.session, *pack)),
            None => Err(BackupError::Internal("the snapshot needs a pack that may not be named")),
        })
        .collect()
}

fn cluster_facts(found: &Found, taken: &Taken, damaged: &[DamagedPage], mode: WalMode, offline: bool) -> ClusterFacts {
    let control = &taken.control;
    let end = control.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    let timeline = taken.timeline;
    let minimums = [
        ("max_connections", found.control.max_connections),
        ("max_worker_processes", found.control.max_worker_processes),
        ("max_wal_senders", found.control.max_wal_senders),
        ("max_prepared_transactions", found.control.max_prepared_transactions),
        ("max_locks_per_transaction", found.control.max_locks_per_transaction),
    ];
    let theirs = taken.configuration.settings.clone();
    ClusterFacts {
        pg_version: found.version.clone(),
        major: found.major,
        system_identifier: found.control.system_identifier,
        catalog_version: found.control.catalog_version,
        segment_size: found.control.segment_size,
        block_size: found.control.blcksz,
        control_file: hex(control.get(..end).unwrap_or_default()),
        backup_label: taken.label.clone(),
        tablespace_map: taken.tablespace_map.clone(),
        tablespaces: taken.scanned.tablespaces.clone(),
        start_lsn: taken.start,
        stop_lsn: taken.stop,
        start_timeline: timeline,
        stop_timeline: timeline,
        started_at: taken.started_at,
        stopped_at: taken.stopped_at,
        offline,
        from_standby: false,
        wal_copied: mode == WalMode::Copy,
        data_directory: found.pgdata.display().to_string(),
        architecture: std::env::consts::ARCH.into(),
        left_out: taken.scanned.left_out.clone(),
        damaged: damaged.to_vec(),
        settings: minimums.into_iter().map(|(name, value)| (name.to_owned(), value.to_string())).chain(theirs).collect(),
        configuration: taken.configuration.facts.clone(),
    }
}
