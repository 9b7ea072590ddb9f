//! Every kind of object × every damage × every command. The oracle: either a command's answer is right, or it is a clean
//! error that names what is wrong and the way out; wrong bytes never reach a restore, and nothing that was stored goes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::support::{Host, Outcome, TestDir, copy_tree, full, ordinary};
use crate::world::{HISTORY, NEXT_SEGMENT, SEGMENTS, World, clean_error, objects, tree, wal};

/// What an object is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum What {
    Format,
    Slot,
    Key,
    Begin,
    Commit,
    Progress,
    Abort,
    Body,
    ContentPack,
    StructurePack,
    Segment,
    History,
    Leftover,
}

/// What happens to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Damage {
    /// One bit, so many bytes from the front (from the end, if negative).
    Flipped(i64),
    Cut(Cut),
    Appended,
    Gone,
    /// A file with a hole of 10 GiB.
    Huge,
    /// A folder of its name.
    Folder,
    /// A link to itself.
    Link,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Cut {
    ToNothing,
    ToHalf,
    LastByte,
}

impl Damage {
    fn do_to(self, path: &Path) {
        let len = fs::metadata(path).unwrap().len();
        let file = || File::options().read(true).write(true).open(path).unwrap();
        match self {
            Damage::Flipped(at) => {
                let at = if at < 0 { len.saturating_sub(at.unsigned_abs()) } else { (at as u64).min(len - 1) };
                let (file, mut byte) = (file(), [0]);
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
            }
            Damage::Cut(Cut::ToNothing) => file().set_len(0).unwrap(),
            Damage::Cut(Cut::ToHalf) => file().set_len(len / 2).unwrap(),
            Damage::Cut(Cut::LastByte) => file().set_len(len - 1).unwrap(),
            Damage::Appended => {
                let mut file = file();
                file.seek(SeekFrom::End(0)).unwrap();
                file.write_all(b"more").unwrap();
            }
            Damage::Gone => fs::remove_file(path).unwrap(),
            Damage::Huge => file().set_len(10 << 30).unwrap(),
            Damage::Folder => {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            }
            Damage::Link => {
                fs::remove_file(path).unwrap();
                std::os::unix::fs::symlink(path, path).unwrap();
            }
        }
    }
}

/// Where bits are flipped: in each part that an object of that kind has.
fn flips(what: What, path: &Path) -> Vec<i64> {
    match what {
        // Magic, version, features, repository, domain, hash.
        What::Format => vec![0, 16, 25, 33, 41, 50, 66, 100],
        // Magic, kind, costs, repository, salt, commitment, nonce, root.
        What::Slot => vec![0, 8, 12, 30, 60, 90, 125, -10],
        // Magic, repository, number, predecessor, signer, salt, nonce, length, body, signature.
        What::Key | What::Begin | What::Commit | What::Progress | What::Abort => vec![0, 10, 24, 40, 70, 90, 115, 136, 150, -10],
        // Magic, repository, number, salt, length, list.
        What::Body => vec![0, 10, 24, 40, 88, -10],
        What::ContentPack | What::StructurePack => {
            let mut end = [0; 32];
            File::open(path).unwrap().read_exact_at(&mut end, fs::metadata(path).unwrap().len() - 32).unwrap();
            let table = i64::from(u32::from_le_bytes(end[..4].try_into().unwrap()));
            let envelopes = i64::from(u16::from_le_bytes(end[4..6].try_into().unwrap())) * 129;
            let tail = 24 + table + envelopes + 32 + 32;
            // Header, first and last blob, nonce, table, envelope, salt, trailer.
            let mut all = vec![2, 20, 45, -tail - 5, -tail + 3, -tail + 40, -60, -30, -10];
            if envelopes > 0 {
                all.extend([-(64 + 129), -(64 + 100), -70]);
            }
            all
        }
        // Magic, repository, signer, head, length, envelope, salt, metadata, signature or parts, parts.
        What::Segment | What::History => vec![0, 10, 30, 42, 50, 81, 100, 230, 300, -200, -5],
        What::Leftover => vec![0],
    }
}

/// The objects of each kind, one each: of entries and packs those that matter to the newest snapshot.
pub fn kinds(world: &World) -> BTreeMap<What, String> {
    let mut all = BTreeMap::new();
    let repository = world.repository();
    for name in world.objects() {
        let what = match name.split('/').next().unwrap() {
            "pgcairn" => What::Format,
            "key" => What::Slot,
            "body" => What::Body,
            "tmp" => What::Leftover,
            "wal" if name.ends_with(HISTORY) => What::History,
            "wal" if name.ends_with(SEGMENTS[1]) => What::Segment,
            "log" => match name.as_str() {
                "log/0" => What::Key,
                "log/1" => What::Begin,
                "log/2" => What::Commit,
                "log/4" => What::Progress,
                "log/5" => What::Abort,
                _ => continue,
            },
            "pack" => {
                let mut end = [0; 32];
                let path = repository.join(&name);
                File::open(&path).unwrap().read_exact_at(&mut end, fs::metadata(&path).unwrap().len() - 32).unwrap();
                if end[4] == 0 { What::StructurePack } else { What::ContentPack }
            }
            _ => continue,
        };
        all.insert(what, name);
    }
    all
}

