//! `pgcairn.restore`: what says of a data directory that a restore into it has begun and not ended. It is the first thing
//! that is written and the last that goes, so that a restore which was interrupted anywhere can be continued: without
//! pg_control nothing else tells whose data directory this is.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::RestoreError;
use super::folders::read_small;
use super::plan::RestorePlan;
use crate::units::SegmentName;
use crate::units::ids::{hex, unhex};

/// Its name in the data directory.
pub const MARKER: &str = "pgcairn.restore";
/// The longest that is read.
const MAX_LEN: u64 = 1 << 20;
const VERSION: u32 = 1;

/// What a restore under way says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Marker {
    /// The snapshot that is restored.
    pub snapshot: String,
    /// Whose it is.
    pub system_identifier: u64,
    /// The folders of tablespaces, by oid: their links come later.
    pub tablespaces: Vec<(u32, PathBuf)>,
    /// Where WAL was saved that the archive doesn't have.
    pub wal_saved: Option<PathBuf>,
    /// The unfinished last segment among it, if it belongs into the restored pg_wal.
    pub tail: Option<SegmentName>,
}

#[derive(Serialize, Deserialize)]
struct Text {
    version: u32,
    what: String,
    snapshot: String,
    system_identifier: String,
    #[serde(default)]
    tablespaces: Vec<Tablespace>,
    #[serde(default)]
    wal_saved: Option<Place>,
    #[serde(default)]
    tail: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Tablespace {
    oid: u32,
    #[serde(flatten)]
    place: Place,
}

/// A path for people; hex of its bytes beside it where they are no UTF-8.
#[derive(Serialize, Deserialize)]
struct Place {
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
}

impl Place {
    fn of(path: &Path) -> Self {
        let path_bytes = path.to_str().is_none().then(|| hex(path.as_os_str().as_bytes()));
        Place { path: path.to_string_lossy().into_owned(), path_bytes }
    }

    fn path(self) -> Option<PathBuf> {
        match self.path_bytes {
            Some(bytes) => unhex(&bytes).map(|bytes| PathBuf::from(OsString::from_vec(bytes))),
            None => Some(PathBuf::from(self.path)),
        }
    }
}

impl Marker {
    /// Of a restore by this plan.
    pub(super) fn of(plan: &RestorePlan) -> Self {
        Marker {
            snapshot: plan.snapshot.clone(),
            system_identifier: plan.facts.system_identifier,
            tablespaces: plan.spaces().into_iter().collect(),
            wal_saved: plan.wal_saved.clone(),
            tail: plan.tail.as_ref().map(|(name, _)| *name),
        }
    }

    /// As the file holds it.
    pub(super) fn encode(&self) -> Vec<u8> {
        let text = Text {
            version: VERSION,
            what: "a restore into this folder has not ended: go on with pgcairn restore --delta; no server starts from it".into(),
            snapshot: self.snapshot.clone(),
            system_identifier: self.system_identifier.to_string(),
            tablespaces: self.tablespaces.iter().map(|(oid, place)| Tablespace { oid: *oid, place: Place::of(place) }).collect(),
            wal_saved: self.wal_saved.as_deref().map(Place::of),
            tail: self.tail.map(|tail| tail.to_string()),
        };
        let mut bytes = serde_json::to_vec_pretty(&text).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let text: Text = serde_json::from_slice(bytes).ok().filter(|text: &Text| text.version == VERSION)?;
        Some(Marker {
            snapshot: text.snapshot,
            system_identifier: text.system_identifier.parse().ok()?,
            tablespaces: text.tablespaces.into_iter().map(|t| Some((t.oid, t.place.path()?))).collect::<Option<_>>()?,
            wal_saved: match text.wal_saved {
                Some(place) => Some(place.path()?),
                None => None,
            },
            tail: match text.tail {
                Some(tail) => Some(tail.parse().ok()?),
                None => None,
            },
        })
    }

    /// That of a data directory; `None` if it has none.
    ///
    /// # Errors
    /// If it is there and can't be read: [`RestoreError::BadMarker`] where it says nothing that we understand.
    pub fn read(data: &Path) -> Result<Option<Self>, RestoreError> {
        let path = data.join(MARKER);
        match read_small(&path, MAX_LEN) {
            Ok(bytes) => Marker::decode(&bytes).map(Some).ok_or(RestoreError::BadMarker { path }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(RestoreError::io(format!("reading {}", path.display()))(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path() -> impl Strategy<Value = PathBuf> {
        prop::collection::vec(1u8.., 1..30).prop_map(|bytes| PathBuf::from(OsString::from_vec(bytes)))
    }

    proptest! {
        #[test]
        fn markers_survive(snapshot in "[0-9a-f-]{1,30}", system_identifier: u64, tablespaces in prop::collection::vec((any::<u32>(), path()), 0..4),
                           wal_saved in prop::option::of(path()), tail: bool) {
            let tail = tail.then(|| "00000001000000000000000A".parse().unwrap());
            let marker = Marker { snapshot, system_identifier, tablespaces, wal_saved, tail };
            prop_assert_eq!(Marker::decode(&marker.encode()), Some(marker));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = Marker::decode(&bytes);
        }
    }

    #[test]
    fn what_is_no_marker_is_refused_and_no_link_is_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join(MARKER);
        assert_eq!(Marker::read(scratch.path()).unwrap(), None);
        for bad in [
            "",
            "{}",
            "rubbish",
            r#"{"version":2,"what":"","snapshot":"x","system_identifier":"1"}"#,
            r#"{"version":1,"what":"","snapshot":"x","system_identifier":"x"}"#,
        ] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(Marker::read(scratch.path()), Err(RestoreError::BadMarker { .. })), "{bad}");
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::write(scratch.path().join("elsewhere"), "x").unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(matches!(Marker::read(scratch.path()), Err(RestoreError::Io { .. })));
    }
}
