//! A backup from its first look to its COMMIT.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::copy::{Copied, Copy};
use super::damage::{Damage, DamagedPage};
use super::parent::Parent;
use super::scan::{Scan, Scanned};
use super::source::FileSource;
use super::{BackupError, checks, wal};
use crate::crypt::{ChunkRole, secret};
use crate::host::access::{Adopted, KnownChunks, OpenSession, Opened};
use crate::host::cache::Cache;
use crate::host::paths::StateDir;
use crate::pg::backup_api::{BackupSession, BackupStop, temporary_slot};
use crate::pg::backup_label::BackupLabel;
use crate::pg::connection::{ConnectOptions, Connection, Facts};
use crate::pg::conninfo::Conninfo;
use crate::pg::control_file::{ControlFile, DataChecksums};
use crate::pg::facts::{ClusterFacts, TablespaceFact};
use crate::pg::layout::DataDirectory;
use crate::repo::log::{
    Begin, Branch, ClusterId, Commit, CommitLists, DamagedBlobs, Head, Held, LiveCommit, NewPacks, PackSet, Place as LogPlace, Root,
    SnapshotWal, Summary, WalMode, WalPosition, WalRange,
};
use crate::repo::pack::{Packs, Place, pack_name};
use crate::repo::structure::{ChunkRef, Instance, Meta, Needs, Snapshot, put_snapshot};
use crate::repo::write::{ChunkWriter, NewChunk, WriterSetup, is_of_one_pack};
use crate::repo::{PackRef, RepoError};
use crate::store::{ObjectName, StoreError};
use crate::units::ids::{hex, unhex};
use crate::units::{Cancel, KeyId, Lsn, PackId, Progress, SegmentName, SessionId, TimelineId, Timestamp};

/// What is to be backed up, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster's name.
    pub cluster: String,
    /// The data directory; `None`: the server says it.
    pub pgdata: Option<PathBuf>,
    /// What the user calls the snapshot.
    pub labels: BTreeMap<String, String>,
    /// Where its WAL will be.
    pub wal: WalMode,
    /// How long its WAL is waited for.
    pub wal_timeout: Duration,
    /// Checkpoint at once, or spread.
    pub fast: bool,
    /// Read all, whatever the parent proves.
    pub verify_unchanged: bool,
    /// The cluster's system identifier may be another one than before.
    pub new_history: bool,
    /// FastCDC for everything.
    pub cdc_for_all: bool,
    /// Keys whose packs are relied on besides this host's own.
    pub trust_writers: Vec<KeyId>,
    /// Threads.
    pub jobs: usize,
}

/// What it takes to run.
pub struct Setting<'a> {
    /// The repository.
    pub opened: &'a Arc<Opened>,
    /// The state folder.
    pub state: &'a StateDir,
    /// This machine.
    pub machine: [u8; 16],
    /// The files.
    pub source: &'a dyn FileSource,
    /// The server; none for a stopped cluster.
    pub server: Option<&'a Conninfo>,
    /// Asked to stop?
    pub cancel: &'a Cancel,
    /// Told of everything.
    pub progress: &'a dyn Progress,
}

/// A snapshot that is there.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What it is.
    pub summary: Summary,
    /// Its COMMIT.
    pub head: Head,
    /// The first segment that the archive still lacks.
    pub waits_for: Option<SegmentName>,
    /// Damaged pages.
    pub damaged: Vec<DamagedPage>,
    /// What was not copied because it can't be.
    pub left_out: Vec<String>,
    /// Tablespaces.
    pub tablespaces: Vec<TablespaceFact>,
}

/// The cluster as it was found before the backup.
struct Found {
    pgdata: PathBuf,
    control: ControlFile,
    major: u16,
    server: Option<(Connection, Facts)>,
    /// The server's version as it says it; the major where there is no server.
    version: String,
    instance: Instance,
}

/// What the copy of the files came to.
struct Taken {
    copied: Copied,
    scanned: Scanned,
    control: Vec<u8>,
    timeline: TimelineId,
    ancestry: Vec<Branch>,
    start: Lsn,
    stop: Lsn,
    started_at: Timestamp,
    stopped_at: Timestamp,
    label: Option<String>,
    tablespace_map: Option<String>,
}

