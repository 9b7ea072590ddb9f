//! WAL: backups on a primary, on a standby that follows a switch, a restore, a promotion; anyone who forgets, expires, deletes.
//!
//! In the beginning: timeline 1 with segments 1 to 3 (content a); timeline 2, which branched off in segment 2, with segments 2 and
//! 3 (content b) and its history file. Backups by their first and last segments: O is a snapshot already; A, B on the primary of
//! timeline 1; S and T on a standby whose last restartpoint lies in 1/1, and which follows to timeline 2: S after its start, T
//! before. Session R restores a snapshot. A server, restored or a standby, is promoted: a new timeline branches off in some
//! segment, the server pushes that one (content c), and backup N starts there. An EXPIRE-WAL lists one object.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::units::{Lsn, SegmentName, SegmentNo, TimelineId};

/// The parent and the segment in which it was left, the grandparent, ….
type Ancestry = Vec<(u32, u64)>;
/// Timeline, first and last segment.
type Range = (u32, u64, u64);

const R: Name = *b"R0";

struct Case {
    backups: &'static [u8],
    restore: bool,
    /// A server is promoted that is on one of these timelines.
    parents: &'static [u32],
    /// Segments of timeline 1 that are pushed late.
    late: &'static [u64],
    /// The history file of timeline 2 is pushed late.
    late_history: bool,
    rules: Rules,
}

fn case() -> Case {
    Case { backups: b"AS", restore: false, parents: &[], late: &[], late_history: false, rules: ALL }
}

#[derive(Clone)]
struct Archive {
    log: Told,
    /// (timeline, segment) → content.
    objects: BTreeMap<(u32, u64), u8>,
    /// The history files that are there.
    history: BTreeMap<u32, Ancestry>,
    /// Acknowledged to a server, with the true ancestry.
    acknowledged: BTreeSet<(u32, u64, u8, Ancestry)>,
    /// In a logged EXPIRE-WAL.
    listed: BTreeSet<(u32, u64, u8)>,
    /// The promoted server: its timeline, and the segment in which that branched off.
    new: Option<(u32, u64)>,
    wrong: Option<String>,
}

fn cluster() -> ClusterId {
    ClusterId { name: "c".into(), system_identifier: 1 }
}

fn old2() -> Ancestry {
    vec![(1, 2)]
}

fn lsn(segment: u64, byte: u64) -> Lsn {
    Lsn(segment << 20 | byte)
}

fn position(timeline: u32, segment: u64) -> WalPosition {
    WalPosition { timeline: TimelineId(timeline), lsn: lsn(segment, 0x28) }
}

fn branches(ancestry: &Ancestry) -> Vec<Branch> {
    ancestry.iter().map(|(t, s)| Branch { timeline: TimelineId(*t), lsn: lsn(*s, 0x80) }).collect()
}

fn ranges(window: &[Range]) -> Vec<WalRange> {
    window.iter().map(|(t, first, last)| WalRange { timeline: TimelineId(*t), first: lsn(*first, 0x28), last: lsn(*last, 0x100) }).collect()
}

fn needs(need: &Need, timeline: u32, segment: u64, ancestry: &Ancestry) -> bool {
    need.covers(&cluster(), TimelineId(timeline), SegmentNo(segment), size(), &branches(ancestry))
}

fn content_id(content: u8) -> Hash32 {
    Hash32([content; 32])
}

fn begin(timeline: u32, segment: u64) -> Kind {
    Kind::Begin(Begin {
        purpose: "backup".into(),
        cluster: Some("c".into()),
        system_identifier: Some(1),
        floor: Some(position(timeline, segment)),
        ..Begin::default()
    })
}

