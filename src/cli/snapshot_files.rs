//! What `ls`, `cat` and `diff` have in common: a snapshot, open, and its files as JSON.

use serde::Serialize;

use super::clusters;
use super::context::Context;
use super::failure::Failure;
use crate::host::access::Opened;
use crate::look::{self, Listed, SnapshotName, Tree, show_path};
use crate::repo::log::LogView;
use crate::repo::pack::Packs;
use crate::repo::structure::Snapshot;
use crate::units::Progress;
use crate::units::ids::hex;

/// A snapshot with the packs that its COMMIT names.
pub(super) struct Chosen<'f> {
    pub listed: Listed<'f>,
    pub packs: Packs,
}

impl<'f> Chosen<'f> {
    /// The one that a user means.
    pub fn find(context: &Context, opened: &Opened, view: &'f LogView, name: &SnapshotName) -> Result<Self, Failure> {
        let listed = clusters::find(context, view, name)?;
        Ok(Chosen { listed, packs: opened.packs_of(&view.fold, listed.commit)? })
    }

    /// Its root.
    pub fn open<'a>(&'a self, opened: &'a Opened) -> Result<Snapshot<'a>, Failure> {
        Ok(look::open_snapshot(&self.packs, opened.reader()?, &self.listed)?)
    }

    /// Its files. Names of relations are for people: it goes on without.
    pub fn tree<'a>(&self, context: &Context, snapshot: &'a Snapshot<'a>) -> Result<Tree<'a>, Failure> {
        let tree = Tree::of(snapshot, self.listed.id())?;
        if let Some(lost) = &tree.names_lost {
            context.reporter.warn(&format!("which relations the files of {} belong to can't be read: {lost}", self.listed.id()));
        }
        Ok(tree)
    }
}

/// A path; its bytes in hex beside it where they are no UTF-8.
#[derive(Serialize)]
pub(super) struct PathJson {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
}

impl PathJson {
    pub fn of(path: &[u8]) -> Self {
        match std::str::from_utf8(path) {
            Ok(text) => PathJson { path: text.to_owned(), path_bytes: None },
            Err(_) => PathJson { path: show_path(path), path_bytes: Some(hex(path)) },
        }
    }
}