/// Takes a backup.
///
/// # Errors
/// Then there is no snapshot: the session is aborted, and the server is out of backup mode.
pub fn run(setting: &Setting<'_>, options: &Options) -> Result<Outcome, BackupError> {
    let began = Timestamp::now();
    let mut found = look(setting, options)?;
    let id = format!("{}-{}", began.compact(), hex(&secret::random::<2>().map_err(RepoError::from)?));
    let cluster = ClusterId { name: options.cluster.clone(), system_identifier: found.control.system_identifier };
    check_history(setting.opened, &cluster, options.new_history)?;
    let parent = newest_parent(setting.opened, &cluster, &options.trust_writers);
    let begin = Begin {
        purpose: "backup".into(),
        cluster: Some(cluster.name.clone()),
        system_identifier: Some(cluster.system_identifier),
        machine: hex(&setting.machine),
        lock: None,
        parent: parent.as_ref().map(|(number, _)| *number),
        floor: Some(WalPosition { timeline: found.control.timeline, lsn: found.control.redo }),
        reads: None,
    };
    let session = Arc::new(OpenSession::begin(setting.opened, &setting.state.locks(), begin)?);
    let mut adopted = session.adopted(&options.trust_writers, parent.as_ref().map(|(_, c)| &c.set));
    drop_missing(setting, &mut adopted)?;
    let packs = Arc::new(Packs::new(Arc::clone(&setting.opened.backend), setting.opened.sealing.clone()));
    packs.add(adopted.packs.values().copied());
    let damaged_places = Arc::new(DamagedPlaces::of(setting.opened));
    let writer = start_writer(setting, &session, &adopted, &packs, &damaged_places)?;
    let parent_id = parent.as_ref().map(|(_, c)| c.summary.id.clone());
    let damage = Damage::default();
    let parent = parent.map(|(_, c)| c);
    let basis = Basis { packs: &packs, damaged: &damaged_places, parent: parent.as_ref() };
    let taken = take(setting, options, &mut found, &id, &basis, &writer, &damage)?;
    let (damaged, damaged_pages) = damage.finish(setting.server.is_some().then_some(taken.stop));
    finish(setting, options, Ending { began, id, cluster, parent_id, found, taken, damaged, damaged_pages, writer, session, adopted })
}

/// Looks at the data directory and the server before anything is written.
fn look(setting: &Setting<'_>, options: &Options) -> Result<Found, BackupError> {
    let mut server = match setting.server {
        Some(conninfo) => {
            let connect = ConnectOptions { application_name: "pgcairn backup".into(), cancel: setting.cancel.clone() };
            let mut connection = Connection::open(conninfo, &connect)?;
            let facts = connection.facts()?;
            Some((connection, facts))
        }
        None => None,
    };
    let pgdata = match (&options.pgdata, server.as_ref().and_then(|(_, f)| f.data_directory.clone())) {
        (Some(pgdata), _) => pgdata.clone(),
        (None, Some(theirs)) => theirs,
        (None, None) => {
            return Err(BackupError::refused("the data directory is not known", "name it: --pgdata DIR, or pgdata in the configuration"));
        }
    };
    let major = checks::read_major(&pgdata)?;
    let (control, _) = checks::read_control(setting.source, &pgdata)?;
    match &mut server {
        Some((connection, facts)) => {
            checks::check_online(connection, facts, &control, &pgdata, major)?;
            if options.wal == WalMode::Archive && facts.archive_mode == "off" {
                return Err(BackupError::refused(
                    "archive_mode is off, so the WAL that the snapshot needs would never arrive",
                    "set up archive_command (pgcairn init prints the lines), or use --wal copy, which stores it with the snapshot",
                ));
            }
        }
        None => checks::check_offline(&control, &pgdata)?,
    }
    let (_, stat) =
        setting.source.stat(&pgdata).map_err(|source| BackupError::Io { what: format!("reading {}", pgdata.display()), source })?;
    let instance = Instance { machine: setting.machine, device: stat.device, inode: stat.inode };
    let version = server.as_ref().map_or_else(|| major.to_string(), |(_, f)| f.version.to_string());
    Ok(Found { pgdata, control, major, server, version, instance })
}

/// A cluster's name belongs to one system identifier, unless the user says once that it changed.
fn check_history(opened: &Opened, cluster: &ClusterId, new_history: bool) -> Result<(), BackupError> {
    let view = opened.view();
    match view.fold.clusters.get(&cluster.name) {
        Some(newest) if newest.system_identifier != cluster.system_identifier && !new_history => Err(BackupError::refused(
            format!(
                "the repository's cluster {:?} has system identifier {}, and this data directory {}",
                cluster.name, newest.system_identifier, cluster.system_identifier
            ),
            "after pg_upgrade or initdb say --new-history once; another cluster needs another name (--cluster)",
        )),
        _ => Ok(()),
    }
}

