//! Configuration files that lay outside the data directory: where their copies go, and what is changed in them, so that a
//! server started with them neither reads nor writes anything of the original's.
//!
//! The copies lie as the originals did, mirrored below one folder, beside the data directory (`DIR.config/`) or in it
//! (`restored.config/`). One small file includes them, and says the new places in their stead; the originals' places are
//! never written to.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::RestoreError;
use super::folders::{Folders, Rights, names, parent_of};
use super::place::check_free;
use crate::pg::config_files::{ANNEX, Language, MAX_ALL, MAX_FILE, MAX_FILES, Moved, PLACES};
use crate::pg::facts::{ClusterFacts, ConfigRole};
use crate::pg::recovery::quote_setting;
use crate::repo::structure::Snapshot;
use crate::units::Timestamp;
use crate::units::ids::unhex;

/// The folder in the data directory that copies go to.
const INSIDE: &str = "restored.config";
/// The file beside that the server is started with.
const MAIN: &str = "restored.conf";
/// Says whose the folder beside is.
const MARK: &str = "README.pgcairn";
/// Bytes of all copies: longer paths make them longer.
const MOST_WRITTEN: usize = 4 * MAX_ALL as usize;
const HEAD: &str = "# Written by pgcairn at restore. What it includes are copies of files that lay outside the data directory:\n\
                    # paths in them lead to this place, and settings that led to the original's are commented out.\n";
const README: &str = "Written by pgcairn at restore: copies of the configuration files that lay outside the data directory, each below the\n\
                      path that it had. Start the server with -c config_file=.../restored.conf (restore has printed the command).\n";

/// Where files go that lay outside the data directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ConfigFiles {
    /// To a folder beside it, `DIR.config`.
    #[default]
    Beside,
    /// Into it.
    Inside,
}

/// What becomes of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigurationPlan {
    /// Beside or inside.
    pub place: ConfigFiles,
    /// The folder with the copies: where they lie mirrored.
    pub folder: PathBuf,
    /// Number of copies.
    pub copies: usize,
    /// The file with which the server has to be started: that of the data directory is not the right one, or there is none.
    pub config_file: Option<PathBuf>,
    /// Settings that must not stand in postgresql.auto.conf.
    pub(super) without: Vec<&'static str>,
    /// Files by their path below the data directory (inside) or the folder (beside).
    pub(super) files: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Folders that have to be there, parents first, by their path below the same.
    pub(super) folders: BTreeSet<Vec<u8>>,
}

impl ConfigurationPlan {
    /// Is a file of the snapshot replaced by one of these? By its path below the data directory.
    pub(super) fn replaces(&self, path: &[u8]) -> bool {
        self.place == ConfigFiles::Inside && self.files.contains_key(path)
    }
}