/// The commands, as a server, a cron job or a person would run them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    List,
    Show,
    Status,
    Restore,
    RestoreAfresh,
    GetSegment,
    GetHistory,
    GetAbsent,
    Backup,
    Push,
    PushAgain,
    Init,
}

pub const ALL: [Command; 12] = [
    Command::List,
    Command::Show,
    Command::Status,
    Command::Restore,
    Command::RestoreAfresh,
    Command::GetSegment,
    Command::GetHistory,
    Command::GetAbsent,
    Command::Init,
    Command::PushAgain,
    Command::Push,
    Command::Backup,
];

/// One repository that was damaged, with a host that knew it whole.
pub struct Case<'w> {
    world: &'w World,
    name: String,
    objects: Vec<String>,
    scratch: TestDir,
    pub host: Host,
}

impl<'w> Case<'w> {
    /// `damage` gets the copy of the repository; `objects` are those that an error must name one of.
    pub fn new(world: &'w World, objects: &[&str], name: String, damage: impl FnOnce(&Path)) -> Self {
        let scratch = TestDir::new();
        // At the same path for the program: what a host knows hangs on the URL.
        copy_tree(&world.repository(), &scratch.join("repository"));
        let host = Host::new();
        fs::remove_dir(host.home()).unwrap();
        copy_tree(world.host.home(), host.home());
        let case = Case { world, name, objects: objects.iter().map(|o| (*o).to_owned()).collect(), scratch, host };
        case.run(&case.host, &["list"]).ok();
        damage(&case.repository());
        case
    }

    pub fn repository(&self) -> PathBuf {
        self.scratch.join("repository")
    }

    /// Runs a command, with no more than 3 GB of address space.
    pub fn run(&self, host: &Host, arguments: &[&str]) -> Outcome {
        let mut line = "ulimit -v 3000000; exec \"$0\" \"$@\"".to_owned();
        if cfg!(not(target_os = "linux")) {
            line = "exec \"$0\" \"$@\"".into();
        }
        let mut command = std::process::Command::new("/bin/sh");
        command.arg("-c").arg(line).arg(host.program()).arg("--repo").arg(self.repository()).args(arguments);
        command.env_clear().envs(host.environment()).current_dir(host.home()).env("RUST_BACKTRACE", "1");
        Outcome::of(command)
    }

