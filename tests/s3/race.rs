//! Sixteen processes append to one log at once: nothing is lost, nothing forks, and all read one order.
//!
//! The processes are this test's own binary, run again: each opens the repository as the program does, appends as the program
//! does, says what was acknowledged, waits until all have, and reads the log once more.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use pgcairn::host::access::{self, Need, Opened, Place};
use pgcairn::host::config::FlagOverrides;
use pgcairn::host::{ProcessEnv, Settings, StateDir};
use pgcairn::repo::log::{Head, Kind, Note};
use pgcairn::store::s3::Watch;
use pgcairn::units::{Quiet, SegmentName};

use crate::support::s3::ordinary;
use crate::support::s3::proxy::{Fault, Operation};
use crate::support::{Host, full};
use crate::world::World;

const COUNT: &str = "PGCAIRN_TEST_RACE_COUNT";
const NAME: &str = "PGCAIRN_TEST_RACE_NAME";
const PROCESSES: usize = 16;

struct Racer {
    process: Child,
    says: BufReader<ChildStdout>,
}

impl Racer {
    fn start(world: &World, host: &Host, name: usize, count: usize) -> Racer {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "race::as_a_process_of_its_own", "--nocapture"]);
        command.env_clear().envs(host.environment()).current_dir(host.home());
        command.env("PGCAIRN_REPO", world.repository.url()).env("PGCAIRN_KEY_FILE", world.repository.key_file());
        command.env(COUNT, count.to_string()).env(NAME, format!("process {name}"));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let says = BufReader::new(process.stdout.take().unwrap());
        Racer { process, says }
    }

    /// Reads to where it has appended all.
    fn acknowledged(&mut self) -> Vec<Head> {
        let mut heads = Vec::new();
        loop {
            let mut line = String::new();
            assert!(self.says.read_line(&mut line).unwrap() > 0, "a process ended early: {:?}", self.process.wait());
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

#[test]
fn sixteen_processes_get_one_order() {
    ordinary(|s3| {
        let service = s3.seaweed();
        let world = World::new(&service, "300s");
        // Now and then an answer is lost, or a create meets another.
        world.proxy.plan(|seen| match (seen.operation, seen.index % 60) {
            (Operation::Create, 7) => Fault::ResetAfterRequest,
            (Operation::Create, 17) => Fault::ErrorAfter(500, "InternalError"),
            (Operation::Create, 27) => Fault::Error(409, "ConditionalRequestConflict"),
            (Operation::Create, 37) => Fault::Twice,
            _ => Fault::None,
        });
        let each = if full() { 63 } else { 6 };
        let hosts: Vec<Host> = (0..4).map(|_| world.repository.host.another()).collect();
        let began = Instant::now();
        let mut racers: Vec<Racer> = (0..PROCESSES).map(|n| Racer::start(&world, &hosts[n % hosts.len()], n, each)).collect();
        let acknowledged: Vec<Head> = racers.iter_mut().flat_map(Racer::acknowledged).collect();
        let took = began.elapsed();
        let numbers: BTreeSet<u64> = acknowledged.iter().map(|head| head.number).collect();
        assert_eq!((acknowledged.len(), numbers.len()), (PROCESSES * each, PROCESSES * each), "each has a number of its own");
        let mut digests: BTreeSet<String> = racers.into_iter().map(Racer::digest).collect();
        let elsewhere = world.repository.host.another();
        let mut stranger = Racer::start(&world, &elsewhere, PROCESSES, 0);
        assert_eq!(stranger.acknowledged(), []);
        digests.insert(stranger.digest());
        assert_eq!(digests.len(), 1, "not all read the same: {digests:?}");
        let (creates, total) = (world.proxy.counts().of_operation(Operation::Create), world.proxy.counts().total());
        println!("{} entries in {took:?}: {creates} creates, {total} requests", acknowledged.len());
        // What the service lists is one line without a hole; the hosts' enrolments are in it.
        let mut log: Vec<u64> = world.bucket.list("pg/log/").iter().map(|key| key["pg/log/".len()..].parse().unwrap()).collect();
        log.sort();
        assert_eq!(log, (0..log.len() as u64).collect::<Vec<_>>());
        assert!(log.len() > acknowledged.len() + hosts.len());
    });
}

/// What a process does: called by others.
#[test]
#[ignore = "called by others"]
fn as_a_process_of_its_own() {
    let (Some(count), Ok(name)) = (std::env::var_os(COUNT), std::env::var(NAME)) else { return };
    let count: usize = count.to_str().unwrap().parse().unwrap();
    let state = StateDir::open(None, &ProcessEnv, &Quiet).unwrap();
    let opened = open(&state);
    for entry in 0..count {
        let segment: SegmentName = "000000010000000000000001".parse().unwrap();
        let reason = format!("{name}, entry {entry}");
        let note = Note::Gap { cluster: "race".into(), system_identifier: 7, from: segment, to: segment, reason };
        println!("head={}", access::append(&opened, &Kind::Note(note)).unwrap());
    }
    println!("all appended");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    // What it has seen goes on, and what is read from the beginning is the same.
    opened.refresh().unwrap();
    let digest = digest(&opened);
    assert_eq!(digest, self::digest(&open(&state)));
    println!("digest={digest}");
}

fn open(state: &StateDir) -> Opened {
    let settings = Settings::load(&FlagOverrides::default(), &ProcessEnv).unwrap();
    let repository = settings.repository(None).unwrap();
    let watch = Watch::default();
    access::open(&Place { repository: &repository, watch: &watch, state: Some(state), cache: None, progress: &Quiet }, Need::Write).unwrap()
}

/// The newest entry of the processes, which stands for all before it, and what they add up to.
fn digest(opened: &Opened) -> String {
    let view = opened.view();
    assert!(view.is_sound() && view.fold.alarms.is_empty(), "{:?} {:?}", view.damage, view.fold.alarms);
    let reasons: Vec<String> = view.fold.gaps.values().flatten().map(|gap| format!("{} {}", gap.number, gap.reason)).collect();
    format!("{} {}", reasons.len(), blake3::hash(format!("{reasons:?}").as_bytes()).to_hex())
}