fn commit(name: Name, window: &[Range], ancestry: &Ancestry) -> Kind {
    let mut commit = crate::repo::log::testing::commit(session_id(name), &word(name), 0);
    let ranges = ranges(window);
    (commit.summary.cluster, commit.summary.system_identifier) = ("c".into(), 1);
    commit.summary.wal = Some(SnapshotWal {
        timeline: ranges[0].timeline,
        start_lsn: ranges[0].first,
        stop_lsn: ranges[ranges.len() - 1].last,
        segment_size: size(),
        ranges,
        ancestry: branches(ancestry),
        mode: WalMode::Archive,
    });
    commit.lists = Held::Inline(CommitLists::default());
    Kind::Commit(Box::new(commit))
}

type Steps = Vec<(String, Archive)>;

impl Archive {
    fn append(&self, case: &Case, label: String, kind: &Kind, name: Name, change: impl FnOnce(&mut Archive)) -> Steps {
        let Some(log) = self.log.append(kind, name, &case.rules) else { return vec![] };
        let mut next = Archive { log, ..self.clone() };
        change(&mut next);
        vec![(label, next)]
    }

    fn with(&self, change: impl FnOnce(&mut Archive)) -> Archive {
        let mut next = self.clone();
        change(&mut next);
        next
    }

    fn wasted(&self, label: String, wrong: String) -> (String, Archive) {
        (label, self.with(|w| w.wrong = Some(wrong)))
    }

    fn ancestry(&self, timeline: u32) -> Ancestry {
        self.history.get(&timeline).cloned().unwrap_or_default()
    }

    /// The ranges from a backup's start to its stop.
    fn window(&self, backup: u8) -> Vec<Range> {
        match backup {
            b'O' => vec![(1, 1, 1)],
            b'A' => vec![(1, 2, 3)],
            b'B' => vec![(1, 3, 3)],
            b'S' => vec![(1, 1, 2), (2, 2, 2)],
            b'T' => vec![(2, 2, 3)],
            _ => self.new.map(|(timeline, segment)| (timeline, segment, segment)).into_iter().collect(),
        }
    }

    fn backups(&self, case: &Case) -> Steps {
        let mut steps = Steps::new();
        for backup in case.backups {
            let (name, window) = ([*backup, b'0'], self.window(*backup));
            if let Some((timeline, first, _)) = window.first().copied() {
                // On a standby the restartpoint; in the control its current LSN.
                let (timeline, first) =
                    if b"ST".contains(backup) { (1, if case.rules.start_above { 1 } else { 2 }) } else { (timeline, first) };
                let need = Need { cluster: cluster(), start: position(timeline, first), window: vec![] };
                let gone = self.acknowledged.iter().any(|(t, s, c, a)| needs(&need, *t, *s, a) && self.objects.get(&(*t, *s)) != Some(c));
                if !(case.rules.begin_looks && gone) {
                    let label = format!("BEGIN {}, WAL from {timeline}/{first}", word(name));
                    steps.extend(self.append(case, label, &begin(timeline, first), name, |_| {}));
                }
            }
            if self.log.is_open(name) {
                let ancestry = if *backup == b'T' { old2() } else { self.ancestry(window[0].0) };
                let told = if case.rules.whole_window { &window[..] } else { &window[..1] };
                let kind = commit(name, told, &ancestry);
                steps.extend(match self.log.judge(&kind, name, &case.rules) {
                    Ok(()) => self.append(case, format!("COMMIT {}", word(name)), &kind, name, |_| {}),
                    Err(void) => {
                        let wrong = format!("P3 a wasted run, {} was not aborted: {void}", word(name));
                        vec![self.wasted(format!("{} finds its COMMIT void", word(name)), wrong)]
                    }
                });
            }
        }
        steps
    }

    fn anyone(&self, case: &Case) -> Steps {
        let mut steps = Steps::new();
        for id in self.log.fold.sessions.keys() {
            let name = name_of(id);
            steps.extend(self.append(case, format!("ABORT {}", word(name)), &Kind::Abort(Abort { session: *id }), name, |_| {}));
        }
        for snapshot in self.log.live() {
            for (window, what) in [(false, "FORGET"), (true, "FORGET-WINDOW")] {
                let kind = Kind::Forget(Forget { commit: self.log.number_of(snapshot), window });
                steps.extend(self.append(case, format!("{what} snapshot {}", word(snapshot)), &kind, snapshot, |_| {}));
            }
        }
        steps
    }

