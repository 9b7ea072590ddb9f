//! What an entry says: its kinds and their fields, as they stand in canonical JSON.
//!
//! Every struct refuses unknown fields, leaves out what is absent or empty, and holds sets and maps in sorted form, so
//! that a value has one spelling. `Kind::check` (`form.rs`) finds what the types can't exclude. Long lists may lie in a body object of
//! their own ([`Held`]).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::wal::{Branch, ClusterId, SnapshotWal, WalPosition, decimal, decimal_option};
use crate::crypt::sign::PublicKey;
use crate::units::{ChunkId, Digest16, Hash32, KeyId, Lsn, PackId, SegmentName, SegmentSize, SessionId, SlotId, TimelineId, Timestamp};

/// A list that lies in the entry, or in the body object of this hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Held<T> {
    /// In the entry.
    #[serde(rename = "inline")]
    Inline(T),
    /// In `body/<hash>`.
    #[serde(rename = "body")]
    Body(Hash32),
}

impl<T> Held<T> {
    /// The list, once it is there.
    pub fn get(&self) -> Option<&T> {
        match self {
            Held::Inline(list) => Some(list),
            Held::Body(_) => None,
        }
    }
}

/// Packs as the log names them: by session and id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PackSet(BTreeMap<SessionId, BTreeSet<PackId>>);

impl PackSet {
    /// Adds a pack.
    pub fn insert(&mut self, session: SessionId, pack: PackId) {
        self.0.entry(session).or_default().insert(pack);
    }

    /// Is it in?
    pub fn contains(&self, session: &SessionId, pack: &PackId) -> bool {
        self.0.get(session).is_some_and(|packs| packs.contains(pack))
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&SessionId, &PackId)> {
        self.0.iter().flat_map(|(session, packs)| packs.iter().map(move |pack| (session, pack)))
    }

    /// The packs of one session.
    pub fn of(&self, session: &SessionId) -> impl Iterator<Item = &PackId> {
        self.0.get(session).into_iter().flatten()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.0.values().all(BTreeSet::is_empty)
    }

    /// Those that are not in the other.
    pub fn minus(&self, other: &PackSet) -> PackSet {
        self.iter().filter(|(session, pack)| !other.contains(session, pack)).map(|(session, pack)| (*session, *pack)).collect()
    }

    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.0.values().any(BTreeSet::is_empty) { Err("a session without packs in a set of packs") } else { Ok(()) }
    }
}

impl FromIterator<(SessionId, PackId)> for PackSet {
    fn from_iter<I: IntoIterator<Item = (SessionId, PackId)>>(packs: I) -> Self {
        let mut set = PackSet::default();
        packs.into_iter().for_each(|(session, pack)| set.insert(session, pack));
        set
    }
}

/// What is known of a stored pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackFacts {
    /// BLAKE3 of the pack's bytes, as in its name.
    pub hash: Hash32,
    /// Its length in bytes.
    pub size: u64,
    /// The length of its tail in bytes: table, envelopes, salt, trailer. One ranged read fetches it.
    pub tail: u32,
}

/// A session's own packs.
pub type NewPacks = BTreeMap<PackId, PackFacts>;

/// A part that a key may play.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Writes snapshots and WAL of its clusters.
    Writer,
    /// Reads what is stored.
    Reader,
    /// Forgets and reclaims.
    Maintainer,
}

/// The last segment of a revoked key that is accepted on a timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalEnd {
    /// The cluster's name.
    pub cluster: String,
    /// Its system identifier.
    #[serde(with = "decimal")]
    pub system_identifier: u64,
    /// The last segment accepted; the timeline is in the name.
    pub last: SegmentName,
}

