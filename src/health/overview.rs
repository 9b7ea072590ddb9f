//! A cluster at a glance: could it be restored now, and to when?

use std::time::Duration;

use serde::Serialize;

use super::Line;
use crate::archive::status::Status;
use crate::look;
use crate::repo::log::{ClusterId, Fold, LiveCommit};
use crate::retain::{Subject, proven_at};
use crate::units::{ByteSize, Lsn, SegmentName, TimelineId, Timestamp, counted};

/// What is known of a cluster. Fields are added, never changed; what isn't known is absent.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Glance {
    /// Its name.
    pub cluster: String,
    /// Live snapshots.
    pub snapshots: usize,
    /// The newest one that is good: without damaged pages, never found bad, relying on nothing that is damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_good: Option<Snapshot>,
    /// When the oldest one that is kept was finished.
    #[serde(skip)]
    pub first_at: Option<Timestamp>,
    /// The newest one of all, if that is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Snapshot>,
    /// Bytes that snapshots of the last seven days added.
    pub new_bytes_7d: u64,
    /// Bytes that snapshots of the last thirty days added.
    pub new_bytes_30d: u64,
    /// Bytes of WAL objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wal_bytes: Option<u64>,
    /// Its archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveGlance>,
    /// When a snapshot was last verified, read whole, or rehearsed, and found good.
    #[serde(serialize_with = "text_or_null")]
    pub proven_at: Option<Timestamp>,
}

/// A snapshot.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Snapshot {
    /// Its id.
    pub id: String,
    /// When it was finished.
    #[serde(serialize_with = "text")]
    pub finished_at: Timestamp,
    /// How long ago that is, in seconds.
    pub age_seconds: i64,
    /// Damaged pages in it.
    pub damaged_pages: u64,
    /// Why it isn't good; empty: it is.
    pub flaws: Vec<String>,
}

impl Snapshot {
    fn why(&self) -> String {
        self.flaws.join("; ")
    }

    /// What to do about it: damage of the cluster is mended there, damage of the repository here.
    fn cure(&self) -> String {
        if self.damaged_pages > 0 {
            return format!("pgcairn show {} names the pages: repair the cluster, keep what is good meanwhile, and take a backup", self.id);
        }
        "pgcairn verify --read-data names what is damaged: bring it back from a copy and verify again; a backup stores anew what the cluster still has of it"
            .into()
    }
}

/// What an archive adds up to.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct ArchiveGlance {
    /// Gaps that nobody acknowledged.
    pub gaps: usize,
    /// Gaps that are acknowledged: no alarm, and nothing behind them can be reached from before all the same.
    pub known_gaps: usize,
    /// Segments with faults, damaged and lost files that nobody acknowledged.
    pub faults: usize,
    /// Timelines that are still written.
    pub live: Vec<TimelineId>,
    /// The newest push.
    #[serde(serialize_with = "text_or_null")]
    pub last_pushed_at: Option<Timestamp>,
    /// Bytes of the server's WAL that aren't archived, where it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,
    /// Whole segments of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_segments: Option<u64>,
    /// Seconds since the newest push, where segments wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<i64>,
    /// The earliest point that can be reached.
    #[serde(serialize_with = "text_or_null")]
    pub from_time: Option<Timestamp>,
    /// The latest.
    #[serde(serialize_with = "text_or_null")]
    pub to_time: Option<Timestamp>,
    /// The latest, as a position.
    pub to_lsn: Option<Lsn>,
    /// Snapshots whose WAL isn't all there, and for which segment they wait.
    pub waiting: Vec<(String, Option<SegmentName>)>,
}

fn text<S: serde::Serializer>(time: &Timestamp, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(time)
}

fn text_or_null<S: serde::Serializer>(time: &Option<Timestamp>, s: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => s.collect_str(time),
        None => s.serialize_none(),
    }
}

const DAY: i64 = 86_400_000_000;
/// A snapshot waits for the end of its segment as long as a quiet server takes to fill or cut one.
const PATIENCE: i64 = 15 * 60;
/// A segment is pushed within that, or the archiver is stuck.
const PUSHED_WITHIN: i64 = 10 * 60;
/// A proof is so old at most before it is worth a word.
const PROVEN_WITHIN: i64 = 35 * DAY;

