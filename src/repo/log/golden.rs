//! The fold against recorded logs: `tests/fixtures/log/traces.jsonl`, made by the model in which the rules were checked.
//!
//! One JSON object a line: `events` from the empty fold on, numbered from 1; `verdicts`, one an event, `valid` or the
//! rule that makes it void; `fold`, the tables at the end. In the model sessions, snapshots and packs have names
//! (`A1.2` is a pack of session `A1`), and WAL is counted in segments.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::entry::{Said, decode_plain, encode_plain};
use super::fold::{At, Fold, Verdict};
use super::kind::*;
use super::rights::Key;
use super::wal::{Branch, ClusterId, Need, SnapshotWal, WalMode, WalPosition, WalRange};
use crate::crypt::sign::SigningKey;
use crate::units::{ChunkId, Digest16, Hash32, Lsn, PackId, SegmentName, SegmentNo, SegmentSize, SessionId, TimelineId, Timestamp};

const TRACES: &str = include_str!("../../../tests/fixtures/log/traces.jsonl");
/// One more, by hand: COMMITs that replace others, which the model hasn't. `replaces` and FORGET's `commit` are numbers.
const REPLACED: &str = include_str!("../../../tests/fixtures/log/replaced.jsonl");

fn hash_of(name: &str) -> Hash32 {
    Hash32(*blake3::hash(name.as_bytes()).as_bytes())
}

fn session(name: &str) -> SessionId {
    SessionId::from_slice(&hash_of(name).0[..16]).unwrap()
}

fn pack(name: &str) -> (SessionId, PackId) {
    (session(name.split('.').next().unwrap()), PackId::from_slice(&hash_of(name).0[..16]).unwrap())
}

