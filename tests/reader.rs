//! A second reader of the format, `scripts/reader.py`, was written from `format-spec.md` alone: it must read all that the
//! program writes, and the same. What needs the program's code to be read is not specified.

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Host, Load, Outcome, Postgres, Server, Stop, TestDir, copy_tree};

/// Where `scripts/reader-env` puts what runs the reader.
fn launchers() -> [PathBuf; 2] {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("tmp lies in target");
    [target.join("reader/reader"), PathBuf::from("/var/tmp/pgcairn-reader/reader")]
}

/// Fetches what the reader needs, before a test's body: root's second run could not. False, and the test is left out and
/// counted, where it can't be had; in CI that is a failure.
fn can_be_had() -> bool {
    if std::env::var_os("PGCAIRN_TEST_PROOF").is_some() {
        return true;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/reader-env");
    let ran = Command::new(&script).stdin(Stdio::null()).output();
    let reason = match ran {
        Ok(ran) if ran.status.success() => return true,
        Ok(ran) => String::from_utf8_lossy(&ran.stderr).lines().last().unwrap_or("scripts/reader-env failed").to_owned(),
        Err(error) => format!("{}: {error}", script.display()),
    };
    assert!(std::env::var_os("CI").is_none_or(|v| v.is_empty()), "{reason}");
    support::skip(&reason);
    false
}

/// A repository with a host that writes it, and what opens it for a reader that knows nothing else.
struct Store {
    host: Host,
    folder: TestDir,
    secret: Vec<String>,
}

#[derive(Clone, Copy)]
enum By {
    Passphrase,
    KeyFile,
    Nothing,
}

impl Store {
    fn init(by: By) -> Store {
        let (host, folder) = (Host::new(), TestDir::new());
        let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let (secret, more): (Vec<String>, &[&str]) = match by {
            By::Passphrase => {
                std::fs::write(folder.join("passphrase"), "correct horse bättery staple\n").unwrap();
                (vec!["--passphrase-file".into(), file("passphrase")], &["--test-kdf"])
            }
            By::KeyFile => (vec!["--key-file".into(), file("key")], &[]),
            By::Nothing => (vec![], &["--no-encryption"]),
        };
        let store = Store { host, folder, secret };
        let secret: Vec<&str> = store.secret.iter().map(String::as_str).collect();
        store.run([&secret[..], &["init"], more].concat()).ok();
        store
    }

    fn path(&self) -> PathBuf {
        self.folder.join("repository")
    }

    fn run(&self, arguments: Vec<&str>) -> Outcome {
        let path = self.path();
        self.host.pgcairn([&["--repo", path.to_str().unwrap()], &arguments[..]].concat())
    }

    fn backup(&self, server: &Server, more: &[&str]) -> String {
        let (dsn, data) = (server.dsn("postgres"), server.data().to_str().unwrap().to_owned());
        let done = self.run([&["backup", "--json", "--dsn", &dsn, "--pgdata", &data], more].concat()).ok().json();
        done["id"].as_str().unwrap().to_owned()
    }

    /// Runs the second reader on this repository.
    fn read(&self, arguments: &[&str]) -> Outcome {
        self.read_at(&self.path(), arguments)
    }

    /// Runs the second reader on a copy of this repository.
    fn read_at(&self, repository: &Path, arguments: &[&str]) -> Outcome {
        read(repository, &self.secret, arguments)
    }
}

fn read(repository: &Path, secret: &[String], arguments: &[&str]) -> Outcome {
    let launcher = launchers().into_iter().find(|path| path.exists()).expect("the reader's launcher");
    let mut command = Command::new(launcher);
    command.arg(repository).args(secret).args(arguments).stdin(Stdio::null());
    Outcome::of(command)
}

/// What a path is, its permissions, its bytes.
type Tree = BTreeMap<PathBuf, (String, u32, Vec<u8>)>;

fn tree(folder: &Path) -> Tree {
    let mut all = Tree::new();
    gather(folder, Path::new(""), &mut all);
    all
}

fn gather(folder: &Path, below: &Path, all: &mut Tree) {
    for entry in std::fs::read_dir(folder.join(below)).unwrap().map(Result::unwrap) {
        let name = below.join(entry.file_name());
        let meta = entry.metadata().unwrap();
        let mode = meta.permissions().mode() & 0o7777;
        if meta.is_dir() {
            all.insert(name.clone(), ("folder".into(), mode, vec![]));
            gather(folder, &name, all);
        } else if meta.is_symlink() {
            all.insert(name, ("link".into(), 0, vec![]));
        } else {
            all.insert(name, ("file".into(), mode, std::fs::read(entry.path()).unwrap()));
        }
    }
}

#[track_caller]
fn assert_same(program: &Path, reader: &Path) {
    let (mut ours, theirs) = (tree(program), tree(reader));
    // What the program adds of its own, so that a server needs no more: no files of the tree.
    ours.remove(Path::new("backup_manifest"));
    ours.retain(|path, _| !path.starts_with("pg_wal/archive_status") || path.extension().is_none());
    let without = |a: &Tree, b: &Tree| a.keys().filter(|path| !b.contains_key(*path)).cloned().collect::<Vec<_>>();
    assert_eq!((without(&ours, &theirs), without(&theirs, &ours)), (vec![], vec![]));
    assert!(!ours.is_empty());
    for (path, (what, mode, bytes)) in &ours {
        let other = &theirs[path];
        assert_eq!((what, format!("{mode:o}")), (&other.0, format!("{:o}", other.1)), "{}", path.display());
        assert!(*bytes == other.2, "{} differs", path.display());
    }
}

/// One snapshot, restored by both.
#[track_caller]
fn compare(store: &Store, snapshot: &str, oid: &str) {
    let target = TestDir::new();
    let path = |name: &str| target.join(name).to_str().unwrap().to_owned();
    let (ours, our_spaces, theirs, their_space) = (path("ours"), path("our-spaces"), path("theirs"), path("their-space"));
    store
        .run(vec!["restore", "--no-recovery", "--archive-mode", "preserve", "--to", &ours, "--tablespace-root", &our_spaces, snapshot])
        .ok();
    store.read(&["restore", snapshot, &theirs, "--tablespace", &format!("{oid}={their_space}")]).ok();
    assert_same(Path::new(&ours), Path::new(&theirs));
    assert_same(&Path::new(&our_spaces).join(oid), Path::new(&their_space));
    let link = std::fs::read_link(Path::new(&theirs).join("pg_tblspc").join(oid)).unwrap();
    assert_eq!(link, Path::new(&their_space));
    let config = store.read(&["cat", snapshot, "postgresql.conf"]).ok();
    assert_eq!(config.stdout, std::fs::read_to_string(Path::new(&ours).join("postgresql.conf")).unwrap());
}

/// What the server archived, against what it was: all but segments, and some of these.
#[track_caller]
fn compare_wal(store: &Store, originals: &Path) {
    let target = TestDir::new();
    let names: Vec<String> = std::fs::read_dir(originals).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let (segments, others): (Vec<&String>, Vec<&String>) = names.iter().partition(|name| name.len() == 24);
    let some = segments.iter().step_by(segments.len().div_ceil(6));
    assert!(segments.len() > 3 && others.iter().any(|name| name.ends_with(".backup")), "{names:?}");
    for name in some.chain(&others) {
        let out = target.join(name);
        store.read(&["wal", name, out.to_str().unwrap()]).ok();
        assert!(std::fs::read(&out).unwrap() == std::fs::read(originals.join(name)).unwrap(), "{name} differs");
    }
    let out = target.join("none");
    store.read(&["wal", "0000000100000000000000FF", out.to_str().unwrap()]).code(1).says("not in the archive");
}

/// A repository as it grows: whole files and patches of several generations, small files, tablespaces, WAL beside and
/// within. All of it is the same to both readers.
fn story(pg: &Postgres, by: By) {
    let store = Store::init(by);
    let originals = store.folder.folder("originals");
    let path = store.path();
    let push = store.host.shell_line(["--repo", path.to_str().unwrap(), "archive-push", "%p"]);
    let command = format!("cp %p {}/%f && {push}", originals.display());
    let mut server = Server::build(pg).host(&store.host).archive(&command).conf("autovacuum", "off").start();
    let space = server.folder("space");
    server.sql("postgres", &format!("create tablespace far location '{}'", space.display()));
    server.sql("postgres", "create table away tablespace far as select i, repeat('x', 100) t from generate_series(1, 20000) i");
    let oid = server.sql("postgres", "select oid from pg_tablespace where spcname = 'far'");
    server.pgbench_init(1);
    server.sql("postgres", "vacuum freeze; checkpoint");
    std::fs::write(server.data().join("odd name ü\n"), "of no server").unwrap();
    std::fs::set_permissions(server.data().join("odd name ü\n"), PermissionsExt::from_mode(0o664)).unwrap();

    let mut snapshots = vec![store.backup(&server, &[])];
    for round in 0..3 {
        server.pgbench(&["-n", "-c", "1", "-t", "150", &format!("--random-seed={round}")]);
        server.sql("postgres", &format!("update away set t = 'y{round}' where i % 500 = {round}; checkpoint"));
        snapshots.push(store.backup(&server, &[]));
    }
    let load = Load::start(&server, &["-n", "-c", "2"]);
    snapshots.push(store.backup(&server, &["--wal", "copy"]));
    load.stop();
    let last = server.switch_wal();
    server.await_archived(&last);
    server.stop(Stop::Fast);
    let data = server.data().to_str().unwrap();
    snapshots.push(store.run(vec!["backup", "--json", "--offline", "--pgdata", data]).ok().json()["id"].as_str().unwrap().to_owned());

    let listed: Vec<String> = store.read(&["list"]).ok().json_lines().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(listed, snapshots);
    assert!(!store.read(&["log"]).ok().stdout.contains("void"));
    let checked = store.read(&["check"]).ok().json();
    assert_eq!(checked["faults"], 0);
    for kind in ["stored", "zstd", "patch", "node"] {
        assert!(checked["kinds"][kind].as_u64() > Some(0), "no {kind} in {checked}");
    }
    // The first, one with patches of patched files, one with its WAL, one of a stopped server.
    for snapshot in [0, 3, 4, 5].map(|i| &snapshots[i]) {
        compare(&store, snapshot, &oid);
    }
    compare_wal(&store, &originals);
    what_was_changed_is_refused(&store, &last);
    if matches!(by, By::Nothing) {
        the_same_object_counts(&store, &last);
    }
}

/// Of several objects under one name, damaged, foreign or cut, both take the same one, or none.
fn the_same_object_counts(store: &Store, segment: &str) {
    let copies = TestDir::new();
    let copy = copies.join("repository");
    copy_tree(&store.path(), &copy);
    let object = files_below(&copy.join("wal")).into_iter().find(|path| path.ends_with(segment)).unwrap();
    let whole = std::fs::read(&object).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        Some(bytes)
    };
    let end = whole.len();
    let longer = [&whole[..], b"x"].concat();
    // What lies at the name itself, at which name behind it the whole object does, and whether the file is found.
    let cases: Vec<(&str, Option<Vec<u8>>, &str, bool)> = vec![
        ("alone", Some(whole.clone()), "", true),
        ("only behind", None, ".1", true),
        ("only far behind", None, ".7", true),
        ("no number", None, ".01", false),
        ("zero", None, ".0", false),
        ("nothing", None, "", false),
        ("rubbish", Some(b"rubbish".to_vec()), "", false),
        ("empty", Some(vec![]), "", false),
        ("rubbish before", Some(b"rubbish".to_vec()), ".1", true),
        ("another repository before", flipped(10), ".1", true),
        ("another signer before", flipped(30), ".1", true),
        ("another entry before", flipped(40), ".1", false),
        ("another entry's hash before", flipped(50), ".1", false),
        ("reserved bytes before", flipped(85), ".1", true),
        ("another envelope before", flipped(100), ".1", true),
        ("other metadata before", flipped(300), ".1", true),
        ("rotten parts before", flipped(end - 5), ".1", true),
        ("rotten parts", flipped(end - 5), "", false),
        ("cut in front, before", Some(whole[..200].to_vec()), ".1", true),
        ("cut at its end, before", Some(whole[..end - 5].to_vec()), ".1", true),
        ("longer, before", Some(longer), ".1", true),
    ];
    for (what, first, second, found) in cases {
        let behind = PathBuf::from(format!("{}{second}", object.display()));
        std::fs::remove_file(&object).unwrap();
        if !second.is_empty() {
            std::fs::write(&behind, &whole).unwrap();
        }
        if let Some(bytes) = first {
            std::fs::write(&object, bytes).unwrap();
        }
        let (ours, theirs) = (copies.join("ours"), copies.join("theirs"));
        let host = Host::new();
        let mut arguments = vec!["--repo", copy.to_str().unwrap()];
        arguments.extend(store.secret.iter().map(String::as_str));
        arguments.extend(["archive-get", "--rewind", segment, ours.to_str().unwrap()]);
        let program = host.pgcairn(&arguments);
        let reader = store.read_at(&copy, &["wal", segment, theirs.to_str().unwrap()]);
        let taken = [&ours, &theirs].map(|path| std::fs::read(path).ok());
        let report = || format!("{what}\n{}\n{}", program.report(), reader.report());
        assert_eq!((taken[0].is_some(), taken[1].is_some()), (found, found), "{}", report());
        assert_eq!((program.status.success(), reader.status.success()), (found, found), "{}", report());
        assert!(taken[0] == taken[1], "{}", report());
        for path in [&ours, &theirs, &behind, &object] {
            let _ = std::fs::remove_file(path);
        }
        std::fs::write(&object, &whole).unwrap();
    }
}

