//! What a restore will do: decided and checked before a byte is written, printable for `--dry-run`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::RestoreError;
use super::configuration::{self, ConfigFiles, ConfigurationPlan};
use super::existing::Existing;
use super::place::{allocated, check_apart, check_free, check_ours, check_space, resolve};
use super::sizes::Sizes;
use super::target::TargetSettings;
use crate::pg::backup_label::BackupLabel;
use crate::pg::backup_manifest::WalRange;
use crate::pg::control_file::{ControlFile, ControlFileError, FILE_SIZE};
use crate::pg::facts::{ClusterFacts, TablespaceFact};
use crate::pg::layout::DataDirectory;
use crate::pg::recovery::RecoverySettings;
use crate::repo::structure::Snapshot;
use crate::units::ids::unhex;
use crate::units::{ByteSize, SegmentName, counted, show};

/// What the server is told of recovery.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Recovery {
    /// To replay the archive up to a target: recovery.signal and settings.
    Target {
        /// Fetches WAL; complete, quoted for the shell.
        restore_command: String,
        /// Where to stop, and along which timeline.
        settings: TargetSettings,
    },
    /// To stay a standby: standby.signal, and the newest timeline.
    Standby {
        /// Fetches WAL.
        restore_command: String,
    },
    /// Nothing, since the snapshot holds its own WAL: see `RecoveryChoice::settings`.
    AsItself,
    /// Nothing: whoever asked for it sets recovery up (`--no-recovery`).
    None,
}

/// Is archiving on in what is restored?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArchiveMode {
    /// Switched off: a copy must not push into the archive of its original.
    Off,
    /// As in the cluster's own configuration.
    Preserve,
}

/// What the user wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestoreOptions {
    /// The snapshot's id, for whoever finds the folder before the restore has ended.
    pub snapshot: String,
    /// The data directory to make.
    pub to: PathBuf,
    /// What stands there and is to be restored in place; `None`: the folder must be empty.
    pub in_place: Option<Existing>,
    /// Tablespaces by oid or name, each to its folder.
    pub tablespaces: Vec<(String, PathBuf)>,
    /// All other tablespaces, each to its oid below this folder.
    pub tablespace_root: Option<PathBuf>,
    /// What the server is told.
    pub recovery: Recovery,
    /// Is archiving on?
    pub archive_mode: ArchiveMode,
    /// Where configuration files go that lay outside the data directory.
    pub config_files: ConfigFiles,
    /// Further settings for postgresql.auto.conf, behind all others.
    pub settings: Vec<(String, String)>,
    /// The snapshot's WAL ranges as its COMMIT has them; if empty, from its start to its stop.
    pub wal_ranges: Vec<WalRange>,
}

/// Where a tablespace goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TablespacePlan {
    /// Its oid.
    pub oid: u32,
    /// Its name, where it is known.
    pub name: Option<String>,
    /// Where it lay.
    pub original: PathBuf,
    /// Where it will lie, links resolved.
    pub place: PathBuf,
    /// Somebody said so; else that is where it lay.
    pub moved: bool,
    /// Bytes of its files.
    pub bytes: u64,
}

/// What a restore in place does to what stands there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InPlace {
    /// What stands there.
    pub existing: Existing,
    /// What is not in the snapshot and will be removed: paths relative to the data directory.
    pub strangers: Vec<Vec<u8>>,
}