/// One change of keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum KeyOp {
    /// The owner's key: in `log/0`, first, and nowhere else.
    Owner {
        /// Ed25519.
        public: PublicKey,
    },
    /// The key to which new packs' and WAL objects' keys are sealed from here on.
    Seal {
        /// How keys are sealed to it: 1 is HPKE X25519-HKDF-SHA256-ChaCha20Poly1305.
        algorithm: u32,
        /// The public key in hex, 1 to 4096 bytes.
        public: String,
    },
    /// Enrols a host, or gives an enrolled one more rights.
    Host {
        /// Ed25519.
        public: PublicKey,
        /// What people call it.
        name: String,
        /// What it may do.
        roles: BTreeSet<Role>,
        /// For which clusters; absent: for all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clusters: Option<BTreeSet<String>>,
    },
    /// The key's rights end here. It never gets any again.
    Revoke {
        /// The host's key.
        key: KeyId,
    },
    /// What of the revoked key's WAL stays accepted: on timelines not listed, nothing.
    WalEnd {
        /// The host's key, revoked by an earlier entry.
        key: KeyId,
        /// At most one for each cluster and timeline.
        ends: Held<Vec<WalEnd>>,
    },
    /// A key slot may be deleted, by anyone, and is no way in any more.
    RemoveSlot {
        /// The slot.
        slot: SlotId,
    },
}

/// KEY: changes of keys, by the owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// In the order in which they take effect.
    pub keys: Vec<KeyOp>,
}

/// BEGIN: opens a session, whose id is the first 16 bytes of this entry's hash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begin {
    /// What for: `backup` binds the cluster's name to the system identifier; other words (`restore`, `prune`, `verify`, `copy`)
    /// are for people.
    pub purpose: String,
    /// The cluster's name; a COMMIT of this session must be of this cluster, unless it replaces one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Its system identifier; there if and only if `cluster` is.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "decimal_option")]
    pub system_identifier: Option<u64>,
    /// The machine on which it runs (an id, not a name).
    pub machine: String,
    /// The name of its lock file on that machine, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
    /// The COMMIT that it takes as its parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
    /// Where its backup can start at the earliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<WalPosition>,
    /// The COMMIT that it reads; not together with a floor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<u64>,
}

impl Begin {
    /// The cluster, where one is named.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        Some(ClusterId { name: self.cluster.clone()?, system_identifier: self.system_identifier? })
    }
}

/// PROGRESS: a sign of life, and the packs stored since the last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progressed {
    /// The session.
    pub session: SessionId,
    /// Its new packs, each already uploaded.
    pub packs: Held<NewPacks>,
}

/// What a snapshot is, for whoever lists, plans or applies a policy without its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// The snapshot's id, such as `20261124-133000-7f3a`.
    pub id: String,
    /// `physical` or `dump`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The cluster's name.
    pub cluster: String,
    /// Its system identifier.
    #[serde(with = "decimal")]
    pub system_identifier: u64,
    /// When it was begun, µs since 1970, by the clock of its host.
    pub started_at: Timestamp,
    /// When it was finished.
    pub finished_at: Timestamp,
    /// Its WAL; a dump has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal: Option<SnapshotWal>,
    /// `server_version_num` or the major from PG_VERSION, as text: `18.1`, `15`.
    pub pg_version: String,
    /// Bytes of the data copied.
    pub cluster_bytes: u64,
    /// Bytes read from the cluster.
    pub read_bytes: u64,
    /// Plain bytes that the repository didn't have.
    pub changed_bytes: u64,
    /// Bytes added to the repository before this entry.
    pub new_bytes: u64,
    /// Files in it.
    pub files: u64,
    /// Pages with a wrong checksum.
    pub damaged_pages: u64,
    /// The id of its parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// What the user calls it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Summary {
    /// The cluster.
    pub fn cluster_id(&self) -> ClusterId {
        ClusterId { name: self.cluster.clone(), system_identifier: self.system_identifier }
    }
}

/// Where a chunk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The pack.
    pub pack: PackId,
    /// The blob's number in the pack's table.
    pub blob: u32,
    /// The chunk's position in the blob.
    pub position: u32,
}

