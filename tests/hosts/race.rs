//! Sixteen processes append to one log at once: nothing is lost, nothing forks, and all read one order.
//!
//! The processes are this test's own binary, run again: each opens the repository as the program does, appends as the program
//! does, says what was acknowledged, waits until all have, and reads the log once more.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use pgcairn::host::access::{self, Need, OpenSession, Opened, Place};
use pgcairn::host::config::FlagOverrides;
use pgcairn::host::{ProcessEnv, Settings, StateDir};
use pgcairn::repo::log::{Begin, Head, Kind, Note};
use pgcairn::units::{Quiet, SegmentName};

use crate::support::{Host, Outcome, TestDir, full, ordinary};

/// Entries that a process acknowledges; one in sixteen is a session's, which takes two.
const COUNT: &str = "PGCAIRN_TEST_RACE_COUNT";
const NAME: &str = "PGCAIRN_TEST_RACE_NAME";

/// How long a race is.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    /// Processes.
    pub processes: usize,
    /// Hosts that they run on: several share a state.
    pub hosts: usize,
    /// Entries of each.
    pub each: usize,
}

/// Races in a new repository at `url`, which is made here; `environment` is what the program needs besides (credentials).
pub fn race(url: &str, environment: &[(&str, OsString)], length: Length) {
    let folder = TestDir::new();
    let key = folder.join("key");
    let hosts: Vec<Host> = (0..length.hosts).map(|_| Host::new()).collect();
    let with = |command: &mut Command| {
        command.env("PGCAIRN_REPO", url).env("PGCAIRN_KEY_FILE", &key).envs(environment.iter().map(|(name, value)| (name, value)));
    };
    let mut init = hosts[0].command(["init"]);
    with(&mut init);
    Outcome::of(init).ok();

    let began = Instant::now();
    let start = |number: usize| {
        let host = &hosts[number % hosts.len()];
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "race::as_a_process_of_its_own", "--nocapture"]);
        command.env_clear().envs(host.environment()).current_dir(host.home());
        command.env(COUNT, length.each.to_string()).env(NAME, format!("process {number}"));
        with(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut processes: Vec<Racer> = (0..length.processes).map(|number| Racer::of(start(number))).collect();
    let acknowledged: Vec<Head> = processes.iter_mut().flat_map(Racer::acknowledged).collect();
    let took = began.elapsed();
    let digests: BTreeSet<String> = processes.into_iter().map(Racer::digest).collect();
    assert_eq!(digests.len(), 1, "not all read the same: {digests:?}");
    println!("{} entries of {} processes in {took:?}", acknowledged.len(), length.processes);

    let own = as_host(&hosts[0], &key, url, environment, length);
    assert_eq!(digests.first(), Some(&own), "who wasn't there reads something else");
    check(&acknowledged, length, &digests, own);
}

/// Each acknowledged entry has a number of its own.
fn check(acknowledged: &[Head], length: Length, digests: &BTreeSet<String>, own: String) {
    let numbers: BTreeMap<u64, String> = acknowledged.iter().map(|head| (head.number, head.hash.to_string())).collect();
    assert_eq!(numbers.len(), length.processes * length.each);
    assert!(digests.contains(&own));
}

/// The digest as of a host that appended nothing, by a process of its own that keeps no cache.
fn as_host(host: &Host, key: &std::path::Path, url: &str, environment: &[(&str, OsString)], length: Length) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "race::as_a_process_of_its_own", "--nocapture"]);
    command.env_clear().envs(host.environment()).current_dir(host.home());
    command.env(COUNT, "0").env(NAME, length.processes.to_string());
    command.env("PGCAIRN_REPO", url).env("PGCAIRN_KEY_FILE", key).envs(environment.iter().map(|(name, value)| (name, value)));
    let mut racer = Racer::of(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    assert_eq!(racer.acknowledged(), []);
    racer.digest()
}

/// A process that takes part.
struct Racer {
    process: Child,
    says: BufReader<std::process::ChildStdout>,
}

impl Racer {
    fn of(mut process: Child) -> Self {
        let says = BufReader::new(process.stdout.take().unwrap());
        Racer { process, says }
    }

