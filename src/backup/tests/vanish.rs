//! Files and folders that go away, and files that can't be read.

use super::files::{Call, Files};
use super::relation::{noise, relation};
use super::world::{How, ROOT, World, at};
use crate::backup::BackupError;
use crate::units::{Class, Explain};

/// One file of each way of copying, each beside one that stays.
const FILES: [&str; 3] = ["base/5/16384", "base/5/large", "base/5/small"];

fn cluster() -> Files {
    let files = Files::cluster(ROOT.as_ref());
    files.file(at("base/5/16384"), relation(40, 1));
    files.file(at("base/5/large"), noise(2, 300_000));
    files.file(at("base/5/small"), noise(3, 3000));
    files.file(at("base/5/16385"), relation(3, 4));
    files.file(at("base/5/small2"), noise(5, 3000));
    files
}

#[test]
fn a_file_that_vanishes_before_it_is_opened_is_missing_and_no_error() {
    for gone in FILES {
        for cdc_for_all in [false, true] {
            let (world, files) = (World::new(), cluster());
            files.script(at(gone), move |files, call| {
                if call == Call::Open {
                    files.remove(at(gone));
                }
                Ok(())
            });
            let snap = world.backup(&files, &How { cdc_for_all, ..How::default() }).unwrap();
            let stored = world.read(&snap);
            assert!(!stored.contains_key(std::path::Path::new(gone)), "{gone}");
            assert_eq!(stored.len(), 4);
            for (path, bytes) in stored {
                assert_eq!(bytes, files.bytes(at(path.to_str().unwrap())), "{}", path.display());
            }
        }
    }
}

#[test]
fn a_file_that_vanishes_after_it_was_opened_is_read_to_its_end() {
    for gone in FILES {
        let (world, files) = (World::new(), cluster());
        let before = files.bytes(at(gone));
        files.script(at(gone), move |files, call| {
            if matches!(call, Call::Read(..)) {
                files.remove(at(gone));
            }
            Ok(())
        });
        let snap = world.backup(&files, &How::default()).unwrap();
        assert_eq!(world.read_one(&snap, gone).unwrap(), before, "{gone}");
    }
}

#[test]
fn a_relation_that_vanishes_between_two_of_its_leaves_is_whole_or_missing() {
    let (world, files) = (World::new(), Files::cluster(ROOT.as_ref()));
    files.file(at("base/5/16384"), relation(1100, 1));
    let before = files.bytes(at("base/5/16384"));
    files.script(at("base/5/16384"), |files, call| {
        if matches!(call, Call::Read(offset, _) if offset > 8 << 20) {
            files.remove(at("base/5/16384"));
        }
        Ok(())
    });
    let snap = world.backup(&files, &How { jobs: 1, ..How::default() }).unwrap();
    assert_eq!(world.read_one(&snap, "base/5/16384").unwrap(), before);
    assert_eq!(files.take_opened().len(), 1);
}

#[test]
fn a_folder_that_vanishes_is_missing_with_all_in_it() {
    let (world, files) = (World::new(), cluster());
    files.folder(at("base/6"));
    files.file(at("base/6/1"), relation(1, 1));
    files.folder(at("base/6/deep"));
    files.script(at("base/6"), |files, _| {
        files.remove(at("base/6"));
        Ok(())
    });
    let snap = world.backup(&files, &How::default()).unwrap();
    assert!(!snap.scanned.folders.iter().any(|f| f.path.starts_with(b"base/6")));
    assert!(snap.scanned.folders.iter().any(|f| f.path == b"base/5"));
    assert_eq!(world.read(&snap).len(), 5);
}

#[test]
fn what_is_there_and_can_not_be_read_fails_the_backup() {
    let opens: fn(Call) -> bool = |call| call == Call::Open;
    let reads: fn(Call) -> bool = |call| matches!(call, Call::Read(..));
    let lists: fn(Call) -> bool = |call| call == Call::List;
    let (denied, broken) = ((nix::libc::EACCES, Class::Denied), (nix::libc::EIO, Class::Failed));
    let mut cases = vec![("base/5", lists, denied), ("base/5", lists, broken), ("pg_tblspc", lists, denied)];
    for file in FILES {
        cases.extend([(file, opens, denied), (file, opens, broken), (file, reads, broken)]);
    }
    for (path, which, (errno, class)) in cases {
        let (world, files) = (World::new(), cluster());
        files.fails(at(path), which, errno);
        let error = world.backup(&files, &How::default()).map(|_| ()).unwrap_err();
        assert!(matches!(&error, BackupError::Io { what, .. } if what.contains(path)), "{path}: {error:?}");
        assert_eq!(error.class(), class, "{path} {errno}");
        let source = std::error::Error::source(&error).and_then(|e| e.downcast_ref::<std::io::Error>());
        assert_eq!(source.and_then(std::io::Error::raw_os_error), Some(errno), "{path}");
    }
}

#[test]
fn a_backup_that_is_cancelled_says_so_whatever_it_reads() {
    for path in FILES {
        let (world, files, how) = (World::new(), cluster(), How { cdc_for_all: true, ..How::default() });
        let cancel = how.cancel.clone();
        files.script(at(path), move |_, _| {
            cancel.cancel();
            Ok(())
        });
        let error = world.backup(&files, &how).map(|_| ()).unwrap_err();
        assert!(matches!(error, BackupError::Cancelled(_)), "{path}: {error:?}");
    }
}

#[test]
fn a_backup_that_is_cancelled_while_a_page_is_read_again_says_so() {
    for cdc_for_all in [false, true] {
        let (world, files, how) = (World::new(), cluster(), How { cdc_for_all, ..How::default() });
        files.change(at(FILES[0]), |bytes| bytes[100] ^= 1);
        let cancel = how.cancel.clone();
        files.script(at(FILES[0]), move |_, call| {
            if call == Call::Read(0, 8192) {
                cancel.cancel();
            }
            Ok(())
        });
        let error = world.backup(&files, &how).map(|_| ()).unwrap_err();
        assert!(matches!(error, BackupError::Cancelled(_)), "{error:?}");
    }
}