impl Glance {
    /// What the log says of it. In the order of the log, never of clocks.
    pub fn of(fold: &Fold, cluster: &str, now: Timestamp) -> Self {
        let all: Vec<&LiveCommit> = look::snapshots(fold, Some(cluster)).into_iter().map(|listed| listed.commit).collect();
        let snapshot = |c: &&LiveCommit| Snapshot {
            id: c.summary.id.clone(),
            finished_at: c.summary.finished_at,
            age_seconds: now.0.saturating_sub(c.summary.finished_at.0) / 1_000_000,
            damaged_pages: c.summary.damaged_pages,
            flaws: Subject::of(fold, c).flaws.iter().map(ToString::to_string).collect(),
        };
        let last = all.last().map(snapshot);
        let last_good = all.iter().rev().find(|c| Subject::of(fold, c).is_good()).map(snapshot);
        let new_since = |days: i64| {
            let since = now.0.saturating_sub(days.saturating_mul(DAY));
            all.iter().filter(|c| c.summary.finished_at.0 >= since).fold(0u64, |sum, c| sum.saturating_add(c.summary.new_bytes))
        };
        let evidence = |c: &&LiveCommit| {
            let finished = c.summary.finished_at;
            fold.evidence.get(&c.summary.id).into_iter().flatten().filter_map(move |(what, e)| proven_at(what, e, finished)).max()
        };
        Glance {
            cluster: cluster.to_owned(),
            snapshots: all.len(),
            last: last.filter(|last| last_good.as_ref().is_none_or(|good| good.id != last.id)),
            first_at: all.first().map(|c| c.summary.finished_at),
            last_good,
            new_bytes_7d: new_since(7),
            new_bytes_30d: new_since(30),
            wal_bytes: None,
            archive: None,
            proven_at: all.iter().filter_map(evidence).max(),
        }
    }

    /// The clusters of a repository, with the system identifier under which each was last backed up.
    pub fn clusters(fold: &Fold) -> Vec<ClusterId> {
        let of = |(name, begin): (&String, &crate::repo::log::NewestBegin)| ClusterId {
            name: name.clone(),
            system_identifier: begin.system_identifier,
        };
        fold.clusters.iter().map(of).collect()
    }

    /// What to say of it. A snapshot older than `max_age` needs a look, one older than twice that is an error.
    pub fn lines(&self, now: Timestamp, max_age: Duration) -> Vec<Line> {
        let mut lines = vec![self.backup(max_age)];
        lines.extend(self.archive.as_ref().into_iter().flat_map(|archive| archive.lines(self, now, max_age)));
        lines.extend([self.proof(now), self.growth()]);
        lines.into_iter().map(|line| line.of(&self.cluster)).collect()
    }

    fn backup(&self, max_age: Duration) -> Line {
        const NAME: &str = "backup";
        let Some(good) = &self.last_good else {
            return match &self.last {
                Some(last) => Line::error(NAME, format!("no snapshot is good; of the newest, {}: {}", last.id, last.why()), last.cure()),
                None => Line::error(NAME, "there is no snapshot", "take one: pgcairn backup"),
            };
        };
        let limit = i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX);
        let text = format!("the last good snapshot, {}, is {} old; {} are kept", good.id, age(good.age_seconds), self.snapshots);
        let cure = "is the timer running? its log says why the last backup failed; pgcairn backup takes one now";
        if good.age_seconds >= limit.saturating_mul(2) {
            return Line::error(NAME, text, cure);
        }
        if good.age_seconds >= limit {
            return Line::warning(NAME, text, cure);
        }
        match &self.last {
            Some(last) => Line::warning(NAME, format!("{text}; of the newest, {}: {}", last.id, last.why()), last.cure()),
            None => Line::ok(NAME, text),
        }
    }

    fn proof(&self, now: Timestamp) -> Line {
        match self.proven_at {
            Some(at) if now.0.saturating_sub(at.0) <= PROVEN_WITHIN => {
                Line::ok("proof", format!("a snapshot was read and found good at {}", at.for_people()))
            }
            Some(at) => Line::warning(
                "proof",
                format!("no snapshot was read and found good since {}", at.for_people()),
                "pgcairn verify --read-data, or better: restore one",
            ),
            None if self.snapshots == 0 => Line::ok("proof", "nothing to prove yet"),
            None if self.first_at.is_some_and(|at| now.0.saturating_sub(at.0) <= PROVEN_WITHIN) => {
                Line::ok("proof", "no snapshot was read and found good yet: pgcairn verify --read-data, or better, restore one")
            }
            None => {
                Line::warning("proof", "no snapshot was ever read and found good", "pgcairn verify --read-data, or better: restore one")
            }
        }
    }

    fn growth(&self) -> Line {
        let wal = self.wal_bytes.map(|bytes| format!("; its WAL takes {}", ByteSize(bytes))).unwrap_or_default();
        let (week, month) = (ByteSize(self.new_bytes_7d), ByteSize(self.new_bytes_30d));
        Line::ok("growth", format!("snapshots added {week} in 7 days, {month} in 30{wal}"))
    }
}

