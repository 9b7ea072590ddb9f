//! From objects to a fold: which entries are valid, which are void, and where the store is damaged.
//!
//! An entry that bears no signature of an enrolled key proves nothing by itself. It is *void* if it is the last, or if
//! its successor is signed and names exactly these bytes: then whoever wrote the successor saw them and judged them void,
//! too. Otherwise it may be the rotten form of an entry that counted, and **the log is damaged**: so rot never looks
//! like a verdict, and no prune deletes what a lost COMMIT named.
//!
//! ```text
//! n is        n + 1 is     and names   then
//! signed      anything                 n is judged (right, form, predecessor, rules)
//! unsigned    not there                n is void, so far
//! unsigned    signed       n's hash    n is void
//! unsigned    signed       another     n is damaged
//! unsigned    unsigned                 n is damaged
//! not there   there                    n is damaged (found by listing)
//! ```
//!
//! Where the store keeps older contents of objects (somebody may have put others over them, or deleted them), the oldest are
//! read before any of this is said: nothing is ever written again under a name, so the oldest is what all others saw.
//!
//! Behind damage the fold goes on as well as it can, for those who read; nobody appends or deletes.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::body;
use super::entry::{self, ENTRY_LIMIT, Parts, Said};
use super::fold::{At, FOLD_VERSION, Fold, Verdict};
use super::judge;
use super::kind::{Commit, Kind};
use super::lists::{AT_ONCE, Reads, has_list};
use super::rights::Key;
use super::{Head, LogError, LogStore, SealFailure, Sealer, body_name, entry_name};
use crate::crypt::sign::PublicKey;
use crate::units::{Hash32, KeyId, RepositoryId};

/// So many entries are asked for one by one, before more are at once.
const ONE_BY_ONE: u64 = 4;

/// A place in the log that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Entries are gone, and later ones are there.
    Absent {
        /// The first that is gone.
        first: u64,
        /// The last, in front of the next one that is there.
        last: u64,
    },
    /// The entry is neither signed nor attested by its successor.
    Changed(u64),
}

impl Damage {
    /// The entry's number; of several that are gone the first.
    pub fn number(&self) -> u64 {
        match self {
            Damage::Absent { first: number, .. } | Damage::Changed(number) => *number,
        }
    }

    pub(super) fn cure(&self) -> String {
        format!("bring {} back from a copy of the repository or an older version of the object", entry_name(self.number()))
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Absent { first, last } if first == last => write!(f, "log/{first} is gone, and later entries are there"),
            Damage::Absent { first, last } => write!(f, "log/{first} to log/{last} are gone, and later entries are there"),
            Damage::Changed(number) => write!(f, "log/{number} is not what was written"),
        }
    }
}

/// A body that an entry names and the store doesn't have in that form: the entry is neither valid nor void.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingBody {
    /// The entry's number.
    pub number: u64,
    /// The body's hash.
    pub hash: Hash32,
}

/// A fold, and how far it goes.
#[derive(Clone, Debug)]
pub struct LogView {
    /// What the entries add up to.
    pub fold: Fold,
    /// The newest entry that was read.
    pub newest: Head,
    /// It is unsigned: void as long as its successor says so.
    unsigned: bool,
    /// The one before it is not there.
    hole: bool,
    /// An entry is signed and names another predecessor, or is listed behind the end and can't be read: what is read may
    /// not be what was written.
    odd: bool,
    /// Where the log is damaged.
    pub damage: Vec<Damage>,
    /// Bodies that can't be had.
    pub missing: Vec<MissingBody>,
    /// COMMITs that may be void only because of damage or a missing body before them: something to restore from, by
    /// hand, while the log is damaged.
    pub doubtful: Vec<(u64, Commit)>,
    /// Whose lists it holds.
    pub(super) reads: Reads,
}

#[derive(Serialize)]
struct KeptRef<'a> {
    repository: RepositoryId,
    owner: KeyId,
    fold: &'a Fold,
    newest: Head,
    unsigned: bool,
    reads: &'a Reads,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    repository: RepositoryId,
    owner: KeyId,
    fold: Fold,
    newest: Head,
    unsigned: bool,
    reads: Reads,
}

