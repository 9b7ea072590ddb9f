//! Small snapshots restored over folders in which something lies already.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use super::testing::{As, TestFolder, TestSnapshot, file, folder};
use super::tests::{RUNNING, cluster, control_of, facts, options, store};
use super::*;
use crate::pg::facts::{ClusterFacts, TablespaceFact};
use crate::units::{Class, Explain, Quiet};

const EXTENT: usize = 64 << 10;

/// As the cluster of the other tests, with a relation of several extents, one of them zeros.
fn with_relation() -> Vec<TestFolder> {
    let mut folders = cluster();
    let mut relation: Vec<u8> = (0..4 * EXTENT).map(|i| (i / 8192 + 1) as u8).collect();
    relation[EXTENT..2 * EXTENT].fill(0);
    folders[1].files.insert(0, file("1000", relation, As::Tree(EXTENT)));
    folders
}

/// Restores over what stands there, as the command line does.
fn in_place(stored: &TestSnapshot, options: &RestoreOptions) -> Result<(RestorePlan, Restored), RestoreError> {
    let snapshot = stored.open();
    let options = RestoreOptions { in_place: Existing::look(&resolve(&options.to)?)?, ..options.clone() };
    let plan = prepare(&snapshot, &options)?;
    let done = execute(&plan, &snapshot, &stored.packs, &stored.opening, 2, &Quiet, &Cancel::new())?;
    Ok((plan, done))
}

/// The options of a restore over what stands there now.
fn options_of(to: &Path) -> RestoreOptions {
    RestoreOptions { in_place: Existing::look(to).unwrap(), ..options(to.to_owned()) }
}

