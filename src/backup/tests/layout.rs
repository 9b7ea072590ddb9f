//! What of a data directory is copied.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::files::Files;
use super::relation::relation;
use super::world::{How, ROOT, Snap, World, at};
use crate::backup::BackupError;

const VERSION: &str = "PG_15_202209061";

fn names(world: &World, snap: &Snap) -> Vec<String> {
    world.read(snap).keys().map(|p| p.to_str().unwrap().to_owned()).collect()
}

fn folders(snap: &Snap) -> Vec<String> {
    snap.scanned.folders.iter().map(|f| String::from_utf8(f.path.clone()).unwrap()).collect()
}

fn refused(files: &Files) -> String {
    match World::new().backup(files, &How::default()) {
        Err(BackupError::Refused { what, .. }) => what,
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[test]
fn of_unlogged_relations_the_init_fork_is_copied_and_all_of_a_stopped_cluster() {
    let (world, files) = (World::new(), Files::cluster(ROOT.as_ref()));
    let all = ["base/5/16384", "base/5/16384.1", "base/5/16384_fsm", "base/5/16384_init", "base/5/16384_vm", "base/5/16385"];
    for name in all {
        files.file(at(name), relation(1, 1));
    }
    let snap = world.backup(&files, &How::default()).unwrap();
    assert_eq!(names(&world, &snap), ["base/5/16384_init", "base/5/16385"]);
    let snap = world.backup(&files, &How { online: false, ..How::default() }).unwrap();
    assert_eq!(names(&world, &snap), all);
}

#[test]
fn what_is_temporary_is_left_out() {
    let (world, files) = (World::new(), Files::cluster(ROOT.as_ref()));
    files.folder(at("base/pgsql_tmp"));
    for name in [
        "base/5/t3_16390",
        "base/5/t3_16390_fsm",
        "base/5/t12_16390.1",
        "base/5/pgsql_tmp123.0",
        "base/pgsql_tmp/pgsql_tmp99.1",
        "base/5/pg_internal.init",
        "postmaster.pid",
        "postmaster.opts",
        "backup_label",
    ] {
        files.file(at(name), b"x".to_vec());
    }
    files.file(at("base/5/t3_x"), b"kept".to_vec());
    files.file(at("t3_16390"), b"kept, outside of databases".to_vec());
    let snap = world.backup(&files, &How::default()).unwrap();
    assert_eq!(names(&world, &snap), ["base/5/t3_x", "t3_16390"]);
    assert!(!folders(&snap).contains(&"base/pgsql_tmp".to_owned()));
    assert!(snap.scanned.left_out.is_empty());
}

#[test]
fn pg_control_is_never_among_the_files() {
    let (world, files) = (World::new(), Files::cluster(ROOT.as_ref()));
    files.file(at("global/pg_control"), vec![1; 8192]);
    files.file(at("base/5/pg_control"), b"no control file".to_vec());
    let snap = world.backup(&files, &How::default()).unwrap();
    assert_eq!(names(&world, &snap), ["base/5/pg_control"]);
    assert!(!files.take_opened().contains(&at("global/pg_control")));
}

#[test]
fn a_linked_pg_wal_becomes_a_plain_folder_and_nothing_in_it_is_copied() {
    let (world, files) = (World::new(), Files::cluster(ROOT.as_ref()));
    files.remove(at("pg_wal"));
    files.folder("/elsewhere");
    files.folder("/elsewhere/archive_status");
    files.file("/elsewhere/000000010000000000000001", b"wal".to_vec());
    files.link(at("pg_wal"), "/elsewhere");
    let snap = world.backup(&files, &How::default()).unwrap();
    assert!(names(&world, &snap).is_empty());
    let wal: Vec<_> = snap.scanned.folders.iter().filter(|f| f.path.starts_with(b"pg_wal")).collect();
    assert_eq!(
        wal.iter().map(|f| (f.path.as_slice(), f.mode)).collect::<Vec<_>>(),
        [(b"pg_wal".as_slice(), 0o700), (b"pg_wal/archive_status".as_slice(), 0o700)]
    );
    assert!(snap.scanned.tablespaces.is_empty() && snap.scanned.left_out.is_empty());
}

fn with_tablespace(target: &str) -> Files {
    let files = Files::cluster(ROOT.as_ref());
    for folder in ["", VERSION, &format!("{VERSION}/5"), "PG_14_202107181"] {
        files.folder(Path::new(target).join(folder));
    }
    files.file(Path::new(target).join(VERSION).join("5/16390"), relation(2, 1));
    files.file(Path::new(target).join("PG_14_202107181/1"), b"another major's".to_vec());
    files.file(Path::new(target).join("notes"), b"the user's".to_vec());
    files.link(at("pg_tblspc/16400"), target);
    files
}

#[test]
fn a_tablespace_is_copied_through_its_link_and_only_this_version_of_it() {
    let (world, files) = (World::new(), with_tablespace("/fast"));
    let snap = world.backup(&files, &How::default()).unwrap();
    assert_eq!(names(&world, &snap), [format!("pg_tblspc/16400/{VERSION}/5/16390")]);
    let [tablespace] = snap.scanned.tablespaces.as_slice() else { panic!("{:?}", snap.scanned.tablespaces) };
    assert_eq!((tablespace.oid, tablespace.path.as_str(), &tablespace.path_bytes), (16400, "/fast", &None));
    assert!(folders(&snap).contains(&format!("pg_tblspc/16400/{VERSION}/5")));
}

#[test]
fn a_tablespace_within_the_data_directory_is_read_once() {
    let (world, files) = (World::new(), with_tablespace("/data/inside"));
    let snap = world.backup(&files, &How::default()).unwrap();
    assert_eq!(names(&world, &snap), [format!("pg_tblspc/16400/{VERSION}/5/16390")]);
}

#[test]
fn a_tablespace_whose_place_has_an_odd_name_keeps_its_bytes() {
    let files = with_tablespace("/fast");
    let odd = Path::new(OsStr::from_bytes(b"/f\xFFst"));
    files.link(at("pg_tblspc/16401"), odd);
    files.folder(odd);
    files.folder(odd.join(VERSION));
    let snap = World::new().backup(&files, &How::default()).unwrap();
    assert_eq!(snap.scanned.tablespaces[1].path_bytes.as_deref(), Some("2f66ff7374"));
}

#[test]
fn a_tablespace_that_is_not_there_is_refused_and_one_that_was_dropped_is_not() {
    let unmounted = with_tablespace("/fast");
    unmounted.remove("/fast");
    assert!(refused(&unmounted).contains("16400"));
    let empty = with_tablespace("/fast");
    empty.remove(Path::new("/fast").join(VERSION));
    assert!(refused(&empty).contains("16400"));
    let to_a_file = with_tablespace("/fast");
    to_a_file.remove("/fast");
    to_a_file.file("/fast", b"no folder".to_vec());
    assert!(refused(&to_a_file).contains("16400"));
    // Dropped after pg_tblspc was listed: its folder first, then its link.
    let dropped = with_tablespace("/fast");
    dropped.script(at("pg_tblspc/16400"), |files, _| {
        files.remove("/fast");
        files.remove(at("pg_tblspc/16400"));
        Ok(())
    });
    let world = World::new();
    let snap = world.backup(&dropped, &How::default()).unwrap();
    assert!(names(&world, &snap).is_empty());
}

#[test]
fn links_where_relations_lie_are_refused() {
    for (link, target) in
        [("base/6", "/disk2"), ("base/5/16384", "/disk2/16384"), ("global/1262", "/disk2/16384"), ("base/5/nothing", "/no")]
    {
        let files = Files::cluster(ROOT.as_ref());
        files.folder("/disk2");
        files.file("/disk2/16384", relation(1, 1));
        files.link(at(link), target);
        assert!(refused(&files).contains(link), "{link}");
    }
}

#[test]
fn what_can_not_be_stored_is_named() {
    let (world, files) = (World::new(), Files::cluster(ROOT.as_ref()));
    files.special(at(".s.PGSQL.5432"));
    files.special(at("base/5/fifo"));
    files.link(at("nowhere"), "/no/such/place");
    files.link(at("postgresql.conf"), "/etc/postgresql.conf");
    files.folder("/etc");
    files.file("/etc/postgresql.conf", b"port = 1".to_vec());
    files.link(at("circle"), "circle");
    let snap = world.backup(&files, &How::default()).unwrap();
    assert!(names(&world, &snap).is_empty());
    let mut left_out = snap.scanned.left_out;
    left_out.sort();
    let expected = [".s.PGSQL.5432 (a socket", "base/5/fifo (a socket", "circle (a link to nothing)", "nowhere (a link to nothing)"];
    assert_eq!(left_out.len(), 5, "{left_out:?}");
    for (found, expected) in left_out.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}");
    }
    assert_eq!(left_out[4], "postgresql.conf (a symbolic link)");
}