impl LogView {
    /// Nothing stands against reading it as the truth.
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty() && self.missing.is_empty() && self.fold.unknown.is_none()
    }

    /// What stands against reading it as the truth: the first damage, missing body or unknown entry.
    pub fn doubt(&self) -> Option<LogError> {
        let damage = || self.damage.first().cloned().map(LogError::Damaged);
        let missing = || self.missing.first().cloned().map(LogError::MissingBody);
        damage().or_else(missing).or_else(|| self.fold.unknown.clone().map(LogError::Unknown))
    }

    /// Is the newest entry unsigned? It is void as long as no signed one names other bytes; but it may as well be the
    /// rotten form of one that counted.
    pub fn ends_unsigned(&self) -> bool {
        self.unsigned
    }

    /// Refuses while damage or an unknown entry forbids every append, or a missing body this kind.
    pub(super) fn may_append(&self, kind: &Kind) -> Result<(), LogError> {
        if let Some(damage) = self.damage.first() {
            return Err(LogError::Damaged(damage.clone()));
        }
        if let Some(unknown) = &self.fold.unknown {
            return Err(LogError::Unknown(unknown.clone()));
        }
        match self.missing.first() {
            Some(missing) if kind.waits_for_bodies() => Err(LogError::MissingBody(missing.clone())),
            _ => Ok(()),
        }
    }

    /// May anything be deleted, of what this view says may go?
    pub fn may_delete(&self) -> Result<(), LogError> {
        if let Some(damage) = self.damage.first() {
            return Err(LogError::Damaged(damage.clone()));
        }
        if let Some(unknown) = &self.fold.unknown {
            return Err(LogError::Unknown(unknown.clone()));
        }
        self.missing.first().map_or(Ok(()), |missing| Err(LogError::MissingBody(missing.clone())))
    }
}

/// The log of one repository.
#[derive(Clone, Copy)]
pub struct Log<'a> {
    pub(super) store: &'a dyn LogStore,
    pub(super) sealer: &'a dyn Sealer,
    pub(super) repository: RepositoryId,
    pub(super) owner: &'a PublicKey,
}

impl<'a> Log<'a> {
    /// The log in this store. `owner` is pinned by the state, or comes from a slot: never from the store alone.
    pub fn new(store: &'a dyn LogStore, sealer: &'a dyn Sealer, repository: RepositoryId, owner: &'a PublicKey) -> Self {
        Log { store, sealer, repository, owner }
    }

    /// Reads all of it. Lists `log/` once, so that a hole isn't taken for the end.
    pub fn read(&self) -> Result<LogView, LogError> {
        self.read_with(Reads::everything())
    }

    /// Reads all entries, and the lists of this key alone; a maintainer's is read as by [`Log::read`].
    pub fn read_of(&self, key: Option<KeyId>) -> Result<LogView, LogError> {
        let view = self.read_with(Reads::of(key))?;
        if view.needs_all() { self.read() } else { Ok(view) }
    }

    fn read_with(&self, reads: Reads) -> Result<LogView, LogError> {
        let first = self.read_once(reads.clone());
        if !is_strange(&first) || !self.dig()? {
            return first;
        }
        let second = self.read_once(reads);
        if is_better(&second, &first) {
            return second;
        }
        self.store.fill_in();
        first
    }

    /// From now on the oldest contents of entries are read; is there one that wasn't read before?
    pub fn dig(&self) -> Result<bool, LogError> {
        Ok(self.store.dig("log/")?)
    }

    /// The numbers of the entries that are listed.
    fn numbers(&self) -> Result<BTreeSet<u64>, LogError> {
        let list = || Ok::<_, LogError>(self.store.list("log/")?.iter().filter_map(|name| number_in(name)).collect::<BTreeSet<u64>>());
        let has_no_hole = |numbers: &BTreeSet<u64>| numbers.iter().copied().eq(0..numbers.len() as u64);
        let listed = list()?;
        if !listed.is_empty() && has_no_hole(&listed) {
            return Ok(listed);
        }
        // A name may have come with a flipped bit. What either shows is looked for.
        let again = list()?;
        if has_no_hole(&again) && !again.is_empty() { Ok(again) } else { Ok(listed.union(&again).copied().collect()) }
    }