    /// Runs one command and judges its answer; was it as if nothing had happened?
    pub fn judge(&self, command: Command) -> bool {
        let case = format!("{} × {command:?}", self.name);
        let path = |p: PathBuf| p.to_str().unwrap().to_owned();
        let (key, target) = (path(self.world.key()), TestDir::new());
        let to = path(target.join("to"));
        let fresh = Host::new();
        let (host, arguments): (&Host, Vec<String>) = {
            let own = |words: &[&str]| (&self.host, words.iter().map(|w| (*w).to_owned()).collect());
            match command {
                Command::List => own(&["list", "--json"]),
                Command::Show => own(&["show", "latest", "--json"]),
                Command::Status => own(&["archive", "status", "--json"]),
                Command::Restore => own(&["restore", "--json", "--no-recovery", "--to", &to]),
                Command::RestoreAfresh => {
                    (&fresh, ["--key-file", &key, "restore", "--json", "--no-recovery", "--to", &to].map(str::to_owned).to_vec())
                }
                Command::GetSegment => own(&["archive-get", "--json", SEGMENTS[1], &to]),
                Command::GetHistory => own(&["archive-get", "--json", HISTORY, &to]),
                Command::GetAbsent => own(&["archive-get", "--json", "00000009.history", &to]),
                Command::Init => own(&["init", "--json", "--key-file", &key]),
                Command::Backup => (&self.host, self.world.backup_arguments()),
                Command::Push => own(&["archive-push", "--json", &path(self.world.wal(NEXT_SEGMENT))]),
                Command::PushAgain => own(&["archive-push", "--json", &path(self.world.wal(SEGMENTS[1]))]),
            }
        };
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let before = objects(&self.repository());
        let outcome = self.run(host, &words);
        let report = || format!("{case}\n{}", outcome.report());
        let code = outcome.status.code().unwrap_or_else(|| panic!("killed: {}", report()));
        assert!(!outcome.stderr.contains("panicked"), "a panic: {}", report());
        // Whatever happens, nothing that was stored goes; a leftover of a dead process may.
        let after = objects(&self.repository());
        assert!(before.iter().all(|o| after.contains(o) || o.starts_with("tmp/")), "an object is gone: {}", report());
        match command {
            Command::Init => {
                assert_eq!(code, 1, "{}", report());
                clean_error(&outcome, &case);
                return true;
            }
            Command::GetSegment | Command::GetHistory => match code {
                0 => {
                    let name = if command == Command::GetSegment { SEGMENTS[1] } else { HISTORY };
                    assert!(fs::read(&to).unwrap() == wal(name), "other bytes: {}", report());
                    return true;
                }
                // The server would take it for the end of WAL. What came last and is gone leaves no trace.
                1 if self.is_withheld(HISTORY) => return false,
                1 => panic!("said to be absent: {}", report()),
                code => assert!(code > 125, "{}", report()),
            },
            Command::GetAbsent => {
                assert!(code == 1 || code > 125, "{}", report());
                if code == 1 {
                    return true;
                }
            }
            Command::Push | Command::PushAgain => {
                assert!(code <= 125, "{}", report());
                if code == 0 {
                    return true;
                }
            }
            Command::Restore | Command::RestoreAfresh if code == 0 => return self.restored(&outcome, Path::new(&to), &case),
            Command::List | Command::Show | Command::Status | Command::Backup if code == 0 || code == 3 => {
                return self.answered(command, &outcome, &case);
            }
            _ => {}
        }
        let error = clean_error(&outcome, &case);
        assert!(!error["class"].as_str().unwrap().is_empty() && error["cure"].is_string(), "no way out: {}", report());
        assert!(self.is_named(&error.to_string()) || self.is_named(&outcome.stderr), "the object is not named: {}", report());
        false
    }

    /// Is one of the objects named? Format and slot stand for the whole repository.
    fn is_named(&self, text: &str) -> bool {
        self.objects.iter().any(|object| {
            let last = object.rsplit('/').next().unwrap_or_default();
            let pack = last.split('-').next().unwrap_or_default();
            // A file of the archive is called by its own name, too.
            text.contains(object.as_str())
                || (object.starts_with("wal/") && text.contains(last))
                || (object.starts_with("pack/") && text.contains(pack))
                || is_front(object) && text.contains("repository")
        })
    }

    /// Is this file of the archive gone?
    fn is_withheld(&self, file: &str) -> bool {
        self.objects.iter().any(|o| o.ends_with(file) && !self.repository().join(o).is_file())
    }

    /// A restore succeeded: it must be one of the snapshots, and if it is not the newest, it must say why.
    fn restored(&self, outcome: &Outcome, to: &Path, case: &str) -> bool {
        let found = tree(to);
        let id = outcome.json()["snapshot"].as_str().unwrap().to_owned();
        let Some((_, expected)) = self.world.snapshots.iter().find(|(known, _)| *known == id) else {
            panic!("{case}: an unknown snapshot\n{}", outcome.report())
        };
        let differing: Vec<_> = expected.keys().chain(found.keys()).filter(|name| expected.get(*name) != found.get(*name)).collect();
        assert!(differing.is_empty(), "{case}: other bytes in {differing:?}\n{}", outcome.report());
        let newest = self.world.snapshots.last().unwrap().0 == id;
        assert!(newest || self.is_named(&outcome.stderr), "{case}: an older snapshot, without a word\n{}", outcome.report());
        newest
    }

    /// An answer that isn't whole must say so.
    fn answered(&self, command: Command, outcome: &Outcome, case: &str) -> bool {
        let answer = outcome.json();
        let newest = &self.world.snapshots.last().unwrap().0;
        let whole = match command {
            Command::List => answer["snapshots"].as_array().unwrap().len() == self.world.snapshots.len(),
            Command::Show => answer["id"] == newest.as_str(),
            Command::Status => answer["timelines"][0]["segments"] == 2 && answer["timelines"].as_array().unwrap().len() == 2,
            // A new one. (Ids are in order from second to second, not within one.)
            _ => answer["id"].as_str().is_some_and(|id| self.world.snapshots.iter().all(|(known, _)| known != id)),
        };
        let withheld = command == Command::Status && (self.is_withheld(HISTORY) || self.is_withheld(SEGMENTS[1]));
        assert!(
            whole || withheld || self.is_named(&outcome.stderr) || outcome.status.code() == Some(3),
            "{case}: not whole, without a word\n{}",
            outcome.report()
        );
        if command == Command::Backup {
            // What was stored now is whole, whatever it could rely on.
            let target = TestDir::new();
            let to = target.join("to");
            let restored =
                self.run(&self.host, &["restore", "--json", "--no-recovery", "--to", to.to_str().unwrap(), answer["id"].as_str().unwrap()]);
            if !self.objects.iter().any(|o| is_front(o) || o.starts_with("pack/")) {
                assert!(restored.status.success(), "{case}: the new snapshot can't be restored\n{}", restored.report());
            }
            // A backup doesn't read again what is unchanged, as long as the pack's table says that it is there.
            if !restored.status.success() {
                clean_error(&restored, case);
                assert!(self.is_named(&restored.stdout), "{case}: the object is not named\n{}", restored.report());
            } else {
                assert!(
                    tree(&to) == self.world.snapshots.last().unwrap().1,
                    "{case}: the new snapshot has other bytes\n{}",
                    restored.report()
                );
            }
        }
        whole
    }
}