#[test]
fn names_of_any_bytes_are_kept() {
    let (world, files) = (World::new(), Files::cluster(ROOT.as_ref()));
    let all: [&[u8]; 6] = [b"\xFF\xFE", b"new\nline", b" ", b"a\\b", b"\x01", "Z\u{fc}rich".as_bytes()];
    let folder = at("").join(OsStr::from_bytes(b"f\xC3"));
    files.folder(&folder);
    for name in all {
        files.file(at("pg_xact").join(OsStr::from_bytes(name)), name.to_vec());
        files.file(folder.join(OsStr::from_bytes(name)), name.to_vec());
    }
    let snap = world.backup(&files, &How::default()).unwrap();
    let stored = world.read(&snap);
    assert_eq!(stored.len(), 12);
    for (path, bytes) in stored {
        assert_eq!(path.file_name().unwrap().as_bytes(), bytes);
        assert!(files.all_files().contains(&at("").join(path)));
    }
}

#[test]
fn a_folder_of_many_files_and_many_folders_are_whole() {
    let (world, files) = (World::new(), Files::cluster(ROOT.as_ref()));
    for i in 0..700 {
        files.file(at(&format!("base/5/{}", 20_000 + i)), if i % 3 == 0 { Vec::new() } else { vec![i as u8; 300] });
    }
    for i in 0..200 {
        files.folder(at(&format!("base/{}", 100 + i)));
        files.file(at(&format!("base/{}/1", 100 + i)), vec![i as u8; 50]);
    }
    let snap = world.backup(&files, &How { checksums: false, ..How::default() }).unwrap();
    assert_eq!(snap.root.files, 900);
    let stored = world.read(&snap);
    assert_eq!(stored.keys().map(|p| at("").join(p)).collect::<Vec<_>>(), files.all_files());
    for (path, bytes) in stored {
        assert_eq!(bytes, files.bytes(at("").join(path)));
    }
}

/// Descriptors are few: a thread has one file open, however many it has read.
#[test]
fn a_file_is_closed_when_it_is_read() {
    for cdc_for_all in [false, true] {
        let (world, files) = (World::new(), Files::cluster(ROOT.as_ref()));
        for relation in 16384..16388 {
            files.file(at(&format!("base/5/{relation}")), vec![0; 9 << 20]);
            files.file(at(&format!("base/5/small{relation}")), vec![1; 100]);
        }
        let how = How { cdc_for_all, jobs: 1, ..How::default() };
        world.backup(&files, &how).unwrap();
        assert_eq!(files.most_open(), 1, "{cdc_for_all}");
    }
}
