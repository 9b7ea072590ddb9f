//! What is done each day, and what is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgcairn::recommit;
use pgcairn::units::{Cancel, Quiet};

use crate::clock;
use crate::cluster::Cluster;
use crate::keep::{self, POLICY, date};
use crate::mixed;
use crate::support::{Host, Outcome, Repository, TestDir, bytes_below, temporary};

/// Of what stays stored, at most so much for each byte that is needed, in thousandths.
const AT_MOST: u64 = 1300;
/// Days until the policy has forgotten something, and what is stored has found its level.
const WARM_UP: u32 = 20;

/// A variant.
pub struct How {
    /// As the figures call it.
    pub name: &'static str,
    /// Blobs are sorted into packs.
    pub sorts: bool,
    /// Mostly dead packs are emptied.
    pub empties: bool,
}

/// How much is simulated.
pub struct Length {
    /// Days.
    pub days: u32,
    /// Files of 1 MiB, beside one that grows.
    pub tables: u32,
}

/// What a day comes to, in bytes.
#[derive(Default, Clone)]
struct Day {
    packs: u64,
    wal: u64,
    /// All objects but packs and WAL.
    log: u64,
    /// Blobs that kept snapshots need.
    need_packs: u64,
    /// WAL that they and the window need.
    need_wal: u64,
    /// What all backups and pushes have stored until now.
    keep_all: u64,
    snapshots: usize,
    /// What this day's backup has stored, and what its prune has copied.
    backup: u64,
    copied: u64,
}

impl Day {
    fn stored(&self) -> u64 {
        self.packs + self.wal + self.log
    }

    fn needed(&self) -> u64 {
        self.need_packs + self.need_wal
    }

    fn per_mille(&self) -> u64 {
        self.stored() * 1000 / self.needed()
    }
}

struct Simulation<'a> {
    how: &'a How,
    repository: Repository,
    cluster: Cluster,
    _folder: TestDir,
    /// Day → snapshot id, and what its files hold.
    taken: BTreeMap<u32, (String, BTreeMap<PathBuf, blake3::Hash>)>,
    /// Day → the segment in which its snapshot starts and stops.
    starts: BTreeMap<u32, u64>,
    there: BTreeSet<u32>,
    archived: Vec<u64>,
    keep_all: u64,
}

/// Simulates, compares each day with what must be there, and restores all that is left in the end.
pub fn simulate(how: &How, length: &Length) {
    let folder = TestDir::new();
    let cluster = Cluster::new(folder.path(), length.tables);
    let repository = Repository::init();
    std::fs::write(repository.host.home().join("c.toml"), format!("[cluster.main]\n{POLICY}")).unwrap();
    let mut simulation = Simulation {
        how,
        repository,
        cluster,
        _folder: folder,
        taken: BTreeMap::new(),
        starts: BTreeMap::new(),
        there: BTreeSet::new(),
        archived: Vec::new(),
        keep_all: 0,
    };
    let file = temporary().join(format!("year-{}.csv", how.name.replace(", ", "-")));
    let mut csv = String::from("day,date,packs,wal,log,need_packs,need_wal,keep_all,snapshots,backup,copied\n");
    let days: Vec<Day> = (0..length.days)
        .map(|day| {
            let d = simulation.day(day);
            let numbers = [d.packs, d.wal, d.log, d.need_packs, d.need_wal, d.keep_all, d.snapshots as u64, d.backup, d.copied];
            let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
            writeln!(csv, "{day},{},{}", date(day), numbers.join(",")).unwrap();
            std::fs::write(&file, &csv).unwrap();
            d
        })
        .collect();
    println!("{csv}");
    let settled = &days[WARM_UP as usize..];
    let worst = settled.iter().map(Day::per_mille).max().unwrap();
    let mean = settled.iter().map(Day::per_mille).sum::<u64>() / settled.len() as u64;
    let last = &days[days.len() - 1];
    let sum = |what: fn(&Day) -> u64| days.iter().map(what).sum::<u64>() / 1_000_000;
    println!(
        "{}: stored / needed {mean} ‰ on the mean, {worst} ‰ at worst; {} MB stored, {} MB with all kept; written {} MB by backups, copied {} MB; in {}",
        how.name,
        last.stored() / 1_000_000,
        last.keep_all / 1_000_000,
        sum(|d| d.backup),
        sum(|d| d.copied),
        file.display()
    );
    simulation.all_restore(length.days - 1);
    if how.sorts && how.empties {
        assert!(worst <= AT_MOST, "{worst} ‰ of what is needed is stored");
    }
}