impl ArchiveGlance {
    /// Out of the archive's status.
    pub fn of(status: &Status, now: Timestamp) -> Self {
        let last_pushed_at = status.timelines.iter().filter_map(|t| t.last_pushed_at).max();
        let faults = status.timelines.iter().flat_map(|t| &t.faults).filter(|f| f.acknowledged.is_none()).count();
        let damaged = status.damaged.iter().filter(|d| d.acknowledged.is_none()).count();
        let lag_segments = status.lag.map(|lag| lag.segments);
        let waits = lag_segments.is_some_and(|n| n > 0);
        ArchiveGlance {
            gaps: status.open_gaps().count(),
            known_gaps: status.timelines.iter().flat_map(|t| &t.gaps).filter(|gap| gap.acknowledged.is_some()).count(),
            faults: faults + damaged + status.lost.len(),
            live: status.live().collect(),
            last_pushed_at,
            lag_bytes: status.lag.map(|lag| lag.bytes),
            lag_segments,
            lag_seconds: last_pushed_at.filter(|_| waits).map(|at| now.0.saturating_sub(at.0) / 1_000_000),
            from_time: status.restorable.iter().map(|w| w.from_time).min(),
            to_time: status.restorable.iter().filter_map(|w| w.to_time).max(),
            to_lsn: status.restorable.iter().map(|w| w.to_lsn).max(),
            waiting: status.waiting.iter().map(|w| (w.snapshot.clone(), w.segment)).collect(),
        }
    }

    fn lines(&self, glance: &Glance, now: Timestamp, max_age: Duration) -> Vec<Line> {
        vec![self.archive(), self.lag(now, max_age), self.window(glance, now)]
    }

    fn archive(&self) -> Line {
        const NAME: &str = "archive";
        let cure = "pgcairn archive status names them";
        if self.live.len() > 1 {
            let lines: Vec<String> = self.live.iter().map(ToString::to_string).collect();
            let text = format!("two live lines: timelines {} are all being archived", lines.join(", "));
            return Line::error(NAME, text, "turn archiving off in the copy that was promoted, or let it archive as another --cluster");
        }
        match (self.gaps, self.faults) {
            (0, 0) if self.known_gaps > 0 => {
                let gaps = counted(self.known_gaps, "gap, which is acknowledged", "gaps, which are acknowledged");
                Line::ok(NAME, format!("the archive has {gaps}: pgcairn archive status says from where on it is whole"))
            }
            (0, 0) => Line::ok(NAME, "the archive has no gap"),
            (0, faults) => Line::error(
                NAME,
                counted(faults, "archived file is damaged, lost, or has a fault", "archived files are damaged, lost, or have a fault"),
                cure,
            ),
            (gaps, _) => Line::error(
                NAME,
                format!(
                    "{} can be reached from before",
                    counted(gaps, "gap in the archive: nothing behind it", "gaps in the archive: nothing behind them")
                ),
                cure,
            ),
        }
    }