    fn anyone_expires(&self, case: &Case) -> Steps {
        let mut steps = Steps::new();
        for ((timeline, segment), content) in &self.objects {
            let (object, has_history) = ((*timeline, *segment, *content), *timeline == 1 || self.history.contains_key(timeline));
            if self.listed.contains(&object) || !has_history && case.rules.with_history {
                continue;
            }
            let name = SegmentName::new(TimelineId(*timeline), SegmentNo(*segment), size());
            let kind = Kind::ExpireWal(ExpireWal {
                cluster: "c".into(),
                system_identifier: 1,
                timeline: TimelineId(*timeline),
                segment_size: size(),
                ancestry: branches(&self.ancestry(*timeline)),
                objects: Held::Inline([(name, [content_id(*content)].into())].into()),
            });
            let rest = self.objects.iter().any(|((t, s), c)| t == timeline && s != segment && !self.listed.contains(&(*t, *s, *c)));
            steps.extend(self.append(case, format!("EXPIRE-WAL {timeline}/{segment}"), &kind, R, |w| {
                w.listed.insert(object);
                if !case.rules.history_stays && !rest {
                    w.history.remove(timeline);
                }
            }));
        }
        for (t, s, c) in &self.listed {
            if self.objects.get(&(*t, *s)).is_some_and(|there| there == c || !case.rules.by_content) {
                steps.push((format!("WAL {t}/{s} is deleted"), self.with(|w| _ = w.objects.remove(&(*t, *s)))));
            }
        }
        steps
    }

    fn restore_begins(&self, case: &Case) -> Steps {
        if !case.restore || self.log.knows(R) {
            return vec![];
        }
        let mut steps = Steps::new();
        for snapshot in self.log.live() {
            let number = self.log.number_of(snapshot);
            let start = self.log.fold.commits[&number].need.as_ref().expect("all have WAL").start;
            let (reads, floor) = if case.rules.reads { (Some(number), None) } else { (None, Some(start)) };
            let kind = Kind::Begin(Begin {
                purpose: "restore".into(),
                cluster: Some("c".into()),
                system_identifier: Some(1),
                reads,
                floor,
                ..Begin::default()
            });
            let who = word(snapshot);
            steps.extend(match self.log.judge(&kind, R, &case.rules) {
                Ok(()) => self.append(case, format!("BEGIN R, reads snapshot {who}"), &kind, R, |_| {}),
                Err(void) => {
                    vec![self.wasted(format!("R wants to read snapshot {who}"), format!("P3 {who} is live and can't be read: {void}"))]
                }
            });
        }
        steps
    }

    fn server_promotes(&self, case: &Case) -> Steps {
        let mut steps = Steps::new();
        for parent in case.parents.iter().filter(|_| self.new.is_none()) {
            let new = (parent + 1..9).find(|t| !self.history.contains_key(t)).expect("few timelines");
            for branch in u64::from(*parent)..4 {
                let mut ancestry = vec![(*parent, branch)];
                ancestry.extend(self.ancestry(*parent));
                let next = self.with(|w| {
                    w.new = Some((new, branch));
                    w.history.insert(new, ancestry);
                });
                steps.push((format!("a server is promoted: timeline {new} branches off in {parent}/{branch}"), next));
            }
        }
        steps
    }

