//! Disks that are full, fail, or can't be written: what is said, with which exit code, and that nothing is lost.
//!
//! Calls of the real program fail by the shim with the error that a disk would give; full disks are real as well, small
//! ones (tmpfs) in a user namespace.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::{Outcome, Postgres, on, shell_quote};
use crate::trace::Op;
use crate::world::{Cluster, World, same_cluster};

const EIO: i32 = 5;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

/// A machine with a snapshot and the WAL of its time, to be set back to that.
struct Machine {
    cluster: Cluster,
    world: World,
    before: crate::disk::Tree,
}

impl Machine {
    fn new(pg: &Postgres) -> Machine {
        let (cluster, world) = (Cluster::build(pg), World::new());
        world.init().ok();
        world.run(world.backup_of(&cluster.states[0])).ok();
        Outcome::of(world.push(&cluster.states[0], &cluster.wal[0])).ok();
        let before = world.scan();
        Machine { cluster, world, before }
    }

    fn reset(&self) {
        self.world.set(&self.before);
    }

    /// Runs a command while calls fail.
    fn failing(&self, command: Command, rules: &str) -> Outcome {
        self.world.under(command, None, rules).0
    }

    /// How many steps a command does below a folder.
    fn steps_below(&self, command: Command, folder: &Path) -> u32 {
        self.reset();
        let done = self.world.under(command, None, "").1;
        done.iter().filter(|s| s.path.starts_with(folder) || Path::new(&s.other).starts_with(folder)).count() as u32
    }

    fn backup(&self) -> Command {
        self.world.command(self.world.backup_of(&self.cluster.states[1]))
    }

    fn restore(&self) -> Command {
        let to = self.world.path("server/data");
        self.world.command(["--jobs", "1", "restore", "--no-recovery", "--to", to.to_str().unwrap()])
    }

    /// All that was acknowledged is there, and all goes on.
    #[track_caller]
    fn nothing_is_lost(&self) {
        let [first, second] = &self.cluster.states;
        let before = self.world.snapshots();
        self.world.run(self.world.backup_of(second)).ok();
        self.world.is_sound();
        let all = self.world.snapshots();
        assert!(all.starts_with(&before) && all.len() == before.len() + 1);
        self.world.restores_as(&all[0], first);
        all[1..].iter().for_each(|id| self.world.restores_as(id, second));
        Outcome::of(self.world.push(second, &self.cluster.wal[1])).ok();
        self.world.has_wal(&self.cluster.wal[..2]);
    }
}

fn rule(what: &str, path: &Path, from: u32, times: u32, error: i32) -> String {
    format!("{what},{},{from},{times},{error}", path.display())
}

#[test]
fn a_full_repository_ends_a_backup_and_a_push() {
    on(18, |pg| {
        let machine = Machine::new(pg);
        let world = &machine.world;
        let repository = world.path("repository");
        let whole = world.under(machine.backup(), None, "").1;
        let count = |ops: &[Op]| whole.iter().filter(|s| ops.contains(&s.op) && s.path.starts_with(&repository)).count() as u32;
        for (what, calls) in [("write", count(&[Op::Write])), ("name", count(&[Op::Link, Op::Mkdir]))] {
            assert!(calls >= 3, "{what}: {calls}");
            for from in 1..=calls {
                machine.reset();
                let outcome = machine.failing(machine.backup(), &rule(what, &repository, from, 0, ENOSPC));
                if what == "name" && outcome.status.success() {
                    // Only names in tmp were left, and they can stay.
                    assert_eq!(world.snapshots().len(), 2, "{what} {from}");
                    continue;
                }
                let outcome = outcome.code(1).says("No space left on device").says("make room");
                outcome.says(&repository.display().to_string());
                assert_eq!(world.snapshots().len(), 1, "{what} {from}");
                if from == 2 {
                    machine.nothing_is_lost();
                }
            }
        }
        for what in ["write", "name"] {
            machine.reset();
            let push = world.push(&machine.cluster.states[1], &machine.cluster.wal[1]);
            let outcome = machine.failing(push, &rule(what, &repository, 1, 0, ENOSPC)).code(1);
            outcome.says("No space left on device").says("make room");
            machine.nothing_is_lost();
        }
    });
}