fn is_front(object: &str) -> bool {
    object == "pgcairn" || object.starts_with("key/")
}

/// What went wrong in many cases, so that one run shows all of it.
#[derive(Default)]
pub struct Problems(Mutex<Vec<String>>);

impl Problems {
    /// Judges one command; was it as if nothing had happened?
    pub fn judge(&self, case: &Case<'_>, command: Command) -> bool {
        let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case.judge(command)));
        judged.unwrap_or_else(|problem| {
            let text = problem.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic without words".into());
            self.0.lock().unwrap().push(text);
            false
        })
    }

    /// There must have been none.
    #[track_caller]
    pub fn finish(self) {
        let problems = self.0.into_inner().unwrap();
        assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n----------\n"));
    }
}

/// Runs many closures on a few threads.
pub fn side_by_side<T: Sync>(cases: &[T], each: impl Fn(&T) + Sync) {
    let next = Mutex::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let at = {
                        let mut next = next.lock().unwrap();
                        *next += 1;
                        *next - 1
                    };
                    let Some(case) = cases.get(at) else { break };
                    each(case);
                }
            });
        }
    });
}

#[test]
fn no_damage_to_any_object_gives_wrong_bytes_or_an_unclear_end() {
    ordinary(|| {
        let world = World::new();
        let kinds = kinds(&world);
        assert_eq!(kinds.len(), 13, "{kinds:?}");
        let mut cases = Vec::new();
        for (what, name) in &kinds {
            let path = world.repository().join(name);
            let flips = flips(*what, &path);
            // In a short run every third place, another one for each kind.
            let step = if full() { 1 } else { 3 };
            let flips = flips.iter().skip(*what as usize % step).step_by(step).map(|at| Damage::Flipped(*at));
            let cuts = [Cut::ToNothing, Cut::ToHalf, Cut::LastByte].map(Damage::Cut);
            let others = [Damage::Gone, Damage::Huge, Damage::Appended, Damage::Folder, Damage::Link];
            let rare = |n: usize| full() || matches!(n, 0 | 2 | 3 | 4) || (n + *what as usize).is_multiple_of(3);
            let others = cuts.into_iter().chain(others).enumerate().filter(|(n, _)| rare(*n)).map(|(_, damage)| damage);
            cases.extend(flips.chain(others).map(|damage| (*what, name.clone(), damage)));
        }
        let problems = Problems::default();
        let counted = Mutex::new((0usize, BTreeMap::<What, (usize, usize)>::new()));
        side_by_side(&cases, |(what, object, damage)| {
            let case =
                Case::new(&world, &[object], format!("{what:?} {object} {damage:?}"), |repository| damage.do_to(&repository.join(object)));
            for command in ALL {
                let right = problems.judge(&case, command);
                let mut counted = counted.lock().unwrap();
                counted.0 += 1;
                let of = counted.1.entry(*what).or_default();
                if right { of.0 += 1 } else { of.1 += 1 }
            }
        });
        problems.finish();
        let (count, by_kind) = counted.into_inner().unwrap();
        println!("{} damaged repositories, {count} commands; right answers and clean errors by kind: {by_kind:?}", cases.len());
        assert_eq!(count, cases.len() * ALL.len());
    });
}

#[test]
fn an_undamaged_copy_answers_everything() {
    ordinary(|| {
        let world = World::new();
        let case = Case::new(&world, &["pgcairn"], "whole".into(), |_| {});
        for command in ALL {
            assert!(case.judge(command), "{command:?}");
        }
        // And the leftover of a dead process... of another machine stays.
        let mut left = String::new();
        let leftover = world.objects().into_iter().find(|o| o.starts_with("tmp/")).unwrap();
        File::open(case.repository().join(leftover)).unwrap().read_to_string(&mut left).unwrap();
        assert_eq!(left, "half an object");
    });
}
