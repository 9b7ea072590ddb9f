//! The contract of archive_command: success means that the file is durable in the archive and counts there; the same file
//! again is success, another one under the same name is refused, and nothing is ever overwritten.
//!
//! The order: read and check the file; create the object, or find out what has its name; *then* look whether the log is
//! still where it was, since a right that ended before the object was there doesn't cover it. Before a file is stored that
//! would begin another timeline, `fork/` says whether that is the cluster's.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::path::Path;

use super::facts::FileFacts;
use super::failure::PushError;
use super::fork::Guard;
use super::site::{Rights, Site};
use super::standing::Standing;
use super::take::{check, control_path, identifier_of, read_file};
use crate::crypt::sign::SigningKey;
use crate::host::access::process_tag;
use crate::pg::wal::{SegmentHeader, WalFileName};
use crate::repo::wal::{self, MAX_OBJECT, MAX_VARIANTS, WalAddress, WalFront, WalOrigin};
use crate::store::{Create, ObjectName, SessionTag, StoreError};
use crate::units::{Hash32, Timestamp};

/// What a push works with.
pub struct PushContext<'a> {
    /// The archive.
    pub site: Site<'a>,
    /// This host's key.
    pub signer: &'a SigningKey,
    /// The data directory: as configured, else the working folder, which archive_command runs in.
    pub pgdata: &'a Path,
    /// Level of zstd.
    pub level: i32,
    /// The time, by this host's clock.
    pub now: Timestamp,
}

/// A file that is durable in the archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pushed {
    /// Its name.
    pub name: WalFileName,
    /// It was there already, with the same bytes.
    pub already_there: bool,
    /// The object.
    pub object: String,
    /// Plain bytes.
    pub plain: u64,
    /// Bytes that this push stored.
    pub stored: u64,
    /// What was recorded of it.
    pub facts: FileFacts,
    /// What a person should hear.
    pub warnings: Vec<String>,
}

/// Archives the file at `path`.
///
/// # Errors
/// Whatever keeps it from being durable, or from counting; the server then tries again.
pub fn push(ctx: &PushContext<'_>, path: &Path) -> Result<Pushed, PushError> {
    let name: WalFileName = match path.file_name().map(|n| n.to_str().map(str::parse)) {
        Some(Some(name)) => name?,
        _ => return Err(PushError::NoName { path: path.to_path_buf() }),
    };
    let bytes = read_file(path, &name)?;
    let mut rights = ctx.site.tail.known();
    ctx.need_right(&mut rights)?;
    let identifier = ctx.identifier(&mut rights, &name, &bytes)?;
    let mut taken = check(path, &name, &bytes, identifier)?;
    taken.facts.pushed_at = Some(ctx.now);
    let job =
        Job { ctx, path, name, address: ctx.site.address(identifier, &name), content: wal::content_id(ctx.site.sealing, &bytes), bytes };
    let mut pushed = job.store(&mut rights, taken.facts)?;
    pushed.warnings.extend(taken.warning);
    let after = ctx.site.at_tail(&rights)?;
    if !after.may_write(&ctx.signer.id(), ctx.site.cluster) {
        return Err(PushError::NoRight { cluster: ctx.site.cluster.to_owned() });
    }
    ctx.accept(&after, identifier).map(|()| pushed)
}

