//! Appending: judge, create the next number if it is absent; after a lost race, or where that seems to be forbidden, read to
//! the end and do all of it again.

use std::time::{Duration, Instant};

use super::body;
use super::entry::{self, ENTRY_LIMIT, Header, PLAIN_LIMIT};
use super::fold::At;
use super::kind::{Begin, KeyOp, Keys, Kind};
use super::lists::Reads;
use super::read::{Log, LogView, hash};
use super::{Created, Head, LogError, StoreFailure, body_name, entry_name};
use crate::crypt::sign::SigningKey;
use crate::units::{Class, Explain, Hash32, Timestamp};

/// Every lost race is an entry of somebody else's: so many in a row means that something is wrong.
const RACES: u32 = 1_000;

/// The longest wait after a lost race.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// How often the same bytes are offered again after an answer that left it open whether they are there.
const OFFERS: u32 = 3;

/// What came of offering bytes under a name.
enum Settled {
    /// The object has these bytes.
    Ours,
    /// It has others.
    Others,
}

/// What came of offering an entry as the next one.
enum Next {
    /// It is there, and valid.
    Ours(Head),
    /// Another has its number.
    Lost,
    /// It isn't wanted any more.
    No,
}

impl Log<'_> {
    /// Writes `log/0`, by which the repository comes into being: the owner's key, the first sealing key, the first host.
    /// `keys` must begin with [`KeyOp::Owner`].
    pub fn create(&self, owner: &SigningKey, keys: Vec<KeyOp>) -> Result<LogView, LogError> {
        let kind = Kind::Key(Keys { keys });
        kind.check().map_err(|why| form(&kind, why))?;
        let bytes = self.encode(owner, &kind, 0, Hash32([0; 32]))?;
        let view = self.start(&bytes, Reads::everything())?;
        match self.offer(&entry_name(0), &bytes, 0)? {
            Settled::Ours => Ok(view),
            Settled::Others => Err(LogError::Exists),
        }
    }

    /// Appends an entry, signed by `key`, and returns its number and hash. Lists are given inline; what is too long goes
    /// into a body.
    ///
    /// When this returns, the entry is durable, was read back, and is valid, and the view contains it. After
    /// [`LogError::Unsure`] it may have been written or still be: read on to find out.
    pub fn append(&self, view: &mut LogView, key: &SigningKey, kind: &Kind) -> Result<Head, LogError> {
        self.append_if(view, key, kind, &mut |_| true)?.ok_or(LogError::Busy(0))
    }

    /// As [`Log::append`], but only if `still` says so of all that the log adds up to below the entry: it is asked again
    /// after each lost race, so that what was decided on one state of the log isn't carried out on another. `None`: it
    /// said no, and nothing was written.
    pub fn append_if(
        &self,
        view: &mut LogView,
        key: &SigningKey,
        kind: &Kind,
        still: &mut dyn FnMut(&LogView) -> bool,
    ) -> Result<Option<Head>, LogError> {
        kind.check().map_err(|why| form(kind, why))?;
        // Creating the next number proves that the view was read to the end, so it needn't be looked at before: but for a
        // list that would be stored first, and for nothing.
        let mut read_on = body::list(&mut kind.clone()).is_some_and(|list| list.is_ok_and(|list| list.len() > PLAIN_LIMIT / 2));
        for lost in 1..=RACES {
            let began = Instant::now();
            if read_on {
                self.advance(view)?;
            }
            match self.offer_next(view, key, kind, still) {
                Ok(Next::Ours(head)) => return Ok(Some(head)),
                Ok(Next::Lost) => std::thread::sleep(wait_after(lost, began.elapsed(), fraction())),
                // What an older view refuses the newest may allow.
                Ok(Next::No) | Err(LogError::Void { .. } | LogError::Damaged(_) | LogError::Unknown(_) | LogError::MissingBody(_))
                    if !read_on => {}
                Ok(Next::No) => return Ok(None),
                Err(e) => return Err(e),
            }
            read_on = true;
        }
        Err(LogError::Busy(RACES))
    }

    /// What an entry is judged by that others' lists decide is read, and judged, before it is written.
    fn know_what_it_takes(&self, view: &mut LogView, kind: &Kind) -> Result<(), LogError> {
        match kind {
            Kind::Condemn(_) | Kind::Sweep(_) | Kind::ExpireWal(_) if !view.is_whole() => {
                *view = self.read()?;
            }
            Kind::Commit(commit) if commit.replaces.is_some() && !view.is_whole() => *view = self.read()?,
            // R16: what was expired of its cluster.
            Kind::Begin(Begin { cluster: Some(cluster), .. }) => self.know_wal(view, cluster)?,
            _ => {}
        }
        Ok(())
    }

    /// Offers the entry behind the newest of the view, if it may stand there.
    fn offer_next(
        &self,
        view: &mut LogView,
        key: &SigningKey,
        kind: &Kind,
        still: &mut dyn FnMut(&LogView) -> bool,
    ) -> Result<Next, LogError> {
        self.know_what_it_takes(view, kind)?;
        view.may_append(kind)?;
        if !still(view) {
            return Ok(Next::No);
        }
        let number = view.newest.number.checked_add(1).ok_or_else(|| form(kind, "the log is full"))?;
        let bytes = self.encode(key, kind, number, view.newest.hash)?;
        let at = At { number, hash: hash(&bytes), signer: key.id(), time: Timestamp::now() };
        view.fold.judge(&at, kind).map_err(|void| LogError::Void { kind: kind.name(), void })?;
        let ours = matches!(self.offer(&entry_name(number), &bytes, number)?, Settled::Ours) && self.read_back(view, &at, &bytes)?;
        Ok(if ours { Next::Ours(Head { number, hash: at.hash }) } else { Next::Lost })
    }

    /// Reads our own entry, as all others will, and takes it into the view. Others' bytes under its number, although the
    /// store said that it created ours, are a lost race, too.
    fn read_back(&self, view: &mut LogView, at: &At, bytes: &[u8]) -> Result<bool, LogError> {
        let unsure = |source| LogError::Unsure { number: at.number, source };
        let look = || {
            let found = self.store.read(&entry_name(at.number), ENTRY_LIMIT).map_err(|failure| unsure(Some(failure)))?;
            found.ok_or_else(|| unsure(None))
        };
        // Twice: with a bit flipped on the way ours would be another's, and be written once more.
        if look()? != bytes && look()? != bytes {
            return Ok(false);
        }
        self.take(view, at.number, bytes)?;
        if view.fold.alarms.contains_key(&at.number) { Err(unsure(None)) } else { Ok(true) }
    }

    /// An entry's bytes; its body, if it needs one, is stored before.
    fn encode(&self, key: &SigningKey, kind: &Kind, number: u64, before: Hash32) -> Result<Vec<u8>, LogError> {
        let time = Timestamp::now();
        let json = |kind: &Kind| entry::encode_plain(time, kind).map_err(|e| form(kind, &e.to_string()));
        let mut plain = json(kind)?;
        if plain.len() > PLAIN_LIMIT {
            let mut kind = kind.clone();
            self.store_body(&mut kind, number)?;
            plain = json(&kind)?;
        }
        if plain.len() > PLAIN_LIMIT {
            return Err(form(kind, "it is too long"));
        }
        let header = Header { repository: self.repository, number, before, signer: key.id() };
        let sealed = self.sealer.seal(&plain, &header.associated_data())?;
        entry::encode(&header, &sealed, key).ok_or_else(|| form(kind, "it is too long"))
    }

    fn store_body(&self, kind: &mut Kind, number: u64) -> Result<(), LogError> {
        let list = body::list(kind).ok_or_else(|| form(kind, "it is too long"))?.map_err(|e| form(kind, &e.to_string()))?;
        if list.len() > body::BODY_LIMIT {
            return Err(form(kind, "its list is too long"));
        }
        let sealed = self.sealer.seal(&list, &body::body_data(&self.repository, number))?;
        let object = body::encode(&self.repository, number, &sealed).ok_or_else(|| form(kind, "its list is too long"))?;
        let name = hash(&object);
        match self.offer(&body_name(&name), &object, number)? {
            Settled::Ours => {}
            Settled::Others => return Err(form(kind, "an object of its list's name holds other bytes")),
        }
        body::move_out(kind, name);
        Ok(())
    }

    /// Creates an object; an answer that leaves it open whether it is there is settled by offering the same bytes again.
    ///
    /// That our bytes can be read is not enough after a failure: an fsync may have failed, and what is read comes from
    /// memory. Only the store's own word, created or there, says that they are durable.
    ///
    /// Refused by a store that answers (it is full, it can't be written), and not there: that is certain.
    fn offer(&self, name: &str, bytes: &[u8], number: u64) -> Result<Settled, LogError> {
        let mut told: Option<StoreFailure> = None;
        let mut absent = false;
        for _ in 0..OFFERS {
            let there = match self.store.create(name, bytes) {
                Ok(Created::Created) => return Ok(Settled::Ours),
                Ok(Created::Exists) => true,
                Err(failure) => {
                    keep_telling(&mut told, failure);
                    false
                }
            };
            absent = false;
            match self.store.read(name, bytes.len().max(ENTRY_LIMIT)) {
                Ok(Some(found)) if found != bytes && self.differs(name, bytes) => return Ok(Settled::Others),
                Ok(Some(_)) if there => return Ok(Settled::Ours),
                Ok(Some(_)) => {}
                Ok(None) => absent = true,
                Err(failure) => keep_telling(&mut told, failure),
            }
        }
        match told {
            Some(failure) if absent && failure.class() != Class::Unreachable => Err(LogError::Store(failure)),
            source => Err(LogError::Unsure { number, source }),
        }
    }
}

