//! Processes that append to one log at once: a test's own binary, run again. Each opens the repository as the program does,
//! appends as the program does, says what was acknowledged, waits until all have, and reads the log once more.
//!
//! A binary that races has the test `race::as_a_process_of_its_own`, ignored otherwise, which calls [`take_part`].

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use pgcairn::host::access::{self, Need, OpenSession, Opened, Place};
use pgcairn::host::config::FlagOverrides;
use pgcairn::host::{ProcessEnv, Settings, StateDir};
use pgcairn::repo::log::{Begin, Head, Kind, Note};
use pgcairn::store::s3::Watch;
use pgcairn::units::{Quiet, SegmentName};

use super::Host;

/// Entries that a process acknowledges; one in sixteen is a session's, which takes two.
const COUNT: &str = "PGCAIRN_TEST_RACE_COUNT";
const NAME: &str = "PGCAIRN_TEST_RACE_NAME";

/// A process that takes part.
pub struct Racer {
    process: Child,
    says: BufReader<ChildStdout>,
}

impl Racer {
    /// Starts one on a host; it appends so many entries.
    pub fn start(host: &Host, url: &str, key_file: &Path, name: usize, count: usize) -> Racer {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "race::as_a_process_of_its_own", "--nocapture"]);
        command.env_clear().envs(host.environment()).current_dir(host.home());
        command.env("PGCAIRN_REPO", url).env("PGCAIRN_KEY_FILE", key_file);
        command.env(COUNT, count.to_string()).env(NAME, format!("process {name}"));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let says = BufReader::new(process.stdout.take().unwrap());
        Racer { process, says }
    }

    /// Reads to where it has appended all.
    pub fn acknowledged(&mut self) -> Vec<Head> {
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
    pub fn digest(mut self) -> String {
        drop(self.process.stdin.take());
        let mut rest = String::new();
        self.says.read_to_string(&mut rest).unwrap();
        assert!(self.process.wait().unwrap().success(), "{rest}");
        rest.lines().find_map(|line| line.split_once("digest=")).expect("a digest").1.to_owned()
    }
}

/// What a process does; nothing where no race started it.
pub fn take_part() {
    let (Some(count), Ok(name)) = (std::env::var_os(COUNT), std::env::var(NAME)) else { return };
    let count: usize = count.to_str().unwrap().parse().unwrap();
    let state = StateDir::open(None, &ProcessEnv, &Quiet).unwrap();
    let opened = open(&state);
    let mut appended = 0;
    while appended < count {
        if appended % 16 == 0 && appended + 2 <= count {
            for head in session(&opened, &state) {
                println!("head={head}");
                appended += 1;
            }
        } else {
            let segment: SegmentName = "000000010000000000000001".parse().unwrap();
            let reason = format!("{name}, entry {appended}");
            let note = Note::Gap { cluster: "race".into(), system_identifier: 7, from: segment, to: segment, reason };
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

/// A session that begins and is given up: two entries.
fn session(opened: &Arc<Opened>, state: &StateDir) -> [Head; 2] {
    let begin = Begin {
        purpose: "backup".into(),
        cluster: Some("race".into()),
        system_identifier: Some(7),
        machine: "00".repeat(16),
        ..Begin::default()
    };
    let session = OpenSession::begin(opened, &state.locks(), begin).unwrap();
    let began = opened.head_of(session.number()).unwrap();
    let id = session.id();
    session.abort().unwrap();
    assert!(!opened.view().fold.is_open(&id));
    let ended = opened.view().newest.number;
    [began, opened.head_of(ended).unwrap()]
}

fn open(state: &StateDir) -> Arc<Opened> {
    let settings = Settings::load(&FlagOverrides::default(), &ProcessEnv).unwrap();
    let repository = settings.repository(None).unwrap();
    let watch = Watch::default();
    let place = Place { repository: &repository, watch: &watch, state: Some(state), cache: None, progress: &Quiet };
    Arc::new(access::open(&place, Need::Write).unwrap())
}

/// What the processes added, and the last entry of theirs, which stands for all before it. Hosts that are enrolled later are
/// no part of it.
fn digest(opened: &Opened) -> String {
    let view = opened.view();
    assert!(view.is_sound() && view.fold.alarms.is_empty(), "{:?} {:?}", view.damage, view.fold.alarms);
    let gaps: Vec<(u64, String)> = view.fold.gaps.values().flatten().map(|gap| (gap.number, gap.reason.clone())).collect();
    let sessions: Vec<String> = view.fold.sessions.iter().map(|(id, session)| format!("{id} {}", session.open)).collect();
    let last = gaps.iter().map(|(number, _)| *number).max().map(|number| opened.head_of(number).unwrap());
    let text = format!("{gaps:?} {sessions:?} {last:?}");
    format!("{} {}", gaps.len() + 2 * sessions.len(), blake3::hash(text.as_bytes()).to_hex())
}