/// The newest live snapshot of this cluster, by a key that is trusted.
fn newest_parent(opened: &Opened, cluster: &ClusterId, trust_writers: &[KeyId]) -> Option<(u64, LiveCommit)> {
    let own = opened.signer.as_ref().map(|s| s.id());
    let view = opened.view();
    let fits = |c: &LiveCommit| {
        c.summary.cluster_id() == *cluster && c.summary.kind == "physical" && (Some(c.key) == own || trust_writers.contains(&c.key))
    };
    view.fold.commits.iter().rev().find(|(_, c)| fits(c)).map(|(n, c)| (*n, c.clone()))
}

/// Packs that aren't there any more, or have another length, are relied on by nobody: what was in them is stored anew.
fn drop_missing(setting: &Setting<'_>, adopted: &mut Adopted) -> Result<(), BackupError> {
    let mut there: HashMap<String, u64> = HashMap::new();
    let folder = ObjectName::new("pack").map_err(|e| RepoError::from(StoreError::from(e)))?;
    setting
        .opened
        .backend
        .list(Some(&folder), &mut |object| {
            there.insert(object.name.to_string(), object.size);
            Ok(())
        })
        .map_err(RepoError::from)?;
    let before = adopted.packs.len();
    let mut lost = Vec::new();
    for pack in adopted.packs.values() {
        if there.get(pack_name(pack.session, pack)?.as_str()) != Some(&pack.size) {
            lost.push(pack.id);
        }
    }
    for id in &lost {
        adopted.packs.remove(id);
        adopted.trusted.remove(id);
    }
    if !lost.is_empty() {
        setting.progress.warn(&format!(
            "{} of {before} packs are missing in the repository or cut off: this backup stores anew what it needs of them; older snapshots may be damaged",
            lost.len()
        ));
    }
    Ok(())
}

fn start_writer(
    setting: &Setting<'_>,
    session: &Arc<OpenSession>,
    adopted: &Adopted,
    packs: &Arc<Packs>,
    damaged: &Arc<DamagedPlaces>,
) -> Result<ChunkWriter, BackupError> {
    let opened = setting.opened;
    let cache = opened.cache_folder.as_ref().and_then(|c| Cache::of(c, opened.format.repository));
    let known = KnownChunks::over(cache.as_ref(), packs, adopted, setting.progress)?;
    let setup = WriterSetup {
        backend: Arc::clone(&opened.backend),
        packs: Arc::clone(packs),
        sealing: opened.sealing.clone(),
        opening: opened.opening.clone(),
        session: session.id(),
        tag: session.tag(),
        nameable: adopted.packs.keys().copied().collect(),
        trusted: adopted.trusted.clone(),
        known: Box::new(known),
        is_damaged: {
            let damaged = Arc::clone(damaged);
            Box::new(move |place| damaged.contains(place))
        },
    };
    let theirs = Arc::clone(session);
    Ok(ChunkWriter::start(setup, Box::new(move |what| theirs.told(what).map_err(|e| RepoError::Told(Box::new(e)))))?)
}

/// The parent's tree, opened; none if it can't be read (then all is read and found by id).
fn open_parent<'a>(
    setting: &'a Setting<'_>,
    options: &Options,
    packs: &'a Packs,
    parent: Option<&LiveCommit>,
    found: &Found,
) -> Result<Option<Parent<'a>>, BackupError> {
    let (Some(commit), Ok(opening)) = (parent, setting.opened.reader()) else { return Ok(None) };
    let root = commit.root;
    let open = || -> Result<Parent<'a>, RepoError> {
        let snapshot = Snapshot::open(packs, opening, root.chunk.short(), place_of(root.place), root.digest)?;
        let facts = serde_json::from_value::<ClusterFacts>(snapshot.meta().extra.clone()).ok();
        let same = facts.as_ref().is_some_and(|f| is_comparable(f, &found.control));
        // More damaged pages than are named: nothing is known to be whole.
        let all_named = facts.as_ref().is_some_and(|f| f.damaged.len() as u64 >= commit.summary.damaged_pages);
        let damaged = facts.map(|f| f.damaged.into_iter().map(|page| page.path).collect()).unwrap_or_default();
        Parent::new(snapshot, commit.summary.started_at, same && all_named && !options.verify_unchanged, damaged)
    };
    match open() {
        Ok(parent) => Ok(Some(parent)),
        Err(e) if !is_of_one_pack(&e) => Err(e.into()),
        Err(e) => {
            setting.progress.warn(&format!("snapshot {} can't be read as parent, all files are read: {e}", commit.summary.id));
            Ok(None)
        }
    }
}

