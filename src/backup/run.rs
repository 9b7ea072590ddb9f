//! A backup from its first look to its COMMIT.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::basis::{Ages, Basis, DamagedPlaces, drop_missing, newest_parent, passed_over, start_writer};
use super::damage::{Damage, DamagedPage};
use super::finish::{Ending, finish};
use super::kept::Kept;
use super::price::{self, Choice, Costs, choose};
use super::source::FileSource;
use super::take::take;
use super::wal::AskArchive;
use super::{BackupError, checks};
use crate::codec::Way;
use crate::crypt::secret;
use crate::host::access::{OpenSession, Opened};
use crate::host::cache::{Cache, RangeFile};
use crate::host::paths::StateDir;
use crate::pg::connection::{ConnectOptions, Connection, Facts};
use crate::pg::conninfo::Conninfo;
use crate::pg::control_file::ControlFile;
use crate::pg::facts::TablespaceFact;
use crate::repo::RepoError;
use crate::repo::log::{Begin, ClusterId, Head, Summary, WalMode, WalPosition};
use crate::repo::pack::{KeptRanges, Packs};
use crate::repo::structure::Instance;
use crate::units::ids::hex;
use crate::units::{Cancel, KeyId, Progress, SegmentName, Timestamp};

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
    /// Blobs are sorted into packs by how long what they replace had been there; else not, to compare.
    pub sort_blobs: bool,
    /// Threads.
    pub jobs: usize,
    /// Dollars for a gigabyte that leaves the store.
    pub egress_price: f64,
    /// The repository lies at Amazon, at list prices.
    pub is_amazon: bool,
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
    /// The archive in which its WAL is awaited.
    pub archived: &'a AskArchive<'a>,
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
    /// Why what it needs isn't locked as it shall be.
    pub unlocked: Option<String>,
    /// Damaged pages.
    pub damaged: Vec<DamagedPage>,
    /// What was not copied because it can't be.
    pub left_out: Vec<String>,
    /// Tablespaces.
    pub tablespaces: Vec<TablespaceFact>,
    /// Why it read or stored more than it might have.
    pub notes: Vec<String>,
    /// How changed extents were stored.
    pub codec: Choice,
}

/// The cluster as it was found before the backup.
pub(super) struct Found {
    pub pgdata: PathBuf,
    pub control: ControlFile,
    pub major: u16,
    pub server: Option<(Connection, Facts)>,
    /// The server's version as it says it; the major where there is no server.
    pub version: String,
    pub instance: Instance,
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
    setting.opened.know_packs(&options.trust_writers, cluster.system_identifier)?;
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
    // Two holders of one key would take each other's snapshots for their own.
    setting.opened.backs_up_here_alone()?;
    // Forgotten before this session began, its packs may be condemned, and no COMMIT of ours might name them.
    let parent = parent.filter(|(number, _)| setting.opened.view().fold.commits.contains_key(number));
    let mut adopted = session.adopted(&options.trust_writers, parent.as_ref().map(|(_, c)| &c.set));
    drop_missing(setting, &mut adopted)?;
    let ranges = kept_ranges(setting.opened, &cluster.name);
    let kept_ranges = ranges.clone().map(|ranges| ranges as Arc<dyn KeptRanges>);
    let packs = Packs::new(Arc::clone(&setting.opened.backend), setting.opened.sealing.clone()).with_kept(kept_ranges);
    let packs = Arc::new(packs);
    packs.add(adopted.packs.values().copied());
    let damaged_places = Arc::new(DamagedPlaces::of(setting.opened));
    let writer = start_writer(setting, options.sort_blobs, &session, &adopted, &packs, &damaged_places)?;
    let parent_id = parent.as_ref().map(|(_, c)| c.summary.id.clone());
    let damage = Damage::default();
    let parent = parent.map(|(_, c)| c);
    let ages = Ages::of(setting.opened);
    let codec = choose_codec(setting.opened, options);
    setting.progress.detail(&format!("changed extents are stored as {}: {}", codec.word(), codec.why));
    let of_codec = (codec.way, setting.progress);
    let kept = Kept::of(setting.opened, &cluster.name, parent.as_ref(), found.control.blcksz, of_codec)?;
    let passed_over = passed_over(setting.opened, &cluster, &options.trust_writers);
    let basis =
        Basis { packs: &packs, damaged: &damaged_places, ages: &ages, parent: parent.as_ref(), kept: kept.as_ref(), way: codec.way };
    let taken = take(setting, options, &mut found, &id, &basis, &writer, &damage)?;
    let (damaged, damaged_pages) = damage.finish(setting.server.is_some().then_some(taken.stop));
    let mut outcome = finish(
        setting,
        options,
        Ending { codec, began, id, cluster, parent_id, found, taken, damaged, damaged_pages, writer, session, adopted, kept },
    )?;
    if let Some(ranges) = ranges {
        ranges.finish();
    }
    outcome.notes.extend(passed_over.map(|(id, key)| {
        format!("snapshot {id} was stored anew by key {key}, which is not trusted here, and is not built upon: trust-writers = [\"{key}\"] lets it be")
    }));
    Ok(outcome)
}

/// What this host keeps of the ranges that backups of a cluster read; none where reading them costs nothing.
fn kept_ranges(opened: &Opened, cluster: &str) -> Option<Arc<RangeFile>> {
    opened.backend.requests()?;
    let cache = Cache::of(opened.cache_folder.as_ref()?, opened.format.repository)?;
    Some(Arc::new(cache.ranges(cluster)))
}

/// Old images of pages, or not: by what reading them costs here.
fn choose_codec(opened: &Opened, options: &Options) -> Choice {
    if opened.opening.is_none() {
        return Choice { way: Way::Alone, why: "this host can't read old pages".into() };
    }
    let at_once = opened.backend.pace().reads;
    let costs =
        opened.backend.requests().map(|seen| Costs::of_service(seen.latency, seen.rate, at_once, options.egress_price, options.is_amazon));
    choose(costs.as_ref(), &price::Facts::USUAL)
}

/// Looks at the data directory and the server before anything is written.
fn look(setting: &Setting<'_>, options: &Options) -> Result<Found, BackupError> {
    let mut server = match setting.server {
        Some(conninfo) => {
            let connect = ConnectOptions { application_name: "pgcairn backup".into(), cancel: setting.cancel.clone() };
            let mut connection = Connection::open(conninfo, &connect)?;
            connection.take_warnings().iter().for_each(|warning| setting.progress.warn(warning));
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
                    "set up archive_command (pgcairn check prints the lines; in a restored cluster, remove archive_mode = 'off' at the end of \
                     postgresql.auto.conf) and restart the server, or use --wal copy, which stores it with the snapshot",
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
