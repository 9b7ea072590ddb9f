//! The contract of restore_command: the whole file, checked to its last byte, or proof that the archive doesn't have it.
//! Everything else is an error, since the server takes "absent" for the end of WAL and promotes.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

use super::absence::{Proof, prove};
use super::deliver::deliver;
use super::failure::{GetError, SiteError};
use super::names::parse_listed;
use super::site::{GetContext, Rights};
use super::standing::Standing;
use super::take::longest;
use crate::pg::timeline::History;
use crate::pg::wal::{WalFileName, check_segment};
use crate::repo::RepoError;
use crate::repo::wal::{WalAddress, WalFront};
use crate::store::{ObjectName, Start, StoreError, seen_through};
use crate::units::{Hash32, with_causes};

/// How often a file that is pushed just now is looked for.
const LOOKS: u32 = 3;
/// So much of an object is fetched at once: nearly always all of it. What is planted under its name can't make it more.
const AT_ONCE: usize = 16 << 20;

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Got {
    /// The file is at the destination, durably.
    Delivered {
        /// Its length.
        plain: u64,
        /// What a person should hear.
        warnings: Vec<String>,
    },
    /// The archive doesn't have it, nor anything behind it.
    Absent,
}

/// A file out of the archive, every byte of it checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetched {
    /// The file.
    pub bytes: Vec<u8>,
    /// What a person should hear.
    pub warnings: Vec<String>,
}

/// Puts the archived file `name` at `dest`.
///
/// # Errors
/// See [`GetError`]; the destination is then as it was.
pub fn get(ctx: &GetContext<'_>, name: &str, dest: &Path) -> Result<Got, GetError> {
    let file: WalFileName = name.parse()?;
    match fetch(ctx, &file)? {
        None => Ok(Got::Absent),
        Some(Fetched { bytes, warnings }) => {
            deliver(dest, &bytes).map_err(|source| GetError::Write { path: dest.to_path_buf(), source })?;
            Ok(Got::Delivered { plain: bytes.len() as u64, warnings })
        }
    }
}

/// The archived file, into memory; `None`: it is proven absent.
///
/// # Errors
/// See [`GetError`].
pub fn fetch(ctx: &GetContext<'_>, file: &WalFileName) -> Result<Option<Fetched>, GetError> {
    for _ in 0..LOOKS {
        let mut search = Search::new(ctx, *file)?;
        if let Some(bytes) = search.find()? {
            return Ok(Some(Fetched { bytes, warnings: search.warnings }));
        }
        if let Some((object, why)) = search.unusable {
            return Err(GetError::Unusable { object, why });
        }
        match prove(ctx, &mut search.rights, file)? {
            Proof::Absent => {
                // The store is still the one that we think it is; and what went while it was looked for was there.
                let now = ctx.site.at_tail(&search.rights)?;
                let expired =
                    |rights: &Rights| matches!(file, WalFileName::Segment(name) if rights.is_expired(ctx.system_identifier, *name));
                if expired(&search.rights) || !expired(&now) {
                    return Ok(None);
                }
            }
            Proof::Appeared => {}
        }
    }
    Err(GetError::Undecided { name: *file, why: "it comes and goes".into() })
}

/// One file on its way out.
struct Search<'a> {
    ctx: &'a GetContext<'a>,
    file: WalFileName,
    address: WalAddress,
    rights: Rights,
    /// An object that counts and isn't whole, or bears no signature: the file is not absent.
    unusable: Option<(String, String)>,
    /// Content of an object that counts and isn't whole: only the same content may stand in for it.
    content: Option<Hash32>,
    /// The objects looked at.
    seen: BTreeSet<ObjectName>,
    warnings: Vec<String>,
    /// Its folder was listed a second time.
    again: bool,
}

impl<'a> Search<'a> {
    fn new(ctx: &'a GetContext<'a>, file: WalFileName) -> Result<Self, GetError> {
        let rights = match ctx.site.tail.just_read() {
            Some(rights) => rights,
            None => ctx.site.at_tail(&ctx.site.tail.known())?,
        };
        let address = ctx.site.address(ctx.system_identifier, &file);
        Ok(Search { ctx, file, address, rights, unusable: None, content: None, seen: BTreeSet::new(), warnings: Vec::new(), again: false })
    }