/// Checksums switched, or another build: nothing is unchanged.
fn is_comparable(then: &ClusterFacts, now: &ControlFile) -> bool {
    let control = unhex(&then.control_file).map(|mut bytes| {
        bytes.resize(crate::pg::control_file::FILE_SIZE, 0);
        bytes
    });
    let Some(Ok(then)) = control.as_deref().map(ControlFile::parse) else { return false };
    let known = !matches!(now.data_checksums(), DataChecksums::Unknown(_));
    known && then.data_checksum_version == now.data_checksum_version && then.build_values() == now.build_values()
}

fn place_of(place: LogPlace) -> Place {
    Place { pack: place.pack, blob: place.blob, position: u16::try_from(place.position).unwrap_or(u16::MAX) }
}

/// The damaged places that the log lists.
struct DamagedPlaces {
    blobs: HashSet<(PackId, u32)>,
    packs: HashSet<PackId>,
    whole: HashSet<PackId>,
}

impl DamagedPlaces {
    fn of(opened: &Opened) -> Self {
        let view = opened.view();
        let mut places = DamagedPlaces { blobs: HashSet::new(), packs: HashSet::new(), whole: HashSet::new() };
        for (pack, blobs) in view.fold.damaged.values().flatten() {
            places.packs.insert(*pack);
            match blobs {
                DamagedBlobs::All => drop(places.whole.insert(*pack)),
                DamagedBlobs::Blobs(numbers) => places.blobs.extend(numbers.iter().map(|n| (*pack, *n))),
            }
        }
        places
    }

    fn contains(&self, place: Place) -> bool {
        self.whole.contains(&place.pack) || self.blobs.contains(&(place.pack, place.blob))
    }
}