/// What will be done.
#[derive(Clone, PartialEq, Debug)]
pub struct RestorePlan {
    /// The snapshot's id.
    pub snapshot: String,
    /// For a restore in place.
    pub in_place: Option<InPlace>,
    /// Where WAL of the target was saved that the archive doesn't have: set by whoever saved it.
    pub wal_saved: Option<PathBuf>,
    /// An unfinished segment among it that belongs into the restored pg_wal, and the copy of it.
    pub tail: Option<(SegmentName, PathBuf)>,
    /// The data directory, links resolved.
    pub target: PathBuf,
    /// Tablespaces.
    pub tablespaces: Vec<TablespacePlan>,
    /// Configuration files that lay outside the data directory.
    pub configuration: Option<ConfigurationPlan>,
    /// What the snapshot says of its cluster.
    pub facts: ClusterFacts,
    /// What its pg_control says.
    pub control: ControlFile,
    /// Files to write, as the manifest counts them.
    pub files: u64,
    /// Their bytes, holes included.
    pub bytes: u64,
    /// Settings at the end of postgresql.auto.conf.
    pub settings: Vec<(String, Vec<u8>)>,
    /// The signal file, if there is one.
    pub signal: Option<&'static str>,
    /// The snapshot's WAL.
    pub wal_ranges: Vec<WalRange>,
    /// What deserves a look, a line each.
    pub warnings: Vec<String>,
    /// Whom root gives the files to: the owner of the data directory as it was found.
    pub owner: Option<(u32, u32)>,
    pub(super) control_bytes: Vec<u8>,
}

/// Plans a restore and checks all that can be checked before it.
///
/// # Errors
/// Why it can't be done; nothing was written.
pub fn prepare(snapshot: &Snapshot<'_>, options: &RestoreOptions) -> Result<RestorePlan, RestoreError> {
    let facts = facts_of(snapshot)?;
    let (control, control_bytes) = control_of(&facts)?;
    check_label(&facts, &control)?;
    let target = resolve(&options.to)?;
    let sizes = Sizes::of(snapshot)?;
    let tablespaces = map_tablespaces(&facts, options, &sizes)?;
    let configuration = configuration::plan(&facts, snapshot, &target, options.config_files)?;
    let beside = configuration.as_ref().filter(|c| c.place == ConfigFiles::Beside).map(|c| c.folder.as_path());
    check_apart(std::iter::once(target.as_path()).chain(beside).chain(tablespaces.iter().map(|t| t.place.as_path())))?;
    check_places(&target, &tablespaces, &facts, options.in_place.as_ref())?;
    let tight = check_room(snapshot, &target, &tablespaces, &sizes, options.in_place.is_some())?;
    let (signal, settings) = settings_of(options, facts.major)?;
    let mut plan = RestorePlan {
        snapshot: options.snapshot.clone(),
        in_place: None,
        wal_saved: None,
        tail: None,
        warnings: Vec::new(),
        wal_ranges: if options.wal_ranges.is_empty() { own_range(&facts) } else { options.wal_ranges.clone() },
        target,
        tablespaces,
        configuration,
        files: sizes.files,
        bytes: sizes.all,
        settings,
        signal,
        control,
        owner: nix::unistd::geteuid().is_root().then(|| super::top_rights(snapshot)).map(|top| (top.uid, top.gid)),
        control_bytes,
        facts,
    };
    plan.warnings = super::warnings::of(&plan, snapshot, options)?;
    plan.warnings.extend(tight);
    if let Some(existing) = &options.in_place {
        let strangers = super::strangers_of(&plan, snapshot)?;
        plan.in_place = Some(InPlace { existing: existing.clone(), strangers });
    }
    Ok(plan)
}

impl RestorePlan {
    /// Of a tablespace's folder, the part that is this cluster's.
    pub(super) fn version_folder(&self) -> String {
        DataDirectory::new(self.facts.major, self.facts.catalog_version).version_folder().to_owned()
    }

    /// Where the tablespaces lie, by oid.
    pub(super) fn spaces(&self) -> BTreeMap<u32, PathBuf> {
        self.tablespaces.iter().map(|t| (t.oid, t.place.clone())).collect()
    }
}