impl PushContext<'_> {
    fn need_right(&self, rights: &mut Rights) -> Result<(), PushError> {
        let site = &self.site;
        if !rights.may_write(&self.signer.id(), site.cluster) {
            *rights = site.at_tail(rights)?;
        }
        if rights.may_write(&self.signer.id(), site.cluster) {
            Ok(())
        } else {
            Err(PushError::NoRight { cluster: site.cluster.to_owned() })
        }
    }

    /// The system identifier of the cluster to which the file must belong: that of its newest BEGIN, before the first
    /// that of the data directory. The log is read to the tail before a file is refused for it.
    fn identifier(&self, rights: &mut Rights, name: &WalFileName, bytes: &[u8]) -> Result<u64, PushError> {
        let own = match name {
            WalFileName::Segment(_) | WalFileName::Partial(_) => SegmentHeader::parse(bytes).ok().map(|h| h.system_identifier),
            WalFileName::History(_) | WalFileName::Backup { .. } => None,
        };
        let Some(known) = rights.system_identifier else {
            return identifier_of(self.pgdata)?.map_err(|source| PushError::NoIdentifier {
                cluster: self.site.cluster.to_owned(),
                path: control_path(self.pgdata),
                source,
            });
        };
        // What has no header is refused if it comes out of another cluster's data directory, where that can be told.
        let directory = || identifier_of(self.pgdata).ok().and_then(Result::ok);
        let claimed = own.or_else(directory).unwrap_or(known);
        if claimed == known {
            return Ok(known);
        }
        *rights = self.site.at_tail(rights)?;
        match own {
            // A header that names another cluster is refused where the segment is checked.
            Some(_) => Ok(rights.system_identifier.unwrap_or(known)),
            None => self.accept(rights, claimed).map(|()| claimed),
        }
    }

    /// Is this still the identifier of the cluster's newest BEGIN?
    fn accept(&self, rights: &Rights, identifier: u64) -> Result<(), PushError> {
        match rights.system_identifier {
            Some(expected) if expected != identifier => Err(PushError::ForeignDirectory {
                pgdata: self.pgdata.to_path_buf(),
                cluster: self.site.cluster.to_owned(),
                expected,
                found: identifier,
            }),
            _ => Ok(()),
        }
    }
}

/// One file on its way into the archive.
struct Job<'a> {
    ctx: &'a PushContext<'a>,
    path: &'a Path,
    name: WalFileName,
    address: WalAddress,
    content: Hash32,
    bytes: Vec<u8>,
}