/// Copies all files, in backup mode if there is a server.
fn take(
    setting: &Setting<'_>,
    options: &Options,
    found: &mut Found,
    id: &str,
    basis: &Basis<'_>,
    writer: &ChunkWriter,
    damage: &Damage,
) -> Result<Taken, BackupError> {
    let parent_bytes = basis.parent.map(|c| c.summary.cluster_bytes);
    let parent = open_parent(setting, options, basis.packs, basis.parent, found)?;
    let mut layout = DataDirectory::new(found.major, found.control.catalog_version);
    let mut mode = None;
    if let Some((mut connection, _)) = found.server.take() {
        for (setting, is_log) in [("log_directory", true), ("stats_temp_directory", false)] {
            if let Some(folder) = connection.setting(setting)? {
                // An absolute path may lie inside.
                let folder = Path::new(&folder);
                let folder = folder.strip_prefix(&found.pgdata).unwrap_or(folder);
                layout = if is_log { layout.without_log(folder) } else { layout.without_stats(folder) };
            }
        }
        if options.wal == WalMode::Copy
            && let Err(e) = temporary_slot(&mut connection)
        {
            setting.progress.warn(&format!("WAL is not held back by a replication slot, so a busy server may recycle it too early: {e}"));
        }
        setting.progress.phase("starting the backup (checkpoint)", None);
        mode = Some(BackupSession::start(connection, &format!("pgcairn {id}"), options.fast)?);
    } else {
        layout = layout.without_log(Path::new("log"));
    }
    let start = mode.as_ref().map_or(found.control.redo, BackupSession::start_lsn);
    let started_at = mode.as_ref().map_or(found.control.written_at, BackupSession::start_time);
    let joint_secret = setting.opened.joint_secret()?;
    let copy = Copy {
        source: setting.source,
        writer,
        packs: basis.packs,
        opening: setting.opened.opening.as_ref(),
        parent: parent.as_ref(),
        damaged_packs: &basis.damaged.packs,
        joint_secret: &joint_secret,
        instance: found.instance,
        page_size: found.control.blcksz,
        checksums: found.control.data_checksums() == DataChecksums::On,
        start_lsn: if mode.is_some() { start } else { Lsn(u64::MAX) },
        cdc_for_all: options.cdc_for_all,
        damage,
        cancel: setting.cancel,
        progress: setting.progress,
        jobs: options.jobs,
    };
    let scan = Scan {
        source: setting.source,
        root: &found.pgdata,
        layout: &layout,
        instance: found.instance,
        relseg_size: found.control.relseg_size,
        online: mode.is_some(),
    };
    let total = match parent_bytes {
        Some(bytes) => Some(bytes),
        None => Some(size_of(&scan)?),
    };
    setting.progress.phase("copying", total);
    let mut scanned = Scanned::default();
    let mut copied = copy.run(|feed| {
        scanned = scan.walk(&mut |path, files| if path == b"pg_wal" { Ok(()) } else { feed.folder(path, files) })?;
        Ok(())
    })?;
    // pg_control last of all files, and before the stop.
    let (control, control_bytes) = checks::read_control(setting.source, &found.pgdata)?;
    if mode.is_some() && control.redo < start {
        return Err(BackupError::refused(
            format!("{} does not show the checkpoint that the server has just made", found.pgdata.join("global/pg_control").display()),
            "let --dsn and --pgdata name the same server",
        ));
    }
    let stopped = match mode {
        Some(mode) => {
            setting.progress.phase("stopping the backup", None);
            let (stop, mut connection) = mode.stop()?;
            if connection.is_in_recovery()? || control.system_identifier != found.control.system_identifier {
                return Err(BackupError::refused("the server was replaced or set back during the backup", "take another backup"));
            }
            name_tablespaces(&mut connection, &mut scanned.tablespaces);
            Some((stop, connection))
        }
        None => {
            let same = checks::read_control(setting.source, &found.pgdata)?.0 == found.control;
            if !same || found.pgdata.join("postmaster.pid").exists() {
                return Err(BackupError::refused("the cluster was started during the backup", "leave --offline out"));
            }
            None
        }
    };
    let stop = match &stopped {
        Some((stop, _)) => stop.stop_lsn,
        None => wal::end_of_stopped(&found.pgdata, found.control.timeline, found.control.checkpoint, found.control.segment_size)?,
    };
    let stopped_at = stopped.as_ref().map_or(found.control.written_at, |(s, _)| s.stop_time);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| BackupError::Internal("a backup_label that is no text"));
    let timeline = match &stopped {
        Some((stop, _)) => label_of(stop, &control, start)?,
        None => control.timeline,
    };
    found.control = control;
    let span = Span { timeline, start, stop, offline: setting.server.is_none() };
    take_wal(&copy, &scan, &mut scanned, &mut copied, options, found, &span)?;
    let (label, map) = match stopped {
        Some((BackupStop { label, tablespace_map, .. }, _)) => (Some(text(label)?), tablespace_map),
        None => (None, Vec::new()),
    };
    let tablespace_map = if map.is_empty() { None } else { Some(String::from_utf8_lossy(&map).into_owned()) };
    let ancestry = wal::ancestry(&found.pgdata, timeline)?;
    Ok(Taken { copied, scanned, control: control_bytes, timeline, ancestry, start, stop, started_at, stopped_at, label, tablespace_map })
}

/// The WAL that the snapshot needs.
struct Span {
    timeline: TimelineId,
    start: Lsn,
    stop: Lsn,
    offline: bool,
}

/// The timeline of the start, by the server's own label, which must be about this backup.
fn label_of(stop: &BackupStop, control: &ControlFile, start: Lsn) -> Result<TimelineId, BackupError> {
    let label = BackupLabel::parse(&stop.label, control.segment_size)
        .map_err(|e| BackupError::Cluster { what: "the server's backup_label".into(), why: e.to_string() })?;
    if label.start != start {
        return Err(BackupError::Cluster { what: "the server's backup_label".into(), why: "it is about another backup".into() });
    }
    Ok(label.timeline)
}

/// The WAL of the snapshot itself, if it is kept with it. The folder `pg_wal` comes last in any case.
fn take_wal(
    copy: &Copy<'_>,
    scan: &Scan<'_>,
    scanned: &mut Scanned,
    copied: &mut Copied,
    options: &Options,
    found: &Found,
    span: &Span,
) -> Result<(), BackupError> {
    let at = scanned.folders.iter().position(|f| f.path == b"pg_wal");
    let Some(at) = at else {
        return Err(BackupError::Cluster { what: found.pgdata.display().to_string(), why: "it has no pg_wal".into() });
    };
    let folder = scanned.folders.remove(at);
    scanned.folders.push(folder);
    let names = wal::needed(span.timeline, span.start, span.stop, found.control.segment_size);
    let own = span.offline || options.wal == WalMode::Copy;
    let mut fed = wal::Fed::default();
    let more = copy.run(|feed| {
        if own {
            fed = wal::feed(scan, feed, &names, found.control.system_identifier)?;
            Ok(())
        } else {
            feed.folder(b"pg_wal", Vec::new())
        }
    })?;
    if own {
        let copied = wal::Fed { files: more.files, bytes: more.bytes };
        wal::check_again(scan, &names, fed, copied, found.control.system_identifier)?;
    }
    copied.folders.extend(more.folders);
    copied.needs.join(&more.needs);
    copied.bytes += more.bytes;
    copied.read += more.read;
    copied.files += more.files;
    Ok(())
}

