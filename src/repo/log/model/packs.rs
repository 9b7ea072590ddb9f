//! Packs: writers that find blobs and store some, a reader, and anyone who forgets, condemns, sweeps, aborts.
//!
//! In the beginning snapshot O, committed by session O, relies on blob y in pack O.1, which holds x as well (dead weight); in some
//! cases junk lies there, too: pack Q.1 of a session that the log doesn't know. Blobs: x, y whole, z a patch of y. Writers A, B,
//! reader R; their sessions A1, A2, B1. A snapshot is called after its session. Lists hold one pack (a longer one is several
//! entries in a row). A SWEEP deletes at once: the worst case.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::repo::log::testing::facts;
use crate::units::{ChunkId, Digest16};

const O: Name = *b"O0";
const Q: Name = *b"Q0";

#[derive(Clone, Copy, PartialEq)]
enum Plan {
    /// Relies on what is there.
    Dedup,
    /// Stores x.
    Store,
    /// Stores x and y in two packs.
    Two,
    /// Stores z as a patch of y.
    Patch,
}

struct Case {
    /// Writers, and how many sessions each has.
    writers: &'static [(u8, u8)],
    plans: &'static [Plan],
    /// Which writers store anything.
    uploaders: &'static [u8],
    reader: bool,
    junk: bool,
    /// Writers append PROGRESS.
    progress: bool,
    /// Uploads land again, stale hosts delete again.
    late: bool,
    /// The append taken apart: judge, then create.
    race: bool,
    /// A and B are interchangeable: A begins first.
    alike: bool,
    /// Which properties are looked at.
    check: &'static [&'static str],
    rules: Rules,
}

const ONE: &[(u8, u8)] = &[(b'A', 1)];
const TWO: &[(u8, u8)] = &[(b'A', 1), (b'B', 1)];
const TWICE: &[(u8, u8)] = &[(b'A', 2), (b'B', 1)];

