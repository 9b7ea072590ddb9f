//! What stands in a folder that a restore is to go into: nothing, this cluster's data directory, a restore that was
//! interrupted, or something that must not be touched.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::RestoreError;
use super::folders::{read_small, something_in};
use super::marker::Marker;
use super::rescue::LocalWal;
use crate::pg::ControlFile;
use crate::pg::control_file::FILE_SIZE;

/// A data directory that is there already, or what an interrupted restore left of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Existing {
    /// Whose it is, by pg_control, or by the marker of a restore.
    pub system_identifier: u64,
    /// It has a pg_control: a server could start from it.
    pub has_control: bool,
    /// A restore into it has begun and not ended.
    pub marker: Option<Marker>,
    /// Where its tablespaces lie, by oid: what the links lead to, as they are written.
    pub links: BTreeMap<u32, PathBuf>,
    /// Its pg_wal.
    pub wal: LocalWal,
    /// Its pg_control, byte for byte: every server that starts writes it before any WAL.
    control: Option<Vec<u8>>,
}

impl Existing {
    /// Looks at a folder; `None` if it isn't there or is empty.
    ///
    /// # Errors
    /// [`RestoreError::NoDataDirectory`] if it is something else; or what kept it from looking.
    pub fn look(folder: &Path) -> Result<Option<Self>, RestoreError> {
        let reading = || RestoreError::io(format!("reading {}", folder.display()));
        match fs::metadata(folder) {
            Ok(m) if m.is_dir() => {}
            Ok(_) => return Err(RestoreError::NoFolder { path: folder.to_owned() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(reading()(e)),
        }
        let Some(found) = something_in(folder).map_err(reading())? else { return Ok(None) };
        let marker = Marker::read(folder)?;
        let control = read_control(folder, "pg_control")?;
        let has_control = control.is_some();
        let of_control = match (&control, &marker) {
            // Damaged or not: the marker says whose it is.
            (Some(bytes), Some(_)) => identifier(folder, bytes).ok(),
            (Some(bytes), None) => Some(identifier(folder, bytes)?),
            (None, _) => None,
        };
        let system_identifier = match (of_control, &marker) {
            (Some(own), Some(marker)) if own != marker.system_identifier => {
                return Err(RestoreError::ForeignCluster { folder: folder.to_owned(), expected: marker.system_identifier, found: own });
            }
            (Some(own), _) => own,
            (None, Some(marker)) => marker.system_identifier,
            (None, None) => return Err(RestoreError::NoDataDirectory { folder: folder.to_owned(), found }),
        };
        let (links, wal) = (links(folder)?, LocalWal::look(folder)?);
        Ok(Some(Existing { system_identifier, has_control, marker, links, wal, control }))
    }

    /// Is the folder still what it was when it was looked at?
    ///
    /// # Errors
    /// [`RestoreError::Changed`], or what kept it from looking.
    pub(super) fn check_unchanged(&self, folder: &Path) -> Result<(), RestoreError> {
        let of = |existing: &Existing| (existing.system_identifier, existing.has_control, existing.marker.clone(), existing.links.clone());
        match Existing::look(folder)? {
            Some(now) if of(&now) == of(self) => Ok(()),
            _ => Err(RestoreError::Changed { folder: folder.to_owned() }),
        }
    }

    /// Is there any WAL that wasn't there at the look? `control` is what pg_control is called now, in `global`.
    ///
    /// # Errors
    /// [`RestoreError::ServerRan`], or what kept it from looking.
    pub(super) fn check_no_server_ran(&self, folder: &Path, control: &str) -> Result<(), RestoreError> {
        let ran = |what: String| RestoreError::ServerRan { folder: folder.to_owned(), what };
        if let Some(file) = self.wal.differs(&LocalWal::look(folder)?) {
            return Err(ran(file));
        }
        // The clock of this file system may be coarse. But a server writes pg_control when it starts, before any WAL.
        match self.has_control && read_control(folder, control)? != self.control {
            true => Err(ran("global/pg_control".into())),
            false => Ok(()),
        }
    }

    /// Is a folder the place of this tablespace, by what the data directory itself says?
    pub(super) fn leads_to(&self, oid: u32, place: &Path) -> bool {
        let linked = self.links.get(&oid).and_then(|to| fs::canonicalize(to).ok());
        self.notes(oid, place) || linked.as_deref() == Some(place)
    }

    /// Was it the place of this tablespace in the restore that was interrupted?
    pub(super) fn notes(&self, oid: u32, place: &Path) -> bool {
        self.marker.iter().flat_map(|m| &m.tablespaces).any(|(noted, at)| *noted == oid && at == place)
    }
}

fn read_control(folder: &Path, name: &str) -> Result<Option<Vec<u8>>, RestoreError> {
    let path = folder.join("global").join(name);
    match read_small(&path, FILE_SIZE as u64) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(RestoreError::io(format!("reading {}", path.display()))(e)),
    }
}

/// The identifier in a pg_control. One that is damaged tells nothing for sure: it may be anybody's.
fn identifier(folder: &Path, bytes: &[u8]) -> Result<u64, RestoreError> {
    ControlFile::parse(bytes)
        .map(|control| control.system_identifier)
        .map_err(|e| RestoreError::BadControl { folder: folder.to_owned(), why: e.to_string() })
}

fn links(folder: &Path) -> Result<BTreeMap<u32, PathBuf>, RestoreError> {
    let spaces = folder.join("pg_tblspc");
    let mut links = BTreeMap::new();
    let entries = match fs::read_dir(&spaces) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(links),
        Err(e) => return Err(RestoreError::io(format!("reading {}", spaces.display()))(e)),
    };
    for entry in entries {
        let entry = entry.map_err(RestoreError::io(format!("reading {}", spaces.display())))?;
        let oid = std::str::from_utf8(entry.file_name().as_bytes()).ok().and_then(|name| name.parse().ok());
        if let (Some(oid), Ok(to)) = (oid, fs::read_link(entry.path())) {
            links.insert(oid, to);
        }
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::marker::MARKER;
    use crate::units::{Class, Explain};

    const CONTROL: &[u8] = include_bytes!("../../tests/fixtures/pg/18/pg_control");

    fn own() -> u64 {
        ControlFile::parse(CONTROL).unwrap().system_identifier
    }

    fn marker(system_identifier: u64) -> Marker {
        Marker { snapshot: "x".into(), system_identifier, tablespaces: vec![(5, "/space".into())], wal_saved: None, tail: None }
    }

    #[test]
    fn what_stands_there_is_told_apart() {
        let scratch = tempfile::tempdir().unwrap();
        let data = scratch.path().join("data");
        assert_eq!(Existing::look(&data).unwrap(), None);
        fs::create_dir(&data).unwrap();
        fs::write(data.join(".pgcairn-lock"), "").unwrap();
        assert_eq!(Existing::look(&data).unwrap(), None, "a lock alone is nothing");
        fs::create_dir(data.join("global")).unwrap();
        let error = Existing::look(&data).unwrap_err();
        assert!(matches!(&error, RestoreError::NoDataDirectory { found, .. } if found == "global") && error.class() == Class::Refused);
        fs::write(data.join("global/pg_control"), CONTROL).unwrap();
        let found = Existing::look(&data).unwrap().unwrap();
        assert_eq!((found.system_identifier, found.has_control, found.marker), (own(), true, None));
        // Interrupted: the marker speaks for it, and pg_control must not say otherwise.
        fs::write(data.join(MARKER), marker(own()).encode()).unwrap();
        assert_eq!(Existing::look(&data).unwrap().unwrap().marker, Some(marker(own())));
        fs::write(data.join(MARKER), marker(7).encode()).unwrap();
        assert!(matches!(Existing::look(&data), Err(RestoreError::ForeignCluster { expected: 7, .. })));
        fs::remove_file(data.join("global/pg_control")).unwrap();
        let found = Existing::look(&data).unwrap().unwrap();
        assert_eq!((found.system_identifier, found.has_control), (7, false));
        fs::remove_file(data.join(MARKER)).unwrap();
        let mut torn = CONTROL.to_vec();
        torn[40] ^= 1;
        fs::write(data.join("global/pg_control"), torn).unwrap();
        let error = Existing::look(&data).unwrap_err();
        assert!(matches!(error, RestoreError::BadControl { .. }) && error.class() == Class::Refused && error.cure().is_some());
        assert!(matches!(Existing::look(&data.join("global/pg_control")), Err(RestoreError::NoFolder { .. })));
    }

    #[test]
    fn tablespaces_are_known_by_link_or_by_marker() {
        let scratch = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(scratch.path()).unwrap();
        let data = root.join("data");
        fs::create_dir_all(data.join("global")).unwrap();
        fs::create_dir_all(data.join("pg_tblspc/7")).unwrap();
        fs::create_dir(root.join("space")).unwrap();
        fs::write(data.join("global/pg_control"), CONTROL).unwrap();
        fs::write(data.join(MARKER), marker(own()).encode()).unwrap();
        std::os::unix::fs::symlink(root.join("space"), data.join("pg_tblspc/6")).unwrap();
        let found = Existing::look(&data).unwrap().unwrap();
        let places = [(5, PathBuf::from("/space")), (6, root.join("space")), (6, "/space".into()), (7, root.join("space"))];
        assert_eq!(places.map(|(oid, place)| found.leads_to(oid, &place)), [true, true, false, false]);
    }
}