    fn read_once(&self, reads: Reads) -> Result<LogView, LogError> {
        let numbers = self.numbers()?;
        if numbers.is_empty() {
            return Err(LogError::NotThere);
        }
        let last = numbers.last().copied().unwrap_or_default();
        // The first, be it listed or not; and what may have come behind the last meanwhile, asked for with the others.
        let wanted: BTreeSet<u64> = numbers.iter().copied().chain([0, last.saturating_add(1)]).collect();
        let wanted: Vec<u64> = wanted.into_iter().collect();
        let mut begun = None;
        let mut ended = false;
        for part in wanted.chunks(AT_ONCE) {
            let names: Vec<String> = part.iter().map(|number| entry_name(*number)).collect();
            let mut read = self.fetch(&names, ENTRY_LIMIT).into_iter().collect::<Result<Vec<_>, _>>()?;
            let view = match &mut begun {
                Some(view) => view,
                none => none.insert(self.start_with(read.first_mut().and_then(Option::take), reads.clone())?),
            };
            let bodies = self.bodies_of(view, read.iter().flatten().map(Vec::as_slice));
            for (number, bytes) in part.iter().zip(read) {
                let Some(bytes) = bytes else {
                    ended = *number > last;
                    continue;
                };
                if view.newest.number + 1 < *number {
                    note_absence(view, *number - 1);
                }
                self.take_with(view, *number, &bytes, &bodies)?;
            }
        }
        let mut view = begun.ok_or(LogError::NotThere)?;
        if !ended {
            self.go_on(&mut view)?;
        }
        view.odd |= view.newest.number < last;
        Ok(view)
    }

    /// The view after `log/0`, of which these bytes were read.
    fn start_with(&self, first: Option<Vec<u8>>, reads: Reads) -> Result<LogView, LogError> {
        let gone = || LogError::First("it is gone, and later entries are there".into());
        let begin = |first: Option<Vec<u8>>| self.start(&first.ok_or_else(gone)?, reads.clone());
        match begin(first) {
            // Again, as a bit may have been flipped on the way.
            Err(LogError::First(_)) => begin(self.store.read(&entry_name(0), ENTRY_LIMIT)?),
            other => other,
        }
    }

    /// Goes on from a view that was kept, after looking whether its newest entry is still the same; `None` if the bytes
    /// are none that [`Log::keep`] wrote for this repository in this version.
    pub fn resume(&self, kept: &[u8]) -> Result<Option<LogView>, LogError> {
        Ok(self.resume_after(kept)?.map(|(view, _)| view))
    }

    /// As [`Log::resume`], with the entry that was looked at again.
    pub fn resume_after(&self, kept: &[u8]) -> Result<Option<(LogView, Head)>, LogError> {
        let Some(mut view) = self.unpack(kept) else { return Ok(None) };
        let proven = view.newest;
        self.check_remembered(&view, &proven)?;
        self.advance(&mut view)?;
        Ok(Some((view, proven)))
    }