/// The root of a snapshot's tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// The root node's chunk id.
    pub chunk: ChunkId,
    /// Where it lies; the pack is in the COMMIT's set.
    pub place: Place,
    /// The snapshot's content digest.
    pub digest: Digest16,
}

/// A run of archived segments, for hosts that start without a ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerRun {
    /// The first segment.
    pub first: SegmentName,
    /// The last, on the same timeline; none is missing between them.
    pub last: SegmentName,
    /// The earliest commit in them, µs since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_time: Option<Timestamp>,
    /// The latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_time: Option<Timestamp>,
}

/// A COMMIT's lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitLists {
    /// The session's packs that no PROGRESS listed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub new: NewPacks,
    /// Every pack that the snapshot relies on, references of patches included; each pack id once. Of a COMMIT that replaces
    /// another: those of them that the other doesn't name ([`super::Fold::set_of`] has all).
    pub set: PackSet,
    /// Of a COMMIT that replaces another: packs that the other names and this one doesn't rely on any more.
    #[serde(default, skip_serializing_if = "PackSet::is_empty")]
    pub less: PackSet,
    /// Segments archived since the cluster's last COMMIT: a hint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ledger: Vec<LedgerRun>,
}

/// COMMIT: the snapshot is there, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// The session that it ends.
    pub session: SessionId,
    /// The snapshot.
    pub summary: Summary,
    /// The root of its tree.
    pub root: Root,
    /// Packs and ledger.
    pub lists: Held<CommitLists>,
    /// The live COMMIT that it replaces: the same snapshot in other packs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<u64>,
}

/// ABORT: ends a session without a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abort {
    /// The session.
    pub session: SessionId,
}

/// FORGET: a COMMIT is no longer live, or needs only the WAL from its start to its stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forget {
    /// The COMMIT's number.
    pub commit: u64,
    /// Its window alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub window: bool,
}

/// CONDEMN and SWEEP: packs that nobody names any more; packs that may be deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packs {
    /// The packs, at least one.
    pub packs: Held<PackSet>,
}

/// EXPIRE-WAL: segments that may be deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpireWal {
    /// The cluster's name.
    pub cluster: String,
    /// Its system identifier.
    #[serde(with = "decimal")]
    pub system_identifier: u64,
    /// The timeline.
    pub timeline: TimelineId,
    /// The size of its segments in bytes.
    pub segment_size: SegmentSize,
    /// The timeline's ancestry, the parent first; absent for timeline 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestry: Vec<Branch>,
    /// Segments and their content ids: at least one, in the order of names, each name with all its content ids in order.
    pub objects: Held<BTreeMap<SegmentName, BTreeSet<Hash32>>>,
}

/// NOTE: something that people or other hosts should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "note", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Note {
    /// These segments are missing, somebody knows it, and it no longer alarms.
    Gap {
        /// The cluster's name.
        cluster: String,
        /// Its system identifier.
        #[serde(with = "decimal")]
        system_identifier: u64,
        /// The first missing segment.
        from: SegmentName,
        /// The last, on the same timeline.
        to: SegmentName,
        /// Why.
        reason: String,
    },
    /// A timeline begins on purpose (announced), or a promoted clone's line is taken over (accepted).
    Fork {
        /// The cluster's name.
        cluster: String,
        /// Its system identifier.
        #[serde(with = "decimal")]
        system_identifier: u64,
        /// The new timeline.
        timeline: TimelineId,
        /// Announced before or accepted after the fact.
        state: ForkState,
        /// Where it will begin: there if and only if it is announced.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        begins: Option<ForkPoint>,
        /// Why.
        reason: String,
    },
    /// The snapshot can't be forgotten.
    Hold {
        /// The snapshot's id.
        snapshot: String,
        /// Why.
        reason: String,
    },
    /// All holds on the snapshot end.
    Unhold {
        /// The snapshot's id.
        snapshot: String,
    },
    /// A snapshot was verified or rehearsed.
    Evidence {
        /// The snapshot's id.
        snapshot: String,
        /// `verify` or `rehearsal`.
        what: String,
        /// Was it fine?
        ok: bool,
        /// A few words, or a report in JSON.
        detail: String,
    },
}