fn case() -> Case {
    Case {
        writers: TWO,
        plans: &[Plan::Dedup, Plan::Store],
        uploaders: b"AB",
        reader: false,
        junk: false,
        progress: false,
        late: false,
        race: false,
        alike: true,
        check: &["P1", "P2", "P3"],
        rules: ALL,
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Idle,
    Open,
    Ready,
    /// It has judged its COMMIT valid, and not yet created it.
    Sure,
    /// Somebody else took that number.
    Stale,
    Gone,
}

/// A writer or a reader.
#[derive(Clone, PartialEq, Eq)]
struct Process {
    /// Its how-manyeth session.
    no: u8,
    step: Step,
    /// What its snapshot relies on.
    places: BTreeSet<(u8, Pack)>,
    /// The set that it will commit.
    set: BTreeSet<Pack>,
}

impl Process {
    fn new(no: u8, step: Step) -> Self {
        Process { no, step, places: BTreeSet::new(), set: BTreeSet::new() }
    }
}

#[derive(Clone)]
struct Packs {
    log: Told,
    processes: BTreeMap<u8, Process>,
    /// What is there.
    store: BTreeSet<Pack>,
    /// The blobs of every pack ever uploaded.
    content: BTreeMap<Pack, Vec<u8>>,
    /// In a logged SWEEP.
    swept: BTreeSet<Pack>,
    /// Live snapshot → what it relies on.
    relies: BTreeMap<Name, BTreeSet<(u8, Pack)>>,
    /// P2 or P3 was seen broken.
    wrong: Option<String>,
}

fn begin(reads: Option<u64>) -> Kind {
    let purpose = if reads.is_some() { "restore" } else { "backup" };
    Kind::Begin(Begin { purpose: purpose.into(), cluster: Some("c".into()), system_identifier: Some(1), reads, ..Begin::default() })
}

fn commit(name: Name, set: &BTreeSet<Pack>) -> Kind {
    let mut commit = crate::repo::log::testing::commit(session_id(name), &word(name), 0);
    (commit.summary.cluster, commit.summary.system_identifier, commit.summary.wal) = ("c".into(), 1, None);
    let place = Place { pack: set.first().map_or(PackId([0; 16]), |p| pack_id(*p)), blob: 0, position: 0 };
    commit.root = Root { chunk: ChunkId([0; 32]), place, digest: Digest16([0; 16]) };
    commit.lists = Held::Inline(CommitLists {
        new: set.iter().filter(|p| p.0 == name).map(|p| (pack_id(*p), facts(p.1))).collect(),
        set: set.iter().map(|p| (session_id(p.0), pack_id(*p))).collect(),
        less: PackSet::default(),
        ledger: vec![],
    });
    Kind::Commit(Box::new(commit))
}

fn packs(pack: Pack) -> super::super::Packs {
    super::super::Packs { packs: Held::Inline([(session_id(pack.0), pack_id(pack))].into_iter().collect()) }
}

type Steps = Vec<(String, Packs)>;

impl Packs {
    /// The world after an append by a process that judges first; nothing if the entry would be void.
    fn append(&self, case: &Case, label: String, kind: &Kind, name: Name, change: impl FnOnce(&mut Packs)) -> Steps {
        let Some(log) = self.log.append(kind, name, &case.rules) else { return vec![] };
        let mut next = Packs { log, ..self.clone() };
        change(&mut next);
        vec![(label, next)]
    }

    fn with(&self, change: impl FnOnce(&mut Packs)) -> Packs {
        let mut next = self.clone();
        change(&mut next);
        next
    }

    fn set(&self, letter: u8, process: Process) -> Packs {
        self.with(|w| _ = w.processes.insert(letter, process))
    }

    fn reader_begins(&self, case: &Case) -> Steps {
        if !case.reader || self.processes.contains_key(&b'R') {
            return vec![];
        }
        let read = |snapshot: Name| {
            let reader = Process { places: self.relies[&snapshot].clone(), ..Process::new(1, Step::Open) };
            let label = format!("BEGIN R1, reads snapshot {}", word(snapshot));
            self.append(case, label, &begin(Some(self.log.number_of(snapshot))), *b"R1", |w| _ = w.processes.insert(b'R', reader))
        };
        self.log.live().into_iter().flat_map(read).collect()
    }

    fn writer_begins(&self, case: &Case, letter: u8) -> Steps {
        let process = &self.processes[&letter];
        let me = [letter, b'0' + process.no];
        let waits = case.alike && letter == b'B' && self.processes[&b'A'] == Process::new(1, Step::Idle);
        if (process.step != Step::Idle && case.rules.begin_first) || self.log.knows(me) || waits {
            return vec![];
        }
        self.append(case, format!("BEGIN {}", word(me)), &begin(None), me, |w| {
            let process = w.processes.get_mut(&letter).unwrap();
            process.step = if process.step == Step::Idle { Step::Open } else { process.step };
        })
    }

    /// The writer reads its source: each blob is found in a pack that it may name, or stored in a pack of its own.
    fn writer_plans(&self, case: &Case, letter: u8) -> Steps {
        let process = &self.processes[&letter];
        if process.step != Step::Open && (process.step != Step::Idle || case.rules.begin_first) {
            return vec![];
        }
        let me = [letter, b'0' + process.no];
        // Aborted, and it doesn't know: it can still upload.
        let may = |pack: &Pack| {
            let named = self.log.fold.may_name(&session_id(me), &session_id(pack.0), &pack_id(*pack));
            let condemned = || self.log.fold.condemned_at(&session_id(pack.0), &pack_id(*pack)).is_some();
            let listed =
                || self.log.fold.sessions.get(&session_id(pack.0)).is_some_and(|s| !s.open && s.packs.contains_key(&pack_id(*pack)));
            named || (!case.rules.not_condemned && condemned() && listed())
        };
        let there: Vec<Pack> =
            if self.log.is_open(me) { self.content.keys().copied().filter(|p| p.0 != me && may(p)).collect() } else { vec![] };
        let holding: Vec<(u8, Pack)> = there.iter().flat_map(|pack| self.content[pack].iter().map(|blob| (*blob, *pack))).collect();
        let mut steps = Steps::new();
        let mut ready = |label: String, places: &[(u8, Pack)], reference: Option<(u8, Pack)>, uploads: &[(u8, &[u8])]| {
            let named = places.iter().chain(reference.iter().filter(|_| case.rules.names_reference));
            let set = named.map(|(_, pack)| *pack).collect();
            let process = Process { no: process.no, step: Step::Ready, places: places.iter().copied().chain(reference).collect(), set };
            let next = self.set(letter, process).with(|w| {
                for (n, blobs) in uploads {
                    w.store.insert((me, *n));
                    w.content.insert((me, *n), blobs.to_vec());
                }
            });
            steps.push((label, next));
        };
        let (who, uploads) = (word(me), case.uploaders.contains(&letter));
        let blob = |b: u8| if b == b'z' { "the patch z>y".to_owned() } else { char::from(b).to_string() };
        for (b, pack) in holding.iter().filter(|_| case.plans.contains(&Plan::Dedup)) {
            let named = self.log.fold.is_named(&session_id(pack.0), &pack_id(*pack)) || *pack == (O, 1);
            let label = format!("{who} {} {} in {}", if named { "relies on" } else { "adopts" }, blob(*b), pack_word(*pack));
            if *b != b'z' {
                ready(label, &[(*b, *pack)], None, &[]);
                continue;
            }
            for reference in holding.iter().filter(|(blob, _)| *blob == b'y') {
                ready(format!("{label}, its reference in {}", pack_word(reference.1)), &[(*b, *pack)], Some(*reference), &[]);
            }
        }
        if uploads && case.plans.contains(&Plan::Store) {
            ready(format!("{who} uploads {who}.1 with x"), &[(b'x', (me, 1))], None, &[(1, b"x")]);
        }
        if uploads && case.plans.contains(&Plan::Two) {
            let places = [(b'x', (me, 1)), (b'y', (me, 2))];
            ready(format!("{who} uploads {who}.1 with x and {who}.2 with y"), &places, None, &[(1, b"x"), (2, b"y")]);
        }
        if uploads && case.plans.contains(&Plan::Patch) {
            for reference in holding.iter().filter(|(blob, _)| *blob == b'y') {
                let label = format!("{who} uploads {who}.1 with z as a patch of y in {}", pack_word(reference.1));
                ready(label, &[(b'z', (me, 1))], Some(*reference), &[(1, b"z")]);
            }
        }
        steps
    }

    fn writer_reports(&self, case: &Case, letter: u8) -> Steps {
        let process = &self.processes[&letter];
        let me = [letter, b'0' + process.no];
        let own: NewPacks = self.content.keys().filter(|p| p.0 == me).map(|p| (pack_id(*p), facts(p.1))).collect();
        let told = self.log.fold.sessions.get(&session_id(me)).is_none_or(|s| !s.packs.is_empty());
        if !case.progress || process.step != Step::Ready || own.is_empty() || !self.log.is_open(me) || told {
            return vec![];
        }
        let kind = Kind::Progress(Progressed { session: session_id(me), packs: Held::Inline(own) });
        self.append(case, format!("PROGRESS {}", word(me)), &kind, me, |_| {})
    }

    fn writer_commits(&self, case: &Case, letter: u8) -> Steps {
        let process = &self.processes[&letter];
        if !matches!(process.step, Step::Ready | Step::Sure | Step::Stale) {
            return vec![];
        }
        let me = [letter, b'0' + process.no];
        let who = word(me);
        let kind = commit(me, &process.set);
        let void = self.log.judge(&kind, me, &case.rules).err();
        let now = |step| Process { step, ..process.clone() };
        if process.step == Step::Stale && case.rules.revalidate {
            return vec![(format!("{who} has lost the race and reads the log"), self.set(letter, now(Step::Ready)))];
        }
        if let (Step::Stale, Some(void)) = (process.step, void) {
            let wrong = format!("P2 {who} was acknowledged, and every reader calls it void: {void}");
            return vec![(format!("{who} takes the next number with what it had judged before"), self.with(|w| w.wrong = Some(wrong)))];
        }
        if let Some(void) = void.filter(|_| self.log.is_open(me)) {
            let wrong = format!("P3 a wasted run, {who} was not aborted: {void}");
            return vec![(format!("{who} finds its COMMIT void"), self.with(|w| w.wrong = Some(wrong)))];
        }
        if case.race && process.step == Step::Ready && void.is_none() {
            return vec![(format!("{who} has read the log and judges its COMMIT valid"), self.set(letter, now(Step::Sure)))];
        }
        self.append(case, format!("COMMIT {who}"), &kind, me, |w| {
            w.processes.insert(letter, Process::new(process.no, Step::Gone));
            w.relies.insert(me, process.places.clone());
        })
    }

    fn writer_sees_abort(&self, letter: u8, sessions: u8) -> Steps {
        let process = &self.processes[&letter];
        let me = [letter, b'0' + process.no];
        if !matches!(process.step, Step::Open | Step::Ready) || !self.log.knows(me) || self.log.is_open(me) {
            return vec![];
        }
        let (next, end) = if process.no < sessions {
            (Process::new(process.no + 1, Step::Idle), "")
        } else {
            (Process::new(process.no, Step::Gone), " and gives up")
        };
        vec![(format!("{} sees that {} was aborted{end}", char::from(letter), word(me)), self.set(letter, next))]
    }

    fn anyone(&self, case: &Case) -> Steps {
        let mut steps = Steps::new();
        for id in self.log.fold.sessions.keys() {
            let name = name_of(id);
            steps.extend(self.append(case, format!("ABORT {}", word(name)), &Kind::Abort(Abort { session: *id }), name, |_| {}));
        }
        for snapshot in self.log.live() {
            let kind = Kind::Forget(Forget { commit: self.log.number_of(snapshot), window: false });
            steps.extend(
                self.append(case, format!("FORGET snapshot {}", word(snapshot)), &kind, snapshot, |w| _ = w.relies.remove(&snapshot)),
            );
        }
        for pack in &self.store {
            steps.extend(self.append(case, format!("CONDEMN {}", pack_word(*pack)), &Kind::Condemn(packs(*pack)), pack.0, |_| {}));
        }
        let condemned = self.log.fold.condemned.iter().flat_map(|(session, packs)| packs.keys().map(|p| (name_of(session), p.0[2])));
        for pack in condemned {
            steps.extend(self.append(case, format!("SWEEP {}", pack_word(pack)), &Kind::Sweep(packs(pack)), pack.0, |w| {
                w.swept.insert(pack);
                w.store.remove(&pack);
            }));
            if !case.rules.sweep_logged && self.store.contains(&pack) {
                let label = format!("{} is condemned, and deleted without a SWEEP", pack_word(pack));
                steps.push((label, self.with(|w| _ = w.store.remove(&pack))));
            }
        }
        steps
    }

    /// Deletes that are done again, and uploads that land again.
    fn late(&self, case: &Case) -> Steps {
        let gone = self.swept.intersection(&self.store);
        let deletes = gone.map(|p| (format!("a host that was away deletes {} again", pack_word(*p)), self.with(|w| _ = w.store.remove(p))));
        let away = self.content.keys().filter(|p| case.late && !self.store.contains(p));
        let lands = away.map(|p| (format!("a repeated upload of {} lands", pack_word(*p)), self.with(|w| _ = w.store.insert(*p))));
        deletes.chain(lands).collect()
    }
}

impl World for Packs {
    type Case = Case;

    fn start(case: &Case) -> Self {
        let mut log = Told::new();
        for kind in [begin(None), commit(O, &[(O, 1)].into())] {
            log = log.append(&kind, O, &ALL).expect("the beginning is valid");
        }
        let mut content: BTreeMap<Pack, Vec<u8>> = [((O, 1), b"xy".to_vec())].into();
        if case.junk {
            content.insert((Q, 1), b"x".to_vec());
        }
        Packs {
            log,
            processes: case.writers.iter().map(|(letter, _)| (*letter, Process::new(1, Step::Idle))).collect(),
            store: content.keys().copied().collect(),
            content,
            swept: BTreeSet::new(),
            relies: [(O, [(b'y', (O, 1))].into())].into(),
            wrong: None,
        }
    }

    fn steps(&self, case: &Case) -> Steps {
        let mut steps = self.reader_begins(case);
        for (letter, sessions) in case.writers {
            steps.extend(self.writer_begins(case, *letter));
            steps.extend(self.writer_plans(case, *letter));
            steps.extend(self.writer_reports(case, *letter));
            steps.extend(self.writer_commits(case, *letter));
            steps.extend(self.writer_sees_abort(*letter, *sessions));
        }
        steps.extend(self.anyone(case));
        steps.extend(self.late(case));
        if case.race {
            // Somebody won the number for which they had judged.
            for (_, next) in steps.iter_mut().filter(|(_, next)| next.log.next != self.log.next) {
                next.processes.values_mut().filter(|p| p.step == Step::Sure).for_each(|p| p.step = Step::Stale);
            }
        }
        steps
    }

    fn wrong(&self, case: &Case) -> Option<String> {
        let looked_at = |wrong: &String| case.check.iter().any(|property| wrong.starts_with(property));
        if self.wrong.as_ref().is_some_and(looked_at) {
            return self.wrong.clone();
        }
        let lost = |places: &BTreeSet<(u8, Pack)>| places.iter().any(|(_, pack)| !self.store.contains(pack));
        let snapshot = self
            .log
            .live()
            .into_iter()
            .find(|name| lost(&self.relies[name]))
            .map(|name| format!("P1 snapshot {} has lost a blob", word(name)));
        let reader = self.processes.get(&b'R').filter(|r| self.log.is_open(*b"R1") && lost(&r.places));
        let wasted = reader.map(|_| "P3 a wasted run, a blob is gone that R1 reads, which was not aborted".to_owned());
        snapshot.into_iter().chain(wasted).find(looked_at)
    }

    fn key(&self, key: &mut Key) {
        key.fold(&self.log.fold);
        for (letter, process) in &self.processes {
            key.bytes(&[*letter, process.no, process.step as u8]).num(process.places.len() as u64).num(process.set.len() as u64);
            process.places.iter().for_each(|(blob, pack)| _ = key.bytes(&[*blob]).pack(*pack));
            process.set.iter().for_each(|pack| _ = key.pack(*pack));
        }
        for set in [&self.store, &self.swept] {
            key.num(set.len() as u64);
            set.iter().for_each(|pack| _ = key.pack(*pack));
        }
        key.num(self.content.len() as u64);
        self.content.iter().for_each(|(pack, blobs)| _ = key.pack(*pack).bytes(blobs));
        for (name, places) in &self.relies {
            key.bytes(name).num(places.len() as u64);
            places.iter().for_each(|(blob, pack)| _ = key.bytes(&[*blob]).pack(*pack));
        }
        key.bytes(self.wrong.as_deref().unwrap_or_default().as_bytes());
    }
}

mod tests {
    use super::*;

    #[test]
    fn two_writers() {
        holds::<Packs>(&case(), &["relies on x", "COMMIT B1", "SWEEP O.1", "SWEEP A1.1", "gives up"], 1_462);
    }

    #[test]
    fn the_append_taken_apart() {
        holds::<Packs>(&Case { race: true, ..case() }, &["has lost the race", "COMMIT B1"], 3_494);
    }

    #[test]
    fn a_reader_and_junk() {
        let sees = ["reads snapshot B1", "SWEEP Q.1", "SWEEP A1.1"];
        holds::<Packs>(&Case { reader: true, junk: true, ..case() }, &sees, 24_726);
    }

    #[test]
    fn patches_are_adopted_too() {
        let case = Case { writers: TWICE, plans: &[Plan::Dedup, Plan::Patch], uploaders: b"A", progress: true, alike: false, ..case() };
        let sees = ["B1 relies on the patch z>y in A1.1, its reference in O.1", "A2 adopts the patch", "SWEEP A1.1"];
        holds::<Packs>(&case, &sees, 7_500);
    }

    #[test]
    fn adoption_with_late_uploads_and_stale_deletes() {
        let case = Case { writers: TWICE, uploaders: b"A", progress: true, late: true, alike: false, ..case() };
        let sees = ["A2 adopts x in A1.1", "a repeated upload of A1.1 lands", "a host that was away"];
        holds::<Packs>(&case, &sees, 25_156);
    }

    #[test]
    fn adoption_of_two_packs() {
        let case = Case { writers: TWICE, plans: &[Plan::Dedup, Plan::Two], uploaders: b"A", progress: true, alike: false, ..case() };
        holds::<Packs>(&case, &["A2 adopts x in A1.1", "B1 adopts y in A1.2", "SWEEP A1.1"], 75_519);
    }

    #[test]
    fn each_broken_rule_loses_something() {
        let broken = |rules: Rules| Case { rules, ..case() };
        loses::<Packs>(
            "P2",
            "R1 the COMMIT is not judged again after a lost race",
            &Case { race: true, ..broken(Rules { revalidate: false, ..ALL }) },
        );
        loses::<Packs>(
            "P1",
            "R3 a session uploads before its BEGIN",
            &Case { writers: ONE, ..broken(Rules { begin_first: false, ..ALL }) },
        );
        loses::<Packs>("P3", "R5 a COMMIT names what was condemned before its BEGIN", &broken(Rules { not_condemned: false, ..ALL }));
        let sweeps = Rules { sweep_waits: false, ..ALL };
        loses::<Packs>("P3", "R9 SWEEP does not wait: a wasted run", &broken(sweeps.clone()));
        loses::<Packs>("P3", "R9 SWEEP does not wait: a reader", &Case { writers: &[], reader: true, ..broken(sweeps.clone()) });
        let both = Case { check: &["P1"], ..broken(Rules { not_open: false, ..sweeps }) };
        loses::<Packs>("P1", "R8, R9 the same, and CONDEMN takes packs of an open session", &both);
        loses::<Packs>("P1", "R9 a swept pack stays in its list", &Case { writers: ONE, ..broken(Rules { strikes: false, ..ALL }) });
        loses::<Packs>("P1", "R10 a condemned pack is deleted without a SWEEP", &broken(Rules { sweep_logged: false, ..ALL }));
        let patches = Case { writers: ONE, plans: &[Plan::Dedup, Plan::Patch], ..broken(Rules { names_reference: false, ..ALL }) };
        loses::<Packs>("P1", "R12 the set lacks a patch's reference", &patches);
    }
}
