//! What a thief of a host could do with all that lies on its disk.

use std::collections::BTreeSet;

use crate::host::HostError;
use crate::host::access::Opened;
use crate::host::state::IdKeys;
use crate::repo::log::Role;
use crate::units::KeyId;

/// What a thief of this host has: its state and cache, not what opens a key slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    /// The host's key; `None` if it has none here: then a thief has nothing of this repository.
    pub key: Option<KeyId>,
    /// Content can be read that is sealed to these keys: all that was written while they were the newest.
    pub reads: Vec<KeyId>,
    /// Content that is written now is among that.
    pub reads_new: bool,
    /// Guesses at content can be confirmed: the id key is there.
    pub confirms_guesses: bool,
    /// What can be appended in the host's name, until its key is revoked.
    pub appends: BTreeSet<Role>,
    /// For these clusters; `None`: for all.
    pub clusters: Option<BTreeSet<String>>,
}

/// What a thief of this host could do.
///
/// # Errors
/// If the state can't be read.
pub fn exposure(opened: &Opened) -> Result<Exposure, HostError> {
    let kept = opened.state.as_ref().map(|state| state.host_keys()).transpose()?.flatten();
    let Some((kept, signer)) = kept.zip(opened.signer.as_ref()) else {
        return Ok(Exposure {
            key: None,
            reads: Vec::new(),
            reads_new: false,
            confirms_guesses: false,
            appends: BTreeSet::new(),
            clusters: Some(BTreeSet::new()),
        });
    };
    let view = opened.view();
    let key = view.fold.keys.get(&signer.id()).filter(|key| key.is_active());
    let sealing = &view.fold.keys.sealing;
    let opens = |id: &KeyId| opened.opening.as_ref().is_some_and(|opening| opening.opens(id));
    Ok(Exposure {
        key: Some(signer.id()),
        reads: sealing.iter().map(|key| key.id).filter(opens).collect(),
        reads_new: sealing.last().is_some_and(|key| opens(&key.id)),
        confirms_guesses: matches!(kept.ids, IdKeys::Domain(_)),
        appends: key.map(|key| key.roles.clone()).unwrap_or_default(),
        clusters: key.map_or_else(|| Some(BTreeSet::new()), |key| key.clusters.clone()),
    })
}

impl Exposure {
    /// In a sentence.
    pub fn in_words(&self) -> String {
        if self.key.is_none() {
            return "a thief of this host gets no key of the repository from its disk".into();
        }
        let reads = match (self.reads.is_empty(), self.reads_new) {
            (true, _) if self.confirms_guesses => "can read no content (but confirm a guess of what a chunk holds)",
            (true, _) => "can read no content",
            (false, true) => "can read everything in the repository",
            (false, false) => "can read what was written before the content key was rotated",
        };
        let mut may = Vec::new();
        if self.appends.contains(&Role::Writer) {
            may.push("add snapshots and WAL");
        }
        if self.appends.contains(&Role::Maintainer) {
            may.push("forget and delete what no object lock holds");
        }
        let whose = match &self.clusters {
            None => String::new(),
            Some(clusters) => format!(" of {}", clusters.iter().map(String::as_str).collect::<Vec<_>>().join(", ")),
        };
        match may.is_empty() {
            true => format!("a thief of this host {reads}, and change nothing that others would take for valid"),
            false => format!("a thief of this host {reads}, and {}{whose} until its key is revoked", may.join(" and ")),
        }
    }
}