/// A byte that is another one: in what the newest snapshot is made of, and in a file of WAL.
fn what_was_changed_is_refused(store: &Store, segment: &str) {
    let copies = TestDir::new();
    let copy = copies.join("repository");
    copy_tree(&store.path(), &copy);
    let out = copies.join("out");
    let out = out.to_str().unwrap();
    for object in files_below(&copy.join("wal")).iter().filter(|path| path.ends_with(segment)) {
        changed(
            object,
            |length| length * 3 / 4,
            || {
                store.read_at(&copy, &["wal", segment, out]).code(1).says("damaged");
            },
        );
    }
    let packs = files_below(&copy.join("pack"));
    let newest = packs.iter().max_by_key(|path| std::fs::metadata(path).unwrap().modified().unwrap()).unwrap();
    changed(
        newest,
        |length| length / 2,
        || {
            store.read_at(&copy, &["check"]).code(1).says("hash");
        },
    );
    changed(
        newest,
        |length| length - 1,
        || {
            store.read_at(&copy, &["restore", "latest", out]).code(1).says("trailer");
        },
    );
    let entry = copy.join("log/1");
    changed(
        &entry,
        |length| length / 2,
        || {
            store.read_at(&copy, &["log"]).code(1).says("log/1: damaged");
        },
    );
    store.read_at(&copy, &["check"]).ok();
}