/// Plans it; `None` where nothing lay outside.
///
/// # Errors
/// If the files can't be read, their paths are none, or there is no place for them.
pub(super) fn plan(
    facts: &ClusterFacts,
    snapshot: &Snapshot<'_>,
    target: &Path,
    place: ConfigFiles,
) -> Result<Option<ConfigurationPlan>, RestoreError> {
    let Some(found) = facts.configuration.as_ref().filter(|c| !c.files.is_empty()) else { return Ok(None) };
    let too_much = || RestoreError::corrupt(ANNEX.as_bytes(), "there are more, or larger, configuration files than anyone has");
    if found.files.len() > MAX_FILES || found.folders.len() > MAX_FILES {
        return Err(too_much());
    }
    let contents = contents(snapshot)?;
    let folder = match place {
        ConfigFiles::Beside => beside(target),
        ConfigFiles::Inside => target.join(INSIDE),
    };
    let root = if place == ConfigFiles::Beside { &folder } else { target };
    check_place(snapshot, &folder, place)?;
    let without = settings_of_the_original(facts, target);
    let moved = Moved { root: folder.clone(), without: without.clone() };
    let (mut files, mut tops) = (BTreeMap::new(), BTreeMap::new());
    let mut put = |place: &Path, bytes: Vec<u8>| {
        let path = place.strip_prefix(root).map_err(|_| RestoreError::Internal("a configuration file without a place"))?;
        let path = path.as_os_str().as_bytes().to_vec();
        names(&path)?;
        if files.insert(path.clone(), bytes).is_some() {
            return Err(RestoreError::corrupt(&path, "a configuration file is named twice"));
        }
        Ok(())
    };
    let mut left = MOST_WRITTEN;
    for file in &found.files {
        let original = original(&file.path, file.path_bytes.as_deref())?;
        let bytes = contents.get(file.file.as_bytes());
        let bytes = bytes.ok_or_else(|| RestoreError::corrupt(file.path.as_bytes(), "the configuration file is not in the snapshot"))?;
        // Inside, the server finds the others by their usual names, wherever the folder is moved to.
        let at = match (place, file.top, file.role) {
            (ConfigFiles::Inside, true, role) if role != ConfigRole::Config => target.join(role.default_name()),
            _ => moved.place(&original),
        };
        let language = match file.role {
            _ if file.names => Language::Names,
            ConfigRole::Config => Language::Settings,
            _ => Language::Columns,
        };
        let bytes = moved.rewrite(language, &original, &at, bytes);
        left = left.checked_sub(bytes.len()).ok_or_else(too_much)?;
        put(&at, bytes)?;
        if file.top {
            tops.insert(file.role, at);
        }
    }
    let config_file = match (tops.get(&ConfigRole::Config), place) {
        (Some(main), ConfigFiles::Beside) => {
            put(&folder.join(MAIN), main_file(main, &folder, &tops, Some(target))?)?;
            put(&folder.join(MARK), README.into())?;
            Some(folder.join(MAIN))
        }
        (Some(main), ConfigFiles::Inside) => {
            put(&target.join(ConfigRole::Config.default_name()), main_file(main, target, &tops, None)?)?;
            None
        }
        (None, ConfigFiles::Beside) => {
            put(&folder.join(MARK), README.into())?;
            None
        }
        (None, ConfigFiles::Inside) => None,
    };
    let mut folders = Vec::new();
    for folder in &found.folders {
        let place = moved.place(&original(&folder.path, folder.path_bytes.as_deref())?);
        folders.extend(place.strip_prefix(root).ok().map(|path| path.as_os_str().as_bytes().to_vec()));
    }
    let folders = folders_above(folders.iter().map(Vec::as_slice), files.keys().map(Vec::as_slice));
    if let Some(both) = folders.iter().find(|folder| files.contains_key(*folder)) {
        return Err(RestoreError::corrupt(both, "a configuration file lies where others lie below it"));
    }
    let without = if tops.contains_key(&ConfigRole::Config) { without } else { Vec::new() };
    Ok(Some(ConfigurationPlan { place, folder, copies: found.files.len(), config_file, without, files, folders }))
}

/// `DIR.config`.
fn beside(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".config");
    name.into()
}

/// The files of the annex by their names there.
fn contents(snapshot: &Snapshot<'_>) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, RestoreError> {
    let (mut contents, mut left) = (BTreeMap::new(), MAX_ALL);
    for file in snapshot.annex(ANNEX, MAX_FILES)? {
        let bytes = snapshot.read_file(&file, MAX_FILE.min(left))?;
        left = left.saturating_sub(bytes.len() as u64);
        contents.insert(file.attributes.name, bytes);
    }
    Ok(contents)
}

/// Where a file lay: an absolute path that leads nowhere but down.
fn original(path: &str, path_bytes: Option<&str>) -> Result<PathBuf, RestoreError> {
    let corrupt =
        || RestoreError::corrupt(path.as_bytes().get(..100).unwrap_or(path.as_bytes()), "this is no path of a configuration file");
    let bytes = match path_bytes {
        Some(hex) => unhex(hex).ok_or_else(corrupt)?,
        None => path.as_bytes().to_vec(),
    };
    let below = bytes.strip_prefix(b"/").filter(|below| !below.is_empty()).ok_or_else(corrupt)?;
    names(below)?;
    Ok(PathBuf::from(OsStr::from_bytes(&bytes)))
}

/// Is there room for the folder, and nothing of anybody's?
fn check_place(snapshot: &Snapshot<'_>, folder: &Path, place: ConfigFiles) -> Result<(), RestoreError> {
    match place {
        ConfigFiles::Beside if is_ours(folder) => Ok(()),
        ConfigFiles::Beside => check_free_beside(folder),
        ConfigFiles::Inside if snapshot.meta().folders.iter().any(|f| f.path == INSIDE.as_bytes()) => {
            let source = RestoreError::NotEmpty { folder: folder.to_owned(), found: "files of the snapshot".into() };
            Err(RestoreError::ConfigPlace { folder: folder.to_owned(), source: Box::new(source) })
        }
        ConfigFiles::Inside => Ok(()),
    }
}