#[test]
fn a_failed_fsync_is_final_and_never_acknowledged() {
    on(18, |pg| {
        let machine = Machine::new(pg);
        let world = &machine.world;
        let repository = world.path("repository");
        let whole = world.under(machine.backup(), None, "").1;
        let syncs = whole.iter().filter(|s| s.op == Op::Fsync && s.path.starts_with(&repository)).count() as u32;
        assert!(syncs > 10, "{syncs}");
        for from in 1..=syncs {
            machine.reset();
            let (outcome, steps) = world.under(machine.backup(), None, &rule("fsync", &repository, from, 1, EIO));
            let outcome = outcome.code(1).says("not durable").says("look for disk errors");
            let named = steps.iter().filter(|s| s.op == Op::Link).count();
            let would = whole.iter().filter(|s| s.op == Op::Fsync && s.path.starts_with(&repository)).nth(from as usize - 1).unwrap();
            let allowed = whole.iter().filter(|s| s.op == Op::Link && s.number < would.number).count();
            assert!(named <= allowed, "objects were stored after a failed fsync\n{}", outcome.report());
            if from % 5 == 1 {
                // It may be listed: the failed one can have been the last of its COMMIT. Then it is whole.
                machine.nothing_is_lost();
            }
        }
        for from in 1..=4 {
            machine.reset();
            let push = world.push(&machine.cluster.states[1], &machine.cluster.wal[1]);
            machine.failing(push, &rule("fsync", &repository, from, 1, EIO)).code(1).says("not durable");
            machine.nothing_is_lost();
        }
    });
}

#[test]
fn what_cannot_be_read_fails_a_backup_and_is_named() {
    on(18, |pg| {
        let machine = Machine::new(pg);
        let data = &machine.cluster.states[1];
        let relation = std::fs::read_dir(data.join("base/5")).unwrap().map(|e| e.unwrap().path());
        let mut relations: Vec<_> =
            relation.filter(|p| std::fs::metadata(p).unwrap().len() > 16384 && !p.ends_with("pg_internal.init")).collect();
        relations.sort();
        let segment = std::fs::read_dir(data.join("pg_wal")).unwrap().map(|e| e.unwrap().path());
        let mut segments: Vec<_> = segment.filter(|p| p.is_file()).collect();
        segments.sort();
        // A backup that has no parent reads all.
        let fresh = World::new();
        fresh.init().ok();
        let before = fresh.scan();
        let others = ["global/pg_control", "PG_VERSION", "pg_xact/0000", "base/5/pg_filenode.map", "postgresql.conf"];
        let mut tried = 0;
        for path in others.iter().map(|name| data.join(name)).chain([relations[0].clone(), relations.last().unwrap().clone()]) {
            for (what, error, text) in [("read", EIO, "Input/output error"), ("open", 13, "Permission denied")] {
                fresh.set(&before);
                let command = fresh.command(fresh.backup_of(data));
                let (outcome, _) = fresh.under(command, None, &rule(what, &path, 1, 0, error));
                outcome.code(1).says(text).says(path.file_name().unwrap().to_str().unwrap());
                assert_eq!(fresh.snapshots().len(), 0, "{}", path.display());
                tried += 1;
            }
        }
        let folder = data.join("base/5");
        let (outcome, _) = fresh.under(fresh.command(fresh.backup_of(data)), None, &format!("open,{},1,1,{EIO}", folder.display()));
        outcome.code(1).says("Input/output error").says("base/5");
        println!("{tried} files that can't be read");

        // And truly: a file of another mode.
        let locked = relations[0].clone();
        let mode = std::fs::metadata(&locked).unwrap().permissions();
        std::fs::set_permissions(&locked, PermissionsExt::from_mode(0o000)).unwrap();
        let outcome = Outcome::of(fresh.command(fresh.backup_of(data))).code(1);
        outcome.says("Permission denied").says(locked.to_str().unwrap()).says("user");
        std::fs::set_permissions(&locked, mode).unwrap();
        fresh.run(fresh.backup_of(data)).ok();
        fresh.restores_as("latest", data);
    });
}

#[test]
fn a_repository_that_cannot_be_read_fails_a_restore_and_a_get() {
    on(18, |pg| {
        let machine = Machine::new(pg);
        let world = &machine.world;
        for (what, below) in [("read", "pack"), ("open", "pack"), ("read", "log"), ("read", "pgcairn")] {
            for from in [1, 2] {
                machine.reset();
                let path = world.path("repository").join(below);
                // What was kept of the log must not hide it.
                let _ = std::fs::remove_dir_all(world.path("home/.cache"));
                let (outcome, steps) = world.under(machine.restore(), None, &rule(what, &path, from, 0, EIO));
                if from == 2 && below == "pgcairn" {
                    continue;
                }
                outcome.code(1).says("Input/output error").says(below);
                assert!(!steps.iter().any(|s| s.path.ends_with("pg_control") || Path::new(&s.other).ends_with("pg_control")));
            }
        }
        machine.reset();
        let name = machine.cluster.wal[0].file_name().unwrap();
        let to = world.path("home/RECOVERYXLOG");
        let get = || world.command([OsStr::new("archive-get"), name, to.as_os_str()]);
        for (what, path) in
            [("read", "repository/wal"), ("open", "repository/wal"), ("read", "repository/log"), ("write", "home/RECOVERYXLOG")]
        {
            let _ = std::fs::remove_dir_all(world.path("home/.cache"));
            let error = if what == "write" { ENOSPC } else { EIO };
            let outcome = machine.failing(get(), &rule(what, &world.path(path), 1, 0, error));
            // Never a code from which a server concludes that recovery is at its end.
            assert!(outcome.status.code().is_some_and(|code| code > 125), "{what} {path}: {}", outcome.report());
            assert!(!to.exists(), "{what} {path}: half a segment is there");
        }
        machine.nothing_is_lost();
    });
}