/// Runs something while one byte of a file is another one.
fn changed(file: &Path, at: impl Fn(usize) -> usize, run: impl FnOnce()) {
    let original = std::fs::read(file).unwrap();
    let mut bytes = original.clone();
    bytes[at(original.len())] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
    run();
    std::fs::write(file, original).unwrap();
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let all = tree(folder).into_iter().filter(|(_, (what, _, _))| what == "file");
    all.map(|(path, _)| folder.join(path)).collect()
}

#[test]
fn a_passphrase_opens_all_to_a_second_reader() {
    if can_be_had() {
        support::on(18, |pg| story(pg, By::Passphrase));
    }
}

#[test]
fn a_key_file_opens_all_to_a_second_reader() {
    if can_be_had() {
        support::on(15, |pg| story(pg, By::KeyFile));
    }
}

#[test]
fn what_is_not_encrypted_is_open_to_a_second_reader() {
    if can_be_had() {
        support::on(18, |pg| story(pg, By::Nothing));
    }
}

#[test]
fn a_second_reader_agrees_with_the_vectors() {
    if can_be_had() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let read = read(&tests, &[], &["vectors"]).ok();
        let groups: Vec<(&str, u32)> =
            read.stdout.lines().map(|l| l.split_once('\t').unwrap()).map(|(name, n)| (name, n.parse().unwrap())).collect();
        assert!(groups.len() >= 9 && groups.iter().all(|(_, n)| *n > 0), "{groups:?}");
        assert!(groups.contains(&("recorded_logs", 300)), "{groups:?}");
    }
}