    /// A view in a form to be kept in a cache, with a checksum. `None` while anything is in doubt.
    pub fn keep(&self, view: &LogView) -> Option<Vec<u8>> {
        if !view.is_sound() {
            return None;
        }
        let kept = KeptRef {
            repository: self.repository,
            owner: self.owner.id(),
            fold: &view.fold,
            newest: view.newest,
            unsigned: view.unsigned,
            reads: &view.reads,
        };
        let json = serde_json::to_vec(&kept).ok()?;
        Some([blake3::hash(&json).as_bytes().as_slice(), &json].concat())
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn unpack_probe(&self, kept: &[u8]) -> Option<LogView> {
        self.unpack(kept)
    }

    fn unpack(&self, kept: &[u8]) -> Option<LogView> {
        let (sum, json) = kept.split_first_chunk::<32>()?;
        if blake3::hash(json) != *sum {
            return None;
        }
        let kept: Kept = serde_json::from_slice(json).ok()?;
        let ours = kept.repository == self.repository && kept.owner == self.owner.id() && kept.fold.version == FOLD_VERSION;
        ours.then(|| LogView { unsigned: kept.unsigned, ..view_of(kept.fold, kept.newest, kept.reads) })
    }

    /// Reads on to the end; the number of new entries.
    pub fn advance(&self, view: &mut LogView) -> Result<u64, LogError> {
        let (before, strange) = (view.newest.number, is_strange_view(view));
        self.go_on(view)?;
        if is_strange_view(view) && !strange && self.dig()? {
            let again = self.read_with(view.reads.clone())?;
            if again.newest.number >= before {
                *view = again;
            }
        }
        Ok(view.newest.number.saturating_sub(before))
    }

    fn go_on(&self, view: &mut LogView) -> Result<(), LogError> {
        let before = view.newest.number;
        // Who is far behind asks for many at once.
        let mut at_once = 1;
        loop {
            let next = view.newest.number.saturating_add(1);
            let numbers: Vec<u64> = (next..next.saturating_add(at_once)).collect();
            let names: Vec<String> = numbers.iter().map(|number| entry_name(*number)).collect();
            // An entry behind one that was absent a moment ago is read again when its turn comes.
            let read: Vec<_> = self.fetch(&names, ENTRY_LIMIT).into_iter().take_while(|read| !matches!(read, Ok(None))).collect();
            let ends = read.len() < numbers.len() || numbers.is_empty();
            let read = read.into_iter().map(|read| read.map(Option::unwrap_or_default)).collect::<Result<Vec<_>, _>>()?;
            let bodies = self.bodies_of(view, read.iter().map(Vec::as_slice));
            for (number, bytes) in numbers.iter().zip(&read) {
                self.take_with(view, *number, bytes, &bodies)?;
            }
            if ends {
                return Ok(());
            }
            if self.store.is_far() || view.newest.number - before >= ONE_BY_ONE {
                at_once = (at_once * 2).min(AT_ONCE as u64);
            }
        }
    }

    /// Is a remembered entry still the same? The view must have been read to the end after that was remembered.
    pub fn check_remembered(&self, view: &LogView, remembered: &Head) -> Result<(), LogError> {
        let set_back = || LogError::SetBack { remembered: *remembered, newest: view.newest.number };
        if remembered.number > view.newest.number {
            return Err(set_back());
        }
        let look = || Ok::<_, LogError>(self.store.read(&entry_name(remembered.number), ENTRY_LIMIT)?.as_deref().map(hash));
        // Twice, as a bit may have been flipped on the way; and then beneath whatever lies over it.
        let mut found = look()?;
        if found != Some(remembered.hash) {
            found = look()?;
        }
        if found != Some(remembered.hash) && self.dig()? {
            found = look()?;
        }
        let found = found.ok_or_else(set_back)?;
        if found == remembered.hash {
            Ok(())
        } else {
            Err(LogError::Changed { number: remembered.number, remembered: remembered.hash, found })
        }
    }

    /// The view after `log/0`, which must be the owner's.
    pub(super) fn start(&self, bytes: &[u8], reads: Reads) -> Result<LogView, LogError> {
        let mut fold = Fold::new(Key::owner(self.owner.clone()));
        let parts = self.prove(&fold, 0, bytes).map_err(|why| LogError::First(why.into()))?;
        let mut view = view_of(fold.clone(), Head { number: 0, hash: hash(bytes) }, reads);
        if parts.header.before != Hash32([0; 32]) {
            return Err(LogError::First("it names a predecessor".into()));
        }
        let At { number, hash, signer, .. } = at(&view.newest, &parts);
        match self.open(&parts)?.and_then(|plain| entry::decode_plain(&plain)) {
            Err(why) => return Err(LogError::First(why.into())),
            Ok(Said::Known(time, kind @ Kind::Key(_))) => match fold.step(&At { number, hash, signer, time }, &kind) {
                Verdict::Valid => view.fold = fold,
                Verdict::Void(void) => return Err(LogError::First(void.to_string())),
            },
            Ok(Said::Unknown(kind)) => return Err(LogError::Unknown(super::Unknown { number: 0, kind })),
            Ok(_) => return Err(LogError::First("it is no KEY entry".into())),
        }
        view.widen();
        Ok(view)
    }

    /// Takes the next entry into a view. An error leaves the view as it was.
    pub(super) fn take(&self, view: &mut LogView, number: u64, bytes: &[u8]) -> Result<(), LogError> {
        self.take_with(view, number, bytes, &HashMap::new())
    }

    /// The same, with bodies that were fetched beforehand.
    fn take_with(&self, view: &mut LogView, number: u64, bytes: &[u8], bodies: &HashMap<Hash32, Vec<u8>>) -> Result<(), LogError> {
        // Read again if it proves nothing: a bit that was flipped on the way must not pass for a void entry. What this host
        // appended behind it would name a predecessor that nobody else sees.
        let again;
        let (bytes, proved) = match self.prove(&view.fold, number, bytes) {
            Ok(parts) => (bytes, Ok(parts)),
            Err(why) => {
                again = self.store.read(&entry_name(number), ENTRY_LIMIT)?;
                match again.as_deref() {
                    Some(again) => (again, self.prove(&view.fold, number, again)),
                    None => (bytes, Err(why)),
                }
            }
        };
        let newest = Head { number, hash: hash(bytes) };
        match proved {
            Err(why) => {
                if view.unsigned {
                    damaged(view);
                }
                let signer = entry::split(bytes).ok().map(|parts| parts.header.signer);
                view.fold.alarm(number, signer, why.to_owned());
                view.unsigned = true;
            }
            Ok(parts) => {
                let follows = view.hole || parts.header.before == view.newest.hash;
                let said = self.read_body(view, number, &parts, bodies)?;
                if view.unsigned && !follows {
                    damaged(view);
                }
                let rotten = view.unsigned && !follows;
                view.odd |= !follows;
                view.unsigned = false;
                if follows || rotten {
                    self.judge(view, at(&newest, &parts), said);
                } else {
                    view.fold.alarm(number, Some(parts.header.signer), "it names another predecessor".into());
                }
            }
        }
        view.newest = newest;
        view.hole = false;
        view.widen();
        Ok(())
    }

    /// Takes an entry apart and proves that an enrolled key, be it revoked, signed it as this entry of this repository.
    fn prove<'b>(&self, fold: &Fold, number: u64, bytes: &'b [u8]) -> Result<Parts<'b>, &'static str> {
        let parts = entry::split(bytes)?;
        if parts.header.repository != self.repository {
            return Err("it is of another repository");
        }
        if parts.header.number != number {
            return Err("it has another number");
        }
        let key = fold.keys.get(&parts.header.signer).ok_or("the log doesn't know the key that it names")?;
        key.public.verify(entry::CONTEXT, &[parts.signed], &parts.signature).map_err(|_| "its signature does not verify")?;
        Ok(parts)
    }