impl Simulation<'_> {
    /// Runs a command of this host at a time of the simulation.
    fn at(&self, now: i64, arguments: &[&OsStr]) -> Outcome {
        let mut command = self.repository.host.command(self.repository.arguments([] as [&str; 0]));
        command.args(["--config".as_ref(), self.repository.host.home().join("c.toml").as_os_str(), "--cluster".as_ref(), "main".as_ref()]);
        command.args(arguments);
        self.clocked(command, now)
    }

    fn clocked(&self, mut command: Command, now: i64) -> Outcome {
        clock::set(&mut command, now);
        Outcome::of(command).ok()
    }

    fn bytes(&self, of: &str) -> u64 {
        bytes_below(&self.repository.path().join(of))
    }

    /// A backup at two o'clock, forget and prune soon after, and the segment of the day at midnight.
    fn day(&mut self, day: u32) -> Day {
        let all = |s: &Self| s.bytes("");
        let before = all(self);
        if day > 0 {
            let segment = self.cluster.work(clock::at(day, 0));
            self.archived.push(self.cluster.segment - 1);
            self.at(clock::at(day, 60), &["archive-push".as_ref(), segment.as_os_str()]);
            std::fs::remove_file(segment).unwrap();
        }
        let packs = self.bytes("pack");
        self.back_up(day);
        let backup = self.bytes("pack") - packs;
        self.keep_all += all(self) - before;
        self.at(clock::at(day, 7800), &["forget".as_ref()]);
        let copied = self.prune(clock::at(day, 8400));
        self.there = keep::kept(&self.there, day);
        self.count(day, Day { backup, copied, keep_all: self.keep_all, ..Day::default() })
    }

    fn back_up(&mut self, day: u32) {
        let (now, data) = (clock::at(day, 7200), self.cluster.data());
        if self.how.sorts {
            self.at(now, &["backup".as_ref(), "--json".as_ref(), "--offline".as_ref(), "--pgdata".as_ref(), data.as_os_str()]);
        } else {
            mixed::copied(self.clocked(mixed::command(&self.repository, Some(&data)), now));
        }
        let listed = self.at(now, &["list".as_ref(), "--json".as_ref()]).json();
        let id = listed["snapshots"].as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned();
        assert!(id.starts_with(&date(day).strftime("%Y%m%d-0200").to_string()), "{id} on {}", date(day));
        self.taken.insert(day, (id, self.cluster.hashes()));
        self.starts.insert(day, self.cluster.segment);
        self.there.insert(day);
    }

    /// What it has copied.
    fn prune(&self, now: i64) -> u64 {
        let unsorted = self.how.empties && !self.how.sorts;
        let copied = if unsorted { mixed::copied(self.clocked(mixed::command(&self.repository, None), now)) } else { 0 };
        let mut arguments: Vec<&OsStr> = vec!["prune".as_ref(), "--json".as_ref()];
        if unsorted || !self.how.empties {
            arguments.extend([OsStr::new("--max-rewrite"), OsStr::new("0")]);
        }
        let pruned = self.at(now, &arguments).json();
        assert_eq!(pruned["warnings"].as_array().unwrap().len(), 0, "{pruned}");
        copied + pruned["rewritten"]["copied_bytes"].as_u64().unwrap_or_else(|| panic!("{pruned}"))
    }

    /// Counts, and compares with what must be there.
    fn count(&self, today: u32, day: Day) -> Day {
        let (opened, state) = mixed::opened(self.repository.path(), self.repository.host.home());
        let listed: BTreeSet<String> = opened.view().fold.commits.values().map(|c| c.summary.id.clone()).collect();
        let expected: BTreeSet<String> = self.there.iter().map(|day| self.taken[day].0.clone()).collect();
        assert_eq!(listed, expected, "on {}", date(today));
        let cancel = Cancel::new();
        let setting = recommit::Setting {
            opened: &opened,
            state: &state,
            machine: [0; 16],
            trust_writers: &[],
            sort_blobs: true,
            cancel: &cancel,
            progress: &Quiet,
        };
        let plan = recommit::plan(&setting, None).unwrap();
        let (mut wal, mut segments) = (BTreeMap::new(), BTreeMap::new());
        sizes(&self.repository.path().join("wal"), &mut wal);
        for (name, size) in &wal {
            let no = u64::from_str_radix(&name[8..16], 16).unwrap() << 12 | u64::from_str_radix(&name[16..24], 16).unwrap();
            segments.insert(no, *size);
        }
        let needed = keep::segments(&self.there, today, &self.starts, self.archived.iter().copied());
        assert_eq!(segments.keys().copied().collect::<BTreeSet<u64>>(), needed, "on {}", date(today));
        let packs = self.bytes("pack");
        let wal: u64 = segments.values().sum();
        Day {
            packs,
            wal,
            log: self.bytes("") - packs - wal,
            need_packs: plan.packs.iter().map(|p| p.live).sum(),
            need_wal: needed.iter().map(|no| segments[no]).sum(),
            snapshots: listed.len(),
            ..day
        }
    }

    /// By a host that has nothing but the key file.
    fn all_restore(&self, today: u32) {
        self.at(clock::at(today, 10_000), &["verify".as_ref(), "--read-data".as_ref()]);
        for (id, files) in self.there.iter().map(|day| &self.taken[day]) {
            let (host, target) = (Host::new(), TestDir::new());
            let (key, to) = (self.repository.key_file(), target.join("data"));
            let mut command = host.command(self.repository.arguments(["--key-file"]));
            command.arg(key).args(["restore", id, "--no-recovery", "--to"]).arg(&to);
            self.clocked(command, clock::at(today, 20_000));
            for (path, hash) in files {
                let bytes = std::fs::read(to.join(path)).unwrap_or_else(|e| panic!("{} of {id}: {e}", path.display()));
                assert!(
                    blake3::hash(&bytes) == *hash || path == Path::new("postgresql.conf"),
                    "{} of {id} came back otherwise",
                    path.display()
                );
            }
        }
        println!("{} snapshots restored", self.there.len());
    }
}

fn sizes(folder: &Path, all: &mut BTreeMap<String, u64>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            sizes(&entry.path(), all);
        } else {
            all.insert(entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len());
        }
    }
}
