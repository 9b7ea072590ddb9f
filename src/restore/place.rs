//! Where a restore may write: folders that are empty or can be made, or that are to be restored in place; apart from each
//! other, with room enough.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, lchown};
use std::path::{Component, Path, PathBuf};

use nix::unistd::AccessFlags;

use super::RestoreError;
use super::folders::something_in;
use super::marker::Marker;

/// The same place without links and without `.` and `..`; what isn't there yet is taken as it is written.
///
/// # Errors
/// If the path can't be looked up, leads through something that is no folder, or goes up where nothing is.
pub fn resolve(path: &Path) -> Result<PathBuf, RestoreError> {
    let path = std::path::absolute(path).map_err(RestoreError::io(format!("looking up {}", path.display())))?;
    match fs::canonicalize(&path) {
        Ok(there) => Ok(there),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if fs::symlink_metadata(&path).is_ok() {
                return Err(RestoreError::BadPlace { what: path.display().to_string(), why: "it is a link to nothing" });
            }
            let up = || RestoreError::BadPlace { what: path.display().to_string(), why: "it goes up from a folder that isn't there" };
            match path.components().next_back() {
                Some(Component::Normal(name)) => Ok(resolve(path.parent().ok_or_else(up)?)?.join(name)),
                _ => Err(up()),
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => Err(RestoreError::NoFolder { path }),
        Err(e) => Err(RestoreError::io(format!("looking up {}", path.display()))(e)),
    }
}

/// The nearest folder above a place, or the place itself, that is there.
fn nearest(path: &Path) -> Result<(&Path, fs::Metadata), RestoreError> {
    for above in path.ancestors() {
        match fs::metadata(above) {
            Ok(m) => return Ok((above, m)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(RestoreError::io(format!("looking up {}", above.display()))(e)),
        }
    }
    Err(RestoreError::Internal("a path without a root"))
}

/// Is it empty and ours, or can it be made?
///
/// # Errors
/// Why not.
pub fn check_free(place: &Path) -> Result<(), RestoreError> {
    let (there, metadata) = nearest(place)?;
    if !metadata.is_dir() {
        return Err(RestoreError::NoFolder { path: there.to_owned() });
    }
    if there == place
        && let Some(found) = something_in(place).map_err(RestoreError::io(format!("reading {}", place.display())))?
    {
        return Err(match Marker::read(place) {
            Ok(Some(marker)) => RestoreError::Unfinished { folder: place.to_owned(), snapshot: marker.snapshot },
            _ => RestoreError::NotEmpty { folder: place.to_owned(), found },
        });
    }
    check_access(place, there, &metadata)
}

/// Is a folder that isn't empty ours to write to?
///
/// # Errors
/// Why not.
pub(super) fn check_ours(place: &Path) -> Result<(), RestoreError> {
    let metadata = fs::symlink_metadata(place).map_err(RestoreError::io(format!("looking up {}", place.display())))?;
    if !metadata.is_dir() {
        return Err(RestoreError::NoFolder { path: place.to_owned() });
    }
    check_access(place, place, &metadata)
}

/// Bytes that the files of a folder take up, and that a restore in place wins back or writes over.
pub(super) fn allocated(place: &Path) -> u64 {
    let Ok(top) = fs::symlink_metadata(place) else { return 0 };
    let mut sum = 0u64;
    let mut folders = vec![place.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            // Of a link, the link's own.
            let Ok(m) = entry.metadata() else { continue };
            if m.is_dir() && m.dev() == top.dev() {
                folders.push(entry.path());
            } else if m.is_file() && m.nlink() == 1 {
                sum = sum.saturating_add(m.blocks().saturating_mul(512));
            }
        }
    }
    sum
}

fn check_access(place: &Path, there: &Path, metadata: &fs::Metadata) -> Result<(), RestoreError> {
    if there == place {
        let me = nix::unistd::geteuid();
        if !me.is_root() && metadata.uid() != me.as_raw() {
            return Err(RestoreError::ForeignFolder { folder: place.to_owned(), owner: metadata.uid(), me: me.as_raw() });
        }
    }
    nix::unistd::eaccess(there, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|e| {
        let what = if there == place { format!("writing to {}", place.display()) } else { format!("making {}", place.display()) };
        RestoreError::Io { what, source: e.into() }
    })
}

/// Makes a folder and those above it that are not there, each for `owner` alone: whoever runs the server must get
/// through them.
///
/// # Errors
/// If one can't be made.
pub fn make_folders(path: &Path, owner: Option<(u32, u32)>) -> Result<(), RestoreError> {
    let (there, _) = nearest(path)?;
    let mut missing: Vec<&Path> = path.ancestors().take_while(|p| *p != there).collect();
    while let Some(folder) = missing.pop() {
        let made = match fs::DirBuilder::new().mode(0o700).create(folder) {
            // Somebody else was faster, and owns it.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => continue,
            Err(e) => Err(e),
            Ok(()) => owner.map_or(Ok(()), |(uid, gid)| lchown(folder, Some(uid), Some(gid))),
        };
        made.map_err(RestoreError::io(format!("making {}", folder.display())))?;
    }
    Ok(())
}

/// Does none of the folders lie in another?
///
/// # Errors
/// [`RestoreError::Overlap`].
pub fn check_apart<'p>(places: impl IntoIterator<Item = &'p Path>) -> Result<(), RestoreError> {
    let mut sorted: Vec<&Path> = places.into_iter().collect();
    sorted.sort_unstable();
    // By names, a folder comes right before all that lies in it.
    for pair in sorted.windows(2) {
        if let [first, second] = pair
            && second.starts_with(first)
        {
            return Err(RestoreError::Overlap { first: first.to_path_buf(), second: second.to_path_buf() });
        }
    }
    Ok(())
}