    /// The same name with other bytes is refused: create-if-absent. What was expired may be pushed again.
    fn server_pushes(&self, case: &Case) -> Steps {
        let mut steps = Steps::new();
        for s in case.late.iter().filter(|s| !self.acknowledged.iter().any(|a| (a.0, a.1) == (1, **s))) {
            let next = self.with(|w| {
                w.objects.insert((1, *s), b'a');
                w.acknowledged.insert((1, *s, b'a', vec![]));
            });
            steps.push((format!("WAL 1/{s} is pushed late, acknowledged"), next));
        }
        if case.late_history && !self.history.contains_key(&2) {
            steps.push(("the history file of timeline 2 is pushed late".into(), self.with(|w| _ = w.history.insert(2, old2()))));
        }
        if let Some((t, s)) = self.new.filter(|new| !self.objects.contains_key(new) && !self.acknowledged.iter().any(|a| a.2 == b'c')) {
            let next = self.with(|w| {
                w.acknowledged.insert((t, s, b'c', w.ancestry(t)));
                w.objects.insert((t, s), b'c');
            });
            steps.push((format!("the promoted server pushes WAL {t}/{s} (content c), acknowledged"), next));
        }
        for (t, s, c) in self.listed.iter().filter(|(t, s, _)| !self.objects.contains_key(&(*t, *s))) {
            steps.push((format!("WAL {t}/{s} is pushed again"), self.with(|w| _ = w.objects.insert((*t, *s), *c))));
        }
        steps
    }
}

impl World for Archive {
    type Case = Case;

    fn start(case: &Case) -> Self {
        let mut log = Told::new();
        for kind in [begin(1, 1), commit(*b"O0", &[(1, 1, 1)], &vec![])] {
            log = log.append(&kind, *b"O0", &ALL).expect("the beginning is valid");
        }
        let mut objects: BTreeMap<(u32, u64), u8> = [((2, 2), b'b'), ((2, 3), b'b')].into();
        objects.extend((1..4).filter(|s| !case.late.contains(s)).map(|s| ((1, s), b'a')));
        let acknowledged = objects.iter().map(|((t, s), c)| (*t, *s, *c, if *t == 2 { old2() } else { vec![] })).collect();
        let history = if case.late_history { BTreeMap::new() } else { [(2, old2())].into() };
        Archive { log, objects, history, acknowledged, listed: BTreeSet::new(), new: None, wrong: None }
    }

    fn steps(&self, case: &Case) -> Steps {
        let all = [
            self.backups(case),
            self.anyone(case),
            self.anyone_expires(case),
            self.restore_begins(case),
            self.server_promotes(case),
            self.server_pushes(case),
        ];
        all.into_iter().flatten().collect()
    }

    fn wrong(&self, _: &Case) -> Option<String> {
        if self.wrong.is_some() {
            return self.wrong.clone();
        }
        let fold = &self.log.fold;
        let live = fold.commits.values().filter_map(|c| {
            let (name, mut need) = (name_of(&c.session), c.need.clone()?);
            if !need.window.is_empty() {
                need.window = ranges(&self.window(name[0]));
            }
            Some((format!("snapshot {}", word(name)), need))
        });
        let open = fold.sessions.iter().filter_map(|(id, s)| Some((format!("the open session {}", word(name_of(id))), s.need.clone()?)));
        live.chain(open).find_map(|(who, need)| {
            let lost = |(t, s, c, a): &&(u32, u64, u8, Ancestry)| needs(&need, *t, *s, a) && self.objects.get(&(*t, *s)) != Some(c);
            self.acknowledged.iter().find(lost).map(|(t, s, ..)| format!("P4 {who} needs acknowledged WAL {t}/{s}, and it is gone"))
        })
    }

    fn key(&self, key: &mut Key) {
        key.fold(&self.log.fold);
        let ancestry = |key: &mut Key, ancestry: &Ancestry| {
            key.num(ancestry.len() as u64);
            ancestry.iter().for_each(|(t, s)| _ = key.num((*t).into()).num(*s));
        };
        key.num(self.objects.len() as u64);
        self.objects.iter().for_each(|((t, s), c)| _ = key.num((*t).into()).num(*s).bytes(&[*c]));
        key.num(self.history.len() as u64);
        for (t, a) in &self.history {
            ancestry(key.num((*t).into()), a);
        }
        key.num(self.acknowledged.len() as u64);
        for (t, s, c, a) in &self.acknowledged {
            ancestry(key.num((*t).into()).num(*s).bytes(&[*c]), a);
        }
        key.num(self.listed.len() as u64);
        self.listed.iter().for_each(|(t, s, c)| _ = key.num((*t).into()).num(*s).bytes(&[*c]));
        let (t, s) = self.new.unwrap_or_default();
        key.num(t.into()).num(s).bytes(self.wrong.as_deref().unwrap_or_default().as_bytes());
    }
}