fn facts(name: &str) -> PackFacts {
    PackFacts { hash: hash_of(name), size: 1000 + name.len() as u64, tail: 100 }
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn timeline(value: &Value) -> TimelineId {
    TimelineId(number(value) as u32)
}

/// The cluster for which a session was begun.
fn cluster_of(fold: &Fold, name: &str) -> String {
    fold.sessions.get(&session(name)).and_then(|s| s.cluster.clone()).map_or_else(|| "c".into(), |c| c.name)
}

/// Turns the model's events into entries.
struct Replay {
    size: SegmentSize,
    /// Where in a segment positions lie.
    offset: u64,
    /// Live snapshots: the COMMIT's number, and the cluster whose WAL it needs.
    snapshots: BTreeMap<String, (u64, String)>,
}

impl Replay {
    fn lsn(&self, segment: u64) -> Lsn {
        Lsn(self.size.start_of(SegmentNo(segment)).0 + self.offset)
    }

    fn ancestry(&self, value: &Value) -> Vec<Branch> {
        let branch = |b: &Value| Branch { timeline: timeline(&b[0]), lsn: self.lsn(number(&b[1])) };
        value.as_array().unwrap().iter().map(branch).collect()
    }

    fn wal(&self, event: &Value) -> Option<SnapshotWal> {
        let start = event["wal_start"].as_array()?;
        let range = |r: &Value| {
            let last = self.size.end_of(SegmentNo(number(&r[2])));
            WalRange { timeline: timeline(&r[0]), first: self.lsn(number(&r[1])), last }
        };
        let ranges: Vec<WalRange> = event["wal_window"].as_array().unwrap().iter().map(range).collect();
        Some(SnapshotWal {
            timeline: timeline(&start[1]),
            start_lsn: self.lsn(number(&start[2])),
            stop_lsn: ranges.last().unwrap().last,
            segment_size: self.size,
            ranges,
            ancestry: self.ancestry(&event["ancestry"]),
            mode: WalMode::Archive,
        })
    }

    fn commit_number(&self, snapshot: &str) -> u64 {
        self.snapshots.get(snapshot).map_or(999_999, |s| s.0)
    }

    fn begin(&self, event: &Value) -> Begin {
        let reads = event["reads"].as_str();
        let floor = event["wal_floor"].as_array();
        let read_cluster = || Some(self.snapshots.get(reads?)?.1.clone());
        let cluster = floor.map(|f| f[0].as_str().unwrap().to_owned()).or_else(read_cluster).unwrap_or_else(|| "c".into());
        Begin {
            purpose: "backup".into(),
            cluster: Some(cluster),
            system_identifier: Some(7),
            machine: "m1".into(),
            floor: floor.map(|f| WalPosition { timeline: timeline(&f[1]), lsn: self.lsn(number(&f[2])) }),
            reads: reads.map(|snapshot| self.commit_number(snapshot)),
            ..Begin::default()
        }
    }

    fn commit(&self, fold: &Fold, event: &Value) -> Commit {
        let name = event["session"].as_str().unwrap();
        let packs = strings(&event["packs"]);
        let wal = self.wal(event);
        let its = cluster_of(fold, name);
        let cluster = if wal.is_some() { event["wal_start"][0].as_str().unwrap().to_owned() } else { its };
        let own = packs.iter().filter(|p| pack(p).0 == session(name));
        let lists = CommitLists {
            new: own.map(|p| (pack(p).1, facts(p))).collect(),
            set: packs.iter().map(|p| pack(p)).collect(),
            less: event["less"].as_array().into_iter().flatten().map(|p| pack(p.as_str().unwrap())).collect(),
            ledger: vec![],
        };
        let root = event["root"].as_str().unwrap_or_else(|| &packs[0]);
        let place = Place { pack: pack(root).1, blob: 0, position: 0 };
        Commit {
            session: session(name),
            summary: Summary { cluster, wal, ..summary(event["snapshot"].as_str().unwrap()) },
            root: Root { chunk: ChunkId([0; 32]), place, digest: Digest16([0; 16]) },
            lists: Held::Inline(lists),
            replaces: event["replaces"].as_u64(),
        }
    }

    fn expire(&self, event: &Value) -> ExpireWal {
        let timeline = timeline(&event["timeline"]);
        let mut objects: BTreeMap<SegmentName, BTreeSet<Hash32>> = BTreeMap::new();
        for object in event["objects"].as_array().unwrap() {
            let name = SegmentName::new(timeline, SegmentNo(number(&object[0])), self.size);
            objects.entry(name).or_default().insert(hash_of(object[1].as_str().unwrap()));
        }
        ExpireWal {
            cluster: event["cluster"].as_str().unwrap().into(),
            system_identifier: 7,
            timeline,
            segment_size: self.size,
            ancestry: self.ancestry(&event["ancestry"]),
            objects: Held::Inline(objects),
        }
    }

    fn kind(&self, fold: &Fold, event: &Value) -> Kind {
        let packs = || strings(&event["packs"]);
        let set = || Packs { packs: Held::Inline(packs().iter().map(|p| pack(p)).collect()) };
        let of = || session(event["session"].as_str().unwrap());
        match event["kind"].as_str().unwrap() {
            "BEGIN" => Kind::Begin(self.begin(event)),
            "PROGRESS" => {
                let packs = packs();
                assert!(!packs.is_empty());
                Kind::Progress(Progressed { session: of(), packs: Held::Inline(packs.iter().map(|p| (pack(p).1, facts(p))).collect()) })
            }
            "COMMIT" => Kind::Commit(Box::new(self.commit(fold, event))),
            "ABORT" => Kind::Abort(Abort { session: of() }),
            "FORGET" => {
                let commit = event["commit"].as_u64().unwrap_or_else(|| self.commit_number(event["snapshot"].as_str().unwrap()));
                Kind::Forget(Forget { commit, window: event["window"].as_bool().unwrap() })
            }
            "CONDEMN" => Kind::Condemn(set()),
            "SWEEP" => Kind::Sweep(set()),
            "EXPIRE-WAL" => Kind::ExpireWal(self.expire(event)),
            other => panic!("{other}"),
        }
    }

    fn after(&mut self, fold: &Fold, event: &Value, at: u64) {
        let snapshot = || event["snapshot"].as_str().unwrap().to_owned();
        match event["kind"].as_str().unwrap() {
            "COMMIT" => {
                let its = cluster_of(fold, event["session"].as_str().unwrap());
                let cluster = event["wal_start"][0].as_str().map_or(its, str::to_owned);
                self.snapshots.insert(snapshot(), (at, cluster));
            }
            "FORGET" if !event["window"].as_bool().unwrap() && event["commit"].is_null() => {
                self.snapshots.remove(&snapshot());
            }
            _ => {}
        }
    }

    // ------------------------------------------------------------------ the tables, in the model's words
    fn need(&self, need: &Option<Need>) -> Value {
        let Some(need) = need else { return Value::Null };
        if need.window.is_empty() {
            json!({"from": [need.start_cluster(), need.start.timeline, self.size.segment_of(need.start.lsn)]})
        } else {
            json!({"cluster": need.start_cluster(), "window": self.window(&need.window)})
        }
    }

    fn window(&self, ranges: &[WalRange]) -> Value {
        let one = |r: &WalRange| json!([r.timeline, self.size.segment_of(r.first), self.size.segment_before(r.last)]);
        ranges.iter().map(one).collect()
    }

    fn tables(&self, fold: &Fold, names: &Names) -> Value {
        let pack_names = |set: Vec<String>| {
            let sorted: BTreeSet<String> = set.into_iter().collect();
            json!(sorted)
        };
        let sessions: BTreeMap<&String, Value> = fold
            .sessions
            .iter()
            .map(|(id, s)| {
                let packs = pack_names(s.packs.keys().map(|p| names.packs[&(*id, *p)].clone()).collect());
                (&names.sessions[id], json!({"begin": s.begin, "open": s.open, "packs": packs, "needs": self.need(&s.need)}))
            })
            .collect();
        let live: BTreeMap<&String, Value> = fold
            .commits
            .values()
            .map(|c| {
                let packs = pack_names(c.set.iter().map(|(s, p)| names.packs[&(*s, *p)].clone()).collect());
                let window = c.summary.wal.as_ref().map_or(json!([]), |w| self.window(&w.ranges));
                (&c.summary.id, json!({"packs": packs, "needs": self.need(&c.need), "window": window}))
            })
            .collect();
        let mut condemned = BTreeMap::new();
        for (id, packs) in &fold.condemned {
            for (pack, at) in packs {
                let waits: BTreeSet<&String> = fold.open_before(*at).map(|s| &names.sessions[s]).collect();
                condemned.insert(&names.packs[&(*id, *pack)], json!({"at": at, "waits_for": waits}));
            }
        }
        let mut expired = vec![];
        for (cluster, timelines) in &fold.expired {
            for (timeline, row) in timelines {
                let ancestry: Value = row.ancestry.iter().map(|b| json!([b.timeline, self.size.segment_of(b.lsn)])).collect();
                expired.push(json!([cluster.name, timeline, self.size.segment_of(row.highest), ancestry]));
            }
        }
        json!({"sessions": sessions, "live": live, "condemned": condemned, "expired": expired})
    }
}

impl Need {
    fn start_cluster(&self) -> &str {
        &self.cluster.name
    }
}

fn summary(id: &str) -> Summary {
    Summary {
        id: id.into(),
        kind: "physical".into(),
        cluster: "c".into(),
        system_identifier: 7,
        started_at: Timestamp(1),
        finished_at: Timestamp(2),
        wal: None,
        pg_version: "18".into(),
        cluster_bytes: 0,
        read_bytes: 0,
        changed_bytes: 0,
        new_bytes: 0,
        files: 0,
        damaged_pages: 0,
        parent: None,
        labels: BTreeMap::new(),
    }
}

/// The names behind the ids.
#[derive(Default)]
struct Names {
    sessions: BTreeMap<SessionId, String>,
    packs: BTreeMap<(SessionId, PackId), String>,
}

impl Names {
    fn of(trace: &Value) -> Names {
        let mut names = Names::default();
        for event in trace["events"].as_array().unwrap() {
            if let Some(name) = event["session"].as_str() {
                names.sessions.insert(session(name), name.into());
            }
            for name in event["packs"].as_array().into_iter().flatten() {
                let name = name.as_str().unwrap();
                names.packs.insert(pack(name), name.into());
            }
        }
        names
    }
}

/// Positions of different segment sizes, at the beginning and inside of segments, must all give the model's verdicts.
fn replay(line: usize, trace: &Value) -> Fold {
    let size = SegmentSize::new([1 << 20, 16 << 20, 1 << 30][line % 3]).unwrap();
    let offset = [0, 0x28, u64::from(size.bytes()) - 1][line / 3 % 3];
    let mut replay = Replay { size, offset, snapshots: BTreeMap::new() };
    let owner = SigningKey::from_seed(&[1; 32]);
    let mut fold = Fold::new(Key::owner(owner.public().clone()));
    for (i, event) in trace["events"].as_array().unwrap().iter().enumerate() {
        let at = At {
            number: i as u64 + 1,
            hash: hash_of(event["session"].as_str().filter(|_| event["kind"] == "BEGIN").unwrap_or("other")),
            signer: owner.id(),
            time: Timestamp(5),
        };
        if event["kind"] == "PROGRESS" && strings(&event["packs"]).iter().any(|p| pack(p).0 != session(event["session"].as_str().unwrap()))
        {
            // Here a PROGRESS can't even name another session's pack.
            assert_ne!(trace["verdicts"][i], "valid");
            continue;
        }
        let kind = replay.kind(&fold, event);
        kind.check().unwrap_or_else(|why| panic!("line {line}, event {}: {why}", i + 1));
        let plain = encode_plain(at.time, &kind).unwrap();
        assert_eq!(decode_plain(&plain), Ok(Said::Known(at.time, kind.clone())), "line {line}, event {}", i + 1);
        let before = fold.clone();
        let verdict = fold.step(&at, &kind);
        let expected = trace["verdicts"][i].as_str().unwrap();
        assert_eq!(verdict == Verdict::Valid, expected == "valid", "line {line}, event {}: {event}: {verdict:?}, not {expected}", i + 1);
        if verdict == Verdict::Valid {
            replay.after(&fold, event, i as u64 + 1);
        } else {
            assert_eq!(Fold { alarms: before.alarms.clone(), ..fold.clone() }, before, "a void entry changes nothing");
        }
    }
    let names = Names::of(trace);
    assert_eq!(replay.tables(&fold, &names), trace["fold"], "line {line}");
    fold
}

#[test]
fn recorded_logs_fold_as_in_the_model() {
    let mut kinds: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for (line, text) in TRACES.lines().enumerate() {
        let trace: Value = serde_json::from_str(text).unwrap();
        let fold = replay(line, &trace);
        assert_eq!(replay(line, &trace), fold, "line {line}: the same log, the same fold");
        let kept = serde_json::to_vec(&fold).unwrap();
        assert_eq!(serde_json::from_slice::<Fold>(&kept).unwrap(), fold, "line {line}: a fold survives being kept");
        for (event, verdict) in trace["events"].as_array().unwrap().iter().zip(trace["verdicts"].as_array().unwrap()) {
            let seen = kinds.entry(event["kind"].as_str().unwrap().into()).or_default();
            if verdict == "valid" { seen.0 += 1 } else { seen.1 += 1 }
        }
    }
    assert!(kinds.len() == 8 && kinds.values().all(|(valid, void)| *valid > 20 && *void > 20), "{kinds:?}");
}

#[test]
fn commits_that_replace_others_fold_as_recorded() {
    for (line, text) in REPLACED.lines().enumerate() {
        let fold = replay(line, &serde_json::from_str(text).unwrap());
        assert_eq!(serde_json::from_slice::<Fold>(&serde_json::to_vec(&fold).unwrap()).unwrap(), fold);
    }
}

#[test]
fn a_cluster_of_another_system_identifier_is_another_cluster() {
    let need = Need {
        cluster: ClusterId { name: "c".into(), system_identifier: 7 },
        start: WalPosition { timeline: TimelineId(1), lsn: Lsn(0) },
        window: vec![],
    };
    let same_name = ClusterId { name: "c".into(), system_identifier: 8 };
    assert!(!need.covers(&same_name, TimelineId(1), SegmentNo(9), SegmentSize::DEFAULT, &[]));
}

/// `kinds.jsonl`: a body of each kind with all its fields and one with as few as possible, in canonical JSON.
#[test]
fn bodies_of_all_kinds_are_read_and_written_alike() {
    let mut seen = BTreeSet::new();
    for text in include_str!("../../../tests/fixtures/log/kinds.jsonl").lines() {
        match decode_plain(text.as_bytes()) {
            Ok(Said::Known(at, kind)) => {
                assert_eq!(String::from_utf8(encode_plain(at, &kind).unwrap()).unwrap(), text);
                seen.insert(kind.name());
            }
            other => panic!("{text}: {other:?}"),
        }
        // A field more, and it is not for this program to judge.
        let more = text.replacen(r#""entry":{"#, r#""entry":{"!":1,"#, 1);
        assert!(matches!(decode_plain(more.as_bytes()), Ok(Said::Unknown(_))), "{more}");
    }
    assert_eq!(seen, KINDS.into_iter().collect());
}