fn size_of(scan: &Scan<'_>) -> Result<u64, BackupError> {
    let mut bytes = 0;
    scan.walk(&mut |_, files| {
        bytes += files.iter().map(|f| f.attributes.size).sum::<u64>();
        Ok(())
    })?;
    Ok(bytes)
}

/// Names are for people: a snapshot is good without.
fn name_tablespaces(connection: &mut Connection, tablespaces: &mut [TablespaceFact]) {
    if tablespaces.is_empty() {
        return;
    }
    let Ok(rows) = connection.query("asking for tablespaces", "SELECT oid, spcname::pg_catalog.text FROM pg_catalog.pg_tablespace") else {
        return;
    };
    for row in rows {
        if let (Ok(oid), Ok(name)) = (row.try_get::<_, u32>(0), row.try_get::<_, String>(1))
            && let Some(tablespace) = tablespaces.iter_mut().find(|t| t.oid == oid)
        {
            tablespace.name = Some(name);
        }
    }
}

/// What the copy builds on.
struct Basis<'a> {
    packs: &'a Packs,
    damaged: &'a DamagedPlaces,
    parent: Option<&'a LiveCommit>,
}

/// All that the end of a backup needs.
struct Ending {
    began: Timestamp,
    id: String,
    cluster: ClusterId,
    parent_id: Option<String>,
    found: Found,
    taken: Taken,
    damaged: Vec<DamagedPage>,
    damaged_pages: u64,
    writer: ChunkWriter,
    session: Arc<OpenSession>,
    adopted: Adopted,
}

/// Stores the upper end of the tree, waits for WAL, commits.
fn finish(setting: &Setting<'_>, options: &Options, ending: Ending) -> Result<Outcome, BackupError> {
    let Ending { began, id, cluster, parent_id, found, taken, damaged, damaged_pages, writer, session, adopted } = ending;
    let offline = setting.server.is_none();
    let mode = if offline { WalMode::Copy } else { options.wal };
    let facts = cluster_facts(&found, &taken, &damaged, mode, offline);
    let mut needs = taken.copied.needs;
    let extra = serde_json::to_value(&facts).map_err(|_| BackupError::Internal("facts that are no JSON"))?;
    let meta = Meta { folders: taken.scanned.folders.clone(), extra };
    let meta = serde_json::to_vec(&meta).map_err(|_| BackupError::Internal("a meta chunk that is no JSON"))?;
    let meta = put_content(&writer, &meta, &mut needs)?;
    let (root_id, root) = put_snapshot(&writer, meta, taken.copied.folders, &mut needs)?;
    writer.outside().into_iter().for_each(|pack| needs.add(pack, 0));
    setting.progress.phase("storing", None);
    let (own, totals) = writer.finish()?;
    let timeline = taken.timeline;
    let names = wal::needed(timeline, taken.start, taken.stop, found.control.segment_size);
    let waits_for = if mode == WalMode::Archive {
        setting.progress.phase("waiting for WAL", None);
        wal::wait(setting.opened, &session, &cluster, &names, options.wal_timeout, setting.cancel, setting.progress)?
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
        lists: Held::Inline(CommitLists { new, set, ledger: Vec::new() }),
        replaces: None,
    };
    let session = Arc::into_inner(session).ok_or(BackupError::Internal("the session is still in use"))?;
    let head = session.commit(commit)?;
    Ok(Outcome { summary, head, waits_for, damaged, left_out: taken.scanned.left_out, tablespaces: taken.scanned.tablespaces })
}

fn put_content(writer: &ChunkWriter, plain: &[u8], needs: &mut Needs) -> Result<ChunkRef, BackupError> {
    let id = writer.sealing().chunk_id(ChunkRole::Content, plain);
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
        settings: minimums.into_iter().map(|(name, value)| (name.to_owned(), value.to_string())).collect(),
    }
}