mod tests {
    use super::*;

    #[test]
    fn windows_a_switch_and_late_files() {
        let case = Case { backups: b"ABST", late: &[2], late_history: true, ..case() };
        let sees = [
            "FORGET-WINDOW snapshot O",
            "FORGET-WINDOW snapshot S",
            "EXPIRE-WAL 2/3",
            "COMMIT B",
            "COMMIT T",
            "WAL 1/2 is pushed late",
            "WAL 1/2 is pushed again",
            "the history file",
        ];
        holds::<Archive>(&case, &sees, 23_548);
    }

    #[test]
    fn a_restore_and_a_promotion() {
        let case = Case { backups: b"AN", restore: true, parents: &[1], ..case() };
        let sees = [
            "reads snapshot O",
            "FORGET-WINDOW snapshot A",
            "branches off in 1/1",
            "COMMIT N",
            "EXPIRE-WAL 3/1",
            "WAL 3/3 is pushed again",
        ];
        holds::<Archive>(&case, &sees, 99_586);
    }

    #[test]
    fn a_restore_and_a_promotion_of_a_standby() {
        let case = Case { backups: b"SN", restore: true, parents: &[2], ..case() };
        holds::<Archive>(&case, &["reads snapshot S", "branches off in 2/2", "COMMIT N", "EXPIRE-WAL 3/2"], 63_909);
    }

    #[test]
    fn each_broken_rule_loses_something() {
        let broken = |rules: Rules| Case { rules, ..case() };
        let reads = Case { restore: true, ..broken(Rules { reads: false, ..ALL }) };
        loses::<Archive>("P3", "R3 a reader gives its snapshot's start as a floor, and doesn't name it", &reads);
        loses::<Archive>("P4", "R13 a window has one timeline only", &broken(Rules { whole_window: false, ..ALL }));
        loses::<Archive>("P4", "R14 EXPIRE-WAL ignores the floors of open sessions", &broken(Rules { for_sessions: false, ..ALL }));
        loses::<Archive>("P4", "R14 EXPIRE-WAL ignores live snapshots", &broken(Rules { for_snapshots: false, ..ALL }));
        loses::<Archive>("P4", "R14 EXPIRE-WAL ignores windows", &broken(Rules { for_windows: false, ..ALL }));
        let early = Case { late_history: true, ..broken(Rules { with_history: false, ..ALL }) };
        loses::<Archive>("P4", "R14 EXPIRE-WAL for a timeline whose history file isn't there yet", &early);
        let forgotten = Rules { history_stays: false, ..ALL };
        loses::<Archive>("P4", "R15 history files expire", &Case { backups: b"A", parents: &[1], ..broken(forgotten.clone()) });
        let by_name = Case { backups: b"B", parents: &[1], ..broken(Rules { by_content: false, ..forgotten }) };
        loses::<Archive>("P4", "R14, R15 history files expire, and deletes go by the name alone", &by_name);
        let unjudged = Rules { begin_judged: false, ..ALL };
        loses::<Archive>("P4", "R16 a BEGIN needs what was expired", &broken(unjudged.clone()));
        loses::<Archive>("P4", "R16 the same, if it was pushed again", &broken(Rules { begin_looks: true, ..unjudged }));
        loses::<Archive>("P4", "R16 a BEGIN needs what was expired on a descendant", &broken(Rules { begin_tree: false, ..ALL }));
        loses::<Archive>("P4", "R16 a COMMIT starts below its session's floor", &broken(Rules { start_above: false, ..ALL }));
        let after = Case { backups: b"T", ..broken(Rules { start_after: false, ..ALL }) };
        loses::<Archive>("P3", "R16 a COMMIT must start on its floor's timeline", &after);
    }
}