    /// Where nobody could ask the server, a push that is older than a backup may be needs a look: each backup waits for one.
    fn lag(&self, now: Timestamp, max_age: Duration) -> Line {
        const NAME: &str = "lag";
        let limit = i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX);
        let old = |at: Timestamp| now.0.saturating_sub(at.0) / 1_000_000 > limit;
        let pushed = self.last_pushed_at.map(|at| format!("the last push was at {}", at.for_people()));
        match (self.lag_bytes, self.lag_segments) {
            (Some(bytes), Some(segments)) => {
                let waits = self.lag_seconds.filter(|_| segments > 0).map(|s| format!(", for {}", age(s))).unwrap_or_default();
                let text = format!(
                    "the archive is {} behind the server: {}{waits}",
                    ByteSize(bytes),
                    counted(segments, "whole segment", "whole segments")
                );
                if segments > 0 && self.lag_seconds.is_none_or(|s| s > PUSHED_WITHIN) {
                    Line::error(NAME, text, "pgcairn check says what keeps the archiver from working")
                } else {
                    Line::ok(NAME, text)
                }
            }
            _ if self.last_pushed_at.is_some_and(old) => Line::warning(
                NAME,
                format!("{}, and how far it is behind the server is not known here", pushed.unwrap_or_default()),
                "pgcairn check on the server's host says whether the archiver works; with dsn in the configuration status asks the server itself",
            ),
            _ => Line::ok(
                NAME,
                format!("{}; how far it is behind the server is not known here", pushed.unwrap_or("nothing was pushed yet".into())),
            ),
        }
    }

    fn window(&self, glance: &Glance, now: Timestamp) -> Line {
        const NAME: &str = "window";
        let finished = |id: &str| [&glance.last_good, &glance.last].into_iter().flatten().find(|s| s.id == id).map(|s| s.finished_at);
        let late = |id: &str| finished(id).is_none_or(|at| now.0.saturating_sub(at.0) / 1_000_000 > PATIENCE);
        if let Some((id, segment)) = self.waiting.iter().find(|(id, _)| late(id)) {
            let text = match segment {
                Some(segment) => format!("snapshot {id} can't be restored: it waits for {segment}"),
                None => format!("snapshot {id} can't be restored: its WAL has a fault"),
            };
            return Line::error(NAME, text, "is the archiver working? pgcairn check; then take a backup");
        }
        match (self.from_time, self.to_time, self.to_lsn) {
            (Some(from), Some(to), _) => {
                Line::ok(NAME, format!("restorable to any point from {} to {}", from.for_people(), to.for_people()))
            }
            (Some(from), None, Some(lsn)) => Line::ok(NAME, format!("restorable from {} to LSN {lsn}", from.for_people())),
            _ if glance.snapshots == 0 => Line::ok(NAME, "nothing can be restored yet"),
            _ => Line::ok(NAME, "snapshots can be restored as themselves"),
        }
    }
}