    /// The opened body; the inner error: it isn't well-formed.
    fn open(&self, parts: &Parts<'_>) -> Result<Result<Vec<u8>, &'static str>, LogError> {
        match self.sealer.open(&parts.sealed, &parts.header.associated_data()) {
            Ok(plain) => Ok(Ok(plain)),
            Err(SealFailure::NotAuthentic) => Ok(Err("its body does not open under the table key")),
            Err(failure) => Err(failure.into()),
        }
    }

    /// All of an entry that has to be read, before anything is changed.
    fn read_body(&self, view: &LogView, number: u64, parts: &Parts<'_>, bodies: &HashMap<Hash32, Vec<u8>>) -> Result<Content, LogError> {
        let said = match self.open(parts)?.and_then(|plain| entry::decode_plain(&plain)) {
            Ok(said) => said,
            Err(why) => return Ok(Content::Malformed(why)),
        };
        let Said::Known(time, mut kind) = said else { return Ok(Content::Said(said)) };
        if !view.reads.wants(&kind, &parts.header.signer) {
            return Ok(Content::PassedOver(time, body::without_list(kind)));
        }
        let Some(hash) = body::named_by(&mut kind) else { return Ok(Content::Said(Said::Known(time, kind))) };
        let at = At { number, hash: Hash32([0; 32]), signer: parts.header.signer, time };
        if judge::rights(&view.fold, &at, &kind).is_err() {
            return Ok(Content::Said(Said::Known(time, kind))); // void, whatever its list says
        }
        let right = |object: &Vec<u8>| self::hash(object) == hash;
        let there = match bodies.get(&hash).filter(|object| right(object)) {
            Some(object) => Some(std::borrow::Cow::Borrowed(object)),
            None => self.store.read(&body_name(&hash), body::OBJECT_LIMIT)?.filter(right).map(std::borrow::Cow::Owned),
        };
        let Some(object) = there else {
            return Ok(Content::Missing(hash));
        };
        let Some(sealed) = body::split(&object, &self.repository, number) else {
            return Ok(Content::Malformed("its body/ object is not of this entry"));
        };
        match self.sealer.open(&sealed, &body::body_data(&self.repository, number)) {
            Ok(list) => Ok(body::move_in(&mut kind, &list).map_or_else(Content::Malformed, |()| Content::Said(Said::Known(time, kind)))),
            Err(SealFailure::NotAuthentic) => Ok(Content::Malformed("its body/ object does not open under the table key")),
            Err(failure) => Err(failure.into()),
        }
    }

    fn judge(&self, view: &mut LogView, at: At, content: Content) {
        let active = view.fold.keys.get(&at.signer).is_some_and(Key::is_active);
        match content {
            Content::Malformed(why) => view.fold.alarm(at.number, Some(at.signer), why.to_owned()),
            Content::Missing(hash) => view.missing.push(MissingBody { number: at.number, hash }),
            Content::Said(_) | Content::PassedOver(..) if !active => {
                view.fold.alarm(at.number, Some(at.signer), "its key was revoked".into())
            }
            Content::Said(Said::Ignorable(time)) => view.fold.newest_time = time,
            Content::Said(Said::Unknown(kind)) => {
                view.fold.unknown.get_or_insert(super::Unknown { number: at.number, kind });
            }
            Content::Said(Said::Known(time, kind)) => {
                let in_doubt = !view.is_sound();
                let at = At { time, ..at };
                let verdict = if view.reads.all || !has_list(&kind) {
                    view.fold.step(&at, &kind)
                } else {
                    view.granted();
                    view.fold.step_granted(&at, &kind, true)
                };
                if let (true, Verdict::Void(_), Kind::Commit(commit)) = (in_doubt, verdict, kind) {
                    view.doubtful.push((at.number, *commit));
                }
            }
            Content::PassedOver(time, kind) => {
                view.granted();
                view.fold.step_granted(&At { time, ..at }, &kind, false);
            }
        }
    }
}

/// What a signed entry holds.
enum Content {
    Said(Said),
    /// Its list is not wanted.
    PassedOver(crate::units::Timestamp, Kind),
    Malformed(&'static str),
    Missing(Hash32),
}

fn view_of(fold: Fold, newest: Head, reads: Reads) -> LogView {
    LogView { fold, newest, unsigned: false, hole: false, odd: false, damage: Vec::new(), missing: Vec::new(), doubtful: Vec::new(), reads }
}

fn at(newest: &Head, parts: &Parts<'_>) -> At {
    At { number: newest.number, hash: newest.hash, signer: parts.header.signer, time: crate::units::Timestamp(0) }
}

/// The newest entry of the view is damaged, not void.
fn damaged(view: &mut LogView) {
    let number = view.newest.number;
    view.fold.alarms.remove(&number);
    view.damage.push(Damage::Changed(number));
}

/// Is anything as it can't be, or needn't be, while nobody puts anything over an entry or deletes one?
fn is_strange(read: &Result<LogView, LogError>) -> bool {
    match read {
        Ok(view) => is_strange_view(view),
        Err(e) => matches!(e, LogError::NotThere | LogError::First(_)),
    }
}

fn is_strange_view(view: &LogView) -> bool {
    view.odd || view.unsigned || !view.damage.is_empty()
}

/// Is the log as it lies beneath a better one?
fn is_better(beneath: &Result<LogView, LogError>, above: &Result<LogView, LogError>) -> bool {
    match (beneath, above) {
        (Ok(_), Err(_)) => true,
        (Ok(beneath), Ok(above)) => {
            (beneath.damage.len(), beneath.missing.len()) < (above.damage.len(), above.missing.len())
                || beneath.newest.number > above.newest.number
                || !is_strange_view(beneath)
        }
        (Err(_), _) => false,
    }
}

/// The entries behind the newest of the view are gone, up to `last`.
fn note_absence(view: &mut LogView, last: u64) {
    if view.unsigned {
        damaged(view); // nobody attests it any more
        view.unsigned = false;
    }
    view.damage.push(Damage::Absent { first: view.newest.number + 1, last });
    view.newest = Head { number: last, hash: Hash32([0; 32]) };
    view.hole = true;
}

/// The hash of an entry's or a body's bytes.
pub(super) fn hash(bytes: &[u8]) -> Hash32 {
    Hash32(*blake3::hash(bytes).as_bytes())
}

/// The number in the name of an entry; `None` for other names and other spellings.
fn number_in(name: &str) -> Option<u64> {
    let number: u64 = name.strip_prefix("log/")?.parse().ok()?;
    (entry_name(number) == name).then_some(number)
}
