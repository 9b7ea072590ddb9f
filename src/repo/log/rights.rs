//! Keys and what they may do, as KEY entries say: the owner, sealing keys, hosts with roles and clusters, revocations.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::fold::At;
use super::kind::{Held, KeyOp, Keys, Role, WalEnd};
use super::wal::ClusterId;
use crate::crypt::sign::{PublicKey, key_id};
use crate::units::ids::unhex;
use crate::units::{KeyId, SegmentName, SlotId, TimelineId};

/// A key that signs, and its rights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Verifies its signatures.
    pub public: PublicKey,
    /// What people call its host.
    pub name: String,
    /// The owner may append everything.
    pub owner: bool,
    /// The entry that enrolled it.
    pub since: u64,
    /// What it may do.
    pub roles: BTreeSet<Role>,
    /// For which clusters; `None`: for all.
    pub clusters: Option<BTreeSet<String>>,
    /// The entry that ended its rights.
    pub revoked: Option<u64>,
    /// What of its WAL stays accepted after that; until it is said, all.
    pub wal_ends: Option<Vec<WalEnd>>,
}

impl Key {
    /// The owner's key.
    pub fn owner(public: PublicKey) -> Self {
        Key { public, name: "owner".into(), owner: true, since: 0, roles: BTreeSet::new(), clusters: None, revoked: None, wal_ends: None }
    }

    /// Not revoked.
    pub fn is_active(&self) -> bool {
        self.revoked.is_none()
    }

    /// Has it this role, for this cluster? `None`: for something that belongs to no cluster.
    pub fn may(&self, role: Role, cluster: Option<&str>) -> bool {
        let here = match (&self.clusters, cluster) {
            (None, _) | (_, None) => true,
            (Some(clusters), Some(cluster)) => clusters.contains(cluster),
        };
        self.owner || (self.is_active() && self.roles.contains(&role) && here)
    }

    /// Is what this key says of a snapshot of this cluster, found by a verify or a rehearsal, evidence? Of one who can neither
    /// read nor lose anything by it, it is not.
    pub fn may_prove(&self, cluster: Option<&str>) -> bool {
        self.may(Role::Reader, cluster) || self.may(Role::Maintainer, cluster)
    }

    /// Does a WAL object signed by this key count? A revoked writer's does until the entry that lists the last accepted
    /// segments, and up to these afterwards.
    pub fn wal_counts(&self, cluster: &ClusterId, name: &SegmentName) -> bool {
        self.wrote_for(cluster) && self.wal_ends.is_none() || self.wal_end(cluster, name.timeline).is_some_and(|last| *name <= last)
    }

    /// The same for a history file, which begins a timeline.
    pub fn history_counts(&self, cluster: &ClusterId, timeline: TimelineId) -> bool {
        self.wrote_for(cluster) && self.wal_ends.is_none() || self.wal_end(cluster, timeline).is_some()
    }

    fn wrote_for(&self, cluster: &ClusterId) -> bool {
        self.owner || (self.roles.contains(&Role::Writer) && self.clusters.as_ref().is_none_or(|c| c.contains(&cluster.name)))
    }

    fn wal_end(&self, cluster: &ClusterId, timeline: TimelineId) -> Option<SegmentName> {
        let here = |end: &&WalEnd| {
            end.cluster == cluster.name && end.system_identifier == cluster.system_identifier && end.last.timeline == timeline
        };
        let end = self.wal_ends.iter().flatten().find(here)?;
        self.wrote_for(cluster).then_some(end.last)
    }
}

/// A public key to which packs' and WAL objects' keys are sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealingKey {
    /// The first 16 bytes of its BLAKE3 hash.
    pub id: KeyId,
    /// 1: HPKE X25519-HKDF-SHA256-ChaCha20Poly1305.
    pub algorithm: u32,
    /// In hex.
    pub public: String,
    /// The entry that named it.
    pub number: u64,
}

/// All keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyTable {
    signing: BTreeMap<KeyId, Key>,
    /// Oldest first; the last one is used for what is written now.
    pub sealing: Vec<SealingKey>,
    /// Key slots that may be deleted, and the entry that said so first. What the store still has of them is no way in.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub removed_slots: BTreeMap<SlotId, u64>,
}