/// May the data directory and the tablespaces' folders be written to?
fn check_places(
    target: &Path,
    tablespaces: &[TablespacePlan],
    facts: &ClusterFacts,
    existing: Option<&Existing>,
) -> Result<(), RestoreError> {
    let Some(existing) = existing else {
        check_free(target)?;
        return tablespaces.iter().try_for_each(|space| check_free(&space.place).map_err(|e| unless_named(space, e)));
    };
    if existing.system_identifier != facts.system_identifier {
        let (expected, found) = (facts.system_identifier, existing.system_identifier);
        return Err(RestoreError::ForeignCluster { folder: target.to_owned(), expected, found });
    }
    check_ours(target)?;
    let is_original = fs::canonicalize(&facts.data_directory).is_ok_and(|original| original == target);
    for space in tablespaces {
        let free = match check_free(&space.place) {
            // A copy of a data directory has the links of its original, which must not be written to: where nobody named
            // the folder it is believed only in the original's own place.
            Err(RestoreError::NotEmpty { .. }) if existing.leads_to(space.oid, &space.place) && (space.moved || is_original) => {
                check_ours(&space.place)
            }
            Err(RestoreError::NotEmpty { .. }) if existing.notes(space.oid, &space.place) => check_ours(&space.place),
            Err(RestoreError::NotEmpty { .. }) => {
                Err(RestoreError::ForeignTablespace { place: space.place.clone(), folder: target.to_owned() })
            }
            free => free,
        };
        free.map_err(|e| unless_named(space, e))?;
    }
    Ok(())
}

/// Is there room? Holes take none, and what is there already is room, too. A warning where that is likely and not sure.
fn check_room(
    snapshot: &Snapshot<'_>,
    target: &Path,
    tablespaces: &[TablespacePlan],
    sizes: &Sizes,
    in_place: bool,
) -> Result<Option<String>, RestoreError> {
    let check = |sizes: &Sizes| {
        let more = |place: &Path, bytes: u64| bytes.saturating_sub(if in_place { allocated(place) } else { 0 });
        let spaces: Vec<(&Path, u64)> = tablespaces.iter().map(|t| (t.place.as_path(), more(&t.place, sizes.tablespace(t.oid)))).collect();
        let inside = tablespaces.iter().fold(sizes.all, |left, t| left.saturating_sub(sizes.tablespace(t.oid)));
        check_space(std::iter::once((target, more(target, inside))).chain(spaces))
    };
    if check(sizes).is_ok() {
        return Ok(None);
    }
    let (data, least) = Sizes::without_holes(snapshot)?;
    if check(&data).is_ok() {
        return Ok(None);
    }
    check(&least)?;
    Ok(Some(format!(
        "whether it fits is not sure: its files have {} of data, of which parts may be holes; if it doesn't, make room and go on with --delta",
        ByteSize(data.all)
    )))
}

/// What a snapshot says of its cluster.
///
/// # Errors
/// If it says nothing that can be read.
pub fn facts_of(snapshot: &Snapshot<'_>) -> Result<ClusterFacts, RestoreError> {
    serde_json::from_value(snapshot.meta().extra.clone())
        .map_err(|e| RestoreError::Corrupt { path: "the facts about its cluster".into(), why: e.to_string() })
}

/// pg_control as it was read, and what it says.
fn control_of(facts: &ClusterFacts) -> Result<(ControlFile, Vec<u8>), RestoreError> {
    let corrupt = |why: String| RestoreError::Corrupt { path: "global/pg_control".into(), why };
    let mut bytes = unhex(&facts.control_file).ok_or_else(|| corrupt("it is not in hex".into()))?;
    if bytes.len() > FILE_SIZE {
        return Err(corrupt("it is too long".into()));
    }
    bytes.resize(FILE_SIZE, 0);
    let control = ControlFile::parse(&bytes).map_err(|e| match e {
        ControlFileError::UnknownVersion { .. } | ControlFileError::ByteSwapped { .. } => RestoreError::Unknown(e.to_string()),
        e => corrupt(e.to_string()),
    })?;
    if control.system_identifier != facts.system_identifier {
        return Err(corrupt("it is another cluster's".into()));
    }
    Ok((control, bytes))
}

/// Without its label a restore comes up from a later checkpoint, on pages that are older: silently wrong.
fn check_label(facts: &ClusterFacts, control: &ControlFile) -> Result<(), RestoreError> {
    let corrupt = |why: String| RestoreError::Corrupt { path: "backup_label".into(), why };
    let Some(text) = &facts.backup_label else {
        let stopped = facts.offline && control.state.is_shut_down();
        return if stopped { Ok(()) } else { Err(corrupt("it is missing, and the server ran during the backup".into())) };
    };
    let label = BackupLabel::parse(text.as_bytes(), facts.segment_size).map_err(|e| corrupt(e.to_string()))?;
    if (label.start, label.timeline) == (facts.start_lsn, facts.start_timeline) {
        Ok(())
    } else {
        Err(corrupt(format!("it starts at {} on timeline {}, the snapshot elsewhere", label.start, label.timeline)))
    }
}