    fn start_of(&self, object: &ObjectName) -> Result<Option<Start>, GetError> {
        match self.ctx.site.backend.read_start(object, AT_ONCE) {
            Ok(start) => Ok(Some(start)),
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The first object of the name, which is nearly always the one, is looked up by itself. An absence is believed of a
    /// listing alone.
    fn find(&mut self) -> Result<Option<Vec<u8>>, GetError> {
        let first = self.address.object(0)?;
        if let Some(start) = self.start_of(&first)?
            && let Some(bytes) = self.consider(&first, start)?
        {
            return Ok(Some(bytes));
        }
        loop {
            for (object, _) in self.listed()? {
                if !self.seen.contains(&object)
                    && let Some(start) = self.start_of(&object)?
                    && let Some(bytes) = self.consider(&object, start)?
                {
                    return Ok(Some(bytes));
                }
            }
            // What is damaged may be stored once more, under a name that came damaged itself. That a file is absent is proved
            // by more than this.
            if self.unusable.is_none() || self.again || !self.ctx.site.backend.rereads() {
                return Ok(None);
            }
            self.again = true;
        }
    }

    /// The objects of this file's name as its folder lists them, in the order of variants.
    fn listed(&self) -> Result<Vec<(ObjectName, u64)>, GetError> {
        let mut found = Vec::new();
        self.ctx.site.list(&self.address.folder()?, &mut |listed| {
            if let Some(archived) = parse_listed(&listed.name).filter(|a| a.file == self.file) {
                found.push((archived.variant, listed.name, listed.size));
            }
            Ok(())
        })?;
        found.sort_by_key(|(variant, ..)| *variant);
        Ok(found.into_iter().map(|(_, name, size)| (name, size)).collect())
    }

    /// The file out of this object, if it counts and is whole; else what is wrong is kept.
    fn consider(&mut self, object: &ObjectName, start: Start) -> Result<Option<Vec<u8>>, GetError> {
        self.seen.insert(object.clone());
        let site = self.ctx.site;
        let front = site.front_of(object, &start)?;
        let front = match site.settle(&mut self.rights, &self.address, &self.file, object, &front)? {
            Standing::Valid(front) => front,
            Standing::NotEntitled => {
                self.warnings.push(format!("{object} is passed over: its key has no right to write it"));
                return Ok(None);
            }
            Standing::Unproven { why, .. } => {
                self.warnings.push(format!("{object} is passed over: {why}"));
                self.unusable.get_or_insert((object.to_string(), why));
                return Ok(None);
            }
        };
        if self.content.is_some_and(|content| content != front.meta.content) {
            return Ok(None);
        }
        self.note_head(object, &front)?;
        let damaged = |e: &GetError| matches!(e, GetError::Repo(e) if is_damage(e));
        // What was fetched first is tried once: afterwards the object is read again, and what lies beneath it.
        let mut start = Some(start);
        match seen_through(site.backend, object, damaged, || self.open(object, &front, start.take().as_ref())) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(GetError::Repo(e)) if is_damage(&e) => {
                let why = with_causes(&e);
                self.warnings.push(format!("{object} is passed over: {why}"));
                self.unusable = Some((object.to_string(), why));
                self.content = Some(front.meta.content);
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// An object that counts and names an entry that the log doesn't have: the log was set back, the WAL not.
    fn note_head(&mut self, object: &ObjectName, front: &WalFront) -> Result<(), SiteError> {
        if front.head.0 > self.rights.head.number {
            self.rights = self.ctx.site.at_tail(&self.rights)?;
        }
        if front.head.0 > self.rights.head.number {
            self.warnings.push(format!(
                "{object} names log/{}, and the log ends at {}: the repository's log was set back, or copied earlier than its WAL",
                front.head.0, self.rights.head.number
            ));
        }
        Ok(())
    }

    /// Opens the object, checks every byte of it, and that the file is what its name says.
    fn open(&self, object: &ObjectName, front: &WalFront, start: Option<&Start>) -> Result<Vec<u8>, GetError> {
        let most = longest(&self.file);
        if front.meta.len > most {
            return Err(RepoError::corrupt(object, "it is longer than any such file").into());
        }
        let len = usize::try_from(front.parts_len()).map_err(|_| RepoError::corrupt(object, "it is too long"))?;
        let fetched = start.zip(usize::try_from(front.parts_at()).ok()).and_then(|(start, at)| start.bytes.get(at..at.checked_add(len)?));
        let parts = match fetched {
            Some(parts) => Cow::Borrowed(parts),
            None => match self.ctx.site.backend.read_range(object, front.parts_at(), len) {
                Err(StoreError::Short { .. }) => return Err(RepoError::corrupt(object, "it ends too early").into()),
                other => Cow::Owned(other?),
            },
        };
        let bytes = front.open(self.ctx.opening, object, &parts)?;
        match &self.file {
            WalFileName::Segment(name) | WalFileName::Partial(name) => {
                check_segment(*name, &bytes, bytes.len() as u64, Some(self.ctx.system_identifier))
                    .map_err(|source| GetError::Segment { name: self.file, source })?;
            }
            WalFileName::History(timeline) => {
                History::parse(*timeline, &bytes).map_err(|source| GetError::History { name: self.file, source })?;
            }
            WalFileName::Backup { .. } => {}
        }
        Ok(bytes)
    }
}

/// Is it the object that is damaged, and not the store that failed or the key that is missing?
fn is_damage(error: &RepoError) -> bool {
    matches!(error, RepoError::Corrupt { .. } | RepoError::Crypt { .. } | RepoError::Codec { .. })
}
