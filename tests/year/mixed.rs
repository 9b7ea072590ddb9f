//! Backups and re-commits that don't sort: the program has no such option, so this test's own binary is that program.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use pgcairn::backup::run::{Options, Setting, run};
use pgcairn::backup::source::Disk;
use pgcairn::host::StateDir;
use pgcairn::host::access::{self, Need, Opened, Place};
use pgcairn::host::config::{RepositorySettings, RepositoryUrl};
use pgcairn::host::machine::MachineId;
use pgcairn::recommit;
use pgcairn::repo::log::WalMode;
use pgcairn::units::{Cancel, Quiet};

use crate::support::{Outcome, Repository};

const FOLDERS: &str = "PGCAIRN_TEST_YEAR";
const TASK: &str = "PGCAIRN_TEST_YEAR_TASK";

/// Opens the repository as its host does.
pub fn opened(repository: PathBuf, home: &std::path::Path) -> (Arc<Opened>, StateDir) {
    let settings = RepositorySettings::at(RepositoryUrl::Local(repository), None);
    let state = StateDir::open_at(&home.join(".local/state/pgcairn"), &Quiet).unwrap();
    let place =
        Place { watch: &pgcairn::store::s3::Watch::default(), repository: &settings, state: Some(&state), cache: None, progress: &Quiet };
    let opened = access::open(&place, Need::Write).unwrap();
    (Arc::new(opened), state)
}

/// The command of a backup (`data`), or of a re-commit.
pub fn command(repository: &Repository, data: Option<&std::path::Path>) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let folders = [Some(repository.path()), Some(repository.host.home().to_owned()), data.map(PathBuf::from)];
    command.args(["--ignored", "--exact", "mixed::child", "--nocapture"]);
    command.env(FOLDERS, std::env::join_paths(folders.into_iter().flatten()).unwrap());
    command.env(TASK, if data.is_some() { "backup" } else { "empty" });
    command
}

/// What such a command has copied.
pub fn copied(outcome: Outcome) -> u64 {
    let outcome = outcome.ok();
    let line = outcome.stdout.lines().find_map(|line| line.split_once("copied ").map(|(_, n)| n.to_owned()));
    line.expect("an answer").trim().parse().expect("a number")
}

#[test]
#[ignore = "called by others"]
fn child() {
    let Some(folders) = std::env::var_os(FOLDERS) else { return };
    let folders: Vec<PathBuf> = std::env::split_paths(&folders).collect();
    let (opened, state) = opened(folders[0].clone(), &folders[1]);
    let machine = MachineId::of_this_machine(&state).unwrap().0;
    let cancel = Cancel::new();
    if std::env::var(TASK).unwrap() == "empty" {
        let setting = recommit::Setting {
            opened: &opened,
            state: &state,
            machine,
            trust_writers: &[],
            sort_blobs: false,
            cancel: &cancel,
            progress: &Quiet,
        };
        println!("copied {}", recommit::empty(&setting, None).unwrap().copied.1);
        return;
    }
    let options = Options {
        cluster: "main".into(),
        pgdata: Some(folders[2].clone()),
        labels: Default::default(),
        wal: WalMode::Archive,
        wal_timeout: Duration::ZERO,
        fast: true,
        verify_unchanged: false,
        new_history: false,
        cdc_for_all: false,
        trust_writers: Vec::new(),
        sort_blobs: false,
        egress_price: 0.0,
        is_amazon: false,
        jobs: 2,
    };
    let setting = Setting {
        opened: &opened,
        state: &state,
        machine,
        source: &Disk,
        archived: &|_, _| Ok(None),
        server: None,
        cancel: &cancel,
        progress: &Quiet,
    };
    run(&setting, &options).unwrap();
    println!("copied 0");
}
