//! What one session of a re-commit writes with.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::failure::RecommitError;
use super::run::Setting;
use crate::host::access::{Adopted, OpenSession};
use crate::repo::log::{Begin, Fold, LiveCommit};
use crate::repo::pack::{Packs, Place};
use crate::repo::write::{ChunkWriter, Known, WriterSetup, is_of_one_pack};
use crate::repo::{PackRef, RepoError};
use crate::units::ids::hex;
use crate::units::{ChunkId, PackId, SessionId};

/// A session that will replace one COMMIT.
pub(super) struct Writing {
    pub session: Arc<OpenSession>,
    pub writer: ChunkWriter,
    pub adopted: Adopted,
    /// All packs that the COMMIT names, and that may be named; by id, as the COMMIT means them.
    pub packs: Arc<Packs>,
    /// Packs that this session fills, or has stored.
    own: Mutex<HashSet<PackId>>,
}

/// Opens a session.
pub(super) fn begin(setting: &Setting<'_>) -> Result<Arc<OpenSession>, RecommitError> {
    let begin = Begin { purpose: "prune".into(), machine: hex(&setting.machine), ..Begin::default() };
    Ok(Arc::new(OpenSession::begin(setting.opened, &setting.state.locks(), begin)?))
}

impl Writing {
    /// Ready to write. Nothing is found in the packs of `avoid`: what lies there is to go.
    pub fn start(
        setting: &Setting<'_>,
        session: &Arc<OpenSession>,
        commit: &LiveCommit,
        avoid: &HashSet<PackId>,
        left: &Leftovers,
        others: Vec<Arc<OpenSession>>,
    ) -> Result<Writing, RecommitError> {
        let opened = setting.opened;
        let adopted = session.adopted(setting.trust_writers, Some(&commit.set));
        let packs = Arc::new(Packs::new(Arc::clone(&opened.backend), opened.sealing.clone()));
        packs.add(adopted.packs.values().copied());
        let fold = opened.view().fold.clone();
        packs.add(refs_of(&fold, commit));
        let known = Arc::clone(&packs);
        let setup = WriterSetup {
            backend: Arc::clone(&opened.backend),
            packs: Arc::clone(&packs),
            sealing: opened.sealing.clone(),
            opening: opened.opening.clone(),
            session: session.id(),
            tag: session.tag(),
            nameable: adopted.packs.keys().filter(|id| !avoid.contains(id)).copied().collect(),
            trusted: adopted.trusted.clone(),
            known: Box::new(left.clone()),
            is_damaged: Box::new(move |place| known.known(place.pack).is_ok_and(|p| fold.is_damaged(&p.session, &p.id, place.blob))),
        };
        let theirs = Arc::clone(session);
        let on_stored = Box::new(move |what: crate::repo::write::Uploaded<'_>| {
            theirs.told(what).map_err(|e| RepoError::Told(Box::new(e)))?;
            // Those that wait for their turn live, too.
            others.iter().try_for_each(|other| other.told(crate::repo::write::Uploaded::Idle).map_err(|e| RepoError::Told(Box::new(e))))
        });
        let writer = ChunkWriter::start(setup, on_stored)?;
        let writer = if setting.sort_blobs { writer } else { writer.unsorted() };
        Ok(Writing { session: Arc::clone(session), writer, adopted, packs, own: Mutex::default() })
    }

    /// May the COMMIT name it?
    pub fn may_name(&self, pack: PackId) -> bool {
        self.writer.may_name(pack) || self.is_own(pack)
    }

    /// Is it filled by this session, or stored?
    pub fn is_own(&self, pack: PackId) -> bool {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).contains(&pack)
    }

    /// Something was stored there: by this session, if it is no pack that was there before.
    pub fn stored(&self, pack: PackId) {
        if !self.writer.may_name(pack) {
            self.own.lock().unwrap_or_else(PoisonError::into_inner).insert(pack);
        }
    }

    /// Whose pack the id means.
    pub fn session_of(&self, pack: PackId) -> Result<SessionId, RepoError> {
        Ok(self.packs.known(pack)?.session)
    }
}

/// The packs that a COMMIT names, as the log lists them.
pub(super) fn refs_of(fold: &Fold, commit: &LiveCommit) -> Vec<PackRef> {
    let one = |(session, id): (&SessionId, &PackId)| {
        let f = fold.pack(session, id)?;
        Some(PackRef { session: *session, id: *id, hash: f.hash, size: f.size, tail: f.tail })
    };
    commit.set.iter().filter_map(one).collect()
}

/// What an interrupted run has copied, and no snapshot names yet: it needn't be copied again.
#[derive(Clone, Default)]
pub(super) struct Leftovers(Arc<HashMap<ChunkId, Vec<Place>>>);

impl Leftovers {
    /// Of sessions that have ended, with the purpose of ours, and by our key.
    pub fn of(setting: &Setting<'_>, fold: &Fold) -> Result<Leftovers, RepoError> {
        let opened = setting.opened;
        let own = opened.signer.as_ref().map(|s| s.id());
        let mut places: HashMap<ChunkId, Vec<Place>> = HashMap::new();
        let ended = fold.sessions.iter().filter(|(_, s)| !s.open && s.purpose == "prune" && Some(s.key) == own);
        for (session, id, f) in ended.flat_map(|(session, s)| s.packs.iter().map(move |(id, f)| (session, id, f))) {
            if fold.is_named(session, id) || fold.condemned_at(session, id).is_some() {
                continue;
            }
            let packs = Packs::new(Arc::clone(&opened.backend), opened.sealing.clone());
            packs.add([PackRef { session: *session, id: *id, hash: f.hash, size: f.size, tail: f.tail }]);
            let table = match packs.table(*id) {
                Ok(table) => table,
                Err(e) if is_of_one_pack(&e) => continue,
                Err(e) => return Err(e),
            };
            for (blob, row) in table.rows().iter().enumerate().filter(|(_, row)| row.chunks.len() == 1) {
                let place = Place { pack: *id, blob: blob as u32, position: 0 };
                row.chunks.iter().for_each(|(chunk, _)| places.entry(*chunk).or_default().push(place));
            }
        }
        Ok(Leftovers(Arc::new(places)))
    }
}

impl Known for Leftovers {
    fn places(&self, id: &ChunkId) -> Vec<Place> {
        self.0.get(id).cloned().unwrap_or_default()
    }
}
