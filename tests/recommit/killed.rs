//! Killed anywhere, and run again.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use pgcairn::recommit::empty;
use pgcairn::units::{Cancel, Event, Progress, Quiet};

use crate::story::Story;
use crate::support::copy_tree;
use crate::support::ordinary;

/// Asks to stop after so many events.
struct Stop(AtomicU64, Cancel);

impl Progress for Stop {
    fn event(&self, _: Event<'_>) {
        if self.0.fetch_sub(1, Ordering::Relaxed) == 0 {
            self.1.cancel();
        }
    }
}

#[test]
fn stopped_anywhere_it_goes_on() {
    ordinary(|| {
        let story = Story::new();
        let before = story.digests();
        let mut stopped = 0;
        for events in [0, 1, 2, 4, 7, 10, 13, 16, 18, 20, 22, 24, 27, 30, 35, 40, 50, 60] {
            let cancel = Cancel::new();
            let stop = Stop(AtomicU64::new(events), cancel.clone());
            match story.with(&stop, &cancel, |setting| empty(setting, Some(u64::MAX))) {
                Ok(_) => break,
                Err(_) => stopped += 1,
            }
            let now = story.digests();
            assert!(now.iter().map(|(id, (digest, _))| (id, digest)).eq(before.iter().map(|(id, (digest, _))| (id, digest))));
        }
        assert!(stopped > 3, "{stopped}");
        story.empty();
        assert_eq!(story.digests(), before);
        story.sweep();
        story.assert_whole();
        assert!(story.plan().is_empty());
    });
}

const REPOSITORY: &str = "PGCAIRN_TEST_RECOMMIT";

/// The process that is killed.
#[test]
#[ignore = "called by the next one"]
fn child() {
    let Some(folders) = std::env::var_os(REPOSITORY) else { return };
    let folders: Vec<PathBuf> = std::env::split_paths(&folders).collect();
    use pgcairn::host::access::{self, Need, Place};
    use pgcairn::host::config::{RepositorySettings, RepositoryUrl, SecretSource};
    let url = RepositoryUrl::parse(folders[0].as_os_str(), None).unwrap();
    let settings = RepositorySettings::at(url, Some(SecretSource::KeyFile(folders[1].clone())));
    let state = pgcairn::host::StateDir::open(Some(&folders[2]), &pgcairn::host::ProcessEnv, &Quiet).unwrap();
    let place =
        Place { watch: &pgcairn::store::s3::Watch::default(), repository: &settings, state: Some(&state), cache: None, progress: &Quiet };
    let opened = std::sync::Arc::new(access::open(&place, Need::Write).unwrap());
    empty(&crate::story::setting(&opened, &state, &Quiet, &Cancel::new()), Some(u64::MAX)).unwrap();
}

#[test]
fn killed_after_any_entry_of_the_log_it_is_sound_and_goes_on() {
    ordinary(|| {
        let story = Story::new();
        let (repository, kept) = (story.world.repository(), story.world.copy("kept"));
        let before = story.digests();
        let first = story.head().number;
        let mut killed = 0;
        for after in first + 1..first + 30 {
            let program = std::env::current_exe().unwrap();
            let folders = [repository.clone(), story.world.key(), story.world.host.home().join(".local/state/pgcairn")];
            let mut child = Command::new(program)
                .args(["--ignored", "--exact", "killed::child"])
                .env(REPOSITORY, std::env::join_paths(folders).unwrap())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let entry = repository.join(format!("log/{after}"));
            let ended = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break Some(status);
                }
                if entry.exists() {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    break None;
                }
                std::thread::yield_now();
            };
            if let Some(status) = ended {
                assert!(status.success());
                break;
            }
            killed += 1;
            // Whatever was swept in between, nothing that is needed.
            if killed % 2 == 0 {
                story.sweep();
            }
            let now = story.digests();
            assert!(now.iter().map(|(id, (digest, _))| (id, digest)).eq(before.iter().map(|(id, (digest, _))| (id, digest))));
            if story.plan().is_empty() {
                break;
            }
        }
        assert!(killed > 0);
        story.empty();
        assert_eq!(story.digests(), before);
        story.sweep();
        story.assert_whole();
        copy_tree(&kept, &story.world.folder.join("again"));
    });
}