#[test]
fn a_target_that_fails_leaves_nothing_that_starts() {
    on(18, |pg| {
        let machine = Machine::new(pg);
        let world = &machine.world;
        let server = world.path("server");
        let (data, control) = (server.join("data"), server.join("data/global/pg_control"));
        let whole = world.under(machine.restore(), None, "").1;
        let count = |ops: &[Op]| whole.iter().filter(|s| ops.contains(&s.op) && s.path.starts_with(&server)).count() as u32;
        let (writes, syncs) = (count(&[Op::Write, Op::Length, Op::Zero]), count(&[Op::Fsync, Op::Syncfs]));
        let full = (1..=writes).step_by(writes as usize / 6 + 1).chain([writes]).map(|from| ("write", from, 0, ENOSPC, "No space left"));
        // Once, as Linux reports it; and from then on.
        let broken = (1..=syncs).map(|from| (from, 1)).chain((syncs - 2..=syncs).map(|from| (from, 0)));
        let broken = broken.map(|(from, times)| ("fsync", from, times, EIO, "Input/output error"));
        for (what, from, times, error, text) in full.chain(broken) {
            machine.reset();
            let outcome = machine.failing(machine.restore(), &rule(what, &server, from, times, error)).code(1);
            let outcome = outcome.says(text).says(&server.display().to_string());
            let outcome = outcome.says(if error == ENOSPC { "make room" } else { "look for disk errors" });
            assert!(!control.exists(), "{what} {from} {times}: it would start\n{}", outcome.report());
            // Of the first steps nothing may be left.
            if data.join("PG_VERSION").exists() && (what == "write" || from + 3 > syncs) {
                goes_on(&machine);
            }
        }
        machine.reset();
        machine.failing(machine.restore(), &rule("name", &data, 3, 0, EROFS)).code(1).says("Read-only file system");
        assert!(!control.exists());
        // Each name that the marker and pg_control get or lose, once and for ever.
        let mut failed = 0;
        for path in [data.join("pgcairn.restore"), control.clone()] {
            for times in [1, 0] {
                for from in 1.. {
                    machine.reset();
                    let outcome = machine.failing(machine.restore(), &rule("name", &path, from, times, EROFS));
                    if outcome.status.success() {
                        break;
                    }
                    outcome.code(1).says("Read-only file system").says("mounted read-only");
                    assert!(!control.exists(), "{} {from} {times}", path.display());
                    if times == 0 && data.join("PG_VERSION").exists() {
                        goes_on(&machine);
                    }
                    failed += 1;
                }
            }
        }
        assert!(failed >= 8, "{failed}");
        // Nothing at all can be done any more once pg_control is there: that is said.
        let syncs = whole.iter().filter(|s| matches!(s.op, Op::Fsync | Op::Syncfs) && s.path.starts_with(&data)).count() as u32;
        let stands_there = |from: u32| {
            machine.reset();
            let rules = [rule("fsync", &data, syncs, 0, EIO), rule("name", &control, from, 0, EROFS)];
            let outcome = machine.failing(machine.restore(), &rules.join(";")).code(1);
            control.exists().then_some(outcome)
        };
        let outcome = (1..20).find_map(stands_there).expect("only the last name fails").says("Input/output error");
        outcome.says("can't be taken away again (Read-only file system").says("start no server").says(&control.display().to_string());
        goes_on(&machine);
    });
}

/// A restore that has failed is continued, and comes to its end.
#[track_caller]
fn goes_on(machine: &Machine) {
    let mut command = machine.restore();
    command.arg("--delta");
    Outcome::of(command).ok();
    let data = machine.world.path("server/data");
    same_cluster(&machine.cluster.states[0], &data);
    assert!(data.join("global/pg_control").exists() && !data.join("pgcairn.restore").exists());
}