/// An original place that is taken is no mistake of the user's: what to do is another thing.
fn unless_named(space: &TablespacePlan, source: RestoreError) -> RestoreError {
    if space.moved {
        return source;
    }
    RestoreError::TablespaceOccupied { oid: space.oid, name: called(space), place: space.place.clone(), source: Box::new(source) }
}

fn called(space: &TablespacePlan) -> String {
    space.name.clone().unwrap_or_else(|| space.oid.to_string())
}

fn map_tablespaces(facts: &ClusterFacts, options: &RestoreOptions, sizes: &Sizes) -> Result<Vec<TablespacePlan>, RestoreError> {
    let mut named: BTreeMap<u32, &Path> = BTreeMap::new();
    for (wanted, place) in &options.tablespaces {
        let is_it = |t: &&TablespaceFact| t.oid.to_string() == *wanted || t.name.as_ref() == Some(wanted);
        let known = || facts.tablespaces.iter().map(|t| t.name.clone().unwrap_or_else(|| t.oid.to_string())).collect();
        let Some(found) = facts.tablespaces.iter().find(is_it) else {
            return Err(RestoreError::UnknownTablespace { wanted: wanted.clone(), known: known() });
        };
        named.insert(found.oid, place);
    }
    let mut plans: Vec<TablespacePlan> = Vec::new();
    for fact in &facts.tablespaces {
        let original = original_place(fact)?;
        let (place, moved) = match (named.get(&fact.oid), &options.tablespace_root) {
            (Some(place), _) => (resolve(place)?, true),
            (None, Some(root)) => (resolve(&root.join(fact.oid.to_string()))?, true),
            (None, None) if original.is_absolute() => (resolve(&original)?, false),
            (None, None) => {
                return Err(RestoreError::BadPlace { what: show(original.as_os_str().as_bytes()), why: "it is no absolute path" });
            }
        };
        if plans.iter().any(|t| t.oid == fact.oid) {
            return Err(RestoreError::corrupt(b"pg_tblspc", format!("tablespace {} is named twice", fact.oid)));
        }
        let bytes = sizes.tablespace(fact.oid);
        plans.push(TablespacePlan { oid: fact.oid, name: fact.name.clone(), original, place, moved, bytes });
    }
    Ok(plans)
}

/// Where a tablespace lay: the text of its link.
fn original_place(fact: &TablespaceFact) -> Result<PathBuf, RestoreError> {
    let bytes = match &fact.path_bytes {
        Some(hex) => unhex(hex).ok_or_else(|| RestoreError::corrupt(b"pg_tblspc", "the place of a tablespace is not in hex"))?,
        None => fact.path.clone().into_bytes(),
    };
    if bytes.contains(&0) {
        return Err(RestoreError::corrupt(b"pg_tblspc", "the place of a tablespace is no path"));
    }
    Ok(PathBuf::from(OsStr::from_bytes(&bytes)))
}

fn own_range(facts: &ClusterFacts) -> Vec<WalRange> {
    let range = WalRange { timeline: facts.start_timeline, start: facts.start_lsn, end: facts.stop_lsn };
    if range.start < range.end { vec![range] } else { Vec::new() }
}