#[test]
fn a_second_reader_refuses_what_was_changed_anywhere() {
    if can_be_had() {
        let there = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/format/repository-1");
        let folder = TestDir::new();
        let (copy, out) = (folder.join("copy"), folder.join("out"));
        copy_tree(&there, &copy);
        let secret = vec!["--key-file".to_owned(), copy.join("key").to_str().unwrap().to_owned()];
        let objects = copy.join("objects");
        let restored = |to: &Path| read(&objects, &secret, &["restore", "latest", to.to_str().unwrap()]);
        restored(&folder.join("unchanged")).ok();
        for object in files_below(&objects) {
            let what = object.strip_prefix(&objects).unwrap().display().to_string();
            for part in 0..4 {
                changed(
                    &object,
                    |length| part * (length - 1) / 3,
                    || {
                        // What no snapshot reads (a pack's padding) is seen by who reads all.
                        let outcome = if what.starts_with("pack/") { read(&objects, &secret, &["check"]) } else { restored(&out) };
                        assert_eq!(outcome.status.code(), Some(1), "{what}, {part}/3: {}", outcome.report());
                        assert!(!outcome.stderr.contains("Traceback"), "{what}: {}", outcome.report());
                    },
                );
            }
        }
        restored(&folder.join("unchanged again")).ok();
    }
}