#[test]
fn a_full_disk_of_the_host_is_said_and_one_of_the_cache_is_done_without() {
    on(18, |pg| {
        let machine = Machine::new(pg);
        let world = &machine.world;
        let (state, cache) = (world.path("home/.local/state"), world.path("home/.cache"));
        for what in ["write", "name", "open"] {
            machine.reset();
            let error = if what == "open" { EROFS } else { ENOSPC };
            machine.failing(machine.backup(), &rule(what, &cache, 1, 0, error)).ok();
            machine.nothing_is_lost();
        }
        for what in ["write", "name"] {
            machine.reset();
            let outcome = machine.failing(machine.backup(), &rule(what, &state, 1, 0, ENOSPC)).code(1);
            outcome.says("No space left on device").says("make room").says(&state.display().to_string());
            machine.nothing_is_lost();
        }
        // At any later moment: what is said is what is so. A snapshot that is stored is not called a failure.
        let steps = machine.steps_below(machine.backup(), &state);
        assert!(steps > 5, "{steps}");
        for (what, error) in [("write", ENOSPC), ("name", ENOSPC), ("fsync", EIO)] {
            let mut failed = 0;
            for from in 1..=steps {
                machine.reset();
                let outcome = machine.failing(machine.backup(), &rule(what, &state, from, 0, error));
                let done = outcome.status.success();
                failed += u32::from(!done);
                let outcome = if done { outcome } else { outcome.code(1).says(&state.display().to_string()) };
                assert_eq!(world.snapshots().len(), 1 + usize::from(done), "{what} {from}: {}", outcome.report());
                if from == 3 {
                    machine.nothing_is_lost();
                }
            }
            assert!(failed > 0 && failed < steps, "{what}: {failed} of {steps}");
        }
        // Looking and fetching need no room.
        machine.reset();
        for arguments in [&["list"][..], &["show", "latest"], &["archive", "status"]] {
            machine.failing(world.command(arguments), &format!("write,{},1,0,{ENOSPC}", world.disk().display())).ok();
        }
    });
}

#[test]
fn a_read_only_repository_is_named_and_can_be_read() {
    on(18, |pg| {
        let machine = Machine::new(pg);
        let world = &machine.world;
        let repository = world.path("repository");
        let named = repository.display().to_string();
        for error in [EROFS, 13] {
            machine.reset();
            let rules = ["open", "write", "name"].map(|what| rule(what, &repository.join("tmp"), 1, 0, error)).join(";");
            let outcome = machine.failing(machine.backup(), &rules).code(1).says(&named);
            assert_eq!(outcome.json()["error"]["class"], "denied", "{}", outcome.report());
            machine.failing(world.push(&machine.cluster.states[1], &machine.cluster.wal[1]), &rules).code(1).says(&named);
            machine.failing(machine.restore(), &rules).ok();
            same_cluster(&machine.cluster.states[0], &world.path("server/data"));
            machine.failing(world.command(["list"]), &rules).ok();
        }
        machine.nothing_is_lost();
    });
}

#[test]
fn few_descriptors_end_in_a_message() {
    on(18, |pg| {
        let machine = Machine::new(pg);
        let world = &machine.world;
        let limited = |limit: u32, command: &Command| {
            let mut line = format!("ulimit -n {limit}; exec {}", shell_quote(command.get_program().to_str().unwrap()));
            command.get_args().for_each(|a| line.push_str(&format!(" {}", shell_quote(a.to_str().unwrap()))));
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(line).env_clear().envs(command.get_envs().filter_map(|(n, v)| Some((n, v?))));
            shell.env_remove("LD_PRELOAD").current_dir(world.path("home"));
            Outcome::of(shell)
        };
        let (mut failed, mut done) = (0, 0);
        for limit in [4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 32, 64] {
            machine.reset();
            for command in [machine.restore(), machine.backup(), world.push(&machine.cluster.states[1], &machine.cluster.wal[1])] {
                let outcome = limited(limit, &command);
                match outcome.status.code() {
                    Some(0) => done += 1,
                    Some(1) => {
                        failed += 1;
                        assert!(
                            format!("{}{}", outcome.stdout, outcome.stderr).contains("Too many open files"),
                            "{limit}: {}",
                            outcome.report()
                        );
                    }
                    _ => panic!("{limit}: {}", outcome.report()),
                }
            }
            let control = world.path("server/data/global/pg_control");
            if control.exists() {
                same_cluster(&machine.cluster.states[0], &world.path("server/data"));
            }
            if matches!(limit, 8 | 14 | 64) {
                machine.nothing_is_lost();
            }
        }
        assert!(failed >= 6 && done >= 6, "{failed} failed, {done} went well");
        // At any single moment, too.
        for from in [3, 9, 15, 21, 27, 33] {
            machine.reset();
            let outcome = machine.failing(machine.backup(), &format!("open,/,{from},1,{EMFILE}"));
            assert!(matches!(outcome.status.code(), Some(0 | 1)), "{}", outcome.report());
            machine.nothing_is_lost();
        }
    });
}