impl Job<'_> {
    /// Creates the object under the first name that no valid object has, or finds the same file there.
    fn store(&self, rights: &mut Rights, facts: FileFacts) -> Result<Pushed, PushError> {
        let tag = process_tag()?;
        let pushed = |object: &ObjectName, stored: u64, warnings| Pushed {
            name: self.name,
            already_there: stored == 0,
            object: object.to_string(),
            plain: self.bytes.len() as u64,
            stored,
            facts: facts.clone(),
            warnings,
        };
        let mut warnings = Vec::new();
        let mut parts = None;
        for variant in 0..MAX_VARIANTS {
            let object = self.address.object(variant)?;
            // A repeated push, and one of the same file by another host, end here without encoding anything. A service that
            // wants to be paid for each request is rather asked once: nearly always the file is new, unless the primary
            // archives it, too, or it came out of the archive (archive_mode = always).
            let recovers = || ["standby.signal", "recovery.signal"].iter().any(|file| self.ctx.pgdata.join(file).exists());
            let paid = variant == 0 && self.ctx.site.backend.requests().is_some();
            let at_once = paid && self.guard(&facts, &tag).is_needless() && !recovers();
            let mut there = if at_once { None } else { size_if_there(self.ctx.site, &object)? };
            if there.is_none() {
                let parts = match &mut parts {
                    Some(parts) => parts,
                    // What is there stays; what is new may be the beginning of a line that isn't this cluster's.
                    none => {
                        if let Some(history) = self.guard(&facts, &tag).check(rights)? {
                            let history = push(self.ctx, &history)?;
                            warnings.push(format!("{} was not archived before its first segment: it is now", history.name));
                        }
                        none.insert(self.encode(rights, &facts)?)
                    }
                };
                let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
                match self.ctx.site.backend.create(&object, &parts, &tag)? {
                    Create::Created | Create::Same => {
                        return Ok(pushed(&object, parts.iter().map(|p| p.len() as u64).sum(), warnings));
                    }
                    Create::Other => there = Some(self.ctx.site.backend.size(&object)?),
                }
            }
            let size = there.unwrap_or_default();
            match self.look(rights, &object, size, &tag)? {
                Found::SameBytes => return Ok(pushed(&object, 0, warnings)),
                Found::Unusable(why) => warnings.push(format!("{object} is passed over: {why}")),
            }
        }
        Err(PushError::Variants { name: self.name, count: MAX_VARIANTS })
    }

    fn guard<'g>(&'g self, facts: &'g FileFacts, tag: &'g SessionTag) -> Guard<'g> {
        let PushContext { site, signer, now, .. } = *self.ctx;
        Guard {
            site,
            signer: signer.id(),
            now,
            system_identifier: self.address.system_identifier,
            name: self.name,
            path: self.path,
            facts,
            tag,
        }
    }

    fn encode(&self, rights: &Rights, facts: &FileFacts) -> Result<Vec<Vec<u8>>, PushError> {
        let origin = WalOrigin {
            repository: self.ctx.site.repository,
            signer: self.ctx.signer,
            head: (rights.head.number, rights.head.hash),
            address: &self.address,
            facts: facts.to_value(),
        };
        Ok(wal::encode(self.ctx.site.sealing, origin, &self.bytes, self.ctx.level)?)
    }

    /// What is it that has the name?
    fn look(&self, rights: &mut Rights, object: &ObjectName, size: u64, tag: &SessionTag) -> Result<Found, PushError> {
        let site = self.ctx.site;
        let front = site.read_front(object, size)?;
        match site.settle(rights, &self.address, &self.name, object, &front)? {
            Standing::Valid(front) if front.meta.content == self.content => self.confirm(object, &front, tag),
            Standing::Valid(front) => {
                let own = front.signer == self.ctx.signer.id();
                Err(PushError::OtherBytes { name: self.name, object: object.to_string(), own })
            }
            Standing::NotEntitled => Ok(Found::Unusable("its key has no right to write it".into())),
            Standing::Unproven { why, .. } => Ok(Found::Unusable(why)),
        }
    }

    /// The server forgets the segment when we say that it is archived: so the object that is there is read, and on a disk made
    /// durable by creating the same bytes again, since whoever wrote it may have died before its fsync. If it is rotten,
    /// the file is stored behind it; readers take the first whole object with the content of the first valid one.
    fn confirm(&self, object: &ObjectName, front: &WalFront, tag: &SessionTag) -> Result<Found, PushError> {
        let site = self.ctx.site;
        let whole = match site.backend.read(object, MAX_OBJECT) {
            Ok(whole) => whole,
            Err(StoreError::TooLarge { size, .. }) => return Ok(Found::Unusable(format!("it has {size} bytes"))),
            Err(e) => return Err(e.into()),
        };
        let parts = usize::try_from(front.parts_at()).ok().and_then(|at| whole.get(at..)).unwrap_or_default();
        if blake3::hash(parts).as_bytes() != &front.meta.parts_hash.0 {
            return Ok(Found::Unusable("its content is not what was signed: it is damaged".into()));
        }
        // A service would be sent all of it once more, for nothing.
        if site.backend.durable_once_read() {
            return Ok(Found::SameBytes);
        }
        match site.backend.create(object, &[&whole], tag)? {
            Create::Created | Create::Same => Ok(Found::SameBytes),
            Create::Other => Ok(Found::Unusable("it changed while it was read".into())),
        }
    }
}

enum Found {
    /// This very file, whole and durable.
    SameBytes,
    /// No object that counts, or none that is whole.
    Unusable(String),
}

pub(super) fn size_if_there(site: Site<'_>, object: &ObjectName) -> Result<Option<u64>, StoreError> {
    match site.backend.size(object) {
        Ok(size) => Ok(Some(size)),
        Err(e) if e.is_absent() => Ok(None),
        Err(e) => Err(e),
    }
}