    /// Reads to where it has appended all.
    fn acknowledged(&mut self) -> Vec<Head> {
        let mut heads = Vec::new();
        loop {
            let mut line = String::new();
            assert!(self.says.read_line(&mut line).unwrap() > 0, "a process ended early: {:?}", self.process.wait());
            // The test harness writes the test's name without a line's end.
            if line.contains("all appended") {
                return heads;
            }
            heads.extend(line.split_once("head=").map(|(_, head)| head.trim().parse::<Head>().unwrap()));
        }
    }

    /// Lets it read the log once more.
    fn digest(mut self) -> String {
        drop(self.process.stdin.take());
        let mut rest = String::new();
        self.says.read_to_string(&mut rest).unwrap();
        assert!(self.process.wait().unwrap().success(), "{rest}");
        rest.lines().find_map(|line| line.split_once("digest=")).expect("a digest").1.to_owned()
    }
}

fn open(state: &StateDir) -> Arc<Opened> {
    let settings = Settings::load(&FlagOverrides::default(), &ProcessEnv).unwrap();
    let repository = settings.repository(None).unwrap();
    Arc::new(
        access::open(
            &Place {
                watch: &pgcairn::store::s3::Watch::default(),
                repository: &repository,
                state: Some(state),
                cache: None,
                progress: &Quiet,
            },
            Need::Write,
        )
        .unwrap(),
    )
}

/// What a process does: called by others.
#[test]
#[ignore = "called by others"]
fn as_a_process_of_its_own() {
    let (Some(count), Ok(name)) = (std::env::var_os(COUNT), std::env::var(NAME)) else { return };
    let count: usize = count.to_str().unwrap().parse().unwrap();
    let state = StateDir::open(None, &ProcessEnv, &Quiet).unwrap();
    let opened = open(&state);
    let mut appended = 0;
    while appended < count {
        if appended % 16 == 0 && appended + 2 <= count {
            let begin = Begin {
                purpose: "backup".into(),
                cluster: Some("race".into()),
                system_identifier: Some(7),
                machine: "00".repeat(16),
                lock: None,
                parent: None,
                floor: None,
                reads: None,
            };
            let session = OpenSession::begin(&opened, &state.locks(), begin).unwrap();
            println!("head={}", opened.head_of(session.number()).unwrap());
            let id = session.id();
            session.abort().unwrap();
            assert!(!opened.view().fold.is_open(&id));
            println!("head={}", opened.head_of(opened.view().newest.number).unwrap());
            appended += 2;
        } else {
            let segment: SegmentName = "000000010000000000000001".parse().unwrap();
            let note = Note::Gap {
                cluster: "race".into(),
                system_identifier: 7,
                from: segment,
                to: segment,
                reason: format!("{name}, entry {appended}"),
            };
            println!("head={}", access::append(&opened, &Kind::Note(note)).unwrap());
            appended += 1;
        }
    }
    println!("all appended");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();

    // What it has seen goes on, and what is read from the beginning is the same.
    opened.refresh().unwrap();
    let digest = digest(&opened);
    assert_eq!(digest, self::digest(&open(&state)));
    println!("digest={digest}");
}

/// The newest entry, which stands for all before it, and what they add up to.
fn digest(opened: &Opened) -> String {
    let view = opened.view();
    assert!(view.is_sound() && view.fold.alarms.is_empty(), "{:?} {:?}", view.damage, view.fold.alarms);
    let reasons: Vec<String> = view.fold.gaps.values().flatten().map(|gap| format!("{} {}", gap.number, gap.reason)).collect();
    let sessions: Vec<String> = view.fold.sessions.iter().map(|(id, session)| format!("{id} {}", session.open)).collect();
    let text = format!("{reasons:?} {sessions:?} {:?}", view.fold.keys.iter().map(|(id, _)| id).collect::<Vec<_>>());
    format!("{} {} {}", view.newest, reasons.len() + 2 * sessions.len(), blake3::hash(text.as_bytes()).to_hex())
}

#[test]
fn sixteen_processes_in_a_folder_get_one_order() {
    ordinary(|| {
        let folder = TestDir::new();
        let each = if full() { 200 } else { 63 };
        race(folder.join("repository").to_str().unwrap(), &[], Length { processes: 16, hosts: 8, each });
    });
}