impl KeyTable {
    pub(super) fn new(owner: Key) -> Self {
        KeyTable { signing: BTreeMap::from([(owner.public.id(), owner)]), sealing: Vec::new(), removed_slots: BTreeMap::new() }
    }

    /// A key, be it revoked.
    pub fn get(&self, id: &KeyId) -> Option<&Key> {
        self.signing.get(id)
    }

    /// All keys that sign.
    pub fn iter(&self) -> impl Iterator<Item = (&KeyId, &Key)> {
        self.signing.iter()
    }

    /// The sealing key for what is written now.
    pub fn sealing_key(&self) -> Option<&SealingKey> {
        self.sealing.last()
    }

    /// Can these changes be made, in this order? (That the owner asks for them is judged elsewhere.)
    pub(super) fn judge(&self, at: &At, keys: &Keys) -> Result<(), &'static str> {
        let mut then = self.clone();
        if at.number == 0 {
            let first = matches!(keys.keys.first(), Some(KeyOp::Owner { public }) if public.id() == at.signer);
            if !first {
                return Err("the first entry doesn't begin with its signer as owner");
            }
        }
        for (i, op) in keys.keys.iter().enumerate() {
            then.judge_one(at.number, i, op)?;
            then.apply_one(at.number, op);
        }
        if at.number == 0 && then.sealing.is_empty() { Err("the first entry names no sealing key") } else { Ok(()) }
    }

    fn judge_one(&self, number: u64, place: usize, op: &KeyOp) -> Result<(), &'static str> {
        match op {
            KeyOp::Owner { .. } if number == 0 && place == 0 => Ok(()),
            KeyOp::Owner { .. } => Err("the owner is named once, at the beginning"),
            KeyOp::Seal { .. } | KeyOp::RemoveSlot { .. } => Ok(()),
            KeyOp::Host { public, roles, clusters, .. } => match self.signing.get(&public.id()) {
                None => Ok(()),
                Some(key) if key.owner => Err("the owner's key can't be a host's"),
                Some(key) if key.revoked.is_some() => Err("a revoked key gets no rights again"),
                Some(key) => {
                    let wider = match (&key.clusters, clusters) {
                        (_, None) => true,
                        (None, Some(_)) => false,
                        (Some(old), Some(new)) => new.is_superset(old),
                    };
                    if wider && roles.is_superset(&key.roles) { Ok(()) } else { Err("rights end by a revocation alone") }
                }
            },
            KeyOp::Revoke { key } => match self.signing.get(key) {
                Some(key) if !key.owner && key.revoked.is_none() => Ok(()),
                _ => Err("there is no such host's key to revoke"),
            },
            KeyOp::WalEnd { ends: Held::Body(_), .. } => Err("its list is in a body that was not read"),
            KeyOp::WalEnd { key, .. } => match self.signing.get(key) {
                Some(Key { revoked: Some(at), wal_ends: None, .. }) if *at < number => Ok(()),
                _ => Err("the key was not revoked by an earlier entry, or its last segments are listed already"),
            },
        }
    }

    pub(super) fn apply(&mut self, number: u64, keys: &Keys) {
        keys.keys.iter().for_each(|op| self.apply_one(number, op));
    }

    fn apply_one(&mut self, number: u64, op: &KeyOp) {
        match op {
            KeyOp::Owner { .. } => {}
            KeyOp::Seal { algorithm, public } => {
                let id = key_id(&unhex(public).unwrap_or_default());
                self.sealing.push(SealingKey { id, algorithm: *algorithm, public: public.clone(), number });
            }
            KeyOp::Host { public, name, roles, clusters } => {
                let since = self.signing.get(&public.id()).map_or(number, |key| key.since);
                let key = Key {
                    public: public.clone(),
                    name: name.clone(),
                    owner: false,
                    since,
                    roles: roles.clone(),
                    clusters: clusters.clone(),
                    revoked: None,
                    wal_ends: None,
                };
                self.signing.insert(public.id(), key);
            }
            KeyOp::Revoke { key } => {
                if let Some(key) = self.signing.get_mut(key) {
                    key.revoked = Some(number);
                }
            }
            KeyOp::WalEnd { key, ends } => {
                if let Some(key) = self.signing.get_mut(key) {
                    key.wal_ends = ends.get().cloned();
                }
            }
            KeyOp::RemoveSlot { slot } => _ = self.removed_slots.entry(*slot).or_insert(number),
        }
    }
}
