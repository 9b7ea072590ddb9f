//! Running a test as an ordinary user, also when root calls.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};

use nix::unistd::User;

use super::Postgres;
use super::folder::place_program;

/// Names the file in which the second run says how it ended; set in that run only.
pub(super) const PROOF: &str = "PGCAIRN_TEST_PROOF";
/// The user that root's tests become, where it can be made; else `nobody`.
const USER: &str = "pgcairn-test";

/// Runs a test's whole body as an ordinary user.
///
/// Called by root, the test binary and the program are placed in a folder that everybody can enter, and this test alone
/// is run from there by the user `pgcairn-test` (made on demand), with an empty environment and a home of its own; a
/// failure there is a failure here. To be called once a test, directly in the test function: its name is taken from the
/// closure's.
#[track_caller]
pub fn ordinary<F: FnOnce()>(body: F) {
    run(test_name::<F>(), Vec::new(), body);
}

/// As [`ordinary`], with a PostgreSQL of major `major`. Where none can be had the test is skipped, printed and counted
/// in `target/test-skips.txt`; in CI that is a failure for 15 and 18.
#[track_caller]
pub fn on<F: FnOnce(&Postgres)>(major: u32, body: F) {
    let Some(postgres) = found(Postgres::find(major), matches!(major, 15 | 18)) else { return };
    run(test_name::<F>(), postgres.environment(), || body(&postgres));
}

/// What was found; else the test is left out, or fails where it must not be missing in CI.
#[track_caller]
pub(super) fn found<T>(found: Result<T, String>, needed_in_ci: bool) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(reason) => {
            let ci = std::env::var_os("CI").is_some_and(|v| !v.is_empty());
            assert!(!(ci && needed_in_ci), "{reason}");
            skip(&reason);
            None
        }
    }
}

/// Says that this test, or the rest of it, is left out, and counts it; the test should return after it.
pub fn skip(reason: &str) {
    if let Some(proof) = std::env::var_os(PROOF) {
        append(Path::new(&proof), &format!("skipped: {reason}\n"));
    } else {
        eprintln!("skipped: {reason}");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("tmp lies in target");
        append(&target.join("test-skips.txt"), &format!("skipped: {reason}\n"));
    }
}

fn append(file: &Path, text: &str) {
    let opened = File::options().create(true).append(true).open(file);
    opened.and_then(|mut f| f.write_all(text.as_bytes())).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
}

/// `crate::module::test::{{closure}}` is the test `module::test`.
pub(super) fn test_name<F>() -> String {
    let full = std::any::type_name::<F>();
    let (name, _) = full.split_once("::{{closure}}").unwrap_or_else(|| panic!("{full}: the body must be a closure"));
    let (_, name) = name.split_once("::").expect("a path starts with the crate");
    name.to_owned()
}

/// Runs the body of the test `name` as [`ordinary`] does; a second run has these variables in its environment.
#[track_caller]
pub(super) fn run(name: String, found: Vec<(String, PathBuf)>, body: impl FnOnce()) {
    if let Some(proof) = std::env::var_os(PROOF) {
        assert!(!nix::unistd::getuid().is_root(), "still root");
        body();
        append(Path::new(&proof), "done\n");
    } else if nix::unistd::getuid().is_root() {
        run_as_ordinary_user(name, found);
    } else {
        body();
    }
}

#[track_caller]
fn run_as_ordinary_user(name: String, found: Vec<(String, PathBuf)>) {
    static RUN: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);
    let first = RUN.lock().is_ok_and(|mut run| run.insert(name.clone()));
    assert!(first, "{name}: a test is one call of on() or ordinary()");

    let user = ordinary_user();
    let stage = Stage::new(&user);
    let mut command = Command::new(&stage.test);
    command.args(["--exact", &name, "--nocapture", "--include-ignored", "--test-threads=1"]);
    command.current_dir(&stage.home).env_clear().envs(kept_environment());
    command.env("HOME", &stage.home).env("USER", &user.name).env("LOGNAME", &user.name);
    command.env(PROOF, &stage.proof).env("PGCAIRN_TEST_PROGRAM", &stage.program);
    command.envs(found);
    // With a uid given by root, the standard library drops root's other groups as well.
    let ended = command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).output().expect("the test's second run");

    // Through the macros, so that the test runner captures it with the rest of this test's output.
    print!("{}", String::from_utf8_lossy(&ended.stdout));
    eprint!("{}", String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{name} failed as user {}: {}", user.name, ended.status);
    let proof = std::fs::read_to_string(&stage.proof).unwrap_or_default();
    assert!(proof.lines().any(|line| line == "done"), "no test {name} was run as user {}", user.name);
    for line in proof.lines() {
        if let Some(reason) = line.strip_prefix("skipped: ") {
            skip(reason);
        }
    }
}

/// What the second run inherits.
fn kept_environment() -> Vec<(String, String)> {
    const KEPT: [&str; 6] = ["PATH", "CI", "RUST_BACKTRACE", "LLVM_PROFILE_FILE", "PROPTEST_CASES", "TZ"];
    const OURS: [&str; 3] = ["PGCAIRN_TEST_FULL", "PGCAIRN_TEST_SEED", "PGCAIRN_TEST_SOAK_MINUTES"];
    KEPT.iter().chain(&OURS).filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))).collect()
}

/// A folder that everybody can enter, with the programs and a home; gone when dropped.
struct Stage {
    folder: PathBuf,
    test: PathBuf,
    program: PathBuf,
    home: PathBuf,
    proof: PathBuf,
}

impl Stage {
    fn new(user: &User) -> Self {
        let made = tempfile::Builder::new().prefix("pgcairn-run-").tempdir_in("/tmp").expect("a folder in /tmp");
        let folder = made.keep();
        let open = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        open(&folder);
        let stage = Stage {
            test: folder.join("test"),
            program: folder.join("pgcairn"),
            home: folder.join("home"),
            proof: folder.join("home/proof"),
            folder,
        };
        place_program(&std::env::current_exe().expect("the test's own path"), &stage.test);
        place_program(Path::new(env!("CARGO_BIN_EXE_pgcairn")), &stage.program);
        std::fs::create_dir(&stage.home).expect("a home");
        chown(&stage.home, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("chown");
        stage
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        super::folder::remove_tree(&self.folder);
    }
}

/// The user that tests become; made if it isn't there (initdb needs one that has a name).
fn ordinary_user() -> User {
    let find = |name: &str| User::from_name(name).ok().flatten();
    if let Some(user) = find(USER) {
        return user;
    }
    // useradd fails if another one runs: one at a time.
    let lock = File::create("/tmp/.pgcairn-test-user.lock").expect("a lock file");
    lock.lock().expect("a lock");
    if find(USER).is_none() {
        let _ = Command::new("useradd").args(["--system", "--no-create-home", "--shell", "/bin/sh", USER]).output();
    }
    find(USER).or_else(|| find("nobody")).expect("an ordinary user: neither pgcairn-test could be made, nor is there nobody")
}