fn check_free_beside(folder: &Path) -> Result<(), RestoreError> {
    let is_link = fs::symlink_metadata(folder).is_ok_and(|m| m.is_symlink());
    let free = if is_link { Err(RestoreError::NoFolder { path: folder.to_owned() }) } else { check_free(folder) };
    free.map_err(|source| RestoreError::ConfigPlace { folder: folder.to_owned(), source: Box::new(source) })
}

/// Has an earlier restore written it?
fn is_ours(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|m| m.is_dir()) && fs::symlink_metadata(folder.join(MARK)).is_ok_and(|m| m.is_file())
}

/// Settings whose lines are commented out: they name places of the original's.
fn settings_of_the_original(facts: &ClusterFacts, target: &Path) -> Vec<&'static str> {
    let original = Path::new(&facts.data_directory);
    let outside = |name: &str| {
        let value = facts.settings.get(name).map(|value| original.join(value));
        value.is_some_and(|value| !value.starts_with(original))
    };
    let mut without = PLACES.to_vec();
    // Two servers must not write the same logs or statistics; the one that takes the original's place goes on with its own.
    without.extend(["log_directory", "stats_temp_directory"].into_iter().filter(|name| target != original && outside(name)));
    without
}

/// The file that includes the copies and names their places. `data` is the data directory, where it lies elsewhere.
fn main_file(main: &Path, folder: &Path, tops: &BTreeMap<ConfigRole, PathBuf>, data: Option<&Path>) -> Result<Vec<u8>, RestoreError> {
    let mut out = HEAD.as_bytes().to_vec();
    let mut line = |name: &str, value: &Path| {
        out.extend_from_slice(name.as_bytes());
        out.extend(quote_setting(value.as_os_str().as_bytes()).map_err(RestoreError::Recovery)?);
        out.push(b'\n');
        Ok::<_, RestoreError>(())
    };
    line("include ", main.strip_prefix(folder).unwrap_or(main))?;
    if let Some(data) = data {
        line("data_directory = ", data)?;
        for (role, place) in tops.iter().filter(|(role, _)| **role != ConfigRole::Config) {
            line(&format!("{} = ", role.setting()), place)?;
        }
    }
    Ok(out)
}

/// These folders, and those that files lie in, with all above them.
fn folders_above<'p>(folders: impl Iterator<Item = &'p [u8]>, files: impl Iterator<Item = &'p [u8]>) -> BTreeSet<Vec<u8>> {
    let mut all = BTreeSet::new();
    for mut folder in folders.chain(files.map(parent_of)) {
        while !folder.is_empty() && all.insert(folder.to_vec()) {
            folder = parent_of(folder);
        }
    }
    all
}

/// Writes the folder beside, durable. One of an earlier restore is kept under another name.
pub(super) fn write_beside(plan: &ConfigurationPlan, rights: Rights, owner: Option<(u32, u32)>) -> Result<(), RestoreError> {
    if is_ours(&plan.folder) {
        let mut old = plan.folder.as_os_str().to_owned();
        old.push(format!(".old-{}", Timestamp::now().compact()));
        match fs::rename(&plan.folder, &old) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(RestoreError::io(format!("renaming {}", plan.folder.display()))(e)),
            _ => {}
        }
    }
    check_free_beside(&plan.folder)?;
    let folders = Folders::open(&plan.folder, &BTreeMap::new(), owner)?;
    let folder_rights = Rights { mode: 0o700 | if rights.mode & 0o040 == 0 { 0 } else { 0o050 }, ..rights };
    folders.make(b"", folder_rights)?;
    for folder in &plan.folders {
        folders.make(folder, folder_rights)?;
    }
    for (path, bytes) in &plan.files {
        let opened = folders.folder(parent_of(path))?;
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or(path);
        let mut file = folders.create(opened.as_fd(), name, path, rights)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(RestoreError::io(format!("writing {}", folders.shown(path))))?;
    }
    folders.sync(std::iter::once(b"".as_slice()).chain(plan.folders.iter().map(Vec::as_slice)))
}