/// Everything below a folder but what restores name by the clock: path, and content or where a link leads.
fn content(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap().to_owned();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(path);
                found.push((name, Vec::new()));
            } else if kind.is_symlink() {
                found.push((name, fs::read_link(path).unwrap().into_os_string().into_encoded_bytes()));
            } else if name != Path::new("backup_manifest") {
                found.push((name, fs::read(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn only_what_differs_is_written() {
    let scratch = tempfile::tempdir().unwrap();
    let to = scratch.path().join("data");
    let stored = store(&facts(), &with_relation());
    let (_, first) = in_place(&stored, &options(to.clone())).unwrap();
    assert!(first.written_bytes >= 3 * EXTENT as u64);
    let whole = (content(&to), content(&to.with_extension("space")));
    // Nothing has changed.
    let (plan, again) = in_place(&stored, &options(to.clone())).unwrap();
    assert_eq!((again.bytes, again.files, again.written_bytes), (first.bytes, first.files, 0));
    assert_eq!(plan.in_place.unwrap().strangers, Vec::<Vec<u8>>::new());
    // A page of one extent, a hole that is none any more, ends that are longer and shorter, other small files.
    let relation = File::options().write(true).open(to.join("base/1/1000")).unwrap();
    relation.write_all_at(b"changed", 3 * EXTENT as u64 + 100).unwrap();
    relation.write_all_at(&[9; 8192], EXTENT as u64 + 8192).unwrap();
    relation.set_len(5 * EXTENT as u64).unwrap();
    fs::write(to.join("base/1/1259"), "short").unwrap();
    fs::write(to.join("base/1/1260"), [1; 16384]).unwrap();
    fs::write(to.join("PG_VERSION"), "17\n").unwrap();
    let (_, third) = in_place(&stored, &options(to.clone())).unwrap();
    assert_eq!(third.written_bytes, EXTENT as u64 + 8192 + 3);
    assert_eq!((content(&to), content(&to.with_extension("space"))), whole);
    // Shorter than it was.
    File::options().write(true).open(to.join("base/1/1000")).unwrap().set_len(EXTENT as u64 + 5).unwrap();
    let (_, fourth) = in_place(&stored, &options(to.clone())).unwrap();
    assert_eq!(fourth.written_bytes, 2 * EXTENT as u64);
    assert_eq!(content(&to), whole.0);
}

#[test]
fn nothing_outside_is_written_to_or_removed() {
    let scratch = tempfile::tempdir().unwrap();
    let (to, outside) = (scratch.path().join("data"), scratch.path().join("outside"));
    let stored = store(&facts(), &with_relation());
    in_place(&stored, &options(to.clone())).unwrap();
    let whole = content(&to);
    fs::create_dir(&outside).unwrap();
    for name in ["linked", "twin", "control"] {
        fs::write(outside.join(name), "precious").unwrap();
    }
    let replace = |name: &str| fs::remove_file(to.join(name)).unwrap();
    // A link, a second name of a file outside, a pipe, a folder in place of files; links in place of folders.
    replace("base/1/1000");
    symlink(outside.join("linked"), to.join("base/1/1000")).unwrap();
    replace("base/1/1259");
    fs::hard_link(outside.join("twin"), to.join("base/1/1259")).unwrap();
    replace("base/1/1260");
    nix::unistd::mkfifo(&to.join("base/1/1260"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    replace("PG_VERSION");
    fs::create_dir_all(to.join("PG_VERSION/a/b")).unwrap();
    fs::remove_dir(to.join("pg_notify")).unwrap();
    symlink(&outside, to.join("pg_notify")).unwrap();
    fs::rename(to.join("pg_wal"), outside.join("wal")).unwrap();
    symlink(outside.join("wal"), to.join("pg_wal")).unwrap();
    symlink(&outside, to.join("pg_tblspc/99")).unwrap();
    symlink(&outside, to.join("base/1/99")).unwrap();
    symlink(&outside, to.join("base/7")).unwrap();
    let (plan, _) = in_place(&stored, &options(to.clone())).unwrap();
    let strangers: Vec<String> = plan.in_place.unwrap().strangers.iter().map(|s| crate::units::show(s)).collect();
    assert_eq!(strangers, ["base/7", "base/1/99"]);
    assert_eq!(content(&to), whole);
    let kept: Vec<_> = content(&outside).into_iter().filter(|(_, bytes)| bytes == b"precious").collect();
    assert_eq!(kept.len(), 3);
    assert!(outside.join("wal/000000010000000000000003").exists());
}

#[test]
fn what_was_interrupted_goes_on_and_never_has_a_pg_control() {
    let scratch = tempfile::tempdir().unwrap();
    let to = scratch.path().join("data");
    let stored = store(&facts(), &with_relation());
    let snapshot = stored.open();
    // Whole but for its end, which never comes: as if the key could not be placed.
    let plan = prepare(&snapshot, &options(to.clone())).unwrap();
    drop(write(&plan, &snapshot, &stored.packs, &stored.opening, 2, &Quiet, &Cancel::new()).unwrap());
    let unfinished = || (to.join(MARKER).exists(), to.join("global/pg_control").exists());
    assert_eq!(unfinished(), (true, false));
    let marker = Marker::read(&to).unwrap().unwrap();
    assert_eq!((marker.snapshot, marker.system_identifier), (options(to.clone()).snapshot, facts().system_identifier));
    assert_eq!(marker.tablespaces, [(16385, fs::canonicalize(to.with_extension("space")).unwrap())]);
    let (_, done) = in_place(&stored, &options(to.clone())).unwrap();
    assert_eq!(done.written_bytes, 0);
    assert_eq!(unfinished(), (false, true));
    let whole = content(&to);

    // In the midst of writing: a snapshot of which a chunk is missing.
    let mut broken = with_relation();
    broken[1].files[1].bytes = vec![8; 8192];
    let other = store(&facts(), &broken);
    let snapshot = other.open();
    let options_now = RestoreOptions { in_place: Existing::look(&to).unwrap(), ..options(to.clone()) };
    let plan = prepare(&snapshot, &options_now).unwrap();
    // The packs of another repository hold none of its chunks.
    assert!(write(&plan, &snapshot, &stored.packs, &stored.opening, 2, &Quiet, &Cancel::new()).is_err());
    assert_eq!(unfinished(), (true, false));
    assert!(!to.join("global/pg_control.pgcairn-aside").exists(), "it is a stranger");
    in_place(&stored, &options(to.clone())).unwrap();
    assert_eq!(unfinished(), (false, true));
    assert_eq!(content(&to), whole);
    // Stopped by a signal before anything was done: nothing was touched.
    let cancelled = Cancel::new();
    cancelled.flag().store(true, std::sync::atomic::Ordering::Relaxed);
    let options_now = RestoreOptions { in_place: Existing::look(&to).unwrap(), ..options(to.clone()) };
    let snapshot = stored.open();
    let plan = prepare(&snapshot, &options_now).unwrap();
    assert!(write(&plan, &snapshot, &stored.packs, &stored.opening, 2, &Quiet, &cancelled).is_err());
    assert_eq!(unfinished(), (false, true));
}

#[test]
fn foreign_and_changed_folders_are_refused_before_a_byte_is_written() {
    let scratch = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(scratch.path()).unwrap();
    let to = root.join("data");
    let stored = store(&facts(), &with_relation());
    in_place(&stored, &options(to.clone())).unwrap();
    let whole = content(&root);
    let refused = |options: &RestoreOptions, what: &str| {
        let error = in_place(&stored, options).expect_err(what);
        assert_eq!((error.class(), error.cure().is_some()), (Class::Refused, true), "{what}: {error}");
        error
    };
    // A tablespace that lies in somebody's folder.
    fs::create_dir_all(root.join("full/PG_18_202506291/1")).unwrap();
    let foreign = RestoreOptions { tablespaces: vec![("fast".into(), root.join("full"))], ..options(to.clone()) };
    let error = refused(&foreign, "tablespace");
    assert!(matches!(error, RestoreError::ForeignTablespace { .. }), "{error}");
    fs::remove_dir_all(root.join("full")).unwrap();
    // Another cluster's.
    let mut control = control_of(RUNNING);
    control[0] ^= 1;
    let crc = crc32c::crc32c(&control[..292]);
    control[292..296].copy_from_slice(&crc.to_le_bytes());
    let own = fs::read(to.join("global/pg_control")).unwrap();
    fs::write(to.join("global/pg_control"), &control).unwrap();
    assert!(matches!(refused(&options(to.clone()), "cluster"), RestoreError::ForeignCluster { .. }));
    // It became another's between the look and the lock.
    fs::write(to.join("global/pg_control"), &own).unwrap();
    let snapshot = stored.open();
    let plan = prepare(&snapshot, &RestoreOptions { in_place: Existing::look(&to).unwrap(), ..options(to.clone()) }).unwrap();
    fs::write(to.join("global/pg_control"), &control).unwrap();
    let error = write(&plan, &snapshot, &stored.packs, &stored.opening, 2, &Quiet, &Cancel::new()).err().unwrap();
    assert!(matches!(error, RestoreError::Changed { .. }), "{error}");
    fs::write(to.join("global/pg_control"), &own).unwrap();
    // A lock file of which nothing can be told.
    fs::write(to.join("postmaster.pid"), "?").unwrap();
    assert!(matches!(refused(&options(to.clone()), "server"), RestoreError::ServerMayRun { .. }));
    fs::remove_file(to.join("postmaster.pid")).unwrap();
    assert_eq!(content(&root), whole);
}

/// A server that was started and died between the look at its WAL and the moment from which none can start: what it wrote
/// is in no archive, and must not be removed as a stranger.
#[test]
fn what_a_server_wrote_meanwhile_is_not_removed() {
    let scratch = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(scratch.path()).unwrap();
    let to = root.join("data");
    let stored = store(&facts(), &with_relation());
    in_place(&stored, &options(to.clone())).unwrap();
    let (old, new) = (to.join("pg_wal/000000010000000000000003"), to.join("pg_wal/000000010000000000000009"));
    let spare = to.join("pg_wal/00000001000000000000000A");
    fs::write(&spare, "recycled, and nothing yet").unwrap();
    let control = to.join("global/pg_control");
    let rewritten = |path: &Path, bytes: &[u8]| {
        // As a write to a file that is there, and with the time that it had.
        let file = File::options().write(true).open(path).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file.set_modified(modified).unwrap();
    };
    let snapshot = stored.open();
    let meanwhile: [(&str, &dyn Fn()); 5] = [
        ("pg_wal/000000010000000000000009", &|| fs::write(&new, "the last minutes").unwrap()),
        ("pg_wal/000000010000000000000003", &|| rewritten(&old, b"wal")),
        ("pg_wal/00000001000000000000000A", &|| rewritten(&spare, b"of use now")),
        ("pg_wal/000000010000000000000009", &|| fs::rename(&new, to.join("pg_wal/00000001000000000000000B")).unwrap()),
        // Nothing else shows it where times are coarse.
        ("global/pg_control", &|| fs::write(&control, control_of(2)).unwrap()),
    ];
    for (what, server) in meanwhile {
        let plan = prepare(&snapshot, &options_of(&to)).unwrap();
        server();
        let there = content(&root);
        let error = write(&plan, &snapshot, &stored.packs, &stored.opening, 2, &Quiet, &Cancel::new()).err().expect(what);
        assert!(matches!(&error, RestoreError::ServerRan { what: named, .. } if named == what), "{what}: {error}");
        assert_eq!((error.class(), error.cure().is_some()), (Class::Refused, true));
        assert!(content(&root) == there, "{what}: all is as it was, and a server can be started");
    }
    // Looked at again, it is known.
    in_place(&stored, &options(to.clone())).unwrap();
    // Of an interrupted restore, too: its marker stays, and no pg_control comes back.
    fs::write(to.join(MARKER), Marker::of(&prepare(&snapshot, &options_of(&to)).unwrap()).encode()).unwrap();
    fs::rename(&control, to.join("global").join(SET_ASIDE)).unwrap();
    let plan = prepare(&snapshot, &options_of(&to)).unwrap();
    fs::write(&new, "put there by hand").unwrap();
    let error = write(&plan, &snapshot, &stored.packs, &stored.opening, 2, &Quiet, &Cancel::new()).err().unwrap();
    assert!(matches!(error, RestoreError::ServerRan { .. }), "{error}");
    assert!(to.join(MARKER).exists() && new.exists() && !control.exists());
    in_place(&stored, &options(to.clone())).unwrap();
    assert!(control.exists());
}

/// The links of a copied data directory lead to the tablespaces of its original.
#[test]
fn a_tablespace_is_believed_in_the_originals_place_or_where_it_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(scratch.path()).unwrap();
    let (original, space) = (root.join("original"), root.join("space"));
    let fact = TablespaceFact { oid: 16385, name: None, path: space.to_str().unwrap().into(), path_bytes: None };
    let data_directory = original.to_str().unwrap().to_owned();
    let stored = store(&ClusterFacts { tablespaces: vec![fact], data_directory, ..facts() }, &with_relation());
    let unmapped = |to: &Path| RestoreOptions { tablespaces: Vec::new(), ..options(to.to_owned()) };
    in_place(&stored, &unmapped(&original)).unwrap();
    fs::write(space.join("PG_18_202506291/5/stranger"), "x").unwrap();
    in_place(&stored, &unmapped(&original)).unwrap();
    assert!(!space.join("PG_18_202506291/5/stranger").exists());
    let copy = root.join("copy");
    assert!(std::process::Command::new("cp").arg("-a").args([&original, &copy]).status().unwrap().success());
    fs::write(space.join("PG_18_202506291/5/16386"), "the original's").unwrap();
    let error = in_place(&stored, &unmapped(&copy)).unwrap_err();
    assert!(matches!(error, RestoreError::TablespaceOccupied { .. }), "{error}");
    assert_eq!(fs::read(space.join("PG_18_202506291/5/16386")).unwrap(), b"the original's");
    in_place(&stored, &RestoreOptions { tablespace_root: Some(root.join("spaces")), ..unmapped(&copy) }).unwrap();
    assert_eq!(fs::read_link(copy.join("pg_tblspc/16385")).unwrap(), root.join("spaces/16385"));
    assert_eq!(fs::read(space.join("PG_18_202506291/5/16386")).unwrap(), b"the original's");
    // Once it leads there, it may be named again.
    in_place(&stored, &RestoreOptions { tablespace_root: Some(root.join("spaces")), ..unmapped(&copy) }).unwrap();
    let named = RestoreOptions { tablespaces: vec![("16385".into(), space.clone())], ..unmapped(&original) };
    in_place(&stored, &named).unwrap();
    assert_eq!(fs::metadata(space.join("PG_18_202506291/5/16386")).unwrap().size(), 8192);
}

#[test]
fn the_last_segment_of_the_target_is_put_into_pg_wal() {
    let scratch = tempfile::tempdir().unwrap();
    let (to, saved) = (scratch.path().join("data"), scratch.path().join("saved"));
    fs::write(&saved, "the last minutes").unwrap();
    let stored = store(&facts(), &with_relation());
    let snapshot = stored.open();
    for (name, expected) in [("000000010000000000000009", "the last minutes"), ("000000010000000000000004", "wal")] {
        let options = RestoreOptions { in_place: Existing::look(&to).unwrap(), ..options(to.clone()) };
        let mut plan = prepare(&snapshot, &options).unwrap();
        plan.tail = Some((name.parse().unwrap(), saved.clone()));
        execute(&plan, &snapshot, &stored.packs, &stored.opening, 2, &Quiet, &Cancel::new()).unwrap();
        assert_eq!(fs::read_to_string(to.join("pg_wal").join(name)).unwrap(), expected);
    }
    assert!(!to.join("pg_wal/000000010000000000000009").exists(), "one of before is none of now");
}

#[test]
fn an_empty_folder_of_the_snapshot_is_emptied_but_for_logs() {
    let scratch = tempfile::tempdir().unwrap();
    let to = scratch.path().join("data");
    let mut folders = with_relation();
    folders.push(folder("log", vec![]));
    folders.push(folder("mine", vec![]));
    folders.sort_by(|a, b| a.path.cmp(&b.path));
    let stored = store(&facts(), &folders);
    in_place(&stored, &options(to.clone())).unwrap();
    for name in ["log/server.log", "mine/x", "pg_stat_tmp/x", "pg_wal/archive_status/x.ready"] {
        fs::write(to.join(name), "x").unwrap();
    }
    in_place(&stored, &options(to.clone())).unwrap();
    let there = ["log/server.log", "mine/x", "pg_stat_tmp/x", "pg_wal/archive_status/x.ready"].map(|name| to.join(name).exists());
    assert_eq!(there, [true, false, false, false]);
}