/// Seconds, as people say them.
fn age(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{} s", seconds.max(0)),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{State, worst};
    use crate::look::testing::{fold_of, snapshot};
    use crate::repo::log::Evidence;

    const HOUR: i64 = 3_600_000_000;
    const MAX_AGE: Duration = Duration::from_secs(26 * 3600);

    fn fold(finished: &[(i64, u64)]) -> Fold {
        fold_of(finished.iter().enumerate().map(|(i, (at, damaged))| {
            let mut summary = snapshot(&format!("20261124-13300{i}-7f3a"), "shop");
            (summary.started_at, summary.finished_at, summary.damaged_pages, summary.new_bytes) =
                (Timestamp(*at - 1), Timestamp(*at), *damaged, 10);
            (5 + i as u64, summary)
        }))
    }

    #[test]
    fn the_last_good_snapshot_counts() {
        let now = Timestamp(1000 * HOUR);
        let ago = |hours: i64| now.0 - hours * HOUR;
        for (snapshots, state, words) in [
            (&[][..], State::Error, "there is no snapshot"),
            (&[(ago(2), 0)], State::Ok, "is 2 h old"),
            (&[(ago(30), 0)], State::Warning, "is 30 h old"),
            (&[(ago(60), 0)], State::Error, "is 2 days old"),
            (&[(ago(20), 0), (ago(1), 3)], State::Warning, ": 3 damaged pages"),
            (&[(ago(60), 0), (ago(1), 3)], State::Error, "is 2 days old"),
            (&[(ago(1), 3)], State::Error, "no snapshot is good; of the newest, 20261124-133000-7f3a: 3 damaged pages"),
        ] {
            let line = Glance::of(&fold(snapshots), "shop", now).backup(MAX_AGE);
            assert!(line.state == state && line.text.contains(words), "{line:?}");
        }
        let glance = Glance::of(&fold(&[(ago(24 * 20), 0), (ago(24 * 3), 0)]), "shop", now);
        assert_eq!((glance.snapshots, glance.new_bytes_7d, glance.new_bytes_30d), (2, 10, 20));
    }

    #[test]
    fn a_proof_grows_old() {
        let now = Timestamp(100 * DAY);
        assert_eq!(Glance::of(&fold(&[(now.0 - HOUR, 0)]), "shop", now).proof(now).state, State::Ok, "there was no time for it");
        let mut fold = fold(&[(now.0 - 40 * DAY, 0)]);
        assert_eq!(Glance::of(&fold, "shop", now).proof(now).state, State::Warning);
        let mut found = |ok, days: i64| {
            let evidence = Evidence { number: 9, at: Timestamp(now.0 - days * DAY), ok, detail: "read 100 %".into() };
            fold.evidence.insert("20261124-133000-7f3a".into(), [("verify".to_owned(), evidence)].into());
            Glance::of(&fold, "shop", now).proof(now).state
        };
        assert_eq!([found(true, 3), found(true, 40), found(false, 3)], [State::Ok, State::Warning, State::Warning]);
    }

    #[test]
    fn an_archive_is_judged() {
        let now = Timestamp(1000 * HOUR);
        let glance = Glance::of(&fold(&[(now.0 - HOUR, 0)]), "shop", now);
        let id = glance.last_good.clone().unwrap().id;
        let sound = ArchiveGlance { live: vec![TimelineId(1)], lag_bytes: Some(5), lag_segments: Some(0), ..ArchiveGlance::default() };
        assert_eq!(worst(&sound.lines(&glance, now, MAX_AGE)), State::Ok);
        type Change = Box<dyn Fn(&mut ArchiveGlance)>;
        let cases: Vec<(&str, State, Change)> = vec![
            ("archive", State::Error, Box::new(|a| a.gaps = 1)),
            ("archive", State::Error, Box::new(|a| a.faults = 1)),
            ("archive", State::Error, Box::new(|a| a.live = vec![TimelineId(1), TimelineId(2)])),
            ("lag", State::Error, Box::new(|a| (a.lag_segments, a.lag_seconds) = (Some(3), Some(3600)))),
            ("lag", State::Ok, Box::new(|a| (a.lag_segments, a.lag_seconds) = (Some(3), Some(5)))),
            ("window", State::Error, Box::new(move |a| a.waiting = vec![(id.clone(), None)])),
        ];
        for (name, state, change) in cases {
            let mut archive = sound.clone();
            change(&mut archive);
            let lines = archive.lines(&glance, now, MAX_AGE);
            assert!(lines.iter().all(|line| (line.name == name) == (line.state == state) || state == State::Ok), "{name}: {lines:?}");
        }
        // A snapshot that has just been taken may wait.
        let young = Glance::of(&fold(&[(now.0 - 1_000_000, 0)]), "shop", now);
        let waiting = ArchiveGlance { waiting: vec![(young.last_good.clone().unwrap().id, None)], ..sound };
        assert_eq!(worst(&waiting.lines(&young, now, MAX_AGE)), State::Ok);
    }

    /// An archiver that is dead is seen where the server can't be asked, too.
    #[test]
    fn an_old_push_needs_a_look() {
        let now = Timestamp(1000 * HOUR);
        let pushed = |hours: i64| ArchiveGlance { last_pushed_at: Some(Timestamp(now.0 - hours * HOUR)), ..ArchiveGlance::default() };
        let state = |archive: &ArchiveGlance| archive.lag(now, MAX_AGE).state;
        assert_eq!([state(&pushed(2)), state(&pushed(30)), state(&ArchiveGlance::default())], [State::Ok, State::Warning, State::Ok]);
        let asked = ArchiveGlance { lag_bytes: Some(5), lag_segments: Some(0), ..pushed(30) };
        assert_eq!(state(&asked), State::Ok);
    }

    /// What is wrong with the repository is not put down to the cluster.
    #[test]
    fn each_flaw_has_its_own_words_and_cure() {
        let now = Timestamp(1000 * HOUR);
        let mut fold = fold(&[(now.0 - HOUR, 0)]);
        let bad = Evidence { number: 9, at: now, ok: false, detail: "read 100 %: pack/a: it is not there".into() };
        fold.evidence.insert("20261124-133000-7f3a".into(), [("verify".to_owned(), bad)].into());
        let line = Glance::of(&fold, "shop", now).backup(MAX_AGE);
        let cure = line.cure.clone().unwrap_or_default();
        assert!(line.text.contains("verify found it bad (read 100 %: pack/a: it is not there)"), "{line:?}");
        assert!(!line.text.contains("damaged page") && cure.contains("bring it back") && !cure.contains("repair the cluster"), "{line:?}");
    }
}