/// Runs a script in a user namespace in which it may mount small disks; `None` where there are none.
fn in_namespace(script: &str, environment: &[(&str, &OsStr)]) -> Option<Outcome> {
    let mut try_one = Command::new("unshare");
    try_one.args(["--user", "--map-root-user", "--mount", "true"]);
    if !try_one.output().is_ok_and(|o| o.status.success()) {
        crate::support::skip("no user namespaces here: no small disks");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-ec", script]).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LC_ALL", "C.UTF-8");
    Some(Outcome::of({
        command.envs(environment.iter().map(|(n, v)| (n, v)));
        command
    }))
}

#[test]
fn small_disks_fill_up_and_are_made_larger() {
    on(18, |pg| {
        let (cluster, world) = (Cluster::build(pg), World::new());
        let other = world.elsewhere("other");
        // Five disks of its own: repository, target, state, cache; each is filled once.
        let script = r#"
            cd "$W"
            mkdir -p disk/repository disk/server disk/home/state disk/home/cache
            export HOME="$W/disk/home" PGCAIRN_STATE_DIR="$W/disk/home/state" PGCAIRN_CACHE_DIR="$W/disk/home/cache"
            touch config.toml
            export PGCAIRN_CONFIG="$W/config.toml" PGCAIRN_REPO="$W/disk/repository" PGCAIRN_KEY_FILE="$W/disk/key"
            mount -t tmpfs -o size=100k none disk/repository
            mount -t tmpfs -o size=1m none disk/server
            mount -t tmpfs -o size=64k none disk/home/cache
            mount -t tmpfs -o size=64k none disk/home/state
            backup() { "$P" backup --allow-root --offline --pgdata "$1" >"$W/out" 2>"$W/err" && echo "backup 0" || { echo "backup $?"; cat "$W/err"; }; }
            "$P" init >/dev/null
            backup "$A"
            "$P" list --json
            mount -i -n -t tmpfs -o remount,size=64m none "$W/disk/repository"
            backup "$A"
            echo "cache full"; head -c 10M /dev/zero >disk/home/cache/ballast || true
            backup "$B"
            echo "state full"; head -c 10M /dev/zero >disk/home/state/ballast || true
            backup "$B"
            rm disk/home/state/ballast
            backup "$B"
            echo "target full"
            "$P" restore --no-recovery --to disk/server/data 2>&1 && echo "restore 0" || echo "restore $?"
            ls -A disk/server
            mount -i -n -t tmpfs -o remount,size=200m none "$W/disk/server"
            "$P" restore --delta --no-recovery --to disk/server/data >/dev/null
            cp -a disk/server/data "$O/data"
        "#;
        let program = crate::support::Host::new().program();
        let folder = world.disk().parent().unwrap().to_owned();
        let environment = [
            ("W", folder.as_os_str()),
            ("P", program.as_os_str()),
            ("O", other.as_os_str()),
            ("A", cluster.states[0].as_os_str()),
            ("B", cluster.states[1].as_os_str()),
        ];
        let Some(outcome) = in_namespace(script, &environment) else { return };
        let outcome = outcome.ok();
        let (text, whole) = (&outcome.stdout, outcome.report());
        let (full, rest) = text.split_once("cache full").expect(&whole);
        assert!(full.starts_with("backup 1\n") && full.contains("No space left on device") && full.contains("make room"), "{whole}");
        assert!(full.contains("\"snapshots\":[]") && full.trim_end().ends_with("backup 0"), "{whole}");
        let (cache, rest) = rest.split_once("state full").expect(&whole);
        assert_eq!(cache.trim(), "backup 0", "{whole}");
        let (state, target) = rest.split_once("target full").expect(&whole);
        assert!(state.trim_start().starts_with("backup 1\n") && state.contains("No space left on device"), "{whole}");
        assert!(state.contains("disk/home/state") && state.contains("make room") && state.trim_end().ends_with("backup 0"), "{whole}");
        assert!(target.contains("restore 1") && target.contains("disk/server"), "{whole}");
        same_cluster(&cluster.states[1], &other.join("data"));
    });
}