/// How long to wait after so many lost races in a row, the last of which took `attempt`: a part, drawn anew each time, of as
/// many such attempts as were lost, at most eight.
///
/// Somebody wins every race, so waiting makes no append possible that was not; it spares requests that would be lost. So it
/// is measured by what they take, and who was patient sixteen times needn't be any longer: among those who wait that is soon
/// the first (decision 017).
fn wait_after(lost: u32, attempt: Duration, fraction: f64) -> Duration {
    let attempts = if lost > 16 { 0 } else { lost.min(8) };
    attempt.min(LONGEST_WAIT).saturating_mul(attempts).mul_f64(fraction.clamp(0.0, 1.0)).min(LONGEST_WAIT)
}

/// A random number from 0 to 1; without random bytes 0, and nothing is waited for.
fn fraction() -> f64 {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_or(0.0, |()| f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}

impl Log<'_> {
    /// Is what has this name another, looked at once more?
    fn differs(&self, name: &str, bytes: &[u8]) -> bool {
        let again = self.store.read(name, bytes.len().max(ENTRY_LIMIT));
        !matches!(again, Ok(Some(found)) if found == bytes)
    }
}

/// Of several failures the first counts, but silence for less than an answer: what isn't durable is no lost answer.
fn keep_telling(told: &mut Option<StoreFailure>, failure: StoreFailure) {
    let silence = told.as_ref().is_none_or(|t| t.class() == Class::Unreachable);
    if told.is_none() || (silence && failure.class() != Class::Unreachable) {
        *told = Some(failure);
    }
}

fn form(kind: &Kind, why: &str) -> LogError {
    LogError::Form { kind: kind.name(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_measured_by_what_is_spared_and_ends() {
        let attempt = Duration::from_millis(10);
        for (lost, fraction, wait) in
            [(1, 0.0, 0), (1, 1.0, 10), (2, 0.5, 10), (8, 1.0, 80), (16, 1.0, 80), (17, 1.0, 0), (1_000, 1.0, 0), (3, 7.0, 30)]
        {
            assert_eq!(wait_after(lost, attempt, fraction), Duration::from_millis(wait), "{lost} {fraction}");
        }
        assert_eq!(wait_after(8, Duration::MAX, 1.0), LONGEST_WAIT);
        assert!((0..100).all(|_| (0.0..=1.0).contains(&fraction())));
    }
}