/// The signal file, and settings for the end of postgresql.auto.conf.
type Told = (Option<&'static str>, Vec<(String, Vec<u8>)>);

/// What the cluster's own configuration must not tell it.
fn switched_off() -> impl Iterator<Item = (String, Vec<u8>)> {
    crate::pg::recovery::SWITCHED_OFF.iter().map(|name| ((*name).to_owned(), Vec::new()))
}

fn settings_of(options: &RestoreOptions, major: u16) -> Result<Told, RestoreError> {
    let text = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let (signal, mut settings) = match &options.recovery {
        Recovery::Target { restore_command, settings: TargetSettings { target, inclusive, timeline, action, gap_behind } } => {
            let recovery = RecoverySettings {
                restore_command: restore_command.clone().into_bytes(),
                target: target.clone(),
                inclusive: *inclusive,
                timeline: *timeline,
                action: *action,
            };
            let all = recovery.settings().map_err(RestoreError::Recovery)?;
            let all: Vec<_> = all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            // A standby's delay would hold the recovery up.
            let delay = std::iter::once(text("recovery_min_apply_delay", "0"));
            let mut told: Vec<_> = switched_off().chain(delay).filter(|(name, _)| all.iter().all(|(n, _)| n != name)).collect();
            told.extend(all);
            if *gap_behind && major >= 15 {
                told.push(text("recovery_prefetch", "off"));
            }
            (Some("recovery.signal"), told)
        }
        Recovery::Standby { restore_command } => {
            let own = [text("restore_command", restore_command), text("recovery_target_timeline", "latest")];
            (Some("standby.signal"), switched_off().chain(own).collect())
        }
        Recovery::AsItself | Recovery::None => (None, Vec::new()),
    };
    if options.archive_mode == ArchiveMode::Off {
        settings.push(text("archive_mode", "off"));
    }
    settings.extend(options.settings.iter().map(|(name, value)| text(name, value)));
    for (name, value) in &settings {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'$');
        if name.is_empty() || !name.bytes().all(plain) || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(RestoreError::BadSetting(name.clone()));
        }
        crate::pg::recovery::quote_setting(value).map_err(RestoreError::Recovery)?;
    }
    Ok((signal, settings))
}

/// The first of some paths, and how many more.
fn named(paths: &[Vec<u8>]) -> String {
    const NAMED: usize = 10;
    let mut text = paths.iter().take(NAMED).map(|path| show(path)).collect::<Vec<_>>().join(", ");
    match paths.len() {
        0 => text.push_str("nothing"),
        all if all > NAMED => text.push_str(&format!(" and {} more", all - NAMED)),
        _ => {}
    }
    text
}

impl fmt::Display for RestorePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &self.facts;
        writeln!(f, "data directory  {}", self.target.display())?;
        writeln!(f, "cluster         PostgreSQL {}, system identifier {}", facts.pg_version, facts.system_identifier)?;
        writeln!(f, "backup          {} to {} ({})", facts.start_lsn, facts.stop_lsn, facts.stopped_at.for_people())?;
        writeln!(f, "to write        {}, {}", counted(self.files, "file", "files"), ByteSize(self.bytes))?;
        if let Some(in_place) = &self.in_place {
            writeln!(f, "in place        only what differs is written; not in the snapshot, and removed: {}", named(&in_place.strangers))?;
        }
        for space in &self.tablespaces {
            let moved = if !space.moved { String::new() } else { format!(" (was {})", space.original.display()) };
            writeln!(f, "tablespace      {} -> {}{moved}", called(space), space.place.display())?;
        }
        let c = &self.control;
        writeln!(
            f,
            "server          PostgreSQL {}, pages of {}, at least {} connections, {} workers, {} WAL senders, {} prepared transactions, \
             {} locks a transaction",
            facts.major,
            c.blcksz,
            c.max_connections,
            c.max_worker_processes,
            c.max_wal_senders,
            c.max_prepared_transactions,
            c.max_locks_per_transaction
        )?;
        if let Some(configuration) = &self.configuration {
            let (copies, folder) = (configuration.copies, configuration.folder.display());
            writeln!(f, "configuration   {} from outside the data directory -> {folder}", counted(copies, "file", "files"))?;
        }
        writeln!(f, "signal file     {}", self.signal.unwrap_or("none"))?;
        let (off, set): (Vec<_>, Vec<_>) = self.settings.iter().partition(|(_, value)| value.is_empty());
        if !off.is_empty() {
            let names: Vec<&str> = off.iter().map(|(name, _)| name.as_str()).collect();
            writeln!(f, "switched off    {}", names.join(", "))?;
        }
        for (name, value) in set {
            writeln!(f, "setting         {name} = '{}'", show(value))?;
        }
        Ok(())
    }
}
