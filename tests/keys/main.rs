//! Keys and roles: several ways in, hosts that may do a part, revocation, rotation. No server is needed: the cluster is a
//! made-up data directory (`tests/hostile/world.rs`).
//!
//! - `slots.rs`: passphrases, key files, exports
//! - `commands.rs`: slots whose key a command unwraps
//! - `hosts.rs`: enrolling, roles, revocation
//! - `rotation.rs`: a new content key, and who can read what then
//! - `write_only.rs`: a host that writes and can't read; `write_only_kept.rs`: pruned and rotated by others;
//!   `write_only_stolen.rs`: what a thief of it gets; `write_only_online.rs`: of real servers

#[path = "../support/mod.rs"]
mod support;
#[path = "../hostile/world.rs"]
#[allow(dead_code)]
mod world;

mod commands;
mod hosts;
mod rotation;
mod slots;
mod write_only;
mod write_only_kept;
mod write_only_online;
mod write_only_stolen;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use support::{Host, Outcome, TestDir};
use world::{World, tree};

/// The program on another host, with variables.
fn with(world: &World, host: &Host, variables: &[(&str, &OsStr)], arguments: &[&str]) -> Outcome {
    let mut all = vec!["--repo".to_owned(), world.repository().to_str().unwrap().to_owned()];
    all.extend(arguments.iter().map(|a| (*a).to_owned()));
    let mut command = host.command(all);
    command.envs(variables.iter().copied());
    Outcome::of(command)
}

/// The same on the owner's host, with the key file that `init` wrote.
fn owner(world: &World, arguments: &[&str]) -> Outcome {
    with(world, &world.host, &[("PGCAIRN_KEY_FILE", world.key().as_os_str())], arguments)
}

/// A file with this text; its path.
fn file(world: &World, name: &str, text: &str) -> String {
    let path = world.folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A restore of a snapshot on a host, with variables: its outcome and where.
fn restore(world: &World, host: &Host, variables: &[(&str, &OsStr)], snapshot: &str) -> (Outcome, TestDir, PathBuf) {
    let target = TestDir::new();
    let to = target.join("data");
    let outcome = with(world, host, variables, &["restore", snapshot, "--no-recovery", "--to", to.to_str().unwrap()]);
    (outcome, target, to)
}

/// A snapshot comes back whole.
#[track_caller]
fn restores(world: &World, host: &Host, variables: &[(&str, &OsStr)], number: usize) {
    let (snapshot, files) = &world.snapshots[number];
    let (outcome, _target, to) = restore(world, host, variables, snapshot);
    outcome.ok();
    assert!(tree(&to) == *files, "snapshot {number} came back otherwise");
}

/// Somebody who has a copy of a host's disk.
fn stolen(host: &Host) -> Host {
    let thief = Host::new();
    support::copy_tree(&host.home().join(".local"), &thief.home().join(".local"));
    thief
}

/// What of this text a file or folder holds: secrets must not lie about.
fn holds(folder: &Path, needle: &[u8]) -> bool {
    let Ok(entries) = fs::read_dir(folder) else {
        return fs::read(folder).is_ok_and(|bytes| bytes.windows(needle.len()).any(|part| part == needle));
    };
    entries.flatten().any(|entry| holds(&entry.path(), needle))
}