/// Is there room for so many bytes more in each place, and for the sum where several lie on one file system?
///
/// # Errors
/// [`RestoreError::NoSpace`].
pub fn check_space<'p>(places: impl IntoIterator<Item = (&'p Path, u64)>) -> Result<(), RestoreError> {
    let mut systems: BTreeMap<u64, (&Path, u64)> = BTreeMap::new();
    for (place, bytes) in places {
        let (there, metadata) = nearest(place)?;
        let system = systems.entry(metadata.dev()).or_insert((there, 0));
        system.1 = system.1.saturating_add(bytes);
    }
    for (folder, needed) in systems.into_values() {
        let what = || format!("asking for the free space of {}", folder.display());
        let s = nix::sys::statvfs::statvfs(folder).map_err(|e| RestoreError::Io { what: what(), source: e.into() })?;
        let blocks = if nix::unistd::geteuid().is_root() { s.blocks_free() } else { s.blocks_available() };
        let free = blocks.saturating_mul(s.fragment_size());
        if needed > free {
            return Err(RestoreError::NoSpace { folder: folder.to_owned(), needed, free });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Class, Explain};
    use std::os::unix::fs::symlink;

    #[test]
    fn places_are_resolved_whether_they_are_there_or_not() {
        let scratch = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(scratch.path()).unwrap();
        fs::create_dir(root.join("real")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        symlink(root.join("real"), root.join("link")).unwrap();
        symlink(root.join("nothing"), root.join("broken")).unwrap();
        assert_eq!(resolve(&root.join("link")).unwrap(), root.join("real"));
        assert_eq!(resolve(&root.join("link/../real/new/deep")).unwrap(), root.join("real/new/deep"));
        assert!(matches!(resolve(&root.join("broken")), Err(RestoreError::BadPlace { .. })));
        assert!(matches!(resolve(&root.join("broken/x")), Err(RestoreError::BadPlace { .. })));
        assert!(matches!(resolve(&root.join("absent/../x")), Err(RestoreError::BadPlace { .. })));
        assert!(matches!(resolve(&root.join("file/x")), Err(RestoreError::NoFolder { .. })));
    }

    #[test]
    fn only_empty_folders_and_folders_that_can_be_made_are_free() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        fs::create_dir(root.join("empty")).unwrap();
        fs::create_dir(root.join("full")).unwrap();
        fs::write(root.join("full/x"), "").unwrap();
        check_free(&root.join("empty")).unwrap();
        check_free(&root.join("absent/deep")).unwrap();
        let error = check_free(&root.join("full")).unwrap_err();
        assert!(matches!(&error, RestoreError::NotEmpty { found, .. } if found == "x") && error.class() == Class::Refused);
        assert!(matches!(check_free(&root.join("full/x")), Err(RestoreError::NoFolder { .. })));
        assert!(matches!(check_free(&root.join("full/x/y")), Err(RestoreError::NoFolder { .. } | RestoreError::Io { .. })));
    }

    #[test]
    fn folders_are_made_for_whoever_owns_the_data() {
        let scratch = tempfile::tempdir().unwrap();
        let deep = scratch.path().join("a/b/c");
        let root = nix::unistd::geteuid().is_root();
        make_folders(&deep, root.then_some((12345, 54321))).unwrap();
        make_folders(&deep, None).unwrap();
        for folder in [deep.as_path(), &scratch.path().join("a/b"), &scratch.path().join("a")] {
            let m = fs::metadata(folder).unwrap();
            assert_eq!(m.mode() & 0o777, 0o700);
            assert!(!root || (m.uid(), m.gid()) == (12345, 54321), "{}", folder.display());
        }
        assert!(make_folders(&scratch.path().join("a/b/c"), None).is_ok());
        fs::write(scratch.path().join("file"), "").unwrap();
        assert!(make_folders(&scratch.path().join("file/x"), None).is_err());
    }

    #[test]
    fn folders_lie_apart() {
        let apart = |places: &[&str]| check_apart(places.iter().map(|p| Path::new(*p)));
        apart(&["/a/b", "/a/bc", "/a/c"]).unwrap();
        for bad in [&["/a/b", "/a/b"][..], &["/a/b/c", "/a/b"], &["/x", "/a/b", "/a/b.c", "/a/b/c"], &["/", "/a"]] {
            assert!(matches!(apart(bad), Err(RestoreError::Overlap { .. })), "{bad:?}");
        }
    }

    #[test]
    fn room_is_summed_by_file_system() {
        let scratch = tempfile::tempdir().unwrap();
        let place = scratch.path().join("absent");
        check_space([(place.as_path(), 1), (scratch.path(), 1)]).unwrap();
        let half = u64::MAX / 2 + 1;
        let error = check_space([(place.as_path(), half), (scratch.path(), half)]).unwrap_err();
        assert!(matches!(error, RestoreError::NoSpace { needed: u64::MAX, .. }), "{error}");
    }
}