/// How a new timeline is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForkState {
    /// Before it began.
    Announced,
    /// Afterwards, by somebody who looked.
    Accepted,
}

/// Where an announced timeline will begin, and who will push it. As narrow as can be said beforehand: the server alone
/// decides where its recovery ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForkPoint {
    /// The timeline that it leaves.
    pub parent: TimelineId,
    /// It leaves it here at the earliest.
    pub from: Lsn,
    /// And here at the latest.
    pub to: Lsn,
    /// Only files pushed by this key are meant; absent: whoever may write for the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyId>,
}

/// AUDIT: this reader has opened and re-hashed these packs. Reserved: it changes nothing in format 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// The packs.
    pub packs: Held<PackSet>,
}

/// Damaged blobs of a pack.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DamagedBlobs {
    /// The whole pack, or its table.
    All,
    /// These blobs, at least one.
    Blobs(BTreeSet<u32>),
}

/// Damage: session → pack → blobs.
pub type DamagedPlaces = BTreeMap<SessionId, BTreeMap<PackId, DamagedBlobs>>;

/// DAMAGED: places that nobody may rely on any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Damaged {
    /// The places; packs that the log doesn't know are ignored.
    pub places: Held<DamagedPlaces>,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum Kind {
    /// See [`Keys`].
    #[serde(rename = "KEY")]
    Key(Keys),
    /// See [`Begin`].
    #[serde(rename = "BEGIN")]
    Begin(Begin),
    /// See [`Progressed`].
    #[serde(rename = "PROGRESS")]
    Progress(Progressed),
    /// See [`Commit`].
    #[serde(rename = "COMMIT")]
    Commit(Box<Commit>),
    /// See [`Abort`].
    #[serde(rename = "ABORT")]
    Abort(Abort),
    /// See [`Forget`].
    #[serde(rename = "FORGET")]
    Forget(Forget),
    /// See [`Packs`].
    #[serde(rename = "CONDEMN")]
    Condemn(Packs),
    /// See [`Packs`].
    #[serde(rename = "SWEEP")]
    Sweep(Packs),
    /// See [`ExpireWal`].
    #[serde(rename = "EXPIRE-WAL")]
    ExpireWal(ExpireWal),
    /// See [`Note`].
    #[serde(rename = "NOTE")]
    Note(Note),
    /// See [`Audit`].
    #[serde(rename = "AUDIT")]
    Audit(Audit),
    /// See [`Damaged`].
    #[serde(rename = "DAMAGED")]
    Damaged(Damaged),
}

/// The kinds of format 1.
pub const KINDS: [&str; 12] =
    ["KEY", "BEGIN", "PROGRESS", "COMMIT", "ABORT", "FORGET", "CONDEMN", "SWEEP", "EXPIRE-WAL", "NOTE", "AUDIT", "DAMAGED"];

impl Kind {
    /// The kind's name.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Key(_) => "KEY",
            Kind::Begin(_) => "BEGIN",
            Kind::Progress(_) => "PROGRESS",
            Kind::Commit(_) => "COMMIT",
            Kind::Abort(_) => "ABORT",
            Kind::Forget(_) => "FORGET",
            Kind::Condemn(_) => "CONDEMN",
            Kind::Sweep(_) => "SWEEP",
            Kind::ExpireWal(_) => "EXPIRE-WAL",
            Kind::Note(_) => "NOTE",
            Kind::Audit(_) => "AUDIT",
            Kind::Damaged(_) => "DAMAGED",
        }
    }

    /// May it be appended behind an entry whose body can't be had?
    pub fn waits_for_bodies(&self) -> bool {
        matches!(self, Kind::Commit(_) | Kind::Condemn(_) | Kind::Sweep(_) | Kind::ExpireWal(_))
    }
}
